//! The configuration that all AWS clients of a process share.
//!
//! A function has its region, its credentials and, where they are not AWS's own, its endpoints from
//! the variables that [`crate::env`] declares, and from nowhere else: the SDK's own chain of sources
//! would look for files and for other machines, and is most of what a start would take.

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

/// How long one call may take with all its retries.
pub const BACKGROUND_TIMEOUT: Duration = Duration::from_secs(10);
/// The same where a caller waits at the gateway: the decision is due within a second.
pub const INTERACTIVE_TIMEOUT: Duration = Duration::from_millis(900);

/// Why AWS cannot be reached.
#[derive(Debug, thiserror::Error)]
pub enum InvalidAws {
    /// The region or the credentials.
    #[error(transparent)]
    Missing(#[from] MissingVar),
    /// The certificates to trust.
    #[error(transparent)]
    Bundle(#[from] InvalidBundle),
    /// The HTTP client.
    #[error("there is no HTTP client")]
    Client(#[from] HttpClientError),
}

/// What the clients of a function go by: the environment, one HTTP client, and `limit` as the bound
/// on every call.
///
/// # Errors
/// When the environment does not say enough.
pub fn sdk_config(env: &Env, limit: Duration) -> Result<SdkConfig, InvalidAws> {
    let needed = |var| env.find(var).ok_or(MissingVar(var));
    let region = needed(env::REGION)?;
    let credentials = Credentials::new(
        needed(env::ACCESS_KEY_ID)?,
        needed(env::SECRET_ACCESS_KEY)?,
        env.find(env::SESSION_TOKEN).map(str::to_owned),
        None,
        "environment",
    );
    let found = |var| env.find(var).map(str::to_owned);
    let mut config = SdkConfig::builder()
        .behavior_version(BehaviorVersion::latest())
        .region(Region::new(region.to_owned()))
        .credentials_provider(SharedCredentialsProvider::new(credentials))
        .http_client(https(Roots::of(env, region)?.trust_store())?)
        .timeout_config(timeouts(limit))
        .retry_config(RetryConfig::standard())
        .sleep_impl(TokioSleep::new())
        .service_config(Endpoints {
            dynamodb: found(env::ENDPOINT_URL_DYNAMODB),
            eventbridge: found(env::ENDPOINT_URL_EVENTBRIDGE),
        });
    config.set_endpoint_url(found(env::ENDPOINT_URL));
    Ok(config.build())
}

/// A client that trusts whom the machine trusts: for what is not a function.
///
/// # Errors
/// When there is none to be had.
pub fn https_by_system_roots() -> Result<SharedHttpClient, HttpClientError> {
    https(Roots::System.trust_store())
}

/// rustls over ring: the quickest start and the smallest binary of what can be had.
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

/// An HTTP client that reads its certificates as it first connects. The SDK's own reads them as its
/// configuration is checked as well, only to drop them.
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

/// Bounds every call by `limit`, in at most two tries of full length.
#[must_use]
pub fn timeouts(limit: Duration) -> TimeoutConfig {
    TimeoutConfig::builder()
        .connect_timeout(limit / 3)
        .operation_attempt_timeout(limit / 2)
        .operation_timeout(limit)
        .build()
}

/// The endpoints of single services, for which the clients ask as each is built.
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

    const LAMBDAS: [(&str, &str); 4] = [
        ("AWS_REGION", "eu-west-1"),
        ("AWS_ACCESS_KEY_ID", "AKIDEXAMPLE"),
        ("AWS_SECRET_ACCESS_KEY", "of-the-key"),
        ("AWS_SESSION_TOKEN", "of-the-session"),
    ];

    fn env(values: impl IntoIterator<Item = (&'static str, &'static str)>) -> Env {
        let values = values.into_iter();
        Env::of(values.map(|(name, value)| (name.to_owned(), value.to_owned())))
    }

    #[tokio::test]
    async fn a_function_has_what_lambda_gives_it() {
        let config = sdk_config(&env(LAMBDAS), INTERACTIVE_TIMEOUT).unwrap();
        assert_eq!(config.region(), Some(&Region::from_static("eu-west-1")));
        let provider = config.credentials_provider().unwrap();
        let credentials = provider.provide_credentials().await.unwrap();
        assert_eq!(credentials.access_key_id(), "AKIDEXAMPLE");
        assert_eq!(credentials.secret_access_key(), "of-the-key");
        assert_eq!(credentials.session_token(), Some("of-the-session"));
        assert_eq!(config.endpoint_url(), None);
    }

    /// What the SDK's own loader would set.
    #[test]
    fn calls_are_repeated_and_bounded() {
        let config = sdk_config(&env(LAMBDAS), INTERACTIVE_TIMEOUT).unwrap();
        let retries = config.retry_config().unwrap();
        assert_eq!((retries.max_attempts(), retries.has_retry()), (3, true));
        let timeouts = config.timeout_config().unwrap();
        assert_eq!(timeouts.operation_timeout(), Some(INTERACTIVE_TIMEOUT));
        assert_eq!(timeouts.operation_attempt_timeout(), Some(INTERACTIVE_TIMEOUT / 2));
        assert_eq!(timeouts.connect_timeout(), Some(INTERACTIVE_TIMEOUT / 3));
        // Without it, none of them would be kept.
        assert!(config.sleep_impl().is_some());
    }

    #[test]
    fn what_is_missing_or_empty_is_named() {
        for (at, (name, _)) in LAMBDAS[..3].iter().enumerate() {
            let mut values = LAMBDAS;
            values[at].1 = "";
            let given = values.into_iter().filter(|(other, _)| other != name);
            for env in [env(values), env(given)] {
                let error = sdk_config(&env, INTERACTIVE_TIMEOUT).unwrap_err().to_string();
                let expected = format!("the environment variable {name} is not set");
                assert!(error.starts_with(&expected), "{error}");
            }
        }
        assert!(sdk_config(&env(LAMBDAS[..3].to_vec()), INTERACTIVE_TIMEOUT).is_ok());
    }

    /// The endpoints of DynamoDB, EventBridge and any other service.
    fn endpoints(given: &'static [(&'static str, &'static str)]) -> [Option<String>; 3] {
        let values = LAMBDAS.into_iter().chain(given.iter().copied());
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
    fn a_services_own_endpoint_goes_before_that_of_all() {
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
