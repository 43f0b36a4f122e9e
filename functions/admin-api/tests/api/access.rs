//! Who may call, what there is to call, and what callers see while the store fails.

use std::collections::BTreeSet;

use tollgate_local_aws::Fault;

use crate::answer::{call, has_no_other_routes, ignores_the_stage, needs_an_admin};
use crate::event::{Event, deployed_routes};
use crate::stack::Stack;
use crate::stored::stored;

fn events() -> Vec<Event> {
    let names = Event::names("admin-api").into_iter();
    let load = |name: String| Event::load(&format!("admin-api/{name}"));
    names.map(load).collect()
}

#[tokio::test]
async fn every_operation_is_for_admins_alone() {
    let walked: BTreeSet<_> = events().iter().map(Event::route).collect();
    let mut deployed = deployed_routes();
    deployed
        .retain(|(_, path)| path.starts_with("/admin/") && !path.starts_with("/admin/api-keys"));
    assert_eq!(walked, deployed);
    for event in events() {
        needs_an_admin(&Stack::new().function, &event).await;
    }
}

#[tokio::test]
async fn a_refused_caller_changes_nothing() {
    let stack = Stack::new();
    let before = stored(&stack.at);
    for event in events() {
        let event = event.customer("acme", "pro");
        call(&stack.function, &event).await.forbidden();
    }
    assert_eq!(stored(&stack.at), before);
}

#[tokio::test]
async fn the_function_has_these_routes_alone_in_any_stage() {
    let stack = Stack::new();
    for event in events() {
        has_no_other_routes(&stack.function, &event).await;
        ignores_the_stage(&stack.function, &event).await;
    }
}

#[tokio::test(start_paused = true)]
async fn while_the_store_is_down_every_operation_says_to_try_again() {
    let stack = Stack::new();
    for fault in [Fault::Throttled, Fault::RequestLost] {
        stack.at.aws.inject(move |_| fault);
        for event in events() {
            let answer = call(&stack.function, &event).await;
            answer.problem(503, "temporarily-unavailable", None);
            assert_eq!(answer.header("retry-after"), Some("1"));
        }
    }
}
