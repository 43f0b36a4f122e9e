//! Each cent is charged once, however many runs there are at once and whatever is lost.

#![allow(
    clippy::unwrap_used,
    reason = "a test that cannot begin, or cannot look, has failed"
)]

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Arc, Mutex};

use billing::{ChargeSummary, Mode, Report, run};
use jiff::SignedDuration;
use tokio::task::JoinSet;
use tollgate_local_aws::{Call, Fault};
use tollgate_runtime::{Clock, Entropy};

mod common;

use common::{Stack, cents_of, p};

const CUSTOMERS: [&str; 5] = ["acme", "globex", "initech", "umbrella", "hooli"];
/// Calls that `pro` includes.
const INCLUDED: u64 = 100_000;

/// A stack whose clock no two readings of agree, as of processes that run at once.
fn ticking() -> Stack {
    let mut stack = Stack::new();
    let (time, ticks) = (stack.at.clock(), AtomicI64::new(0));
    stack.app.clock = Clock::from_fn(move || {
        let tick = ticks.fetch_add(1, Ordering::Relaxed);
        time.now() + SignedDuration::from_millis(tick)
    });
    stack
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn one_to_five_runs_at_once_charge_as_much_as_one() {
    for runs in 1..=5 {
        let stack = Arc::new(ticking());
        let mut over = 0;
        for more in [234, 1, 4, 1_000, 5] {
            let included = if over == 0 { INCLUDED } else { 0 };
            over += more;
            for customer in CUSTOMERS {
                let calls = included + more;
                stack.calls(customer, "2026-11-22", "pro", calls).await;
            }
            let mut running = JoinSet::new();
            for _ in 0..runs {
                let stack = Arc::clone(&stack);
                running.spawn(async move { billing::handle(&stack.app).await.unwrap() });
            }
            let reports = running.join_all().await;
            for customer in CUSTOMERS {
                let when = format!("{runs} runs, {over} over");
                stack
                    .assert_each_cent_once(customer, "2026-11", over, &when)
                    .await;
            }
            let charged: u64 = reports.iter().map(|report| report.cents.0).sum();
            let due = cents_of(over) - cents_of(over - more);
            assert_eq!(charged, due * 5, "{runs} runs, {over} over: reported");
        }
    }
}

/// The clock stands still, so that the runs compute charges that are equal to the last letter.
#[tokio::test(start_paused = true)]
async fn reports_of_thirty_runs_at_once_add_up_to_the_ledger() {
    for lost in [Fault::None, Fault::AnswerLost] {
        let stack = Arc::new(Stack::new());
        for customer in CUSTOMERS {
            stack.calls(customer, "2026-11-22", "pro", 101_100).await;
        }
        // The first try of each charge takes effect, as far as any does, and nobody hears of it.
        let tried = Arc::new(Mutex::new(BTreeSet::new()));
        stack.at.aws.inject(move |call| {
            let is_write = call.operation() == "TransactWriteItems";
            if is_write && tried.lock().unwrap().insert(call.body.clone()) {
                lost
            } else {
                Fault::None
            }
        });
        let mut running = JoinSet::new();
        for _ in 0..30 {
            let stack = Arc::clone(&stack);
            running.spawn(async move { billing::handle(&stack.app).await.unwrap() });
        }
        let reports = running.join_all().await;
        let sum = |of: fn(&Report) -> u64| reports.iter().map(of).sum::<u64>();
        assert_eq!(sum(|report| report.charged), 5, "{lost:?}");
        assert_eq!(sum(|report| report.cents.0), 5 * 110, "{lost:?}");
        let closed = reports.iter().flat_map(|report| &report.closed);
        let closed: Vec<String> = closed.map(ToString::to_string).collect();
        assert_eq!(closed.len(), 2, "{closed:?}");
        for customer in CUSTOMERS {
            stack
                .assert_each_cent_once(customer, "2026-11", 1_100, "30 runs")
                .await;
        }
    }
}

/// Draws what a run is made of.
struct Draw(Entropy);

impl Draw {
    fn one<'a>(&self, of: &[&'a str]) -> &'a str {
        of[usize::try_from(self.0.below(of.len() as u64)).unwrap()]
    }

    /// Faults of every kind, at random: on many writes, and on few reads, of which a run makes a
    /// hundred. And at times one customer about whom no call gets through.
    fn faults(&self) -> impl FnMut(&Call) -> Fault + Send + 'static {
        let draw = Draw(self.0.clone());
        let cut_off = (draw.0.below(4) == 0).then(|| draw.one(&CUSTOMERS));
        move |call| {
            if cut_off.is_some_and(|customer| call.body.contains(customer)) {
                return Fault::RequestLost;
            }
            let writes = call.operation() == "TransactWriteItems";
            match draw.0.below(if writes { 30 } else { 600 }) {
                0..4 => Fault::AnswerLost,
                4..7 => Fault::RequestLost,
                7..9 => Fault::Throttled,
                9..13 => Fault::Conflict,
                _ => Fault::None,
            }
        }
    }
}

/// Lets everyone else do that many steps.
async fn pass(steps: u64) {
    for _ in 0..steps {
        tokio::task::yield_now().await;
    }
}

/// A run that may end before it is done, as a process does. Its report, if it came to one.
async fn mortal_run(stack: Arc<Stack>, steps: Option<u64>) -> Option<Report> {
    let end = async {
        match steps {
            Some(steps) => pass(steps).await,
            None => std::future::pending().await,
        }
    };
    tokio::select! {
        biased;
        outcome = run(&stack.app, Mode::Charge) => outcome.ok(),
        () = end => None,
    }
}

/// Nights at the turn of a month, each with one to five runs at once over faults, while usage goes
/// on to be counted; and then a good night. How many runs failed or ended early.
async fn season(seed: u64) -> usize {
    let draw = Draw(Entropy::seeded(seed));
    // A clock that stands still makes runs at once compute the very same charge.
    let stands_still = draw.0.below(2) == 0;
    let stack = Arc::new(if stands_still {
        Stack::new()
    } else {
        ticking()
    });
    let mut calls: BTreeMap<(&str, &str), u64> = BTreeMap::new();
    let mut made: Vec<ChargeSummary> = Vec::new();
    let mut incomplete = 0;
    for now in [
        "2026-11-30T02:00:00Z",
        "2026-12-01T02:00:00Z",
        "2026-12-02T02:00:00Z",
        "2026-12-03T02:00:00Z",
    ] {
        stack.at.time.set(p(now));
        stack.at.aws.inject(draw.faults());
        let mut counting = JoinSet::new();
        for n in 0..draw.0.below(8) {
            let customer = draw.one(&CUSTOMERS);
            let day = draw.one(&["2026-11-29", "2026-11-30", "2026-12-01"]);
            let more = match draw.0.below(3) {
                0 => INCLUDED + draw.0.below(20),
                1 => 1 + draw.0.below(5_000),
                _ => 1 + draw.0.below(12),
            };
            *calls.entry((customer, &day[..7])).or_default() += more;
            // Some of it between what a run reads and what it writes.
            let (steps, stack) = (draw.0.below(200), Arc::clone(&stack));
            counting.spawn(async move {
                pass(steps).await;
                let (id, usage) = (format!("{now} {n}"), (day, "pro", more));
                let counted = stack.try_calls_of(&id, customer, usage).await;
                counted.err().map(|_| (id, customer, usage))
            });
        }
        let mut runs = JoinSet::new();
        for _ in 0..=draw.0.below(5) {
            let steps = (draw.0.below(4) == 0).then(|| draw.0.below(200));
            runs.spawn(mortal_run(Arc::clone(&stack), steps));
        }
        for report in runs.join_all().await {
            let Some(report) = report else {
                incomplete += 1;
                continue;
            };
            incomplete += usize::from(report.failed > 0);
            made.extend(report.charges);
        }
        let uncounted = counting.join_all().await;
        stack.at.aws.heal();
        // As the queue would, which delivers it again.
        for (id, customer, usage) in uncounted.into_iter().flatten() {
            let counted = stack.try_calls_of(&id, customer, usage).await;
            counted.unwrap();
        }
    }
    made.extend(stack.night("2026-12-03T23:00:00Z").await.charges);
    let when = format!("seed {seed}");
    for ((customer, month), calls) in calls {
        let over = calls.saturating_sub(INCLUDED);
        stack
            .assert_each_cent_once(customer, month, over, &when)
            .await;
    }
    let ids: BTreeSet<&str> = made.iter().map(|charge| charge.id.as_str()).collect();
    assert_eq!(ids.len(), made.len(), "{when}: two runs made one charge");
    for charge in made {
        let (customer, month) = (charge.customer_id.as_str(), charge.month.to_string());
        let ledger = stack.charges(customer, &month).await;
        let short = (charge.cents.0, charge.from_call, charge.to_call);
        assert!(ledger.contains(&short), "{when}: {charge:?} has gone");
    }
    incomplete
}

#[tokio::test(start_paused = true)]
async fn whatever_is_lost_each_cent_is_charged_once() {
    let mut incomplete = 0;
    for seed in 0..40 {
        incomplete += season(seed).await;
    }
    // Otherwise the nights were too smooth to show anything.
    assert!(incomplete > 40, "{incomplete}");
}
