//! Invoices and their lines, as the API returns them.

use serde_json::{Value, json};

use super::{Invoice, Line, LineSource, Status};
use crate::state::State;

/// Most lines that are in the invoice itself; the others are listed.
const EMBEDDED_LINES: usize = 10;

impl State {
    pub(super) fn line_json(&self, invoice: &Invoice, line: &Line) -> Value {
        let parent = match &line.source {
            LineSource::InvoiceItem(item) => json!({
                "type": "invoice_item_details",
                "invoice_item_details": {
                    "invoice_item": item,
                    "proration": line.is_proration,
                    "proration_details": { "credited_items": null },
                    "subscription": line.subscription,
                },
                "subscription_item_details": null,
            }),
            LineSource::SubscriptionItem(item) => json!({
                "type": "subscription_item_details",
                "invoice_item_details": null,
                "subscription_item_details": {
                    "invoice_item": null,
                    "proration": line.is_proration,
                    "proration_details": { "credited_items": null },
                    "subscription": line.subscription,
                    "subscription_item": item,
                },
            }),
        };
        json!({
            "id": line.id,
            "object": "line_item",
            "amount": line.amount,
            "currency": invoice.currency,
            "description": line.description,
            "discount_amounts": [],
            "discountable": !line.is_proration,
            "discounts": [],
            "invoice": invoice.id,
            "livemode": self.is_live,
            "metadata": line.metadata,
            "parent": parent,
            "period": { "start": line.period.0, "end": line.period.1 },
            "pretax_credit_amounts": [],
            "pricing": self.pricing_json(line.price.as_deref(), line.unit_amount),
            "quantity": line.quantity,
            "quantity_decimal": line.quantity.to_string(),
            "subscription": line.subscription,
            "subtotal": line.amount,
            "taxes": [],
        })
    }

    pub(crate) fn invoice_json(&self, invoice: &Invoice) -> Value {
        let total = invoice.total();
        let customer = self.customers.get(&invoice.customer);
        let amount_due = match invoice.status {
            Status::Draft => (total + customer.map_or(0, |customer| customer.balance)).max(0),
            _ => invoice.amount_due,
        };
        let parent = invoice.subscription.as_ref().map(|id| {
            let subscription = self.subscriptions.get(id);
            json!({
                "type": "subscription_details",
                "quote_details": null,
                "subscription_details": {
                    "metadata": subscription.map(|subscription| &subscription.metadata),
                    "subscription": id,
                },
            })
        });
        let lines = invoice.lines.iter().take(EMBEDDED_LINES);
        let lines: Vec<Value> = lines.map(|line| self.line_json(invoice, line)).collect();
        let page = invoice
            .finalized_at
            .map(|_| format!("{}/i/{}", self.settings.url, invoice.id));
        let mut json = json!({
            "id": invoice.id,
            "object": "invoice",
            "account_country": "US",
            "account_name": "stripe-fake",
            "account_tax_ids": null,
            "amount_due": amount_due,
            "amount_overpaid": 0,
            "amount_paid": invoice.amount_paid,
            "amount_remaining": amount_due - invoice.amount_paid,
            "amount_shipping": 0,
            "application": null,
            "attempt_count": invoice.attempts,
            "attempted": invoice.attempts > 0,
            "auto_advance": invoice.is_automatic,
            "automatic_tax": {
                "disabled_reason": null, "enabled": false, "liability": null, "provider": null, "status": null,
            },
            "automatically_finalizes_at": invoice.finalizes_at,
            "billing_reason": invoice.reason,
            "collection_method": invoice.collection_method(),
            "created": invoice.created,
            "currency": invoice.currency,
            "custom_fields": null,
            "customer": invoice.customer,
            "customer_account": null,
            "customer_address": null,
            "customer_email": customer.and_then(|customer| customer.email.as_deref()),
            "customer_name": customer.and_then(|customer| customer.name.as_deref()),
            "customer_phone": null,
            "customer_shipping": null,
            "customer_tax_exempt": "none",
            "customer_tax_ids": [],
            "default_payment_method": invoice.method,
            "default_source": null,
            "default_tax_rates": [],
            "description": invoice.description,
            "discounts": [],
            "due_date": invoice.due_date(),
            "effective_at": invoice.finalized_at,
            "ending_balance": invoice.ending_balance,
            "footer": invoice.footer,
            "from_invoice": null,
            "hosted_invoice_url": &page,
            "invoice_pdf": page.as_ref().map(|page| format!("{page}/pdf")),
            "issuer": { "type": "self" },
            "last_finalization_error": null,
            "latest_revision": null,
        });
        let rest = json!({
            "lines": {
                "object": "list",
                "data": lines,
                "has_more": invoice.lines.len() > EMBEDDED_LINES,
                "total_count": invoice.lines.len(),
                "url": format!("/v1/invoices/{}/lines", invoice.id),
            },
            "livemode": self.is_live,
            "metadata": invoice.metadata,
            "next_payment_attempt": invoice.next_attempt,
            "number": invoice.number,
            "on_behalf_of": null,
            "parent": parent,
            "payment_settings": {
                "default_mandate": null, "payment_method_options": null, "payment_method_types": null,
            },
            "period_end": invoice.period.1,
            "period_start": invoice.period.0,
            "post_payment_credit_notes_amount": 0,
            "pre_payment_credit_notes_amount": 0,
            "receipt_number": null,
            "rendering": null,
            "shipping_cost": null,
            "shipping_details": null,
            "starting_balance": invoice.starting_balance,
            "statement_descriptor": null,
            "status": invoice.status.name(),
            "status_transitions": {
                "finalized_at": invoice.finalized_at,
                "marked_uncollectible_at": null,
                "paid_at": invoice.paid_at,
                "voided_at": invoice.voided_at,
            },
            "subtotal": total,
            "subtotal_excluding_tax": total,
            "test_clock": null,
            "total": total,
            "total_discount_amounts": [],
            "total_excluding_tax": total,
            "total_pretax_credit_amounts": [],
            "total_taxes": [],
            "webhooks_delivered_at": invoice.finalized_at,
        });
        if let (Value::Object(json), Value::Object(rest)) = (&mut json, rest) {
            json.extend(rest);
        }
        json
    }
}
