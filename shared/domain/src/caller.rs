//! Who makes a call, and how it stands against the limits: what the authorizer tells the functions
//! behind the gateway.
//!
//! The gateway hands on a flat map of texts, the authorizer's *context*. Its names are the
//! contract between the authorizer, the gateway responses of the template, the metering layer and
//! the functions, and stand only here and in the template.

use std::fmt;

use jiff::Timestamp;
use serde::Serialize;
use serde::ser::{SerializeMap, Serializer};

use crate::decision::{Decision, LimitStatus, Window};
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
    /// Allowed calls only: the origin whose pages may read the answer, if the stack names any.
    pub const CORS_ORIGIN: &str = "corsOrigin";
    /// Denials by a limit only: `hour` or `month`.
    pub const WINDOW: &str = "window";
    /// Denials that waiting ends only: seconds to wait.
    pub const RETRY_AFTER: &str = "retryAfter";
    /// Denials only: the members of the problem as JSON, each after a comma. The gateway puts it into
    /// its body as it is; where nobody wrote it, nothing is there, and the body is JSON all the same.
    pub const PROBLEM: &str = "problem";
}

/// The status of a denial. API Gateway has one for all of them, whatever the reason.
pub const DENIED: u16 = 429;

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

/// The header fields that a page of another origin may read of an answer.
pub const CORS_EXPOSED: &str = "Retry-After, RateLimit, RateLimit-Policy, X-RateLimit-Limit, \
                                X-RateLimit-Remaining, X-RateLimit-Reset";

/// The header fields that let the pages of `origin` read an answer
/// (<https://fetch.spec.whatwg.org/#http-responses>).
#[must_use]
pub fn cors_headers(origin: &str) -> [(&'static str, &str); 2] {
    [
        ("access-control-allow-origin", origin),
        ("access-control-expose-headers", CORS_EXPOSED),
    ]
}

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

/// A decision on a call with a good key.
#[derive(Debug, Clone, Copy)]
pub enum Access {
    /// Allowed, and counted towards no limit.
    Uncounted,
    /// Decided by the limits, at that instant.
    Counted(Timestamp, Decision),
    /// Denied whatever the limits say.
    Denied(Denial),
}

impl Access {
    /// Whether the call goes on.
    #[must_use]
    pub fn is_allowed(&self) -> bool {
        match self {
            Access::Uncounted | Access::Counted(_, Decision::Allow { .. }) => true,
            Access::Counted(_, Decision::Deny { .. }) | Access::Denied(_) => false,
        }
    }
}

/// A reason other than a limit to deny the calls of a customer, which waiting alone does not end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Denial {
    /// The customer is suspended.
    CustomerSuspended,
    /// The customer, or its plan, does not exist.
    NoPlan,
}

/// What the authorizer tells of a call. It is written as the flat map of texts that the gateway hands
/// on, straight from what it is made of.
#[derive(Debug, Clone, Copy)]
pub struct Context<'a> {
    /// What the key may be used for.
    pub role: Role,
    /// Whose key it is, and on which plan they are; none for admins.
    pub customer: Option<(&'a CustomerId, &'a PlanId)>,
    /// The key.
    pub key_id: &'a KeyId,
    /// Its visible part.
    pub key_prefix: &'a KeyPrefix,
    /// The decision.
    pub access: Access,
    /// The origin whose pages may read the answers of functions.
    pub cors_origin: Option<&'a str>,
}

impl Serialize for Context<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(None)?;
        map.serialize_entry(name::ROLE, role_text(self.role))?;
        if let Some((id, plan)) = self.customer {
            map.serialize_entry(name::CUSTOMER_ID, id.as_str())?;
            map.serialize_entry(name::PLAN, plan.as_str())?;
        }
        map.serialize_entry(name::KEY_ID, self.key_id.as_str())?;
        map.serialize_entry(name::KEY_PREFIX, self.key_prefix.as_str())?;
        if let Some(origin) = self.cors_origin.filter(|_| self.access.is_allowed()) {
            map.serialize_entry(name::CORS_ORIGIN, origin)?;
        }
        match self.access {
            Access::Uncounted => {}
            Access::Counted(now, Decision::Allow { hour, month }) => {
                let closest = match month {
                    Some(month) if month.remaining < hour.remaining => month,
                    _ => hour,
                };
                serialize_limits(&mut map, now, closest, &[Some(hour), month])?;
            }
            Access::Counted(now, Decision::Deny { by, also }) => {
                serialize_limits(&mut map, now, by, &[also, Some(by)])?;
                serialize_refusal(&mut map, now, by, also)?;
            }
            Access::Denied(denial) => {
                map.serialize_entry(name::PROBLEM, &Text(Problem::of(denial)))?;
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

fn serialize_limits<M: SerializeMap>(
    map: &mut M,
    now: Timestamp,
    closest: LimitStatus,
    all: &[Option<LimitStatus>],
) -> Result<(), M::Error> {
    // Each counted call is told this, and `write!` takes half as long again.
    let mut number = itoa::Buffer::new();
    let (mut state, mut policy) = (String::with_capacity(64), String::with_capacity(64));
    for one in all.iter().flatten() {
        for list in [&mut state, &mut policy] {
            if !list.is_empty() {
                list.push_str(", ");
            }
            list.push('"');
            list.push_str(one.window.as_str());
        }
        state.push_str("\";r=");
        state.push_str(number.format(one.remaining));
        state.push_str(";t=");
        state.push_str(number.format(one.resets_in_s(now)));
        policy.push_str("\";q=");
        policy.push_str(number.format(one.limit));
        policy.push_str(";w=");
        policy.push_str(number.format(one.window_s));
    }
    map.serialize_entry(name::LIMIT, number.format(closest.limit))?;
    map.serialize_entry(name::REMAINING, number.format(closest.remaining))?;
    map.serialize_entry(name::RESET, number.format(closest.resets_at.as_second()))?;
    map.serialize_entry(name::RATE_LIMIT, &state)?;
    map.serialize_entry(name::RATE_LIMIT_POLICY, &policy)
}

fn serialize_refusal<M: SerializeMap>(
    map: &mut M,
    now: Timestamp,
    by: LimitStatus,
    also: Option<LimitStatus>,
) -> Result<(), M::Error> {
    let window = by.window.as_str();
    let (slug, title) = match by.window {
        Window::Hour => ("rate-limited", "Too many calls in this hour"),
        Window::Month => ("quota-exceeded", "The month's calls are used up"),
    };
    let resets_at = format!("{:.0}", by.resets_at);
    let mut detail = format!(
        "The limit of {} calls in a UTC {window} is reached; the count starts again at {resets_at}.",
        by.limit
    );
    if let Some(LimitStatus { window, limit, .. }) = also {
        let window = window.as_str();
        detail += &format!(" So is the limit of {limit} calls in a UTC {window}.");
    }
    let retry_after_s = by.resets_in_s(now);
    let limit = LimitMembers {
        window,
        limit: by.limit,
        remaining: by.remaining,
        resets_at: &resets_at,
        retry_after_s,
    };
    let problem = Problem::new(slug, title, &detail, Some(limit));
    map.serialize_entry(name::WINDOW, window)?;
    map.serialize_entry(name::RETRY_AFTER, &Text(retry_after_s))?;
    map.serialize_entry(name::PROBLEM, &Text(problem))
}

/// The members of the problem that a denied caller is answered with, but for the request's id, which
/// the gateway knows.
#[derive(Serialize)]
struct Problem<'a> {
    r#type: String,
    title: &'static str,
    status: u16,
    detail: &'a str,
    #[serde(flatten)]
    limit: Option<LimitMembers<'a>>,
}

#[derive(Serialize)]
struct LimitMembers<'a> {
    window: &'static str,
    limit: u64,
    remaining: u64,
    resets_at: &'a str,
    retry_after_s: u64,
}

impl<'a> Problem<'a> {
    fn new(
        slug: &str,
        title: &'static str,
        detail: &'a str,
        limit: Option<LimitMembers<'a>>,
    ) -> Self {
        Self {
            r#type: problem_type(slug),
            title,
            status: DENIED,
            detail,
            limit,
        }
    }

    fn of(denial: Denial) -> Self {
        let (slug, title, detail) = match denial {
            Denial::CustomerSuspended => (
                "customer-suspended",
                "Customer suspended",
                "Calls of this customer are refused until it is enabled again. Usage can still be \
                 read.",
            ),
            Denial::NoPlan => (
                "no-plan",
                "Plan not available",
                "The plan of this customer does not exist, so that no limits are known. It is the \
                 operator of this API who can change that.",
            ),
        };
        Self::new(slug, title, detail, None)
    }
}

/// Displays the members as JSON, each after a comma.
impl fmt::Display for Problem<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let object = serde_json::to_string(self).map_err(|_| fmt::Error)?;
        let members = object.strip_prefix('{').and_then(|it| it.strip_suffix('}'));
        write!(f, ",{}", members.ok_or(fmt::Error)?)
    }
}

/// The RFC 9457 `type` of a problem, all of which `docs/problems.md` lists.
#[must_use]
pub fn problem_type(slug: &str) -> String {
    format!("urn:tollgate:problem:{slug}")
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn now() -> Timestamp {
        "2026-11-22T10:40:00Z".parse().unwrap()
    }

    #[test]
    fn pages_of_another_origin_may_read_each_header_of_a_limit() {
        let [allow, expose] = cors_headers("https://app.example");
        assert_eq!(
            allow,
            ("access-control-allow-origin", "https://app.example")
        );
        assert_eq!(expose.0, "access-control-expose-headers");
        let exposed = expose.1.to_ascii_lowercase();
        let exposed: Vec<_> = exposed.split(", ").collect();
        for name in LIMIT_HEADERS
            .map(|(name, _)| name)
            .into_iter()
            .chain(["retry-after"])
        {
            assert!(exposed.contains(&name), "{name}");
        }
    }

    fn standing(window: Window, limit: u64, remaining: u64) -> LimitStatus {
        let (window_s, resets_at) = match window {
            Window::Hour => (3_600, "2026-11-22T11:00:00Z"),
            Window::Month => (2_592_000, "2026-12-01T00:00:00Z"),
        };
        LimitStatus {
            window,
            limit,
            remaining,
            window_s,
            resets_at: resets_at.parse().unwrap(),
        }
    }

    /// The context of a call of a customer's or, without one, of an admin's, as the gateway gets it.
    fn context(customer: Option<&str>, access: Access) -> Value {
        let role = customer.map_or(Role::Admin, |_| Role::Customer);
        let customer: Option<CustomerId> = customer.map(|id| id.parse().unwrap());
        let plan = "pro".parse().unwrap();
        let context = Context {
            role,
            customer: customer.as_ref().map(|id| (id, &plan)),
            key_id: &"key_1".parse().unwrap(),
            key_prefix: &"tg_live_AbCd1234".parse().unwrap(),
            access,
            cors_origin: Some("https://app.example"),
        };
        serde_json::to_value(context).unwrap()
    }

    fn counted(decision: Decision) -> Access {
        Access::Counted(now(), decision)
    }

    /// The problem of a context, as the gateway's template makes it.
    fn problem(context: &Value) -> Value {
        let members = context["problem"].as_str().unwrap();
        serde_json::from_str(&format!(r#"{{"request_id":"r-1"{members}}}"#)).unwrap()
    }

    #[test]
    fn a_caller_survives_the_context() {
        let identity = Identity::Customer {
            id: "acme".parse().unwrap(),
            plan: "pro".parse().unwrap(),
        };
        for (customer, identity) in [(Some("acme"), identity), (None, Identity::Admin)] {
            let context = context(customer, Access::Uncounted);
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
        let context = context(Some("acme"), counted(Decision::Deny { by, also }));
        let values = context.as_object().unwrap().values();
        assert_eq!(values.clone().count(), 13);
        assert!(values.clone().all(Value::is_string), "{context}");
    }

    #[test]
    fn the_window_closest_to_its_limit_is_shown() {
        let decision = Decision::Allow {
            hour: standing(Window::Hour, 100, 97),
            month: Some(standing(Window::Month, 1_000, 3)),
        };
        let context = context(Some("acme"), counted(decision));
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
        let context = context(Some("acme"), counted(Decision::Deny { by, also }));
        assert_eq!(context["retryAfter"], "1200");
        assert_eq!(context["window"], "hour");
        let expected = json!({
            "type": "urn:tollgate:problem:rate-limited",
            "title": "Too many calls in this hour",
            "status": 429,
            "detail": "The limit of 100 calls in a UTC hour is reached; \
                       the count starts again at 2026-11-22T11:00:00Z.",
            "window": "hour",
            "limit": 100,
            "remaining": 0,
            "resets_at": "2026-11-22T11:00:00Z",
            "retry_after_s": 1_200,
            "request_id": "r-1",
        });
        assert_eq!(problem(&context), expected);
    }

    /// Without a wait: it would not help.
    #[test]
    fn a_denial_says_why_and_names_no_wait() {
        for (denial, slug) in [
            (Denial::CustomerSuspended, "customer-suspended"),
            (Denial::NoPlan, "no-plan"),
        ] {
            let context = context(Some("acme"), Access::Denied(denial));
            assert!(context.get("retryAfter").is_none(), "{context}");
            let problem = problem(&context);
            assert_eq!(problem["type"], format!("urn:tollgate:problem:{slug}"));
            assert_eq!(problem["status"], 429);
            assert!(problem.get("limit").is_none(), "{problem}");
        }
    }

    #[test]
    fn functions_are_told_of_the_origin_that_may_read_their_answers() {
        let allowed = context(None, Access::Uncounted);
        assert_eq!(allowed["corsOrigin"], "https://app.example");
        let denied = context(Some("acme"), Access::Denied(Denial::NoPlan));
        assert!(denied.get("corsOrigin").is_none(), "{denied}");
    }

    #[test]
    fn a_refusal_by_both_limits_says_when_a_call_can_pass_again() {
        let by = standing(Window::Month, 1_000, 0);
        let also = Some(standing(Window::Hour, 100, 0));
        let context = context(Some("acme"), counted(Decision::Deny { by, also }));
        assert_eq!(context["retryAfter"], "739200");
        assert_eq!(context["window"], "month");
        assert_eq!(
            context["rateLimit"],
            r#""hour";r=0;t=1200, "month";r=0;t=739200"#
        );
        assert_eq!(
            problem(&context)["detail"],
            "The limit of 1000 calls in a UTC month is reached; \
             the count starts again at 2026-12-01T00:00:00Z. \
             So is the limit of 100 calls in a UTC hour."
        );
    }
}
