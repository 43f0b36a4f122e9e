//! Sessions of the billing portal, on whose page a customer changes or cancels a subscription.

use serde_json::{Value, json};

use crate::call::Call;
use crate::error::ApiError;
use crate::state::State;
use crate::table::Row;

/// Session of the billing portal.
pub(crate) struct PortalSession {
    pub(crate) id: String,
    pub(crate) customer: String,
    pub(crate) return_url: Option<String>,
    secret: String,
}

impl Row for PortalSession {
    const WHAT: &'static str = "billing portal session";

    fn id(&self) -> &str {
        &self.id
    }
}

impl State {
    /// Returns a session by the secret in its URL.
    pub(crate) fn portal_session(&self, secret: &str) -> Result<&PortalSession, ApiError> {
        let mut sessions = self.portal_sessions.iter();
        let session = sessions.find(|session| session.secret == secret);
        session.ok_or_else(|| ApiError::missing(PortalSession::WHAT, secret, "id"))
    }
}

pub(crate) fn create(call: &mut Call<'_>) -> Result<Value, ApiError> {
    let (state, params) = (&mut *call.state, call.params);
    let customer = params.non_empty("customer");
    let customer = customer.ok_or_else(|| ApiError::parameter_missing("customer"))?;
    state.customers.find(customer, "customer")?;
    let return_url = params.non_empty("return_url").map(str::to_owned);
    let id = state.ids.next("bps_1", 23);
    let secret = state
        .ids
        .next(if state.is_live { "live_" } else { "test_" }, 40);
    let json = json!({
        "id": id,
        "object": "billing_portal.session",
        "after_expiration": null,
        "configuration": params.non_empty("configuration").unwrap_or("bpc_1StripeFakeDefaultConfig"),
        "created": state.now,
        "customer": customer,
        "customer_account": null,
        "flow": null,
        "livemode": state.is_live,
        "locale": params.non_empty("locale"),
        "on_behalf_of": null,
        "return_url": return_url,
        "url": format!("{}/p/session/{secret}", state.settings.url),
    });
    state.portal_sessions.insert(PortalSession {
        id,
        customer: customer.to_owned(),
        return_url,
        secret,
    });
    Ok(json)
}
