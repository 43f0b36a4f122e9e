//! Administration of API keys: create, list, get, update, rotate, revoke, and statistics.
//!
//! Each operation is a Lambda function of its own, whose role allows only the table access that it needs.

pub mod create;
pub mod get;
pub mod list;
mod page;
pub mod revoke;
pub mod rotate;
pub mod stats;
pub mod update;
mod view;

use tollgate_domain::key::KeyFormat;
use tollgate_runtime::{Clock, Entropy, Env, aws, config};
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
    /// Builds the state from environment variables.
    ///
    /// # Errors
    /// When a variable is missing or invalid.
    pub fn from_env(env: &Env) -> Result<Self, lambda_http::Error> {
        let sdk = aws::sdk_config(env, aws::BACKGROUND_TIMEOUT)?;
        let clock = Clock::system();
        let store = Store::from_env(env, &sdk, clock.clone(), Entropy::system()?)?;
        Ok(Self { store, clock })
    }
}

impl Issuer {
    /// Builds the state from environment variables.
    ///
    /// # Errors
    /// When a variable is missing or invalid, or the operating system provides no randomness.
    pub fn from_env(env: &Env) -> Result<Self, lambda_http::Error> {
        Ok(Self {
            app: App::from_env(env)?,
            entropy: Entropy::system()?,
            format: config::key_format(env)?,
        })
    }
}

/// Most attempts to generate a key whose prefix and id are not taken. Prefixes have 47 random bits: with a
/// million keys, one attempt in 200 million finds a taken one.
const MAX_ATTEMPTS: usize = 3;
