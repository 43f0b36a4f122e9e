//! The gateway's question and the answer to it, as JSON.

use std::collections::HashMap;

use serde::{Deserialize, Serialize};
use tollgate_domain::caller::Context;
use tollgate_domain::id::KeyId;

/// What of a REQUEST authorizer event a decision needs.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Request {
    /// What the policy speaks of.
    method_arn: String,
    /// The route's template.
    pub(crate) resource: String,
    /// Header fields, under the names the caller gave them.
    #[serde(default)]
    headers: Option<HashMap<String, String>>,
    #[serde(default)]
    request_context: RequestContext,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase")]
struct RequestContext {
    #[serde(default)]
    request_id: String,
}

impl Request {
    /// The key, from `x-api-key` or else `Authorization: Bearer`.
    pub(crate) fn key(&self) -> Option<&str> {
        self.header("x-api-key").or_else(|| {
            let (scheme, token) = self.header("authorization")?.split_once(' ')?;
            let token = token.trim_start_matches(' ');
            scheme.eq_ignore_ascii_case("bearer").then_some(token)
        })
    }

    fn header(&self, name: &str) -> Option<&str> {
        let mut headers = self.headers.iter().flatten();
        let (_, value) = headers.find(|(given, _)| given.eq_ignore_ascii_case(name))?;
        Some(value)
    }

    pub(crate) fn request_id(&self) -> &str {
        &self.request_context.request_id
    }
}

/// A policy on the one call, and what the functions behind the gateway are told of it.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Answer {
    principal_id: KeyId,
    policy_document: PolicyDocument,
    context: Context,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "PascalCase")]
struct PolicyDocument {
    version: &'static str,
    statement: [Statement; 1],
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "PascalCase")]
struct Statement {
    action: &'static str,
    effect: &'static str,
    resource: String,
}

impl Answer {
    pub(crate) fn allow(key: &KeyId, request: &Request, context: Context) -> Self {
        Self::of("Allow", key, request, context)
    }

    pub(crate) fn deny(key: &KeyId, request: &Request, context: Context) -> Self {
        Self::of("Deny", key, request, context)
    }

    fn of(effect: &'static str, key: &KeyId, request: &Request, context: Context) -> Self {
        Self {
            principal_id: key.clone(),
            policy_document: PolicyDocument {
                version: "2012-10-17",
                statement: [Statement {
                    action: "execute-api:Invoke",
                    effect,
                    resource: request.method_arn.clone(),
                }],
            },
            context,
        }
    }
}
