//! The configuration that all AWS clients of a process share.

use std::time::Duration;

use aws_config::timeout::TimeoutConfig;
use aws_config::{BehaviorVersion, SdkConfig};
use aws_smithy_http_client::Builder;
use aws_smithy_http_client::tls::{Provider, rustls_provider::CryptoMode};

/// How long one call may take with all its retries.
pub const PATIENT: Duration = Duration::from_secs(10);
/// The same where a caller waits at the gateway: the decision is due within a second.
pub const PROMPT: Duration = Duration::from_millis(900);

/// Region, credentials and endpoints from the environment that Lambda sets, with one HTTP client
/// (rustls over ring) and `limit` as the bound on every call.
pub async fn sdk_config(limit: Duration) -> SdkConfig {
    let https = Builder::new()
        .tls_provider(Provider::Rustls(CryptoMode::Ring))
        .build_https();
    let timeouts = TimeoutConfig::builder()
        .connect_timeout(limit / 3)
        .operation_attempt_timeout(limit / 2)
        .operation_timeout(limit)
        .build();
    aws_config::defaults(BehaviorVersion::latest())
        .http_client(https)
        .timeout_config(timeouts)
        .load()
        .await
}
