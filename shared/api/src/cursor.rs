//! Pagination of lists with opaque cursors.

use std::fmt;
use std::str::FromStr;

use base64::Engine;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use serde::{Deserialize, Serialize};
use tollgate_domain::failure::{Failure, FailureKind};
use utoipa::{IntoParams, ToSchema};

use crate::schema;

/// Position in a list, opaque to callers. It is valid for its own list only.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Cursor {
    /// Checksum of the list's name and the position.
    checksum: [u8; 4],
    position: String,
}

/// Error: the text is not a cursor, or one of another list.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct InvalidCursor;

impl fmt::Display for InvalidCursor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the cursor is not one of this list")
    }
}

impl std::error::Error for InvalidCursor {}

impl Failure for InvalidCursor {
    fn kind(&self) -> FailureKind {
        FailureKind::InvalidCursor
    }
}

fn checksum(list: &str, position: &str) -> [u8; 4] {
    let mut hash = crc32fast::Hasher::new();
    for part in [list, "\0", position] {
        hash.update(part.as_bytes());
    }
    hash.finalize().to_be_bytes()
}

impl Cursor {
    /// Creates a cursor for a position in the list of this name.
    #[must_use]
    pub fn new(list: &str, position: String) -> Self {
        let checksum = checksum(list, &position);
        Self { checksum, position }
    }

    /// Returns the position.
    ///
    /// # Errors
    /// When the cursor is of another list. The checksum detects mistakes only; a forged one merely starts
    /// at another position of a list that the caller may read anyway.
    pub fn position_in(&self, list: &str) -> Result<&str, InvalidCursor> {
        let is_of_list = self.checksum == checksum(list, &self.position);
        is_of_list.then_some(&*self.position).ok_or(InvalidCursor)
    }
}

impl From<Cursor> for String {
    fn from(cursor: Cursor) -> String {
        let mut bytes = cursor.checksum.to_vec();
        bytes.extend(cursor.position.as_bytes());
        BASE64_URL_SAFE_NO_PAD.encode(bytes)
    }
}

impl FromStr for Cursor {
    type Err = InvalidCursor;

    fn from_str(text: &str) -> Result<Self, InvalidCursor> {
        let bytes = BASE64_URL_SAFE_NO_PAD
            .decode(text)
            .map_err(|_| InvalidCursor)?;
        let (checksum, position) = bytes.split_first_chunk().ok_or(InvalidCursor)?;
        let position = String::from_utf8(position.to_vec()).map_err(|_| InvalidCursor)?;
        Ok(Self {
            checksum: *checksum,
            position,
        })
    }
}

impl TryFrom<String> for Cursor {
    type Error = InvalidCursor;

    fn try_from(text: String) -> Result<Self, InvalidCursor> {
        text.parse()
    }
}

/// One page of a list.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
pub struct List<T> {
    /// Items of the page. A page may be empty and still be followed by another.
    pub data: Vec<T>,
    /// Cursor of the next page; `null` if this is the last.
    #[schema(value_type = Option<schema::Cursor>, required)]
    pub next_cursor: Option<Cursor>,
}

/// Query of a paginated list.
#[derive(Debug, Clone, Default, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct PageQuery {
    /// Page size; 50 if absent.
    #[param(minimum = 1, maximum = 100)]
    pub limit: Option<usize>,
    /// `next_cursor` of the previous page.
    #[param(value_type = Option<schema::Cursor>)]
    pub cursor: Option<Cursor>,
}
