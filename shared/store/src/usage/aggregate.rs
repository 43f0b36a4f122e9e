//! Items of aggregates.

use std::collections::BTreeMap;

use aws_sdk_dynamodb::types::AttributeValue;
use tollgate_domain::id::PlanId;
use tollgate_domain::money::MicroUsd;
use tollgate_domain::usage::{AdjustmentTotals, Aggregate};

use crate::error::StoreError;
use crate::item::{Item, Reader, Whole, n, signed, whole};
use crate::schema::USAGE;
use crate::transaction::Action;

/// Prefix of the attributes that count billable calls by plan.
const BILLABLE_PREFIX: &str = "billable#";
/// Prefix of the attributes that sum up adjustments of billable calls by plan.
const ADJUSTED_PREFIX: &str = "adjusted#";

/// Returns the update that adds an aggregate to the item with this key, which need not exist yet.
pub(super) fn add(key: Item, aggregate: &Aggregate) -> Action {
    let Aggregate { adjusted, .. } = aggregate;
    let fixed = [
        ("calls", n(aggregate.calls)),
        ("client_errors", n(aggregate.client_errors)),
        ("server_errors", n(aggregate.server_errors)),
        ("latency_ms", n(aggregate.latency_ms)),
        ("tokens", n(aggregate.tokens)),
        ("unpriced_tokens", n(aggregate.unpriced_tokens)),
        ("cost_micro_usd", n(aggregate.cost.0)),
        ("adjustments", n(adjusted.count)),
        ("adjusted_cost_micro_usd", signed(adjusted.micro_usd)),
    ];
    let fixed = fixed.map(|(name, value)| (name.to_owned(), value));
    let billable = aggregate.billable.iter();
    let billable = billable.map(|(plan, calls)| (format!("{BILLABLE_PREFIX}{plan}"), n(*calls)));
    let adjustments = adjusted.billable.iter();
    let adjustments =
        adjustments.map(|(plan, calls)| (format!("{ADJUSTED_PREFIX}{plan}"), signed(*calls)));
    let zero = n(0);
    let sums: Vec<(String, AttributeValue)> = fixed
        .into_iter()
        .chain(billable)
        .chain(adjustments)
        .filter(|(_, value)| *value != zero)
        .collect();
    let clauses: Vec<String> = (0..sums.len()).map(|i| format!("#a{i} :a{i}")).collect();
    let mut action = Action::update(USAGE, key, format!("ADD {}", clauses.join(", ")));
    for (i, (name, value)) in sums.into_iter().enumerate() {
        action = action
            .name(format!("#a{i}"), name)
            .value(format!(":a{i}"), value);
    }
    action
}

pub(super) fn read_aggregate(item: &Item) -> Result<Aggregate, StoreError> {
    let billable = read_by_plan(item, BILLABLE_PREFIX)?;
    let mut adjusted = read_by_plan(item, ADJUSTED_PREFIX)?;
    adjusted.retain(|_, calls| *calls != 0);
    let item = Reader::new("aggregate", item);
    let sum = |name| item.opt_number(name).map(|sum| sum.unwrap_or(0));
    Ok(Aggregate {
        calls: sum("calls")?,
        billable,
        client_errors: sum("client_errors")?,
        server_errors: sum("server_errors")?,
        latency_ms: sum("latency_ms")?,
        tokens: sum("tokens")?,
        unpriced_tokens: sum("unpriced_tokens")?,
        cost: MicroUsd(sum("cost_micro_usd")?),
        adjusted: AdjustmentTotals {
            count: sum("adjustments")?,
            billable: adjusted,
            micro_usd: item.opt_signed("adjusted_cost_micro_usd")?.unwrap_or(0),
        },
    })
}

/// Reads the numbers whose attributes begin with `prefix`, by the plan that follows it.
fn read_by_plan<N: Whole>(
    item: &Item,
    prefix: &'static str,
) -> Result<BTreeMap<PlanId, N>, StoreError> {
    let corrupt = || StoreError::corrupt("aggregate", prefix);
    item.iter()
        .filter_map(|(name, value)| Some((name.strip_prefix(prefix)?, value)))
        .map(|(plan, value)| {
            let plan = plan.parse().map_err(|_| corrupt())?;
            Ok((plan, whole(value).ok_or_else(corrupt)?))
        })
        .collect()
}
