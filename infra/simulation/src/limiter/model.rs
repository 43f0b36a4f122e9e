//! Invariants of the limits, checked against the history of a run.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use tollgate_domain::decision::Window;
use tollgate_domain::plan::Overrides;

use super::Deviation;
use super::scenario::Scenario;
use super::simulation::{Call, Counter, History, Outcome};
use crate::network::{FaultRates, Write};

/// Time since an instance's last write after which its share of one unit may have been removed. The unit then
/// can no longer be released, and a reservation with a lost response can no longer be detected. Clocks differ
/// by up to four seconds.
const SHARE_RETENTION: Duration = Duration::from_secs(55);

/// Time since a write without a response after which the share that shows its effect may have been removed.
const UNRESOLVED_AFTER: Duration = Duration::from_secs(45);

/// Checks the history of a run against all invariants.
pub(crate) fn check(scenario: &Scenario, history: &History) -> Deviation {
    let model = Model { scenario, history };
    let (mut violations, mut ledger_mismatches) = (Vec::new(), Vec::new());
    for window in [Window::Hour, Window::Month] {
        for (counter, calls) in model.by_counter(window) {
            model.check_limit(window, &counter, &calls, &mut violations);
            model.check_counter(&counter, &calls, &mut violations);
            model.check_ledger(&counter, &calls, &mut ledger_mismatches);
        }
    }
    model.check_keys(&mut violations);
    if scenario.is_fault_free() && history.consumed.throttled == 0 {
        model.check_without_faults(&mut violations);
    }
    Deviation {
        violations,
        ledger_mismatches,
    }
}

struct Model<'a> {
    scenario: &'a Scenario,
    history: &'a History,
}

fn limit_of(limits: &Overrides, window: Window) -> Option<u64> {
    match window {
        Window::Hour => limits.requests_per_hour,
        Window::Month => limits.monthly_quota,
    }
}

fn counter_of(call: &Call, window: Window) -> &String {
    let [hour, month] = &call.counters;
    match window {
        Window::Hour => hour,
        Window::Month => month,
    }
}

fn signed(count: u64) -> i64 {
    i64::try_from(count).unwrap_or(i64::MAX)
}

fn count<T>(items: impl Iterator<Item = T>) -> u64 {
    u64::try_from(items.count()).unwrap_or(u64::MAX)
}

impl Model<'_> {
    fn by_counter(&self, window: Window) -> BTreeMap<String, Vec<&Call>> {
        let mut counters: BTreeMap<String, Vec<&Call>> = BTreeMap::new();
        for call in &self.history.calls {
            let counter = counter_of(call, window).clone();
            counters.entry(counter).or_default().push(call);
        }
        counters
    }

    /// Returns the greatest age of a cached key with which a call may be decided.
    fn max_key_age(&self) -> Duration {
        let Scenario {
            key_cache,
            stale_keys,
            fails_open,
            faults,
            ..
        } = *self.scenario;
        // Expired keys are used only while the store does not respond.
        let may_be_stale = fails_open && faults != FaultRates::NONE;
        key_cache
            + if may_be_stale {
                stale_keys
            } else {
                Duration::ZERO
            }
    }

    /// Returns the highest limit under which the call may have been decided: the limits in force while it
    /// was decided, and those that a cached key may still have had.
    fn highest_limit(&self, call: &Call, window: Window) -> Option<u64> {
        let limits = &self.history.limits[call.key];
        let ends = limits.iter().skip(1).map(|(from, _)| Some(*from));
        let in_force = limits
            .iter()
            .zip(ends.chain([None]))
            .filter(|((from, _), until)| {
                let is_over = until.is_some_and(|until| until + self.max_key_age() < call.began);
                !is_over && *from <= call.ended
            });
        in_force
            .map(|((_, limits), _)| limit_of(limits, window).unwrap_or(u64::MAX))
            .max()
            .filter(|limit| *limit < u64::MAX)
    }

    /// Checks that no more calls were allowed under a limit than it permits.
    fn check_limit(
        &self,
        window: Window,
        counter: &str,
        calls: &[&Call],
        violations: &mut Vec<String>,
    ) {
        let counted = calls
            .iter()
            .filter(|call| call.outcome == Outcome::AllowedCounted);
        let limits: Vec<Option<u64>> = counted
            .map(|call| self.highest_limit(call, window))
            .collect();
        for limit in limits.iter().flatten().copied().collect::<BTreeSet<u64>>() {
            let under = |of: &&Option<u64>| of.is_some_and(|of| of <= limit);
            let counted = count(limits.iter().filter(under));
            if counted > limit {
                violations.push(format!(
                    "{counter}: {counted} calls allowed under a limit of {limit}"
                ));
            }
        }
    }

    /// Returns the stored totals of a counter at the end of the run.
    fn stored(&self, counter: &str) -> Counter {
        let counters = &self.history.counters;
        counters.get(counter).copied().unwrap_or_default()
    }

    /// Checks that every counted call has a unit, and that no units stay reserved except a lease of each
    /// instance that did not shut down cleanly, and those of writes whose effect was never known.
    fn check_counter(&self, counter: &str, calls: &[&Call], violations: &mut Vec<String>) {
        let stored = self.stored(counter);
        let counted = count(
            calls
                .iter()
                .filter(|call| call.outcome == Outcome::AllowedCounted),
        );
        if stored.reserved < counted {
            violations.push(format!(
                "{counter}: {counted} calls allowed, but stored: {stored:?}"
            ));
        }
        if stored.spent > stored.reserved || stored.reserved > stored.used {
            violations.push(format!(
                "{counter}: not spent <= reserved <= used: {stored:?}"
            ));
        }
        let writes = || {
            self.history
                .writes
                .iter()
                .map(|writes| of_counter(writes, counter))
        };
        let reservations = writes().flatten().filter_map(|write| write.units);
        let lease = reservations.max().unwrap_or(0);
        let gaps: Vec<Gap> = writes().flat_map(|writes| gaps(&writes)).collect();
        let unresolved = count(gaps.iter().filter(|gap| !gap.after_response));
        let single_units = count(gaps.iter().filter(|gap| gap.after_response));
        let late = writes().map(|writes| late_effects(&writes)).sum::<u64>();
        let lost = count(self.history.unclean.iter()) + unresolved + late;
        // With limits that differ, an instance may have units left that it reserved under a higher limit,
        // and a lease besides.
        let leases = if self.limits_differ() { 2 } else { 1 };
        let bound = lost * lease * leases + single_units;
        let stranded = stored.reserved.saturating_sub(counted);
        if stranded > bound {
            violations.push(format!(
                "{counter}: {stranded} units stay reserved; at most {lost} leases of {lease} units and \
                 {single_units} units may be lost"
            ));
        }
    }

    /// Checks that the counter's ledger equals the admitted calls, up to calls not reported by instances
    /// that did not shut down cleanly, and up to writes whose effect was never known.
    fn check_ledger(&self, counter: &str, calls: &[&Call], mismatches: &mut Vec<String>) {
        let stored = self.stored(counter);
        let is_admitted = |call: &&&Call| call.outcome.is_admitted();
        let (mut least, mut most) = (0_i64, 0);
        for (connection, writes) in self.history.writes.iter().enumerate() {
            let of_connection = calls.iter().filter(|call| call.connection == connection);
            let admitted = count(of_connection.filter(is_admitted));
            let writes = of_counter(writes, counter);
            let unresolved = count(gaps(&writes).iter().filter(|gap| !gap.after_response));
            let late = late_effects(&writes);
            let is_unclean = self.history.unclean.contains(&connection);
            if is_unclean || unresolved > 0 {
                // Each call that was being decided when the instance ended may be reported in addition.
                most += admitted + u64::try_from(self.scenario.calls_at_once).unwrap_or(0) + late;
                let uncounted = calls.iter().filter(|call| call.connection == connection);
                let uncounted =
                    count(uncounted.filter(|call| call.outcome == Outcome::AllowedUncounted));
                let lease = writes.iter().filter_map(|write| write.units).max();
                let lease = lease.unwrap_or(0);
                // The calls that a write without a response reported are reported again.
                most += (uncounted + lease) * unresolved;
                let unreported = uncounted + lease * (1 + unresolved);
                // A call that was reported in advance and then denied is subtracted, even if the report
                // may not have taken effect.
                let reported = signed(admitted).saturating_sub(signed(unreported));
                least += reported.max(-signed(unresolved));
            } else {
                least += signed(admitted);
                most += admitted + late;
            }
        }
        let ledger = stored.spent + stored.uncounted;
        let least = u64::try_from(least).unwrap_or(0);
        if !(least..=most).contains(&ledger) {
            mismatches.push(format!(
                "{counter}: the ledger has {ledger} admitted calls, expected {least} to {most}: {stored:?}"
            ));
        }
    }

    fn limits_differ(&self) -> bool {
        let mut all = self
            .history
            .limits
            .iter()
            .flatten()
            .map(|(_, limits)| limits);
        let first = all.next();
        all.any(|other| Some(other) != first)
    }

    /// Checks that no call is allowed with a revoked key once cached copies of it have expired, and that
    /// calls are allowed uncounted only on a plan that fails open.
    fn check_keys(&self, violations: &mut Vec<String>) {
        for call in &self.history.calls {
            let is_after_revocation = self.history.revoked[call.key]
                .is_some_and(|revoked| call.began >= revoked + self.max_key_age());
            if call.outcome.is_admitted() && is_after_revocation {
                violations.push(format!(
                    "a call was allowed with key {} after its revocation",
                    call.key
                ));
            }
            if call.outcome == Outcome::AllowedUncounted && !self.scenario.fails_open {
                violations.push("a call was allowed uncounted on a fail-closed plan".to_owned());
            }
        }
    }

    /// Checks a run without faults: every call is allowed and counted, or denied by a limit; at the first
    /// denial the limit is used up, except for units leased by other instances; and in the end every
    /// reserved unit is spent.
    fn check_without_faults(&self, violations: &mut Vec<String>) {
        let is_undecided =
            |call: &&Call| !matches!(call.outcome, Outcome::AllowedCounted | Outcome::Denied(_));
        for call in self.history.calls.iter().filter(is_undecided) {
            violations.push(format!(
                "a call ended with {:?} in a run without faults",
                call.outcome
            ));
        }
        for (counter, stored) in &self.history.counters {
            if stored.spent != stored.reserved {
                violations.push(format!(
                    "{counter}: units stay reserved after a run without faults: {stored:?}"
                ));
            }
        }
        let denied = self
            .history
            .calls
            .iter()
            .filter_map(|call| match call.outcome {
                Outcome::Denied(window) => Some((call, window)),
                _ => None,
            });
        let Some((first, window)) = denied.min_by_key(|(call, _)| call.ended) else {
            return;
        };
        let counter = counter_of(first, window);
        let counted = count(self.history.calls.iter().filter(|call| {
            call.outcome == Outcome::AllowedCounted
                && counter_of(call, window) == counter
                && call.began <= first.ended
        }));
        let limit = self.highest_limit(first, window).unwrap_or(0);
        let writes = self.history.writes.iter();
        let reservations = writes.flat_map(|writes| of_counter(writes, counter));
        let lease = reservations
            .filter_map(|write| write.units)
            .max()
            .unwrap_or(0);
        let instances = u64::try_from(self.scenario.skews_ms.len()).unwrap_or(0);
        // Keys without a quota reserve whole leases in a month that other keys have a quota for.
        let is_strict = self.scenario.max_lease == 1
            && self
                .scenario
                .keys
                .iter()
                .all(|key| limit_of(key, window).is_some());
        let leased = if is_strict {
            // A call that the month is about to deny has a unit of its hour already. None has a unit of the
            // month that the hour is about to deny.
            count(self.history.calls.iter().filter(|call| {
                counter_of(call, window) == counter
                    && call.outcome == Outcome::Denied(Window::Month)
                    && window == Window::Hour
                    && call.began <= first.ended
                    && call.ended > first.ended
            }))
        } else {
            instances * lease
        };
        if counted + leased < limit {
            violations.push(format!(
                "{counter}: denied after {counted} of {limit} calls, with at most {leased} units leased \
                 by other instances"
            ));
        }
    }
}

/// Returns the writes of a counter: of its root, and of its branches.
fn of_counter(writes: &[Write], counter: &str) -> Vec<Write> {
    let is_of_counter = |write: &&Write| {
        let rest = write.counter.strip_prefix(counter);
        rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('#'))
    };
    writes.iter().filter(is_of_counter).cloned().collect()
}

/// Counts the writes that took effect after the instance's last write with the same share, without a response that reached
/// it: the request had timed out, but arrived later. The instance could not detect them.
fn late_effects(writes: &[Write]) -> u64 {
    let is_late = |write: &&Write| {
        let Some(effect) = write.unseen_effect else {
            return false;
        };
        let (before, after) = writes.split_at(writes.partition_point(|write| write.at <= effect));
        match (before.last(), after.first()) {
            // After so long a time, an instance writes with another share, if the share was of one unit at most. Without
            // a response, the gap is an unresolved one.
            (Some(before), Some(after)) => {
                write.units.is_none_or(|units| units <= 1)
                    && before.has_response
                    && after.at.duration_since(before.at) >= SHARE_RETENTION
            }
            _ => true,
        }
    };
    count(writes.iter().filter(is_late))
}

/// A time between two writes that was so long that the instance's share may have been removed.
struct Gap {
    /// Whether the last write before the gap had a response.
    after_response: bool,
}

fn gaps(writes: &[Write]) -> Vec<Gap> {
    let mut gaps = Vec::new();
    // The first write without a response since the last write that is known to have taken effect.
    let mut unresolved = None;
    for pair in writes.windows(2) {
        let [before, after] = pair else { continue };
        if before.is_confirmed {
            unresolved = None;
        } else if !before.has_response {
            unresolved = unresolved.or(Some(before.at));
        }
        let (began, longest) = match unresolved {
            None => (before.at, SHARE_RETENTION),
            Some(since) => (since, UNRESOLVED_AFTER),
        };
        if after.at.duration_since(began) >= longest {
            gaps.push(Gap {
                after_response: unresolved.is_none(),
            });
            unresolved = None;
        }
    }
    gaps
}
