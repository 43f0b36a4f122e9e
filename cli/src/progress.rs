//! Progress of a long command, on standard error.

use std::time::{Duration, Instant};

use console::Term;
use indicatif::{ProgressBar, ProgressDrawTarget};

/// Interval of the lines where standard error is no terminal.
const INTERVAL: Duration = Duration::from_secs(10);

/// Progress: one line that changes in a terminal, and a line every ten seconds elsewhere.
pub(crate) struct Progress {
    bar: Option<ProgressBar>,
    last: Instant,
}

impl Progress {
    pub(crate) fn new() -> Self {
        let bar = Term::stderr().is_term().then(|| {
            let bar = ProgressBar::new_spinner();
            bar.set_draw_target(ProgressDrawTarget::stderr());
            bar
        });
        let last = Instant::now();
        Self { bar, last }
    }

    /// Reports a state.
    pub(crate) fn report(&mut self, text: impl FnOnce() -> String) {
        match &self.bar {
            Some(bar) => {
                bar.set_message(text());
                bar.tick();
            }
            None if self.last.elapsed() >= INTERVAL => {
                self.last = Instant::now();
                crate::note(text());
            }
            None => {}
        }
    }

    /// Prints a line above the progress.
    pub(crate) fn note(&self, text: &str) {
        match &self.bar {
            Some(bar) => bar.suspend(|| crate::note(text)),
            None => crate::note(text),
        }
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}
