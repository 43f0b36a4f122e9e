//! Deliveries: signed, repeated for more than a day, and to public addresses only.

#![allow(
    clippy::unwrap_used,
    reason = "a test whose setup or inspection fails has failed"
)]

use std::collections::BTreeSet;
use std::io::Write;
use std::net::{Ipv4Addr, TcpListener};
use std::sync::Arc;
use std::time::Duration;

use events::Delivery;
use jiff::SignedDuration;
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{ServerConfig, ServerConnection, StreamOwned};
use serde_json::{Value, json};
use tollgate_domain::event::EventKind;
use tollgate_domain::webhook::{MAX_ATTEMPTS, Reach};
use tollgate_local_aws::Fault;
use tollgate_runtime::metrics::{DELIVERED_EVENTS, UNDELIVERED_EVENTS};
use tollgate_stripe::Roots;
use tollgate_stripe::outbound::{SigningSecret, VerifyError, verify};
use tollgate_testing::faults::fail_operation;

mod common;

use common::{NOW, Stack, Target, ok, p, read_request, status};

const TOLERANCE: Duration = Duration::from_secs(300);

/// Returns a stack with one published event and a webhook to this target, whose delivery is in the queue.
async fn published(url: &str) -> (Stack, SigningSecret) {
    published_at(Stack::new(), url).await
}

async fn published_at(stack: Stack, url: &str) -> (Stack, SigningSecret) {
    let secret = stack.webhook("wh_1", url, &[]).await;
    stack.record(EventKind::ChargeFailed, "1").await;
    assert_eq!(stack.publisher.publish(None).await.unwrap().deliveries, 1);
    (stack, secret)
}

/// Makes the delivery, which fails, and returns the reason that is recorded if it is the last attempt.
async fn last_failure(stack: &Stack) -> String {
    let last = Delivery {
        attempt: MAX_ATTEMPTS,
        ..Delivery::first(p("wh_1"), 1)
    };
    let last = serde_json::to_value(last).unwrap();
    assert_eq!(stack.deliver(&[last]).await, BTreeSet::new());
    let failure = stack.stored_webhook("wh_1").await.failure.unwrap();
    assert_eq!(failure.event, 1);
    failure.reason
}

#[tokio::test]
async fn a_message_is_signed_and_is_the_event_as_it_is_listed() {
    let target = Target::start(&[&ok()]);
    let (stack, secret) = published(&target.url()).await;
    assert_eq!(stack.deliver_due().await, 1);
    let [received] = &target.received()[..] else {
        panic!("{:?}", target.received());
    };
    assert!(received.head.starts_with("POST /hooks?a=b HTTP/1.1\r\n"));
    assert_eq!(received.header("content-type"), "application/json");
    assert_eq!(received.header("host"), target.address.to_string());
    let body: Value = serde_json::from_slice(&received.body).unwrap();
    let signed = received.signed();
    assert_eq!(signed.id, body["id"]);
    let expected = json!({
        "id": signed.id, "type": "charge.failed", "number": 1, "timestamp": NOW,
        "customer_id": "acme", "data": { "cause": "1" },
    });
    assert_eq!(body, expected);
    let now = stack.at.clock().now();
    let check = |body: &[u8], secret: &SigningSecret| {
        verify(&signed, body, std::slice::from_ref(secret), now, TOLERANCE)
    };
    assert_eq!(check(&received.body, &secret), Ok(()));
    let other = SigningSecret::from_bytes(&[8; 32]).unwrap();
    assert_eq!(check(&received.body, &other), Err(VerifyError::NoMatch));
    assert_eq!(check(b"{}", &secret), Err(VerifyError::NoMatch));
    assert_eq!(stack.queued(), 0);
    assert_eq!(stack.cloudwatch.sum(DELIVERED_EVENTS, &[]), 1);
}

#[tokio::test]
async fn a_delivery_is_repeated_under_the_same_id_until_it_is_acknowledged() {
    let redirect =
        "HTTP/1.1 302 Found\r\nlocation: http://127.0.0.1:1/\r\ncontent-length: 0\r\n\r\n";
    let target = Target::start(&[
        &status("500 Internal Server Error"),
        redirect,
        &status("404 Not Found"),
        "not HTTP",
        &status("200 OK"),
    ]);
    let (stack, secret) = published(&target.url()).await;
    for _ in 0..10_000 {
        stack.deliver_due().await;
        stack.at.time.advance(SignedDuration::from_secs(60));
        if target.received().len() == 5 {
            break;
        }
    }
    let received = target.received();
    assert_eq!(received.len(), 5);
    let times: Vec<i64> = received
        .iter()
        .map(|it| p(&it.signed().timestamp))
        .collect();
    for (index, received) in received.iter().enumerate() {
        let signed = received.signed();
        assert_eq!(signed.id, target.received()[0].signed().id);
        assert_eq!(received.body, target.received()[0].body);
        // The time is that of the attempt, so that receivers can reject old messages.
        let at = jiff::Timestamp::from_second(times[index]).unwrap();
        let verified = verify(
            &signed,
            &received.body,
            std::slice::from_ref(&secret),
            at,
            TOLERANCE,
        );
        assert_eq!(verified, Ok(()));
    }
    let waits: Vec<i64> = times.windows(2).map(|pair| pair[1] - pair[0]).collect();
    for (wait, expected) in waits.iter().zip([5, 300, 1_800, 7_200]) {
        // The jitter, and the time between two looks at the queue.
        let expected = expected * 9 / 10..=expected + 120;
        assert!(expected.contains(wait), "{waits:?}");
    }
    assert_eq!(stack.queued(), 0);
    assert_eq!(stack.stored_webhook("wh_1").await.failure, None);
}

#[tokio::test]
async fn a_delivery_is_given_up_after_more_than_a_day_and_that_is_listed() {
    let target = Target::start(&[&status("503 Service Unavailable")]);
    let (stack, _) = published(&target.url()).await;
    let began = stack.at.clock().now();
    while stack.queued() > 0 {
        stack.deliver_due().await;
        stack.at.time.advance(SignedDuration::from_secs(30));
    }
    assert_eq!(target.received().len(), MAX_ATTEMPTS as usize);
    let webhook = stack.stored_webhook("wh_1").await;
    let failure = webhook.failure.unwrap();
    assert_eq!(failure.event, 1);
    assert_eq!(failure.reason, "the target responded with status 503");
    assert!(failure.at.duration_since(began) > SignedDuration::from_hours(24));
    assert_eq!(webhook.disabled_at, None);
    assert_eq!(stack.cloudwatch.sum(UNDELIVERED_EVENTS, &[]), 1);
    assert_eq!(stack.cloudwatch.sum(DELIVERED_EVENTS, &[]), 0);
}

#[tokio::test]
async fn a_delivery_that_is_not_due_passes_the_queue_again() {
    let target = Target::start(&[&ok()]);
    let (stack, _) = published(&target.url()).await;
    stack.take();
    let due = stack.at.clock().now() + SignedDuration::from_secs(1_000);
    let later = Delivery {
        not_before: Some(due),
        ..Delivery::first(p("wh_1"), 1)
    };
    let message = serde_json::to_value(&later).unwrap();
    stack.deliver(&[message]).await;
    let advance = |seconds| stack.at.time.advance(SignedDuration::from_secs(seconds));
    advance(899);
    assert_eq!(stack.deliver_due().await, 0);
    // SQS does not delay a message for longer.
    advance(1);
    assert_eq!(stack.deliver_due().await, 1);
    assert_eq!(target.received().len(), 0);
    advance(99);
    assert_eq!(stack.deliver_due().await, 0);
    advance(2);
    assert_eq!(stack.deliver_due().await, 1);
    assert_eq!(target.received().len(), 1);
}

#[tokio::test]
async fn a_target_that_is_gone_is_sent_nothing_more() {
    let target = Target::start(&[&status("410 Gone")]);
    let (stack, _) = published(&target.url()).await;
    stack.deliver_due().await;
    let webhook = stack.stored_webhook("wh_1").await;
    assert_eq!(webhook.disabled_at, Some(p(NOW)));
    assert_eq!(stack.queued(), 0);
    assert_eq!(stack.cloudwatch.sum(UNDELIVERED_EVENTS, &[]), 1);
    // Nor is what was queued before.
    let queued = serde_json::to_value(Delivery::first(p("wh_1"), 1)).unwrap();
    stack.deliver(&[queued]).await;
    assert_eq!(target.received().len(), 1);
    stack.record(EventKind::ChargeFailed, "2").await;
    assert_eq!(stack.publisher.publish(None).await.unwrap().deliveries, 0);
}

#[tokio::test]
async fn a_deleted_webhook_an_expired_event_and_another_message_are_dropped() {
    let target = Target::start(&[&ok()]);
    let (stack, _) = published(&target.url()).await;
    let of =
        |webhook: &str, event| serde_json::to_value(Delivery::first(p(webhook), event)).unwrap();
    let dropped = [
        of("wh_2", 1),
        of("wh_1", 2),
        json!({}),
        json!("x"),
        json!({ "a": 1 }),
    ];
    assert_eq!(stack.deliver(&dropped).await, BTreeSet::new());
    assert!(stack.at.store.delete_webhook(&p("wh_1")).await.unwrap());
    stack.deliver_due().await;
    assert_eq!(target.received().len(), 0);
    assert_eq!(stack.queued(), 0);
}

#[tokio::test(start_paused = true)]
async fn a_message_that_cannot_be_handled_is_delivered_again_and_no_other() {
    let stack = Stack::new();
    stack.webhook("wh_1", "http://127.0.0.1:1/", &[]).await;
    stack.record(EventKind::ChargeFailed, "1").await;
    stack.publisher.publish(None).await.unwrap();
    stack.take();
    let messages = [
        serde_json::to_value(Delivery::first(p("wh_1"), 1)).unwrap(),
        json!({}),
    ];
    let first = BTreeSet::from(["0".to_owned()]);
    for operation in ["GetItem", "SendMessageBatch"] {
        fail_operation(&stack.at.aws, operation, Fault::RequestLost);
        assert_eq!(stack.deliver(&messages).await, first, "{operation}");
        stack.at.aws.heal();
    }
    assert_eq!(stack.deliver(&messages).await, BTreeSet::new());
}

/// Names that lead to an address of this machine, of its network or of its cloud; alone, and beside a public one.
#[tokio::test]
async fn a_name_that_leads_to_an_address_that_is_not_public_is_not_called() {
    let target = Target::start(&[&ok()]);
    for addresses in [
        &["127.0.0.1"][..],
        &["10.0.0.1"],
        &["172.16.0.1"],
        &["192.168.0.1"],
        &["100.64.0.1"],
        &["169.254.169.254"],
        &["169.254.170.2"],
        &["0.0.0.0"],
        &["255.255.255.255"],
        &["::1"],
        &["::"],
        &["fd00:ec2::254"],
        &["fe80::1"],
        &["::ffff:127.0.0.1"],
        &["::ffff:10.0.0.1"],
        &["64:ff9b::a9fe:a9fe"],
        &["2002:7f00:1::"],
        &["1.1.1.1", "127.0.0.1"],
        &["127.0.0.1", "1.1.1.1"],
    ] {
        let stack = Stack::new().resolving_to(Reach::Public, Roots::System, addresses);
        let url = format!("https://hooks.example:{}/", target.address.port());
        let (stack, _) = published_at(stack, &url).await;
        let reason = last_failure(&stack).await;
        assert_eq!(
            reason, "the address of the target is not public",
            "{addresses:?}"
        );
    }
    assert_eq!(target.received().len(), 0);
}

/// A stored address may have been checked by other rules.
#[tokio::test]
async fn an_address_in_place_of_a_name_is_checked_too() {
    let target = Target::start(&[&ok()]);
    let port = target.address.port();
    for host in [
        "127.0.0.1",
        "[::1]",
        "[::ffff:127.0.0.1]",
        "10.0.0.1",
        "169.254.169.254",
        // Other spellings are names, which the system resolves.
        "localhost",
        "localhost.",
        "127.1",
        "0x7f000001",
        "2130706433",
        "017700000001",
    ] {
        for scheme in ["http", "https"] {
            let mut stack = Stack::new();
            stack.sender.client = events::WebhookClient::new(Reach::Public);
            let url = format!("{scheme}://{host}:{port}/");
            let (stack, _) = published_at(stack, &url).await;
            let reason = last_failure(&stack).await;
            let is_rejected = [
                "the address of the target is not public",
                "there was no connection to the target",
            ];
            assert!(is_rejected.contains(&reason.as_str()), "{url}: {reason}");
        }
    }
    assert_eq!(target.received().len(), 0);
}

#[tokio::test]
async fn the_name_is_in_the_request_and_the_connection_is_to_the_address() {
    let target = Target::start(&[&ok()]);
    let stack = Stack::new().resolving_to(Reach::Loopback, Roots::System, &["127.0.0.1"]);
    let url = format!("http://hooks.example:{}/", target.address.port());
    let (stack, _) = published_at(stack, &url).await;
    stack.deliver_due().await;
    let host = format!("hooks.example:{}", target.address.port());
    assert_eq!(target.received()[0].header("host"), host);
}

#[tokio::test]
async fn a_redirect_is_not_followed() {
    let secret = Target::start(&[&ok()]);
    let redirect = format!(
        "HTTP/1.1 307 Temporary Redirect\r\nlocation: {}\r\ncontent-length: 0\r\n\r\n",
        secret.url()
    );
    let target = Target::start(&[&redirect]);
    let (stack, _) = published(&target.url()).await;
    let reason = last_failure(&stack).await;
    assert_eq!(reason, "the target responded with status 307");
    assert_eq!(secret.received().len(), 0);
}

/// A paused clock advances when everything waits.
#[tokio::test(start_paused = true)]
async fn a_target_that_does_not_respond_is_given_up_after_ten_seconds() {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let url = format!("http://{}/", listener.local_addr().unwrap());
    let (stack, _) = published(&url).await;
    let began = tokio::time::Instant::now();
    let reason = last_failure(&stack).await;
    assert_eq!(reason, "there was no response within ten seconds");
    assert!(began.elapsed() < Duration::from_secs(11));
}

#[tokio::test]
async fn a_response_without_an_end_is_as_good_as_its_status() {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let url = format!("http://{}/", listener.local_addr().unwrap());
    let sending = std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        read_request(&mut stream).unwrap();
        stream
            .write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 99999999999\r\n\r\n")
            .unwrap();
        // Ends when the sender closes the connection.
        while stream.write_all(&[b' '; 65_536]).is_ok() {}
    });
    let (stack, _) = published(&url).await;
    stack.deliver_due().await;
    assert_eq!(stack.cloudwatch.sum(DELIVERED_EVENTS, &[]), 1);
    sending.join().unwrap();
}

/// Returns an authority's certificate in PEM, and the configuration of a server named `hooks.example` that it vouches
/// for.
fn authority() -> (Vec<u8>, Arc<ServerConfig>) {
    let mut params = CertificateParams::new(Vec::new()).unwrap();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let issuer = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
    let server = KeyPair::generate().unwrap();
    let params = CertificateParams::new(vec!["hooks.example".to_owned()]).unwrap();
    let certificate = params.signed_by(&server, &issuer).unwrap();
    let chain = vec![CertificateDer::from(certificate)];
    let key = PrivateKeyDer::Pkcs8(server.serialize_der().into());
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(chain, key)
        .unwrap();
    (issuer.pem().into_bytes(), Arc::new(config))
}

#[tokio::test]
async fn the_certificate_must_be_that_of_the_name() {
    let (root, config) = authority();
    let (other_root, _) = authority();
    let check = async |roots: &[u8], host: &str, expected: Option<&str>| {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let port = listener.local_addr().unwrap().port();
        let config = Arc::clone(&config);
        std::thread::spawn(move || {
            let (stream, _) = listener.accept().unwrap();
            let connection = ServerConnection::new(config).unwrap();
            let mut stream = StreamOwned::new(connection, stream);
            if read_request(&mut stream).is_some() {
                stream.write_all(ok().as_bytes()).unwrap();
            }
        });
        let roots = Roots::Pem(roots.to_vec());
        let stack = Stack::new().resolving_to(Reach::Loopback, roots, &["127.0.0.1"]);
        let (stack, _) = published_at(stack, &format!("https://{host}:{port}/")).await;
        match expected {
            None => {
                stack.deliver_due().await;
                assert_eq!(stack.cloudwatch.sum(DELIVERED_EVENTS, &[]), 1, "{host}");
            }
            Some(expected) => assert_eq!(last_failure(&stack).await, expected, "{host}"),
        }
    };
    let rejected = Some("there was no connection to the target");
    check(&root, "hooks.example", None).await;
    check(&root, "other.example", rejected).await;
    check(&other_root, "hooks.example", rejected).await;
}
