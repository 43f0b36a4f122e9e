//! Calculation of a charge, for whoever checks it.

use std::collections::BTreeSet;

use tollgate_api::billing::{Proof, RatedCalls};
use tollgate_api::payments::CustomerCharge;
use tollgate_api::usage::RatedPlan;
use tollgate_domain::billing::{InvalidUsageLines, parse_usage_lines};
use tollgate_domain::failure::{Failure, FailureKind};
use tollgate_domain::submission::ChargeRef;
use tollgate_runtime::Clock;
use tollgate_store::{Store, StoreError, kept_from};

/// Error: a charge has no proof.
#[derive(Debug, thiserror::Error)]
pub enum ProofError {
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The ledger has another text than the calls from which the charge was computed.
    #[error("the calls of a charge cannot be read")]
    Usage(#[from] InvalidUsageLines),
}

impl Failure for ProofError {
    fn kind(&self) -> FailureKind {
        match self {
            ProofError::Store(error) => error.kind(),
            ProofError::Usage(_) => FailureKind::Permanent,
        }
    }
}

/// Returns the calculation of a charge: the calls by day and plan from which it was computed, and the versions of
/// the plans, which have not changed since. `None` if there is no such charge.
///
/// # Errors
/// When the store fails, or the ledger has another text than these calls.
pub async fn proof(
    store: &Store,
    clock: &Clock,
    name: &ChargeRef,
) -> Result<Option<Proof>, ProofError> {
    let Some(ledger) = store.charge(name).await? else {
        return Ok(None);
    };
    let charge = &ledger.charge;
    let days = parse_usage_lines(&charge.usage)?;
    let used: BTreeSet<_> = days.values().flat_map(|by_plan| by_plan.keys()).collect();
    let plans = store.plans().await?;
    let pins = store.customer(&name.customer).await?;
    let pins = pins.map(|customer| customer.pins).unwrap_or_default();
    let plans = used
        .into_iter()
        .filter_map(|plan| plans.in_effect(plan, name.month, &pins));
    let plans = plans.map(RatedPlan::from).collect();
    let usage = days.iter().flat_map(|(day, by_plan)| {
        by_plan.iter().map(|(plan, calls)| RatedCalls {
            day: *day,
            plan: plan.clone(),
            calls: calls.calls,
            adjusted_calls: calls.adjusted,
        })
    });
    Ok(Some(Proof {
        cumulative_overage: charge.cumulative_overage.into(),
        charged_before: charge.charged_before().into(),
        usage_digest: charge.usage_digest.clone(),
        usage: usage.collect(),
        plans,
        kept_from: kept_from(clock.now()),
        charge: CustomerCharge::new(ledger),
    }))
}
