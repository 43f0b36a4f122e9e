//! Cursors: where a list goes on, in a form that callers pass back and do not read.

use std::fmt;
use std::str::FromStr;

use base64::Engine;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use serde::{Deserialize, Serialize};
use tollgate_store::Page;

/// The page size without a `limit`, and the largest.
const DEFAULT_LIMIT: usize = 50;
const MAX_LIMIT: usize = 100;

/// A place in a list.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Cursor {
    place: String,
}

/// The text is no cursor of ours.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct InvalidCursor;

impl fmt::Display for InvalidCursor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the cursor is not one that this API gave out")
    }
}

impl std::error::Error for InvalidCursor {}

impl Cursor {
    /// A cursor for this place.
    #[must_use]
    pub fn new(place: String) -> Self {
        Self { place }
    }

    /// The place.
    #[must_use]
    pub fn place(&self) -> &str {
        &self.place
    }
}

impl From<Cursor> for String {
    fn from(cursor: Cursor) -> String {
        let sum = crc32fast::hash(cursor.place.as_bytes()).to_be_bytes();
        let mut bytes = sum.to_vec();
        bytes.extend(cursor.place.as_bytes());
        BASE64_URL_SAFE_NO_PAD.encode(bytes)
    }
}

impl FromStr for Cursor {
    type Err = InvalidCursor;

    fn from_str(text: &str) -> Result<Self, InvalidCursor> {
        let bytes = BASE64_URL_SAFE_NO_PAD
            .decode(text)
            .map_err(|_| InvalidCursor)?;
        let (sum, place) = bytes.split_at_checked(4).ok_or(InvalidCursor)?;
        // Tells typing errors from places; whoever forges a sum gets to begin where they like in a
        // list that they may read anyway.
        if crc32fast::hash(place).to_be_bytes() != sum {
            return Err(InvalidCursor);
        }
        let place = String::from_utf8(place.to_vec()).map_err(|_| InvalidCursor)?;
        Ok(Self { place })
    }
}

impl TryFrom<String> for Cursor {
    type Error = InvalidCursor;

    fn try_from(text: String) -> Result<Self, InvalidCursor> {
        text.parse()
    }
}

/// A page of a list, as callers see it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct List<T> {
    /// The items of the page.
    pub data: Vec<T>,
    /// Where the next page begins; `null` if this is the last.
    pub next_cursor: Option<Cursor>,
}

impl<T, U: From<T>> From<Page<T>> for List<U> {
    fn from(page: Page<T>) -> Self {
        Self {
            data: page.items.into_iter().map(U::from).collect(),
            next_cursor: page.next.map(Cursor::new),
        }
    }
}

/// How many items of a list, and from where; query texts that each list checks with
/// [`limit`](Self::limit).
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PageParams {
    /// 1 to 100; 50 if left out.
    pub limit: Option<usize>,
    /// The `next_cursor` of the page before.
    pub cursor: Option<Cursor>,
}

impl PageParams {
    /// The page size.
    ///
    /// # Errors
    /// When it is 0 or over 100.
    pub fn limit(limit: Option<usize>) -> Result<usize, crate::Problem> {
        match limit.unwrap_or(DEFAULT_LIMIT) {
            limit @ 1..=MAX_LIMIT => Ok(limit),
            _ => Err(crate::Problem::bad_request(
                "In the query: limit must be 1 to 100.",
            )),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cursor_comes_back_as_it_went() {
        let cursor = Cursor::new("acme#2026-11-22T10:00:00.000Z#key_1".into());
        let text = String::from(cursor.clone());
        assert_eq!(text.parse(), Ok(cursor));
        for wrong in ["", "x", "AAAA", "====", &text[1..], &text[..text.len() - 2]] {
            assert_eq!(wrong.parse::<Cursor>(), Err(InvalidCursor), "{wrong:?}");
        }
    }
}
