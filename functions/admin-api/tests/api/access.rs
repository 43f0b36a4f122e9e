//! Who may call, what there is to call, and what callers see while the store fails.

use std::collections::BTreeSet;

use serde_json::json;
use tollgate_local_aws::Fault;

use crate::answer::{call, has_no_other_routes, ignores_the_stage, needs_an_admin};
use crate::event::{Event, deployed_routes, text};
use crate::quarantine::{message, one_waiting};
use crate::stack::Stack;
use crate::stored::{add_customer, add_usage, calls, stored};
use crate::usage::{entry, record};

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

/// Each event is about something that is there, so that an admin's call changes it.
#[tokio::test]
async fn a_refused_caller_changes_nothing() {
    let changing = [
        "count-usage",
        "create-customer",
        "dismiss-quarantined",
        "erase-customer",
        "replay-quarantined",
        "run-billing",
        "update-customer",
    ];
    for name in Event::names("admin-api") {
        let stack = Stack::new();
        add_usage(&stack.at, "acme", "2026-11-20", calls("pro", 100_234)).await;
        if name != "create-customer" {
            add_customer(&stack.at, "acme", "pro").await;
        }
        let mut bad = record();
        bad["plan"] = "platinum".into();
        let item = one_waiting(&stack, message(&entry("e-1", &[bad]))).await;
        let mut event = Event::load(&format!("admin-api/{name}"));
        for (parameter, value) in [("customer", "acme"), ("item", text(&item, "id"))] {
            if event.0["pathParameters"][parameter].is_string() {
                event = event.param(parameter, value);
            }
        }
        event = match name.as_str() {
            "replay-quarantined" => event.body(&json!({ "event": entry("e-1", &[record()]) })),
            "run-billing" => event.body(&json!({ "dry_run": false })),
            _ => event,
        };
        let before = stored(&stack.at);
        let refused = event.clone().customer("acme", "pro");
        call(&stack.function, &refused).await.forbidden();
        assert_eq!(stored(&stack.at), before, "{name}");
        call(&stack.function, &event).await;
        let changes = stored(&stack.at) != before;
        assert_eq!(changes, changing.contains(&name.as_str()), "{name}");
    }
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
