//! What is metered.

use http::StatusCode;
use serde_json::{Value, json};

use crate::calls;
use crate::site::{Site, ping};

pub(crate) async fn every_served_call_is_metered_and_no_other(site: Site) {
    let customer = site.customer("pro").await;
    let (client, _) = site.key(json!({ "customer_id": customer })).await;
    for _ in 0..3 {
        assert_eq!(ping(&client).await, StatusCode::OK);
    }
    let body = json!({ "text": "a".repeat(400) });
    let asked = client.post("/api/analyze", body).await.unwrap();
    let cost = asked.json()["cost"]["micro_usd"].clone();
    // 100 tokens of text, and 500 and 750 of the models' own: 600 × $0.27 + 850 × $3 a million.
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
    // What instances have not reported yet is reserved.
    let [calls, reserved] = ["calls", "reserved"].map(|name| &usage["admitted"][name]);
    let (calls, reserved) = (calls.as_u64().unwrap(), reserved.as_u64().unwrap());
    assert!((calls..=calls + reserved).contains(&5), "{usage}");
}

pub(crate) async fn an_entry_reported_twice_counts_once(site: Site) {
    let customer = site.customer("pro").await;
    let (client, _) = site.key(json!({ "customer_id": customer })).await;
    let entry = entry(&site, "e-1", &customer, 3).await;
    for _ in 0..3 {
        site.put_event(&entry).await;
    }
    // Whatever would count the copies as well has counted them before this one.
    let last = self::entry(&site, "e-2", &customer, 1).await;
    site.put_event(&last).await;
    site.metered(&client, 4).await;
}

pub(crate) async fn what_is_no_usage_is_set_aside_and_the_rest_counts(site: Site) {
    let customer = site.customer("pro").await;
    let (client, _) = site.key(json!({ "customer_id": customer })).await;
    site.put_event(&json!({ "hello": "world" })).await;
    let mut mixed = entry(&site, "mixed", &customer, 3).await;
    mixed["data"]["records"][1]["status"] = json!("two hundred");
    site.put_event(&mixed).await;
    site.metered(&client, 2).await;
}

async fn entry(site: &Site, id: &str, customer: &str, records: usize) -> Value {
    let now = site.now().await.to_string();
    calls::entry(&site.name(id), customer, &now, records)
}
