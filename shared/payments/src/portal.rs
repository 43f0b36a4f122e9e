//! The billing portal: pages of Stripe's on which a customer manages the subscription.

use tollgate_api::payments::Portal;
use tollgate_domain::id::{CustomerId, random_base62};
use tollgate_runtime::metrics;
use tollgate_stripe::NewPortalSession;

use crate::customers::{linked, of_customer, parse_key};
use crate::{Payments, PaymentsError};

/// Outcome of a request for the billing portal.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PortalOutcome {
    /// The portal was opened.
    Opened(Portal),
    /// There is no such customer.
    NoCustomer,
    /// The customer has no Stripe customer.
    NotLinked,
}

impl Payments {
    /// Opens the billing portal for a customer. `return_url` is not checked here.
    ///
    /// # Errors
    /// When Stripe or the store fails.
    pub async fn open_portal(
        &self,
        customer: &CustomerId,
        return_url: &str,
    ) -> Result<PortalOutcome, PaymentsError> {
        let stripe = self.client()?;
        let Some(customer) = self.store.customer(customer).await? else {
            return Ok(PortalOutcome::NoCustomer);
        };
        let Some(recipient) = &customer.recipient else {
            return Ok(PortalOutcome::NotLinked);
        };
        let session = NewPortalSession {
            customer: &linked(&customer, recipient)?,
            return_url,
            configuration: None,
        };
        let key = parse_key(&format!("tollgate/portal/{}", self.random()))?;
        let session = stripe.create_portal_session(&key, &session).await;
        let session = session.map_err(|error| of_customer(&customer.id, error))?;
        self.metrics.record(metrics::PORTALS_OPENED, &[], 1);
        Ok(PortalOutcome::Opened(Portal { url: session.url }))
    }

    /// Draws a part of an idempotency key that no other request has.
    pub(crate) fn random(&self) -> String {
        self.store.entropy().with(|rng| random_base62(rng, 32))
    }
}
