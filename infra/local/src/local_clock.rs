//! The clock of the local stack: the machine's clock with an offset that the user sets.

use std::fs::File;
use std::io::{ErrorKind, Write};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use jiff::{SignedDuration, Timestamp};
use tollgate_runtime::Clock;

/// A clock that keeps running after it is set. If there is a data directory, the offset is stored there, so
/// that the time after a restart is not before the stored items.
#[derive(Debug, Clone)]
pub(crate) struct LocalClock {
    offset: Arc<Mutex<SignedDuration>>,
    file: Option<PathBuf>,
}

/// Failure to set or restore the clock.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ClockError {
    #[error("the time is outside the supported range")]
    Range,
    #[error("{0} cannot be read or written")]
    File(PathBuf, #[source] std::io::Error),
    #[error(
        "{0} must contain the offset of this clock from the machine's clock in milliseconds, and does \
         not; write the number into it (0 for a clock that was never set), or choose another \
         directory with --data"
    )]
    Content(PathBuf),
}

impl LocalClock {
    pub(crate) fn new(file: Option<PathBuf>) -> Result<Self, ClockError> {
        let offset = match &file {
            Some(file) => read_offset(file)?,
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

    /// Sets the clock to `now`.
    pub(crate) fn set(&self, now: Timestamp) -> Result<(), ClockError> {
        let system = Clock::system().now();
        let offset = now.as_duration() - system.as_duration();
        self.store(offset)
    }

    /// Advances the clock by `step`, which may be negative.
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

fn read_offset(file: &Path) -> Result<SignedDuration, ClockError> {
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

/// Checks that times up to 62 days before and after the clock's are valid, as windows require, and that the clock's is a
/// Unix time.
fn check(offset: SignedDuration) -> Result<(), ClockError> {
    let margin = SignedDuration::from_hours(24 * 62);
    let now = Clock::system().now();
    for edge in [offset.checked_add(margin), offset.checked_sub(margin)] {
        let edge = edge.ok_or(ClockError::Range)?;
        now.checked_add(edge).map_err(|_| ClockError::Range)?;
    }
    let time = now.checked_add(offset).map_err(|_| ClockError::Range)?;
    (time >= Timestamp::UNIX_EPOCH)
        .then_some(())
        .ok_or(ClockError::Range)
}

/// Replaces a file's content atomically: after a crash of the process or the machine, the file has either
/// the old or the new content.
fn replace(file: &Path, content: &str) -> std::io::Result<()> {
    let new = file.with_extension("new");
    let mut written = File::create(&new)?;
    written.write_all(content.as_bytes())?;
    written.sync_all()?;
    std::fs::rename(new, file)
}
