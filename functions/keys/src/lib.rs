//! API keys, for admins: create, list, get, update, rotate, revoke, and statistics.
//!
//! Each operation is a Lambda function of its own, which may touch in the tables only what it
//! needs to.

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

/// What the operations work with.
#[derive(Debug, Clone)]
pub struct App {
    /// The tables.
    pub store: Store,
    /// Tells which keys have expired, and dates what is done.
    pub clock: Clock,
}

/// What the operations that make keys work with besides.
#[derive(Debug, Clone)]
pub struct Issuer {
    /// Tables and time.
    pub app: App,
    /// Where the secrets come from.
    pub entropy: Entropy,
    /// What new keys look like.
    pub format: KeyFormat,
}

impl App {
    /// As the environment says.
    ///
    /// # Errors
    /// When it does not say enough.
    pub fn from_env(env: &Env) -> Result<Self, lambda_http::Error> {
        let sdk = aws::sdk_config(env, aws::BACKGROUND_TIMEOUT)?;
        let clock = Clock::system();
        let store = Store::from_env(env, &sdk, clock.clone(), Entropy::system()?)?;
        Ok(Self { store, clock })
    }
}

impl Issuer {
    /// As the environment says.
    ///
    /// # Errors
    /// When it does not say enough, or the machine has no randomness to give.
    pub fn from_env(env: &Env) -> Result<Self, lambda_http::Error> {
        Ok(Self {
            app: App::from_env(env)?,
            entropy: Entropy::system()?,
            format: config::key_format(env)?,
        })
    }
}

/// How often a key is drawn again when its name is taken. Prefixes have 47 bits: with a million
/// keys, one draw in 200 million meets one.
const MAX_DRAWS: usize = 3;
