//! Customers, usage and billing, for admins.

mod billing;
mod customers;
mod quarantine;
mod reconciliation;
mod usage;

use axum::Router;
use tollgate_domain::plan::Catalog;
use tollgate_runtime::{Clock, Entropy, Env, Metrics, aws, config, env};
use tollgate_store::{ShardCounts, Store};
use usage_writer::Owners;

/// What the function works with.
#[derive(Debug, Clone)]
pub struct App {
    /// Customers, usage and ledger.
    pub store: Store,
    /// Which plans there are.
    pub plans: Catalog,
    /// Dates what is done.
    pub clock: Clock,
    /// Where the ids of customers come from.
    pub entropy: Entropy,
    /// Whose tallies this instance spreads.
    pub spread: ShardCounts,
    /// Whose keys are.
    pub owners: Owners,
    /// Charges and usage are counted here.
    pub metrics: Metrics,
}

impl App {
    /// As the environment says.
    ///
    /// # Errors
    /// When it does not say enough.
    pub fn from_env(env: &Env) -> Result<Self, lambda_http::Error> {
        let sdk = aws::sdk_config(env, aws::BACKGROUND_TIMEOUT)?;
        let clock = Clock::system();
        let entropy = Entropy::system()?;
        Ok(Self {
            store: Store::from_env(env, &sdk, clock.clone(), entropy.clone())?,
            plans: config::plans(env)?,
            metrics: Metrics::to_stdout(env.get(env::TABLE_PREFIX)?, clock.clone()),
            clock,
            entropy,
            spread: ShardCounts::default(),
            owners: Owners::default(),
        })
    }

    /// What counts usage, as the usage-writer does.
    fn writer(&self) -> usage_writer::App {
        usage_writer::App {
            store: self.store.clone(),
            spread: self.spread.clone(),
            owners: self.owners.clone(),
            plans: self.plans.clone(),
            clock: self.clock.clone(),
            metrics: self.metrics.clone(),
        }
    }
}

/// The routes.
pub fn routes(app: App) -> Router {
    customers::routes(app.clone())
        .merge(usage::routes(app.clone()))
        .merge(quarantine::routes(app.clone()))
        .merge(reconciliation::routes(app.clone()))
        .merge(billing::routes(app))
}
