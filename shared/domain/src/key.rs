//! API keys: `<brand>_<env>_<secret><checksum>`.
//!
//! ```text
//! tg_live_4fJ9…(32 base62 characters, 190 bits)…0aZ3Qp
//! ────────────────                              ──────
//! visible prefix: first 8 of the secret         CRC-32 of all before it, base62
//! ```
//!
//! With underscores as separators, a double click selects the whole key. The checksum rejects typing
//! errors and random text before any I/O. Only a key's SHA-256 digest and visible prefix are stored.

use std::fmt;

use jiff::Timestamp;
use rand::Rng;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use zeroize::Zeroizing;

use crate::id::{self, CustomerId, KeyId};
use crate::plan::Overrides;
use crate::role::{CustomerRole, KeyGrant, Role};

/// Base62 characters in the secret part of a new key: 190.5 bits.
const SECRET_LEN: usize = 32;
const CHECKSUM_LEN: usize = 6;
/// Characters of the secret in the visible prefix; the other 142 bits stay secret.
const VISIBLE_LEN: usize = 8;
/// Maximum length of a key, which bounds the work for invalid ones.
const MAX_KEY_LEN: usize = 128;
/// `env` segment of admin keys.
const ADMIN_ENV: &str = "admin";

/// Format of new keys: `<brand>_<env>_…`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeyFormat {
    brand: String,
    env: String,
}

/// Error: the brand or the environment is not allowed in a key.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("a key's brand and env must each be 1 to 12 of a-z and 0-9, and the env not \"admin\"")]
pub struct InvalidKeyFormat;

impl KeyFormat {
    /// Checks the brand and environment segments of new keys.
    ///
    /// # Errors
    /// When either is empty, longer than 12 characters, or has a character other than a-z and 0-9, or
    /// when `env` is the one reserved for admin keys.
    pub fn new(brand: &str, env: &str) -> Result<Self, InvalidKeyFormat> {
        if is_segment(brand) && is_segment(env) && env != ADMIN_ENV {
            Ok(Self {
                brand: brand.to_owned(),
                env: env.to_owned(),
            })
        } else {
            Err(InvalidKeyFormat)
        }
    }

    /// Generates a key, with the env segment of its kind.
    pub fn generate(&self, kind: KeyKind, rng: &mut impl Rng) -> ApiKey {
        let env = match kind {
            KeyKind::Customer => self.env.as_str(),
            KeyKind::Admin => ADMIN_ENV,
        };
        let secret = Zeroizing::new(id::random_base62(rng, SECRET_LEN));
        let mut text = Zeroizing::new(String::with_capacity(MAX_KEY_LEN));
        text.push_str(&self.brand);
        text.push('_');
        text.push_str(env);
        text.push('_');
        text.push_str(&secret);
        let checksum = checksum(text.as_bytes());
        text.extend(checksum.iter().copied().map(char::from));
        ApiKey(text)
    }

    /// Whether `text` begins with the brand and an env segment of this format.
    #[must_use]
    pub fn has_prefix(&self, text: &str) -> bool {
        let mut segments = text.splitn(3, '_');
        let (brand, env, rest) = (segments.next(), segments.next(), segments.next());
        let is_env = env.is_some_and(|env| env == self.env || env == ADMIN_ENV);
        brand == Some(self.brand.as_str()) && is_env && rest.is_some()
    }
}

fn is_segment(text: &str) -> bool {
    (1..=12).contains(&text.len())
        && text
            .bytes()
            .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit())
}

fn checksum(body: &[u8]) -> [u8; CHECKSUM_LEN] {
    id::base62_of_u32(crc32fast::hash(body))
}

/// Complete API key: a secret. It is compared by digest and never printed; [`expose`](Self::expose)
/// returns it for the one response that shows it.
pub struct ApiKey(Zeroizing<String>);

/// Error: the text is not a key, because of its shape or its checksum. It gives no more details, so as
/// not to help in guessing keys.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not an API key")]
pub struct MalformedKey;

impl ApiKey {
    /// Parses a key of any brand and env, so that keys issued before a change of brand still work.
    ///
    /// # Errors
    /// When the shape or the checksum is wrong.
    pub fn parse(text: &str) -> Result<Self, MalformedKey> {
        if text.len() > MAX_KEY_LEN {
            return Err(MalformedKey);
        }
        let mut segments = text.splitn(3, '_');
        let (Some(brand), Some(env), Some(rest)) =
            (segments.next(), segments.next(), segments.next())
        else {
            return Err(MalformedKey);
        };
        let base62 = rest.bytes().all(|b| b.is_ascii_alphanumeric());
        if !is_segment(brand)
            || !is_segment(env)
            || !base62
            || rest.len() < SECRET_LEN + CHECKSUM_LEN
        {
            return Err(MalformedKey);
        }
        let (body, sum) = text.as_bytes().split_at(text.len() - CHECKSUM_LEN);
        if checksum(body) != sum {
            return Err(MalformedKey);
        }
        Ok(Self(Zeroizing::new(text.to_owned())))
    }

    /// Returns the kind that the key claims by its env segment, which its digest covers.
    #[must_use]
    pub fn kind(&self) -> KeyKind {
        match self.0.split('_').nth(1) {
            Some(ADMIN_ENV) => KeyKind::Admin,
            _ => KeyKind::Customer,
        }
    }

    /// Computes the SHA-256 of the whole key. A key has 190 random bits, which rules out a dictionary
    /// attack, so a plain hash is enough.
    #[must_use]
    pub fn digest(&self) -> KeyDigest {
        KeyDigest {
            kind: self.kind(),
            sha256: Sha256::digest(self.0.as_bytes()).into(),
        }
    }

    /// Returns the visible prefix, which may be shown, stored and logged.
    #[must_use]
    pub fn prefix(&self) -> KeyPrefix {
        let secret_at = self.0.rfind('_').map_or(0, |at| at + 1);
        KeyPrefix(self.0[..secret_at + VISIBLE_LEN].to_owned())
    }

    /// Returns the secret text of the key, for the one response that shows it.
    #[must_use]
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for ApiKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ApiKey({}…)", self.prefix())
    }
}

/// SHA-256 of a key, which is stored instead of the key. It includes the kind that the key claims,
/// because customers' keys and admin keys are stored separately.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct KeyDigest {
    kind: KeyKind,
    sha256: [u8; 32],
}

impl KeyDigest {
    /// Returns the kind that the key claims.
    #[must_use]
    pub fn kind(&self) -> KeyKind {
        self.kind
    }

    /// Returns the digest in lower-case hexadecimal, for the store only.
    #[must_use]
    pub fn expose_hex(&self) -> String {
        hex::encode(self.sha256)
    }
}

impl fmt::Debug for KeyDigest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("KeyDigest(…)")
    }
}

/// Visible prefix of a key, such as `tg_live_4fJ9aQ2c`: unique, and safe to show.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct KeyPrefix(String);

/// Error: the text is not a visible prefix.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a key prefix looks like tg_live_ and 8 letters or digits")]
pub struct MalformedPrefix;

impl KeyPrefix {
    /// Returns the prefix as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl std::str::FromStr for KeyPrefix {
    type Err = MalformedPrefix;

    fn from_str(text: &str) -> Result<Self, MalformedPrefix> {
        let segments: Vec<&str> = text.splitn(3, '_').collect();
        match segments[..] {
            [brand, env, visible]
                if is_segment(brand)
                    && is_segment(env)
                    && visible.len() == VISIBLE_LEN
                    && visible.bytes().all(|b| b.is_ascii_alphanumeric()) =>
            {
                Ok(Self(text.to_owned()))
            }
            _ => Err(MalformedPrefix),
        }
    }
}

impl TryFrom<String> for KeyPrefix {
    type Error = MalformedPrefix;

    fn try_from(text: String) -> Result<Self, MalformedPrefix> {
        text.parse()
    }
}

impl From<KeyPrefix> for String {
    fn from(prefix: KeyPrefix) -> String {
        prefix.0
    }
}

impl fmt::Display for KeyPrefix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Kind of a key, as its text states.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum KeyKind {
    /// A customer's key, which acts on behalf of that customer.
    Customer,
    /// An admin key, which belongs to no customer.
    Admin,
}

/// Stored record of a key: everything except the secret.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeyRecord {
    /// Id of the key in URLs and records.
    pub id: KeyId,
    /// Visible prefix.
    pub prefix: KeyPrefix,
    /// Name given by the key's creator.
    pub name: String,
    /// Customer or admin on whose behalf the key acts.
    pub owner: Owner,
    /// Role of a customer's key, which never changes. Without effect for an admin key.
    pub customer_role: CustomerRole,
    /// Time of creation.
    pub created_at: Timestamp,
    /// Time from which the key no longer works.
    pub expires_at: Option<Timestamp>,
    /// Time of the revocation, which is permanent.
    pub revoked_at: Option<Timestamp>,
    /// Time of the suspension, which, unlike a revocation, can be undone.
    pub suspended_at: Option<Timestamp>,
    /// Limits that replace the plan's.
    pub overrides: Overrides,
    /// Key that replaced this one in a rotation.
    pub rotated_to: Option<KeyId>,
    /// Key whose hourly counter counts the calls of this one, if not its own: the first key of a chain
    /// of rotations.
    pub hour_counter_id: Option<KeyId>,
}

impl KeyRecord {
    /// Creates the record of a new key without a name: it may call, never expires, and has no limits of its own.
    #[must_use]
    pub fn new(id: KeyId, prefix: KeyPrefix, owner: Owner, created_at: Timestamp) -> Self {
        Self {
            id,
            prefix,
            name: String::new(),
            owner,
            customer_role: CustomerRole::Call,
            created_at,
            expires_at: None,
            revoked_at: None,
            suspended_at: None,
            overrides: Overrides::default(),
            rotated_to: None,
            hour_counter_id: None,
        }
    }
}

/// Customer or admin on whose behalf a key acts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Owner {
    /// One customer, whose plan decides the limits.
    Customer(CustomerId),
    /// The operator of the API.
    Admin,
}

impl Owner {
    /// Returns the kind of the owner's keys.
    #[must_use]
    pub fn kind(&self) -> KeyKind {
        match self {
            Owner::Customer(_) => KeyKind::Customer,
            Owner::Admin => KeyKind::Admin,
        }
    }

    /// Returns the customer, or `None` for an admin key.
    #[must_use]
    pub fn customer(&self) -> Option<&CustomerId> {
        match self {
            Owner::Customer(id) => Some(id),
            Owner::Admin => None,
        }
    }
}

/// State of a key at one instant.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum KeyStatus {
    /// The key works.
    Active,
    /// The key is suspended until it is enabled again, expires or is revoked.
    Suspended,
    /// The key has expired.
    Expired,
    /// The key was revoked; this takes precedence over an expiry.
    Revoked,
}

impl KeyRecord {
    /// Returns the state at `now`. At the instant of its expiry, a key no longer works.
    #[must_use]
    pub fn status(&self, now: Timestamp) -> KeyStatus {
        if self.revoked_at.is_some() {
            KeyStatus::Revoked
        } else if self.expires_at.is_some_and(|at| at <= now) {
            KeyStatus::Expired
        } else if self.suspended_at.is_some() {
            KeyStatus::Suspended
        } else {
            KeyStatus::Active
        }
    }

    /// Returns the role of the key. The owner decides whether it is `admin`.
    #[must_use]
    pub fn role(&self) -> Role {
        match self.owner {
            Owner::Customer(_) => self.customer_role.into(),
            Owner::Admin => Role::Admin,
        }
    }

    /// Returns the grant of a customer's key, which bounds the keys that it mints.
    #[must_use]
    pub fn grant(&self) -> KeyGrant {
        KeyGrant {
            role: self.customer_role,
            expires_at: self.expires_at,
        }
    }

    /// Returns the id of the key whose hourly counter counts the calls of this one. A key and its
    /// successors share a counter, so that a rotation does not reset the hour.
    #[must_use]
    pub fn hour_counter_id(&self) -> &KeyId {
        self.hour_counter_id.as_ref().unwrap_or(&self.id)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use rand::SeedableRng;
    use rand::rngs::StdRng;

    use super::*;

    fn key(seed: u64) -> ApiKey {
        let format = KeyFormat::new("tg", "live").unwrap();
        format.generate(KeyKind::Customer, &mut StdRng::seed_from_u64(seed))
    }

    #[test]
    fn a_generated_key_has_the_documented_shape() {
        let key = key(1);
        let text = key.expose();
        assert_eq!(text.len(), "tg_live_".len() + 32 + 6);
        assert_eq!(key.prefix().as_str(), &text[..16]);
        let parsed = ApiKey::parse(text).unwrap();
        assert!(parsed.digest() == key.digest());
        assert_eq!(key.digest().expose_hex().len(), 64);
    }

    #[test]
    fn only_a_customer_key_has_a_customer() {
        let acme: CustomerId = "acme".parse().unwrap();
        assert_eq!(Owner::Customer(acme.clone()).customer(), Some(&acme));
        assert_eq!(Owner::Admin.customer(), None);
    }

    #[test]
    fn admin_keys_are_recognisable() {
        let format = KeyFormat::new("acme", "test").unwrap();
        let key = format.generate(KeyKind::Admin, &mut StdRng::seed_from_u64(7));
        assert!(key.expose().starts_with("acme_admin_"));
        assert_eq!(key.kind(), KeyKind::Admin);
        assert_eq!(self::key(7).kind(), KeyKind::Customer);
    }

    #[test]
    fn texts_with_the_prefix_of_a_key_are_recognised() {
        let format = KeyFormat::new("acme", "test").unwrap();
        for text in ["acme_test_", "acme_admin_4fJ9aQ2c", "acme_test_not a key"] {
            assert!(format.has_prefix(text), "{text}");
        }
        for text in [
            "",
            "acme",
            "acme_test",
            "acme_live_4fJ9aQ2c",
            "my_admin_key",
        ] {
            assert!(!format.has_prefix(text), "{text}");
        }
    }

    #[test]
    fn brands_and_envs_are_checked() {
        for (brand, env) in [
            ("", "live"),
            ("tg", ""),
            ("TG", "live"),
            ("tg", "admin"),
            ("t_g", "x"),
        ] {
            assert_eq!(
                KeyFormat::new(brand, env),
                Err(InvalidKeyFormat),
                "{brand} {env}"
            );
        }
    }

    #[test]
    fn malformed_keys_are_rejected() {
        let valid = key(2);
        let valid = valid.expose();
        let check = |text: &str| assert!(ApiKey::parse(text).is_err(), "{text}");
        check("");
        check("tg");
        check("tg_live_");
        check("sk_live_abc");
        check(&valid[..valid.len() - 1]);
        check(&format!("{valid}0"));
        check(&valid.replace("tg_", "tg-"));
        check(&format!("{valid} "));
        check(&"é".repeat(40));
        check(&"x".repeat(10_000));
    }

    #[test]
    fn neither_key_nor_digest_prints() {
        let key = key(3);
        let shown = format!("{key:?} {:?}", key.digest());
        assert!(!shown.contains(&key.expose()[16..]));
        assert!(shown.ends_with(" KeyDigest(…)"), "{shown}");
    }

    proptest! {
        #[test]
        fn one_wrong_character_is_detected(seed: u64, at in 0usize..46, to in "[0-9A-Za-z]") {
            let key = key(seed);
            let mut text = key.expose().to_owned();
            prop_assume!(text[at..=at] != to);
            text.replace_range(at..=at, &to);
            prop_assert!(ApiKey::parse(&text).is_err());
        }

        #[test]
        fn parsing_never_panics(text in ".{0,200}") {
            let _ = ApiKey::parse(&text);
            let _ = text.parse::<KeyPrefix>();
        }
    }
}
