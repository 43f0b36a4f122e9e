//! Cases about metering.

use http::StatusCode;
use serde_json::{Value, json};

use crate::calls;
use crate::site::{Site, ping};

pub(crate) async fn only_served_calls_are_metered(site: Site) {
    let customer = site.customer("pro").await;
    let (client, _) = site.key(json!({ "customer_id": customer })).await;
    for _ in 0..3 {
        assert_eq!(ping(&client).await, StatusCode::OK);
    }
    let body = json!({ "text": "a".repeat(400) });
    let analysis = client.post("/api/analyze", body).await.unwrap();
    let cost = analysis.json()["cost"]["micro_usd"].clone();
    // 100 tokens of text, and 500 and 750 of the models' output: 600 × $0.27 + 850 × $3 per million.
    assert_eq!(cost, 162 + 2_550);
    let wrong = client
        .post("/api/analyze", json!({ "text": 5 }))
        .await
        .unwrap();
    site.assert_problem(&wrong, StatusCode::BAD_REQUEST, "bad-request");
    assert_eq!(wrong.json()["field"], "text");
    assert_eq!(ping(&site.anyone).await, StatusCode::UNAUTHORIZED);
    let admins = client.get("/admin/customers").await.unwrap();
    assert_eq!(admins.status, StatusCode::FORBIDDEN);

    let usage = site.metered(&client, 5).await;
    let metered = &usage["metered"];
    assert_eq!(metered["billable_calls"], 5);
    assert_eq!(
        (&metered["client_errors"], &metered["tokens"]),
        (&json!(1), &json!(1_450))
    );
    assert_eq!(metered["cost"]["micro_usd"], cost);
    // Calls that instances have not reported yet are among the reserved units.
    let [calls, reserved] = ["calls", "reserved"].map(|name| &usage["admitted"][name]);
    let (calls, reserved) = (calls.as_u64().unwrap(), reserved.as_u64().unwrap());
    assert!((calls..=calls + reserved).contains(&5), "{usage}");
}

pub(crate) async fn a_duplicate_event_counts_once(site: Site) {
    let customer = site.customer("pro").await;
    let (client, _) = site.key(json!({ "customer_id": customer })).await;
    let event = event(&site, "e-1", &customer, 3).await;
    for _ in 0..3 {
        site.put_event(&event).await;
    }
    // Duplicates that were counted would be counted before this event.
    let last = self::event(&site, "e-2", &customer, 1).await;
    site.put_event(&last).await;
    site.metered(&client, 4).await;
}

pub(crate) async fn invalid_usage_is_quarantined_and_the_rest_counts(site: Site) {
    let customer = site.customer("pro").await;
    let (client, _) = site.key(json!({ "customer_id": customer })).await;
    site.put_event(&json!({ "hello": "world" })).await;
    let mut mixed = event(&site, "mixed", &customer, 3).await;
    mixed["data"]["records"][1]["status"] = json!("two hundred");
    site.put_event(&mixed).await;
    site.metered(&client, 2).await;
}

/// Builds a usage event with the site's name and time.
async fn event(site: &Site, id: &str, customer: &str, records: usize) -> Value {
    let now = site.now().await.to_string();
    calls::usage_event(&site.name(id), customer, &now, records)
}
