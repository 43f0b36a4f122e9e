//! Cases about charges for overage.

use http::{Method, StatusCode};
use serde_json::{Value, json};

use crate::site::{SMALL_PLAN, Site, ping};

pub(crate) async fn a_dry_run_charges_nothing(site: Site) {
    let run = json!({ "dry_run": true });
    let report = site.admin.post("/admin/billing/run", run).await.unwrap();
    assert_eq!(report.status, StatusCode::OK, "{}", report.text);
    assert_eq!(report.json()["dry_run"], true);
    let customer = site.customer(SMALL_PLAN).await;
    assert!(charges(&site, &customer).await.is_empty());
}

/// The plan includes three calls; of five, two are charged, whatever the number of billing runs and
/// the distribution of the calls among them.
pub(crate) async fn billing_charges_overage_once(site: Site) {
    let customer = site.customer(SMALL_PLAN).await;
    let (client, _) = site.key(json!({ "customer_id": customer })).await;
    for _ in 0..5 {
        assert_eq!(ping(&client).await, StatusCode::OK);
    }
    let usage = site.metered(&client, 5).await;
    assert_eq!(usage["overage"]["calls"], 2);
    assert_eq!(usage["overage"]["cost"]["display"], "$0.02");
    site.nightly().await;
    site.wait_for("two calls are charged", async || {
        let charges = charges(&site, &customer).await;
        (charges.last()?["to_call"] == 2).then_some(())
    })
    .await;
    let run = json!({ "dry_run": false });
    let report = site.admin.post("/admin/billing/run", run).await.unwrap();
    assert_eq!(report.status, StatusCode::OK, "{}", report.text);
    assert_eq!(report.json()["failed"], 0, "{}", report.text);

    let mut next_call = 1;
    let mut micro_usd = 0;
    for charge in charges(&site, &customer).await {
        assert_eq!(charge["from_call"], next_call);
        next_call = charge["to_call"].as_u64().unwrap() + 1;
        micro_usd += charge["amount"]["micro_usd"].as_u64().unwrap();
        // Not at Stripe: the customer has no Stripe customer, or the stack has no Stripe.
        let status = charge["status"].as_str().unwrap();
        assert!(["pending", "failed"].contains(&status), "{status}");
    }
    assert_eq!((next_call, micro_usd), (3, 20_000));
}

pub(crate) async fn overage_is_invoiced_at_stripe_once(site: Site) {
    let customer = site.customer(SMALL_PLAN).await;
    let created = site
        .stripe(Method::POST, "/v1/customers", "name=Acme")
        .await;
    let stripe_customer = created["id"].as_str().unwrap();
    let link = json!({ "stripe": { "customer": stripe_customer, "subscription": null } });
    let path = format!("/admin/customers/{customer}");
    let linked = site.admin.json(Method::PATCH, &path, link).await.unwrap();
    assert_eq!(linked.status, StatusCode::OK, "{}", linked.text);
    let (client, _) = site.key(json!({ "customer_id": customer })).await;
    for _ in 0..5 {
        assert_eq!(ping(&client).await, StatusCode::OK);
    }
    site.metered(&client, 5).await;
    site.nightly().await;
    let settled = site.wait_for("the charges are settled", async || {
        let charges = charges(&site, &customer).await;
        let is_settled = charges.iter().all(|charge| charge["status"] == "settled");
        (is_settled && charges.last()?["to_call"] == 2).then_some(charges)
    });
    let settled = settled.await;
    let path = format!("/v1/invoiceitems?customer={stripe_customer}&limit=100");
    let items = site.stripe(Method::GET, &path, "").await;
    let items = items["data"].as_array().unwrap();
    assert_eq!(items.len(), settled.len(), "{items:?}");
    // Newest first.
    for (item, charge) in items.iter().rev().zip(&settled) {
        assert_eq!(item["id"], charge["invoice_item"]);
        assert_eq!(item["description"], charge["description"]);
        let cents = item["amount"].as_i64().unwrap();
        assert_eq!(charge["amount"]["micro_usd"], cents * 10_000);
    }
    let cents: i64 = items
        .iter()
        .map(|item| item["amount"].as_i64().unwrap())
        .sum();
    assert_eq!(cents, 2);
}

/// Returns the customer's charges for this month.
async fn charges(site: &Site, customer: &str) -> Vec<Value> {
    let path = format!("/admin/customers/{customer}/charges");
    let response = site.admin.get(&path).await.unwrap();
    assert_eq!(response.status, StatusCode::OK, "{}", response.text);
    response.json()["data"].as_array().unwrap().clone()
}
