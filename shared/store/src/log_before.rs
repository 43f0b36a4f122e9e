//! The log as releases wrote it before claims were put: an item for each part of a usage event, which is also its claim.
//! It is read for as long as its items are kept. While such a release is being replaced, guards are added to it, which are
//! claims without a body.

use std::collections::{BTreeSet, HashMap};

use aws_sdk_dynamodb::operation::query::builders::QueryFluentBuilder;
use sha2::{Digest, Sha256};
use tollgate_domain::id::CustomerId;
use tollgate_domain::window::Day;

use crate::Store;
use crate::body::{is_piece, read_body};
use crate::canonical::digest_of_event;
use crate::error::StoreError;
use crate::event_part::{EventPart, part_sk};
use crate::item::{Item, MAX_PK, MAX_SK, Reader, keys, s, ttl};
use crate::log::{Filling, LISTING, LOG_KEPT, LoggedPart, SEPARATOR};
use crate::schema::{LOGGED, USAGE_LOG, attr};

/// Parts that are read at a time.
const PARTS: i32 = 25;
const LOOKING: &str = "looking for counted usage events";
/// Attribute with the digest of the event's text.
const TEXT: &str = "digest";
/// Attribute of a guard with the digest of the event's content, because it has no body.
const CONTENT: &str = "content";

/// Returns the item that those releases take for a part's: they find the part counted.
pub(crate) fn guard(part: &EventPart<'_>) -> Item {
    let kept_until = part.received_at.saturating_add(LOG_KEPT);
    let mut guard = keys(part.pk(), part_sk(part.part));
    guard.insert(TEXT.into(), s(digest_of_text(part.body)));
    guard.insert(CONTENT.into(), s(hex::encode(digest_of_event(part.body))));
    guard.insert(
        attr::EXPIRES.into(),
        ttl(kept_until.unwrap_or(part.received_at)),
    );
    guard
}

/// Returns the digest of an event's text, by which those releases compared events at first.
fn digest_of_text(body: &[u8]) -> String {
    hex::encode(Sha256::digest(body))
}

/// Parts of one usage event, or of events with the same source and id, that are in the log.
pub(crate) struct CountedBefore {
    parts: HashMap<String, CountedPart>,
}

struct CountedPart {
    /// Digest of the text of its event.
    text: String,
    /// Digest of the content, in hexadecimal, if the item has it.
    content: Option<String>,
}

impl CountedBefore {
    /// Reads the items of an event: `None` if there is none.
    fn read(items: &[Item]) -> Result<Option<Self>, StoreError> {
        let body = body_of(items)?;
        let of_body = body.map(|body| hex::encode(digest_of_event(&body)));
        let mut parts = HashMap::new();
        for item in items {
            let item = Reader::new("log", item);
            let sk = item.text(attr::SK)?;
            if is_piece(sk) {
                continue;
            }
            let content = item.opt_text(CONTENT)?.map(str::to_owned);
            let of_body = || of_body.clone().filter(|_| sk == part_sk(0));
            let part = CountedPart {
                text: item.text(TEXT)?.to_owned(),
                content: content.or_else(of_body),
            };
            parts.insert(sk.to_owned(), part);
        }
        Ok((!parts.is_empty()).then_some(Self { parts }))
    }

    /// Whether a part was counted of the event with this body: `Err` has the content of another event, of which it was
    /// counted, if that is known. `None` if nothing excludes that it is counted.
    pub(crate) fn has_counted(
        &self,
        part: usize,
        body: &[u8],
    ) -> Option<Result<(), Option<String>>> {
        let (own, first) = (self.parts.get(&part_sk(part)), self.parts.get(&part_sk(0)));
        let counted = own.or(first)?;
        let content = counted.content.as_ref();
        // Only the item of the first part has the body. Whatever their texts, all parts are of the same event: none was
        // counted after one of another event.
        let content = content.or_else(|| first.and_then(|first| first.content.as_ref()));
        let is_same = counted.text == digest_of_text(body)
            || content == Some(&hex::encode(digest_of_event(body)));
        match is_same {
            true => own.map(|_| Ok(())),
            false => Some(Err(content.cloned())),
        }
    }

    /// Returns the numbers of the parts that were counted of the event with this body: `None` if another event's were.
    pub(crate) fn counted_parts(&self, body: &[u8]) -> Result<Option<BTreeSet<usize>>, StoreError> {
        let mut counted = BTreeSet::new();
        for sk in self.parts.keys() {
            let part = sk.parse();
            let part = part.map_err(|_| StoreError::corrupt("log", attr::SK))?;
            match self.has_counted(part, body) {
                Some(Ok(())) => _ = counted.insert(part),
                Some(Err(_)) => return Ok(None),
                None => {}
            }
        }
        Ok(Some(counted))
    }
}

fn body_of(items: &[Item]) -> Result<Option<Vec<u8>>, StoreError> {
    let mut body = Vec::new();
    for item in items {
        if has_body(item)? {
            body.push(item);
        }
    }
    let found = !body.is_empty();
    found.then(|| read_body("log", body)).transpose()
}

impl Store {
    /// Lists the parts of a customer's day after this cursor. Returns the cursor of the first one that did not fit.
    pub(crate) async fn list_day_before(
        &self,
        customer: &CustomerId,
        day: Day,
        after: Option<&str>,
        filling: &mut Filling,
    ) -> Result<Option<String>, StoreError> {
        let order = format!("{day}#");
        let mut start = after
            .map(|after| start_after(customer, &order, after))
            .transpose()?;
        let mut last = after.map(str::to_owned);
        loop {
            let query = self.query_before(customer, (day, day)).limit(PARTS);
            let found = query.set_exclusive_start_key(start).send().await;
            let found = found.map_err(|error| StoreError::service(LISTING, error))?;
            for item in found.items() {
                let key = Reader::new("log", item);
                let (pk, sk) = (key.text(attr::PK)?, key.text(attr::SK)?);
                if let Some(logged) = self.logged_part(pk, sk, day).await?
                    && !filling.add(logged)
                {
                    // Before the first one, the day begins.
                    return Ok(Some(last.unwrap_or_else(|| first_of(&order))));
                }
                last = Some(cursor(item)?);
            }
            start = found.last_evaluated_key;
            if start.is_none() {
                return Ok(None);
            }
        }
    }

    /// Returns the first of these days, of which both ends are included, with a part of a customer.
    pub(crate) async fn next_day_before(
        &self,
        customer: &CustomerId,
        (from, to): (Day, Day),
    ) -> Result<Option<Day>, StoreError> {
        if from > to {
            return Ok(None);
        }
        let query = self.query_before(customer, (from, to)).limit(1);
        let found = query.send().await;
        let found = found.map_err(|error| StoreError::service(LISTING, error))?;
        let Some(item) = found.items().first() else {
            return Ok(None);
        };
        let item = Reader::new("log", item);
        let order = item.text(attr::LOG_ORDER)?;
        let day = order.split_once('#').and_then(|(day, _)| day.parse().ok());
        day.map(Some).ok_or_else(|| item.corrupt(attr::LOG_ORDER))
    }

    /// Creates the query for the parts of a customer's days, of which both ends are included.
    fn query_before(&self, customer: &CustomerId, (from, to): (Day, Day)) -> QueryFluentBuilder {
        self.client
            .query()
            .table_name(self.table(USAGE_LOG))
            .index_name(LOGGED.name)
            .key_condition_expression("customer = :customer AND log_order BETWEEN :from AND :to")
            .expression_attribute_values(":customer", s(customer.as_str()))
            .expression_attribute_values(":from", s(format!("{from}#")))
            .expression_attribute_values(":to", s(format!("{to}#~")))
    }

    /// Reads what was counted of the usage event with this partition key.
    pub(crate) async fn counted_before(
        &self,
        pk: &str,
    ) -> Result<Option<CountedBefore>, StoreError> {
        CountedBefore::read(&self.log_items(pk).await?)
    }

    /// Returns those of these partition keys of usage events that are in the log with their first parts. No other part of
    /// an event was counted without it.
    pub(crate) async fn logged_before(
        &self,
        pks: impl Iterator<Item = &str>,
    ) -> Result<BTreeSet<String>, StoreError> {
        let wanted = pks.map(|pk| keys(pk, part_sk(0))).collect();
        let found = self.batch_get(LOOKING, USAGE_LOG, wanted).await?;
        let pks = found.iter();
        let pks = pks.map(|item| Ok(Reader::new("log", item).text(attr::PK)?.to_owned()));
        pks.collect()
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
    async fn logged_part(
        &self,
        pk: &str,
        sk: &str,
        day: Day,
    ) -> Result<Option<LoggedPart>, StoreError> {
        let items = self.log_items(pk).await?;
        let mut part = None;
        for item in &items {
            if Reader::new("log", item).text(attr::SK)? == sk {
                part = Some(Reader::new("log", item));
            }
        }
        let (Some(part), Some(body)) = (part, body_of(&items)?) else {
            return Ok(None);
        };
        Ok(Some(LoggedPart {
            part: sk.parse().map_err(|_| part.corrupt(attr::SK))?,
            received_at: part.parsed(attr::RECEIVED_AT)?,
            day,
            records: part.number("records")?,
            body,
        }))
    }
}

/// Whether the item has the body, or a piece of it. The guards of later releases have none.
fn has_body(item: &Item) -> Result<bool, StoreError> {
    let item = Reader::new("log", item);
    let sk = item.text(attr::SK)?;
    Ok((sk == part_sk(0) || is_piece(sk)) && item.opt_bytes("body")?.is_some())
}

/// Returns the cursor before all parts of a day. No part has an empty key.
fn first_of(order: &str) -> String {
    [order, "#", "#"].join(&SEPARATOR.to_string())
}

fn cursor(key: &Item) -> Result<String, StoreError> {
    let key = Reader::new("log", key);
    let parts = [attr::LOG_ORDER, attr::PK, attr::SK].map(|name| key.text(name));
    let [order, pk, sk] = parts;
    Ok([order?, pk?, sk?].join(&SEPARATOR.to_string()))
}

fn start_after(customer: &CustomerId, day: &str, cursor: &str) -> Result<Item, StoreError> {
    let invalid = || StoreError::invalid_cursor(LISTING);
    let (order, key) = cursor.split_once(SEPARATOR).ok_or_else(invalid)?;
    let (pk, sk) = key.split_once(SEPARATOR).ok_or_else(invalid)?;
    let are_keys = [(order, MAX_SK), (pk, MAX_PK), (sk, MAX_SK)];
    let are_keys = are_keys
        .iter()
        .all(|(key, max)| (1..=*max).contains(&key.len()));
    if !are_keys || !order.starts_with(day) {
        return Err(invalid());
    }
    let mut start = keys(pk, sk);
    start.insert(attr::CUSTOMER.into(), s(customer.as_str()));
    start.insert(attr::LOG_ORDER.into(), s(order));
    Ok(start)
}
