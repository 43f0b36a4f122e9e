//! Each cent is charged once, however many runs are concurrent and whichever requests and responses are lost.

#![allow(
    clippy::unwrap_used,
    reason = "a test that cannot begin, or cannot look, has failed"
)]

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Arc, Mutex};

use jiff::SignedDuration;
use serde_json::Value;
use tokio::task::JoinSet;
use tollgate_api::billing::{BillingRun, ChargeSummary};
use tollgate_billing::Mode;
use tollgate_local_aws::{Call, Fault};
use tollgate_runtime::{Clock, Entropy};

mod common;

use common::{Stack, cents_of, p, run_whole};

const CUSTOMERS: [&str; 5] = ["acme", "globex", "initech", "umbrella", "hooli"];
/// Calls that `pro` includes.
const INCLUDED: u64 = 100_000;

/// Returns a stack whose clock advances at every reading, as the clocks of concurrent instances differ.
fn ticking() -> Stack {
    let mut stack = Stack::new();
    let (time, ticks) = (stack.at.clock(), AtomicI64::new(0));
    stack.app.billing.clock = Clock::from_fn(move || {
        let tick = ticks.fetch_add(1, Ordering::Relaxed);
        time.now() + SignedDuration::from_millis(tick)
    });
    stack
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn one_to_five_concurrent_runs_charge_as_much_as_one() {
    for runs in 1..=5 {
        let stack = Arc::new(ticking());
        let mut overage = 0;
        for more in [234, 1, 4, 1_000, 5] {
            let included = if overage == 0 { INCLUDED } else { 0 };
            overage += more;
            for customer in CUSTOMERS {
                let calls = included + more;
                stack.calls(customer, "2026-11-22", "pro", calls).await;
            }
            let mut running = JoinSet::new();
            for _ in 0..runs {
                let stack = Arc::clone(&stack);
                running.spawn(async move {
                    billing::handle(&stack.app, &Value::Null, None)
                        .await
                        .unwrap()
                });
            }
            let reports = running.join_all().await;
            for customer in CUSTOMERS {
                let when = format!("{runs} runs, {overage} overage calls");
                stack
                    .assert_each_cent_once(customer, "2026-11", overage, &when)
                    .await;
            }
            let charged: i64 = reports.iter().map(|report| report.cents.0).sum();
            let due = cents_of(overage) - cents_of(overage - more);
            assert_eq!(
                charged,
                due * 5,
                "{runs} runs, {overage} overage calls: reported"
            );
        }
    }
}

/// The clock stands still, so that concurrent runs compute identical charges.
#[tokio::test(start_paused = true)]
async fn reports_of_thirty_concurrent_runs_add_up_to_the_ledger() {
    for lost in [Fault::None, Fault::ResponseLost] {
        let stack = Arc::new(Stack::new());
        for customer in CUSTOMERS {
            stack.calls(customer, "2026-11-22", "pro", 101_100).await;
        }
        // The response to the first write of each charge is lost.
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
            running.spawn(async move {
                billing::handle(&stack.app, &Value::Null, None)
                    .await
                    .unwrap()
            });
        }
        let reports = running.join_all().await;
        let created: u64 = reports.iter().map(|report| report.charge_count).sum();
        assert_eq!(created, 5, "{lost:?}");
        let charged: i64 = reports.iter().map(|report| report.cents.0).sum();
        assert_eq!(charged, 5 * 110, "{lost:?}");
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

/// Source of the random choices of a season.
struct Draw(Entropy);

impl Draw {
    fn one<'a>(&self, of: &[&'a str]) -> &'a str {
        of[usize::try_from(self.0.below(of.len() as u64)).unwrap()]
    }

    /// Injects random faults of every kind: into many writes, and into few reads, since a run makes about a
    /// hundred. In some seasons, all requests that name a certain customer are lost.
    fn faults(&self) -> impl FnMut(&Call) -> Fault + Send + 'static {
        let draw = Draw(self.0.clone());
        let cut_off = (draw.0.below(4) == 0).then(|| draw.one(&CUSTOMERS));
        move |call| {
            if cut_off.is_some_and(|customer| call.body.contains(customer)) {
                return Fault::RequestLost;
            }
            let writes = call.operation() == "TransactWriteItems";
            match draw.0.below(if writes { 30 } else { 600 }) {
                0..4 => Fault::ResponseLost,
                4..7 => Fault::RequestLost,
                7..9 => Fault::Throttled,
                9..13 => Fault::Conflict,
                _ => Fault::None,
            }
        }
    }
}

/// Lets other tasks run that many steps.
async fn pass(steps: u64) {
    for _ in 0..steps {
        tokio::task::yield_now().await;
    }
}

/// Runs billing, and ends the run after `steps` steps as if its instance had ended. Returns the report if the
/// run finished.
async fn interruptible_run(stack: Arc<Stack>, steps: Option<u64>) -> Option<BillingRun> {
    let end = async {
        match steps {
            Some(steps) => pass(steps).await,
            None => std::future::pending().await,
        }
    };
    tokio::select! {
        biased;
        outcome = run_whole(&stack.app.billing, Mode::Charge) => outcome.ok(),
        () = end => None,
    }
}

/// Simulates the days around the end of a month, each with one to five concurrent runs over faults, while
/// usage is counted, and then a day without faults. Returns how many runs failed or ended early.
async fn season(seed: u64) -> usize {
    let draw = Draw(Entropy::seeded(seed));
    // With a clock that stands still, concurrent runs compute identical charges.
    let stands_still = draw.0.below(2) == 0;
    let stack = Arc::new(if stands_still {
        Stack::new()
    } else {
        ticking()
    });
    let mut calls: BTreeMap<(&str, &str), u64> = BTreeMap::new();
    let mut reported: Vec<ChargeSummary> = Vec::new();
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
            // Some of it is counted between the reads and the writes of a run.
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
            runs.spawn(interruptible_run(Arc::clone(&stack), steps));
        }
        for report in runs.join_all().await {
            let Some(report) = report else {
                incomplete += 1;
                continue;
            };
            incomplete += usize::from(report.failed > 0);
            reported.extend(report.charges);
        }
        let uncounted = counting.join_all().await;
        stack.at.aws.heal();
        // The queue would deliver the failed messages again.
        for (id, customer, usage) in uncounted.into_iter().flatten() {
            let counted = stack.try_calls_of(&id, customer, usage).await;
            counted.unwrap();
        }
    }
    reported.extend(stack.run("2026-12-03T23:00:00Z").await.charges);
    let when = format!("seed {seed}");
    for ((customer, month), calls) in calls {
        let overage = calls.saturating_sub(INCLUDED);
        stack
            .assert_each_cent_once(customer, month, overage, &when)
            .await;
    }
    let ids: BTreeSet<&str> = reported.iter().map(|charge| charge.id.as_str()).collect();
    assert_eq!(
        ids.len(),
        reported.len(),
        "{when}: two runs reported the same charge"
    );
    for charge in reported {
        let (customer, month) = (charge.customer_id.as_str(), charge.month.to_string());
        let ledger = stack.charges(customer, &month).await;
        let short = (charge.cents.0, charge.from_call, charge.to_call);
        assert!(
            ledger.contains(&short),
            "{when}: {charge:?} is not in the ledger"
        );
    }
    incomplete
}

#[tokio::test(start_paused = true)]
async fn under_random_faults_each_cent_is_charged_once() {
    let mut incomplete = 0;
    for seed in 0..40 {
        incomplete += season(seed).await;
    }
    // With fewer, the runs would have tested too little.
    assert!(incomplete > 40, "{incomplete}");
}
