//! The secret key: read once, again after a 401, and never sent where it must not be.

use std::time::Duration;

use tollgate_stripe::{Config, Mode};

use crate::script::{Bench, Reply, created, error, short};

fn unauthorized() -> Reply {
    error(401, "api_key_expired")
}

/// Makes a charge, and compares the outcome, the keys that were sent and the number of reads.
async fn check(
    replies: &[Reply],
    keys: &[&'static str],
    expected: &str,
    sent: &[&str],
    reads: u32,
) {
    let bench = Bench::with(replies, keys, Config::default());
    assert_eq!(short(&bench.charge().await), expected, "{replies:?}");
    assert!(bench.is_finished(), "{replies:?}");
    let requests = bench.sent();
    let authorizations: Vec<_> = requests
        .iter()
        .map(|it| it.header("authorization").unwrap())
        .collect();
    let bearer: Vec<_> = sent.iter().map(|key| format!("Bearer {key}")).collect();
    assert_eq!(authorizations, bearer, "{replies:?}");
    assert_eq!(bench.key_reads(), reads, "{replies:?}");
    assert!(
        requests
            .iter()
            .all(|it| it.header("idempotency-key") == Some("chg_1"))
    );
}

#[tokio::test]
async fn a_key_is_read_again_once_after_a_401() {
    let (old, new) = ("sk_test_old", "sk_test_new");
    check(&[created()], &[old], "done", &[old], 1).await;
    check(
        &[unauthorized(), created()],
        &[old, new],
        "done",
        &[old, new],
        2,
    )
    .await;
    check(&[unauthorized()], &[old], "rejected: 401", &[old], 2).await;
    let twice = [unauthorized(), unauthorized()];
    check(
        &twice,
        &[old, new, "sk_test_third"],
        "rejected: 401",
        &[old, new],
        2,
    )
    .await;
    // Even if it is rejected again much later in the same call.
    let advised = unauthorized()
        .with("stripe-should-retry", "true")
        .with("retry-after", "15");
    let later = [unauthorized(), advised, unauthorized()];
    let keys = [old, new, "sk_test_third"];
    check(&later, &keys, "rejected: 401", &[old, new, new], 2).await;
    // What is read is not a key: the rejection is what the caller learns.
    check(
        &[unauthorized()],
        &[old, "nothing"],
        "rejected: 401",
        &[old],
        2,
    )
    .await;
}

#[tokio::test]
async fn a_401_after_a_lost_attempt_leaves_the_outcome_unknown() {
    let (old, new) = ("sk_test_old", "sk_test_new");
    let replies = [Reply::Lost, unauthorized()];
    let expected = "unknown: the connection was lost, then 401";
    check(&replies, &[old], expected, &[old, old], 2).await;
    // The lost attempt had created it.
    let stored = created().with("idempotent-replayed", "true");
    let replies = [Reply::Lost, unauthorized(), stored];
    check(&replies, &[old, new], "done", &[old, old, new], 2).await;
}

#[tokio::test]
async fn a_new_key_is_tried_even_if_attempts_are_used_up() {
    let (old, new) = ("sk_test_old", "sk_test_new");
    let replies = [
        Reply::NotSent,
        Reply::NotSent,
        Reply::NotSent,
        unauthorized(),
        created(),
    ];
    check(&replies, &[old, new], "done", &[old, old, old, old, new], 2).await;
}

#[tokio::test]
async fn a_revoked_key_is_not_read_for_every_call() {
    let replies = [unauthorized(), unauthorized(), unauthorized()];
    let bench = Bench::with(&replies, &["sk_test_1"], Config::default());
    let check = async |after_s: u64, reads: u32| {
        bench.timing.advance(Duration::from_secs(after_s));
        assert_eq!(short(&bench.charge().await), "rejected: 401");
        assert_eq!(bench.key_reads(), reads, "{after_s}");
    };
    check(0, 2).await;
    check(9, 2).await;
    check(1, 3).await;
}

#[tokio::test]
async fn without_a_usable_key_nothing_is_sent() {
    let check =
        async |keys: &[&'static str], mode: Option<Mode>, base_url: &str, expected: &str| {
            let config = Config {
                mode,
                base_url: base_url.parse().unwrap(),
                ..Config::default()
            };
            let bench = Bench::with(&[], keys, config);
            let outcome = bench.charge().await;
            assert_eq!(short(&outcome), format!("unavailable: {expected}"));
            assert_eq!(outcome.unwrap_err().attempts(), 0);
            assert!(bench.sent().is_empty());
        };
    let unreadable = "the secret key of Stripe cannot be read";
    check(&[], None, "https://api.stripe.com", unreadable).await;
    check(&["whsec_1"], None, "https://api.stripe.com", unreadable).await;
    let mode = "the secret key has another mode than configured";
    check(
        &["sk_live_1"],
        Some(Mode::Test),
        "https://api.stripe.com",
        mode,
    )
    .await;
    check(
        &["rk_test_1"],
        Some(Mode::Live),
        "https://api.stripe.com",
        mode,
    )
    .await;
    let plain = "the base URL is not https, and the secret key is of live mode";
    check(&["sk_live_1"], None, "http://127.0.0.1:12111", plain).await;
}

#[tokio::test]
async fn a_new_key_of_another_mode_is_not_sent() {
    let config = Config {
        mode: Some(Mode::Test),
        ..Config::default()
    };
    let bench = Bench::with(&[unauthorized()], &["sk_test_1", "sk_live_1"], config);
    assert_eq!(short(&bench.charge().await), "rejected: 401");
    assert_eq!(bench.sent().len(), 1);
}

#[tokio::test]
async fn a_key_of_another_mode_is_read_again() {
    let config = Config {
        mode: Some(Mode::Test),
        ..Config::default()
    };
    let keys = ["sk_live_1", "sk_live_2", "sk_test_3"];
    let bench = Bench::with(&[created()], &keys, config);
    let wrong = "unavailable: the secret key has another mode than configured";
    let check = async |after_s: u64, expected: &str, reads: u32| {
        bench.timing.advance(Duration::from_secs(after_s));
        assert_eq!(short(&bench.charge().await), expected, "{after_s}");
        assert_eq!(bench.key_reads(), reads, "{after_s}");
    };
    check(0, wrong, 2).await;
    check(9, wrong, 2).await;
    check(1, "done", 3).await;
}
