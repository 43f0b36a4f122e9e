//! The lease share of one instance, as it is stored and as the instance knows it.

use std::fmt;
use std::str::FromStr;

use aws_sdk_dynamodb::types::AttributeValue;
use jiff::{SignedDuration, Timestamp};
use tollgate_domain::id::{CustomerId, KeyId, random_base62};
use tollgate_domain::window::{Hour, Month};
use tollgate_runtime::Entropy;

use super::item::{hour_pk, month_pk};
use crate::Store;
use crate::item::{Item, ttl};

/// Time for which a counter outlives its window. It must not be deleted while an instance whose clock is
/// behind still counts in it.
const KEPT_AFTER_WINDOW: SignedDuration = SignedDuration::from_hours(48);
/// Time for which a share outlives a reservation of one unit, which is spent at once: longer than all
/// retries of the write, and than clocks differ.
const ONE_UNIT_KEPT: SignedDuration = SignedDuration::from_secs(60);
/// Time for which a share outlives a larger reservation: longer than Lambda keeps an instance.
const LEASE_KEPT: SignedDuration = SignedDuration::from_hours(24);
/// Age from which a share can be removed without a tombstone: a repetition of its first write after that
/// is older than any first write that a counter with removed shares accepts.
const REMOVABLE_AFTER: SignedDuration = SignedDuration::from_secs(90);
/// Time for which the tombstone of an ended share exists at least, by any instance's clock.
pub(super) const TOMBSTONE_KEPT: SignedDuration = SignedDuration::from_secs(80);
/// Bound on how much older than the last removal of shares a share's first write may be. A share is only
/// removed when it is older than that and than clocks differ.
const MAX_FIRST_WRITE_AGE: SignedDuration = SignedDuration::from_secs(30);
/// Characters of a share's id, 41 bits.
const ID_LEN: usize = 7;

/// Calls that an instance has allowed in one window since it began to count there.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct AdmittedCalls {
    /// Calls that each spent a unit.
    pub spent: u64,
    /// Calls that were allowed without a unit, while the store was down.
    pub uncounted: u64,
}

/// The share of one instance in one counter, for one window.
#[derive(Debug)]
pub struct LeaseShare {
    pub(super) counter: String,
    pub(super) expires: AttributeValue,
    /// Number of the branch in which the share is stored; `None` is the root.
    pub(super) branch: Option<u64>,
    /// Id, unique among all shares.
    id: String,
    /// Time at which the share's first write was first sent.
    pub(super) first_write_at: Timestamp,
    /// Unix second of the latest removal of shares that the instance has seen. Its own clock may be behind
    /// it.
    shares_removed_at: i64,
    /// The share as stored in the counter, as far as is known; `None` if it was never stored or was
    /// removed.
    pub(super) stored: Option<Stored>,
    /// Calls that have been reported to the counter.
    pub(super) reported: AdmittedCalls,
    /// Whether writes were sent of which it is unknown whether one took effect.
    pub(super) is_unconfirmed: bool,
    /// Release of which it is unknown whether it took effect.
    pub(super) releasing: Option<Release>,
}

/// State of a share, as observed in an item.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Observed {
    /// Unchanged, or changed by a write that reserved nothing.
    Unchanged,
    /// Changed by a write that reserved this number of units.
    Reserved(u64),
    /// Released.
    Ended,
    /// Missing: never stored, or removed after it expired.
    Missing,
}

/// Units that are to be returned, with a last report.
#[derive(Debug, Clone, Copy)]
pub(super) struct Release {
    pub(super) units: u64,
    pub(super) calls: AdmittedCalls,
    /// Time at which the release was first sent.
    pub(super) since: Option<Timestamp>,
}

/// A share as stored in its counter.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Stored {
    /// Unix second after which the share may be removed.
    until: i64,
    pub(super) reserved: u64,
    calls: AdmittedCalls,
}

/// End of a tombstone: the text that replaces a share that has ended, so that no late write of the share
/// takes effect.
const ENDED: &str = "ended";

impl LeaseShare {
    fn new(counter: String, expires: Timestamp, entropy: &Entropy) -> Self {
        Self {
            counter,
            expires: ttl(expires),
            branch: None,
            id: new_id(entropy),
            first_write_at: Timestamp::UNIX_EPOCH,
            shares_removed_at: 0,
            stored: None,
            reported: AdmittedCalls::default(),
            is_unconfirmed: false,
            releasing: None,
        }
    }

    /// Whether exactly these calls have been reported to the counter, and no write is unconfirmed.
    #[must_use]
    pub fn is_settled(&self, calls: AdmittedCalls) -> bool {
        self.reported == calls && !self.is_unconfirmed && self.releasing.is_none()
    }

    /// Begins to release `units`, which the instance must no longer spend, with a last report.
    /// [`Store::settle`](crate::Store::settle) completes it, and so does a reservation.
    pub fn release(&mut self, units: u64, calls: AdmittedCalls) {
        // Nothing is reserved while a release is pending, so there is nothing to add to it.
        self.releasing.get_or_insert(Release {
            units,
            calls,
            since: None,
        });
    }

    pub(super) fn attribute(&self) -> String {
        format!("i{}", self.id)
    }

    /// Records that a write is sent. Returns whether an earlier one was unconfirmed.
    pub(super) fn begin_write(&mut self, now: Timestamp) -> bool {
        // A repeated first write is as old as the first try, which may have taken effect.
        if self.stored.is_none() && !self.is_unconfirmed {
            self.first_write_at = now;
        }
        std::mem::replace(&mut self.is_unconfirmed, true)
    }

    /// Returns the Unix second from which on a removal of shares keeps the share's first write from taking
    /// effect. The share, or its tombstone, is stored until then.
    pub(super) fn fence(&self) -> i64 {
        let fence = self.first_write_at.as_second() + MAX_FIRST_WRITE_AGE.as_secs();
        fence.max(self.shares_removed_at + 1)
    }

    /// Whether the share may be removed without a tombstone.
    pub(super) fn is_removable(&self, now: Timestamp) -> bool {
        now.duration_since(self.first_write_at) >= REMOVABLE_AFTER
            && now.as_second() >= self.fence()
    }

    /// Returns the share after a reservation of `units`.
    pub(super) fn after_reserving(
        &self,
        units: u64,
        calls: AdmittedCalls,
        now: Timestamp,
    ) -> Stored {
        let kept = if units > 1 { LEASE_KEPT } else { ONE_UNIT_KEPT };
        let until = self.fence().max(now.as_second() + kept.as_secs());
        let stored = self.stored.as_ref();
        Stored {
            // It may contain units of an earlier, larger reservation.
            until: stored.map_or(until, |stored| stored.until.max(until)),
            reserved: stored.map_or(0, |stored| stored.reserved) + units,
            calls,
        }
    }

    /// Returns the text that replaces the share once it has ended, until no late write of it can take
    /// effect any more.
    pub(super) fn tombstone(&self, now: Timestamp) -> String {
        let until = self
            .fence()
            .max(now.as_second() + REMOVABLE_AFTER.as_secs());
        format!("{until:010} {ENDED}")
    }

    /// Records the share as stored, all writes being confirmed.
    pub(super) fn confirm(&mut self, stored: Stored) {
        self.is_unconfirmed = false;
        self.reported = stored.calls;
        self.stored = Some(stored);
    }

    /// Updates the share from the item whose state made a write's condition fail.
    pub(super) fn observe(&mut self, item: &Item, entropy: &Entropy) -> Observed {
        let removed_at = shares_removed_at(item);
        let is_fenced_off = removed_at >= self.fence();
        self.shares_removed_at = self.shares_removed_at.max(removed_at);
        let text = item.get(&self.attribute());
        let text = text.and_then(|text| text.as_s().ok());
        if text.is_some_and(|text| text.ends_with(ENDED)) {
            return Observed::Ended;
        }
        if let Some(stored) = text.and_then(|text| text.parse::<Stored>().ok()) {
            let before = self.stored.as_ref().map_or(0, |stored| stored.reserved);
            let units = stored.reserved.saturating_sub(before);
            self.confirm(stored);
            return match units {
                0 => Observed::Unchanged,
                units => Observed::Reserved(units),
            };
        }
        // Removed after it expired: its units stay reserved. Or its first write is too old to take effect.
        // An unconfirmed write may have taken effect before the removal; most have not, so all calls that
        // are not known to be reported are reported again.
        if self.stored.is_some() || is_fenced_off {
            self.reset(entropy);
        }
        Observed::Missing
    }

    /// Begins a new share under a new id, and leaves the stored one to expire.
    pub(super) fn reset(&mut self, entropy: &Entropy) {
        self.id = new_id(entropy);
        self.stored = None;
        self.is_unconfirmed = false;
    }

    /// Ends the share, and begins a new one at the root.
    pub(super) fn end(&mut self, entropy: &Entropy) {
        self.reset(entropy);
        self.branch = None;
        self.releasing = None;
    }
}

impl Store {
    /// Returns a new share of a key's hour. Nothing is stored until its first write.
    #[must_use]
    pub fn hour_share(&self, key: &KeyId, hour: Hour) -> LeaseShare {
        self.new_share(hour_pk(key, hour), hour.end())
    }

    /// Returns a new share of a customer's month. Nothing is stored until its first write.
    #[must_use]
    pub fn month_share(&self, customer: &CustomerId, month: Month) -> LeaseShare {
        self.new_share(month_pk(customer, month), month.end())
    }

    fn new_share(&self, counter: String, window_end: Timestamp) -> LeaseShare {
        let expires = window_end.saturating_add(KEPT_AFTER_WINDOW);
        LeaseShare::new(counter, expires.unwrap_or(window_end), &self.entropy)
    }
}

fn new_id(entropy: &Entropy) -> String {
    entropy.with(|rng| random_base62(rng, ID_LEN))
}

/// Reads the Unix second of the last removal of a share from an item; 0 if there was none.
pub(super) fn shares_removed_at(item: &Item) -> i64 {
    let value = item.get("shares_removed_at");
    let value = value.and_then(|value| value.as_n().ok());
    value.and_then(|text| text.parse().ok()).unwrap_or(0)
}

/// Returns the expired shares of an item: the attribute and the text of each.
pub(super) fn expired_shares(item: &Item, now: Timestamp) -> Vec<(String, String)> {
    let now = format!("{:010}", now.as_second());
    let shares = item.iter().filter(|(name, _)| name.len() == ID_LEN + 1);
    let shares = shares.filter_map(|(name, value)| {
        let text = name.starts_with('i').then(|| value.as_s().ok())??;
        // Seconds sort as texts until the year 2286.
        (*text < now).then(|| (name.clone(), text.clone()))
    });
    let mut shares: Vec<(String, String)> = shares.collect();
    // Sorted, so that writes are reproducible.
    shares.sort_unstable();
    shares
}

impl fmt::Display for Stored {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            until,
            reserved,
            calls: AdmittedCalls { spent, uncounted },
        } = self;
        write!(f, "{until:010} {reserved} {spent}")?;
        match uncounted {
            0 => Ok(()),
            uncounted => write!(f, " {uncounted}"),
        }
    }
}

/// The text is not a share, or it is a tombstone.
pub(super) struct InvalidShare;

impl FromStr for Stored {
    type Err = InvalidShare;

    fn from_str(text: &str) -> Result<Self, InvalidShare> {
        let mut parts = text
            .split(' ')
            .map(|part| part.parse().map_err(|_| InvalidShare));
        let mut next = || parts.next().unwrap_or(Err(InvalidShare));
        let (until, reserved, spent) = (next()?, next()?, next()?);
        let uncounted = parts.next().unwrap_or(Ok(0))?;
        Ok(Self {
            until: i64::try_from(until).map_err(|_| InvalidShare)?,
            reserved,
            calls: AdmittedCalls { spent, uncounted },
        })
    }
}
