//! Options of a stand-in.

use std::fmt;
use std::sync::Arc;

use jiff::Timestamp;

use crate::webhook::NewEndpoint;

/// Options of a [`StripeFake`](crate::StripeFake).
#[derive(Clone)]
pub struct Options {
    /// Seed of all identifiers, secrets and of the order of shuffled webhooks.
    pub seed: u64,
    /// Source of the time. [`StripeFake::advance`](crate::StripeFake::advance) adds to it.
    pub clock: Arc<dyn Fn() -> Timestamp + Send + Sync>,
    /// Secret key of test mode.
    pub test_key: String,
    /// Secret key of live mode, whose objects are others than those of test mode.
    pub live_key: String,
    /// Address of the pages of checkout, portal and invoices, without a slash at the end.
    pub url: String,
    /// Requests that are allowed in a second of the stand-in's clock, in each mode; unlimited if `None`.
    pub requests_per_second: Option<u32>,
    /// Whether requests are logged for [`StripeFake::take_log`](crate::StripeFake::take_log).
    pub keeps_log: bool,
    /// Status of a subscription after the last attempt to collect an invoice has failed.
    pub after_last_attempt: AfterLastAttempt,
    /// Webhook endpoints of test mode that are there from the beginning.
    pub endpoints: Vec<NewEndpoint>,
}

/// Status of a subscription after the last attempt to collect an invoice has failed, which Stripe has as a
/// setting.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AfterLastAttempt {
    /// The subscription is canceled, which is Stripe's default.
    Cancel,
    /// The subscription is `unpaid`: its further invoices stay drafts.
    Unpaid,
    /// The subscription stays `past_due`.
    PastDue,
}

impl Options {
    /// Creates options with a clock, and defaults for the rest.
    pub fn new(clock: impl Fn() -> Timestamp + Send + Sync + 'static) -> Self {
        Self {
            seed: 0,
            clock: Arc::new(clock),
            test_key: "sk_test_stripe_fake".to_owned(),
            live_key: "sk_live_stripe_fake".to_owned(),
            url: "http://127.0.0.1:12111".to_owned(),
            requests_per_second: None,
            keeps_log: false,
            after_last_attempt: AfterLastAttempt::Cancel,
            endpoints: Vec::new(),
        }
    }
}

impl fmt::Debug for Options {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Options")
            .field("seed", &self.seed)
            .field("url", &self.url)
            .finish_non_exhaustive()
    }
}

/// Options that the objects of both modes read.
pub(crate) struct Settings {
    pub(crate) seed: u64,
    pub(crate) url: String,
    pub(crate) after_last_attempt: AfterLastAttempt,
}
