//! The admin API: customers, usage, quarantine, reconciliation and billing.

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

/// State of an admin-api instance. Cheap to clone; clones share it.
#[derive(Debug, Clone)]
pub struct App {
    /// The tables.
    pub store: Store,
    /// The plans that customers can have.
    pub plans: Catalog,
    /// Clock for timestamps, and for the current day and month.
    pub clock: Clock,
    /// Randomness for the ids of customers.
    pub entropy: Entropy,
    /// Shard counts of hot aggregates, as learnt by this instance.
    pub shard_counts: ShardCounts,
    /// Cache of the customers that keys belong to.
    pub owners: Owners,
    /// Metrics of charges and usage.
    pub metrics: Metrics,
}

impl App {
    /// Builds the state from environment variables.
    ///
    /// # Errors
    /// When a variable is missing or invalid.
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
            shard_counts: ShardCounts::default(),
            owners: Owners::default(),
        })
    }

    /// Returns the state of a usage-writer, to ingest usage events with.
    fn writer(&self) -> usage_writer::App {
        usage_writer::App {
            store: self.store.clone(),
            shard_counts: self.shard_counts.clone(),
            owners: self.owners.clone(),
            plans: self.plans.clone(),
            clock: self.clock.clone(),
            metrics: self.metrics.clone(),
        }
    }
}

/// Returns the routes.
pub fn routes(app: App) -> Router {
    customers::routes(app.clone())
        .merge(usage::routes(app.clone()))
        .merge(quarantine::routes(app.clone()))
        .merge(reconciliation::routes(app.clone()))
        .merge(billing::routes(app))
}
