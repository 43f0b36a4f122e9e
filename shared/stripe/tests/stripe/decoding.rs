//! Decoding of objects as version 2026-10-28 of the API renders them, with members that the client does not
//! know.

use jiff::Timestamp;
use serde_json::{Value, json};
use tollgate_stripe::{
    CheckoutMode, CheckoutStatus, CustomerLookup, Event, InvalidEvent, InvoiceStatus,
    PaymentStatus, StripeError, SubscriptionStatus, UnavailableCause,
};

use crate::script::{Bench, respond};

/// Objects of the API, each as a whole response.
fn object(name: &str) -> Value {
    let objects: Value = serde_json::from_str(include_str!("objects.json")).unwrap();
    objects[name].clone()
}

fn bench(object: &Value) -> Bench {
    Bench::new(&[respond(200, object.to_string())])
}

fn at(seconds: i64) -> Timestamp {
    Timestamp::from_second(seconds).unwrap()
}

fn id<T: std::str::FromStr<Err: std::fmt::Debug>>(text: &str) -> T {
    text.parse().unwrap()
}

#[tokio::test]
async fn a_customer_is_present_or_deleted() {
    let check = async |object: Value| bench(&object).client.customer(&id("cus_1")).await.unwrap();
    let CustomerLookup::Present(customer) = check(object("customer")).await else {
        panic!("deleted");
    };
    assert_eq!(customer.id.as_str(), "cus_NffrFeUfNV2Hib");
    assert_eq!(customer.email.as_deref(), Some("jenny@acme.example"));
    assert_eq!(customer.created, at(1_680_893_993));
    assert_eq!(customer.metadata["tollgate_customer"], "acme");
    let deleted = json!({ "id": "cus_1", "object": "customer", "deleted": true });
    assert_eq!(check(deleted).await, CustomerLookup::Deleted(id("cus_1")));
}

#[tokio::test]
async fn a_checkout_session_has_state_and_payment() {
    let check = async |object: Value| {
        bench(&object)
            .client
            .checkout_session(&id("cs_1"))
            .await
            .unwrap()
    };
    let session = check(object("checkout_session")).await;
    assert_eq!(session.status, Some(CheckoutStatus::Complete));
    assert_eq!(session.payment_status, PaymentStatus::Unpaid);
    assert_eq!(session.mode, CheckoutMode::Subscription);
    assert_eq!(session.customer, Some(id("cus_NffrFeUfNV2Hib")));
    assert_eq!(
        session.subscription,
        Some(id("sub_1MowQVLkdIwHu7ixeRlqHVzs"))
    );
    assert_eq!(session.client_reference_id.as_deref(), Some("acme"));
    assert_eq!(session.url, None);

    let mut changed = object("checkout_session");
    changed["subscription"] = object("subscription");
    changed["customer"] = Value::Null;
    changed["payment_status"] = "pending_review".into();
    let session = check(changed).await;
    assert_eq!(
        session.subscription,
        Some(id("sub_1MowQVLkdIwHu7ixeRlqHVzs"))
    );
    assert_eq!(session.customer, None);
    assert_eq!(
        session.payment_status,
        PaymentStatus::Other("pending_review".to_owned())
    );
}

#[tokio::test]
async fn a_portal_session_has_an_address() {
    let customer = id("cus_NffrFeUfNV2Hib");
    let session = tollgate_stripe::NewPortalSession {
        customer: &customer,
        return_url: "https://a.example/",
        configuration: None,
    };
    let bench = bench(&object("portal_session"));
    let session = bench
        .client
        .create_portal_session(&id("once"), &session)
        .await
        .unwrap();
    assert_eq!(session.customer, customer);
    assert!(
        session
            .url
            .starts_with("https://billing.stripe.com/p/session/")
    );
    assert!(!format!("{session:?}").contains(&session.url));
}

#[tokio::test]
async fn a_subscriptions_period_is_its_items() {
    let check = async |object: Value| {
        bench(&object)
            .client
            .subscription(&id("sub_1"))
            .await
            .unwrap()
    };
    let subscription = check(object("subscription")).await;
    assert_eq!(subscription.status, SubscriptionStatus::Active);
    assert_eq!(
        subscription.latest_invoice,
        Some(id("in_1MowQWLkdIwHu7ixuzkSPfKd"))
    );
    assert_eq!(subscription.canceled_at, None);
    assert!(!subscription.cancel_at_period_end);
    let [item] = &subscription.items.data[..] else {
        panic!("{subscription:?}");
    };
    assert_eq!(item.current_period_start, at(1_679_609_767));
    assert_eq!(item.current_period_end, at(1_682_288_167));
    assert_eq!(item.price.unit_amount, Some(2_900));
    assert!(item.price.is_monthly());

    let mut ended = object("subscription");
    ended["status"] = "dormant".into();
    ended["canceled_at"] = 1_682_288_167.into();
    ended["customer"] = object("customer");
    ended["metadata"] = Value::Null;
    let subscription = check(ended).await;
    assert_eq!(subscription.status.as_str(), "dormant");
    assert_eq!(subscription.canceled_at, Some(at(1_682_288_167)));
    assert_eq!(subscription.customer.as_str(), "cus_NffrFeUfNV2Hib");
    assert!(subscription.metadata.is_empty());
}

#[tokio::test]
async fn an_invoice_item_names_its_charge() {
    let check = async |object: Value| bench(&object).charge().await.unwrap();
    let item = check(object("invoice_item")).await;
    assert_eq!(item.charge(), Some("chg_1"));
    assert_eq!(
        item.subscription().unwrap().as_str(),
        "sub_1MowQVLkdIwHu7ixeRlqHVzs"
    );
    assert_eq!(item.invoice, None);
    let period = item.period.unwrap();
    assert_eq!(
        (period.start, period.end),
        (at(1_793_491_200), at(1_794_787_200))
    );
    let mut other = object("invoice_item");
    other["amount"] = (-1_234).into();
    other["parent"] = Value::Null;
    other["metadata"] = json!({});
    other["invoice"] = object("invoice");
    let item = check(other).await;
    assert_eq!(
        (item.amount, item.charge(), item.subscription()),
        (-1_234, None, None)
    );
    assert_eq!(item.invoice, Some(id("in_1MtHbELkdIwHu7ixl4OzzPMv")));
}

#[tokio::test]
async fn an_invoice_has_state_and_amounts() {
    let check = async |object: Value| bench(&object).client.invoice(&id("in_1")).await.unwrap();
    let invoice = check(object("invoice")).await;
    assert_eq!(invoice.status, Some(InvoiceStatus::Paid));
    assert_eq!(invoice.number.as_deref(), Some("ACME-0001"));
    assert_eq!(
        (invoice.total, invoice.amount_due, invoice.amount_remaining),
        (4_134, 4_134, 0)
    );
    assert_eq!(
        invoice.subscription().unwrap().as_str(),
        "sub_1MowQVLkdIwHu7ixeRlqHVzs"
    );
    assert_eq!(invoice.finalized_at(), Some(at(1_680_644_500)));
    assert_eq!(invoice.paid_at(), Some(at(1_680_644_600)));
    let mut draft = object("invoice");
    draft["status"] = "draft".into();
    draft["parent"] = Value::Null;
    draft["number"] = Value::Null;
    draft["status_transitions"] = Value::Null;
    let draft_members = draft.as_object_mut().unwrap();
    draft_members.remove("hosted_invoice_url");
    let invoice = check(draft).await;
    assert_eq!((invoice.subscription(), invoice.paid_at()), (None, None));
    assert_eq!((invoice.number, invoice.hosted_invoice_url), (None, None));
}

#[tokio::test]
async fn a_price_may_lack_a_whole_amount() {
    let check = async |object: Value| bench(&object).client.price(&id("price_1")).await.unwrap();
    let price = check(object("price")).await;
    assert_eq!(
        (price.unit_amount, price.currency.as_str()),
        (Some(2_900), "usd")
    );
    assert_eq!(price.product, Some(id("prod_NZKdYqrwEYx6iK")));
    let mut changed = object("price");
    changed["unit_amount"] = Value::Null;
    changed["recurring"] = json!({ "interval": "month", "interval_count": 3 });
    let price = check(changed).await;
    assert_eq!(price.unit_amount, None);
    assert!(!price.is_monthly());
}

#[test]
fn an_event_is_an_envelope() {
    let event = Event::parse(object("event").to_string().as_bytes()).unwrap();
    assert_eq!(event.id.as_str(), "evt_1NG8Du2eZvKYlo2CUI79vXWy");
    assert_eq!(event.kind, "invoice.paid");
    assert_eq!(event.created, at(1_686_089_970));
    assert_eq!(event.api_version.as_deref(), Some("2026-10-28.endive"));
    assert_eq!(
        event.object_id.as_deref(),
        Some("in_1MtHbELkdIwHu7ixl4OzzPMv")
    );
    assert_eq!(event.object_type, "invoice");
    assert!(!event.livemode);
    // A balance has no id.
    let mut balance = object("event");
    balance["data"]["object"] = json!({ "object": "balance", "livemode": false });
    balance["api_version"] = Value::Null;
    let event = Event::parse(balance.to_string().as_bytes()).unwrap();
    assert_eq!((event.object_id, event.api_version), (None, None));
}

#[test]
fn other_texts_are_not_events() {
    let check = |text: &str, expected: &str| {
        let error = Event::parse(text.as_bytes()).unwrap_err();
        let cause = match &error {
            InvalidEvent::Thin => "thin".to_owned(),
            InvalidEvent::Malformed(cause) => cause.to_string(),
        };
        assert_eq!(cause, expected, "{text}");
    };
    check("", "not JSON at line 1, column 0");
    check("{", "not JSON at line 1, column 1");
    check("[]", "an unexpected value at line 1, column 2");
    check("{}", "no member id at line 1, column 2");
    check(
        r#"{"id":"a@b.example ","type":""}"#,
        "an unexpected value at line 1, column 20",
    );
    let thin = r#"{"id":"evt_1","object":"v2.core.event","type":"v1.billing.meter.error_report_triggered"}"#;
    check(thin, "thin");
}

/// The error of an undecodable response names the member and has no values.
#[tokio::test]
async fn a_member_that_is_needed_is_named() {
    let check = async |change: fn(&mut Value), expected: &str| {
        let mut invoice = object("invoice");
        change(&mut invoice);
        let error = bench(&invoice)
            .client
            .invoice(&id("in_1"))
            .await
            .unwrap_err();
        let StripeError::Unavailable(unavailable) = error else {
            panic!("{error:?}");
        };
        let UnavailableCause::Undecodable(cause) = unavailable.cause else {
            panic!("{unavailable:?}");
        };
        assert!(cause.to_string().starts_with(expected), "{cause}");
    };
    let without = |invoice: &mut Value| {
        invoice.as_object_mut().unwrap().remove("total");
    };
    check(without, "no member total at line 1").await;
    check(
        |invoice| invoice["total"] = "jenny@acme.example".into(),
        "an unexpected value at",
    )
    .await;
    check(
        |invoice| invoice["total"] = 1.5.into(),
        "an unexpected value at",
    )
    .await;
    check(
        |invoice| invoice["id"] = "".into(),
        "an unexpected value at",
    )
    .await;
}
