//! Cases about invalid requests.

use std::io::Read;

use axum::body::Body;
use flate2::Compression;
use flate2::read::GzEncoder;
use http::{Method, StatusCode};
use serde_json::json;

use crate::site::{Site, send};

pub(crate) async fn errors_in_bodies_name_the_field(site: Site) {
    let post = async |body: &[u8]| {
        let headers = [("content-type", "application/json")];
        let body = Body::from(body.to_vec());
        let path = "/admin/customers";
        let response = site.admin.send(Method::POST, path, &headers, body);
        response.await.unwrap()
    };
    for (body, field) in [
        (&b"{"[..], None),
        (b"", None),
        (b"[]", None),
        (b"{\"plan\":\"free\"} x", None),
        (b"{\"plan\":5}", Some("plan")),
        (b"{\"plan\":\"free\",\"colour\":1}", Some("colour")),
        (b"{\"plan\":\"free\",\"id\":\"a b\"}", Some("id")),
    ] {
        let response = post(body).await;
        site.assert_problem(&response, StatusCode::BAD_REQUEST, "bad-request");
        let problem = response.json();
        let named = problem.get("field").and_then(|field| field.as_str());
        assert_eq!(named, field, "{}", response.text);
    }
    for (body, field) in [
        (&b"{\"plan\":\"platinum\"}"[..], "plan"),
        (b"{\"plan\":\"free\",\"id\":\"..\"}", "id"),
    ] {
        let response = post(body).await;
        site.assert_problem(&response, StatusCode::UNPROCESSABLE_ENTITY, "unprocessable");
        assert_eq!(response.json()["field"], field, "{}", response.text);
    }
    let large = vec![b' '; 1024 * 1024 + 1];
    let response = post(&large).await;
    site.assert_problem(&response, StatusCode::PAYLOAD_TOO_LARGE, "body-too-large");
}

pub(crate) async fn a_body_may_be_compressed_with_gzip(site: Site) {
    let body = json!({ "id": site.name("gzip"), "plan": "free" }).to_string();
    let mut gzip = Vec::new();
    let mut encoder = GzEncoder::new(body.as_bytes(), Compression::default());
    encoder.read_to_end(&mut gzip).unwrap();
    let headers = [
        ("content-type", "application/json"),
        ("content-encoding", "gzip"),
    ];
    let path = "/admin/customers";
    let response = site.admin.send(Method::POST, path, &headers, gzip.into());
    let response = response.await.unwrap();
    if !site.is_emulated() {
        assert_eq!(response.status, StatusCode::CREATED, "{}", response.text);
    }
}

pub(crate) async fn a_billing_run_requires_the_member_dry_run(site: Site) {
    let response = site.admin.post("/admin/billing/run", json!({}));
    let response = response.await.unwrap();
    site.assert_problem(&response, StatusCode::UNPROCESSABLE_ENTITY, "unprocessable");
    assert_eq!(response.json()["field"], "dry_run", "{}", response.text);
}

pub(crate) async fn invalid_queries_are_rejected(site: Site) {
    for query in [
        "cursor=x",
        "limit=0",
        "limit=101",
        "limit=many",
        "colour=red",
    ] {
        let path = format!("/admin/customers?{query}");
        let response = site.admin.get(&path).await.unwrap();
        site.assert_problem(&response, StatusCode::BAD_REQUEST, "bad-request");
    }
}

pub(crate) async fn missing_resources_are_not_found(site: Site) {
    for path in ["/", "/nothing", "/api/secure", "/admin/api-keys/a/b/c"] {
        let response = site.admin.get(path).await.unwrap();
        site.assert_problem(&response, StatusCode::NOT_FOUND, "not-found");
    }
    let missing = [
        "/admin/api-keys/tg_live_00000000",
        "/admin/customers/nobody",
    ];
    for path in missing {
        let response = site.admin.get(path).await.unwrap();
        site.assert_problem(&response, StatusCode::NOT_FOUND, "not-found");
    }
    let response = send(&site.admin, Method::DELETE, missing[0]).await;
    site.assert_problem(&response, StatusCode::NOT_FOUND, "not-found");
    let body = json!({ "plan": "free" });
    let response = site
        .admin
        .json(Method::PATCH, missing[1], body)
        .await
        .unwrap();
    site.assert_problem(&response, StatusCode::NOT_FOUND, "not-found");
}

pub(crate) async fn the_api_reference_needs_no_key(site: Site) {
    let page = send(&site.anyone, Method::GET, "/docs").await;
    assert_eq!(page.status, StatusCode::OK, "{}", page.text);
    assert_eq!(page.header("content-type"), "text/html; charset=utf-8");
    let document = send(&site.anyone, Method::GET, "/docs/openapi.json").await;
    assert_eq!(document.status, StatusCode::OK);
    let operation = &document.json()["paths"]["/docs/openapi.json"]["get"];
    assert_eq!(operation["security"], json!([]), "{operation}");
}
