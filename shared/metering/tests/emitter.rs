//! Records on their way to the bus: how they are put into entries, and what becomes of them when
//! the bus fails.

#![allow(
    clippy::unwrap_used,
    reason = "a test that cannot look at what was sent has failed"
)]

use std::future::ready;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use jiff::SignedDuration;
use serde_json::{Value, json};
use tokio::task::JoinHandle;
use tollgate_domain::money::MicroUsd;
use tollgate_domain::usage::{Cost, UsageRecord};
use tollgate_local_aws::fixture::Fixture;
use tollgate_local_aws::{CloudWatch, Fault, LocalAws, wire};
use tollgate_metering::{Emitter, Spill};
use tollgate_runtime::Metrics;
use tollgate_runtime::metrics::RECORDS_SPILLED;

#[path = "common/metered.rs"]
mod metered;

use metered::{Entry, NOW, delivered, emitter, entries, spilling};

/// The most bytes of detail in a call, as documented.
const MAX_CALL_BYTES: usize = 200_000;

fn call(number: usize) -> UsageRecord {
    UsageRecord {
        time: NOW.parse().unwrap(),
        request_id: format!("r-{number:05}"),
        key_id: "key_1".parse().unwrap(),
        plan: "pro".parse().unwrap(),
        method: "GET".into(),
        endpoint: "/api/things/{id}".into(),
        status: 200,
        latency_ms: 5,
        request_bytes: Some(0),
        response_bytes: Some(1_024),
        truncated: None,
        billable: Some(true),
        costs: Vec::new(),
    }
}

/// A record as large as one may be: 16 parts of cost, and all texts at their longest.
fn large_call(number: usize) -> UsageRecord {
    let part = |n| Cost {
        provider: Some(format!("{n:0>64}")),
        model: Some("m".repeat(128)),
        input_tokens: 100_000_000,
        output_tokens: 100_000_000,
        tokens: 100_000_000,
        micro_usd: MicroUsd(100_000_000_000),
        unpriced: true,
    };
    UsageRecord {
        endpoint: "x".repeat(256),
        costs: (0..16).map(part).collect(),
        ..call(number)
    }
}

fn record(emitter: &Emitter, customer: &str, records: impl IntoIterator<Item = UsageRecord>) {
    for record in records {
        emitter.record(customer.parse().unwrap(), record);
    }
}

fn numbers(entry: &Entry) -> Vec<String> {
    let records = entry.records.iter();
    records.map(|record| record.request_id.clone()).collect()
}

fn customers(entries: &[Entry]) -> Vec<&str> {
    let all = entries.iter();
    all.map(|entry| entry.envelope.subject.as_str()).collect()
}

fn ids(entries: &[Entry]) -> Vec<&str> {
    entries
        .iter()
        .map(|entry| entry.envelope.id.as_str())
        .collect()
}

/// The details of every PutEvents call from now on, whose fate `fate` decides by its number.
fn watch(
    at: &Fixture,
    mut fate: impl FnMut(usize) -> Fault + Send + 'static,
) -> Arc<Mutex<Vec<Vec<Value>>>> {
    let calls = Arc::new(Mutex::new(Vec::new()));
    let seen = Arc::clone(&calls);
    at.aws.inject(move |call| {
        assert_eq!(call.target, "AWSEvents.PutEvents");
        let body: Value = serde_json::from_str(&call.body).unwrap();
        let entries = body["Entries"].as_array().unwrap().iter();
        let detail = |entry: &Value| -> Value {
            assert_eq!(entry["EventBusName"], "usage");
            let detail: Value = serde_json::from_str(entry["Detail"].as_str().unwrap()).unwrap();
            assert_eq!(entry["Source"], detail["source"]);
            assert_eq!(entry["DetailType"], detail["type"]);
            detail
        };
        let mut calls = seen.lock().unwrap();
        calls.push(entries.map(detail).collect());
        fate(calls.len() - 1)
    });
    calls
}

#[tokio::test]
async fn a_flush_makes_one_entry_of_each_customers_records() {
    let at = Fixture::at(NOW);
    let emitter = emitter(&at, "ping");
    record(&emitter, "bolt", [call(1)]);
    record(&emitter, "acme", [call(2), call(3)]);
    record(&emitter, "bolt", [call(4)]);
    emitter.flush().await;
    let entries = entries(&at);
    assert_eq!(customers(&entries), ["acme", "bolt"]);
    assert_eq!(numbers(&entries[0]), ["r-00002", "r-00003"]);
    assert_eq!(numbers(&entries[1]), ["r-00001", "r-00004"]);
    assert_ne!(ids(&entries)[0], ids(&entries)[1]);
    for entry in &entries {
        assert_eq!(entry.envelope.source, "tollgate:ping");
    }
}

#[tokio::test]
async fn a_record_arrives_as_it_was_given() {
    let at = Fixture::at(NOW);
    let emitter = emitter(&at, "ping");
    record(&emitter, "acme", [large_call(1)]);
    emitter.flush().await;
    assert_eq!(entries(&at)[0].records, [large_call(1)]);
}

#[tokio::test]
async fn what_is_sent_is_not_sent_again() {
    let at = Fixture::at(NOW);
    let emitter = emitter(&at, "ping");
    let calls = watch(&at, |_| Fault::None);
    emitter.flush().await;
    assert_eq!(calls.lock().unwrap().len(), 0, "there was nothing to send");
    record(&emitter, "acme", [call(1)]);
    emitter.flush().await;
    emitter.flush().await;
    emitter.close().await;
    assert_eq!(calls.lock().unwrap().len(), 1);
    assert_eq!(entries(&at).len(), 1);
}

#[tokio::test]
async fn an_entry_has_a_hundred_records_at_most() {
    let at = Fixture::at(NOW);
    let emitter = emitter(&at, "ping");
    record(&emitter, "acme", (0..250).map(call));
    emitter.flush().await;
    let entries = entries(&at);
    let sizes: Vec<usize> = entries.iter().map(|entry| entry.records.len()).collect();
    assert_eq!(sizes, [100, 100, 50]);
    let arrived: Vec<String> = entries.iter().flat_map(numbers).collect();
    let expected: Vec<String> = (0..250).map(|number| call(number).request_id).collect();
    assert_eq!(arrived, expected);
}

#[tokio::test]
async fn large_records_are_split_among_entries_and_calls_of_bounded_size() {
    let at = Fixture::at(NOW);
    let emitter = emitter(&at, "ping");
    let calls = watch(&at, |_| Fault::None);
    record(&emitter, "acme", (0..250).map(large_call));
    emitter.flush().await;
    for call in calls.lock().unwrap().iter() {
        let bytes: usize = call.iter().map(|detail| detail.to_string().len()).sum();
        assert!(bytes <= MAX_CALL_BYTES, "{bytes} bytes in one call");
    }
    let entries = entries(&at);
    assert!(
        entries.len() > 3,
        "records this large do not fit 100 to a call"
    );
    let arrived: Vec<String> = entries.iter().flat_map(numbers).collect();
    let expected: Vec<String> = (0..250).map(|number| call(number).request_id).collect();
    assert_eq!(arrived, expected);
}

#[tokio::test]
async fn a_call_has_ten_entries_at_most() {
    let at = Fixture::at(NOW);
    let emitter = emitter(&at, "ping");
    let calls = watch(&at, |_| Fault::None);
    for number in 0..25 {
        record(&emitter, &format!("c-{number:02}"), [call(number)]);
    }
    emitter.flush().await;
    let sizes: Vec<usize> = calls.lock().unwrap().iter().map(Vec::len).collect();
    assert_eq!(sizes, [10, 10, 5]);
    assert_eq!(entries(&at).len(), 25);
}

#[tokio::test(start_paused = true)]
async fn an_entry_whose_answer_is_lost_is_sent_again_as_it_is() {
    let at = Fixture::at(NOW);
    let emitter = emitter(&at, "ping");
    watch(&at, |number| match number {
        0 => Fault::AnswerLost,
        _ => Fault::None,
    });
    record(&emitter, "acme", [call(1)]);
    emitter.flush().await;
    let events = delivered(&at);
    assert_eq!(events.len(), 2);
    assert_eq!(events[0]["detail"], events[1]["detail"]);

    emitter.flush().await;
    assert_eq!(delivered(&at), [0; 0]);
}

#[tokio::test(start_paused = true)]
async fn what_a_flush_cannot_send_is_sent_by_the_next_as_it_is() {
    for fault in [Fault::Throttled, Fault::RequestLost, Fault::AnswerLost] {
        let at = Fixture::at(NOW);
        let emitter = emitter(&at, "ping");
        let calls = watch(&at, move |_| fault);
        record(&emitter, "acme", [call(1), call(2)]);
        emitter.flush().await;
        let tried = calls.lock().unwrap().concat();
        assert!(tried.len() >= 3, "{} tries", tried.len());
        assert!(tried.iter().all(|detail| *detail == tried[0]));
        delivered(&at);

        record(&emitter, "acme", [call(3)]);
        at.aws.heal();
        emitter.flush().await;
        let entries = entries(&at);
        assert_eq!(entries.len(), 2);
        assert_eq!(entries[0].envelope.id, tried[0]["id"]);
        assert_eq!(numbers(&entries[0]), ["r-00001", "r-00002"]);
        assert_eq!(numbers(&entries[1]), ["r-00003"]);
        assert_ne!(ids(&entries)[0], ids(&entries)[1]);
    }
}

#[tokio::test(start_paused = true)]
async fn one_lost_call_of_several_is_sent_again_alone() {
    let at = Fixture::at(NOW);
    let emitter = emitter(&at, "ping");
    let calls = watch(&at, |number| match number {
        1 => Fault::RequestLost,
        _ => Fault::None,
    });
    for number in 0..25 {
        record(&emitter, &format!("c-{number:02}"), [call(number)]);
    }
    emitter.flush().await;
    let sizes: Vec<usize> = calls.lock().unwrap().iter().map(Vec::len).collect();
    assert_eq!(sizes, [10, 10, 10, 5]);
    assert_eq!(entries(&at).len(), 25);
}

#[tokio::test(start_paused = true)]
async fn records_made_during_a_flush_wait_for_the_next() {
    let at = Fixture::at(NOW);
    let emitter = emitter(&at, "ping");
    watch(&at, |number| match number {
        0 => Fault::Throttled,
        _ => Fault::None,
    });
    record(&emitter, "acme", [call(1)]);
    tokio::join!(emitter.flush(), async {
        tokio::task::yield_now().await;
        record(&emitter, "acme", [call(2)]);
    });
    let first = entries(&at);
    assert_eq!(first.len(), 1);
    assert_eq!(numbers(&first[0]), ["r-00001"]);
    emitter.flush().await;
    let second = entries(&at);
    assert_eq!(second.len(), 1);
    assert_eq!(numbers(&second[0]), ["r-00002"]);
}

/// A bus that takes every entry but those of one customer, and says so entry by entry.
#[derive(Debug, Clone)]
struct Picky {
    aws: LocalAws,
    refused: Arc<Mutex<Option<&'static str>>>,
}

impl Picky {
    fn answer(&self, body: &str) -> (u16, String) {
        let refused = *self.refused.lock().unwrap();
        let request: Value = serde_json::from_str(body).unwrap();
        let mut results = Vec::new();
        for entry in request["Entries"].as_array().unwrap() {
            let detail: Value = serde_json::from_str(entry["Detail"].as_str().unwrap()).unwrap();
            if detail["subject"].as_str() == refused {
                let message = "Rate exceeded";
                results
                    .push(json!({ "ErrorCode": "ThrottlingException", "ErrorMessage": message }));
            } else {
                let one = json!({ "Entries": [entry] }).to_string();
                let (_, answer) = self.aws.answer("AWSEvents.PutEvents", &one);
                let mut answer: Value = serde_json::from_str(&answer).unwrap();
                results.push(answer["Entries"][0].take());
            }
        }
        let failed = results
            .iter()
            .filter(|one| one["ErrorCode"].is_string())
            .count();
        let answer = json!({ "FailedEntryCount": failed, "Entries": results });
        (200, answer.to_string())
    }
}

#[tokio::test(start_paused = true)]
async fn an_entry_refused_on_its_own_is_sent_again_on_its_own() {
    let at = Fixture::at(NOW);
    let picky = Picky {
        aws: at.aws.clone(),
        refused: Arc::new(Mutex::new(Some("bolt"))),
    };
    let sdk = at.aws.sdk_config().into_builder();
    let asked = picky.clone();
    let client = wire::http_client(move |call| ready(Some(asked.answer(&call.body))));
    let sdk = sdk.http_client(client).build();
    let (clock, entropy) = (at.clock(), at.entropy.clone());
    let spill = Spill::new(Metrics::none(), |_| {});
    let emitter = Emitter::new(&sdk, "usage", "ping", clock, entropy, spill);
    for (number, customer) in ["acme", "bolt", "crow"].into_iter().enumerate() {
        record(&emitter, customer, [call(number)]);
    }
    emitter.flush().await;
    assert_eq!(customers(&entries(&at)), ["acme", "crow"]);

    *picky.refused.lock().unwrap() = None;
    emitter.flush().await;
    let second = entries(&at);
    assert_eq!(customers(&second), ["bolt"]);
    assert_eq!(numbers(&second[0]), ["r-00001"]);
    emitter.flush().await;
    assert_eq!(delivered(&at), [0; 0]);
}

/// What is written down of usage that was not sent.
#[derive(Debug, Clone, Default)]
struct Spilled(Arc<Mutex<Vec<String>>>);

impl Spilled {
    /// An emitter that writes there, and its metrics.
    fn emitter(&self, at: &Fixture) -> (Emitter, CloudWatch) {
        let cloudwatch = CloudWatch::default();
        let lines = Arc::clone(&self.0);
        let spill = Spill::new(cloudwatch.metrics("test", at.clock()), move |line| {
            lines.lock().unwrap().push(line.to_owned());
        });
        (spilling(at, "ping", spill), cloudwatch)
    }

    /// The entries, from where they can be sent again.
    fn entries(&self) -> Vec<Value> {
        let lines = self.0.lock().unwrap();
        let entry = |line: &String| {
            let mut line: Value = serde_json::from_str(line).unwrap();
            assert_eq!(
                (&line["level"], &line["message"]),
                (&json!("ERROR"), &json!("unsent_usage"))
            );
            line["entry"].take()
        };
        lines.iter().map(entry).collect()
    }
}

#[tokio::test(start_paused = true)]
async fn what_does_not_fit_the_buffer_is_written_down_whole_oldest_first() {
    let at = Fixture::at(NOW);
    let spilled = Spilled::default();
    let (emitter, cloudwatch) = spilled.emitter(&at);
    let calls = watch(&at, |_| Fault::RequestLost);
    record(&emitter, "early", [call(0)]);
    emitter.flush().await;
    for number in 1..=1_001 {
        record(&emitter, &format!("c-{number:04}"), [call(number)]);
    }
    emitter.flush().await;
    let entries_spilled = spilled.entries();
    let subjects: Vec<_> = entries_spilled
        .iter()
        .map(|entry| &entry["subject"])
        .collect();
    assert_eq!(subjects, ["early", "c-0001"]);
    assert_eq!(entries_spilled[0], calls.lock().unwrap()[0][0]);

    at.aws.heal();
    emitter.flush().await;
    let sent = entries(&at);
    assert_eq!(sent.len(), 1_000);
    assert_eq!(customers(&sent)[0], "c-0002");
    assert_eq!(spilled.entries().len(), 2);
    assert_eq!(cloudwatch.sum(RECORDS_SPILLED, &[]), 2);
}

#[tokio::test(start_paused = true)]
async fn what_a_last_flush_cannot_send_is_written_down_whole() {
    let at = Fixture::at(NOW);
    let spilled = Spilled::default();
    let (emitter, cloudwatch) = spilled.emitter(&at);
    let calls = watch(&at, |_| Fault::Throttled);
    record(&emitter, "acme", [large_call(1)]);
    record(&emitter, "bolt", [call(2)]);
    emitter.close().await;
    assert_eq!(spilled.entries(), calls.lock().unwrap()[0]);
    assert_eq!(cloudwatch.sum(RECORDS_SPILLED, &[]), 2);

    at.aws.heal();
    emitter.flush().await;
    assert_eq!(delivered(&at), [0; 0]);
}

#[tokio::test(start_paused = true)]
async fn a_silent_bus_holds_a_flush_for_three_seconds_and_loses_nothing() {
    let at = Fixture::at(NOW);
    let emitter = emitter(&at, "ping");
    record(&emitter, "acme", [call(1)]);
    watch(&at, |_| Fault::NoAnswer);
    let began = tokio::time::Instant::now();
    emitter.flush().await;
    assert_eq!(began.elapsed().as_secs(), 3);
    at.aws.heal();
    emitter.flush().await;
    // The silent bus had taken the entry; the second time it is the same one, and counts once.
    let entries = entries(&at);
    assert_eq!(entries.len(), 2);
    assert_eq!(ids(&entries)[0], ids(&entries)[1]);
}

#[tokio::test(start_paused = true)]
async fn an_instance_that_ends_writes_down_what_a_silent_bus_may_not_have_taken() {
    let at = Fixture::at(NOW);
    let spilled = Spilled::default();
    let (emitter, _) = spilled.emitter(&at);
    record(&emitter, "acme", [call(1)]);
    watch(&at, |_| Fault::NoAnswer);
    let began = tokio::time::Instant::now();
    emitter.close().await;
    assert_eq!(began.elapsed().as_millis(), 350);
    assert_eq!(spilled.entries().len(), 1);
}

#[tokio::test(start_paused = true)]
async fn records_that_nobody_flushes_are_bounded_too() {
    let at = Fixture::at(NOW);
    let spilled = Spilled::default();
    let (emitter, cloudwatch) = spilled.emitter(&at);
    // Each of a customer of its own, so that each is an entry.
    for number in 0..10_000 {
        record(&emitter, &format!("c-{number:05}"), [call(number)]);
    }
    let entries = spilled.entries();
    assert_eq!(entries.len(), 9_000);
    assert_eq!(entries[8_999]["subject"], "c-08999");
    assert_eq!(cloudwatch.sum(RECORDS_SPILLED, &[]), 9_000);
    emitter.flush().await;
    assert_eq!(delivered(&at).len(), 1_000);
}

/// Begins a flush that the bus does not answer, and lets it get there.
async fn begin_a_flush(emitter: &Emitter) -> JoinHandle<()> {
    let flushing = emitter.clone();
    let flush = tokio::spawn(async move { flushing.flush().await });
    tokio::time::sleep(Duration::from_millis(10)).await;
    flush
}

#[tokio::test(start_paused = true)]
async fn a_flush_that_is_dropped_drops_no_record() {
    let at = Fixture::at(NOW);
    let emitter = emitter(&at, "ping");
    record(&emitter, "acme", [call(1)]);
    watch(&at, |_| Fault::NoAnswer);
    let flush = begin_a_flush(&emitter).await;
    flush.abort();
    assert!(flush.await.unwrap_err().is_cancelled());
    at.aws.heal();
    delivered(&at);
    emitter.flush().await;
    assert_eq!(numbers(&entries(&at)[0]), ["r-00001"]);
}

#[tokio::test(start_paused = true)]
async fn an_instance_that_ends_in_the_midst_of_a_flush_loses_nothing() {
    let at = Fixture::at(NOW);
    let spilled = Spilled::default();
    let (emitter, _) = spilled.emitter(&at);
    record(&emitter, "acme", [call(1)]);
    watch(&at, |_| Fault::NoAnswer);
    let flush = begin_a_flush(&emitter).await;
    record(&emitter, "bolt", [call(2)]);
    emitter.close().await;
    let subjects = spilled.entries().into_iter();
    let subjects: Vec<Value> = subjects.map(|mut entry| entry["subject"].take()).collect();
    assert_eq!(subjects, ["acme", "bolt"]);
    flush.await.unwrap();
    assert_eq!(spilled.entries().len(), 2);
}

#[tokio::test(start_paused = true)]
async fn a_flush_ends_when_what_was_recorded_before_it_has_been_sent() {
    let at = Fixture::at(NOW);
    let emitter = emitter(&at, "ping");
    record(&emitter, "acme", [call(1)]);
    let mut is_first = true;
    watch(&at, move |_| match std::mem::take(&mut is_first) {
        true => Fault::NoAnswer,
        false => Fault::None,
    });
    let first = begin_a_flush(&emitter).await;
    // The first flush has the record, and its entry has not been acknowledged.
    emitter.flush().await;
    assert!(first.is_finished());
    let sent = entries(&at);
    assert_eq!(sent.len(), 2);
    assert_eq!(ids(&sent)[0], ids(&sent)[1]);
}

/// The numbers of the records in each entry that was put on the bus.
fn put(calls: &Mutex<Vec<Vec<Value>>>) -> Vec<Vec<String>> {
    let calls = calls.lock().unwrap();
    let numbers = |entry: &Value| {
        let records = entry["data"]["records"].as_array().unwrap().iter();
        let number = |record: &Value| record["request_id"].as_str().unwrap().to_owned();
        records.map(number).collect()
    };
    calls.iter().flatten().map(numbers).collect()
}

#[tokio::test(start_paused = true)]
async fn at_a_thousand_calls_a_second_a_buffer_makes_an_entry_of_a_hundred() {
    let at = Fixture::at(NOW);
    let emitter = emitter(&at, "ping");
    let calls = watch(&at, |_| Fault::None);
    for number in 1..=1_050 {
        at.time.advance(SignedDuration::from_millis(1));
        record(&emitter, "acme", [call(number)]);
        emitter.flush_due().await;
    }
    let sizes = || -> Vec<usize> { put(&calls).iter().map(Vec::len).collect() };
    assert_eq!(sizes(), [100; 10]);
    // The rest leaves with the instance.
    emitter.close().await;
    assert_eq!(sizes(), [[100; 10].as_slice(), &[50]].concat());
}

#[tokio::test(start_paused = true)]
async fn a_record_is_buffered_for_five_seconds_if_there_are_calls() {
    let at = Fixture::at(NOW);
    let emitter = emitter(&at, "ping");
    let calls = watch(&at, |_| Fault::None);
    let check = async |pass_ms: i64, number: usize, calls_by_then: usize| {
        at.time.advance(SignedDuration::from_millis(pass_ms));
        record(&emitter, "acme", [call(number)]);
        emitter.flush_due().await;
        assert_eq!(calls.lock().unwrap().len(), calls_by_then, "call {number}");
    };
    check(0, 1, 0).await;
    check(4_999, 2, 0).await;
    check(1, 3, 1).await;
    check(4_999, 4, 1).await;
    check(4_999, 5, 1).await;
    check(1, 6, 2).await;
    // How long it was is not known, once the clock has been set back.
    check(0, 7, 2).await;
    check(-1, 8, 3).await;
    emitter.flush_due().await;
    assert_eq!(calls.lock().unwrap().len(), 3, "nothing is buffered");
    let of = |range: std::ops::RangeInclusive<usize>| -> Vec<String> {
        range.map(|number| format!("r-{number:05}")).collect()
    };
    assert_eq!(put(&calls), [of(1..=3), of(4..=6), of(7..=8)]);
}

#[tokio::test(start_paused = true)]
async fn what_a_flush_could_not_send_waits_for_five_seconds_in_a_buffer_too() {
    let at = Fixture::at(NOW);
    let emitter = emitter(&at, "ping");
    watch(&at, |_| Fault::RequestLost);
    record(&emitter, "acme", [call(1)]);
    emitter.flush().await;
    at.aws.heal();
    let calls = watch(&at, |_| Fault::None);
    at.time.advance(SignedDuration::from_millis(4_999));
    emitter.flush_due().await;
    assert_eq!(calls.lock().unwrap().len(), 0);
    at.time.advance(SignedDuration::from_millis(1));
    emitter.flush_due().await;
    assert_eq!(put(&calls), [["r-00001"]]);
}
