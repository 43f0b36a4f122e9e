//! The local product's clock: the machine's, moved by as much as the user likes.

use std::fs::File;
use std::io::{ErrorKind, Write};
use std::path::{Path, PathBuf};
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

/// Why the clock cannot be set, or taken up where it was.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ClockError {
    #[error("that is beyond the calendar")]
    Range,
    #[error("{0} cannot be read or written")]
    File(PathBuf, #[source] std::io::Error),
    #[error(
        "{0} should hold by how many milliseconds this clock is ahead of the machine's, and does \
         not; write the number into it (0 for a clock that was never moved), or choose another \
         directory with --data"
    )]
    Content(PathBuf),
}

impl LocalClock {
    pub(crate) fn new(file: Option<PathBuf>) -> Result<Self, ClockError> {
        let offset = match &file {
            Some(file) => stored_in(file)?,
            None => SignedDuration::ZERO,
        };
        Ok(Self {
            offset: Arc::new(Mutex::new(offset)),
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
        check(offset)?;
        if let Some(file) = &self.file {
            let written = replace(file, &offset.as_millis().to_string());
            written.map_err(|error| ClockError::File(file.clone(), error))?;
        }
        *self.offset() = offset;
        Ok(())
    }

    fn offset(&self) -> MutexGuard<'_, SignedDuration> {
        self.offset.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn stored_in(file: &Path) -> Result<SignedDuration, ClockError> {
    let content = || ClockError::Content(file.to_owned());
    let stored = match std::fs::read(file) {
        Ok(stored) => String::from_utf8(stored).map_err(|_| content())?,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(SignedDuration::ZERO),
        Err(error) => return Err(ClockError::File(file.to_owned(), error)),
    };
    let offset_ms = stored.trim().parse().map_err(|_| content())?;
    let offset = SignedDuration::from_millis(offset_ms);
    check(offset).map_err(|_| content())?;
    Ok(offset)
}

/// Checks that computations with windows stay inside the calendar: there is a month of room.
fn check(offset: SignedDuration) -> Result<(), ClockError> {
    let room = SignedDuration::from_hours(24 * 62);
    let now = Clock::system().now();
    for edge in [offset.checked_add(room), offset.checked_sub(room)] {
        let edge = edge.ok_or(ClockError::Range)?;
        now.checked_add(edge).map_err(|_| ClockError::Range)?;
    }
    Ok(())
}

/// Replaces a file's content as a whole: whenever the process or the machine ends, the old one or
/// the new one is there.
fn replace(file: &Path, content: &str) -> std::io::Result<()> {
    let new = file.with_extension("new");
    let mut written = File::create(&new)?;
    written.write_all(content.as_bytes())?;
    written.sync_all()?;
    std::fs::rename(new, file)
}
