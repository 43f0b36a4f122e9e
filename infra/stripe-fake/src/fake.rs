//! The stand-in, as programs use it.

use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use axum::body::Bytes;
use http::{Request, Response};
use jiff::{SignedDuration, Timestamp};
use serde_json::Value;

use crate::checkout::Completion;
use crate::error::ApiError;
use crate::fault::{Fault, FaultRule};
use crate::handle::LoggedRequest;
use crate::ids::Ids;
use crate::journal::{self, Journal, JournalError};
use crate::options::{Options, Settings};
use crate::state::State;
use crate::webhook::{Delivery, DeliveryMode, NewEndpoint, Webhook};

/// Stand-in for Stripe's API. Cheap to clone; clones share all state.
///
/// Time passes when [`Options::clock`] or [`advance`](Self::advance) says so. What is then due, such as the
/// renewal of a subscription, happens before the next request or method, in its order.
#[derive(Clone)]
pub struct StripeFake {
    inner: Arc<Mutex<Inner>>,
    journal: Option<Arc<Journal>>,
}

type Injector = Box<dyn FnMut(&str, &str) -> Option<Fault> + Send>;

pub(crate) struct Inner {
    pub(crate) options: Options,
    pub(crate) test: State,
    pub(crate) live: State,
    /// Seconds by which the clock was advanced.
    advanced: i64,
    /// Time of the request of a journal that is repeated, in place of the clock's.
    replayed_at: Option<i64>,
    /// Ids of requests.
    pub(crate) ids: Ids,
    pub(crate) faults: Vec<FaultRule>,
    pub(crate) injector: Option<Injector>,
    delivery: DeliveryMode,
    pub(crate) log: Vec<LoggedRequest>,
    /// Current second and its requests, in test mode and in live mode.
    pub(crate) rates: [(i64, u32); 2],
}

/// The connection was lost, as a fault asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the connection was lost")]
pub struct ConnectionLost;

/// An object is in no state for what was asked, or does not exist.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct NotPossible(String);

impl From<ApiError> for NotPossible {
    fn from(error: ApiError) -> Self {
        Self(error.message)
    }
}

impl StripeFake {
    /// Creates a stand-in without objects.
    #[must_use]
    pub fn new(options: Options) -> Self {
        let now = (options.clock)().as_second();
        let settings = Arc::new(Settings {
            seed: options.seed,
            url: options.url.clone(),
            after_last_attempt: options.after_last_attempt,
        });
        let mut test = State::new(Arc::clone(&settings), false, now);
        for endpoint in &options.endpoints {
            test.register(endpoint.clone());
        }
        let inner = Inner {
            test,
            live: State::new(settings, true, now),
            advanced: 0,
            replayed_at: None,
            ids: Ids::new(!options.seed),
            faults: Vec::new(),
            injector: None,
            delivery: DeliveryMode::default(),
            log: Vec::new(),
            rates: [(0, 0); 2],
            options,
        };
        Self {
            inner: Arc::new(Mutex::new(inner)),
            journal: None,
        }
    }

    /// Creates a stand-in with the objects that the requests in a file have created, and writes further requests
    /// that come over HTTP into it. The options must have the same seed each time.
    ///
    /// # Errors
    /// When the file cannot be used, or has something else than such requests.
    pub async fn open(options: Options, path: &Path) -> Result<Self, JournalError> {
        let mut fake = Self::new(options);
        fake.begin_before_everything();
        fake.journal = Some(Arc::new(journal::replay(&fake, path).await?));
        Ok(fake)
    }

    /// Sets the time back, from which it only goes forward.
    fn begin_before_everything(&self) {
        let mut inner = self.inner.lock().unwrap_or_else(PoisonError::into_inner);
        (inner.test.now, inner.live.now) = (0, 0);
    }

    pub(crate) fn journal(&self) -> Option<&Journal> {
        self.journal.as_deref()
    }

    pub(crate) fn replay_at(&self, time: Option<i64>) {
        let mut inner = self.inner.lock().unwrap_or_else(PoisonError::into_inner);
        inner.replayed_at = time;
    }

    /// Returns the state, at the current time.
    pub(crate) fn lock(&self) -> MutexGuard<'_, Inner> {
        let mut inner = self.inner.lock().unwrap_or_else(PoisonError::into_inner);
        inner.run_until_now();
        inner
    }

    /// Sends a request of the API, without a socket.
    ///
    /// # Errors
    /// When a fault loses the connection.
    pub async fn send(&self, request: Request<Bytes>) -> Result<Response<Bytes>, ConnectionLost> {
        let (outcome, is_replay) = {
            let mut inner = self.lock();
            (inner.handle(&request), inner.replayed_at.is_some())
        };
        if !outcome.delay.is_zero() && !is_replay {
            tokio::time::sleep(outcome.delay).await;
        }
        outcome.response.ok_or(ConnectionLost)
    }

    /// Returns the time.
    #[must_use]
    pub fn now(&self) -> Timestamp {
        Timestamp::from_second(self.lock().test.now).unwrap_or(Timestamp::UNIX_EPOCH)
    }

    /// Advances the time, in addition to the clock of the options.
    pub fn advance(&self, by: SignedDuration) {
        self.lock().advanced += by.as_secs();
        drop(self.lock());
    }

    /// Returns when something is due next, such as a renewal.
    #[must_use]
    pub fn next_due(&self) -> Option<Timestamp> {
        let inner = self.lock();
        let due = [inner.test.next_due(), inner.live.next_due()];
        Timestamp::from_second(due.into_iter().flatten().min()?).ok()
    }

    /// Adds a rule for faults. Of rules that match a request, the oldest applies.
    pub fn add_fault(&self, rule: FaultRule) {
        self.lock().faults.push(rule);
    }

    /// Removes all rules for faults.
    pub fn clear_faults(&self) {
        self.lock().faults.clear();
    }

    /// Returns the rules for faults that have requests left.
    #[must_use]
    pub fn faults(&self) -> Vec<FaultRule> {
        self.lock().faults.clone()
    }

    /// Sets a function that chooses the fault of each request, by method and path, for which no rule does.
    pub fn set_injector(&self, injector: impl FnMut(&str, &str) -> Option<Fault> + Send + 'static) {
        self.lock().injector = Some(Box::new(injector));
    }

    /// Registers a webhook endpoint of test mode, and returns its id and secrets.
    pub fn register_endpoint(&self, endpoint: NewEndpoint) -> (String, Vec<String>) {
        self.lock().test.register(endpoint)
    }

    /// Replaces the secrets of a webhook endpoint, each of which signs, as while a secret is rolled. Returns
    /// `false` if there is no such endpoint.
    pub fn set_endpoint_secrets(&self, endpoint: &str, secrets: Vec<String>) -> bool {
        self.lock().test.set_secrets(endpoint, secrets)
    }

    /// Sets order and number in which events are delivered.
    pub fn set_delivery(&self, mode: DeliveryMode) {
        self.lock().delivery = mode;
    }

    /// Takes the events that are due for delivery, signed now, in place of delivery over HTTP.
    pub fn take_events(&self) -> Vec<Webhook> {
        let deliveries = self.take_deliveries();
        deliveries.into_iter().map(|(_, webhook)| webhook).collect()
    }

    /// Delivers the events that are due, each by `send`, which returns whether its endpoint responded with success.
    /// Others are delivered again later, as by [`serve`](crate::serve).
    pub async fn deliver<F: Future<Output = bool>>(&self, send: impl Fn(Webhook) -> F) {
        for (delivery, webhook) in self.take_deliveries() {
            if !send(webhook).await {
                self.retry(delivery);
            }
        }
    }

    pub(crate) fn take_deliveries(&self) -> Vec<(Delivery, Webhook)> {
        let mut inner = self.lock();
        let mode = inner.delivery;
        let mut taken = Vec::new();
        // The state's time never goes back, and the clock may: receivers compare signatures with that.
        let signed_at = (inner.options.clock)().as_second() + inner.advanced;
        let Inner { test, live, .. } = &mut *inner;
        for state in [test, live] {
            let deliveries = state.take_deliveries(mode);
            let signed = deliveries.into_iter().filter_map(|delivery| {
                let webhook = state.webhook(&delivery, signed_at)?;
                Some((delivery, webhook))
            });
            taken.extend(signed);
        }
        taken
    }

    /// Queues a delivery that has failed again, until three days have passed.
    pub(crate) fn retry(&self, delivery: Delivery) {
        let mut inner = self.lock();
        let Inner { test, live, .. } = &mut *inner;
        let is_live = live.endpoints.get(delivery.endpoint()).is_some();
        let state = if is_live { live } else { test };
        state.deliveries.extend(delivery.again(state.now));
    }

    /// Queues an event of test mode for delivery again. Returns `false` if there is no such event.
    pub fn redeliver(&self, event: &str) -> bool {
        self.lock().test.redeliver(event)
    }

    /// Sets whether payments of a customer are declined, whatever the payment method.
    ///
    /// # Errors
    /// When there is no such customer.
    pub fn decline_payments(&self, customer: &str, is_declined: bool) -> Result<(), NotPossible> {
        let mut inner = self.lock();
        let state = inner.state_of(customer);
        state.customers.find_mut(customer, "id")?.is_declined = is_declined;
        Ok(())
    }

    /// Completes a checkout session, as its customer does on the page.
    ///
    /// # Errors
    /// When the session is not open, or the card is declined.
    pub fn complete_checkout(
        &self,
        session: &str,
        completion: Completion,
        email: Option<&str>,
    ) -> Result<(), NotPossible> {
        let mut inner = self.lock();
        Ok(inner
            .state_of(session)
            .complete_session(session, completion, email)?)
    }

    /// Decides the payment of a checkout session that was completed unpaid.
    ///
    /// # Errors
    /// When the session has no payment in progress.
    pub fn settle_checkout(&self, session: &str, is_paid: bool) -> Result<(), NotPossible> {
        let mut inner = self.lock();
        Ok(inner.state_of(session).settle_session(session, is_paid)?)
    }

    /// Returns an object as the API does, by its id.
    #[must_use]
    pub fn object(&self, id: &str) -> Option<Value> {
        let inner = self.lock();
        inner.test.object(id).or_else(|| inner.live.object(id))
    }

    /// Returns all invoice items of test mode, from the oldest, as the API does.
    #[must_use]
    pub fn invoice_items(&self) -> Vec<Value> {
        let inner = self.lock();
        let items = inner.test.invoice_items.iter();
        let items = items.filter(|item| !crate::table::Row::is_deleted(*item));
        items
            .map(|item| inner.test.invoice_item_json(item))
            .collect()
    }

    /// Takes the log of requests, which [`Options::keeps_log`] enables.
    pub fn take_log(&self) -> Vec<LoggedRequest> {
        std::mem::take(&mut self.lock().log)
    }
}

impl Inner {
    /// Does what is due until now, in both modes.
    pub(crate) fn run_until_now(&mut self) {
        let now = (self.options.clock)().as_second() + self.advanced;
        let now = self.replayed_at.unwrap_or(now);
        self.test.run_until(now);
        self.live.run_until(now);
    }

    /// Returns the mode that has an object, or test mode.
    pub(crate) fn state_of(&mut self, id: &str) -> &mut State {
        if self.test.object(id).is_none() && self.live.object(id).is_some() {
            &mut self.live
        } else {
            &mut self.test
        }
    }
}
