//! `GET /docs` and what it loads, called as API Gateway calls them.

#![allow(clippy::unwrap_used, reason = "a failed step of a test fails the test")]

use axum::body::to_bytes;
use http::{HeaderMap, StatusCode};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use tollgate_testing::event::Event;
use tower::ServiceExt;

/// Digest of `bundles/redoc.standalone.js` in the npm package `redoc`, version 2.5.4.
const REDOC: &str = "dcaf76612bc4a3fbcc923a8966dee2f6146a5f32e5ce1b6f02dd60cbbf89500b";

struct Response {
    status: StatusCode,
    headers: HeaderMap,
    text: String,
}

impl Response {
    fn header(&self, name: &str) -> &str {
        let value = self.headers.get(name);
        value.map_or("", |value| value.to_str().unwrap())
    }
}

async fn call(event: &Event) -> Response {
    let request = tollgate_web::request_of(&event.0.to_string()).unwrap();
    let service = tollgate_web::serve(api_docs::routes());
    let response = service.oneshot(request).await.unwrap();
    let (parts, body) = response.into_parts();
    let body = to_bytes(body, usize::MAX).await.unwrap();
    Response {
        status: parts.status,
        headers: parts.headers,
        text: String::from_utf8(body.to_vec()).unwrap(),
    }
}

async fn load(name: &str) -> Response {
    let response = call(&Event::load(&format!("api-docs/{name}"))).await;
    assert_eq!(response.status, StatusCode::OK, "{}", response.text);
    assert_eq!(response.header("x-content-type-options"), "nosniff");
    response
}

#[tokio::test]
async fn the_page_may_load_nothing_of_another_origin() {
    let page = load("page").await;
    assert_eq!(page.header("content-type"), "text/html; charset=utf-8");
    assert_eq!(page.header("cache-control"), "no-store");
    assert_eq!(page.header("referrer-policy"), "no-referrer");
    assert_eq!(
        page.header("content-security-policy"),
        "default-src 'none'; script-src 'self'; connect-src 'self'; style-src 'unsafe-inline'; \
         img-src 'self' data:; worker-src blob:; base-uri 'none'; form-action 'none'; \
         frame-ancestors 'none'"
    );
    assert!(!page.text.contains("//"), "{}", page.text);
    for loaded in ["spec-url=\"docs/openapi.json\"", "src=\"docs/redoc.js\""] {
        assert!(page.text.contains(loaded), "{}", page.text);
    }
}

#[tokio::test]
async fn the_viewer_is_the_published_one() {
    let viewer = load("viewer").await;
    assert_eq!(
        viewer.header("content-type"),
        "text/javascript; charset=utf-8"
    );
    assert_eq!(viewer.header("cache-control"), "public, max-age=300");
    assert_eq!(hex::encode(Sha256::digest(&viewer.text)), REDOC);
    let licences = include_str!("../assets/redoc.LICENSE.txt");
    assert!(licences.contains("Version: \"2.5.4\""));
}

/// Returns the `servers` of the document in the response to the event with these changes.
async fn servers(change: impl FnOnce(&mut Value)) -> Value {
    let mut event = Event::load("api-docs/document");
    change(&mut event.0);
    let response = call(&event).await;
    assert_eq!(response.header("content-type"), "application/json");
    let mut document: Value = serde_json::from_str(&response.text).unwrap();
    let servers = document.as_object_mut().unwrap().remove("servers");
    let committed: Value =
        serde_json::from_str(include_str!("../../../infra/openapi.json")).unwrap();
    assert!(document == committed);
    servers.unwrap_or_default()
}

#[tokio::test]
async fn the_document_names_the_url_of_the_api() {
    let domain = "a1b2c3d4e5.execute-api.us-east-1.amazonaws.com";
    let url = |url: &str| json!([{ "url": url }]);
    let host = |event: &mut Value, host: &str| {
        event["headers"]["Host"] = host.into();
        event["multiValueHeaders"]["Host"] = json!([host]);
    };
    assert_eq!(servers(|_| ()).await, url(&format!("https://{domain}/v1")));
    let custom = servers(|event| {
        host(event, "api.example");
        event["requestContext"]["domainName"] = "api.example".into();
        event["requestContext"]["path"] = "/things/docs/openapi.json".into();
    });
    assert_eq!(custom.await, url("https://api.example/things"));
    let local = servers(|event| {
        host(event, "localhost:8787");
        for headers in ["headers", "multiValueHeaders"] {
            event[headers]
                .as_object_mut()
                .unwrap()
                .remove("X-Forwarded-Proto");
        }
        event["requestContext"]["domainName"] = "localhost".into();
        event["requestContext"]["path"] = "/docs/openapi.json".into();
    });
    assert_eq!(local.await, url("http://localhost:8787"));
    // A cache may give the response to others.
    for forged in ["evil.example", "evil.example:443", "a\"b", ""] {
        assert_eq!(
            servers(|event| host(event, forged)).await,
            Value::Null,
            "{forged}"
        );
    }
    let forged = format!("{domain}:80\"");
    assert_eq!(servers(|event| host(event, &forged)).await, Value::Null);
}

#[tokio::test]
async fn nothing_else_is_accepted() {
    for name in ["page", "document", "viewer"] {
        let event = Event::load(&format!("api-docs/{name}"));
        let path = event.0["path"].as_str().unwrap().to_owned();
        let mut with_query = event.clone();
        with_query.0["queryStringParameters"] = json!({ "v": "2" });
        with_query.0["multiValueQueryStringParameters"] = json!({ "v": ["2"] });
        for (event, status) in [
            (with_query, 400),
            (event.clone().path(&format!("{path}/elsewhere")), 404),
            (event.method("POST"), 405),
        ] {
            let response = call(&event).await;
            assert_eq!(response.status, status, "{}", response.text);
            assert_eq!(response.header("cache-control"), "no-store");
            assert_eq!(response.header("content-type"), "application/problem+json");
        }
    }
}
