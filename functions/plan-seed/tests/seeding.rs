//! Requests of CloudFormation: the stored plans, and the responses.

#![allow(
    clippy::unwrap_used,
    reason = "a test that cannot begin, or cannot look, has failed"
)]

use std::io;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use plan_seed::{RESPONSE_TIME, SEED_TIME};
use serde_json::{Value, json};
use tokio::time::Instant;
use tollgate_domain::plan::Catalog;
use tollgate_domain::plan_book::PlanBook;
use tollgate_local_aws::template::Stack as Template;
use tollgate_local_aws::{Fault, Permission};
use tollgate_store::schema::USAGE_LOG;
use tollgate_testing::faults::{fail_in_turn, fail_operation};
use tollgate_testing::stored::{items, raw, stored, text};
use tollgate_testing::{event_file, p};

mod common;

use common::{SIGNATURE, Stack, create, request};

/// Returns status, outcome and reason of a response.
fn result(response: &Value) -> [&str; 3] {
    ["/Status", "/Data/Outcome", "/Reason"].map(|member| {
        let text = response.pointer(member).and_then(Value::as_str);
        text.unwrap_or_default()
    })
}

async fn stored_plans(stack: &Stack) -> PlanBook {
    stack.at.store.plans().await.unwrap()
}

fn shipped(stack: &Stack) -> PlanBook {
    PlanBook::from_catalog(&Catalog::shipped().unwrap(), stack.at.clock().now())
}

/// Returns an update to other plans than those of [`create`].
fn other() -> Value {
    event_file::load("plan-seed/update")
}

#[tokio::test]
async fn a_new_stack_gets_the_plans_of_the_parameter() {
    let stack = Stack::new();
    let event = create();
    let response = stack.handle(event.clone()).await;
    let expected = json!({
        "Status": "SUCCESS",
        "PhysicalResourceId": "plans",
        "StackId": event["StackId"],
        "RequestId": event["RequestId"],
        "LogicalResourceId": "PlanSeed",
        "Data": {
            "Outcome": "seeded",
            "Message":
                "The plans of the parameter Plans are stored; plans are changed by POST /admin/plans and \
                 POST /admin/plans/{id}/versions.",
        },
    });
    assert_eq!(response, expected);
    assert_eq!(stored_plans(&stack).await, shipped(&stack));
    let tables = stored(&stack.at);
    let names: Vec<&String> = tables.as_object().unwrap().keys().collect();
    assert_eq!(names, ["billing", "usage-log"], "{tables}");
    // Functions of earlier releases read all items beside the plans as plans, except the digest of the seed.
    let beside = tables["billing"].as_array().unwrap();
    let beside = beside.iter().filter_map(|item| item["sk"]["S"].as_str());
    let beside: Vec<&str> = beside.filter(|sk| sk.starts_with('#')).collect();
    assert_eq!(beside, ["#SEED"]);
    let [since] = &tables["usage-log"].as_array().unwrap()[..] else {
        panic!("{tables}");
    };
    assert_eq!(since["pk"]["S"], "#CLAIMS_SINCE");
}

#[tokio::test]
async fn the_plans_may_be_given_as_json() {
    let stack = Stack::new();
    let plans = other()["ResourceProperties"]["Plans"].clone();
    let response = stack.handle(request("create", &plans)).await;
    assert_eq!(result(&response), ["SUCCESS", "seeded", ""]);
    let plans = Catalog::from_json(plans.as_str().unwrap()).unwrap();
    let expected = PlanBook::from_catalog(&plans, stack.at.clock().now());
    assert_eq!(stored_plans(&stack).await, expected);
}

#[tokio::test]
async fn a_repeated_request_and_an_update_without_a_change_of_the_plans_change_nothing() {
    let stack = Stack::new();
    stack.handle(create()).await;
    let before = stored(&stack.at);
    for event in [create(), request("update", &json!("shipped"))] {
        let response = stack.handle(event).await;
        assert_eq!(result(&response), ["SUCCESS", "unchanged", ""]);
        assert_eq!(response["PhysicalResourceId"], "plans");
        assert_eq!(stored(&stack.at), before);
    }
}

/// A deployment that fails is rolled back to the release before it, which then counts usage without claims, and is repeated.
#[tokio::test]
async fn a_second_change_from_a_release_without_claims_moves_their_time() {
    let stack = Stack::new();
    let since = || {
        let items = items(&stack.at, USAGE_LOG);
        let item = items
            .iter()
            .find(|item| text(item, "pk") == "#CLAIMS_SINCE");
        text(item.unwrap(), "since")
    };
    let update = |old: Value| {
        let mut update = request("update", &json!("shipped"));
        update["ResourceProperties"]["Layout"] = "2".into();
        update["OldResourceProperties"]["Layout"] = old;
        update
    };
    let counted = json!({ "pk": { "S": "tollgate:ping#e-1" }, "sk": { "S": "00" } });
    raw(&stack.at, "PutItem", USAGE_LOG, json!({ "Item": counted }));
    for (day, old, expected) in [
        ("01", json!(null), "2026-12-02T00:00:00.000Z"),
        ("05", json!("2"), "2026-12-02T00:00:00.000Z"),
        ("09", json!(null), "2026-12-10T00:00:00.000Z"),
    ] {
        stack.at.time.set(p(&format!("2026-12-{day}T00:00:00Z")));
        let response = stack.handle(update(old)).await;
        assert_eq!(response["Status"], "SUCCESS");
        assert_eq!(since(), expected);
    }
    // The roll-back itself.
    let mut update = request("update", &json!("shipped"));
    update["OldResourceProperties"]["Layout"] = "2".into();
    stack.at.time.set(p("2026-12-20T00:00:00Z"));
    stack.handle(update).await;
    assert_eq!(since(), "2026-12-10T00:00:00.000Z");
}

/// Log of the current thread, at the most verbose level.
#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<u8>>>);

impl Log {
    fn text(&self) -> String {
        String::from_utf8(self.0.lock().unwrap().clone()).unwrap()
    }

    fn start(&self) -> tracing::subscriber::DefaultGuard {
        let writer = self.clone();
        let lines = tracing_subscriber::fmt()
            .with_max_level(tracing::Level::TRACE)
            .with_ansi(false)
            .with_writer(move || writer.clone());
        tracing::subscriber::set_default(lines.finish())
    }
}

impl io::Write for Log {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[tokio::test]
async fn a_changed_parameter_changes_nothing_and_is_a_warning() {
    let stack = Stack::new();
    stack.handle(create()).await;
    let before = stored(&stack.at);
    let log = Log::default();
    let logged = log.start();
    let response = stack.handle(other()).await;
    drop(logged);
    assert_eq!(result(&response), ["SUCCESS", "differs", ""]);
    let message = response["Data"]["Message"].as_str().unwrap();
    let expected = "The parameter Plans was changed after its plans had been stored, and has no effect; plans \
                    are changed by POST /admin/plans and POST /admin/plans/{id}/versions.";
    assert_eq!(message, expected);
    assert_eq!(stored(&stack.at), before);
    let log = log.text();
    let warned = |line: &str| line.contains("WARN") && line.contains(expected);
    assert!(log.lines().any(warned), "{log}");
    assert!(!log.contains(SIGNATURE), "{log}");
}

#[tokio::test]
async fn a_deletion_changes_nothing() {
    let stack = Stack::new();
    stack.handle(create()).await;
    let before = stored(&stack.at);
    let mut event = event_file::load("plan-seed/delete");
    let response = stack.handle(event.clone()).await;
    let expected = json!({
        "Status": "SUCCESS",
        "PhysicalResourceId": "plans",
        "StackId": event["StackId"],
        "RequestId": event["RequestId"],
        "LogicalResourceId": "PlanSeed",
    });
    assert_eq!(response, expected);
    // CloudFormation generates the id if it got no response when the resource was to be created.
    event["PhysicalResourceId"] = "tollgate-PlanSeed-1A2B3C".into();
    let response = stack.handle(event).await;
    assert_eq!(response["PhysicalResourceId"], "tollgate-PlanSeed-1A2B3C");
    assert_eq!(stored(&stack.at), before);
}

#[tokio::test]
async fn invalid_plans_fail_the_deployment_with_a_reason() {
    let stack = Stack::new();
    let invalid = "The parameter Plans is invalid; correct it, and deploy again: ";
    let check = async |plans: Value, expected: &str| {
        for name in ["create", "update"] {
            let response = stack.handle(request(name, &plans)).await;
            let [status, outcome, reason] = result(&response);
            assert_eq!([status, outcome], ["FAILED", ""], "{plans}");
            assert!(reason.starts_with(expected), "{plans}: {reason}");
            assert_eq!(response["PhysicalResourceId"], "plans");
        }
        assert_eq!(stored(&stack.at), json!({}), "{plans}");
    };
    check(json!("Shipped"), invalid).await;
    check(json!(""), invalid).await;
    check(json!("[]"), invalid).await;
    check(json!(r#"[{"id":"basic"}]"#), invalid).await;
    let not_text = "The custom resource needs the property Plans, as text;";
    check(json!([]), not_text).await;
    check(Value::Null, not_text).await;
    let mut event = create();
    event.as_object_mut().unwrap().remove("ResourceProperties");
    let response = stack.handle(event).await;
    assert!(result(&response)[2].starts_with(not_text), "{response}");
}

/// The limit of CloudFormation is 4,096 bytes.
#[tokio::test]
async fn a_response_is_short_whatever_the_plans_are() {
    let stack = Stack::new();
    for filler in ["x", "é", "\u{1}", "🎟"] {
        let field = filler.repeat(4_000);
        let plans = json!([{ (field): 1 }]).to_string();
        stack.handle(request("create", &json!(plans))).await;
        let sent = stack.sent();
        let bytes = sent.last().unwrap().body.len();
        assert!(bytes <= 4_096, "{filler:?}: {bytes}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_store_that_fails_fails_the_deployment_in_time() {
    for fault in [Fault::RequestLost, Fault::NoResponse, Fault::Throttled] {
        let stack = Stack::new();
        fail_operation(&stack.at.aws, "TransactWriteItems", fault);
        let started = Instant::now();
        let response = stack.handle(create()).await;
        assert!(started.elapsed() <= SEED_TIME + Duration::from_secs(1));
        let [status, outcome, reason] = result(&response);
        assert_eq!([status, outcome], ["FAILED", ""], "{fault:?}");
        let expected = "The plans could not be stored; find the cause, and deploy again: seeding the plans \
                        failed: ";
        assert!(reason.starts_with(expected), "{fault:?}: {reason}");
        // The next deployment succeeds.
        stack.at.aws.heal();
        let response = stack.handle(create()).await;
        assert_eq!(result(&response)[0], "SUCCESS", "{fault:?}: {response}");
        assert_eq!(stored_plans(&stack).await.iter().count(), 3);
    }
}

/// A role's new policy may be without effect at first.
#[tokio::test(start_paused = true)]
async fn a_store_that_recovers_in_time_is_seeded() {
    let stack = Stack::new();
    fail_in_turn(&stack.at.aws, "TransactWriteItems", [Fault::Invalid; 3]);
    let response = stack.handle(create()).await;
    assert_eq!(result(&response), ["SUCCESS", "seeded", ""]);
    // A write whose response is lost is recognised.
    let stack = Stack::new();
    fail_in_turn(&stack.at.aws, "TransactWriteItems", [Fault::ResponseLost]);
    let response = stack.handle(create()).await;
    assert_eq!(result(&response), ["SUCCESS", "seeded", ""]);
    assert_eq!(stored_plans(&stack).await.iter().count(), 3);
}

#[tokio::test]
async fn the_role_allows_what_the_function_does_and_nothing_else() {
    let stack = Stack::new();
    for event in [create(), other(), event_file::load("plan-seed/delete")] {
        stack.handle(event).await;
    }
    let none: [Permission; 0] = [];
    assert_eq!(stack.role.denied(), none);
    assert_eq!(stack.role.unused(), none);
}

#[test]
fn the_function_and_cloudformation_wait_long_enough() {
    let template = Template::built_in("test").unwrap();
    let seconds = |path: &str| template.resources().at(path).number(path).unwrap();
    let function = seconds("PlanSeedFunction.Properties.Timeout");
    assert!(Duration::from_secs(function) > SEED_TIME + RESPONSE_TIME);
    // Lambda repeats a failed invocation twice, after one and two minutes
    // (https://docs.aws.amazon.com/lambda/latest/dg/invocation-async-error-handling.html).
    let all = 3 * function + 60 + 120;
    assert!(seconds("PlanSeed.Properties.ServiceTimeout") >= all);
}

#[test]
fn every_kind_of_request_has_an_example() {
    let types = event_file::names("plan-seed").into_iter().map(|name| {
        let event = event_file::load(&format!("plan-seed/{name}"));
        event["RequestType"].as_str().unwrap().to_lowercase() == name
    });
    let types: Vec<bool> = types.collect();
    assert_eq!(types, [true; 3]);
}
