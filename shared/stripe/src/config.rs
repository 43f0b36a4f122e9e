//! Configuration of the client.

use std::time::Duration;

use http::Uri;
use http::uri::Scheme;

use crate::secret::Mode;

/// Version of Stripe's API that the client asks for, and whose objects it decodes
/// (<https://docs.stripe.com/changelog>).
pub const API_VERSION: &str = "2026-10-28.endive";

/// Configuration of a [`StripeClient`](crate::StripeClient).
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Config {
    /// Address of the API.
    pub base_url: BaseUrl,
    /// Mode that the secret key must have, if only one is expected.
    pub mode: Option<Mode>,
    /// Bounds on the time of a call.
    pub timeouts: Timeouts,
    /// Bounds on the attempts of a call.
    pub retries: Retries,
}

/// Address of the API, with or without a path.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BaseUrl(String);

/// Error: the text is not the address of an API.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error(
    "a base URL is http:// or https://, a host and optionally a path, without user name or query"
)]
pub struct InvalidBaseUrl;

impl BaseUrl {
    /// Returns the URL, without a slash at its end.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Whether a connection is encrypted.
    #[must_use]
    pub fn is_https(&self) -> bool {
        self.0.starts_with("https:")
    }
}

impl Default for BaseUrl {
    /// Returns the address of Stripe.
    fn default() -> Self {
        Self("https://api.stripe.com".to_owned())
    }
}

impl std::str::FromStr for BaseUrl {
    type Err = InvalidBaseUrl;

    fn from_str(text: &str) -> Result<Self, InvalidBaseUrl> {
        let url: Uri = text.parse().map_err(|_| InvalidBaseUrl)?;
        let is_http = url.scheme() == Some(&Scheme::HTTP) || url.scheme() == Some(&Scheme::HTTPS);
        let authority = url.authority().ok_or(InvalidBaseUrl)?;
        // A user name would be a second credential, and a query would swallow the path of a call.
        if !is_http || authority.as_str().contains('@') || text.contains(['?', '#']) {
            return Err(InvalidBaseUrl);
        }
        let scheme = url.scheme_str().unwrap_or_default();
        let path = url.path().trim_end_matches('/');
        Ok(Self(format!("{scheme}://{authority}{path}")))
    }
}

/// Bounds on the time of a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Timeouts {
    /// Time of one attempt, from sending to the end of the response. The transport bounds the time of
    /// connecting.
    pub attempt: Duration,
    /// Time of all attempts and the delays between them.
    pub total: Duration,
}

impl Default for Timeouts {
    /// Returns 30 seconds for an attempt, and 60 for all. Finalizing an invoice may take Stripe over ten.
    fn default() -> Self {
        Self {
            attempt: Duration::from_secs(30),
            total: Duration::from_secs(60),
        }
    }
}

/// Bounds on the attempts of a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Retries {
    /// Maximum number of attempts. One more is made after a 401 if there is another key.
    pub attempts: u32,
    /// Delay before the second attempt; each further one doubles. Jitter takes off up to a half.
    pub first_delay: Duration,
    /// Maximum delay between two attempts.
    pub max_delay: Duration,
    /// Maximum `Retry-After` that is waited for. A call that would have to wait longer ends, and its error
    /// has the time, so that the caller's queue can wait instead.
    pub max_retry_after: Duration,
}

impl Default for Retries {
    /// Returns four attempts over about four seconds.
    fn default() -> Self {
        Self {
            attempts: 4,
            first_delay: Duration::from_millis(500),
            max_delay: Duration::from_secs(8),
            max_retry_after: Duration::from_secs(20),
        }
    }
}

impl Retries {
    /// Returns the delay after the failure of the `attempt`th attempt, the first being 1: exponential, with
    /// between half of it and all of it chosen by `random`, so that workers that failed together do not
    /// return together.
    pub(crate) fn delay(&self, attempt: u32, random: u64) -> Duration {
        let doubled = 2_u32.saturating_pow(attempt.saturating_sub(1));
        let delay = self.first_delay.saturating_mul(doubled).min(self.max_delay);
        let half = u64::try_from(delay.as_micros() / 2).unwrap_or(u64::MAX);
        let jitter = random.checked_rem(half.saturating_add(1)).unwrap_or(0);
        delay.saturating_sub(Duration::from_micros(jitter))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_base_url_is_a_scheme_a_host_and_a_path() {
        let check = |text: &str, expected: Option<&str>| {
            let found = text.parse::<BaseUrl>().ok();
            assert_eq!(found.as_ref().map(BaseUrl::as_str), expected, "{text:?}");
        };
        check("https://api.stripe.com", Some("https://api.stripe.com"));
        check("https://api.stripe.com/", Some("https://api.stripe.com"));
        check("http://127.0.0.1:12111", Some("http://127.0.0.1:12111"));
        check(
            "https://a.example/stripe/",
            Some("https://a.example/stripe"),
        );
        check("https://user@a.example", None);
        check("https://a.example/?x", None);
        check("https://a.example/#x", None);
        check("ftp://a.example", None);
        check("api.stripe.com", None);
        check("/v1", None);
        check("", None);
        assert!(BaseUrl::default().is_https());
        assert_eq!("https://api.stripe.com".parse(), Ok(BaseUrl::default()));
    }

    #[test]
    fn delays_double_up_to_a_maximum_and_jitter_takes_off_up_to_a_half() {
        let retries = Retries::default();
        let check = |attempt, most_ms: u64| {
            let most = Duration::from_millis(most_ms);
            assert_eq!(retries.delay(attempt, 0), most, "{attempt}");
            let half = most_ms * 1_000 / 2;
            assert_eq!(retries.delay(attempt, half), most / 2, "{attempt}");
            for random in [1, 77, u64::MAX] {
                let delay = retries.delay(attempt, random);
                assert!(most / 2 <= delay && delay <= most, "{attempt} {delay:?}");
            }
        };
        check(1, 500);
        check(2, 1_000);
        check(3, 2_000);
        check(5, 8_000);
        check(6, 8_000);
        check(u32::MAX, 8_000);
    }
}
