//! The gateway: whom it asks, and what it answers by itself.

use std::collections::BTreeMap;

use serde_json::Value;
use tollgate_domain::caller::LIMIT_HEADERS;
use tollgate_local::template::{GatewayResponse, Template};
use tollgate_local_aws::template::Stack;

/// The largest value that API Gateway takes, and more than a Lambda function answers.
const NEVER_COMPRESSED: u64 = 10 * 1024 * 1024;

pub(crate) fn defects(stack: &Stack) -> Vec<String> {
    let mut defects = Vec::new();
    let auth = stack.resources().at("Api.Properties.Auth");
    let authorizer = auth.at("Authorizers.KeyAuthorizer");
    match authorizer.at("Identity.ReauthorizeEvery").0.as_u64() {
        Some(0) => {}
        Some(ttl) => defects.push(format!("decisions are cached for {ttl} s, and not counted")),
        None => defects.push("decisions are cached for API Gateway's default of 300 s".to_owned()),
    }
    if authorizer.get("FunctionPayloadType").0.as_str() != Some("REQUEST") {
        defects.push("the authorizer is not of the type REQUEST".to_owned());
    }
    if auth.get("DefaultAuthorizer").0.as_str() != Some("KeyAuthorizer") {
        defects.push("routes have no authorizer unless they name one".to_owned());
    }
    match stack
        .resources()
        .at("Api.Properties.MinimumCompressionSize")
        .0
        .as_u64()
    {
        Some(NEVER_COMPRESSED) => {}
        Some(bytes) => defects.push(format!("answers of {bytes} bytes and more are compressed")),
        None => defects.push("bodies that come compressed may not be inflated".to_owned()),
    }
    match Template::of(stack) {
        Ok(template) => {
            defects.extend(denied(&template.responses["ACCESS_DENIED"]));
            for (name, response) in &template.responses {
                defects.extend(own(name, response));
            }
        }
        Err(error) => defects.push(error.to_string()),
    }
    defects
}

/// The authorizer's denial is a 429 with everything that the context tells.
fn denied(response: &GatewayResponse) -> Vec<String> {
    let mut defects = Vec::new();
    if response.status != Some(429) {
        let status = response.status.unwrap_or(403);
        defects.push(format!("ACCESS_DENIED has status {status}, and not 429"));
    }
    let given: BTreeMap<_, _> = response
        .headers
        .iter()
        .map(|(name, value)| (name.to_ascii_lowercase(), value.as_str()))
        .collect();
    let mut expected = vec![("Retry-After", "retryAfter")];
    expected.extend(LIMIT_HEADERS);
    for (name, context) in expected {
        let value = format!("context.authorizer.{context}");
        if given.get(&name.to_ascii_lowercase()) != Some(&value.as_str()) {
            defects.push(format!("ACCESS_DENIED lacks the header field {name}"));
        }
    }
    let members = [
        "detail",
        "limit",
        "remaining",
        "request_id",
        "resets_at",
        "retry_after_s",
        "status",
        "title",
        "type",
        "window",
    ];
    let body = body(response);
    let found = body.as_object().into_iter().flatten();
    let mut found: Vec<_> = found.map(|(name, _)| name.as_str()).collect();
    found.sort_unstable();
    if found != members {
        defects.push("ACCESS_DENIED has another body than a refusal of the product's".to_owned());
    }
    defects
}

/// A body of the gateway's own is a problem, whichever the reason.
fn own(name: &str, response: &GatewayResponse) -> Option<String> {
    let content_type = response.headers.get("Content-Type").map(String::as_str);
    if content_type != Some("'application/problem+json'") {
        return Some(format!("{name} is not sent as application/problem+json"));
    }
    let body = body(response);
    let members = ["type", "title", "detail", "request_id"];
    if !members.iter().all(|member| body[member].is_string()) {
        return Some(format!("{name} has a body that is no problem"));
    }
    let status = response.status.map_or(Value::Null, Value::from);
    (body["status"] != status).then(|| format!("{name} has another status than its body says"))
}

/// The body with 0 in place of each variable.
fn body(response: &GatewayResponse) -> Value {
    let mut parts = response.body.split("$context.");
    let mut body = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        let is_name = |c: char| c.is_ascii_alphanumeric() || c == '.';
        body.push('0');
        body.push_str(part.trim_start_matches(is_name));
    }
    serde_json::from_str(&body).unwrap_or_default()
}
