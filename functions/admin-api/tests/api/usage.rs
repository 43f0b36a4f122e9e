//! `/admin/usage/events`, and `/admin/customers/{customer}/adjustments`.

#![allow(
    clippy::unwrap_used,
    reason = "a test that cannot look at what is stored has failed"
)]

use serde_json::{Value, json};
use tollgate_api::Cursor;
use tollgate_local_aws::Fault;
use tollgate_testing::event::{Event, text};
use tollgate_testing::p;
use tollgate_testing::response::{checks_bodies, data};
use tollgate_testing::stored::stored;

use crate::stack::Stack;

/// Returns a valid record.
pub(crate) fn record() -> Value {
    json!({
        "time": "2026-11-22T09:59:00Z", "request_id": "r-1", "key_id": "key_elsewhere",
        "plan": "pro", "method": "POST", "endpoint": "/batch", "status": 200, "latency_ms": 5,
    })
}

/// Returns a usage event with records.
pub(crate) fn usage_event(id: &str, records: &[Value]) -> Value {
    json!({
        "specversion": "1.0", "id": id, "source": "my-batch-job", "type": "tollgate.usage.v1",
        "time": "2026-11-22T10:00:00Z", "subject": "acme", "data": { "records": records },
    })
}

/// Returns a usage event with an adjustment by that many calls on a day of November.
fn adjusting(id: &str, day: &str, calls: i64) -> Value {
    let mut usage_event = usage_event(id, &[]);
    usage_event["type"] = "tollgate.adjustment.v1".into();
    let time = format!("2026-11-{day}T12:00:00Z");
    usage_event["data"] = json!({ "adjustments": [{
        "time": time, "plan": "pro", "billable_calls": calls, "micro_usd": -1_000, "reason": "outage",
    }] });
    usage_event
}

/// Returns the metered calls of `acme` in November.
pub(crate) async fn calls(stack: &Stack) -> u64 {
    let month = stack.at.store.month_usage(&p("acme"), p("2026-11")).await;
    month.unwrap().calls
}

fn outcomes(response: &Value) -> Vec<(&str, &str)> {
    let outcome = |one| (text(one, "id"), text(one, "outcome"));
    data(response).iter().map(outcome).collect()
}

#[tokio::test]
async fn a_repeated_request_is_counted_once() {
    let stack = Stack::new();
    for outcome in ["counted", "duplicate", "duplicate"] {
        let response = stack.call("count-usage", |event| event).await.json(200);
        let expected = [("2026-11-22-0001", outcome), ("ticket-4711", outcome)];
        assert_eq!(outcomes(&response), expected);
        assert_eq!(data(&response)[0]["source"], "my-batch-job");
        assert_eq!(calls(&stack).await, 1);
    }
}

#[tokio::test]
async fn nothing_is_counted_if_any_record_is_invalid() {
    let stack = Stack::new();
    let before = stored(&stack.at);
    let mut bad = record();
    bad["status"] = json!("200");
    let mut late = record();
    late["time"] = json!("2026-01-01T00:00:00Z");
    let events = [
        usage_event("e-1", &[record()]),
        usage_event("e-2", &[record(), bad.clone(), record(), late]),
        adjusting("a-1", "20", 0),
    ];
    let response = stack.count(&events).await;
    response.unprocessable(None);
    let shape = "not of the documented shape: invalid type: string \"200\", expected u16";
    let expected = json!([
        { "pointer": "/events/1/data/records/1", "reason": shape },
        { "pointer": "/events/1/data/records/3", "reason": "older than 35 days" },
    ]);
    assert_eq!(response.body["defects"], expected);
    let mut unknown = usage_event("e-3", &[record()]);
    unknown["type"] = json!("tollgate.usage.v9");
    let bad = |id| usage_event(id, &[bad.clone()]);
    let events = [bad("e-1"), unknown.clone(), bad("e-2"), unknown];
    let response = stack.count(&events).await;
    response.unprocessable(None);
    let defects = response.body["defects"].as_array().unwrap();
    let pointers: Vec<&str> = defects.iter().map(|one| text(one, "pointer")).collect();
    let (first, third) = ("/events/0/data/records/0", "/events/2/data/records/0");
    assert_eq!(pointers, [first, "/events/1", third, "/events/3"]);
    assert_eq!(stored(&stack.at), before);
}

#[tokio::test]
async fn a_request_has_one_to_a_hundred_events() {
    let stack = Stack::new();
    stack.count(&[]).await.unprocessable(Some("events"));
    let events: Vec<Value> = (0..101)
        .map(|n| usage_event(&format!("e-{n}"), &[record()]))
        .collect();
    stack.count(&events).await.unprocessable(Some("events"));
    let response = stack.count(&events[..100]).await.json(200);
    assert_eq!(data(&response).len(), 100);
    assert_eq!(calls(&stack).await, 100);
    checks_bodies(&stack.function, &Event::load("admin-api/count-usage")).await;
}

#[tokio::test]
async fn an_event_with_a_taken_source_and_id_is_a_conflict_and_the_others_are_counted() {
    let stack = Stack::new();
    stack
        .count(&[usage_event("e-1", &[record()])])
        .await
        .json(200);
    let mut other = record();
    other["status"] = json!(404);
    let events = [
        usage_event("e-1", &[other]),
        usage_event("e-2", &[record()]),
    ];
    let response = stack.count(&events).await;
    response.conflict();
    assert_eq!(response.body["conflicts"], json!(["/events/0"]));
    assert_eq!(calls(&stack).await, 2);
    // Of two in one request, the first is counted.
    let mut other = record();
    other["status"] = json!(500);
    let events = [
        usage_event("e-3", &[record()]),
        usage_event("e-3", &[other]),
    ];
    let response = stack.count(&events).await;
    let detail = response.conflict();
    assert!(
        detail.contains("came before these or with them"),
        "{detail}"
    );
    assert_eq!(response.body["conflicts"], json!(["/events/1"]));
    assert_eq!(calls(&stack).await, 3);
    // The caller gets the conflict in the response, so nothing is quarantined.
    assert!(
        stack
            .at
            .store
            .list_quarantined(None)
            .await
            .unwrap()
            .items
            .is_empty()
    );
}

#[tokio::test]
async fn an_event_with_other_extension_attributes_is_a_duplicate() {
    let stack = Stack::new();
    let traced = |by: &str| {
        let mut usage_event = usage_event("e-1", &[record()]);
        usage_event["traceparent"] = by.into();
        usage_event
    };
    let sent = [
        (traced("00-1"), "counted"),
        (traced("00-2"), "duplicate"),
        (usage_event("e-1", &[record()]), "duplicate"),
    ];
    for (event, outcome) in sent {
        let response = stack.count(&[event]).await.json(200);
        assert_eq!(outcomes(&response), [("e-1", outcome)]);
        assert_eq!(calls(&stack).await, 1);
    }
    let log = stack.call("list-usage", |event| event).await.json(200);
    assert_eq!(data(&log)[0]["event"], traced("00-1"));
    let mut other = traced("00-1");
    other["data"]["records"][0]["status"] = json!(404);
    stack.count(&[other]).await.conflict();
    assert_eq!(calls(&stack).await, 1);
}

#[tokio::test]
async fn a_duplicate_behind_another_event_of_its_identity_is_a_duplicate() {
    let stack = Stack::new();
    let mut other = record();
    other["status"] = json!(404);
    let (other, first) = (
        usage_event("e-1", &[other]),
        usage_event("e-1", &[record()]),
    );
    stack.count(std::slice::from_ref(&first)).await.json(200);
    let events = [
        other.clone(),
        first.clone(),
        usage_event("e-2", &[record()]),
        other,
        first,
    ];
    for _ in 0..2 {
        let response = stack.count(&events).await;
        response.conflict();
        let conflicts = json!(["/events/0", "/events/3"]);
        assert_eq!(response.body["conflicts"], conflicts);
        assert_eq!(calls(&stack).await, 2);
    }
}

fn on_days(days: &[u32]) -> Vec<Value> {
    let records = days.iter().map(|day| {
        let mut record = record();
        record["time"] = format!("2026-11-{day:02}T09:59:00Z").into();
        record
    });
    records.collect()
}

#[tokio::test]
async fn an_event_that_was_counted_in_time_is_a_duplicate_however_old() {
    let stack = Stack::new();
    let whole = [usage_event("e-1", &on_days(&[20, 21, 21]))];
    stack.count(&whole).await.json(200);
    assert_eq!(calls(&stack).await, 3);
    let other = usage_event("e-1", &on_days(&[20, 21]));
    let new = usage_event("e-2", &on_days(&[21]));
    for now in ["2026-12-26T09:59:01Z", "2027-11-01T10:00:00Z"] {
        stack.at.time.set(p(now));
        let repeated = stack.count(&whole).await.json(200);
        assert_eq!(outcomes(&repeated), [("e-1", "duplicate")]);
        // Neither another event with the same id nor one that was not counted is taken for it.
        for never_counted in [&other, &new] {
            let response = stack
                .count(&[whole[0].clone(), never_counted.clone()])
                .await;
            response.unprocessable(None);
            let defect = &response.body["defects"][0];
            assert_eq!(defect["pointer"], "/events/1/data/records/0");
            assert_eq!(defect["reason"], "older than 35 days");
        }
        assert_eq!(calls(&stack).await, 3);
    }
}

#[tokio::test(start_paused = true)]
async fn of_an_old_event_the_records_that_were_not_counted_are_named() {
    let stack = Stack::new();
    // So many endpoints that the two days are counted in two transactions.
    let mut records = on_days(&[[20; 50], [21; 50]].concat());
    for (number, record) in records.iter_mut().enumerate() {
        record["endpoint"] = format!("/{number}").into();
    }
    let event = [usage_event("e-1", &records)];
    let is_of_day_21 = |body: &str| body.contains("2026-11-21");
    stack.at.aws.inject(move |call| {
        let is_commit = call.operation() == "TransactWriteItems";
        match is_commit && is_of_day_21(&call.body) {
            true => Fault::RequestLost,
            false => Fault::None,
        }
    });
    let response = stack.count(&event).await;
    response.problem(503, "temporarily-unavailable", None);
    stack.at.aws.heal();
    assert_eq!(calls(&stack).await, 50);
    stack.at.time.set(p("2026-12-27T10:00:00Z"));
    let response = stack.count(&event).await;
    response.unprocessable(None);
    let defects = response.body["defects"].as_array().unwrap();
    let pointers = defects.iter().map(|one| text(one, "pointer").to_owned());
    let uncounted = (50..100).map(|index| format!("/events/0/data/records/{index}"));
    assert!(pointers.eq(uncounted), "{defects:?}");
}

#[tokio::test]
async fn no_producer_takes_the_identity_of_a_replay() {
    let stack = Stack::new();
    let before = stored(&stack.at);
    let of_source = |id: &str| {
        let mut event = usage_event(id, &[record()]);
        event["source"] = "tollgate:quarantine".into();
        event
    };
    let response = stack.count(&[of_source(&"0a".repeat(32))]).await;
    response.unprocessable(None);
    let reason = "the source and id are those of a replay";
    let expected = json!([{ "pointer": "/events/0", "reason": reason }]);
    assert_eq!(response.body["defects"], expected);
    assert_eq!(stored(&stack.at), before);
    // The metering layer of a function that is named `quarantine` has this source, too.
    let of_function = of_source("019abb9e-8b00-7000-8000-000000000000");
    let response = stack.count(&[of_function]).await.json(200);
    assert_eq!(data(&response)[0]["outcome"], "counted");
}

#[tokio::test]
async fn a_customer_id_that_cannot_be_in_a_url_is_rejected() {
    let stack = Stack::new();
    let before = stored(&stack.at);
    for subject in [".", ".."] {
        let mut event = usage_event("e-1", &[record()]);
        event["subject"] = subject.into();
        let response = stack.count(&[event]).await;
        response.unprocessable(None);
        let defect = &response.body["defects"][0];
        assert_eq!(defect["pointer"], "/events/0");
        assert!(text(defect, "reason").contains("subject"), "{defect}");
    }
    assert_eq!(stored(&stack.at), before);
}

#[tokio::test]
async fn times_must_be_as_in_rfc_3339() {
    let stack = Stack::new();
    let before = stored(&stack.at);
    let times = [
        "2026-11-22T09:59Z",
        "20261122T095900Z",
        "9999-12-31T23:59:59Z",
    ];
    for time in times {
        let mut of_record = record();
        of_record["time"] = time.into();
        let mut of_event = usage_event("e-2", &[record()]);
        of_event["time"] = time.into();
        let response = stack
            .count(&[usage_event("e-1", &[of_record]), of_event])
            .await;
        response.unprocessable(None);
        let defects = response.body["defects"].as_array().unwrap();
        let pointers: Vec<&str> = defects.iter().map(|one| text(one, "pointer")).collect();
        assert_eq!(
            pointers,
            ["/events/0/data/records/0", "/events/1"],
            "{time}"
        );
    }
    assert_eq!(stored(&stack.at), before);
}

#[tokio::test(start_paused = true)]
async fn a_request_that_failed_in_part_can_be_retried() {
    let stack = Stack::new();
    let mut of_another = usage_event("e-2", &[record()]);
    of_another["subject"] = json!("globex");
    let events = [usage_event("e-1", &[record()]), of_another];
    stack
        .at
        .aws
        .inject(|call| match call.body.contains("globex") {
            true => Fault::RequestLost,
            false => Fault::None,
        });
    let response = stack.count(&events).await;
    response.problem(503, "temporarily-unavailable", None);
    assert_eq!(calls(&stack).await, 1);
    stack.at.aws.heal();
    let response = stack.count(&events).await.json(200);
    assert_eq!(
        outcomes(&response),
        [("e-1", "duplicate"), ("e-2", "counted")]
    );
}

#[tokio::test]
async fn the_log_lists_events_as_they_arrived() {
    let stack = Stack::new();
    let spaced = r#"{"events": [{ "specversion":"1.0", "id": "e-1", "source":"s",
        "type":"tollgate.usage.v1", "time":"2026-11-22T10:00:00Z", "subject":"acme", "data":
        {"records":[RECORD]}}]}"#;
    let body = spaced.replace("RECORD", &record().to_string());
    let counted = stack.call("count-usage", |event| event.text(&body)).await;
    counted.json(200);
    let log = stack.call("list-usage", |event| event).await;
    assert!(
        log.text
            .contains(r#"{ "specversion":"1.0", "id": "e-1", "source":"s","#)
    );
    let log = log.json(200);
    assert_eq!(log["next_cursor"], Value::Null);
    let [only] = &data(&log)[..] else {
        panic!("{log}");
    };
    assert_eq!(
        (&only["day"], &only["records"]),
        (&json!("2026-11-22"), &json!(1))
    );
    let check = async |query: &[(&str, &str)], expected: usize| {
        let log = stack.call("list-usage", |event| event.query(query)).await;
        assert_eq!(data(&log.json(200)).len(), expected, "{query:?}");
    };
    check(&[("customer_id", "acme")], 1).await;
    check(&[("customer_id", "acme"), ("to", "2026-11-23")], 1).await;
    check(
        &[
            ("customer_id", "acme"),
            ("from", "2026-11-01"),
            ("to", "2026-11-21"),
        ],
        0,
    )
    .await;
    check(&[("customer_id", "globex")], 0).await;
}

#[tokio::test]
async fn a_long_log_is_paged() {
    let stack = Stack::new();
    let events: Vec<Value> = (0..60)
        .map(|n| usage_event(&format!("e-{n}"), &[record()]))
        .collect();
    stack.count(&events).await.json(200);
    let mut cursor = None;
    let mut ids = Vec::new();
    loop {
        let mut query = vec![("customer_id", "acme")];
        query.extend(cursor.as_deref().map(|cursor| ("cursor", cursor)));
        let page = stack.call("list-usage", |event| event.query(&query)).await;
        let page = page.json(200);
        ids.extend(
            data(&page)
                .iter()
                .map(|one| text(&one["event"], "id").to_owned()),
        );
        match page["next_cursor"].as_str() {
            Some(next) => cursor = Some(next.to_owned()),
            None => break,
        }
        // The default day changes, but the cursor keeps its own.
        stack.at.time.set("2026-11-23T00:00:10Z".parse().unwrap());
    }
    ids.sort();
    ids.dedup();
    assert_eq!(ids.len(), 60);
}

#[tokio::test]
async fn an_invalid_query_of_the_log_is_rejected() {
    let stack = Stack::new();
    let cursor = |list: &str, position: &str| {
        let windows = "2026-11-22\n2026-11-22\n";
        String::from(Cursor::new(list, format!("{windows}{position}")))
    };
    let nowhere = cursor("log acme", "");
    let half = cursor("log acme", "2026-11-22#\nx");
    let outside = cursor("log acme", "2026-11-23#2026-11-23T10:00:00Z\nx#y\n00");
    let of_another = cursor("log globex", "2026-11-22#2026-11-22T10:00:00Z\nx#y\n00");
    let good = cursor("log acme", "2026-11-22#2026-11-22T10:00:00Z\nx#y\n00");
    let after_the_last = cursor("log acme", "2026-11-22#~~\n0");
    let wrong: [&[(&str, &str)]; 10] = [
        &[],
        &[("customer_id", "a b")],
        &[("customer_id", "acme"), ("from", "yesterday")],
        &[
            ("customer_id", "acme"),
            ("from", "2026-11-22"),
            ("to", "2026-11-21"),
        ],
        &[("customer_id", "acme"), ("cursor", &nowhere)],
        &[("customer_id", "acme"), ("cursor", &half)],
        &[("customer_id", "acme"), ("cursor", &outside)],
        &[("customer_id", "acme"), ("cursor", &of_another)],
        &[("customer_id", "acme"), ("cursor", &after_the_last)],
        &[
            ("customer_id", "acme"),
            ("cursor", &good),
            ("from", "2026-11-21"),
        ],
    ];
    let fields = ["customer_id", "customer_id", "from", "from"];
    let fields = fields.into_iter().chain(std::iter::repeat("cursor"));
    for (query, field) in wrong.into_iter().zip(fields) {
        let response = stack.call("list-usage", |event| event.query(query)).await;
        response.bad_request(Some(field));
    }
}

#[tokio::test]
async fn adjustments_are_listed_with_their_reasons_and_change_charges() {
    let stack = Stack::new();
    let mut many = record();
    many["plan"] = json!("pro");
    stack.count(&[usage_event("e-1", &[many])]).await.json(200);
    let events = [adjusting("a-2", "21", 100_020), adjusting("a-1", "02", 5)];
    stack.count(&events).await.json(200);
    let response = stack
        .call("list-adjustments", |event| event)
        .await
        .json(200);
    let view = |id: &str, time: &str, calls: i64| {
        json!({
            "time": time, "plan": "pro", "billable_calls": calls,
            "cost": { "micro_usd": -1_000, "display": "-$0.001" }, "reason": "outage",
            "source": "my-batch-job", "id": id, "received_at": "2026-11-22T10:00:00Z",
        })
    };
    let expected = json!({
        "data": [
            view("a-1", "2026-11-02T12:00:00Z", 5),
            view("a-2", "2026-11-21T12:00:00Z", 100_020),
        ],
        "next_cursor": null,
    });
    assert_eq!(response, expected);
    let report = stack.run(false).await;
    let charge = &report["charges"][0];
    assert_eq!(
        (&charge["to_call"], &charge["adjusted_calls"]),
        (&json!(26), &json!(100_025))
    );
    let ledger = stack.charges("acme", &[]).await.json(200);
    assert_eq!(data(&ledger)[0]["adjusted_calls"], 100_025);
    let long = format!("2026-11\n{}", "x".repeat(1_100));
    let long = String::from(Cursor::new("adjustments acme", long));
    let query = [("cursor", long.as_str())];
    let response = stack
        .call("list-adjustments", |event| event.query(&query))
        .await;
    response.bad_request(Some("cursor"));
}

#[tokio::test]
async fn a_long_list_of_adjustments_is_paged_within_one_month() {
    let stack = Stack::new();
    let events: Vec<Value> = (0..60)
        .map(|n| adjusting(&format!("a-{n}"), "21", n + 1))
        .collect();
    stack.count(&events).await.json(200);
    let list = async |query: &[(&str, &str)]| {
        stack
            .call("list-adjustments", |event| event.query(query))
            .await
    };
    let first = list(&[]).await.json(200);
    let cursor = text(&first, "next_cursor");
    // The default month changes, but the cursor keeps its own.
    stack.at.time.set("2026-12-01T00:00:10Z".parse().unwrap());
    for month in [&[][..], &[("month", "2026-11")]] {
        let query = [&[("cursor", cursor)], month].concat();
        let rest = list(&query).await.json(200);
        assert_eq!(rest["next_cursor"], Value::Null);
        let all = data(&first).iter().chain(data(&rest));
        let mut ids: Vec<&str> = all.map(|one| text(one, "id")).collect();
        ids.sort_unstable();
        ids.dedup();
        assert_eq!(ids.len(), 60);
    }
    let other = list(&[("cursor", cursor), ("month", "2026-12")]).await;
    other.bad_request(Some("cursor"));
}
