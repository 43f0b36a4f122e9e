//! The OpenAPI document: up to date, complete, and in agreement with the README. `template/routes.rs` compares the
//! template with it.

#![allow(clippy::unwrap_used, reason = "a failed step of a test fails the test")]

use std::collections::BTreeSet;

use http::{Method, StatusCode};
use serde_json::{Value, json};
use tollgate_local::client::Client;
use tollgate_local::local_stack::{Options, start};
use tollgate_local::openapi::document;

const COMMITTED: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../openapi.json");
const README: &str = include_str!("../../../README.md");

/// Operations that need no key. Each has a test of what it rejects, and a throttle of its own in the template.
const OPEN: [&str; 4] = ["getDocs", "getDocsScript", "getOpenApi", WEBHOOK];
/// The open operation that is not of the reference. `functions/stripe-events` has the tests of what it rejects.
const WEBHOOK: &str = "receiveStripeEvent";

struct Operation {
    method: String,
    path: String,
    value: Value,
}

impl Operation {
    fn id(&self) -> &str {
        self.value["operationId"].as_str().unwrap_or_default()
    }

    fn is_open(&self) -> bool {
        self.value["security"] == json!([])
    }
}

fn operations(document: &Value) -> Vec<Operation> {
    let paths = document["paths"].as_object().unwrap();
    let of_path = paths.iter().flat_map(|(path, item)| {
        let methods = item.as_object().unwrap().iter();
        methods.map(|(method, value)| Operation {
            method: method.to_uppercase(),
            path: path.clone(),
            value: value.clone(),
        })
    });
    of_path.collect()
}

#[test]
fn the_committed_document_is_up_to_date() {
    let page = serde_json::to_string_pretty(&document().unwrap()).unwrap() + "\n";
    if std::env::var_os("UPDATE_OPENAPI").is_some() {
        std::fs::write(COMMITTED, &page).unwrap();
    }
    let committed = std::fs::read_to_string(COMMITTED).unwrap_or_default();
    assert!(
        committed == page,
        "infra/openapi.json is stale; to update it: UPDATE_OPENAPI=1 cargo test --workspace --test openapi"
    );
}

/// Returns what an operation lacks, each with what to do.
fn defects(operations: &[Operation]) -> Vec<String> {
    let mut defects = Vec::new();
    let mut ids = BTreeSet::new();
    for operation in operations {
        let Operation {
            method,
            path,
            value,
        } = operation;
        let mut defect = |what: &str| defects.push(format!("{method} {path} {what}"));
        if !ids.insert(operation.id()) {
            defect("has the operation id of another; give it one of its own in #[utoipa::path]");
        }
        if value["summary"].as_str().is_none_or(str::is_empty) {
            defect("has no summary; give its handler a doc comment");
        }
        let content = |body: &Value| body["content"]["application/json"].clone();
        let request = content(&value["requestBody"]);
        if request.is_object() && request.get("example").is_none() {
            defect("has no example of its request; add one to shared/api/src/examples.json");
        }
        for (status, response) in value["responses"].as_object().unwrap() {
            if response["description"].as_str().is_none_or(str::is_empty)
                && response.get("$ref").is_none()
            {
                defect(&format!("has no description of its {status}"));
            }
            let success = content(response);
            if success.is_object() && success.get("example").is_none() {
                defect(&format!(
                    "has no example of its {status}; add one to shared/api/src/examples.json"
                ));
            }
        }
        if operation.is_open() && !OPEN.contains(&operation.id()) {
            defect("needs no key; add it to OPEN in this test, with a test of what it rejects");
        }
    }
    defects
}

#[test]
fn every_operation_is_complete() {
    let found = defects(&operations(&document().unwrap()));
    assert!(found.is_empty(), "{found:#?}");
}

#[test]
fn an_incomplete_operation_is_found() {
    let check = |break_it: &dyn Fn(&mut Value), expected: &str| {
        let mut document = document().unwrap();
        break_it(&mut document["paths"]["/admin/customers"]["post"]);
        let found = defects(&operations(&document));
        assert!(
            found.iter().any(|defect| defect.contains(expected)),
            "{found:#?}"
        );
    };
    check(&|post| post["summary"] = json!(""), "has no summary");
    check(&|post| post["security"] = json!([]), "needs no key");
    check(
        &|post| post["operationId"] = json!("listCustomers"),
        "operation id of another",
    );
    let remove_example = |body: &mut Value| {
        let content = &mut body["content"]["application/json"];
        content.as_object_mut().unwrap().remove("example");
    };
    check(
        &|post| remove_example(&mut post["requestBody"]),
        "has no example of its request",
    );
    check(
        &|post| remove_example(&mut post["responses"]["201"]),
        "has no example of its 201",
    );
}

/// Returns the schema of a body, with the components that it refers to.
fn schema(document: &Value, body: &Value) -> Value {
    let mut schema = body["content"]["application/json"]["schema"].clone();
    schema["components"] = document["components"].clone();
    schema
}

#[test]
fn every_example_is_valid() {
    let document = document().unwrap();
    let check = |what: &str, body: &Value| {
        let Some(example) = body["content"]["application/json"].get("example") else {
            return;
        };
        let schema = schema(&document, body);
        let validator = jsonschema::validator_for(&schema).unwrap();
        let errors: Vec<String> = validator
            .iter_errors(example)
            .map(|error| format!("{}: {error}", error.instance_path()))
            .collect();
        assert!(errors.is_empty(), "{what}: {errors:#?}");
    };
    for operation in operations(&document) {
        check(operation.id(), &operation.value["requestBody"]);
        for (status, response) in operation.value["responses"].as_object().unwrap() {
            check(&format!("{} {status}", operation.id()), response);
        }
    }
}

/// Collects the references below a value.
fn references<'a>(value: &'a Value, found: &mut BTreeSet<&'a str>) {
    match value {
        Value::Object(members) => {
            found.extend(members.get("$ref").and_then(Value::as_str));
            members.values().for_each(|value| references(value, found));
        }
        Value::Array(values) => values.iter().for_each(|value| references(value, found)),
        _ => {}
    }
}

#[test]
fn every_reference_in_the_document_leads_somewhere() {
    let document = document().unwrap();
    let mut found = BTreeSet::new();
    references(&document, &mut found);
    let dangling = found
        .into_iter()
        .filter(|reference| document.pointer(&reference[1..]).is_none());
    assert_eq!(dangling.collect::<Vec<_>>(), [""; 0]);
}

#[test]
fn the_readme_lists_the_operations() {
    let table = README.split("| operation | |").nth(1).unwrap();
    let rows = table
        .lines()
        .skip(2)
        .take_while(|line| line.starts_with('|'));
    let listed: BTreeSet<&str> = rows.map(|row| row.split('`').nth(1).unwrap()).collect();
    let document = document().unwrap();
    let operations = operations(&document);
    let declared = operations.iter();
    let declared: BTreeSet<String> = declared
        .map(|operation| format!("{} {}", operation.method, operation.path))
        .collect();
    let declared: BTreeSet<&str> = declared.iter().map(String::as_str).collect();
    let missing: Vec<_> = declared.difference(&listed).collect();
    let gone: Vec<_> = listed.difference(&declared).collect();
    assert!(
        missing.is_empty(),
        "add rows to the API table in README.md: {missing:?}"
    );
    assert!(
        gone.is_empty(),
        "remove rows from the API table in README.md: {gone:?}"
    );
}

/// Returns a path of the operation with the examples of its parameters.
fn example_path(document: &Value, operation: &Operation) -> String {
    let mut path = operation.path.clone();
    for parameter in operation.value["parameters"]
        .as_array()
        .into_iter()
        .flatten()
    {
        if parameter["in"] != "path" {
            continue;
        }
        let name = parameter["name"].as_str().unwrap();
        let schema = match parameter["schema"]["$ref"].as_str() {
            Some(reference) => document.pointer(&reference[1..]).unwrap().clone(),
            None => parameter["schema"].clone(),
        };
        let example = parameter
            .get("example")
            .or_else(|| schema["examples"].get(0));
        let example = example.and_then(Value::as_str).unwrap_or_else(|| {
            panic!(
                "{}: the path parameter {name} has no example",
                operation.id()
            )
        });
        path = path.replace(&format!("{{{name}}}"), example);
    }
    path
}

/// Anyone may read the reference, with whatever key; nothing but what is documented is accepted.
#[tokio::test]
async fn open_operations_reject_what_they_do_not_declare() {
    let running = start(Options::default()).await.unwrap();
    let anyone = Client::new(&running.url).unwrap();
    let stranger = anyone.with_key("tg_live_0000000000000000000000000000000000000000000");
    let document = document().unwrap();
    let mut tried = BTreeSet::new();
    for operation in operations(&document) {
        if !operation.is_open() {
            continue;
        }
        tried.insert(operation.id().to_owned());
        if operation.id() == WEBHOOK {
            continue;
        }
        let path = &operation.path;
        for client in [&anyone, &stranger] {
            let response = client.get(path).await.unwrap();
            assert_eq!(response.status, StatusCode::OK, "{}", operation.id());
            let content = operation.value["responses"]["200"]["content"].as_object();
            let (content_type, _) = response
                .header("content-type")
                .split_once(';')
                .unwrap_or((response.header("content-type"), ""));
            assert!(
                content.unwrap().contains_key(content_type),
                "{content_type}"
            );
        }
        let rejected = [
            (
                Method::GET,
                format!("{path}?month=2026-11"),
                400,
                "bad-request",
            ),
            (Method::GET, format!("{path}/other"), 404, "not-found"),
            (Method::POST, path.clone(), 405, "method-not-allowed"),
        ];
        for (method, path, status, slug) in rejected {
            let response = anyone.json(method, &path, json!({})).await.unwrap();
            let problem = response.json();
            let found = (response.status.as_u16(), &problem["type"]);
            let expected = format!("urn:tollgate:problem:{slug}");
            assert_eq!(found, (status, &expected.into()), "{path}");
        }
    }
    assert_eq!(tried, OPEN.map(str::to_owned).into());
}

#[tokio::test]
async fn the_served_document_is_the_committed_one_with_the_url_of_the_api() {
    let running = start(Options::default()).await.unwrap();
    let anyone = Client::new(&running.url).unwrap();
    let served = anyone.get("/docs/openapi.json").await.unwrap();
    let mut committed: Value = serde_json::from_str(include_str!("../../openapi.json")).unwrap();
    committed["servers"] = json!([{ "url": running.url }]);
    assert!(served.json() == committed);
}

/// Prefixes of routes that need a customer's key with the role `manage`.
const MANAGED: [&str; 2] = ["/api/billing/", "/api/keys"];

/// Without a key every operation is a 401, and with a key of the wrong role a 403.
#[tokio::test]
async fn no_operation_can_be_called_without_the_right_key() {
    let running = start(Options::default()).await.unwrap();
    let anyone = Client::new(&running.url).unwrap();
    let admin = anyone.with_key(running.admin.expose().unwrap());
    admin
        .post("/admin/customers", json!({ "id": "acme", "plan": "pro" }))
        .await
        .unwrap();
    let with_role = async |role: &str| {
        let body = json!({ "customer_id": "acme", "role": role });
        let key = admin.post("/admin/api-keys", body).await.unwrap().json();
        anyone.with_key(key["key"].as_str().unwrap())
    };
    let (customer, manager) = (with_role("call").await, with_role("manage").await);
    let document = document().unwrap();
    for operation in operations(&document) {
        if operation.is_open() {
            continue;
        }
        let path = example_path(&document, &operation);
        let method: Method = operation.method.parse().unwrap();
        let unauthorized = anyone.json(method.clone(), &path, json!({})).await.unwrap();
        let expected = (
            StatusCode::UNAUTHORIZED,
            "urn:tollgate:problem:unauthorized",
        );
        let problem = unauthorized.json();
        let found = (
            unauthorized.status,
            problem["type"].as_str().unwrap_or_default(),
        );
        assert_eq!(found, expected, "{} without a key", operation.id());
        let is_managed = MANAGED.iter().any(|prefix| path.starts_with(prefix));
        let others = match operation.path.starts_with("/admin/") {
            true => vec![(&customer, "forbidden"), (&manager, "forbidden")],
            false if is_managed => vec![(&admin, "forbidden"), (&customer, "insufficient-role")],
            false => vec![(&admin, "forbidden")],
        };
        for (other, slug) in others {
            let forbidden = other.json(method.clone(), &path, json!({})).await.unwrap();
            let problem = forbidden.json();
            let found = (
                forbidden.status,
                problem["type"].as_str().unwrap_or_default(),
            );
            let expected = format!("urn:tollgate:problem:{slug}");
            assert_eq!(
                found,
                (StatusCode::FORBIDDEN, expected.as_str()),
                "{} with a key of another role",
                operation.id()
            );
        }
    }
}
