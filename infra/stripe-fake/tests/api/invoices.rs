//! Manual invoices, their finalization and payment.

use serde_json::{Value, json};

use crate::client::{Api, id, ids};

#[tokio::test]
async fn manual_invoices_exclude_pending_items_by_default() {
    let api = Api::new();
    let customer = api.customer().await;
    let subscription = id(&api.subscribe(&customer, &api.price(4_900).await, "").await);
    let of_subscription = api
        .item(&customer, 100, &format!("&subscription={subscription}"))
        .await;
    let other = api.item(&customer, 200, "").await;
    let create = async |more: &str| {
        let form = format!("customer={customer}{more}");
        api.call("POST", "/v1/invoices", &form).await
    };
    let check = async |more: &str, expected: &[&String]| {
        let invoice = create(more).await.json;
        let path = format!("/v1/invoices/{}/lines", id(&invoice));
        let lines = api.get(&path, "").await;
        let lines: Vec<&Value> = lines["data"].as_array().unwrap().iter().collect();
        let items = lines
            .iter()
            .map(|line| &line["parent"]["invoice_item_details"]["invoice_item"]);
        assert_eq!(items.collect::<Vec<_>>(), expected, "{more}");
    };
    check("", &[]).await;
    check("&pending_invoice_items_behavior=exclude", &[]).await;
    let include = "&pending_invoice_items_behavior=include";
    let named = format!("&subscription={subscription}");
    for (more, param) in [
        (include, "pending_invoice_items_behavior"),
        (
            "&pending_invoice_items_behavior=exclude",
            "pending_invoice_items_behavior",
        ),
        ("&currency=usd", "currency"),
    ] {
        let reply = create(&format!("{named}{more}")).await;
        api.check_error(&reply, 400, "", param);
    }
    // A subscription's items are taken in without being asked for.
    check(&named, &[&of_subscription]).await;
    let again = api
        .item(&customer, 100, &format!("&subscription={subscription}"))
        .await;
    // Without a subscription, everything that is pending.
    check(include, &[&other, &again]).await;
    let reply = create(&named).await;
    api.check_error(&reply, 400, "invoice_no_subscription_line_items", "");
    let reply = create("&subscription=sub_none").await;
    api.check_error(&reply, 400, "resource_missing", "subscription");
    assert_eq!(
        ids(&api.get("/v1/invoiceitems", "pending=true").await),
        [""; 0]
    );
}

#[tokio::test]
async fn an_invoice_is_finalized_and_paid() {
    let api = Api::new();
    let customer = api.customer().await;
    api.item(&customer, 1_500, "&description=calls").await;
    let form = format!("customer={customer}&pending_invoice_items_behavior=include&metadata[a]=b");
    let draft = api.post("/v1/invoices", &form).await;
    assert_eq!(draft["status"], "draft");
    assert_eq!(draft["auto_advance"], false);
    assert_eq!(draft["number"], Value::Null);
    assert_eq!(draft["hosted_invoice_url"], Value::Null);
    assert_eq!(draft["invoice_pdf"], Value::Null);
    assert_eq!(draft["amount_due"], 1_500);
    let path = format!("/v1/invoices/{}", id(&draft));
    let open = api.post(&format!("{path}/finalize"), "").await;
    assert_eq!(open["status"], "open");
    let number = open["number"].as_str().unwrap();
    assert!(number.ends_with("-0001"), "{number}");
    let page = api.page(open["hosted_invoice_url"].as_str().unwrap()).await;
    assert!(
        page.text.contains(number) && page.text.contains("15.00 USD"),
        "{}",
        page.text
    );
    let file = api.page(open["invoice_pdf"].as_str().unwrap()).await;
    assert_eq!(file.headers["content-type"], "application/pdf");
    assert!(file.text.starts_with("%PDF-") && file.text.contains("(Total 15.00 USD)"));
    let reply = api.call("POST", &format!("{path}/finalize"), "").await;
    assert_eq!(reply.status, 400);
    let paid = api.post(&format!("{path}/pay"), "").await;
    assert_eq!(paid["status"], "paid");
    assert_eq!(
        (&paid["amount_paid"], &paid["amount_remaining"]),
        (&json!(1_500), &json!(0))
    );
    for operation in ["pay", "void", "finalize"] {
        let reply = api.call("POST", &format!("{path}/{operation}"), "").await;
        assert_eq!(reply.status, 400, "{operation}");
    }
    let types = api.event_types().await;
    let expected = [
        "invoice.created",
        "invoice.finalized",
        "invoice.paid",
        "invoice.payment_succeeded",
    ];
    assert_eq!(types[types.len() - 4..], expected);
}

#[tokio::test]
async fn invoices_are_paid_only_by_those_who_can() {
    let api = Api::new();
    let invoice_of = async |customer: &str| {
        let form = format!("customer={customer}");
        let invoice = id(&api.post("/v1/invoices", &form).await);
        api.item(customer, 1_000, &format!("&invoice={invoice}"))
            .await;
        format!("/v1/invoices/{invoice}")
    };
    let without_card = id(&api.post("/v1/customers", "").await);
    let path = invoice_of(&without_card).await;
    let reply = api.call("POST", &format!("{path}/pay"), "").await;
    assert_eq!(reply.status, 400, "{}", reply.text);
    api.post(&format!("{path}/pay"), "paid_out_of_band=true")
        .await;
    assert_eq!(api.get(&path, "").await["status"], "paid");

    let customer = api.customer().await;
    let path = invoice_of(&customer).await;
    api.fake.decline_payments(&customer, true).unwrap();
    let reply = api.call("POST", &format!("{path}/pay"), "").await;
    api.check_error(&reply, 402, "card_declined", "");
    assert_eq!(reply.json["error"]["type"], "card_error");
    let invoice = api.get(&path, "").await;
    assert_eq!(
        (&invoice["status"], &invoice["attempt_count"]),
        (&json!("open"), &json!(1))
    );
    assert_eq!(
        api.get(&format!("/v1/customers/{customer}"), "").await["delinquent"],
        true
    );
    api.fake.decline_payments(&customer, false).unwrap();
    assert_eq!(api.post(&format!("{path}/pay"), "").await["status"], "paid");
    assert_eq!(
        api.get(&format!("/v1/customers/{customer}"), "").await["delinquent"],
        false
    );

    // By the card that Stripe has for it.
    let form = "payment_method=pm_card_chargeCustomerFail\
                &invoice_settings[default_payment_method]=pm_card_chargeCustomerFail";
    let declined = id(&api.post("/v1/customers", form).await);
    let path = invoice_of(&declined).await;
    api.check_error(
        &api.call("POST", &format!("{path}/pay"), "").await,
        402,
        "card_declined",
        "",
    );
    let form = format!("customer={declined}");
    let card = id(&api
        .post("/v1/payment_methods/pm_card_visa/attach", &form)
        .await);
    let paid = api
        .post(&format!("{path}/pay"), &format!("payment_method={card}"))
        .await;
    assert_eq!(paid["status"], "paid");
}

#[tokio::test]
async fn an_automatic_invoice_is_a_draft_for_an_hour() {
    let api = Api::new();
    let customer = api.customer().await;
    api.item(&customer, 1_500, "").await;
    let form =
        format!("customer={customer}&pending_invoice_items_behavior=include&auto_advance=true");
    let invoice = api.post("/v1/invoices", &form).await;
    assert_eq!(invoice["automatically_finalizes_at"], api.now() + 3_600);
    let path = format!("/v1/invoices/{}", id(&invoice));
    api.pass(3_599);
    assert_eq!(api.get(&path, "").await["status"], "draft");
    api.pass(1);
    assert_eq!(api.get(&path, "").await["status"], "paid");
}

#[tokio::test]
async fn balances_carry_what_is_negative_or_too_small() {
    let api = Api::new();
    let customer = api.customer().await;
    let check = async |cents: i64, due: i64, status: &str, balance: i64| {
        let invoice = id(&api
            .post("/v1/invoices", &format!("customer={customer}"))
            .await);
        api.item(&customer, cents, &format!("&invoice={invoice}"))
            .await;
        let invoice = api
            .post(&format!("/v1/invoices/{invoice}/finalize"), "")
            .await;
        assert_eq!(
            (&invoice["amount_due"], &invoice["status"]),
            (&json!(due), &json!(status)),
            "{cents}"
        );
        assert_eq!(invoice["ending_balance"], balance, "{cents}");
        let customer = api.get(&format!("/v1/customers/{customer}"), "").await;
        assert_eq!(customer["balance"], balance, "{cents}");
        format!("/v1/invoices/{}", id(&invoice))
    };
    check(49, 0, "paid", 49).await;
    check(1, 50, "open", 0).await;
    check(-300, 0, "paid", -300).await;
    check(100, 0, "paid", -200).await;
    let path = check(1_000, 800, "open", 0).await;
    api.post(&format!("{path}/void"), "").await;
    check(0, 0, "paid", -200).await;
}

#[tokio::test]
async fn an_invoice_has_250_lines_at_most() {
    let api = Api::new();
    let customer = api.customer().await;
    for _ in 0..260 {
        api.item(&customer, 10, "").await;
    }
    let form = format!("customer={customer}&pending_invoice_items_behavior=include");
    let invoice = api.post("/v1/invoices", &form).await;
    assert_eq!(invoice["total"], 2_500);
    assert_eq!(invoice["lines"]["data"].as_array().unwrap().len(), 10);
    assert_eq!(invoice["lines"]["has_more"], true);
    let mut lines = Vec::new();
    let mut query = "limit=100".to_owned();
    loop {
        let page = api
            .get(&format!("/v1/invoices/{}/lines", id(&invoice)), &query)
            .await;
        lines.extend(ids(&page));
        query = format!("limit=100&starting_after={}", lines.last().unwrap());
        if page["has_more"] == false {
            break;
        }
    }
    assert_eq!(lines.len(), 250);
    let form = format!(
        "customer={customer}&amount=1&currency=usd&invoice={}",
        id(&invoice)
    );
    let reply = api.call("POST", "/v1/invoiceitems", &form).await;
    api.check_error(&reply, 400, "", "invoice");
    let pending = api.get("/v1/invoiceitems", "pending=true&limit=100").await;
    assert_eq!(ids(&pending).len(), 10);
}

#[tokio::test]
async fn a_subscription_has_10_new_invoices_a_minute_and_20_a_day() {
    let api = Api::new();
    let customer = api.customer().await;
    let subscription = id(&api.subscribe(&customer, &api.price(4_900).await, "").await);
    api.pass(86_400);
    let create = async || {
        api.item(&customer, 100, &format!("&subscription={subscription}"))
            .await;
        let form = format!("subscription={subscription}");
        let key = api.get("/v1/invoices", "limit=1").await["data"][0]["id"].to_string();
        api.post_with_key("/v1/invoices", &form, &key)
            .await
            .unwrap()
    };
    for n in 0..20 {
        if n == 10 {
            api.check_error(&create().await, 429, "rate_limit", "");
            api.pass(60);
        }
        // With the key of the request that was limited, which is not stored.
        assert_eq!(create().await.status, 200, "{n}");
    }
    api.pass(60);
    let reply = create().await;
    api.check_error(&reply, 429, "rate_limit", "");
    assert_eq!(
        reply.headers["stripe-rate-limited-reason"],
        "resource-specific"
    );
    api.pass(86_400);
    assert_eq!(create().await.status, 200);
}

#[tokio::test]
async fn invoices_are_listed_by_filters() {
    let api = Api::new();
    let (one, two) = (api.customer().await, api.customer().await);
    let subscription = id(&api.subscribe(&one, &api.price(4_900).await, "").await);
    api.post("/v1/invoices", &format!("customer={two}")).await;
    let form = format!("customer={two}&collection_method=send_invoice&days_until_due=10");
    let sent = api.post("/v1/invoices", &form).await;
    assert_eq!(sent["due_date"], api.now() + 864_000);
    let check = async |query: &str, count: usize| {
        assert_eq!(
            ids(&api.get("/v1/invoices", query).await).len(),
            count,
            "{query}"
        );
    };
    check("", 3).await;
    check(&format!("customer={one}"), 1).await;
    check(&format!("subscription={subscription}&status=paid"), 1).await;
    check("status=draft", 2).await;
    check("collection_method=send_invoice", 1).await;
    check(&format!("created[gt]={}", api.now()), 0).await;
    let form = format!("customer={two}&collection_method=send_invoice");
    let reply = api.call("POST", "/v1/invoices", &form).await;
    api.check_error(&reply, 400, "", "days_until_due");
    let path = format!("/v1/invoices/{}", id(&sent));
    assert_eq!(
        api.post(&path, "metadata[a]=b&description=x").await["metadata"],
        json!({ "a": "b" })
    );
}
