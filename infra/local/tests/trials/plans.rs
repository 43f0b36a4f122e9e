//! Plans that have gone from the catalogue, and charges on several plans.

use http::StatusCode;
use serde_json::{Value, json};
use tollgate_local::client::Client;

use crate::{
    Dir, NOW, PING, Product, USAGE, adjustment, cent_a_call, create, found, program, refused,
};

/// Starts a product on a directory with the plans of these names.
fn start(dir: &Dir, plans: &[&str]) -> Product {
    let plans: Value = plans.iter().map(|id| cent_a_call(id, 10)).collect();
    let mut command = program();
    command.env("TOLLGATE_PLANS", plans.to_string());
    Product::of(command.arg("--data").arg(&dir.0))
}

/// Makes a customer on plan `old` who owes 50 cents, and a client with its key; and starts the product
/// again without that plan.
async fn start_without_old_plan(dir: &Dir) -> (Product, Client) {
    let product = start(dir, &["old", "new"]);
    product.set_clock(NOW).await;
    let (_, key) = product.holder("old", json!({})).await;
    product.report("e", "old", NOW, 60).await;
    product.stop();
    let product = start(dir, &["new"]);
    let client = product.anyone.with_key(key["key"].as_str().unwrap());
    (product, client)
}

#[tokio::test]
async fn usage_on_a_plan_that_has_gone_is_billed_when_the_plan_is_back() {
    let dir = Dir::new("trials-plan-bill");
    let (product, _) = start_without_old_plan(&dir).await;
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
    check(&product.bill(true).await);
    let night = product.night("2026-12-04T02:00:00Z").await;
    check(&night);
    let month = json!("2026-11");
    let has_closed = |report: &Value| report["closed"].as_array().unwrap().contains(&month);
    assert!(!has_closed(&night), "{night}");
    product.stop();

    let product = start(&dir, &["old", "new"]);
    let night = product.night("2026-12-05T02:00:00Z").await;
    assert_eq!((&night["cents"], &night["failed"]), (&json!(50), &json!(0)));
    assert!(has_closed(&night), "{night}");
}

#[tokio::test]
async fn customers_whose_plan_has_gone_are_named_at_the_start() {
    let dir = Dir::new("trials-plan-warning");
    let (product, _) = start_without_old_plan(&dir).await;
    let printed = product.stop();
    assert!(
        printed.contains("warning: customer acme is on plan old"),
        "{printed}"
    );
}

#[tokio::test]
async fn a_customer_whose_plan_has_gone_is_not_told_to_wait() {
    let dir = Dir::new("trials-plan-refusal");
    let (product, client) = start_without_old_plan(&dir).await;
    let status = StatusCode::TOO_MANY_REQUESTS;
    let answer = refused(&client, PING, status, "no-plan").await;
    assert_eq!(answer.header("retry-after"), "");
    let usage = found(&client, USAGE).await;
    assert_eq!(
        (&usage["metered"]["calls"], &usage["overage"]),
        (&json!(60), &Value::Null)
    );
    drop(product);
}

/// The customer has paid for calls on one plan that were taken back: what it owes on another is due all
/// the same.
#[tokio::test]
async fn charges_are_netted_against_charges_of_the_same_plan() {
    let plans = json!([cent_a_call("first", 10), cent_a_call("second", 10)]);
    let product = Product::with_plans(Some(&plans), NOW).await;
    product.holder("first", json!({})).await;
    product.report("e-1", "first", NOW, 60).await;
    assert_eq!(product.bill(false).await["cents"], 50);
    let taken_back = product.count(&[adjustment("a", "first", -50)]).await;
    assert_eq!(taken_back.status, StatusCode::OK, "{}", taken_back.text);
    product.report("e-2", "second", NOW, 40).await;
    assert_eq!(product.bill(false).await["cents"], 30);
    // What was charged too much counts towards more of the same.
    product.report("e-3", "first", NOW, 60).await;
    assert_eq!(product.bill(false).await["cents"], 10);
    let cents: Vec<_> = product.charges().await;
    let cents: Vec<_> = cents
        .iter()
        .map(|charge| &charge["amount"]["display"])
        .collect();
    assert_eq!(cents, ["$0.50", "$0.30", "$0.10"]);
}

/// Whatever has come about since: this customer's plan is on offer no more.
#[tokio::test]
async fn a_creation_is_repeated_when_its_plan_has_gone() {
    let dir = Dir::new("trials-plan-repeat");
    let (path, once) = ("/admin/customers", [("idempotency-key", "once")]);
    let body = json!({ "id": "bolt", "plan": "old" });
    let product = start(&dir, &["old", "new"]);
    let first = create(&product.admin, path, &once, &body).await;
    assert_eq!(first.status, StatusCode::CREATED, "{}", first.text);
    product.stop();
    let product = start(&dir, &["new"]);
    let again = create(&product.admin, path, &once, &body).await;
    assert_eq!(again.status, StatusCode::OK, "{}", again.text);
    assert_eq!(again.json(), first.json());
}
