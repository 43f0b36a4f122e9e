//! Quota counters: units of a window's limit, reserved in blocks and never beyond the limit.
//!
//! A counter is one item, its root, while few instances use it:
//!
//! | attribute | |
//! |---|---|
//! | `used` | units that are reserved, never more than the limit |
//! | `spent` | calls that units were spent on, as far as instances have reported |
//! | `uncounted` | calls that were allowed without a unit, while the store was down |
//! | `i<id>` | the lease share of one instance: `<until> <reserved> <spent> [<uncounted>]` |
//! | `shares` | how many shares there are |
//! | `swept` | the second at which a share was last removed |
//! | `b<n>` | units that were granted to branch `n`, all in all |
//! | `r<n>` | units that it has returned, all in all |
//!
//! An instance changes its share in the same write as the sums, and only if the share stands where
//! the instance last saw it. So each write takes effect once, however often it is sent and however
//! late it arrives, and the next write finds out what became of one whose answer was lost. From the
//! second `until` on, a share may be removed by whoever needs its room.
//!
//! A root has room for [`MAX_SHARES`] shares that reserve units, so that a write of it is one write unit.
//! Further instances go to one of [`BRANCHES`] branches: items with shares of their own and, in place of `used`, the units
//! that they were granted (`granted`), those of them that nobody has reserved (`unreserved`), and what the
//! root had used at the last grant (`top`). A grant is written twice, and counts once: the root adds
//! it to `used` and to `b<n>`, and the branch follows by setting `granted` to that sum, whoever does
//! it. Those for whom the root has nothing more have branches return what is left there, the same way
//! back: the branch adds it to `returned`, and the root follows with `used` and `r<n>`.

mod release;
mod reserve;
mod share;
mod write;

use std::collections::{BTreeMap, BTreeSet, HashMap};

use jiff::{SignedDuration, Timestamp};
use tollgate_domain::id::{CustomerId, KeyId};
use tollgate_domain::window::{Hour, Month};

use crate::Store;
use crate::error::StoreError;
use crate::item::{self, Item, Reader, whole};
use crate::schema::{COUNTERS, attr};

pub use reserve::ReserveOutcome;
pub use share::{Calls, LeaseShare};

/// Shares that the root of a counter has room for, and a branch until it is known that none of them
/// has expired. 20 of them with large numbers leave the item below a write unit.
const MAX_SHARES: u64 = 20;
/// Branches of a counter that instances spread over: 500 instances are some 30 to a branch, which is
/// about a write unit again.
const BRANCHES: u64 = 16;
/// How long a counter outlives its window. It must not vanish while a clock that is behind still
/// counts in it.
const KEPT_AFTER_WINDOW: SignedDuration = SignedDuration::from_hours(48);
/// Tries for one operation, each of which another instance can get in the way of.
const TRIES: usize = 32;

/// Units of a counter.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Units {
    /// Units that instances have reserved. Never more than the limit.
    pub reserved: u64,
    /// Calls that they have spent units on, as far as they have reported: all but those since the last
    /// reservation of each, and what an instance that crashed had not reported.
    pub spent: u64,
    /// Calls that were allowed without a unit, while the store was down.
    pub uncounted: u64,
}

impl Units {
    /// Calls that were allowed.
    #[must_use]
    pub fn admitted(&self) -> u64 {
        self.spent.saturating_add(self.uncounted)
    }
}

/// The root of a counter.
#[derive(Debug, Default)]
struct Root {
    used: u64,
    shares: u64,
    reported: Reported,
    /// Units granted to each branch that was granted some, by its number.
    grants: BTreeMap<u64, u64>,
    /// Units that branches have returned.
    returns: BTreeMap<u64, u64>,
}

/// A branch of a counter.
#[derive(Debug, Default)]
struct Branch {
    granted: u64,
    returned: u64,
    left: u64,
    top: u64,
    shares: u64,
    reported: Reported,
}

/// Calls that are reported at one item. What was reported in advance at one place can be taken back at
/// another, so a part may be less than nothing; all parts together are not.
#[derive(Debug, Default)]
struct Reported {
    spent: i64,
    uncounted: i64,
}

impl Reported {
    fn read(counter: &Reader<'_>) -> Result<Self, StoreError> {
        Ok(Self {
            spent: counter.opt_signed(attr::SPENT)?.unwrap_or(0),
            uncounted: counter.opt_signed(attr::UNCOUNTED)?.unwrap_or(0),
        })
    }
}

impl Root {
    fn read(item: &Item) -> Result<Self, StoreError> {
        let counter = Reader::new("counter", item);
        let by_branch = |prefix: char| {
            let sums = item.iter().filter_map(move |(name, value)| {
                let branch = name.strip_prefix(prefix)?.parse().ok()?;
                Some((branch, whole(value)?))
            });
            sums.collect()
        };
        Ok(Self {
            used: counter.opt_number(attr::USED)?.unwrap_or(0),
            shares: counter.opt_number(attr::SHARES)?.unwrap_or(0),
            reported: Reported::read(&counter)?,
            grants: by_branch('b'),
            returns: by_branch('r'),
        })
    }

    /// Units that may be reserved under `limit`.
    fn room(&self, limit: Option<u64>) -> u64 {
        limit.map_or(u64::MAX, |limit| limit.saturating_sub(self.used))
    }

    fn granted_to(&self, branch: u64) -> u64 {
        self.grants.get(&branch).copied().unwrap_or(0)
    }

    fn returned_by(&self, branch: u64) -> u64 {
        self.returns.get(&branch).copied().unwrap_or(0)
    }

    /// Units of `used` that nobody has reserved: granted to a branch, or returned by it since.
    fn unused_at(&self, number: u64, branch: &Branch) -> u64 {
        let returned = branch.returned.saturating_sub(self.returned_by(number));
        branch.unreserved(self.granted_to(number)) + returned
    }
}

impl Branch {
    fn read(item: &Item) -> Result<Self, StoreError> {
        let branch = Reader::new("counter", item);
        let number = |name| Ok::<_, StoreError>(branch.opt_number(name)?.unwrap_or(0));
        Ok(Self {
            granted: number("granted")?,
            returned: number("returned")?,
            left: number("unreserved")?,
            top: number("top")?,
            shares: number(attr::SHARES)?,
            reported: Reported::read(&branch)?,
        })
    }

    /// Units of the branch, after grants of `total` units in all, that nobody has reserved.
    fn unreserved(&self, total: u64) -> u64 {
        self.left + total.saturating_sub(self.granted)
    }
}

fn hour_pk(key: &KeyId, hour: Hour) -> String {
    format!("HOUR#{key}#{hour}")
}

fn month_pk(customer: &CustomerId, month: Month) -> String {
    format!("MONTH#{customer}#{month}")
}

fn branch_pk(counter: &str, branch: u64) -> String {
    format!("{counter}#{branch}")
}

impl Store {
    /// A share of the calls with a key in an hour, which the counter knows nothing of yet.
    #[must_use]
    pub fn hour_share(&self, key: &KeyId, hour: Hour) -> LeaseShare {
        self.share_of(hour_pk(key, hour), hour.end())
    }

    /// A share of the calls of a customer in a month, which the counter knows nothing of yet.
    #[must_use]
    pub fn month_share(&self, customer: &CustomerId, month: Month) -> LeaseShare {
        self.share_of(month_pk(customer, month), month.end())
    }

    fn share_of(&self, counter: String, window_end: Timestamp) -> LeaseShare {
        let expires = window_end.saturating_add(KEPT_AFTER_WINDOW);
        LeaseShare::new(counter, expires.unwrap_or(window_end), &self.entropy)
    }

    /// Reads the units of `customer` in `month`.
    ///
    /// # Errors
    /// When the store does not answer.
    pub async fn month_units(
        &self,
        customer: &CustomerId,
        month: Month,
    ) -> Result<Units, StoreError> {
        let units = self.units(vec![month_pk(customer, month)]).await?;
        Ok(units.into_iter().next().unwrap_or_default())
    }

    /// Reads the units of each of these keys in each of these hours, where there are any.
    pub(crate) async fn hour_units(
        &self,
        keys: &BTreeSet<KeyId>,
        hours: &[Hour],
    ) -> Result<Vec<Units>, StoreError> {
        let each = keys
            .iter()
            .flat_map(|key| hours.iter().map(|hour| hour_pk(key, *hour)));
        self.units(each.collect()).await
    }

    pub(crate) async fn units(&self, counters: Vec<String>) -> Result<Vec<Units>, StoreError> {
        const OPERATION: &str = "reading counters";
        let mut roots = Vec::new();
        for (pk, item) in self.counter_items(OPERATION, counters).await? {
            roots.push((pk, Root::read(&item)?));
        }
        let of = roots.iter().map(|(pk, root)| (&**pk, root));
        let mut branches = self.branches_of(OPERATION, of).await?;
        let units = roots.iter().map(|(pk, root)| {
            let mut reserved = root.used;
            let Reported {
                mut spent,
                mut uncounted,
            } = root.reported;
            for number in root.grants.keys() {
                let branch = branches.remove(&branch_pk(pk, *number));
                let branch = branch.unwrap_or_default();
                reserved = reserved.saturating_sub(root.unused_at(*number, &branch));
                spent += branch.reported.spent;
                uncounted += branch.reported.uncounted;
            }
            Units {
                reserved,
                spent: u64::try_from(spent).unwrap_or(0),
                uncounted: u64::try_from(uncounted).unwrap_or(0),
            }
        });
        Ok(units.collect())
    }

    /// The branches of counters, by their keys: those that have followed a grant.
    async fn branches_of(
        &self,
        operation: &'static str,
        counters: impl IntoIterator<Item = (&str, &Root)>,
    ) -> Result<HashMap<String, Branch>, StoreError> {
        let pks = counters.into_iter().flat_map(|(counter, root)| {
            let numbers = root.grants.keys();
            numbers.map(move |number| branch_pk(counter, *number))
        });
        let items = self.counter_items(operation, pks.collect()).await?;
        let branches = items.into_iter();
        branches
            .map(|(pk, item)| Ok((pk, Branch::read(&item)?)))
            .collect()
    }

    /// Items of counters, by their keys.
    async fn counter_items(
        &self,
        operation: &'static str,
        pks: Vec<String>,
    ) -> Result<Vec<(String, Item)>, StoreError> {
        let keys = pks.into_iter().map(item::key).collect();
        let items = self.batch_get(operation, COUNTERS, keys).await?;
        let keyed = items.into_iter().map(|item| {
            let pk = Reader::new("counter", &item).text(attr::PK)?.to_owned();
            Ok((pk, item))
        });
        keyed.collect()
    }
}
