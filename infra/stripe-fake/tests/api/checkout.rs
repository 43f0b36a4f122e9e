//! Checkout sessions and their page.

use serde_json::{Value, json};
use stripe_fake::Completion;

use crate::client::{Api, Reply, at, id, ids};

const URLS: &str = "&success_url=https://shop.example/ok?s={CHECKOUT_SESSION_ID}&cancel_url=https://shop.example/no";

async fn create(api: &Api, form: &str) -> Value {
    api.post("/v1/checkout/sessions", &format!("{form}{URLS}"))
        .await
}

async fn get(api: &Api, session: &Value) -> Value {
    api.get(&format!("/v1/checkout/sessions/{}", id(session)), "")
        .await
}

fn url(session: &Value) -> &str {
    session["url"].as_str().unwrap()
}

#[tokio::test]
async fn a_customer_pays_on_the_page() {
    let api = Api::new();
    let price = api.price(4_900).await;
    let form = format!(
        "mode=subscription&line_items[0][price]={price}&line_items[0][quantity]=1&client_reference_id=c-1\
         &metadata[a]=b&subscription_data[metadata][plan]=pro"
    );
    let session = create(&api, &form).await;
    assert_eq!(session["status"], "open");
    assert_eq!(session["payment_status"], "unpaid");
    assert_eq!(session["amount_total"], 4_900);
    assert_eq!(session["expires_at"], api.now() + 86_400);
    assert_eq!(
        (&session["customer"], &session["subscription"]),
        (&Value::Null, &Value::Null)
    );
    let page = api.page(url(&session)).await;
    for text in [
        "49.00 USD a month",
        "id=\"pay\"",
        "href=\"https://shop.example/no\"",
    ] {
        assert!(page.text.contains(text), "{text} {}", page.text);
    }

    let (declined, _) = api.submit(url(&session), "payment=declined").await;
    assert!(
        declined.text.contains("Your card was declined."),
        "{}",
        declined.text
    );
    assert_eq!(get(&api, &session).await["status"], "open");
    let (reply, location) = api
        .submit(url(&session), "payment=paid&email=new%40example.com")
        .await;
    assert_eq!(reply.status, 303);
    assert_eq!(
        location,
        format!("https://shop.example/ok?s={}", id(&session))
    );
    let path = format!("/v1/checkout/sessions/{}", id(&session));
    let expand = "expand[]=customer&expand[]=subscription&expand[]=invoice&expand[]=line_items";
    let paid = api.get(&path, expand).await;
    assert_eq!(
        (&paid["status"], &paid["payment_status"]),
        (&json!("complete"), &json!("paid"))
    );
    assert_eq!(
        (&paid["client_reference_id"], &paid["url"]),
        (&json!("c-1"), &Value::Null)
    );
    assert_eq!(paid["customer"]["email"], "new@example.com");
    assert_eq!(paid["customer_details"]["email"], "new@example.com");
    assert_eq!(paid["subscription"]["status"], "active");
    assert_eq!(paid["subscription"]["metadata"], json!({ "plan": "pro" }));
    assert_eq!(paid["invoice"]["status"], "paid");
    assert_eq!(paid["line_items"]["data"][0]["price"]["id"], price.as_str());
    let items = api.get(&format!("{path}/line_items"), "").await;
    assert_eq!(items["data"][0]["amount_total"], 4_900);
    let types = api.event_types().await;
    assert!(types.contains(&"customer.created".to_owned()));
    assert_eq!(types.last().unwrap(), "checkout.session.completed");

    // The card of the page pays the renewals.
    api.set("2026-12-17T13:00:00Z");
    let query = format!("subscription={}&status=paid", id(&paid["subscription"]));
    assert_eq!(ids(&api.get("/v1/invoices", &query).await).len(), 2);
    let again = api.submit(url(&session), "payment=paid").await.0;
    assert_eq!(again.status, 400);
    let back = format!("href=\"https://shop.example/ok?s={}\"", id(&session));
    for text in ["This checkout is complete.", &back] {
        assert!(again.text.contains(text), "{text} {}", again.text);
    }
}

#[tokio::test]
async fn a_payment_can_be_decided_later() {
    let check = async |is_paid: bool, status: &str, event: &str| {
        let api = Api::new();
        let (customer, price) = (api.customer().await, api.price(4_900).await);
        let form = format!(
            "mode=subscription&customer={customer}&line_items[0][price]={price}&line_items[0][quantity]=1"
        );
        let session = create(&api, &form).await;
        api.submit(url(&session), "payment=unpaid").await;
        let unpaid = get(&api, &session).await;
        assert_eq!(
            (&unpaid["status"], &unpaid["payment_status"]),
            (&json!("complete"), &json!("unpaid"))
        );
        let path = format!(
            "/v1/subscriptions/{}",
            unpaid["subscription"].as_str().unwrap()
        );
        assert_eq!(
            api.get(&path, "").await["status"],
            "active",
            "while the payment is under way"
        );
        api.pass(3 * 86_400);
        api.fake.settle_checkout(&id(&session), is_paid).unwrap();
        let settled = get(&api, &session).await;
        assert_eq!(
            settled["payment_status"],
            if is_paid { "paid" } else { "unpaid" }
        );
        assert_eq!(api.get(&path, "").await["status"], status);
        assert_eq!(api.event_types().await.last().unwrap(), event);
        assert_eq!(
            api.fake.settle_checkout(&id(&session), true).is_err(),
            is_paid
        );
    };
    check(true, "active", "checkout.session.async_payment_succeeded").await;
    check(false, "past_due", "checkout.session.async_payment_failed").await;
}

#[tokio::test]
async fn a_session_can_be_anchored_to_the_first() {
    let api = Api::new();
    let price = api.price(3_000).await;
    api.set("2027-04-16T00:00:00Z");
    let anchor = at("2027-05-01T00:00:00Z");
    let items = format!("mode=subscription&line_items[0][price]={price}&line_items[0][quantity]=1");
    let check = async |more: &str, status: &str, total: i64| {
        let form = format!("{items}&subscription_data[billing_cycle_anchor]={anchor}{more}");
        let session = id(&create(&api, &form).await);
        api.fake
            .complete_checkout(&session, Completion::Paid, Some("a@example.com"))
            .unwrap();
        let query = "expand[]=invoice&expand[]=subscription";
        let session = api
            .get(&format!("/v1/checkout/sessions/{session}"), query)
            .await;
        assert_eq!(session["payment_status"], status);
        assert_eq!(session["invoice"]["total"], total);
        assert_eq!(session["subscription"]["billing_cycle_anchor"], anchor);
    };
    check("", "paid", 1_500).await;
    check(
        "&subscription_data[proration_behavior]=none",
        "no_payment_required",
        0,
    )
    .await;
}

#[tokio::test]
async fn sessions_expire_and_are_listed() {
    let api = Api::new();
    let form = "currency=usd&unit_amount=700&product_data[name]=Setup";
    let price = id(&api.post("/v1/prices", form).await);
    let customer = api.customer().await;
    let form = format!("mode=payment&line_items[0][price]={price}&line_items[0][quantity]=2");
    let (first, second) = (create(&api, &form).await, create(&api, &form).await);
    let third = create(&api, &format!("{form}&customer={customer}")).await;
    assert_eq!(third["amount_total"], 1_400);
    api.submit(url(&first), "payment=paid&email=a@example.com")
        .await;
    let paid = get(&api, &first).await;
    assert!(paid["payment_intent"].as_str().unwrap().starts_with("pi_"));
    assert_ne!(paid["customer"], Value::Null);
    let path = format!("/v1/checkout/sessions/{}/expire", id(&second));
    assert_eq!(api.post(&path, "").await["status"], "expired");
    assert_eq!(api.call("POST", &path, "").await.status, 400);
    api.pass(86_400);
    assert_eq!(get(&api, &third).await["status"], "expired");
    let expired = api.page(url(&third)).await;
    assert_eq!(expired.status, 400);
    for text in [
        "This checkout has expired.",
        "href=\"https://shop.example/no\"",
    ] {
        assert!(expired.text.contains(text), "{text} {}", expired.text);
    }
    let check = async |query: &str, expected: &[&Value]| {
        let list = api.get("/v1/checkout/sessions", query).await;
        assert_eq!(
            ids(&list),
            expected
                .iter()
                .map(|session| id(session))
                .collect::<Vec<_>>(),
            "{query}"
        );
    };
    check("", &[&third, &second, &first]).await;
    check("status=expired", &[&third, &second]).await;
    check(&format!("customer={customer}"), &[&third]).await;
    check(
        &format!("customer={}", paid["customer"].as_str().unwrap()),
        &[&first],
    )
    .await;
    let types = api.event_types().await;
    assert_eq!(
        types
            .iter()
            .filter(|kind| *kind == "checkout.session.expired")
            .count(),
        2
    );
}

#[tokio::test]
async fn bad_sessions_are_rejected() {
    let api = Api::new();
    let price = api.price(4_900).await;
    let once = id(&api
        .post(
            "/v1/prices",
            "currency=usd&unit_amount=1&product_data[name]=x",
        )
        .await);
    let check = async |form: &str, status: u16, code: &str, param: &str| {
        let reply: Reply = api.call("POST", "/v1/checkout/sessions", form).await;
        api.check_error(&reply, status, code, param);
    };
    let item = |price: &str| {
        format!("mode=subscription&line_items[0][price]={price}&line_items[0][quantity]=1{URLS}")
    };
    check(
        &format!("line_items[0][price]={price}"),
        400,
        "parameter_missing",
        "mode",
    )
    .await;
    check(
        &format!("mode=subscription{URLS}"),
        400,
        "parameter_missing",
        "line_items",
    )
    .await;
    check("mode=subscription", 400, "parameter_missing", "success_url").await;
    check("mode=setup", 501, "", "mode").await;
    check(
        &item("price_none"),
        400,
        "resource_missing",
        "line_items[0][price]",
    )
    .await;
    check(&item(&once), 400, "", "line_items").await;
    let form = format!("mode=payment&line_items[0][price]={price}&line_items[0][quantity]=1{URLS}");
    check(&form, 400, "", "mode").await;
    let form = format!("mode=subscription&line_items[0][price]={price}{URLS}");
    check(&form, 400, "", "line_items[0][quantity]").await;
    check(
        &format!("{}&customer=cus_none", item(&price)),
        400,
        "resource_missing",
        "customer",
    )
    .await;
    let both = format!(
        "{}&customer={}&customer_email=a@b.c",
        item(&price),
        api.customer().await
    );
    check(&both, 400, "", "customer").await;
    // Gone since a later version than that of the document.
    let form = format!("{}&payment_method_types[0]=card", item(&price));
    check(&form, 400, "parameter_unknown", "payment_method_types").await;
    let form = item(&price).replace("https://shop.example/ok", "javascript:x");
    check(&form, 400, "url_invalid", "success_url").await;
    let form = format!("{}&expires_at={}", item(&price), api.now() + 60);
    check(&form, 400, "", "expires_at").await;
}
