//! The emitter: usage events made of records, and their retries and loss when the bus fails.

#![allow(
    clippy::unwrap_used,
    reason = "a test whose inspection fails has failed"
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
use tollgate_metering::{Emitter, UnsentLog};
use tollgate_runtime::Metrics;
use tollgate_runtime::metrics::UNSENT_RECORDS;
use tollgate_testing::metered::{
    DeliveredEvent, NOW, delivered, emitter, emitter_with_log, usage_events,
};

/// Bytes of detail in one request at most.
const MAX_REQUEST_BYTES: usize = 200_000;

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

/// Returns a record of the maximum size: 16 parts of cost, and all strings at their longest.
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

fn numbers(event: &DeliveredEvent) -> Vec<String> {
    let records = event.records.iter();
    records.map(|record| record.request_id.clone()).collect()
}

fn customers(events: &[DeliveredEvent]) -> Vec<&str> {
    let all = events.iter();
    all.map(|event| event.envelope.subject.as_str()).collect()
}

fn ids(events: &[DeliveredEvent]) -> Vec<&str> {
    let all = events.iter();
    all.map(|event| event.envelope.id.as_str()).collect()
}

/// Returns the details of every PutEvents request from now on. `fault` decides the fault of a request by
/// its number.
fn watch(
    at: &Fixture,
    mut fault: impl FnMut(usize) -> Fault + Send + 'static,
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
        fault(calls.len() - 1)
    });
    calls
}

#[tokio::test]
async fn a_flush_makes_one_event_per_customer() {
    let at = Fixture::at(NOW);
    let emitter = emitter(&at, "ping");
    record(&emitter, "bolt", [call(1)]);
    record(&emitter, "acme", [call(2), call(3)]);
    record(&emitter, "bolt", [call(4)]);
    emitter.flush().await;
    let events = usage_events(&at);
    assert_eq!(customers(&events), ["acme", "bolt"]);
    assert_eq!(numbers(&events[0]), ["r-00002", "r-00003"]);
    assert_eq!(numbers(&events[1]), ["r-00001", "r-00004"]);
    assert_ne!(ids(&events)[0], ids(&events)[1]);
    for event in &events {
        assert_eq!(event.envelope.source, "tollgate:ping");
    }
}

#[tokio::test]
async fn a_record_is_delivered_unchanged() {
    let at = Fixture::at(NOW);
    let emitter = emitter(&at, "ping");
    record(&emitter, "acme", [large_call(1)]);
    emitter.flush().await;
    assert_eq!(usage_events(&at)[0].records, [large_call(1)]);
}

#[tokio::test]
async fn sent_records_are_not_sent_again() {
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
    assert_eq!(usage_events(&at).len(), 1);
}

#[tokio::test]
async fn an_event_has_a_hundred_records_at_most() {
    let at = Fixture::at(NOW);
    let emitter = emitter(&at, "ping");
    record(&emitter, "acme", (0..250).map(call));
    emitter.flush().await;
    let events = usage_events(&at);
    let sizes: Vec<usize> = events.iter().map(|event| event.records.len()).collect();
    assert_eq!(sizes, [100, 100, 50]);
    let sent: Vec<String> = events.iter().flat_map(numbers).collect();
    let expected: Vec<String> = (0..250).map(|number| call(number).request_id).collect();
    assert_eq!(sent, expected);
}

#[tokio::test]
async fn large_records_are_split_into_events_and_requests_of_bounded_size() {
    let at = Fixture::at(NOW);
    let emitter = emitter(&at, "ping");
    let calls = watch(&at, |_| Fault::None);
    record(&emitter, "acme", (0..250).map(large_call));
    emitter.flush().await;
    for call in calls.lock().unwrap().iter() {
        let bytes: usize = call.iter().map(|detail| detail.to_string().len()).sum();
        assert!(bytes <= MAX_REQUEST_BYTES, "{bytes} bytes in one request");
    }
    let events = usage_events(&at);
    assert!(
        events.len() > 3,
        "100 records of this size do not fit into one request"
    );
    let sent: Vec<String> = events.iter().flat_map(numbers).collect();
    let expected: Vec<String> = (0..250).map(|number| call(number).request_id).collect();
    assert_eq!(sent, expected);
}

#[tokio::test]
async fn a_request_has_ten_events_at_most() {
    let at = Fixture::at(NOW);
    let emitter = emitter(&at, "ping");
    let calls = watch(&at, |_| Fault::None);
    for number in 0..25 {
        record(&emitter, &format!("c-{number:02}"), [call(number)]);
    }
    emitter.flush().await;
    let sizes: Vec<usize> = calls.lock().unwrap().iter().map(Vec::len).collect();
    assert_eq!(sizes, [10, 10, 5]);
    assert_eq!(usage_events(&at).len(), 25);
}

#[tokio::test(start_paused = true)]
async fn an_event_whose_response_is_lost_is_sent_again_unchanged() {
    let at = Fixture::at(NOW);
    let emitter = emitter(&at, "ping");
    watch(&at, |number| match number {
        0 => Fault::ResponseLost,
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
async fn an_event_that_a_flush_cannot_send_is_sent_unchanged_by_the_next() {
    for fault in [Fault::Throttled, Fault::RequestLost, Fault::ResponseLost] {
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
        let events = usage_events(&at);
        assert_eq!(events.len(), 2);
        assert_eq!(events[0].envelope.id, tried[0]["id"]);
        assert_eq!(numbers(&events[0]), ["r-00001", "r-00002"]);
        assert_eq!(numbers(&events[1]), ["r-00003"]);
        assert_ne!(ids(&events)[0], ids(&events)[1]);
    }
}

#[tokio::test(start_paused = true)]
async fn only_a_lost_request_of_several_is_retried() {
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
    assert_eq!(usage_events(&at).len(), 25);
}

#[tokio::test(start_paused = true)]
async fn records_made_during_a_flush_are_sent_by_the_next() {
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
    let first = usage_events(&at);
    assert_eq!(first.len(), 1);
    assert_eq!(numbers(&first[0]), ["r-00001"]);
    emitter.flush().await;
    let second = usage_events(&at);
    assert_eq!(second.len(), 1);
    assert_eq!(numbers(&second[0]), ["r-00002"]);
}

/// A bus that rejects the usage events of one customer, and accepts the others in the same request.
#[derive(Debug, Clone)]
struct RejectingBus {
    aws: LocalAws,
    rejected: Arc<Mutex<Option<&'static str>>>,
}

impl RejectingBus {
    fn put_events(&self, body: &str) -> (u16, String) {
        let rejected = *self.rejected.lock().unwrap();
        let request: Value = serde_json::from_str(body).unwrap();
        let mut results = Vec::new();
        for entry in request["Entries"].as_array().unwrap() {
            let detail: Value = serde_json::from_str(entry["Detail"].as_str().unwrap()).unwrap();
            if detail["subject"].as_str() == rejected {
                let message = "Rate exceeded";
                results
                    .push(json!({ "ErrorCode": "ThrottlingException", "ErrorMessage": message }));
            } else {
                let one = json!({ "Entries": [entry] }).to_string();
                let (_, response) = self.aws.call("AWSEvents.PutEvents", &one);
                let mut response: Value = serde_json::from_str(&response).unwrap();
                results.push(response["Entries"][0].take());
            }
        }
        let failed = results
            .iter()
            .filter(|one| one["ErrorCode"].is_string())
            .count();
        let response = json!({ "FailedEntryCount": failed, "Entries": results });
        (200, response.to_string())
    }
}

#[tokio::test(start_paused = true)]
async fn only_a_rejected_event_of_several_is_sent_again() {
    let at = Fixture::at(NOW);
    let bus = RejectingBus {
        aws: at.aws.clone(),
        rejected: Arc::new(Mutex::new(Some("bolt"))),
    };
    let sdk = at.aws.sdk_config().into_builder();
    let called = bus.clone();
    let client = wire::http_client(move |call| ready(Some(called.put_events(&call.body))));
    let sdk = sdk.http_client(client).build();
    let (clock, entropy) = (at.clock(), at.entropy.clone());
    let unsent_log = UnsentLog::new(Metrics::none(), |_| {});
    let emitter = Emitter::new(&sdk, "usage", "ping", clock, entropy, unsent_log);
    for (number, customer) in ["acme", "bolt", "crow"].into_iter().enumerate() {
        record(&emitter, customer, [call(number)]);
    }
    emitter.flush().await;
    assert_eq!(customers(&usage_events(&at)), ["acme", "crow"]);

    *bus.rejected.lock().unwrap() = None;
    emitter.flush().await;
    let second = usage_events(&at);
    assert_eq!(customers(&second), ["bolt"]);
    assert_eq!(numbers(&second[0]), ["r-00001"]);
    emitter.flush().await;
    assert_eq!(delivered(&at), [0; 0]);
}

/// Lines of an unsent log.
#[derive(Debug, Clone, Default)]
struct LogLines(Arc<Mutex<Vec<String>>>);

impl LogLines {
    /// Creates an emitter whose unsent log is this one, and the collector of its metrics.
    fn emitter(&self, at: &Fixture) -> (Emitter, CloudWatch) {
        let cloudwatch = CloudWatch::default();
        let lines = Arc::clone(&self.0);
        let unsent_log = UnsentLog::new(cloudwatch.metrics("test", at.clock()), move |line| {
            lines.lock().unwrap().push(line.to_owned());
        });
        (emitter_with_log(at, "ping", unsent_log), cloudwatch)
    }

    /// Returns the events in the lines.
    fn events(&self) -> Vec<Value> {
        let lines = self.0.lock().unwrap();
        let event = |line: &String| {
            let mut line: Value = serde_json::from_str(line).unwrap();
            assert_eq!(
                (&line["level"], &line["message"]),
                (&json!("ERROR"), &json!("unsent_usage"))
            );
            line["event"].take()
        };
        lines.iter().map(event).collect()
    }
}

#[tokio::test(start_paused = true)]
async fn events_that_exceed_the_buffer_are_logged_whole_oldest_first() {
    let at = Fixture::at(NOW);
    let log = LogLines::default();
    let (emitter, cloudwatch) = log.emitter(&at);
    let calls = watch(&at, |_| Fault::RequestLost);
    record(&emitter, "early", [call(0)]);
    emitter.flush().await;
    for number in 1..=1_001 {
        record(&emitter, &format!("c-{number:04}"), [call(number)]);
    }
    emitter.flush().await;
    let logged = log.events();
    let subjects: Vec<_> = logged.iter().map(|event| &event["subject"]).collect();
    assert_eq!(subjects, ["early", "c-0001"]);
    assert_eq!(logged[0], calls.lock().unwrap()[0][0]);

    at.aws.heal();
    emitter.flush().await;
    let sent = usage_events(&at);
    assert_eq!(sent.len(), 1_000);
    assert_eq!(customers(&sent)[0], "c-0002");
    assert_eq!(log.events().len(), 2);
    assert_eq!(cloudwatch.sum(UNSENT_RECORDS, &[]), 2);
}

#[tokio::test(start_paused = true)]
async fn events_that_the_last_flush_cannot_send_are_logged_whole() {
    let at = Fixture::at(NOW);
    let log = LogLines::default();
    let (emitter, cloudwatch) = log.emitter(&at);
    let calls = watch(&at, |_| Fault::Throttled);
    record(&emitter, "acme", [large_call(1)]);
    record(&emitter, "bolt", [call(2)]);
    emitter.close().await;
    assert_eq!(log.events(), calls.lock().unwrap()[0]);
    assert_eq!(cloudwatch.sum(UNSENT_RECORDS, &[]), 2);

    at.aws.heal();
    emitter.flush().await;
    assert_eq!(delivered(&at), [0; 0]);
}

#[tokio::test(start_paused = true)]
async fn a_flush_times_out_after_three_seconds_and_loses_nothing() {
    let at = Fixture::at(NOW);
    let emitter = emitter(&at, "ping");
    record(&emitter, "acme", [call(1)]);
    watch(&at, |_| Fault::NoResponse);
    let started = tokio::time::Instant::now();
    emitter.flush().await;
    assert_eq!(started.elapsed().as_secs(), 3);
    at.aws.heal();
    emitter.flush().await;
    // The first request took effect without a response; the duplicate has the same id and counts once.
    let events = usage_events(&at);
    assert_eq!(events.len(), 2);
    assert_eq!(ids(&events)[0], ids(&events)[1]);
}

#[tokio::test(start_paused = true)]
async fn events_without_a_response_at_shutdown_are_logged() {
    let at = Fixture::at(NOW);
    let log = LogLines::default();
    let (emitter, _) = log.emitter(&at);
    record(&emitter, "acme", [call(1)]);
    watch(&at, |_| Fault::NoResponse);
    let started = tokio::time::Instant::now();
    emitter.close().await;
    assert_eq!(started.elapsed().as_millis(), 350);
    assert_eq!(log.events().len(), 1);
}

#[tokio::test(start_paused = true)]
async fn the_buffer_is_bounded_without_a_flush() {
    let at = Fixture::at(NOW);
    let log = LogLines::default();
    let (emitter, cloudwatch) = log.emitter(&at);
    // Each record has a customer of its own, so that each becomes an event.
    for number in 0..10_000 {
        record(&emitter, &format!("c-{number:05}"), [call(number)]);
    }
    let logged = log.events();
    assert_eq!(logged.len(), 9_000);
    assert_eq!(logged[8_999]["subject"], "c-08999");
    assert_eq!(cloudwatch.sum(UNSENT_RECORDS, &[]), 9_000);
    emitter.flush().await;
    assert_eq!(delivered(&at).len(), 1_000);
}

/// Starts a flush in the background, and waits until its request is sent.
async fn start_flush(emitter: &Emitter) -> JoinHandle<()> {
    let flushing = emitter.clone();
    let flush = tokio::spawn(async move { flushing.flush().await });
    tokio::time::sleep(Duration::from_millis(10)).await;
    flush
}

#[tokio::test(start_paused = true)]
async fn a_dropped_flush_loses_no_record() {
    let at = Fixture::at(NOW);
    let emitter = emitter(&at, "ping");
    record(&emitter, "acme", [call(1)]);
    watch(&at, |_| Fault::NoResponse);
    let flush = start_flush(&emitter).await;
    flush.abort();
    assert!(flush.await.unwrap_err().is_cancelled());
    at.aws.heal();
    delivered(&at);
    emitter.flush().await;
    assert_eq!(numbers(&usage_events(&at)[0]), ["r-00001"]);
}

#[tokio::test(start_paused = true)]
async fn a_shutdown_during_a_flush_loses_nothing() {
    let at = Fixture::at(NOW);
    let log = LogLines::default();
    let (emitter, _) = log.emitter(&at);
    record(&emitter, "acme", [call(1)]);
    watch(&at, |_| Fault::NoResponse);
    let flush = start_flush(&emitter).await;
    record(&emitter, "bolt", [call(2)]);
    emitter.close().await;
    let subjects = log.events().into_iter();
    let subjects: Vec<Value> = subjects.map(|mut event| event["subject"].take()).collect();
    assert_eq!(subjects, ["acme", "bolt"]);
    flush.await.unwrap();
    assert_eq!(log.events().len(), 2);
}

#[tokio::test(start_paused = true)]
async fn a_flush_returns_after_all_earlier_records_are_sent() {
    let at = Fixture::at(NOW);
    let emitter = emitter(&at, "ping");
    record(&emitter, "acme", [call(1)]);
    let mut is_first = true;
    watch(&at, move |_| match std::mem::take(&mut is_first) {
        true => Fault::NoResponse,
        false => Fault::None,
    });
    let first = start_flush(&emitter).await;
    // The first flush has made the event, which the bus has not acknowledged.
    emitter.flush().await;
    assert!(first.is_finished());
    let sent = usage_events(&at);
    assert_eq!(sent.len(), 2);
    assert_eq!(ids(&sent)[0], ids(&sent)[1]);
}

/// Returns the request ids of the records in each event that was put on the bus.
fn put(calls: &Mutex<Vec<Vec<Value>>>) -> Vec<Vec<String>> {
    let calls = calls.lock().unwrap();
    let numbers = |event: &Value| {
        let records = event["data"]["records"].as_array().unwrap().iter();
        let number = |record: &Value| record["request_id"].as_str().unwrap().to_owned();
        records.map(number).collect()
    };
    calls.iter().flatten().map(numbers).collect()
}

#[tokio::test(start_paused = true)]
async fn buffered_at_a_thousand_calls_a_second_each_event_has_a_hundred_records() {
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
    // The rest is flushed at shutdown.
    emitter.close().await;
    assert_eq!(sizes(), [[100; 10].as_slice(), &[50]].concat());
}

#[tokio::test(start_paused = true)]
async fn a_record_is_buffered_for_five_seconds_at_most_while_there_are_calls() {
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
    // After the clock is set back, the age is unknown, and the flush is due.
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
async fn the_next_buffered_flush_of_unsent_events_is_due_after_five_seconds() {
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
