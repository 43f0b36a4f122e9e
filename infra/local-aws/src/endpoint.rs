//! A DynamoDB at an HTTP endpoint, called as if it were in process.

use std::io;
use std::sync::mpsc::{SyncSender, sync_channel};
use std::thread;
use std::time::Duration;

use http::{Request, Uri};
use http_body_util::BodyExt;
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use serde_json::json;
use tokio::runtime::Builder;
use tokio::sync::mpsc::{UnboundedSender, unbounded_channel};
use tollgate_runtime::Chain;

use crate::Answer;

/// Far longer than an answer takes. What has none by then fails, instead of waiting for ever.
const PATIENCE: Duration = Duration::from_secs(60);

type Failure = Box<dyn std::error::Error + Send + Sync>;

/// Calls are made on a thread of its own, and whoever makes one blocks until it is answered, as
/// for the embedded engine. To wait asynchronously would be wrong: a runtime whose tasks all wait
/// is idle, and one that is idle with its clock paused lets the time-outs of its tests pass.
pub(crate) struct Endpoint {
    url: Uri,
    authorization: String,
    calls: UnboundedSender<Call>,
}

struct Call {
    request: Request<String>,
    answered: SyncSender<Result<Answer, Failure>>,
}

impl Endpoint {
    /// Nothing is sent yet. Signatures are left out: it is the access key alone by which DynamoDB
    /// Local tells one database from another.
    pub(crate) fn new(url: Uri, access_key_id: &str) -> io::Result<Self> {
        let (calls, mut received) = unbounded_channel::<Call>();
        let runtime = Builder::new_current_thread().enable_io().build()?;
        let serve = async move {
            let client = Client::builder(TokioExecutor::new()).build_http();
            while let Some(call) = received.recv().await {
                let client = client.clone();
                tokio::spawn(async move {
                    // Whoever called may have lost patience.
                    let _ = call.answered.send(send(&client, call.request).await);
                });
            }
        };
        thread::Builder::new()
            .name("dynamodb-endpoint".to_owned())
            .spawn(move || runtime.block_on(serve))?;
        Ok(Self {
            url,
            authorization: format!(
                "AWS4-HMAC-SHA256 \
                 Credential={access_key_id}/20260101/us-east-1/dynamodb/aws4_request, \
                 SignedHeaders=host, Signature=0"
            ),
            calls,
        })
    }

    pub(crate) fn answer(&self, operation: &str, body: &str) -> Answer {
        self.call(operation, body).unwrap_or_else(|error| Answer {
            status: 500,
            body: json!({
                "__type": "InternalServerError",
                "message": Chain(&*error).to_string(),
            })
            .to_string(),
        })
    }

    fn call(&self, operation: &str, body: &str) -> Result<Answer, Failure> {
        let request = Request::post(self.url.clone())
            .header("content-type", "application/x-amz-json-1.0")
            .header("x-amz-target", format!("DynamoDB_20120810.{operation}"))
            .header("authorization", &self.authorization)
            .body(body.to_owned())?;
        let (answered, answer) = sync_channel(1);
        self.calls.send(Call { request, answered })?;
        answer.recv_timeout(PATIENCE)?
    }
}

async fn send(
    client: &Client<HttpConnector, String>,
    request: Request<String>,
) -> Result<Answer, Failure> {
    let response = client.request(request).await?;
    let status = response.status().as_u16();
    let body = response.into_body().collect().await?.to_bytes();
    Ok(Answer {
        status,
        body: String::from_utf8(body.into())?,
    })
}
