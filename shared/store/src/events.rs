//! Events, each put in the transaction that causes it.

use aws_sdk_dynamodb::operation::put_item::PutItemError;
use tollgate_domain::event::Event;

use crate::Store;
use crate::error::StoreError;
use crate::item::{Item, keys, s, t};
use crate::schema::{EVENTS, attr};
use crate::transaction::{Action, ConditionResult, Transacted};

/// Sort key of items that are alone in their partition.
const ALONE: &str = "#";
/// State of an event that is not published yet, in the index.
const NEW: &str = "new";

fn event_item(event: &Event) -> Item {
    let mut item = keys(format!("EVENT#{}", event.id), ALONE);
    item.insert("kind".into(), s(event.kind.as_str()));
    if let Some(customer) = &event.customer {
        item.insert(attr::CUSTOMER.into(), s(customer.as_str()));
    }
    item.insert(attr::OCCURRED_AT.into(), t(event.occurred_at));
    item.insert("data".into(), s(event.data.to_string()));
    item.insert(attr::OUTBOX.into(), s(NEW));
    item
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
}
