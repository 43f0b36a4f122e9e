//! The secret key of Stripe's API: its type, and where it is read from.

use std::error::Error;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::BoxFuture;
use http::HeaderValue;
use tokio::sync::Mutex;
use zeroize::Zeroizing;

/// Mode of a key and of all objects that it reaches.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Mode {
    /// No money moves.
    Test,
    /// Real money moves.
    Live,
}

impl Mode {
    /// Returns the mode of an object by its member `livemode`.
    #[must_use]
    pub fn of_livemode(livemode: bool) -> Self {
        if livemode { Mode::Live } else { Mode::Test }
    }
}

/// Secret or restricted key of Stripe's API. It never prints, and its memory is overwritten when the last
/// clone is dropped; the header fields of requests in flight are not overwritten.
#[derive(Clone, PartialEq, Eq)]
pub struct SecretKey {
    text: Arc<Zeroizing<String>>,
    mode: Mode,
}

/// Error: the text is not a secret key of Stripe's API. It gives no more details, because the text may
/// be another secret.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not a Stripe key: it begins with sk_test_, rk_test_, sk_live_ or rk_live_")]
pub struct InvalidSecretKey;

/// Beginnings of keys, and their modes (<https://docs.stripe.com/keys>).
const PREFIXES: [(&str, Mode); 4] = [
    ("sk_test_", Mode::Test),
    ("rk_test_", Mode::Test),
    ("sk_live_", Mode::Live),
    ("rk_live_", Mode::Live),
];

impl SecretKey {
    /// Parses a key. White space around it, which files and consoles add, is ignored.
    ///
    /// # Errors
    /// When it has the prefix of no kind of key, nothing after it, or characters other than letters,
    /// digits and `_`.
    pub fn parse(text: &str) -> Result<Self, InvalidSecretKey> {
        let text = text.trim();
        let found = PREFIXES.iter().find(|(prefix, _)| text.starts_with(prefix));
        let is_key = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_';
        match found {
            Some((prefix, mode)) if text.len() > prefix.len() && text.bytes().all(is_key) => {
                let text = Arc::new(Zeroizing::new(text.to_owned()));
                Ok(Self { text, mode: *mode })
            }
            _ => Err(InvalidSecretKey),
        }
    }

    /// Returns the mode of the key.
    #[must_use]
    pub fn mode(&self) -> Mode {
        self.mode
    }

    /// Returns the value of the `Authorization` header field, which is marked as sensitive.
    pub(crate) fn authorization(&self) -> Option<HeaderValue> {
        let text = Zeroizing::new(format!("Bearer {}", self.text.as_str()));
        // A key has no characters that a header field cannot have.
        let mut value = HeaderValue::from_str(&text).ok()?;
        value.set_sensitive(true);
        Some(value)
    }
}

impl fmt::Debug for SecretKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SecretKey({:?}, …)", self.mode)
    }
}

impl std::str::FromStr for SecretKey {
    type Err = InvalidSecretKey;

    fn from_str(text: &str) -> Result<Self, InvalidSecretKey> {
        Self::parse(text)
    }
}

/// Error: the secret key cannot be read.
#[derive(Debug, thiserror::Error)]
#[error("the secret key of Stripe cannot be read")]
pub struct SecretUnavailable(#[source] Box<dyn Error + Send + Sync>);

impl SecretUnavailable {
    /// Wraps the cause, whose texts must not contain the secret.
    pub fn new(cause: impl Into<Box<dyn Error + Send + Sync>>) -> Self {
        Self(cause.into())
    }
}

/// Place that the secret key is read from.
pub trait Secrets: Send + Sync + 'static {
    /// Reads the key. The client reads it before the first call, and again when it is not accepted, at most
    /// every ten seconds.
    ///
    /// # Errors
    /// When it cannot be read, or is not a key.
    fn read(&self) -> BoxFuture<'_, Result<SecretKey, SecretUnavailable>>;
}

/// Key that is known from the beginning and does not change.
#[derive(Debug, Clone)]
pub struct FixedSecret(pub SecretKey);

impl Secrets for FixedSecret {
    fn read(&self) -> BoxFuture<'_, Result<SecretKey, SecretUnavailable>> {
        Box::pin(async { Ok(self.0.clone()) })
    }
}

/// Minimum time between two reads of a key that is not accepted, so that a revoked key does not
/// become as many reads as there are calls.
const REREAD_INTERVAL: Duration = Duration::from_secs(10);

/// Key in use, shared by all clones of a client.
pub(crate) struct CurrentKey {
    secrets: Arc<dyn Secrets>,
    state: Mutex<KeyState>,
}

#[derive(Default)]
struct KeyState {
    key: Option<SecretKey>,
    reread_at: Option<Duration>,
}

impl CurrentKey {
    pub(crate) fn new(secrets: Arc<dyn Secrets>) -> Self {
        let state = Mutex::default();
        Self { secrets, state }
    }

    /// Returns the key, which the first call reads.
    pub(crate) async fn get(&self) -> Result<SecretKey, SecretUnavailable> {
        let mut state = self.state.lock().await;
        if let Some(key) = &state.key {
            return Ok(key.clone());
        }
        let key = self.secrets.read().await?;
        state.key = Some(key.clone());
        Ok(key)
    }

    /// Returns another key than `rejected`, which is not accepted, or `None` if there is none. `now`
    /// is the time by the client's [`Timing`](crate::Timing).
    pub(crate) async fn replace(
        &self,
        rejected: &SecretKey,
        now: Duration,
    ) -> Result<Option<SecretKey>, SecretUnavailable> {
        let mut state = self.state.lock().await;
        let current = state.key.clone().filter(|key| key != rejected);
        // Another call has read it in the meantime.
        if current.is_some() {
            return Ok(current);
        }
        if state.reread_at.is_some_and(|at| now < at + REREAD_INTERVAL) {
            return Ok(None);
        }
        state.reread_at = Some(now);
        let key = self.secrets.read().await?;
        state.key = Some(key.clone());
        Ok(Some(key).filter(|key| key != rejected))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_prefix_of_a_key_is_its_mode() {
        let check = |text: &str, expected: Option<Mode>| {
            let found = SecretKey::parse(text).ok().map(|key| key.mode());
            assert_eq!(found, expected, "{text:?}");
        };
        check("sk_test_4eC39HqLyjWDarjtT1zdp7dc", Some(Mode::Test));
        check("rk_test_1", Some(Mode::Test));
        check("sk_live_1", Some(Mode::Live));
        check(" rk_live_1\n", Some(Mode::Live));
        check("sk_live_", None);
        check("sk_other_1", None);
        check("pk_live_1", None);
        check("whsec_1", None);
        check("sk_live_a b", None);
        check("sk_live_a\nb", None);
        check("", None);
    }

    #[test]
    fn a_key_does_not_print() {
        let key = SecretKey::parse("sk_test_4eC39HqL").unwrap();
        assert_eq!(format!("{key:?}"), "SecretKey(Test, …)");
        let fixed = format!("{:?}", FixedSecret(key.clone()));
        assert_eq!(fixed, "FixedSecret(SecretKey(Test, …))");
        let header = format!("{:?}", key.authorization());
        assert_eq!(header, "Some(Sensitive)");
        let error = SecretKey::parse("pk_live_9fJ").unwrap_err();
        assert!(!format!("{error:?} {error}").contains("9fJ"));
    }
}
