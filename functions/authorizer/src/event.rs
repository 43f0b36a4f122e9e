//! The authorizer's request and response as JSON.

use std::borrow::Cow;
use std::fmt;
use std::sync::Arc;

use serde::de::{DeserializeSeed, Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde::{Deserialize, Serialize, Serializer};
use serde_json::value::RawValue;
use tollgate_api::context::{Access, AuthorizerContext};

use crate::Settings;
use crate::cache::CachedKey;

/// The members of a REQUEST authorizer event that a decision needs, borrowed from the event's text. The
/// other members, which are most of it, are skipped.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Request<'a> {
    /// ARN of the called method, the resource of the policy.
    #[serde(borrow)]
    method_arn: Cow<'a, str>,
    /// Route template.
    #[serde(borrow)]
    pub(crate) resource: Cow<'a, str>,
    /// Header fields; of a field that occurs several times, the last value only.
    #[serde(borrow, default)]
    headers: Option<KeyHeaders<'a>>,
    /// All values of each header field; only parsed if `headers` has no API key.
    #[serde(borrow, default)]
    multi_value_headers: Option<&'a RawValue>,
    /// Only parsed when something is logged.
    #[serde(borrow, default)]
    request_context: Option<&'a RawValue>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct RequestContext<'a> {
    #[serde(borrow)]
    request_id: Cow<'a, str>,
}

/// Keys in the two header fields that can hold one. An empty field counts as absent: clients send
/// one if their setting is empty.
#[derive(Default)]
struct KeyHeaders<'a> {
    api_key: Option<Cow<'a, str>>,
    bearer: Option<Cow<'a, str>>,
}

/// Deserialisation seed for a field's value, or for the last of its values in which the function finds a
/// key.
#[derive(Clone, Copy)]
struct KeySeed(fn(&str) -> Option<&str>);

/// Whitespace of header fields (RFC 9110, section 5.6.3).
const WHITESPACE: [char; 2] = [' ', '\t'];

fn api_key(value: &str) -> Option<&str> {
    Some(value.trim_matches(WHITESPACE)).filter(|key| !key.is_empty())
}

fn bearer_token(value: &str) -> Option<&str> {
    let (scheme, token) = value.trim_matches(WHITESPACE).split_once(WHITESPACE)?;
    let is_bearer = scheme.eq_ignore_ascii_case("bearer");
    api_key(token).filter(|_| is_bearer)
}

/// A string that is borrowed if its JSON has no escapes.
#[derive(Deserialize)]
struct BorrowedStr<'a>(#[serde(borrow)] Cow<'a, str>);

impl<'a> Request<'a> {
    /// Parses an event.
    ///
    /// # Errors
    /// When the text is not such an event. The error may quote it, and the key in it.
    pub fn from_json(event: &'a str) -> Result<Self, serde_json::Error> {
        serde_json::from_str(event)
    }

    /// Returns the key, from `x-api-key` or else `Authorization: Bearer`.
    pub(crate) fn key(&self) -> Option<Cow<'_, str>> {
        let last = self.headers.as_ref();
        if let Some(key) = last.and_then(|it| it.api_key.as_deref()) {
            return Some(Cow::Borrowed(key));
        }
        let all: KeyHeaders<'a> = parse_or_none(self.multi_value_headers).unwrap_or_default();
        let bearer = last.and_then(|it| it.bearer.as_deref());
        all.api_key.or(bearer.map(Cow::Borrowed)).or(all.bearer)
    }

    /// Returns the request id; empty if the event has none.
    pub(crate) fn request_id(&self) -> Cow<'a, str> {
        let context: Option<RequestContext<'a>> = parse_or_none(self.request_context);
        context.map(|it| it.request_id).unwrap_or_default()
    }
}

/// Parses a member of the event. Returns `None` if it is absent or cannot be parsed.
fn parse_or_none<'a, T: Deserialize<'a>>(value: Option<&'a RawValue>) -> Option<T> {
    serde_json::from_str(value?.get()).ok()
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
                while let Some(BorrowedStr(name)) = map.next_key()? {
                    let (field, seed) = if name.eq_ignore_ascii_case("x-api-key") {
                        (&mut headers.api_key, KeySeed(api_key))
                    } else if name.eq_ignore_ascii_case("authorization") {
                        (&mut headers.bearer, KeySeed(bearer_token))
                    } else {
                        map.next_value::<IgnoredAny>()?;
                        continue;
                    };
                    let key = map.next_value_seed(seed)?;
                    *field = field.take().or(key);
                }
                Ok(headers)
            }
        }

        deserializer.deserialize_map(Headers)
    }
}

impl<'de> DeserializeSeed<'de> for KeySeed {
    type Value = Option<Cow<'de, str>>;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for KeySeed {
    type Value = Option<Cow<'de, str>>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the value of a header field, or a list of values")
    }

    fn visit_borrowed_str<E>(self, value: &'de str) -> Result<Self::Value, E> {
        Ok(self.0(value).map(Cow::Borrowed))
    }

    fn visit_str<E>(self, value: &str) -> Result<Self::Value, E> {
        Ok(self.0(value).map(|key| Cow::Owned(key.to_owned())))
    }

    fn visit_unit<E>(self) -> Result<Self::Value, E> {
        Ok(None)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut values: A) -> Result<Self::Value, A::Error> {
        let mut last = None;
        while let Some(key) = values.next_element_seed(self)? {
            last = key.or(last);
        }
        Ok(last)
    }
}

/// The authorizer's response: a policy for the one call, and the context for the functions behind the
/// gateway.
#[derive(Debug)]
pub struct AuthorizerResponse {
    method_arn: String,
    key: Arc<CachedKey>,
    access: Access,
    settings: Arc<Settings>,
}

impl AuthorizerResponse {
    /// Serialises the response as JSON, as the runtime does.
    ///
    /// # Errors
    /// When the serialisation fails, which no response is known to cause.
    pub fn to_json(&self) -> Result<Vec<u8>, serde_json::Error> {
        serde_json::to_vec(self)
    }

    /// Creates the response for a call with an existing key.
    pub(crate) fn new(
        request: &Request<'_>,
        key: Arc<CachedKey>,
        access: Access,
        settings: Arc<Settings>,
    ) -> Self {
        Self {
            method_arn: request.method_arn.clone().into_owned(),
            key,
            access,
            settings,
        }
    }
}

impl Serialize for AuthorizerResponse {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        #[derive(Serialize)]
        #[serde(rename_all = "camelCase")]
        struct Response<'a> {
            principal_id: &'a str,
            policy_document: PolicyDocument<'a>,
            context: AuthorizerContext<'a>,
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

        let CachedKey {
            record, customer, ..
        } = &*self.key;
        let statement = Statement {
            action: "execute-api:Invoke",
            effect: if self.access.is_allowed() {
                "Allow"
            } else {
                "Deny"
            },
            resource: &self.method_arn,
        };
        let response = Response {
            principal_id: record.id.as_str(),
            policy_document: PolicyDocument {
                version: "2012-10-17",
                statement: [statement],
            },
            context: AuthorizerContext {
                role: record.role(),
                customer: customer.as_ref().map(|it| (&it.id, &it.plan)),
                key_id: &record.id,
                key_prefix: &record.prefix,
                access: self.access,
                cors_origin: self.settings.cors_origin.as_deref(),
                upgrade_url: self.settings.upgrade_url.as_deref(),
            },
        };
        response.serialize(serializer)
    }
}
