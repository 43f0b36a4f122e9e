//! Cursors: where a list goes on, in a form that callers pass back and do not read.

use std::fmt;
use std::str::FromStr;

use base64::Engine;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use serde::{Deserialize, Serialize};
use tollgate_store::Page;

use crate::Problem;

/// The page size without a `limit`, and the largest.
const DEFAULT_LIMIT: usize = 50;
const MAX_LIMIT: usize = 100;

/// A place in a list. It is good for the list that gave it out, and for no other.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Cursor {
    /// Of the list's name and the place.
    sum: [u8; 4],
    place: String,
}

/// The text is no cursor, or one of another list.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct InvalidCursor;

impl fmt::Display for InvalidCursor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the cursor is not one that this list gave out")
    }
}

impl std::error::Error for InvalidCursor {}

impl From<InvalidCursor> for Problem {
    fn from(invalid: InvalidCursor) -> Self {
        let problem = Problem::bad_request(format!("In the query: {invalid}."));
        problem.with("field", "cursor")
    }
}

fn sum(list: &str, place: &str) -> [u8; 4] {
    let mut sum = crc32fast::Hasher::new();
    for part in [list, "\0", place] {
        sum.update(part.as_bytes());
    }
    sum.finalize().to_be_bytes()
}

impl Cursor {
    /// A cursor for this place of the list of this name.
    #[must_use]
    pub fn new(list: &str, place: String) -> Self {
        let sum = sum(list, &place);
        Self { sum, place }
    }

    /// The place.
    ///
    /// # Errors
    /// When it is not one of this list. That tells mistakes; whoever forges a sum gets to begin where
    /// they like in a list that they may read anyway.
    pub fn place_in(&self, list: &str) -> Result<&str, InvalidCursor> {
        let is_of_list = self.sum == sum(list, &self.place);
        is_of_list.then_some(&*self.place).ok_or(InvalidCursor)
    }
}

impl From<Cursor> for String {
    fn from(cursor: Cursor) -> String {
        let mut bytes = cursor.sum.to_vec();
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
        let (sum, place) = bytes.split_first_chunk().ok_or(InvalidCursor)?;
        let place = String::from_utf8(place.to_vec()).map_err(|_| InvalidCursor)?;
        Ok(Self { sum: *sum, place })
    }
}

impl TryFrom<String> for Cursor {
    type Error = InvalidCursor;

    fn try_from(text: String) -> Result<Self, InvalidCursor> {
        text.parse()
    }
}

/// What separates the windows of a list from one another, and from a place in it: no window has it.
const BETWEEN: char = '\n';

/// A list that a page is asked of.
#[derive(Debug, Clone)]
pub struct Listing {
    /// What is listed, whose, and by which filters.
    name: String,
    /// The windows that were asked for, each with what separates it from what follows.
    windows: String,
    after: Option<String>,
}

impl Listing {
    /// The list of this name, from the cursor on.
    ///
    /// # Errors
    /// When the cursor is of another list.
    pub fn new(name: impl Into<String>, cursor: Option<&Cursor>) -> Result<Self, InvalidCursor> {
        let name = name.into();
        let after = cursor.map(|cursor| cursor.place_in(&name)).transpose()?;
        Ok(Self {
            after: after.map(str::to_owned),
            name,
            windows: String::new(),
        })
    }

    /// The month, day or the like that is asked for. Where the query says none it is `default`, which
    /// may be the current one, and then stays what it was from the first page to the last.
    ///
    /// # Errors
    /// When the cursor is of another one.
    pub fn window<W>(&mut self, given: Option<W>, default: W) -> Result<W, InvalidCursor>
    where
        W: FromStr + fmt::Display + PartialEq,
    {
        let window = match &self.after {
            None => given.unwrap_or(default),
            Some(after) => {
                let (first, rest) = after.split_once(BETWEEN).ok_or(InvalidCursor)?;
                let first = first.parse().map_err(|_| InvalidCursor)?;
                let rest = rest.to_owned();
                if given.is_some_and(|given| given != first) {
                    return Err(InvalidCursor);
                }
                self.after = Some(rest);
                first
            }
        };
        self.windows.push_str(&format!("{window}{BETWEEN}"));
        Ok(window)
    }

    /// The place after which the page begins; all windows have been asked for.
    #[must_use]
    pub fn after(&self) -> Option<&str> {
        self.after.as_deref()
    }

    /// The cursor of a place in the list.
    #[must_use]
    pub fn cursor(&self, place: &str) -> Cursor {
        Cursor::new(&self.name, format!("{}{place}", self.windows))
    }

    /// A page of the list, as callers see it.
    #[must_use]
    pub fn page<T, U: From<T>>(&self, page: Page<T>) -> List<U> {
        List {
            data: page.items.into_iter().map(U::from).collect(),
            next_cursor: page.next.map(|place| self.cursor(&place)),
        }
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
    pub fn limit(limit: Option<usize>) -> Result<usize, Problem> {
        match limit.unwrap_or(DEFAULT_LIMIT) {
            limit @ 1..=MAX_LIMIT => Ok(limit),
            _ => {
                let detail = "In the query: limit must be 1 to 100.";
                Err(Problem::bad_request(detail).with("field", "limit"))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use tollgate_domain::window::{Day, Month};

    use super::*;

    #[test]
    fn a_cursor_comes_back_as_it_went() {
        let cursor = Cursor::new("keys", "acme#2026-11-22T10:00:00.000Z#key_1".into());
        let text = String::from(cursor.clone());
        assert_eq!(text.parse(), Ok(cursor));
        for wrong in ["", "x", "AAA", "====", "_____x"] {
            assert_eq!(wrong.parse::<Cursor>(), Err(InvalidCursor), "{wrong:?}");
        }
        for wrong in [&text[1..], &text[..text.len() - 2]] {
            let read = wrong.parse::<Cursor>();
            let place = read.as_ref().map(|cursor| cursor.place_in("keys"));
            assert!(!matches!(place, Ok(Ok(_))), "{wrong:?}");
        }
    }

    #[test]
    fn a_cursor_is_of_one_list() {
        let first = Listing::new("charges acme", None).unwrap();
        let cursor = first.cursor("7");
        let again = Listing::new("charges acme", Some(&cursor)).unwrap();
        assert_eq!(again.after(), Some("7"));
        for other in [
            "charges bolt",
            "charges",
            "charges acme7",
            "adjustments acme",
        ] {
            assert!(Listing::new(other, Some(&cursor)).is_err(), "{other}");
        }
    }

    #[test]
    fn the_windows_of_a_list_stay_what_they_were_at_its_first_page() {
        let day = |text: &str| text.parse::<Day>().unwrap();
        let month = |text: &str| text.parse::<Month>().unwrap();
        let mut first = Listing::new("log", None).unwrap();
        assert_eq!(first.after(), None);
        let given = Some(day("2026-11-22"));
        assert_eq!(
            first.window(given, day("2026-11-30")),
            Ok(day("2026-11-22"))
        );
        assert_eq!(first.window(None, month("2026-11")), Ok(month("2026-11")));
        let cursor = first.cursor("a\nplace");

        let later = month("2026-12");
        for given in [None, given] {
            let mut next = Listing::new("log", Some(&cursor)).unwrap();
            assert_eq!(next.window(given, day("2026-12-01")), Ok(day("2026-11-22")));
            assert_eq!(next.window(None, later), Ok(month("2026-11")));
            assert_eq!(next.after(), Some("a\nplace"));
            assert_eq!(next.cursor("a\nplace"), cursor);
        }
        let mut other = Listing::new("log", Some(&cursor)).unwrap();
        assert!(
            other
                .window(Some(day("2026-11-23")), day("2026-12-01"))
                .is_err()
        );
        // Without its windows, or with another's, a place is none.
        let mut other = Listing::new("log", Some(&cursor)).unwrap();
        assert!(other.window(None, later).is_err());
        let bare = Cursor::new("log", "place".into());
        let mut other = Listing::new("log", Some(&bare)).unwrap();
        assert!(other.window(None, later).is_err());
    }
}
