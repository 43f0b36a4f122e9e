//! An HTTP client for the AWS SDK that calls a function in place of a network.

use aws_smithy_runtime_api::client::http::{
    HttpClient, HttpConnector, HttpConnectorFuture, HttpConnectorSettings, SharedHttpClient,
    SharedHttpConnector,
};
use aws_smithy_runtime_api::client::orchestrator::{HttpRequest, HttpResponse};
use aws_smithy_runtime_api::client::result::ConnectorError;
use aws_smithy_runtime_api::client::runtime_components::RuntimeComponents;
use aws_smithy_types::body::SdkBody;

use crate::Call;

/// Returns a client that passes each call to `service`, which returns the status and body of the
/// response, or `None` for a lost connection.
pub fn http_client<F, A>(service: F) -> SharedHttpClient
where
    F: Fn(Call) -> A + Clone + Send + Sync + 'static,
    A: Future<Output = Option<(u16, String)>> + Send + 'static,
{
    SharedHttpClient::new(Wire(service))
}

#[derive(Clone)]
struct Wire<F>(F);

impl<F> std::fmt::Debug for Wire<F> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Wire")
    }
}

impl<F, A> HttpClient for Wire<F>
where
    F: Fn(Call) -> A + Clone + Send + Sync + 'static,
    A: Future<Output = Option<(u16, String)>> + Send + 'static,
{
    fn http_connector(
        &self,
        _: &HttpConnectorSettings,
        _: &RuntimeComponents,
    ) -> SharedHttpConnector {
        SharedHttpConnector::new(self.clone())
    }
}

impl<F, A> HttpConnector for Wire<F>
where
    F: Fn(Call) -> A + Clone + Send + Sync + 'static,
    A: Future<Output = Option<(u16, String)>> + Send + 'static,
{
    fn call(&self, request: HttpRequest) -> HttpConnectorFuture {
        let target = request.headers().get("x-amz-target").unwrap_or_default();
        let body = request.body().bytes().unwrap_or_default();
        let body = String::from_utf8_lossy(body).into_owned();
        let response = (self.0)(Call::new(target, body));
        HttpConnectorFuture::new(async move {
            let Some((status, body)) = response.await else {
                return Err(ConnectorError::io("the connection was lost".into()));
            };
            let response = http::Response::builder()
                .status(status)
                .header("content-type", "application/x-amz-json-1.0")
                .body(SdkBody::from(body))
                .map_err(|error| ConnectorError::other(error.into(), None))?;
            HttpResponse::try_from(response)
                .map_err(|error| ConnectorError::other(error.into(), None))
        })
    }
}
