//! Invoices of a customer at Stripe.

use tollgate_api::CurrencyAmount;
use tollgate_api::payments::Invoice;
use tollgate_domain::customer::Customer;
use tollgate_domain::page::Page;
use tollgate_stripe::{InvoiceFilter, InvoiceStatus, StripeError};

use crate::customers::{linked, of_customer};
use crate::{Payments, PaymentsError};

/// Parameter of Stripe's lists that a cursor becomes.
const CURSOR: &str = "starting_after";

impl Payments {
    /// Lists the invoices of the customer's Stripe customer, newest first, after the invoice with the id `after`:
    /// at most `limit` of them, 1 to 100. Drafts, which may still change, are left out, so that a page may be
    /// empty and have a next one.
    ///
    /// # Errors
    /// When Stripe fails, or the cursor is invalid.
    pub async fn invoices(
        &self,
        customer: &Customer,
        after: Option<&str>,
        limit: usize,
    ) -> Result<Page<Invoice>, PaymentsError> {
        let Some(recipient) = &customer.recipient else {
            return Ok(Page {
                items: Vec::new(),
                next: None,
            });
        };
        let stripe_customer = linked(customer, recipient)?;
        let pages = self.client()?.invoices(&InvoiceFilter {
            customer: Some(&stripe_customer),
            ..InvoiceFilter::default()
        });
        let pages = pages.page_size(u8::try_from(limit).unwrap_or(u8::MAX));
        let mut pages = match after {
            Some(after) => pages.after(after),
            None => pages,
        };
        let page = match pages.next_page().await {
            Ok(page) => page,
            Err(StripeError::Rejected(rejection)) if rejection.param.as_deref() == Some(CURSOR) => {
                return Err(PaymentsError::InvalidCursor);
            }
            Err(error) => return Err(of_customer(&customer.id, error)),
        };
        let (invoices, has_more) = page.map_or_else(Default::default, |it| (it.items, it.has_more));
        let last = invoices.last().filter(|_| has_more);
        let next = last.map(|last| last.id.as_str().to_owned());
        let is_final = |invoice: &tollgate_stripe::Invoice| {
            invoice.status != Some(InvoiceStatus::Draft)
                // The filter of a list is Stripe's; whose invoice this is must not depend on it alone.
                && invoice.customer.as_ref() == Some(&stripe_customer)
        };
        let items = invoices.into_iter().filter(is_final);
        Ok(Page {
            items: items.map(represent).collect(),
            next,
        })
    }
}

fn represent(invoice: tollgate_stripe::Invoice) -> Invoice {
    let amount = |cents| CurrencyAmount::new(cents, &invoice.currency);
    let status = invoice.status.as_ref().map(InvoiceStatus::as_str);
    Invoice {
        id: invoice.id.as_str().to_owned(),
        status: status.unwrap_or_default().to_owned(),
        total: amount(invoice.total),
        amount_due: amount(invoice.amount_due),
        amount_paid: amount(invoice.amount_paid),
        amount_remaining: amount(invoice.amount_remaining),
        number: invoice.number,
        currency: invoice.currency,
        created_at: invoice.created,
        hosted_invoice_url: invoice.hosted_invoice_url,
        invoice_pdf: invoice.invoice_pdf,
    }
}
