//! Counting of usage events: claims, then the log, then one transaction for as many parts as fit.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures_util::future::BoxFuture;
use tokio::time::{Instant, timeout_at};
use tollgate_domain::id::CustomerId;
use tollgate_domain::plan_book::PlanBook;
use tollgate_domain::usage::Aggregate;
use tollgate_domain::window::Day;

use super::batch::{batches, day_keys};
use super::claims::{
    Attempt, AttemptId, CLAIM_BYTES, Claim, Identity, Marker, Rival, TransactionId, first_eight,
};
use super::layout::{DayKey, Layout};
use super::pending::{PendingPart, claim_of, prepare};
use super::scope::UsageScope;
use super::sort_keys::billable_month;
use super::sums::Sums;
use crate::Store;
use crate::error::StoreError;
use crate::event_part::{EventPart, event_pk};
use crate::log::NewRow;
use crate::log_before::CountedBefore;
use crate::query::concurrently;
use crate::schema::attr;
use crate::shard_counts::ShardCounts;
use crate::transaction::{
    Action, Backoff, ConditionResult, Effect, FailedTry, MAX_ACTIONS, Transacted,
};

const COUNTING: &str = "counting usage";
/// Most transactions of an attempt: claims have one byte for their number.
const MAX_TRANSACTIONS: usize = 256;
/// Most claims of an attempt: as many as one item has room for, in case they all share a bucket.
const MAX_CLAIMS: usize = 20_000;
const _: () = assert!(MAX_CLAIMS * CLAIM_BYTES < 400_000);
/// Time limit of a transaction with its retries. When the writes of one customer hang, others still succeed.
const TRANSACTION_TIMEOUT: Duration = Duration::from_secs(5);
/// Time limit for finding out whether a failed transaction took effect.
const FINDING_OUT_TIMEOUT: Duration = Duration::from_secs(2);
/// Time at the end of a write for the marks of overage.
const MARKING_TIME: Duration = Duration::from_secs(3);
/// Waits for the markers of attempts that are under way, each up to twice as long.
const WAITS_MS: [u64; 5] = [10, 30, 80, 150, 300];

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

/// Outcome of a claim.
#[derive(Debug, Clone)]
enum Outcome {
    /// Counted by this call.
    Counted,
    /// Counted before.
    Duplicate,
    /// An event of the same identity was counted that has this digest.
    Conflict([u8; 8]),
    /// Not counted, as far as is known.
    Failed(Arc<StoreError>),
}

impl Outcome {
    fn into_result(self) -> WriteUsageResult {
        match self {
            Outcome::Counted => Ok(WriteUsageOutcome::Counted),
            Outcome::Duplicate => Ok(WriteUsageOutcome::Duplicate),
            Outcome::Conflict(_) => Ok(WriteUsageOutcome::Conflict),
            Outcome::Failed(error) => Err(error),
        }
    }

    fn contended() -> Self {
        Outcome::Failed(Arc::new(StoreError::contended(COUNTING)))
    }
}

/// Outcomes of the parts of a write, as far as they are known.
struct Outcomes(Mutex<Vec<Option<Outcome>>>);

impl Outcomes {
    fn of(parts: usize) -> Self {
        Self(Mutex::new(vec![None; parts]))
    }

    fn set(&self, index: usize, outcome: Outcome) {
        let mut outcomes = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        outcomes[index] = Some(outcome);
    }

    fn get(&self, index: usize) -> Option<Outcome> {
        let outcomes = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        outcomes.get(index).cloned().flatten()
    }

    /// Returns the outcomes after the time for counting.
    fn into_known(self) -> Vec<Outcome> {
        let outcomes = self.0.into_inner().unwrap_or_else(PoisonError::into_inner);
        let unknown = Outcome::Failed(Arc::new(StoreError::timed_out(COUNTING)));
        let outcomes = outcomes.into_iter();
        outcomes
            .map(|outcome| outcome.unwrap_or_else(|| unknown.clone()))
            .collect()
    }
}

/// Intention with a claim, by those of others.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Decision {
    Count,
    Duplicate,
    Conflict([u8; 8]),
    /// Left to another attempt, which may count it.
    Leave,
    /// Not counted, because it is not known whether it may be. The outcome says why.
    Fail,
}

impl Decision {
    /// Decides on a claim by those of others that exclude it: `None` as long as it waits for another attempt.
    ///
    /// The attempt with the least id goes first if attempts wait for one another.
    fn of(
        claim: &Claim,
        rivals: &[Rival],
        markers: &HashMap<TransactionId, Marker>,
        own: &Attempt,
    ) -> Option<Self> {
        let marker = |rival: &Rival| markers.get(&rival.transaction);
        let mut counted = rivals
            .iter()
            .filter(|rival| marker(rival).is_some_and(|marker| marker.has_counted(rival.index)));
        if let Some(counted) = counted.next() {
            return Some(match counted.digest == claim.digest {
                true => Decision::Duplicate,
                false => Decision::Conflict(counted.digest),
            });
        }
        let open = rivals.iter().filter(|rival| marker(rival).is_none());
        let mut open = open.peekable();
        if open.peek().is_none() {
            return Some(Decision::Count);
        }
        let goes_first = open.all(|rival| own.id < rival.transaction.attempt);
        (!goes_first).then_some(Decision::Leave)
    }

    /// Decides on a part by what a release before claims were put has counted: `None` if it leaves the part to count.
    fn by(before: &CountedBefore, part: &EventPart<'_>) -> Option<Self> {
        Some(match before.has_counted(part.part, part.body)? {
            Ok(()) => Decision::Duplicate,
            Err(other) => {
                let other = other.and_then(|content| hex::decode(content).ok());
                Decision::Conflict(first_eight(&other.unwrap_or_default()))
            }
        })
    }
}

impl Store {
    /// Counts parts of usage events, each at most once. A transaction adds their records to the aggregates, and
    /// quarantines the rejected records. As many of the parts as fit share one transaction, so that each aggregate is
    /// written once for all of them. The parts of an event must follow one another, from the first; `shard_counts` is
    /// that of the instance.
    ///
    /// Returns one result per part. A part with an error may have been counted, and a retry finds out whether it was.
    /// After the time `within`, what is not known to be counted is an error.
    pub async fn write_usage(
        &self,
        parts: &[EventPart<'_>],
        plans: &PlanBook,
        shard_counts: &ShardCounts,
        within: Duration,
    ) -> Vec<WriteUsageResult> {
        let deadline = Instant::now() + within;
        let counting_until = Instant::now() + within.saturating_sub(MARKING_TIME);
        let since = match timeout_at(counting_until, self.claims_since()).await {
            Ok(Ok(since)) => since,
            Ok(Err(error)) => return all_failed(parts, error),
            Err(_) => return all_failed(parts, StoreError::timed_out(COUNTING)),
        };
        let (pending, failed) = prepare(parts, since);
        let outcomes = Outcomes::of(parts.len());
        for (index, error) in failed {
            outcomes.set(index, Outcome::Failed(Arc::new(error)));
        }
        let (mut own, mut repeated) = distinct(pending.iter());
        let counter = Counter {
            store: self,
            plans,
            shard_counts,
            outcomes: &outcomes,
        };
        // Outcomes that are set when the time is over were decided for ever.
        let counting = async {
            counter.count(own.clone()).await;
            let (behind, others) = repeated
                .iter()
                .copied()
                .partition::<Vec<_>, _>(|part| is_counted_event(part, &own, &outcomes));
            let (behind, again) = distinct(behind);
            repeated = [others, again].concat();
            own.extend(&behind);
            counter.count(behind).await;
        };
        let _ = timeout_at(counting_until, counting).await;
        let mut outcomes = outcomes.into_known();
        for part in repeated {
            let of_same = own
                .iter()
                .filter(|it| it.claim.identity == part.claim.identity);
            let of_same = of_same.map(|it| (it, &outcomes[it.index]));
            outcomes[part.index] = outcome_of_repetition(&part.claim, of_same);
        }
        let results = outcomes.into_iter();
        let mut results: Vec<WriteUsageResult> = results.map(Outcome::into_result).collect();
        let is_counted = |result: &WriteUsageResult| {
            let counted = [WriteUsageOutcome::Counted, WriteUsageOutcome::Duplicate];
            result
                .as_ref()
                .is_ok_and(|outcome| counted.contains(outcome))
        };
        let mut counted = Vec::new();
        for (part, result) in parts.iter().zip(&results) {
            if is_counted(result) {
                counted.push((part.customer, part.aggregates));
                // Whoever counted it in time may have failed before the marks were written.
                counted.extend(part.too_old.map(|too_old| (part.customer, too_old)));
            }
        }
        let unmarked = self
            .mark_overage(counted.into_iter(), plans, deadline)
            .await;
        for (part, result) in parts.iter().zip(&mut results) {
            if let Some(error) = unmarked.get(part.customer).filter(|_| is_counted(result)) {
                *result = Err(Arc::clone(error));
            }
        }
        results
    }

    /// Returns the numbers of the parts of the usage event with this source, id and body that were counted: `None` if
    /// another event with the same source and id was.
    ///
    /// # Errors
    /// When the store fails, or the event is being counted.
    pub async fn counted_parts(
        &self,
        source: &str,
        id: &str,
        body: &[u8],
    ) -> Result<Option<BTreeSet<usize>>, StoreError> {
        let claim = claim_of(source, id, body);
        let mut rivals = self.look(None, std::iter::once(&claim)).await?;
        let rivals = rivals.pop().unwrap_or_default();
        let of_rivals = rivals.iter().map(|rival| rival.transaction.clone());
        let markers = self.markers(of_rivals).await?;
        let (now, alone_since) = (self.clock.now(), self.alone_since);
        let mut parts = BTreeSet::new();
        let mut under_way = BTreeSet::new();
        for rival in rivals {
            match markers.get(&rival.transaction) {
                None if rival.is_abandoned(now, alone_since) => {}
                None => _ = under_way.insert(usize::from(rival.part)),
                Some(marker) if !marker.has_counted(rival.index) => {}
                Some(_) if rival.digest != claim.digest => return Ok(None),
                Some(_) => _ = parts.insert(usize::from(rival.part)),
            }
        }
        // An attempt that found a duplicate has no marker.
        if !under_way.is_subset(&parts) {
            return Err(StoreError::contended(COUNTING));
        }
        if let Some(before) = self.counted_before(&event_pk(source, id)).await? {
            let Some(before) = before.counted_parts(body)? else {
                return Ok(None);
            };
            parts.extend(before);
        }
        Ok(Some(parts))
    }
}

fn all_failed(parts: &[EventPart<'_>], error: StoreError) -> Vec<WriteUsageResult> {
    let error = Arc::new(error);
    parts.iter().map(|_| Err(Arc::clone(&error))).collect()
}

/// Divides parts into those of which none excludes another, and the others.
fn distinct<'a: 'b, 'b>(
    pending: impl IntoIterator<Item = &'b PendingPart<'a>>,
) -> (Vec<&'b PendingPart<'a>>, Vec<&'b PendingPart<'a>>) {
    let mut digests = HashMap::new();
    let mut claimed = BTreeSet::new();
    pending.into_iter().partition(|part| {
        let claim = &part.claim;
        let digest = digests.entry(claim.identity).or_insert(claim.digest);
        *digest == claim.digest && claimed.insert((claim.identity, claim.part))
    })
}

/// Whether a part is of the event because of which others of the same identity have conflicted. That says that a part of it
/// was counted, but perhaps not this one.
fn is_counted_event(part: &PendingPart<'_>, own: &[&PendingPart<'_>], outcomes: &Outcomes) -> bool {
    let claim = &part.claim;
    let of_same = own.iter().filter(|it| it.claim.identity == claim.identity);
    let mut of_same = of_same.filter_map(|it| outcomes.get(it.index));
    of_same.any(|outcome| matches!(outcome, Outcome::Conflict(counted) if counted == claim.digest))
}

/// Returns the outcome of a claim that another part of the same write excludes, by those on the claims of the same
/// identity.
fn outcome_of_repetition<'a>(
    claim: &Claim,
    of_same: impl Iterator<Item = (&'a &'a PendingPart<'a>, &'a Outcome)>,
) -> Outcome {
    let mut outcome = Outcome::contended();
    for (part, of_part) in of_same {
        let is_same_event = part.claim.digest == claim.digest;
        match of_part {
            Outcome::Counted | Outcome::Duplicate if !is_same_event => {
                return Outcome::Conflict(part.claim.digest);
            }
            // It is this event that was counted, though perhaps not this part of it.
            Outcome::Conflict(counted) if *counted == claim.digest => {}
            Outcome::Conflict(_) => outcome = of_part.clone(),
            Outcome::Counted | Outcome::Duplicate if part.claim.part == claim.part => {
                return Outcome::Duplicate;
            }
            Outcome::Failed(_) if part.claim.part == claim.part => outcome = of_part.clone(),
            Outcome::Counted | Outcome::Duplicate | Outcome::Failed(_) => {}
        }
    }
    outcome
}

/// Counts the parts of one write.
#[derive(Clone, Copy)]
struct Counter<'s> {
    store: &'s Store,
    plans: &'s PlanBook,
    shard_counts: &'s ShardCounts,
    outcomes: &'s Outcomes,
}

/// Parts of one transaction.
struct Batch<'a, 'b> {
    id: TransactionId,
    parts: Vec<&'b PendingPart<'a>>,
    /// Indexes of their claims in the attempt.
    indexes: Vec<u16>,
    decisions: Vec<Decision>,
}

impl<'a, 'b> Batch<'a, 'b> {
    fn counted(&self) -> impl Iterator<Item = (&'b PendingPart<'a>, u16)> {
        let parts = self.parts.iter().zip(&self.indexes).zip(&self.decisions);
        parts
            .filter(|(_, decision)| **decision == Decision::Count)
            .map(|((part, index), _)| (*part, *index))
    }

    /// Whether a part is to be counted only after the first one of its event, which is in another batch.
    fn waits_for_another(&self) -> bool {
        let here: BTreeSet<usize> = self.parts.iter().map(|part| part.index).collect();
        let guarded = self.parts.iter().filter(|part| part.is_guarded());
        let mut firsts = guarded.filter_map(|part| part.first());
        firsts.any(|first| !here.contains(&first))
    }

    fn marker(&self) -> Marker {
        let indexes = self.indexes.iter().zip(&self.decisions);
        let except = indexes.filter(|(_, decision)| **decision != Decision::Count);
        Marker::Committed {
            except: except.map(|(index, _)| *index).collect(),
        }
    }
}

impl Counter<'_> {
    /// Counts parts of which none excludes another.
    ///
    /// The future is boxed, because it contains itself: what is left of a failed batch is counted by itself.
    fn count<'f>(&'f self, parts: Vec<&'f PendingPart<'f>>) -> BoxFuture<'f, ()> {
        Box::pin(async move {
            let (mut attempt, mut claims) = (Vec::new(), 0);
            let days = day_keys(&parts).into_iter();
            let mut layouts = self.store.layouts_of(days).await;
            let batches = batches(parts, &mut layouts);
            for (key, layout) in layouts {
                self.store.layouts.learn(key, layout);
            }
            for batch in batches {
                if attempt.len() == MAX_TRANSACTIONS || claims + batch.len() > MAX_CLAIMS {
                    self.attempt(std::mem::take(&mut attempt)).await;
                    claims = 0;
                }
                claims += batch.len();
                attempt.push(batch);
            }
            if !attempt.is_empty() {
                self.attempt(attempt).await;
            }
        })
    }

    /// Makes one attempt to count these batches.
    async fn attempt(&self, batches: Vec<Vec<&PendingPart<'_>>>) {
        let parts: Vec<&PendingPart<'_>> = batches.iter().flatten().copied().collect();
        let claims: Vec<(Claim, u8)> = (0..=u8::MAX)
            .zip(&batches)
            .flat_map(|(number, batch)| batch.iter().map(move |part| (part.claim.clone(), number)))
            .collect();
        let id = AttemptId::draw(self.store);
        let decided = async {
            let attempt = self.store.claim(&id, &claims).await?;
            let decisions = self.decide(&parts, &attempt).await?;
            Ok::<_, StoreError>((attempt, decisions))
        };
        let (attempt, decisions) = match decided.await {
            Ok(decided) => decided,
            Err(error) => {
                let numbers = (0..=u8::MAX).zip(&batches).map(|(number, _)| number);
                let given_up = numbers.map(|number| self.give_up(id.transaction(number)));
                concurrently(given_up.collect()).await;
                let error = Arc::new(error);
                for part in parts {
                    let failed = Outcome::Failed(Arc::clone(&error));
                    self.outcomes.set(part.index, failed);
                }
                return;
            }
        };
        let left = decisions.iter().enumerate();
        let left = left.filter(|(_, decision)| **decision == Decision::Leave);
        let left: Vec<usize> = left.map(|(at, _)| at).collect();
        let mut decided = attempt.indexes.iter().copied().zip(decisions);
        let batches = (0..=u8::MAX).zip(batches).map(|(number, parts)| {
            let (indexes, decisions) = decided.by_ref().take(parts.len()).unzip();
            Batch {
                id: attempt.id.transaction(number),
                parts,
                indexes,
                decisions,
            }
        });
        let (waiting, independent): (Vec<_>, Vec<_>) = batches.partition(Batch::waits_for_another);
        let write = |mut batch| async move {
            self.decide_by_first(&mut batch);
            self.write_batch(batch).await;
        };
        concurrently(independent.into_iter().map(write).collect()).await;
        // One after the other: the first parts of events come first.
        for batch in waiting {
            write(batch).await;
        }
        self.await_others(&parts, &attempt, left).await;
    }

    /// Decides on the parts of an attempt. Waits some time for attempts that are under way.
    async fn decide(
        &self,
        parts: &[&PendingPart<'_>],
        attempt: &Attempt,
    ) -> Result<Vec<Decision>, StoreError> {
        let before = self.decide_by_before(parts.iter().copied()).await?;
        let has_rivals = |at: &usize| !attempt.rivals[*at].is_empty();
        let mut open: Vec<usize> = (0..parts.len())
            .filter(|at| before[*at].is_none() && has_rivals(at))
            .collect();
        let decisions = before.into_iter();
        let mut decisions: Vec<Decision> = decisions
            .map(|decision| decision.unwrap_or(Decision::Count))
            .collect();
        let mut markers = HashMap::new();
        let mut waits = WAITS_MS.into_iter();
        while !open.is_empty() {
            self.read_markers(&mut markers, attempt, &open).await?;
            self.abort_abandoned(&mut markers, parts, attempt, &open)
                .await?;
            open.retain(|at| {
                let (claim, rivals) = (&parts[*at].claim, &attempt.rivals[*at]);
                let decision = Decision::of(claim, rivals, &markers, attempt);
                decisions[*at] = decision.unwrap_or(Decision::Leave);
                decision.is_none()
            });
            match waits.next() {
                Some(wait) if !open.is_empty() => self.wait(wait).await,
                _ => break,
            }
        }
        Ok(decisions)
    }

    /// Decides on those parts that a release before claims were put decides on, by all that it has counted of their
    /// events.
    async fn decide_by_before<'a: 'b, 'b>(
        &self,
        parts: impl Iterator<Item = &'b PendingPart<'a>> + Clone,
    ) -> Result<Vec<Option<Decision>>, StoreError> {
        let looked_for = parts.clone().filter(|part| part.may_be_counted_before());
        let looked_for: BTreeMap<String, Identity> = looked_for
            .map(|part| (part.part.pk(), part.claim.identity))
            .collect();
        if looked_for.is_empty() {
            return Ok(parts.map(|_| None).collect());
        }
        let logged = self
            .store
            .logged_before(looked_for.keys().map(String::as_str));
        let logged = logged.await?;
        let reads = logged.iter().map(|pk| self.store.counted_before(pk));
        let read = concurrently(reads.collect()).await;
        // One event that cannot be read does not prevent that the others are counted.
        let read = logged.iter().zip(read);
        let read =
            read.filter_map(|(pk, read)| Some((looked_for.get(pk)?, read.map_err(Arc::new))));
        let before: HashMap<&Identity, Result<_, Arc<StoreError>>> = read.collect();
        let decide = |part: &PendingPart<'_>| match before.get(&part.claim.identity)? {
            Ok(before) => Decision::by(before.as_ref()?, part.part),
            Err(error) => {
                let failed = Outcome::Failed(Arc::clone(error));
                self.outcomes.set(part.index, failed);
                Some(Decision::Fail)
            }
        };
        Ok(parts.map(decide).collect())
    }

    /// Decides on those parts of a batch that follow the first part of their event, while instances of a release before
    /// claims were put may count usage. Those count a part only if they have counted the first one, of the same event. So
    /// no part is counted here before the first one is.
    fn decide_by_first(&self, batch: &mut Batch<'_, '_>) {
        let here = batch.parts.iter().zip(&batch.decisions);
        let here: BTreeMap<usize, Decision> = here
            .map(|(part, decision)| (part.index, *decision))
            .collect();
        for (part, decision) in batch.parts.iter().zip(&mut batch.decisions) {
            let is_counted = part.is_guarded() && *decision == Decision::Count;
            let Some(first) = part.first().filter(|_| is_counted) else {
                continue;
            };
            let of_first = match here.get(&first) {
                Some(decision) => *decision,
                None => match self.outcomes.get(first) {
                    Some(Outcome::Counted | Outcome::Duplicate) => Decision::Duplicate,
                    Some(Outcome::Conflict(other)) => Decision::Conflict(other),
                    Some(Outcome::Failed(_)) | None => Decision::Fail,
                },
            };
            *decision = match of_first {
                Decision::Count | Decision::Duplicate => continue,
                Decision::Conflict(_) => of_first,
                Decision::Leave | Decision::Fail => {
                    self.outcomes.set(part.index, Outcome::contended());
                    Decision::Fail
                }
            };
        }
    }

    /// Aborts the transactions that these parts wait for and that were abandoned.
    async fn abort_abandoned(
        &self,
        markers: &mut HashMap<TransactionId, Marker>,
        parts: &[&PendingPart<'_>],
        attempt: &Attempt,
        of: &[usize],
    ) -> Result<(), StoreError> {
        let (now, alone_since) = (self.store.clock.now(), self.store.alone_since);
        for at in of {
            let (claim, rivals) = (&parts[*at].claim, &attempt.rivals[*at]);
            let decision = Decision::of(claim, rivals, markers, attempt);
            if !matches!(decision, None | Some(Decision::Leave)) {
                continue;
            }
            for rival in rivals {
                let id = &rival.transaction;
                if !markers.contains_key(id) && rival.is_abandoned(now, alone_since) {
                    markers.insert(id.clone(), self.store.abort(id).await?);
                }
            }
        }
        Ok(())
    }

    /// Waits some time for the attempts to which these parts were left, given by their places. Those that the others have
    /// not counted are to be written again.
    async fn await_others(
        &self,
        parts: &[&PendingPart<'_>],
        attempt: &Attempt,
        mut left: Vec<usize>,
    ) {
        // Said first, in case that the time is over before more is known.
        for at in &left {
            self.outcomes.set(parts[*at].index, Outcome::contended());
        }
        let mut markers = HashMap::new();
        let mut waits = WAITS_MS.into_iter();
        while !left.is_empty() {
            // If it fails, no more is known than before.
            let _ = self.read_markers(&mut markers, attempt, &left).await;
            left.retain(|at| {
                let (claim, rivals) = (&parts[*at].claim, &attempt.rivals[*at]);
                let outcome = match Decision::of(claim, rivals, &markers, attempt) {
                    Some(Decision::Duplicate) => Outcome::Duplicate,
                    Some(Decision::Conflict(digest)) => Outcome::Conflict(digest),
                    Some(Decision::Count) => return false,
                    Some(Decision::Leave | Decision::Fail) | None => return true,
                };
                self.outcomes.set(parts[*at].index, outcome);
                false
            });
            match waits.next() {
                Some(wait) if !left.is_empty() => self.wait(wait).await,
                _ => break,
            }
        }
    }

    /// Reads the markers of the transactions that the other claims belong to, as far as they are not known.
    async fn read_markers(
        &self,
        markers: &mut HashMap<TransactionId, Marker>,
        attempt: &Attempt,
        of: &[usize],
    ) -> Result<(), StoreError> {
        let rivals = of.iter().flat_map(|at| &attempt.rivals[*at]);
        let ids = rivals.map(|rival| &rival.transaction);
        let unknown: Vec<TransactionId> = ids
            .filter(|id| !markers.contains_key(*id))
            .cloned()
            .collect();
        markers.extend(self.store.markers(unknown).await?);
        Ok(())
    }

    /// Aborts an own transaction, if the store responds, so that others need not wait until it is old.
    async fn give_up(&self, id: TransactionId) {
        let aborting = self.store.abort(&id);
        let _ = tokio::time::timeout(FINDING_OUT_TIMEOUT, aborting).await;
    }

    async fn wait(&self, ms: u64) {
        let ms = ms + self.store.entropy.below(ms);
        tokio::time::sleep(Duration::from_millis(ms)).await;
    }

    /// Counts the parts of a batch that are to be counted.
    async fn write_batch(&self, mut batch: Batch<'_, '_>) {
        let committed = if batch.decisions.contains(&Decision::Count) {
            self.commit(&mut batch).await
        } else {
            // Others need not wait until it is old. For a duplicate, they do not wait at all.
            let is_duplicate = |decision: &Decision| *decision == Decision::Duplicate;
            if !batch.decisions.iter().all(is_duplicate) {
                self.give_up(batch.id.clone()).await;
            }
            Ok(())
        };
        let mut failed = Vec::new();
        for (part, decision) in batch.parts.into_iter().zip(batch.decisions) {
            let outcome = match decision {
                Decision::Count if committed.is_ok() => Outcome::Counted,
                Decision::Count => {
                    failed.push(part);
                    continue;
                }
                Decision::Duplicate => Outcome::Duplicate,
                Decision::Conflict(digest) => Outcome::Conflict(digest),
                Decision::Leave | Decision::Fail => continue,
            };
            self.outcomes.set(part.index, outcome);
        }
        let Err(error) = committed else { return };
        match divide(&failed, &error) {
            Some(halves) => {
                // At the same time, so that one that hangs does not use up the time of the others.
                let counting = halves.into_iter().map(|half| self.count(half));
                concurrently(counting.collect()).await;
            }
            None => {
                let error = Outcome::Failed(Arc::new(error));
                for part in failed {
                    self.outcomes.set(part.index, error.clone());
                }
            }
        }
    }

    /// Writes a batch to the log, and then counts it in one transaction. An error means that it was not counted, or that
    /// this is unknown.
    async fn commit(&self, batch: &mut Batch<'_, '_>) -> Result<(), StoreError> {
        let within = tokio::time::timeout(TRANSACTION_TIMEOUT, self.transact(batch)).await;
        let error = match within {
            Ok(Ok(())) => return Ok(()),
            Ok(Err(error)) => error,
            Err(_) => StoreError::timed_out(COUNTING),
        };
        // The marker says whether it took effect, and prevents that it does later.
        let aborted = tokio::time::timeout(FINDING_OUT_TIMEOUT, self.store.abort(&batch.id)).await;
        match aborted {
            Ok(Ok(Marker::Committed { .. })) => Ok(()),
            Ok(Ok(Marker::Aborted) | Err(_)) | Err(_) => Err(error),
        }
    }

    async fn transact(&self, batch: &mut Batch<'_, '_>) -> Result<(), StoreError> {
        let rows = batch.counted().map(|(pending, index)| NewRow {
            part: pending.part,
            index,
        });
        self.store.put_log(&batch.id, rows).await?;
        let mut backoff = Backoff::new();
        loop {
            // Built anew for each try, so that after a conflict it may go to other shards, or other slots.
            let Actions {
                guards,
                aggregates,
                actions,
            } = self.actions(batch).await;
            let first_aggregate = actions.len() - aggregates.len();
            let actions = self.store.build_actions(COUNTING, actions)?;
            let token = self.store.transaction_token();
            let FailedTry {
                error,
                effect,
                conflicts,
            } = match self.store.attempt(COUNTING, actions, &token).await {
                Ok(Transacted::Committed) => return Ok(()),
                Ok(Transacted::Cancelled(results)) => {
                    if let Some(marker) = results.first().and_then(ConditionResult::item) {
                        return outcome_of_rejection(&Marker::read(marker)?);
                    }
                    let guarded = self.leave_out_guarded(batch, &results[1..=guards]).await?;
                    let learnt = self.learn_slots(aggregates, &results[first_aggregate..])?;
                    if !guarded && !learnt {
                        return Err(StoreError::corrupt("claim", attr::PK));
                    }
                    // Other writers take the last slots of an item at most.
                    if !backoff.next_try(&self.store.entropy).await {
                        return Err(StoreError::contended(COUNTING));
                    }
                    continue;
                }
                Err(failed) => failed,
            };
            let of_aggregates = conflicts
                .iter()
                .filter_map(|index| index.checked_sub(first_aggregate));
            let hot = of_aggregates.filter_map(|index| aggregates.get(index));
            for scope in hot.map(|day| &day.scope).collect::<BTreeSet<_>>() {
                self.shard_counts
                    .record_conflict(scope, self.store.clock.now());
            }
            if effect == Effect::Permanent || !backoff.next_try(&self.store.entropy).await {
                return Err(error);
            }
        }
    }

    /// Learns the layouts of the days whose slots other writers have given to other values, by the results of the actions
    /// that add to aggregates. Returns whether there are any.
    fn learn_slots(
        &self,
        days: Vec<DayKey>,
        results: &[ConditionResult],
    ) -> Result<bool, StoreError> {
        let mut is_any = false;
        for (day, result) in days.into_iter().zip(results) {
            if let Some(item) = result.item() {
                self.store.layouts.learn(day, Layout::read(item)?);
                is_any = true;
            }
        }
        Ok(is_any)
    }

    /// Leaves out of a batch what a release before claims were put has counted since it was looked for, by the results of
    /// the guards. Returns whether there is any.
    async fn leave_out_guarded(
        &self,
        batch: &mut Batch<'_, '_>,
        results: &[ConditionResult],
    ) -> Result<bool, StoreError> {
        let guarded = batch.counted().map(|(part, _)| part);
        let guarded = guarded.filter(|part| part.is_guarded()).zip(results);
        let failed = guarded.filter(|(_, result)| result.item().is_some());
        let failed: BTreeSet<Identity> = failed.map(|(part, _)| part.claim.identity).collect();
        let of_same = |part: &&PendingPart<'_>| failed.contains(&part.claim.identity);
        let parts = batch.parts.iter().copied().filter(of_same);
        let decided = self.decide_by_before(parts).await?;
        let decisions = batch.parts.iter().zip(&mut batch.decisions);
        let decisions = decisions.filter(|(part, _)| of_same(part));
        let mut is_any = false;
        for ((_, decision), decided) in decisions.zip(decided) {
            let is_counted = *decision == Decision::Count;
            if let Some(decided) = decided.filter(|_| is_counted) {
                *decision = decided;
                is_any = true;
            }
        }
        Ok(is_any)
    }

    /// Returns the actions that count a batch.
    async fn actions(&self, batch: &Batch<'_, '_>) -> Actions {
        let now = self.store.clock.now();
        let mut actions = vec![batch.marker().put(&batch.id, now)];
        actions.extend(batch.counted().filter_map(|(part, _)| part.guard()));
        let guards = actions.len() - 1;
        for (part, _) in batch.counted() {
            actions.extend(part.actions());
        }
        let sums = Sums::of(batch.counted().map(|(part, _)| part.part));
        let days = sums.day_keys(|scope| {
            let shards = self.shard_counts.shards(scope, now);
            let shard = self.store.entropy.below(shards.into());
            u32::try_from(shard).unwrap_or_default()
        });
        let read = self.store.layouts_of(days.iter().cloned()).await;
        let layouts = (&self.store.layouts, read);
        let most = MAX_ACTIONS.saturating_sub(actions.len());
        let writes = sums.writes(days, layouts, most, &batch.id, |scope, day, total| {
            self.billable_month(scope, day, total)
        });
        let (aggregates, adding): (Vec<DayKey>, Vec<Action>) = writes.into_iter().unzip();
        actions.extend(adding);
        Actions {
            guards,
            aggregates,
            actions,
        }
    }

    /// Returns the partition of a customer's day in the index of billable months, if any of its calls was made on a plan
    /// that charges overage in some month.
    fn billable_month(&self, scope: &UsageScope, day: Day, total: &Aggregate) -> Option<String> {
        let UsageScope::Customer(customer) = scope else {
            return None;
        };
        let adjusted = total.adjusted.billable.keys();
        let mut used = total.billable.keys().chain(adjusted);
        let is_billable = used.any(|plan| self.plans.may_charge_overage(plan));
        is_billable.then(|| billable_month(day.month(), customer))
    }
}

/// Actions of a transaction: the marker, the guards, those of the parts, and then those that add to aggregates.
struct Actions {
    /// Number of guards.
    guards: usize,
    /// Days of the actions that add to aggregates.
    aggregates: Vec<DayKey>,
    actions: Vec<Action>,
}

/// Returns the outcome of a transaction that had this marker before. Nobody else commits it.
fn outcome_of_rejection(marker: &Marker) -> Result<(), StoreError> {
    match marker {
        // By an earlier try, whose response was lost.
        Marker::Committed { .. } => Ok(()),
        Marker::Aborted => Err(StoreError::contended(COUNTING)),
    }
}

/// Divides parts whose transaction has failed, to be counted by themselves: `None` if they all fail.
fn divide<'a, 'b>(
    parts: &[&'b PendingPart<'a>],
    error: &StoreError,
) -> Option<Vec<Vec<&'b PendingPart<'a>>>> {
    if !error.is_transient() {
        // One part may be the cause of the whole batch's failure.
        let (first, second) = parts.split_at(parts.len() / 2);
        return (parts.len() > 1).then(|| vec![first.to_vec(), second.to_vec()]);
    }
    // So may the aggregates of one customer.
    let mut by_customer: BTreeMap<&CustomerId, Vec<&PendingPart<'_>>> = BTreeMap::new();
    for part in parts {
        let of_customer = by_customer.entry(part.part.customer).or_default();
        of_customer.push(part);
    }
    (by_customer.len() > 1).then(|| by_customer.into_values().collect())
}
