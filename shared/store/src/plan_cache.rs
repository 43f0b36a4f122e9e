//! Plans as last read.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use jiff::Timestamp;
use tollgate_domain::plan_book::{PLAN_TTL, PlanBook};

use crate::Store;
use crate::error::StoreError;

/// Plans as read at some time.
#[derive(Debug, Clone)]
pub struct CachedPlans {
    /// Time before the read. Plans that were created before it are among them.
    pub read_at: Timestamp,
    /// The plans.
    pub plans: Arc<PlanBook>,
}

/// Cache of the plans, for as long as [`PLAN_TTL`] after they were read. Cheap to clone; clones share the
/// plans.
#[derive(Debug, Clone)]
pub struct PlanCache {
    store: Store,
    last_read: Arc<Mutex<Option<CachedPlans>>>,
    /// Held during a read, which all concurrent calls wait for.
    reading: Arc<tokio::sync::Mutex<()>>,
}

impl PlanCache {
    /// Creates an empty cache.
    #[must_use]
    pub fn new(store: Store) -> Self {
        Self {
            store,
            last_read: Arc::default(),
            reading: Arc::default(),
        }
    }

    /// Returns the plans as last read, however long ago: for use while the store fails.
    #[must_use]
    pub fn last_read(&self) -> Option<CachedPlans> {
        self.lock().clone()
    }

    /// Returns the plans without reading them, if they are cached.
    #[must_use]
    pub fn cached(&self) -> Option<CachedPlans> {
        let cached = self.last_read()?;
        let age = self.store.clock.now().duration_since(cached.read_at);
        // If the clock was set back, the age is unknown, and counts as too great.
        let age = Duration::try_from(age).unwrap_or(Duration::MAX);
        (age < PLAN_TTL).then_some(cached)
    }

    /// Returns the plans, which are read unless they are cached.
    ///
    /// # Errors
    /// When the store fails.
    pub async fn current(&self) -> Result<CachedPlans, StoreError> {
        self.read_unless(|_| true).await
    }

    /// Returns the plans as read after `since`: for a plan that is not among the cached ones, because it may
    /// have been created after they were read.
    ///
    /// # Errors
    /// When the store fails.
    pub async fn read_after(&self, since: Timestamp) -> Result<CachedPlans, StoreError> {
        self.read_unless(|cached| cached.read_at > since).await
    }

    async fn read_unless(
        &self,
        suffices: impl Fn(&CachedPlans) -> bool,
    ) -> Result<CachedPlans, StoreError> {
        let sufficient = || self.cached().filter(&suffices);
        if let Some(cached) = sufficient() {
            return Ok(cached);
        }
        let _reading = self.reading.lock().await;
        if let Some(cached) = sufficient() {
            return Ok(cached);
        }
        let read = CachedPlans {
            read_at: self.store.clock.now(),
            plans: Arc::new(self.store.plans().await?),
        };
        *self.lock() = Some(read.clone());
        Ok(read)
    }

    fn lock(&self) -> MutexGuard<'_, Option<CachedPlans>> {
        self.last_read
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}
