//! Who calls, as the authorizer found it.

use axum::extract::FromRequestParts;
use http::request::Parts;
use lambda_http::request::RequestContext;
use serde_json::Value;
use tollgate_domain::caller::{Caller, Identity};
use tollgate_domain::id::{CustomerId, KeyId, PlanId};

use crate::Problem;

/// An admin. Anyone else gets a 403.
#[derive(Debug, Clone)]
pub struct AdminCaller {
    /// The key that the call was made with.
    pub key_id: KeyId,
}

/// A customer. Anyone else gets a 403.
#[derive(Debug, Clone)]
pub struct CustomerCaller {
    /// Who.
    pub id: CustomerId,
    /// On which plan when the call was admitted.
    pub plan: PlanId,
    /// The key that the call was made with.
    pub key_id: KeyId,
}

fn caller(parts: &Parts) -> Result<Caller, Problem> {
    let fields = match parts.extensions.get::<RequestContext>() {
        Some(RequestContext::ApiGatewayV1(context)) => &context.authorizer.fields,
        _ => return Err(outside()),
    };
    Caller::from_context(|name| fields.get(name).and_then(Value::as_str)).map_err(|_| outside())
}

/// The function was called by something other than the gateway with its authorizer.
fn outside() -> Problem {
    Problem::forbidden("This call did not come through the authorizer.")
}

impl<S: Send + Sync> FromRequestParts<S> for AdminCaller {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Problem> {
        let caller = caller(parts)?;
        match caller.identity {
            Identity::Admin => Ok(Self {
                key_id: caller.key_id,
            }),
            Identity::Customer { .. } => Err(Problem::forbidden("This needs an admin key.")),
        }
    }
}

impl<S: Send + Sync> FromRequestParts<S> for CustomerCaller {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Problem> {
        let Caller {
            identity, key_id, ..
        } = caller(parts)?;
        match identity {
            Identity::Customer { id, plan } => Ok(Self { id, plan, key_id }),
            Identity::Admin => Err(Problem::forbidden("This needs a customer's key.")),
        }
    }
}
