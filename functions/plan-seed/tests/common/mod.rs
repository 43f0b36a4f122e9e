//! A stack without plans, and the S3 to which responses are sent.

#![allow(dead_code, reason = "each test target uses a part of it")]

use std::collections::VecDeque;
use std::sync::{Arc, Mutex};

use aws_smithy_runtime_api::client::http::{
    HttpClient, HttpConnector, HttpConnectorFuture, HttpConnectorSettings, SharedHttpClient,
    SharedHttpConnector,
};
use aws_smithy_runtime_api::client::orchestrator::{HttpRequest, HttpResponse};
use aws_smithy_runtime_api::client::result::ConnectorError;
use aws_smithy_runtime_api::client::runtime_components::RuntimeComponents;
use aws_smithy_types::body::SdkBody;
use plan_seed::{App, Event, ResponseError, handle};
use serde_json::{Value, json};
use tollgate_local_aws::fixture::Fixture;
use tollgate_local_aws::template::Stack as Template;
use tollgate_local_aws::{LocalAws, Role};
use tollgate_runtime::{Env, Init, Metrics};
use tollgate_testing::event_file;

/// Part of the response URLs that must be nowhere else.
pub(crate) const SIGNATURE: &str = "c2lnbmF0dXJl";

/// A result of sending a response.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Reply {
    Status(u16),
    Lost,
    Never,
}

/// A response to CloudFormation, as sent to S3.
#[derive(Debug, Clone)]
pub(crate) struct Sent {
    pub(crate) url: String,
    pub(crate) content_type: Option<String>,
    pub(crate) body: String,
}

/// HTTP client in front of the AWS services that keeps what is put into S3.
#[derive(Debug, Clone)]
struct S3 {
    others: SharedHttpClient,
    replies: Arc<Mutex<VecDeque<Reply>>>,
    sent: Arc<Mutex<Vec<Sent>>>,
}

impl HttpClient for S3 {
    fn http_connector(
        &self,
        settings: &HttpConnectorSettings,
        components: &RuntimeComponents,
    ) -> SharedHttpConnector {
        let others = self.others.http_connector(settings, components);
        SharedHttpConnector::new(Connector(self.clone(), others))
    }
}

#[derive(Debug)]
struct Connector(S3, SharedHttpConnector);

impl HttpConnector for Connector {
    fn call(&self, request: HttpRequest) -> HttpConnectorFuture {
        let Self(s3, others) = self;
        if request.method() != "PUT" {
            return others.call(request);
        }
        let body = request.body().bytes().unwrap();
        s3.sent.lock().unwrap().push(Sent {
            url: request.uri().to_owned(),
            content_type: request.headers().get("content-type").map(str::to_owned),
            body: String::from_utf8(body.to_vec()).unwrap(),
        });
        let reply = s3.replies.lock().unwrap().pop_front();
        HttpConnectorFuture::new(async move {
            match reply.unwrap_or(Reply::Status(200)) {
                Reply::Status(status) => Ok(HttpResponse::new(
                    status.try_into().unwrap(),
                    SdkBody::empty(),
                )),
                Reply::Lost => Err(ConnectorError::io("the connection was lost".into())),
                Reply::Never => std::future::pending().await,
            }
        })
    }
}

/// A stack whose store has no plans.
pub(crate) struct Stack {
    pub(crate) at: Fixture,
    /// Role of the function in the template, with the permissions that were used.
    pub(crate) role: Role,
    pub(crate) app: App,
    s3: S3,
}

impl Stack {
    pub(crate) fn new() -> Self {
        let at = Fixture::at("2026-11-22T10:00:00Z");
        let template = Template::built_in("test").unwrap();
        let role = template.role("PlanSeedFunction").unwrap();
        let aws: LocalAws = at.aws.in_role(&role);
        let sdk = aws.sdk_config();
        let s3 = S3 {
            others: sdk.http_client().unwrap(),
            replies: Arc::default(),
            sent: Arc::default(),
        };
        let variables = template.variables("PlanSeedFunction").unwrap();
        let init = Init {
            env: Env::from_vars(variables),
            sdk: sdk.to_builder().http_client(s3.clone()).build(),
            clock: at.clock(),
            entropy: at.entropy.clone(),
            metrics: Metrics::none(),
        };
        let app = App::build(&init).unwrap();
        Self { at, role, app, s3 }
    }

    /// Sets the results of sending the next responses.
    pub(crate) fn replies(&self, replies: impl IntoIterator<Item = Reply>) {
        *self.s3.replies.lock().unwrap() = replies.into_iter().collect();
    }

    /// Handles a request.
    pub(crate) async fn try_handle(&self, event: Value) -> Result<(), ResponseError> {
        let event: Event = serde_json::from_value(event).unwrap();
        handle(&self.app, &event).await
    }

    /// Handles a request whose response arrives, and returns that.
    pub(crate) async fn handle(&self, event: Value) -> Value {
        self.try_handle(event).await.unwrap();
        let sent = self.sent();
        serde_json::from_str(&sent.last().unwrap().body).unwrap()
    }

    /// Returns the tries to send responses.
    pub(crate) fn sent(&self) -> Vec<Sent> {
        self.s3.sent.lock().unwrap().clone()
    }
}

/// Returns the request of `events/plan-seed/<name>.json` with these plans.
pub(crate) fn request(name: &str, plans: &Value) -> Value {
    let mut event = event_file::load(&format!("plan-seed/{name}"));
    event["ResourceProperties"]["Plans"] = plans.clone();
    event
}

pub(crate) fn create() -> Value {
    request("create", &json!("shipped"))
}
