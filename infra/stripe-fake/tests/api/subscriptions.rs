//! Subscriptions in time.

use serde_json::{Value, json};
use stripe_fake::AfterLastAttempt;

use crate::client::{Api, at, id, ids};

fn period(subscription: &Value) -> (i64, i64) {
    let item = &subscription["items"]["data"][0];
    let time = |name: &str| item[name].as_i64().unwrap();
    (time("current_period_start"), time("current_period_end"))
}

#[tokio::test]
async fn a_subscription_begins_with_a_paid_invoice() {
    let api = Api::new();
    let customer = api.customer().await;
    let price = api.price(4_900).await;
    let pending = api.item(&customer, 250, "").await;
    let subscription = api
        .subscribe(
            &customer,
            &price,
            "&metadata[plan]=pro&expand[]=latest_invoice",
        )
        .await;
    assert_eq!(subscription["status"], "active");
    assert_eq!(subscription["billing_cycle_anchor"], api.now());
    assert_eq!(
        period(&subscription),
        (api.now(), at("2026-12-17T12:00:00Z"))
    );
    assert_eq!(
        subscription.get("current_period_end"),
        None,
        "it is on the items"
    );
    let item = &subscription["items"]["data"][0];
    assert_eq!(item["price"]["id"], price.as_str());
    assert_eq!(item["subscription"], subscription["id"]);
    let invoice = &subscription["latest_invoice"];
    assert_eq!(invoice["billing_reason"], "subscription_create");
    assert_eq!(
        (&invoice["status"], &invoice["total"]),
        (&json!("paid"), &json!(5_150))
    );
    assert_eq!(invoice.get("subscription"), None, "it is in the parent");
    let details = &invoice["parent"]["subscription_details"];
    assert_eq!(details["subscription"], subscription["id"]);
    assert_eq!(details["metadata"], json!({ "plan": "pro" }));
    let lines = invoice["lines"]["data"].as_array().unwrap();
    let sources = lines
        .iter()
        .map(|line| line["parent"]["type"].as_str().unwrap());
    assert_eq!(
        sources.collect::<Vec<_>>(),
        ["subscription_item_details", "invoice_item_details"]
    );
    let drawn = api.get(&format!("/v1/invoiceitems/{pending}"), "").await;
    assert_eq!(drawn["invoice"], invoice["id"]);
    let types = api.event_types().await;
    let own: Vec<&String> = types
        .iter()
        .skip_while(|kind| *kind != "invoice.created")
        .collect();
    let expected = [
        "invoice.created",
        "invoice.finalized",
        "invoice.paid",
        "invoice.payment_succeeded",
        "customer.subscription.created",
    ];
    assert_eq!(own, expected);
}

#[tokio::test]
async fn a_renewal_draws_pending_items_and_is_a_draft_for_an_hour() {
    let api = Api::new();
    let customer = api.customer().await;
    let price = api.price(4_900).await;
    let subscription = id(&api.subscribe(&customer, &price, "").await);
    let path = format!("/v1/subscriptions/{subscription}");
    let other = id(&api
        .subscribe(
            &customer,
            &api.price(900).await,
            "&billing_cycle_anchor=1796083200",
        )
        .await);
    assert_eq!(at("2026-12-01T00:00:00Z"), 1_796_083_200);
    api.item(&customer, 100, &format!("&subscription={subscription}"))
        .await;
    let of_other = api
        .item(&customer, 200, &format!("&subscription={other}"))
        .await;
    let of_none = api.item(&customer, 300, "").await;

    // The other subscription renews first, and draws its own item and the one of no subscription.
    api.set("2026-12-01T00:00:00Z");
    let invoice = api
        .get(
            &format!("/v1/subscriptions/{other}"),
            "expand[]=latest_invoice",
        )
        .await;
    let invoice = invoice["latest_invoice"].clone();
    assert_eq!(
        (&invoice["status"], &invoice["total"]),
        (&json!("draft"), &json!(900 + 200 + 300))
    );
    assert_eq!(invoice["billing_reason"], "subscription_cycle");
    for item in [&of_other, &of_none] {
        let item = api.get(&format!("/v1/invoiceitems/{item}"), "").await;
        assert_eq!(item["invoice"], invoice["id"]);
    }

    api.set("2026-12-17T11:59:59Z");
    assert_eq!(
        period(&api.get(&path, "").await).1,
        at("2026-12-17T12:00:00Z")
    );
    api.set("2026-12-17T12:00:00Z");
    let renewed = api.get(&path, "expand[]=latest_invoice").await;
    assert_eq!(
        period(&renewed),
        (at("2026-12-17T12:00:00Z"), at("2027-01-17T12:00:00Z"))
    );
    let invoice = &renewed["latest_invoice"];
    assert_eq!(
        (&invoice["status"], &invoice["total"]),
        (&json!("draft"), &json!(5_000))
    );
    assert_eq!(invoice["period_start"], at("2026-11-17T12:00:00Z"));
    assert_eq!(invoice["period_end"], at("2026-12-17T12:00:00Z"));
    assert_eq!(
        invoice["automatically_finalizes_at"],
        at("2026-12-17T13:00:00Z")
    );

    // During the hour an item can be added by the invoice's id; others wait for the next one.
    api.item(
        &customer,
        40,
        &format!("&subscription={subscription}&invoice={}", id(invoice)),
    )
    .await;
    let late = api
        .item(&customer, 60, &format!("&subscription={subscription}"))
        .await;
    api.set("2026-12-17T13:00:00Z");
    let path = format!("/v1/invoices/{}", id(invoice));
    let paid = api.get(&path, "").await;
    assert_eq!(
        (&paid["status"], &paid["total"]),
        (&json!("paid"), &json!(5_040))
    );
    assert_eq!(paid["status_transitions"]["finalized_at"], api.now());
    let late = format!("/v1/invoiceitems/{late}");
    assert_eq!(api.get(&late, "").await["invoice"], Value::Null);
    api.set("2027-01-17T12:00:00Z");
    assert_ne!(api.get(&late, "").await["invoice"], Value::Null);
}

#[tokio::test]
async fn a_renewal_draws_250_lines_at_most_from_the_oldest() {
    let api = Api::new();
    let customer = api.customer().await;
    let subscription = id(&api.subscribe(&customer, &api.price(4_900).await, "").await);
    let mut items = Vec::new();
    for n in 0..255 {
        items.push(
            api.item(&customer, n, &format!("&subscription={subscription}"))
                .await,
        );
    }
    let pending = async || ids(&api.get("/v1/invoiceitems", "pending=true").await);
    api.set("2026-12-17T12:00:00Z");
    let mut left = items.split_off(249);
    left.reverse();
    assert_eq!(pending().await, left);
    api.set("2027-01-17T12:00:00Z");
    assert_eq!(pending().await, [""; 0]);
}

#[tokio::test]
async fn many_periods_pass_in_order() {
    let api = Api::new();
    let customer = api.customer().await;
    api.set("2027-01-31T00:00:00Z");
    let subscription = id(&api.subscribe(&customer, &api.price(4_900).await, "").await);
    api.set("2027-06-15T00:00:00Z");
    let invoices = api
        .get(
            "/v1/invoices",
            &format!("subscription={subscription}&limit=100"),
        )
        .await;
    let created: Vec<i64> = invoices["data"]
        .as_array()
        .unwrap()
        .iter()
        .rev()
        .map(|invoice| {
            assert_eq!(invoice["status"], "paid");
            invoice["created"].as_i64().unwrap()
        })
        .collect();
    let expected = ["01-31", "02-28", "03-31", "04-30", "05-31"];
    let expected = expected.map(|day| at(&format!("2027-{day}T00:00:00Z")));
    assert_eq!(created, expected);
}

#[tokio::test]
async fn an_anchor_shortens_the_first_period() {
    let api = Api::new();
    let customer = api.customer().await;
    let price = api.price(3_000).await;
    let first_total = async |more: &str| {
        let subscription = api
            .subscribe(
                &customer,
                &price,
                &format!("{more}&expand[]=latest_invoice"),
            )
            .await;
        assert_eq!(
            period(&subscription),
            (api.now(), at("2027-05-01T00:00:00Z")),
            "{more}"
        );
        subscription["latest_invoice"]["total"].clone()
    };
    api.set("2027-04-16T00:00:00Z");
    let anchor = at("2027-05-01T00:00:00Z");
    // 15 of April's 30 days.
    assert_eq!(
        first_total(&format!("&billing_cycle_anchor={anchor}")).await,
        1_500
    );
    let config = "&billing_cycle_anchor_config[day_of_month]=1&billing_cycle_anchor_config[hour]=0";
    assert_eq!(first_total(config).await, 1_500);
    assert_eq!(
        first_total(&format!(
            "&billing_cycle_anchor={anchor}&proration_behavior=none"
        ))
        .await,
        0
    );
    for wrong in ["2027-04-15T00:00:00Z", "2027-05-16T00:00:01Z"] {
        let form = format!(
            "customer={customer}&items[0][price]={price}&billing_cycle_anchor={}",
            at(wrong)
        );
        let reply = api.call("POST", "/v1/subscriptions", &form).await;
        api.check_error(&reply, 400, "", "billing_cycle_anchor");
    }
}

#[tokio::test]
async fn cancellation_leaves_items_pending() {
    let api = Api::new();
    let customer = api.customer().await;
    let price = api.price(4_900).await;
    let check = async |method: &str, form: &str, seconds: i64| {
        let subscription = id(&api.subscribe(&customer, &price, "").await);
        let path = format!("/v1/subscriptions/{subscription}");
        let item = api
            .item(&customer, 100, &format!("&subscription={subscription}"))
            .await;
        let changed = api.call(method, &path, form).await.json;
        assert_eq!(changed["canceled_at"], api.now());
        if seconds > 0 {
            api.pass(seconds - 1);
            assert_eq!(api.get(&path, "").await["status"], "active");
            api.pass(1);
        }
        let ended = api.get(&path, "").await;
        assert_eq!(ended["status"], "canceled", "{form}");
        assert_eq!(ended["ended_at"], api.now(), "{form}");
        api.pass(90 * 86_400);
        let query = format!("subscription={subscription}");
        assert_eq!(
            ids(&api.get("/v1/invoices", &query).await).len(),
            1,
            "there are no renewals"
        );
        let item = api.get(&format!("/v1/invoiceitems/{item}"), "").await;
        assert_eq!(item["invoice"], Value::Null, "{form}");
        // A final invoice is the caller's.
        let form = format!("subscription={subscription}");
        assert_eq!(api.post("/v1/invoices", &form).await["total"], 100);
        let reply = api.call("DELETE", &path, "").await;
        api.check_error(&reply, 404, "resource_missing", "id");
        let reply = api.call("POST", &path, "cancel_at_period_end=true").await;
        assert_eq!(reply.status, 400, "{}", reply.text);
        api.post(&path, "metadata[a]=b").await;
    };
    check("DELETE", "", 0).await;
    // A period from February to March.
    api.set("2027-02-20T00:00:00Z");
    check("POST", "cancel_at_period_end=true", 28 * 86_400).await;
    let cancel_at = api.now() + 10 * 86_400;
    check("POST", &format!("cancel_at={cancel_at}"), 10 * 86_400).await;
    let types = api.event_types().await;
    assert_eq!(
        types
            .iter()
            .filter(|kind| *kind == "customer.subscription.deleted")
            .count(),
        3
    );
}

#[tokio::test]
async fn a_cancellation_can_be_undone_and_can_have_a_final_invoice() {
    let api = Api::new();
    let customer = api.customer().await;
    let subscription = id(&api.subscribe(&customer, &api.price(3_000).await, "").await);
    let path = format!("/v1/subscriptions/{subscription}");
    let ending = api.post(&path, "cancel_at_period_end=true").await;
    assert_eq!(ending["cancel_at"], period(&ending).1);
    let kept = api.post(&path, "cancel_at_period_end=false").await;
    assert_eq!(
        (&kept["cancel_at"], &kept["canceled_at"]),
        (&Value::Null, &Value::Null)
    );
    api.set("2026-12-17T12:00:00Z");
    assert_eq!(api.get(&path, "").await["status"], "active");

    api.set("2026-12-20T00:00:00Z");
    api.item(&customer, 700, &format!("&subscription={subscription}"))
        .await;
    let reply = api.call("DELETE", &path, "invoice_now=true").await;
    assert_eq!(reply.json["status"], "canceled");
    api.pass(3_600);
    let invoice = api.get(&path, "expand[]=latest_invoice").await["latest_invoice"].clone();
    assert_eq!(
        (&invoice["status"], &invoice["total"]),
        (&json!("paid"), &json!(700))
    );
}

#[tokio::test]
async fn a_change_of_plan_is_prorated() {
    let api = Api::new();
    let customer = api.customer().await;
    let (basic, pro) = (api.price(3_000).await, api.price(6_000).await);
    api.set("2027-04-01T00:00:00Z");
    let subscription = api.subscribe(&customer, &basic, "").await;
    let path = format!("/v1/subscriptions/{}", id(&subscription));
    let item = id(&subscription["items"]["data"][0]);
    // Half of April.
    api.set("2027-04-16T00:00:00Z");
    let change = format!("items[0][id]={item}&items[0][price]={pro}");
    let changed = api.post(&path, &change).await;
    assert_eq!(changed["items"]["data"][0]["price"]["id"], pro.as_str());
    assert_eq!(changed["items"]["data"][0]["id"], item.as_str());
    assert_eq!(period(&changed), period(&subscription));
    let items = api.get("/v1/invoiceitems", "pending=true").await;
    let amounts: Vec<i64> = items["data"]
        .as_array()
        .unwrap()
        .iter()
        .map(|item| {
            assert_eq!(item["proration"], true);
            item["amount"].as_i64().unwrap()
        })
        .collect();
    assert_eq!(amounts, [3_000, -1_500]);
    api.set("2027-05-01T01:00:00Z");
    let invoice = api.get(&path, "expand[]=latest_invoice").await["latest_invoice"].clone();
    assert_eq!(
        (&invoice["status"], &invoice["total"]),
        (&json!("paid"), &json!(6_000 + 1_500))
    );

    let change = format!("items[0][id]={item}&items[0][price]={basic}&proration_behavior=none");
    api.post(&path, &change).await;
    assert_eq!(
        ids(&api.get("/v1/invoiceitems", "pending=true").await),
        [""; 0]
    );
    let form = "currency=usd&unit_amount=30000&recurring[interval]=year&product_data[name]=Year";
    let yearly = id(&api.post("/v1/prices", form).await);
    let changed = api
        .post(
            &path,
            &format!("items[0][id]={item}&items[0][price]={yearly}"),
        )
        .await;
    assert_eq!(period(&changed), (api.now(), at("2028-05-01T01:00:00Z")));
    let types = api.event_types().await;
    assert!(
        types
            .iter()
            .any(|kind| kind == "customer.subscription.updated")
    );
    for (form, param) in [
        ("items[0][id]=si_none&items[0][quantity]=2", "items[0][id]"),
        ("items[0][price]=price_none", "items[0][price]"),
    ] {
        api.check_error(
            &api.call("POST", &path, form).await,
            400,
            "resource_missing",
            param,
        );
    }
}

#[tokio::test]
async fn a_failed_renewal_is_tried_again() {
    let check = async |after: AfterLastAttempt, paid_before_last: bool, expected: &str| {
        let api = Api::with(|options| options.after_last_attempt = after);
        let customer = api.customer().await;
        let subscription = id(&api.subscribe(&customer, &api.price(4_900).await, "").await);
        let path = format!("/v1/subscriptions/{subscription}");
        api.fake.decline_payments(&customer, true).unwrap();
        api.set("2026-12-17T13:00:00Z");
        let failed = api.get(&path, "expand[]=latest_invoice").await;
        assert_eq!(failed["status"], "past_due");
        let invoice = &failed["latest_invoice"];
        assert_eq!(
            (&invoice["status"], &invoice["attempt_count"]),
            (&json!("open"), &json!(1))
        );
        assert_eq!(invoice["next_payment_attempt"], api.now() + 3 * 86_400);
        assert!(
            api.event_types()
                .await
                .contains(&"invoice.payment_failed".to_owned())
        );
        api.pass(8 * 86_400);
        let path_of_invoice = format!("/v1/invoices/{}", id(invoice));
        assert_eq!(api.get(&path_of_invoice, "").await["attempt_count"], 3);
        if paid_before_last {
            api.fake.decline_payments(&customer, false).unwrap();
        }
        api.pass(7 * 86_400);
        assert_eq!(api.get(&path, "").await["status"], expected, "{after:?}");
        let is_paid = api.get(&path_of_invoice, "").await["status"] == "paid";
        assert_eq!(is_paid, paid_before_last);
        (api, path, customer)
    };
    check(AfterLastAttempt::Cancel, true, "active").await;
    check(AfterLastAttempt::Cancel, false, "canceled").await;
    check(AfterLastAttempt::PastDue, false, "past_due").await;
    let (api, path, _) = check(AfterLastAttempt::Unpaid, false, "unpaid").await;
    api.set("2027-01-20T00:00:00Z");
    let unpaid = api.get(&path, "expand[]=latest_invoice").await;
    assert_eq!(unpaid["latest_invoice"]["status"], "draft", "it stays one");
}

#[tokio::test]
async fn the_first_payment_decides() {
    let api = Api::new();
    let price = api.price(4_900).await;
    let without_card = id(&api.post("/v1/customers", "").await);
    let customer = api.customer().await;
    api.fake.decline_payments(&customer, true).unwrap();
    let create = async |customer: &str, more: &str| {
        let form = format!("customer={customer}&items[0][price]={price}{more}");
        api.call("POST", "/v1/subscriptions", &form).await
    };
    api.check_error(
        &create(&without_card, "").await,
        400,
        "resource_missing",
        "",
    );
    let reply = create(&customer, "&payment_behavior=error_if_incomplete").await;
    api.check_error(&reply, 402, "card_declined", "");
    assert_eq!(
        api.get("/v1/subscriptions", "status=all").await["data"],
        json!([])
    );

    let incomplete = create(&customer, "").await.json;
    assert_eq!(incomplete["status"], "incomplete");
    let later = create(
        &without_card,
        "&payment_behavior=default_incomplete&expand[]=latest_invoice",
    )
    .await
    .json;
    assert_eq!(later["status"], "incomplete");
    assert_eq!(later["latest_invoice"]["status"], "open");
    let page = later["latest_invoice"]["hosted_invoice_url"]
        .as_str()
        .unwrap();
    api.submit(page, "card=accepted").await;
    let path = |subscription: &Value| format!("/v1/subscriptions/{}", id(subscription));
    assert_eq!(api.get(&path(&later), "").await["status"], "active");
    api.pass(23 * 3_600);
    let expired = api.get(&path(&incomplete), "expand[]=latest_invoice").await;
    assert_eq!(expired["status"], "incomplete_expired");
    assert_eq!(expired["latest_invoice"]["status"], "void");
    assert_eq!(ids(&api.get("/v1/subscriptions", "").await), [id(&later)]);
    assert_eq!(
        ids(&api.get("/v1/subscriptions", "status=ended").await),
        [id(&incomplete)]
    );
}

#[tokio::test]
async fn pending_items_can_have_their_own_interval() {
    let api = Api::new();
    let customer = api.customer().await;
    let form = "currency=usd&unit_amount=30000&recurring[interval]=year&product_data[name]=Year";
    let yearly = id(&api.post("/v1/prices", form).await);
    let more = "&pending_invoice_item_interval[interval]=month";
    let subscription = api.subscribe(&customer, &yearly, more).await;
    assert_eq!(
        subscription["next_pending_invoice_item_invoice"],
        at("2026-12-17T12:00:00Z")
    );
    let path = format!("/v1/subscriptions/{}", id(&subscription));
    api.item(
        &customer,
        800,
        &format!("&subscription={}", id(&subscription)),
    )
    .await;
    api.set("2026-12-17T13:00:00Z");
    let invoice = api.get(&path, "expand[]=latest_invoice").await["latest_invoice"].clone();
    assert_eq!(
        (&invoice["status"], &invoice["total"]),
        (&json!("paid"), &json!(800))
    );
    assert_eq!(
        invoice["billing_reason"],
        "automatic_pending_invoice_item_invoice"
    );
    api.set("2027-03-01T00:00:00Z");
    let query = format!("subscription={}", id(&subscription));
    assert_eq!(
        ids(&api.get("/v1/invoices", &query).await).len(),
        2,
        "none without items"
    );
}

#[tokio::test]
async fn deleting_a_customer_cancels_the_subscriptions() {
    let api = Api::new();
    let customer = api.customer().await;
    let subscription = id(&api.subscribe(&customer, &api.price(4_900).await, "").await);
    api.item(&customer, 100, &format!("&subscription={subscription}"))
        .await;
    let invoice = id(&api
        .post("/v1/invoices", &format!("customer={customer}"))
        .await);
    api.delete(&format!("/v1/customers/{customer}")).await;
    assert_eq!(
        api.get(&format!("/v1/subscriptions/{subscription}"), "")
            .await["status"],
        "canceled"
    );
    let form = format!("subscription={subscription}");
    let reply = api.call("POST", "/v1/invoices", &form).await;
    api.check_error(&reply, 400, "resource_missing", "customer");
    for operation in ["finalize", "pay"] {
        let path = format!("/v1/invoices/{invoice}/{operation}");
        let reply = api.call("POST", &path, "").await;
        api.check_error(&reply, 400, "resource_missing", "customer");
    }
    let types = api.event_types().await;
    assert_eq!(
        types[types.len() - 2..],
        ["customer.subscription.deleted", "customer.deleted"]
    );
}

#[tokio::test]
async fn a_subscription_whose_sent_invoice_is_not_paid_in_time_is_past_due_until_the_payment() {
    let api = Api::new();
    let customer = api.customer().await;
    let more = "&collection_method=send_invoice&days_until_due=10";
    let subscription = api
        .subscribe(&customer, &api.price(4_900).await, more)
        .await;
    assert_eq!(subscription["status"], "active");
    let path = format!("/v1/subscriptions/{}", id(&subscription));
    let status = async || api.get(&path, "").await["status"].clone();
    api.pass(9 * 86_400);
    assert_eq!(status().await, "active");
    api.pass(2 * 86_400);
    assert_eq!(status().await, "past_due");
    let open = api.get("/v1/invoices", "status=open").await;
    let [invoice] = &ids(&open)[..] else {
        panic!("not one invoice: {open}");
    };
    let form = "paid_out_of_band=true";
    api.post(&format!("/v1/invoices/{invoice}/pay"), form).await;
    assert_eq!(status().await, "active");
}
