//! Every rule of retries, and the outcome of each sequence of replies.

use std::time::Duration;

use tollgate_stripe::{Config, StripeError, Timeouts};

use crate::script::{Bench, Reply, created, error, respond, short};

/// Makes a charge, and compares the outcome and the waits, in milliseconds.
async fn check(replies: &[Reply], expected: &str, waits_ms: &[u128]) {
    let bench = Bench::new(replies);
    let outcome = bench.charge().await;
    assert_eq!(short(&outcome), expected, "{replies:?}");
    assert_eq!(bench.waits_ms(), waits_ms, "{replies:?}");
    assert!(bench.is_finished(), "attempts are missing: {replies:?}");
    let sent = bench.sent();
    for request in &sent {
        assert_eq!(request.header("idempotency-key"), Some("chg_1"));
        assert_eq!(request.body, sent[0].body, "the parameters change");
    }
    if let Err(error) = &outcome {
        assert_eq!(error.attempts() as usize, sent.len(), "{replies:?}");
    }
}

fn replayed(reply: Reply) -> Reply {
    reply.with("idempotent-replayed", "true")
}

fn throttled() -> Reply {
    error(429, "rate_limit")
}

fn server_error() -> Reply {
    respond(500, r#"{"error":{"type":"api_error"}}"#)
}

#[tokio::test]
async fn a_first_success_is_done() {
    check(&[created()], "done", &[]).await;
}

#[tokio::test]
async fn a_rejection_is_not_repeated() {
    check(&[error(400, "parameter_missing")], "rejected: 400", &[]).await;
    check(&[error(402, "card_declined")], "rejected: 402", &[]).await;
    check(&[error(403, "")], "rejected: 403", &[]).await;
    check(&[error(404, "resource_missing")], "rejected: 404", &[]).await;
    // The first request was sent by an instance that stopped, and was rejected.
    check(
        &[replayed(error(402, "card_declined"))],
        "rejected: 402",
        &[],
    )
    .await;
}

#[tokio::test]
async fn without_a_connection_nothing_has_happened() {
    check(&[Reply::NotSent, created()], "done", &[500]).await;
    let four = [
        Reply::NotSent,
        Reply::NotSent,
        Reply::NotSent,
        Reply::NotSent,
    ];
    check(&four, "unavailable: no connection", &[500, 1_000, 2_000]).await;
    // An earlier instance had created it.
    check(&[Reply::NotSent, replayed(created())], "done", &[500]).await;
}

#[tokio::test]
async fn a_lost_connection_is_repeated_and_may_hide_a_success() {
    check(&[Reply::Lost, created()], "done", &[500]).await;
    // The lost request had created it.
    check(&[Reply::Lost, replayed(created())], "done", &[500]).await;
    let four = [Reply::Lost, Reply::Lost, Reply::Lost, Reply::Lost];
    check(
        &four,
        "unknown: the connection was lost",
        &[500, 1_000, 2_000],
    )
    .await;
    let last_not_sent = [Reply::Lost, Reply::NotSent, Reply::NotSent, Reply::NotSent];
    check(
        &last_not_sent,
        "unknown: the connection was lost",
        &[500, 1_000, 2_000],
    )
    .await;
}

#[tokio::test]
async fn an_attempt_ends_after_its_timeout_and_may_hide_a_success() {
    check(&[Reply::Never, created()], "done", &[30_000, 500]).await;
    check(&[Reply::Never, replayed(created())], "done", &[30_000, 500]).await;
    // The second attempt has only what is left of a minute.
    let two = [Reply::Never, Reply::Never];
    check(&two, "unknown: no response in time", &[30_000, 500, 29_500]).await;
}

#[tokio::test]
async fn throttled_requests_are_repeated_and_have_no_effect() {
    check(&[throttled(), created()], "done", &[500]).await;
    check(&[throttled(), replayed(created())], "done", &[500]).await;
    let four = [throttled(), throttled(), throttled(), throttled()];
    check(
        &four,
        "unavailable: too many requests",
        &[500, 1_000, 2_000],
    )
    .await;
    // The first attempt may have created it.
    let after_loss = [Reply::Lost, throttled(), throttled(), throttled()];
    check(
        &after_loss,
        "unknown: the connection was lost",
        &[500, 1_000, 2_000],
    )
    .await;
    let lost_then_created = [Reply::Lost, throttled(), replayed(created())];
    check(&lost_then_created, "done", &[500, 1_000]).await;
}

#[tokio::test]
async fn retry_after_is_waited_for_up_to_a_bound() {
    let after = |seconds: &str| throttled().with("retry-after", seconds);
    check(&[after("3"), created()], "done", &[3_000]).await;
    check(&[after("3"), replayed(created())], "done", &[3_000]).await;
    check(&[after("0"), created()], "done", &[500]).await;
    check(&[after("20"), created()], "done", &[20_000]).await;
    check(&[after("soon"), created()], "done", &[500]).await;
    let server_error = server_error().with("retry-after", "4");
    check(&[server_error, created()], "done", &[4_000]).await;
    // Longer than the bound: the caller's queue waits.
    check(&[after("21")], "unavailable: too many requests", &[]).await;
    let lost = [Reply::Lost, after("21")];
    check(&lost, "unknown: the connection was lost", &[500]).await;
    // Two waits of 20 seconds fit into a minute, three do not.
    let three = [after("20"), after("20"), after("20")];
    check(&three, "unavailable: too many requests", &[20_000, 20_000]).await;

    let bench = Bench::new(&[after("3600")]);
    let Err(StripeError::Unavailable(unavailable)) = bench.charge().await else {
        panic!("not unavailable")
    };
    assert_eq!(unavailable.retry_after, Some(Duration::from_secs(3_600)));
    assert_eq!(unavailable.request_id.unwrap().as_str(), "req_429");
}

#[tokio::test]
async fn locks_are_waited_for() {
    let locked = || error(409, "lock_timeout");
    check(&[locked(), created()], "done", &[500]).await;
    check(&[locked(), replayed(created())], "done", &[500]).await;
    check(&[error(429, "lock_timeout"), created()], "done", &[500]).await;
    let four = [locked(), locked(), locked(), locked()];
    let expected = "unavailable: the object is locked by another request";
    check(&four, expected, &[500, 1_000, 2_000]).await;
}

#[tokio::test]
async fn a_request_in_flight_with_the_same_key_may_take_effect() {
    let in_use = || error(409, "idempotency_key_in_use");
    check(&[in_use(), created()], "done", &[500]).await;
    check(&[in_use(), replayed(created())], "done", &[500]).await;
    // The first attempt is still being executed.
    let still = [Reply::Lost, in_use(), in_use(), replayed(created())];
    check(&still, "done", &[500, 1_000, 2_000]).await;
    let four = [in_use(), in_use(), in_use(), in_use()];
    let expected = "unknown: a request with the same idempotency key is being executed";
    check(&four, expected, &[500, 1_000, 2_000]).await;
}

#[tokio::test]
async fn server_errors_are_repeated_and_may_hide_a_success() {
    check(&[server_error(), created()], "done", &[500]).await;
    check(&[server_error(), replayed(created())], "done", &[500]).await;
    check(&[respond(502, "<html>"), created()], "done", &[500]).await;
    let four = [
        server_error(),
        server_error(),
        server_error(),
        server_error(),
    ];
    check(&four, "unknown: status 500", &[500, 1_000, 2_000]).await;
}

#[tokio::test]
async fn a_replayed_server_error_ends_the_call() {
    let stored = || replayed(server_error());
    check(&[stored()], "unknown: status 500, replayed", &[]).await;
    // The first attempt had created it, and failed afterwards.
    let twice = [server_error(), stored()];
    check(&twice, "unknown: status 500, replayed", &[500]).await;
    let advised = stored().with("stripe-should-retry", "true");
    check(&[advised], "unknown: status 500, replayed", &[]).await;
}

#[tokio::test]
async fn stripes_advice_takes_precedence() {
    let advice = |reply: Reply, value| reply.with("stripe-should-retry", value);
    check(
        &[advice(server_error(), "false")],
        "unknown: status 500",
        &[],
    )
    .await;
    check(
        &[advice(throttled(), "false")],
        "unavailable: too many requests",
        &[],
    )
    .await;
    let lock = advice(error(409, "lock_timeout"), "false");
    check(
        &[lock],
        "unavailable: the object is locked by another request",
        &[],
    )
    .await;
    check(
        &[advice(error(400, "x"), "true"), created()],
        "done",
        &[500],
    )
    .await;
    check(
        &[advice(error(400, "x"), "true"), replayed(created())],
        "done",
        &[500],
    )
    .await;
    let rejected = || advice(error(400, "x"), "true");
    let four = [rejected(), rejected(), rejected(), rejected()];
    check(&four, "rejected: 400", &[500, 1_000, 2_000]).await;
    check(
        &[advice(server_error(), "true"), replayed(created())],
        "done",
        &[500],
    )
    .await;
}

/// The rejection of a later attempt does not show that an earlier one took no effect, unless it is the stored
/// response of the first.
#[tokio::test]
async fn a_rejection_after_a_lost_attempt_leaves_the_outcome_unknown() {
    let lost = "unknown: the connection was lost, then";
    let fresh = [Reply::Lost, error(404, "resource_missing")];
    check(&fresh, &format!("{lost} 404"), &[500]).await;
    let stored = [Reply::Lost, replayed(error(402, "card_declined"))];
    check(&stored, "rejected: 402", &[500]).await;
    check(
        &[Reply::Lost, error(403, "")],
        &format!("{lost} 403"),
        &[500],
    )
    .await;
}

#[tokio::test]
async fn a_key_that_was_used_with_other_parameters_may_have_taken_effect() {
    let body =
        r#"{"error":{"type":"idempotency_error","message":"Keys for idempotent requests…"}}"#;
    let expected = "unknown: the idempotency key was used with other parameters";
    check(&[respond(400, body)], expected, &[]).await;
}

#[tokio::test]
async fn a_success_that_cannot_be_decoded_is_unknown() {
    let no_json = [respond(200, "<html>")];
    check(&no_json, "unknown: the response cannot be decoded", &[]).await;
    let no_id = [respond(200, r#"{"object":"invoiceitem"}"#)];
    check(&no_id, "unknown: the response cannot be decoded", &[]).await;
}

/// Reads the price `price_1`, and compares the outcome and the number of attempts.
async fn check_read(replies: &[Reply], expected: &str, waits_ms: &[u128]) {
    let bench = Bench::new(replies);
    let outcome = bench.client.price(&"price_1".parse().unwrap()).await;
    assert_eq!(short(&outcome), expected, "{replies:?}");
    assert_eq!(bench.waits_ms(), waits_ms, "{replies:?}");
    assert!(bench.is_finished(), "attempts are missing: {replies:?}");
    for request in bench.sent() {
        assert_eq!(request.header("idempotency-key"), None);
    }
}

/// Nothing that only reads has an unknown effect.
#[tokio::test]
async fn reads_are_repeated_freely() {
    let price = || {
        respond(
            200,
            r#"{"id":"price_1","active":true,"currency":"usd","livemode":false}"#,
        )
    };
    check_read(&[Reply::Lost, price()], "done", &[500]).await;
    check_read(
        &[server_error(), throttled(), price()],
        "done",
        &[500, 1_000],
    )
    .await;
    let four = [Reply::Lost, Reply::Lost, Reply::Lost, Reply::Lost];
    check_read(&four, "unavailable: no response", &[500, 1_000, 2_000]).await;
    let errors = [Reply::Lost, server_error(), server_error(), server_error()];
    check_read(&errors, "unavailable: status 500", &[500, 1_000, 2_000]).await;
    check_read(
        &[Reply::Lost, error(404, "resource_missing")],
        "rejected: 404",
        &[500],
    )
    .await;
    check_read(
        &[respond(200, "{}")],
        "unavailable: the response cannot be decoded",
        &[],
    )
    .await;
}

#[tokio::test]
async fn a_call_does_not_wait_past_its_total_time() {
    let timeouts = Timeouts {
        attempt: Duration::from_secs(1),
        total: Duration::from_millis(1_400),
    };
    let config = Config {
        timeouts,
        ..Config::default()
    };
    let bench = Bench::with(&[throttled(), throttled()], &["sk_test_1"], config.clone());
    // After 500 milliseconds, another 1,000 would be too long.
    assert_eq!(
        short(&bench.charge().await),
        "unavailable: too many requests"
    );
    assert_eq!(bench.waits_ms(), [500]);
    // The first attempt had created it; the time ends with the second.
    let bench = Bench::with(&[Reply::Lost, Reply::Never], &["sk_test_1"], config);
    assert_eq!(short(&bench.charge().await), "unknown: no response in time");
    assert_eq!(bench.waits_ms(), [500, 900]);
}

#[tokio::test]
async fn a_rejection_states_what_stripe_states() {
    let body = r#"{"error":{"type":"invalid_request_error","code":"resource_missing","param":"customer",
        "message":"No such customer: 'cus_1'; a similar object is of a@b.example","doc_url":"x"}}"#;
    let bench = Bench::new(&[respond(400, body)]);
    let error = bench.charge().await.unwrap_err();
    assert!(!error.may_have_taken_effect());
    assert_eq!(error.request_id().unwrap().as_str(), "req_400");
    let rejection = error.rejection().unwrap();
    assert!(rejection.is_missing() && !rejection.is_of_key());
    assert_eq!(rejection.param.as_deref(), Some("customer"));
    assert_eq!(
        rejection.message,
        "No such customer: 'cus_1'; a similar object is of …"
    );
}

/// A customer's deletion is concluded from it.
#[tokio::test]
async fn only_stripe_says_that_an_object_is_missing() {
    let check = async |reply: Reply, expected: bool| {
        let error = Bench::new(&[reply]).charge().await.unwrap_err();
        assert_eq!(
            error.rejection().unwrap().is_missing(),
            expected,
            "{error:?}"
        );
    };
    check(error(404, "resource_missing"), true).await;
    check(error(400, "resource_missing"), true).await;
    check(error(404, "other"), false).await;
    check(respond(404, "<html>Not Found</html>"), false).await;
}
