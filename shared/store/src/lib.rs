//! The tables, and every operation on them.
//!
//! There is one implementation, over `aws-sdk-dynamodb`; tests and the local product point the
//! same client at an embedded engine. Every effect is made idempotent by a condition, and every
//! conditional write says what each clause of its condition guards.

mod accounts;
mod adjustments;
mod billing;
mod body;
mod canonical;
mod counters;
mod erasure;
mod error;
mod item;
mod log;
mod owners;
mod quarantine;
mod query;
mod reconciliation;
mod retry;
pub mod schema;
mod spread;
mod transaction;
mod usage;

pub use accounts::{
    Created, CustomerChange, UpdateCustomerOutcome, Idempotency, KeyChange, KeyRef, NewKey, Page,
    Rotated, Updated,
};
pub use adjustments::LoggedAdjustment;
pub use billing::{LedgerCharge, Recorded};
pub use canonical::is_same_event;
pub use counters::{Calls, LeaseShare, ReserveOutcome, Units};
pub use erasure::{CONTENTS, Contents, Erasure, Personal};
pub use error::StoreError;
pub use log::Logged;
pub use quarantine::{
    Change, Closed, InvalidQuarantineId, Kind, QuarantineId, Quarantined, RefusedRecord, QuarantinedItem,
    QuarantinedItemRef,
};
pub use reconciliation::ReconciliationSummary;
pub use spread::ShardCounts;
pub use usage::{EventPart, Outcome, Written};

use aws_sdk_dynamodb::Client;
use aws_types::SdkConfig;
use tollgate_runtime::env::MissingVar;
use tollgate_runtime::{Clock, Entropy, Env, env};

/// The tables of one stack.
#[derive(Debug, Clone)]
pub struct Store {
    client: Client,
    prefix: String,
    clock: Clock,
    entropy: Entropy,
}

impl Store {
    /// The tables whose names begin with `prefix`, reached as `sdk` says. `clock` dates what is
    /// written, `entropy` spreads retries.
    #[must_use]
    pub fn new(sdk: &SdkConfig, prefix: &str, clock: Clock, entropy: Entropy) -> Self {
        let config = aws_sdk_dynamodb::config::Builder::from(sdk)
            .retry_classifier(retry::RetryConflicts)
            .build();
        Self {
            client: Client::from_conf(config),
            prefix: prefix.to_owned(),
            clock,
            entropy,
        }
    }

    /// The tables of the stack that the environment names.
    ///
    /// # Errors
    /// When it names none.
    pub fn from_env(
        env: &Env,
        sdk: &SdkConfig,
        clock: Clock,
        entropy: Entropy,
    ) -> Result<Self, MissingVar> {
        Ok(Self::new(sdk, env.get(env::TABLE_PREFIX)?, clock, entropy))
    }

    /// The randomness that spreads retries.
    #[must_use]
    pub fn entropy(&self) -> &Entropy {
        &self.entropy
    }

    fn table(&self, table: schema::Table) -> String {
        format!("{}-{}", self.prefix, table.name)
    }
}
