//! Usage events as they arrive.

use tollgate_domain::usage::{Defect, ReceivedEvent, parse_event};

/// Source of replayed usage events, whose ids are made of the items' ids. No producer's event has it: it could take the
/// identity of a replay.
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
    /// When its envelope is not of the documented shape, or its source is that of replays.
    pub fn parse(detail: &str) -> Result<Self, Defect> {
        let event = Self::parse_replay(detail)?;
        match event.received.source == REPLAYS {
            true => Err(Defect::Source(REPLAYS)),
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
