//! A synchronous client of DynamoDB at an HTTP endpoint.

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

use crate::ApiResponse;

/// Timeout of one call: far longer than a response takes.
const CALL_TIMEOUT: Duration = Duration::from_secs(60);

type CallError = Box<dyn std::error::Error + Send + Sync>;

/// Client of one endpoint. It sends requests from its own thread, and the calling thread blocks until
/// the response arrives, as with the embedded engine. Waiting asynchronously would be wrong: a Tokio
/// runtime whose tasks all wait is idle, and an idle runtime with a paused clock advances that clock, so
/// that the timeouts of its tests would fire.
pub(crate) struct Endpoint {
    url: Uri,
    authorization: String,
    calls: UnboundedSender<Call>,
}

struct Call {
    request: Request<String>,
    responder: SyncSender<Result<ApiResponse, CallError>>,
}

impl Endpoint {
    /// Creates a client; sends nothing yet. Requests are not signed: DynamoDB Local selects the database
    /// by the access key alone.
    pub(crate) fn new(url: Uri, access_key_id: &str) -> io::Result<Self> {
        let (calls, mut received) = unbounded_channel::<Call>();
        let runtime = Builder::new_current_thread().enable_io().build()?;
        let serve = async move {
            let client = Client::builder(TokioExecutor::new()).build_http();
            while let Some(call) = received.recv().await {
                let client = client.clone();
                tokio::spawn(async move {
                    // The caller may have timed out.
                    let _ = call.responder.send(send(&client, call.request).await);
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

    pub(crate) fn call(&self, operation: &str, body: &str) -> ApiResponse {
        self.try_call(operation, body)
            .unwrap_or_else(|error| ApiResponse {
                status: 500,
                body: json!({
                    "__type": "InternalServerError",
                    "message": Chain(&*error).to_string(),
                })
                .to_string(),
            })
    }

    fn try_call(&self, operation: &str, body: &str) -> Result<ApiResponse, CallError> {
        let request = Request::post(self.url.clone())
            .header("content-type", "application/x-amz-json-1.0")
            .header("x-amz-target", format!("DynamoDB_20120810.{operation}"))
            .header("authorization", &self.authorization)
            .body(body.to_owned())?;
        let (responder, response) = sync_channel(1);
        self.calls.send(Call { request, responder })?;
        response.recv_timeout(CALL_TIMEOUT)?
    }
}

async fn send(
    client: &Client<HttpConnector, String>,
    request: Request<String>,
) -> Result<ApiResponse, CallError> {
    let response = client.request(request).await?;
    let status = response.status().as_u16();
    let body = response.into_body().collect().await?.to_bytes();
    Ok(ApiResponse {
        status,
        body: String::from_utf8(body.into())?,
    })
}
