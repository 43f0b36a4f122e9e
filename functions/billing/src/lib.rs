//! The nightly billing function.

use tollgate_api::billing::BillingRun;
use tollgate_billing::{Billing, Mode, Part, run};
use tollgate_runtime::config::InvalidConfig;
use tollgate_runtime::{Init, metrics};
use tollgate_store::StoreError;

/// State of a billing instance. Cheap to clone; clones share it.
#[derive(Debug, Clone)]
pub struct App {
    /// Runs billing.
    pub billing: Billing,
}

impl App {
    /// Builds the state of a new instance.
    ///
    /// # Errors
    /// When the environment lacks the tables or the plans.
    pub fn build(init: &Init) -> Result<Self, InvalidConfig> {
        let billing = Billing::build(init)?;
        Ok(Self { billing })
    }
}

/// Error of a billing run in which some billing periods could not be billed. All others were.
#[derive(Debug, thiserror::Error)]
#[error("{0} billing periods could not be billed; the next run tries again")]
pub struct Incomplete(u64);

/// Error of a scheduled billing run.
#[derive(Debug, thiserror::Error)]
pub enum BillingRunError {
    /// The list of customers could not be read.
    #[error("the run could not be finished")]
    Store(#[from] StoreError),
    /// Some customers could not be billed.
    #[error(transparent)]
    Incomplete(#[from] Incomplete),
}

/// Handles the nightly schedule: runs billing. Fails if any billing period could not be billed, so that
/// Lambda retries the run and an alarm is raised.
///
/// # Errors
/// When the run could not be finished, or some billing periods could not be billed.
pub async fn handle(app: &App) -> Result<BillingRun, BillingRunError> {
    let App { billing } = app;
    let (report, _) = run(billing, Mode::Charge, Part::default()).await?;
    billing.metrics.record(metrics::BILLING_RUNS, &[], 1);
    billing.metrics.write();
    tracing::info!(
        billing_periods = report.billing_periods,
        charge_count = report.charge_count,
        cents = report.cents.0,
        failed = report.failed,
        "billing run finished"
    );
    if report.failed > 0 {
        return Err(Incomplete(report.failed).into());
    }
    Ok(report)
}
