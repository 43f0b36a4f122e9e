//! `/admin/events`.

#![allow(clippy::unwrap_used, reason = "a test that cannot begin has failed")]

use serde_json::{Value, json};
use tollgate_domain::event::{Event, EventKind};
use tollgate_testing::p;
use tollgate_testing::response::data;

use crate::stack::{NOW, Stack};

/// Returns a stack with this number of numbered events.
async fn with_events(count: usize) -> Stack {
    let stack = Stack::new();
    for n in 0..count {
        let customer = (n % 2 == 0).then(|| p("acme"));
        let event = Event::new(
            EventKind::ChargeFailed,
            &n.to_string(),
            customer,
            p(NOW),
            json!({ "n": n }),
        );
        stack.at.store.record_event(&event).await.unwrap();
        assert_eq!(stack.at.store.number_events().await.unwrap().len(), 1);
    }
    stack
}

async fn list(stack: &Stack, query: &[(&str, &str)]) -> Value {
    let response = stack.call("list-events", |event| event.query(query)).await;
    response.json(200)
}

#[tokio::test]
async fn events_are_listed_after_a_number() {
    let stack = with_events(3).await;
    let all = list(&stack, &[]).await;
    assert_eq!(all["next_after"], 3);
    let first = Event::new(EventKind::ChargeFailed, "0", None, p(NOW), json!({}));
    let expected = json!({
        "id": first.id.as_str(), "type": "charge.failed", "number": 1, "timestamp": NOW,
        "customer_id": "acme", "data": { "n": 0 },
    });
    assert_eq!(data(&all)[0], expected);
    assert_eq!(data(&all)[1]["customer_id"], Value::Null);
    let numbers = |page: &Value| {
        let numbers = data(page).iter().map(|it| it["number"].as_u64().unwrap());
        numbers.collect::<Vec<_>>()
    };
    assert_eq!(numbers(&all), [1, 2, 3]);
    let page = list(&stack, &[("after", "1"), ("limit", "1")]).await;
    assert_eq!((numbers(&page), &page["next_after"]), (vec![2], &json!(2)));
    for after in [3, 4, u64::MAX / 2] {
        let end = list(&stack, &[("after", &after.to_string())]).await;
        assert_eq!(end, json!({ "data": [], "next_after": after }));
    }
}

#[tokio::test]
async fn an_event_without_a_number_is_not_listed() {
    let stack = Stack::new();
    let event = Event::new(EventKind::ChargeFailed, "0", None, p(NOW), json!({}));
    stack.at.store.record_event(&event).await.unwrap();
    let page = list(&stack, &[]).await;
    assert_eq!(page, json!({ "data": [], "next_after": 0 }));
}

#[tokio::test]
async fn a_query_that_is_no_number_is_rejected() {
    let stack = Stack::new();
    for (name, value) in [
        ("after", "-1"),
        ("after", "9223372036854775808"),
        ("after", "x"),
        ("after", "18446744073709551616"),
        ("limit", "0"),
        ("limit", "101"),
        ("cursor", "a"),
    ] {
        let response = stack
            .call("list-events", |event| event.query(&[(name, value)]))
            .await;
        assert_eq!(response.status, 400, "{name}={value}");
    }
}
