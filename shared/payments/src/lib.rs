//! Payments: submission of charges to Stripe, by the charge worker; Stripe's pages, subscriptions and invoices
//! of customers, for billing-api; and the plans of customers, which follow their subscriptions.

mod build;
mod checkout;
mod customers;
mod error;
mod follow;
mod invoices;
mod portal;
mod queue;
mod rate;
mod return_origins;
mod secret;
mod submit;
mod subscription;
mod webhook;

use tollgate_runtime::{Clock, Metrics};
use tollgate_store::Store;
use tollgate_stripe::StripeClient;

pub use build::{Patience, WORKERS};
pub use checkout::{CheckoutOutcome, NewCheckout};
pub use error::{PaymentsError, PriceDefect};
pub use follow::{EVENT_TYPES, EventOutcome, Follower, MessageError};
pub use portal::PortalOutcome;
pub use queue::{ChargeMessage, FollowUpMessage, MAX_DELAY_S, Queue, QueueError};
pub use rate::RateLimited;
pub use return_origins::ReturnOrigins;
pub use secret::{NamedSecret, SecretError, SecretText};
pub use submit::{SubmitError, SubmitOutcome};
pub use webhook::{EndpointSecrets, Reception, SIGNATURE_HEADER, WebhookError, Webhooks};

/// Currency of all charges. The ledger counts in US cents.
pub const CURRENCY: &str = "usd";

/// State of payments in one instance. Cheap to clone; clones share it.
#[derive(Debug, Clone)]
pub struct Payments {
    /// Name of the stack. It is part of what a charge is called at Stripe, because stacks may share a Stripe
    /// account, and have customers of the same ids.
    pub stack: String,
    /// The tables.
    pub store: Store,
    /// Stripe; `None` without a secret key: charges then stay in the ledger.
    pub stripe: Option<StripeClient>,
    /// Clock of attempts.
    pub clock: Clock,
    /// Metrics of charges.
    pub metrics: Metrics,
}
