//! Usage events as they arrive.

use tollgate_domain::usage::{Defect, ReceivedEvent, parse_event};

/// Source of replayed usage events. Their ids are SHA-256 digests, in hexadecimal, of the quarantined items' ids.
pub const REPLAYS: &str = "tollgate:quarantine";

/// A usage event with a valid envelope.
#[derive(Debug)]
pub struct IncomingEvent {
    pub(crate) received: ReceivedEvent,
    /// The text as it arrived.
    pub(crate) detail: String,
}

impl IncomingEvent {
    /// Parses a usage event of a producer.
    ///
    /// # Errors
    /// When its envelope is not of the documented shape, or it has the identity of a replay.
    pub fn parse(detail: &str) -> Result<Self, Defect> {
        let event = Self::parse_replay(detail)?;
        let ReceivedEvent { source, id, .. } = &event.received;
        // A function may be named `quarantine`; the ids of its metering layer are UUIDs.
        let is_digest = id.len() == 64 && id.bytes().all(|byte| byte.is_ascii_hexdigit());
        match source == REPLAYS && is_digest {
            true => Err(Defect::Replay),
            false => Ok(event),
        }
    }

    /// Parses a usage event that replays a quarantined one.
    ///
    /// # Errors
    /// When its envelope is not of the documented shape.
    pub fn parse_replay(detail: &str) -> Result<Self, Defect> {
        Ok(Self {
            received: parse_event(detail)?,
            detail: detail.to_owned(),
        })
    }

    /// Returns the parsed usage event.
    #[must_use]
    pub fn received(&self) -> &ReceivedEvent {
        &self.received
    }
}
