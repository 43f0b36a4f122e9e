//! Parts of usage events that are about to be written.

use std::sync::Arc;

use jiff::Timestamp;
use sha2::{Digest, Sha256};
use tollgate_domain::usage::{MAX_AGE, MAX_AHEAD};
use tollgate_domain::window::Day;

use super::claims::{Claim, Identity, bucket};
use crate::adjustments::adjustment_item;
use crate::body::{Body, Compressor};
use crate::canonical::digest_of_event;
use crate::error::StoreError;
use crate::event_part::{EventPart, event_pk, part_sk};
use crate::item::{keys, s, ttl};
use crate::log::LOG_KEPT;
use crate::quarantine::quarantine_item;
use crate::schema::{QUARANTINE, USAGE, USAGE_LOG, attr};
use crate::transaction::Action;

/// A part of a usage event that is about to be written.
pub(super) struct PendingPart<'a> {
    /// Index among the parts of this write.
    pub(super) index: usize,
    pub(super) part: &'a EventPart<'a>,
    pub(super) claim: Claim,
    /// Body for the quarantine, if records are rejected.
    rejected: Option<Body>,
    /// Whether a release before claims were put may have counted the part.
    is_guarded: bool,
}

impl<'a> PendingPart<'a> {
    fn new(
        index: usize,
        part: &'a EventPart<'a>,
        event: &Event,
        since: Option<Timestamp>,
        compressor: &mut Compressor,
    ) -> Result<Self, StoreError> {
        let is_rejected = !part.rejected.is_empty();
        let rejected = is_rejected.then(|| compressor.compress(part.body));
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
            is_guarded: since.is_none_or(|since| may_be_counted_before(part, since)),
        })
    }

    /// Returns the number of items that the part's transaction puts, besides aggregates, and their bytes of bodies.
    pub(super) fn puts(&self) -> (usize, usize) {
        let body = self.rejected.as_ref();
        let (items, bytes) = body.map_or((0, 0), |body| (body.items(), body.len()));
        let guards = usize::from(self.is_guarded);
        (guards + items + self.part.adjustments.len(), bytes)
    }

    pub(super) fn is_guarded(&self) -> bool {
        self.is_guarded
    }

    /// Returns the put that fails if a release before claims were put has counted the part.
    pub(super) fn guard(&self) -> Option<Action> {
        let part = self.part;
        let kept_until = part.received_at.saturating_add(LOG_KEPT);
        self.is_guarded.then(|| {
            let mut guard = keys(part.pk(), part_sk(part.part));
            guard.insert("digest".into(), s(self.text_digest()));
            let kept_until = kept_until.unwrap_or(part.received_at);
            guard.insert(attr::EXPIRES.into(), ttl(kept_until));
            // Absent: the part was not counted, and no instance of that release can count it from now on.
            Action::put(USAGE_LOG, guard).when("attribute_not_exists(pk)")
        })
    }

    /// Returns the digest of the event's text, by which a release before claims were put compared events.
    pub(super) fn text_digest(&self) -> String {
        hex::encode(Sha256::digest(self.part.body))
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

/// Whether a release before claims were put, which were put at `since` at the latest, may have counted the part. It
/// rejected records that were more than [`MAX_AHEAD`] in the future, and those of a day make a part.
fn may_be_counted_before(part: &EventPart<'_>, since: Timestamp) -> bool {
    let latest = since.saturating_add(MAX_AHEAD).unwrap_or(since);
    match part.aggregates.days.keys().next() {
        Some(day) => *day <= Day::containing(latest),
        // All of it is rejected, for as long as that may be because it is too old.
        None => part.received_at.duration_since(latest) <= MAX_AGE,
    }
}

/// Properties that the parts of a usage event have in common.
struct Event {
    identity: Identity,
    bucket: Arc<str>,
    digest: [u8; 8],
}

impl Event {
    fn of(part: &EventPart<'_>) -> Self {
        let identity = Identity::of(&part.pk());
        Self {
            bucket: bucket(&identity, part.id).into(),
            identity,
            digest: digest(part.body),
        }
    }
}

/// Returns the beginning of the digest of an event's content.
fn digest(body: &[u8]) -> [u8; 8] {
    let digest = digest_of_event(body);
    let mut beginning = [0; 8];
    for (to, from) in beginning.iter_mut().zip(digest) {
        *to = from;
    }
    beginning
}

/// Returns the claim on the first part of an event.
pub(super) fn claim_of(source: &str, id: &str, body: &[u8]) -> Claim {
    let identity = Identity::of(&event_pk(source, id));
    Claim {
        bucket: bucket(&identity, id).into(),
        identity,
        part: 0,
        digest: digest(body),
    }
}

/// Prepares parts; since `since`, all releases that count put claims. Returns those that can be written, and the errors of the others by their indexes.
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
        let event = match last.take() {
            Some((other, event)) if is_same(other) => event,
            _ => Event::of(part),
        };
        match PendingPart::new(index, part, &event, since, &mut compressor) {
            Ok(part) => pending.push(part),
            Err(error) => failed.push((index, error)),
        }
        last = Some((part, event));
    }
    (pending, failed)
}
