//! Tests of plans that were removed from the catalogue, and of charges on several plans.

use http::StatusCode;
use serde_json::{Value, json};
use tollgate_local::client::Client;

use crate::{
    Dir, LocalStack, NOW, PING, USAGE, adjustment, cent_a_call, create, expect_problem, get_json,
    program,
};

/// Starts a stack on a directory, with a plan for each of these ids.
fn start(dir: &Dir, plans: &[&str]) -> LocalStack {
    let plans: Value = plans.iter().map(|id| cent_a_call(id, 10)).collect();
    let mut command = program();
    command.env("TOLLGATE_PLANS", plans.to_string());
    LocalStack::start(command.arg("--data").arg(&dir.0))
}

/// Creates a customer on plan `old` with an overage of 50 cents, and restarts the stack without that plan.
/// Returns the stack and a client with the customer's key.
async fn start_without_old_plan(dir: &Dir) -> (LocalStack, Client) {
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
async fn usage_on_a_removed_plan_is_billed_when_the_plan_is_added_again() {
    let dir = Dir::new("trials-plan-bill");
    let (stack, _) = start_without_old_plan(&dir).await;
    let check = |report: &Value| {
        assert_eq!(
            (&report["cents"], &report["failed"]),
            (&json!(0), &json!(1))
        );
        let failure = json!({
            "customer_id": "acme", "month": "2026-11", "reason": "plan old is not in the catalogue",
        });
        assert_eq!(report["failures"], json!([failure]));
    };
    check(&stack.bill(true).await);
    let report = stack.nightly("2026-12-04T02:00:00Z").await;
    check(&report);
    let month = json!("2026-11");
    let has_closed = |report: &Value| report["closed"].as_array().unwrap().contains(&month);
    assert!(!has_closed(&report), "{report}");
    stack.stop();

    let stack = start(&dir, &["old", "new"]);
    let report = stack.nightly("2026-12-05T02:00:00Z").await;
    assert_eq!(
        (&report["cents"], &report["failed"]),
        (&json!(50), &json!(0))
    );
    assert!(has_closed(&report), "{report}");
}

#[tokio::test]
async fn a_start_warns_of_customers_on_a_removed_plan() {
    let dir = Dir::new("trials-plan-warning");
    let (stack, _) = start_without_old_plan(&dir).await;
    let printed = stack.stop();
    assert!(
        printed.contains("warning: customer acme is on plan old"),
        "{printed}"
    );
}

#[tokio::test]
async fn the_denial_for_a_removed_plan_invites_no_retry() {
    let dir = Dir::new("trials-plan-start_error");
    let (stack, client) = start_without_old_plan(&dir).await;
    let status = StatusCode::TOO_MANY_REQUESTS;
    let response = expect_problem(&client, PING, status, "no-plan").await;
    assert_eq!(response.header("retry-after"), "");
    let usage = get_json(&client, USAGE).await;
    assert_eq!(
        (&usage["metered"]["calls"], &usage["overage"]),
        (&json!(60), &Value::Null)
    );
    drop(stack);
}

/// Charged calls on one plan are adjusted away; this does not reduce the charges on another plan.
#[tokio::test]
async fn charges_are_netted_against_charges_of_the_same_plan() {
    let plans = json!([cent_a_call("first", 10), cent_a_call("second", 10)]);
    let stack = LocalStack::with_plans(Some(&plans), NOW).await;
    stack.customer_with_key("first", json!({})).await;
    stack.report("e-1", "first", NOW, 60).await;
    assert_eq!(stack.bill(false).await["cents"], 50);
    let adjusted = stack.send_usage(&[adjustment("a", "first", -50)]).await;
    assert_eq!(adjusted.status, StatusCode::OK, "{}", adjusted.text);
    stack.report("e-2", "second", NOW, 40).await;
    assert_eq!(stack.bill(false).await["cents"], 30);
    // The excess charge is netted against further overage on the same plan.
    stack.report("e-3", "first", NOW, 60).await;
    assert_eq!(stack.bill(false).await["cents"], 10);
    let cents: Vec<_> = stack.charges().await;
    let cents: Vec<_> = cents
        .iter()
        .map(|charge| &charge["amount"]["display"])
        .collect();
    assert_eq!(cents, ["$0.50", "$0.30", "$0.10"]);
}

/// An idempotent request returns the original response although the plan was removed since.
#[tokio::test]
async fn a_creation_is_repeated_although_its_plan_was_removed() {
    let dir = Dir::new("trials-plan-repeat");
    let (path, once) = ("/admin/customers", [("idempotency-key", "once")]);
    let body = json!({ "id": "bolt", "plan": "old" });
    let stack = start(&dir, &["old", "new"]);
    let first = create(&stack.admin, path, &once, &body).await;
    assert_eq!(first.status, StatusCode::CREATED, "{}", first.text);
    stack.stop();
    let stack = start(&dir, &["new"]);
    let again = create(&stack.admin, path, &once, &body).await;
    assert_eq!(again.status, StatusCode::OK, "{}", again.text);
    assert_eq!(again.json(), first.json());
}
