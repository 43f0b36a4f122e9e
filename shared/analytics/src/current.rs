//! Usage of a customer in the current month.

use jiff::Timestamp;
use tollgate_api::money::SignedAmount;
use tollgate_api::usage::{
    AdjustmentSums, AdmittedUsage, CurrentUsage, MeteredUsage, Overage, Period,
};
use tollgate_domain::billing::{OverageLine, billable_days, overage};
use tollgate_domain::id::{CustomerId, KeyId, PlanId};
use tollgate_domain::money::MicroUsd;
use tollgate_domain::plan::Plan;
use tollgate_domain::usage::Aggregate;
use tollgate_domain::window::Month;
use tollgate_store::{Store, StoreError};

/// Returns the overage line of a plan without calls, if the plan charges overage.
fn unused_plan(plan: &Plan) -> Option<OverageLine> {
    let included = plan.included().filter(|_| plan.charges_overage())?;
    Some(OverageLine {
        plan: plan.id.clone(),
        calls: 0,
        adjusted: 0,
        included,
        overage_calls: 0,
        micro_usd: MicroUsd(0),
    })
}

/// Computes the usage of `customer` in the month of `now`, with the quota of the key `key_id`. The customer
/// is on `caller_plan`.
///
/// # Errors
/// When the store fails.
pub async fn current_usage(
    store: &Store,
    customer: &CustomerId,
    caller_plan: &PlanId,
    key_id: KeyId,
    now: Timestamp,
) -> Result<CurrentUsage, StoreError> {
    let month = Month::containing(now);
    let customer_read = store.customer(customer).await?;
    let pins = customer_read.map(|read| read.pins).unwrap_or_default();
    let plans = store.plans().await?.catalog(month, &pins);
    let plan = plans.get(caller_plan);
    let key = store.customer_key(key_id).await?;
    let overrides = key.map(|key| key.overrides).unwrap_or_default();
    let limit = plan.and_then(|plan| plan.limits(&overrides).per_month);
    let counter = store.month_counter(customer, month).await?;
    // All numbers are computed from one read of the days, so that they agree with each other.
    let days = store.day_usage(customer, month).await?;
    let mut aggregate = Aggregate::default();
    days.values().for_each(|day| aggregate.merge(day));
    let overage = overage(&plans, &billable_days(&days)).ok();
    let overage = overage.map(|mut lines| {
        if !lines.iter().any(|line| line.plan == *caller_plan) {
            lines.extend(plan.and_then(unused_plan));
        }
        Overage::from(lines)
    });
    Ok(CurrentUsage {
        customer_id: customer.clone(),
        plan: caller_plan.clone(),
        period: Period {
            month,
            starts_at: month.start(),
            ends_at: month.end(),
        },
        admitted: AdmittedUsage {
            calls: counter.admitted(),
            uncounted: counter.uncounted,
            reserved: counter.reserved.saturating_sub(counter.spent),
            limit,
            remaining: limit.map(|limit| limit.saturating_sub(counter.spent)),
        },
        metered: MeteredUsage {
            calls: aggregate.calls,
            billable_calls: aggregate.billable_calls(),
            client_errors: aggregate.client_errors,
            server_errors: aggregate.server_errors,
            average_latency_ms: aggregate
                .latency_ms
                .checked_div(aggregate.calls)
                .unwrap_or(0),
            tokens: aggregate.tokens,
            cost: aggregate.cost.into(),
        },
        adjustments: AdjustmentSums {
            count: aggregate.adjusted.count,
            billable_calls: aggregate.adjusted.billable_calls(),
            cost: SignedAmount::of(aggregate.adjusted.micro_usd),
        },
        overage,
    })
}
