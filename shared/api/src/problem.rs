//! Problem types (RFC 9457). `docs/problems.md` lists them with their causes.

use utoipa::ToResponse;
use utoipa::openapi::{RefOr, Response};

/// Declares the members that problem types add, so that each has a name and is listed.
macro_rules! members {
    ($($(#[$doc:meta])* $member:ident => $name:literal,)*) => {
        /// Member that problem types add to those of RFC 9457. The schema of problems declares it.
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        pub enum Member {
            $($(#[$doc])* $member,)*
        }

        impl Member {
            /// All members.
            pub const ALL: &[Self] = &[$(Self::$member,)*];

            /// Returns the name in the problem.
            #[must_use]
            pub fn name(self) -> &'static str {
                match self {
                    $(Self::$member => $name,)*
                }
            }
        }
    };
}

members! {
    /// Member of the body, or parameter, at fault.
    Field => "field",
    /// Defects of usage that cannot be counted.
    Defects => "defects",
    /// JSON pointers to usage events whose source and id are taken.
    Conflicts => "conflicts",
    /// Quarantined items of the events that came first.
    Quarantined => "quarantined",
    /// JSON pointers to the events with more items than listed.
    QuarantinedMore => "quarantined_more",
    /// Plans that exist.
    Plans => "plans",
    /// First month that a version or a pin may take effect in.
    Earliest => "earliest",
    /// Last month that a version or a pin may take effect in.
    Latest => "latest",
    /// Number of the plan's latest version.
    LatestVersion => "latest_version",
    /// Id of the successor of a rotated key.
    RotatedTo => "rotated_to",
    /// Window of the exceeded limit.
    Window => "window",
    /// Calls allowed in the window.
    Limit => "limit",
    /// Calls left in the window.
    Remaining => "remaining",
    /// End of the window.
    ResetsAt => "resets_at",
    /// Seconds until a retry can succeed.
    RetryAfterS => "retry_after_s",
    /// Page on which the customer can subscribe to a larger plan.
    UpgradeUrl => "upgrade_url",
}

/// Type of a problem: what went wrong, with its status and title.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ProblemType {
    /// The request cannot be parsed.
    BadRequest,
    /// The API key is missing or not valid.
    Unauthorized,
    /// The caller may not do this.
    Forbidden,
    /// The customer's key may only call, and this needs the role `manage`.
    InsufficientRole,
    /// A web ACL blocked the request.
    Blocked,
    /// The resource does not exist.
    NotFound,
    /// The route does not support the method.
    MethodNotAllowed,
    /// The state of the resource does not allow this.
    Conflict,
    /// The request body is too large.
    BodyTooLarge,
    /// The coding or charset of the request body is not supported.
    UnsupportedMediaType,
    /// The request can be parsed and cannot be fulfilled.
    Unprocessable,
    /// The key's hourly rate limit is exceeded.
    RateLimited,
    /// The customer's monthly quota is exceeded.
    QuotaExceeded,
    /// The customer is suspended.
    CustomerSuspended,
    /// The plan of the customer does not exist.
    NoPlan,
    /// All callers together exceed the gateway's rate.
    Throttled,
    /// Internal error.
    Internal,
    /// The plan's Stripe price cannot be used, or is another than the plan's fee.
    PlanMisconfigured,
    /// A function returned no usable response.
    BadGateway,
    /// The store is not available, and the plan fails closed; or Stripe is not available.
    Unavailable,
    /// No secret key of Stripe is configured.
    PaymentsNotConfigured,
    /// A function did not respond in time.
    Timeout,
}

impl ProblemType {
    /// All types, in the order of their status.
    pub const ALL: [Self; 22] = [
        Self::BadRequest,
        Self::Unauthorized,
        Self::Forbidden,
        Self::InsufficientRole,
        Self::Blocked,
        Self::NotFound,
        Self::MethodNotAllowed,
        Self::Conflict,
        Self::BodyTooLarge,
        Self::UnsupportedMediaType,
        Self::Unprocessable,
        Self::RateLimited,
        Self::QuotaExceeded,
        Self::CustomerSuspended,
        Self::NoPlan,
        Self::Throttled,
        Self::Internal,
        Self::PlanMisconfigured,
        Self::BadGateway,
        Self::Unavailable,
        Self::PaymentsNotConfigured,
        Self::Timeout,
    ];

    /// Returns the last part of the type's URN.
    #[must_use]
    pub fn slug(self) -> &'static str {
        self.parts().1
    }

    /// Returns the value of the problem's `type` member.
    #[must_use]
    pub fn urn(self) -> String {
        format!("urn:tollgate:problem:{}", self.slug())
    }

    /// Returns the problem's title.
    #[must_use]
    pub fn title(self) -> &'static str {
        self.parts().2
    }

    /// Returns the HTTP status.
    #[must_use]
    pub fn status(self) -> u16 {
        self.parts().0
    }

    fn parts(self) -> (u16, &'static str, &'static str) {
        match self {
            Self::BadRequest => (400, "bad-request", "Invalid request"),
            Self::Unauthorized => (401, "unauthorized", "Unauthorized"),
            Self::Forbidden => (403, "forbidden", "Forbidden"),
            Self::InsufficientRole => (403, "insufficient-role", "Insufficient role"),
            Self::Blocked => (403, "blocked", "Request blocked"),
            Self::NotFound => (404, "not-found", "Not found"),
            Self::MethodNotAllowed => (405, "method-not-allowed", "Method not allowed"),
            Self::Conflict => (409, "conflict", "Conflict"),
            Self::BodyTooLarge => (413, "body-too-large", "Request body too large"),
            Self::UnsupportedMediaType => (415, "unsupported-media-type", "Unsupported media type"),
            Self::Unprocessable => (422, "unprocessable", "Unprocessable request"),
            Self::RateLimited => (429, "rate-limited", "Hourly rate limit exceeded"),
            Self::QuotaExceeded => (429, "quota-exceeded", "Monthly quota exceeded"),
            Self::CustomerSuspended => (429, "customer-suspended", "Customer suspended"),
            Self::NoPlan => (429, "no-plan", "Plan not available"),
            Self::Throttled => (429, "throttled", "Too many requests"),
            Self::Internal => (500, "internal", "Internal server error"),
            Self::PlanMisconfigured => (500, "plan-misconfigured", "Plan misconfigured"),
            Self::BadGateway => (502, "bad-gateway", "Bad gateway"),
            Self::Unavailable => (
                503,
                "temporarily-unavailable",
                "Service temporarily unavailable",
            ),
            Self::PaymentsNotConfigured => {
                (503, "payments-not-configured", "Payments not configured")
            }
            Self::Timeout => (504, "timeout", "Gateway timeout"),
        }
    }
}

/// Declares a response of an operation that is one of the common problem responses of the document.
macro_rules! common {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Debug)]
        pub struct $name;

        impl ToResponse<'_> for $name {
            /// Returns the name alone: `document::assemble` fills the response in.
            fn response() -> (&'static str, RefOr<Response>) {
                (stringify!($name), Response::default().into())
            }
        }
    };
}

common! {
    /// The resource does not exist.
    NotFound
}
common! {
    /// The state of the resource does not allow the request.
    Conflict
}
common! {
    /// The request can be parsed and cannot be fulfilled.
    Unprocessable
}
common! {
    /// Stripe is not available, or not configured.
    PaymentsUnavailable
}
common! {
    /// Stripe rejected the request, or the plan cannot be bought for a reason that the operator has to mend.
    CheckoutError
}
