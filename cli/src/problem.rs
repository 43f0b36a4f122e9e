//! Problems (RFC 9457) of the API, as sentences.

use std::fmt::Write as _;

use http::StatusCode;
use serde::Deserialize;
use serde_json::Value;

use crate::failure::{Exit, Failure};
use crate::text::printable;

/// Most defects that are printed.
const MAX_DEFECTS: usize = 20;

/// Problem that the API responds with.
#[derive(Debug, Deserialize)]
pub(crate) struct Problem {
    r#type: String,
    title: String,
    detail: String,
    request_id: String,
    #[serde(default)]
    pub(crate) defects: Vec<Defect>,
    #[serde(default)]
    pub(crate) conflicts: Vec<String>,
    /// Other members, which depend on the type.
    #[serde(flatten)]
    other: serde_json::Map<String, Value>,
}

/// Part of a request that cannot be carried out.
#[derive(Debug, Deserialize)]
pub(crate) struct Defect {
    pub(crate) pointer: String,
    pub(crate) reason: String,
}

impl Problem {
    /// Returns the last segment of the type.
    pub(crate) fn slug(&self) -> &str {
        self.r#type.rsplit(':').next().unwrap_or_default()
    }

    /// Converts the problem of a response with this status.
    pub(crate) fn failure(&self, status: StatusCode) -> Failure {
        let detail = self.detail.trim_end_matches('.');
        let mut sentence = printable(&format!("{}: {detail}", self.title));
        for name in [
            "rotated_to",
            "latest_version",
            "earliest",
            "latest",
            "plans",
        ] {
            if let Some(value) = self.other.get(name) {
                let _ = write!(
                    sentence,
                    "; {}: {}",
                    name.replace('_', " "),
                    crate::text::cell(Some(value))
                );
            }
        }
        let _ = write!(sentence, " (request {})", printable(&self.request_id));
        for Defect { pointer, reason } in self.defects.iter().take(MAX_DEFECTS) {
            let _ = write!(
                sentence,
                "\n  {}: {}",
                printable(pointer),
                printable(reason)
            );
        }
        for pointer in self.conflicts.iter().take(MAX_DEFECTS) {
            let _ = write!(sentence, "\n  {}: conflict", printable(pointer));
        }
        Failure::new(exit(status), sentence)
    }
}

/// Returns the exit status for a response.
pub(crate) fn exit(status: StatusCode) -> Exit {
    match status.as_u16() {
        401 | 403 => Exit::Unauthorized,
        404 => Exit::NotFound,
        409 => Exit::Conflict,
        429 | 500.. => Exit::Unavailable,
        _ => Exit::Failure,
    }
}
