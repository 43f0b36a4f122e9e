//! The authorizer's context: the caller and the status of its limits, as passed to the functions
//! behind the gateway.
//!
//! The gateway passes on a flat map of strings, the authorizer's *context*. Its member names are the
//! contract between the authorizer, the gateway responses of the template, the metering layer and
//! the functions. They are defined only here and in the template.

use std::fmt;

use jiff::Timestamp;
use serde::Serialize;
use serde::ser::{SerializeMap, Serializer};

use tollgate_domain::decision::{Decision, LimitStatus, Window};
use tollgate_domain::id::{CustomerId, KeyId, PlanId};
use tollgate_domain::key::KeyPrefix;
use tollgate_domain::role::{CustomerRole, Role};

use crate::problem::ProblemType;

/// Member names of a context.
pub mod name {
    /// `call`, `manage` or `admin`.
    pub const ROLE: &str = "role";
    /// Absent for admins.
    pub const CUSTOMER_ID: &str = "customerId";
    /// Id of the key.
    pub const KEY_ID: &str = "keyId";
    /// Visible prefix of the key.
    pub const KEY_PREFIX: &str = "keyPrefix";
    /// Plan of the customer; absent for admins.
    pub const PLAN: &str = "plan";
    /// Calls allowed in the window closest to its limit.
    pub const LIMIT: &str = "rateLimitLimit";
    /// Calls left in that window.
    pub const REMAINING: &str = "rateLimitRemaining";
    /// Unix second at which that window ends.
    pub const RESET: &str = "rateLimitReset";
    /// Value of the `RateLimit` header field.
    pub const RATE_LIMIT: &str = "rateLimit";
    /// Value of the `RateLimit-Policy` header field.
    pub const RATE_LIMIT_POLICY: &str = "rateLimitPolicy";
    /// Origin whose pages may read the response, if the stack has one. Only for allowed calls.
    pub const CORS_ORIGIN: &str = "corsOrigin";
    /// `hour` or `month`. Only for calls denied by a limit.
    pub const WINDOW: &str = "window";
    /// Seconds until a retry can succeed. Only for calls denied by a limit.
    pub const RETRY_AFTER: &str = "retryAfter";
    /// Members of the problem as JSON, each after a comma. Only for denied calls. The gateway response
    /// inserts it into its body unchanged; if it is absent, the body is valid JSON without it.
    pub const PROBLEM: &str = "problem";
}

/// Header fields with the status of the limits, each with the name of the context member that holds
/// its value. `X-RateLimit-*` describes the window closest to its limit, with the reset as a Unix
/// second; the other two follow draft-ietf-httpapi-ratelimit-headers.
pub const LIMIT_HEADERS: [(&str, &str); 5] = [
    ("x-ratelimit-limit", name::LIMIT),
    ("x-ratelimit-remaining", name::REMAINING),
    ("x-ratelimit-reset", name::RESET),
    ("ratelimit", name::RATE_LIMIT),
    ("ratelimit-policy", name::RATE_LIMIT_POLICY),
];

/// Header fields of a response that pages of other origins may read.
pub const CORS_EXPOSED: &str = "Retry-After, RateLimit, RateLimit-Policy, X-RateLimit-Limit, \
                                X-RateLimit-Remaining, X-RateLimit-Reset";

/// Returns the header fields that let pages of `origin` read a response
/// (<https://fetch.spec.whatwg.org/#http-responses>).
#[must_use]
pub fn cors_headers(origin: &str) -> [(&'static str, &str); 2] {
    [
        ("access-control-allow-origin", origin),
        ("access-control-expose-headers", CORS_EXPOSED),
    ]
}

/// Caller of a request, identified by its API key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Caller {
    /// Customer or admin.
    pub identity: Identity,
    /// Id of the key.
    pub key_id: KeyId,
    /// Visible prefix of the key.
    pub key_prefix: KeyPrefix,
}

/// Kind of a caller.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Identity {
    /// A customer.
    Customer {
        /// Id of the customer.
        id: CustomerId,
        /// Role of the key.
        role: CustomerRole,
        /// Plan of the customer when the call was allowed.
        plan: PlanId,
    },
    /// The operator of the API.
    Admin,
}

/// Error: the named member of the context is missing or invalid.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the authorizer's context has no valid {0}")]
pub struct InvalidContext(pub &'static str);

impl Caller {
    /// Reads the caller from a context.
    ///
    /// # Errors
    /// When a member is missing or invalid: the request did not come through the authorizer.
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
        let role = match get(name::ROLE) {
            Some(ROLE_OF_ALL_CUSTOMERS) => Role::Call,
            role => parse(name::ROLE, role)?,
        };
        let identity = match role.of_customer() {
            Some(role) => Identity::Customer {
                id: parse(name::CUSTOMER_ID, get(name::CUSTOMER_ID))?,
                role,
                plan: parse(name::PLAN, get(name::PLAN))?,
            },
            None => Identity::Admin,
        };
        Ok(Self {
            identity,
            key_id: parse(name::KEY_ID, get(name::KEY_ID))?,
            key_prefix: parse(name::KEY_PREFIX, get(name::KEY_PREFIX))?,
        })
    }
}

/// Role of every customer's key, as written by authorizers from before keys of customers had roles. During
/// the deployment that replaces one, it decides most calls for minutes, while the functions are new already.
const ROLE_OF_ALL_CUSTOMERS: &str = "customer";

/// Decision on a call with a valid key.
#[derive(Debug, Clone, Copy)]
pub enum Access {
    /// Allowed, and counted towards no limit.
    Uncounted,
    /// Decided by the limits, at the given time.
    Counted(Timestamp, Decision),
    /// Denied for a reason other than a limit.
    Denied(Denial),
}

impl Access {
    /// Whether the call is allowed.
    #[must_use]
    pub fn is_allowed(&self) -> bool {
        match self {
            Access::Uncounted | Access::Counted(_, Decision::Allow { .. }) => true,
            Access::Counted(_, Decision::Deny { .. }) | Access::Denied(_) => false,
        }
    }
}

/// Reason other than a limit for denying a customer's calls. It does not end by itself, so the caller
/// gets no time to retry after.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Denial {
    /// The customer is suspended.
    CustomerSuspended,
    /// The customer or its plan does not exist.
    NoPlan,
}

/// Context that the authorizer returns for a call. Serialises as the flat map of strings that the
/// gateway passes on, without an intermediate map.
#[derive(Debug, Clone, Copy)]
pub struct AuthorizerContext<'a> {
    /// Role of the key.
    pub role: Role,
    /// Customer that owns the key, with its plan; `None` for admin keys.
    pub customer: Option<(&'a CustomerId, &'a PlanId)>,
    /// Id of the key.
    pub key_id: &'a KeyId,
    /// Visible prefix of the key.
    pub key_prefix: &'a KeyPrefix,
    /// Decision on the call.
    pub access: Access,
    /// Origin whose pages may read the functions' responses.
    pub cors_origin: Option<&'a str>,
    /// Page on which a customer without quota can subscribe to a larger plan.
    pub upgrade_url: Option<&'a str>,
}

impl Serialize for AuthorizerContext<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(None)?;
        map.serialize_entry(name::ROLE, self.role.as_str())?;
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
                serialize_denial(&mut map, now, by, also, self.upgrade_url)?;
            }
            Access::Denied(denial) => {
                map.serialize_entry(name::PROBLEM, &Text(Problem::of(denial)))?;
            }
        }
        map.end()
    }
}

/// Value that serialises as the string it displays as.
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
    // This runs for each counted call, and `write!` would take 50 % longer.
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

fn serialize_denial<M: SerializeMap>(
    map: &mut M,
    now: Timestamp,
    by: LimitStatus,
    also: Option<LimitStatus>,
    upgrade_url: Option<&str>,
) -> Result<(), M::Error> {
    let window = by.window.as_str();
    let problem_type = match by.window {
        Window::Hour => ProblemType::RateLimited,
        Window::Month => ProblemType::QuotaExceeded,
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
        // Only the month's quota is larger with another plan: the hour ends soon.
        upgrade_url: upgrade_url.filter(|_| by.window == Window::Month),
    };
    let problem = Problem::new(problem_type, &detail, Some(limit));
    map.serialize_entry(name::WINDOW, window)?;
    map.serialize_entry(name::RETRY_AFTER, &Text(retry_after_s))?;
    map.serialize_entry(name::PROBLEM, &Text(problem))
}

/// Members of the problem in the response to a denied call, except for the request id, which the
/// gateway response adds.
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
    #[serde(skip_serializing_if = "Option::is_none")]
    upgrade_url: Option<&'a str>,
}

impl<'a> Problem<'a> {
    fn new(problem_type: ProblemType, detail: &'a str, limit: Option<LimitMembers<'a>>) -> Self {
        Self {
            r#type: problem_type.urn(),
            title: problem_type.title(),
            status: problem_type.status(),
            detail,
            limit,
        }
    }

    fn of(denial: Denial) -> Self {
        let (problem_type, detail) = match denial {
            Denial::CustomerSuspended => (
                ProblemType::CustomerSuspended,
                "Calls of this customer are denied until the customer is enabled again. Usage can \
                 still be read.",
            ),
            Denial::NoPlan => (
                ProblemType::NoPlan,
                "The plan of this customer does not exist, so its limits are unknown. Only the \
                 operator of this API can change that.",
            ),
        };
        Self::new(problem_type, detail, None)
    }
}

/// Formats the members as JSON, each after a comma.
impl fmt::Display for Problem<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let object = serde_json::to_string(self).map_err(|_| fmt::Error)?;
        let members = object.strip_prefix('{').and_then(|it| it.strip_suffix('}'));
        write!(f, ",{}", members.ok_or(fmt::Error)?)
    }
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

    fn status(window: Window, limit: u64, remaining: u64) -> LimitStatus {
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

    /// Serialises the context of a call: of a customer or, for `None`, of an admin.
    fn context(customer: Option<&str>, access: Access) -> Value {
        let role = customer.map_or(Role::Admin, |_| Role::Call);
        context_of(role, customer, access)
    }

    fn context_of(role: Role, customer: Option<&str>, access: Access) -> Value {
        let customer: Option<CustomerId> = customer.map(|id| id.parse().unwrap());
        let plan = "pro".parse().unwrap();
        let context = AuthorizerContext {
            role,
            customer: customer.as_ref().map(|id| (id, &plan)),
            key_id: &"key_1".parse().unwrap(),
            key_prefix: &"tg_live_AbCd1234".parse().unwrap(),
            access,
            cors_origin: Some("https://app.example"),
            upgrade_url: None,
        };
        serde_json::to_value(context).unwrap()
    }

    fn counted(decision: Decision) -> Access {
        Access::Counted(now(), decision)
    }

    /// Builds the problem from a context as the template's gateway response does.
    fn problem(context: &Value) -> Value {
        let members = context["problem"].as_str().unwrap();
        serde_json::from_str(&format!(r#"{{"request_id":"r-1"{members}}}"#)).unwrap()
    }

    #[test]
    fn a_caller_is_read_back_from_its_context() {
        for (role, text) in [
            (Role::Call, "call"),
            (Role::Manage, "manage"),
            (Role::Admin, "admin"),
        ] {
            let of_customer = role.of_customer();
            let customer = of_customer.map(|_| "acme");
            let context = context_of(role, customer, Access::Uncounted);
            assert_eq!(context["role"], text);
            let caller = Caller {
                identity: of_customer.map_or(Identity::Admin, acme),
                key_id: "key_1".parse().unwrap(),
                key_prefix: "tg_live_AbCd1234".parse().unwrap(),
            };
            assert_eq!(
                Caller::from_context(|name| context[name].as_str()),
                Ok(caller)
            );
        }
    }

    fn acme(role: CustomerRole) -> Identity {
        Identity::Customer {
            id: "acme".parse().unwrap(),
            role,
            plan: "pro".parse().unwrap(),
        }
    }

    /// An authorizer from before keys of customers had roles decides calls until its replacement is deployed.
    #[test]
    fn a_customer_in_the_context_of_an_earlier_authorizer_may_call() {
        let mut context = context(Some("acme"), Access::Uncounted);
        context["role"] = "customer".into();
        let caller = Caller::from_context(|name| context[name].as_str()).unwrap();
        assert_eq!(caller.identity, acme(CustomerRole::Call));
    }

    #[test]
    fn a_context_without_a_valid_role_is_rejected() {
        assert_eq!(Caller::from_context(|_| None), Err(InvalidContext("role")));
        for role in ["root", "", "Admin", "call,manage"] {
            let invalid = Caller::from_context(|_| Some(role));
            assert_eq!(invalid, Err(InvalidContext("role")), "{role}");
        }
    }

    /// The gateway accepts only scalars in a context, and passes numbers on as strings.
    #[test]
    fn a_context_is_a_flat_map_of_strings() {
        let by = status(Window::Month, 1_000, 0);
        let also = None;
        let context = context(Some("acme"), counted(Decision::Deny { by, also }));
        let values = context.as_object().unwrap().values();
        assert_eq!(values.clone().count(), 13);
        assert!(values.clone().all(Value::is_string), "{context}");
    }

    #[test]
    fn the_window_closest_to_its_limit_is_shown() {
        let decision = Decision::Allow {
            hour: status(Window::Hour, 100, 97),
            month: Some(status(Window::Month, 1_000, 3)),
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
    fn a_denial_by_a_limit_has_the_limit_and_the_reset_time() {
        let by = status(Window::Hour, 100, 0);
        let also = None;
        let context = context(Some("acme"), counted(Decision::Deny { by, also }));
        assert_eq!(context["retryAfter"], "1200");
        assert_eq!(context["window"], "hour");
        let expected = json!({
            "type": "urn:tollgate:problem:rate-limited",
            "title": "Hourly rate limit exceeded",
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

    /// A retry would not help.
    #[test]
    fn a_denial_for_another_reason_has_no_retry_after() {
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
    fn only_the_context_of_an_allowed_call_has_the_cors_origin() {
        let allowed = context(None, Access::Uncounted);
        assert_eq!(allowed["corsOrigin"], "https://app.example");
        let denied = context(Some("acme"), Access::Denied(Denial::NoPlan));
        assert!(denied.get("corsOrigin").is_none(), "{denied}");
    }

    #[test]
    fn a_denial_by_both_limits_has_the_later_reset_time() {
        let by = status(Window::Month, 1_000, 0);
        let also = Some(status(Window::Hour, 100, 0));
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
