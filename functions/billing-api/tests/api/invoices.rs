//! `GET /api/billing/invoices`.

use serde_json::{Value, json};
use tollgate_api::Cursor;
use tollgate_testing::customers::add_customer;
use tollgate_testing::event::{Event, text};
use tollgate_testing::response::data;

use crate::stack::Stack;

/// Makes a final invoice of one item. Returns its id.
async fn invoice(stack: &Stack, customer: &str, cents: i64) -> String {
    let form = format!("customer={customer}&currency=usd&amount={cents}");
    stack.stripe.call("POST", "/v1/invoiceitems", &form).await;
    let form = format!("customer={customer}&pending_invoice_items_behavior=include");
    let draft = stack.stripe.call("POST", "/v1/invoices", &form).await;
    let path = format!("/v1/invoices/{}/finalize", text(&draft, "id"));
    stack.stripe.call("POST", &path, "").await;
    text(&draft, "id").to_owned()
}

#[tokio::test]
async fn the_invoices_of_the_customers_own_stripe_customer_are_listed() {
    let stack = Stack::new().await;
    let empty = json!({ "data": [], "next_cursor": null });
    assert_eq!(stack.get("invoices", &[]).await.json(200), empty);
    let id = stack.link("acme").await;
    assert_eq!(stack.get("invoices", &[]).await.json(200), empty);
    add_customer(&stack.at, "bolt", "free").await;
    let other = stack.link("bolt").await;
    invoice(&stack, &other, 500).await;
    let made = invoice(&stack, &id, 4_923).await;
    let object = stack.stripe.fake.object(&made).unwrap();
    let amount = json!({ "cents": 4_923, "display": "$49.23" });
    let none = json!({ "cents": 0, "display": "$0.00" });
    let expected = json!({
        "data": [{
            "id": made,
            "number": object["number"],
            "status": "open",
            "currency": "usd",
            "total": amount,
            "amount_due": amount,
            "amount_paid": none,
            "amount_remaining": amount,
            "created_at": "2026-11-22T10:00:00Z",
            "hosted_invoice_url": object["hosted_invoice_url"],
            "invoice_pdf": object["invoice_pdf"],
        }],
        "next_cursor": null,
    });
    assert!(object["hosted_invoice_url"].is_string());
    assert_eq!(stack.get("invoices", &[]).await.json(200), expected);
    assert_eq!(
        stack.get("customer-invoices", &[]).await.json(200),
        expected
    );
    let of_bolt = |event: Event| event.manager("bolt", "free");
    let of_bolt = stack.call("invoices", of_bolt).await.json(200);
    assert_eq!(of_bolt["data"][0]["total"]["display"], "$5.00");
}

/// Stripe's list has an invoice of another customer.
#[tokio::test]
async fn an_invoice_of_another_stripe_customer_is_not_shown() {
    let mut stack = Stack::new().await;
    let id = stack.link("acme").await;
    add_customer(&stack.at, "bolt", "free").await;
    let other = stack.link("bolt").await;
    let foreign = invoice(&stack, &other, 500).await;
    let made = invoice(&stack, &id, 4_923).await;
    let foreign = stack.stripe.fake.object(&foreign).unwrap();
    let client = stack.stripe.altered(move |path, _, list| {
        if path == "/v1/invoices" {
            list["data"].as_array_mut().unwrap().push(foreign.clone());
        }
    });
    stack.call_stripe_by(client);
    for operation in ["invoices", "customer-invoices"] {
        let shown = stack.get(operation, &[]).await.json(200);
        let ids: Vec<&str> = data(&shown).iter().map(|it| text(it, "id")).collect();
        assert_eq!(ids, [made.as_str()]);
    }
}

#[tokio::test]
async fn a_draft_is_not_shown() {
    let stack = Stack::new().await;
    let id = stack.link("acme").await;
    let made = invoice(&stack, &id, 100).await;
    let item = format!("customer={id}&currency=usd&amount=200");
    stack.stripe.call("POST", "/v1/invoiceitems", &item).await;
    let form = format!("customer={id}&pending_invoice_items_behavior=include");
    stack.stripe.call("POST", "/v1/invoices", &form).await;
    let shown = stack.get("invoices", &[]).await.json(200);
    let ids: Vec<&str> = data(&shown).iter().map(|it| text(it, "id")).collect();
    assert_eq!(ids, [made.as_str()]);
    // A page of drafts alone is empty, and has a next one.
    let first = stack.get("invoices", &[("limit", "1")]).await.json(200);
    assert_eq!(data(&first).len(), 0);
    let query = [("limit", "1"), ("cursor", text(&first, "next_cursor"))];
    let second = stack.get("invoices", &query).await.json(200);
    assert_eq!(second["data"][0]["id"], made);
    assert_eq!(second["next_cursor"], Value::Null);
}

#[tokio::test]
async fn pages_of_any_size_add_up_to_the_whole_list() {
    let stack = Stack::new().await;
    let id = stack.link("acme").await;
    let mut made = Vec::new();
    for cents in 1..=5 {
        made.insert(0, invoice(&stack, &id, cents).await);
    }
    for limit in 1..=6 {
        let size = limit.to_string();
        let (mut walked, mut cursor) = (Vec::new(), None::<String>);
        loop {
            let mut query = vec![("limit", size.as_str())];
            query.extend(cursor.as_deref().map(|cursor| ("cursor", cursor)));
            let page = stack.get("invoices", &query).await.json(200);
            assert!(data(&page).len() <= limit);
            walked.extend(data(&page).iter().map(|it| text(it, "id").to_owned()));
            match &page["next_cursor"] {
                Value::Null => break,
                next => cursor = next.as_str().map(str::to_owned),
            }
        }
        assert_eq!(walked, made, "by {limit}");
    }
}

#[tokio::test]
async fn an_invalid_query_is_rejected() {
    let stack = Stack::new().await;
    let id = stack.link("acme").await;
    let made = invoice(&stack, &id, 1).await;
    let name = format!("invoices acme {id}");
    let cursor = |list: &str, position: &str| String::from(Cursor::new(list, position.into()));
    let check = async |field: &str, value: &str| {
        let response = stack.get("invoices", &[(field, value)]).await;
        response.bad_request(Some(field));
    };
    for limit in ["0", "101", "ten"] {
        check("limit", limit).await;
    }
    check("cursor", "MTIzNDU2Nzg5").await;
    check("cursor", &cursor("invoices acme cus_other", &made)).await;
    check("cursor", &cursor(&name, "in_missing")).await;
    check("cursor", &cursor(&name, &id)).await;
    check("status", "paid").await;
    let own = stack
        .get("invoices", &[("cursor", &cursor(&name, &made))])
        .await;
    assert_eq!(own.json(200)["data"], json!([]));
}
