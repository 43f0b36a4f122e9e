//! Customers (<https://docs.stripe.com/api/customers>).

use std::collections::BTreeMap;

use jiff::Timestamp;
use jiff::fmt::serde::timestamp::second;
use serde::Deserialize;

use crate::client::StripeClient;
use crate::decode::or_default;
use crate::error::StripeError;
use crate::form::Form;
use crate::id::CustomerId;
use crate::request::{ApiRequest, IdempotencyKey};

/// Customer at Stripe.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct Customer {
    /// Id of the customer.
    pub id: CustomerId,
    /// Time of creation.
    #[serde(with = "second::required")]
    pub created: Timestamp,
    /// Whether it exists in live mode.
    pub livemode: bool,
    /// Email address: personal data.
    #[serde(default)]
    pub email: Option<String>,
    /// Name: personal data.
    #[serde(default)]
    pub name: Option<String>,
    /// Currency of its invoices, once it has one.
    #[serde(default)]
    pub currency: Option<String>,
    /// Metadata.
    #[serde(default, deserialize_with = "or_default")]
    pub metadata: BTreeMap<String, String>,
}

/// Customer that was looked up by its id. One that never existed is a rejection.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CustomerLookup {
    /// It exists.
    Present(Customer),
    /// It was deleted, for good. Nothing can be charged to it.
    Deleted(CustomerId),
}

impl<'de> Deserialize<'de> for CustomerLookup {
    fn deserialize<D: serde::Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        struct Mark {
            id: CustomerId,
            #[serde(default)]
            deleted: bool,
        }
        let value = serde_json::Value::deserialize(from)?;
        let mark = Mark::deserialize(&value).map_err(serde::de::Error::custom)?;
        if mark.deleted {
            return Ok(CustomerLookup::Deleted(mark.id));
        }
        let customer = Customer::deserialize(value).map_err(serde::de::Error::custom)?;
        Ok(CustomerLookup::Present(customer))
    }
}

/// Parameters of a customer. What is `None` is left as it is.
#[derive(Debug, Clone, Copy, Default)]
pub struct CustomerDetails<'a> {
    /// Email address, to which Stripe sends invoices.
    pub email: Option<&'a str>,
    /// Name on invoices.
    pub name: Option<&'a str>,
    /// Description in Stripe's dashboard.
    pub description: Option<&'a str>,
    /// Metadata to set.
    pub metadata: &'a [(&'a str, &'a str)],
}

impl CustomerDetails<'_> {
    fn add_to(&self, form: &mut Form) {
        form.add_some("email", self.email);
        form.add_some("name", self.name);
        form.add_some("description", self.description);
        form.add_map("metadata", self.metadata);
    }
}

impl StripeClient {
    /// Creates a customer.
    ///
    /// # Errors
    /// See [`StripeError`].
    pub async fn create_customer(
        &self,
        key: &IdempotencyKey,
        details: &CustomerDetails<'_>,
    ) -> Result<Customer, StripeError> {
        let mut request = ApiRequest::post("/v1/customers", None, key);
        details.add_to(&mut request.form);
        self.call(&request).await
    }

    /// Reads a customer, which may have been deleted.
    ///
    /// # Errors
    /// See [`StripeError`].
    pub async fn customer(&self, id: &CustomerId) -> Result<CustomerLookup, StripeError> {
        let request = ApiRequest::get("/v1/customers/{id}", Some(id.as_str()));
        self.call(&request).await
    }

    /// Changes a customer.
    ///
    /// # Errors
    /// See [`StripeError`].
    pub async fn update_customer(
        &self,
        id: &CustomerId,
        key: &IdempotencyKey,
        details: &CustomerDetails<'_>,
    ) -> Result<Customer, StripeError> {
        let mut request = ApiRequest::post("/v1/customers/{id}", Some(id.as_str()), key);
        details.add_to(&mut request.form);
        self.call(&request).await
    }
}
