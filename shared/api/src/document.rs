//! Assembly of the OpenAPI document `infra/openapi.json` from the operations of the functions.
//!
//! Each handler declares what is its own: path, parameters, bodies, its successes and its problems. Here
//! is added what all operations have in common: security, the problems of the gateway, the authorizer and
//! the extractors, header fields, and examples.

use serde_json::{Map, Value, json};
use utoipa::OpenApi as _;
use utoipa::openapi::OpenApi;

use crate::problem::ProblemType;
use crate::quarantine::QuarantinedRef;
use crate::usage::Defect;

/// Examples of requests and responses, by operation id.
const EXAMPLES: &str = include_str!("examples.json");

/// Schemas that only problems refer to.
#[derive(utoipa::OpenApi)]
#[openapi(components(schemas(Defect, QuarantinedRef)))]
struct SchemasOfProblems;

/// Error: the parts cannot be assembled.
#[derive(Debug, thiserror::Error)]
pub enum DocumentError {
    /// A part or the examples are not valid JSON.
    #[error("the OpenAPI document cannot be assembled")]
    Json(#[from] serde_json::Error),
    /// An example belongs to no operation or response.
    #[error("shared/api/src/examples.json has an example of {0}, which no operation declares")]
    UnusedExample(String),
}

/// Assembles the document from the operations of the functions.
///
/// # Errors
/// When a part cannot be serialised, or an example belongs to no operation.
pub fn assemble(parts: impl IntoIterator<Item = OpenApi>) -> Result<Value, DocumentError> {
    let mut whole = SchemasOfProblems::openapi();
    for part in parts {
        whole.merge(part);
    }
    let mut document = serde_json::to_value(whole)?;
    document["info"] = json!({
        "title": "Tollgate",
        "description": "API keys, quotas, usage metering and overage billing for an HTTP API.",
        "license": { "name": "MIT OR Apache-2.0", "identifier": "MIT OR Apache-2.0" },
        "version": env!("CARGO_PKG_VERSION"),
    });
    document["tags"] = tags();
    document["components"]["securitySchemes"] = json!({
        "apiKey": {
            "type": "apiKey", "in": "header", "name": "x-api-key",
            "description": "An API key: of a customer, or for /admin of an admin.",
        },
        "bearer": {
            "type": "http", "scheme": "bearer",
            "description": "The same API key as a Bearer token.",
        },
    });
    document["components"]["schemas"]["Problem"] = schema_of_problem();
    for (name, schema) in members(&mut document["components"]["schemas"]) {
        // utoipa copies the schema of a type parameter.
        if let Some(item) = name.strip_prefix("List_") {
            schema["properties"]["data"]["items"] =
                json!({ "$ref": format!("#/components/schemas/{item}") });
        }
    }
    for problem in PROBLEMS {
        document["components"]["responses"][problem.name] = problem.response();
    }
    let mut examples: Map<String, Value> = serde_json::from_str(EXAMPLES)?;
    for (path, item) in members(&mut document["paths"]) {
        for (method, operation) in members(item) {
            complete(path, method, operation, &mut examples)?;
        }
    }
    if let Some(unused) = examples.keys().next() {
        return Err(DocumentError::UnusedExample(unused.clone()));
    }
    Ok(document)
}

fn members(object: &mut Value) -> impl Iterator<Item = (&String, &mut Value)> {
    object.as_object_mut().into_iter().flatten()
}

fn tags() -> Value {
    json!([
        { "name": "keys", "description": "API keys of customers." },
        { "name": "customers", "description": "Customers and their plans." },
        { "name": "usage", "description": "Usage events, and their reconciliation." },
        { "name": "quarantine", "description": "Usage that failed validation." },
        { "name": "billing", "description": "Billing runs, charges and unbilled usage." },
        { "name": "events", "description": "Events for operator and customers, and webhooks." },
        { "name": "customer", "description": "A customer's own usage." },
        { "name": "payments", "description": "A customer's own subscription, invoices and charges." },
        { "name": "webhooks", "description": "The endpoint to which Stripe sends events." },
        { "name": "documentation", "description": "This document." },
        { "name": "examples", "description": "Examples of metered endpoints." },
    ])
}

/// A response with a problem that several operations have in common.
struct CommonProblem {
    name: &'static str,
    description: &'static str,
    types: &'static [ProblemType],
    headers: &'static [&'static str],
}

/// Header fields with the status of the limits, on responses of metered functions and on denials.
const LIMIT_HEADERS: [&str; 5] = [
    "X-RateLimit-Limit",
    "X-RateLimit-Remaining",
    "X-RateLimit-Reset",
    "RateLimit",
    "RateLimit-Policy",
];

const PROBLEMS: [CommonProblem; 14] = [
    CommonProblem {
        name: "BadRequest",
        description: "The request cannot be parsed. `field` names the part at fault.",
        types: &[ProblemType::BadRequest],
        headers: &[],
    },
    CommonProblem {
        name: "Unauthorized",
        description: "The API key is missing or not valid. Only the log says why.",
        types: &[ProblemType::Unauthorized],
        headers: &["WWW-Authenticate"],
    },
    CommonProblem {
        name: "Forbidden",
        description: "The key is for other routes, or has the role `call` where `manage` is needed; the request \
                      would create or change an admin key; or a web ACL blocks it.",
        types: &[
            ProblemType::Forbidden,
            ProblemType::InsufficientRole,
            ProblemType::Blocked,
        ],
        headers: &[],
    },
    CommonProblem {
        name: "NotFound",
        description: "The resource does not exist.",
        types: &[ProblemType::NotFound],
        headers: &[],
    },
    CommonProblem {
        name: "Conflict",
        description: "The state of the resource does not allow the request.",
        types: &[ProblemType::Conflict],
        headers: &[],
    },
    CommonProblem {
        name: "BodyTooLarge",
        description: "The body is larger than 1 MB, inflated.",
        types: &[ProblemType::BodyTooLarge],
        headers: &[],
    },
    CommonProblem {
        name: "UnsupportedMediaType",
        description: "The body is in another coding than gzip, or in another charset than UTF-8.",
        types: &[ProblemType::UnsupportedMediaType],
        headers: &["Accept-Encoding"],
    },
    CommonProblem {
        name: "Unprocessable",
        description: "The request can be parsed and cannot be fulfilled. `field` names the part at fault.",
        types: &[ProblemType::Unprocessable],
        headers: &[],
    },
    CommonProblem {
        name: "TooManyRequests",
        description: "A limit is exceeded, or the customer is suspended or on no plan. Without \
                      `Retry-After`, waiting does not help.",
        types: &[
            ProblemType::RateLimited,
            ProblemType::QuotaExceeded,
            ProblemType::CustomerSuspended,
            ProblemType::NoPlan,
            ProblemType::Throttled,
        ],
        headers: &[
            "Retry-After",
            LIMIT_HEADERS[0],
            LIMIT_HEADERS[1],
            LIMIT_HEADERS[2],
            LIMIT_HEADERS[3],
            LIMIT_HEADERS[4],
        ],
    },
    CommonProblem {
        name: "ServerError",
        description: "Internal error, or a function returned no usable response.",
        types: &[ProblemType::Internal, ProblemType::BadGateway],
        headers: &[],
    },
    CommonProblem {
        name: "Unavailable",
        description: "The store is not available. The same request may succeed a moment later.",
        types: &[ProblemType::Unavailable],
        headers: &["Retry-After"],
    },
    CommonProblem {
        name: "CheckoutError",
        description: "Stripe rejected the request, or the plan's Stripe price cannot be used. The operator \
                      finds the reason in the log.",
        types: &[ProblemType::Internal, ProblemType::PlanMisconfigured],
        headers: &[],
    },
    CommonProblem {
        name: "PaymentsUnavailable",
        description: "The store or Stripe is not available, and the same request may succeed a moment later; \
                      or no secret key of Stripe is configured.",
        types: &[ProblemType::Unavailable, ProblemType::PaymentsNotConfigured],
        headers: &["Retry-After"],
    },
    CommonProblem {
        name: "Timeout",
        description: "A function did not respond in time. The request may have taken effect.",
        types: &[ProblemType::Timeout],
        headers: &[],
    },
];

impl CommonProblem {
    fn response(&self) -> Value {
        let headers: Map<String, Value> = self
            .headers
            .iter()
            .map(|name| ((*name).to_owned(), header(name)))
            .chain([("Cache-Control".to_owned(), header("Cache-Control"))])
            .collect();
        let examples: Map<String, Value> = self
            .types
            .iter()
            .map(|problem| {
                let value = json!({
                    "type": problem.urn(), "title": problem.title(), "status": problem.status(),
                    "detail": "What was wrong with this request.",
                    "request_id": "5e8b7b1c-3f0a-4a3c-9a57-0d5a2f8b6c11",
                });
                (problem.slug().to_owned(), json!({ "value": value }))
            })
            .collect();
        json!({
            "description": self.description,
            "headers": headers,
            "content": {
                "application/problem+json": {
                    "schema": { "$ref": "#/components/schemas/Problem" },
                    "examples": examples,
                },
            },
        })
    }
}

/// Returns the schema of problems. Problem types add members of their own, which `docs/problems.md` lists.
fn schema_of_problem() -> Value {
    let types: Vec<String> = ProblemType::ALL.into_iter().map(ProblemType::urn).collect();
    let text = |description: &str| json!({ "type": "string", "description": description });
    let pointers = |description: &str| json!({ "type": "array", "items": { "type": "string" }, "description": description });
    json!({
        "type": "object",
        "description": "A problem (RFC 9457).",
        "required": ["type", "title", "detail", "request_id"],
        "properties": {
            "type": { "type": "string", "enum": types, "description": "Problem type." },
            "title": text("Title of the problem type."),
            "status": { "type": "integer", "description": "HTTP status." },
            "detail": text("Explanation of this occurrence."),
            "request_id": text("Id of the request, under which the log has more."),
            "field": text("Member of the body, or parameter, at fault."),
            "defects": {
                "type": "array", "items": { "$ref": "#/components/schemas/Defect" },
                "description": "Usage that cannot be counted.",
            },
            "conflicts": pointers("JSON pointers to usage events whose source and id are taken."),
            "quarantined": {
                "type": "array", "items": { "$ref": "#/components/schemas/QuarantinedRef" },
                "description": "Quarantined items of the events that came first.",
            },
            "quarantined_more": pointers("JSON pointers to the events with more items than listed."),
            "plans": {
                "type": "array", "items": { "type": "string" },
                "description": "Plans that exist.",
            },
            "earliest": text("First month that a version or a pin may take effect in, as `YYYY-MM`."),
            "latest": text("Last month that a version or a pin may take effect in, as `YYYY-MM`."),
            "latest_version": {
                "type": "integer", "description": "Number of the plan's latest version.",
            },
            "rotated_to": text("Id of the successor of a rotated key."),
            "window": text("`hour` or `month`: the window of the exceeded limit."),
            "limit": { "type": "integer", "description": "Calls allowed in the window." },
            "remaining": { "type": "integer", "description": "Calls left in the window." },
            "resets_at": {
                "type": "string", "format": "date-time", "description": "End of the window.",
            },
            "retry_after_s": { "type": "integer", "description": "Seconds until a retry can succeed." },
            "upgrade_url": text("Page on which the customer can subscribe to a larger plan, if the operator has one."),
        },
    })
}

fn header(name: &str) -> Value {
    let (kind, description) = match name {
        "Cache-Control" => ("string", "`no-store`."),
        "WWW-Authenticate" => ("string", "`Bearer realm=\"tollgate\"`."),
        "Accept-Encoding" => (
            "string",
            "`gzip`, if the coding of the body is not supported.",
        ),
        "Retry-After" => ("integer", "Seconds until a retry can succeed."),
        "X-RateLimit-Limit" => (
            "integer",
            "Calls allowed in the window closest to its limit.",
        ),
        "X-RateLimit-Remaining" => ("integer", "Calls left in that window."),
        "X-RateLimit-Reset" => ("integer", "Unix second at which that window ends."),
        "RateLimit" => (
            "string",
            "Calls left in each limited window (draft-ietf-httpapi-ratelimit-headers).",
        ),
        "RateLimit-Policy" => (
            "string",
            "Calls allowed in each limited window (draft-ietf-httpapi-ratelimit-headers).",
        ),
        _ => ("string", ""),
    };
    json!({ "description": description, "schema": { "type": kind } })
}

/// Completes an operation with what it has in common with others, and its examples.
fn complete(
    path: &str,
    method: &str,
    operation: &mut Value,
    examples: &mut Map<String, Value>,
) -> Result<(), DocumentError> {
    let is_open = operation["security"].as_array().is_some_and(Vec::is_empty);
    let is_metered = operation["tags"] == json!(["examples"]);
    let has_body = operation.get("requestBody").is_some();
    if !is_open {
        operation["security"] = json!([{ "apiKey": [] }, { "bearer": [] }]);
    }
    let id = operation["operationId"]
        .as_str()
        .unwrap_or_default()
        .to_owned();
    let mut example = examples.remove(&id).unwrap_or_default();
    if let Some(request) = example.as_object_mut().and_then(|it| it.remove("request")) {
        operation["requestBody"]["content"]["application/json"]["example"] = request;
        operation["requestBody"]["required"] = true.into();
    }
    for (status, response) in members(&mut operation["responses"]) {
        if !status.starts_with('2') {
            continue;
        }
        if response["headers"].get("Cache-Control").is_none() {
            response["headers"]["Cache-Control"] = header("Cache-Control");
        }
        if is_metered {
            for name in LIMIT_HEADERS {
                response["headers"][name] = header(name);
            }
        }
        let of_status = example.as_object_mut().and_then(|it| it.remove(status));
        if let Some(value) = of_status {
            response["content"]["application/json"]["example"] = value;
        }
    }
    if let Some(unused) = example.as_object().and_then(|it| it.keys().next()) {
        let what = format!("{id} {unused} ({method} {path})");
        return Err(DocumentError::UnusedExample(what));
    }
    let mut common = vec![
        ("400", "BadRequest"),
        ("500", "ServerError"),
        ("502", "ServerError"),
    ];
    common.extend([
        ("429", "TooManyRequests"),
        ("503", "Unavailable"),
        ("504", "Timeout"),
    ]);
    if !is_open {
        common.extend([("401", "Unauthorized"), ("403", "Forbidden")]);
    }
    if has_body {
        common.extend([("413", "BodyTooLarge"), ("415", "UnsupportedMediaType")]);
    }
    for (status, name) in common {
        let reference = json!({ "$ref": format!("#/components/responses/{name}") });
        let responses = &mut operation["responses"];
        if responses.get(status).is_none() {
            responses[status] = reference;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::{LIMIT_HEADERS, schema_of_problem};
    use crate::context;
    use crate::problem::Member;

    #[test]
    fn the_schema_of_problems_has_every_member() {
        let schema = schema_of_problem();
        let mut declared: Vec<&str> = vec!["type", "title", "status", "detail", "request_id"];
        declared.extend(Member::ALL.iter().map(|member| member.name()));
        declared.sort_unstable();
        let properties = schema["properties"].as_object().unwrap();
        let properties: Vec<&str> = properties.keys().map(String::as_str).collect();
        assert_eq!(properties, declared);
    }

    #[test]
    fn the_documented_limit_headers_are_those_of_the_context() {
        let sent = context::LIMIT_HEADERS.map(|(name, _)| name);
        assert_eq!(LIMIT_HEADERS.map(str::to_ascii_lowercase), sent);
    }
}
