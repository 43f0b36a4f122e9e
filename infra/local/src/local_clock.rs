//! The local product's clock: the machine's, moved by as much as the user likes.

use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use jiff::{SignedDuration, Timestamp};
use tollgate_runtime::Clock;

/// A clock that goes on ticking after it is set. Where there is a data directory it remembers, so
/// that time does not fall back behind what is stored.
#[derive(Debug, Clone)]
pub(crate) struct LocalClock {
    offset: Arc<Mutex<SignedDuration>>,
    file: Option<PathBuf>,
}

/// The instant is beyond the calendar.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ClockError {
    #[error("that is beyond the calendar")]
    Range,
    #[error("the clock's file")]
    File(#[from] std::io::Error),
}

impl LocalClock {
    pub(crate) fn new(file: Option<PathBuf>) -> Result<Self, ClockError> {
        let stored = match &file {
            Some(file) if file.exists() => std::fs::read_to_string(file)?,
            _ => "0".to_owned(),
        };
        let offset_ms = stored.trim().parse().map_err(|_| ClockError::Range)?;
        Ok(Self {
            offset: Arc::new(Mutex::new(SignedDuration::from_millis(offset_ms))),
            file,
        })
    }

    pub(crate) fn clock(&self) -> Clock {
        let (this, system) = (self.clone(), Clock::system());
        Clock::from_fn(move || {
            let now = system.now();
            now.saturating_add(*this.offset()).unwrap_or(now)
        })
    }

    /// Moves the clock to `now`.
    pub(crate) fn set(&self, now: Timestamp) -> Result<(), ClockError> {
        let system = Clock::system().now();
        let offset = now.as_duration() - system.as_duration();
        self.store(offset)
    }

    /// Moves the clock by `step`.
    pub(crate) fn advance(&self, step: SignedDuration) -> Result<(), ClockError> {
        let offset = self.offset().checked_add(step).ok_or(ClockError::Range)?;
        self.store(offset)
    }

    fn store(&self, offset: SignedDuration) -> Result<(), ClockError> {
        // A month of room keeps every computation with windows inside the calendar.
        let room = SignedDuration::from_hours(24 * 62);
        for edge in [offset.checked_add(room), offset.checked_sub(room)] {
            let edge = edge.ok_or(ClockError::Range)?;
            let now = Clock::system().now();
            now.checked_add(edge).map_err(|_| ClockError::Range)?;
        }
        if let Some(file) = &self.file {
            // A process that is killed in the midst of this leaves the one or the other.
            let new = file.with_extension("new");
            std::fs::write(&new, offset.as_millis().to_string())?;
            std::fs::rename(new, file)?;
        }
        *self.offset() = offset;
        Ok(())
    }

    fn offset(&self) -> MutexGuard<'_, SignedDuration> {
        self.offset.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
