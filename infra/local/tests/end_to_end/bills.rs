//! Cases about charges for overage.

use http::StatusCode;
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

/// Returns the customer's charges for this month.
async fn charges(site: &Site, customer: &str) -> Vec<Value> {
    let path = format!("/admin/customers/{customer}/charges");
    let response = site.admin.get(&path).await.unwrap();
    assert_eq!(response.status, StatusCode::OK, "{}", response.text);
    response.json()["data"].as_array().unwrap().clone()
}
