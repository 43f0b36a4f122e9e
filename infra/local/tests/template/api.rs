//! Check of the gateway: authorizer, gateway responses, CORS, throttling and access log.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Value, json};
use tollgate_api::context::{LIMIT_HEADERS, cors_headers, name};
use tollgate_api::problem::ProblemType;
use tollgate_local::template::{GatewayResponse, Template};
use tollgate_local_aws::template::Stack;
use tollgate_runtime::{Env, config};

/// API Gateway's largest value, which exceeds the size of any Lambda function's response.
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
        Some(bytes) => defects.push(format!(
            "responses of {bytes} bytes and more are compressed"
        )),
        None => defects.push("compressed request bodies may not be inflated".to_owned()),
    }
    defects.extend(other_denials(stack));
    defects.extend(cors(stack));
    defects.extend(access_log(stack));
    match Template::from_stack(stack) {
        Ok(template) => {
            defects.extend(throttles(stack, &template));
            defects.extend(denied(&template.responses["ACCESS_DENIED"]));
            for (name, response) in &template.responses {
                defects.extend(gateway_response(name, response));
            }
        }
        Err(error) => defects.push(error.to_string()),
    }
    defects
}

/// Checks that the authorizer's denial is a 429 with all values of the context.
fn denied(response: &GatewayResponse) -> Vec<String> {
    let mut defects = Vec::new();
    // The gateway has one status for all denials, so it must be that of each.
    let denials = [
        ProblemType::RateLimited,
        ProblemType::QuotaExceeded,
        ProblemType::CustomerSuspended,
        ProblemType::NoPlan,
    ];
    if denials
        .iter()
        .any(|denial| response.status != Some(denial.status()))
    {
        let status = response.status.unwrap_or(403);
        defects.push(format!("ACCESS_DENIED has status {status}, and not 429"));
    }
    let given: BTreeMap<_, _> = response
        .headers
        .iter()
        .map(|(name, value)| (name.to_ascii_lowercase(), value.as_str()))
        .collect();
    let mut expected = vec![("Retry-After", name::RETRY_AFTER)];
    expected.extend(LIMIT_HEADERS);
    for (name, context) in expected {
        let value = format!("context.authorizer.{context}");
        if given.get(&name.to_ascii_lowercase()) != Some(&value.as_str()) {
            defects.push(format!("ACCESS_DENIED lacks the header field {name}"));
        }
    }
    // The body with the authorizer's problem, and the body without one.
    let body = |problem: &str| {
        let variable = format!("$context.authorizer.{}", name::PROBLEM);
        let body = response.body.replace(&variable, problem);
        let body = body.replace("$context.requestId", "r-1");
        serde_json::from_str(&body).unwrap_or(Value::Null)
    };
    let of_authorizer = body(r#","type":"t","limit":1"#);
    if of_authorizer != json!({ "type": "t", "limit": 1, "request_id": "r-1" }) {
        defects.push("ACCESS_DENIED has another body than the authorizer's problem".to_owned());
    }
    if body("") != json!({ "request_id": "r-1" }) {
        defects
            .push("a denial that is not the authorizer's has a body that is not JSON".to_owned());
    }
    defects
}

/// Checks that only the authorizer denies calls, because all denials have the status 429.
fn other_denials(stack: &Stack) -> Vec<String> {
    let mut defects = Vec::new();
    let api = stack.resources().at("Api.Properties");
    if !api.at("Auth.ResourcePolicy").0.is_null() {
        defects.push("a resource policy denies with the status of a limit".to_owned());
    }
    for (function, resource) in stack.of_type("AWS::Serverless::Function") {
        for (event, node) in resource.at("Properties.Events").members() {
            let auth = node.at("Properties.Auth");
            let members: Vec<_> = auth.members().map(|(name, _)| name).collect();
            let is_open = members == ["Authorizer"] && auth.get("Authorizer").0 == "NONE";
            if !auth.0.is_null() && !is_open {
                defects.push(format!(
                    "{event} of {function} is authorized in another way"
                ));
            }
        }
    }
    defects
}

/// Checks that each uncounted or open route has its own throttle: quotas do not limit it, and a flood of calls
/// to it must not use up the rate of the routes that customers pay for.
fn throttles(stack: &Stack, template: &Template) -> Vec<String> {
    let variables = stack.variables("AuthorizerFunction").unwrap_or_default();
    let uncounted = config::uncounted_routes(&Env::from_vars(variables)).unwrap_or_default();
    let settings = stack.resources().at("Api.Properties.MethodSettings");
    let routes = template.routes.iter();
    let throttled = |method: &str, path: &str| {
        // CloudFormation's form: `~1` in place of each slash but the first.
        let path = format!("/{}", path.replace('/', "~1"));
        let chosen = |setting| stack.chosen(setting, "MethodSettings").ok().flatten();
        settings.elements().filter_map(chosen).any(|setting| {
            let is = |property, value: &str| setting.get(property).0.as_str() == Some(value);
            let has = |property| !setting.get(property).0.is_null();
            is("HttpMethod", method)
                && is("ResourcePath", &path)
                && has("ThrottlingRateLimit")
                && has("ThrottlingBurstLimit")
        })
    };
    routes
        .filter(|route| route.is_open || config::is_uncounted(&uncounted, &route.path))
        .filter(|route| !throttled(&route.method, &route.path))
        .map(|route| format!("{} {} has no throttle", route.method, route.path))
        .collect()
}

/// Checks that the body of a gateway response is a problem and may not be cached.
fn gateway_response(name: &str, response: &GatewayResponse) -> Vec<String> {
    let mut defects = Vec::new();
    let header = |name: &str| response.headers.get(name).map(String::as_str);
    if header("Content-Type") != Some("'application/problem+json'") {
        defects.push(format!("{name} is not sent as application/problem+json"));
    }
    if header("Cache-Control") != Some("'no-store'") {
        defects.push(format!("{name} may be cached"));
    }
    if name == "ACCESS_DENIED" {
        return defects;
    }
    let body = body(response);
    let members = ["type", "title", "detail", "request_id"];
    if !members.iter().all(|member| body[member].is_string()) {
        defects.push(format!("{name} has a body that is not a problem"));
        return defects;
    }
    let status = response.status.map_or(Value::Null, Value::from);
    if body["status"] != status {
        defects.push(format!("{name} has another status than its body states"));
    }
    defects
}

/// Checks that only pages of the configured origin may read gateway responses, and not with credentials.
fn cors(stack: &Stack) -> Vec<String> {
    const ALLOW: &str = "access-control-allow-origin";
    let mut defects = Vec::new();
    for origin in ["", "*", "https://app.example"] {
        let stack = stack.clone().with_parameter("CorsOrigins", origin);
        let template = match Template::from_stack(&stack) {
            Ok(template) => template,
            Err(error) => return vec![error.to_string()],
        };
        let expected = Some(origin).filter(|origin| !origin.is_empty());
        let expected: BTreeMap<String, String> = expected
            .into_iter()
            .flat_map(cors_headers)
            .map(|(name, value)| (name.to_owned(), format!("'{value}'")))
            .collect();
        for (name, response) in &template.responses {
            let headers = response.headers.iter();
            let headers = headers.map(|(name, value)| (name.to_ascii_lowercase(), value.clone()));
            let found: BTreeMap<_, _> = headers
                .filter(|(name, _)| name.starts_with("access-control-"))
                .collect();
            if found != expected {
                defects.push(format!(
                    "{name} has other CORS fields for {origin:?}: {found:?}"
                ));
            }
        }
        let preflight = template.preflight.unwrap_or_default();
        if preflight.get(ALLOW) != expected.get(ALLOW) {
            defects.push(format!(
                "a preflight response has another origin for {origin:?}"
            ));
        }
    }
    let cors = stack.resources().at("Api.Properties.Cors");
    if !cors.get("AllowCredentials").0.is_null() {
        defects.push("pages may send credentials".to_owned());
    }
    let auth = stack.resources().at("Api.Properties.Auth");
    if auth.get("AddDefaultAuthorizerToCorsPreflight").0.as_bool() != Some(false) {
        defects.push("a preflight needs a key".to_owned());
    }
    defects
}

/// Parses the body with 0 in place of each variable.
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

/// Checks that only a parameter turns on the access log, and that it identifies the caller without
/// anything that may contain a key, such as the path, or API Gateway's message for a malformed header.
fn access_log(stack: &Stack) -> Vec<String> {
    const HARMLESS: [&str; 11] = [
        "authorizer.customerId",
        "authorizer.keyId",
        "error.responseType",
        "httpMethod",
        "identity.sourceIp",
        "requestId",
        "requestTime",
        "resourcePath",
        "responseLatency",
        "responseLength",
        "status",
    ];
    let mut defects = Vec::new();
    let setting = stack.resources().at("Api.Properties.AccessLogSetting");
    let what = "the access log";
    match stack.chosen(setting, what) {
        Ok(None) => {}
        Ok(Some(_)) => defects.push("calls are logged by default".to_owned()),
        Err(error) => defects.push(error.to_string()),
    }
    let logged = stack.clone().with_parameter("AccessLog", "true");
    let setting = logged.chosen(setting, what).ok().flatten();
    let format = setting
        .and_then(|setting| setting.get("Format").0.as_str())
        .unwrap_or_default();
    let variables = format.split("$context.").skip(1).map(|rest| {
        let is_name = |c: char| c.is_ascii_alphanumeric() || c == '.';
        &rest[..rest.find(|c| !is_name(c)).unwrap_or(rest.len())]
    });
    let variables: BTreeSet<&str> = variables.collect();
    for variable in &variables {
        if !HARMLESS.contains(variable) {
            defects.push(format!("the access log may contain a key: {variable}"));
        }
    }
    for member in [name::CUSTOMER_ID, name::KEY_ID] {
        if !variables.contains(format!("authorizer.{member}").as_str()) {
            defects.push(format!("the access log lacks {member}"));
        }
    }
    if !serde_json::from_str::<Value>(format).is_ok_and(|line| line.is_object()) {
        defects.push("a line of the access log is not JSON".to_owned());
    }
    defects
}
