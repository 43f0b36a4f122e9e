//! Batches of parts that are counted in one transaction.

use std::collections::BTreeSet;

use tollgate_domain::id::CustomerId;
use tollgate_domain::usage::Endpoint;
use tollgate_domain::window::Day;

use super::pending::PendingPart;
use crate::event_part::EventPart;

/// DynamoDB's bound on the actions of a transaction, less the marker.
const MAX_ACTIONS: usize = 100 - 1;
/// Bound on the bytes of bodies in a transaction: DynamoDB's 4 MB, less room for the other attributes of
/// a hundred items.
const MAX_BODY_BYTES: usize = 3_500_000;

/// Bound on the parts of a batch: fewer than an attempt has claims. Many parts add to the same aggregates.
const MAX_PARTS: usize = 10_000;

/// Divides the parts into batches that fit into one transaction each. The parts of a customer follow one another, so
/// that as few transactions as possible add to its aggregates.
pub(super) fn batches<'a, 'b>(
    mut parts: Vec<&'b PendingPart<'a>>,
) -> Vec<Vec<&'b PendingPart<'a>>> {
    parts.sort_by_key(|pending| pending.part.customer);
    let mut batches = Vec::new();
    let mut batch: Vec<&PendingPart> = Vec::new();
    let (mut puts, mut bytes) = (0, 0);
    let mut aggregates = BTreeSet::new();
    for pending in parts {
        let (more_puts, more_bytes) = pending.puts();
        let more_aggregates = aggregates_of(pending.part).filter(|it| !aggregates.contains(it));
        let fits = puts + more_puts + aggregates.len() + more_aggregates.count() <= MAX_ACTIONS
            && bytes + more_bytes <= MAX_BODY_BYTES
            && batch.len() < MAX_PARTS;
        if !fits && !batch.is_empty() {
            batches.push(std::mem::take(&mut batch));
            (puts, bytes) = (0, 0);
            aggregates.clear();
        }
        aggregates.extend(aggregates_of(pending.part));
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
}

fn aggregates_of<'a>(
    part: &'a EventPart<'_>,
) -> impl Iterator<Item = (&'a CustomerId, AggregateKey<'a>)> {
    let sums = part.aggregates;
    let days = sums.days.keys().map(|day| AggregateKey::Day(*day));
    let endpoints = sums.endpoints.keys().map(AggregateKey::Endpoint);
    days.chain(endpoints).map(|key| (part.customer, key))
}
