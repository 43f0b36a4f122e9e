//! Permissions, routes, and responses while the store fails.

use std::collections::BTreeSet;

use serde_json::json;
use tollgate_domain::webhook::{TargetUrl, Webhook, WebhookSecret};
use tollgate_local_aws::Fault;
use tollgate_store::CreateWebhookOutcome;
use tollgate_testing::customers::add_customer;
use tollgate_testing::event::{Event, declared_routes, text};
use tollgate_testing::p;
use tollgate_testing::response::{call, has_no_other_routes, ignores_the_stage, needs_an_admin};
use tollgate_testing::stored::stored;
use tollgate_testing::usage::{add_usage, calls};

use crate::quarantine::{message, quarantine_one};
use crate::stack::{NOW, Stack};
use crate::usage::{record, usage_event};

fn events() -> Vec<Event> {
    let all = Event::all("admin-api").into_iter();
    all.map(|(_, event)| event).collect()
}

#[tokio::test]
async fn every_operation_is_for_admins_only() {
    let walked: BTreeSet<_> = events().iter().map(Event::route).collect();
    let mut deployed = declared_routes();
    // Those of functions/keys and functions/billing-api are tested there.
    let of_billing_api = ["subscription", "checkout", "portal", "invoices"];
    deployed.retain(|(_, path)| {
        let (parent, name) = path.rsplit_once('/').unwrap();
        path.starts_with("/admin/")
            && !path.starts_with("/admin/api-keys")
            && !(parent == "/admin/customers/{customer}" && of_billing_api.contains(&name))
    });
    assert_eq!(walked, deployed);
    for event in events() {
        needs_an_admin(&Stack::new().function, &event).await;
    }
}

/// Each request names something that exists, so that it would change something if an admin sent it.
#[tokio::test]
async fn a_forbidden_request_changes_nothing() {
    let changing = [
        "count-usage",
        "create-customer",
        "create-plan",
        "create-plan-version",
        "create-webhook",
        "delete-webhook",
        "discard-quarantined",
        "erase-customer",
        "replay-quarantined",
        "run-billing",
        "update-customer",
        "update-plan",
    ];
    for (name, mut event) in Event::all("admin-api") {
        let stack = Stack::new();
        add_usage(&stack.at, "acme", "2026-11-20", calls("pro", 100_234)).await;
        if name != "create-customer" {
            add_customer(&stack.at, "acme", "pro").await;
        }
        let webhook = Webhook {
            id: p("wh_8Zc2mQx04LwTnE7sVb1K"),
            url: TargetUrl::stored("https://hooks.example"),
            kinds: [].into(),
            created_at: p(NOW),
            disabled_at: None,
            failure: None,
        };
        let secret = WebhookSecret::new("whsec_1");
        let created = stack.at.store.create_webhook(&webhook, &secret).await;
        assert_eq!(created.unwrap(), CreateWebhookOutcome::Created);
        let mut bad = record();
        bad["plan"] = "platinum".into();
        let item = quarantine_one(&stack, message(&usage_event("e-1", &[bad]))).await;
        for (parameter, value) in [("customer", "acme"), ("item", text(&item, "id"))] {
            if event.0["pathParameters"][parameter].is_string() {
                event = event.param(parameter, value);
            }
        }
        event = match name.as_str() {
            "replay-quarantined" => {
                event.body(&json!({ "event": usage_event("e-1", &[record()]) }))
            }
            "run-billing" => event.body(&json!({ "dry_run": false })),
            _ => event,
        };
        let before = stored(&stack.at);
        let by_customer = event.clone().customer("acme", "pro");
        call(&stack.function, &by_customer).await.forbidden();
        assert_eq!(stored(&stack.at), before, "{name}");
        call(&stack.function, &event).await;
        let changes = stored(&stack.at) != before;
        assert_eq!(changes, changing.contains(&name.as_str()), "{name}");
    }
}

#[tokio::test]
async fn the_function_has_only_these_routes_in_any_stage() {
    let stack = Stack::new();
    for event in events() {
        has_no_other_routes(&stack.function, &event).await;
        ignores_the_stage(&stack.function, &event).await;
    }
}

#[tokio::test(start_paused = true)]
async fn while_the_store_is_down_every_operation_returns_503_with_retry_after() {
    let stack = Stack::new();
    for fault in [Fault::Throttled, Fault::RequestLost] {
        stack.at.aws.inject(move |_| fault);
        for event in events() {
            let response = call(&stack.function, &event).await;
            response.problem(503, "temporarily-unavailable", None);
            assert_eq!(response.header("retry-after"), Some("1"));
        }
    }
}
