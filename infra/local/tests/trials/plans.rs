//! Tests of plans that are no longer given or retired, and of charges on several plans.

use http::{Method, StatusCode};
use serde_json::{Value, json};
use tollgate_local::client::Client;

use crate::{
    Dir, LocalStack, NOW, PING, USAGE, adjustment, cent_a_call, create, get_json, program,
};

/// Starts a stack on a directory, with a plan for each of these ids.
fn start(dir: &Dir, plans: &[&str]) -> LocalStack {
    let plans: Value = plans.iter().map(|id| cent_a_call(id, 10)).collect();
    let mut command = program();
    command.env("TOLLGATE_PLANS", plans.to_string());
    LocalStack::start(command.arg("--data").arg(&dir.0))
}

/// Creates a customer on plan `old` with an overage of 50 cents, and restarts the stack with plans of which
/// `old` is none. Returns the stack and a client with the customer's key.
async fn restart_without_old_plan(dir: &Dir) -> (LocalStack, Client) {
    let stack = start(dir, &["old", "new"]);
    stack.set_clock(NOW).await;
    let (_, key) = stack.customer_with_key("old", json!({})).await;
    stack.report("e", "old", NOW, 60).await;
    stack.stop();
    let stack = start(dir, &["new"]);
    let client = stack.anyone.with_key(key["key"].as_str().unwrap());
    (stack, client)
}

#[tokio::test]
async fn a_plan_that_is_no_longer_given_at_the_start_still_serves_and_bills_its_customers() {
    let dir = Dir::new("trials-plan-stays");
    let (stack, client) = restart_without_old_plan(&dir).await;
    let called = client.get(PING).await.unwrap();
    assert_eq!(called.status, StatusCode::OK, "{}", called.text);
    let usage = get_json(&client, USAGE).await;
    assert_eq!(usage["overage"]["calls"], 50);
    let report = stack.nightly("2026-12-04T02:00:00Z").await;
    assert_eq!(
        (&report["cents"], &report["failed"]),
        (&json!(51), &json!(0))
    );
    assert!(
        report["closed"]
            .as_array()
            .unwrap()
            .contains(&json!("2026-11"))
    );
    let printed = stack.stop();
    assert!(
        printed.contains("warning: the state has other plans than the given ones"),
        "{printed}"
    );
}

/// Charged calls on one plan are adjusted away, and netted with charges on another plan: together they are the
/// month's overage.
#[tokio::test]
async fn a_correction_is_netted_with_charges_or_credited() {
    let plans = json!([cent_a_call("first", 10), cent_a_call("second", 10)]);
    let stack = LocalStack::with_plans(Some(&plans), NOW).await;
    stack.customer_with_key("first", json!({})).await;
    stack.report("e-1", "first", NOW, 60).await;
    assert_eq!(stack.bill(false).await["cents"], 50);
    let adjusted = stack.send_usage(&[adjustment("a", "first", -50)]).await;
    assert_eq!(adjusted.status, StatusCode::OK, "{}", adjusted.text);
    stack.report("e-2", "second", NOW, 40).await;
    assert_eq!(stack.bill(false).await["cents"], -20);
    stack.report("e-3", "first", NOW, 60).await;
    assert_eq!(stack.bill(false).await["cents"], 60);
    let cents: Vec<_> = stack.charges().await;
    let cents: Vec<_> = cents
        .iter()
        .map(|charge| &charge["amount"]["display"])
        .collect();
    assert_eq!(cents, ["$0.50", "-$0.20", "$0.60"]);
}

/// An idempotent request returns the original response although the plan was retired since.
#[tokio::test]
async fn a_creation_is_repeated_although_its_plan_was_retired() {
    let plans = json!([cent_a_call("old", 10), cent_a_call("new", 10)]);
    let stack = LocalStack::with_plans(Some(&plans), NOW).await;
    let (path, once) = ("/admin/customers", [("idempotency-key", "once")]);
    let body = json!({ "id": "bolt", "plan": "old" });
    let first = create(&stack.admin, path, &once, &body).await;
    assert_eq!(first.status, StatusCode::CREATED, "{}", first.text);
    let retired = json!({ "retired": true });
    let retired = stack
        .admin
        .json(Method::PATCH, "/admin/plans/old", retired)
        .await;
    assert_eq!(retired.unwrap().status, StatusCode::OK);
    let again = create(&stack.admin, path, &once, &body).await;
    assert_eq!(again.status, StatusCode::OK, "{}", again.text);
    assert_eq!(again.json(), first.json());
}
