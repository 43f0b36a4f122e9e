//! The quarantine: what could not be counted, whole, with the reasons.

use std::collections::HashMap;
use std::fmt;
use std::str::FromStr;

use aws_sdk_dynamodb::operation::update_item::UpdateItemError;
use aws_sdk_dynamodb::types::{AttributeValue, ReturnValuesOnConditionCheckFailure};
use jiff::Timestamp;
use serde::Deserialize;
use serde_json::value::RawValue;
use tollgate_domain::id::CustomerId;

use crate::Store;
use crate::accounts::Page;
use crate::body::{Compressor, is_piece, read_body};
use crate::canonical::{digest, digest_of_event};
use crate::error::StoreError;
use crate::item::{Item, MAX_PK, MAX_SK, Reader, keys, n, s, t};
use crate::schema::{QUARANTINE, WAITING, attr};
use crate::usage::{EventPart, event_pk, part_sk};

/// What waits in a page.
const PAGE: i32 = 25;
const YES: &str = "yes";
const CONFLICT: &str = "CONFLICT#";
const CLOSE: &str = "SET closed_as = :how, closed_at = :now REMOVE waiting";

/// A record that cannot be counted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RefusedRecord {
    /// Its place in the entry, from 0.
    pub index: usize,
    /// Why.
    pub reason: String,
}

/// Names an item of the quarantine.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct QuarantineId {
    pk: String,
    sk: String,
}

/// The text names no item of the quarantine.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("this is not the id of anything that was set aside")]
pub struct InvalidQuarantineId;

/// What separates the parts of an id: neither has it.
const BETWEEN: char = '\n';

impl fmt::Display for QuarantineId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}{BETWEEN}{}", self.pk, self.sk)
    }
}

fn is_key(key: &str, max: usize) -> bool {
    (1..=max).contains(&key.len()) && !key.contains(BETWEEN)
}

impl FromStr for QuarantineId {
    type Err = InvalidQuarantineId;

    fn from_str(text: &str) -> Result<Self, InvalidQuarantineId> {
        let (pk, sk) = text.split_once(BETWEEN).ok_or(InvalidQuarantineId)?;
        if !is_key(pk, MAX_PK) || !is_key(sk, MAX_SK) || is_piece(sk) {
            return Err(InvalidQuarantineId);
        }
        let (pk, sk) = (pk.to_owned(), sk.to_owned());
        Ok(Self { pk, sk })
    }
}

/// What was set aside.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Some of the records or adjustments of an entry; the others were counted.
    Items,
    /// An entry whose identity another one has.
    Conflict,
    /// A message that is no entry.
    Message,
}

/// How something has left the quarantine.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Closed {
    /// It was counted after all.
    Replayed,
    /// It was not, and is not to be.
    Dismissed,
}

impl Closed {
    fn as_str(self) -> &'static str {
        match self {
            Closed::Replayed => "replayed",
            Closed::Dismissed => "dismissed",
        }
    }

    fn read(item: &Reader<'_>) -> Result<Option<Self>, StoreError> {
        match item.opt_text("closed_as")? {
            None => Ok(None),
            Some("replayed") => Ok(Some(Closed::Replayed)),
            Some("dismissed") => Ok(Some(Closed::Dismissed)),
            Some(_) => Err(item.corrupt("closed_as")),
        }
    }
}

/// What stands in the way of a change to what was set aside, or does not.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Change {
    /// Nothing: it is made.
    Made,
    /// It was closed before.
    Closed(Closed),
    /// A replay of it has begun, and it is not known to have ended.
    Replaying,
    /// There is no such thing.
    Missing,
}

/// Something that was set aside, but for its body.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct QuarantinedItem {
    /// Names it.
    pub id: QuarantineId,
    /// What it is.
    pub kind: Kind,
    /// Whose usage it is, where that can be read.
    pub customer: Option<CustomerId>,
    /// Why, record by record; one with index 0 where the whole is refused.
    pub refused: Vec<RefusedRecord>,
    /// When it arrived.
    pub received_at: Timestamp,
    /// How it has left the quarantine.
    pub closed: Option<Closed>,
}

/// The name of something that was set aside.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct QuarantinedItemRef {
    /// Names it.
    pub id: QuarantineId,
    /// How it has left the quarantine.
    pub closed: Option<Closed>,
}

/// What of an entry, or of a message that is none, was set aside.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Quarantined {
    /// Why, record by record; one entry with index 0 where the whole is refused.
    pub refused: Vec<RefusedRecord>,
    /// What was refused, byte for byte.
    pub body: Vec<u8>,
    /// When it arrived.
    pub received_at: Timestamp,
}

fn reasons(refused: &[RefusedRecord]) -> AttributeValue {
    let reason = |record: &RefusedRecord| {
        AttributeValue::M(HashMap::from([
            ("index".to_owned(), n(record.index as u64)),
            ("reason".to_owned(), s(&record.reason)),
        ]))
    };
    AttributeValue::L(refused.iter().map(reason).collect())
}

fn read_reasons(item: &Item) -> Result<Vec<RefusedRecord>, StoreError> {
    let corrupt = || StoreError::corrupt("quarantine", "refused");
    let Some(AttributeValue::L(refused)) = item.get("refused") else {
        return Err(corrupt());
    };
    refused
        .iter()
        .map(|refused| {
            let AttributeValue::M(refused) = refused else {
                return Err(corrupt());
            };
            let refused = Reader::new("refused record", refused);
            Ok(RefusedRecord {
                index: usize::try_from(refused.number("index")?).map_err(|_| corrupt())?,
                reason: refused.text("reason")?.to_owned(),
            })
        })
        .collect()
}

/// The item, but for its body, that sets aside what is wrong with an entry.
pub(crate) fn refused_of(entry: &EventPart<'_>, sk: String) -> Item {
    let mut item = keys(event_pk(entry.source, entry.id), sk);
    item.insert("customer".into(), s(entry.customer.as_str()));
    item.insert("refused".into(), reasons(entry.refused));
    wait(&mut item, entry.received_at);
    item
}

/// Tells a message from others by what it says: the detail of an event, whose envelope is another one
/// each time that it is sent. All of it where there is no detail.
fn message_pk(body: &[u8]) -> String {
    #[derive(Deserialize)]
    struct Event<'a> {
        #[serde(borrow)]
        detail: &'a RawValue,
    }

    let event: Result<Event<'_>, _> = serde_json::from_slice(body);
    let said = event.map_or(body, |event| event.detail.get().as_bytes());
    format!("#{}", digest(said))
}

/// Lists an item as waiting since then.
fn wait(item: &mut Item, received_at: Timestamp) {
    item.insert(attr::RECEIVED_AT.into(), t(received_at));
    item.insert(attr::WAITING.into(), s(YES));
}

fn read_set_aside(item: &Item) -> Result<QuarantinedItem, StoreError> {
    let refused = read_reasons(item)?;
    let item = Reader::new("quarantine", item);
    let (pk, sk) = (item.text(attr::PK)?, item.text(attr::SK)?);
    let kind = match (pk.starts_with('#'), sk.starts_with(CONFLICT)) {
        (true, _) => Kind::Message,
        (false, true) => Kind::Conflict,
        (false, false) => Kind::Items,
    };
    Ok(QuarantinedItem {
        id: QuarantineId {
            pk: pk.to_owned(),
            sk: sk.to_owned(),
        },
        kind,
        customer: item.opt_parsed("customer")?,
        refused,
        received_at: item.parsed(attr::RECEIVED_AT)?,
        closed: Closed::read(&item)?,
    })
}

impl Store {
    /// Sets aside an entry whose identity another one has taken.
    ///
    /// # Errors
    /// When the store does not answer; it may then have been set aside, and can be again.
    pub async fn quarantine_conflict(&self, entry: &EventPart<'_>) -> Result<(), StoreError> {
        let item = refused_of(entry, format!("{CONFLICT}{}", digest_of_event(entry.body)));
        self.quarantine(item, entry.body).await
    }

    /// Sets aside a message that is no entry at all.
    ///
    /// # Errors
    /// When the store does not answer; it may then have been set aside, and can be again.
    pub async fn quarantine_message(
        &self,
        body: &[u8],
        reason: &str,
        received_at: Timestamp,
    ) -> Result<(), StoreError> {
        let mut item = keys(message_pk(body), part_sk(0));
        let refused = RefusedRecord {
            index: 0,
            reason: reason.to_owned(),
        };
        item.insert("refused".into(), reasons(&[refused]));
        wait(&mut item, received_at);
        self.quarantine(item, body).await
    }

    async fn quarantine(&self, item: Item, body: &[u8]) -> Result<(), StoreError> {
        let (head, pieces) = Compressor::new().compress(body)?.put(QUARANTINE, item);
        // Absent: the key has a digest of what is set aside, so a repeat has nothing to add, and must
        // not undo what was done with the first. The pieces change together with the head.
        let mut actions = vec![head.when("attribute_not_exists(pk)")];
        actions.extend(pieces);
        self.transact("quarantining", actions).await?;
        Ok(())
    }

    /// What was set aside of the entry of this identity.
    ///
    /// # Errors
    /// When the store does not answer.
    pub async fn quarantined_of_event(
        &self,
        source: &str,
        id: &str,
    ) -> Result<Vec<Quarantined>, StoreError> {
        self.quarantined(event_pk(source, id)).await
    }

    /// Names what was set aside of the entry of this identity and of those that came after it, whether it
    /// waits or not: the first `most`, and whether there is more.
    ///
    /// # Errors
    /// When the store does not answer.
    pub async fn quarantined_refs_of_event(
        &self,
        source: &str,
        id: &str,
        most: usize,
    ) -> Result<(Vec<QuarantinedItemRef>, bool), StoreError> {
        const OPERATION: &str = "reading the quarantine";
        let query = self
            .client
            .query()
            .table_name(self.table(QUARANTINE))
            .key_condition_expression("pk = :pk")
            .expression_attribute_values(":pk", s(event_pk(source, id)))
            .projection_expression("pk, sk, closed_as")
            .consistent_read(true)
            // A read is paid by the whole items, bodies included.
            .limit(PAGE);
        let mut found = Vec::new();
        let mut start = None;
        loop {
            let page = query.clone().set_exclusive_start_key(start).send().await;
            let page = page.map_err(|error| StoreError::service(OPERATION, error))?;
            for item in page.items() {
                let item = Reader::new("quarantine", item);
                let (pk, sk) = (
                    item.text(attr::PK)?.to_owned(),
                    item.text(attr::SK)?.to_owned(),
                );
                if is_piece(&sk) {
                    continue;
                }
                if found.len() == most {
                    return Ok((found, true));
                }
                found.push(QuarantinedItemRef {
                    id: QuarantineId { pk, sk },
                    closed: Closed::read(&item)?,
                });
            }
            start = page.last_evaluated_key;
            if start.is_none() {
                return Ok((found, false));
            }
        }
    }

    /// What was set aside of this message.
    ///
    /// # Errors
    /// When the store does not answer.
    pub async fn quarantined_message(&self, body: &[u8]) -> Result<Vec<Quarantined>, StoreError> {
        self.quarantined(message_pk(body)).await
    }

    /// What waits in the quarantine, oldest first. The index behind it lags by well under a second.
    ///
    /// # Errors
    /// When the store does not answer.
    pub async fn waiting(&self, after: Option<&str>) -> Result<Page<QuarantinedItem>, StoreError> {
        const OPERATION: &str = "listing the quarantine";
        let start = after.map(|after| start_after(OPERATION, after));
        let start = start.transpose()?;
        let found = self
            .client
            .query()
            .table_name(self.table(QUARANTINE))
            .index_name(WAITING.name)
            .key_condition_expression("waiting = :yes")
            .expression_attribute_values(":yes", s(YES))
            .limit(PAGE)
            .set_exclusive_start_key(start)
            .send()
            .await
            .map_err(|error| StoreError::service(OPERATION, error))?;
        let id = |item: &Item| {
            let item = Reader::new("quarantine", item);
            Ok::<_, StoreError>(keys(item.text(attr::PK)?, item.text(attr::SK)?))
        };
        let ids: Vec<Item> = found.items().iter().map(id).collect::<Result<_, _>>()?;
        let items = self.batch_get(OPERATION, QUARANTINE, ids).await?;
        let items = items.iter().map(read_set_aside);
        let mut items: Vec<QuarantinedItem> = items.collect::<Result<_, _>>()?;
        // The index may not know yet.
        items.retain(|item| item.closed.is_none());
        items.sort_by(|one, other| {
            let order = |item: &QuarantinedItem| (item.received_at, item.id.clone());
            order(one).cmp(&order(other))
        });
        let next = found.last_evaluated_key.as_ref().map(cursor).transpose()?;
        Ok(Page { items, next })
    }

    /// What was set aside under this id, and its body: byte for byte what arrived.
    ///
    /// # Errors
    /// When the store does not answer.
    pub async fn set_aside(
        &self,
        id: &QuarantineId,
    ) -> Result<Option<(QuarantinedItem, Vec<u8>)>, StoreError> {
        let items = self.query_all(
            "reading the quarantine",
            QUARANTINE,
            "pk = :pk AND begins_with(sk, :sk)",
            [(":pk", s(&id.pk)), (":sk", s(&id.sk))],
        );
        let items = items.await?;
        let Some(head) = items.first() else {
            return Ok(None);
        };
        let set_aside = read_set_aside(head)?;
        if set_aside.id != *id {
            return Ok(None);
        }
        let body = read_body("quarantine", &items)?;
        Ok(Some((set_aside, body)))
    }

    /// Notes that a replay begins, which keeps it from being dismissed: from here on it may have been
    /// counted.
    ///
    /// # Errors
    /// When the store does not answer; it may then be noted, and can be again.
    pub async fn begin_replay(&self, id: &QuarantineId) -> Result<Change, StoreError> {
        // There: nothing is made of an id that names nothing. Not closed: what was counted or
        // dismissed is not counted again.
        let condition = "attribute_exists(pk) AND attribute_not_exists(closed_as)";
        let update = "SET replaying_since = :now";
        self.change_set_aside(id, update, condition, None).await
    }

    /// Takes something that was counted off the list of what waits. It stays in the table.
    ///
    /// # Errors
    /// When the store does not answer; it may then be off the list, and doing it again finds that out.
    pub async fn finish_replay(&self, id: &QuarantineId) -> Result<Change, StoreError> {
        // There: as above. Not closed: the first time is kept. A replay that has begun keeps it from
        // being dismissed, so that it can only have been closed as this.
        let condition = "attribute_exists(pk) AND attribute_not_exists(closed_as)";
        self.change_set_aside(id, CLOSE, condition, Some(Closed::Replayed))
            .await
    }

    /// The same of something that is not to be counted.
    ///
    /// # Errors
    /// When the store does not answer; it may then be off the list, and doing it again finds that out.
    pub async fn dismiss(&self, id: &QuarantineId) -> Result<Change, StoreError> {
        // There and not closed: as above. No replay: it may have been counted, or be about to be.
        let condition = "attribute_exists(pk) AND attribute_not_exists(closed_as) \
                         AND attribute_not_exists(replaying_since)";
        self.change_set_aside(id, CLOSE, condition, Some(Closed::Dismissed))
            .await
    }

    async fn change_set_aside(
        &self,
        id: &QuarantineId,
        update: &str,
        condition: &str,
        how: Option<Closed>,
    ) -> Result<Change, StoreError> {
        let how = how.map(|how| (":how".to_owned(), s(how.as_str())));
        let now = (":now".to_owned(), t(self.clock.now()));
        let outcome = self
            .client
            .update_item()
            .table_name(self.table(QUARANTINE))
            .set_key(Some(keys(&id.pk, &id.sk)))
            .update_expression(update)
            .condition_expression(condition)
            .set_expression_attribute_values(Some(how.into_iter().chain([now]).collect()))
            .return_values_on_condition_check_failure(ReturnValuesOnConditionCheckFailure::AllOld)
            .send()
            .await;
        let Err(error) = outcome else {
            return Ok(Change::Made);
        };
        match error.as_service_error() {
            Some(UpdateItemError::ConditionalCheckFailedException(refused)) => {
                let Some(item) = refused.item.as_ref().filter(|item| !item.is_empty()) else {
                    return Ok(Change::Missing);
                };
                let closed = Closed::read(&Reader::new("quarantine", item))?;
                Ok(closed.map_or(Change::Replaying, Change::Closed))
            }
            _ => Err(StoreError::service("changing what was set aside", error)),
        }
    }

    async fn quarantined(&self, pk: String) -> Result<Vec<Quarantined>, StoreError> {
        let items = self.query_all(
            "reading the quarantine",
            QUARANTINE,
            "pk = :pk",
            [(":pk", s(pk))],
        );
        let items = items.await?;
        let mut bodies: Vec<&[Item]> = Vec::new();
        let mut from = 0;
        for at in 1..=items.len() {
            let is_next = match items.get(at) {
                Some(item) => !is_piece(Reader::new("quarantine", item).text(attr::SK)?),
                None => true,
            };
            if is_next {
                bodies.push(&items[from..at]);
                from = at;
            }
        }
        bodies
            .into_iter()
            .map(|items| {
                let head = Reader::new("quarantine", &items[0]);
                Ok(Quarantined {
                    refused: read_reasons(&items[0])?,
                    body: read_body("quarantine", items)?,
                    received_at: head.parsed(attr::RECEIVED_AT)?,
                })
            })
            .collect()
    }
}

/// `<received_at>`, and the id.
fn cursor(key: &Item) -> Result<String, StoreError> {
    let key = Reader::new("quarantine", key);
    let parts = [attr::RECEIVED_AT, attr::PK, attr::SK].map(|name| key.text(name));
    let [received_at, pk, sk] = parts;
    Ok([received_at?, pk?, sk?].join(&BETWEEN.to_string()))
}

fn start_after(operation: &'static str, cursor: &str) -> Result<Item, StoreError> {
    let none = || StoreError::invalid_cursor(operation);
    let (received_at, id) = cursor.split_once(BETWEEN).ok_or_else(none)?;
    let QuarantineId { pk, sk } = id.parse().map_err(|_| none())?;
    if !is_key(received_at, MAX_SK) {
        return Err(none());
    }
    let mut start = keys(pk, sk);
    start.insert(attr::RECEIVED_AT.into(), s(received_at));
    start.insert(attr::WAITING.into(), s(YES));
    Ok(start)
}
