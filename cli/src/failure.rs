//! Failures of commands, and exit statuses.

use std::fmt;
use std::io;

use tollgate_runtime::Chain;

/// Exit status of the program, other than 0.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Exit {
    /// The command failed, or found what needs somebody.
    Failure = 1,
    /// The arguments are invalid.
    Usage = 2,
    /// A resource that the command names does not exist.
    NotFound = 3,
    /// The state does not allow the request.
    Conflict = 4,
    /// There is no key, or the API does not accept it.
    Unauthorized = 5,
    /// The API does not respond, or accepts no requests at the moment.
    Unavailable = 6,
}

/// Meaning of the exit statuses, for `--help` and the manual.
pub(crate) const EXIT_STATUS: &str = "Exit status:
  0  the command succeeded
  1  it failed, the API rejected the request, or a check found something
  2  the arguments are invalid
  3  what it names does not exist
  4  conflict: the state does not allow the request
  5  there is no key, or the API does not accept it
  6  the API does not respond, or accepts no requests at the moment";

/// Failure of a command: the sentence that is printed, and the exit status.
#[derive(Debug)]
pub(crate) struct Failure {
    pub(crate) exit: Exit,
    sentence: String,
    /// Whether the reader of standard output has gone, which needs no message.
    pub(crate) is_closed_pipe: bool,
}

impl Failure {
    pub(crate) fn new(exit: Exit, sentence: impl Into<String>) -> Self {
        let sentence = sentence.into();
        Self {
            exit,
            sentence,
            is_closed_pipe: false,
        }
    }

    /// Creates a failure with the exit status 1.
    pub(crate) fn of(sentence: impl Into<String>) -> Self {
        Self::new(Exit::Failure, sentence)
    }

    /// Creates a failure of invalid arguments.
    pub(crate) fn usage(sentence: impl Into<String>) -> Self {
        Self::new(Exit::Usage, sentence)
    }

    /// Creates a failure from an error and its sources.
    pub(crate) fn because(what: impl fmt::Display, error: &dyn std::error::Error) -> Self {
        Self::of(format!("{what}: {}", Chain(error)))
    }

    /// Creates the failure to write to standard output.
    pub(crate) fn output(error: &io::Error) -> Self {
        Self {
            is_closed_pipe: error.kind() == io::ErrorKind::BrokenPipe,
            ..Self::because("standard output cannot be written", error)
        }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.sentence)
    }
}
