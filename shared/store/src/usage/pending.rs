//! Parts of usage events that are about to be written.

use std::sync::Arc;

use jiff::Timestamp;
use tollgate_domain::usage::MAX_AHEAD;
use tollgate_domain::window::Day;

use super::claims::{Claim, Identity, bucket, first_eight, uuid_v7_ms};
use crate::adjustments::adjustment_item;
use crate::body::{Body, Compressor};
use crate::canonical::digest_of_event;
use crate::error::StoreError;
use crate::event_part::{EventPart, event_pk, part_sk};
use crate::log::LOG_KEPT;
use crate::log_before::guard;
use crate::quarantine::quarantine_item;
use crate::schema::{QUARANTINE, USAGE, USAGE_LOG};
use crate::transaction::Action;

/// A part of a usage event that is about to be written.
pub(super) struct PendingPart<'a> {
    /// Index among the parts of this write.
    pub(super) index: usize,
    pub(super) part: &'a EventPart<'a>,
    pub(super) claim: Claim,
    /// Body for the quarantine, if records are rejected.
    rejected: Option<Arc<Body>>,
    earlier: EarlierReleases,
}

/// Possible effects on a part of releases before claims were put.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum EarlierReleases {
    /// They cannot have counted it.
    HaveNotCounted,
    /// They may have counted it.
    MayHaveCounted,
    /// They may still count it.
    MayCount,
}

impl EarlierReleases {
    /// Returns the possible effects if all releases have put claims since `since`.
    ///
    /// Earlier ones rejected records that were more than [`MAX_AHEAD`] in the future, and the records of a day make a part.
    /// They may also have counted another event of the same identity, unless the id was drawn since by the time in it. A
    /// time ahead of the present is wrong, and says nothing about that.
    fn of(part: &EventPart<'_>, since: Option<Timestamp>) -> Self {
        let Some(since) = since.filter(|since| *since < part.received_at) else {
            return Self::MayCount;
        };
        let latest_of = |time: Timestamp| time.saturating_add(MAX_AHEAD).unwrap_or(time);
        let latest = latest_of(since);
        // A part without a day is rejected, whatever its records' times are.
        let day = part.aggregates.days.keys().next();
        let is_later = day.is_some_and(|day| *day > Day::containing(latest));
        let drawn = uuid_v7_ms(part.id).and_then(|ms| i64::try_from(ms).ok());
        let drawn = drawn.and_then(|ms| Timestamp::from_millisecond(ms).ok());
        let is_drawn_later =
            drawn.is_some_and(|drawn| drawn > latest && drawn <= latest_of(part.received_at));
        let is_expired = part.received_at.duration_since(since) > LOG_KEPT;
        match is_expired || (is_later && is_drawn_later) {
            true => Self::HaveNotCounted,
            false => Self::MayHaveCounted,
        }
    }
}

impl<'a> PendingPart<'a> {
    fn new(
        index: usize,
        part: &'a EventPart<'a>,
        event: &mut Event,
        since: Option<Timestamp>,
        compressor: &mut Compressor,
    ) -> Result<Self, StoreError> {
        let is_rejected = !part.rejected.is_empty();
        let rejected = is_rejected.then(|| event.compressed(part.body, compressor));
        Ok(Self {
            index,
            part,
            claim: Claim {
                identity: event.identity,
                bucket: Arc::clone(&event.bucket),
                part: u8::try_from(part.part).map_err(|_| StoreError::corrupt("event", "part"))?,
                digest: event.digest,
            },
            rejected: rejected.transpose()?,
            earlier: EarlierReleases::of(part, since),
        })
    }

    /// Returns the number of items that the part's transaction puts, besides aggregates, and their bytes of bodies.
    pub(super) fn puts(&self) -> (usize, usize) {
        let body = self.rejected.as_deref();
        let (items, bytes) = body.map_or((0, 0), |body| (body.items(), body.len()));
        let guards = usize::from(self.is_guarded());
        (guards + items + self.part.adjustments.len(), bytes)
    }

    /// Whether the event is to be looked for in the log of releases before claims were put.
    pub(super) fn may_be_counted_before(&self) -> bool {
        self.earlier >= EarlierReleases::MayHaveCounted
    }

    /// Whether the part's transaction fails if a release before claims were put has counted it.
    pub(super) fn is_guarded(&self) -> bool {
        self.earlier == EarlierReleases::MayCount
    }

    /// Returns the put that fails then, and after which no instance of such a release counts the part.
    pub(super) fn guard(&self) -> Option<Action> {
        self.is_guarded().then(|| {
            // Absent: the part was not counted, and no instance of that release can count it from now on.
            Action::put(USAGE_LOG, guard(self.part)).when("attribute_not_exists(pk)")
        })
    }

    /// Returns the index of the event's first part among the parts of this write, if it is another one.
    pub(super) fn first(&self) -> Option<usize> {
        let first = self.index.checked_sub(self.part.part);
        first.filter(|_| self.part.part > 0)
    }

    /// Returns the puts of the part's transaction, besides aggregates. They are unconditional: they take effect together
    /// with the marker or not at all.
    pub(super) fn actions(&self) -> Vec<Action> {
        let part = self.part;
        let mut puts = Vec::new();
        if let Some(body) = &self.rejected {
            puts.extend(body.puts(QUARANTINE, quarantine_item(part, part_sk(part.part))));
        }
        let adjustments = part.adjustments.iter();
        puts.extend(adjustments.map(|(index, adjustment)| {
            Action::put(USAGE, adjustment_item(part, *index, adjustment))
        }));
        puts
    }
}

/// Properties that the parts of a usage event have in common.
struct Event {
    identity: Identity,
    bucket: Arc<str>,
    digest: [u8; 8],
    compressed: Option<Arc<Body>>,
}

impl Event {
    fn of(part: &EventPart<'_>) -> Self {
        let identity = Identity::of(&part.pk());
        Self {
            bucket: bucket(&identity, part.id).into(),
            identity,
            digest: first_eight(&digest_of_event(part.body)),
            compressed: None,
        }
    }

    /// Returns the compressed body.
    fn compressed(
        &mut self,
        body: &[u8],
        compressor: &mut Compressor,
    ) -> Result<Arc<Body>, StoreError> {
        if let Some(compressed) = &self.compressed {
            return Ok(Arc::clone(compressed));
        }
        let compressed = Arc::new(compressor.compress(body)?);
        self.compressed = Some(Arc::clone(&compressed));
        Ok(compressed)
    }
}

/// Returns the claim on the first part of an event.
pub(super) fn claim_of(source: &str, id: &str, body: &[u8]) -> Claim {
    let identity = Identity::of(&event_pk(source, id));
    Claim {
        bucket: bucket(&identity, id).into(),
        identity,
        part: 0,
        digest: first_eight(&digest_of_event(body)),
    }
}

/// Prepares parts. Since `since`, all releases that count put claims. Returns those that can be written, and the errors of
/// the others by their indexes.
pub(super) fn prepare<'a>(
    parts: &'a [EventPart<'a>],
    since: Option<Timestamp>,
) -> (Vec<PendingPart<'a>>, Vec<(usize, StoreError)>) {
    let mut compressor = Compressor::new();
    let mut pending = Vec::with_capacity(parts.len());
    let mut failed = Vec::new();
    let mut last: Option<(&EventPart<'_>, Event)> = None;
    for (index, part) in parts.iter().enumerate() {
        // The parts of an event follow one another, and share its text.
        let is_same =
            |other: &EventPart<'_>| std::ptr::eq(other.body, part.body) && other.part < part.part;
        let mut event = match last.take() {
            Some((other, event)) if is_same(other) => event,
            _ => Event::of(part),
        };
        match PendingPart::new(index, part, &mut event, since, &mut compressor) {
            Ok(part) => pending.push(part),
            Err(error) => failed.push((index, error)),
        }
        last = Some((part, event));
    }
    (pending, failed)
}
