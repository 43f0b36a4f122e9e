//! Configuration that all AWS clients of a function share.
//!
//! The region, the credentials and, if not AWS's own, the endpoints come only from the environment
//! variables that [`crate::env`] declares. The SDK's default provider chain would also read files and
//! the instance metadata service, and would take most of a cold start.

use std::time::Duration;

use aws_credential_types::Credentials;
use aws_credential_types::provider::SharedCredentialsProvider;
use aws_smithy_async::rt::sleep::TokioSleep;
use aws_smithy_http_client::tls::rustls_provider::CryptoMode;
use aws_smithy_http_client::tls::{Provider, TlsContext, TrustStore};
use aws_smithy_http_client::{Builder, HttpClientError};
use aws_smithy_runtime_api::client::behavior_version::BehaviorVersion;
use aws_smithy_runtime_api::client::connector_metadata::ConnectorMetadata;
use aws_smithy_runtime_api::client::http::{
    HttpClient, HttpConnectorSettings, SharedHttpClient, SharedHttpConnector,
};
use aws_smithy_runtime_api::client::runtime_components::RuntimeComponents;
use aws_smithy_types::retry::RetryConfig;
use aws_smithy_types::timeout::TimeoutConfig;
use aws_types::SdkConfig;
use aws_types::region::Region;
use aws_types::service_config::{LoadServiceConfig, ServiceConfigKey};

use crate::env::{self, Env, MissingVar};
use crate::roots::{InvalidBundle, Roots};

/// Timeout of one AWS API call, retries included, where no caller waits.
pub const BACKGROUND_TIMEOUT: Duration = Duration::from_secs(10);
/// Timeout of one AWS API call, retries included, while a caller waits at the gateway: the authorizer
/// must decide within a second.
pub const INTERACTIVE_TIMEOUT: Duration = Duration::from_millis(900);

/// Error: the configuration of the AWS clients is invalid.
#[derive(Debug, thiserror::Error)]
pub enum InvalidAws {
    /// The region or the credentials are missing.
    #[error(transparent)]
    Missing(#[from] MissingVar),
    /// The root certificates cannot be used.
    #[error(transparent)]
    Bundle(#[from] InvalidBundle),
    /// The HTTP client cannot be created.
    #[error("the HTTP client cannot be created")]
    Client(#[from] HttpClientError),
}

/// Creates the configuration of a function's AWS clients from the environment, with a shared HTTP client
/// and `timeout` for every API call.
///
/// # Errors
/// When a variable is missing, or the root certificates cannot be used.
pub fn sdk_config(env: &Env, timeout: Duration) -> Result<SdkConfig, InvalidAws> {
    let required = |var| env.find(var).ok_or(MissingVar(var));
    let region = required(env::REGION)?;
    let credentials = Credentials::new(
        required(env::ACCESS_KEY_ID)?,
        required(env::SECRET_ACCESS_KEY)?,
        env.find(env::SESSION_TOKEN).map(str::to_owned),
        None,
        "environment",
    );
    let optional = |var| env.find(var).map(str::to_owned);
    let mut config = SdkConfig::builder()
        .behavior_version(BehaviorVersion::latest())
        .region(Region::new(region.to_owned()))
        .credentials_provider(SharedCredentialsProvider::new(credentials))
        .http_client(https(Roots::from_env(env, region)?.trust_store())?)
        .timeout_config(timeouts(timeout))
        .retry_config(RetryConfig::standard())
        .sleep_impl(TokioSleep::new())
        .service_config(Endpoints {
            dynamodb: optional(env::ENDPOINT_URL_DYNAMODB),
            eventbridge: optional(env::ENDPOINT_URL_EVENTBRIDGE),
        });
    config.set_endpoint_url(optional(env::ENDPOINT_URL));
    Ok(config.build())
}

/// Creates an HTTPS client that trusts the system's root certificates, for programs that are not Lambda
/// functions.
///
/// # Errors
/// When the client cannot be created.
pub fn https_by_system_roots() -> Result<SharedHttpClient, HttpClientError> {
    https(Roots::System.trust_store())
}

/// Creates an HTTPS client of rustls with ring: the shortest cold start and the smallest binary of the
/// available TLS providers.
fn https(trust_store: TrustStore) -> Result<SharedHttpClient, HttpClientError> {
    let tls = TlsContext::builder()
        .with_trust_store(trust_store)
        .build()?;
    let https = Builder::new()
        .tls_provider(Provider::Rustls(CryptoMode::Ring))
        .tls_context(tls)
        .build_https();
    Ok(SharedHttpClient::new(ReadOnce(https)))
}

/// HTTP client that reads its certificates on first use. The SDK's own client also reads them when its
/// configuration is validated, and discards them. This wrapper leaves out that validation.
#[derive(Debug)]
struct ReadOnce(SharedHttpClient);

impl HttpClient for ReadOnce {
    fn http_connector(
        &self,
        settings: &HttpConnectorSettings,
        components: &RuntimeComponents,
    ) -> SharedHttpConnector {
        self.0.http_connector(settings, components)
    }

    fn connector_metadata(&self) -> Option<ConnectorMetadata> {
        self.0.connector_metadata()
    }
}

/// Returns the timeouts of an API call: `timeout` for the whole operation, half of it for each attempt,
/// and a third for connecting.
#[must_use]
pub fn timeouts(timeout: Duration) -> TimeoutConfig {
    TimeoutConfig::builder()
        .connect_timeout(timeout / 3)
        .operation_attempt_timeout(timeout / 2)
        .operation_timeout(timeout)
        .build()
}

/// Endpoints of individual services, which each client reads when it is built.
#[derive(Debug)]
struct Endpoints {
    dynamodb: Option<String>,
    eventbridge: Option<String>,
}

impl LoadServiceConfig for Endpoints {
    fn load_config(&self, key: ServiceConfigKey<'_>) -> Option<String> {
        match (key.env(), key.service_id()) {
            ("AWS_ENDPOINT_URL", "DynamoDB") => self.dynamodb.clone(),
            ("AWS_ENDPOINT_URL", "EventBridge") => self.eventbridge.clone(),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use aws_credential_types::provider::ProvideCredentials;

    use super::*;

    const LAMBDA_ENV: [(&str, &str); 4] = [
        ("AWS_REGION", "eu-west-1"),
        ("AWS_ACCESS_KEY_ID", "AKIDEXAMPLE"),
        ("AWS_SECRET_ACCESS_KEY", "of-the-key"),
        ("AWS_SESSION_TOKEN", "of-the-session"),
    ];

    fn env(values: impl IntoIterator<Item = (&'static str, &'static str)>) -> Env {
        let values = values.into_iter();
        Env::from_vars(values.map(|(name, value)| (name.to_owned(), value.to_owned())))
    }

    #[tokio::test]
    async fn a_function_uses_the_region_and_credentials_that_lambda_sets() {
        let config = sdk_config(&env(LAMBDA_ENV), INTERACTIVE_TIMEOUT).unwrap();
        assert_eq!(config.region(), Some(&Region::from_static("eu-west-1")));
        let provider = config.credentials_provider().unwrap();
        let credentials = provider.provide_credentials().await.unwrap();
        assert_eq!(credentials.access_key_id(), "AKIDEXAMPLE");
        assert_eq!(credentials.secret_access_key(), "of-the-key");
        assert_eq!(credentials.session_token(), Some("of-the-session"));
        assert_eq!(config.endpoint_url(), None);
    }

    /// The retry configuration is the default of the SDK's own loader.
    #[test]
    fn calls_have_retries_and_timeouts() {
        let config = sdk_config(&env(LAMBDA_ENV), INTERACTIVE_TIMEOUT).unwrap();
        let retries = config.retry_config().unwrap();
        assert_eq!((retries.max_attempts(), retries.has_retry()), (3, true));
        let timeouts = config.timeout_config().unwrap();
        assert_eq!(timeouts.operation_timeout(), Some(INTERACTIVE_TIMEOUT));
        assert_eq!(
            timeouts.operation_attempt_timeout(),
            Some(INTERACTIVE_TIMEOUT / 2)
        );
        assert_eq!(timeouts.connect_timeout(), Some(INTERACTIVE_TIMEOUT / 3));
        // Without a sleep implementation, timeouts have no effect.
        assert!(config.sleep_impl().is_some());
    }

    #[test]
    fn a_missing_or_empty_variable_is_named() {
        for (at, (name, _)) in LAMBDA_ENV[..3].iter().enumerate() {
            let mut values = LAMBDA_ENV;
            values[at].1 = "";
            let given = values.into_iter().filter(|(other, _)| other != name);
            for env in [env(values), env(given)] {
                let error = sdk_config(&env, INTERACTIVE_TIMEOUT)
                    .unwrap_err()
                    .to_string();
                let expected = format!("the environment variable {name} is not set");
                assert!(error.starts_with(&expected), "{error}");
            }
        }
        assert!(sdk_config(&env(LAMBDA_ENV[..3].to_vec()), INTERACTIVE_TIMEOUT).is_ok());
    }

    /// Returns the endpoints of DynamoDB, EventBridge and any other service.
    fn endpoints(given: &'static [(&'static str, &'static str)]) -> [Option<String>; 3] {
        let values = LAMBDA_ENV.into_iter().chain(given.iter().copied());
        let config = sdk_config(&env(values), INTERACTIVE_TIMEOUT).unwrap();
        ["DynamoDB", "EventBridge", "SQS"].map(|service| {
            let key = ServiceConfigKey::builder()
                .service_id(service)
                .env("AWS_ENDPOINT_URL")
                .profile("endpoint_url");
            let own = config.service_config().unwrap();
            let own = own.load_config(key.build().unwrap());
            own.or_else(|| config.endpoint_url().map(str::to_owned))
        })
    }

    #[test]
    fn the_endpoint_of_a_service_takes_precedence_over_the_common_one() {
        let check = |given, expected: [Option<&str>; 3]| {
            assert_eq!(endpoints(given), expected.map(|url| url.map(str::to_owned)));
        };
        check(&[], [None; 3]);
        check(
            &[("AWS_ENDPOINT_URL", "http://all")],
            [Some("http://all"); 3],
        );
        check(
            &[
                ("AWS_ENDPOINT_URL", "http://all"),
                ("AWS_ENDPOINT_URL_DYNAMODB", "http://tables"),
                ("AWS_ENDPOINT_URL_EVENTBRIDGE", ""),
            ],
            [
                Some("http://tables"),
                Some("http://all"),
                Some("http://all"),
            ],
        );
        check(
            &[("AWS_ENDPOINT_URL_EVENTBRIDGE", "http://bus")],
            [None, Some("http://bus"), None],
        );
    }
}
