//! Secrets in AWS, by name.
//!
//! Secrets Manager and Systems Manager are each called for one operation. It is made with the SDK's generic
//! operation and its signer: a client of Systems Manager takes as long to compile as all others together.

use std::fmt;

use aws_runtime::auth::SigV4OperationSigningConfig;
use aws_runtime::auth::sigv4::{self, SigV4AuthScheme};
use aws_smithy_runtime::client::orchestrator::operation::Operation;
use aws_smithy_runtime::client::retries::classifiers::{
    HttpStatusCodeClassifier, TransientErrorClassifier,
};
use aws_smithy_runtime_api::client::auth::static_resolver::StaticAuthSchemeOptionResolver;
use aws_smithy_runtime_api::client::auth::{
    AuthSchemeOptionResolverParams, SharedAuthSchemeOptionResolver,
};
use aws_smithy_runtime_api::client::identity::SharedIdentityResolver;
use aws_smithy_runtime_api::client::orchestrator::{
    HttpRequest, HttpResponse, OrchestratorError, SensitiveOutput,
};
use aws_smithy_runtime_api::client::runtime_components::RuntimeComponentsBuilder;
use aws_smithy_runtime_api::client::runtime_plugin::StaticRuntimePlugin;
use aws_smithy_types::body::SdkBody;
use aws_smithy_types::config_bag::Layer;
use aws_smithy_types::retry::RetryConfig;
use aws_types::region::SigningRegion;
use aws_types::{SdkConfig, SigningName};
use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use serde::Deserialize;
use serde_json::json;
use tollgate_stripe::{SecretKey, SecretUnavailable, Secrets};
use zeroize::Zeroizing;

/// Text of a secret. It never prints, and its memory is overwritten when it is dropped.
#[derive(Clone, PartialEq, Eq)]
pub struct SecretText(Zeroizing<String>);

impl SecretText {
    /// Returns the text.
    #[must_use]
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for SecretText {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SecretText(…)")
    }
}

/// A secret of Secrets Manager, or a parameter of Systems Manager's Parameter Store. Cheap to clone.
#[derive(Debug, Clone)]
pub struct NamedSecret {
    sdk: SdkConfig,
    service: Service,
    name: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Service {
    SecretsManager,
    ParameterStore,
}

/// Error: a secret cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum SecretError {
    /// The configuration of the AWS clients has no region or no credentials.
    #[error("the AWS clients have no region or no credentials")]
    NotConfigured,
    /// The service responded with an error: the secret does not exist, or may not be read.
    #[error("{name}: {kind}")]
    Rejected {
        /// Name of the secret.
        name: String,
        /// Type of the service's error, such as `ResourceNotFoundException`.
        kind: String,
    },
    /// The secret has no text. Secrets Manager also has binary secrets.
    #[error("{0} has no text")]
    NoText(String),
    /// The service did not respond.
    #[error("the service did not respond")]
    NoResponse(#[source] Box<dyn std::error::Error + Send + Sync>),
}

/// Response of either service.
#[derive(Deserialize)]
struct Found {
    #[serde(rename = "SecretString")]
    secret: Option<Zeroizing<String>>,
    #[serde(rename = "Parameter")]
    parameter: Option<Parameter>,
}

#[derive(Deserialize)]
struct Parameter {
    #[serde(rename = "Value")]
    value: Zeroizing<String>,
}

/// Error response of either service (<https://smithy.io/2.0/aws/protocols/aws-json-1_1-protocol.html>).
#[derive(Default, Deserialize)]
struct ErrorType {
    #[serde(default, rename = "__type")]
    kind: String,
}

impl NamedSecret {
    /// Creates a reference to a secret of Secrets Manager, or to a parameter if the name begins with `ssm:`. It
    /// is not read yet.
    #[must_use]
    pub fn new(sdk: SdkConfig, name: &str) -> Self {
        let (service, name) = match name.strip_prefix("ssm:") {
            Some(name) => (Service::ParameterStore, name),
            None => (Service::SecretsManager, name),
        };
        let name = name.to_owned();
        Self { sdk, service, name }
    }

    /// Reads the secret.
    ///
    /// # Errors
    /// When it does not exist, may not be read, or has no text.
    pub async fn read(&self) -> Result<SecretText, SecretError> {
        let operation = self.operation().ok_or(SecretError::NotConfigured)?;
        let request = match self.service {
            Service::SecretsManager => json!({ "SecretId": self.name }),
            Service::ParameterStore => json!({ "Name": self.name, "WithDecryption": true }),
        };
        let read = operation.invoke(request.to_string()).await;
        read.map_err(|error| {
            let is_response = error.as_service_error().is_some();
            match error.into_source() {
                Ok(source) if is_response => match source.downcast::<SecretError>() {
                    Ok(rejected) => *rejected,
                    Err(source) => SecretError::NoResponse(source),
                },
                Ok(source) => SecretError::NoResponse(source),
                Err(error) => SecretError::NoResponse(error.into()),
            }
        })
    }

    fn operation(&self) -> Option<Operation<String, SecretText, SecretError>> {
        let region = self.sdk.region()?.clone();
        let (service, target) = match self.service {
            Service::SecretsManager => ("secretsmanager", "secretsmanager.GetSecretValue"),
            Service::ParameterStore => ("ssm", "AmazonSSM.GetParameter"),
        };
        let endpoint = match self.sdk.endpoint_url() {
            Some(url) => url.to_owned(),
            None => format!("https://{service}.{region}.{}", domain(region.as_ref())),
        };
        let mut config = Layer::new("secret");
        config.store_put(AuthSchemeOptionResolverParams::new(()));
        config.store_put(SigV4OperationSigningConfig::default());
        config.store_put(SigningName::from_static(service));
        config.store_put(SigningRegion::from(region));
        // Keeps the response out of the SDK's own log lines.
        config.store_put(SensitiveOutput);
        let mut components = RuntimeComponentsBuilder::new("secret");
        let schemes = StaticAuthSchemeOptionResolver::new(vec![sigv4::SCHEME_ID]);
        components
            .set_auth_scheme_option_resolver(Some(SharedAuthSchemeOptionResolver::new(schemes)));
        components.push_auth_scheme(SigV4AuthScheme::new());
        let identity = SharedIdentityResolver::new(self.sdk.credentials_provider()?);
        components.set_identity_resolver(sigv4::SCHEME_ID, identity);
        let plugin = StaticRuntimePlugin::new()
            .with_config(config.freeze())
            .with_runtime_components(components);
        let mut builder = Operation::builder()
            .service_name(service)
            .operation_name(target)
            .endpoint_url(&endpoint)
            .standard_retry(
                &self
                    .sdk
                    .retry_config()
                    .cloned()
                    .unwrap_or_else(RetryConfig::standard),
            )
            .retry_classifier(TransientErrorClassifier::<SecretError>::new())
            .retry_classifier(HttpStatusCodeClassifier::default())
            .runtime_plugin(plugin);
        if let Some(client) = self.sdk.http_client() {
            builder = builder.http_client(client);
        }
        if let Some(sleep) = self.sdk.sleep_impl() {
            builder = builder.sleep_impl(sleep);
        }
        if let Some(timeouts) = self.sdk.timeout_config() {
            builder = builder.timeout_config(timeouts.clone());
        }
        let name = self.name.clone();
        let operation = builder
            .serializer(move |body: String| {
                let request = http::Request::post("/")
                    .header("content-type", "application/x-amz-json-1.1")
                    .header("x-amz-target", target)
                    .body(SdkBody::from(body))?;
                Ok(HttpRequest::try_from(request)?)
            })
            .deserializer(move |response| {
                parse(response, &name).map_err(OrchestratorError::operation)
            })
            .build();
        Some(operation)
    }
}

/// The secret's text is Stripe's secret key.
impl Secrets for NamedSecret {
    fn read(&self) -> BoxFuture<'_, Result<SecretKey, SecretUnavailable>> {
        async move {
            let text = NamedSecret::read(self).await;
            let text = text.map_err(|error| {
                // Unless the service did not respond, it lasts until the operator corrects it.
                if !matches!(error, SecretError::NoResponse(_)) {
                    report(&self.name, &error);
                }
                SecretUnavailable::new(error)
            })?;
            SecretKey::parse(text.expose()).map_err(|error| {
                report(&self.name, &error);
                SecretUnavailable::new(error)
            })
        }
        .boxed()
    }
}

/// Logs for the operator that the secret with Stripe's secret key has to be corrected.
fn report(name: &str, error: &dyn std::error::Error) {
    tracing::error!(secret = name, %error, "the secret with the secret key of Stripe cannot be used");
}

/// Reads a response.
fn parse(response: &HttpResponse, name: &str) -> Result<SecretText, SecretError> {
    let body = response.body().bytes().unwrap_or_default();
    if !response.status().is_success() {
        let error: ErrorType = serde_json::from_slice(body).unwrap_or_default();
        let kind = match error.kind.rsplit('#').next() {
            Some(kind) if !kind.is_empty() => kind.to_owned(),
            _ => format!("HTTP status {}", response.status().as_u16()),
        };
        let name = name.to_owned();
        return Err(SecretError::Rejected { name, kind });
    }
    let found: Option<Found> = serde_json::from_slice(body).ok();
    let text = found.and_then(|found| found.secret.or_else(|| Some(found.parameter?.value)));
    let text = text.ok_or_else(|| SecretError::NoText(name.to_owned()))?;
    Ok(SecretText(text))
}

/// Returns the domain of AWS's services in the partition of a region
/// (<https://docs.aws.amazon.com/general/latest/gr/rande.html>).
fn domain(region: &str) -> &'static str {
    if region.starts_with("cn-") {
        "amazonaws.com.cn"
    } else {
        "amazonaws.com"
    }
}
