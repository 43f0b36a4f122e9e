//! What must hold, whatever happened.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use tollgate_domain::decision::Window;
use tollgate_domain::plan::Overrides;

use super::Wrong;
use super::scenario::Scenario;
use super::world::{Call, Counter, Outcome, Story};
use crate::network::{Weather, Write};

/// A share of one unit that was not heard of for so long may have been removed: its unit cannot be released
/// any more, nor can a reservation be found of which the instance does not know that it took effect. Clocks
/// differ by up to four seconds.
const SHARE_KEPT: Duration = Duration::from_secs(55);

/// A write without an answer may have taken effect so long ago that nothing tells of it any more.
const DOUBTED_AFTER: Duration = Duration::from_secs(45);

/// What was not as it must be.
pub(crate) fn wrong(scenario: &Scenario, story: &Story) -> Wrong {
    let model = Model { scenario, story };
    let (mut found, mut ledger) = (Vec::new(), Vec::new());
    for window in [Window::Hour, Window::Month] {
        for (counter, calls) in model.by_counter(window) {
            model.check_limit(window, &counter, &calls, &mut found);
            model.check_counter(&counter, &calls, &mut found);
            model.check_ledger(&counter, &calls, &mut ledger);
        }
    }
    model.check_keys(&mut found);
    if scenario.is_peaceful() && story.asked.throttled == 0 {
        model.check_peace(&mut found);
    }
    Wrong {
        violations: found,
        ledger,
    }
}

struct Model<'a> {
    scenario: &'a Scenario,
    story: &'a Story,
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
        for call in &self.story.calls {
            let counter = counter_of(call, window).clone();
            counters.entry(counter).or_default().push(call);
        }
        counters
    }

    /// How long after it was read a key may decide.
    fn known_for(&self) -> Duration {
        let Scenario {
            key_cache,
            stale_keys,
            fails_open,
            weather,
            ..
        } = *self.scenario;
        // A store that answers leaves nobody to what is known of old.
        let may_be_stale = fails_open && weather != Weather::CALM;
        key_cache
            + if may_be_stale {
                stale_keys
            } else {
                Duration::ZERO
            }
    }

    /// The highest limit that the call may have been let in under: one that held while it was
    /// decided, or as long before as keys are known.
    fn highest_limit(&self, call: &Call, window: Window) -> Option<u64> {
        let history = &self.story.limits[call.key];
        let ends = history.iter().skip(1).map(|(from, _)| Some(*from));
        let in_force = history
            .iter()
            .zip(ends.chain([None]))
            .filter(|((from, _), until)| {
                let is_over = until.is_some_and(|until| until + self.known_for() < call.began);
                !is_over && *from <= call.ended
            });
        in_force
            .map(|((_, limits), _)| limit_of(limits, window).unwrap_or(u64::MAX))
            .max()
            .filter(|limit| *limit < u64::MAX)
    }

    /// Of the calls that were let in under this limit or a lower one, there are no more than that.
    fn check_limit(&self, window: Window, counter: &str, calls: &[&Call], found: &mut Vec<String>) {
        let admitted = calls
            .iter()
            .filter(|call| call.outcome == Outcome::Admitted);
        let limits: Vec<Option<u64>> = admitted
            .map(|call| self.highest_limit(call, window))
            .collect();
        for limit in limits.iter().flatten().copied().collect::<BTreeSet<u64>>() {
            let under = |of: &&Option<u64>| of.is_some_and(|of| of <= limit);
            let admitted = count(limits.iter().filter(under));
            if admitted > limit {
                found.push(format!(
                    "{counter}: {admitted} let in, and the limit is {limit}"
                ));
            }
        }
    }

    /// What the counter has in the end.
    fn stored(&self, counter: &str) -> Counter {
        let counters = &self.story.counters;
        counters.get(counter).copied().unwrap_or_default()
    }

    /// Every call that was let in is counted, and no more is taken than was, but for a block of each
    /// instance that did not end in peace.
    fn check_counter(&self, counter: &str, calls: &[&Call], found: &mut Vec<String>) {
        let stored = self.stored(counter);
        let admitted = count(
            calls
                .iter()
                .filter(|call| call.outcome == Outcome::Admitted),
        );
        if stored.reserved < admitted {
            found.push(format!("{counter}: {admitted} let in, and {stored:?}"));
        }
        if stored.spent > stored.reserved || stored.reserved > stored.used {
            found.push(format!(
                "{counter}: more is spent than is reserved: {stored:?}"
            ));
        }
        let writes = || {
            self.story
                .writes
                .iter()
                .map(|line| of_counter(line, counter))
        };
        let reservations = writes().flatten().filter_map(|write| write.units);
        let block = reservations.max().unwrap_or(0);
        let silences: Vec<Silence> = writes().flat_map(|line| silences(&line)).collect();
        let unanswered = count(silences.iter().filter(|silence| !silence.after_answer));
        let single_units = count(silences.iter().filter(|silence| silence.after_answer));
        let late = writes().map(|line| late_effects(&line)).sum::<u64>();
        let lost = count(self.story.lost.iter()) + unanswered + late;
        // With limits that differ, units taken under a higher one can lie unused beside a block.
        let blocks = if self.limits_differ() { 2 } else { 1 };
        let bound = lost * block * blocks + single_units;
        let stranded = stored.reserved.saturating_sub(admitted);
        if stranded > bound {
            found.push(format!(
                "{counter}: {stranded} stay taken; {lost} times a block of {block} may be lost, and \
                 {single_units} units"
            ));
        }
    }

    /// What a counter says of the calls that were let in is what was let in, to the call, but for what
    /// instances had not reported that did not end in peace, and a write that nobody learnt the fate of.
    fn check_ledger(&self, counter: &str, calls: &[&Call], found: &mut Vec<String>) {
        let stored = self.stored(counter);
        let passed =
            |call: &&&Call| matches!(call.outcome, Outcome::Admitted | Outcome::LetThrough);
        let (mut least, mut most) = (0_i64, 0);
        for (line, writes) in self.story.writes.iter().enumerate() {
            let of_line = calls.iter().filter(|call| call.line == line);
            let passed = count(of_line.filter(passed));
            let writes = of_counter(writes, counter);
            let in_doubt = count(silences(&writes).iter().filter(|it| !it.after_answer));
            let late = late_effects(&writes);
            let is_lost = self.story.lost.contains(&line);
            if is_lost || in_doubt > 0 {
                // One call more was reported for each that was decided as it was cut off.
                most += passed + u64::try_from(self.scenario.calls_at_once).unwrap_or(0) + late;
                let let_through = calls.iter().filter(|call| call.line == line);
                let let_through =
                    count(let_through.filter(|call| call.outcome == Outcome::LetThrough));
                let block = writes.iter().filter_map(|write| write.units).max();
                let block = block.unwrap_or(0);
                // What a write without an answer reported is reported again.
                most += (let_through + block) * in_doubt;
                let unreported = let_through + block * (1 + in_doubt);
                // A call that was reported in advance, and then refused, is taken back even if it is in
                // doubt whether the report took effect.
                let reported = signed(passed).saturating_sub(signed(unreported));
                least += reported.max(-signed(in_doubt));
            } else {
                least += signed(passed);
                most += passed + late;
            }
        }
        let ledger = stored.spent + stored.uncounted;
        let least = u64::try_from(least).unwrap_or(0);
        if !(least..=most).contains(&ledger) {
            found.push(format!(
                "{counter}: the ledger has {ledger}, and from {least} to {most} were let in: {stored:?}"
            ));
        }
    }

    fn limits_differ(&self) -> bool {
        let mut all = self.story.limits.iter().flatten().map(|(_, limits)| limits);
        let first = all.next();
        all.any(|other| Some(other) != first)
    }

    /// A revoked key opens nothing once what is remembered of it is over, and calls pass uncounted
    /// only where the plan says so.
    fn check_keys(&self, found: &mut Vec<String>) {
        for call in &self.story.calls {
            let passed = matches!(call.outcome, Outcome::Admitted | Outcome::LetThrough);
            let late = self.story.revoked[call.key]
                .is_some_and(|revoked| call.began >= revoked + self.known_for());
            if passed && late {
                found.push(format!("key {} was let in after it was revoked", call.key));
            }
            if call.outcome == Outcome::LetThrough && !self.scenario.fails_open {
                found.push("a call passed uncounted on a plan that fails closed".to_owned());
            }
        }
    }

    /// Where nothing fails: every call is decided within limits, the first that is refused finds the
    /// limit used up but for what other instances hold, and in the end every unit is accounted for.
    fn check_peace(&self, found: &mut Vec<String>) {
        let undecided =
            |call: &&Call| !matches!(call.outcome, Outcome::Admitted | Outcome::Refused(_));
        for call in self.story.calls.iter().filter(undecided) {
            found.push(format!("without a fault a call came to {:?}", call.outcome));
        }
        for (counter, stored) in &self.story.counters {
            if stored.spent != stored.reserved {
                found.push(format!("{counter}: {stored:?} after all went well"));
            }
        }
        let refused = self
            .story
            .calls
            .iter()
            .filter_map(|call| match call.outcome {
                Outcome::Refused(window) => Some((call, window)),
                _ => None,
            });
        let Some((first, window)) = refused.min_by_key(|(call, _)| call.ended) else {
            return;
        };
        let counter = counter_of(first, window);
        let admitted = count(self.story.calls.iter().filter(|call| {
            call.outcome == Outcome::Admitted
                && counter_of(call, window) == counter
                && call.began <= first.ended
        }));
        let limit = self.highest_limit(first, window).unwrap_or(0);
        let writes = self.story.writes.iter();
        let reservations = writes.flat_map(|line| of_counter(line, counter));
        let block = reservations
            .filter_map(|write| write.units)
            .max()
            .unwrap_or(0);
        let instances = u64::try_from(self.scenario.skews_ms.len()).unwrap_or(0);
        // Keys without a quota take blocks of the month that others have a quota of.
        let is_strict = self.scenario.max_lease == 1
            && self
                .scenario
                .keys
                .iter()
                .all(|key| limit_of(key, window).is_some());
        let held = if is_strict {
            // A call that the month is about to refuse has its hour already.
            count(self.story.calls.iter().filter(|call| {
                counter_of(call, window) == counter
                    && matches!(call.outcome, Outcome::Refused(_))
                    && call.began <= first.ended
                    && call.ended > first.ended
            }))
        } else {
            instances * block
        };
        if admitted + held < limit {
            found.push(format!(
                "{counter}: refused after {admitted} of {limit}, with at most {held} held elsewhere"
            ));
        }
    }
}

/// The writes of a counter: of its root, and of branches.
fn of_counter(line: &[Write], counter: &str) -> Vec<Write> {
    let is_of_it = |write: &&Write| {
        let rest = write.counter.strip_prefix(counter);
        rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('#'))
    };
    line.iter().filter(is_of_it).cloned().collect()
}

/// Reservations that took effect unseen after the instance's last write, so that nothing it did could find
/// them: it had given up the request, and it arrived all the same.
fn late_effects(writes: &[Write]) -> u64 {
    let last = writes.last().map(|write| write.at);
    let unseen = writes.iter().filter_map(|write| write.unseen_effect);
    count(unseen.filter(|effect| last.is_some_and(|last| *effect >= last)))
}

/// A time in which an instance's share may have been removed.
struct Silence {
    /// Whether the last write before it was answered.
    after_answer: bool,
}

fn silences(writes: &[Write]) -> Vec<Silence> {
    let mut silences = Vec::new();
    // The first write without an answer since the last that is known to have taken effect.
    let mut unanswered = None;
    for pair in writes.windows(2) {
        let [before, after] = pair else { continue };
        if before.is_done {
            unanswered = None;
        } else if !before.is_answered {
            unanswered = unanswered.or(Some(before.at));
        }
        let (began, longest) = match unanswered {
            None => (before.at, SHARE_KEPT),
            Some(since) => (since, DOUBTED_AFTER),
        };
        if after.at.duration_since(began) >= longest {
            silences.push(Silence {
                after_answer: unanswered.is_none(),
            });
            unanswered = None;
        }
    }
    silences
}
