//! Batches of parts that are counted in one transaction.

use std::collections::BTreeSet;

use tollgate_domain::id::CustomerId;
use tollgate_domain::usage::Endpoint;
use tollgate_domain::window::{Day, Month};

use super::pending::PendingPart;
use crate::event_part::EventPart;

/// DynamoDB's bound on the actions of a transaction.
const MAX_ACTIONS: usize = 100;
/// Bound on the bytes of bodies in a transaction: DynamoDB's 4 MB, less room for the other attributes of
/// a hundred items.
const MAX_BODY_BYTES: usize = 3_500_000;

/// Divides the parts, in their order, into batches that fit into one transaction each. No batch contains
/// two parts with the same claim.
pub(super) fn batches<'a, 'b>(parts: &'b [PendingPart<'a>]) -> Vec<Vec<&'b PendingPart<'a>>> {
    let mut batches = Vec::new();
    let mut batch: Vec<&PendingPart> = Vec::new();
    let (mut puts, mut bytes) = (0, 0);
    let mut claims = BTreeSet::new();
    let mut aggregates = BTreeSet::new();
    for pending in parts {
        let (more_puts, more_bytes) = pending.puts();
        let more_aggregates = aggregates_of(pending.part).filter(|it| !aggregates.contains(it));
        let fits = puts + more_puts + aggregates.len() + more_aggregates.count() <= MAX_ACTIONS
            && bytes + more_bytes <= MAX_BODY_BYTES
            && !claims.contains(&(&pending.pk, pending.part.part));
        if !fits && !batch.is_empty() {
            batches.push(std::mem::take(&mut batch));
            (puts, bytes) = (0, 0);
            claims.clear();
            aggregates.clear();
        }
        aggregates.extend(aggregates_of(pending.part));
        claims.insert((&pending.pk, pending.part.part));
        puts += more_puts;
        bytes += more_bytes;
        batch.push(pending);
    }
    if !batch.is_empty() {
        batches.push(batch);
    }
    batches
}

/// One aggregate of a customer, to which a transaction adds once.
#[derive(PartialEq, Eq, PartialOrd, Ord)]
enum AggregateKey<'a> {
    Day(Day),
    Endpoint(&'a (Day, Endpoint)),
    Month(Month),
}

fn aggregates_of<'a>(
    part: &'a EventPart<'_>,
) -> impl Iterator<Item = (&'a CustomerId, AggregateKey<'a>)> {
    let sums = part.aggregates;
    let days = sums.days.keys().map(|day| AggregateKey::Day(*day));
    let endpoints = sums.endpoints.keys().map(AggregateKey::Endpoint);
    let months = sums.months.keys();
    let months = months.map(|month| AggregateKey::Month(*month));
    let keys = days.chain(endpoints).chain(months);
    keys.map(|key| (part.customer, key))
}
