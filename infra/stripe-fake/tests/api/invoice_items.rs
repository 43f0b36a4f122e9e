//! Invoice items.

use serde_json::{Value, json};

use crate::client::{Api, at, id, ids};

#[tokio::test]
async fn an_item_has_what_was_sent() {
    let api = Api::new();
    let customer = api.customer().await;
    let subscription = id(&api.subscribe(&customer, &api.price(4_900).await, "").await);
    let (start, end) = (at("2026-11-01T00:00:00Z"), at("2026-11-15T00:00:00Z"));
    let form = format!(
        "customer={customer}&subscription={subscription}&amount=123&currency=usd\
         &description=1,234+calls&period[start]={start}&period[end]={end}&metadata[charge]=ch-1"
    );
    let item = api.post("/v1/invoiceitems", &form).await;
    let expected = json!({
        "id": id(&item), "object": "invoiceitem", "amount": 123, "currency": "usd", "customer": customer,
        "customer_account": null, "date": api.now(), "description": "1,234 calls", "discountable": true,
        "discounts": [], "invoice": null, "livemode": false, "metadata": { "charge": "ch-1" }, "net_amount": 123,
        "parent": {
            "type": "subscription_details", "subscription_details": { "subscription": subscription },
        },
        "period": { "start": start, "end": end },
        "pricing": { "type": "price_details", "unit_amount_decimal": "123" },
        "proration": false, "quantity": 1, "quantity_decimal": "1", "tax_rates": [], "test_clock": null,
    });
    assert_eq!(item, expected);
    let path = format!("/v1/invoiceitems/{}", id(&item));
    assert_eq!(api.get(&path, "").await, expected);
    let expanded = api.get(&path, "expand[]=customer").await;
    assert_eq!(expanded["customer"]["email"], "a@example.com");
    let item = api
        .post(&path, "amount=-5&description=less&metadata[b]=c")
        .await;
    assert_eq!(
        (&item["amount"], &item["description"]),
        (&json!(-5), &json!("less"))
    );
    assert_eq!(item["metadata"], json!({ "charge": "ch-1", "b": "c" }));
}

#[tokio::test]
async fn amounts_are_exact() {
    let api = Api::new();
    let customer = api.customer().await;
    let check = async |form: &str, amount: i64| {
        let item = api
            .post(
                "/v1/invoiceitems",
                &format!("customer={customer}&currency=usd&{form}"),
            )
            .await;
        assert_eq!(item["amount"], amount, "{form}");
    };
    check("amount=0", 0).await;
    check("amount=-250", -250).await;
    check("unit_amount_decimal=0.1&quantity=4", 0).await;
    check("unit_amount_decimal=0.1&quantity=5", 1).await;
    check("unit_amount_decimal=-0.5", -1).await;
    let form = "currency=usd&unit_amount=700&product_data[name]=Setup";
    let price = id(&api.post("/v1/prices", form).await);
    check(&format!("pricing[price]={price}&quantity=3"), 2_100).await;
}

#[tokio::test]
async fn bad_items_are_rejected() {
    let api = Api::new();
    let customer = api.customer().await;
    let other = api.customer().await;
    let price = api.price(4_900).await;
    let subscription = id(&api.subscribe(&customer, &price, "").await);
    let canceled = id(&api.subscribe(&customer, &price, "").await);
    api.delete(&format!("/v1/subscriptions/{canceled}")).await;
    let deleted = api.customer().await;
    api.delete(&format!("/v1/customers/{deleted}")).await;
    let check = async |form: &str, code: &str, param: &str| {
        let reply = api.call("POST", "/v1/invoiceitems", form).await;
        api.check_error(&reply, 400, code, param);
    };
    check(
        &format!("customer={deleted}&amount=1"),
        "resource_missing",
        "customer",
    )
    .await;
    check(
        &format!("customer={customer}"),
        "parameter_missing",
        "amount",
    )
    .await;
    check(&format!("customer={customer}&amount=1&quantity=2"), "", "").await;
    check(
        &format!("customer={customer}&amount=1&unit_amount_decimal=2"),
        "",
        "",
    )
    .await;
    check(
        &format!("customer={customer}&pricing[price]={price}"),
        "",
        "pricing[price]",
    )
    .await;
    check(
        &format!("customer={customer}&amount=1&currency=eur"),
        "",
        "currency",
    )
    .await;
    check(
        &format!("customer={customer}&amount=1&period[start]=9&period[end]=8"),
        "",
        "period[end]",
    )
    .await;
    for (owner, subscription) in [
        (&other, &subscription),
        (&customer, &canceled),
        (&customer, &"sub_none".to_owned()),
    ] {
        let form = format!("customer={owner}&amount=1&subscription={subscription}");
        check(&form, "resource_missing", "subscription").await;
    }
    assert_eq!(api.get("/v1/invoiceitems", "").await["data"], json!([]));
}

#[tokio::test]
async fn lists_of_items_are_filtered() {
    let api = Api::new();
    let (one, two) = (api.customer().await, api.customer().await);
    let mut items = Vec::new();
    for n in 0..6 {
        items.push(api.item(if n % 2 == 0 { &one } else { &two }, n, "").await);
        api.pass(60);
    }
    let form = format!("customer={one}&pending_invoice_items_behavior=include");
    let invoice = id(&api.post("/v1/invoices", &form).await);
    items.push(api.item(&one, 6, "").await);
    let check = async |query: &str, expected: &[usize]| {
        let expected: Vec<&String> = expected.iter().map(|n| &items[*n]).collect();
        assert_eq!(
            ids(&api.get("/v1/invoiceitems", query).await)
                .iter()
                .collect::<Vec<_>>(),
            expected,
            "{query}"
        );
    };
    check("", &[6, 5, 4, 3, 2, 1, 0]).await;
    check(&format!("customer={one}"), &[6, 4, 2, 0]).await;
    check(&format!("customer={one}&pending=true"), &[6]).await;
    check(&format!("customer={one}&pending=false"), &[4, 2, 0]).await;
    check(&format!("invoice={invoice}"), &[4, 2, 0]).await;
    check(
        &format!("customer={two}&created[gte]={}", api.now() - 180),
        &[5, 3],
    )
    .await;
    check(
        &format!("customer={two}&created[lt]={}", api.now() - 180),
        &[1],
    )
    .await;
    check(
        &format!("customer={one}&limit=2&starting_after={}", items[6]),
        &[4, 2],
    )
    .await;
    check(
        &format!("customer={one}&limit=2&ending_before={}", items[0]),
        &[4, 2],
    )
    .await;
    let reply = api
        .call("GET", "/v1/invoiceitems", "customer=cus_none")
        .await;
    api.check_error(&reply, 400, "resource_missing", "customer");
    api.delete(&format!("/v1/customers/{one}")).await;
    check(&format!("customer={one}&pending=true"), &[6]).await;
}

#[tokio::test]
async fn items_can_be_deleted_until_their_invoice_is_finalized() {
    let api = Api::new();
    let customer = api.customer().await;
    let pending = api.item(&customer, 100, "").await;
    let path = format!("/v1/invoiceitems/{pending}");
    let deleted = json!({ "id": pending, "object": "invoiceitem", "deleted": true });
    assert_eq!(api.delete(&path).await, deleted);
    api.check_error(
        &api.call("GET", &path, "").await,
        404,
        "resource_missing",
        "id",
    );
    api.check_error(
        &api.call("DELETE", &path, "").await,
        404,
        "resource_missing",
        "id",
    );

    let invoice = id(&api
        .post("/v1/invoices", &format!("customer={customer}"))
        .await);
    let kept = api
        .item(&customer, 300, &format!("&invoice={invoice}"))
        .await;
    let removed = api
        .item(&customer, 500, &format!("&invoice={invoice}"))
        .await;
    let total = async || api.get(&format!("/v1/invoices/{invoice}"), "").await["total"].clone();
    assert_eq!(total().await, 800);
    api.delete(&format!("/v1/invoiceitems/{removed}")).await;
    assert_eq!(total().await, 300);
    let path = format!("/v1/invoiceitems/{kept}");
    api.post(&path, "amount=350").await;
    assert_eq!(total().await, 350);
    api.post(&format!("/v1/invoices/{invoice}/finalize"), "")
        .await;
    for (method, form) in [("DELETE", ""), ("POST", "amount=1")] {
        api.check_error(
            &api.call(method, &path, form).await,
            400,
            "invoice_not_editable",
            "",
        );
    }
    let form = format!("customer={customer}&amount=1&currency=usd&invoice={invoice}");
    let reply = api.call("POST", "/v1/invoiceitems", &form).await;
    api.check_error(&reply, 400, "invoice_not_editable", "");
    assert_eq!(api.get(&path, "").await["invoice"], Value::from(invoice));
}
