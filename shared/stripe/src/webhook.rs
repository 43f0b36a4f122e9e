//! Signatures of the webhooks that Stripe sends
//! (<https://docs.stripe.com/webhooks/signature>).

use std::fmt;
use std::time::Duration;

use hmac::{Hmac, KeyInit, Mac};
use jiff::{SignedDuration, Timestamp};
use sha2::Sha256;
use zeroize::Zeroizing;

/// Header field with the signatures.
pub const SIGNATURE_HEADER: &str = "stripe-signature";

/// Time by which a signature may be older or newer than the receiver's clock.
pub const TOLERANCE: Duration = Duration::from_secs(300);

/// Secret of a webhook endpoint, `whsec_…`. It never prints.
#[derive(Clone, PartialEq, Eq)]
pub struct EndpointSecret(Zeroizing<String>);

/// Error: the text is not the secret of a webhook endpoint.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not the secret of a Stripe webhook endpoint: it begins with whsec_")]
pub struct InvalidEndpointSecret;

impl EndpointSecret {
    /// Parses a secret. White space around it, which files and consoles add, is ignored.
    ///
    /// # Errors
    /// When it does not begin with `whsec_`, has nothing after it, or has other characters than visible
    /// ASCII.
    pub fn parse(text: &str) -> Result<Self, InvalidEndpointSecret> {
        let text = text.trim();
        let rest = text.strip_prefix("whsec_").ok_or(InvalidEndpointSecret)?;
        if rest.is_empty() || !rest.bytes().all(|byte| byte.is_ascii_graphic()) {
            return Err(InvalidEndpointSecret);
        }
        Ok(Self(Zeroizing::new(text.to_owned())))
    }

    /// Starts the code of a signed text. Stripe uses the whole text of the secret, prefix included.
    fn mac(&self, signed_at: &str, body: &[u8]) -> Option<Hmac<Sha256>> {
        let mut mac = Hmac::<Sha256>::new_from_slice(self.0.as_bytes()).ok()?;
        mac.update(signed_at.as_bytes());
        mac.update(b".");
        mac.update(body);
        Some(mac)
    }
}

impl fmt::Debug for EndpointSecret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("EndpointSecret(…)")
    }
}

/// Error: a body is not known to be from Stripe, or not to be recent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum SignatureError {
    /// The header field is not a list of one time and signatures.
    #[error("malformed signature header")]
    MalformedHeader,
    /// There is no signature of the scheme `v1`.
    #[error("no v1 signature")]
    NoV1,
    /// No signature is by one of the secrets over this body.
    #[error("no signature matches")]
    NoMatch,
    /// The signature is older than the tolerance: perhaps a replay.
    #[error("the signature is too old")]
    TooOld,
    /// The signature is newer than the clock, by more than the tolerance.
    #[error("the signature is in the future")]
    InFuture,
}

/// Checks that one of the signatures in `header` is by one of the secrets over the raw body, in constant
/// time, and that it was made within `tolerance` of `now`. There are several secrets while one is replaced,
/// and several signatures while Stripe replaces one.
///
/// # Errors
/// See [`SignatureError`].
pub fn verify_signature(
    body: &[u8],
    header: &str,
    secrets: &[EndpointSecret],
    now: Timestamp,
    tolerance: Duration,
) -> Result<(), SignatureError> {
    let (mut time, mut signatures) = (None, Vec::new());
    for member in header.split(',') {
        match member.trim().split_once('=') {
            Some(("t", value)) if time.is_none() => time = Some(value),
            Some(("t", _)) | None => return Err(SignatureError::MalformedHeader),
            Some(("v1", hex)) => signatures.push(hex),
            // Other schemes are signatures of test events, or of the future.
            Some(_) => {}
        }
    }
    let signed_at = time.ok_or(SignatureError::MalformedHeader)?;
    let seconds = signed_at
        .parse()
        .map_err(|_| SignatureError::MalformedHeader)?;
    let time = Timestamp::from_second(seconds).map_err(|_| SignatureError::MalformedHeader)?;
    if signatures.is_empty() {
        return Err(SignatureError::NoV1);
    }
    let matches = secrets
        .iter()
        .filter_map(|secret| secret.mac(signed_at, body))
        .any(|mac| {
            signatures.iter().any(|hex| {
                let mut code = [0; 32];
                hex::decode_to_slice(hex, &mut code).is_ok()
                    && mac.clone().verify_slice(&code).is_ok()
            })
        });
    if !matches {
        return Err(SignatureError::NoMatch);
    }
    match age(time, now, tolerance) {
        Age::Recent => Ok(()),
        Age::TooOld => Err(SignatureError::TooOld),
        Age::InFuture => Err(SignatureError::InFuture),
    }
}

/// Age of a signature.
pub(crate) enum Age {
    Recent,
    TooOld,
    InFuture,
}

/// Compares the time of a signature with a clock.
pub(crate) fn age(signed_at: Timestamp, now: Timestamp, tolerance: Duration) -> Age {
    let tolerance = SignedDuration::try_from(tolerance).unwrap_or(SignedDuration::MAX);
    // Both are whole seconds where they are compared: a signature has no fraction of one.
    let age = SignedDuration::from_secs(now.as_second().saturating_sub(signed_at.as_second()));
    if age > tolerance {
        Age::TooOld
    } else if age < -tolerance {
        Age::InFuture
    } else {
        Age::Recent
    }
}

/// Signs a body as Stripe does, and returns the value of the header field: for a stand-in of Stripe, and for
/// tests.
#[must_use]
pub fn sign(body: &[u8], secret: &EndpointSecret, signed_at: Timestamp) -> String {
    let time = signed_at.as_second().to_string();
    let code = secret
        .mac(&time, body)
        .map(|mac| mac.finalize().into_bytes());
    format!("t={time},v1={}", hex::encode(code.unwrap_or_default()))
}
