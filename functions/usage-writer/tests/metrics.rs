//! Metrics of a batch.

#![allow(
    clippy::unwrap_used,
    reason = "a test that cannot begin, or cannot look, has failed"
)]

use serde_json::Value;
use tollgate_local_aws::Fault;
use tollgate_runtime::metrics::{
    COUNTED_EVENTS, DUPLICATE_EVENTS, FAILED_EVENTS, LATE_CALLS, METERED_CALLS, METERING_LAG,
    Metric, QUARANTINED_EVENTS, QUARANTINED_RECORDS,
};

mod common;

use common::{NOW, Stack, adjusting, adjustment, batch, body, deliver, record, usage_event, with};

const COUNTS: [Metric; 6] = [
    COUNTED_EVENTS,
    DUPLICATE_EVENTS,
    QUARANTINED_EVENTS,
    FAILED_EVENTS,
    METERED_CALLS,
    QUARANTINED_RECORDS,
];

/// Delivers these messages in one batch, and compares the sums of [`COUNTS`] so far.
async fn check(stack: &Stack, messages: &[&str], expected: [u64; 6]) {
    let messages: Vec<_> = messages.iter().map(|body| ("m", *body)).collect();
    deliver(&stack.app, batch(&messages)).await;
    let found = COUNTS.map(|metric| stack.cloudwatch.sum(metric, &[]));
    assert_eq!(found, expected);
}

#[tokio::test(start_paused = true)]
async fn outcomes_of_events_and_records_are_counted() {
    let stack = Stack::new();
    let good = record(NOW, "/a");
    let mut bad = good.clone();
    bad["status"] = "two hundred".into();
    let first = body(&usage_event(
        "e-1",
        "acme",
        [good.clone(), good.clone(), bad],
    ));
    check(&stack, &[&first], [1, 0, 1, 0, 2, 1]).await;
    check(&stack, &[&first], [1, 1, 1, 0, 2, 1]).await;
    let rival = body(&usage_event("e-1", "acme", [good.clone()]));
    check(&stack, &["no usage event", &rival], [1, 1, 3, 0, 2, 1]).await;
    let second = body(&usage_event("e-2", "acme", [good]));
    stack.at.aws.inject(|_| Fault::RequestLost);
    check(&stack, &[&second], [1, 1, 3, 1, 2, 1]).await;
    stack.at.aws.heal();
    check(&stack, &[&second], [2, 1, 3, 1, 3, 1]).await;
}

/// The lag is that of the earliest call; a call dated in the future has no lag.
#[tokio::test]
async fn the_lag_of_an_event_is_that_of_its_earliest_call() {
    let stack = Stack::new();
    let at =
        |times: &[&str]| -> Vec<Value> { times.iter().map(|time| record(time, "/a")).collect() };
    let behind = at(&["2026-11-22T09:59:58.5Z", "2026-11-22T09:59:57Z", NOW]);
    let ahead = at(&["2026-11-22T10:00:01Z"]);
    stack
        .count(&body(&usage_event("e-1", "acme", behind)))
        .await;
    stack.count(&body(&usage_event("e-2", "acme", ahead))).await;
    assert_eq!(stack.cloudwatch.values(METERING_LAG, &[]), [3_000, 0]);
}

/// Usage that is counted when its month may have closed is in no bill if the month has: calls on plans
/// that charge, and adjustments of them, up or down.
#[tokio::test]
async fn usage_that_comes_too_late_to_be_billed_is_counted_in_a_metric() {
    let stack = Stack::new();
    let last = "2026-10-31T23:59:59Z";
    let on_free = with(record(last, "/a"), "plan", "free");
    let failed = with(record(last, "/a"), "status", 500);
    let mut n = 0;
    let mut check = async |now: &str, expected: u64| {
        stack.at.time.set(now.parse().unwrap());
        let today = record(now, "/a");
        let records = [
            record(last, "/a"),
            record(last, "/b"),
            on_free.clone(),
            failed.clone(),
            today,
        ];
        n += 1;
        let late = body(&usage_event(&format!("e-{n}"), "acme", records));
        stack.count(&late).await;
        let adjustments = [adjustment(last, -3), adjustment(last, 7)];
        for (at, one) in adjustments.into_iter().enumerate() {
            let one = adjusting(&format!("a-{n}-{at}"), "acme", [one]);
            stack.count(&body(&one)).await;
        }
        assert_eq!(stack.cloudwatch.sum(LATE_CALLS, &[]), expected, "{now}");
        // A duplicate does not count again.
        stack.count(&late).await;
        assert_eq!(stack.cloudwatch.sum(LATE_CALLS, &[]), expected, "{now}");
    };
    check("2026-11-01T00:00:00Z", 0).await;
    check("2026-11-03T23:59:59Z", 0).await;
    check("2026-11-04T00:00:00Z", 12).await;
    check("2026-11-22T10:00:00Z", 24).await;
}
