//! The lease share of one instance, as it is stored and as the instance knows it.

use std::fmt;
use std::str::FromStr;

use aws_sdk_dynamodb::types::AttributeValue;
use jiff::{SignedDuration, Timestamp};
use tollgate_domain::id::random_base62;
use tollgate_runtime::Entropy;

use crate::item::{Item, ttl};

/// How long a share outlives a reservation of one unit, which is spent at once: long past every
/// repetition of the write, and clocks that differ by seconds.
const ONE_UNIT_KEPT: SignedDuration = SignedDuration::from_secs(60);
/// How long it outlives a larger one: longer than Lambda keeps an instance.
const BLOCK_KEPT: SignedDuration = SignedDuration::from_hours(24);
/// How long a share stands before it can be removed without a trace: its first write, repeated after
/// that, is older than any that a counter with removed shares takes.
const SETTLED_AFTER: SignedDuration = SignedDuration::from_secs(90);
/// How long the trace of one that has ended stands by whichever clock.
pub(super) const TRACE_KEPT: SignedDuration = SignedDuration::from_secs(80);
/// How much older than the last removal of shares a share's first write may be. What is removed has
/// stood for longer than that and any difference of clocks.
const OLDEST_FIRST_WRITE: SignedDuration = SignedDuration::from_secs(30);
/// Characters of a share's id, 41 bits.
const ID_LEN: usize = 7;

/// Calls that an instance has allowed in one window, since it began to count there.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Calls {
    /// Those that a unit was spent on.
    pub spent: u64,
    /// Those that were allowed without, while the store was down.
    pub uncounted: u64,
}

/// The share of one instance in one counter. It is a part of one window.
#[derive(Debug)]
pub struct LeaseShare {
    pub(super) counter: String,
    pub(super) expires: AttributeValue,
    /// The branch that holds the share; `None` is the root.
    pub(super) branch: Option<u64>,
    /// No other share's.
    id: String,
    /// When its first write was first sent.
    pub(super) joined: Timestamp,
    /// The Unix second of the latest removal of shares that the instance has seen, which its own clock may
    /// be behind.
    swept: i64,
    /// As it stands in the counter, as far as is known; `None` if it was never there or has gone.
    pub(super) stored: Option<Stored>,
    /// Calls that the counter knows of.
    pub(super) reported: Calls,
    /// Whether there are writes of which it is not known whether one of them took effect.
    pub(super) is_unanswered: bool,
    /// A release of which it is not known whether it took effect.
    pub(super) releasing: Option<Release>,
}

/// What an item says of a share.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Learnt {
    /// It stands where it was known to, or a write took effect that reserved nothing.
    Stands,
    /// A write took effect that reserved so many units.
    Reserved(u64),
    /// It was released.
    Ended,
    /// It is not there: it never was, or was removed for dead.
    Gone,
}

/// Units to be returned, with a last report.
#[derive(Debug, Clone, Copy)]
pub(super) struct Release {
    pub(super) left: u64,
    pub(super) calls: Calls,
    /// When it was first sent.
    pub(super) since: Option<Timestamp>,
}

/// A share as its counter holds it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Stored {
    /// Unix second.
    until: i64,
    pub(super) reserved: u64,
    calls: Calls,
}

/// The text that stands in the place of a share that has ended: nothing of it that arrives late takes
/// effect.
const ENDED: &str = "ended";

impl LeaseShare {
    pub(super) fn new(counter: String, expires: Timestamp, entropy: &Entropy) -> Self {
        Self {
            counter,
            expires: ttl(expires),
            branch: None,
            id: new_id(entropy),
            joined: Timestamp::UNIX_EPOCH,
            swept: 0,
            stored: None,
            reported: Calls::default(),
            is_unanswered: false,
            releasing: None,
        }
    }

    /// Whether the counter knows of just these calls, and no write is unanswered.
    #[must_use]
    pub fn is_settled(&self, calls: Calls) -> bool {
        self.reported == calls && !self.is_unanswered && self.releasing.is_none()
    }

    /// Begins to release `left` units, which are not the instance's any more, with a last report.
    /// [`Store::settle`](crate::Store::settle) completes it, and so does a reservation.
    pub fn release(&mut self, left: u64, calls: Calls) {
        // While one is pending nothing is reserved, so there is nothing to add to it.
        self.releasing.get_or_insert(Release {
            left,
            calls,
            since: None,
        });
    }

    pub(super) fn attribute(&self) -> String {
        format!("i{}", self.id)
    }

    /// Notes that a write is sent. Returns whether one was unanswered before.
    pub(super) fn sends(&mut self, now: Timestamp) -> bool {
        // One that is sent again is as old as the first, which may have taken effect.
        if self.stored.is_none() && !self.is_unanswered {
            self.joined = now;
        }
        std::mem::replace(&mut self.is_unanswered, true)
    }

    /// The Unix second from which on a removal of shares keeps the share's first write out. The share, or
    /// its trace, stands until then.
    pub(super) fn fence(&self) -> i64 {
        let joined = self.joined.as_second() + OLDEST_FIRST_WRITE.as_secs();
        joined.max(self.swept + 1)
    }

    /// Whether the share may be removed without a trace.
    pub(super) fn is_removable(&self, now: Timestamp) -> bool {
        now.duration_since(self.joined) >= SETTLED_AFTER && now.as_second() >= self.fence()
    }

    /// The share after a reservation of `units`.
    pub(super) fn after(&self, units: u64, calls: Calls, now: Timestamp) -> Stored {
        let kept = if units > 1 { BLOCK_KEPT } else { ONE_UNIT_KEPT };
        let until = self.fence().max(now.as_second() + kept.as_secs());
        let stored = self.stored.as_ref();
        Stored {
            // It may hold units of an earlier, larger reservation.
            until: stored.map_or(until, |stored| stored.until.max(until)),
            reserved: stored.map_or(0, |stored| stored.reserved) + units,
            calls,
        }
    }

    /// What stands in its place once it has ended, until no write of it can arrive any more.
    pub(super) fn ended(&self, now: Timestamp) -> String {
        let until = self.fence().max(now.as_second() + SETTLED_AFTER.as_secs());
        format!("{until:010} {ENDED}")
    }

    pub(super) fn stands_at(&mut self, stored: Stored) {
        self.is_unanswered = false;
        self.reported = stored.calls;
        self.stored = Some(stored);
    }

    /// Learns from the item that refused a write what became of the share.
    pub(super) fn learn(&mut self, item: &Item, entropy: &Entropy) -> Learnt {
        let swept = swept(item);
        let is_fenced_off = swept >= self.fence();
        self.swept = self.swept.max(swept);
        let text = item.get(&self.attribute());
        let text = text.and_then(|text| text.as_s().ok());
        if text.is_some_and(|text| text.ends_with(ENDED)) {
            return Learnt::Ended;
        }
        if let Some(stored) = text.and_then(|text| text.parse::<Stored>().ok()) {
            let known = self.stored.as_ref().map_or(0, |stored| stored.reserved);
            let units = stored.reserved.saturating_sub(known);
            self.stands_at(stored);
            return match units {
                0 => Learnt::Stands,
                units => Learnt::Reserved(units),
            };
        }
        // Removed for dead: its units stay reserved. Or it is too late for its first write to come in. One
        // without an answer may have taken effect before that; most have not, and so all that is not known
        // to be reported is reported again.
        if self.stored.is_some() || is_fenced_off {
            self.begin_anew(entropy);
        }
        Learnt::Gone
    }

    /// Leaves the counter's share to itself, and takes an id for another.
    pub(super) fn begin_anew(&mut self, entropy: &Entropy) {
        self.id = new_id(entropy);
        self.stored = None;
        self.is_unanswered = false;
    }

    /// Ends the share. What follows is another one.
    pub(super) fn end(&mut self, entropy: &Entropy) {
        self.begin_anew(entropy);
        self.branch = None;
        self.releasing = None;
    }
}

fn new_id(entropy: &Entropy) -> String {
    entropy.with(|rng| random_base62(rng, ID_LEN))
}

/// The second at which a share was last removed from an item.
pub(super) fn swept(item: &Item) -> i64 {
    let value = item.get("swept").and_then(|value| value.as_n().ok());
    value.and_then(|text| text.parse().ok()).unwrap_or(0)
}

/// The shares of an item that may be removed, by the attribute that holds each.
pub(super) fn expired_shares(item: &Item, now: Timestamp) -> Vec<(String, String)> {
    let now = format!("{:010}", now.as_second());
    let shares = item.iter().filter(|(name, _)| name.len() == ID_LEN + 1);
    let shares = shares.filter_map(|(name, value)| {
        let text = name.starts_with('i').then(|| value.as_s().ok())??;
        // Seconds sort as texts until the year 2286.
        (*text < now).then(|| (name.clone(), text.clone()))
    });
    let mut shares: Vec<(String, String)> = shares.collect();
    // What is written is the same for the same item.
    shares.sort_unstable();
    shares
}

impl fmt::Display for Stored {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            until,
            reserved,
            calls: Calls { spent, uncounted },
        } = self;
        write!(f, "{until:010} {reserved} {spent}")?;
        match uncounted {
            0 => Ok(()),
            uncounted => write!(f, " {uncounted}"),
        }
    }
}

/// The text is no share, or one that has ended.
pub(super) struct NoShare;

impl FromStr for Stored {
    type Err = NoShare;

    fn from_str(text: &str) -> Result<Self, NoShare> {
        let mut parts = text
            .split(' ')
            .map(|part| part.parse().map_err(|_| NoShare));
        let mut next = || parts.next().unwrap_or(Err(NoShare));
        let (until, reserved, spent) = (next()?, next()?, next()?);
        let uncounted = parts.next().unwrap_or(Ok(0))?;
        Ok(Self {
            until: i64::try_from(until).map_err(|_| NoShare)?,
            reserved,
            calls: Calls { spent, uncounted },
        })
    }
}
