//! All objects of one mode, and what happens to them as time passes.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use serde_json::{Map, Value};

use crate::call::Pending;
use crate::checkout::Session;
use crate::customer::Customer;
use crate::error::ApiError;
use crate::event::{Cause, Event};
use crate::form::{Param, Params};
use crate::idempotency::Keys;
use crate::ids::Ids;
use crate::invoice::Invoice;
use crate::invoice_item::InvoiceItem;
use crate::options::Settings;
use crate::portal::PortalSession;
use crate::price::{Price, Product};
use crate::subscription::Subscription;
use crate::table::Table;
use crate::webhook::{Delivery, Endpoint};

/// Names and texts that a client attaches to an object.
pub(crate) type Metadata = BTreeMap<String, String>;

/// Objects of test mode or of live mode.
pub(crate) struct State {
    pub(crate) settings: Arc<Settings>,
    pub(crate) is_live: bool,
    /// Seconds since the Unix epoch.
    pub(crate) now: i64,
    pub(crate) ids: Ids,
    pub(crate) customers: Table<Customer>,
    pub(crate) products: Table<Product>,
    pub(crate) prices: Table<Price>,
    pub(crate) subscriptions: Table<Subscription>,
    pub(crate) invoice_items: Table<InvoiceItem>,
    pub(crate) invoices: Table<Invoice>,
    pub(crate) sessions: Table<Session>,
    pub(crate) portal_sessions: Table<PortalSession>,
    pub(crate) events: Table<Event>,
    pub(crate) endpoints: Table<Endpoint>,
    pub(crate) deliveries: VecDeque<Delivery>,
    pub(crate) keys: Keys,
    /// Request that causes the current events.
    pub(crate) cause: Cause,
    agenda: BTreeMap<(i64, u64), Task>,
    scheduled: u64,
}

/// Work that is due at a time. A task whose object has changed in the meantime does nothing.
#[derive(Debug)]
pub(crate) enum Task {
    /// End of a subscription's period.
    Renew(String),
    /// Interval of a subscription at which its pending items are invoiced.
    InvoicePending(String),
    /// `cancel_at` of a subscription.
    Cancel(String),
    /// End of the 23 hours in which the first invoice of a subscription can be paid.
    ExpireIncomplete(String),
    /// End of the hour for which an automatic invoice stays a draft.
    Finalize(String),
    /// Attempt to collect an open invoice.
    Collect(String),
    /// Time at which a sent invoice is to be paid.
    Overdue(String),
    /// End of the time in which a checkout session can be completed.
    ExpireSession(String),
    /// Request that a fault has delayed.
    Execute(Box<Pending>),
}

impl State {
    pub(crate) fn new(settings: Arc<Settings>, is_live: bool, now: i64) -> Self {
        let seed = settings
            .seed
            .wrapping_mul(2)
            .wrapping_add(u64::from(is_live));
        Self {
            settings,
            is_live,
            now,
            ids: Ids::new(seed),
            customers: Table::default(),
            products: Table::default(),
            prices: Table::default(),
            subscriptions: Table::default(),
            invoice_items: Table::default(),
            invoices: Table::default(),
            sessions: Table::default(),
            portal_sessions: Table::default(),
            events: Table::default(),
            endpoints: Table::default(),
            deliveries: VecDeque::new(),
            keys: Keys::default(),
            cause: Cause::default(),
            agenda: BTreeMap::new(),
            scheduled: 0,
        }
    }

    pub(crate) fn schedule(&mut self, due: i64, task: Task) {
        self.scheduled += 1;
        self.agenda.insert((due, self.scheduled), task);
    }

    /// Advances to a time and does what is due until then, in order. Goes back only while nothing has happened.
    pub(crate) fn run_until(&mut self, now: i64) {
        if self.events.iter().next().is_none() {
            self.now = now;
        }
        while self.next_due().is_some_and(|due| due <= now) {
            let Some(((due, _), task)) = self.agenda.pop_first() else {
                break;
            };
            self.now = self.now.max(due);
            self.run(task);
        }
        self.now = self.now.max(now);
    }

    fn run(&mut self, task: Task) {
        match task {
            Task::Renew(id) => self.renew(&id),
            Task::InvoicePending(id) => self.invoice_pending(&id),
            Task::Cancel(id) => self.cancel_when_due(&id),
            Task::ExpireIncomplete(id) => self.expire_incomplete(&id),
            Task::Finalize(id) => self.finalize_when_due(&id),
            Task::Collect(id) => self.collect_when_due(&id),
            Task::Overdue(id) => self.pass_due_date(&id),
            Task::ExpireSession(id) => self.expire_session_when_due(&id),
            Task::Execute(pending) => pending.execute(self),
        }
    }

    /// Returns the time of the next task.
    pub(crate) fn next_due(&self) -> Option<i64> {
        self.agenda.keys().next().map(|(due, _)| *due)
    }

    /// Returns an object as the API does, by its id.
    pub(crate) fn object(&self, id: &str) -> Option<Value> {
        let prefix = id.split('_').next().unwrap_or(id);
        match prefix {
            "cus" => self.customers.get(id).map(|row| self.customer_json(row)),
            "prod" => self.products.get(id).map(|row| self.product_json(row)),
            "price" => self.prices.get(id).map(|row| self.price_json(row)),
            "sub" => self
                .subscriptions
                .get(id)
                .map(|row| self.subscription_json(row)),
            "ii" => self
                .invoice_items
                .get(id)
                .map(|row| self.invoice_item_json(row)),
            "in" => self.invoices.get(id).map(|row| self.invoice_json(row)),
            "cs" => self.sessions.get(id).map(|row| self.session_json(row)),
            "evt" => self.events.get(id).map(|row| self.event_json(row)),
            _ => None,
        }
    }
}

/// Applies the parameter `metadata`: an empty text unsets a name, an empty parameter unsets all.
///
/// # Errors
/// When there are more than 50 names, one is longer than 40 characters, or a text is longer than 500.
pub(crate) fn update_metadata(
    metadata: &Metadata,
    params: &Params,
    path: &str,
) -> Result<Metadata, ApiError> {
    let mut updated = metadata.clone();
    match params.get(path) {
        None => {}
        Some(Param::Text(_)) => updated.clear(),
        Some(Param::Nested(texts)) => {
            for (name, param) in texts.iter() {
                let Param::Text(text) = param else { continue };
                let too_long = |what: &str, most: usize, length: usize| {
                    let message = format!(
                        "Metadata {what} can be up to {most} characters long, but you passed in one of \
                         {length} characters. Invalid key: {name}"
                    );
                    ApiError::invalid(message).with_param("metadata")
                };
                if name.chars().count() > 40 {
                    return Err(too_long("keys", 40, name.chars().count()));
                }
                if text.chars().count() > 500 {
                    return Err(too_long("values", 500, text.chars().count()));
                }
                if text.is_empty() {
                    updated.remove(name);
                } else {
                    updated.insert(name.to_owned(), text.clone());
                }
            }
        }
    }
    if updated.len() > 50 {
        let message = "You can have up to 50 keys in metadata.";
        return Err(ApiError::invalid(message).with_param("metadata"));
    }
    Ok(updated)
}

/// Returns the members of `before` that differ in `after`, which is what events call `previous_attributes`.
pub(crate) fn previous_attributes(before: &Value, after: &Value) -> Value {
    let (Value::Object(before), Value::Object(after)) = (before, after) else {
        return Value::Null;
    };
    let mut previous = Map::new();
    for (name, value) in after {
        let was = before.get(name).unwrap_or(&Value::Null);
        if was != value {
            previous.insert(name.clone(), was.clone());
        }
    }
    Value::Object(previous)
}

/// Returns the parameter as it is to be stored: `None` if it is not sent, an empty one unsets.
pub(crate) fn optional_text(params: &Params, path: &str) -> Option<Option<String>> {
    let text = params.text(path)?;
    Some(Some(text.to_owned()).filter(|text| !text.is_empty()))
}
