//! Secrets are in no output of a call, at the most verbose log level.

use std::io;
use std::sync::{Arc, Mutex};

use tollgate_stripe::outbound::SigningSecret;
use tollgate_stripe::webhook::EndpointSecret;
use tollgate_stripe::{Config, HttpsTransport, Roots, SecretKey};
use tracing_subscriber::layer::SubscriberExt;

use crate::script::{Bench, Reply, created, respond};

const SECRET: &str = "4eC39HqLyjWDarjtT1zdp7dc";

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

#[tokio::test]
async fn neither_logs_nor_errors_have_the_secret_or_a_body() {
    let log = Log::default();
    let writer = log.clone();
    let layer = tracing_subscriber::fmt::layer()
        .json()
        .with_writer(move || writer.clone());
    let subscriber = tracing_subscriber::registry().with(layer);
    // For all threads: a subscriber of one thread misses events that other tests' threads cause first.
    tracing::subscriber::set_global_default(subscriber).unwrap();

    let key = "sk_test_4eC39HqLyjWDarjtT1zdp7dc";
    let echo =
        r#"{"error":{"message":"Invalid API Key provided: sk_test_4eC39HqLyjWDarjtT1zdp7dc"}}"#;
    let replies = [
        Reply::Lost,
        Reply::NotSent,
        created(),
        respond(401, echo),
        respond(200, "{"),
    ];
    let bench = Bench::with(&replies, &[key], Config::default());
    bench.charge().await.unwrap();
    let rejected = bench.charge().await.unwrap_err();
    let undecodable = bench.charge().await.unwrap_err();

    let log = String::from_utf8(log.0.lock().unwrap().clone()).unwrap();
    let errors = format!(
        "{rejected} {rejected:?} {undecodable} {undecodable:?} {:?}",
        bench.client
    );
    for text in [&log, &errors] {
        assert!(!text.contains(SECRET), "{text}");
        assert!(
            !text.contains("1,234 calls") && !text.contains("cus_1"),
            "{text}"
        );
    }
    for field in [
        r#""request_id":"req_200""#,
        r#""route":"/v1/invoiceitems""#,
        r#""method":"POST""#,
        r#""attempt":3"#,
        r#""status":200"#,
        r#""latency_ms":0"#,
        r#""replayed":false"#,
    ] {
        assert!(log.contains(field), "{field} is not in {log}");
    }
}

#[test]
fn types_with_secrets_do_not_print_them() {
    let check = |shown: String| assert!(!shown.contains(SECRET), "{shown}");
    let key = SecretKey::parse(&format!("sk_live_{SECRET}")).unwrap();
    check(format!("{key:?} {key:#?}"));
    check(format!("{:?}", tollgate_stripe::FixedSecret(key)));
    check(format!(
        "{:?}",
        EndpointSecret::parse(&format!("whsec_{SECRET}")).unwrap()
    ));
    let signing = SigningSecret::from_bytes(SECRET.as_bytes()).unwrap();
    check(format!("{signing:?}"));
    let shown = format!("{signing:?}");
    assert!(
        !shown.contains(&signing.expose()["whsec_".len()..]),
        "{shown}"
    );
    let roots = Roots::Pem(SECRET.as_bytes().to_vec());
    check(format!(
        "{:?}",
        HttpsTransport::new(roots, std::time::Duration::from_secs(1))
    ));
    // A secret that is not one is not repeated in the error.
    check(format!("{:?}", SecretKey::parse(SECRET)));
    check(format!("{:?}", EndpointSecret::parse(SECRET)));
    check(format!("{:?}", SigningSecret::parse(SECRET)));
}
