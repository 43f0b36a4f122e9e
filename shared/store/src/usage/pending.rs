//! Parts of usage events that are about to be written.

use sha2::{Digest, Sha256};

use crate::adjustments::adjustment_item;
use crate::body::{Body, Compressor};
use crate::error::StoreError;
use crate::event_part::{EventPart, part_sk};
use crate::item::{keys, n, s, t, ttl};
use crate::log::LOG_KEPT;
use crate::quarantine::quarantine_item;
use crate::schema::{QUARANTINE, USAGE, USAGE_LOG, attr};
use crate::transaction::Action;

/// A part of a usage event that is about to be written.
pub(super) struct PendingPart<'a> {
    /// Index among the parts of this write.
    pub(super) index: usize,
    pub(super) part: &'a EventPart<'a>,
    pub(super) pk: String,
    /// Digest of the event's text, which as a rule distinguishes it from others with its source and id.
    pub(super) digest: String,
    /// Stored with an event's first part, and with a part of which records are quarantined.
    body: Option<Body>,
}

impl<'a> PendingPart<'a> {
    pub(super) fn new(
        index: usize,
        part: &'a EventPart<'a>,
        compressor: &mut Compressor,
    ) -> Result<Self, StoreError> {
        let stores_body = part.part == 0 || !part.rejected.is_empty();
        let body = stores_body.then(|| compressor.compress(part.body));
        let body = body.transpose()?;
        Ok(Self {
            index,
            part,
            pk: part.pk(),
            digest: hex::encode(Sha256::digest(part.body)),
            body,
        })
    }

    /// Returns what identifies the event among all others, including those with its source and id.
    pub(super) fn identity(&self) -> (&str, &str) {
        (&self.pk, &self.digest)
    }

    /// Returns the number of items that the part puts, and their bytes of bodies.
    pub(super) fn puts(&self) -> (usize, usize) {
        let body = self.body.as_ref();
        let (items, bytes) = body.map_or((1, 0), |body| (body.items(), body.len()));
        let adjustments = self.part.adjustments.len();
        let logged = if self.part.part == 0 {
            (items + adjustments, bytes)
        } else {
            (1 + adjustments, 0)
        };
        match self.part.rejected.is_empty() {
            true => logged,
            false => (logged.0 + items, logged.1 + bytes),
        }
    }

    /// Returns the deduplication claim, and the other puts of its transaction.
    pub(super) fn actions(&self, write_id: &str) -> (Action, Vec<Action>) {
        let part = self.part;
        let kept_until = part.received_at.saturating_add(LOG_KEPT);
        let kept_until = kept_until.unwrap_or(part.received_at);
        let mut claim = keys(&self.pk, part_sk(part.part));
        claim.insert(attr::CUSTOMER.into(), s(part.customer.as_str()));
        if let Some(day) = part.aggregates.days.keys().next() {
            let order = format!("{day}#{:.3}", part.received_at);
            claim.insert(attr::LOG_ORDER.into(), s(order));
        }
        claim.insert("records".into(), n(part.records as u64));
        claim.insert("digest".into(), s(&self.digest));
        claim.insert(attr::WRITTEN_BY.into(), s(write_id));
        claim.insert(attr::RECEIVED_AT.into(), t(part.received_at));
        claim.insert(attr::EXPIRES.into(), ttl(kept_until));
        let logged = self.body.as_ref().filter(|_| part.part == 0);
        let (claim, mut puts) = match logged {
            Some(body) => body.put(USAGE_LOG, claim),
            None => (Action::put(USAGE_LOG, claim), Vec::new()),
        };
        if let Some(body) = self.body.as_ref().filter(|_| !part.rejected.is_empty()) {
            let (head, pieces) = body.put(QUARANTINE, quarantine_item(part, part_sk(part.part)));
            puts.push(head);
            puts.extend(pieces);
        }
        let adjustments = part.adjustments.iter();
        puts.extend(adjustments.map(|(index, adjustment)| {
            Action::put(USAGE, adjustment_item(part, *index, adjustment))
        }));
        // Absent: only the first delivery of an event counts. The aggregates and the other puts are
        // unconditional, because they change together with this item or not at all.
        (claim.when("attribute_not_exists(pk)"), puts)
    }
}
