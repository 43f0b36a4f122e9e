//! A network that replies by a script, and a clock that moves only when the client waits.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::BoxFuture;
use http::{HeaderMap, Request, Response};
use tollgate_stripe::{
    Config, CustomerId, IdempotencyKey, InvoiceItem, NewInvoiceItem, SecretKey, SecretUnavailable,
    Secrets, StripeClient, StripeError, Timing, Transport, TransportError,
};

/// Reply to one request.
#[derive(Debug, Clone)]
pub(crate) enum Reply {
    Response {
        status: u16,
        headers: Vec<(&'static str, String)>,
        body: String,
    },
    /// No connection.
    NotSent,
    /// The connection is lost.
    Lost,
    /// No response ever.
    Never,
}

/// Returns a response with a body.
pub(crate) fn respond(status: u16, body: impl Into<String>) -> Reply {
    let headers = vec![("request-id", format!("req_{status}"))];
    let body = body.into();
    Reply::Response {
        status,
        headers,
        body,
    }
}

/// Returns a response whose body is an error with this code.
pub(crate) fn error(status: u16, code: &str) -> Reply {
    respond(
        status,
        format!(r#"{{"error":{{"type":"invalid_request_error","code":"{code}","message":"no"}}}}"#),
    )
}

/// Returns a response with the invoice item that [`Bench::charge`] creates.
pub(crate) fn created() -> Reply {
    respond(200, ITEM)
}

pub(crate) const ITEM: &str = r#"{"id":"ii_1","object":"invoiceitem","customer":"cus_1","amount":1234,
    "currency":"usd","date":1761609600,"livemode":false,"metadata":{"tollgate_charge":"chg_1"}}"#;

impl Reply {
    /// Adds a header field.
    pub(crate) fn with(mut self, name: &'static str, value: &str) -> Self {
        match &mut self {
            Reply::Response { headers, .. } => headers.push((name, value.to_owned())),
            other => panic!("{other:?} has no header fields"),
        }
        self
    }
}

/// Request that was sent.
#[derive(Debug, Clone)]
pub(crate) struct Sent {
    pub(crate) method: String,
    pub(crate) uri: String,
    pub(crate) headers: HeaderMap,
    pub(crate) body: String,
}

impl Sent {
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        Some(self.headers.get(name)?.to_str().unwrap())
    }
}

/// Network that replies by a script.
#[derive(Debug, Default)]
pub(crate) struct Script {
    replies: Mutex<VecDeque<Reply>>,
    sent: Mutex<Vec<Sent>>,
}

impl Transport for Script {
    fn send(
        &self,
        request: Request<Bytes>,
    ) -> BoxFuture<'_, Result<Response<Bytes>, TransportError>> {
        let (parts, body) = request.into_parts();
        self.sent.lock().unwrap().push(Sent {
            method: parts.method.to_string(),
            uri: parts.uri.to_string(),
            headers: parts.headers,
            body: String::from_utf8(body.to_vec()).unwrap(),
        });
        let reply = self.replies.lock().unwrap().pop_front();
        Box::pin(async move {
            match reply.expect("a request that the script does not have") {
                Reply::Response {
                    status,
                    headers,
                    body,
                } => {
                    let mut response = Response::builder().status(status);
                    for (name, value) in headers {
                        response = response.header(name, value);
                    }
                    Ok(response.body(body.into()).unwrap())
                }
                Reply::NotSent => Err(TransportError::NotSent("no route".into())),
                Reply::Lost => Err(TransportError::Lost("reset".into())),
                Reply::Never => std::future::pending().await,
            }
        })
    }
}

/// Clock that moves only when the client waits, and then at once. Clones share it.
#[derive(Debug, Clone, Default)]
pub(crate) struct ManualTiming(Arc<Mutex<Waits>>);

#[derive(Debug, Default)]
struct Waits {
    now: Duration,
    all: Vec<Duration>,
}

impl ManualTiming {
    pub(crate) fn advance(&self, time: Duration) {
        self.0.lock().unwrap().now += time;
    }
}

impl Timing for ManualTiming {
    fn elapsed(&self) -> Duration {
        self.0.lock().unwrap().now
    }

    fn sleep(&self, time: Duration) -> BoxFuture<'static, ()> {
        let this = self.clone();
        // Runs when it is first polled: the time limit of an attempt is not, if there is a reply.
        Box::pin(async move {
            this.0.lock().unwrap().all.push(time);
            this.advance(time);
        })
    }

    /// Returns the bits that leave a delay as long as it can be.
    fn random(&self) -> u64 {
        0
    }
}

/// Secret keys that are read one after the other, the last again and again.
#[derive(Debug)]
pub(crate) struct Keys {
    keys: Mutex<VecDeque<&'static str>>,
    reads: Mutex<u32>,
}

impl Secrets for Keys {
    fn read(&self) -> BoxFuture<'_, Result<SecretKey, SecretUnavailable>> {
        *self.reads.lock().unwrap() += 1;
        let mut keys = self.keys.lock().unwrap();
        let key = match keys.len() {
            0 | 1 => keys.front().copied(),
            _ => keys.pop_front(),
        };
        let key = key.ok_or_else(|| SecretUnavailable::new("no such parameter"));
        Box::pin(async move { SecretKey::parse(key?).map_err(SecretUnavailable::new) })
    }
}

/// A client with its script, its clock and its secret keys.
pub(crate) struct Bench {
    pub(crate) client: StripeClient,
    script: Arc<Script>,
    pub(crate) timing: ManualTiming,
    keys: Arc<Keys>,
}

impl Bench {
    pub(crate) fn new(replies: &[Reply]) -> Self {
        Self::with(replies, &["sk_test_first"], Config::default())
    }

    pub(crate) fn with(replies: &[Reply], keys: &[&'static str], config: Config) -> Self {
        let script = Arc::new(Script::default());
        script
            .replies
            .lock()
            .unwrap()
            .extend(replies.iter().cloned());
        let timing = ManualTiming::default();
        let keys = Arc::new(Keys {
            keys: Mutex::new(keys.iter().copied().collect()),
            reads: Mutex::default(),
        });
        let shared = Arc::new(timing.clone());
        let client = StripeClient::new(script.clone(), keys.clone(), shared, config);
        Self {
            client,
            script,
            timing,
            keys,
        }
    }

    /// Creates the invoice item of a charge.
    pub(crate) async fn charge(&self) -> Result<InvoiceItem, StripeError> {
        create_item(&self.client).await
    }

    /// Returns the requests that were sent.
    pub(crate) fn sent(&self) -> Vec<Sent> {
        self.script.sent.lock().unwrap().clone()
    }

    /// Returns the waits of the client, in milliseconds.
    pub(crate) fn waits_ms(&self) -> Vec<u128> {
        let waits = self.timing.0.lock().unwrap();
        waits.all.iter().map(Duration::as_millis).collect()
    }

    /// Returns the number of times that the secret key was read.
    pub(crate) fn key_reads(&self) -> u32 {
        *self.keys.reads.lock().unwrap()
    }

    /// Whether the script has come to its end.
    pub(crate) fn is_finished(&self) -> bool {
        self.script.replies.lock().unwrap().is_empty()
    }
}

/// Creates the invoice item of the charge `chg_1`.
pub(crate) async fn create_item(client: &StripeClient) -> Result<InvoiceItem, StripeError> {
    let charge: IdempotencyKey = "chg_1".parse().unwrap();
    let customer: CustomerId = "cus_1".parse().unwrap();
    let item = NewInvoiceItem {
        charge: charge.as_str(),
        key: &charge,
        customer: &customer,
        amount: 1_234,
        currency: "usd",
        description: "1,234 calls",
        subscription: None,
        period: None,
        metadata: &[],
    };
    client.create_invoice_item(&item).await
}

/// Returns the outcome of a call in short.
pub(crate) fn short<T>(outcome: &Result<T, StripeError>) -> String {
    match outcome {
        Ok(_) => "done".to_owned(),
        Err(StripeError::Rejected(rejection)) => format!("rejected: {}", rejection.status),
        Err(StripeError::Unavailable(unavailable)) => format!("unavailable: {}", unavailable.cause),
        Err(StripeError::Unknown(unknown)) => {
            let rejection = unknown
                .rejection
                .as_ref()
                .map(|it| format!(", then {}", it.status));
            format!(
                "unknown: {}{}",
                unknown.cause,
                rejection.unwrap_or_default()
            )
        }
    }
}
