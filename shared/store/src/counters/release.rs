//! Releasing units that were not spent.

use super::TRIES;
use super::share::{Calls, Learnt, LeaseShare, Release, Stored, TRACE_KEPT};
use super::write::{Entering, Write, second};
use crate::Store;
use crate::error::StoreError;
use crate::item::{Item, n};

const RELEASING: &str = "releasing units of a limit";

impl Store {
    /// Completes the release that has begun, if one has, and reports all calls that the share has
    /// allowed. A later reservation begins another share. Where the share has been removed for dead
    /// meanwhile, its units stay reserved.
    ///
    /// # Errors
    /// When the store does not answer. The next operation with the share sees to it that its units
    /// are released, once, if it still stands.
    pub async fn settle(&self, share: &mut LeaseShare, calls: Calls) -> Result<(), StoreError> {
        self.finish_release(share).await?;
        if share.reported == calls {
            return Ok(());
        }
        self.report(share, calls).await
    }

    /// Completes a release that has begun.
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
                None if share.is_unanswered => self.bar(share).await,
                None => Ok(Ok(Item::new())),
            };
            // As with a reservation.
            if written.as_ref().is_err_and(|error| !error.is_outage()) {
                let since = earlier;
                share.releasing = Some(Release { since, ..release });
            }
            let written = written?;
            let learnt = match written {
                Ok(_) => Learnt::Ended,
                Err(item) => share.learn(&item, &self.entropy),
            };
            match learnt {
                Learnt::Stands => continue,
                Learnt::Reserved(units) => {
                    let left = release.left + units;
                    share.releasing = Some(Release { left, ..release });
                    continue;
                }
                // By this try or an earlier one.
                Learnt::Ended if was_stored => share.reported = release.calls,
                // By an earlier try, perhaps, so long ago that its trace is gone.
                Learnt::Gone if was_stored && now.duration_since(since) >= TRACE_KEPT => {
                    share.reported = release.calls;
                }
                // The units stay reserved, and what is not reported yet is by another share.
                Learnt::Ended | Learnt::Gone => {}
            }
            share.end(&self.entropy);
        }
        Err(StoreError::contended(RELEASING))
    }

    /// Returns units to where they were reserved, and ends the share.
    async fn return_units(
        &self,
        share: &LeaseShare,
        stored: &Stored,
        release: Release,
    ) -> Result<Result<Item, Item>, StoreError> {
        let now = self.clock.now();
        let mut write = Write::holding(share)
            .reporting(share, release.calls)
            .set(match share.branch {
                // There is none if calls were reported and nothing was reserved.
                None => "used = if_not_exists(used, :zero) - :left",
                Some(_) => "unreserved = if_not_exists(unreserved, :zero) + :left",
            })
            .value(":left", n(release.left));
        // What reports something leaves a trace, so that it is known whether it has taken effect.
        write = if share.is_removable(now) && share.reported == release.calls {
            write
                .removing(share, stored)
                .set("swept = :now")
                .only_if("(attribute_not_exists(swept) OR swept <= :now)")
                .value(":now", second(now))
        } else {
            write.moving(share, share.ended(now), &Entering::default())
        };
        write.send(self, RELEASING).await
    }

    /// Takes the place of a share of which no write was answered, so that none takes effect any more.
    async fn bar(&self, share: &LeaseShare) -> Result<Result<Item, Item>, StoreError> {
        let ended = share.ended(self.clock.now());
        let write = Write::holding(share).moving(share, ended, &Entering::DESPITE_CROWD);
        write.send(self, RELEASING).await
    }

    /// Reports calls without reserving anything: at the root, however many shares it has, unless a share
    /// stands elsewhere.
    async fn report(&self, share: &mut LeaseShare, calls: Calls) -> Result<(), StoreError> {
        let mut entering = Entering::default();
        for _ in 0..TRIES {
            let written = self.send_share(share, 0, calls, &entering, Write::holding);
            if let Err(item) = written.await? {
                share.learn(&item, &self.entropy);
                entering = Entering::crowded(&item, self.clock.now());
            }
            if share.is_settled(calls) {
                return Ok(());
            }
        }
        Err(StoreError::contended(RELEASING))
    }
}
