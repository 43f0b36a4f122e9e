//! A stand-in that regains its state after a restart.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};

use axum::body::Body;
use http::{Method, Request, StatusCode};
use http_body_util::BodyExt;
use jiff::Timestamp;
use serde_json::Value;
use stripe_fake::{JournalError, Options, StripeFake};
use tower::ServiceExt;

/// Clock and file that outlast a stand-in.
struct Machine {
    now: Arc<AtomicI64>,
    journal: PathBuf,
}

impl Machine {
    fn new(name: &str) -> Self {
        let file = format!("stripe-fake-{name}-{}.jsonl", std::process::id());
        let journal = std::env::temp_dir().join(file);
        let _ = std::fs::remove_file(&journal);
        let now = Arc::new(AtomicI64::new(1_794_000_000));
        Self { now, journal }
    }

    async fn start(&self) -> Result<StripeFake, JournalError> {
        let now = Arc::clone(&self.now);
        let now = move || Timestamp::from_second(now.load(Ordering::Relaxed)).unwrap();
        StripeFake::open(Options::new(now), &self.journal).await
    }

    fn advance(&self, seconds: i64) {
        self.now.fetch_add(seconds, Ordering::Relaxed);
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.journal);
    }
}

async fn call(fake: &StripeFake, method: Method, path: &str, form: &str) -> Value {
    let request = Request::builder()
        .method(method)
        .uri(path)
        .header("authorization", "Bearer sk_test_stripe_fake")
        .header("idempotency-key", form)
        .body(Body::from(form.to_owned()));
    let response = fake.router().oneshot(request.unwrap()).await.unwrap();
    assert_eq!(response.status(), StatusCode::OK, "{path}");
    let body = response.into_body().collect().await.unwrap().to_bytes();
    serde_json::from_slice(&body).unwrap()
}

#[tokio::test]
async fn objects_are_there_again_after_a_restart() {
    let machine = Machine::new("restart");
    let fake = machine.start().await.unwrap();
    let customer = call(&fake, Method::POST, "/v1/customers", "name=Acme").await;
    machine.advance(3_600);
    let id = customer["id"].as_str().unwrap();
    let item = format!("customer={id}&amount=23&currency=usd&description=calls");
    let item = call(&fake, Method::POST, "/v1/invoiceitems", &item).await;
    drop(fake);

    machine.advance(3_600);
    let fake = machine.start().await.unwrap();
    let found = call(&fake, Method::GET, &format!("/v1/customers/{id}"), "").await;
    assert_eq!(found["created"], customer["created"]);
    let items = call(
        &fake,
        Method::GET,
        &format!("/v1/invoiceitems?customer={id}"),
        "",
    )
    .await;
    assert_eq!(items["data"], Value::Array(vec![item.clone()]));
    assert_eq!(fake.now().as_second(), 1_794_007_200);
    // New objects have other ids, and a repeated request finds the first.
    let other = call(&fake, Method::POST, "/v1/customers", "name=Bolt").await;
    assert_ne!(other["id"], customer["id"]);
    let again = call(&fake, Method::POST, "/v1/customers", "name=Acme").await;
    assert_eq!(again["id"], customer["id"]);
    drop(fake);
    let fake = machine.start().await.unwrap();
    let path = format!("/v1/customers/{}", other["id"].as_str().unwrap());
    assert_eq!(call(&fake, Method::GET, &path, "").await, other);
}

#[tokio::test]
async fn a_request_that_was_not_written_to_its_end_has_not_happened() {
    let machine = Machine::new("cut");
    let fake = machine.start().await.unwrap();
    let first = call(&fake, Method::POST, "/v1/customers", "name=Acme").await;
    call(&fake, Method::POST, "/v1/customers", "name=Bolt").await;
    drop(fake);
    let text = std::fs::read_to_string(&machine.journal).unwrap();
    std::fs::write(&machine.journal, &text[..text.len() - 3]).unwrap();
    let fake = machine.start().await.unwrap();
    let all = call(&fake, Method::GET, "/v1/customers", "").await;
    assert_eq!(all["data"], Value::Array(vec![first]));
    call(&fake, Method::POST, "/v1/customers", "name=Cato").await;
    drop(fake);
    let fake = machine.start().await.unwrap();
    let all = call(&fake, Method::GET, "/v1/customers", "").await;
    assert_eq!(all["data"].as_array().unwrap().len(), 2);
}

#[tokio::test]
async fn a_file_of_something_else_is_rejected_and_stays() {
    let machine = Machine::new("other");
    std::fs::write(&machine.journal, "not a journal\n").unwrap();
    let error = machine.start().await.err().unwrap();
    assert!(matches!(error, JournalError::Line(_, 1)), "{error}");
    let text = std::fs::read_to_string(&machine.journal).unwrap();
    assert_eq!(text, "not a journal\n");
}
