//! Reserving units, at the root of a counter or at one of its branches.

use super::share::{Calls, Learnt, LeaseShare};
use super::write::{Entering, Write};
use super::{BRANCHES, Branch, MAX_SHARES, Root, TRIES, branch_pk};
use crate::Store;
use crate::error::StoreError;
use crate::item::{Item, Reader, n, signed};
use crate::schema::attr;

const RESERVING: &str = "reserving units of a limit";

/// Units that a branch is granted for each that is asked of it, so that the root is written less often
/// than the branch.
const GRANTED_FOR_ONE: u64 = 16;
/// A grant for more than one reservation is no larger: what is granted counts as used.
const GRANTED_AHEAD: u64 = 1_000;
/// Nor is it more than this part of what was left of the limit at the last grant, so that branches come
/// to its end together.
const GRANTED_PART: u64 = 32;

/// Outcome of reserving units.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ReserveOutcome {
    /// So many units are the instance's. They may have been reserved by an earlier try whose answer
    /// was lost.
    Reserved {
        /// How many.
        units: u64,
        /// Units that all instances had reserved when these were, these included.
        used: u64,
        /// Whether units may be left though `used` has come up to the limit.
        in_branch: bool,
    },
    /// Nothing is left of the limit.
    Exhausted,
}

/// What is asked for.
#[derive(Debug, Clone, Copy)]
struct Wanted {
    units: u64,
    limit: Option<u64>,
    calls: Calls,
    /// Whether the instance holds units that it reserved where it last had a share.
    holds: bool,
}

/// A sum of grants that a branch is to follow.
#[derive(Debug, Clone, Copy)]
struct Grant {
    /// What the branch has followed.
    seen: u64,
    /// All that the root has granted it.
    total: u64,
    /// Units used at the root when that was seen.
    top: u64,
}

/// Outcome of asking the root for a grant.
enum GrantOutcome {
    Granted(Grant),
    Exhausted(Root),
}

/// Where a reservation stands.
#[derive(Default)]
struct Progress {
    entering: Entering,
    /// What the next write of the branch follows.
    grant: Option<Grant>,
    /// The root as it was last seen.
    root: Option<Root>,
}

impl Store {
    /// Reserves `wanted` units, or fewer where fewer are left, and reports the calls that the share
    /// has allowed so far. Nothing is reserved beyond `limit`. `left` units of the share are not spent
    /// yet: those that were reserved under a higher limit.
    ///
    /// # Errors
    /// When the store does not answer, or others come first at every try. What was reserved then is
    /// found by the next call, if the store's client makes each request once, and leaves it to the caller
    /// to repeat it.
    pub async fn reserve(
        &self,
        share: &mut LeaseShare,
        wanted: u64,
        limit: Option<u64>,
        calls: Calls,
        left: u64,
    ) -> Result<ReserveOutcome, StoreError> {
        let units = match limit {
            Some(0) => return Ok(ReserveOutcome::Exhausted),
            Some(limit) if limit < wanted => 1,
            _ => wanted,
        };
        self.finish_release(share).await?;
        let mut wanted = Wanted {
            units,
            limit,
            calls,
            holds: left > 0,
        };
        let mut progress = Progress::default();
        for _ in 0..TRIES {
            let outcome = match share.branch {
                None => self.try_at_root(share, &mut wanted, &mut progress).await?,
                Some(branch) => {
                    self.try_at_branch(share, branch, &mut wanted, &mut progress)
                        .await?
                }
            };
            if let Some(outcome) = outcome {
                return Ok(outcome);
            }
        }
        Err(StoreError::contended(RESERVING))
    }

    /// Finds out whether units are left under `limit`, without reserving any.
    ///
    /// # Errors
    /// When the store does not answer.
    pub async fn has_room(&self, share: &LeaseShare, limit: u64) -> Result<bool, StoreError> {
        let units = self.units(vec![share.counter.clone()]).await?;
        Ok(units.first().map_or(0, |units| units.reserved) < limit)
    }

    /// Tries once at the root. Returns nothing if there is reason to try again, or elsewhere.
    async fn try_at_root(
        &self,
        share: &mut LeaseShare,
        wanted: &mut Wanted,
        progress: &mut Progress,
    ) -> Result<Option<ReserveOutcome>, StoreError> {
        let Wanted {
            units,
            limit,
            calls,
            ..
        } = *wanted;
        let write = |share: &LeaseShare| {
            let write = Write::root_of(share)
                .set("used = if_not_exists(used, :zero) + :units")
                .value(":units", n(units));
            match limit {
                None => write,
                Some(limit) => write.only_within(limit, units),
            }
        };
        let entering = &progress.entering;
        let item = match self
            .send_share(share, units, calls, entering, write)
            .await?
        {
            Ok(updated) => {
                let used = Reader::new("counter", &updated).number(attr::USED)?;
                return Ok(Some(reserved(units, used, false)));
            }
            Err(item) => item,
        };
        let root = Root::read(&item)?;
        if let Learnt::Reserved(units) = share.learn(&item, &self.entropy) {
            return Ok(Some(reserved(units, root.used, false)));
        }
        let room = root.room(limit);
        if room == 0 {
            return self.reclaim(share, &root, wanted).await;
        }
        progress.entering = Entering::default();
        if share.stored.is_none() && root.shares >= MAX_SHARES {
            let entering = Entering::crowded(&item, self.clock.now());
            // Units that are held count where they were reserved, and nowhere else.
            if entering.despite_crowd && !wanted.holds {
                let branch = 1 + self.entropy.below(BRANCHES);
                self.move_to(share, branch).await?;
                progress.root = Some(root);
            } else {
                progress.entering = entering;
            }
        }
        if room < units {
            // Others are as close to the limit, so nobody takes more than it needs now.
            wanted.units = 1;
        }
        Ok(None)
    }

    /// Tries once at a branch. Returns nothing if there is reason to try again, or elsewhere.
    async fn try_at_branch(
        &self,
        share: &mut LeaseShare,
        branch: u64,
        wanted: &mut Wanted,
        progress: &mut Progress,
    ) -> Result<Option<ReserveOutcome>, StoreError> {
        let Wanted {
            units,
            limit,
            calls,
            ..
        } = *wanted;
        let grant = progress.grant.take();
        let write = |share: &LeaseShare| {
            let write = Write::holding(share).returning_all();
            match grant {
                None => reserving_of_branch(write, units, limit),
                Some(grant) => following(write, units, grant),
            }
        };
        let entering = &progress.entering;
        let item = match self
            .send_share(share, units, calls, entering, write)
            .await?
        {
            Ok(updated) => {
                let branch = Branch::read(&updated)?;
                return Ok(Some(reserved(units, branch.top, true)));
            }
            Err(item) => item,
        };
        let found = Branch::read(&item)?;
        if let Learnt::Reserved(units) = share.learn(&item, &self.entropy) {
            return Ok(Some(reserved(units, found.top, true)));
        }
        progress.entering = Entering::default();
        if share.stored.is_none() && found.shares >= MAX_SHARES {
            // There is nowhere else to go, however many are there.
            progress.entering = Entering::crowded(&item, self.clock.now());
        }
        if found.left > 0 && limit.is_none_or(|limit| found.top <= limit) {
            wanted.units = units.min(found.left);
            return Ok(None);
        }
        if let Some(root) = progress.root.take() {
            let (seen, total) = (found.granted, root.granted_to(branch));
            if total > seen && limit.is_none_or(|limit| root.used <= limit) {
                let top = root.used;
                progress.grant = Some(Grant { seen, total, top });
                wanted.units = units.min(found.unreserved(total));
                return Ok(None);
            }
        }
        match self.grant(share, branch, &found, wanted).await? {
            GrantOutcome::Granted(grant) => {
                wanted.units = units.min(found.unreserved(grant.total)).max(1);
                progress.grant = Some(grant);
                Ok(None)
            }
            GrantOutcome::Exhausted(root) => self.reclaim(share, &root, wanted).await,
        }
    }

    /// Sends a write that leaves the share with `units` more, and reports `calls` with it.
    pub(super) async fn send_share(
        &self,
        share: &mut LeaseShare,
        units: u64,
        calls: Calls,
        entering: &Entering,
        write: impl FnOnce(&LeaseShare) -> Write,
    ) -> Result<Result<Item, Item>, StoreError> {
        let now = self.clock.now();
        let was_unanswered = share.sends(now);
        let after = share.after(units, calls, now);
        let write = write(share)
            .reporting(share, calls)
            .moving(share, after.to_string(), entering);
        let written = write.send(self, RESERVING).await;
        // A request that was throttled has done nothing, which is known as long as the client makes each
        // request once.
        if !written.as_ref().is_err_and(StoreError::is_outage) {
            share.is_unanswered = was_unanswered;
        }
        let written = written?;
        if written.is_ok() {
            share.stands_at(after);
        }
        Ok(written)
    }

    /// Grants a branch, which was seen as this, more units, unless that has happened meanwhile.
    async fn grant(
        &self,
        share: &LeaseShare,
        branch: u64,
        found: &Branch,
        wanted: &Wanted,
    ) -> Result<GrantOutcome, StoreError> {
        let Wanted { units, limit, .. } = *wanted;
        let seen = found.granted;
        // The root may have more left: what was released, or reclaimed.
        let mut room = limit.map(|limit| limit.saturating_sub(found.top).max(1));
        loop {
            let part = room.map_or(u64::MAX, |room| room / GRANTED_PART);
            let more = units
                .saturating_mul(GRANTED_FOR_ONE)
                .min(part.min(GRANTED_AHEAD).max(units))
                .min(room.unwrap_or(u64::MAX));
            let mut write = Write::root_of(share)
                .name("#branch", format!("b{branch}"))
                .set("used = if_not_exists(used, :zero) + :more")
                .set("#branch = :total")
                .value(":zero", n(0))
                .value(":more", n(more))
                .value(":total", n(seen + more))
                // Nobody else has granted it more meanwhile, nor has a try whose answer was lost.
                .only_if_still("#branch", ":seen", seen);
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

    /// Ends the share where it is, if anything of it is there, and begins another at a branch. Nothing
    /// more is reported by that.
    async fn move_to(&self, share: &mut LeaseShare, branch: u64) -> Result<(), StoreError> {
        share.release(0, share.reported);
        self.finish_release(share).await?;
        share.branch = Some(branch);
        Ok(())
    }

    /// Has branches return units that nobody has reserved to the root, which has none left under the
    /// limit: as many as are needed for one reservation, if there are as many.
    async fn reclaim(
        &self,
        share: &LeaseShare,
        root: &Root,
        wanted: &mut Wanted,
    ) -> Result<Option<ReserveOutcome>, StoreError> {
        let limit = wanted.limit.unwrap_or(u64::MAX);
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
        // Not always the same first, so that instances which do this at once get in each other's way less.
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
        wanted.units = 1;
        Ok(None)
    }

    /// Returns what nobody has reserved of a branch to the root, in two writes of which each is a sum
    /// that only grows: the branch adds the units to `returned`, and the root follows. Whether the branch
    /// stood as it was seen.
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
                .only_if_still("unreserved", ":left", branch.left)
                .only_if_still("granted", ":granted", branch.granted)
                .only_if_still("returned", ":before", branch.returned);
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
            .only_if_still("#branch", ":seen", seen);
        // If it did not stand there, another instance has followed, or does so next.
        Ok(write.send(self, RESERVING).await?.is_ok())
    }
}

fn reserved(units: u64, used: u64, in_branch: bool) -> ReserveOutcome {
    ReserveOutcome::Reserved {
        units,
        used,
        in_branch,
    }
}

/// Takes units of what a branch has left.
fn reserving_of_branch(write: Write, units: u64, limit: Option<u64>) -> Write {
    let write = write
        .set("unreserved = unreserved - :units")
        .value(":units", n(units))
        // Nobody has reserved them meanwhile.
        .only_if("unreserved >= :units");
    match limit {
        None => write,
        // The root had used no more than the limit when the units were granted.
        Some(limit) => write.only_if("top <= :limit").value(":limit", n(limit)),
    }
}

/// Follows a grant, and takes units of what the branch has left then.
fn following(write: Write, units: u64, grant: Grant) -> Write {
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
        // Nobody else has followed the grant yet, nor has a try whose answer was lost.
        .only_if_still("granted", ":seen", seen);
    if units <= added {
        return write;
    }
    // The rest is still there.
    write
        .only_if("unreserved >= :rest")
        .value(":rest", n(units - added))
}
