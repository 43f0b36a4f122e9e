//! The gateway's question and the answer to it, as JSON.

use std::borrow::Cow;
use std::fmt;
use std::sync::Arc;

use serde::de::{DeserializeSeed, Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde::{Deserialize, Serialize, Serializer};
use serde_json::value::RawValue;
use tollgate_domain::caller::{Access, Context};

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
    /// Of a field that came several times, the last value alone.
    #[serde(borrow, default)]
    headers: Option<KeyHeaders<'a>>,
    /// All values of each field, unread until `headers` does not tell which key it is.
    #[serde(borrow, default)]
    multi_value_headers: Option<&'a RawValue>,
    /// Unread until something is logged.
    #[serde(borrow, default)]
    request_context: Option<&'a RawValue>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct RequestContext<'a> {
    #[serde(borrow)]
    request_id: Cow<'a, str>,
}

/// What the two header fields that can hold a key hold. An empty one, which clients send whose
/// setting is empty, is as good as none.
#[derive(Default)]
struct KeyHeaders<'a> {
    api_key: Option<Cow<'a, str>>,
    bearer: Option<Cow<'a, str>>,
}

/// Reads a field's value, or the last of its values in which the function finds a key.
#[derive(Clone, Copy)]
struct KeyIn(fn(&str) -> Option<&str>);

/// White space as header fields have it (RFC 9110, section 5.6.3).
const SPACE: [char; 2] = [' ', '\t'];

fn whole(value: &str) -> Option<&str> {
    Some(value.trim_matches(SPACE)).filter(|key| !key.is_empty())
}

fn bearer(value: &str) -> Option<&str> {
    let (scheme, token) = value.trim_matches(SPACE).split_once(SPACE)?;
    let is_bearer = scheme.eq_ignore_ascii_case("bearer");
    whole(token).filter(|_| is_bearer)
}

/// A text that is borrowed wherever its JSON has no escapes.
#[derive(Deserialize)]
struct Text<'a>(#[serde(borrow)] Cow<'a, str>);

impl<'a> Request<'a> {
    /// Reads an event.
    ///
    /// # Errors
    /// When the text is no event. The error may quote it, and the key in it.
    pub fn from_json(event: &'a str) -> Result<Self, serde_json::Error> {
        serde_json::from_str(event)
    }

    /// The key, from `x-api-key` or else `Authorization: Bearer`.
    pub(crate) fn key(&self) -> Option<Cow<'_, str>> {
        let last = self.headers.as_ref();
        if let Some(key) = last.and_then(|it| it.api_key.as_deref()) {
            return Some(Cow::Borrowed(key));
        }
        let all: KeyHeaders<'a> = read(self.multi_value_headers).unwrap_or_default();
        let bearer = last.and_then(|it| it.bearer.as_deref());
        all.api_key.or(bearer.map(Cow::Borrowed)).or(all.bearer)
    }

    /// The gateway's id of the call; empty if it told none.
    pub(crate) fn request_id(&self) -> Cow<'a, str> {
        let context: Option<RequestContext<'a>> = read(self.request_context);
        context.map(|it| it.request_id).unwrap_or_default()
    }
}

/// Reads a part of the event. One that cannot be read is as good as absent.
fn read<'a, T: Deserialize<'a>>(value: Option<&'a RawValue>) -> Option<T> {
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
                while let Some(Text(name)) = map.next_key()? {
                    let (field, key_in) = if name.eq_ignore_ascii_case("x-api-key") {
                        (&mut headers.api_key, KeyIn(whole))
                    } else if name.eq_ignore_ascii_case("authorization") {
                        (&mut headers.bearer, KeyIn(bearer))
                    } else {
                        map.next_value::<IgnoredAny>()?;
                        continue;
                    };
                    let key = map.next_value_seed(key_in)?;
                    *field = field.take().or(key);
                }
                Ok(headers)
            }
        }

        deserializer.deserialize_map(Headers)
    }
}

impl<'de> DeserializeSeed<'de> for KeyIn {
    type Value = Option<Cow<'de, str>>;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for KeyIn {
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

/// A policy on the one call, and what the functions behind the gateway are told of it.
#[derive(Debug)]
pub struct Answer {
    method_arn: String,
    known: Arc<Known>,
    access: Access,
    cors_origin: Option<Arc<str>>,
}

impl Answer {
    /// Writes the answer as JSON, as the runtime does.
    ///
    /// # Errors
    /// When it cannot be written, which is not known of any.
    pub fn to_json(&self) -> Result<Vec<u8>, serde_json::Error> {
        serde_json::to_vec(self)
    }

    /// The answer to a call with a known key.
    pub(crate) fn new(
        request: &Request<'_>,
        known: Arc<Known>,
        access: Access,
        cors_origin: Option<Arc<str>>,
    ) -> Self {
        Self {
            method_arn: request.method_arn.clone().into_owned(),
            known,
            access,
            cors_origin,
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
            effect: if self.access.is_allowed() {
                "Allow"
            } else {
                "Deny"
            },
            resource: &self.method_arn,
        };
        let answer = Answer {
            principal_id: record.id.as_str(),
            policy_document: PolicyDocument {
                version: "2012-10-17",
                statement: [statement],
            },
            context: Context {
                role: record.owner.role(),
                customer: customer.as_ref().map(|it| (&it.id, &it.plan)),
                key_id: &record.id,
                key_prefix: &record.prefix,
                access: self.access,
                cors_origin: self.cors_origin.as_deref(),
            },
        };
        answer.serialize(serializer)
    }
}
