//! Quota counters, from which authorizer instances reserve units of a window's limit, never beyond it.
//!
//! A counter is one item, its root, while few instances use it:
//!
//! | attribute | |
//! |---|---|
//! | `used` | units that are reserved or granted to branches, never more than the limit |
//! | `spent` | calls that each spent a unit, as far as instances have reported them |
//! | `uncounted` | calls that were allowed without a unit, while the store was down |
//! | `i<id>` | lease share of one instance: `<until> <reserved> <spent> [<uncounted>]` |
//! | `shares` | number of lease shares |
//! | `shares_removed_at` | Unix second of the last removal of a share |
//! | `b<n>` | sum of the units that were granted to branch `n` |
//! | `r<n>` | sum of the units that branch `n` has returned |
//!
//! An instance changes its share in the same write as the sums, on the condition that the share is as
//! the instance last saw it. So each write takes effect once, however often it is sent and however late
//! it arrives, and the next write finds out whether one took effect whose response was lost. From the
//! second `until` on, any instance that needs the room may remove the share.
//!
//! A root has room for [`MAX_SHARES`](item::MAX_SHARES) shares, so that a write of it takes one write
//! unit. Further instances use one of [`BRANCHES`](item::BRANCHES) branches: items with shares of their
//! own and, in place of `used`, the units that they were granted (`granted`), those of them that no
//! instance has reserved (`unreserved`), and the root's `used` at the last grant (`top`). A grant takes
//! two writes, and counts once: the root adds it to `used` and to `b<n>`, and the branch follows by
//! setting `granted` to that sum, in a write by any instance. When the root has no units left, branches
//! return theirs in the opposite direction: the branch adds them to `returned`, and the root follows with
//! `used` and `r<n>`.

mod item;
mod release;
mod reserve;
mod share;
mod totals;
mod write;

pub use reserve::ReserveOutcome;
pub use share::{AdmittedCalls, LeaseShare};
pub use totals::CounterTotals;
