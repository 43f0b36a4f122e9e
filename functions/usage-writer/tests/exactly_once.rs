//! Usage events are counted exactly once, whichever requests and responses are lost, however often and in
//! whatever order they are delivered, and wherever an instance ends.

#![allow(
    clippy::unwrap_used,
    reason = "a test that cannot begin, or cannot look, has failed"
)]

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex};

use jiff::{SignedDuration, Timestamp};
use serde_json::{Value, json};
use tokio::sync::Notify;
use tokio::task::JoinSet;
use tollgate_domain::money::MicroUsd;
use tollgate_domain::usage::Aggregate;
use tollgate_local_aws::{Call, Fault};
use tollgate_runtime::Entropy;
use tollgate_store::schema::{QUARANTINE, USAGE};

mod common;

use common::{
    NOW, Stack, aggregate, around, batch, body, deliver, p, record, reordered, usage_event, with,
};

const NONE: [&str; 0] = [];

#[tokio::test]
async fn a_duplicate_event_changes_nothing() {
    let stack = Stack::new();
    let costly = json!([{ "provider": "anthropic", "tokens": 7, "micro_usd": 21 }]);
    let records = [
        with(record(NOW, "/a"), "costs", costly),
        with(record(NOW, "/b"), "status", 404),
        json!("no record"),
    ];
    let body = body(&usage_event("e-1", "acme", records));
    stack.count(&body).await;
    let before = [USAGE, QUARANTINE].map(|table| stack.items(table));
    // The days of the customer and of all customers.
    assert_eq!(before.each_ref().map(Vec::len), [2, 1]);
    let copies: Vec<(String, &str)> = (0..20).map(|n| (n.to_string(), body.as_str())).collect();
    stack.at.time.set(p("2026-11-29T10:00:00Z"));
    assert_eq!(deliver(&stack.app, batch(&copies)).await, NONE);
    let after = [USAGE, QUARANTINE].map(|table| stack.items(table));
    assert_eq!(after, before);
    assert_eq!(stack.logged(&["acme"]).await.len(), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn copies_of_an_event_in_concurrent_writers_count_once() {
    let stack = Arc::new(Stack::new());
    let body = Arc::new(body(&wide("e-1")));
    let mut writers = JoinSet::new();
    for _ in 0..8 {
        let (stack, body) = (Arc::clone(&stack), Arc::clone(&body));
        writers.spawn(async move {
            let copies = [("1", body.as_str()), ("2", body.as_str())];
            deliver(&stack.app, batch(&copies)).await
        });
    }
    // Whoever has waited too long for another writer returns its messages.
    let returned = writers.join_all().await.concat();
    assert!(
        returned.len() < 16,
        "none of the writers has counted the event"
    );
    assert_counted_once(&stack, "after all").await;
    stack.count(&body).await;
    assert_counted_once(&stack, "at another delivery").await;
}

/// Returns a usage event of 100 records at 100 endpoints, the last of which is invalid: two transactions.
fn wide(id: &str) -> Value {
    let mut records: Vec<Value> = (0..100).map(|n| record(NOW, &format!("/{n}"))).collect();
    records[99]["plan"] = "platinum".into();
    usage_event(id, "acme", records)
}

/// Asserts that each of the 99 valid records of [`wide`] is counted once.
async fn assert_counted_once(stack: &Stack, when: &str) {
    let mut expected = BTreeMap::from([
        ("acme 2026-11".to_owned(), aggregate(99)),
        ("acme 2026-11-22".to_owned(), aggregate(99)),
    ]);
    for n in 0..99 {
        expected.insert(format!("acme 2026-11-22 GET /{n}"), aggregate(1));
    }
    let aggregates = stack.aggregates(&["acme"], &["2026-11"]).await;
    assert_eq!(aggregates, expected, "{when}");
    let quarantined = stack.quarantined("e-1").await;
    let rejected: Vec<usize> = quarantined
        .iter()
        .flat_map(|q| &q.rejected)
        .map(|r| r.index)
        .collect();
    assert_eq!(rejected, [99], "{when}");
}

/// Returns whether a call is the transaction that counts the second part of a usage event.
fn is_second_part(call: &Call) -> bool {
    let is_counting = call.operation() == "TransactWriteItems";
    is_counting
        && ["#GET /98\"", "#GET /98#"]
            .iter()
            .any(|it| call.body.contains(it))
}

#[tokio::test]
async fn an_event_of_two_parts_is_counted_once_however_often_it_is_delivered() {
    let stack = Stack::new();
    for _ in 0..3 {
        stack.count(&body(&wide("e-1"))).await;
        assert_counted_once(&stack, "at each delivery").await;
    }
    assert_eq!(stack.logged(&["acme"]).await.len(), 2);
}

#[tokio::test(start_paused = true)]
async fn an_event_whose_second_part_fails_is_completed_when_it_is_delivered_again() {
    for fault in [Fault::RequestLost, Fault::ResponseLost, Fault::Conflict] {
        let stack = Stack::new();
        let seen = Arc::new(Mutex::new(0));
        let counter = Arc::clone(&seen);
        stack.at.aws.inject(move |call| {
            if is_second_part(call) {
                *counter.lock().unwrap() += 1;
                fault
            } else {
                Fault::None
            }
        });
        let body = body(&wide("e-1"));
        let failed = deliver(&stack.app, batch(&[("m-1", &body)])).await;
        // If the response was lost, the marker says that the part was counted.
        let took_effect = fault == Fault::ResponseLost;
        assert_eq!(failed.is_empty(), took_effect, "{fault:?}");
        let counted = stack.logged(&["acme"]).await.len();
        assert_eq!(counted, 1 + usize::from(took_effect), "{fault:?}");
        assert!(*seen.lock().unwrap() > 1, "the part is retried");
        stack.at.aws.heal();
        stack.count(&body).await;
        assert_counted_once(&stack, &format!("{fault:?}")).await;
    }
}

#[tokio::test(start_paused = true)]
async fn an_event_is_split_the_same_after_some_of_its_records_have_become_too_old() {
    let stack = Stack::new();
    stack.at.aws.inject(|call| {
        if is_second_part(call) {
            Fault::RequestLost
        } else {
            Fault::None
        }
    });
    let time = |n| if n < 60 { "2026-10-20T10:00:00Z" } else { NOW };
    let records: Vec<Value> = (0..100)
        .map(|n| record(time(n), &format!("/{n}")))
        .collect();
    let body = body(&usage_event("e-1", "acme", records));
    let failed = deliver(&stack.app, batch(&[("m-1", &body)])).await;
    assert_eq!(failed, ["m-1"]);
    stack.at.aws.heal();
    stack.at.time.set(p("2026-11-25T10:00:00Z"));
    stack.count(&body).await;
    let aggregates = stack.aggregates(&["acme"], &["2026-10", "2026-11"]).await;
    assert_eq!(aggregates["acme 2026-10"], aggregate(60));
    assert_eq!(aggregates["acme 2026-11"], aggregate(40));
    assert!(stack.items(QUARANTINE).is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_conflicting_event_between_two_parts_of_another_is_not_counted() {
    let stack = Stack::new();
    stack.at.aws.inject(|call| {
        if is_second_part(call) {
            Fault::RequestLost
        } else {
            Fault::None
        }
    });
    let first = body(&wide("e-1"));
    let failed = deliver(&stack.app, batch(&[("m-1", &first)])).await;
    assert_eq!(failed, ["m-1"]);
    stack.at.aws.heal();
    let mut rival = wide("e-1");
    rival["subject"] = "globex".into();
    stack.count(&body(&rival)).await;
    assert!(stack.aggregates(&["globex"], &["2026-11"]).await.is_empty());
    stack.count(&first).await;
    let aggregates = stack.aggregates(&["acme"], &["2026-11"]).await;
    assert_eq!(aggregates["acme 2026-11"], aggregate(99));
    // The second part's invalid record, and the conflicting event.
    assert_eq!(stack.quarantined("e-1").await.len(), 2);
}

/// Delivers [`wide`] to a writer that ends during its write of that number, which takes effect or does
/// not, and then to another writer.
async fn writer_ends_in_call(number: usize, takes_effect: bool) {
    let stack = Stack::new();
    let ended = Arc::new(Notify::new());
    let (end, aws, mut calls) = (Arc::clone(&ended), stack.at.aws.clone(), 0);
    stack.at.aws.inject(move |call| {
        calls += usize::from(call.operation() == "TransactWriteItems");
        if calls < number {
            return Fault::None;
        }
        if calls == number {
            if takes_effect {
                let (status, response) = aws.call(&call.target, &call.body);
                assert_eq!(status, 200, "{response}");
            }
            end.notify_one();
        }
        Fault::RequestLost
    });
    let body = body(&wide("e-1"));
    let messages = [("m-1", &body)];
    tokio::select! {
        biased;
        () = ended.notified() => {}
        _ = deliver(&stack.app, batch(&messages)) => panic!("the writer outlived call {number}"),
    }
    // Lets the aborted tasks end before the network is restored.
    tokio::task::yield_now().await;
    stack.at.aws.heal();
    let counted = stack.logged(&["acme"]).await.len();
    // The transactions are concurrent: an earlier one may not have begun to take effect.
    let last = usize::from(takes_effect);
    assert!((last..=number - 1 + last).contains(&counted), "{counted}");
    // A part without a marker waits until the attempt is abandoned; if a part of an event fails, its message does.
    assert_eq!(deliver(&stack.app, batch(&messages)).await, ["m-1"]);
    stack.abandon_attempts();
    stack.count(&body).await;
    assert_counted_once(&stack, &format!("call {number}, {takes_effect}")).await;
}

#[tokio::test(start_paused = true)]
async fn a_writer_that_ends_during_any_write_loses_and_repeats_nothing() {
    for number in [1, 2] {
        for takes_effect in [false, true] {
            writer_ends_in_call(number, takes_effect).await;
        }
    }
}

/// Customers of the random runs.
const CUSTOMERS: [&str; 3] = ["acme", "globex", "initech"];
/// Time of the random runs: three minutes into a year.
const NEW_YEAR: &str = "2027-01-01T00:03:00Z";
/// Days of their records: around the ends of two months, one of which is the end of a year.
const DAYS: [&str; 6] = [
    "2026-11-29",
    "2026-11-30",
    "2026-12-01",
    "2026-12-30",
    "2026-12-31",
    "2027-01-01",
];
const MONTHS: [&str; 3] = ["2026-11", "2026-12", "2027-01"];

/// Aggregates expected of a run, computed from the drawn records.
#[derive(Default)]
struct Model {
    /// By customer and day, and by customer, day and value of a dimension.
    aggregates: BTreeMap<String, Aggregate>,
    /// Indexes of the invalid records, by id of the usage event.
    rejected: BTreeMap<String, BTreeSet<usize>>,
}

/// Returns the aggregate of a drawn record with these of its costs.
fn aggregate_of(record: &Value, costs: &[&Value]) -> Aggregate {
    let number = |of: &Value, name: &str| of[name].as_u64().unwrap_or(0);
    let status = number(record, "status");
    let sum = |name: &str| costs.iter().map(|cost| number(cost, name)).sum::<u64>();
    let unpriced = costs.iter().filter(|cost| cost["unpriced"] == true);
    let is_billable = record["billable"].as_bool().unwrap_or(status < 500);
    let plan = is_billable.then(|| (p(record["plan"].as_str().unwrap()), 1));
    Aggregate {
        calls: 1,
        billable: plan.into_iter().collect(),
        client_errors: u64::from((400..=499).contains(&status)),
        server_errors: u64::from(status >= 500),
        latency_ms: number(record, "latency_ms"),
        latencies: [number(record, "latency_ms")].into_iter().collect(),
        tokens: sum("tokens"),
        unpriced_tokens: unpriced.map(|cost| number(cost, "tokens")).sum(),
        cost: MicroUsd(sum("micro_usd")),
        ..Aggregate::default()
    }
}

impl Model {
    fn add(&mut self, customer: &str, record: &Value) {
        let text = |name: &str| record[name].as_str().unwrap_or_default();
        let day = &text("time")[..10];
        let costs: Vec<&Value> = record["costs"].as_array().into_iter().flatten().collect();
        let whole = aggregate_of(record, &costs);
        let mut by_value = vec![
            (
                format!(" {} {}", text("method"), text("endpoint")),
                whole.clone(),
            ),
            (String::new(), whole.clone()),
        ];
        let mut models: BTreeMap<(&str, &str), Vec<&Value>> = BTreeMap::new();
        for cost in costs {
            let text = |name: &str| cost[name].as_str().unwrap_or_default();
            let model = (text("provider"), text("model"));
            if model != ("", "") {
                models.entry(model).or_default().push(cost);
            }
        }
        let mut providers = BTreeSet::new();
        for ((provider, name), costs) in models {
            by_value.push((format!(" {provider}/{name}"), aggregate_of(record, &costs)));
            if !provider.is_empty() && !providers.insert(provider) {
                by_value.push((format!(" {provider} again"), aggregate_of(record, &[])));
            }
        }
        for (value, sum) in by_value {
            for scope in [customer, "*"] {
                self.merge(format!("{scope} {day}{value}"), &sum);
            }
        }
        self.merge(format!("{customer} {day} {}", text("key_id")), &whole);
    }

    fn merge(&mut self, key: String, call: &Aggregate) {
        let sum = self.aggregates.entry(key).or_default();
        sum.calls += call.calls;
        for (plan, calls) in &call.billable {
            *sum.billable.entry(plan.clone()).or_default() += calls;
        }
        sum.client_errors += call.client_errors;
        sum.server_errors += call.server_errors;
        sum.latency_ms += call.latency_ms;
        sum.latencies.merge(&call.latencies);
        sum.tokens += call.tokens;
        sum.unpriced_tokens += call.unpriced_tokens;
        sum.cost = MicroUsd(sum.cost.0 + call.cost.0);
    }
}

/// Source of the random choices of a run.
struct Draw(Entropy);

impl Draw {
    fn below(&self, bound: usize) -> usize {
        usize::try_from(self.0.below(bound as u64)).unwrap()
    }

    fn chance(&self, percent: usize) -> bool {
        self.below(100) < percent
    }

    fn one<'a, T: ?Sized>(&self, of: &[&'a T]) -> &'a T {
        of[self.below(of.len())]
    }

    fn shuffle<T>(&self, items: &mut [T]) {
        for last in (1..items.len()).rev() {
            items.swap(last, self.below(last + 1));
        }
    }

    /// Draws a valid record.
    fn good(&self, endpoint: &str) -> Value {
        let day = self.one(&DAYS);
        let time = if day == "2027-01-01" {
            format!("{day}T00:0{}:59.5Z", self.below(7))
        } else {
            let (hour, minute) = (self.below(24), self.below(60));
            format!("{day}T{hour:02}:{minute:02}:00Z")
        };
        let status = [200, 204, 404, 429, 500, 503][self.below(6)];
        let mut record = json!({
            "time": time,
            "request_id": format!("r-{}", self.0.below(u64::MAX)),
            "key_id": format!("key_{}", self.below(3)),
            "plan": self.one(&["free", "pro", "enterprise"]),
            "method": "GET",
            "endpoint": endpoint,
            "status": status,
            "latency_ms": self.0.below(2_000),
        });
        if self.chance(50) {
            record["billable"] = self.chance(50).into();
        }
        let costs: Vec<Value> = (0..self.below(4)).map(|_| self.cost()).collect();
        if !costs.is_empty() {
            record["costs"] = costs.into();
        }
        record
    }

    fn cost(&self) -> Value {
        let (tokens, micro_usd) = (self.0.below(5_000), self.0.below(90_000));
        let mut cost = json!({ "tokens": tokens, "micro_usd": micro_usd });
        for (member, values) in [
            ("provider", ["one", "other"]),
            ("model", ["large", "small"]),
        ] {
            if self.chance(75) {
                cost[member] = self.one(&values).into();
            }
        }
        if self.chance(25) {
            cost["unpriced"] = true.into();
        }
        cost
    }

    fn bad(&self, endpoint: &str) -> Value {
        let good = self.good(endpoint);
        match self.below(7) {
            0 => json!("no record"),
            1 => with(good, "time", "2027-01-01T01:08:00.001Z"),
            2 => with(good, "time", "2026-11-27T00:02:59.999Z"),
            3 => with(good, "time", "New Year"),
            4 => with(good, "plan", "platinum"),
            5 => with(good, "surprise", 1),
            _ => with(good, "status", 99),
        }
    }

    /// Draws a usage event, and adds its records to the model.
    fn usage_event(&self, id: &str, model: &mut Model) -> Value {
        let customer = self.one(&CUSTOMERS);
        // Some events take several transactions.
        let (count, routes) = if self.chance(15) {
            (100, 1_000)
        } else {
            (1 + self.below(12), 4)
        };
        let rejected = model.rejected.entry(id.to_owned()).or_default();
        let mut good = Vec::new();
        let records: Vec<Value> = (0..count)
            .map(|index| {
                let route = format!("/{}", self.below(routes));
                if self.chance(15) {
                    rejected.insert(index);
                    return self.bad(&route);
                }
                let record = self.good(&route);
                good.push(record.clone());
                record
            })
            .collect();
        for record in good {
            model.add(customer, &record);
        }
        usage_event(id, customer, records)
    }

    /// Injects random faults of every kind, and for half of the customers a period in which every request that names
    /// them is lost.
    fn faults(&self) -> impl FnMut(&Call) -> Fault + Send + 'static {
        let draw = Draw(self.0.clone());
        let mut outages: Vec<(String, usize)> = Vec::new();
        for customer in CUSTOMERS {
            if self.chance(50) {
                outages.push((format!(r#"{customer}""#), self.below(60)));
            }
        }
        move |call| {
            for (key, left) in &mut outages {
                if *left > 0 && call.body.contains(&*key) {
                    *left -= 1;
                    return Fault::RequestLost;
                }
            }
            match draw.below(100) {
                0..10 => Fault::ResponseLost,
                10..20 => Fault::RequestLost,
                20..25 => Fault::Throttled,
                25..35 => Fault::Conflict,
                _ => Fault::None,
            }
        }
    }
}

/// Numbers that show whether a run was eventful.
#[derive(Default)]
struct RunStats {
    /// Copies of usage events beyond the first of each.
    copies: usize,
    /// Messages that were reported as failed.
    failed: usize,
    /// Usage events of more than one part.
    divided: usize,
}

/// Delivers random usage events one to five times each, in random order, to several concurrent writers,
/// over faults. Checks that the stored aggregates are those of the model.
async fn run(seed: u64) -> RunStats {
    let draw = Draw(Entropy::seeded(seed));
    let stack = Arc::new(Stack::at(NEW_YEAR));
    let mut model = Model::default();
    let ids: Vec<String> = (0..2 + draw.below(6)).map(|n| format!("e-{n}")).collect();
    let mut stats = RunStats::default();
    let mut messages = Vec::new();
    for id in &ids {
        let usage_event = draw.usage_event(id, &mut model);
        let copies = 1 + draw.below(5);
        stats.copies += copies - 1;
        for _ in 0..copies {
            let detail = if draw.chance(30) {
                reordered(&usage_event)
            } else {
                usage_event.to_string()
            };
            let name = format!("m-{}", messages.len());
            let event = around(&name, &detail);
            messages.push((name, event));
        }
    }
    let all = messages.clone();
    stack.at.aws.inject(draw.faults());
    for round in 0.. {
        assert!(round < 100, "seed {seed}: the queue is never empty");
        draw.shuffle(&mut messages);
        let mut writers = JoinSet::new();
        while !messages.is_empty() {
            let size = 1 + draw.below(messages.len().min(10));
            let taken = messages.split_off(messages.len() - size);
            let stack = Arc::clone(&stack);
            writers.spawn(async move {
                let failed = deliver(&stack.app, batch(&taken)).await;
                let again: Vec<_> = taken
                    .into_iter()
                    .filter(|(id, _)| failed.contains(id))
                    .collect();
                assert_eq!(
                    again.len(),
                    failed.len(),
                    "a writer reported a message of another batch as failed"
                );
                again
            });
        }
        messages = writers.join_all().await.concat();
        stats.failed += messages.len();
        if messages.is_empty() {
            break;
        }
        stack.abandon_attempts();
    }
    stack.at.aws.heal();
    let parts = stack.logged(&CUSTOMERS).await;
    let second = parts.iter().filter(|(_, part)| *part == 1);
    stats.divided = second
        .map(|(event, _)| event)
        .collect::<BTreeSet<_>>()
        .len();
    assert_as_modelled(&stack, &model, seed).await;
    let usage = stack.items(USAGE);
    assert_eq!(deliver(&stack.app, batch(&all)).await, NONE, "seed {seed}");
    assert_eq!(stack.items(USAGE), usage, "seed {seed}: delivered again");
    stats
}

async fn assert_as_modelled(stack: &Stack, model: &Model, seed: u64) {
    let aggregates = stack.all_aggregates(&CUSTOMERS, &MONTHS).await;
    assert_eq!(aggregates, model.aggregates, "seed {seed}");
    let items = stack.items(USAGE);
    let partitions: BTreeSet<&str> = items
        .iter()
        .filter_map(|it| it["pk"]["S"].as_str())
        .collect();
    let mut expected: BTreeSet<String> = CUSTOMERS.iter().map(|&name| name.to_owned()).collect();
    expected.extend(MONTHS.iter().map(|month| format!("ALL#{month}")));
    let is_expected = |partition: &&str| expected.contains(*partition);
    assert!(
        partitions.iter().all(is_expected),
        "seed {seed}: {partitions:?}"
    );
    for (id, rejected) in &model.rejected {
        let quarantined = stack.quarantined(id).await;
        let found = quarantined.iter().flat_map(|q| &q.rejected);
        let found: Vec<usize> = found.map(|record| record.index).collect();
        let once: BTreeSet<usize> = found.iter().copied().collect();
        assert_eq!(
            (once.len(), &once),
            (found.len(), rejected),
            "seed {seed}: {id}"
        );
    }
}

#[tokio::test(start_paused = true)]
async fn under_random_faults_the_sums_are_those_of_the_distinct_valid_records() {
    let earliest: Timestamp = p(NEW_YEAR);
    let earliest = earliest - SignedDuration::from_hours(35 * 24);
    assert!(earliest < p("2026-11-29T00:00:00Z"), "all days are recent");
    let mut all = RunStats::default();
    for seed in 0..40 {
        let stats = run(seed).await;
        all.copies += stats.copies;
        all.failed += stats.failed;
        all.divided += stats.divided;
    }
    // With fewer, the runs would have tested too little.
    assert!(all.copies > 100, "{} copies", all.copies);
    assert!(all.failed > 20, "{} failed", all.failed);
    assert!(all.divided > 5, "{} divided events", all.divided);
}
