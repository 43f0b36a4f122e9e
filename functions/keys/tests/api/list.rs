//! `GET /admin/api-keys`.

use serde_json::{Value, json};
use tollgate_domain::key::ApiKey;
use tollgate_store::CustomerChange;
use tollgate_testing::event::text;
use tollgate_testing::p;
use tollgate_testing::response::data;

use crate::stack::{Stack, view};

/// Creates keys of both customers and of an admin, in several states, each a minute after the one before. They
/// are named by their order in the list: by customer, admins first, then by age.
async fn with_keys() -> (Stack, Vec<Value>) {
    let stack = Stack::new().await;
    let mut made = Vec::new();
    let bodies = [
        json!({ "customer_id": "bolt", "name": "5 expired", "expires_at": "2026-11-22T10:00:30Z" }),
        json!({ "customer_id": "acme", "name": "2" }),
        json!({ "customer_id": "acme", "name": "3 revoked" }),
        json!({ "name": "1" }),
        json!({ "customer_id": "bolt", "name": "6" }),
        json!({ "customer_id": "acme", "name": "4" }),
    ];
    for body in bodies {
        made.push(match body.get("customer_id") {
            Some(_) => stack.create(body).await.json(201),
            None => stack.admin_key(text(&body, "name")).await,
        });
        stack.advance_s(60);
    }
    made.sort_by_key(|key| text(key, "name").to_owned());
    stack.revoke(text(&made[2], "id")).await;
    (stack, made)
}

fn names(page: &Value) -> Vec<&str> {
    data(page).iter().map(|key| text(key, "name")).collect()
}

#[tokio::test]
async fn all_keys_are_listed_by_customer_and_age() {
    let (stack, made) = with_keys().await;
    let response = stack.list(&[]).await;
    for key in &made {
        let secret = text(key, "key");
        let digest = ApiKey::parse(secret).unwrap().digest().expose_hex();
        assert!(!response.text.contains(&secret[17..]));
        assert!(!response.text.contains(&digest));
    }
    let page = response.json(200);
    let expected = ["1", "2", "3 revoked", "4", "5 expired", "6"];
    assert_eq!(names(&page), expected);
    assert_eq!(page["next_cursor"], Value::Null);

    let mut second = view(&made[1]);
    second["plan"] = "pro".into();
    assert_eq!(page["data"][1], second);
    assert_eq!(page["data"][0]["plan"], Value::Null);
}

#[tokio::test]
async fn only_keys_that_match_all_filters_are_listed() {
    let (stack, _) = with_keys().await;
    let check = async |query: &[(&str, &str)], expected: &[&str]| {
        let page = stack.list(query).await.json(200);
        assert_eq!(names(&page), expected, "{query:?}");
        assert_eq!(page["next_cursor"], Value::Null);
    };
    check(&[("customer_id", "acme")], &["2", "3 revoked", "4"]).await;
    check(&[("customer_id", "bolt")], &["5 expired", "6"]).await;
    check(&[("customer_id", "acm")], &[]).await;
    check(&[("customer_id", "nobody")], &[]).await;
    check(&[("plan", "free")], &["5 expired", "6"]).await;
    check(&[("plan", "pro")], &["2", "3 revoked", "4"]).await;
    check(&[("plan", "enterprise")], &[]).await;
    check(&[("status", "active")], &["1", "2", "4", "6"]).await;
    check(&[("status", "revoked")], &["3 revoked"]).await;
    check(&[("status", "expired")], &["5 expired"]).await;
    check(&[("status", "suspended")], &[]).await;
    let active_on_free = [("status", "active"), ("plan", "free")];
    check(&active_on_free, &["6"]).await;
    let revoked_of_bolt = [("status", "revoked"), ("customer_id", "bolt")];
    check(&revoked_of_bolt, &[]).await;
}

#[tokio::test]
async fn the_plan_is_the_current_plan_of_the_customer() {
    let (stack, _) = with_keys().await;
    let change = CustomerChange {
        plan: Some(p("enterprise")),
        ..CustomerChange::default()
    };
    let bolt = p("bolt");
    stack
        .at
        .store
        .update_customer(&bolt, &change)
        .await
        .unwrap();
    let page = stack.list(&[("plan", "enterprise")]).await.json(200);
    assert_eq!(names(&page), ["5 expired", "6"]);
    assert_eq!(page["data"][0]["plan"], "enterprise");
}

#[tokio::test]
async fn pages_of_any_size_add_up_to_the_whole_list() {
    let (stack, _) = with_keys().await;
    let filters: [&[(&str, &str)]; 4] = [
        &[],
        &[("customer_id", "acme")],
        &[("status", "active")],
        &[("plan", "free"), ("status", "expired")],
    ];
    for filter in filters {
        let whole = stack.list(filter).await.json(200);
        for limit in 1..=7 {
            let size = limit.to_string();
            let mut walked = Vec::new();
            let mut cursor: Option<String> = None;
            loop {
                let mut query = filter.to_vec();
                query.push(("limit", &size));
                query.extend(cursor.as_deref().map(|cursor| ("cursor", cursor)));
                let page = stack.list(&query).await.json(200);
                let keys = data(&page);
                assert!(keys.len() <= limit, "{} on a page of {limit}", keys.len());
                walked.extend(keys.clone());
                match &page["next_cursor"] {
                    Value::Null => break,
                    next => cursor = Some(next.as_str().unwrap().to_owned()),
                }
                assert!(walked.len() <= 6, "the walk does not end");
            }
            assert_eq!(Value::from(walked), whole["data"], "{filter:?} by {limit}");
        }
    }
}

#[tokio::test]
async fn a_full_last_page_ends_the_list() {
    let (stack, _) = with_keys().await;
    let page = stack.list(&[("limit", "6")]).await.json(200);
    assert_eq!(names(&page).len(), 6);
    assert_eq!(page["next_cursor"], Value::Null);
}

#[tokio::test]
async fn an_invalid_query_is_rejected() {
    let (stack, _) = with_keys().await;
    let page = stack.list(&[("limit", "1")]).await.json(200);
    let cursor = text(&page, "next_cursor");
    let check = async |query: &[(&str, &str)], reason: &str| {
        let response = stack.list(query).await;
        let detail = response.bad_request(Some(query[0].0));
        assert!(detail.starts_with("In the query: "), "{query:?}: {detail}");
        assert!(detail.contains(reason), "{query:?}: {detail}");
    };
    check(&[("limit", "0")], "limit must be 1 to 100").await;
    check(&[("limit", "101")], "limit must be 1 to 100").await;
    check(&[("limit", "-1")], "limit").await;
    check(&[("limit", "ten")], "limit").await;
    check(&[("limit", "")], "limit").await;
    check(&[("limit", "1"), ("limit", "2")], "duplicate field").await;
    check(&[("cursor", "")], "cursor").await;
    check(&[("cursor", "MTIzNDU2Nzg5")], "cursor").await;
    check(&[("cursor", &cursor[1..])], "cursor").await;
    check(&[("cursor", &format!("{cursor}AA"))], "cursor").await;
    check(&[("customer_id", "a b")], "customer id").await;
    check(&[("plan", "Pro")], "plan id").await;
    check(&[("status", "gone")], "unknown variant `gone`").await;
    check(&[("customer", "acme")], "unknown field `customer`").await;
    let largest = stack.list(&[("limit", "100")]).await.json(200);
    assert_eq!(names(&largest).len(), 6);
}

#[tokio::test]
async fn a_filter_with_few_matches_returns_short_pages_with_a_cursor() {
    let stack = Stack::new().await;
    for _ in 0..1_000 {
        stack.key("acme", "").await;
    }
    let last = stack.key("bolt", "last").await;
    let filter = ("plan", "free");
    let page = stack.list(&[filter]).await.json(200);
    assert_eq!(names(&page), [""; 0]);
    let cursor = ("cursor", text(&page, "next_cursor"));
    let page = stack.list(&[filter, cursor]).await.json(200);
    assert_eq!(names(&page), ["last"]);
    assert_eq!(page["next_cursor"], Value::Null);

    stack.revoke(text(&last, "id")).await;
    let stats = stack.call("stats", |event| event).await.json(200);
    let counts = |total, active, revoked| {
        json!({
            "total": total, "active": active, "suspended": 0, "expired": 0, "revoked": revoked,
        })
    };
    assert_eq!(stats["by_plan"]["pro"], counts(1_000, 1_000, 0));
    assert_eq!(stats["by_plan"]["free"], counts(1, 0, 1));
    assert_eq!(stats["total"], 1_001);
}
