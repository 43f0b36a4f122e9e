//! Pagination of lists with opaque cursors.

use std::fmt;
use std::str::FromStr;

use tollgate_api::problem::Member;
use tollgate_api::{Cursor, InvalidCursor, List};
use tollgate_domain::page::Page;

use crate::Problem;

/// Page size of a request without a `limit`.
const DEFAULT_LIMIT: usize = 50;
/// Maximum page size.
const MAX_LIMIT: usize = 100;

/// Separator after each window of a list in a cursor. No window contains it.
const SEPARATOR: char = '\n';

/// Request for a page of a list.
#[derive(Debug, Clone)]
pub struct ListRequest {
    /// Name of the list, which includes the customer and filters of the list.
    name: String,
    /// Requested windows, each followed by the separator.
    windows: String,
    after: Option<String>,
}

impl ListRequest {
    /// Creates a request for the list of this name, after the cursor if there is one.
    ///
    /// # Errors
    /// When the cursor is of another list.
    pub fn new(name: impl Into<String>, cursor: Option<&Cursor>) -> Result<Self, InvalidCursor> {
        let name = name.into();
        let after = cursor.map(|cursor| cursor.position_in(&name)).transpose()?;
        Ok(Self {
            after: after.map(str::to_owned),
            name,
            windows: String::new(),
        })
    }

    /// Returns a window of the list, such as a day or month: the one in the cursor, the requested one, or
    /// else `default`. Because the cursor contains it, it is the same for all pages even if the default
    /// changes between them.
    ///
    /// # Errors
    /// When the cursor is of another window.
    pub fn window<W>(&mut self, given: Option<W>, default: W) -> Result<W, InvalidCursor>
    where
        W: FromStr + fmt::Display + PartialEq,
    {
        let window = match &self.after {
            None => given.unwrap_or(default),
            Some(after) => {
                let (first, rest) = after.split_once(SEPARATOR).ok_or(InvalidCursor)?;
                let first = first.parse().map_err(|_| InvalidCursor)?;
                let rest = rest.to_owned();
                if given.is_some_and(|given| given != first) {
                    return Err(InvalidCursor);
                }
                self.after = Some(rest);
                first
            }
        };
        self.windows.push_str(&format!("{window}{SEPARATOR}"));
        Ok(window)
    }

    /// Returns the position after which the page begins. Call [`window`](Self::window) for all windows of
    /// the list first.
    #[must_use]
    pub fn after(&self) -> Option<&str> {
        self.after.as_deref()
    }

    /// Creates a cursor for a position in the list.
    #[must_use]
    pub fn cursor(&self, position: &str) -> Cursor {
        Cursor::new(&self.name, format!("{}{position}", self.windows))
    }

    /// Converts a page of the store to a page of the response.
    #[must_use]
    pub fn page<T, U>(&self, page: Page<T>, represent: impl FnMut(T) -> U) -> List<U> {
        List {
            data: page.items.into_iter().map(represent).collect(),
            next_cursor: page.next.map(|position| self.cursor(&position)),
        }
    }
}

/// Returns the page size for the `limit` of a query.
///
/// # Errors
/// When it is 0 or over 100.
pub fn page_size(limit: Option<usize>) -> Result<usize, Problem> {
    match limit.unwrap_or(DEFAULT_LIMIT) {
        limit @ 1..=MAX_LIMIT => Ok(limit),
        _ => {
            let detail = "In the query: limit must be 1 to 100.";
            Err(Problem::bad_request(detail).with(Member::Field, "limit"))
        }
    }
}

#[cfg(test)]
mod tests {
    use tollgate_domain::window::{Day, Month};

    use super::*;

    #[test]
    fn a_cursor_round_trips() {
        let cursor = Cursor::new("keys", "acme#2026-11-22T10:00:00.000Z#key_1".into());
        let text = String::from(cursor.clone());
        assert_eq!(text.parse(), Ok(cursor));
        for wrong in ["", "x", "AAA", "====", "_____x"] {
            assert_eq!(wrong.parse::<Cursor>(), Err(InvalidCursor), "{wrong:?}");
        }
        for wrong in [&text[1..], &text[..text.len() - 2]] {
            let read = wrong.parse::<Cursor>();
            let position = read.as_ref().map(|cursor| cursor.position_in("keys"));
            assert!(!matches!(position, Ok(Ok(_))), "{wrong:?}");
        }
    }

    #[test]
    fn a_cursor_is_valid_for_one_list_only() {
        let first = ListRequest::new("charges acme", None).unwrap();
        let cursor = first.cursor("7");
        let again = ListRequest::new("charges acme", Some(&cursor)).unwrap();
        assert_eq!(again.after(), Some("7"));
        for other in [
            "charges bolt",
            "charges",
            "charges acme7",
            "adjustments acme",
        ] {
            assert!(ListRequest::new(other, Some(&cursor)).is_err(), "{other}");
        }
    }

    #[test]
    fn all_pages_of_a_list_have_the_windows_of_the_first() {
        let day = |text: &str| text.parse::<Day>().unwrap();
        let month = |text: &str| text.parse::<Month>().unwrap();
        let mut first = ListRequest::new("log", None).unwrap();
        assert_eq!(first.after(), None);
        let given = Some(day("2026-11-22"));
        assert_eq!(
            first.window(given, day("2026-11-30")),
            Ok(day("2026-11-22"))
        );
        assert_eq!(first.window(None, month("2026-11")), Ok(month("2026-11")));
        let cursor = first.cursor("a\nposition");

        let later = month("2026-12");
        for given in [None, given] {
            let mut next = ListRequest::new("log", Some(&cursor)).unwrap();
            assert_eq!(next.window(given, day("2026-12-01")), Ok(day("2026-11-22")));
            assert_eq!(next.window(None, later), Ok(month("2026-11")));
            assert_eq!(next.after(), Some("a\nposition"));
            assert_eq!(next.cursor("a\nposition"), cursor);
        }
        let mut other = ListRequest::new("log", Some(&cursor)).unwrap();
        assert!(
            other
                .window(Some(day("2026-11-23")), day("2026-12-01"))
                .is_err()
        );
        // A position without its windows, or with another window first, is invalid.
        let mut other = ListRequest::new("log", Some(&cursor)).unwrap();
        assert!(other.window(None, later).is_err());
        let bare = Cursor::new("log", "position".into());
        let mut other = ListRequest::new("log", Some(&bare)).unwrap();
        assert!(other.window(None, later).is_err());
    }
}
