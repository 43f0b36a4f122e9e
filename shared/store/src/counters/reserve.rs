//! Reserving units at the root of a counter or at one of its branches.

use super::item::{BRANCHES, Branch, MAX_SHARES, Root, branch_pk};
use super::share::{AdmittedCalls, LeaseShare, Observed};
use super::write::{Insertion, TRIES, Write};
use crate::Store;
use crate::error::StoreError;
use crate::item::{Item, Reader, n, signed};
use crate::schema::attr;

const RESERVING: &str = "reserving units of a limit";

/// Units that a branch is granted per unit that an instance needs, so that the root is written less often
/// than the branch.
const GRANTED_PER_UNIT: u64 = 16;
/// Bound on a grant for more than one reservation, because granted units count as used.
const MAX_GRANT: u64 = 1_000;
/// Further bound on such a grant: this fraction of the limit's units that were left at the last grant, so
/// that all branches run out at about the same time.
const GRANT_FRACTION: u64 = 32;

/// Outcome of reserving units.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ReserveOutcome {
    /// Units are reserved, possibly by an earlier try whose response was lost.
    Reserved {
        /// Number of units.
        units: u64,
        /// Units that were reserved by all instances, these included, and those that branches of the
        /// counter have ready: as of now, or if these are of a branch, as of its last grant.
        used: u64,
    },
    /// No units are left under the limit.
    Exhausted,
}

/// A reservation in progress.
#[derive(Debug, Clone, Copy)]
struct Request {
    units: u64,
    limit: Option<u64>,
    calls: AdmittedCalls,
    /// Whether the instance has unspent units, which were reserved in the share's item.
    has_units: bool,
}

/// A grant of the root that a branch has to follow.
#[derive(Debug, Clone, Copy)]
struct Grant {
    /// Sum of the grants that the branch has followed.
    seen: u64,
    /// Sum of all grants to the branch.
    total: u64,
    /// The root's `used` when that sum was read.
    top: u64,
}

/// Outcome of requesting a grant from the root.
enum GrantOutcome {
    Granted(Grant),
    Exhausted(Root),
}

/// State that one try of a reservation leaves to the next.
#[derive(Default)]
struct Progress {
    insertion: Insertion,
    /// Grant that the next write of the branch follows.
    grant: Option<Grant>,
    /// The root as last seen.
    root: Option<Root>,
}

impl Store {
    /// Reserves `wanted` units, or fewer if fewer are left, and reports `calls`: all calls allowed under the
    /// share so far. Nothing is reserved beyond `limit`. `left` is the number of unspent units, which were
    /// reserved under a higher limit.
    ///
    /// # Errors
    /// When the store fails, or other writers change the counter at every try. The next call then finds out
    /// whether units were reserved, provided that the store's client does not retry requests by itself.
    pub async fn reserve(
        &self,
        share: &mut LeaseShare,
        wanted: u64,
        limit: Option<u64>,
        calls: AdmittedCalls,
        left: u64,
    ) -> Result<ReserveOutcome, StoreError> {
        let units = match limit {
            Some(0) => return Ok(ReserveOutcome::Exhausted),
            Some(limit) if limit < wanted => 1,
            _ => wanted,
        };
        self.finish_release(share).await?;
        let mut request = Request {
            units,
            limit,
            calls,
            has_units: left > 0,
        };
        let mut progress = Progress::default();
        for _ in 0..TRIES {
            let outcome = match share.branch {
                None => self.try_at_root(share, &mut request, &mut progress).await?,
                Some(branch) => {
                    self.try_at_branch(share, branch, &mut request, &mut progress)
                        .await?
                }
            };
            if let Some(outcome) = outcome {
                return Ok(outcome);
            }
        }
        Err(StoreError::contended(RESERVING))
    }

    /// Whether units are left under `limit`. Reserves none.
    ///
    /// # Errors
    /// When the store fails.
    pub async fn has_room(&self, share: &LeaseShare, limit: u64) -> Result<bool, StoreError> {
        let totals = self.counter_totals(vec![share.counter.clone()]).await?;
        Ok(totals.first().map_or(0, |totals| totals.reserved) < limit)
    }

    /// Tries once at the root. Returns `None` for another try, at the root or at a branch.
    async fn try_at_root(
        &self,
        share: &mut LeaseShare,
        request: &mut Request,
        progress: &mut Progress,
    ) -> Result<Option<ReserveOutcome>, StoreError> {
        let Request {
            units,
            limit,
            calls,
            ..
        } = *request;
        let write = |share: &LeaseShare| {
            let write = Write::root_of(share)
                .set("used = if_not_exists(used, :zero) + :units")
                .value(":units", n(units));
            match limit {
                None => write,
                Some(limit) => write.only_within(limit, units),
            }
        };
        let insertion = &progress.insertion;
        let item = match self
            .send_share(share, units, calls, insertion, write)
            .await?
        {
            Ok(updated) => {
                let used = Reader::new("counter", &updated).number(attr::USED)?;
                return Ok(Some(reserved(units, used)));
            }
            Err(item) => item,
        };
        let root = Root::read(&item)?;
        if let Observed::Reserved(units) = share.observe(&item, &self.entropy) {
            return Ok(Some(reserved(units, root.used)));
        }
        let room = root.room(limit);
        if room == 0 {
            return self.reclaim(share, &root, request).await;
        }
        progress.insertion = Insertion::default();
        if share.stored.is_none() && root.shares >= MAX_SHARES {
            let insertion = Insertion::for_full_item(&item, self.clock.now());
            // Unspent units belong to the item in which they were reserved.
            if insertion.ignores_room && !request.has_units {
                let branch = 1 + self.entropy.below(BRANCHES);
                self.move_to(share, branch).await?;
                progress.root = Some(root);
            } else {
                progress.insertion = insertion;
            }
        }
        if room < units {
            // So close to the limit, each instance takes only the unit that it needs now.
            request.units = 1;
        }
        Ok(None)
    }

    /// Tries once at a branch. Returns `None` for another try, at a branch or at the root.
    async fn try_at_branch(
        &self,
        share: &mut LeaseShare,
        branch: u64,
        request: &mut Request,
        progress: &mut Progress,
    ) -> Result<Option<ReserveOutcome>, StoreError> {
        let Request {
            units,
            limit,
            calls,
            ..
        } = *request;
        let grant = progress.grant.take();
        let write = |share: &LeaseShare| {
            let write = Write::of_share(share).returning_all();
            match grant {
                None => taking_from_branch(write, units, limit),
                Some(grant) => following_grant(write, units, grant),
            }
        };
        let insertion = &progress.insertion;
        let item = match self
            .send_share(share, units, calls, insertion, write)
            .await?
        {
            Ok(updated) => {
                let branch = Branch::read(&updated)?;
                return Ok(Some(reserved(units, branch.top)));
            }
            Err(item) => item,
        };
        let found = Branch::read(&item)?;
        if let Observed::Reserved(units) = share.observe(&item, &self.entropy) {
            return Ok(Some(reserved(units, found.top)));
        }
        progress.insertion = Insertion::default();
        if share.stored.is_none() && found.shares >= MAX_SHARES {
            // A branch takes any number of shares, because there are no further items.
            progress.insertion = Insertion::for_full_item(&item, self.clock.now());
        }
        if found.left > 0 && limit.is_none_or(|limit| found.top <= limit) {
            request.units = units.min(found.left);
            return Ok(None);
        }
        if let Some(root) = progress.root.take() {
            let (seen, total) = (found.granted, root.granted_to(branch));
            if total > seen && limit.is_none_or(|limit| root.used <= limit) {
                let top = root.used;
                progress.grant = Some(Grant { seen, total, top });
                request.units = units.min(found.unreserved(total));
                return Ok(None);
            }
        }
        match self.grant(share, branch, &found, request).await? {
            GrantOutcome::Granted(grant) => {
                request.units = units.min(found.unreserved(grant.total)).max(1);
                progress.grant = Some(grant);
                Ok(None)
            }
            GrantOutcome::Exhausted(root) => self.reclaim(share, &root, request).await,
        }
    }

    /// Sends a write that adds `units` to the share, and reports `calls` with it.
    pub(super) async fn send_share(
        &self,
        share: &mut LeaseShare,
        units: u64,
        calls: AdmittedCalls,
        insertion: &Insertion,
        write: impl FnOnce(&LeaseShare) -> Write,
    ) -> Result<Result<Item, Item>, StoreError> {
        let now = self.clock.now();
        let was_unconfirmed = share.begin_write(now);
        let after = share.after_reserving(units, calls, now);
        let write = write(share).reporting(share, calls).replacing_share(
            share,
            after.to_string(),
            insertion,
        );
        let written = write.send(self, RESERVING).await;
        // A throttled request had no effect. That is certain only because the client does not retry by
        // itself.
        if !written.as_ref().is_err_and(StoreError::is_outage) {
            share.is_unconfirmed = was_unconfirmed;
        }
        let written = written?;
        if written.is_ok() {
            share.confirm(after);
        }
        Ok(written)
    }

    /// Grants more units to the branch, which was seen as `found`, unless another writer has done so since.
    async fn grant(
        &self,
        share: &LeaseShare,
        branch: u64,
        found: &Branch,
        request: &Request,
    ) -> Result<GrantOutcome, StoreError> {
        let Request { units, limit, .. } = *request;
        let seen = found.granted;
        // The root may have more units left than that: released or reclaimed ones.
        let mut room = limit.map(|limit| limit.saturating_sub(found.top).max(1));
        loop {
            let fraction = room.map_or(u64::MAX, |room| room / GRANT_FRACTION);
            let more = units
                .saturating_mul(GRANTED_PER_UNIT)
                .min(fraction.min(MAX_GRANT).max(units))
                .min(room.unwrap_or(u64::MAX));
            let mut write = Write::root_of(share)
                .name("#branch", format!("b{branch}"))
                .set("used = if_not_exists(used, :zero) + :more")
                .set("#branch = :total")
                .value(":zero", n(0))
                .value(":more", n(more))
                .value(":total", n(seen + more))
                // Neither another writer nor a try whose response was lost has granted it more meanwhile.
                .only_if_unchanged("#branch", ":seen", seen);
            if let Some(limit) = limit {
                write = write.only_within(limit, more);
            }
            let item = match write.send(self, RESERVING).await? {
                Ok(updated) => {
                    let top = Reader::new("counter", &updated).number(attr::USED)?;
                    let total = seen + more;
                    return Ok(GrantOutcome::Granted(Grant { seen, total, top }));
                }
                Err(item) => item,
            };
            let root = Root::read(&item)?;
            let total = root.granted_to(branch);
            if total > seen && limit.is_none_or(|limit| root.used <= limit) {
                let top = root.used;
                return Ok(GrantOutcome::Granted(Grant { seen, total, top }));
            }
            let left = root.room(limit);
            if left == 0 || total != seen || room.is_none_or(|room| room <= left) {
                return Ok(GrantOutcome::Exhausted(root));
            }
            room = Some(left);
        }
    }

    /// Ends the share, if it is stored, and begins a new one at a branch. Reports no calls.
    async fn move_to(&self, share: &mut LeaseShare, branch: u64) -> Result<(), StoreError> {
        share.release(0, share.reported);
        self.finish_release(share).await?;
        share.branch = Some(branch);
        Ok(())
    }

    /// Returns unreserved units of branches to the root, which has none left under the limit: as many as one
    /// reservation needs. Returns [`ReserveOutcome::Exhausted`] if branches have fewer.
    async fn reclaim(
        &self,
        share: &LeaseShare,
        root: &Root,
        request: &mut Request,
    ) -> Result<Option<ReserveOutcome>, StoreError> {
        let limit = request.limit.unwrap_or(u64::MAX);
        let mut branches = self
            .branches_of(RESERVING, [(&*share.counter, root)])
            .await?;
        let unused = root.grants.keys().map(|number| {
            let branch = branches.remove(&branch_pk(&share.counter, *number));
            let branch = branch.unwrap_or_default();
            (*number, root.unused_at(*number, &branch), branch)
        });
        let mut unused: Vec<_> = unused.filter(|(_, units, _)| *units > 0).collect();
        let all: u64 = unused.iter().map(|(_, units, _)| units).sum();
        let needed = root.used.saturating_sub(limit).saturating_add(1);
        if all < needed {
            return Ok(Some(ReserveOutcome::Exhausted));
        }
        // Begins with a random branch, so that concurrent instances conflict less.
        let first = self.entropy.below(u64::try_from(unused.len()).unwrap_or(1));
        unused.rotate_left(usize::try_from(first).unwrap_or(0));
        let mut reclaimed = 0;
        for (number, units, branch) in &unused {
            if self.return_grant(share, root, *number, branch).await? {
                reclaimed += units;
            }
            if reclaimed >= needed {
                break;
            }
        }
        request.units = 1;
        Ok(None)
    }

    /// Returns the unreserved units of a branch to the root, in two writes of a sum that only grows: the
    /// branch adds the units to `returned`, and the root follows. Returns whether both items were still as
    /// they were seen.
    async fn return_grant(
        &self,
        share: &LeaseShare,
        root: &Root,
        number: u64,
        branch: &Branch,
    ) -> Result<bool, StoreError> {
        let total = root.granted_to(number).max(branch.granted);
        let units = branch.unreserved(total);
        let returned = branch.returned + units;
        if units > 0 {
            let write = Write::branch_of(share, number)
                .set("unreserved = :zero")
                .set("granted = :total")
                .set("returned = :returned")
                .value(":zero", n(0))
                .value(":total", n(total))
                .value(":returned", n(returned))
                .only_if_unchanged("unreserved", ":left", branch.left)
                .only_if_unchanged("granted", ":granted", branch.granted)
                .only_if_unchanged("returned", ":before", branch.returned);
            if write.send(self, RESERVING).await?.is_err() {
                return Ok(false);
            }
        }
        let seen = root.returned_by(number);
        let write = Write::root_of(share)
            .name("#branch", format!("r{number}"))
            .set("used = used - :less")
            .set("#branch = :returned")
            .value(":less", n(returned.saturating_sub(seen)))
            .value(":returned", n(returned))
            .only_if_unchanged("#branch", ":seen", seen);
        // Otherwise another instance has followed already.
        Ok(write.send(self, RESERVING).await?.is_ok())
    }
}

fn reserved(units: u64, used: u64) -> ReserveOutcome {
    ReserveOutcome::Reserved { units, used }
}

/// Takes units from a branch.
fn taking_from_branch(write: Write, units: u64, limit: Option<u64>) -> Write {
    let write = write
        .set("unreserved = unreserved - :units")
        .value(":units", n(units))
        // No other instance has reserved them meanwhile.
        .only_if("unreserved >= :units");
    match limit {
        None => write,
        // The root's `used` was within the limit when the units were granted.
        Some(limit) => write.only_if("top <= :limit").value(":limit", n(limit)),
    }
}

/// Follows a grant, and takes units from the branch.
fn following_grant(write: Write, units: u64, grant: Grant) -> Write {
    let Grant { seen, total, top } = grant;
    let added = total - seen;
    let net = i128::from(added) - i128::from(units);
    let net = i64::try_from(net).unwrap_or(i64::MAX);
    let write = write
        .set("granted = :total")
        .set("unreserved = if_not_exists(unreserved, :zero) + :net")
        .set("top = :top")
        .value(":total", n(total))
        .value(":net", signed(net))
        .value(":top", n(top))
        // Neither another instance nor a try whose response was lost has followed the grant yet.
        .only_if_unchanged("granted", ":seen", seen);
    if units <= added {
        return write;
    }
    // The branch still has the units that the grant does not cover.
    write
        .only_if("unreserved >= :rest")
        .value(":rest", n(units - added))
}
