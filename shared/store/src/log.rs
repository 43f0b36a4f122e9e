//! Reading the log of counted usage events.

use std::ops::RangeInclusive;

use jiff::{SignedDuration, Timestamp};
use tollgate_domain::id::CustomerId;
use tollgate_domain::page::Page;
use tollgate_domain::usage::MAX_AHEAD;
use tollgate_domain::window::Day;

use crate::Store;
use crate::body::{is_piece, read_body};
use crate::error::StoreError;
use crate::event_part::{event_pk, part_sk};
use crate::item::{Item, MAX_PK, MAX_SK, Reader, keys, s};
use crate::schema::{LOGGED, USAGE_LOG, attr};

/// Time for which the log keeps a usage event, and with it the deduplication claim. Its records are
/// rejected as too old long before.
pub(crate) const LOG_KEPT: SignedDuration = SignedDuration::from_hours(400 * 24);

/// Parts per page.
const PAGE: i32 = 25;
/// Bound on the bytes of bodies in a page of several parts. A function's response is at most 6 MB
/// (<https://docs.aws.amazon.com/lambda/latest/dg/gettingstarted-limits.html>), in which each quotation
/// mark of a body takes two bytes.
const MAX_PAGE_BYTES: usize = 2_000_000;
const LISTING: &str = "listing counted usage events";
/// Separator of a cursor's parts, which no id contains.
const SEPARATOR: char = '\n';

/// The counted records of one day of a usage event.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LoggedPart {
    /// Index of the part.
    pub part: usize,
    /// UTC day of the records.
    pub day: Day,
    /// Number of counted records of the day.
    pub records: u64,
    /// Time of arrival.
    pub received_at: Timestamp,
    /// The whole event as it arrived, including records of other days and rejected ones.
    pub body: Vec<u8>,
}

/// Returns the first day of which the log has all usage at `now`. A usage event arrives at the earliest
/// [`MAX_AHEAD`] before the day of its records.
#[must_use]
pub fn kept_from(now: Timestamp) -> Day {
    let oldest = now.saturating_sub(LOG_KEPT - MAX_AHEAD).unwrap_or(now);
    Day::containing(oldest).next()
}

impl Store {
    /// Lists the counted usage events with records of a customer from `from` to `to`, both included, by day
    /// and within a day in the order of their arrival, after the cursor `after`. An event with records of
    /// several days is listed once for each. Reads an index, which is eventually consistent.
    ///
    /// # Errors
    /// When the store fails, or the cursor is invalid.
    pub async fn list_logged(
        &self,
        customer: &CustomerId,
        (from, to): (Day, Day),
        after: Option<&str>,
    ) -> Result<Page<LoggedPart>, StoreError> {
        let (from, to) = (format!("{from}#"), format!("{to}#~"));
        let start = after.map(|after| start_after(customer, &(&*from..=&*to), after));
        let start = start.transpose()?;
        let found = self
            .client
            .query()
            .table_name(self.table(USAGE_LOG))
            .index_name(LOGGED.name)
            .key_condition_expression("customer = :customer AND log_order BETWEEN :from AND :to")
            .expression_attribute_values(":customer", s(customer.as_str()))
            .expression_attribute_values(":from", s(from))
            .expression_attribute_values(":to", s(to))
            .limit(PAGE)
            .set_exclusive_start_key(start)
            .send()
            .await
            .map_err(|error| StoreError::service(LISTING, error))?;
        let mut items = Vec::new();
        let (mut bytes, mut last) = (0, None);
        for item in found.items() {
            let key = Reader::new("log", item);
            let (pk, sk) = (key.text(attr::PK)?, key.text(attr::SK)?);
            if let Some(logged) = self.logged_part(pk, sk).await? {
                bytes += logged.body.len();
                if bytes > MAX_PAGE_BYTES && !items.is_empty() {
                    let next = last.map(cursor).transpose()?;
                    return Ok(Page { items, next });
                }
                items.push(logged);
            }
            last = Some(item);
        }
        let next = found.last_evaluated_key.as_ref().map(cursor).transpose()?;
        Ok(Page { items, next })
    }

    /// Reads the body of the counted usage event with this source and id, for as long as the log keeps it.
    ///
    /// # Errors
    /// When the store fails.
    pub async fn logged_event(
        &self,
        source: &str,
        id: &str,
    ) -> Result<Option<Vec<u8>>, StoreError> {
        self.logged_body(&event_pk(source, id)).await
    }

    /// Reads the body of the usage event with this partition key, if it is in the log.
    pub(crate) async fn logged_body(&self, pk: &str) -> Result<Option<Vec<u8>>, StoreError> {
        let items = self.log_items(pk).await?;
        let mut body = Vec::new();
        for item in &items {
            if has_body(Reader::new("log", item).text(attr::SK)?) {
                body.push(item);
            }
        }
        let found = !body.is_empty();
        found.then(|| read_body("log", body)).transpose()
    }

    async fn log_items(&self, pk: &str) -> Result<Vec<Item>, StoreError> {
        self.query_all(
            "reading a counted usage event",
            USAGE_LOG,
            "pk = :pk",
            [(":pk", s(pk))],
        )
        .await
    }

    /// Reads a part, unless it has expired since it was listed.
    async fn logged_part(&self, pk: &str, sk: &str) -> Result<Option<LoggedPart>, StoreError> {
        let items = self.log_items(pk).await?;
        let sk_of = |item| Reader::new("log", item).text(attr::SK);
        let mut part = None;
        let mut body = Vec::new();
        for item in &items {
            let found = sk_of(item)?;
            if found == sk {
                part = Some(Reader::new("log", item));
            }
            if has_body(found) {
                body.push(item);
            }
        }
        let Some(part) = part.filter(|_| !body.is_empty()) else {
            return Ok(None);
        };
        let order = part.text(attr::LOG_ORDER)?;
        let day = order.split_once('#').and_then(|(day, _)| day.parse().ok());
        Ok(Some(LoggedPart {
            part: sk.parse().map_err(|_| part.corrupt(attr::SK))?,
            received_at: part.parsed(attr::RECEIVED_AT)?,
            day: day.ok_or_else(|| part.corrupt(attr::LOG_ORDER))?,
            records: part.number("records")?,
            body: read_body("log", body)?,
        }))
    }
}

fn has_body(sk: &str) -> bool {
    sk == part_sk(0) || is_piece(sk)
}

fn cursor(key: &Item) -> Result<String, StoreError> {
    let key = Reader::new("log", key);
    let parts = [attr::LOG_ORDER, attr::PK, attr::SK].map(|name| key.text(name));
    let [order, pk, sk] = parts;
    Ok([order?, pk?, sk?].join(&SEPARATOR.to_string()))
}

fn start_after(
    customer: &CustomerId,
    orders: &RangeInclusive<&str>,
    cursor: &str,
) -> Result<Item, StoreError> {
    let invalid = || StoreError::invalid_cursor(LISTING);
    let (order, key) = cursor.split_once(SEPARATOR).ok_or_else(invalid)?;
    let (pk, sk) = key.split_once(SEPARATOR).ok_or_else(invalid)?;
    let are_keys = [(order, MAX_SK), (pk, MAX_PK), (sk, MAX_SK)];
    let are_keys = are_keys
        .iter()
        .all(|(key, max)| (1..=*max).contains(&key.len()));
    if !are_keys || !orders.contains(&order) {
        return Err(invalid());
    }
    let mut start = keys(pk, sk);
    start.insert(attr::CUSTOMER.into(), s(customer.as_str()));
    start.insert(attr::LOG_ORDER.into(), s(order));
    Ok(start)
}
