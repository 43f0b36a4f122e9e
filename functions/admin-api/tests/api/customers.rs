//! `/admin/customers`.

use serde_json::{Value, json};
use tollgate_domain::key::Owner;
use tollgate_store::KeyRef;
use tollgate_testing::customers::{add_customer, add_key};
use tollgate_testing::event::{Event, text};
use tollgate_testing::p;
use tollgate_testing::response::{ApiResponse, data};
use tollgate_testing::stored::stored;

use crate::stack::{NOW, Stack};

fn acme() -> Value {
    json!({ "id": "acme", "name": "Acme Ltd", "email": "bills@acme.example", "plan": "pro" })
}

#[tokio::test]
async fn a_new_customer_is_shown_and_stored() {
    let stack = Stack::new();
    let response = stack.create(acme()).await;
    assert_eq!(response.header("location"), Some("/admin/customers/acme"));
    let mut expected = acme();
    expected["pins"] = json!([]);
    expected["stripe"] = Value::Null;
    expected["unpaid"] = Value::Null;
    expected["created_at"] = NOW.into();
    expected["enabled"] = true.into();
    expected["suspended_at"] = Value::Null;
    expected["erased_at"] = Value::Null;
    assert_eq!(response.json(201), expected);
    assert_eq!(stack.get("acme").await.json(200), expected);
}

#[tokio::test]
async fn a_customer_without_an_id_is_given_one() {
    let stack = Stack::new();
    let first = stack.create(json!({ "plan": "free" })).await;
    let location = first.header("location").unwrap().to_owned();
    let first = first.json(201);
    let id = text(&first, "id");
    assert!(id.starts_with("cus_"));
    assert_eq!(location, format!("/admin/customers/{id}"));
    assert_eq!(first["name"], "");
    assert_eq!(first["email"], Value::Null);
    assert_eq!(stack.get(id).await.json(200), first);
    let second = stack.create(json!({ "plan": "free" })).await.json(201);
    assert_ne!(second["id"], first["id"]);
}

#[tokio::test]
async fn a_taken_id_is_a_conflict() {
    let stack = Stack::new();
    stack.create(acme()).await.json(201);
    let before = stored(&stack.at);
    // The second body is the same as that of the existing customer, sent at the same time.
    for rival in [json!({ "id": "acme", "plan": "free" }), acme()] {
        let response = stack.create(rival).await;
        response.problem(409, "conflict", Some("id"));
        assert_eq!(stored(&stack.at), before);
    }
}

#[tokio::test]
async fn an_invalid_customer_is_neither_created_nor_changed() {
    let stack = Stack::new();
    add_customer(&stack.at, "bolt", "free").await;
    let before = stored(&stack.at);
    let check = async |field: &str, value: Value| {
        let mut body = acme();
        body[field] = value.clone();
        let created = stack.create(body).await;
        created.unprocessable(Some(field));
        let updated = stack.update("bolt", json!({ field: value })).await;
        updated.unprocessable(Some(field));
        assert_eq!(stored(&stack.at), before, "{value}");
        created
    };
    for id in [".", ".."] {
        let created = stack.create(json!({ "id": id, "plan": "free" })).await;
        created.unprocessable(Some("id"));
        assert_eq!(stored(&stack.at), before, "{id}");
    }
    check("name", json!("é".repeat(101))).await;
    check("name", json!("two\nlines")).await;
    let long = format!("{}@acme.example", "x".repeat(242));
    for email in [
        "",
        "acme",
        "@acme.example",
        "bills@",
        "a b@acme.example",
        &long,
    ] {
        check("email", json!(email)).await;
    }
    let response = check("plan", json!("platinum")).await;
    let plans = json!(["enterprise", "free", "pro"]);
    assert_eq!(response.body["plans"], plans, "{}", response.text);
}

#[tokio::test]
async fn the_longest_valid_members_are_accepted() {
    let stack = Stack::new();
    let email = format!("{}@acme.example", "x".repeat(241));
    let body = json!({
        "id": "x".repeat(64), "name": "é".repeat(100), "email": email, "plan": "enterprise",
    });
    let created = stack.create(body.clone()).await.json(201);
    for member in ["id", "name", "email", "plan"] {
        assert_eq!(created[member], body[member]);
    }
    stack
        .create(json!({ "id": "...", "plan": "free" }))
        .await
        .json(201);
}

async fn create_once(stack: &Stack, once: &str, body: &Value) -> ApiResponse {
    let change = |event: Event| event.body(body).header("Idempotency-Key", once);
    stack.call("create-customer", change).await
}

#[tokio::test]
async fn a_repeated_request_creates_no_second_customer() {
    for body in [acme(), json!({ "name": "Unnamed", "plan": "free" })] {
        let stack = Stack::new();
        let first = create_once(&stack, "once", &body).await;
        let location = first.headers["location"].clone();
        let first = first.json(201);
        let before = stored(&stack.at);
        let again = create_once(&stack, "once", &body).await;
        assert_eq!(again.headers["location"], location);
        assert_eq!(again.json(200), first);
        assert_eq!(stored(&stack.at), before);
    }
}

#[tokio::test]
async fn a_request_can_be_repeated_after_its_plan_was_retired() {
    let stack = Stack::new();
    let first = create_once(&stack, "once", &acme()).await.json(201);
    let retired = stack.at.store.retire_plan(&p("pro"), Some(p(NOW))).await;
    assert!(retired.unwrap());
    let before = stored(&stack.at);
    let again = create_once(&stack, "once", &acme()).await;
    assert_eq!(again.json(200), first);
    let other = create_once(&stack, "twice", &acme()).await;
    other.unprocessable(Some("plan"));
    let mut renamed = acme();
    renamed["name"] = json!("Acme Corp");
    let reused = create_once(&stack, "once", &renamed).await;
    reused.unprocessable(None);
    assert_eq!(stored(&stack.at), before);
}

#[tokio::test]
async fn an_idempotency_key_lasts_a_day() {
    let stack = Stack::new();
    let unnamed = json!({ "plan": "free" });
    let first = create_once(&stack, "once", &unnamed).await.json(201);
    let after = async |instant: &str| {
        stack.at.time.set(instant.parse().unwrap());
        create_once(&stack, "once", &unnamed).await
    };
    let repeated = after("2026-11-23T09:59:59Z").await.json(200);
    assert_eq!(repeated, first);
    let second = after("2026-11-23T10:00:00Z").await.json(201);
    assert_ne!(second["id"], first["id"]);
}

#[tokio::test]
async fn an_idempotency_key_is_for_one_request_of_one_caller() {
    let stack = Stack::new();
    create_once(&stack, "once", &acme()).await.json(201);
    let before = stored(&stack.at);
    let other = json!({ "id": "bolt", "plan": "free" });
    let response = create_once(&stack, "once", &other).await;
    let detail = response.unprocessable(None);
    assert!(detail.contains("Idempotency-Key"), "{detail}");
    create_once(&stack, "a b", &other).await.bad_request(None);
    let twice = |event: Event| {
        let event = event.body(&other);
        event.repeated_header("Idempotency-Key", &["new", "newer"])
    };
    let response = stack.call("create-customer", twice).await;
    response.bad_request(None);
    assert_eq!(stored(&stack.at), before);

    let change = |event: Event| event.body(&other).header("Idempotency-Key", "once");
    let another = stack.call("create-customer", |event| change(event).admin("key_2"));
    another.await.json(201);
}

#[tokio::test]
async fn an_unknown_customer_is_not_found() {
    let stack = Stack::new();
    let before = stored(&stack.at);
    for name in ["nobody", "a b", "ü", "%", &"x".repeat(65)] {
        stack.get(name).await.not_found();
        stack
            .update(name, json!({ "plan": "pro" }))
            .await
            .not_found();
    }
    assert_eq!(stored(&stack.at), before);
}

#[tokio::test]
async fn a_patch_changes_only_its_members() {
    let check = async |patch: Value, changed: Value| {
        let stack = Stack::new();
        let mut expected = stack.create(acme()).await.json(201);
        let changed = changed.as_object().unwrap().clone();
        expected.as_object_mut().unwrap().extend(changed);
        let updated = stack.update("acme", patch.clone()).await.json(200);
        assert_eq!(updated, expected, "{patch}");
        assert_eq!(stack.get("acme").await.json(200), expected, "{patch}");
    };
    for patch in [
        json!({ "name": "Acme Corp" }),
        json!({ "name": "" }),
        json!({ "email": "other@acme.example" }),
        json!({ "email": null }),
        json!({ "plan": "enterprise" }),
        json!({ "name": "Acme Corp", "email": null, "plan": "free" }),
    ] {
        check(patch.clone(), patch).await;
    }
    check(json!({ "name": null }), json!({ "name": "" })).await;
}

#[tokio::test]
async fn a_patch_that_changes_nothing_or_removes_the_plan_is_rejected() {
    let stack = Stack::new();
    stack.create(acme()).await.json(201);
    let before = stored(&stack.at);
    stack.update("acme", json!({})).await.unprocessable(None);
    let no_plan = json!({ "name": "Acme Corp", "plan": null });
    let no_plan = stack.update("acme", no_plan).await;
    no_plan.unprocessable(Some("plan"));
    let neither = json!({ "name": "Acme Corp", "enabled": null });
    let neither = stack.update("acme", neither).await;
    neither.unprocessable(Some("enabled"));
    assert_eq!(stored(&stack.at), before);
}

#[tokio::test]
async fn pages_of_any_size_add_up_to_the_whole_list() {
    let stack = Stack::new();
    for id in ["bolt", "acme", "crow", "Dune", "acme.eu"] {
        stack
            .create(json!({ "id": id, "plan": "free" }))
            .await
            .json(201);
    }
    let whole = stack.list(&[]).await.json(200);
    let ids: Vec<&str> = data(&whole).iter().map(|one| text(one, "id")).collect();
    assert_eq!(ids, ["Dune", "acme", "acme.eu", "bolt", "crow"]);
    assert_eq!(whole["next_cursor"], Value::Null);
    assert_eq!(whole["data"][1], stack.get("acme").await.json(200));

    for limit in 1..=6 {
        let size = limit.to_string();
        let mut walked = Vec::new();
        let mut cursor: Option<String> = None;
        loop {
            let mut query = vec![("limit", size.as_str())];
            query.extend(cursor.as_deref().map(|cursor| ("cursor", cursor)));
            let page = stack.list(&query).await.json(200);
            assert!(data(&page).len() <= limit);
            walked.extend(data(&page).clone());
            match &page["next_cursor"] {
                Value::Null => break,
                next => cursor = next.as_str().map(str::to_owned),
            }
            assert!(walked.len() <= 5, "the walk does not end");
        }
        assert_eq!(Value::from(walked), whole["data"], "by {limit}");
    }
}

#[tokio::test]
async fn an_invalid_query_is_rejected() {
    let stack = Stack::new();
    let check = async |name: &str, value: &str| {
        let response = stack.list(&[(name, value)]).await;
        let detail = response.bad_request(Some(name));
        assert!(detail.starts_with("In the query: "), "{detail}");
        assert!(detail.contains(name), "{detail}");
    };
    for limit in ["0", "101", "-1", "ten"] {
        check("limit", limit).await;
    }
    check("cursor", "MTIzNDU2Nzg5").await;
    check("plan", "pro").await;
}

#[tokio::test]
async fn a_suspension_keeps_its_first_time_and_can_be_undone() {
    let stack = Stack::new();
    let before = stack.create(acme()).await.json(201);
    let mut expected = before.clone();
    expected["enabled"] = false.into();
    expected["suspended_at"] = NOW.into();
    for _ in 0..2 {
        let updated = stack.update("acme", json!({ "enabled": false })).await;
        assert_eq!(updated.json(200), expected);
        assert_eq!(stack.get("acme").await.json(200), expected);
        stack.at.time.advance(jiff::SignedDuration::from_secs(60));
    }
    let updated = stack.update("acme", json!({ "enabled": true })).await;
    assert_eq!(updated.json(200), before);
}

#[tokio::test]
async fn a_link_to_a_stripe_customer_can_be_set_changed_and_removed() {
    let stack = Stack::new();
    let created = stack.create(acme()).await.json(201);
    let link = |customer: &str, subscription: Value| json!({ "customer": customer, "subscription": subscription });
    let links = [
        link("cus_1", Value::Null),
        link("cus_1", json!("sub_1")),
        link("cus_1", json!("sub_1")),
        link("cus_2", Value::Null),
        Value::Null,
        Value::Null,
        link("cus_1", json!("sub_1")),
    ];
    for link in links {
        let mut expected = created.clone();
        expected["stripe"] = link.clone();
        let updated = stack.update("acme", json!({ "stripe": link })).await;
        assert_eq!(updated.json(200), expected);
        assert_eq!(stack.get("acme").await.json(200), expected);
    }
    // With other members, in one patch.
    let patch = json!({ "name": "Acme Corp", "stripe": link("cus_3", Value::Null) });
    let updated = stack.update("acme", patch).await.json(200);
    assert_eq!(updated["name"], "Acme Corp");
    assert_eq!(updated["stripe"]["customer"], "cus_3");
}

#[tokio::test]
async fn a_stripe_customer_of_another_customer_is_a_conflict() {
    let stack = Stack::new();
    stack.create(acme()).await.json(201);
    add_customer(&stack.at, "bolt", "pro").await;
    let patch = json!({ "stripe": { "customer": "cus_1", "subscription": null } });
    stack.update("acme", patch.clone()).await.json(200);
    let before = stored(&stack.at);
    let rival = stack.update("bolt", patch.clone()).await;
    rival.problem(409, "conflict", Some("stripe.customer"));
    assert_eq!(stored(&stack.at), before);
    stack
        .update("acme", json!({ "stripe": null }))
        .await
        .json(200);
    stack.update("bolt", patch).await.json(200);
}

#[tokio::test]
async fn a_link_that_cannot_be_one_is_rejected() {
    let stack = Stack::new();
    stack.create(acme()).await.json(201);
    let before = stored(&stack.at);
    let check = async |link: Value, status: u16, field: &str| {
        let slug = match status {
            400 => "bad-request",
            _ => "unprocessable",
        };
        let updated = stack
            .update("acme", json!({ "stripe": link.clone() }))
            .await;
        updated.problem(status, slug, Some(field));
        assert_eq!(stored(&stack.at), before, "{link}");
    };
    let with = |customer: &str, subscription: &str| json!({ "customer": customer, "subscription": subscription });
    for customer in [
        "",
        "cus_",
        "sub_1",
        "cus_a b",
        &format!("cus_{}", "x".repeat(252)),
    ] {
        check(with(customer, "sub_1"), 422, "stripe.customer").await;
    }
    for subscription in ["", "sub_", "cus_1", "sub_é"] {
        check(with("cus_1", subscription), 422, "stripe.subscription").await;
    }
    check(json!({ "customer": "cus_1" }), 400, "stripe").await;
    check(json!({ "subscription": null }), 400, "stripe").await;
    check(json!("cus_1"), 400, "stripe").await;
    let nobody = json!({ "stripe": with("cus_1", "sub_1") });
    stack.update("nobody", nobody).await.not_found();
}

async fn erase(stack: &Stack, customer: &str, query: &[(&str, &str)]) -> ApiResponse {
    let change = |event: Event| event.param("customer", customer).query(query);
    stack.call("erase-customer", change).await
}

#[tokio::test]
async fn an_erasure_has_a_dry_run_that_reports_its_effects() {
    let stack = Stack::new();
    stack.create(acme()).await.json(201);
    for key in ["key_1", "key_2", "key_3"] {
        add_key(&stack.at, Owner::Customer(p("acme")), key).await;
    }
    let third = KeyRef::Id(p("key_3"));
    let revoked = stack.at.store.revoke_key(&third, p(NOW)).await;
    assert!(revoked.unwrap());
    let untouched = stored(&stack.at);

    let missing = erase(&stack, "acme", &[]).await;
    missing.unprocessable(Some("dry_run"));
    let dry = erase(&stack, "acme", &[("dry_run", "true")]).await;
    let mut report = dry.json(200);
    let expected = json!({
        "customer": stack.get("acme").await.json(200),
        "dry_run": true,
        "keys_revoked": 2,
        "keys": 3,
        "erases": ["customer.name", "customer.email", "key.name"],
        "expires": ["repeatable request.request"],
        "keeps": ["counters", "usage", "usage-log", "quarantine", "billing", "events"],
    });
    assert_eq!(report, expected);
    assert_eq!(stored(&stack.at), untouched);

    let done = erase(&stack, "acme", &[("dry_run", "false")]).await;
    let customer = &mut report["customer"];
    customer["name"] = "".into();
    customer["email"] = Value::Null;
    customer["erased_at"] = NOW.into();
    report["dry_run"] = false.into();
    assert_eq!(done.json(200), report);
    assert_eq!(stack.get("acme").await.json(200), report["customer"]);
    let keys = stack.at.store.list_keys(None, None, 10).await.unwrap();
    assert_eq!(keys.items.len(), 3);
    for (_, key) in keys.items {
        assert_eq!((key.name.as_str(), key.revoked_at), ("", Some(p(NOW))));
    }

    // A second erasure does nothing, the customer cannot be changed, and the id stays taken.
    let erased = stored(&stack.at);
    stack.at.time.advance(jiff::SignedDuration::from_secs(60));
    let again = erase(&stack, "acme", &[("dry_run", "false")]).await;
    assert_eq!(again.json(200)["keys_revoked"], 0);
    stack
        .update("acme", json!({ "name": "Acme Ltd" }))
        .await
        .conflict();
    let response = stack.create(acme()).await;
    response.problem(409, "conflict", Some("id"));
    assert_eq!(stored(&stack.at), erased);
}

/// Its Stripe customer may be deleted, or be needed for another customer.
#[tokio::test]
async fn an_erased_customer_can_be_unlinked_from_its_stripe_customer() {
    let stack = Stack::new();
    stack.create(acme()).await.json(201);
    let link = json!({ "stripe": { "customer": "cus_1", "subscription": null } });
    stack.update("acme", link.clone()).await.json(200);
    erase(&stack, "acme", &[("dry_run", "false")])
        .await
        .json(200);
    let mut expected = stack.get("acme").await.json(200);
    stack.update("acme", link).await.conflict();
    let unlink = json!({ "stripe": null, "name": "Acme" });
    stack.update("acme", unlink).await.conflict();
    let shown = stack
        .update("acme", json!({ "stripe": null }))
        .await
        .json(200);
    expected["stripe"] = Value::Null;
    assert_eq!(shown, expected);
}

#[tokio::test]
async fn an_unknown_customer_is_not_erased() {
    let stack = Stack::new();
    let before = stored(&stack.at);
    for dry_run in ["true", "false"] {
        let response = erase(&stack, "nobody", &[("dry_run", dry_run)]).await;
        response.not_found();
    }
    assert_eq!(stored(&stack.at), before);
}
