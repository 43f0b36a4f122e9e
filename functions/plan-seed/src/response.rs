//! Responses to CloudFormation, which it reads from an object in S3.

use std::time::Duration;

use aws_smithy_async::rt::sleep::TokioSleep;
use aws_smithy_runtime::client::orchestrator::operation::Operation;
use aws_smithy_runtime::client::retries::classifiers::{
    HttpStatusCodeClassifier, TransientErrorClassifier,
};
use aws_smithy_runtime_api::client::http::SharedHttpClient;
use aws_smithy_runtime_api::client::orchestrator::{HttpRequest, HttpResponse, OrchestratorError};
use aws_smithy_runtime_api::client::result::SdkError;
use aws_smithy_types::body::SdkBody;
use aws_smithy_types::retry::RetryConfig;
use aws_types::SdkConfig;
use http::Uri;
use serde::Serialize;
use tollgate_runtime::aws;

use crate::event::{Event, ResponseUrl};

/// Longest time for sending a response, all tries included.
pub const RESPONSE_TIME: Duration = Duration::from_secs(10);
const TRIES: u32 = 4;

/// Id of the resource: a stack has one set of plans. CloudFormation deletes a resource whose id changes.
const PHYSICAL_ID: &str = "plans";
/// Longest reason, in characters. CloudFormation accepts a response of up to 4,096 bytes, and a character takes
/// up to six in JSON.
const MAX_REASON: usize = 600;

/// A response to CloudFormation.
#[derive(Debug, Serialize)]
#[serde(rename_all = "PascalCase")]
pub(crate) struct Response<'a> {
    status: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<String>,
    physical_resource_id: &'a str,
    stack_id: &'a str,
    request_id: &'a str,
    logical_resource_id: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    data: Option<SeedData>,
}

/// Attributes of the resource.
#[derive(Debug, Serialize)]
#[serde(rename_all = "PascalCase")]
pub(crate) struct SeedData {
    /// `seeded`, `unchanged` or `differs`.
    pub(crate) outcome: &'static str,
    /// Sentence for the operator.
    pub(crate) message: String,
}

impl<'a> Response<'a> {
    fn new(event: &'a Event, status: &'static str) -> Self {
        Self {
            status,
            reason: None,
            physical_resource_id: PHYSICAL_ID,
            stack_id: &event.stack_id,
            request_id: &event.request_id,
            logical_resource_id: &event.logical_resource_id,
            data: None,
        }
    }

    /// Creates the response to a request that was fulfilled.
    pub(crate) fn seeded(event: &'a Event, data: SeedData) -> Self {
        Self {
            data: Some(data),
            ..Self::new(event, "SUCCESS")
        }
    }

    /// Creates the response to a request that failed, with the reason that CloudFormation displays.
    pub(crate) fn failed(event: &'a Event, reason: &str) -> Self {
        Self {
            reason: Some(reason.chars().take(MAX_REASON).collect()),
            ..Self::new(event, "FAILED")
        }
    }

    /// Creates the response to a deletion, which repeats the resource's id: it is CloudFormation's own if the
    /// resource was never created.
    pub(crate) fn deleted(event: &'a Event) -> Self {
        let id = event.physical_resource_id.as_deref();
        Self {
            physical_resource_id: id.unwrap_or(PHYSICAL_ID),
            ..Self::new(event, "SUCCESS")
        }
    }
}

/// Error: CloudFormation did not get the response. It does not contain the response URL.
#[derive(Debug, thiserror::Error)]
pub enum ResponseError {
    /// The response could not be built.
    #[error("the response to CloudFormation could not be built")]
    Json(#[from] serde_json::Error),
    /// The response URL is not a URL.
    #[error("the response URL of CloudFormation is not a URL")]
    Url,
    /// S3 did not accept the response.
    #[error("S3 did not accept the response to CloudFormation")]
    Rejected(#[from] Rejected),
    /// The response was lost.
    #[error("the response to CloudFormation could not be sent")]
    Unsent(#[source] Box<dyn std::error::Error + Send + Sync>),
}

/// Response of S3 that is not a success.
#[derive(Debug, thiserror::Error)]
#[error("the status is {0}")]
pub struct Rejected(u16);

/// Sends responses to CloudFormation. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Responder {
    client: Option<SharedHttpClient>,
}

impl Responder {
    /// Creates one that uses the HTTP client of the AWS clients.
    #[must_use]
    pub fn new(sdk: &SdkConfig) -> Self {
        Self {
            client: sdk.http_client(),
        }
    }

    /// Sends a response, with retries.
    ///
    /// # Errors
    /// When it could not be sent within [`RESPONSE_TIME`].
    pub(crate) async fn send(
        &self,
        url: &ResponseUrl,
        response: &Response<'_>,
    ) -> Result<(), ResponseError> {
        let body = serde_json::to_vec(response)?;
        let url: Uri = url.expose().parse().map_err(|_| ResponseError::Url)?;
        let (Some(scheme), Some(authority)) = (url.scheme(), url.authority()) else {
            return Err(ResponseError::Url);
        };
        // Without path and query, which are the credential: the SDK logs endpoints.
        let endpoint = format!("{scheme}://{authority}");
        let path = url.path_and_query().map_or("/", |path| path.as_str());
        let path = path.to_owned();
        let mut operation = Operation::builder()
            .service_name("CloudFormation")
            .operation_name("Respond")
            .endpoint_url(&endpoint)
            .no_auth()
            .sleep_impl(TokioSleep::new())
            .timeout_config(aws::timeouts(RESPONSE_TIME))
            .standard_retry(&RetryConfig::standard().with_max_attempts(TRIES))
            .retry_classifier(TransientErrorClassifier::<Rejected>::new())
            .retry_classifier(HttpStatusCodeClassifier::default())
            .serializer(move |()| {
                let mut request = HttpRequest::new(SdkBody::from(body.clone()));
                request.set_method("PUT")?;
                request.set_uri(path.clone())?;
                // The signature is that of a request without a type.
                request.headers_mut().insert("content-type", "");
                Ok(request)
            })
            .deserializer(accepted);
        if let Some(client) = self.client.clone() {
            operation = operation.http_client(client);
        }
        let sent = operation.build().invoke(()).await;
        sent.map_err(|error| match error {
            SdkError::ServiceError(rejected) => rejected.into_err().into(),
            // Without the request, which has the URL.
            error => {
                let source = error.into_source();
                ResponseError::Unsent(source.unwrap_or_else(|error| Box::new(error)))
            }
        })
    }
}

fn accepted(response: &HttpResponse) -> Result<(), OrchestratorError<Rejected>> {
    let status = response.status();
    match status.is_success() {
        true => Ok(()),
        false => Err(OrchestratorError::operation(Rejected(status.as_u16()))),
    }
}
