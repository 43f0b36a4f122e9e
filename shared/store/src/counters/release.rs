//! Releasing unspent units.

use super::share::{AdmittedCalls, LeaseShare, Observed, Release, Stored, TOMBSTONE_KEPT};
use super::write::{Insertion, TRIES, Write, second};
use crate::Store;
use crate::error::StoreError;
use crate::item::{Item, n};

const RELEASING: &str = "releasing units of a limit";

impl Store {
    /// Completes a pending release, if there is one, and reports `calls`: all calls allowed under the share
    /// so far. A later reservation begins a new share. If the share was removed because it had expired, its
    /// units stay reserved.
    ///
    /// # Errors
    /// When the store fails. The next operation with the share then releases the units, once, unless the
    /// share has been removed.
    pub async fn settle(
        &self,
        share: &mut LeaseShare,
        calls: AdmittedCalls,
    ) -> Result<(), StoreError> {
        self.finish_release(share).await?;
        if share.reported == calls {
            return Ok(());
        }
        self.report(share, calls).await
    }

    /// Completes a pending release.
    pub(super) async fn finish_release(&self, share: &mut LeaseShare) -> Result<(), StoreError> {
        for _ in 0..TRIES {
            let Some(mut release) = share.releasing else {
                return Ok(());
            };
            let was_stored = share.stored.is_some();
            let now = self.clock.now();
            let earlier = release.since;
            let since = *release.since.get_or_insert(now);
            share.releasing = Some(release);
            let written = match &share.stored {
                Some(stored) => self.return_units(share, stored, release).await,
                None if share.is_unconfirmed => self.put_tombstone(share).await,
                None => Ok(Ok(Item::new())),
            };
            // A request that failed without an outage, such as a throttled one, had no effect.
            if written.as_ref().is_err_and(|error| !error.is_outage()) {
                let since = earlier;
                share.releasing = Some(Release { since, ..release });
            }
            let written = written?;
            let observed = match written {
                Ok(_) => Observed::Ended,
                Err(item) => share.observe(&item, &self.entropy),
            };
            match observed {
                Observed::Unchanged => continue,
                Observed::Reserved(units) => {
                    let units = release.units + units;
                    share.releasing = Some(Release { units, ..release });
                    continue;
                }
                // By this try or an earlier one.
                Observed::Ended if was_stored => share.reported = release.calls,
                // Possibly by an earlier try, so long ago that its tombstone is removed.
                Observed::Missing if was_stored && now.duration_since(since) >= TOMBSTONE_KEPT => {
                    share.reported = release.calls;
                }
                // The units stay reserved. Calls that are not reported yet are reported by the next share.
                Observed::Ended | Observed::Missing => {}
            }
            share.end(&self.entropy);
        }
        Err(StoreError::contended(RELEASING))
    }

    /// Returns units to the item in which they were reserved, and ends the share.
    async fn return_units(
        &self,
        share: &LeaseShare,
        stored: &Stored,
        release: Release,
    ) -> Result<Result<Item, Item>, StoreError> {
        let now = self.clock.now();
        let mut write = Write::of_share(share)
            .reporting(share, release.calls)
            .set(match share.branch {
                // Absent if calls were reported and nothing was reserved.
                None => "used = if_not_exists(used, :zero) - :units",
                Some(_) => "unreserved = if_not_exists(unreserved, :zero) + :units",
            })
            .value(":units", n(release.units));
        // A write that reports calls leaves a tombstone, so that a retry finds out whether it took effect.
        write = if share.is_removable(now) && share.reported == release.calls {
            write
                .removing_share(share, stored)
                .set("shares_removed_at = :now")
                // The time of the last removal never decreases, whatever this instance's clock says.
                .only_if("(attribute_not_exists(shares_removed_at) OR shares_removed_at <= :now)")
                .value(":now", second(now))
        } else {
            write.replacing_share(share, share.tombstone(now), &Insertion::default())
        };
        write.send(self, RELEASING).await
    }

    /// Stores the tombstone of a share none of whose writes is confirmed, so that none takes effect any
    /// more.
    async fn put_tombstone(&self, share: &LeaseShare) -> Result<Result<Item, Item>, StoreError> {
        let tombstone = share.tombstone(self.clock.now());
        let write = Write::of_share(share);
        let write = write.replacing_share(share, tombstone, &Insertion::IGNORING_ROOM);
        write.send(self, RELEASING).await
    }

    /// Reports calls without reserving anything: in the item of the share if it is stored, or else at the
    /// root, however many shares that has.
    async fn report(&self, share: &mut LeaseShare, calls: AdmittedCalls) -> Result<(), StoreError> {
        let mut insertion = Insertion::default();
        for _ in 0..TRIES {
            let written = self.send_share(share, 0, calls, &insertion, Write::of_share);
            if let Err(item) = written.await? {
                share.observe(&item, &self.entropy);
                insertion = Insertion::for_full_item(&item, self.clock.now());
            }
            if share.is_settled(calls) {
                return Ok(());
            }
        }
        Err(StoreError::contended(RELEASING))
    }
}
