//! Entries are counted exactly once: whatever is lost, however often and in whatever order they are
//! delivered, and wherever a writer ends.

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

mod common;

use common::{NOW, Stack, around, batch, body, deliver, entry, p, record, reordered, tally, with};

const NONE: [&str; 0] = [];

#[tokio::test]
async fn an_entry_delivered_again_changes_nothing() {
    let stack = Stack::new();
    let costly = json!([{ "provider": "anthropic", "tokens": 7, "micro_usd": 21 }]);
    let records = [
        with(record(NOW, "/a"), "costs", costly),
        with(record(NOW, "/b"), "status", 404),
        json!("no record"),
    ];
    let body = body(&entry("e-1", "acme", records));
    stack.count(&body).await;
    let before = ["usage", "usage-log", "quarantine"].map(|table| stack.items(table));
    assert_eq!(before.each_ref().map(Vec::len), [4, 1, 1]);
    let copies: Vec<(String, &str)> = (0..20).map(|n| (n.to_string(), body.as_str())).collect();
    stack.at.time.set(p("2026-11-29T10:00:00Z"));
    assert_eq!(deliver(&stack.app, batch(&copies)).await, NONE);
    let after = ["usage", "usage-log", "quarantine"].map(|table| stack.items(table));
    assert_eq!(after, before);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn copies_of_an_entry_that_several_writers_hold_at_once_count_once() {
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
    for failed in writers.join_all().await {
        assert_eq!(failed, NONE);
    }
    assert_counted_once(&stack, "after all").await;
}

/// An entry of 100 records at 100 endpoints, the last of which is bad: two transactions.
fn wide(id: &str) -> Value {
    let mut records: Vec<Value> = (0..100).map(|n| record(NOW, &format!("/{n}"))).collect();
    records[99]["plan"] = "platinum".into();
    entry(id, "acme", records)
}

/// The 99 good records of [`wide`] are counted, each once.
async fn assert_counted_once(stack: &Stack, when: &str) {
    let mut expected = BTreeMap::from([
        ("acme 2026-11".to_owned(), tally(99)),
        ("acme 2026-11-22".to_owned(), tally(99)),
    ]);
    for n in 0..99 {
        expected.insert(format!("acme 2026-11-22 GET /{n}"), tally(1));
    }
    let tallies = stack.tallies(&["acme"], &["2026-11"]).await;
    assert_eq!(tallies, expected, "{when}");
    let set_aside = stack.quarantined("e-1").await;
    let refused: Vec<usize> = set_aside
        .iter()
        .flat_map(|q| &q.refused)
        .map(|r| r.index)
        .collect();
    assert_eq!(refused, [99], "{when}");
}

/// Whether a call is the transaction that counts the second part of an entry.
fn is_second_part(call: &Call) -> bool {
    call.operation() == "TransactWriteItems" && call.body.contains(r#"{"S":"01"}"#)
}

#[tokio::test]
async fn an_entry_of_two_parts_is_counted_once_however_often_it_comes() {
    let stack = Stack::new();
    for _ in 0..3 {
        stack.count(&body(&wide("e-1"))).await;
        assert_counted_once(&stack, "at each delivery").await;
    }
    assert_eq!(stack.items("usage-log").len(), 2);
}

#[tokio::test(start_paused = true)]
async fn an_entry_whose_second_part_fails_comes_again_and_is_completed() {
    for fault in [Fault::RequestLost, Fault::AnswerLost, Fault::Conflict] {
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
        assert_eq!(failed, ["m-1"], "{fault:?}");
        let counted = stack.items("usage-log").len();
        let expected = if fault == Fault::AnswerLost { 2 } else { 1 };
        assert_eq!(counted, expected, "{fault:?}");
        assert!(*seen.lock().unwrap() > 1, "the part is retried");
        stack.at.aws.heal();
        stack.count(&body).await;
        assert_counted_once(&stack, &format!("{fault:?}")).await;
    }
}

#[tokio::test(start_paused = true)]
async fn an_entry_is_split_alike_after_some_of_its_records_have_become_too_old() {
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
    let body = body(&entry("e-1", "acme", records));
    let failed = deliver(&stack.app, batch(&[("m-1", &body)])).await;
    assert_eq!(failed, ["m-1"]);
    stack.at.aws.heal();
    stack.at.time.set(p("2026-11-25T10:00:00Z"));
    stack.count(&body).await;
    let tallies = stack.tallies(&["acme"], &["2026-10", "2026-11"]).await;
    assert_eq!(tallies["acme 2026-10"], tally(60));
    assert_eq!(tallies["acme 2026-11"], tally(40));
    assert!(stack.items("quarantine").is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_rival_that_comes_between_two_parts_takes_no_ones_place() {
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
    assert!(stack.tallies(&["globex"], &["2026-11"]).await.is_empty());
    stack.count(&first).await;
    let tallies = stack.tallies(&["acme"], &["2026-11"]).await;
    assert_eq!(tallies["acme 2026-11"], tally(99));
    // The second part's bad record, and the rival.
    assert_eq!(stack.quarantined("e-1").await.len(), 2);
}

/// Delivers [`wide`] to a writer that ends while its call of that number is under way, which takes
/// effect or does not, and then to another.
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
                let (status, answer) = aws.answer(&call.target, &call.body);
                assert_eq!(status, 200, "{answer}");
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
    // Lets the end of its tasks take effect before the network is back.
    tokio::task::yield_now().await;
    stack.at.aws.heal();
    let counted = stack.items("usage-log").len();
    assert_eq!(counted, number - 1 + usize::from(takes_effect));
    stack.count(&body).await;
    assert_counted_once(&stack, &format!("call {number}, {takes_effect}")).await;
}

#[tokio::test(start_paused = true)]
async fn a_writer_may_end_anywhere() {
    for number in [1, 2] {
        for takes_effect in [false, true] {
            writer_ends_in_call(number, takes_effect).await;
        }
    }
}

/// The customers of the random runs.
const CUSTOMERS: [&str; 3] = ["acme", "globex", "initech"];
/// The instant of the random runs: three minutes into a year.
const NEW_YEAR: &str = "2027-01-01T00:03:00Z";
/// Their days: two ends of months, and of these one of a year.
const DAYS: [&str; 6] = [
    "2026-11-29",
    "2026-11-30",
    "2026-12-01",
    "2026-12-30",
    "2026-12-31",
    "2027-01-01",
];
const MONTHS: [&str; 3] = ["2026-11", "2026-12", "2027-01"];

/// What the entries of a run come to, computed from what they are made of.
#[derive(Default)]
struct Model {
    /// By customer and month, day, or day and endpoint.
    tallies: BTreeMap<String, Aggregate>,
    /// The places of the bad records, by entry.
    refused: BTreeMap<String, BTreeSet<usize>>,
}

impl Model {
    fn add(&mut self, customer: &str, day: &str, endpoint: &str, call: &Aggregate) {
        let month = &day[..7];
        for key in [
            format!("{customer} {month}"),
            format!("{customer} {day}"),
            format!("{customer} {day} {endpoint}"),
        ] {
            let sum = self.tallies.entry(key).or_default();
            sum.calls += call.calls;
            for (plan, calls) in &call.billable {
                *sum.billable.entry(plan.clone()).or_default() += calls;
            }
            sum.client_errors += call.client_errors;
            sum.server_errors += call.server_errors;
            sum.latency_ms += call.latency_ms;
            sum.tokens += call.tokens;
            sum.unpriced_tokens += call.unpriced_tokens;
            sum.cost = MicroUsd(sum.cost.0 + call.cost.0);
        }
    }
}

/// Draws what a run is made of.
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

    /// A good record, on its day and with its tally.
    fn good(&self, endpoint: &str) -> (Value, &'static str, Aggregate) {
        let day = self.one(&DAYS);
        let time = if day == "2027-01-01" {
            format!("{day}T00:0{}:59.5Z", self.below(7))
        } else {
            let (hour, minute) = (self.below(24), self.below(60));
            format!("{day}T{hour:02}:{minute:02}:00Z")
        };
        let plan = self.one(&["free", "pro", "enterprise"]);
        let status = [200, 204, 404, 429, 500, 503][self.below(6)];
        let latency_ms = self.0.below(2_000);
        let mut record = json!({
            "time": time,
            "request_id": format!("r-{}", self.0.below(u64::MAX)),
            "key_id": "key_1",
            "plan": plan,
            "method": "GET",
            "endpoint": endpoint,
            "status": status,
            "latency_ms": latency_ms,
        });
        let mut tally = Aggregate {
            calls: 1,
            client_errors: u64::from((400..=499).contains(&status)),
            server_errors: u64::from(status >= 500),
            latency_ms,
            ..Aggregate::default()
        };
        let billable = match self.below(4) {
            0 => {
                record["billable"] = true.into();
                true
            }
            1 => {
                record["billable"] = false.into();
                false
            }
            _ => status < 500,
        };
        if billable {
            tally.billable.insert(p(plan), 1);
        }
        for _ in 0..self.below(3) {
            let (tokens, micro_usd) = (self.0.below(5_000), self.0.below(90_000));
            let unpriced = self.chance(25);
            let mut cost = json!({ "tokens": tokens, "micro_usd": micro_usd });
            if unpriced {
                cost["unpriced"] = true.into();
                tally.unpriced_tokens += tokens;
            }
            match record.get_mut("costs").and_then(Value::as_array_mut) {
                Some(costs) => costs.push(cost),
                None => record["costs"] = json!([cost]),
            }
            tally.tokens += tokens;
            tally.cost = MicroUsd(tally.cost.0 + micro_usd);
        }
        (record, day, tally)
    }

    fn bad(&self, endpoint: &str) -> Value {
        let (good, _, _) = self.good(endpoint);
        match self.below(7) {
            0 => json!("no record"),
            1 => with(good, "time", "2027-01-01T00:08:00.001Z"),
            2 => with(good, "time", "2026-11-27T00:02:59.999Z"),
            3 => with(good, "time", "New Year"),
            4 => with(good, "plan", "platinum"),
            5 => with(good, "surprise", 1),
            _ => with(good, "status", 99),
        }
    }

    /// An entry; what it comes to is added to the model.
    fn entry(&self, id: &str, model: &mut Model) -> Value {
        let customer = self.one(&CUSTOMERS);
        // Now and then one that takes several transactions.
        let (count, routes) = if self.chance(15) {
            (100, 1_000)
        } else {
            (1 + self.below(12), 4)
        };
        let refused = model.refused.entry(id.to_owned()).or_default();
        let mut good = Vec::new();
        let records: Vec<Value> = (0..count)
            .map(|index| {
                let route = format!("/{}", self.below(routes));
                if self.chance(15) {
                    refused.insert(index);
                    return self.bad(&route);
                }
                let (record, day, tally) = self.good(&route);
                good.push((day, format!("GET {route}"), tally));
                record
            })
            .collect();
        for (day, endpoint, tally) in good {
            model.add(customer, day, &endpoint, &tally);
        }
        entry(id, customer, records)
    }

    /// Faults of every kind, at random; and for half of the entries a time in which no call about
    /// them gets through.
    fn faults(&self, ids: &[String]) -> impl FnMut(&Call) -> Fault + Send + 'static {
        let draw = Draw(self.0.clone());
        let mut outages: Vec<(String, usize)> = Vec::new();
        for id in ids {
            if self.chance(50) {
                outages.push((format!(r#""{SOURCE_PK}{id}""#), self.below(60)));
            }
        }
        move |call| {
            for (pk, left) in &mut outages {
                if *left > 0 && call.body.contains(&*pk) {
                    *left -= 1;
                    return Fault::RequestLost;
                }
            }
            match draw.below(100) {
                0..10 => Fault::AnswerLost,
                10..20 => Fault::RequestLost,
                20..25 => Fault::Throttled,
                25..35 => Fault::Conflict,
                _ => Fault::None,
            }
        }
    }
}

/// What the keys of entries begin with where they are stored.
const SOURCE_PK: &str = "tollgate:ping#";

/// What happened in a run.
#[derive(Default)]
struct Happened {
    /// Copies of an entry beyond the first.
    copies: usize,
    /// Messages that were returned as failed.
    returned: usize,
    /// Parts of an entry beyond the first.
    parts: usize,
}

/// A random run: entries delivered one to five times each, in random order, to several writers at
/// once, over faults. Then everything is what the model says.
async fn run(seed: u64) -> Happened {
    let draw = Draw(Entropy::seeded(seed));
    let stack = Arc::new(Stack::at(NEW_YEAR));
    let mut model = Model::default();
    let ids: Vec<String> = (0..2 + draw.below(6)).map(|n| format!("e-{n}")).collect();
    let mut happened = Happened::default();
    let mut messages = Vec::new();
    for id in &ids {
        let entry = draw.entry(id, &mut model);
        let copies = 1 + draw.below(5);
        happened.copies += copies - 1;
        for _ in 0..copies {
            let detail = if draw.chance(30) {
                reordered(&entry)
            } else {
                entry.to_string()
            };
            let name = format!("m-{}", messages.len());
            let event = around(&name, &detail);
            messages.push((name, event));
        }
    }
    let all = messages.clone();
    stack.at.aws.inject(draw.faults(&ids));
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
                assert_eq!(again.len(), failed.len(), "returned what it did not get");
                again
            });
        }
        messages = writers.join_all().await.concat();
        happened.returned += messages.len();
        if messages.is_empty() {
            break;
        }
    }
    stack.at.aws.heal();
    happened.parts = stack.items("usage-log").len() - ids.len();
    assert_as_modelled(&stack, &model, seed).await;
    let usage = stack.items("usage");
    assert_eq!(deliver(&stack.app, batch(&all)).await, NONE, "seed {seed}");
    assert_eq!(stack.items("usage"), usage, "seed {seed}: delivered again");
    happened
}

/// What an item is a tally of, or one of several that add up to it.
fn tally_of(item: &Value) -> (String, String) {
    let text = |name: &str| item[name]["S"].as_str().unwrap().to_owned();
    let (pk, sk) = (text("pk"), text("sk"));
    // `<kind>#<window>`, `/<shard>` where it is spread, and `#<endpoint>`.
    let mut parts = sk.splitn(3, '#');
    let (kind, window) = (parts.next().unwrap(), parts.next().unwrap());
    let (window, _) = window.split_once('/').unwrap_or((window, ""));
    let endpoint = parts.next().unwrap_or_default();
    (pk, format!("{kind} {window} {endpoint}"))
}

async fn assert_as_modelled(stack: &Stack, model: &Model, seed: u64) {
    let tallies = stack.tallies(&CUSTOMERS, &MONTHS).await;
    assert_eq!(tallies, model.tallies, "seed {seed}");
    let items = stack.items("usage");
    let stored: BTreeSet<_> = items.iter().map(tally_of).collect();
    assert_eq!(
        stored.len(),
        tallies.len(),
        "seed {seed}: tallies of nobody"
    );
    for (id, refused) in &model.refused {
        let set_aside = stack.quarantined(id).await;
        let found = set_aside.iter().flat_map(|q| &q.refused);
        let found: Vec<usize> = found.map(|record| record.index).collect();
        let once: BTreeSet<usize> = found.iter().copied().collect();
        assert_eq!(
            (once.len(), &once),
            (found.len(), refused),
            "seed {seed}: {id}"
        );
    }
}

#[tokio::test(start_paused = true)]
async fn whatever_happens_the_sums_are_those_of_the_distinct_good_records() {
    let earliest: Timestamp = p(NEW_YEAR);
    let earliest = earliest - SignedDuration::from_hours(35 * 24);
    assert!(earliest < p("2026-11-29T00:00:00Z"), "all days are recent");
    let mut all = Happened::default();
    for seed in 0..40 {
        let happened = run(seed).await;
        all.copies += happened.copies;
        all.returned += happened.returned;
        all.parts += happened.parts;
    }
    // Otherwise the runs were too smooth to show anything.
    assert!(all.copies > 100, "{} copies", all.copies);
    assert!(all.returned > 20, "{} returned", all.returned);
    assert!(all.parts > 5, "{} parts", all.parts);
}
