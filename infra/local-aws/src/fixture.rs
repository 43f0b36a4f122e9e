//! What most tests begin with: empty tables, a clock that stands still, and a seed.

use serde_json::json;
use tollgate_domain::usage::EVENT_TYPE;
use tollgate_runtime::clock::ManualClock;
use tollgate_runtime::{Clock, Entropy};
use tollgate_store::Store;

use crate::{LocalAws, Rule};

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
        let rule = Rule::new(json!({ "detail-type": [EVENT_TYPE] })).unwrap();
        let aws = LocalAws::in_memory(rule, time.clock(), entropy.clone()).unwrap();
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
