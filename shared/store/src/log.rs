//! The log of counted usage events, by customer and day.
//!
//! The parts of a customer's day that one transaction counts are compressed together into a segment, which is put before
//! the transaction. The transaction's marker says whether they were counted.

use std::collections::{BTreeMap, HashMap, hash_map};

use aws_sdk_dynamodb::types::AttributeValue;
use jiff::{SignedDuration, Timestamp};
use tollgate_domain::id::CustomerId;
use tollgate_domain::page::Page;
use tollgate_domain::usage::{MAX_AGE, MAX_AHEAD};
use tollgate_domain::window::Day;

use crate::Store;
use crate::body::{Compressor, read_body};
use crate::error::StoreError;
use crate::event_part::EventPart;
use crate::item::{Item, MAX_SK, Reader, keys, s, ttl};
use crate::schema::{USAGE_LOG, attr};
use crate::usage::TransactionId;

/// Time for which the log keeps a usage event, and its claim. Its records are rejected as too old long before.
pub(crate) const LOG_KEPT: SignedDuration = SignedDuration::from_hours(400 * 24);

/// Parts per page.
const PAGE: usize = 100;
/// Bound on the bytes of bodies in a page of several parts. A function's response is at most 6 MB
/// (<https://docs.aws.amazon.com/lambda/latest/dg/gettingstarted-limits.html>), in which each quotation
/// mark of a body takes two bytes.
const MAX_PAGE_BYTES: usize = 2_000_000;
/// Segments that are read at a time.
const SEGMENTS: i32 = 4;
/// Bound on the bytes of bodies in a segment before compression, so that it fits into one item even if nothing can be
/// compressed.
const MAX_SEGMENT: usize = 370_000;
pub(crate) const LISTING: &str = "listing counted usage events";
const LOGGING: &str = "logging usage events";
/// Separator of a cursor's parts, which no id contains.
pub(crate) const SEPARATOR: char = '\n';
/// Beginning of the partition keys of bodies that are not in segments.
const BODY: &str = "#BODY#";

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

/// A part that is to be written to the log.
#[derive(Clone, Copy)]
pub(crate) struct NewRow<'a> {
    pub(crate) part: &'a EventPart<'a>,
    /// Index of its claim in the attempt.
    pub(crate) index: u16,
}

/// Body of a row.
enum RowBody<'a> {
    Here(&'a [u8]),
    /// In items of its own, whose partition key is `#BODY#` and this.
    Elsewhere(&'a str),
}

impl RowBody<'_> {
    /// Returns the number of bytes in the segment, about.
    fn len(&self) -> usize {
        match self {
            RowBody::Here(body) => body.len(),
            RowBody::Elsewhere(key) => key.len(),
        }
    }
}

fn segment_pk(customer: &CustomerId) -> String {
    format!("#LOG#{customer}")
}

/// Appends a row to the text of a segment: a line with the index of its claim, the number of its part, its number of
/// records, and the length of the body, which follows, or where it is.
fn append(text: &mut Vec<u8>, row: &NewRow<'_>, body: &RowBody<'_>) {
    let NewRow { part, index } = row;
    let (number, records) = (part.part, part.records);
    match body {
        RowBody::Here(body) => {
            text.extend(format!("{index} {number} {records} {}\n", body.len()).into_bytes());
            text.extend(*body);
        }
        RowBody::Elsewhere(key) => {
            text.extend(format!("{index} {number} {records} @{key}\n").into_bytes());
        }
    }
}

/// A row of a segment, as stored.
struct Row<'a> {
    index: u16,
    part: usize,
    records: u64,
    body: RowBody<'a>,
}

/// Reads the rows of a segment's text.
fn rows(mut text: &[u8]) -> Result<Vec<Row<'_>>, StoreError> {
    let corrupt = || StoreError::corrupt("log segment", "body");
    let mut rows = Vec::new();
    while !text.is_empty() {
        let end = text.iter().position(|byte| *byte == b'\n');
        let (line, rest) = text.split_at(end.ok_or_else(corrupt)?);
        let line = str::from_utf8(line).map_err(|_| corrupt())?;
        text = &rest[1..];
        let mut fields = line.split(' ');
        let mut field = || fields.next().ok_or_else(corrupt);
        let index = field()?.parse().map_err(|_| corrupt())?;
        let part = field()?.parse().map_err(|_| corrupt())?;
        let records = field()?.parse().map_err(|_| corrupt())?;
        let last = field()?;
        let body = match last.strip_prefix('@') {
            Some(key) => RowBody::Elsewhere(key),
            None => {
                let length = last.parse().map_err(|_| corrupt())?;
                let (body, rest) = text.split_at_checked(length).ok_or_else(corrupt)?;
                text = rest;
                RowBody::Here(body)
            }
        };
        rows.push(Row {
            index,
            part,
            records,
            body,
        });
    }
    Ok(rows)
}

impl Store {
    /// Puts the parts that a transaction is about to count. If it fails, or the transaction does, what was put is never
    /// listed.
    pub(crate) async fn put_log<'a>(
        &self,
        id: &TransactionId,
        counted: impl Iterator<Item = NewRow<'a>>,
    ) -> Result<(), StoreError> {
        let counted: Vec<NewRow<'_>> = counted.collect();
        self.put_all(LOGGING, USAGE_LOG, log_items(id, &counted)?)
            .await
    }

    /// Lists the counted usage events with records of a customer from `from` to `to`, both included, by day
    /// and within a day in the order of their arrival, after the cursor `after`. An event with records of
    /// several days is listed once for each. The read is consistent, except for what releases before claims were put have
    /// counted in the last seconds.
    ///
    /// # Errors
    /// When the store fails, or the cursor is invalid.
    pub async fn list_logged(
        &self,
        customer: &CustomerId,
        (from, to): (Day, Day),
        after: Option<&str>,
    ) -> Result<Page<LoggedPart>, StoreError> {
        let since = self.claims_since().await?;
        let since =
            since.map(|since| Day::containing(since.saturating_add(MAX_AHEAD).unwrap_or(since)));
        let mut after = after.map(Cursor::read).transpose()?;
        if after
            .as_ref()
            .is_some_and(|after| !(from..=to).contains(&after.day))
        {
            return Err(StoreError::invalid_cursor(LISTING));
        }
        let mut filling = Filling::default();
        // No usage event is kept whose records were so old when it arrived.
        let now = self.clock.now();
        let oldest = now.saturating_sub(LOG_KEPT + MAX_AGE).unwrap_or(now);
        let from = from.max(Day::containing(oldest));
        let mut day = after.as_ref().map_or(from, |after| after.day.max(from));
        // Releases before claims were put have counted nothing of later days.
        let last_mixed = since.map_or(to, |since| to.min(since));
        while day <= to {
            let position = after.take().filter(|after| after.day == day);
            // What such releases have counted of a day arrived before what was counted since.
            let mixed = match position {
                Some(_) => Some(day).filter(|day| *day <= last_mixed),
                None => self.next_day_before(customer, (day, last_mixed)).await?,
            };
            let is_mixed = mixed == Some(day);
            let last = match mixed {
                Some(mixed) if is_mixed => mixed,
                Some(mixed) => mixed.previous(),
                None if position.is_some() => day,
                None => to,
            };
            let is_in_segments = position
                .as_ref()
                .is_some_and(|position| position.is_segment);
            let mut position = position.map(|position| position.text);
            if is_mixed && !is_in_segments {
                let next = self.list_day_before(customer, day, position.take(), &mut filling);
                if let Some(next) = next.await? {
                    return Ok(filling.page(Some(next)));
                }
            }
            let next = self.list_segments(customer, (day, last), position, &mut filling);
            if let Some(next) = next.await? {
                return Ok(filling.page(Some(next)));
            }
            if last == to {
                break;
            }
            day = last.next();
        }
        Ok(filling.page(None))
    }

    /// Lists the parts in the segments of these days, after this cursor. Returns the cursor of the first one that did not
    /// fit.
    async fn list_segments(
        &self,
        customer: &CustomerId,
        (from, to): (Day, Day),
        after: Option<&str>,
        filling: &mut Filling,
    ) -> Result<Option<String>, StoreError> {
        let after = after.map(Position::read).transpose()?;
        let (from, to) = (format!("{from}#"), format!("{to}#~"));
        // The segment of the cursor is read again: it may have more rows.
        let first = after.as_ref().map_or(&*from, |after| after.segment);
        if !(&*from..&*to).contains(&first) {
            return Err(StoreError::invalid_cursor(LISTING));
        }
        let mut start = None;
        loop {
            let found = self
                .client
                .query()
                .table_name(self.table(USAGE_LOG))
                .key_condition_expression("pk = :pk AND sk BETWEEN :from AND :to")
                .expression_attribute_values(":pk", s(segment_pk(customer)))
                .expression_attribute_values(":from", s(first))
                .expression_attribute_values(":to", s(&to))
                .consistent_read(true)
                .limit(SEGMENTS)
                .set_exclusive_start_key(start)
                .send()
                .await
                .map_err(|error| StoreError::service(LISTING, error))?;
            let segments = found.items().iter().map(Segment::read);
            let segments: Vec<Segment<'_>> = segments.collect::<Result<_, _>>()?;
            let ids = segments.iter().map(|segment| segment.transaction.clone());
            let markers = self.markers(ids).await?;
            for segment in &segments {
                // After that, its marker may be gone.
                let has_expired = segment.expires <= self.clock.now().as_second();
                let Some(marker) = markers.get(&segment.transaction).filter(|_| !has_expired)
                else {
                    continue;
                };
                let skipped = match &after {
                    Some(after) if after.segment == segment.sk => after.rows,
                    _ => 0,
                };
                let text = read_body("log segment", [segment.item])?;
                for (at, row) in rows(&text)?.iter().enumerate().skip(skipped) {
                    if !marker.has_counted(row.index) {
                        continue;
                    }
                    let Some(body) = self.row_body(&row.body).await? else {
                        continue;
                    };
                    let is_added = filling.add(LoggedPart {
                        part: row.part,
                        day: segment.day,
                        records: row.records,
                        received_at: segment.received_at,
                        body,
                    });
                    if !is_added {
                        return Ok(Some(format!("{}{SEPARATOR}{at}", segment.sk)));
                    }
                }
            }
            start = found.last_evaluated_key;
            if start.is_none() {
                return Ok(None);
            }
        }
    }

    /// Reads the body of a row: `None` if it has expired.
    async fn row_body(&self, body: &RowBody<'_>) -> Result<Option<Vec<u8>>, StoreError> {
        match body {
            RowBody::Here(body) => Ok(Some(body.to_vec())),
            RowBody::Elsewhere(key) => {
                let pk = s(format!("{BODY}{key}"));
                let items = self.query_all(LISTING, USAGE_LOG, "pk = :pk", [(":pk", pk)]);
                let items = items.await?;
                let found = !items.is_empty();
                found.then(|| read_body("log body", &items)).transpose()
            }
        }
    }
}

/// Returns the items that log these parts: segments, and the bodies that are not in one.
fn log_items(id: &TransactionId, counted: &[NewRow<'_>]) -> Result<Vec<Item>, StoreError> {
    let event = |row: &NewRow<'_>| (row.part.source.to_owned(), row.part.id.to_owned());
    let mut parts: HashMap<_, usize> = HashMap::new();
    for row in counted {
        *parts.entry(event(row)).or_default() += 1;
    }
    let mut compressor = Compressor::new();
    let mut items = Vec::new();
    let mut elsewhere: HashMap<_, String> = HashMap::new();
    let mut segments: BTreeMap<(&CustomerId, Day, Timestamp), Vec<Vec<u8>>> = BTreeMap::new();
    for row in counted {
        let part = row.part;
        // Without a day, all of it is rejected, and in the quarantine.
        let Some(day) = part.aggregates.days.keys().next() else {
            continue;
        };
        let texts = segments.entry((part.customer, *day, part.received_at));
        let texts = texts.or_default();
        let is_alone = parts.get(&event(row)) == Some(&1);
        let body = if is_alone && part.body.len() <= MAX_SEGMENT {
            RowBody::Here(part.body)
        } else {
            let key = match elsewhere.entry(event(row)) {
                hash_map::Entry::Occupied(key) => key.into_mut(),
                hash_map::Entry::Vacant(key) => {
                    let name = format!("{}#{}#{}", id.attempt.as_str(), id.number, row.index);
                    let mut head = keys(format!("{BODY}{name}"), "00");
                    head.insert(attr::EXPIRES.into(), kept_until(part.received_at));
                    items.extend(compressor.compress(part.body)?.in_items(head));
                    key.insert(name)
                }
            };
            RowBody::Elsewhere(key)
        };
        match texts.last_mut() {
            Some(text) if text.len() + body.len() <= MAX_SEGMENT => append(text, row, &body),
            _ => {
                let mut text = Vec::new();
                append(&mut text, row, &body);
                texts.push(text);
            }
        }
    }
    for ((customer, day, received_at), texts) in segments {
        for (piece, text) in texts.iter().enumerate() {
            let (attempt, number) = (id.attempt.as_str(), id.number);
            let sk = format!("{day}#{received_at:.3}#{attempt}#{number:03}#{piece:03}");
            let mut segment = keys(segment_pk(customer), sk);
            segment.insert(attr::EXPIRES.into(), kept_until(received_at));
            items.extend(compressor.compress(text)?.in_items(segment));
        }
    }
    Ok(items)
}

fn kept_until(received_at: Timestamp) -> AttributeValue {
    ttl(received_at.saturating_add(LOG_KEPT).unwrap_or(received_at))
}

/// A segment, as stored.
struct Segment<'a> {
    item: &'a Item,
    sk: &'a str,
    day: Day,
    received_at: Timestamp,
    expires: i64,
    transaction: TransactionId,
}

impl<'a> Segment<'a> {
    fn read(item: &'a Item) -> Result<Self, StoreError> {
        let reader = Reader::new("log segment", item);
        let sk = reader.text(attr::SK)?;
        let parts = || {
            let mut parts = sk.split('#');
            let day = parts.next()?.parse().ok()?;
            let received_at = parts.next()?.parse().ok()?;
            let attempt = parts.next()?;
            let number = parts.next()?.parse().ok()?;
            Some((day, received_at, TransactionId::new(attempt, number)))
        };
        let (day, received_at, transaction) = parts().ok_or_else(|| reader.corrupt(attr::SK))?;
        Ok(Self {
            item,
            sk,
            day,
            received_at,
            expires: i64::try_from(reader.number(attr::EXPIRES)?).unwrap_or(i64::MAX),
            transaction,
        })
    }
}

/// A page that is being filled.
#[derive(Default)]
pub(crate) struct Filling {
    items: Vec<LoggedPart>,
    bytes: usize,
}

impl Filling {
    /// Adds a part, if it fits. The first one always does.
    pub(crate) fn add(&mut self, part: LoggedPart) -> bool {
        self.bytes = self.bytes.saturating_add(part.body.len());
        let fits = self.items.len() < PAGE && self.bytes <= MAX_PAGE_BYTES;
        if fits || self.items.is_empty() {
            self.items.push(part);
            return true;
        }
        false
    }

    fn page(self, next: Option<String>) -> Page<LoggedPart> {
        Page {
            items: self.items,
            next,
        }
    }
}

/// Cursor of a list: a position in segments, of two lines, or in the log as it was before, of three. Both begin with the
/// day.
struct Cursor<'a> {
    text: &'a str,
    day: Day,
    is_segment: bool,
}

impl<'a> Cursor<'a> {
    fn read(text: &'a str) -> Result<Self, StoreError> {
        let day = text.split_once('#').and_then(|(day, _)| day.parse().ok());
        Ok(Self {
            text,
            day: day.ok_or_else(|| StoreError::invalid_cursor(LISTING))?,
            is_segment: text.matches(SEPARATOR).count() == 1,
        })
    }
}

/// Position in a list: a segment, and the number of its rows that were listed.
struct Position<'a> {
    segment: &'a str,
    rows: usize,
}

impl<'a> Position<'a> {
    fn read(cursor: &'a str) -> Result<Self, StoreError> {
        let invalid = || StoreError::invalid_cursor(LISTING);
        let (segment, rows) = cursor.split_once(SEPARATOR).ok_or_else(invalid)?;
        if segment.len() > MAX_SK {
            return Err(invalid());
        }
        Ok(Self {
            segment,
            rows: rows.parse().map_err(|_| invalid())?,
        })
    }
}
