//! Counting of usage events: deduplication claims and aggregates, in one transaction.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use aws_sdk_dynamodb::types::AttributeValue;
use tollgate_domain::id::CustomerId;
use tollgate_domain::plan_book::PlanBook;
use tollgate_domain::usage::{Aggregate, Aggregates, Endpoint};
use tollgate_domain::window::Month;

use super::aggregate::add;
use super::batch::batches;
use super::pending::PendingPart;
use super::sort_keys::{billable_month, day_sk, endpoints_sk, in_shard, month_sk};
use crate::Store;
use crate::body::Compressor;
use crate::canonical::is_same_event;
use crate::error::StoreError;
use crate::event_part::EventPart;
use crate::item::{Reader, keys, s};
use crate::schema::attr;
use crate::shard_counts::ShardCounts;
use crate::transaction::{Action, Backoff, ConditionResult, Effect, FailedTry, Transacted};

/// Outcome of counting a part of a usage event.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WriteUsageOutcome {
    /// Counted by this call.
    Counted,
    /// Counted before.
    Duplicate,
    /// Not counted, because another event with the same source and id was counted before.
    Conflict,
}

/// Outcome of counting a part, or the error because of which the outcome is unknown.
pub type WriteUsageResult = Result<WriteUsageOutcome, Arc<StoreError>>;

/// Outcome of writing a batch.
enum BatchOutcome {
    /// One outcome per part. A part without one was not counted, and can be.
    Written(Vec<Option<WriteUsageOutcome>>),
    /// The batch may have been counted.
    Failed(StoreError),
}

impl Store {
    /// Counts parts of usage events, each at most once. A transaction writes their deduplication claims,
    /// adds their records to the aggregates, and quarantines the rejected records. As many of the parts
    /// as fit share one transaction, in their order, so that each aggregate is written once for all of
    /// them. The parts of an event must follow one another, from the first; `shard_counts` is that of
    /// the instance.
    ///
    /// Returns one result per part. A part with an error may have been counted, and a retry finds out
    /// whether it was.
    pub async fn write_usage(
        &self,
        parts: &[EventPart<'_>],
        plans: &PlanBook,
        shard_counts: &ShardCounts,
    ) -> Vec<WriteUsageResult> {
        let mut results: Vec<Option<WriteUsageResult>> = vec![None; parts.len()];
        let mut pending = Vec::with_capacity(parts.len());
        let mut compressor = Compressor::new();
        for (index, part) in parts.iter().enumerate() {
            match PendingPart::new(index, part, &mut compressor) {
                Ok(part) => pending.push(part),
                Err(error) => results[index] = Some(Err(Arc::new(error))),
            }
        }
        // Reversed, so that the next batch to be written is the last.
        let mut batches = batches(&pending);
        batches.reverse();
        // Results because of which later parts of the same event are not counted: were they counted all
        // the same, another event with the same source and id could claim the first part.
        let mut stopped: BTreeMap<(&str, &str), WriteUsageResult> = BTreeMap::new();
        while let Some(mut batch) = batches.pop() {
            batch.retain(|part| {
                let result = stopped.get(&part.identity());
                results[part.index] = result.cloned();
                result.is_none()
            });
            match self.write_batch(&batch, plans, shard_counts).await {
                BatchOutcome::Written(outcomes) => {
                    let mut rest = Vec::new();
                    for (part, outcome) in batch.into_iter().zip(outcomes) {
                        match outcome {
                            Some(outcome) => results[part.index] = Some(Ok(outcome)),
                            None => rest.push(part),
                        }
                        if outcome == Some(WriteUsageOutcome::Conflict) {
                            stopped.insert(part.identity(), Ok(WriteUsageOutcome::Conflict));
                        }
                    }
                    if !rest.is_empty() {
                        batches.push(rest);
                    }
                }
                // One part may be the cause of the whole batch's failure.
                BatchOutcome::Failed(error) if batch.len() > 1 && !error.is_transient() => {
                    let rest = batch.split_off(batch.len() / 2);
                    batches.extend([rest, batch]);
                }
                BatchOutcome::Failed(error) => {
                    let error = Arc::new(error);
                    for part in batch {
                        results[part.index] = Some(Err(Arc::clone(&error)));
                        stopped.insert(part.identity(), Err(Arc::clone(&error)));
                    }
                }
            }
        }
        let lost = || Err(Arc::new(StoreError::corrupt("claim", attr::PK)));
        let results = results.into_iter();
        let mut results: Vec<_> = results.map(|result| result.unwrap_or_else(lost)).collect();
        let is_counted = |result: &WriteUsageResult| {
            let counted = [WriteUsageOutcome::Counted, WriteUsageOutcome::Duplicate];
            result
                .as_ref()
                .is_ok_and(|outcome| counted.contains(outcome))
        };
        let counted = parts
            .iter()
            .zip(&results)
            .filter(|(_, result)| is_counted(result));
        let counted = counted.map(|(part, _)| (part.customer, part.aggregates));
        if let Err(error) = self.mark_overage(counted, plans).await {
            let error = Arc::new(error);
            for result in results.iter_mut().filter(|result| is_counted(result)) {
                *result = Err(Arc::clone(&error));
            }
        }
        results
    }

    /// Counts parts that fit into one transaction, if none of them is in the log yet. Otherwise counts
    /// none, and returns the outcomes of those that are in the log.
    async fn write_batch(
        &self,
        batch: &[&PendingPart<'_>],
        plans: &PlanBook,
        shard_counts: &ShardCounts,
    ) -> BatchOutcome {
        const OPERATION: &str = "counting usage";
        if batch.is_empty() {
            return BatchOutcome::Written(Vec::new());
        }
        let write_id = self.transaction_token();
        let mut backoff = Backoff::new();
        loop {
            // Built anew for each try, so that after a conflict it may go to other shards.
            let actions = self.counting_actions(batch, &write_id, plans, shard_counts);
            let actions = match self.build_actions(OPERATION, actions) {
                Ok(actions) => actions,
                Err(error) => return BatchOutcome::Failed(error),
            };
            let token = self.transaction_token();
            let FailedTry { error, effect } = match self.attempt(OPERATION, actions, &token).await {
                Ok(Transacted::Committed) => {
                    let counted = vec![Some(WriteUsageOutcome::Counted); batch.len()];
                    return BatchOutcome::Written(counted);
                }
                Ok(Transacted::Cancelled(results)) => {
                    let outcomes = self.logged_outcomes(batch, &write_id, &results).await;
                    return outcomes.map_or_else(BatchOutcome::Failed, BatchOutcome::Written);
                }
                Err(failed) => failed,
            };
            if effect == Effect::Conflict {
                let customers: BTreeSet<_> = batch.iter().map(|p| p.part.customer).collect();
                for customer in customers {
                    shard_counts.record_conflict(customer, self.clock.now());
                }
            }
            if effect == Effect::Permanent || !backoff.next_try(&self.entropy).await {
                return BatchOutcome::Failed(error);
            }
        }
    }

    /// Returns the outcome of each part whose claim the log already contained.
    async fn logged_outcomes(
        &self,
        batch: &[&PendingPart<'_>],
        write_id: &str,
        results: &[ConditionResult],
    ) -> Result<Vec<Option<WriteUsageOutcome>>, StoreError> {
        let mut outcomes = Vec::with_capacity(batch.len());
        for (index, pending) in batch.iter().enumerate() {
            let Some(ConditionResult::Failed(claim)) = results.get(index) else {
                outcomes.push(None);
                continue;
            };
            let claim = claim.as_ref();
            let claim = claim.ok_or_else(|| StoreError::corrupt("claim", attr::PK))?;
            let claim = Reader::new("claim", claim);
            outcomes.push(Some(if claim.text("digest")? != pending.digest {
                // Another text. It may be the same event all the same: the spacing of JSON, the order of
                // its members and the extension attributes can differ between deliveries.
                match self.logged_body(&pending.pk).await? {
                    Some(body) if is_same_event(pending.part.body, &body) => {
                        WriteUsageOutcome::Duplicate
                    }
                    _ => WriteUsageOutcome::Conflict,
                }
            } else if claim.is_written_by(write_id)? {
                WriteUsageOutcome::Counted
            } else {
                WriteUsageOutcome::Duplicate
            }));
        }
        if outcomes.iter().all(Option::is_none) {
            return Err(StoreError::corrupt("claim", attr::PK));
        }
        Ok(outcomes)
    }

    /// Returns the actions that count these parts. The claims come first, in the order of the parts.
    fn counting_actions(
        &self,
        batch: &[&PendingPart<'_>],
        write_id: &str,
        plans: &PlanBook,
        shard_counts: &ShardCounts,
    ) -> Vec<Action> {
        let mut claims = Vec::new();
        let mut others = Vec::new();
        let mut sums: BTreeMap<&CustomerId, Aggregates> = BTreeMap::new();
        for pending in batch {
            let (claim, puts) = pending.actions(write_id);
            claims.push(claim);
            others.extend(puts);
            let sum = sums.entry(pending.part.customer).or_default();
            sum.merge(pending.part.aggregates);
        }
        for (customer, sums) in &sums {
            let shards = shard_counts.shards(customer, self.clock.now());
            let shard = u32::try_from(self.entropy.below(shards.into())).unwrap_or_default();
            let key = |sk| keys(customer.as_str(), in_shard(sk, shard));
            for (day, aggregate) in &sums.days {
                others.push(add(key(day_sk(*day)), aggregate));
            }
            for ((day, endpoint), aggregate) in &sums.endpoints {
                let Endpoint { method, route } = endpoint;
                let mut key = key(endpoints_sk(*day));
                if let Some(AttributeValue::S(sk)) = key.get_mut(attr::SK) {
                    sk.push_str(&format!("#{method} {route}"));
                }
                others.push(add(key, aggregate));
            }
            for (month, aggregate) in &sums.months {
                let action = add(key(month_sk(*month)), aggregate);
                others.push(index_if_billable(
                    action, customer, *month, aggregate, plans,
                ));
            }
        }
        claims.extend(others);
        claims
    }
}

/// Adds a month to the index of billable months if any of its calls was made on a plan that charges
/// overage in some month.
fn index_if_billable(
    action: Action,
    customer: &CustomerId,
    month: Month,
    aggregate: &Aggregate,
    plans: &PlanBook,
) -> Action {
    let mut used = aggregate
        .billable
        .keys()
        .chain(aggregate.adjusted.billable.keys());
    if used.any(|plan| plans.may_charge_overage(plan)) {
        let partition = billable_month(month, customer);
        action.also_set(attr::BILLABLE_MONTH, s(partition))
    } else {
        action
    }
}
