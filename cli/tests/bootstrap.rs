//! `tollgate bootstrap`, with AWS credentials and a deployment.

#![allow(clippy::unwrap_used, reason = "a failed step of a test fails the test")]

mod support;

use support::Deployment;
use tollgate_local_aws::LambdaHost;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_bootstrapped_profile_works_and_its_key_is_not_printed() {
    let deployment = Deployment::start("bootstrap", "2026-11-22T10:00:00Z").await;
    let host = LambdaHost::start(deployment.running.aws.clone())
        .await
        .unwrap();
    let run = async |arguments: &[&str]| {
        let output = deployment
            .tollgate(arguments)
            .env_remove("TOLLGATE_URL")
            .env_remove("TOLLGATE_KEY")
            .envs([
                ("AWS_ENDPOINT_URL", host.url().as_str()),
                ("AWS_REGION", "us-east-1"),
                ("AWS_ACCESS_KEY_ID", "local"),
                ("AWS_SECRET_ACCESS_KEY", "local"),
            ])
            .output()
            .await
            .unwrap();
        let errors = String::from_utf8(output.stderr).unwrap();
        (
            output.status.code(),
            String::from_utf8(output.stdout).unwrap(),
            errors,
        )
    };
    let url = deployment.url().to_owned();
    let (code, printed, errors) = run(&[
        "bootstrap",
        &url,
        "--stack-name",
        "local",
        "--name",
        "of ops",
    ])
    .await;
    assert_eq!((code, printed.as_str()), (Some(0), ""), "{errors}");
    let profile = std::fs::read_to_string(deployment.dir.join("tollgate/default.json")).unwrap();
    let profile: serde_json::Value = serde_json::from_str(&profile).unwrap();
    let key = profile["key"].as_str().unwrap();
    assert!(
        errors.contains(&url) && errors.contains(&key[..17]) && !errors.contains(key),
        "{errors}"
    );

    let (code, printed, errors) = run(&["keys", "list"]).await;
    assert_eq!(code, Some(0), "{errors}");
    assert!(
        printed.contains("of ops") && printed.contains(&key[..17]),
        "{printed}"
    );

    let (code, _, errors) = run(&["bootstrap", &url, "--stack-name", "another"]).await;
    assert_eq!(code, Some(1));
    assert!(
        errors.contains("no key was created in stack another"),
        "{errors}"
    );
}
