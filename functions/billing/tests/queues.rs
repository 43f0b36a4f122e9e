//! The queues of billing: charges on their way to the worker, and runs that are continued.

#![allow(
    clippy::unwrap_used,
    reason = "a test whose setup or inspection fails has failed"
)]

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex};

use billing::{App, BillingRunError, Progress, handle, next_part};
use serde_json::{Value, json};
use tollgate_billing::Position;
use tollgate_domain::id::CustomerId;
use tollgate_domain::submission::{Recipient, SubmissionFailure};
use tollgate_local_aws::Fault;
use tollgate_runtime::env;
use tollgate_store::schema::EVENTS;
use tollgate_store::{CustomerChange, RecipientChange};
use tollgate_testing::customers::add_customer;
use tollgate_testing::init::init_with;
use tollgate_testing::stored::{items, text};

mod common;

use common::{NOW, Stack, p};

/// Name of the queue that the template's variable names.
const CHARGES: &str = "ChargeQueue";
const RUNS: &str = "BillingRunQueue";

/// Returns a stack with Stripe and its webhooks configured, and customers `c-000`, `c-001`, … with a charge due each.
async fn stack(customers: usize) -> Stack {
    stack_with_events(customers, "webhook").await
}

/// Returns a stack to which Stripe's events come by these sources.
async fn stack_with_events(customers: usize, sources: &str) -> Stack {
    let mut stack = Stack::new();
    let init = init_with(
        &stack.at,
        "BillingFunction",
        [
            (env::STRIPE_SECRET, "stripe"),
            (env::STRIPE_EVENT_SOURCES, sources),
        ],
    );
    stack.app = App::build(&init).unwrap();
    for n in 0..customers {
        stack
            .calls(&format!("c-{n:03}"), "2026-11-22", "pro", 100_010)
            .await;
    }
    stack
}

/// Takes all messages of a queue.
fn take(stack: &Stack, queue: &str) -> Vec<Value> {
    let queue = stack.at.aws.named_queue(queue).unwrap();
    let messages = queue.receive(1_000).unwrap();
    let ids: Vec<i64> = messages.iter().map(|message| message.id).collect();
    queue.delete(&ids).unwrap();
    let bodies = messages.iter().map(|message| &message.body);
    bodies
        .map(|body| serde_json::from_str(body).unwrap())
        .collect()
}

fn charges(messages: &[Value]) -> BTreeSet<String> {
    let ids = messages
        .iter()
        .map(|message| message["charge"].as_str().unwrap());
    ids.map(str::to_owned).collect()
}

/// Returns the event with which the queue continues a run.
fn continuing(message: &Value) -> Value {
    json!({ "Records": [{
        "messageId": "m-1", "eventSource": "aws:sqs", "body": message.to_string(),
    }] })
}

#[tokio::test]
async fn a_run_queues_each_charge_that_is_due() {
    let stack = stack(25).await;
    let report = stack.run(NOW).await;
    assert_eq!(report.destination, "stripe");
    let expected: BTreeSet<String> = (0..25)
        .map(|n| format!("ci_c-{n:03}_2026-11_0001"))
        .collect();
    let messages = take(&stack, CHARGES);
    assert_eq!((messages.len(), charges(&messages)), (25, expected.clone()));
    // Nobody has submitted them, so the next run queues them again: a message may have been lost.
    let report = stack.run("2026-11-24T02:00:00Z").await;
    assert_eq!(report.charge_count, 0);
    assert_eq!(charges(&take(&stack, CHARGES)), expected);
}

/// The memory of a run does not grow with the number of charges that are due.
#[tokio::test]
async fn a_run_reads_customers_and_charges_in_pages() {
    let stack = stack(3).await;
    let limits = Arc::new(Mutex::new(Vec::new()));
    let seen = Arc::clone(&limits);
    stack.at.aws.inject(move |call| {
        let lists = ["open-charges", "OVERAGE#", "LATE#"];
        if call.operation() == "Query" && lists.iter().any(|list| call.body.contains(list)) {
            let request: Value = serde_json::from_str(&call.body).unwrap();
            seen.lock().unwrap().push(request["Limit"].as_u64());
        }
        Fault::None
    });
    stack.run(NOW).await;
    let limits = limits.lock().unwrap().clone();
    assert!(limits.len() > 16, "{limits:?}");
    assert!(limits.iter().all(|limit| *limit == Some(200)), "{limits:?}");
}

#[tokio::test]
async fn a_run_does_not_queue_what_is_settled_or_waits() {
    let stack = stack(3).await;
    stack.run(NOW).await;
    take(&stack, CHARGES);
    let store = &stack.at.store;
    let name = |n: usize| format!("ci_c-{n:03}_2026-11_0001").parse().unwrap();
    let settled = store.charge(&name(0)).await.unwrap().unwrap();
    store.settle_charge(&settled.charge, "ii_1").await.unwrap();
    let failed = store.charge(&name(1)).await.unwrap().unwrap();
    let later = p("2026-11-25T00:00:00Z");
    store
        .fail_charge(&failed, SubmissionFailure::Unavailable, "no", later)
        .await
        .unwrap();
    stack.run("2026-11-24T02:00:00Z").await;
    let queued = charges(&take(&stack, CHARGES));
    assert_eq!(queued, BTreeSet::from(["ci_c-002_2026-11_0001".to_owned()]));
    stack.run("2026-11-25T02:00:00Z").await;
    assert_eq!(take(&stack, CHARGES).len(), 2);
}

#[tokio::test]
async fn without_a_payment_provider_nothing_is_queued() {
    let stack = Stack::new();
    stack.calls("acme", "2026-11-22", "pro", 100_010).await;
    let report = stack.run(NOW).await;
    assert_eq!(
        (report.destination, report.charge_count),
        ("ledger_only", 1)
    );
    assert_eq!(take(&stack, CHARGES), [Value::Null; 0]);
}

/// The charges stay in the ledger, and Lambda's retry queues them.
#[tokio::test(start_paused = true)]
async fn charges_that_cannot_be_queued_fail_the_run_and_are_queued_by_the_next() {
    let stack = stack(2).await;
    stack
        .at
        .aws
        .inject(|call| match call.operation() == "SendMessageBatch" {
            true => Fault::RequestLost,
            false => Fault::None,
        });
    let failed = stack.try_run(NOW).await.unwrap_err();
    assert!(matches!(failed, BillingRunError::Queue(_)), "{failed}");
    stack.at.aws.heal();
    stack.run(NOW).await;
    assert_eq!(take(&stack, CHARGES).len(), 2);
}

/// Each part ends at once, and its successor goes on from the queue.
#[tokio::test]
async fn a_run_that_runs_out_of_time_continues_itself() {
    let stack = stack(40).await;
    stack.at.time.set(p("2026-12-04T02:00:00Z"));
    // The margin before the end of the invocation is used up.
    let deadline = Some(p("2026-12-04T02:01:00Z"));
    let (mut event, mut parts, mut created) = (json!({}), 0, 0);
    let queued = loop {
        let report = handle(&stack.app, &event, deadline).await.unwrap();
        created += report.charge_count;
        parts += 1;
        let next = take(&stack, RUNS);
        match &next[..] {
            [] => break take(&stack, CHARGES),
            [message] => event = continuing(message),
            _ => panic!("{next:#?}"),
        }
        assert!(parts < 200);
    };
    assert!(parts > 10, "{parts}");
    assert_eq!(created, 40);
    assert_eq!(charges(&queued).len(), 40);
    // The event of the run has the sums of all parts.
    let events = completed(&stack);
    assert_eq!(events.len(), 1, "{events:?}");
    assert_eq!(events[0]["charge_count"], 40);
    assert_eq!(events[0]["billing_periods"], 40);
    assert_eq!(events[0]["amount_cents"], 40);
    assert!(stack.is_closed("2026-11").await);
}

/// Returns the data of the events of completed runs.
fn completed(stack: &Stack) -> Vec<Value> {
    let events = items(&stack.at, EVENTS).into_iter();
    let completed = events.filter(|event| text(event, "kind") == "billing.run.completed");
    completed
        .map(|event| serde_json::from_str(&text(&event, "data")).unwrap())
        .collect()
}

/// Lambda's retries of an invocation have its event.
#[tokio::test]
async fn a_run_is_announced_once_however_often_it_is_repeated() {
    let stack = stack(2).await;
    let event = json!({ "time": "2026-11-23T02:00:00Z" });
    for (now, expected) in [("2026-11-23T02:00:01Z", 2), ("2026-11-23T02:02:00Z", 0)] {
        stack.at.time.set(p(now));
        let report = handle(&stack.app, &event, None).await.unwrap();
        assert_eq!(report.charge_count, expected);
        let data = json!({
            "scheduled_at": "2026-11-23T02:00:00Z", "billing_periods": 2, "charge_count": 2,
            "amount_cents": 2, "failed": 0,
        });
        assert_eq!(completed(&stack), [data]);
    }
    // The schedule of the next day is another run, and so is one that is started by hand.
    let tomorrow = json!({ "time": "2026-11-24T02:00:00Z" });
    stack.at.time.set(p("2026-11-24T02:00:01Z"));
    handle(&stack.app, &tomorrow, None).await.unwrap();
    handle(&stack.app, &json!({}), None).await.unwrap();
    assert_eq!(completed(&stack).len(), 3);
}

#[tokio::test(start_paused = true)]
async fn a_run_whose_end_cannot_be_announced_fails_and_the_retry_announces_it() {
    let stack = stack(0).await;
    let event = json!({ "time": "2026-11-23T02:00:00Z" });
    for fault in [Fault::RequestLost, Fault::ResponseLost] {
        stack.fail("EVENT#", fault);
        let failed = handle(&stack.app, &event, None).await.unwrap_err();
        assert!(matches!(failed, BillingRunError::Store(_)), "{failed}");
        stack.at.aws.heal();
        handle(&stack.app, &event, None).await.unwrap();
        assert_eq!(completed(&stack).len(), 1, "{fault:?}");
    }
}

/// A deployment may replace the function during a run.
#[tokio::test]
async fn a_message_of_an_earlier_release_continues_a_run() {
    let stack = stack(1).await;
    let position = json!({ "bill": { "month": "2026-11", "after": null, "has_failed": false } });
    let report = handle(&stack.app, &continuing(&position), None).await;
    assert_eq!(report.unwrap().charge_count, 1);
    assert_eq!(completed(&stack)[0]["charge_count"], 1);
}

#[tokio::test]
async fn the_position_of_a_run_is_kept_in_its_message() {
    let position = Progress::Bill(Position {
        month: p("2026-11"),
        after: Some("3".to_owned()),
        has_failed: true,
    });
    let message = serde_json::to_value(&position).unwrap();
    let expected = json!({ "bill": { "month": "2026-11", "after": "3", "has_failed": true } });
    assert_eq!(message, expected);
    let stack = stack(0).await;
    let read: Progress = serde_json::from_value(message).unwrap();
    let (report, rest) = next_part(&stack.app, Some(read), None).await.unwrap();
    assert_eq!((report.months[0], rest), (p("2026-11"), None));
}

#[tokio::test]
async fn a_message_that_is_no_position_fails() {
    let stack = stack(0).await;
    for message in [
        json!({}),
        json!("bill"),
        json!({ "bill": { "month": "2026-13" } }),
    ] {
        let failed = handle(&stack.app, &continuing(&message), None).await;
        let failed = failed.unwrap_err();
        assert!(matches!(failed, BillingRunError::Message(_)), "{message}");
    }
}

/// A run names all customers who are due, in parts if its time is over, and leaves the others.
#[tokio::test]
async fn customers_to_follow_up_are_named_in_pages() {
    let stack = stack(0).await;
    let schedule = async |n: usize, due: &str| {
        let (customer, stripe) = (p(&format!("c-{n:03}")), format!("cus_{n:03}"));
        let scheduled = stack.at.store.schedule_invoice(&customer, &stripe, p(due));
        scheduled.await.unwrap();
    };
    for n in 0..150 {
        schedule(n, NOW).await;
    }
    schedule(150, "2027-01-05T00:00:00Z").await;
    let from = Some(Progress::FollowUp(None));
    let (_, rest) = next_part(&stack.app, from, Some(p(NOW))).await.unwrap();
    let mut named = take(&stack, "StripeEventQueue");
    assert_eq!(named.len(), 100);
    let Some(Progress::FollowUp(Some(_))) = &rest else {
        panic!("{rest:?}");
    };
    // As in the message that continues the run.
    let message = serde_json::to_value(rest.unwrap()).unwrap();
    let rest = serde_json::from_value(message).unwrap();
    let (_, rest) = next_part(&stack.app, Some(rest), None).await.unwrap();
    assert_eq!(rest, None);
    named.extend(take(&stack, "StripeEventQueue"));
    let named: BTreeSet<&str> = named
        .iter()
        .map(|message| message["stripe_customer"].as_str().unwrap())
        .collect();
    assert_eq!(named.len(), 150);
    assert!(!named.contains("cus_150"));
}

/// Nothing would report later changes of a subscription that a customer was made to follow once.
#[tokio::test]
async fn customers_follow_subscriptions_only_if_events_of_stripe_arrive() {
    for (sources, expected) in [
        ("", vec![Some("cus_acme")]),
        ("webhook", vec![None, Some("cus_acme")]),
    ] {
        let stack = stack_with_events(0, sources).await;
        add_customer(&stack.at, "acme", "pro").await;
        let link = CustomerChange {
            recipient: Some(RecipientChange {
                before: None,
                after: Some(Recipient {
                    customer: "cus_acme".to_owned(),
                    subscription: None,
                }),
            }),
            ..CustomerChange::default()
        };
        let acme: CustomerId = p("acme");
        let store = &stack.at.store;
        store.update_customer(&acme, &link).await.unwrap();
        let scheduled = store.schedule_invoice(&acme, "cus_acme", p(NOW));
        scheduled.await.unwrap();
        stack.at.time.set(p("2026-12-01T00:00:00Z"));
        let from = Some(Progress::FollowUp(None));
        next_part(&stack.app, from, None).await.unwrap();
        let mut named: Vec<Option<String>> = take(&stack, "StripeEventQueue")
            .iter()
            .map(|message| message["stripe_customer"].as_str().map(str::to_owned))
            .collect();
        named.sort();
        let expected: Vec<Option<String>> = expected
            .into_iter()
            .map(|it| it.map(str::to_owned))
            .collect();
        assert_eq!(named, expected, "{sources:?}");
        // One that is not named stays, for when events arrive.
        assert_eq!(store.follow_ups(None).await.unwrap().items.len(), 2);
    }
}
