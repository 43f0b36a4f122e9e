//! The request of each call: method, path, parameters and header fields.

use http::Uri;
use jiff::Timestamp;
use tollgate_stripe::{
    API_VERSION, Cancellation, Config, CustomerDetails, EventFilter, IdempotencyKey, InvoiceFilter,
    InvoiceItemFilter, InvoiceStatus, NewCheckoutSession, NewInvoice, NewInvoiceItem,
    NewPortalSession, Period, PriceChange, Proration, StripeClient, SubscriptionUpdate,
};

use crate::script::{Bench, Sent, error};

fn key() -> IdempotencyKey {
    "once".parse().unwrap()
}

fn at(seconds: i64) -> Timestamp {
    Timestamp::from_second(seconds).unwrap()
}

/// Makes a call, which is rejected, and returns its request.
async fn sent<F: Future>(call: impl FnOnce(StripeClient) -> F) -> Sent {
    let bench = Bench::new(&[error(404, "resource_missing")]);
    call(bench.client.clone()).await;
    let [sent] = <[Sent; 1]>::try_from(bench.sent()).unwrap();
    sent
}

/// Makes a call, and compares its method, path and parameters.
async fn check<F: Future>(
    call: impl FnOnce(StripeClient) -> F,
    expected: &str,
    parameters: &[&str],
) {
    let sent = sent(call).await;
    let uri: Uri = sent.uri.parse().unwrap();
    assert_eq!(format!("{} {}", sent.method, uri.path()), expected);
    assert_eq!(uri.host(), Some("api.stripe.com"), "{expected}");
    let (encoded, other) = match sent.method.as_str() {
        "POST" => (sent.body.as_str(), uri.query().unwrap_or_default()),
        _ => (uri.query().unwrap_or_default(), sent.body.as_str()),
    };
    assert_eq!(other, "", "{expected}");
    assert_eq!(encoded, parameters.join("&"), "{expected}");
    assert_eq!(sent.header("stripe-version"), Some(API_VERSION));
    assert_eq!(sent.header("authorization"), Some("Bearer sk_test_first"));
    let is_post = sent.method == "POST";
    let form = is_post.then_some("application/x-www-form-urlencoded");
    assert_eq!(sent.header("content-type"), form, "{expected}");
    assert_eq!(
        sent.header("idempotency-key"),
        is_post.then_some("once"),
        "{expected}"
    );
}

#[tokio::test]
async fn customers() {
    let details = CustomerDetails {
        email: Some("a+b@acme.example"),
        name: Some("Acme & Co"),
        description: None,
        metadata: &[("tollgate_customer", "acme")],
    };
    let expected = [
        "email=a%2Bb%40acme.example",
        "name=Acme%20%26%20Co",
        "metadata[tollgate_customer]=acme",
    ];
    let create = async |client: StripeClient| client.create_customer(&key(), &details).await;
    check(create, "POST /v1/customers", &expected).await;
    let id = "cus_1".parse().unwrap();
    let update = async |client: StripeClient| client.update_customer(&id, &key(), &details).await;
    check(update, "POST /v1/customers/cus_1", &expected).await;
    check(
        async |client| client.customer(&id).await,
        "GET /v1/customers/cus_1",
        &[],
    )
    .await;
    let strange = "a/../b?c".parse().unwrap();
    let path = "GET /v1/customers/a%2F..%2Fb%3Fc";
    check(async |client| client.customer(&strange).await, path, &[]).await;
}

#[tokio::test]
async fn checkout_and_portal() {
    let customer = "cus_1".parse().unwrap();
    let session = NewCheckoutSession {
        price: &"price_1".parse().unwrap(),
        success_url: "https://a.example/done?s={CHECKOUT_SESSION_ID}",
        cancel_url: "https://a.example/",
        currency: Some("usd"),
        adaptive_pricing: Some(false),
        customer: Some(&customer),
        customer_email: None,
        client_reference_id: Some("acme"),
        anchor_day_of_month: Some(1),
        expires_at: Some(at(1_761_609_600)),
        metadata: &[("plan", "pro")],
        subscription_metadata: &[("plan", "pro")],
    };
    let expected = [
        "mode=subscription",
        "line_items[0][price]=price_1",
        "line_items[0][quantity]=1",
        "success_url=https%3A%2F%2Fa.example%2Fdone%3Fs%3D%7BCHECKOUT_SESSION_ID%7D",
        "cancel_url=https%3A%2F%2Fa.example%2F",
        "currency=usd",
        "adaptive_pricing[enabled]=false",
        "customer=cus_1",
        "client_reference_id=acme",
        "subscription_data[billing_cycle_anchor_config][day_of_month]=1",
        "expires_at=1761609600",
        "metadata[plan]=pro",
        "subscription_data[metadata][plan]=pro",
    ];
    let create =
        async |client: StripeClient| client.create_checkout_session(&key(), &session).await;
    check(create, "POST /v1/checkout/sessions", &expected).await;
    let id = "cs_test_1".parse().unwrap();
    let read = async |client: StripeClient| client.checkout_session(&id).await;
    check(read, "GET /v1/checkout/sessions/cs_test_1", &[]).await;
    let expire = async |client: StripeClient| client.expire_checkout_session(&key(), &id).await;
    check(expire, "POST /v1/checkout/sessions/cs_test_1/expire", &[]).await;

    let session = NewPortalSession {
        customer: &customer,
        return_url: "https://a.example/",
        configuration: Some("bpc_1"),
    };
    let expected = [
        "customer=cus_1",
        "return_url=https%3A%2F%2Fa.example%2F",
        "configuration=bpc_1",
    ];
    let create = async |client: StripeClient| client.create_portal_session(&key(), &session).await;
    check(create, "POST /v1/billing_portal/sessions", &expected).await;
}

#[tokio::test]
async fn subscriptions() {
    let id = "sub_1".parse().unwrap();
    check(
        async |client| client.subscription(&id).await,
        "GET /v1/subscriptions/sub_1",
        &[],
    )
    .await;
    let list =
        async |client: StripeClient| client.subscriptions(&"cus_1".parse().unwrap()).all().await;
    let expected = ["customer=cus_1", "status=all", "limit=100"];
    check(list, "GET /v1/subscriptions", &expected).await;
    let update = SubscriptionUpdate {
        price: Some(PriceChange {
            item: &"si_1".parse().unwrap(),
            price: &"price_2".parse().unwrap(),
        }),
        proration: Some(Proration::CreateProrations),
        cancel_at_period_end: Some(false),
        metadata: &[("plan", "pro")],
    };
    let expected = [
        "items[0][id]=si_1",
        "items[0][price]=price_2",
        "proration_behavior=create_prorations",
        "cancel_at_period_end=false",
        "metadata[plan]=pro",
    ];
    let change =
        async |client: StripeClient| client.update_subscription(&id, &key(), &update).await;
    check(change, "POST /v1/subscriptions/sub_1", &expected).await;
    let cancellation = Cancellation {
        invoice_now: Some(true),
        prorate: Some(false),
    };
    let expected = ["invoice_now=true", "prorate=false"];
    let cancel = async |client: StripeClient| client.cancel_subscription(&id, &cancellation).await;
    check(cancel, "DELETE /v1/subscriptions/sub_1", &expected).await;
}

#[tokio::test]
async fn invoice_items() {
    let customer = "cus_1".parse().unwrap();
    let item = NewInvoiceItem {
        charge: "chg_1",
        key: &key(),
        customer: &customer,
        amount: -123,
        currency: "usd",
        description: "1,234 calls beyond the 100,000 included, 1–15 November 2026",
        subscription: Some(&"sub_1".parse().unwrap()),
        period: Some(Period {
            start: at(1_793_491_200),
            end: at(1_794_787_200),
        }),
        metadata: &[("month", "2026-11")],
    };
    let expected = [
        "customer=cus_1",
        "amount=-123",
        "currency=usd",
        "description=1%2C234%20calls%20beyond%20the%20100%2C000%20included%2C%201%E2%80%9315%20November%202026",
        "subscription=sub_1",
        "period[start]=1793491200",
        "period[end]=1794787200",
        "metadata[tollgate_charge]=chg_1",
        "metadata[month]=2026-11",
    ];
    let create = async |client: StripeClient| client.create_invoice_item(&item).await;
    check(create, "POST /v1/invoiceitems", &expected).await;
    let filter = InvoiceItemFilter {
        customer: &customer,
        created_since: Some(at(1_793_491_200)),
        pending: Some(true),
    };
    let expected = [
        "customer=cus_1",
        "created[gte]=1793491200",
        "pending=true",
        "limit=100",
    ];
    let list = async |client: StripeClient| client.invoice_items(&filter).all().await;
    check(list, "GET /v1/invoiceitems", &expected).await;
}

#[tokio::test]
async fn invoices() {
    let id = "in_1".parse().unwrap();
    let customer = "cus_1".parse().unwrap();
    let subscription = "sub_1".parse().unwrap();
    check(
        async |client| client.invoice(&id).await,
        "GET /v1/invoices/in_1",
        &[],
    )
    .await;
    let filter = InvoiceFilter {
        customer: Some(&customer),
        subscription: Some(&subscription),
        status: Some(&InvoiceStatus::Open),
        created_since: None,
    };
    let expected = [
        "customer=cus_1",
        "subscription=sub_1",
        "status=open",
        "limit=20",
        "starting_after=in_9",
    ];
    let list = async |client: StripeClient| {
        client
            .invoices(&filter)
            .page_size(20)
            .after("in_9")
            .next_page()
            .await
    };
    check(list, "GET /v1/invoices", &expected).await;
    let invoice = NewInvoice {
        customer: &customer,
        subscription: Some(&subscription),
        currency: Some("usd"),
        auto_advance: true,
        payment_method: None,
        description: Some("Final"),
        metadata: &[("final", "yes")],
    };
    let rest = [
        "auto_advance=true",
        "description=Final",
        "metadata[final]=yes",
    ];
    let expected = [&["customer=cus_1", "subscription=sub_1"][..], &rest].concat();
    let create = async |client: StripeClient| client.create_invoice(&key(), &invoice).await;
    check(create, "POST /v1/invoices", &expected).await;
    let invoice = NewInvoice {
        subscription: None,
        ..invoice
    };
    let include = "pending_invoice_items_behavior=include";
    let expected = [&["customer=cus_1", "currency=usd", include][..], &rest].concat();
    let create = async |client: StripeClient| client.create_invoice(&key(), &invoice).await;
    check(create, "POST /v1/invoices", &expected).await;
    let finalize =
        async |client: StripeClient| client.finalize_invoice(&id, &key(), Some(true)).await;
    check(
        finalize,
        "POST /v1/invoices/in_1/finalize",
        &["auto_advance=true"],
    )
    .await;
    let finalize = async |client: StripeClient| client.finalize_invoice(&id, &key(), None).await;
    check(finalize, "POST /v1/invoices/in_1/finalize", &[]).await;
}

#[tokio::test]
async fn prices_and_events() {
    let price = "price_1".parse().unwrap();
    check(
        async |client| client.price(&price).await,
        "GET /v1/prices/price_1",
        &[],
    )
    .await;
    let event = "evt_1".parse().unwrap();
    check(
        async |client| client.event(&event).await,
        "GET /v1/events/evt_1",
        &[],
    )
    .await;
    let filter = EventFilter {
        kinds: &["invoice.paid", "invoice.payment_failed"],
        created_since: Some(at(1_793_491_200)),
        delivered: Some(false),
    };
    let expected = [
        "types[0]=invoice.paid",
        "types[1]=invoice.payment_failed",
        "created[gte]=1793491200",
        "delivery_success=false",
        "limit=100",
    ];
    let list = async |client: StripeClient| client.events(&filter).all().await;
    check(list, "GET /v1/events", &expected).await;
}

#[tokio::test]
async fn the_base_url_may_have_a_path() {
    let config = Config {
        base_url: "http://127.0.0.1:12111/stripe/".parse().unwrap(),
        ..Config::default()
    };
    let bench = Bench::with(&[error(404, "resource_missing")], &["sk_test_1"], config);
    let _ = bench.client.price(&"price_1".parse().unwrap()).await;
    assert_eq!(
        bench.sent()[0].uri,
        "http://127.0.0.1:12111/stripe/v1/prices/price_1"
    );
}
