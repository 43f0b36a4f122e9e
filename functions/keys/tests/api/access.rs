//! Permissions and routes.

use std::collections::BTreeSet;

use tollgate_testing::event::{Event, declared_routes};
use tollgate_testing::response::{has_no_other_routes, ignores_the_stage, needs_an_admin};
use tollgate_testing::stored::stored;

use crate::stack::Stack;

#[tokio::test]
async fn every_operation_is_for_admins_only() {
    let walked: BTreeSet<_> = Event::all("keys")
        .iter()
        .map(|(_, event)| event.route())
        .collect();
    let mut deployed = declared_routes();
    deployed.retain(|(_, path)| path.starts_with("/admin/api-keys"));
    assert_eq!(walked, deployed);
    for (operation, event) in Event::all("keys") {
        let stack = Stack::new().await;
        needs_an_admin(&stack.function(&operation), &event).await;
    }
}

#[tokio::test]
async fn a_forbidden_request_changes_nothing() {
    let stack = Stack::new().await;
    let key = stack.key("acme", "Production").await;
    let id = key["id"].as_str().unwrap();
    let before = stored(&stack.at);
    for (operation, mut event) in Event::all("keys") {
        if !event.0["pathParameters"].is_null() {
            event = event.param("key", id);
        }
        for event in [
            event.clone().customer("acme", "pro"),
            event.manager("acme", "pro"),
        ] {
            let response = stack.call(&operation, |_| event);
            response.await.forbidden();
        }
    }
    assert_eq!(stored(&stack.at), before);
}

#[tokio::test]
async fn a_function_has_only_its_route_in_any_stage() {
    let stack = Stack::new().await;
    for (operation, event) in Event::all("keys") {
        let function = stack.function(&operation);
        has_no_other_routes(&function, &event).await;
        ignores_the_stage(&function, &event).await;
    }
}
