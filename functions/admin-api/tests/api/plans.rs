//! Plans, their versions, and pins to them.

use serde_json::{Value, json};
use tollgate_local_aws::Fault;
use tollgate_testing::customers::add_customer;
use tollgate_testing::p;
use tollgate_testing::response::{ApiResponse, data};
use tollgate_testing::stored::stored;

use crate::stack::{NOW, Stack};

fn definition() -> Value {
    json!({
        "name": "Team",
        "requests_per_hour": 1_000,
        "month": {
            "kind": "overage",
            "included": 10_000,
            "prices": [{ "from": "2026-01-01", "micro_usd_per_call": 800 }],
        },
        "fail_mode": "open",
        "max_lease": 100,
        "monthly_fee_cents": 2_900,
        "stripe_price": "price_1QbZk2LkdIwHu7ix",
        "submission": "weekly",
    })
}

async fn create(stack: &Stack, body: Value) -> ApiResponse {
    stack.call("create-plan", |event| event.body(&body)).await
}

async fn get(stack: &Stack, plan: &str) -> ApiResponse {
    stack
        .call("get-plan", |event| event.param("plan", plan))
        .await
}

async fn add_version(stack: &Stack, plan: &str, body: Value) -> ApiResponse {
    let event = |event: tollgate_testing::event::Event| event.param("plan", plan).body(&body);
    stack.call("create-plan-version", event).await
}

async fn retire(stack: &Stack, plan: &str, retired: bool) -> ApiResponse {
    let body = json!({ "retired": retired });
    let event = |event: tollgate_testing::event::Event| event.param("plan", plan).body(&body);
    stack.call("update-plan", event).await
}

fn version(expected: u64, takes_effect: &str, dry_run: bool) -> Value {
    json!({
        "expected_version": expected,
        "takes_effect": takes_effect,
        "dry_run": dry_run,
        "definition": definition(),
    })
}

#[tokio::test]
async fn a_new_plan_is_shown_and_takes_customers_at_once() {
    let stack = Stack::new();
    let body = json!({ "id": "team", "definition": definition() });
    let created = create(&stack, body.clone()).await;
    assert_eq!(created.header("location"), Some("/admin/plans/team"));
    let expected = json!({
        "id": "team",
        "retired": false,
        "retired_at": null,
        "current_version": 1,
        "versions": [{
            "version": 1,
            "takes_effect": "2026-11",
            "created_at": NOW,
            "definition": definition(),
        }],
    });
    assert_eq!(created.json(201), expected);
    assert_eq!(get(&stack, "team").await.json(200), expected);
    let listed = stack.call("list-plans", |event| event).await.json(200);
    let ids: Vec<&str> = data(&listed)
        .iter()
        .map(|plan| plan["id"].as_str().unwrap())
        .collect();
    assert_eq!(ids, ["enterprise", "free", "pro", "team"]);
    let customer = json!({ "id": "acme", "plan": "team" });
    assert_eq!(stack.create(customer).await.json(201)["plan"], "team");

    // A repetition changes nothing, and another definition is a conflict.
    let before = stored(&stack.at);
    assert_eq!(create(&stack, body.clone()).await.json(200), expected);
    let mut other = body;
    other["definition"]["name"] = "Others".into();
    create(&stack, other)
        .await
        .problem(409, "conflict", Some("id"));
    assert_eq!(stored(&stack.at), before);
}

#[tokio::test]
async fn members_that_have_defaults_may_be_absent() {
    let stack = Stack::new();
    let definition = json!({
        "name": "", "requests_per_hour": 1.0, "month": { "kind": "unlimited" }, "fail_mode": "closed",
    });
    let body = json!({ "id": "plain", "definition": definition });
    let created = create(&stack, body).await.json(201);
    let expected = json!({
        "name": "",
        "requests_per_hour": 1,
        "month": { "kind": "unlimited" },
        "fail_mode": "closed",
        "max_lease": 1_000,
        "monthly_fee_cents": 0,
        "stripe_price": null,
        "submission": "nightly",
    });
    assert_eq!(created["versions"][0]["definition"], expected);
}

#[tokio::test]
async fn an_invalid_definition_names_the_member_and_creates_nothing() {
    let stack = Stack::new();
    let before = stored(&stack.at);
    let price = |from: &str, price: u64| json!({ "from": from, "micro_usd_per_call": price });
    let overage = |prices: Value| json!({ "kind": "overage", "included": 1, "prices": prices });
    let invalid = [
        ("name", json!("a\u{7}")),
        ("requests_per_hour", json!(1_000_000_000_001_u64)),
        ("max_lease", json!(0)),
        ("max_lease", json!(1_001)),
        ("monthly_fee_cents", json!(100_000_000)),
        ("stripe_price", json!("prod_1QbZk2LkdIwHu7ix")),
        ("stripe_price", json!("price_")),
        (
            "month.included",
            json!({ "kind": "blocked", "included": 1_000_000_000_001_u64 }),
        ),
        ("month.prices", overage(json!([]))),
        (
            "month.prices",
            overage(json!([price("2026-02-01", 1), price("2026-02-01", 2)])),
        ),
        (
            "month.prices",
            overage(json!([price("2026-02-01", 1), price("2026-01-01", 2)])),
        ),
        (
            "month.prices",
            overage(json!([price("2026-01-01", 1_000_000_000_001)])),
        ),
    ];
    for (field, value) in invalid {
        let mut body = json!({ "id": "team", "definition": definition() });
        let member = field.split('.').next().unwrap();
        body["definition"][member] = value;
        let response = create(&stack, body.clone()).await;
        response.problem(422, "unprocessable", Some(&format!("definition.{field}")));
        let mut as_version = version(1, "2027-01", false);
        as_version["definition"] = body["definition"].clone();
        let response = add_version(&stack, "pro", as_version).await;
        response.problem(422, "unprocessable", Some(&format!("definition.{field}")));
    }
    for (member, value) in [
        ("month", json!({ "kind": "prepaid" })),
        ("month", json!(["blocked", 5])),
        ("fail_mode", json!("ajar")),
        ("submission", json!("yearly")),
        ("colour", json!("red")),
    ] {
        let mut body = json!({ "id": "team", "definition": definition() });
        body["definition"][member] = value;
        let response = create(&stack, body).await;
        assert!((400..=422).contains(&response.status), "{member}");
    }
    assert_eq!(stored(&stack.at), before);
}

#[tokio::test]
async fn a_version_is_added_from_a_later_month_on() {
    let stack = Stack::new();
    let added = add_version(&stack, "pro", version(1, "2027-01", false)).await;
    let added = added.json(201);
    let expected = json!({
        "version": 2,
        "takes_effect": "2027-01",
        "created_at": NOW,
        "definition": definition(),
    });
    assert_eq!(
        added,
        json!({
            "dry_run": false, "plan": "pro", "version": expected, "affected": null,
        })
    );
    let plan = get(&stack, "pro").await.json(200);
    assert_eq!(plan["current_version"], 1);
    assert_eq!(plan["versions"][1], expected);
    stack.at.time.set(p("2027-01-01T00:00:00Z"));
    assert_eq!(get(&stack, "pro").await.json(200)["current_version"], 2);
}

#[tokio::test]
async fn a_version_is_rejected_if_it_is_based_on_another_or_takes_effect_too_early_or_late() {
    let stack = Stack::new();
    let first = add_version(&stack, "pro", version(1, "2027-02", false)).await;
    first.json(201);
    let before = stored(&stack.at);
    let stale = add_version(&stack, "pro", version(3, "2027-02", false)).await;
    assert_eq!(stale.body["latest_version"], 2);
    stale.problem(409, "conflict", Some("expected_version"));
    let mut other = version(1, "2027-02", false);
    other["definition"]["name"] = "Others".into();
    let other = add_version(&stack, "pro", other).await;
    other.problem(409, "conflict", Some("expected_version"));
    for month in ["2026-11", "2027-01"] {
        let early = add_version(&stack, "pro", version(2, month, false)).await;
        let earliest = if month == "2026-11" {
            "2026-12"
        } else {
            "2027-02"
        };
        assert_eq!(early.body["earliest"], earliest);
        early.problem(422, "unprocessable", Some("takes_effect"));
    }
    for month in ["2029-01", "9999-12"] {
        let late = add_version(&stack, "pro", version(2, month, false)).await;
        assert_eq!(late.body["latest"], "2028-12");
        late.problem(422, "unprocessable", Some("takes_effect"));
    }
    // Within an hour of the month's start, instances may not know it in time.
    stack.at.time.set(p("2027-01-31T23:00:00Z"));
    let late = add_version(&stack, "pro", version(2, "2027-02", false)).await;
    assert_eq!(late.body["earliest"], "2027-03");
    late.problem(422, "unprocessable", Some("takes_effect"));
    let unknown = add_version(&stack, "gone", version(1, "2027-02", false)).await;
    unknown.problem(404, "not-found", None);
    assert_eq!(stored(&stack.at), before);
}

/// The first try took effect, and its response was lost.
#[tokio::test(start_paused = true)]
async fn a_repeated_request_finds_the_version_that_it_added() {
    let stack = Stack::new();
    let request = version(1, "2027-01", false);
    let added = add_version(&stack, "pro", request.clone()).await.json(201);
    let before = stored(&stack.at);
    let again = add_version(&stack, "pro", request.clone()).await;
    assert_eq!(again.json(200), added);
    assert_eq!(stored(&stack.at), before);
}

#[tokio::test]
async fn of_two_concurrent_versions_one_is_rejected() {
    let stack = Stack::new();
    let mut second = version(1, "2027-01", false);
    second["definition"]["name"] = "Others".into();
    let (first, second) = tokio::join!(
        add_version(&stack, "pro", version(1, "2027-01", false)),
        add_version(&stack, "pro", second)
    );
    let mut statuses = [first.status, second.status];
    statuses.sort_unstable();
    assert_eq!(statuses, [201, 409]);
    let plan = get(&stack, "pro").await.json(200);
    assert_eq!(plan["versions"].as_array().unwrap().len(), 2);
}

#[tokio::test]
async fn a_dry_run_lists_the_customers_to_whom_the_version_would_apply() {
    let stack = Stack::new();
    for n in 0..450 {
        let plan = if n % 3 == 0 { "free" } else { "pro" };
        add_customer(&stack.at, &format!("c-{n:03}"), plan).await;
    }
    let pin = json!({ "pin": { "plan": "pro", "version": 1, "from": "2026-12" } });
    stack.update("c-001", pin).await.json(200);
    let erased = stack.at.store.erase_customer(&p("c-002"), p(NOW)).await;
    assert!(erased.unwrap().is_some());
    let before = stored(&stack.at);
    let mut affected = Vec::new();
    let mut cursor: Option<String> = None;
    let mut pages = 0;
    loop {
        let request = version(1, "2026-12", true);
        let query: Vec<(&str, &str)> = cursor.iter().map(|c| ("cursor", c.as_str())).collect();
        let page = stack
            .call("create-plan-version", |event| {
                event.body(&request).query(&query)
            })
            .await
            .json(200);
        assert_eq!(page["dry_run"], true);
        assert_eq!(page["version"]["version"], 2);
        let list = page["affected"]["data"].as_array().unwrap();
        affected.extend(list.iter().cloned());
        pages += 1;
        cursor = page["affected"]["next_cursor"].as_str().map(str::to_owned);
        if cursor.is_none() {
            break;
        }
    }
    assert_eq!(pages, 3);
    let expected: Vec<Value> = (3..450)
        .filter(|n| n % 3 != 0)
        .map(|n| json!({ "customer_id": format!("c-{n:03}"), "version": 1 }))
        .collect();
    assert_eq!(affected, expected);
    assert_eq!(stored(&stack.at), before);
}

#[tokio::test]
async fn a_new_version_needs_an_explicit_dry_run() {
    let stack = Stack::new();
    let before = stored(&stack.at);
    let mut request = version(1, "2027-01", false);
    request.as_object_mut().unwrap().remove("dry_run");
    let response = add_version(&stack, "pro", request).await;
    response.problem(422, "unprocessable", Some("dry_run"));
    let request = version(1, "2027-01", false);
    let query = [("cursor", "pZ0qEGFjbWU")];
    let response = stack
        .call("create-plan-version", |event| {
            event.body(&request).query(&query)
        })
        .await;
    response.problem(422, "unprocessable", Some("cursor"));
    assert_eq!(stored(&stack.at), before);
}

#[tokio::test]
async fn a_retired_plan_keeps_its_customers_and_takes_no_others() {
    let stack = Stack::new();
    add_customer(&stack.at, "acme", "pro").await;
    add_customer(&stack.at, "bolt", "free").await;
    let retired = retire(&stack, "pro", true).await.json(200);
    assert_eq!(
        (&retired["retired"], &retired["retired_at"]),
        (&json!(true), &json!(NOW))
    );
    stack.at.time.set(p("2026-11-23T10:00:00Z"));
    let again = retire(&stack, "pro", true).await.json(200);
    assert_eq!(again["retired_at"], NOW, "the first instant stays");

    let created = stack.create(json!({ "id": "crow", "plan": "pro" })).await;
    assert_eq!(created.body["plans"], json!(["enterprise", "free"]));
    created.problem(422, "unprocessable", Some("plan"));
    let moved = stack.update("bolt", json!({ "plan": "pro" })).await;
    moved.problem(422, "unprocessable", Some("plan"));
    let stays = stack
        .update("acme", json!({ "plan": "pro", "name": "Acme" }))
        .await;
    assert_eq!(stays.json(200)["name"], "Acme");

    retire(&stack, "pro", false).await.json(200);
    stack
        .update("bolt", json!({ "plan": "pro" }))
        .await
        .json(200);
    retire(&stack, "gone", true)
        .await
        .problem(404, "not-found", None);
    for body in [json!({}), json!({ "retired": null })] {
        let response = stack.call("update-plan", |event| event.body(&body)).await;
        assert_eq!(response.status, 422, "{body}");
    }
}

#[tokio::test]
async fn a_pin_is_shown_and_replaces_later_ones_of_the_same_plan() {
    let stack = Stack::new();
    add_customer(&stack.at, "acme", "pro").await;
    add_version(&stack, "pro", version(1, "2027-01", false))
        .await
        .json(201);
    let pin =
        |version: Value, from: &str| json!({ "plan": "pro", "version": version, "from": from });
    for (version, from) in [
        (json!(1), "2027-01"),
        (json!(2), "2027-06"),
        (json!(null), "2027-03"),
    ] {
        let patch = json!({ "pin": pin(version, from) });
        stack.update("acme", patch).await.json(200);
    }
    let shown = stack.get("acme").await.json(200);
    let expected = json!([pin(json!(1), "2027-01"), pin(json!(null), "2027-03")]);
    assert_eq!(shown["pins"], expected);
}

#[tokio::test]
async fn an_invalid_pin_is_rejected() {
    let stack = Stack::new();
    add_customer(&stack.at, "acme", "pro").await;
    let before = stored(&stack.at);
    for (pin, field) in [
        (json!(null), "pin"),
        (
            json!({ "plan": "gone", "version": 1, "from": "2026-12" }),
            "pin.plan",
        ),
        (
            json!({ "plan": "pro", "version": 2, "from": "2026-12" }),
            "pin.version",
        ),
        (
            json!({ "plan": "pro", "version": 0, "from": "2026-12" }),
            "pin.version",
        ),
        (
            json!({ "plan": "pro", "version": 1, "from": "2026-11" }),
            "pin.from",
        ),
    ] {
        let response = stack.update("acme", json!({ "pin": pin })).await;
        response.problem(422, "unprocessable", Some(field));
    }
    let late = json!({ "plan": "pro", "version": 1, "from": "2029-01" });
    let late = stack.update("acme", json!({ "pin": late })).await;
    assert_eq!(late.body["latest"], "2028-12");
    late.problem(422, "unprocessable", Some("pin.from"));
    let absent = stack
        .update(
            "acme",
            json!({ "pin": { "plan": "pro", "from": "2026-12" } }),
        )
        .await;
    absent.problem(400, "bad-request", Some("pin"));
    let unknown = json!({ "pin": { "plan": "pro", "version": 1, "from": "2026-12" } });
    let unknown = stack.update("gone", unknown).await;
    unknown.problem(404, "not-found", None);
    assert_eq!(stored(&stack.at), before);
}

/// Another request has changed the pins after this one read them.
#[tokio::test]
async fn of_two_concurrent_pins_one_is_rejected() {
    let stack = Stack::new();
    add_customer(&stack.at, "acme", "pro").await;
    let pin = |plan: &str| json!({ "pin": { "plan": plan, "version": 1, "from": "2026-12" } });
    let (first, second) = tokio::join!(
        stack.update("acme", pin("pro")),
        stack.update("acme", pin("free"))
    );
    let mut statuses = [first.status, second.status];
    statuses.sort_unstable();
    assert_eq!(statuses, [200, 409]);
    let shown = stack.get("acme").await.json(200);
    assert_eq!(shown["pins"].as_array().unwrap().len(), 1);
}

#[tokio::test]
async fn there_are_at_most_fifty_plans_of_sixty_versions() {
    let stack = Stack::new();
    for n in 3..50 {
        let body = json!({ "id": format!("p{n}"), "definition": definition() });
        create(&stack, body).await.json(201);
    }
    let before = stored(&stack.at);
    let body = json!({ "id": "one-more", "definition": definition() });
    create(&stack, body).await.problem(409, "conflict", None);
    assert_eq!(stored(&stack.at), before);
    for n in 1..60 {
        add_version(&stack, "pro", version(n, "2027-01", false))
            .await
            .json(201);
    }
    let one_more = add_version(&stack, "pro", version(60, "2027-01", false)).await;
    one_more.problem(409, "conflict", None);
    assert_eq!(
        get(&stack, "pro").await.json(200)["versions"]
            .as_array()
            .unwrap()
            .len(),
        60
    );
}

#[tokio::test(start_paused = true)]
async fn while_the_store_fails_plans_are_unavailable() {
    let stack = Stack::new();
    stack.at.aws.inject(|_| Fault::Throttled);
    for response in [
        stack.call("list-plans", |event| event).await,
        create(&stack, json!({ "id": "team", "definition": definition() })).await,
        add_version(&stack, "pro", version(1, "2027-01", false)).await,
        retire(&stack, "pro", true).await,
    ] {
        response.problem(503, "temporarily-unavailable", None);
    }
}
