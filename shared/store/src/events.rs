//! Events, each put in the transaction that causes it; and their numbers.
//!
//! The number of an event is its position in one order, without gaps. It is given by a transaction that also changes the
//! last number, so that no number is given twice or skipped, and an event never appears before one that has been
//! read.

use aws_sdk_dynamodb::operation::put_item::PutItemError;
use aws_sdk_dynamodb::operation::update_item::UpdateItemError;
use aws_sdk_dynamodb::types::AttributeValue;
use jiff::{SignedDuration, Timestamp};
use tollgate_domain::event::{Event, NumberedEvent};
use tollgate_domain::id::EventId;

use crate::Store;
use crate::error::StoreError;
use crate::item::{Item, Reader, keys, n, s, t, ttl};
use crate::schema::{EVENTS, OUTBOX, attr};
use crate::transaction::{Action, ConditionResult, Transacted};

/// Sort key of items that are alone in their partition.
pub(crate) const ALONE: &str = "#";
const EVENT: &str = "EVENT#";
/// Partition of the numbered events.
const LOG: &str = "LOG";
/// Item with the last number.
const SEQUENCE: &str = "SEQUENCE";
const LAST_NUMBER: &str = "last_number";
const PUBLISHED_AT: &str = "published_at";
const NUMBER: &str = "number";

/// States of an event in the index: without a number; numbered, and not sent to everyone yet.
const NEW: &str = "new";
const NUMBERED: &str = "numbered";

/// Events that one transaction numbers. It has two actions for each and one more, of at most a hundred.
const MAX_NUMBERED: i32 = 25;
/// Attempts to number events while others do.
const MAX_ATTEMPTS: usize = 5;
/// Time for which events are kept after they were numbered.
const KEPT: SignedDuration = SignedDuration::from_hours(90 * 24);
/// Time within which a transaction is visible as a whole. A query may see a part of one that is being committed
/// (<https://docs.aws.amazon.com/amazondynamodb/latest/developerguide/transaction-apis.html#transaction-isolation>).
const COMMITTED_AFTER: SignedDuration = SignedDuration::from_mins(1);

const NUMBERING: &str = "numbering events";
const READING: &str = "reading events";

fn event_key(id: &EventId) -> Item {
    keys(format!("{EVENT}{id}"), ALONE)
}

fn log_key(number: u64) -> Item {
    keys(LOG, log_sk(number))
}

fn log_sk(number: u64) -> String {
    format!("{number:020}")
}

/// Adds the members of an event to an item.
fn add_members(item: &mut Item, event: &Event) {
    item.insert("kind".into(), s(event.kind.as_str()));
    if let Some(customer) = &event.customer {
        item.insert(attr::CUSTOMER.into(), s(customer.as_str()));
    }
    item.insert(attr::OCCURRED_AT.into(), t(event.occurred_at));
    item.insert("data".into(), s(event.data.to_string()));
}

fn event_item(event: &Event) -> Item {
    let mut item = event_key(&event.id);
    add_members(&mut item, event);
    item.insert(attr::OUTBOX.into(), s(NEW));
    item
}

fn log_item(numbered: &NumberedEvent) -> Item {
    let mut item = log_key(numbered.number);
    add_members(&mut item, &numbered.event);
    item.insert("id".into(), s(numbered.event.id.as_str()));
    item.insert(NUMBER.into(), n(numbered.number));
    item.insert(PUBLISHED_AT.into(), t(numbered.published_at));
    item.insert(attr::EXPIRES.into(), expires(numbered.published_at));
    item
}

fn expires(published_at: Timestamp) -> AttributeValue {
    ttl(published_at.saturating_add(KEPT).unwrap_or(Timestamp::MAX))
}

/// Reads the members of an event whose id is known.
fn read_members(id: EventId, item: &Reader<'_>) -> Result<Event, StoreError> {
    let data = serde_json::from_str(item.text("data")?).map_err(|_| item.corrupt("data"))?;
    Ok(Event {
        id,
        kind: item.parsed("kind")?,
        customer: item.opt_parsed(attr::CUSTOMER)?,
        occurred_at: item.parsed(attr::OCCURRED_AT)?,
        data,
    })
}

/// Reads an item with the id of an event in its partition key.
fn read_event(item: &Item) -> Result<Event, StoreError> {
    let item = Reader::new("event", item);
    let id = item.text(attr::PK)?.strip_prefix(EVENT);
    let id = id.and_then(|id| id.parse().ok());
    read_members(id.ok_or_else(|| item.corrupt(attr::PK))?, &item)
}

fn read_log(item: &Item) -> Result<NumberedEvent, StoreError> {
    let item = Reader::new("numbered event", item);
    Ok(NumberedEvent {
        number: item.number(NUMBER)?,
        published_at: item.parsed(PUBLISHED_AT)?,
        event: read_members(item.parsed("id")?, &item)?,
    })
}

/// Returns the events up to the first gap. There are no gaps, except where events have expired; and for a moment where
/// a transaction is seen in part, whose other events are read a moment later.
fn without_gaps(after: u64, events: Vec<NumberedEvent>, now: Timestamp) -> Vec<NumberedEvent> {
    let mut last = after;
    let is_next = |event: &NumberedEvent| {
        let is_old = now.duration_since(event.published_at) > COMMITTED_AFTER;
        let is_next = is_old || event.number == last + 1;
        last = event.number;
        is_next
    };
    events.into_iter().take_while(is_next).collect()
}

impl Store {
    /// Stores an event that no write of the store causes. If it exists, it stays as it is.
    ///
    /// # Errors
    /// When the store fails; the event may then be stored.
    pub async fn record_event(&self, event: &Event) -> Result<(), StoreError> {
        let put = self
            .client
            .put_item()
            .table_name(self.table(EVENTS))
            .set_item(Some(event_item(event)))
            // Absent: what is published once is not new again, and the first of two equal causes is announced.
            .condition_expression("attribute_not_exists(pk)")
            .send();
        let Err(error) = put.await else {
            return Ok(());
        };
        match error.as_service_error() {
            Some(PutItemError::ConditionalCheckFailedException(_)) => Ok(()),
            _ => Err(StoreError::service("storing an event", error)),
        }
    }

    /// Runs the actions as one transaction that also puts the events that they cause. An event that exists is no
    /// hindrance: the actions then run without it, and the event stays as it is, published or not. The results of
    /// a cancelled transaction are those of `actions`.
    pub(crate) async fn transact_causing(
        &self,
        operation: &'static str,
        actions: Vec<Action>,
        events: &[Event],
    ) -> Result<Transacted, StoreError> {
        let mut all = actions.clone();
        all.extend(events.iter().map(|event| {
            // Absent: what is published once is not new again, and the first of two equal causes is announced.
            Action::put(EVENTS, event_item(event)).when("attribute_not_exists(pk)")
        }));
        let mut results = match self.transact(operation, all).await? {
            Transacted::Committed => return Ok(Transacted::Committed),
            Transacted::Cancelled(results) => results,
        };
        let of_events = results.split_off(actions.len());
        if results.iter().any(ConditionResult::is_failed) {
            return Ok(Transacted::Cancelled(results));
        }
        let absent = events.iter().zip(of_events);
        let absent = absent.filter(|(_, result)| !result.is_failed());
        let absent: Vec<Event> = absent.map(|(event, _)| event.clone()).collect();
        Box::pin(self.transact_causing(operation, actions, &absent)).await
    }

    /// Numbers some of the events that have no number, the oldest first. Returns them, in the order of their numbers;
    /// none if there are none. Reads an index, which is eventually consistent.
    ///
    /// # Errors
    /// When the store fails, or others number events at every attempt. Events may then be numbered, which
    /// [`unsent_events`](Self::unsent_events) returns.
    pub async fn number_events(&self) -> Result<Vec<NumberedEvent>, StoreError> {
        for _ in 0..MAX_ATTEMPTS {
            let items = self.outbox(NEW).await?;
            let mut events: Vec<Event> = items.iter().map(read_event).collect::<Result<_, _>>()?;
            if events.is_empty() {
                return Ok(Vec::new());
            }
            events.sort_by(|a, b| (a.occurred_at, &a.id).cmp(&(b.occurred_at, &b.id)));
            let before = self.last_number().await?;
            let published_at = self.clock.now();
            let numbered = (before + 1..)
                .zip(events)
                .map(|(number, event)| NumberedEvent {
                    number,
                    published_at,
                    event,
                });
            let numbered: Vec<NumberedEvent> = numbered.collect();
            let actions = number_actions(before, &numbered);
            match self.transact(NUMBERING, actions).await? {
                Transacted::Committed => return Ok(numbered),
                // By another publisher; or by this very call, whose first response was lost for longer than the token
                // is valid: the events are then found as unsent.
                Transacted::Cancelled(_) => {}
            }
        }
        Err(StoreError::contended(NUMBERING))
    }

    /// Returns events that are numbered and may not be sent to everyone, in the order of their numbers. Reads an
    /// index, which is eventually consistent.
    ///
    /// # Errors
    /// When the store fails.
    pub async fn unsent_events(&self) -> Result<Vec<NumberedEvent>, StoreError> {
        let items = self.outbox(NUMBERED).await?;
        let events = items.iter().map(|item| {
            let reader = Reader::new("event", item);
            Ok(NumberedEvent {
                number: reader.number(NUMBER)?,
                published_at: reader.parsed(PUBLISHED_AT)?,
                event: read_event(item)?,
            })
        });
        let mut events: Vec<NumberedEvent> = events.collect::<Result<_, StoreError>>()?;
        events.sort_by_key(|event| event.number);
        Ok(events)
    }

    /// Records that an event is sent to everyone. Idempotent.
    ///
    /// # Errors
    /// When the store fails; that may then be recorded.
    pub async fn mark_sent(&self, id: &EventId) -> Result<(), StoreError> {
        let update = self
            .client
            .update_item()
            .table_name(self.table(EVENTS))
            .set_key(Some(event_key(id)))
            .update_expression("REMOVE outbox")
            // Numbered: an update would create the item once it has expired, and one without a number is not sent.
            .condition_expression("outbox = :numbered")
            .expression_attribute_values(":numbered", s(NUMBERED))
            .send();
        let Err(error) = update.await else {
            return Ok(());
        };
        match error.as_service_error() {
            Some(UpdateItemError::ConditionalCheckFailedException(_)) => Ok(()),
            _ => Err(StoreError::service("marking an event as sent", error)),
        }
    }

    /// Lists the numbered events after the number `after`, at most `limit` of them. Whoever has read all pages up to a
    /// number has read all events up to it.
    ///
    /// # Errors
    /// When the store fails.
    pub async fn numbered_events(
        &self,
        after: u64,
        limit: i32,
    ) -> Result<Vec<NumberedEvent>, StoreError> {
        let found = self
            .client
            .query()
            .table_name(self.table(EVENTS))
            .key_condition_expression("pk = :pk AND sk > :after")
            .expression_attribute_values(":pk", s(LOG))
            .expression_attribute_values(":after", s(log_sk(after)))
            .consistent_read(true)
            .limit(limit)
            .send()
            .await
            .map_err(|error| StoreError::service(READING, error))?;
        let events = found.items().iter().map(read_log);
        let events = events.collect::<Result<_, _>>()?;
        Ok(without_gaps(after, events, self.clock.now()))
    }

    /// Reads the event with this number consistently; `None` if it has expired.
    ///
    /// # Errors
    /// When the store fails.
    pub async fn numbered_event(&self, number: u64) -> Result<Option<NumberedEvent>, StoreError> {
        let item = self.events_item(log_key(number), READING).await?;
        item.as_ref().map(read_log).transpose()
    }

    /// Reads the events in a state consistently, of which the index knows.
    async fn outbox(&self, state: &str) -> Result<Vec<Item>, StoreError> {
        let found = self
            .client
            .query()
            .table_name(self.table(EVENTS))
            .index_name(OUTBOX.name)
            .key_condition_expression("outbox = :state")
            .expression_attribute_values(":state", s(state))
            .limit(MAX_NUMBERED)
            .send()
            .await
            .map_err(|error| StoreError::service(READING, error))?;
        let key = |item: &Item| {
            let item = Reader::new("event", item);
            Ok(keys(item.text(attr::PK)?, item.text(attr::SK)?))
        };
        let keys: Vec<Item> = found
            .items()
            .iter()
            .map(key)
            .collect::<Result<_, StoreError>>()?;
        let mut items = self.batch_get(READING, EVENTS, keys).await?;
        items.retain(|item| item.get(attr::OUTBOX) == Some(&s(state)));
        Ok(items)
    }

    async fn last_number(&self) -> Result<u64, StoreError> {
        let item = self.events_item(keys(SEQUENCE, ALONE), READING).await?;
        let last = item.map(|item| Reader::new("sequence", &item).number(LAST_NUMBER));
        Ok(last.transpose()?.unwrap_or(0))
    }

    pub(crate) async fn events_item(
        &self,
        key: Item,
        operation: &'static str,
    ) -> Result<Option<Item>, StoreError> {
        let found = self
            .client
            .get_item()
            .table_name(self.table(EVENTS))
            .set_key(Some(key))
            .consistent_read(true)
            .send()
            .await
            .map_err(|error| StoreError::service(operation, error))?;
        Ok(found.item)
    }
}

/// Returns the actions that number these events, after the number `before`.
fn number_actions(before: u64, numbered: &[NumberedEvent]) -> Vec<Action> {
    let last = before + u64::try_from(numbered.len()).unwrap_or(0);
    let sequence = Action::update(EVENTS, keys(SEQUENCE, ALONE), "SET last_number = :last")
        .value(":last", n(last));
    let sequence = match before {
        // Absent: no event has a number.
        0 => sequence.when("attribute_not_exists(pk)"),
        // As it was read: of two publishers, one gives the next numbers.
        before => sequence
            .when("last_number = :before")
            .value(":before", n(before)),
    };
    let mut actions = vec![sequence];
    for event in numbered {
        // Absent: a number is given once, even if the last number were wrong.
        let log = Action::put(EVENTS, log_item(event)).when("attribute_not_exists(pk)");
        let published = Action::update(
            EVENTS,
            event_key(&event.event.id),
            "SET outbox = :numbered, #number = :number, published_at = :now, expires = :expires",
        )
        // New: an event has one number. It exists, because an update would create it.
        .when("outbox = :new")
        .name("#number", NUMBER)
        .value(":new", s(NEW))
        .value(":numbered", s(NUMBERED))
        .value(":number", n(event.number))
        .value(":now", t(event.published_at))
        .value(":expires", expires(event.published_at));
        actions.extend([log, published]);
    }
    actions
}

#[cfg(test)]
mod tests {
    use tollgate_domain::event::EventKind;

    use super::*;

    #[test]
    fn a_page_ends_at_a_gap_unless_what_follows_is_old() {
        let now: Timestamp = "2026-11-22T10:00:00Z".parse().unwrap();
        let check = |after, numbers: &[(u64, i64)], expected: &[u64]| {
            let events = numbers.iter().map(|&(number, age_s)| NumberedEvent {
                number,
                published_at: now - SignedDuration::from_secs(age_s),
                event: Event::new(
                    EventKind::ChargeFailed,
                    &number.to_string(),
                    None,
                    now,
                    serde_json::json!({}),
                ),
            });
            let page = without_gaps(after, events.collect(), now);
            let page: Vec<u64> = page.iter().map(|event| event.number).collect();
            assert_eq!(page, expected, "after {after}: {numbers:?}");
        };
        check(0, &[], &[]);
        check(0, &[(1, 0), (2, 0)], &[1, 2]);
        check(7, &[(8, 0), (10, 0)], &[8]);
        check(7, &[(9, 0), (10, 0)], &[]);
        check(7, &[(9, 60), (10, 0)], &[]);
        // Before it, events have expired.
        check(0, &[(9, 61), (10, 0), (12, 0)], &[9, 10]);
        check(0, &[(5, 90), (9, 61), (10, 0)], &[5, 9, 10]);
    }
}
