//! Authentication, forms, errors, parameters, idempotency, customers, prices and lists.

use serde_json::{Value, json};

use crate::client::{Api, Reply, id, ids};

#[tokio::test]
async fn keys_and_versions_are_checked() {
    let api = Api::new();
    let check = async |headers: &[(&str, &str)], status: u16, text: &str| {
        let request = api.build("GET", "/v1/customers", "", headers);
        let reply = api.request(request).await.unwrap();
        assert_eq!(reply.status, status, "{headers:?}");
        assert!(reply.text.contains(text), "{headers:?} {}", reply.text);
        assert!(
            reply.headers["request-id"]
                .to_str()
                .unwrap()
                .starts_with("req_")
        );
        assert_eq!(reply.headers["stripe-version"], "2026-10-28.endive");
    };
    check(
        &[("authorization", "Bearer sk_test_stripe_fake")],
        200,
        "list",
    )
    .await;
    // sk_test_stripe_fake:
    check(
        &[("authorization", "Basic c2tfdGVzdF9zdHJpcGVfZmFrZTo=")],
        200,
        "list",
    )
    .await;
    check(
        &[("authorization", "Basic !")],
        401,
        "You did not provide an API key",
    )
    .await;
    check(
        &[("authorization", "")],
        401,
        "You did not provide an API key",
    )
    .await;
    check(
        &[("authorization", "Bearer sk_test_other1234")],
        401,
        "sk_test_*******1234",
    )
    .await;
    check(
        &[("authorization", "Bearer pk_test_stripe_fake")],
        403,
        "secret_key_required",
    )
    .await;
    check(&[("stripe-version", "2026-10-28.endive")], 200, "list").await;
    check(
        &[("stripe-version", "2020-08-27")],
        400,
        "Invalid Stripe API version",
    )
    .await;
}

#[tokio::test]
async fn a_key_of_the_other_mode_finds_nothing() {
    let api = Api::new();
    let customer = api.customer().await;
    let headers = [("authorization", "Bearer sk_live_stripe_fake")];
    let live = async |method: &str, path: &str, form: &str| {
        api.request(api.build(method, path, form, &headers))
            .await
            .unwrap()
    };
    let reply = live("GET", &format!("/v1/customers/{customer}"), "").await;
    api.check_error(&reply, 404, "resource_missing", "id");
    assert!(
        reply
            .text
            .contains("a similar object exists in test mode, but a live mode key was used")
    );
    let form = format!("customer={customer}&amount=100&currency=usd");
    let reply = live("POST", "/v1/invoiceitems", &form).await;
    api.check_error(&reply, 400, "resource_missing", "customer");
    assert!(reply.text.contains("test mode"));
    assert_eq!(
        live("GET", "/v1/customers", "").await.json["data"],
        json!([])
    );
    let created = live("POST", "/v1/customers", "").await.json;
    assert_eq!(created["livemode"], true);
    let reply = api
        .call("GET", &format!("/v1/customers/{}", id(&created)), "")
        .await;
    assert!(
        reply
            .text
            .contains("a similar object exists in live mode, but a test mode key was used")
    );
}

#[tokio::test]
async fn parameters_are_checked_against_the_published_ones() {
    let api = Api::new();
    let check = async |path: &str, form: &str, status: u16, code: &str, param: &str| {
        let reply = api.call("POST", path, form).await;
        api.check_error(&reply, status, code, param);
        assert_eq!(
            api.call("GET", path, "").await.json["data"],
            json!([]),
            "nothing is created"
        );
    };
    let (items, prices, subscriptions) = ("/v1/invoiceitems", "/v1/prices", "/v1/subscriptions");
    check(
        "/v1/customers",
        "nickname=x",
        400,
        "parameter_unknown",
        "nickname",
    )
    .await;
    check(
        "/v1/customers",
        "address[street]=x",
        400,
        "parameter_unknown",
        "address[street]",
    )
    .await;
    check(items, "price=price_1", 400, "parameter_unknown", "price").await;
    check(
        items,
        "amount=ten",
        400,
        "parameter_invalid_integer",
        "amount",
    )
    .await;
    check(
        items,
        "amount=1.5",
        400,
        "parameter_invalid_integer",
        "amount",
    )
    .await;
    check(items, "amount=", 400, "parameter_invalid_empty", "amount").await;
    check(
        items,
        "period[start]=1",
        400,
        "parameter_missing",
        "period[end]",
    )
    .await;
    check(items, "amount=1", 400, "parameter_missing", "customer").await;
    check(
        items,
        "unit_amount_decimal=1e3",
        400,
        "",
        "unit_amount_decimal",
    )
    .await;
    check(
        prices,
        "unit_amount=1",
        400,
        "parameter_missing",
        "currency",
    )
    .await;
    check(
        prices,
        "currency=usd&unit_amount=1",
        400,
        "parameter_missing",
        "product",
    )
    .await;
    check(
        prices,
        "currency=usd&unit_amount=1&active=yes",
        400,
        "",
        "active",
    )
    .await;
    check(
        prices,
        "currency=usd&recurring[interval]=fortnight",
        400,
        "",
        "recurring[interval]",
    )
    .await;
    check(subscriptions, "items[a][price]=x", 400, "", "items").await;
    check(
        subscriptions,
        "items[0][cost]=x",
        400,
        "parameter_unknown",
        "items[0][cost]",
    )
    .await;
    // What Stripe has and the stand-in has not is an error too, and another one.
    check(
        subscriptions,
        "trial_period_days=7",
        501,
        "",
        "trial_period_days",
    )
    .await;
    check(
        "/v1/customers",
        "shipping[name]=x&shipping[address][line1]=y",
        501,
        "",
        "shipping.name",
    )
    .await;

    let reply = api.call("GET", "/v1/prices", "status=active").await;
    api.check_error(&reply, 400, "parameter_unknown", "status");
    for (method, path) in [
        ("GET", "/v1/charges"),
        ("PUT", "/v1/customers"),
        ("GET", "/v1/customers/"),
    ] {
        let reply = api.call(method, path, "").await;
        assert_eq!(reply.status, 404);
        assert!(reply.text.contains("Unrecognized request URL"));
    }
}

#[tokio::test]
async fn customers_are_created_changed_and_deleted() {
    let api = Api::new();
    let form = "email=a%40example.com&name=A+B&metadata[tollgate]=c-1&metadata[x]=y&balance=-50";
    let customer = api.post("/v1/customers", form).await;
    assert_eq!(customer["object"], "customer");
    assert_eq!(customer["email"], "a@example.com");
    assert_eq!(customer["name"], "A B");
    assert_eq!(customer["balance"], -50);
    assert_eq!(customer["metadata"], json!({ "tollgate": "c-1", "x": "y" }));
    let path = format!("/v1/customers/{}", id(&customer));
    let customer = api.post(&path, "metadata[x]=&metadata[z]=1&name=B").await;
    assert_eq!(customer["metadata"], json!({ "tollgate": "c-1", "z": "1" }));
    assert_eq!(customer["name"], "B");
    assert_eq!(api.get(&path, "").await, customer);
    assert_eq!(api.post(&path, "metadata=").await["metadata"], json!({}));

    let too_many: Vec<String> = (0..51).map(|n| format!("metadata[k{n}]=v")).collect();
    for form in [
        too_many.join("&"),
        format!("metadata[{}]=v", "k".repeat(41)),
        format!("metadata[k]={}", "v".repeat(501)),
    ] {
        api.check_error(&api.call("POST", &path, &form).await, 400, "", "metadata");
    }
    api.check_error(
        &api.call("POST", &path, "email=none").await,
        400,
        "email_invalid",
        "email",
    );

    let deleted = json!({ "id": id(&customer), "object": "customer", "deleted": true });
    assert_eq!(api.delete(&path).await, deleted);
    assert_eq!(api.get(&path, "").await, deleted);
    for (method, form) in [("POST", "name=x"), ("DELETE", "")] {
        api.check_error(
            &api.call(method, &path, form).await,
            404,
            "resource_missing",
            "id",
        );
    }
    assert_eq!(api.get("/v1/customers", "").await["data"], json!([]));
    let types = [
        "customer.created",
        "customer.updated",
        "customer.updated",
        "customer.deleted",
    ];
    assert_eq!(api.event_types().await, types);
}

#[tokio::test]
async fn lists_have_pages_and_filters() {
    let api = Api::new();
    let mut created = Vec::new();
    for n in 0..25 {
        created.push(id(&api.post("/v1/customers", &format!("name=c{n}")).await));
        api.pass(1);
    }
    created.reverse();
    let check = async |query: &str, range: std::ops::Range<usize>, has_more: bool| {
        let list = api.get("/v1/customers", query).await;
        assert_eq!(ids(&list), created[range], "{query}");
        assert_eq!(list["has_more"], has_more, "{query}");
        assert_eq!(list["url"], "/v1/customers");
    };
    check("", 0..10, true).await;
    check("limit=25", 0..25, false).await;
    check(
        &format!("limit=10&starting_after={}", created[9]),
        10..20,
        true,
    )
    .await;
    check(
        &format!("limit=10&starting_after={}", created[19]),
        20..25,
        false,
    )
    .await;
    check(
        &format!("limit=10&ending_before={}", created[20]),
        10..20,
        true,
    )
    .await;
    check(
        &format!("limit=10&ending_before={}", created[5]),
        0..5,
        false,
    )
    .await;
    let time = |index: i64| api.now() - 1 - index;
    check(&format!("created[gte]={}", time(2)), 0..3, false).await;
    check(
        &format!("created[gt]={}&created[lte]={}", time(4), time(1)),
        1..4,
        false,
    )
    .await;
    check(
        &format!("created[lt]={}&limit=100", time(20)),
        21..25,
        false,
    )
    .await;
    check(&format!("created={}", time(3)), 3..4, false).await;

    let error = async |query: &str, code: &str, param: &str| {
        let reply = api.call("GET", "/v1/customers", query).await;
        api.check_error(&reply, 400, code, param);
    };
    error("limit=0", "parameter_invalid_integer", "limit").await;
    error("limit=101", "parameter_invalid_integer", "limit").await;
    error(
        "starting_after=cus_none",
        "resource_missing",
        "starting_after",
    )
    .await;
    let both = format!("starting_after={}&ending_before={}", created[3], created[9]);
    error(&both, "", "").await;
}

#[tokio::test]
async fn products_and_prices() {
    let api = Api::new();
    let product = api
        .post("/v1/products", "name=Pro&metadata[plan]=pro")
        .await;
    assert_eq!(product["active"], true);
    let form = format!(
        "product={}&currency=usd&unit_amount=4900&recurring[interval]=month&lookup_key=pro",
        id(&product)
    );
    let price = api.post("/v1/prices", &form).await;
    assert_eq!(price["type"], "recurring");
    assert_eq!(price["unit_amount"], 4900);
    assert_eq!(price["unit_amount_decimal"], "4900");
    assert_eq!(price["recurring"]["interval_count"], 1);
    let path = format!("/v1/prices/{}", id(&price));
    assert_eq!(api.get(&path, "").await, price);
    let expanded = api.get(&path, "expand[]=product").await;
    assert_eq!(expanded["product"]["name"], "Pro");
    let reply = api.call("GET", &path, "expand[]=customer").await;
    api.check_error(&reply, 400, "", "expand");

    let form = format!(
        "product={}&currency=EUR&unit_amount_decimal=0.125",
        id(&product)
    );
    let decimal = api.post("/v1/prices", &form).await;
    assert_eq!(decimal["currency"], "eur");
    assert_eq!(decimal["unit_amount"], Value::Null);
    assert_eq!(decimal["unit_amount_decimal"], "0.125");
    assert_eq!(decimal["type"], "one_time");
    let check = async |query: &str, expected: &[&Value]| {
        let list = api.get("/v1/prices", query).await;
        let expected: Vec<String> = expected.iter().map(|price| id(price)).collect();
        assert_eq!(ids(&list), expected, "{query}");
    };
    check("type=recurring", &[&price]).await;
    check("currency=eur", &[&decimal]).await;
    check("lookup_keys[]=pro&lookup_keys[]=none", &[&price]).await;
    check("recurring[interval]=month", &[&price]).await;
    api.post(&path, "active=false").await;
    check("active=true", &[&decimal]).await;
    check("active=false", &[&price]).await;
    let list = api.get("/v1/prices", "expand[]=data.product").await;
    assert_eq!(list["data"][1]["product"]["name"], "Pro");

    let error = async |form: &str, code: &str, param: &str| {
        api.check_error(
            &api.call("POST", "/v1/prices", form).await,
            400,
            code,
            param,
        );
    };
    error(
        "currency=usd&unit_amount=1&product=prod_none",
        "resource_missing",
        "product",
    )
    .await;
    let form = format!(
        "product={}&currency=usd&unit_amount=1&unit_amount_decimal=2",
        id(&product)
    );
    error(&form, "", "").await;
    let form = format!(
        "product={}&currency=usd&unit_amount=1&lookup_key=pro",
        id(&product)
    );
    error(&form, "", "lookup_key").await;
}

#[tokio::test]
async fn a_request_with_a_key_is_executed_once() {
    let api = Api::new();
    let path = "/v1/customers";
    let post = async |form: &str, key: &str| api.post_with_key(path, form, key).await.unwrap();
    let first = post("name=a&email=a@example.com", "k1").await;
    assert_eq!(first.status, 200);
    assert!(!first.headers.contains_key("idempotent-replayed"));
    let check = |replay: &Reply| {
        assert_eq!(replay.text, first.text);
        assert_eq!(replay.headers["idempotent-replayed"], "true");
        assert_eq!(
            replay.headers["original-request"],
            first.headers["request-id"]
        );
        assert_ne!(replay.headers["request-id"], first.headers["request-id"]);
    };
    check(&post("name=a&email=a@example.com", "k1").await);
    check(&post("email=a@example.com&name=a", "k1").await);

    let mismatch = async |path: &str, form: &str| {
        let reply = api.post_with_key(path, form, "k1").await.unwrap();
        assert_eq!(reply.status, 400);
        assert_eq!(reply.json["error"]["type"], "idempotency_error");
    };
    mismatch(path, "name=b&email=a@example.com").await;
    mismatch("/v1/products", "name=a").await;
    // The mismatch changed nothing.
    check(&post("name=a&email=a@example.com", "k1").await);
    assert_eq!(ids(&api.get(path, "").await).len(), 1);

    let reply = post("name=x", &"k".repeat(256)).await;
    assert_eq!(reply.json["error"]["type"], "idempotency_error");

    api.pass(24 * 3_600 - 1);
    check(&post("name=a&email=a@example.com", "k1").await);
    api.pass(1);
    let again = post("name=b", "k1").await;
    assert_eq!(again.status, 200, "forgotten after 24 hours");
    assert_ne!(id(&again.json), id(&first.json));
}

#[tokio::test]
async fn failed_checks_are_not_stored_and_other_errors_are() {
    let api = Api::new();
    let post = async |form: &str| {
        api.post_with_key("/v1/invoiceitems", form, "k")
            .await
            .unwrap()
    };
    api.check_error(
        &post("amount=ten").await,
        400,
        "parameter_invalid_integer",
        "amount",
    );
    api.check_error(&post("prize=1").await, 400, "parameter_unknown", "prize");
    let form = "customer=cus_none&amount=1&currency=usd";
    let first = post(form).await;
    api.check_error(&first, 400, "resource_missing", "customer");
    let second = post(form).await;
    assert_eq!(second.text, first.text);
    assert_eq!(second.headers["idempotent-replayed"], "true");
}

#[tokio::test]
async fn the_same_seed_gives_the_same_responses() {
    let run = async |seed: u64| {
        let api = Api::with(|options| options.seed = seed);
        let customer = api.customer().await;
        let price = api.price(100).await;
        let subscription = api.subscribe(&customer, &price, "").await;
        api.set("2027-03-01T00:00:00Z");
        let events = api.get("/v1/events", "limit=100").await;
        (subscription.to_string(), events.to_string())
    };
    assert_eq!(run(1).await, run(1).await);
    assert_ne!(run(1).await, run(2).await);
}
