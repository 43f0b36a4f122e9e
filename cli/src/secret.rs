//! The API key of a profile.

use std::fmt;

use http::HeaderValue;
use serde::{Deserialize, Serialize};
use tollgate_domain::key::ApiKey;

use crate::failure::Failure;

/// API key, which `Debug` does not print. It need not have the form of a key: the local product accepts any text
/// as its admin key.
#[derive(Clone, Serialize, Deserialize)]
#[serde(transparent)]
pub(crate) struct Secret(String);

impl Secret {
    /// Creates a key from what was typed or piped, without white space around it.
    pub(crate) fn new(text: &str) -> Result<Self, Failure> {
        let key = Self(text.trim().to_owned());
        if key.0.is_empty() {
            return Err(Failure::usage("the key is empty"));
        }
        key.header()?;
        Ok(key)
    }

    /// Returns the value of the header field that sends the key.
    pub(crate) fn header(&self) -> Result<HeaderValue, Failure> {
        let mut value = HeaderValue::from_str(&self.0)
            .ok()
            .filter(|_| self.0.bytes().all(|byte| byte.is_ascii_graphic()))
            .ok_or_else(|| Failure::usage("the key has characters that no key has"))?;
        value.set_sensitive(true);
        Ok(value)
    }

    /// Returns what may be shown of the key.
    pub(crate) fn shown(&self) -> String {
        match ApiKey::parse(&self.0) {
            Ok(key) => format!("{}…", key.prefix()),
            Err(_) => "the given key".to_owned(),
        }
    }
}

impl From<ApiKey> for Secret {
    fn from(key: ApiKey) -> Self {
        Self(key.expose().to_owned())
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(…)")
    }
}
