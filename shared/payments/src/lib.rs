//! Payments: submission of charges to Stripe, by the charge worker; and Stripe's pages, subscriptions and invoices
//! of customers, for billing-api.

mod checkout;
mod customers;
mod error;
mod invoices;
mod portal;
mod queue;
mod rate;
mod return_origins;
mod submit;
mod subscription;

use tollgate_runtime::{Clock, Metrics};
use tollgate_store::Store;
use tollgate_stripe::StripeClient;

pub use checkout::{CheckoutOutcome, NewCheckout};
pub use error::{PaymentsError, PriceDefect};
pub use portal::PortalOutcome;
pub use queue::{ChargeMessage, Queue, QueueError};
pub use rate::RateLimited;
pub use return_origins::ReturnOrigins;
pub use submit::{SubmitError, SubmitOutcome};

/// Currency of all charges. The ledger counts in US cents.
pub const CURRENCY: &str = "usd";

/// State of payments in one instance. Cheap to clone; clones share it.
#[derive(Debug, Clone)]
pub struct Payments {
    /// The tables.
    pub store: Store,
    /// Stripe; `None` without a secret key: charges then stay in the ledger.
    pub stripe: Option<StripeClient>,
    /// Clock of attempts.
    pub clock: Clock,
    /// Metrics of charges.
    pub metrics: Metrics,
}
