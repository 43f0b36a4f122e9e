//! A metered call, from its start to the end of the response body.

use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;
use tokio::time::Instant;
use tollgate_domain::id::CustomerId;
use tollgate_domain::money::PicoUsd;
use tollgate_domain::usage::{Cost, Truncation, UsageRecord};

use crate::cost::{Costs, LateCost};
use crate::emitter::Emitter;

/// A call whose record is made once: when the response body ends, fails or is dropped, or else at the
/// shutdown of the instance.
pub(crate) struct Call {
    emitter: Emitter,
    started: Instant,
    /// The unfinished record; `None` once it is made.
    pending: Mutex<Option<PendingRecord>>,
}

/// A usage record that is not finished.
struct PendingRecord {
    customer: CustomerId,
    record: UsageRecord,
    costs: Costs,
}

impl Call {
    /// Starts a call. `record` describes a call without a response.
    pub(crate) fn start(emitter: Emitter, customer: CustomerId, record: UsageRecord) -> CallGuard {
        let call = Arc::new(Self {
            emitter,
            started: Instant::now(),
            pending: Mutex::new(Some(PendingRecord {
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

    /// Adds a cost to the record.
    ///
    /// # Errors
    /// When the record is already made.
    pub(crate) fn add_cost(&self, cost: Cost, amount: PicoUsd) -> Result<(), LateCost> {
        if let Some(pending) = &mut *self.pending() {
            pending.costs.add(cost, amount);
            return Ok(());
        }
        self.emitter.count_late_cost();
        Err(LateCost)
    }

    fn end(&self, truncated: Option<Truncation>) {
        let Some(pending) = self.pending().take() else {
            return;
        };
        let mut record = pending.record;
        let elapsed = self.started.elapsed();
        record.latency_ms = u64::try_from(elapsed.as_millis()).unwrap_or(u64::MAX);
        // A call without a response has no body that could be truncated.
        record.truncated = truncated.filter(|_| record.response_bytes.is_some());
        record.billable = Some(record.is_billable());
        record.costs = pending.costs.into_parts();
        self.emitter.record(pending.customer, record);
        self.emitter.calls().remove(self);
    }

    fn pending(&self) -> MutexGuard<'_, Option<PendingRecord>> {
        self.pending.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for Call {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Without the emitter, whose calls include this one.
        f.debug_struct("Call").finish_non_exhaustive()
    }
}

/// Guard of a call, kept by its handler and then by the response body. The record is made when the guard
/// is dropped, so that a handler that panics or is dropped before its response is recorded too.
#[derive(Debug)]
pub(crate) struct CallGuard {
    call: Arc<Call>,
    /// The truncation to record if the guard is dropped now.
    truncated: Option<Truncation>,
}

impl CallGuard {
    /// Returns the call.
    pub(crate) fn call(&self) -> &Arc<Call> {
        &self.call
    }

    /// Records the status of the response, whose body follows.
    pub(crate) fn set_status(&mut self, status: u16) {
        if let Some(PendingRecord { record, .. }) = &mut *self.call.pending() {
            record.status = status;
            record.response_bytes = Some(0);
        }
    }

    /// Adds to the bytes of the response body.
    pub(crate) fn add_bytes(&self, bytes: usize) {
        if let Some(PendingRecord { record, .. }) = &mut *self.call.pending() {
            let sent = record.response_bytes.get_or_insert_default();
            *sent = sent.saturating_add(u64::try_from(bytes).unwrap_or(u64::MAX));
        }
    }

    /// Sets the truncation to record if the guard is dropped.
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
pub(crate) struct OpenCalls {
    /// Few: the instance's concurrent invocations.
    open: Mutex<Vec<Arc<Call>>>,
    none_left: Notify,
}

impl OpenCalls {
    fn insert(&self, call: Arc<Call>) {
        self.open().push(call);
    }

    fn remove(&self, call: &Call) {
        let mut open = self.open();
        if let Some(index) = open.iter().position(|one| std::ptr::eq(&**one, call)) {
            open.swap_remove(index);
        }
        if open.is_empty() {
            self.none_left.notify_waiters();
        }
    }

    /// Waits until the records of all calls are made.
    pub(crate) async fn wait_for_all(&self) {
        loop {
            let none_left = self.none_left.notified();
            if self.open().is_empty() {
                return;
            }
            none_left.await;
        }
    }

    /// Makes the records of all calls in their current state, with their bodies as interrupted.
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
