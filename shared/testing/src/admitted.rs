//! Admitted calls, recorded in the quota counters as an authorizer instance does.

use tollgate_domain::key::Owner;
use tollgate_domain::window::{Hour, Month};
use tollgate_local_aws::fixture::Fixture;
use tollgate_store::{AdmittedCalls, KeyRef, LeaseShare, ReserveOutcome, Store};

use crate::p;

/// Units that [`admit`] reserves beyond the calls, and releases.
const UNSPENT: u64 = 10;

/// Lease shares of an authorizer instance, in the counters of a key's hour and of its customer's month.
#[derive(Debug)]
pub struct Instance {
    store: Store,
    shares: [LeaseShare; 2],
    /// Units reserved and not spent.
    left: u64,
    spent: u64,
}

impl Instance {
    /// Creates an instance without units, for calls with a customer's key in the current hour.
    pub async fn new(at: &Fixture, key: &str) -> Self {
        let record = at.store.key(&KeyRef::Id(p(key))).await.unwrap();
        let record = record.expect("the key exists");
        let Owner::Customer(customer) = record.owner else {
            panic!("{key} is an admin key, whose calls are not counted");
        };
        let hour_counter = record.hour_counter_id.unwrap_or(record.id);
        let now = at.clock().now();
        let in_hour = at.store.hour_share(&hour_counter, Hour::containing(now));
        let in_month = at.store.month_share(&customer, Month::containing(now));
        Self {
            store: at.store.clone(),
            shares: [in_hour, in_month],
            left: 0,
            spent: 0,
        }
    }

    /// Reserves units under no limit, and reports the calls so far.
    pub async fn reserve(&mut self, units: u64) {
        let (calls, left) = (self.calls(), self.left);
        for share in &mut self.shares {
            let outcome = self.store.reserve(share, units, None, calls, left).await;
            match outcome.unwrap() {
                ReserveOutcome::Reserved {
                    units: reserved, ..
                } => assert_eq!(reserved, units),
                ReserveOutcome::Exhausted => panic!("there is no limit"),
            }
        }
        self.left += units;
    }

    /// Makes calls, each of which spends a reserved unit. They are reported by the next operation.
    pub fn spend(&mut self, calls: u64) {
        let left = self.left.checked_sub(calls);
        self.left = left.expect("as many units are reserved");
        self.spent += calls;
    }

    /// Releases the units left, and reports all calls.
    pub async fn shut_down(mut self) {
        let calls = self.calls();
        for share in &mut self.shares {
            share.release(self.left, calls);
            self.store.settle(share, calls).await.unwrap();
        }
    }

    fn calls(&self) -> AdmittedCalls {
        AdmittedCalls {
            spent: self.spent,
            uncounted: 0,
        }
    }
}

/// Makes admitted calls with a customer's key, on an instance that then shuts down.
pub async fn admit(at: &Fixture, key: &str, calls: u64) {
    let mut instance = Instance::new(at, key).await;
    instance.reserve(calls + UNSPENT).await;
    instance.spend(calls);
    instance.shut_down().await;
}
