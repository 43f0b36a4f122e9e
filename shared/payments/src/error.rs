//! Errors of requests of customers to Stripe.

use std::time::Duration;

use tollgate_domain::failure::{Failure, FailureKind};
use tollgate_store::StoreError;
use tollgate_stripe::StripeError;

/// Error: Stripe or the store did not do what a request needs.
#[derive(Debug, thiserror::Error)]
pub enum PaymentsError {
    /// There is no secret key of Stripe.
    #[error("no secret key of Stripe is configured")]
    NotConfigured,
    /// The store failed.
    #[error("the store failed")]
    Store(#[from] StoreError),
    /// Stripe failed, or rejected the request.
    #[error("Stripe failed")]
    Stripe(#[source] Box<StripeError>),
    /// The Stripe price of a plan cannot be used.
    #[error("plan {plan} cannot be bought with its Stripe price {price}")]
    Price {
        /// Id of the plan.
        plan: String,
        /// Id of the price.
        price: String,
        /// Reason.
        #[source]
        defect: PriceDefect,
    },
    /// An idempotency key that was composed is not one.
    #[error("{0:?} is no idempotency key")]
    InvalidKey(String),
    /// The link of a customer is not an id of Stripe's.
    #[error("the Stripe customer of customer {0} is not a valid id")]
    InvalidLink(String),
    /// The Stripe customer that was created for this customer is linked to another one.
    #[error(
        "the Stripe customer {stripe_customer} of customer {customer} is linked to another customer"
    )]
    LinkTaken {
        /// Id of the customer.
        customer: String,
        /// Id of the Stripe customer.
        stripe_customer: String,
    },
    /// The Stripe customer of a customer does not exist at Stripe: it was deleted, or is of another operator or mode.
    #[error("the Stripe customer that customer {0} is linked to does not exist at Stripe")]
    LinkGone(String),
    /// Stripe returned a checkout session that is stored for another customer.
    #[error("the checkout session {0} is stored for another customer")]
    SessionTaken(String),
    /// Items are pending although invoices were made of them.
    #[error("items of the Stripe customer {0} are still pending after invoices were made of them")]
    StillPending(String),
    /// A customer is to be moved to a plan that does not exist.
    #[error("there is no plan {0} to which a customer is to be moved")]
    NoSuchPlan(String),
    /// Other requests changed the customer at every try.
    #[error("other requests changed the customer at every try")]
    Contended,
    /// The cursor is not one of the list.
    #[error("the cursor is not one of the list")]
    InvalidCursor,
}

/// Reason why the Stripe price of a plan cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PriceDefect {
    /// The price is not the id of one.
    #[error("it is not the id of a price")]
    InvalidId,
    /// Stripe has no such price.
    #[error("Stripe has no such price")]
    Missing,
    /// The price takes no new subscriptions.
    #[error("it is not active")]
    Inactive,
    /// The price is in another currency than the plan.
    #[error("its currency is {0}, and not usd")]
    Currency(String),
    /// The price is another than the monthly fee.
    #[error("it is {} cents, and the monthly fee is {fee}", price.map_or("no whole number of".to_owned(), |it| it.to_string()))]
    Amount {
        /// Amount of the price in cents, if it is a whole number.
        price: Option<i64>,
        /// Monthly fee in cents.
        fee: u64,
    },
    /// The price is not paid every month.
    #[error("it is not paid every month")]
    Interval,
    /// The price depends on what is used, or on how much is bought.
    #[error("it is metered or tiered, and not the same for each unit")]
    Usage,
}

impl From<StripeError> for PaymentsError {
    fn from(error: StripeError) -> Self {
        Self::Stripe(Box::new(error))
    }
}

impl PaymentsError {
    /// Returns the time to wait before a repetition, if Stripe stated it.
    #[must_use]
    pub fn retry_after(&self) -> Option<Duration> {
        match self {
            PaymentsError::Stripe(error) => match &**error {
                StripeError::Unavailable(unavailable) => unavailable.retry_after,
                StripeError::Unknown(unknown) => unknown.retry_after,
                StripeError::Rejected(_) => None,
            },
            _ => None,
        }
    }
}

impl Failure for PaymentsError {
    fn kind(&self) -> FailureKind {
        match self {
            PaymentsError::Store(error) => error.kind(),
            PaymentsError::Stripe(error) => match **error {
                StripeError::Unavailable(_) | StripeError::Unknown(_) => FailureKind::Transient,
                StripeError::Rejected(_) => FailureKind::Permanent,
            },
            PaymentsError::Contended => FailureKind::Transient,
            PaymentsError::InvalidCursor => FailureKind::InvalidCursor,
            PaymentsError::NotConfigured
            | PaymentsError::Price { .. }
            | PaymentsError::InvalidKey(_)
            | PaymentsError::InvalidLink(_)
            | PaymentsError::LinkTaken { .. }
            | PaymentsError::LinkGone(_)
            | PaymentsError::SessionTaken(_)
            | PaymentsError::StillPending(_)
            | PaymentsError::NoSuchPlan(_) => FailureKind::Permanent,
        }
    }
}
