//! Administration of API keys: create, list, get, update, rotate, revoke, and statistics.
//!
//! Each operation is a Lambda function of its own, whose role allows only the table access that it needs.

mod checks;
pub mod create;
pub mod get;
pub mod list;
mod page;
pub mod revoke;
pub mod rotate;
pub mod stats;
pub mod update;

use tollgate_domain::key::KeyFormat;
use tollgate_runtime::config::{self, InvalidConfig};
use tollgate_runtime::{Clock, Entropy, Init};
use tollgate_store::Store;

/// State of an instance of any of the functions. Cheap to clone; clones share it.
#[derive(Debug, Clone)]
pub struct App {
    /// The tables.
    pub store: Store,
    /// Clock for the expiry of keys and for timestamps.
    pub clock: Clock,
}

/// State of an instance of the functions that create keys.
#[derive(Debug, Clone)]
pub struct Issuer {
    /// Tables and clock.
    pub app: App,
    /// Randomness for the secrets and ids of keys.
    pub entropy: Entropy,
    /// Format of new keys.
    pub format: KeyFormat,
}

impl App {
    /// Builds the state of a new instance.
    ///
    /// # Errors
    /// When the environment lacks the tables.
    pub fn build(init: &Init) -> Result<Self, InvalidConfig> {
        Ok(Self {
            store: Store::build(init)?,
            clock: init.clock.clone(),
        })
    }
}

impl Issuer {
    /// Builds the state of a new instance.
    ///
    /// # Errors
    /// When the environment lacks the tables or the format of keys.
    pub fn build(init: &Init) -> Result<Self, InvalidConfig> {
        Ok(Self {
            app: App::build(init)?,
            entropy: init.entropy.clone(),
            format: config::key_format(&init.env)?,
        })
    }
}

/// Most attempts to generate a key whose prefix and id are not taken. Prefixes have 47 random bits: with a
/// million keys, one attempt in 200 million finds a taken one.
const MAX_ATTEMPTS: usize = 3;
