//! What most tests begin with: empty tables, a clock that stands still, and a seed.
//!
//! The tables are those of the embedded engine, or, where `AWS_ENDPOINT_URL_DYNAMODB` is set, those
//! of the DynamoDB there. `infra/dynamodb-local/run` sets it, and so holds the tests, and the
//! embedded engine with them, against AWS's own implementation.

use serde_json::json;
use tollgate_domain::id::random_base62;
use tollgate_runtime::clock::ManualClock;
use tollgate_runtime::{Clock, Entropy};
use tollgate_store::Store;

use crate::{LocalAws, Rule};

/// The AWS SDKs' standard variable for the endpoint of DynamoDB.
const ENDPOINT: &str = "AWS_ENDPOINT_URL_DYNAMODB";

/// A stack of one test's own.
#[derive(Debug, Clone)]
pub struct Fixture {
    /// The services behind the store.
    pub aws: LocalAws,
    /// The tables, empty.
    pub store: Store,
    /// Stands at the instant the fixture was made for.
    pub time: ManualClock,
    /// The same in every run.
    pub entropy: Entropy,
}

impl Fixture {
    /// An empty stack at `now`, an RFC 3339 instant.
    ///
    /// # Panics
    /// When it cannot be made: the test has nothing to test.
    #[must_use]
    #[expect(clippy::unwrap_used, reason = "a test that cannot begin has failed")]
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

    /// The clock that everything of the stack reads.
    #[must_use]
    pub fn clock(&self) -> Clock {
        self.time.clock()
    }
}

/// Services with a database of their own at the endpoint: it has one for each access key. Tables of
/// other names would not do, because DynamoDB remembers the tokens of an account's transactions, and
/// all fixtures draw the same ones.
#[expect(clippy::unwrap_used, reason = "a test that cannot begin has failed")]
fn at_endpoint(endpoint: &str, rule: Rule, time: &ManualClock, entropy: &Entropy) -> LocalAws {
    let drawn = Entropy::system().unwrap();
    let access_key_id = drawn.with(|rng| random_base62(rng, 20));
    let (clock, entropy) = (time.clock(), entropy.clone());
    let aws = LocalAws::with_dynamodb_at(endpoint, &access_key_id, rule, clock, entropy).unwrap();
    let (_, tables) = aws.answer("DynamoDB_20120810.ListTables", "{}");
    assert_eq!(
        tables, r#"{"TableNames":[]}"#,
        "{ENDPOINT} must name an endpoint with a database for each access key, such as \
         infra/dynamodb-local/run starts"
    );
    aws
}
