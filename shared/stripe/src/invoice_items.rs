//! Invoice items (<https://docs.stripe.com/api/invoiceitems>): amounts that join a customer's next invoice.

use std::collections::BTreeMap;

use jiff::Timestamp;
use jiff::fmt::serde::timestamp::second;
use serde::Deserialize;

use crate::client::StripeClient;
use crate::decode::{id, optional_id, or_default};
use crate::error::StripeError;
use crate::id::{CustomerId, InvoiceId, InvoiceItemId, SubscriptionId};
use crate::pages::{Listed, Pages};
use crate::parent::Parent;
use crate::request::{ApiRequest, IdempotencyKey};

/// Name in the metadata of an invoice item under which it has the id of the charge that it bills.
pub const CHARGE_METADATA: &str = "tollgate_charge";

/// Invoice item.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct InvoiceItem {
    /// Id of the item.
    pub id: InvoiceItemId,
    /// Customer.
    #[serde(deserialize_with = "id")]
    pub customer: CustomerId,
    /// Amount in the smallest unit of the currency; negative for a credit.
    pub amount: i64,
    /// Currency, in lower case.
    pub currency: String,
    /// Time of creation.
    #[serde(with = "second::required")]
    pub date: Timestamp,
    /// Invoice that it has joined; `None` while it is pending.
    #[serde(default, deserialize_with = "optional_id")]
    pub invoice: Option<InvoiceId>,
    /// Text on the invoice.
    #[serde(default)]
    pub description: Option<String>,
    /// Time for which it is due.
    #[serde(default)]
    pub period: Option<Period>,
    /// Origin of the item.
    #[serde(default)]
    parent: Option<Parent>,
    /// Whether it exists in live mode.
    pub livemode: bool,
    /// Metadata.
    #[serde(default, deserialize_with = "or_default")]
    pub metadata: BTreeMap<String, String>,
}

impl InvoiceItem {
    /// Returns the id of the charge that the item bills, if it was made for one.
    #[must_use]
    pub fn charge(&self) -> Option<&str> {
        self.metadata.get(CHARGE_METADATA).map(String::as_str)
    }

    /// Returns the subscription whose invoice the item joins; without one, it joins any.
    #[must_use]
    pub fn subscription(&self) -> Option<&SubscriptionId> {
        self.parent.as_ref()?.subscription()
    }
}

impl Listed for InvoiceItem {
    fn cursor(&self) -> &str {
        self.id.as_str()
    }
}

/// Time for which an invoice item is due. Stripe shows it on the invoice.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
pub struct Period {
    /// Start, inclusive.
    #[serde(with = "second::required")]
    pub start: Timestamp,
    /// End.
    #[serde(with = "second::required")]
    pub end: Timestamp,
}

/// Parameters of an invoice item that bills a charge.
#[derive(Debug, Clone, Copy)]
pub struct NewInvoiceItem<'a> {
    /// Id of the charge, in the metadata.
    pub charge: &'a str,
    /// Idempotency key of the request.
    pub key: &'a IdempotencyKey,
    /// Customer who owes the amount.
    pub customer: &'a CustomerId,
    /// Amount in the smallest unit of the currency; negative for a credit.
    pub amount: i64,
    /// Currency, in lower case.
    pub currency: &'a str,
    /// Text on the invoice.
    pub description: &'a str,
    /// Subscription whose next invoice it joins; without one, it joins the customer's next of any.
    pub subscription: Option<&'a SubscriptionId>,
    /// Time for which it is due.
    pub period: Option<Period>,
    /// Further metadata.
    pub metadata: &'a [(&'a str, &'a str)],
}

/// Invoice items to list.
#[derive(Debug, Clone, Copy)]
pub struct InvoiceItemFilter<'a> {
    /// Customer.
    pub customer: &'a CustomerId,
    /// Time since which they were created, in whole seconds.
    pub created_since: Option<Timestamp>,
    /// Whether they have yet to join an invoice; `None` for both.
    pub pending: Option<bool>,
}

impl StripeClient {
    /// Creates an invoice item that bills a charge.
    ///
    /// # Errors
    /// See [`StripeError`].
    pub async fn create_invoice_item(
        &self,
        item: &NewInvoiceItem<'_>,
    ) -> Result<InvoiceItem, StripeError> {
        let mut request = ApiRequest::post("/v1/invoiceitems", None, item.key);
        let form = &mut request.form;
        form.add("customer", item.customer);
        form.add("amount", item.amount);
        form.add("currency", item.currency);
        form.add("description", item.description);
        form.add_some("subscription", item.subscription);
        form.add_time("period[start]", item.period.map(|period| period.start));
        form.add_time("period[end]", item.period.map(|period| period.end));
        form.add_map("metadata", &[(CHARGE_METADATA, item.charge)]);
        form.add_map("metadata", item.metadata);
        self.call(&request).await
    }

    /// Lists invoice items, newest first.
    pub fn invoice_items(&self, filter: &InvoiceItemFilter<'_>) -> Pages<InvoiceItem> {
        let mut request = ApiRequest::get("/v1/invoiceitems", None);
        let form = &mut request.form;
        form.add("customer", filter.customer);
        form.add_time("created[gte]", filter.created_since);
        form.add_some("pending", filter.pending);
        Pages::new(self, request)
    }

    /// Finds the invoice items that bill a charge, among those of the customer since a time. There should
    /// be at most one. The list is read to its end, so that an empty result means that there is none.
    ///
    /// # Errors
    /// See [`StripeError`].
    pub async fn invoice_items_of_charge(
        &self,
        charge: &str,
        customer: &CustomerId,
        created_since: Option<Timestamp>,
    ) -> Result<Vec<InvoiceItem>, StripeError> {
        let filter = InvoiceItemFilter {
            customer,
            created_since,
            pending: None,
        };
        let mut pages = self.invoice_items(&filter);
        let mut found = Vec::new();
        while let Some(page) = pages.next_page().await? {
            let of_charge = page
                .items
                .into_iter()
                .filter(|item| item.charge() == Some(charge));
            found.extend(of_charge);
        }
        Ok(found)
    }
}
