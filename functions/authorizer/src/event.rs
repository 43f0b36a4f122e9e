//! The gateway's question and the answer to it, as JSON.

use std::borrow::Cow;
use std::fmt;
use std::sync::Arc;

use jiff::Timestamp;
use serde::de::{Deserializer, IgnoredAny, MapAccess, Visitor};
use serde::{Deserialize, Serialize, Serializer};
use tollgate_domain::caller::Context;
use tollgate_domain::decision::Decision;

use crate::cache::Known;

/// What of a REQUEST authorizer event a decision needs, as it stands in the event's text. The rest,
/// which is most of it, is passed over.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Request<'a> {
    /// What the policy speaks of.
    #[serde(borrow)]
    method_arn: Cow<'a, str>,
    /// The route's template.
    #[serde(borrow)]
    pub(crate) resource: Cow<'a, str>,
    #[serde(borrow, default)]
    headers: Option<KeyHeaders<'a>>,
    #[serde(borrow, default)]
    request_context: RequestContext<'a>,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase")]
struct RequestContext<'a> {
    #[serde(borrow, default)]
    request_id: Cow<'a, str>,
}

/// The header fields that can hold a key, each as it came first.
#[derive(Default)]
struct KeyHeaders<'a> {
    api_key: Option<Text<'a>>,
    authorization: Option<Text<'a>>,
}

/// A text that is borrowed wherever its JSON has no escapes.
#[derive(Deserialize)]
struct Text<'a>(#[serde(borrow)] Cow<'a, str>);

impl Request<'_> {
    /// The key, from `x-api-key` or else `Authorization: Bearer`.
    pub(crate) fn key(&self) -> Option<&str> {
        let headers = self.headers.as_ref()?;
        if let Some(Text(key)) = &headers.api_key {
            return Some(key);
        }
        let Text(authorization) = headers.authorization.as_ref()?;
        let (scheme, token) = authorization.split_once(' ')?;
        let token = token.trim_start_matches(' ');
        scheme.eq_ignore_ascii_case("bearer").then_some(token)
    }

    pub(crate) fn request_id(&self) -> &str {
        &self.request_context.request_id
    }
}

impl<'de: 'a, 'a> Deserialize<'de> for KeyHeaders<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Headers;

        impl<'de> Visitor<'de> for Headers {
            type Value = KeyHeaders<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("header fields")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
                let mut headers = KeyHeaders::default();
                while let Some(Text(name)) = map.next_key()? {
                    let field = if name.eq_ignore_ascii_case("x-api-key") {
                        &mut headers.api_key
                    } else if name.eq_ignore_ascii_case("authorization") {
                        &mut headers.authorization
                    } else {
                        map.next_value::<IgnoredAny>()?;
                        continue;
                    };
                    let value = map.next_value()?;
                    field.get_or_insert(value);
                }
                Ok(headers)
            }
        }

        deserializer.deserialize_map(Headers)
    }
}

/// A policy on the one call, and what the functions behind the gateway are told of it.
#[derive(Debug)]
pub struct Answer {
    method_arn: String,
    known: Arc<Known>,
    decided: Option<(Timestamp, Decision)>,
}

impl Answer {
    /// The answer to a call with a known key, which was decided if it counts towards limits.
    pub(crate) fn new(
        request: &Request<'_>,
        known: Arc<Known>,
        decided: Option<(Timestamp, Decision)>,
    ) -> Self {
        Self {
            method_arn: request.method_arn.clone().into_owned(),
            known,
            decided,
        }
    }

    fn effect(&self) -> &'static str {
        match self.decided {
            Some((_, Decision::Refuse { .. })) => "Deny",
            Some((_, Decision::Admit { .. })) | None => "Allow",
        }
    }
}

impl Serialize for Answer {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        #[derive(Serialize)]
        #[serde(rename_all = "camelCase")]
        struct Answer<'a> {
            principal_id: &'a str,
            policy_document: PolicyDocument<'a>,
            context: Context<'a>,
        }

        #[derive(Serialize)]
        #[serde(rename_all = "PascalCase")]
        struct PolicyDocument<'a> {
            version: &'static str,
            statement: [Statement<'a>; 1],
        }

        #[derive(Serialize)]
        #[serde(rename_all = "PascalCase")]
        struct Statement<'a> {
            action: &'static str,
            effect: &'static str,
            resource: &'a str,
        }

        let Known { record, customer } = &*self.known;
        let statement = Statement {
            action: "execute-api:Invoke",
            effect: self.effect(),
            resource: &self.method_arn,
        };
        let answer = Answer {
            principal_id: record.id.as_str(),
            policy_document: PolicyDocument {
                version: "2012-10-17",
                statement: [statement],
            },
            context: Context {
                customer: customer.as_ref().map(|it| (&it.id, &it.plan)),
                key_id: &record.id,
                key_prefix: &record.prefix,
                decided: self.decided,
            },
        };
        answer.serialize(serializer)
    }
}
