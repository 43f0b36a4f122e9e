//! Classification of responses: what one says of the effect of its request, and whether another attempt
//! can help.

use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, Response, StatusCode};
use serde::Deserialize;
use serde::de::DeserializeOwned;

use crate::error::{Rejection, RequestId, UnavailableCause, UnknownCause};
use crate::transport::TransportError;

/// Failure of one attempt.
#[derive(Debug)]
pub(crate) struct AttemptFailure {
    pub(crate) effect: Effect,
    /// Whether another attempt may succeed.
    pub(crate) retry: bool,
    pub(crate) retry_after: Option<Duration>,
}

/// Effect of a request that failed.
#[derive(Debug)]
pub(crate) enum Effect {
    /// It had none, and the reason is passing.
    None(UnavailableCause),
    /// It was rejected and had none.
    Rejected {
        rejection: Box<Rejection>,
        /// Whether this is the stored response to the first request with the idempotency key.
        replayed: bool,
    },
    /// It may have had one.
    Unknown(UnknownCause),
}

impl AttemptFailure {
    fn new(effect: Effect, retry: bool) -> Self {
        let retry_after = None;
        Self {
            effect,
            retry,
            retry_after,
        }
    }

    /// Describes an attempt without a complete response in time.
    pub(crate) fn timed_out() -> Self {
        Self::new(Effect::Unknown(UnknownCause::TimedOut), true)
    }

    /// Describes a call that cannot be an HTTP request.
    pub(crate) fn not_a_request() -> Self {
        Self::new(Effect::None(UnavailableCause::NotARequest), false)
    }

    /// Whether the secret key was not accepted.
    pub(crate) fn is_unauthorized(&self) -> bool {
        matches!(&self.effect, Effect::Rejected { rejection, .. } if rejection.status == 401)
    }
}

impl From<TransportError> for AttemptFailure {
    fn from(error: TransportError) -> Self {
        let effect = match error {
            TransportError::NotSent(source) => Effect::None(UnavailableCause::NotSent(source)),
            TransportError::Lost(source) => Effect::Unknown(UnknownCause::Lost(source)),
        };
        Self::new(effect, true)
    }
}

/// Returns the id that Stripe gave to a request.
pub(crate) fn request_id(headers: &HeaderMap) -> Option<RequestId> {
    let id = headers.get("request-id")?.to_str().ok()?;
    Some(RequestId(id.chars().take(128).collect()))
}

/// Whether Stripe replayed the stored response of an earlier request.
pub(crate) fn is_replayed(headers: &HeaderMap) -> bool {
    is(headers, "idempotent-replayed", "true")
}

fn is(headers: &HeaderMap, name: &str, value: &str) -> bool {
    headers
        .get(name)
        .is_some_and(|found| found.as_bytes().eq_ignore_ascii_case(value.as_bytes()))
}

/// Decodes the value of a response, or classifies the failure.
pub(crate) fn read<T: DeserializeOwned>(response: &Response<Bytes>) -> Result<T, AttemptFailure> {
    if response.status().is_success() {
        return serde_json::from_slice(response.body()).map_err(|error| {
            AttemptFailure::new(
                Effect::Unknown(UnknownCause::Undecodable(error.into())),
                false,
            )
        });
    }
    Err(classify(
        response.status(),
        response.headers(),
        response.body(),
    ))
}

fn classify(status: StatusCode, headers: &HeaderMap, body: &[u8]) -> AttemptFailure {
    let replayed = is_replayed(headers);
    let error = ErrorBody::parse(body);
    let code = error.code.as_deref();
    let of_key = error.kind.as_deref() == Some("idempotency_error");
    let (effect, retry) = match status.as_u16() {
        // Only an earlier request with the key can be in the way without a lock, and it may succeed yet.
        409 if of_key || matches!(code, None | Some("idempotency_key_in_use")) => {
            (Effect::Unknown(UnknownCause::KeyInUse), true)
        }
        409 => (Effect::None(UnavailableCause::Locked), true),
        429 if code == Some("lock_timeout") => (Effect::None(UnavailableCause::Locked), true),
        429 => (Effect::None(UnavailableCause::Throttled), true),
        400 if of_key => (Effect::Unknown(UnknownCause::KeyReused), false),
        // The stored failure will be replayed until Stripe forgets the key.
        status @ 500.. if replayed => (Effect::Unknown(UnknownCause::Replayed(status)), false),
        // A timeout on the way, as of a proxy.
        408 => (Effect::Unknown(UnknownCause::Status(408)), true),
        status @ 400..500 => {
            let rejection = Box::new(error.into_rejection(status, request_id(headers)));
            let effect = Effect::Rejected {
                rejection,
                replayed,
            };
            (effect, false)
        }
        // Neither Stripe nor a client that follows no redirects should see another status.
        status => (Effect::Unknown(UnknownCause::Status(status)), status >= 500),
    };
    let final_whatever_stripe_advises = matches!(
        effect,
        Effect::Unknown(UnknownCause::Replayed(_) | UnknownCause::KeyReused)
    );
    // Stripe's advice takes precedence over the status (https://docs.stripe.com/error-low-level).
    let retry = match () {
        () if final_whatever_stripe_advises => false,
        () if is(headers, "stripe-should-retry", "false") => false,
        () if is(headers, "stripe-should-retry", "true") => true,
        () => retry,
    };
    AttemptFailure {
        effect,
        retry,
        retry_after: retry_after(headers),
    }
}

/// Returns the `Retry-After` of a response, in whole seconds. A date, which Stripe does not send, counts as
/// none.
fn retry_after(headers: &HeaderMap) -> Option<Duration> {
    let seconds = headers.get(http::header::RETRY_AFTER)?.to_str().ok()?;
    Some(Duration::from_secs(seconds.trim().parse().ok()?))
}

/// Members of an error response that are used (<https://docs.stripe.com/api/errors>).
#[derive(Debug, Default, Deserialize)]
struct ErrorBody {
    #[serde(rename = "type")]
    kind: Option<String>,
    code: Option<String>,
    param: Option<String>,
    message: Option<String>,
}

#[derive(Deserialize)]
struct Enveloped {
    error: ErrorBody,
}

impl ErrorBody {
    /// Parses a body, or returns an error without members for one that is not Stripe's.
    fn parse(body: &[u8]) -> Self {
        serde_json::from_slice::<Enveloped>(body).map_or_else(|_| Self::default(), |it| it.error)
    }

    fn into_rejection(self, status: u16, request_id: Option<RequestId>) -> Rejection {
        Rejection {
            status,
            kind: self.kind.as_deref().map(loggable),
            code: self.code.as_deref().map(loggable),
            param: self.param.as_deref().map(loggable),
            message: loggable(self.message.as_deref().unwrap_or("no message")),
            request_id,
            attempts: 0,
        }
    }
}

/// Maximum characters of a logged text.
const MAX_LOGGED: usize = 300;

/// Shortens a text of Stripe's, and omits what must not be in logs: Stripe's messages quote parameters, and
/// parts of keys.
fn loggable(text: &str) -> String {
    let is_secret = |word: &str| {
        let prefixes = ["sk_", "rk_", "whsec_", "pk_", "Bearer"];
        word.contains('@') || prefixes.iter().any(|prefix| word.contains(prefix))
    };
    let words = text.split(|c: char| c.is_whitespace() || c.is_control());
    let words = words.filter(|word| !word.is_empty());
    let words: Vec<&str> = words
        .map(|word| if is_secret(word) { "…" } else { word })
        .collect();
    words.join(" ").chars().take(MAX_LOGGED).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Returns the effect and the retry of a failure, in short.
    fn short(status: u16, fields: &[(&'static str, &str)], body: &str) -> String {
        let mut headers = HeaderMap::new();
        for (name, value) in fields {
            headers.insert(*name, value.parse().unwrap());
        }
        let status = StatusCode::from_u16(status).unwrap();
        let failure = classify(status, &headers, body.as_bytes());
        let effect = match failure.effect {
            Effect::None(cause) => format!("none, {cause}"),
            Effect::Rejected { replayed, .. } => format!("rejected, replayed {replayed}"),
            Effect::Unknown(cause) => format!("unknown, {cause}"),
        };
        format!("{effect}, retry {}", failure.retry)
    }

    #[test]
    fn a_failure_is_classified_by_status_header_fields_and_code() {
        let check = |status, fields: &[(&'static str, &str)], code: &str, expected: &str| {
            let body = format!(r#"{{"error":{{{code}}}}}"#);
            assert_eq!(
                short(status, fields, &body),
                expected,
                "{status} {fields:?} {code}"
            );
        };
        let locked = "none, the object is locked by another request";
        let throttled = "none, too many requests";
        let in_use = "unknown, a request with the same idempotency key is being executed";
        let reused = "unknown, the idempotency key was used with other parameters, retry false";
        let advice = |value| [("stripe-should-retry", value)];

        check(400, &[], "", "rejected, replayed false, retry false");
        check(
            402,
            &[],
            r#""code":"card_declined""#,
            "rejected, replayed false, retry false",
        );
        check(
            402,
            &[("idempotent-replayed", "true")],
            "",
            "rejected, replayed true, retry false",
        );
        check(
            400,
            &advice("true"),
            "",
            "rejected, replayed false, retry true",
        );
        check(400, &[], r#""type":"idempotency_error""#, reused);
        check(
            400,
            &advice("true"),
            r#""type":"idempotency_error""#,
            reused,
        );
        check(409, &[], "", &format!("{in_use}, retry true"));
        check(
            409,
            &[],
            r#""code":"idempotency_key_in_use""#,
            &format!("{in_use}, retry true"),
        );
        check(409, &advice("false"), "", &format!("{in_use}, retry false"));
        check(
            409,
            &[],
            r#""code":"lock_timeout""#,
            &format!("{locked}, retry true"),
        );
        check(
            429,
            &[],
            r#""code":"lock_timeout""#,
            &format!("{locked}, retry true"),
        );
        check(
            429,
            &[],
            r#""code":"rate_limit""#,
            &format!("{throttled}, retry true"),
        );
        check(429, &[], "", &format!("{throttled}, retry true"));
        check(
            429,
            &advice("false"),
            "",
            &format!("{throttled}, retry false"),
        );
        check(408, &[], "", "unknown, status 408, retry true");
        check(500, &[], "", "unknown, status 500, retry true");
        check(503, &[], "", "unknown, status 503, retry true");
        check(
            500,
            &advice("false"),
            "",
            "unknown, status 500, retry false",
        );
        let replayed = ("idempotent-replayed", "true");
        check(
            500,
            &[replayed],
            "",
            "unknown, status 500, replayed, retry false",
        );
        let both = [replayed, ("stripe-should-retry", "true")];
        check(500, &both, "", "unknown, status 500, replayed, retry false");
        check(302, &[], "", "unknown, status 302, retry false");
    }

    #[test]
    fn bodies_that_are_not_stripes_are_rejections_without_code() {
        for body in ["", "<html>404</html>", "[]", r#"{"error":"gone"}"#] {
            assert_eq!(
                short(404, &[], body),
                "rejected, replayed false, retry false",
                "{body}"
            );
        }
    }

    #[test]
    fn retry_after_is_a_number_of_seconds() {
        let check = |value: &str, expected: Option<u64>| {
            let mut headers = HeaderMap::new();
            headers.insert(http::header::RETRY_AFTER, value.parse().unwrap());
            assert_eq!(
                retry_after(&headers),
                expected.map(Duration::from_secs),
                "{value}"
            );
        };
        check("0", Some(0));
        check("7", Some(7));
        check("-1", None);
        check("1.5", None);
        check("Wed, 21 Oct 2026 07:28:00 GMT", None);
        check("", None);
        assert_eq!(retry_after(&HeaderMap::new()), None);
    }

    #[test]
    fn logged_texts_have_no_keys_and_no_addresses() {
        let check = |text: &str, expected: &str| assert_eq!(loggable(text), expected);
        check("No such customer: 'cus_1'", "No such customer: 'cus_1'");
        check(
            "Invalid API Key provided: sk_test_****dp7dc",
            "Invalid API Key provided: …",
        );
        check(
            "Invalid email address: a@b.example",
            "Invalid email address: …",
        );
        check("two\nlines\u{1b}[31m", "two lines [31m");
        check("", "");
        assert_eq!(loggable(&"é".repeat(400)).chars().count(), 300);
    }
}
