//! Names of the DynamoDB tables, and every operation on them.
//!
//! There is one implementation, over `aws-sdk-dynamodb`; tests and the local product point the
//! same client at an embedded engine. Every effect is made idempotent by a condition, and every
//! conditional write says what each clause of its condition guards against.

mod adjustments;
mod billing;
mod body;
mod canonical;
mod charges;
mod checkouts;
mod counters;
mod customers;
mod erasure;
mod error;
mod event_part;
mod events;
mod idempotency;
mod item;
mod keys;
mod listing;
mod log;
mod log_before;
mod plan_cache;
mod plans;
mod quarantine;
mod query;
mod reconciliation;
mod registry;
mod retry;
pub mod schema;
mod shard_counts;
mod subscriptions;
mod transaction;
mod usage;
mod webhooks;

pub use adjustments::LoggedAdjustment;
pub use billing::RecordChargeOutcome;
pub use canonical::is_same_event;
pub use charges::{BeginOutcome, FailOutcome, SettleOutcome};
pub use checkouts::{CheckoutRecord, RecordCheckoutOutcome, StartedCheckout};
pub use counters::{AdmittedCalls, CounterTotals, LeaseShare, ReserveOutcome};
pub use customers::{CustomerChange, PinChange, RecipientChange, UpdateCustomerOutcome};
pub use erasure::{CONTENTS, Contents, Erasure, Personal};
pub use error::StoreError;
pub use event_part::{EventPart, RejectedRecord};
pub use idempotency::CreateOutcome;
pub use keys::{KeyChange, KeyRef, NewKey, RotateOutcome, UpdateOutcome};
pub use log::{LoggedPart, kept_from};
pub use plan_cache::{CachedPlans, PlanCache};
pub use plans::{PlanOutcome, SeedOutcome};
pub use quarantine::{
    InvalidQuarantineId, QuarantineId, QuarantineKind, QuarantinedContent, QuarantinedItem,
    QuarantinedItemRef, Resolution, ResolveOutcome,
};
pub use reconciliation::ReconciliationSummary;
pub use shard_counts::ShardCounts;
pub use subscriptions::{CustomerToFollow, FollowOutcome, FollowUp};
pub use usage::{OverageMark, UsageScope, WriteUsageOutcome, WriteUsageResult};
pub use webhooks::CreateWebhookOutcome;

use aws_sdk_dynamodb::Client;
use aws_types::SdkConfig;
use jiff::Timestamp;
use tollgate_runtime::env::MissingVar;
use tollgate_runtime::{Clock, Entropy, Init, env};

use usage::{ClaimsSince, ClosedBuckets, Layouts, MAX_CLAIMS, WrittenMarks};

/// The tables of one stack.
#[derive(Debug, Clone)]
pub struct Store {
    client: Client,
    prefix: String,
    clock: Clock,
    entropy: Entropy,
    written_marks: WrittenMarks,
    closed_buckets: ClosedBuckets,
    /// Claims of a bucket at which it is closed.
    max_claims: usize,
    claims_since: ClaimsSince,
    layouts: Layouts,
    /// Time since which no other process counts usage.
    alone_since: Timestamp,
}

impl Store {
    /// Returns the tables whose names begin with `prefix`, reached with the configuration `sdk`.
    /// `clock` gives the timestamps of writes, `entropy` the jitter of retries.
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
            written_marks: WrittenMarks::default(),
            closed_buckets: ClosedBuckets::default(),
            max_claims: MAX_CLAIMS,
            claims_since: ClaimsSince::default(),
            layouts: Layouts::default(),
            alone_since: Timestamp::MIN,
        }
    }

    /// Returns the same tables, in which no other process than this one counts usage from now on. What was being counted
    /// when another process ended is then counted at once, and not only when its attempts are old.
    #[must_use]
    pub fn alone(self) -> Self {
        Self {
            alone_since: self.clock.now(),
            ..self
        }
    }

    /// Returns the tables whose prefix the environment variable `TOLLGATE_TABLE_PREFIX` holds.
    ///
    /// # Errors
    /// When the variable is not set.
    pub fn build(init: &Init) -> Result<Self, MissingVar> {
        let prefix = init.env.get(env::TABLE_PREFIX)?;
        let (clock, entropy) = (init.clock.clone(), init.entropy.clone());
        Ok(Self::new(&init.sdk, prefix, clock, entropy))
    }

    /// Sets the number of claims at which a bucket is closed, so that few usage events can show what follows from it.
    #[must_use]
    pub fn with_buckets_of(mut self, claims: usize) -> Self {
        self.max_claims = claims;
        self
    }

    /// Returns the source of randomness, which also gives retries their jitter.
    #[must_use]
    pub fn entropy(&self) -> &Entropy {
        &self.entropy
    }

    fn table(&self, table: schema::Table) -> String {
        format!("{}-{}", self.prefix, table.name)
    }
}
