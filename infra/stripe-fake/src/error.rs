//! Errors in the form that Stripe documents at <https://docs.stripe.com/api/errors>.

use serde_json::{Value, json};

/// Error response of the API.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ApiError {
    pub(crate) status: u16,
    pub(crate) kind: &'static str,
    pub(crate) code: Option<&'static str>,
    pub(crate) is_declined: bool,
    pub(crate) message: String,
    pub(crate) param: Option<String>,
    pub(crate) headers: Vec<(&'static str, String)>,
}

impl ApiError {
    fn new(status: u16, kind: &'static str, message: String) -> Self {
        Self {
            status,
            kind,
            code: None,
            is_declined: false,
            message,
            param: None,
            headers: Vec::new(),
        }
    }

    /// Creates an `invalid_request_error` with status 400.
    pub(crate) fn invalid(message: impl Into<String>) -> Self {
        Self::new(400, "invalid_request_error", message.into())
    }

    /// Creates the error for a missing or unknown API key.
    pub(crate) fn unauthorized(message: impl Into<String>) -> Self {
        let error = Self::new(401, "invalid_request_error", message.into());
        error.with_header("www-authenticate", "Basic realm=\"Stripe\"".to_owned())
    }

    /// Creates the error for an object that does not exist. As the subject of the request it is 404, and as
    /// a parameter 400.
    pub(crate) fn missing(what: &str, id: &str, param: &str) -> Self {
        let error = Self::invalid(format!("No such {what}: '{id}'"));
        let status = if param == "id" { 404 } else { 400 };
        Self { status, ..error }
            .with_code("resource_missing")
            .with_param(param)
    }

    /// Creates the error for a parameter that is required.
    pub(crate) fn parameter_missing(param: &str) -> Self {
        Self::invalid(format!("Missing required param: {param}."))
            .with_code("parameter_missing")
            .with_param(param)
    }

    /// Creates the error for a payment that was declined.
    pub(crate) fn declined() -> Self {
        let error = Self::new(402, "card_error", "Your card was declined.".to_owned());
        Self {
            is_declined: true,
            ..error.with_code("card_declined")
        }
    }

    /// Creates an `idempotency_error`.
    pub(crate) fn idempotency(status: u16, message: String) -> Self {
        Self::new(status, "idempotency_error", message)
    }

    /// Creates the error for too many requests, or too many invoices of a subscription.
    pub(crate) fn rate_limited(message: &str, reason: &str) -> Self {
        Self::new(429, "invalid_request_error", message.to_owned())
            .with_code("rate_limit")
            .with_header("stripe-rate-limited-reason", reason.to_owned())
    }

    /// Creates a failure of the server.
    pub(crate) fn server() -> Self {
        let message = "An unknown error occurred; the stand-in was asked for it.";
        Self::new(500, "api_error", message.to_owned())
    }

    /// Creates the error for a parameter that Stripe has and this stand-in does not.
    pub(crate) fn unsupported(param: &str) -> Self {
        let message = format!("stripe-fake does not implement the parameter {param}.");
        Self::new(501, "api_error", message).with_param(param)
    }

    pub(crate) fn with_code(self, code: &'static str) -> Self {
        Self {
            code: Some(code),
            ..self
        }
    }

    pub(crate) fn with_param(self, param: impl Into<String>) -> Self {
        Self {
            param: Some(param.into()),
            ..self
        }
    }

    pub(crate) fn with_header(mut self, name: &'static str, value: String) -> Self {
        self.headers.push((name, value));
        self
    }

    /// Returns the body of the response.
    pub(crate) fn body(&self, request_id: &str) -> Value {
        let mut error = json!({
            "type": self.kind,
            "message": self.message,
            "request_log_url": format!("https://dashboard.stripe.com/test/logs/{request_id}"),
        });
        if let Some(code) = self.code {
            error["code"] = code.into();
            let page = code.replace('_', "-");
            error["doc_url"] = format!("https://stripe.com/docs/error-codes/{page}").into();
        }
        if self.is_declined {
            error["decline_code"] = "generic_decline".into();
        }
        if let Some(param) = &self.param {
            error["param"] = param.as_str().into();
        }
        json!({ "error": error })
    }
}
