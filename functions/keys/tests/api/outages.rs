//! Responses while the store fails.

use serde_json::{Value, json};
use tollgate_local_aws::Fault;
use tollgate_store::schema::REGISTRY;
use tollgate_testing::event::{Event, text};
use tollgate_testing::faults::fail_operation;
use tollgate_testing::response::call;
use tollgate_testing::stored::{items, raw, stored};

use crate::stack::Stack;

#[tokio::test(start_paused = true)]
async fn while_the_store_is_down_every_operation_returns_503_with_retry_after() {
    let stack = Stack::new().await;
    for fault in [Fault::Throttled, Fault::RequestLost] {
        stack.at.aws.inject(move |_| fault);
        for (operation, event) in Event::all("keys") {
            let response = call(&stack.function(&operation), &event).await;
            response.problem(503, "temporarily-unavailable", None);
            assert_eq!(response.header("retry-after"), Some("1"));
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_request_repeated_after_an_outage_creates_no_second_key() {
    let stack = Stack::new().await;
    let event = Event::load("keys/create").header("Idempotency-Key", "once");
    fail_operation(&stack.at.aws, "TransactWriteItems", Fault::ResponseLost);
    let lost = call(&stack.function("create"), &event).await;
    lost.problem(503, "temporarily-unavailable", None);
    stack.at.aws.heal();

    let before = stored(&stack.at);
    let body = call(&stack.function("create"), &event).await.json(200);
    assert_eq!(body["key"], Value::Null);
    assert_eq!(stored(&stack.at), before);
    stack.rotate(text(&body, "id"), 0).await.json(201);
}

#[tokio::test]
async fn a_corrupt_item_is_a_500_without_its_content() {
    let stack = Stack::new().await;
    let key = stack.key("acme", "Production").await;
    let mut items = items(&stack.at, REGISTRY).into_iter();
    let mut item = items
        .find(|item| item["name"]["S"] == "Production")
        .unwrap();
    item["created_at"]["S"] = "long ago".into();
    raw(&stack.at, "PutItem", REGISTRY, json!({ "Item": item }));

    let response = stack.call("get", |event| event.param("key", text(&key, "id")));
    let response = response.await;
    response.problem(500, "internal", None);
    assert!(!response.text.contains("created_at"), "{}", response.text);
}
