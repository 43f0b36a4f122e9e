//! Customers of the API, who pay for its use.
//!
//! A customer's id is a pseudonym by contract: usage, log and ledger keep it permanently, so it must
//! not identify a person. The name and the e-mail address may, and an erasure removes them.

use jiff::Timestamp;

use crate::id::{CustomerId, PlanId};
use crate::plan_book::Pins;
use crate::submission::Recipient;

/// A customer of the API.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Customer {
    /// Permanent pseudonymous id, kept in all records.
    pub id: CustomerId,
    /// Display name.
    pub name: String,
    /// E-mail address for bills.
    pub email: Option<String>,
    /// Plan, which decides limits and prices; a change takes effect from the next call on.
    pub plan: PlanId,
    /// Pins to versions of plans. Without one, the customer follows its plan.
    pub pins: Pins,
    /// Recipient of the customer's charges at the payment provider, if it is a customer there too.
    pub recipient: Option<Recipient>,
    /// Plan that the recipient's subscription last gave the customer. Its plan may be another one, which an admin
    /// has set since.
    pub subscription_plan: Option<PlanId>,
    /// Outstanding payment of the subscription, if there is one.
    pub unpaid: Option<Unpaid>,
    /// Time of creation.
    pub created_at: Timestamp,
    /// Time of the suspension, while the customer is suspended.
    pub suspended_at: Option<Timestamp>,
    /// Time of the erasure, which removed name and e-mail address.
    pub erased_at: Option<Timestamp>,
}

impl Customer {
    /// Creates a customer without a name, who follows this plan and is no customer of the payment provider.
    #[must_use]
    pub fn new(id: CustomerId, plan: PlanId, created_at: Timestamp) -> Self {
        Self {
            id,
            name: String::new(),
            email: None,
            plan,
            pins: Pins::default(),
            recipient: None,
            subscription_plan: None,
            unpaid: None,
            created_at,
            suspended_at: None,
            erased_at: None,
        }
    }

    /// Returns the payment provider's id of the customer's subscription, if it has one.
    #[must_use]
    pub fn subscription(&self) -> Option<&str> {
        self.recipient.as_ref()?.subscription.as_deref()
    }
}

/// An outstanding payment of a customer's subscription.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Unpaid {
    /// Time since which it is known to be outstanding.
    pub since: Timestamp,
    /// Consequence, once its grace period was over.
    pub consequence: Option<Consequence>,
}

/// Consequence of an outstanding payment. It is taken back when the customer pays.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Consequence {
    /// The customer was suspended.
    Suspended,
    /// The customer was moved to another plan.
    Moved,
    /// An admin has decided otherwise, which stands.
    Waived,
}
