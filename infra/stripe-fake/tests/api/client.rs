//! Client of the stand-in for tests: calls its router without sockets.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};

use axum::Router;
use axum::body::Body;
use http::header::{AUTHORIZATION, CONTENT_TYPE, LOCATION};
use http::{HeaderMap, Request};
use http_body_util::BodyExt;
use jiff::Timestamp;
use serde_json::Value;
use stripe_fake::{ConnectionLost, Options, StripeFake};
use tower::ServiceExt;

/// Clock and client of one stand-in.
pub(crate) struct Api {
    pub(crate) fake: StripeFake,
    router: Router,
    now: Arc<AtomicI64>,
    pub(crate) key: String,
}

/// Response of the API.
#[derive(Debug, Clone)]
pub(crate) struct Reply {
    pub(crate) status: u16,
    pub(crate) json: Value,
    pub(crate) text: String,
    pub(crate) headers: HeaderMap,
}

pub(crate) fn at(text: &str) -> i64 {
    text.parse::<Timestamp>().unwrap().as_second()
}

impl Api {
    pub(crate) fn new() -> Self {
        Self::with(|_| {})
    }

    pub(crate) fn with(change: impl FnOnce(&mut Options)) -> Self {
        let now = Arc::new(AtomicI64::new(at("2026-11-17T12:00:00Z")));
        let clock = Arc::clone(&now);
        let mut options =
            Options::new(move || Timestamp::from_second(clock.load(Ordering::Relaxed)).unwrap());
        change(&mut options);
        let key = options.test_key.clone();
        let fake = StripeFake::new(options);
        Self {
            router: fake.router(),
            fake,
            now,
            key,
        }
    }

    /// Sets the clock.
    pub(crate) fn set(&self, time: &str) {
        self.now.store(at(time), Ordering::Relaxed);
    }

    pub(crate) fn now(&self) -> i64 {
        self.now.load(Ordering::Relaxed)
    }

    pub(crate) fn pass(&self, seconds: i64) {
        self.now.fetch_add(seconds, Ordering::Relaxed);
    }

    pub(crate) async fn request(&self, request: Request<Body>) -> Result<Reply, ConnectionLost> {
        let response = self.router.clone().oneshot(request).await.unwrap();
        if let Some(lost) = response.extensions().get::<ConnectionLost>() {
            return Err(*lost);
        }
        let (parts, body) = response.into_parts();
        let body = body.collect().await.unwrap().to_bytes();
        let text = String::from_utf8(body.to_vec()).unwrap();
        Ok(Reply {
            status: parts.status.as_u16(),
            json: serde_json::from_str(&text).unwrap_or_default(),
            text,
            headers: parts.headers,
        })
    }

    pub(crate) fn build(
        &self,
        method: &str,
        path: &str,
        form: &str,
        headers: &[(&str, &str)],
    ) -> Request<Body> {
        let mut request = Request::builder()
            .method(method)
            .header(CONTENT_TYPE, "application/x-www-form-urlencoded");
        if !headers
            .iter()
            .any(|(name, _)| name.eq_ignore_ascii_case("authorization"))
        {
            request = request.header(AUTHORIZATION, format!("Bearer {}", self.key));
        }
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let (uri, body) = match method {
            "POST" => (path.to_owned(), form.to_owned()),
            _ if form.is_empty() => (path.to_owned(), String::new()),
            _ => (format!("{path}?{form}"), String::new()),
        };
        request.uri(uri).body(Body::from(body)).unwrap()
    }

    pub(crate) async fn call(&self, method: &str, path: &str, form: &str) -> Reply {
        self.request(self.build(method, path, form, &[]))
            .await
            .unwrap()
    }

    /// Posts with an idempotency key.
    pub(crate) async fn post_with_key(
        &self,
        path: &str,
        form: &str,
        key: &str,
    ) -> Result<Reply, ConnectionLost> {
        let headers = [("idempotency-key", key)];
        self.request(self.build("POST", path, form, &headers)).await
    }

    pub(crate) async fn post(&self, path: &str, form: &str) -> Value {
        let reply = self.call("POST", path, form).await;
        assert_eq!(reply.status, 200, "POST {path} {form}: {}", reply.text);
        reply.json
    }

    pub(crate) async fn get(&self, path: &str, query: &str) -> Value {
        let reply = self.call("GET", path, query).await;
        assert_eq!(reply.status, 200, "GET {path} {query}: {}", reply.text);
        reply.json
    }

    pub(crate) async fn delete(&self, path: &str) -> Value {
        let reply = self.call("DELETE", path, "").await;
        assert_eq!(reply.status, 200, "DELETE {path}: {}", reply.text);
        reply.json
    }

    /// Checks that a request fails with a status, a code and a parameter.
    #[track_caller]
    pub(crate) fn check_error(&self, reply: &Reply, status: u16, code: &str, param: &str) {
        let error = &reply.json["error"];
        let actual = (
            reply.status,
            error["code"].as_str().unwrap_or_default(),
            error["param"].as_str().unwrap_or_default(),
        );
        assert_eq!(actual, (status, code, param), "{}", reply.text);
    }

    pub(crate) async fn page(&self, url: &str) -> Reply {
        let path = path_of(url);
        self.request(Request::get(path).body(Body::empty()).unwrap())
            .await
            .unwrap()
    }

    /// Submits a form of a page, and returns where the browser goes.
    pub(crate) async fn submit(&self, url: &str, form: &str) -> (Reply, String) {
        let request = Request::post(path_of(url)).body(Body::from(form.to_owned()));
        let reply = self.request(request.unwrap()).await.unwrap();
        let location = reply
            .headers
            .get(LOCATION)
            .map(|value| value.to_str().unwrap().to_owned());
        (reply, location.unwrap_or_default())
    }

    /// Creates a customer with a card, and returns the id.
    pub(crate) async fn customer(&self) -> String {
        let form = "email=a@example.com&payment_method=pm_card_visa\
                    &invoice_settings[default_payment_method]=pm_card_visa";
        id(&self.post("/v1/customers", form).await)
    }

    /// Creates a monthly price in cents, and returns the id.
    pub(crate) async fn price(&self, cents: i64) -> String {
        let form = format!(
            "currency=usd&unit_amount={cents}&recurring[interval]=month&product_data[name]=Plan {cents}"
        );
        id(&self.post("/v1/prices", &form).await)
    }

    /// Starts a subscription, and returns it.
    pub(crate) async fn subscribe(&self, customer: &str, price: &str, more: &str) -> Value {
        let form = format!("customer={customer}&items[0][price]={price}{more}");
        self.post("/v1/subscriptions", &form).await
    }

    /// Creates a pending item, and returns the id.
    pub(crate) async fn item(&self, customer: &str, cents: i64, more: &str) -> String {
        let form = format!("customer={customer}&amount={cents}&currency=usd{more}");
        id(&self.post("/v1/invoiceitems", &form).await)
    }

    /// Returns the types of events so far, from the oldest.
    pub(crate) async fn event_types(&self) -> Vec<String> {
        let events = self.get("/v1/events", "limit=100").await;
        let types = events["data"].as_array().unwrap().iter().rev();
        types
            .map(|event| event["type"].as_str().unwrap().to_owned())
            .collect()
    }
}

pub(crate) fn id(json: &Value) -> String {
    json["id"].as_str().unwrap().to_owned()
}

pub(crate) fn ids(list: &Value) -> Vec<String> {
    list["data"].as_array().unwrap().iter().map(id).collect()
}

fn path_of(url: &str) -> &str {
    url.strip_prefix("http://127.0.0.1:12111").unwrap_or(url)
}
