//! Attributes of aggregates: each is a number, to which DynamoDB adds.

use std::collections::BTreeMap;

use aws_sdk_dynamodb::types::AttributeValue;
use tollgate_domain::id::PlanId;
use tollgate_domain::money::MicroUsd;
use tollgate_domain::usage::{Aggregate, LATENCY_BUCKETS};

use crate::error::StoreError;
use crate::item::{n, signed, whole};

/// A number of an aggregate.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Field {
    Calls,
    ClientErrors,
    ServerErrors,
    LatencyMs,
    Tokens,
    UnpricedTokens,
    Cost,
    /// Billable calls on a plan.
    Billable(PlanId),
    /// Calls in a bucket of the latencies.
    Latency(u8),
    Adjustments,
    AdjustedCost,
    /// Adjustments of billable calls on a plan.
    Adjusted(PlanId),
}

/// Fields without a parameter, by the attributes of aggregates that have an item of their own, and by the letters of those
/// that share one.
const NAMES: [(Field, &str, &str); 9] = [
    (Field::Calls, "calls", "C"),
    (Field::ClientErrors, "client_errors", "E"),
    (Field::ServerErrors, "server_errors", "F"),
    (Field::LatencyMs, "latency_ms", "L"),
    (Field::Tokens, "tokens", "T"),
    (Field::UnpricedTokens, "unpriced_tokens", "U"),
    (Field::Cost, "cost_micro_usd", "M"),
    (Field::Adjustments, "adjustments", ""),
    (Field::AdjustedCost, "adjusted_cost_micro_usd", ""),
];
/// Beginnings of the attributes of fields with a parameter.
const BILLABLE: &str = "billable#";
const ADJUSTED: &str = "adjusted#";
const LATENCY: char = 'H';
/// Letter of the billable calls of an aggregate that shares an item.
const SLOT_BILLABLE: char = 'B';

impl Field {
    /// Returns the attribute of an aggregate that has an item of its own.
    pub(super) fn attribute(&self) -> String {
        match self {
            Field::Billable(plan) => format!("{BILLABLE}{plan}"),
            Field::Adjusted(plan) => format!("{ADJUSTED}{plan}"),
            Field::Latency(bucket) => format!("{LATENCY}{bucket:02}"),
            other => named(other)
                .map(|(name, _)| name.to_owned())
                .unwrap_or_default(),
        }
    }

    /// Parses the attribute of an aggregate that has an item of its own: `None` if it is not a field.
    ///
    /// # Errors
    /// When its parameter is invalid.
    fn of_attribute(name: &str) -> Result<Option<Self>, StoreError> {
        let corrupt = |_| StoreError::corrupt("aggregate", "billable");
        if let Some(plan) = name.strip_prefix(BILLABLE) {
            return plan.parse().map(Field::Billable).map(Some).map_err(corrupt);
        }
        if let Some(plan) = name.strip_prefix(ADJUSTED) {
            return plan.parse().map(Field::Adjusted).map(Some).map_err(corrupt);
        }
        if let Some((bucket, "")) = split_latency(name) {
            return Ok(Some(Field::Latency(bucket)));
        }
        let found = NAMES.iter().find(|(_, attribute, _)| *attribute == name);
        Ok(found.map(|(field, _, _)| field.clone()))
    }

    /// Returns the attribute of an aggregate in a slot: `None` for what such aggregates do not have.
    pub(super) fn attribute_in(&self, slot: &str) -> Option<String> {
        match self {
            Field::Billable(plan) => Some(format!("{SLOT_BILLABLE}{slot}#{plan}")),
            Field::Latency(bucket) => Some(format!("{LATENCY}{bucket:02}{slot}")),
            Field::Adjusted(_) => None,
            other => named(other)
                .filter(|(_, letter)| !letter.is_empty())
                .map(|(_, letter)| format!("{letter}{slot}")),
        }
    }

    /// Parses the attribute of an aggregate in a slot into the slot and the field: `None` if it is none.
    ///
    /// # Errors
    /// When its parameter is invalid.
    fn in_slot(name: &str) -> Result<Option<(&str, Self)>, StoreError> {
        if let Some((slot, plan)) = name
            .strip_prefix(SLOT_BILLABLE)
            .and_then(|rest| rest.split_once('#'))
        {
            let plan = plan
                .parse()
                .map_err(|_| StoreError::corrupt("aggregate", "billable"))?;
            return Ok(Some((slot, Field::Billable(plan))));
        }
        if let Some((bucket, slot)) = split_latency(name) {
            return Ok((!slot.is_empty()).then_some((slot, Field::Latency(bucket))));
        }
        let found = NAMES.iter().find_map(|(field, _, letter)| {
            let slot = name
                .strip_prefix(letter)
                .filter(|slot| !letter.is_empty() && !slot.is_empty())?;
            Some((slot, field.clone()))
        });
        Ok(found)
    }
}

fn named(field: &Field) -> Option<(&'static str, &'static str)> {
    let found = NAMES.iter().find(|(other, _, _)| other == field);
    found.map(|(_, name, letter)| (*name, *letter))
}

/// Splits the attribute of a bucket of latencies into the bucket and what follows it.
fn split_latency(name: &str) -> Option<(u8, &str)> {
    let (bucket, rest) = name.strip_prefix(LATENCY)?.split_at_checked(2)?;
    let bucket = bucket
        .parse()
        .ok()
        .filter(|bucket| *bucket < LATENCY_BUCKETS)?;
    Some((bucket, rest))
}

/// Returns the fields of an aggregate that are not 0.
pub(super) fn fields(aggregate: &Aggregate) -> Vec<(Field, AttributeValue)> {
    let Aggregate { adjusted, .. } = aggregate;
    let fixed = [
        (Field::Calls, n(aggregate.calls)),
        (Field::ClientErrors, n(aggregate.client_errors)),
        (Field::ServerErrors, n(aggregate.server_errors)),
        (Field::LatencyMs, n(aggregate.latency_ms)),
        (Field::Tokens, n(aggregate.tokens)),
        (Field::UnpricedTokens, n(aggregate.unpriced_tokens)),
        (Field::Cost, n(aggregate.cost.0)),
        (Field::Adjustments, n(adjusted.count)),
        (Field::AdjustedCost, signed(adjusted.micro_usd)),
    ];
    let billable = aggregate.billable.iter();
    let billable = billable.map(|(plan, calls)| (Field::Billable(plan.clone()), n(*calls)));
    let latencies = aggregate.latencies.buckets();
    let latencies = latencies.map(|(bucket, calls)| (Field::Latency(bucket), n(calls)));
    let adjusted = adjusted.billable.iter();
    let adjusted = adjusted.map(|(plan, calls)| (Field::Adjusted(plan.clone()), signed(*calls)));
    let zero = n(0);
    let all = fixed
        .into_iter()
        .chain(billable)
        .chain(latencies)
        .chain(adjusted);
    all.filter(|(_, value)| *value != zero).collect()
}

/// Adds a stored number to an aggregate.
fn read_field(
    aggregate: &mut Aggregate,
    field: Field,
    value: &AttributeValue,
) -> Result<(), StoreError> {
    let corrupt = || StoreError::corrupt("aggregate", "number");
    let unsigned = || whole::<u64>(value).ok_or_else(corrupt);
    let signed = || whole::<i64>(value).ok_or_else(corrupt);
    match field {
        Field::Calls => aggregate.calls = unsigned()?,
        Field::ClientErrors => aggregate.client_errors = unsigned()?,
        Field::ServerErrors => aggregate.server_errors = unsigned()?,
        Field::LatencyMs => aggregate.latency_ms = unsigned()?,
        Field::Tokens => aggregate.tokens = unsigned()?,
        Field::UnpricedTokens => aggregate.unpriced_tokens = unsigned()?,
        Field::Cost => aggregate.cost = MicroUsd(unsigned()?),
        Field::Billable(plan) => _ = aggregate.billable.insert(plan, unsigned()?),
        Field::Latency(bucket) => aggregate.latencies.add_calls(bucket, unsigned()?),
        Field::Adjustments => aggregate.adjusted.count = unsigned()?,
        Field::AdjustedCost => aggregate.adjusted.micro_usd = signed()?,
        Field::Adjusted(plan) => {
            let calls = signed()?;
            if calls != 0 {
                aggregate.adjusted.billable.insert(plan, calls);
            }
        }
    }
    Ok(())
}

/// Reads the aggregate that the item itself is. Other attributes are ignored.
pub(super) fn read_own<'a>(
    attributes: impl Iterator<Item = (&'a String, &'a AttributeValue)>,
) -> Result<Aggregate, StoreError> {
    let mut aggregate = Aggregate::default();
    for (name, value) in attributes {
        if let Some(field) = Field::of_attribute(name)? {
            read_field(&mut aggregate, field, value)?;
        }
    }
    Ok(aggregate)
}

/// Reads the aggregates in the slots of an item, by slot.
pub(super) fn read_slots<'a>(
    attributes: impl Iterator<Item = (&'a String, &'a AttributeValue)>,
) -> Result<BTreeMap<&'a str, Aggregate>, StoreError> {
    let mut slots: BTreeMap<&str, Aggregate> = BTreeMap::new();
    for (name, value) in attributes {
        if let Some((slot, field)) = Field::in_slot(name)? {
            read_field(slots.entry(slot).or_default(), field, value)?;
        }
    }
    Ok(slots)
}
