//! Who makes a call, and how it stands against the limits: what the authorizer tells the functions
//! behind the gateway.
//!
//! The gateway hands on a flat map of texts, the authorizer's *context*. Its names are the
//! contract between the authorizer, the gateway responses of the template, the metering layer and
//! the functions, and stand only here and in the template.

use std::collections::BTreeMap;

use jiff::Timestamp;

use crate::decision::Standing;
use crate::id::{CustomerId, KeyId, PlanId};
use crate::key::{KeyPrefix, Role};

/// A flat map of texts.
pub type Context = BTreeMap<String, String>;

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
    /// The context that names this caller.
    #[must_use]
    pub fn to_context(&self) -> Context {
        let mut context = Context::new();
        let mut put = |name: &str, value: &str| {
            context.insert(name.to_owned(), value.to_owned());
        };
        match &self.identity {
            Identity::Customer { id, plan } => {
                put(name::ROLE, role_text(Role::Customer));
                put(name::CUSTOMER_ID, id.as_str());
                put(name::PLAN, plan.as_str());
            }
            Identity::Admin => put(name::ROLE, role_text(Role::Admin)),
        }
        put(name::KEY_ID, self.key_id.as_str());
        put(name::KEY_PREFIX, self.key_prefix.as_str());
        context
    }

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

/// Adds to a context how an admitted call stands.
pub fn add_standing(
    context: &mut Context,
    now: Timestamp,
    hour: Standing,
    month: Option<Standing>,
) {
    let closest = match month {
        Some(month) if month.remaining < hour.remaining => month,
        _ => hour,
    };
    let all: Vec<Standing> = std::iter::once(hour).chain(month).collect();
    add_limits(context, now, closest, &all);
}

/// The context of a call that a limit refused.
#[must_use]
pub fn refusal_context(now: Timestamp, by: Standing) -> Context {
    let mut context = Context::new();
    add_limits(&mut context, now, by, &[by]);
    let window = by.window.as_str();
    let (problem, title) = match by.window {
        crate::decision::Window::Hour => ("rate-limited", "Too many calls in this hour"),
        crate::decision::Window::Month => ("quota-exceeded", "The month's calls are used up"),
    };
    let resets_at = format!("{:.0}", by.resets_at);
    let detail = format!(
        "The limit of {} calls in a UTC {window} is reached; the count starts again at {resets_at}.",
        by.limit
    );
    let values = [
        (name::WINDOW, window.to_owned()),
        (name::RETRY_AFTER, by.resets_in_s(now).to_string()),
        (name::RESETS_AT, resets_at),
        (name::PROBLEM_TYPE, problem_type(problem)),
        (name::PROBLEM_TITLE, title.to_owned()),
        (name::PROBLEM_DETAIL, detail),
    ];
    context.extend(values.map(|(name, value)| (name.to_owned(), value)));
    context
}

/// The RFC 9457 `type` of a problem, all of which `docs/problems.md` lists.
#[must_use]
pub fn problem_type(slug: &str) -> String {
    format!("urn:tollgate:problem:{slug}")
}

fn add_limits(context: &mut Context, now: Timestamp, closest: Standing, all: &[Standing]) {
    let list = |item: fn(&Standing, u64) -> String| {
        let items = all.iter().map(|one| item(one, one.resets_in_s(now)));
        items.collect::<Vec<_>>().join(", ")
    };
    let policy = list(|one, _| {
        format!(
            "\"{}\";q={};w={}",
            one.window.as_str(),
            one.limit,
            one.window_s
        )
    });
    let state =
        list(|one, reset| format!("\"{}\";r={};t={reset}", one.window.as_str(), one.remaining));
    let values = [
        (name::LIMIT, closest.limit.to_string()),
        (name::REMAINING, closest.remaining.to_string()),
        (name::RESET, closest.resets_at.as_second().to_string()),
        (name::RATE_LIMIT, state),
        (name::RATE_LIMIT_POLICY, policy),
    ];
    context.extend(values.map(|(name, value)| (name.to_owned(), value)));
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::decision::Window;

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

    #[test]
    fn a_caller_survives_the_context() {
        let identity = Identity::Customer {
            id: "acme".parse().unwrap(),
            plan: "pro".parse().unwrap(),
        };
        for identity in [identity, Identity::Admin] {
            let caller = Caller {
                identity,
                key_id: "key_1".parse().unwrap(),
                key_prefix: "tg_live_AbCd1234".parse().unwrap(),
            };
            let context = caller.to_context();
            let get = |name| context.get(name).map(String::as_str);
            assert_eq!(Caller::from_context(get), Ok(caller));
        }
    }

    #[test]
    fn a_context_without_a_role_names_nobody() {
        assert_eq!(Caller::from_context(|_| None), Err(InvalidContext("role")));
        assert!(Caller::from_context(|_| Some("root")).is_err());
    }

    #[test]
    fn the_window_closest_to_its_limit_is_shown() {
        let mut context = Context::new();
        let month = standing(Window::Month, 1_000, 3);
        add_standing(
            &mut context,
            now(),
            standing(Window::Hour, 100, 97),
            Some(month),
        );
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
        let context = refusal_context(now(), standing(Window::Hour, 100, 0));
        assert_eq!(context["retryAfter"], "1200");
        assert_eq!(context["window"], "hour");
        assert_eq!(context["problemType"], "urn:tollgate:problem:rate-limited");
        assert_eq!(
            context["problemDetail"],
            "The limit of 100 calls in a UTC hour is reached; \
             the count starts again at 2026-11-22T11:00:00Z."
        );
    }
}
