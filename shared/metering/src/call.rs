//! A metered call, from its arrival to the end of its answer's body.

use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;
use tokio::time::Instant;
use tollgate_domain::id::CustomerId;
use tollgate_domain::money::PicoUsd;
use tollgate_domain::usage::{Cost, Truncation, UsageRecord};

use crate::cost::{Costs, LateCost};
use crate::emitter::Emitter;

/// A call whose record is made once: when the body of its answer ends, fails or is dropped, or else
/// when the instance ends.
pub(crate) struct Call {
    emitter: Emitter,
    started: Instant,
    /// Taken when the record is made.
    open: Mutex<Option<Open>>,
}

/// What is known of a call so far.
struct Open {
    customer: CustomerId,
    record: UsageRecord,
    costs: Costs,
}

impl Call {
    /// Begins a call; it is not answered, for all that its record says so far.
    pub(crate) fn begin(emitter: Emitter, customer: CustomerId, record: UsageRecord) -> CallGuard {
        let call = Arc::new(Self {
            emitter,
            started: Instant::now(),
            open: Mutex::new(Some(Open {
                customer,
                record,
                costs: Costs::default(),
            })),
        });
        call.emitter.calls().insert(Arc::clone(&call));
        CallGuard {
            call,
            truncated: None,
        }
    }

    /// Adds to what the call costs.
    pub(crate) fn add(&self, cost: Cost, amount: PicoUsd) -> Result<(), LateCost> {
        if let Some(open) = &mut *self.open() {
            open.costs.add(cost, amount);
            return Ok(());
        }
        self.emitter.count_late_cost();
        Err(LateCost)
    }

    fn end(&self, truncated: Option<Truncation>) {
        let Some(open) = self.open().take() else {
            return;
        };
        let mut record = open.record;
        let elapsed = self.started.elapsed();
        record.latency_ms = u64::try_from(elapsed.as_millis()).unwrap_or(u64::MAX);
        // A call without an answer has no body that could be cut.
        record.truncated = truncated.filter(|_| record.response_bytes.is_some());
        record.billable = Some(record.is_billable());
        record.costs = open.costs.into_parts();
        self.emitter.record(open.customer, record);
        self.emitter.calls().remove(self);
    }

    fn open(&self) -> MutexGuard<'_, Option<Open>> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for Call {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // The emitter has the calls, this one among them.
        f.debug_struct("Call").finish_non_exhaustive()
    }
}

/// The part of a call that its handler and then its answer's body live in. Its record is made when
/// this is dropped: a handler that panics, or is dropped before it has answered, was called all the same.
#[derive(Debug)]
pub(crate) struct CallGuard {
    call: Arc<Call>,
    /// What a drop means.
    truncated: Option<Truncation>,
}

impl CallGuard {
    /// The call itself.
    pub(crate) fn call(&self) -> &Arc<Call> {
        &self.call
    }

    /// The head of the answer has come.
    pub(crate) fn answered(&mut self, status: u16) {
        if let Some(Open { record, .. }) = &mut *self.call.open() {
            record.status = status;
            record.response_bytes = Some(0);
        }
    }

    /// So many bytes more of the body have come.
    pub(crate) fn sent(&self, bytes: usize) {
        if let Some(Open { record, .. }) = &mut *self.call.open() {
            let sent = record.response_bytes.get_or_insert_default();
            *sent = sent.saturating_add(u64::try_from(bytes).unwrap_or(u64::MAX));
        }
    }

    /// Says what it means if this is dropped now.
    pub(crate) fn set_truncated(&mut self, truncated: Option<Truncation>) {
        self.truncated = truncated;
    }
}

impl Drop for CallGuard {
    fn drop(&mut self) {
        self.call.end(self.truncated);
    }
}

/// The calls of an instance whose records are not made yet.
#[derive(Debug, Default)]
pub(crate) struct Calls {
    /// Few: as many as the instance is called with at a time.
    open: Mutex<Vec<Arc<Call>>>,
    none_left: Notify,
}

impl Calls {
    fn insert(&self, call: Arc<Call>) {
        self.open().push(call);
    }

    fn remove(&self, call: &Call) {
        let mut open = self.open();
        if let Some(place) = open.iter().position(|one| std::ptr::eq(&**one, call)) {
            open.swap_remove(place);
        }
        if open.is_empty() {
            self.none_left.notify_waiters();
        }
    }

    /// Waits until the records of all calls are made.
    pub(crate) async fn ended(&self) {
        loop {
            let none_left = self.none_left.notified();
            if self.open().is_empty() {
                return;
            }
            none_left.await;
        }
    }

    /// Makes the records of all calls as they stand.
    pub(crate) fn interrupt(&self) {
        let open = std::mem::take(&mut *self.open());
        for call in open {
            call.end(Some(Truncation::Interrupted));
        }
    }

    fn open(&self) -> MutexGuard<'_, Vec<Arc<Call>>> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
