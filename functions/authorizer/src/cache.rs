//! Key cache: keys and their customers, each cached for a TTL.
//!
//! A key is read at most once per TTL: concurrent calls share one read, and a key in constant use is
//! refreshed ahead of the end of its TTL, so that no call waits for it. The TTL counts from before the
//! read, so that a revoked key works no longer than the TTL after its revocation. A key that was found before is read
//! together with its customer.
//!
//! A key that existed when it was last read stays cached beyond the TTL, for use while the store is
//! unavailable (stale-if-error): [`KeyCache::find_stale`].

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures_util::FutureExt;
use futures_util::future::{self, BoxFuture, Shared};
use jiff::Timestamp;
use tokio::time::Instant;
use tollgate_domain::customer::Customer;
use tollgate_domain::id::CustomerId;
use tollgate_domain::key::{KeyDigest, KeyRecord, Owner};
use tollgate_store::{Store, StoreError};

use crate::circuit_breaker::{CircuitBreaker, StoreUnavailable};

/// Entries in one generation of a [`Generations`], which keeps two at most.
const GENERATION_SIZE: usize = 1_000;
/// Age at which an unfinished read counts as lost: the instance was frozen during it, and the connection
/// is gone.
const READ_TIMEOUT: Duration = Duration::from_secs(1);

/// A key and the customer that owns it.
#[derive(Debug)]
pub(crate) struct CachedKey {
    pub(crate) record: KeyRecord,
    /// Time before the read.
    pub(crate) read_at: Timestamp,
    /// The customer; `None` for an admin's key, and for a key whose customer does not exist.
    pub(crate) customer: Option<Customer>,
}

/// Result of reading a key; `None` if it does not exist.
type Lookup = Option<Arc<CachedKey>>;
type SharedRead = Shared<BoxFuture<'static, Result<Lookup, Arc<StoreUnavailable>>>>;

/// Cache of keys, filled from the store. Cheap to clone; clones share the entries.
#[derive(Clone)]
pub(crate) struct KeyCache(Arc<Inner>);

struct Inner {
    store: Store,
    breaker: CircuitBreaker,
    ttl: Duration,
    /// Time beyond the TTL during which a key can be found stale.
    stale_for: Duration,
    entries: Mutex<Entries>,
}

#[derive(Default)]
struct Entries {
    existing: Generations,
    /// Keys that do not exist, and keys whose first read is not finished. Kept apart, so that requests
    /// with invented keys evict no existing key.
    other: Generations,
}

/// Cache entry: the read of a key, finished or not.
struct CacheEntry {
    started: ClockReading,
    read: SharedRead,
    /// The read that is to replace `read`, and when it was started.
    refresh: Option<(ClockReading, SharedRead)>,
    /// The key that the last successful read found, and when that read was started.
    last_found: Option<(ClockReading, Arc<CachedKey>)>,
}

/// A point in time by the wall clock, which can be set back, and by the monotonic clock, which stands
/// still while the instance is frozen. The elapsed time is the longer of the two.
#[derive(Debug, Clone, Copy)]
pub(crate) struct ClockReading {
    pub(crate) wall: Timestamp,
    pub(crate) monotonic: Instant,
}

impl ClockReading {
    /// Returns whether less than `duration` has elapsed since `earlier`.
    fn is_within(self, earlier: ClockReading, duration: Duration) -> bool {
        let elapsed = self.wall.duration_since(earlier.wall);
        // If the clock was set back, the elapsed time is unknown, and counts as too long.
        let elapsed = Duration::try_from(elapsed).unwrap_or(Duration::MAX);
        elapsed.max(self.monotonic.duration_since(earlier.monotonic)) < duration
    }
}

impl KeyCache {
    /// Creates an empty cache of the keys in `store`. With a `ttl` of zero, each call reads its key.
    /// `stale_for` is the time beyond the TTL during which a key can be found stale.
    pub(crate) fn new(
        store: Store,
        breaker: CircuitBreaker,
        ttl: Duration,
        stale_for: Duration,
    ) -> Self {
        Self(Arc::new(Inner {
            store,
            breaker,
            ttl,
            stale_for,
            entries: Mutex::default(),
        }))
    }

    /// Returns the key with this digest, as read no longer than the TTL before `now`.
    pub(crate) async fn find(
        &self,
        digest: KeyDigest,
        now: ClockReading,
    ) -> Result<Lookup, Arc<StoreUnavailable>> {
        let read = self.current_read(digest, now);
        if let Some(result) = read.peek() {
            return result.clone();
        }
        let result = read.await;
        // Moves the entry to the existing keys, if the key exists.
        let mut entries = self.entries();
        if let Some(entry) = entries.take(&digest) {
            entries.put(digest, entry);
        }
        result
    }

    /// Returns the key with this digest as last read, if it existed then, the circuit breaker is open,
    /// and the time for stale keys is not over. While the circuit breaker is closed, the failure
    /// concerns this request alone, such as a throttled one: a key that may have been revoked must not
    /// be used for that.
    pub(crate) fn find_stale(
        &self,
        digest: KeyDigest,
        now: ClockReading,
    ) -> Option<Arc<CachedKey>> {
        if !self.0.breaker.is_open() {
            return None;
        }
        let mut entries = self.entries();
        let entry = entries.take(&digest)?.with_refresh_applied();
        let last_found = entry.last_found.clone();
        entries.put(digest, entry);
        let max_age = self.0.ttl + self.0.stale_for;
        let (_, key) = last_found.filter(|(started, _)| now.is_within(*started, max_age))?;
        Some(key)
    }

    /// Returns the cached read, or starts one if there is none or it is no longer fresh.
    fn current_read(&self, digest: KeyDigest, now: ClockReading) -> SharedRead {
        let mut entries = self.entries();
        let entry = entries.take(&digest).map(CacheEntry::with_refresh_applied);
        let entry = match entry {
            Some(entry) if self.is_fresh(&entry, now) => self.refreshed_if_due(entry, digest, now),
            entry => {
                let last_found = entry.and_then(|entry| entry.last_found);
                CacheEntry {
                    started: now,
                    read: self.start_read(digest, last_found.as_ref(), now),
                    refresh: None,
                    last_found,
                }
            }
        };
        let read = entry.read.clone();
        entries.put(digest, entry);
        read
    }

    /// Returns whether the entry's read, finished or not, may be used at `now`.
    fn is_fresh(&self, entry: &CacheEntry, now: ClockReading) -> bool {
        let max_age = match entry.read.peek() {
            Some(Ok(_)) => self.0.ttl,
            Some(Err(_)) => return false,
            None => self.0.ttl.min(READ_TIMEOUT),
        };
        now.is_within(entry.started, max_age)
    }

    /// Starts a refresh of the entry if the last two fifths of its TTL have begun.
    fn refreshed_if_due(
        &self,
        mut entry: CacheEntry,
        digest: KeyDigest,
        now: ClockReading,
    ) -> CacheEntry {
        let is_due = !now.is_within(entry.started, self.0.ttl * 3 / 5);
        // A failed refresh is retried no sooner than one without a response.
        let is_recent =
            |(started, _): &(ClockReading, SharedRead)| now.is_within(*started, READ_TIMEOUT);
        if is_due && !entry.refresh.as_ref().is_some_and(is_recent) {
            let refresh = self.start_read(digest, entry.last_found.as_ref(), now);
            tokio::spawn(refresh.clone());
            entry.refresh = Some((now, refresh));
        }
        entry
    }

    /// Starts a read of a key, and of the customer whose it was when it was last found.
    fn start_read(
        &self,
        digest: KeyDigest,
        last_found: Option<&(ClockReading, Arc<CachedKey>)>,
        started: ClockReading,
    ) -> SharedRead {
        let (store, breaker) = (self.0.store.clone(), self.0.breaker.clone());
        let customer = last_found.and_then(|(_, key)| key.customer.as_ref());
        let customer = customer.map(|customer| customer.id.clone());
        let reading = async move {
            let mut operation = breaker.operation();
            loop {
                let reading = read(&store, digest, customer.as_ref(), started.wall);
                let attempt = operation.attempt(reading);
                if let Some(found) = attempt.await.map_err(Arc::new)? {
                    return Ok(found);
                }
            }
        };
        reading.boxed().shared()
    }

    fn entries(&self) -> MutexGuard<'_, Entries> {
        self.0
            .entries
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}

/// Reads a key and its customer; at the same time if the key is of the customer `expected`.
async fn read(
    store: &Store,
    digest: KeyDigest,
    expected: Option<&CustomerId>,
    read_at: Timestamp,
) -> Result<Lookup, StoreError> {
    let reading = async {
        match expected {
            Some(id) => store.customer(id).await,
            None => Ok(None),
        }
    };
    let (record, customer) = future::try_join(store.key_by_digest(digest), reading).await?;
    let Some(record) = record else {
        return Ok(None);
    };
    let customer = match &record.owner {
        Owner::Admin => None,
        Owner::Customer(id) if Some(id) == expected => customer,
        Owner::Customer(id) => store.customer(id).await?,
    };
    Ok(Some(Arc::new(CachedKey {
        record,
        read_at,
        customer,
    })))
}

impl CacheEntry {
    /// Replaces the read by its refresh, if that has succeeded, and updates `last_found`.
    fn with_refresh_applied(mut self) -> Self {
        if let Some((started, read)) = self.refresh.take_if(|(_, read)| has_succeeded(read)) {
            self.started = started;
            self.read = read;
        }
        if let Some(Ok(found)) = self.read.peek() {
            self.last_found = found.clone().map(|key| (self.started, key));
        }
        self
    }
}

fn has_succeeded(read: &SharedRead) -> bool {
    matches!(read.peek(), Some(Ok(_)))
}

impl Entries {
    fn take(&mut self, digest: &KeyDigest) -> Option<CacheEntry> {
        self.existing
            .take(digest)
            .or_else(|| self.other.take(digest))
    }

    fn put(&mut self, digest: KeyDigest, entry: CacheEntry) {
        let entry = entry.with_refresh_applied();
        let exists = entry.last_found.is_some();
        let entries = if exists {
            &mut self.existing
        } else {
            &mut self.other
        };
        entries.put(digest, entry);
    }
}

/// Two generations of entries: when the younger has [`GENERATION_SIZE`], the older is dropped.
#[derive(Default)]
struct Generations {
    younger: HashMap<KeyDigest, CacheEntry>,
    older: HashMap<KeyDigest, CacheEntry>,
}

impl Generations {
    fn take(&mut self, digest: &KeyDigest) -> Option<CacheEntry> {
        let younger = self.younger.remove(digest);
        younger.or_else(|| self.older.remove(digest))
    }

    fn put(&mut self, digest: KeyDigest, entry: CacheEntry) {
        if self.younger.len() >= GENERATION_SIZE {
            self.older = std::mem::take(&mut self.younger);
        }
        self.younger.insert(digest, entry);
    }
}

impl std::fmt::Debug for KeyCache {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("KeyCache")
    }
}
