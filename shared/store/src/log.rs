//! The log of entries that were counted, read back.

use std::ops::RangeInclusive;

use tollgate_domain::id::CustomerId;
use tollgate_domain::window::Day;

use crate::Store;
use crate::accounts::Page;
use crate::body::{is_piece, read_body};
use crate::error::StoreError;
use crate::item::{Item, MAX_PK, MAX_SK, Reader, keys, s};
use crate::schema::{LOGGED, USAGE_LOG, attr};
use crate::usage::{event_pk, part_sk};

/// Parts in a page.
const PAGE: i32 = 25;
/// The most bytes of entries in one that has several. A function may answer 6 MB, in which each
/// quotation mark of an entry takes two.
const MAX_PAGE_BYTES: usize = 2_000_000;
const LISTING: &str = "listing counted entries";
/// What separates the parts of a cursor: no id has it.
const BETWEEN: char = '\n';

/// An entry, as far as its records of one day are concerned.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Logged {
    /// The UTC day of the records that were counted.
    pub day: Day,
    /// How many there are.
    pub records: u64,
    /// The whole entry as it arrived, with the records of other days, and those that were refused.
    pub body: Vec<u8>,
}

impl Store {
    /// The entries with records of a customer from `from` to `to`, both included, that were counted,
    /// by day and within a day in the order in which they arrived. An entry with records of several
    /// days comes once for each of them. The index behind it lags by well under a second.
    ///
    /// # Errors
    /// When the store does not answer.
    pub async fn logged(
        &self,
        customer: &CustomerId,
        (from, to): (Day, Day),
        after: Option<&str>,
    ) -> Result<Page<Logged>, StoreError> {
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

    /// The entry of this identity that was counted, as it arrived; for as long as the log keeps it.
    ///
    /// # Errors
    /// When the store does not answer.
    pub async fn logged_event(
        &self,
        source: &str,
        id: &str,
    ) -> Result<Option<Vec<u8>>, StoreError> {
        self.logged_entry(&event_pk(source, id)).await
    }

    /// The entry under this key as it arrived, if it is in the log.
    pub(crate) async fn logged_entry(&self, pk: &str) -> Result<Option<Vec<u8>>, StoreError> {
        let entry = self.log_items(pk).await?;
        let mut body = Vec::new();
        for item in &entry {
            if holds_body(Reader::new("log", item).text(attr::SK)?) {
                body.push(item);
            }
        }
        let found = !body.is_empty();
        found.then(|| read_body("log", body)).transpose()
    }

    async fn log_items(&self, pk: &str) -> Result<Vec<Item>, StoreError> {
        self.query_all(
            "reading a counted entry",
            USAGE_LOG,
            "pk = :pk",
            [(":pk", s(pk))],
        )
        .await
    }

    /// A part, unless it has expired since it was listed.
    async fn logged_part(&self, pk: &str, sk: &str) -> Result<Option<Logged>, StoreError> {
        let entry = self.log_items(pk).await?;
        let sk_of = |item| Reader::new("log", item).text(attr::SK);
        let mut part = None;
        let mut body = Vec::new();
        for item in &entry {
            let found = sk_of(item)?;
            if found == sk {
                part = Some(Reader::new("log", item));
            }
            if holds_body(found) {
                body.push(item);
            }
        }
        let Some(part) = part.filter(|_| !body.is_empty()) else {
            return Ok(None);
        };
        let order = part.text(attr::LOG_ORDER)?;
        let day = order.split_once('#').and_then(|(day, _)| day.parse().ok());
        Ok(Some(Logged {
            day: day.ok_or_else(|| part.corrupt(attr::LOG_ORDER))?,
            records: part.number("records")?,
            body: read_body("log", body)?,
        }))
    }
}

fn holds_body(sk: &str) -> bool {
    sk == part_sk(0) || is_piece(sk)
}

fn cursor(key: &Item) -> Result<String, StoreError> {
    let key = Reader::new("log", key);
    let parts = [attr::LOG_ORDER, attr::PK, attr::SK].map(|name| key.text(name));
    let [order, pk, sk] = parts;
    Ok([order?, pk?, sk?].join(&BETWEEN.to_string()))
}

fn start_after(
    customer: &CustomerId,
    orders: &RangeInclusive<&str>,
    cursor: &str,
) -> Result<Item, StoreError> {
    let none = || StoreError::invalid_cursor(LISTING);
    let (order, key) = cursor.split_once(BETWEEN).ok_or_else(none)?;
    let (pk, sk) = key.split_once(BETWEEN).ok_or_else(none)?;
    let are_keys = [(order, MAX_SK), (pk, MAX_PK), (sk, MAX_SK)];
    let are_keys = are_keys
        .iter()
        .all(|(key, max)| (1..=*max).contains(&key.len()));
    if !are_keys || !orders.contains(&order) {
        return Err(none());
    }
    let mut start = keys(pk, sk);
    start.insert(attr::CUSTOMER.into(), s(customer.as_str()));
    start.insert(attr::LOG_ORDER.into(), s(order));
    Ok(start)
}
