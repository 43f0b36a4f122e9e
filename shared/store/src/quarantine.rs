//! The quarantine: usage events and messages that failed validation, complete, with the reasons.

use std::collections::{BTreeSet, HashMap};
use std::fmt;
use std::str::FromStr;

use aws_sdk_dynamodb::operation::update_item::UpdateItemError;
use aws_sdk_dynamodb::types::{AttributeValue, ReturnValuesOnConditionCheckFailure};
use jiff::Timestamp;
use serde::Deserialize;
use serde_json::value::RawValue;
use tollgate_domain::id::CustomerId;
use tollgate_domain::page::Page;

use crate::Store;
use crate::body::{Compressor, is_piece, read_body};
use crate::canonical::{digest, digest_of_event};
use crate::error::StoreError;
use crate::event_part::{EventPart, RejectedRecord, event_pk, part_sk};
use crate::item::{Item, MAX_PK, MAX_SK, Reader, keys, n, s, t};
use crate::schema::{OPEN_QUARANTINE, QUARANTINE, attr};

/// Quarantined items per page.
const PAGE: i32 = 25;
const YES: &str = "yes";
const CONFLICT: &str = "CONFLICT#";
/// Attribute with the time at which the last replay began.
const REPLAYING_SINCE: &str = "replaying_since";
const RESOLVE: &str = "SET resolution = :resolution, resolved_at = :now REMOVE #open";

/// Id of a quarantined item.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct QuarantineId {
    pk: String,
    sk: String,
}

/// The text is not the id of a quarantined item.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not the id of a quarantined item")]
pub struct InvalidQuarantineId;

/// Separator of an id's parts, which neither contains.
const SEPARATOR: char = '\n';

impl fmt::Display for QuarantineId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}{SEPARATOR}{}", self.pk, self.sk)
    }
}

fn is_key(key: &str, max: usize) -> bool {
    (1..=max).contains(&key.len()) && !key.contains(SEPARATOR)
}

impl FromStr for QuarantineId {
    type Err = InvalidQuarantineId;

    fn from_str(text: &str) -> Result<Self, InvalidQuarantineId> {
        let (pk, sk) = text.split_once(SEPARATOR).ok_or(InvalidQuarantineId)?;
        if !is_key(pk, MAX_PK) || !is_key(sk, MAX_SK) || is_piece(sk) {
            return Err(InvalidQuarantineId);
        }
        let (pk, sk) = (pk.to_owned(), sk.to_owned());
        Ok(Self { pk, sk })
    }
}

/// Kind of a quarantined item.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum QuarantineKind {
    /// Some records or adjustments of a usage event; the others were counted.
    Items,
    /// A usage event whose source and id another event has claimed.
    Conflict,
    /// A message that is not a usage event.
    Message,
}

/// Resolution of a quarantined item.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Resolution {
    /// Counted by a replay.
    Replayed,
    /// Discarded, and not counted.
    Discarded,
}

impl Resolution {
    fn as_str(self) -> &'static str {
        match self {
            Resolution::Replayed => "replayed",
            Resolution::Discarded => "discarded",
        }
    }

    fn read(item: &Reader<'_>) -> Result<Option<Self>, StoreError> {
        match item.opt_text("resolution")? {
            None => Ok(None),
            Some("replayed") => Ok(Some(Resolution::Replayed)),
            Some("discarded") => Ok(Some(Resolution::Discarded)),
            Some(_) => Err(item.corrupt("resolution")),
        }
    }
}

/// Outcome of beginning a replay of a quarantined item, or of resolving it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ResolveOutcome {
    /// The change was made.
    Made,
    /// Not changed: the item was already resolved.
    Closed(Resolution),
    /// Not changed: a replay has begun, and is not known to have ended.
    Replaying,
    /// There is no such item.
    Missing,
}

/// A quarantined item without its body.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct QuarantinedItem {
    /// Id.
    pub id: QuarantineId,
    /// Kind.
    pub kind: QuarantineKind,
    /// Customer, if the event could be parsed.
    pub customer: Option<CustomerId>,
    /// Rejected records with their reasons; a single one of index 0 if the whole was rejected.
    pub rejected: Vec<RejectedRecord>,
    /// Time of arrival.
    pub received_at: Timestamp,
    /// Resolution; `None` while the item is open.
    pub resolution: Option<Resolution>,
    /// Time at which the last replay began, if there was one.
    pub replaying_since: Option<Timestamp>,
}

/// Reference to a quarantined item.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct QuarantinedItemRef {
    /// Id.
    pub id: QuarantineId,
    /// Kind.
    pub kind: QuarantineKind,
    /// Resolution; `None` while the item is open.
    pub resolution: Option<Resolution>,
}

/// Content of a quarantined item.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct QuarantinedContent {
    /// Rejected records with their reasons; a single one of index 0 if the whole was rejected.
    pub rejected: Vec<RejectedRecord>,
    /// The event or message, byte for byte.
    pub body: Vec<u8>,
    /// Time of arrival.
    pub received_at: Timestamp,
}

fn rejections(rejected: &[RejectedRecord]) -> AttributeValue {
    let rejection = |record: &RejectedRecord| {
        AttributeValue::M(HashMap::from([
            ("index".to_owned(), n(record.index as u64)),
            ("reason".to_owned(), s(&record.reason)),
        ]))
    };
    AttributeValue::L(rejected.iter().map(rejection).collect())
}

fn read_rejections(item: &Item) -> Result<Vec<RejectedRecord>, StoreError> {
    let corrupt = || StoreError::corrupt("quarantine", "rejected");
    let Some(AttributeValue::L(rejected)) = item.get("rejected") else {
        return Err(corrupt());
    };
    rejected
        .iter()
        .map(|rejection| {
            let AttributeValue::M(rejection) = rejection else {
                return Err(corrupt());
            };
            let rejection = Reader::new("rejected record", rejection);
            Ok(RejectedRecord {
                index: usize::try_from(rejection.number("index")?).map_err(|_| corrupt())?,
                reason: rejection.text("reason")?.to_owned(),
            })
        })
        .collect()
}

/// Returns the item, without the body, that quarantines the rejected records of a part.
pub(crate) fn quarantine_item(part: &EventPart<'_>, sk: String) -> Item {
    let mut item = keys(part.pk(), sk);
    item.insert("customer".into(), s(part.customer.as_str()));
    item.insert("rejected".into(), rejections(part.rejected));
    open(&mut item, part.received_at);
    item
}

/// Returns a partition key that is equal for deliveries of the same message: a digest of the EventBridge
/// event's detail, because its envelope differs each time that it is sent. Of the whole message if it has
/// no detail.
fn message_pk(body: &[u8]) -> String {
    #[derive(Deserialize)]
    struct Event<'a> {
        #[serde(borrow)]
        detail: &'a RawValue,
    }

    let event: Result<Event<'_>, _> = serde_json::from_slice(body);
    let detail = event.map_or(body, |event| event.detail.get().as_bytes());
    format!("#{}", digest(detail))
}

/// Adds the attributes of the index of open items.
fn open(item: &mut Item, received_at: Timestamp) {
    item.insert(attr::RECEIVED_AT.into(), t(received_at));
    item.insert(attr::OPEN.into(), s(YES));
}

fn kind_of(pk: &str, sk: &str) -> QuarantineKind {
    match (pk.starts_with('#'), sk.starts_with(CONFLICT)) {
        (true, _) => QuarantineKind::Message,
        (false, true) => QuarantineKind::Conflict,
        (false, false) => QuarantineKind::Items,
    }
}

fn read_item(item: &Item) -> Result<QuarantinedItem, StoreError> {
    let rejected = read_rejections(item)?;
    let item = Reader::new("quarantine", item);
    let (pk, sk) = (item.text(attr::PK)?, item.text(attr::SK)?);
    Ok(QuarantinedItem {
        id: QuarantineId {
            pk: pk.to_owned(),
            sk: sk.to_owned(),
        },
        kind: kind_of(pk, sk),
        customer: item.opt_parsed("customer")?,
        rejected,
        received_at: item.parsed(attr::RECEIVED_AT)?,
        resolution: Resolution::read(&item)?,
        replaying_since: item.opt_parsed(REPLAYING_SINCE)?,
    })
}

impl Store {
    /// Quarantines a usage event whose source and id another event has claimed.
    ///
    /// # Errors
    /// When the store fails; the event may then be quarantined, and the call can be repeated.
    pub async fn quarantine_conflict(&self, part: &EventPart<'_>) -> Result<(), StoreError> {
        let item = quarantine_item(
            part,
            format!("{CONFLICT}{}", hex::encode(digest_of_event(part.body))),
        );
        self.quarantine(item, part.body).await
    }

    /// Quarantines a message that is not a usage event.
    ///
    /// # Errors
    /// When the store fails; the message may then be quarantined, and the call can be repeated.
    pub async fn quarantine_message(
        &self,
        body: &[u8],
        reason: &str,
        received_at: Timestamp,
    ) -> Result<(), StoreError> {
        let mut item = keys(message_pk(body), part_sk(0));
        let rejected = RejectedRecord {
            index: 0,
            reason: reason.to_owned(),
        };
        item.insert("rejected".into(), rejections(&[rejected]));
        open(&mut item, received_at);
        self.quarantine(item, body).await
    }

    async fn quarantine(&self, item: Item, body: &[u8]) -> Result<(), StoreError> {
        let body = Compressor::new().compress(body)?;
        let puts = body.puts(QUARANTINE, item).enumerate();
        // Absent: the key has a digest of the content, so a repetition has nothing to add, and must not
        // undo the first item's resolution. The pieces change together with the head.
        let actions = puts.map(|(piece, put)| match piece {
            0 => put.when("attribute_not_exists(pk)"),
            _ => put,
        });
        self.transact("quarantining", actions.collect()).await?;
        Ok(())
    }

    /// Reads the quarantined contents of the usage event with this source and id.
    ///
    /// # Errors
    /// When the store fails.
    pub async fn quarantined_of_event(
        &self,
        source: &str,
        id: &str,
    ) -> Result<Vec<QuarantinedContent>, StoreError> {
        self.quarantined(event_pk(source, id)).await
    }

    /// Lists the quarantined items of the usage events with this source and id, open or resolved. Returns at
    /// most `max` of them, and whether there are more.
    ///
    /// # Errors
    /// When the store fails.
    pub async fn quarantined_refs_of_event(
        &self,
        source: &str,
        id: &str,
        max: usize,
    ) -> Result<(Vec<QuarantinedItemRef>, bool), StoreError> {
        const OPERATION: &str = "reading the quarantine";
        let query = self
            .client
            .query()
            .table_name(self.table(QUARANTINE))
            .key_condition_expression("pk = :pk")
            .expression_attribute_values(":pk", s(event_pk(source, id)))
            .projection_expression("pk, sk, resolution")
            .consistent_read(true)
            // Capacity is consumed for the whole items, bodies included, in spite of the projection.
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
                if found.len() == max {
                    return Ok((found, true));
                }
                found.push(QuarantinedItemRef {
                    kind: kind_of(&pk, &sk),
                    id: QuarantineId { pk, sk },
                    resolution: Resolution::read(&item)?,
                });
            }
            start = page.last_evaluated_key;
            if start.is_none() {
                return Ok((found, false));
            }
        }
    }

    /// Returns the indexes of the records and adjustments that were rejected when these parts of a usage event were counted.
    ///
    /// # Errors
    /// When the store fails.
    pub async fn rejected_of_parts(
        &self,
        source: &str,
        id: &str,
        parts: &BTreeSet<usize>,
    ) -> Result<BTreeSet<usize>, StoreError> {
        let pk = event_pk(source, id);
        let wanted = parts.iter().map(|part| keys(pk.as_str(), part_sk(*part)));
        let found = self.batch_get("reading the quarantine", QUARANTINE, wanted.collect());
        let found = found.await?;
        let mut indexes = BTreeSet::new();
        for item in &found {
            indexes.extend(read_rejections(item)?.iter().map(|rejected| rejected.index));
        }
        Ok(indexes)
    }

    /// Reads the quarantined content of this message.
    ///
    /// # Errors
    /// When the store fails.
    pub async fn quarantined_message(
        &self,
        body: &[u8],
    ) -> Result<Vec<QuarantinedContent>, StoreError> {
        self.quarantined(message_pk(body)).await
    }

    /// Lists open quarantined items, oldest first, after the cursor `after`. Reads an index, which is
    /// eventually consistent.
    ///
    /// # Errors
    /// When the store fails, or the cursor is invalid.
    pub async fn list_quarantined(
        &self,
        after: Option<&str>,
    ) -> Result<Page<QuarantinedItem>, StoreError> {
        const OPERATION: &str = "listing the quarantine";
        let start = after.map(|after| start_after(OPERATION, after));
        let start = start.transpose()?;
        let found = self
            .client
            .query()
            .table_name(self.table(QUARANTINE))
            .index_name(OPEN_QUARANTINE.name)
            .key_condition_expression("#open = :yes")
            .expression_attribute_names("#open", attr::OPEN)
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
        let items = items.iter().map(read_item);
        let mut items: Vec<QuarantinedItem> = items.collect::<Result<_, _>>()?;
        // The index may lag behind the table.
        items.retain(|item| item.resolution.is_none());
        items.sort_by(|one, other| {
            let order = |item: &QuarantinedItem| (item.received_at, item.id.clone());
            order(one).cmp(&order(other))
        });
        let next = found.last_evaluated_key.as_ref().map(cursor).transpose()?;
        Ok(Page { items, next })
    }

    /// Reads a quarantined item, and its body as it arrived, byte for byte.
    ///
    /// # Errors
    /// When the store fails.
    pub async fn quarantined_item(
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
        let found = read_item(head)?;
        if found.id != *id {
            return Ok(None);
        }
        let body = read_body("quarantine", &items)?;
        Ok(Some((found, body)))
    }

    /// Records that a replay begins. From then on the item may have been counted, and cannot be discarded.
    ///
    /// # Errors
    /// When the store fails; the beginning may then be recorded, and the call can be repeated.
    pub async fn begin_replay(&self, id: &QuarantineId) -> Result<ResolveOutcome, StoreError> {
        // Exists: an update must not create an item for an unknown id. Not resolved: an item that was
        // replayed or discarded is not counted again.
        let condition = "attribute_exists(pk) AND attribute_not_exists(resolution)";
        let update = "SET replaying_since = :now";
        self.update_quarantined(id, update, condition, None, None)
            .await
    }

    /// Resolves an item as replayed. It stays in the table, but is no longer listed.
    ///
    /// # Errors
    /// When the store fails; the item may then be resolved, and a repetition finds out whether it is.
    pub async fn finish_replay(&self, id: &QuarantineId) -> Result<ResolveOutcome, StoreError> {
        // Exists: as above. Not resolved: the first instant is the one on record. A replay that has
        // begun rules out discarding, so that an item found resolved was replayed.
        let condition = "attribute_exists(pk) AND attribute_not_exists(resolution)";
        let resolution = Some(Resolution::Replayed);
        self.update_quarantined(id, RESOLVE, condition, resolution, None)
            .await
    }

    /// Resolves an item as discarded: it will not be counted. It stays in the table, but is no longer
    /// listed. `failed_replay` is the time at which its last replay began, if that has counted nothing and never will.
    ///
    /// # Errors
    /// When the store fails; the item may then be resolved, and a repetition finds out whether it is.
    pub async fn discard(
        &self,
        id: &QuarantineId,
        failed_replay: Option<Timestamp>,
    ) -> Result<ResolveOutcome, StoreError> {
        // Exists and not resolved: as above. No replay has begun, or none after the one that failed: the item may have
        // been counted, or be about to be.
        let condition = match failed_replay {
            None => {
                "attribute_exists(pk) AND attribute_not_exists(resolution) \
                 AND attribute_not_exists(replaying_since)"
            }
            Some(_) => {
                "attribute_exists(pk) AND attribute_not_exists(resolution) \
                 AND replaying_since = :since"
            }
        };
        let resolution = Some(Resolution::Discarded);
        self.update_quarantined(id, RESOLVE, condition, resolution, failed_replay)
            .await
    }

    async fn update_quarantined(
        &self,
        id: &QuarantineId,
        update: &str,
        condition: &str,
        resolution: Option<Resolution>,
        failed_replay: Option<Timestamp>,
    ) -> Result<ResolveOutcome, StoreError> {
        // `open` is a reserved word. The placeholders are in updates that resolve an item, and only there:
        // DynamoDB rejects unused ones.
        let name = resolution.map(|_| ("#open".to_owned(), attr::OPEN.to_owned()));
        let names = name.map(|name| HashMap::from([name]));
        let value = resolution.map(|it| (":resolution".to_owned(), s(it.as_str())));
        let since = failed_replay.map(|since| (":since".to_owned(), t(since)));
        let now = (":now".to_owned(), t(self.clock.now()));
        let values = value.into_iter().chain(since).chain([now]);
        let outcome = self
            .client
            .update_item()
            .table_name(self.table(QUARANTINE))
            .set_key(Some(keys(&id.pk, &id.sk)))
            .update_expression(update)
            .condition_expression(condition)
            .set_expression_attribute_names(names)
            .set_expression_attribute_values(Some(values.collect()))
            .return_values_on_condition_check_failure(ReturnValuesOnConditionCheckFailure::AllOld)
            .send()
            .await;
        let Err(error) = outcome else {
            return Ok(ResolveOutcome::Made);
        };
        match error.as_service_error() {
            Some(UpdateItemError::ConditionalCheckFailedException(failed)) => {
                let Some(item) = failed.item.as_ref().filter(|item| !item.is_empty()) else {
                    return Ok(ResolveOutcome::Missing);
                };
                let resolution = Resolution::read(&Reader::new("quarantine", item))?;
                Ok(resolution.map_or(ResolveOutcome::Replaying, ResolveOutcome::Closed))
            }
            _ => Err(StoreError::service("updating a quarantined item", error)),
        }
    }

    async fn quarantined(&self, pk: String) -> Result<Vec<QuarantinedContent>, StoreError> {
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
                Ok(QuarantinedContent {
                    rejected: read_rejections(&items[0])?,
                    body: read_body("quarantine", items)?,
                    received_at: head.parsed(attr::RECEIVED_AT)?,
                })
            })
            .collect()
    }
}

/// Returns the cursor after an item: `<received_at>`, and the id.
fn cursor(key: &Item) -> Result<String, StoreError> {
    let key = Reader::new("quarantine", key);
    let parts = [attr::RECEIVED_AT, attr::PK, attr::SK].map(|name| key.text(name));
    let [received_at, pk, sk] = parts;
    Ok([received_at?, pk?, sk?].join(&SEPARATOR.to_string()))
}

fn start_after(operation: &'static str, cursor: &str) -> Result<Item, StoreError> {
    let invalid = || StoreError::invalid_cursor(operation);
    let (received_at, id) = cursor.split_once(SEPARATOR).ok_or_else(invalid)?;
    let QuarantineId { pk, sk } = id.parse().map_err(|_| invalid())?;
    if !is_key(received_at, MAX_SK) {
        return Err(invalid());
    }
    let mut start = keys(pk, sk);
    start.insert(attr::RECEIVED_AT.into(), s(received_at));
    start.insert(attr::OPEN.into(), s(YES));
    Ok(start)
}
