//! Sessions of the billing portal (<https://docs.stripe.com/api/customer_portal/sessions>).

use serde::Deserialize;

use crate::client::StripeClient;
use crate::decode::id;
use crate::error::StripeError;
use crate::id::{CustomerId, PortalSessionId};
use crate::request::{ApiRequest, IdempotencyKey};

/// Session of the billing portal: a page of Stripe's on which a customer manages subscription and payment.
#[derive(Clone, PartialEq, Eq, Deserialize)]
pub struct PortalSession {
    /// Id of the session.
    pub id: PortalSessionId,
    /// Address of the page: whoever has it acts as the customer.
    pub url: String,
    /// Customer.
    #[serde(deserialize_with = "id")]
    pub customer: CustomerId,
    /// Whether it exists in live mode.
    pub livemode: bool,
}

impl std::fmt::Debug for PortalSession {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let mut debug = f.debug_struct("PortalSession");
        debug
            .field("id", &self.id)
            .field("customer", &self.customer);
        debug.finish_non_exhaustive()
    }
}

/// Parameters of a session of the billing portal.
#[derive(Debug, Clone, Copy)]
pub struct NewPortalSession<'a> {
    /// Customer who may use it.
    pub customer: &'a CustomerId,
    /// Address to return to.
    pub return_url: &'a str,
    /// Id of the portal's configuration, if not the default one.
    pub configuration: Option<&'a str>,
}

impl StripeClient {
    /// Creates a session of the billing portal.
    ///
    /// # Errors
    /// See [`StripeError`].
    pub async fn create_portal_session(
        &self,
        key: &IdempotencyKey,
        session: &NewPortalSession<'_>,
    ) -> Result<PortalSession, StripeError> {
        let mut request = ApiRequest::post("/v1/billing_portal/sessions", None, key);
        request.form.add("customer", session.customer);
        request.form.add("return_url", session.return_url);
        request
            .form
            .add_some("configuration", session.configuration);
        self.call(&request).await
    }
}
