//! Signatures of the webhooks that Tollgate sends, in the form of Standard Webhooks
//! (<https://www.standardwebhooks.com>), for which there are libraries in many languages.

use std::fmt;
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use hmac::{Hmac, KeyInit, Mac};
use jiff::Timestamp;
use sha2::Sha256;
use zeroize::Zeroizing;

use crate::webhook::{Age, age};

/// Header field with the id of a message, which is the same in all attempts to deliver it.
pub const ID_HEADER: &str = "webhook-id";
/// Header field with the time of an attempt, in seconds.
pub const TIMESTAMP_HEADER: &str = "webhook-timestamp";
/// Header field with the signatures.
pub const SIGNATURE_HEADER: &str = "webhook-signature";

const PREFIX: &str = "whsec_";

/// Secret that signs messages to one target, `whsec_…`. It never prints; [`expose`](Self::expose) returns it
/// for the response that shows it to the receiver.
#[derive(Clone, PartialEq, Eq)]
pub struct SigningSecret(Zeroizing<Vec<u8>>);

/// Error: the text or the bytes are not a signing secret.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a signing secret is whsec_ and 24 to 64 bytes in base64")]
pub struct InvalidSigningSecret;

impl SigningSecret {
    /// Creates a secret of random bytes.
    ///
    /// # Errors
    /// When there are fewer than 24 or more than 64.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, InvalidSigningSecret> {
        if (24..=64).contains(&bytes.len()) {
            Ok(Self(Zeroizing::new(bytes.to_vec())))
        } else {
            Err(InvalidSigningSecret)
        }
    }

    /// Parses a secret.
    ///
    /// # Errors
    /// When it is not `whsec_` and 24 to 64 bytes in base64.
    pub fn parse(text: &str) -> Result<Self, InvalidSigningSecret> {
        let encoded = text
            .trim()
            .strip_prefix(PREFIX)
            .ok_or(InvalidSigningSecret)?;
        let bytes = STANDARD.decode(encoded).map_err(|_| InvalidSigningSecret)?;
        Self::from_bytes(&Zeroizing::new(bytes))
    }

    /// Returns the text of the secret, for the response that shows it.
    #[must_use]
    pub fn expose(&self) -> Zeroizing<String> {
        let encoded = Zeroizing::new(STANDARD.encode(self.0.as_slice()));
        Zeroizing::new(format!("{PREFIX}{}", encoded.as_str()))
    }

    fn mac(&self, id: &str, timestamp: &str, body: &[u8]) -> Option<Hmac<Sha256>> {
        let mut mac = Hmac::<Sha256>::new_from_slice(&self.0).ok()?;
        for part in [id.as_bytes(), b".", timestamp.as_bytes(), b".", body] {
            mac.update(part);
        }
        Some(mac)
    }
}

impl fmt::Debug for SigningSecret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SigningSecret(…)")
    }
}

/// Values of the header fields of a message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SignedHeaders {
    /// Value of [`ID_HEADER`].
    pub id: String,
    /// Value of [`TIMESTAMP_HEADER`].
    pub timestamp: String,
    /// Value of [`SIGNATURE_HEADER`].
    pub signature: String,
}

/// Signs one attempt to deliver a message, by each of the secrets: there are several while the receiver
/// replaces one.
#[must_use]
pub fn sign(id: &str, sent_at: Timestamp, body: &[u8], secrets: &[SigningSecret]) -> SignedHeaders {
    let timestamp = sent_at.as_second().to_string();
    let signatures = secrets.iter().filter_map(|secret| {
        let code = secret.mac(id, &timestamp, body)?.finalize().into_bytes();
        Some(format!("v1,{}", STANDARD.encode(code)))
    });
    SignedHeaders {
        id: id.to_owned(),
        signature: signatures.collect::<Vec<_>>().join(" "),
        timestamp,
    }
}

/// Error: a message is not known to be from its sender, or not to be recent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum VerifyError {
    /// The time is not a number of seconds.
    #[error("malformed webhook-timestamp")]
    MalformedTimestamp,
    /// No signature is by one of the secrets over this message.
    #[error("no signature matches")]
    NoMatch,
    /// The message is older than the tolerance.
    #[error("the message is too old")]
    TooOld,
    /// The message is newer than the clock, by more than the tolerance.
    #[error("the message is in the future")]
    InFuture,
}

/// Checks that a message is by one of the secrets, in constant time, and was sent within `tolerance` of
/// `now`.
///
/// # Errors
/// See [`VerifyError`].
pub fn verify(
    headers: &SignedHeaders,
    body: &[u8],
    secrets: &[SigningSecret],
    now: Timestamp,
    tolerance: Duration,
) -> Result<(), VerifyError> {
    let seconds = headers
        .timestamp
        .parse()
        .map_err(|_| VerifyError::MalformedTimestamp)?;
    let sent_at = Timestamp::from_second(seconds).map_err(|_| VerifyError::MalformedTimestamp)?;
    let signatures = headers
        .signature
        .split(' ')
        .filter_map(|it| it.strip_prefix("v1,"));
    let codes: Vec<Vec<u8>> = signatures
        .filter_map(|code| STANDARD.decode(code).ok())
        .collect();
    let mut macs = secrets
        .iter()
        .filter_map(|it| it.mac(&headers.id, &headers.timestamp, body));
    if !macs.any(|mac| {
        codes
            .iter()
            .any(|code| mac.clone().verify_slice(code).is_ok())
    }) {
        return Err(VerifyError::NoMatch);
    }
    match age(sent_at, now, tolerance) {
        Age::Recent => Ok(()),
        Age::TooOld => Err(VerifyError::TooOld),
        Age::InFuture => Err(VerifyError::InFuture),
    }
}
