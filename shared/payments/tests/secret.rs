//! Secrets read by name, with faults of the services.

#![allow(
    clippy::unwrap_used,
    reason = "a test whose setup or inspection fails has failed"
)]

use std::io;
use std::sync::{Arc, Mutex};

use tollgate_local_aws::fixture::Fixture;
use tollgate_local_aws::{Fault, Grant, Role};
use tollgate_payments::{NamedSecret, SecretError};
use tollgate_stripe::Secrets;

const NOW: &str = "2026-11-23T02:00:00Z";

async fn read(at: &Fixture, name: &str) -> Result<String, SecretError> {
    let secret = NamedSecret::new(at.aws.sdk_config(), name);
    let text = secret.read().await?;
    Ok(text.expose().to_owned())
}

#[tokio::test]
async fn a_secret_or_a_parameter_is_read_by_its_name() {
    let at = Fixture::at(NOW);
    at.aws.set_secret("prod/stripe", "sk_test_1");
    at.aws.set_secret("ssm:/prod/stripe", "sk_test_2");
    assert_eq!(read(&at, "prod/stripe").await.unwrap(), "sk_test_1");
    assert_eq!(read(&at, "ssm:/prod/stripe").await.unwrap(), "sk_test_2");
    // It is read anew each time: a secret may be rotated.
    at.aws.set_secret("prod/stripe", "sk_test_3");
    assert_eq!(read(&at, "prod/stripe").await.unwrap(), "sk_test_3");
}

#[tokio::test]
async fn a_secret_that_does_not_exist_is_named_in_the_error() {
    let at = Fixture::at(NOW);
    let check = async |name: &str, expected: &str| {
        let error = read(&at, name).await.unwrap_err();
        assert_eq!(error.to_string(), expected);
    };
    check("stripe", "stripe: ResourceNotFoundException").await;
    check("ssm:stripe", "stripe: ParameterNotFound").await;
}

#[tokio::test]
async fn a_role_without_the_permission_may_not_read_a_secret() {
    let at = Fixture::at(NOW);
    at.aws.set_secret("stripe", "sk_test_1");
    let role = |resource: &str| {
        let grant = Grant {
            action: "secretsmanager:GetSecretValue".to_owned(),
            resource: format!("arn:aws:secretsmanager:us-east-1:000000000000:secret:{resource}"),
            conditions: Vec::new(),
        };
        Role::new("AFunction", [grant])
    };
    let read = async |role: &Role| {
        let sdk = at.aws.in_role(role).sdk_config();
        NamedSecret::new(sdk, "stripe").read().await
    };
    read(&role("stripe-??????")).await.unwrap();
    let error = read(&role("other-??????")).await.unwrap_err();
    assert_eq!(error.to_string(), "stripe: AccessDeniedException");
}

#[tokio::test]
async fn a_service_that_does_not_respond_is_asked_again() {
    let at = Fixture::at(NOW);
    at.aws.set_secret("stripe", "sk_test_1");
    let mut calls = 0;
    at.aws.inject(move |_| {
        calls += 1;
        match calls {
            1 => Fault::RequestLost,
            2 => Fault::ResponseLost,
            _ => Fault::None,
        }
    });
    assert_eq!(read(&at, "stripe").await.unwrap(), "sk_test_1");
    at.aws.inject(|_| Fault::RequestLost);
    let error = read(&at, "stripe").await.unwrap_err();
    assert!(matches!(error, SecretError::NoResponse(_)), "{error:?}");
}

#[tokio::test]
async fn a_secret_does_not_print() {
    let at = Fixture::at(NOW);
    at.aws.set_secret("stripe", "sk_test_1");
    let secret = NamedSecret::new(at.aws.sdk_config(), "stripe");
    let text = secret.read().await.unwrap();
    assert_eq!(format!("{text:?}"), "SecretText(…)");
}

/// Log in memory.
#[derive(Debug, Clone, Default)]
struct Log(Arc<Mutex<Vec<u8>>>);

impl io::Write for Log {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().extend(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Requests that need the secret stay unavailable until the operator has corrected it.
#[tokio::test(start_paused = true)]
async fn the_log_names_the_secret_that_cannot_be_used() {
    let log = Log::default();
    let writer = log.clone();
    let subscriber = tracing_subscriber::fmt()
        .with_max_level(tracing_subscriber::filter::LevelFilter::ERROR)
        .with_writer(move || writer.clone())
        .finish();
    // For all threads: a subscriber of one thread misses events that other tests' threads cause first. No other test
    // reads a secret as Stripe's key.
    tracing::subscriber::set_global_default(subscriber).unwrap();
    let at = Fixture::at(NOW);
    at.aws.set_secret("stripe-of-another", "pk_live_9fJ");
    let read = async |name: &str| {
        let secret = NamedSecret::new(at.aws.sdk_config(), name);
        let read = Secrets::read(&secret).await;
        read.unwrap_err();
        let lines = std::mem::take(&mut *log.0.lock().unwrap());
        String::from_utf8(lines).unwrap()
    };
    let missing = read("strip").await;
    assert!(missing.contains("ERROR"), "{missing}");
    assert!(missing.contains("secret=\"strip\""), "{missing}");
    let invalid = read("stripe-of-another").await;
    assert!(
        invalid.contains("secret=\"stripe-of-another\""),
        "{invalid}"
    );
    assert!(!invalid.contains("9fJ"), "{invalid}");
    // A service that does not respond is none of the operator's mistakes.
    at.aws.inject(|_| Fault::RequestLost);
    assert_eq!(read("stripe-of-another").await, "");
}
