//! Extractors of the caller, from the authorizer's context.

use axum::extract::FromRequestParts;
use http::request::Parts;
use lambda_http::request::RequestContext;
use serde_json::Value;
use tollgate_api::context::{Caller, Identity};
use tollgate_domain::id::{CustomerId, KeyId, PlanId};
use tollgate_domain::role::CustomerRole;

use crate::Problem;

/// Admin as the caller. Other callers are rejected with a 403.
#[derive(Debug, Clone)]
pub struct AdminCaller {
    /// Id of the key of the request.
    pub key_id: KeyId,
}

/// Customer as the caller, whatever the role of its key. Other callers are rejected with a 403.
#[derive(Debug, Clone)]
pub struct CustomerCaller {
    /// Id of the customer.
    pub id: CustomerId,
    /// Plan of the customer when the call was allowed.
    pub plan: PlanId,
    /// Id of the key of the request.
    pub key_id: KeyId,
}

/// Customer as the caller, with a key that has the role `manage`. Other callers are rejected with a 403,
/// whose type for a customer's key is `insufficient-role`.
#[derive(Debug, Clone)]
pub struct ManagingCaller {
    /// Id of the customer.
    pub id: CustomerId,
    /// Plan of the customer when the call was allowed.
    pub plan: PlanId,
    /// Id of the key of the request.
    pub key_id: KeyId,
}

fn caller(parts: &Parts) -> Result<Caller, Problem> {
    let fields = match parts.extensions.get::<RequestContext>() {
        Some(RequestContext::ApiGatewayV1(context)) => &context.authorizer.fields,
        _ => return Err(no_context()),
    };
    Caller::from_context(|name| fields.get(name).and_then(Value::as_str)).map_err(|_| no_context())
}

/// Creates the problem for a request without a valid context of the authorizer.
fn no_context() -> Problem {
    Problem::forbidden("The request did not come through the authorizer.")
}

impl<S: Send + Sync> FromRequestParts<S> for AdminCaller {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Problem> {
        let caller = caller(parts)?;
        match caller.identity {
            Identity::Admin => Ok(Self {
                key_id: caller.key_id,
            }),
            Identity::Customer { .. } => {
                Err(Problem::forbidden("This request needs an admin key."))
            }
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
            Identity::Customer { id, plan, .. } => Ok(Self { id, plan, key_id }),
            Identity::Admin => Err(needs_a_customer()),
        }
    }
}

impl<S: Send + Sync> FromRequestParts<S> for ManagingCaller {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Problem> {
        let Caller {
            identity, key_id, ..
        } = caller(parts)?;
        match identity {
            Identity::Customer { id, role, plan } => match role {
                CustomerRole::Manage => Ok(Self { id, plan, key_id }),
                CustomerRole::Call => Err(Problem::insufficient_role()),
            },
            Identity::Admin => Err(needs_a_customer()),
        }
    }
}

fn needs_a_customer() -> Problem {
    Problem::forbidden("This request needs a customer's key.")
}
