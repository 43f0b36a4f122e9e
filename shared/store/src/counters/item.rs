//! Items of a counter: its root and its branches.

use std::collections::BTreeMap;

use tollgate_domain::id::{CustomerId, KeyId};
use tollgate_domain::window::{Hour, Month};

use crate::error::StoreError;
use crate::item::{Item, Reader, whole};
use crate::schema::attr;

/// Number of shares for which the root of a counter has room, and a branch until it is known that none
/// of them has expired. 20 shares with large numbers keep the item below one write unit, 1 KB.
pub(super) const MAX_SHARES: u64 = 20;
/// Number of branches of a counter. 500 instances are some 30 per branch, which is again about one write
/// unit.
pub(super) const BRANCHES: u64 = 16;

/// The root of a counter.
#[derive(Debug, Default)]
pub(super) struct Root {
    pub(super) used: u64,
    pub(super) shares: u64,
    pub(super) reported: Reported,
    /// Sums of the units granted to each branch, by its number.
    pub(super) grants: BTreeMap<u64, u64>,
    /// Sums of the units that branches have returned.
    returns: BTreeMap<u64, u64>,
}

/// A branch of a counter.
#[derive(Debug, Default)]
pub(super) struct Branch {
    pub(super) granted: u64,
    pub(super) returned: u64,
    pub(super) left: u64,
    pub(super) top: u64,
    pub(super) shares: u64,
    pub(super) reported: Reported,
}

/// Calls that were reported to one item. A call that was reported in advance to one item can be taken
/// back at another, so the numbers of one item may be negative; the sums over all items are not.
#[derive(Debug, Default)]
pub(super) struct Reported {
    pub(super) spent: i64,
    pub(super) uncounted: i64,
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
    pub(super) fn read(item: &Item) -> Result<Self, StoreError> {
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

    /// Returns the number of units that can be reserved under `limit`.
    pub(super) fn room(&self, limit: Option<u64>) -> u64 {
        limit.map_or(u64::MAX, |limit| limit.saturating_sub(self.used))
    }

    pub(super) fn granted_to(&self, branch: u64) -> u64 {
        self.grants.get(&branch).copied().unwrap_or(0)
    }

    pub(super) fn returned_by(&self, branch: u64) -> u64 {
        self.returns.get(&branch).copied().unwrap_or(0)
    }

    /// Returns the number of units of `used` that no instance has reserved: granted to the branch, or
    /// returned by it since.
    pub(super) fn unused_at(&self, number: u64, branch: &Branch) -> u64 {
        let returned = branch.returned.saturating_sub(self.returned_by(number));
        branch.unreserved(self.granted_to(number)) + returned
    }
}

impl Branch {
    pub(super) fn read(item: &Item) -> Result<Self, StoreError> {
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

    /// Returns the number of units that no instance has reserved once the branch has followed grants of
    /// `total` units.
    pub(super) fn unreserved(&self, total: u64) -> u64 {
        self.left + total.saturating_sub(self.granted)
    }
}

pub(super) fn hour_pk(key: &KeyId, hour: Hour) -> String {
    format!("HOUR#{key}#{hour}")
}

pub(super) fn month_pk(customer: &CustomerId, month: Month) -> String {
    format!("MONTH#{customer}#{month}")
}

pub(super) fn branch_pk(counter: &str, branch: u64) -> String {
    format!("{counter}#{branch}")
}
