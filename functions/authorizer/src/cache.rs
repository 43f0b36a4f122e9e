//! Key cache: keys and their customers, each for a stated time (TTL) after it was read.
//!
//! A key is read at most once in that time, whoever asks: callers that ask while a read is under way
//! wait for that one, and a key that is asked for again and again is read ahead of time, so that no
//! caller waits. The TTL counts from before the read. That is how long a revoked key may still work.
//!
//! A key that was good when it was last read stays known for longer, for a store that does not answer
//! (stale-if-error): [`KeyCache::find_stale`].

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures_util::FutureExt;
use futures_util::future::{BoxFuture, Shared};
use jiff::Timestamp;
use tokio::time::Instant;
use tollgate_domain::customer::Customer;
use tollgate_domain::key::{KeyDigest, KeyRecord, Owner};
use tollgate_store::{Store, StoreError};

use crate::circuit::{Circuit, NoAnswer};

/// Half of the keys held at most, and of those that do not exist, of which strangers make any number.
const GENERATION: usize = 1_000;
/// A read that takes longer was under way while the instance was frozen, and has lost its connection.
const LONGEST_READ: Duration = Duration::from_secs(1);

/// A key and whose it is.
#[derive(Debug)]
pub(crate) struct Known {
    pub(crate) record: KeyRecord,
    /// `None` for admins' keys, and for one whose customer does not exist.
    pub(crate) customer: Option<Customer>,
}

/// What a read found; `None` if there is no such key.
type Found = Option<Arc<Known>>;
type Read = Shared<BoxFuture<'static, Result<Found, Arc<NoAnswer>>>>;

/// Reads keys through the store, and remembers them. Cheap to clone; all clones remember together.
#[derive(Clone)]
pub(crate) struct KeyCache(Arc<Inner>);

struct Inner {
    store: Store,
    circuit: Circuit,
    ttl: Duration,
    /// How long a good key stays known after that.
    stale: Duration,
    entries: Mutex<Entries>,
}

#[derive(Default)]
struct Entries {
    good: Generations,
    /// Keys that do not exist, and those whose read is under way.
    other: Generations,
}

/// A read and when it began. Once it has ended, it holds what it found.
struct Entry {
    began: Moment,
    read: Read,
    /// The read that is to replace this one.
    ahead: Option<(Moment, Read)>,
    /// What the last read has found that came to an answer, if that was a key, and when it began.
    last_good: Option<(Moment, Arc<Known>)>,
}

/// The time by two clocks. The machine's can be set back, and the process's stands still while the
/// instance is frozen: time has passed if it has by either.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Moment {
    pub(crate) wall: Timestamp,
    pub(crate) process: Instant,
}

impl Moment {
    fn is_within(self, earlier: Moment, span: Duration) -> bool {
        let elapsed = self.wall.duration_since(earlier.wall);
        // A clock that was set back tells nothing.
        let elapsed = Duration::try_from(elapsed).unwrap_or(Duration::MAX);
        elapsed.max(self.process.duration_since(earlier.process)) < span
    }
}

impl KeyCache {
    /// A cache of the keys in `store`. A `ttl` of zero reads always. `stale` is how long a good key
    /// stays known after that.
    pub(crate) fn new(store: Store, circuit: Circuit, ttl: Duration, stale: Duration) -> Self {
        Self(Arc::new(Inner {
            store,
            circuit,
            ttl,
            stale,
            entries: Mutex::default(),
        }))
    }

    /// The key of that digest, as it was no longer before `now` than the TTL.
    pub(crate) async fn find(
        &self,
        digest: KeyDigest,
        now: Moment,
    ) -> Result<Found, Arc<NoAnswer>> {
        let read = self.read_of(digest, now);
        if let Some(found) = read.peek() {
            return found.clone();
        }
        let found = read.await;
        // It is among the good ones from now on, if it is one.
        let mut entries = self.entries();
        if let Some(entry) = entries.take(&digest) {
            entries.put(digest, entry);
        }
        found
    }

    /// The key of that digest as it was when it was last read, if it was good then, the store does not
    /// answer, and no more than the time for that has passed. That other requests are answered, or
    /// this one's was throttled, is no reason: the key may have been revoked.
    pub(crate) fn find_stale(&self, digest: KeyDigest, now: Moment) -> Option<Arc<Known>> {
        if !self.0.circuit.is_open() {
            return None;
        }
        let mut entries = self.entries();
        let entry = entries.take(&digest)?.replaced();
        let known = entry.last_good.clone();
        entries.put(digest, entry);
        let longest = self.0.ttl + self.0.stale;
        let (_, known) = known.filter(|(began, _)| now.is_within(*began, longest))?;
        Some(known)
    }

    /// The read to go by.
    fn read_of(&self, digest: KeyDigest, now: Moment) -> Read {
        let mut entries = self.entries();
        let entry = entries.take(&digest).map(Entry::replaced);
        let entry = match entry {
            Some(entry) if self.holds(&entry, now) => self.with_read_ahead(entry, digest, now),
            entry => Entry {
                began: now,
                read: self.begin(digest),
                ahead: None,
                last_good: entry.and_then(|entry| entry.last_good),
            },
        };
        let read = entry.read.clone();
        entries.put(digest, entry);
        read
    }

    /// Whether the entry may be gone by: what it found, or, while it is under way, will find.
    fn holds(&self, entry: &Entry, now: Moment) -> bool {
        let may_take = match entry.read.peek() {
            Some(Ok(_)) => self.0.ttl,
            Some(Err(_)) => return false,
            None => self.0.ttl.min(LONGEST_READ),
        };
        now.is_within(entry.began, may_take)
    }

    /// The entry, and in the last two fifths of its time a read that is to replace it.
    fn with_read_ahead(&self, mut entry: Entry, digest: KeyDigest, now: Moment) -> Entry {
        let is_due = !now.is_within(entry.began, self.0.ttl * 3 / 5);
        // One that failed is begun again as rarely as one that has no answer.
        let is_tried = |(began, _): &(Moment, Read)| now.is_within(*began, LONGEST_READ);
        if is_due && !entry.ahead.as_ref().is_some_and(is_tried) {
            let ahead = self.begin(digest);
            tokio::spawn(ahead.clone());
            entry.ahead = Some((now, ahead));
        }
        entry
    }

    fn begin(&self, digest: KeyDigest) -> Read {
        let (store, circuit) = (self.0.store.clone(), self.0.circuit.clone());
        let reading = async move {
            let mut asking = circuit.asking();
            loop {
                if let Some(found) = asking.once(read(&store, digest)).await.map_err(Arc::new)? {
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

async fn read(store: &Store, digest: KeyDigest) -> Result<Found, StoreError> {
    let Some(record) = store.key_by_digest(digest).await? else {
        return Ok(None);
    };
    let customer = match &record.owner {
        Owner::Admin => None,
        Owner::Customer(id) => store.customer(id).await?,
    };
    Ok(Some(Arc::new(Known { record, customer })))
}

impl Entry {
    /// The entry after it has given way to the read ahead, if that has come to an answer, and has
    /// noted what was found.
    fn replaced(mut self) -> Self {
        if let Some((began, read)) = self.ahead.take_if(|(_, read)| has_answer(read)) {
            self.began = began;
            self.read = read;
        }
        if let Some(Ok(found)) = self.read.peek() {
            self.last_good = found.clone().map(|known| (self.began, known));
        }
        self
    }
}

fn has_answer(read: &Read) -> bool {
    matches!(read.peek(), Some(Ok(_)))
}

impl Entries {
    fn take(&mut self, digest: &KeyDigest) -> Option<Entry> {
        self.good.take(digest).or_else(|| self.other.take(digest))
    }

    fn put(&mut self, digest: KeyDigest, entry: Entry) {
        let entry = entry.replaced();
        let is_good = entry.last_good.is_some();
        let entries = if is_good {
            &mut self.good
        } else {
            &mut self.other
        };
        entries.put(digest, entry);
    }
}

/// Two halves of [`GENERATION`] entries at most: when the younger is full, the older is dropped.
#[derive(Default)]
struct Generations {
    younger: HashMap<KeyDigest, Entry>,
    older: HashMap<KeyDigest, Entry>,
}

impl Generations {
    fn take(&mut self, digest: &KeyDigest) -> Option<Entry> {
        let younger = self.younger.remove(digest);
        younger.or_else(|| self.older.remove(digest))
    }

    fn put(&mut self, digest: KeyDigest, entry: Entry) {
        if self.younger.len() >= GENERATION {
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
