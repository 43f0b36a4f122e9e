//! Usage that is reported: over the bus, and over the admin API.

use http::StatusCode;
use serde_json::{Value, json};

use crate::calls::{self, assert_problem};
use crate::{NOW, Product, USAGE, adjustment, cent_a_call, found, make_calls, usage};

/// What waits in the quarantine.
async fn waiting(product: &Product) -> Vec<Value> {
    let list = found(&product.admin, "/admin/usage/quarantine").await;
    list["data"].as_array().unwrap().clone()
}

async fn put(product: &Product, event: &Value) {
    let answer = calls::put_event(&product.anyone, event).await;
    assert_eq!(answer["FailedEntryCount"], 0, "{answer}");
    product.drain().await;
}

/// Who may put which is decided by the bus, which knows the outside alone.
#[tokio::test]
async fn an_event_that_says_another_type_inside_is_set_aside() {
    let product = Product::at(NOW).await;
    let (client, _) = product.holder("pro", json!({})).await;
    make_calls(&client, 3).await;
    let hidden = adjustment("a", "pro", -3);
    put(&product, &calls::event("usage", &hidden)).await;
    let (adjustments, path) = ("/admin/customers/acme/adjustments", "2026-11");
    let adjustments = format!("{adjustments}?month={path}");
    assert_eq!(found(&product.admin, &adjustments).await["data"], json!([]));
    let items = waiting(&product).await;
    assert_eq!(items.len(), 1);
    assert_eq!(
        (&items[0]["kind"], &items[0]["status"]),
        (&json!("message"), &json!("waiting"))
    );

    // Under its own type it counts.
    let mut event = calls::event("usage", &hidden);
    event["DetailType"] = hidden["type"].clone();
    put(&product, &event).await;
    let data = found(&product.admin, &adjustments).await["data"].take();
    assert_eq!(data[0]["billable_calls"], -3, "{data}");
    assert_eq!(waiting(&product).await.len(), 1);
}

#[tokio::test]
async fn an_event_that_says_another_source_inside_is_set_aside() {
    let product = Product::at(NOW).await;
    let (client, _) = product.holder("pro", json!({})).await;
    let event = usage("e", "pro", NOW, 2);
    let mut of_another = calls::event("usage", &event);
    of_another["Source"] = "tollgate:ping".into();
    put(&product, &of_another).await;
    assert_eq!(found(&client, USAGE).await["metered"]["calls"], 0);
    assert_eq!(waiting(&product).await.len(), 1);

    put(&product, &calls::event("usage", &event)).await;
    assert_eq!(found(&client, USAGE).await["metered"]["calls"], 2);
    assert_eq!(waiting(&product).await.len(), 1);
}

/// The last of what the plan includes is used up by calls that no limit has counted.
#[tokio::test]
async fn what_is_reported_from_elsewhere_is_in_all_figures_of_an_answer() {
    let plans = json!([cent_a_call("small", 10)]);
    let product = Product::with_plans(Some(&plans), NOW).await;
    let (client, _) = product.holder("small", json!({})).await;
    product.report("e", "small", NOW, 15).await;
    let shown = found(&client, USAGE).await;
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
    assert_eq!(product.bill(true).await["cents"], 5);
}

#[tokio::test]
async fn after_an_upgrade_the_figures_are_those_of_the_bill() {
    let plans = json!([cent_a_call("first", 10), cent_a_call("second", 10)]);
    let product = Product::with_plans(Some(&plans), NOW).await;
    let (client, _) = product.holder("first", json!({})).await;
    make_calls(&client, 10).await;
    let second = json!({ "plan": "second" });
    product.patch("/admin/customers/acme", second).await;
    make_calls(&client, 8).await;
    let check = async |remaining: u64, cents: u64| {
        product.drain().await;
        let usage = found(&client, USAGE).await;
        // There is no number of calls after which any is refused.
        assert_eq!(usage["admitted"]["remaining"], Value::Null);
        let overage = &usage["overage"];
        let plans = overage["plans"].as_array().unwrap();
        let left = plans
            .iter()
            .map(|it| (it["plan"].as_str(), it["remaining"].as_u64()));
        let expected = [(Some("first"), Some(0)), (Some("second"), Some(remaining))];
        assert_eq!(left.collect::<Vec<_>>(), expected, "{overage}");
        assert_eq!(overage["calls"], cents);
        assert_eq!(product.bill(true).await["cents"], cents);
    };
    check(2, 0).await;
    make_calls(&client, 3).await;
    check(0, 1).await;
}

/// What it says to do counts the rest.
#[tokio::test]
async fn an_event_of_which_some_was_set_aside_is_corrected_in_the_quarantine() {
    let product = Product::at(NOW).await;
    let (client, _) = product.holder("pro", json!({})).await;
    let good = usage("e", "pro", NOW, 2);
    let mut bad = good.clone();
    bad["data"]["records"][1]["status"] = "two hundred".into();
    put(&product, &calls::event("usage", &bad)).await;
    let items = waiting(&product).await;
    let conflict = product.count(&[good]).await;
    assert_problem(&conflict, StatusCode::CONFLICT, "conflict");
    let problem = conflict.json();
    assert_eq!(problem["conflicts"], json!(["/events/0"]));
    let waits = json!([{ "pointer": "/events/0", "id": items[0]["id"], "status": "waiting" }]);
    assert_eq!(problem["quarantined"], waits);
    let detail = problem["detail"].as_str().unwrap();
    let way = "POST /admin/usage/quarantine/{id}/replay";
    assert!(detail.contains(way), "{detail}");

    let path = format!(
        "/admin/usage/quarantine/{}/replay",
        items[0]["id"].as_str().unwrap()
    );
    let corrected = json!({ "event": usage("e", "pro", NOW, 1) });
    let replayed = product.admin.post(&path, corrected).await.unwrap();
    assert_eq!(replayed.json()["outcome"], "counted", "{}", replayed.text);
    assert_eq!(found(&client, USAGE).await["metered"]["calls"], 2);
}

#[tokio::test]
async fn attributes_of_cloudevents_are_kept_and_those_of_records_are_refused() {
    let product = Product::at(NOW).await;
    let mut event = usage("e", "pro", NOW, 1);
    let trace = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
    event["traceparent"] = trace.into();
    event["dataschema"] = "https://example.org/usage".into();
    let counted = product.count(std::slice::from_ref(&event)).await;
    assert_eq!(counted.status, StatusCode::OK, "{}", counted.text);
    let log = found(&product.admin, "/admin/usage/events?customer_id=acme").await;
    assert_eq!(log["data"][0]["event"], event);

    // The same event, however it is traced.
    event["traceparent"] = Value::Null;
    let again = product.count(std::slice::from_ref(&event)).await;
    assert_eq!(
        again.json()["data"][0]["outcome"],
        "duplicate",
        "{}",
        again.text
    );

    let mut misspelt = usage("e-2", "pro", NOW, 1);
    misspelt["data"]["records"][0]["statuss"] = 200.into();
    let answer = product.count(&[misspelt]).await;
    assert_problem(&answer, StatusCode::UNPROCESSABLE_ENTITY, "unprocessable");
    assert_eq!(
        answer.json()["defects"][0]["pointer"],
        "/events/0/data/records/0"
    );
}
