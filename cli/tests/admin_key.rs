//! `tollgate admin-key`, run as an operator runs it.

#![allow(
    clippy::unwrap_used,
    reason = "a test that cannot begin, or cannot look, has failed"
)]

use std::process::{Output, Stdio};

use tokio::process::Command;
use tollgate_domain::key::{ApiKey, KeyStatus, Owner};
use tollgate_local_aws::LambdaHost;
use tollgate_local_aws::fixture::Fixture;

/// Runs `tollgate admin-key create` with these arguments against the services at `url`.
async fn create(url: &str, arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_tollgate"))
        .args(["admin-key", "create"])
        .args(arguments)
        .env_clear()
        .envs([
            ("AWS_ENDPOINT_URL", url),
            ("AWS_REGION", "us-east-1"),
            ("AWS_ACCESS_KEY_ID", "local"),
            ("AWS_SECRET_ACCESS_KEY", "local"),
        ])
        .stdin(Stdio::null())
        .output()
        .await
        .unwrap()
}

#[tokio::test]
async fn a_created_key_is_printed_once_and_is_an_admin_key() {
    let at = Fixture::at("2026-11-22T10:00:00Z");
    let host = LambdaHost::start(at.aws.clone()).await.unwrap();
    let arguments = [
        "--stack-name",
        "test",
        "--brand",
        "acme",
        "--expires-in-days",
        "30",
    ];
    let output = create(&host.url(), &arguments).await;
    let errors = String::from_utf8(output.stderr).unwrap();
    assert!(output.status.success(), "{errors}");
    let printed = String::from_utf8(output.stdout).unwrap();
    let secret = printed.strip_suffix('\n').unwrap();
    assert!(secret.starts_with("acme_admin_"), "{printed}");
    assert!(
        errors.contains(&secret[..19]) && !errors.contains(secret),
        "{errors}"
    );

    let key = ApiKey::parse(secret).unwrap();
    let stored = at.store.key_by_digest(key.digest()).await.unwrap().unwrap();
    assert_eq!(stored.owner, Owner::Admin);
    let lives = stored.expires_at.unwrap().duration_since(stored.created_at);
    assert_eq!(lives.as_hours(), 30 * 24);
    assert_eq!(stored.status(stored.created_at), KeyStatus::Active);
}

#[tokio::test]
async fn invalid_arguments_are_explained() {
    let at = Fixture::at("2026-11-22T10:00:00Z");
    let host = LambdaHost::start(at.aws.clone()).await.unwrap();
    for (arguments, expected) in [
        (
            &["--stack-name", "another"][..],
            "no key was created in stack another",
        ),
        (
            &["--stack-name", "test", "--brand", "Not_A_Brand"],
            "the brand is not a valid first segment of a key",
        ),
        (&["--stack-name", "test", "--name", "a\nb"], "--name"),
        (
            &["--stack-name", "test", "--expires-in-days", "0"],
            "--expires-in-days",
        ),
        (&[], "--stack-name"),
    ] {
        let output = create(&host.url(), arguments).await;
        let errors = String::from_utf8(output.stderr).unwrap();
        assert!(
            !output.status.success() && errors.contains(expected),
            "{errors}"
        );
        assert_eq!(output.stdout, b"");
    }
    let keys = at.store.list_keys(None, None, 10).await.unwrap();
    assert!(keys.items.is_empty());
}
