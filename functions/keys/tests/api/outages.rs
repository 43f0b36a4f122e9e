//! Responses while the store fails.

use serde_json::{Value, json};
use tollgate_local_aws::Fault;

use crate::event::{Event, text};
use crate::response::call;
use crate::stack::Stack;
use crate::stored::stored;

#[tokio::test(start_paused = true)]
async fn while_the_store_is_down_every_operation_returns_503_with_retry_after() {
    let stack = Stack::new().await;
    for fault in [Fault::Throttled, Fault::RequestLost] {
        stack.at.aws.inject(move |_| fault);
        for operation in Event::names("keys") {
            let response = stack.call(&operation, |event| event).await;
            response.problem(503, "temporarily-unavailable", None);
            assert_eq!(response.header("retry-after"), Some("1"));
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_request_repeated_after_an_outage_creates_no_second_key() {
    let stack = Stack::new().await;
    let event = Event::load("keys/create").header("Idempotency-Key", "once");
    stack.at.aws.inject(|call| match call.operation() {
        "TransactWriteItems" => Fault::ResponseLost,
        _ => Fault::None,
    });
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
    let mut items = stored(&stack.at)["registry"].take();
    let items = items.as_array_mut().unwrap().iter_mut();
    let mut found = items.filter(|item| item["name"]["S"] == "Production");
    let item = found.next().unwrap();
    item["created_at"]["S"] = "long ago".into();
    let put = json!({ "TableName": "test-registry", "Item": item });
    let put = stack
        .at
        .aws
        .call("DynamoDB_20120810.PutItem", &put.to_string());
    assert_eq!(put.0, 200, "{}", put.1);

    let response = stack.call("get", |event| event.param("key", text(&key, "id")));
    let response = response.await;
    response.problem(500, "internal", None);
    assert!(!response.text.contains("created_at"), "{}", response.text);
}
