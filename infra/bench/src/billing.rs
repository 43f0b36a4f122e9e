//! Measures billing: what a nightly run reads and how much memory it takes, and the rate of the charge worker.

mod page;
mod planner;
mod seed;
mod worker;

use std::path::PathBuf;
use std::time::Duration;

use serde::Serialize;
use tollgate_local_aws::template::{InvalidTemplate, Stack};
use tollgate_store::StoreError;

use crate::RELEASE;
use crate::contender::{Contender, ContenderError};
use crate::dynamodb::EndpointError;
use crate::run::{binary_in, progress};
use crate::tables::{STACK, SeedError};
use crate::tools::{ToolError, build, target_dir};

pub(crate) use page::{HEADING, page, tables};
pub(crate) use planner::Measured;
pub(crate) use worker::Case;

/// Customers in the largest run.
pub(crate) const CUSTOMERS: usize = 1_000_000;
/// Customers of whom one owes: five per cent of all.
pub(crate) const ONE_OWES_OF: usize = 20;
/// Seconds for which the rate of the workers is measured in each case.
pub(crate) const SECONDS: u64 = 300;
/// Name of the secret with Stripe's key. Without one, a run queues no charges.
const SECRET: &str = "stripe";

/// An error that prevents the measurement of billing.
#[derive(Debug, thiserror::Error)]
pub(crate) enum BillingError {
    #[error(transparent)]
    Tool(#[from] ToolError),
    #[error(transparent)]
    Seed(#[from] SeedError),
    #[error(transparent)]
    Endpoint(#[from] EndpointError),
    #[error(transparent)]
    Contender(#[from] ContenderError),
    #[error("the functions' environment variables cannot be read from the template")]
    Template(#[from] InvalidTemplate),
    #[error("an event or a response is not valid JSON")]
    Json(#[from] serde_json::Error),
    #[error("the store failed")]
    Store(#[from] StoreError),
    #[error("a queue cannot be used")]
    Services(#[from] tollgate_local_aws::LocalAwsError),
    #[error("a queue failed")]
    Queue(#[from] tollgate_local_aws::QueueError),
    #[error("the embedded DynamoDB responded with {0}")]
    DynamoDb(String),
    #[error("the stand-in for Stripe cannot be used: {0}")]
    Stripe(String),
    #[error("the run is not as it should be: {0}")]
    Wrong(String),
}

/// Results of a run.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Results {
    /// Runs with a hundredth, a tenth and all of the customers.
    pub(crate) measured: Vec<Measured>,
    /// Rates of the workers.
    pub(crate) cases: Vec<Case>,
}

/// Functions under measurement.
struct Functions {
    dir: PathBuf,
    planner: PathBuf,
    worker: PathBuf,
}

impl Functions {
    fn contender(
        &self,
        name: &str,
        (binary, function): (&PathBuf, &str),
        changed: &[(&str, &str)],
    ) -> Result<Contender, BillingError> {
        let mut variables = Stack::built_in(STACK)?.variables(function)?;
        let changed = changed
            .iter()
            .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
        variables.extend(changed);
        let variables = variables.into_iter().collect();
        Ok(binary_in(&self.dir, name, binary, variables))
    }

    /// Returns the planner, with a secret's name, so that it queues the charges.
    fn planner(&self) -> Result<Contender, BillingError> {
        let secret = tollgate_runtime::env::STRIPE_SECRET.name;
        let function = (&self.planner, "BillingFunction");
        self.contender("billing", function, &[(secret, SECRET)])
    }

    /// Returns a charge worker with the stand-in for Stripe at `url`.
    fn worker(&self, number: usize, url: &str) -> Result<Contender, BillingError> {
        let changed = [
            (tollgate_runtime::env::STRIPE_SECRET.name, SECRET),
            (tollgate_runtime::env::STRIPE_URL.name, url),
        ];
        let name = format!("charge-worker-{number}");
        self.contender(&name, (&self.worker, "ChargeWorkerFunction"), &changed)
    }
}

/// Measures measured of up to `customers` customers, and the rate of the workers for `seconds` in each case.
pub(crate) async fn measure(customers: usize, seconds: u64) -> Result<Results, BillingError> {
    progress("building billing and the charge worker");
    let functions = Functions {
        dir: target_dir().await?.join("bench"),
        planner: build("billing", "billing", RELEASE).await?,
        worker: build("billing", "charge-worker", RELEASE).await?,
    };
    let dir = &functions.dir;
    std::fs::create_dir_all(dir).map_err(|error| ToolError::File(dir.clone(), error))?;
    let cases = worker::measure(&functions, Duration::from_secs(seconds)).await?;
    let mut measured = Vec::new();
    for customers in [customers / 100, customers / 10, customers] {
        measured.push(planner::measure(&functions, customers).await?);
    }
    Ok(Results { measured, cases })
}
