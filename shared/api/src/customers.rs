//! Customers.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use tollgate_domain::customer::{self, Consequence};
use tollgate_domain::id::{CustomerId, PlanId};
use tollgate_domain::plan_book;
use tollgate_domain::submission::Recipient;
use tollgate_domain::window::Month;
use utoipa::{IntoParams, ToSchema};

use crate::json::{Object, Whole, nullable};
use crate::schema;

/// A customer.
#[derive(Debug, Serialize, ToSchema)]
pub struct Customer {
    /// Id.
    #[schema(value_type = schema::CustomerId)]
    pub id: CustomerId,
    /// Name; empty if the customer is erased.
    pub name: String,
    /// E-mail address.
    #[schema(required)]
    pub email: Option<String>,
    /// Current plan.
    #[schema(value_type = schema::PlanId)]
    pub plan: PlanId,
    /// Pins to versions of plans. A pin applies from its month until another of the same plan does; without
    /// one, the customer follows the plan.
    pub pins: Vec<Pin>,
    /// Stripe customer to which the customer is linked, and who is charged. The first checkout creates one.
    #[schema(required)]
    pub stripe: Option<StripeLink>,
    /// Outstanding payment of the customer's subscription.
    #[schema(required)]
    pub unpaid: Option<Unpaid>,
    /// Time of creation.
    #[schema(value_type = schema::Timestamp)]
    pub created_at: Timestamp,
    /// Whether the customer is not suspended. A `PATCH` changes this member.
    pub enabled: bool,
    /// Time of suspension.
    #[schema(value_type = Option<schema::Timestamp>, required)]
    pub suspended_at: Option<Timestamp>,
    /// Time of erasure.
    #[schema(value_type = Option<schema::Timestamp>, required)]
    pub erased_at: Option<Timestamp>,
}

impl From<tollgate_domain::customer::Customer> for Customer {
    fn from(customer: tollgate_domain::customer::Customer) -> Self {
        Self {
            id: customer.id,
            name: customer.name,
            email: customer.email,
            plan: customer.plan,
            pins: customer.pins.iter().map(Pin::from).collect(),
            stripe: customer.recipient.map(StripeLink::from),
            unpaid: customer.unpaid.map(Unpaid::from),
            created_at: customer.created_at,
            enabled: customer.suspended_at.is_none(),
            suspended_at: customer.suspended_at,
            erased_at: customer.erased_at,
        }
    }
}

/// Link of a customer to a Stripe customer.
#[derive(Debug, Clone, Deserialize, Serialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct StripeLink {
    /// Id of the Stripe customer, who can be linked to one customer only. It is not looked up at Stripe.
    #[schema(value_type = schema::StripeCustomerId)]
    pub customer: String,
    /// Id of the subscription whose next invoice charges join; `null` for the next invoice of any.
    // Required: without this attribute, serde would read an absent member as `null`.
    #[serde(deserialize_with = "Option::deserialize")]
    #[schema(value_type = Option<schema::StripeSubscriptionId>, required)]
    pub subscription: Option<String>,
}

impl From<Recipient> for StripeLink {
    fn from(recipient: Recipient) -> Self {
        Self {
            customer: recipient.customer,
            subscription: recipient.subscription,
        }
    }
}

impl From<StripeLink> for Recipient {
    fn from(link: StripeLink) -> Self {
        Self {
            customer: link.customer,
            subscription: link.subscription,
        }
    }
}

/// Outstanding payment of a subscription.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
pub struct Unpaid {
    /// Time since which it is known to be outstanding.
    #[schema(value_type = schema::Timestamp)]
    pub since: Timestamp,
    /// Consequence: `suspended`, `moved` to the plan of those who have not paid, or `waived`, because
    /// someone has set plan or suspension since. `null` within the grace period, or if nothing follows.
    #[schema(value_type = Option<UnpaidConsequence>, required)]
    pub consequence: Option<UnpaidConsequence>,
}

/// Consequence of an outstanding payment.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum UnpaidConsequence {
    /// The customer was suspended, until the payment.
    Suspended,
    /// The customer was moved to another plan, until the payment.
    Moved,
    /// Plan or suspension were set by hand since, and a payment changes neither.
    Waived,
}

impl From<customer::Unpaid> for Unpaid {
    fn from(unpaid: customer::Unpaid) -> Self {
        let consequence = unpaid.consequence.map(|consequence| match consequence {
            Consequence::Suspended => UnpaidConsequence::Suspended,
            Consequence::Moved => UnpaidConsequence::Moved,
            Consequence::Waived => UnpaidConsequence::Waived,
        });
        Self {
            since: unpaid.since,
            consequence,
        }
    }
}

/// Pin of a customer to a version of a plan.
#[derive(Debug, Clone, Deserialize, Serialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Pin {
    /// Plan.
    #[schema(value_type = schema::PlanId)]
    pub plan: PlanId,
    /// Number of the version; `null` ends the pin, so that the customer follows the plan again.
    // Required: without this attribute, serde would read an absent member as `null`.
    #[serde(deserialize_with = "Option::deserialize")]
    #[schema(value_type = Option<u64>, required, minimum = 1)]
    pub version: Option<Whole>,
    /// First month of the pin: one that begins more than an hour after the pin is set, or one of the 24 months after
    /// that.
    #[schema(value_type = schema::Month)]
    pub from: Month,
}

impl From<&plan_book::Pin> for Pin {
    fn from(pin: &plan_book::Pin) -> Self {
        Self {
            plan: pin.plan.clone(),
            version: pin.version.map(Whole),
            from: pin.from,
        }
    }
}

/// Request to create a customer.
#[derive(Debug, Deserialize, Serialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct CreateCustomer {
    /// Id; drawn if absent.
    #[schema(value_type = Option<schema::CustomerId>)]
    pub id: Option<CustomerId>,
    /// Name.
    #[serde(default)]
    #[schema(value_type = schema::Name)]
    pub name: String,
    /// E-mail address.
    #[schema(value_type = Option<schema::Email>)]
    pub email: Option<String>,
    /// Plan.
    #[schema(value_type = schema::PlanId)]
    pub plan: PlanId,
}

/// Changes of a customer: a merge patch (RFC 7396). An absent member stays, `null` removes one.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct UpdateCustomer {
    /// Name.
    #[serde(default, deserialize_with = "nullable")]
    #[schema(value_type = Option<schema::Name>)]
    pub name: Option<Option<String>>,
    /// E-mail address.
    #[serde(default, deserialize_with = "nullable")]
    #[schema(value_type = Option<schema::Email>)]
    pub email: Option<Option<String>>,
    /// Plan, which cannot be removed.
    #[serde(default, deserialize_with = "nullable")]
    #[schema(value_type = schema::PlanId)]
    pub plan: Option<Option<PlanId>>,
    /// Pin, which replaces those of the same plan that would take effect in the same month or later. It cannot
    /// be removed: a pin to the version `null` ends it.
    #[serde(default, deserialize_with = "nullable")]
    #[schema(value_type = Pin)]
    pub pin: Option<Option<Object<Pin>>>,
    /// Link to a Stripe customer, which replaces another one as a whole; `null` removes it. Charges that were sent
    /// to the earlier one stay there.
    #[serde(default, deserialize_with = "nullable")]
    #[schema(value_type = Option<StripeLink>)]
    pub stripe: Option<Option<Object<StripeLink>>>,
    /// `false` suspends the customer, `true` enables it again.
    #[serde(default, deserialize_with = "nullable")]
    #[schema(value_type = bool)]
    pub enabled: Option<Option<bool>>,
}

/// Query of an erasure.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct EraseQuery {
    /// Whether to erase nothing and only report the effects. Required, because an erasure cannot be undone.
    #[param(required, value_type = bool)]
    pub dry_run: Option<bool>,
}

/// Effects of an erasure, or in a dry run, the effects that it would have.
#[derive(Debug, Serialize, ToSchema)]
pub struct Erasure {
    /// The customer.
    pub customer: Customer,
    /// Whether nothing was erased.
    pub dry_run: bool,
    /// Keys that the erasure revokes.
    pub keys_revoked: u64,
    /// Keys of the customer, revoked ones included.
    pub keys: u64,
    /// Attributes that are erased, irrecoverably.
    pub erases: Vec<String>,
    /// Personal attributes that are not erased and expire by themselves.
    pub expires: Vec<String>,
    /// Tables that stay as they are, under the customer's id.
    #[schema(value_type = Vec<String>)]
    pub keeps: Vec<&'static str>,
}
