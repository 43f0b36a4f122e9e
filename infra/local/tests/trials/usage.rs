//! Tests of usage reported over the event bus and over the admin API.

use http::StatusCode;
use serde_json::{Value, json};

use crate::calls::{self, assert_problem};
use crate::{LocalStack, NOW, USAGE, adjustment, cent_a_call, get_json, make_calls, usage};

/// Returns the open items of the quarantine.
async fn quarantined(stack: &LocalStack) -> Vec<Value> {
    let list = get_json(&stack.admin, "/admin/usage/quarantine").await;
    list["data"].as_array().unwrap().clone()
}

async fn put(stack: &LocalStack, entry: &Value) {
    let response = calls::put_event(&stack.anyone, entry).await;
    assert_eq!(response["FailedEntryCount"], 0, "{response}");
    stack.drain().await;
}

/// IAM conditions see only the detail type and source of the PutEvents entry, not those inside the event.
#[tokio::test]
async fn an_event_with_another_type_than_its_detail_type_is_quarantined() {
    let stack = LocalStack::at(NOW).await;
    let (client, _) = stack.customer_with_key("pro", json!({})).await;
    make_calls(&client, 3).await;
    let hidden = adjustment("a", "pro", -3);
    put(&stack, &calls::put_events_entry("usage", &hidden)).await;
    let (adjustments, path) = ("/admin/customers/acme/adjustments", "2026-11");
    let adjustments = format!("{adjustments}?month={path}");
    assert_eq!(
        get_json(&stack.admin, &adjustments).await["data"],
        json!([])
    );
    let items = quarantined(&stack).await;
    assert_eq!(items.len(), 1);
    assert_eq!(
        (&items[0]["kind"], &items[0]["status"]),
        (&json!("message"), &json!("open"))
    );

    // With its own type as the detail type, it counts.
    let mut entry = calls::put_events_entry("usage", &hidden);
    entry["DetailType"] = hidden["type"].clone();
    put(&stack, &entry).await;
    let data = get_json(&stack.admin, &adjustments).await["data"].take();
    assert_eq!(data[0]["billable_calls"], -3, "{data}");
    assert_eq!(quarantined(&stack).await.len(), 1);
}

#[tokio::test]
async fn an_event_with_another_source_than_its_eventbridge_event_is_quarantined() {
    let stack = LocalStack::at(NOW).await;
    let (client, _) = stack.customer_with_key("pro", json!({})).await;
    let event = usage("e", "pro", NOW, 2);
    let mut of_another = calls::put_events_entry("usage", &event);
    of_another["Source"] = "tollgate:ping".into();
    put(&stack, &of_another).await;
    assert_eq!(get_json(&client, USAGE).await["metered"]["calls"], 0);
    assert_eq!(quarantined(&stack).await.len(), 1);

    put(&stack, &calls::put_events_entry("usage", &event)).await;
    assert_eq!(get_json(&client, USAGE).await["metered"]["calls"], 2);
    assert_eq!(quarantined(&stack).await.len(), 1);
}

/// Reported calls, which count towards no limit, use up the plan's included calls.
#[tokio::test]
async fn externally_reported_usage_is_in_all_figures_of_a_response() {
    let plans = json!([cent_a_call("small", 10)]);
    let stack = LocalStack::with_plans(Some(&plans), NOW).await;
    let (client, _) = stack.customer_with_key("small", json!({})).await;
    stack.report("e", "small", NOW, 15).await;
    let shown = get_json(&client, USAGE).await;
    let none =
        json!({ "calls": 0, "uncounted": 0, "reserved": 0, "limit": null, "remaining": null });
    assert_eq!(shown["admitted"], none);
    let cost = json!({ "micro_usd": 50_000, "display": "$0.05" });
    let of_plan = json!({
        "plan": "small", "billable_calls": 15, "included": 10, "remaining": 0, "calls": 5,
        "cost": cost,
    });
    let overage = json!({ "calls": 5, "cost": cost, "plans": [of_plan] });
    assert_eq!(shown["overage"], overage);
    assert_eq!(stack.bill(true).await["cents"], 5);
}

#[tokio::test]
async fn after_a_change_of_plan_the_figures_equal_the_charges() {
    let plans = json!([cent_a_call("first", 10), cent_a_call("second", 10)]);
    let stack = LocalStack::with_plans(Some(&plans), NOW).await;
    let (client, _) = stack.customer_with_key("first", json!({})).await;
    make_calls(&client, 10).await;
    let second = json!({ "plan": "second" });
    stack.patch("/admin/customers/acme", second).await;
    make_calls(&client, 8).await;
    let check = async |remaining: u64, cents: u64| {
        stack.drain().await;
        let usage = get_json(&client, USAGE).await;
        // No number of calls leads to a denial.
        assert_eq!(usage["admitted"]["remaining"], Value::Null);
        let overage = &usage["overage"];
        let plans = overage["plans"].as_array().unwrap();
        let left = plans
            .iter()
            .map(|it| (it["plan"].as_str(), it["remaining"].as_u64()));
        let expected = [(Some("first"), Some(0)), (Some("second"), Some(remaining))];
        assert_eq!(left.collect::<Vec<_>>(), expected, "{overage}");
        assert_eq!(overage["calls"], cents);
        assert_eq!(stack.bill(true).await["cents"], cents);
    };
    check(2, 0).await;
    make_calls(&client, 3).await;
    check(0, 1).await;
}

/// Following the problem's advice counts the rest.
#[tokio::test]
async fn a_partly_quarantined_event_is_corrected_in_the_quarantine() {
    let stack = LocalStack::at(NOW).await;
    let (client, _) = stack.customer_with_key("pro", json!({})).await;
    let good = usage("e", "pro", NOW, 2);
    let mut bad = good.clone();
    bad["data"]["records"][1]["status"] = "two hundred".into();
    put(&stack, &calls::put_events_entry("usage", &bad)).await;
    let items = quarantined(&stack).await;
    let conflict = stack.send_usage(&[good]).await;
    assert_problem(&conflict, StatusCode::CONFLICT, "conflict");
    let problem = conflict.json();
    assert_eq!(problem["conflicts"], json!(["/events/0"]));
    let open = json!([{ "pointer": "/events/0", "id": items[0]["id"], "status": "open" }]);
    assert_eq!(problem["quarantined"], open);
    let detail = problem["detail"].as_str().unwrap();
    let advice = "POST /admin/usage/quarantine/{id}/replay";
    assert!(detail.contains(advice), "{detail}");

    let path = format!(
        "/admin/usage/quarantine/{}/replay",
        items[0]["id"].as_str().unwrap()
    );
    let corrected = json!({ "event": usage("e", "pro", NOW, 1) });
    let replayed = stack.admin.post(&path, corrected).await.unwrap();
    assert_eq!(replayed.json()["outcome"], "counted", "{}", replayed.text);
    assert_eq!(get_json(&client, USAGE).await["metered"]["calls"], 2);
}

#[tokio::test]
async fn unknown_attributes_are_kept_in_events_and_rejected_in_records() {
    let stack = LocalStack::at(NOW).await;
    let mut event = usage("e", "pro", NOW, 1);
    let trace = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
    event["traceparent"] = trace.into();
    event["dataschema"] = "https://example.org/usage".into();
    let counted = stack.send_usage(std::slice::from_ref(&event)).await;
    assert_eq!(counted.status, StatusCode::OK, "{}", counted.text);
    let log = get_json(&stack.admin, "/admin/usage/events?customer_id=acme").await;
    assert_eq!(log["data"][0]["event"], event);

    // The event is a duplicate whatever its trace context.
    event["traceparent"] = Value::Null;
    let again = stack.send_usage(std::slice::from_ref(&event)).await;
    assert_eq!(
        again.json()["data"][0]["outcome"],
        "duplicate",
        "{}",
        again.text
    );

    let mut misspelt = usage("e-2", "pro", NOW, 1);
    misspelt["data"]["records"][0]["statuss"] = 200.into();
    let response = stack.send_usage(&[misspelt]).await;
    assert_problem(&response, StatusCode::UNPROCESSABLE_ENTITY, "unprocessable");
    assert_eq!(
        response.json()["defects"][0]["pointer"],
        "/events/0/data/records/0"
    );
}
