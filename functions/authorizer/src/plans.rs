//! The plans, as cached by this instance.

use std::sync::Arc;

use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use jiff::Timestamp;
use tollgate_domain::id::PlanId;
use tollgate_domain::plan_book::PlanBook;
use tollgate_store::{CachedPlans, PlanCache, Store, StoreError};

use crate::circuit_breaker::{CircuitBreaker, StoreUnavailable};

/// The plans. Cheap to clone; clones share them.
#[derive(Debug, Clone)]
pub(crate) struct Plans {
    cache: PlanCache,
    breaker: CircuitBreaker,
}

impl Plans {
    pub(crate) fn new(store: Store, breaker: CircuitBreaker) -> Self {
        let cache = PlanCache::new(store);
        Self { cache, breaker }
    }

    /// Returns the plans, which are read unless they are cached.
    pub(crate) async fn current(&self) -> Result<Arc<PlanBook>, StoreUnavailable> {
        if let Some(cached) = self.cache.cached() {
            return Ok(cached.plans);
        }
        self.attempt(|| self.cache.current()).await
    }

    /// Reads the plans unless they are cached. A failure leaves those that were read last.
    pub(crate) async fn refresh(&self) {
        if let Err(error) = self.current().await {
            tracing::warn!(error = %tollgate_runtime::Chain(&error), "the plans could not be read");
        }
    }

    /// Returns the plans as last read, however long ago: while the store is unavailable, old plans are
    /// better than none.
    pub(crate) fn last_read(&self) -> Option<Arc<PlanBook>> {
        Some(self.cache.last_read()?.plans)
    }

    /// Returns the plans as last read, or as read after `since` if `id` is not among them, because it may
    /// have been created later.
    pub(crate) async fn with(
        &self,
        id: &PlanId,
        since: Timestamp,
    ) -> Result<Arc<PlanBook>, StoreUnavailable> {
        match self.cache.last_read() {
            Some(last) if last.plans.get(id).is_some() || last.read_at > since => Ok(last.plans),
            _ => self.attempt(|| self.cache.read_after(since)).await,
        }
    }

    /// Reads the plans, with retries. Boxed, so that the rare read adds nothing to the future of a decision.
    fn attempt<'a, F>(
        &'a self,
        read: impl Fn() -> F + Send + 'a,
    ) -> BoxFuture<'a, Result<Arc<PlanBook>, StoreUnavailable>>
    where
        F: Future<Output = Result<CachedPlans, StoreError>> + Send + 'a,
    {
        async move {
            let mut operation = self.breaker.operation();
            loop {
                if let Some(read) = operation.attempt(read()).await? {
                    return Ok(read.plans);
                }
            }
        }
        .boxed()
    }
}
