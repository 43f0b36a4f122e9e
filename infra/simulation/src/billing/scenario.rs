//! Scenarios, generated from seeds.

use std::time::Duration;

use tollgate_runtime::Entropy;

use super::stripe::StripeFaults;
use crate::crash::Crash;
use crate::network::FaultRates;
use crate::random::{Step, index, skew_ms};

/// Customers of a run.
pub(crate) const CUSTOMERS: usize = 3;
/// Plans that the customers move between.
pub(crate) const PLANS: [&str; 4] = ["free", "pro", "team", "enterprise"];
/// Time of the start, on the first day of a month.
pub(crate) const START: &str = "2026-11-01T00:00:00Z";
/// Days until the run ends, some days after the month has closed.
const DAYS: u64 = 38;
/// Days of the month, in which usage is made.
pub(crate) const MONTH_DAYS: u64 = 30;
const DAY: Duration = Duration::from_secs(86_400);

/// A run to simulate.
#[derive(Debug)]
pub(crate) struct Scenario {
    /// Cadence of the plan `pro`.
    pub(crate) cadence: &'static str,
    /// Faults of the way to the tables.
    pub(crate) table_faults: FaultRates,
    /// Faults of the way to Stripe.
    pub(crate) stripe_faults: StripeFaults,
    /// Clock skews of processes.
    pub(crate) skews_ms: Vec<i64>,
    /// Whether customers subscribe at Stripe, and get their plans from that.
    pub(crate) subscribes: bool,
    pub(crate) on_unpaid: OnUnpaid,
    pub(crate) steps: Vec<Step<Event>>,
}

/// Consequence of an outstanding payment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum OnUnpaid {
    Nothing,
    Suspend,
    Move,
}

/// Event of a step.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Event {
    /// A usage event of a customer, with so many calls, made so many hours ago.
    Usage {
        customer: usize,
        calls: u64,
        hours_ago: u64,
    },
    /// Another usage event under the id of the one before.
    Rival { customer: usize },
    /// An adjustment of calls of an earlier day.
    Adjust {
        customer: usize,
        calls: i64,
        days_ago: u64,
    },
    /// The customer moves to another plan.
    ChangePlan { customer: usize, plan: usize },
    /// The customer becomes one of Stripe's.
    AddRecipient { customer: usize },
    /// The customer is linked to another Stripe customer.
    Relink { customer: usize },
    /// The customer's link is removed.
    Unlink { customer: usize },
    /// The customer is linked again to its last Stripe customer, if it is linked to none.
    LinkBack { customer: usize },
    /// The subscriptions of Stripe customers end that the customer was linked to before.
    CancelFormer { customer: usize },
    /// Billing runs at the same time, each of which crashes after so many milliseconds, or not.
    Bill { runs: [Option<Crash>; 2] },
    /// Charge workers at the same time.
    Submit { workers: [Option<Crash>; 3] },
    /// The customer subscribes to a plan at Stripe, if it has no subscription.
    Subscribe { customer: usize, plan: usize },
    /// The customer's subscription gets the price of another plan.
    Switch { customer: usize, plan: usize },
    /// The customer's subscription ends.
    Cancel { customer: usize },
    /// The customer's card is declined from now on, or no longer.
    Decline { customer: usize, is_declined: bool },
    /// The customer pays its open invoices.
    Pay { customer: usize },
    /// Events of Stripe arrive, each so many times, and are handled by workers at the same time.
    Deliver {
        copies: u32,
        is_shuffled: bool,
        workers: [Option<Crash>; 2],
    },
    /// The nightly run names the customers who are to be followed up.
    FollowUp,
    /// All events are handled, and customers are compared with their subscriptions.
    Compare,
}

impl Scenario {
    pub(crate) fn generate(seed: u64) -> Self {
        let entropy = Entropy::seeded(seed ^ 0xb111);
        let pick = |bound: usize| index(&entropy, bound);
        let percent = |percent: u64| entropy.below(100) < percent;
        let crash = |likely: u64| Crash::draw(&entropy, likely, [2_000, 90_000]);
        let crashes = [0, 30, 60][pick(3)];
        let mut at: Vec<(Duration, Event)> = Vec::new();
        let time = |day: u64, second: u64| days(day) + Duration::from_secs(second);
        for day in 0..DAYS {
            for customer in 0..CUSTOMERS {
                let second = 10_000 + entropy.below(70_000);
                if day < MONTH_DAYS && percent(60) {
                    let usage = Event::Usage {
                        customer,
                        calls: 1 + entropy.below(4),
                        hours_ago: if percent(20) { entropy.below(48) } else { 0 },
                    };
                    at.push((time(day, second), usage));
                    if percent(8) {
                        at.push((time(day, second + 400), Event::Rival { customer }));
                    }
                }
                if day > 2 && percent(10) {
                    // After the close of the month, only in the customer's favour: nothing else is charged then.
                    let calls = 1 + i64::try_from(entropy.below(5)).unwrap_or(0);
                    let calls = if day >= MONTH_DAYS || percent(70) {
                        -calls
                    } else {
                        calls
                    };
                    let adjust = Event::Adjust {
                        customer,
                        calls,
                        days_ago: entropy.below(day.min(12)),
                    };
                    at.push((time(day, second + 900), adjust));
                }
                if day < MONTH_DAYS && percent(6) {
                    let plan = pick(PLANS.len());
                    at.push((
                        time(day, second + 1_300),
                        Event::ChangePlan { customer, plan },
                    ));
                }
            }
            // Some nightly runs are missed, for days on end.
            let is_missed = percent([5, 60][usize::from(seed.is_multiple_of(4))]);
            if !is_missed {
                let second = percent(40).then(|| crash(crashes));
                let runs = [Some(crash(crashes)), second];
                at.push((time(day, 7_200), Event::Bill { runs }));
            }
            if percent([90, 25][usize::from(seed.is_multiple_of(3))]) {
                let workers = [
                    Some(crash(crashes)),
                    percent(60).then(|| crash(crashes)),
                    percent(30).then(|| crash(crashes)),
                ];
                at.push((
                    time(day, 7_500 + entropy.below(600)),
                    Event::Submit { workers },
                ));
                if percent(50) {
                    at.push((
                        time(day, 9_000 + entropy.below(50_000)),
                        Event::Submit { workers },
                    ));
                }
            }
        }
        for customer in 0..CUSTOMERS {
            let day = if percent(30) { entropy.below(DAYS) } else { 0 };
            at.push((time(day, 60), Event::AddRecipient { customer }));
        }
        // Of its own, so that the other steps are the same with and without subscriptions.
        let subscriptions = Entropy::seeded(seed ^ 0x5b5c);
        let subscribes = !seed.is_multiple_of(3);
        if subscribes {
            at.extend(subscription_steps(&subscriptions, crashes));
            // For the same reason.
            at.extend(link_steps(&Entropy::seeded(seed ^ 0x11c4)));
            at.extend(debt_steps(&Entropy::seeded(seed ^ 0xdeb7)));
        }
        at.sort_by_key(|(time, _)| *time);
        let mut last = Duration::ZERO;
        let steps = at.into_iter().map(|(time, event)| {
            let after = time - last;
            last = time;
            Step { after, event }
        });
        let rates = [0, 5, 15];
        Self {
            cadence: ["nightly", "nightly", "weekly", "monthly"][pick(4)],
            table_faults: [FaultRates::NONE, FaultRates::LOSSY, FaultRates::CONTENDED][pick(3)],
            stripe_faults: StripeFaults {
                request_lost: rates[pick(3)],
                response_lost: [0, 10, 40][pick(3)],
                late: rates[pick(3)],
                own: [0, 10, 30][pick(3)],
            },
            skews_ms: (0..4).map(|_| skew_ms(&entropy, 5_000)).collect(),
            subscribes,
            on_unpaid: [
                OnUnpaid::Nothing,
                OnUnpaid::Suspend,
                OnUnpaid::Suspend,
                OnUnpaid::Move,
            ][index(&subscriptions, 4)],
            steps: steps.collect(),
        }
    }
}

fn days(days: u64) -> Duration {
    Duration::from_secs(days * DAY.as_secs())
}

/// Draws what customers do at Stripe, and when its events arrive.
fn subscription_steps(entropy: &Entropy, crashes: u64) -> Vec<(Duration, Event)> {
    let percent = |percent: u64| entropy.below(100) < percent;
    let crash = || Crash::draw(entropy, crashes, [5_000, 60_000]);
    let mut at = Vec::new();
    let mut add = |day: u64, at_ms: u64, event| {
        at.push((days(day) + Duration::from_millis(at_ms), event));
    };
    let deliver = || Event::Deliver {
        copies: 1 + u32::try_from(entropy.below(3)).unwrap_or(0),
        is_shuffled: percent(50),
        workers: [Some(crash()), percent(60).then(&crash)],
    };
    for day in 0..DAYS {
        for customer in 0..CUSTOMERS {
            let plan = index(entropy, 2);
            let at_ms = 200_000 + entropy.below(86_000_000);
            let draw = entropy.below(100);
            match draw {
                0..12 => add(day, at_ms, Event::Subscribe { customer, plan }),
                12..18 => add(day, at_ms, Event::Switch { customer, plan }),
                18..23 => add(day, at_ms, Event::Cancel { customer }),
                23..33 => add(
                    day,
                    at_ms,
                    Event::Decline {
                        customer,
                        is_declined: draw < 28,
                    },
                ),
                43..48 => {
                    let is_declined = false;
                    add(
                        day,
                        at_ms,
                        Event::Decline {
                            customer,
                            is_declined,
                        },
                    );
                    add(day, at_ms + 1, Event::Pay { customer });
                }
                // Two changes in a moment. Workers may read the subscription before the second, and be late.
                33..43 => {
                    add(day, at_ms, Event::Subscribe { customer, plan });
                    let first = at_ms + entropy.below(1_000);
                    add(day, first, deliver());
                    let change = first + entropy.below(1_500);
                    let second = match percent(50) {
                        true => Event::Switch {
                            customer,
                            plan: 1 - plan,
                        },
                        false => Event::Cancel { customer },
                    };
                    add(day, change, second);
                    add(day, change + entropy.below(500), deliver());
                }
                _ => {}
            }
        }
        for _ in 0..entropy.below(4) {
            let at_ms = 300_000 + entropy.below(86_000_000);
            add(day, at_ms, deliver());
        }
        if percent(80) {
            add(day, 7_400_000, Event::FollowUp);
        }
        if day % 4 == 3 {
            add(day, 86_399_000, Event::Compare);
        }
    }
    at
}

/// Draws when an admin changes links.
fn link_steps(entropy: &Entropy) -> Vec<(Duration, Event)> {
    let mut at = Vec::new();
    for customer in 0..CUSTOMERS {
        let day = 2 + entropy.below(MONTH_DAYS);
        let mut time = days(day) + Duration::from_millis(entropy.below(86_000_000));
        let mut wait = |most: Duration| {
            let most = u64::try_from(most.as_millis()).unwrap_or(u64::MAX);
            time += Duration::from_millis(1 + entropy.below(most));
            time
        };
        match entropy.below(6) {
            0..4 => {
                let plan = index(entropy, 2);
                at.push((wait(DAY), Event::Subscribe { customer, plan }));
                at.push((wait(5 * DAY), Event::Relink { customer }));
                at.push((wait(5 * DAY), Event::CancelFormer { customer }));
            }
            4 => {
                at.push((wait(DAY), Event::Unlink { customer }));
                // In a moment, or after days.
                let longest = [Duration::from_secs(2), 4 * DAY][index(entropy, 2)];
                at.push((wait(longest), Event::LinkBack { customer }));
            }
            _ => {}
        }
    }
    at
}

/// Draws who owes a renewal for longer than the grace period, and then pays.
fn debt_steps(entropy: &Entropy) -> Vec<(Duration, Event)> {
    let mut at = Vec::new();
    for customer in 0..CUSTOMERS {
        if entropy.below(3) == 0 {
            continue;
        }
        let day = 4 + entropy.below(MONTH_DAYS - 10);
        let time =
            |later: u64| days(day + later) + Duration::from_millis(entropy.below(86_000_000));
        let decline = |is_declined| Event::Decline {
            customer,
            is_declined,
        };
        let plan = index(entropy, 2);
        at.push((time(0), Event::Subscribe { customer, plan }));
        at.push((time(1), decline(true)));
        // Within a week, a renewal has failed.
        let paid = time(10 + entropy.below(3));
        at.push((paid, decline(false)));
        at.push((paid, Event::Pay { customer }));
    }
    at
}
