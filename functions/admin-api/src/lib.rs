//! The admin API: customers, usage, quarantine, reconciliation, billing, events and webhooks.

mod billing;
mod customers;
mod defects;
mod events;
mod plans;
mod quarantine;
mod reconciliation;
mod stripe_id;
mod usage;
mod webhooks;

use axum::Router;
use tollgate_billing::Billing;
use tollgate_domain::webhook::Reach;
use tollgate_ingest::Ingest;
use tollgate_runtime::config::{self, InvalidConfig};
use tollgate_runtime::{Clock, Entropy, Init, Metrics};
use tollgate_store::Store;
use utoipa::OpenApi;

/// State of an admin-api instance. Cheap to clone; clones share it.
#[derive(Debug, Clone)]
pub struct App {
    /// The tables.
    pub store: Store,
    /// Clock for timestamps, and for the current day and month.
    pub clock: Clock,
    /// Randomness for the ids of customers.
    pub entropy: Entropy,
    /// Checks and counts usage events.
    pub ingest: Ingest,
    /// Runs billing.
    pub billing: Billing,
    /// Metrics of charges and usage.
    pub metrics: Metrics,
    /// Addresses that webhooks may lead to.
    pub webhook_reach: Reach,
}

impl App {
    /// Builds the state of a new instance.
    ///
    /// # Errors
    /// When the environment lacks the tables.
    pub fn build(init: &Init) -> Result<Self, InvalidConfig> {
        let ingest = Ingest::build(init)?;
        let Ingest {
            store,
            clock,
            metrics,
            ..
        } = ingest.clone();
        Ok(Self {
            billing: Billing::new(store.clone(), clock.clone(), metrics.clone())
                .configured(&init.env)?,
            ingest,
            entropy: init.entropy.clone(),
            store,
            clock,
            metrics,
            webhook_reach: config::webhook_reach(&init.env)?,
        })
    }
}

/// Returns the routes.
pub fn routes(app: App) -> Router {
    customers::routes(app.clone())
        .merge(plans::routes(app.clone()))
        .merge(usage::routes(app.clone()))
        .merge(quarantine::routes(app.clone()))
        .merge(reconciliation::routes(app.clone()))
        .merge(events::routes(app.clone()))
        .merge(webhooks::routes(app.clone()))
        .merge(billing::routes(app))
}

/// Returns the OpenAPI document of the operations.
#[must_use]
pub fn openapi() -> utoipa::openapi::OpenApi {
    let mut document = customers::Operations::openapi();
    for part in [
        plans::Operations::openapi(),
        usage::Operations::openapi(),
        quarantine::Operations::openapi(),
        reconciliation::Operations::openapi(),
        events::Operations::openapi(),
        webhooks::Operations::openapi(),
        billing::Operations::openapi(),
    ] {
        document.merge(part);
    }
    document
}
