//! Who makes a call, and how it stands against the limits: what the authorizer tells the functions
//! behind the gateway.
//!
//! The gateway hands on a flat map of texts, the authorizer's *context*. Its names are the
//! contract between the authorizer, the gateway responses of the template, the metering layer and
//! the functions, and stand only here and in the template.

use std::fmt;

use jiff::Timestamp;
use serde::ser::{Serialize, SerializeMap, Serializer};

use crate::decision::{Decision, Standing, Window};
use crate::id::{CustomerId, KeyId, PlanId};
use crate::key::{KeyPrefix, Role};

/// The names in a context.
pub mod name {
    /// `customer` or `admin`.
    pub const ROLE: &str = "role";
    /// Absent for admins.
    pub const CUSTOMER_ID: &str = "customerId";
    /// The key's id.
    pub const KEY_ID: &str = "keyId";
    /// The key's visible part.
    pub const KEY_PREFIX: &str = "keyPrefix";
    /// The customer's plan; absent for admins.
    pub const PLAN: &str = "plan";
    /// Calls allowed in the window closest to its limit.
    pub const LIMIT: &str = "rateLimitLimit";
    /// Calls left in it.
    pub const REMAINING: &str = "rateLimitRemaining";
    /// Unix second at which it starts again.
    pub const RESET: &str = "rateLimitReset";
    /// The value of the `RateLimit` header field.
    pub const RATE_LIMIT: &str = "rateLimit";
    /// The value of the `RateLimit-Policy` header field.
    pub const RATE_LIMIT_POLICY: &str = "rateLimitPolicy";
    /// Refusals only: `hour` or `month`.
    pub const WINDOW: &str = "window";
    /// Refusals only: seconds to wait.
    pub const RETRY_AFTER: &str = "retryAfter";
    /// Refusals only: the instant to wait for.
    pub const RESETS_AT: &str = "resetsAt";
    /// Refusals only: RFC 9457 `type`.
    pub const PROBLEM_TYPE: &str = "problemType";
    /// Refusals only: RFC 9457 `title`.
    pub const PROBLEM_TITLE: &str = "problemTitle";
    /// Refusals only: RFC 9457 `detail`. Free of quotes, because the gateway puts it into JSON as
    /// it is.
    pub const PROBLEM_DETAIL: &str = "problemDetail";
}

/// The header fields that tell a caller how it stands, each with the name in the context that
/// holds its value. `X-RateLimit-*` speaks of the window closest to its limit and resets at a Unix
/// second; the other two are those of draft-ietf-httpapi-ratelimit-headers.
pub const LIMIT_HEADERS: [(&str, &str); 5] = [
    ("x-ratelimit-limit", name::LIMIT),
    ("x-ratelimit-remaining", name::REMAINING),
    ("x-ratelimit-reset", name::RESET),
    ("ratelimit", name::RATE_LIMIT),
    ("ratelimit-policy", name::RATE_LIMIT_POLICY),
];

/// The holder of the key that a call was made with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Caller {
    /// Customer or admin.
    pub identity: Identity,
    /// The key.
    pub key_id: KeyId,
    /// Its visible part.
    pub key_prefix: KeyPrefix,
}

/// What a caller is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Identity {
    /// A customer, on this plan when the call was admitted.
    Customer {
        /// Who.
        id: CustomerId,
        /// On which plan.
        plan: PlanId,
    },
    /// The operator of the API.
    Admin,
}

/// A context that no authorizer of this release wrote.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the authorizer's context lacks a readable {0}")]
pub struct InvalidContext(pub &'static str);

impl Caller {
    /// Reads the caller from a context.
    ///
    /// # Errors
    /// When a part is missing or cannot be read: the call did not come through the authorizer.
    pub fn from_context<'a>(
        get: impl Fn(&'static str) -> Option<&'a str>,
    ) -> Result<Self, InvalidContext> {
        fn parse<T: std::str::FromStr>(
            name: &'static str,
            text: Option<&str>,
        ) -> Result<T, InvalidContext> {
            text.and_then(|text| text.parse().ok())
                .ok_or(InvalidContext(name))
        }
        let role = get(name::ROLE).ok_or(InvalidContext(name::ROLE))?;
        let identity = if role == role_text(Role::Customer) {
            Identity::Customer {
                id: parse(name::CUSTOMER_ID, get(name::CUSTOMER_ID))?,
                plan: parse(name::PLAN, get(name::PLAN))?,
            }
        } else if role == role_text(Role::Admin) {
            Identity::Admin
        } else {
            return Err(InvalidContext(name::ROLE));
        };
        Ok(Self {
            identity,
            key_id: parse(name::KEY_ID, get(name::KEY_ID))?,
            key_prefix: parse(name::KEY_PREFIX, get(name::KEY_PREFIX))?,
        })
    }
}

fn role_text(role: Role) -> &'static str {
    match role {
        Role::Customer => "customer",
        Role::Admin => "admin",
    }
}

/// What the authorizer tells of a call. It is written as the flat map of texts that the gateway hands
/// on, straight from what it is made of.
#[derive(Debug, Clone, Copy)]
pub struct Context<'a> {
    /// Whose key it is, and on which plan they are; none for admins.
    pub customer: Option<(&'a CustomerId, &'a PlanId)>,
    /// The key.
    pub key_id: &'a KeyId,
    /// Its visible part.
    pub key_prefix: &'a KeyPrefix,
    /// When and how the call was decided, if it counts towards limits.
    pub decided: Option<(Timestamp, Decision)>,
}

impl Serialize for Context<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(None)?;
        match self.customer {
            Some((id, plan)) => {
                map.serialize_entry(name::ROLE, role_text(Role::Customer))?;
                map.serialize_entry(name::CUSTOMER_ID, id.as_str())?;
                map.serialize_entry(name::PLAN, plan.as_str())?;
            }
            None => map.serialize_entry(name::ROLE, role_text(Role::Admin))?,
        }
        map.serialize_entry(name::KEY_ID, self.key_id.as_str())?;
        map.serialize_entry(name::KEY_PREFIX, self.key_prefix.as_str())?;
        match self.decided {
            None => {}
            Some((now, Decision::Admit { hour, month })) => {
                let closest = match month {
                    Some(month) if month.remaining < hour.remaining => month,
                    _ => hour,
                };
                serialize_limits(&mut map, now, closest, &[Some(hour), month])?;
            }
            Some((now, Decision::Refuse { by, also })) => {
                serialize_limits(&mut map, now, by, &[also, Some(by)])?;
                serialize_refusal(&mut map, now, by, also)?;
            }
        }
        map.end()
    }
}

/// A value that is written as the text it displays as.
struct Text<T>(T);

impl<T: fmt::Display> Serialize for Text<T> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(&self.0)
    }
}

/// Displays a list of standings, each as the function does.
struct List<'a, F>(&'a [Option<Standing>], F);

impl<F: Fn(&Standing, &mut fmt::Formatter<'_>) -> fmt::Result> fmt::Display for List<'_, F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (at, standing) in self.0.iter().flatten().enumerate() {
            if at > 0 {
                f.write_str(", ")?;
            }
            self.1(standing, f)?;
        }
        Ok(())
    }
}

fn serialize_limits<M: SerializeMap>(
    map: &mut M,
    now: Timestamp,
    closest: Standing,
    all: &[Option<Standing>],
) -> Result<(), M::Error> {
    let state = List(all, |one: &Standing, f: &mut fmt::Formatter<'_>| {
        let (window, left) = (one.window.as_str(), one.remaining);
        write!(f, "\"{window}\";r={left};t={}", one.resets_in_s(now))
    });
    let policy = List(all, |one: &Standing, f: &mut fmt::Formatter<'_>| {
        let (window, limit) = (one.window.as_str(), one.limit);
        write!(f, "\"{window}\";q={limit};w={}", one.window_s)
    });
    map.serialize_entry(name::LIMIT, &Text(closest.limit))?;
    map.serialize_entry(name::REMAINING, &Text(closest.remaining))?;
    map.serialize_entry(name::RESET, &Text(closest.resets_at.as_second()))?;
    map.serialize_entry(name::RATE_LIMIT, &Text(state))?;
    map.serialize_entry(name::RATE_LIMIT_POLICY, &Text(policy))
}

fn serialize_refusal<M: SerializeMap>(
    map: &mut M,
    now: Timestamp,
    by: Standing,
    also: Option<Standing>,
) -> Result<(), M::Error> {
    let window = by.window.as_str();
    let (problem, title) = match by.window {
        Window::Hour => ("rate-limited", "Too many calls in this hour"),
        Window::Month => ("quota-exceeded", "The month's calls are used up"),
    };
    let resets_at = format!("{:.0}", by.resets_at);
    let mut detail = format!(
        "The limit of {} calls in a UTC {window} is reached; the count starts again at {resets_at}.",
        by.limit
    );
    if let Some(Standing { window, limit, .. }) = also {
        let window = window.as_str();
        detail += &format!(" So is the limit of {limit} calls in a UTC {window}.");
    }
    map.serialize_entry(name::WINDOW, window)?;
    map.serialize_entry(name::RETRY_AFTER, &Text(by.resets_in_s(now)))?;
    map.serialize_entry(name::RESETS_AT, &resets_at)?;
    map.serialize_entry(name::PROBLEM_TYPE, &problem_type(problem))?;
    map.serialize_entry(name::PROBLEM_TITLE, title)?;
    map.serialize_entry(name::PROBLEM_DETAIL, &detail)
}

/// The RFC 9457 `type` of a problem, all of which `docs/problems.md` lists.
#[must_use]
pub fn problem_type(slug: &str) -> String {
    format!("urn:tollgate:problem:{slug}")
}

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::*;

    fn now() -> Timestamp {
        "2026-11-22T10:40:00Z".parse().unwrap()
    }

    fn standing(window: Window, limit: u64, remaining: u64) -> Standing {
        let (window_s, resets_at) = match window {
            Window::Hour => (3_600, "2026-11-22T11:00:00Z"),
            Window::Month => (2_592_000, "2026-12-01T00:00:00Z"),
        };
        Standing {
            window,
            limit,
            remaining,
            window_s,
            resets_at: resets_at.parse().unwrap(),
        }
    }

    /// The context of a call of a customer's or, without one, of an admin's, as the gateway gets it.
    fn context(customer: Option<&str>, decided: Option<Decision>) -> Value {
        let customer: Option<CustomerId> = customer.map(|id| id.parse().unwrap());
        let plan = "pro".parse().unwrap();
        let context = Context {
            customer: customer.as_ref().map(|id| (id, &plan)),
            key_id: &"key_1".parse().unwrap(),
            key_prefix: &"tg_live_AbCd1234".parse().unwrap(),
            decided: decided.map(|decision| (now(), decision)),
        };
        serde_json::to_value(context).unwrap()
    }

    #[test]
    fn a_caller_survives_the_context() {
        let identity = Identity::Customer {
            id: "acme".parse().unwrap(),
            plan: "pro".parse().unwrap(),
        };
        for (customer, identity) in [(Some("acme"), identity), (None, Identity::Admin)] {
            let context = context(customer, None);
            let caller = Caller {
                identity,
                key_id: "key_1".parse().unwrap(),
                key_prefix: "tg_live_AbCd1234".parse().unwrap(),
            };
            assert_eq!(
                Caller::from_context(|name| context[name].as_str()),
                Ok(caller)
            );
        }
    }

    #[test]
    fn a_context_without_a_role_names_nobody() {
        assert_eq!(Caller::from_context(|_| None), Err(InvalidContext("role")));
        assert!(Caller::from_context(|_| Some("root")).is_err());
    }

    /// The gateway takes nothing else in a context, and hands on numbers as texts.
    #[test]
    fn a_context_is_a_flat_map_of_texts() {
        let by = standing(Window::Month, 1_000, 0);
        let also = None;
        let context = context(Some("acme"), Some(Decision::Refuse { by, also }));
        let values = context.as_object().unwrap().values();
        assert_eq!(values.clone().count(), 16);
        assert!(values.clone().all(Value::is_string), "{context}");
    }

    #[test]
    fn the_window_closest_to_its_limit_is_shown() {
        let decision = Decision::Admit {
            hour: standing(Window::Hour, 100, 97),
            month: Some(standing(Window::Month, 1_000, 3)),
        };
        let context = context(Some("acme"), Some(decision));
        assert_eq!(context["rateLimitLimit"], "1000");
        assert_eq!(context["rateLimitRemaining"], "3");
        assert_eq!(context["rateLimitReset"], "1796083200");
        assert_eq!(
            context["rateLimit"],
            r#""hour";r=97;t=1200, "month";r=3;t=739200"#
        );
        assert_eq!(
            context["rateLimitPolicy"],
            r#""hour";q=100;w=3600, "month";q=1000;w=2592000"#
        );
    }

    #[test]
    fn a_refusal_says_which_limit_and_until_when() {
        let by = standing(Window::Hour, 100, 0);
        let also = None;
        let context = context(Some("acme"), Some(Decision::Refuse { by, also }));
        assert_eq!(context["retryAfter"], "1200");
        assert_eq!(context["window"], "hour");
        assert_eq!(context["problemType"], "urn:tollgate:problem:rate-limited");
        assert_eq!(
            context["problemDetail"],
            "The limit of 100 calls in a UTC hour is reached; \
             the count starts again at 2026-11-22T11:00:00Z."
        );
    }

    #[test]
    fn a_refusal_by_both_limits_says_when_a_call_can_pass_again() {
        let by = standing(Window::Month, 1_000, 0);
        let also = Some(standing(Window::Hour, 100, 0));
        let context = context(Some("acme"), Some(Decision::Refuse { by, also }));
        assert_eq!(context["retryAfter"], "739200");
        assert_eq!(context["window"], "month");
        assert_eq!(
            context["rateLimit"],
            r#""hour";r=0;t=1200, "month";r=0;t=739200"#
        );
        assert_eq!(
            context["problemDetail"],
            "The limit of 1000 calls in a UTC month is reached; \
             the count starts again at 2026-12-01T00:00:00Z. \
             So is the limit of 100 calls in a UTC hour."
        );
    }
}
