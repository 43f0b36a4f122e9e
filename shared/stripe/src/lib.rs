//! Client of Stripe's API: the calls that billing needs, and the signatures of webhooks.
//!
//! A call ends in a value, or in a [`StripeError`] that states whether it took effect: rejected and
//! unavailable (nothing was changed), or unknown (it may have taken effect, and must be reconciled before
//! it is repeated). Whoever moves money decides by that, and never by an HTTP status.
//!
//! Each call makes a bounded number of attempts within a bounded time, all with one idempotency key, by
//! Stripe's rules (<https://docs.stripe.com/error-low-level>, <https://docs.stripe.com/api/idempotent_requests>).
//! Network, time, randomness and the secret key are arguments, so that a test or a simulation decides
//! them.

mod call;
mod checkout;
mod client;
mod config;
mod customers;
mod decode;
mod error;
mod events;
mod form;
mod https;
mod id;
mod invoice_items;
mod invoices;
pub mod outbound;
mod pages;
mod parent;
mod portal;
mod prices;
mod request;
mod response;
mod secret;
mod subscriptions;
mod timing;
mod transport;
pub mod webhook;

pub use checkout::{
    CheckoutMode, CheckoutSession, CheckoutStatus, NewCheckoutSession, PaymentStatus,
};
pub use client::StripeClient;
pub use config::{API_VERSION, BaseUrl, Config, InvalidBaseUrl, Retries, Timeouts};
pub use customers::{Customer, CustomerDetails, CustomerLookup};
pub use decode::DecodeError;
pub use error::{
    Rejection, RequestId, StripeError, Unavailable, UnavailableCause, UnknownCause, UnknownOutcome,
};
pub use events::{Event, EventFilter, InvalidEvent};
pub use https::{BoxError, CONNECT_TIMEOUT, HttpsTransport, Roots, tls};
pub use id::{
    CheckoutSessionId, CustomerId, EventId, InvalidStripeId, InvoiceId, InvoiceItemId,
    PaymentMethodId, PortalSessionId, PriceId, ProductId, SubscriptionId, SubscriptionItemId,
};
pub use invoice_items::{CHARGE_METADATA, InvoiceItem, InvoiceItemFilter, NewInvoiceItem, Period};
pub use invoices::{Invoice, InvoiceFilter, InvoiceStatus, NewInvoice};
pub use pages::{Page, Pages};
pub use portal::{NewPortalSession, PortalSession};
pub use prices::{Price, Recurring};
pub use request::{IdempotencyKey, InvalidIdempotencyKey};
pub use secret::{FixedSecret, InvalidSecretKey, Mode, SecretKey, SecretUnavailable, Secrets};
pub use subscriptions::{
    Cancellation, PriceChange, Proration, Subscription, SubscriptionItem, SubscriptionItems,
    SubscriptionStatus, SubscriptionUpdate,
};
pub use timing::{Timing, TokioTiming};
pub use transport::{Transport, TransportError};
