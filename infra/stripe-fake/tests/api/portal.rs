//! Sessions of the billing portal and their page.

use serde_json::{Value, json};

use crate::client::{Api, id, ids};

struct Portal {
    api: Api,
    customer: String,
    subscription: String,
    other_price: String,
    url: String,
}

impl Portal {
    async fn new() -> Self {
        let api = Api::new();
        let customer = api.customer().await;
        let subscription = id(&api.subscribe(&customer, &api.price(3_000).await, "").await);
        let other_price = api.price(6_000).await;
        let form = format!("customer={customer}&return_url=https://shop.example/back");
        let session = api.post("/v1/billing_portal/sessions", &form).await;
        assert_eq!(session["object"], "billing_portal.session");
        assert_eq!(session["return_url"], "https://shop.example/back");
        let url = session["url"].as_str().unwrap().to_owned();
        Self {
            api,
            customer,
            subscription,
            other_price,
            url,
        }
    }

    async fn submit(&self, form: &str) -> u16 {
        let url = format!("{}/change", self.url);
        let form = format!("subscription={}&{form}", self.subscription);
        self.api.submit(&url, &form).await.0.status
    }

    async fn subscription(&self) -> Value {
        self.api
            .get(&format!("/v1/subscriptions/{}", self.subscription), "")
            .await
    }
}

#[tokio::test]
async fn a_customer_changes_the_plan_and_cancels() {
    let portal = Portal::new().await;
    let page = portal.api.page(&portal.url).await;
    for text in [
        "Plan 3000",
        "Plan 6000",
        "id=\"change\"",
        "id=\"cancel\"",
        "href=\"https://shop.example/back\"",
    ] {
        assert!(page.text.contains(text), "{text} {}", page.text);
    }
    let form = format!("do=change&price={}", portal.other_price);
    assert_eq!(portal.submit(&form).await, 303);
    let changed = portal.subscription().await;
    assert_eq!(
        changed["items"]["data"][0]["price"]["id"],
        portal.other_price.as_str()
    );
    let prorations = portal.api.get("/v1/invoiceitems", "pending=true").await;
    assert_eq!(ids(&prorations).len(), 2);

    assert_eq!(portal.submit("do=cancel").await, 303);
    assert_eq!(portal.subscription().await["cancel_at_period_end"], true);
    let page = portal.api.page(&portal.url).await;
    assert!(page.text.contains("id=\"keep\""), "{}", page.text);
    assert_eq!(portal.submit("do=keep").await, 303);
    assert_eq!(portal.subscription().await["cancel_at_period_end"], false);
    assert_eq!(portal.submit("do=cancel").await, 303);
    portal.api.set("2026-12-17T12:00:00Z");
    assert_eq!(portal.subscription().await["status"], "canceled");
    assert_eq!(portal.submit("do=keep").await, 400, "it has ended");
    let types = portal.api.event_types().await;
    let updates = types
        .iter()
        .filter(|kind| *kind == "customer.subscription.updated");
    assert_eq!(updates.count(), 4);
    assert_eq!(types.last().unwrap(), "customer.subscription.deleted");
}

#[tokio::test]
async fn a_customer_cancels_at_once_and_adds_a_card() {
    let portal = Portal::new().await;
    portal
        .api
        .fake
        .decline_payments(&portal.customer, true)
        .unwrap();
    portal.api.set("2026-12-17T13:00:00Z");
    assert_eq!(portal.subscription().await["status"], "past_due");
    assert_eq!(portal.submit("do=new-card").await, 303);
    portal.api.set("2026-12-20T13:00:00Z");
    assert_eq!(portal.subscription().await["status"], "active");
    assert_eq!(portal.submit("do=cancel-now").await, 303);
    assert_eq!(portal.subscription().await["status"], "canceled");
}

#[tokio::test]
async fn a_session_is_of_one_customer() {
    let portal = Portal::new().await;
    let other = portal.api.customer().await;
    let of_other = id(&portal.api.subscribe(&other, &portal.other_price, "").await);
    let url = format!("{}/change", portal.url);
    let form = format!("subscription={of_other}&do=cancel-now");
    assert_eq!(portal.api.submit(&url, &form).await.0.status, 400);
    assert_eq!(portal.api.page("/p/session/test_none").await.status, 404);
    for (form, code) in [
        ("customer=cus_none", "resource_missing"),
        ("", "parameter_missing"),
    ] {
        let reply = portal
            .api
            .call("POST", "/v1/billing_portal/sessions", form)
            .await;
        portal.api.check_error(&reply, 400, code, "customer");
    }
    let form = format!("customer={other}");
    let session = portal.api.post("/v1/billing_portal/sessions", &form).await;
    assert_eq!(session["return_url"], json!(null));
}
