//! Subscriptions, checkout, billing portal, invoices and charges of a customer.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use tollgate_domain::id::PlanId;
use tollgate_domain::money::SignedCents;
use tollgate_domain::submission::{ChargeState, LedgerCharge};
use tollgate_domain::window::Month;
use utoipa::ToSchema;

use crate::billing::ChargeStatusSchema;
use crate::{Amount, CurrencyAmount, SignedAmount, schema};

/// Plan and subscription of a customer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
pub struct CustomerSubscription {
    /// Plan, which decides limits and prices.
    pub plan: PlanSummary,
    /// Subscription at Stripe, which charges the monthly fee; `null` if there is none, or it has ended.
    #[schema(required)]
    pub subscription: Option<Subscription>,
    /// Time since which a payment of the subscription is outstanding; `null` if none is.
    #[schema(value_type = Option<schema::Timestamp>, required)]
    pub unpaid_since: Option<Timestamp>,
}

/// Plan of a customer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
pub struct PlanSummary {
    /// Id.
    #[schema(value_type = schema::PlanId)]
    pub id: PlanId,
    /// Name; `null` if the plan does not exist.
    #[schema(required)]
    pub name: Option<String>,
    /// Monthly fee in this month; `null` if the plan does not exist.
    #[schema(required)]
    pub monthly_fee: Option<Amount>,
}

/// Subscription at Stripe.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
pub struct Subscription {
    /// Id.
    #[schema(examples("sub_1QbZk2LkdIwHu7ix"))]
    pub id: String,
    /// State: `active`, `trialing`, `incomplete`, `past_due`, `unpaid`, `paused`, or one that Stripe adds.
    #[schema(examples("active"))]
    pub status: String,
    /// Start of the current period.
    #[schema(value_type = Option<schema::Timestamp>, required)]
    pub current_period_start: Option<Timestamp>,
    /// End of the current period, at which the subscription renews.
    #[schema(value_type = Option<schema::Timestamp>, required)]
    pub current_period_end: Option<Timestamp>,
    /// Whether it ends with the current period.
    pub cancel_at_period_end: bool,
    /// Time at which it is to end, if that is decided.
    #[schema(value_type = Option<schema::Timestamp>, required)]
    pub cancel_at: Option<Timestamp>,
}

/// Request to start a checkout.
#[derive(Debug, Deserialize, Serialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct StartCheckout {
    /// Plan to subscribe to.
    #[schema(value_type = schema::PlanId)]
    pub plan: PlanId,
    /// Page to which Stripe leads after the payment. Stripe replaces `{CHECKOUT_SESSION_ID}` in it.
    #[schema(value_type = schema::ReturnUrl)]
    pub success_url: String,
    /// Page to which Stripe leads if the customer cancels.
    #[schema(value_type = schema::ReturnUrl)]
    pub cancel_url: String,
}

/// Checkout session: a page of Stripe's on which the customer subscribes to a plan. The plan changes when Stripe
/// reports the payment.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
pub struct Checkout {
    /// Id of the session.
    #[schema(examples("cs_live_a1B2c3D4"))]
    pub id: String,
    /// Plan.
    #[schema(value_type = schema::PlanId)]
    pub plan: PlanId,
    /// State: `open`, `complete` or `expired`.
    #[schema(examples("open"))]
    pub status: String,
    /// Address of the page, for the customer alone; `null` unless the session is open.
    #[schema(required)]
    pub url: Option<String>,
    /// Time from which the page no longer works.
    #[schema(value_type = schema::Timestamp)]
    pub expires_at: Timestamp,
}

/// Request to open the billing portal.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct OpenPortal {
    /// Page to which the portal leads back.
    #[schema(value_type = schema::ReturnUrl)]
    pub return_url: String,
}

/// Session of the billing portal: pages of Stripe's on which the customer manages the subscription and the
/// payment methods.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
pub struct Portal {
    /// Address of the portal. Whoever has it acts as the customer; it works for a short time.
    #[schema(examples("https://billing.stripe.com/p/session/live_YWNjdF8x"))]
    pub url: String,
}

/// Invoice at Stripe.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
pub struct Invoice {
    /// Id.
    #[schema(examples("in_1QbZk2LkdIwHu7ix"))]
    pub id: String,
    /// Number on the invoice.
    #[schema(required, examples("8F3K2QZ1-0001"))]
    pub number: Option<String>,
    /// State: `open`, `paid`, `uncollectible`, `void`, or one that Stripe adds.
    #[schema(examples("paid"))]
    pub status: String,
    /// Currency.
    #[schema(examples("usd"))]
    pub currency: String,
    /// Total, taxes and discounts included.
    pub total: CurrencyAmount,
    /// Amount to pay, after the customer's balance.
    pub amount_due: CurrencyAmount,
    /// Amount that is paid.
    pub amount_paid: CurrencyAmount,
    /// Amount that is still to be paid.
    pub amount_remaining: CurrencyAmount,
    /// Time of creation.
    #[schema(value_type = schema::Timestamp)]
    pub created_at: Timestamp,
    /// Page on which the invoice can be read and paid, by whoever has the address.
    #[schema(required)]
    pub hosted_invoice_url: Option<String>,
    /// Address of the invoice as a PDF file.
    #[schema(required)]
    pub invoice_pdf: Option<String>,
}

/// A charge for the overage of a month, or if its amount is negative, a credit.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
pub struct CustomerCharge {
    /// Id.
    #[schema(value_type = schema::ChargeId)]
    pub id: String,
    /// Month of the usage.
    #[schema(value_type = schema::Month)]
    pub month: Month,
    /// Number of the charge within the month, from 1.
    pub number: u64,
    /// State. It does not say whether the invoice was paid.
    #[schema(value_type = ChargeStatusSchema)]
    pub status: &'static str,
    /// Amount in US cents; negative for a credit.
    #[schema(value_type = i64)]
    pub cents: SignedCents,
    /// Amount; negative for a credit.
    pub amount: SignedAmount,
    /// Text on the invoice.
    #[schema(examples("1,234 calls beyond the 100,000 included, 1–15 November 2026"))]
    pub description: String,
    /// Number of the first overage call that the charge covers or the credit takes back, from 1.
    pub from_call: u64,
    /// Number of the last overage call that the charge covers or the credit takes back.
    pub to_call: u64,
    /// Time of creation.
    #[schema(value_type = schema::Timestamp)]
    pub created_at: Timestamp,
    /// Id of Stripe's invoice item, once the charge is settled.
    #[schema(required, examples("ii_1QbZk2LkdIwHu7ix"))]
    pub invoice_item: Option<String>,
    /// Time at which the charge was settled.
    #[schema(value_type = Option<schema::Timestamp>, required)]
    pub settled_at: Option<Timestamp>,
}

impl CustomerCharge {
    /// Creates the representation of a charge for its customer: without what is for the operator.
    #[must_use]
    pub fn new(ledger: LedgerCharge) -> Self {
        let LedgerCharge { charge, state, .. } = ledger;
        let status = state.status().as_str();
        let (invoice_item, settled_at) = match state {
            ChargeState::Settled { item, at } => (Some(item), Some(at)),
            ChargeState::Pending | ChargeState::Submitted | ChargeState::Failed { .. } => {
                (None, None)
            }
        };
        Self {
            id: charge.id,
            month: charge.month,
            number: charge.number,
            status,
            cents: charge.cents,
            amount: charge.cents.into(),
            description: charge.description,
            from_call: charge.from_call,
            to_call: charge.to_call,
            created_at: charge.created_at,
            invoice_item,
            settled_at,
        }
    }
}

/// Receipt of an event of Stripe.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
pub struct WebhookReceipt {
    /// Whether it is queued. Events of types that change nothing are not.
    pub queued: bool,
}
