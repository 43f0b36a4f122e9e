//! Usage events as they arrive.

use tollgate_domain::usage::{Defect, ReceivedEvent, parse_event};

/// A usage event with a valid envelope.
#[derive(Debug)]
pub struct IncomingEvent {
    pub(crate) received: ReceivedEvent,
    /// The text as it arrived.
    pub(crate) detail: String,
}

impl IncomingEvent {
    /// Parses a usage event.
    ///
    /// # Errors
    /// When its envelope is not of the documented shape.
    pub fn parse(detail: &str) -> Result<Self, Defect> {
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
