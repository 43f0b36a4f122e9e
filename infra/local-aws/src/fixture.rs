//! Common test fixture: empty tables, a manual clock and a fixed seed.
//!
//! The tables are in the embedded engine or, if `AWS_ENDPOINT_URL_DYNAMODB` is set, in the DynamoDB at
//! that endpoint. `infra/dynamodb-local/run` sets it, to run the tests against AWS's own implementation
//! and so to verify the embedded engine too.

use serde_json::json;
use tollgate_domain::id::random_base62;
use tollgate_runtime::clock::ManualClock;
use tollgate_runtime::{Clock, Entropy};
use tollgate_store::Store;

use crate::{LocalAws, Rule};

/// The AWS SDKs' standard variable for the endpoint of DynamoDB.
const ENDPOINT: &str = "AWS_ENDPOINT_URL_DYNAMODB";

/// A stack for one test.
#[derive(Debug, Clone)]
pub struct Fixture {
    /// The services behind the store.
    pub aws: LocalAws,
    /// The tables, empty.
    pub store: Store,
    /// Clock of the stack, which advances only when the test sets it.
    pub time: ManualClock,
    /// Seeded, and so identical in every run.
    pub entropy: Entropy,
}

impl Fixture {
    /// Creates an empty stack whose clock is at `now`, an RFC 3339 instant.
    ///
    /// # Panics
    /// When it cannot be created.
    #[must_use]
    #[expect(clippy::unwrap_used, reason = "a test whose setup fails has failed")]
    pub fn at(now: &str) -> Self {
        let time = ManualClock::at(now.parse().unwrap());
        let entropy = Entropy::seeded(1);
        let rule = Rule::new(json!({ "detail-type": [{ "prefix": "tollgate." }] })).unwrap();
        let aws = match std::env::var(ENDPOINT) {
            Ok(endpoint) => at_endpoint(&endpoint, rule, &time, &entropy),
            Err(_) => LocalAws::in_memory(rule, time.clock(), entropy.clone()).unwrap(),
        };
        aws.create_tables("test").unwrap();
        let store = Store::new(&aws.sdk_config(), "test", time.clock(), entropy.clone());
        Self {
            aws,
            store,
            time,
            entropy,
        }
    }

    /// Returns the clock of the stack.
    #[must_use]
    pub fn clock(&self) -> Clock {
        self.time.clock()
    }
}

/// Creates services with their own database at the endpoint, which has one for each access key. Other
/// table names would not suffice: DynamoDB keeps the idempotency tokens of an AWS account's transactions,
/// and all fixtures generate the same tokens.
#[expect(clippy::unwrap_used, reason = "a test whose setup fails has failed")]
fn at_endpoint(endpoint: &str, rule: Rule, time: &ManualClock, entropy: &Entropy) -> LocalAws {
    let drawn = Entropy::system().unwrap();
    let access_key_id = drawn.with(|rng| random_base62(rng, 20));
    let (clock, entropy) = (time.clock(), entropy.clone());
    let aws = LocalAws::with_dynamodb_at(endpoint, &access_key_id, rule, clock, entropy).unwrap();
    let (_, tables) = aws.call("DynamoDB_20120810.ListTables", "{}");
    assert_eq!(
        tables, r#"{"TableNames":[]}"#,
        "{ENDPOINT} must name an endpoint with a database for each access key, such as \
         infra/dynamodb-local/run starts"
    );
    aws
}
