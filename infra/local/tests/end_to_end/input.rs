//! Requests that make no sense.

use std::io::Read;

use axum::body::Body;
use flate2::Compression;
use flate2::read::GzEncoder;
use http::{Method, StatusCode};
use serde_json::json;

use crate::site::{Site, send};

pub(crate) async fn bad_bodies_are_refused_by_name(site: Site) {
    let post = async |body: &[u8]| {
        let headers = [("content-type", "application/json")];
        let body = Body::from(body.to_vec());
        let path = "/admin/customers";
        let answer = site.admin.send(Method::POST, path, &headers, body);
        answer.await.unwrap()
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
        let answer = post(body).await;
        site.assert_problem(&answer, StatusCode::BAD_REQUEST, "bad-request");
        let problem = answer.json();
        let named = problem.get("field").and_then(|field| field.as_str());
        assert_eq!(named, field, "{}", answer.text);
    }
    for (body, field) in [
        (&b"{\"plan\":\"platinum\"}"[..], "plan"),
        (b"{\"plan\":\"free\",\"id\":\"..\"}", "id"),
    ] {
        let answer = post(body).await;
        site.assert_problem(&answer, StatusCode::UNPROCESSABLE_ENTITY, "unprocessable");
        assert_eq!(answer.json()["field"], field, "{}", answer.text);
    }
    let large = vec![b' '; 1024 * 1024 + 1];
    let answer = post(&large).await;
    site.assert_problem(&answer, StatusCode::PAYLOAD_TOO_LARGE, "body-too-large");
}

pub(crate) async fn a_body_may_come_in_gzip(site: Site) {
    let body = json!({ "id": site.name("gzip"), "plan": "free" }).to_string();
    let mut gzip = Vec::new();
    let mut encoder = GzEncoder::new(body.as_bytes(), Compression::default());
    encoder.read_to_end(&mut gzip).unwrap();
    let headers = [
        ("content-type", "application/json"),
        ("content-encoding", "gzip"),
    ];
    let path = "/admin/customers";
    let answer = site.admin.send(Method::POST, path, &headers, gzip.into());
    let answer = answer.await.unwrap();
    if !site.is_emulated() {
        assert_eq!(answer.status, StatusCode::CREATED, "{}", answer.text);
    }
}

pub(crate) async fn a_billing_run_is_asked_for_in_so_many_words(site: Site) {
    let answer = site.admin.post("/admin/billing/run", json!({}));
    let answer = answer.await.unwrap();
    site.assert_problem(&answer, StatusCode::UNPROCESSABLE_ENTITY, "unprocessable");
    assert_eq!(answer.json()["field"], "dry_run", "{}", answer.text);
}

pub(crate) async fn bad_queries_are_refused_by_name(site: Site) {
    for query in [
        "cursor=x",
        "limit=0",
        "limit=101",
        "limit=many",
        "colour=red",
    ] {
        let path = format!("/admin/customers?{query}");
        let answer = site.admin.get(&path).await.unwrap();
        site.assert_problem(&answer, StatusCode::BAD_REQUEST, "bad-request");
    }
}

pub(crate) async fn what_does_not_exist_is_not_found(site: Site) {
    for path in ["/", "/nothing", "/api/secure", "/admin/api-keys/a/b/c"] {
        let answer = site.admin.get(path).await.unwrap();
        site.assert_problem(&answer, StatusCode::NOT_FOUND, "not-found");
    }
    let missing = [
        "/admin/api-keys/tg_live_00000000",
        "/admin/customers/nobody",
    ];
    for path in missing {
        let answer = site.admin.get(path).await.unwrap();
        site.assert_problem(&answer, StatusCode::NOT_FOUND, "not-found");
    }
    let answer = send(&site.admin, Method::DELETE, missing[0]).await;
    site.assert_problem(&answer, StatusCode::NOT_FOUND, "not-found");
    let body = json!({ "plan": "free" });
    let answer = site
        .admin
        .json(Method::PATCH, missing[1], body)
        .await
        .unwrap();
    site.assert_problem(&answer, StatusCode::NOT_FOUND, "not-found");
}
