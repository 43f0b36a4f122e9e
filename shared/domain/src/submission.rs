//! Submission of charges to the payment provider: the states of a charge, and what an attempt may do.
//!
//! An attempt is recorded before its request is sent, so that a charge whose outcome is unknown is known to be
//! so. A charge that was attempted before is looked for at the provider before it is sent again, whatever the
//! outcome of the attempt: idempotency keys are forgotten after a day. A rejection is a known outcome, so that the next
//! attempt has a key of its own; the provider would replay the rejection otherwise.

use std::fmt;
use std::str::FromStr;

use jiff::{SignedDuration, Timestamp};

use crate::billing::Charge;
use crate::id::CustomerId;
use crate::window::Month;

/// Time after which an attempt that was begun and not concluded is made again.
pub const ATTEMPT_TIMEOUT: SignedDuration = SignedDuration::from_mins(5);
/// Time after which a rejected charge is submitted again. Less than a day, so that each nightly run tries.
pub const RETRY_REJECTED: SignedDuration = SignedDuration::from_hours(20);
/// Time after which a charge is submitted again whose customer has no recipient: longer than the run that finds that,
/// and short for whoever has just set one.
pub const RETRY_NO_RECIPIENT: SignedDuration = SignedDuration::from_hours(1);

/// Name of a charge: the billing period, and the number within it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ChargeRef {
    /// Customer that pays.
    pub customer: CustomerId,
    /// Month of the overage.
    pub month: Month,
    /// Number of the charge within the month, from 1.
    pub number: u64,
}

impl ChargeRef {
    /// Returns the id of the charge.
    #[must_use]
    pub fn id(&self) -> String {
        self.to_string()
    }
}

impl fmt::Display for ChargeRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            customer,
            month,
            number,
        } = self;
        write!(f, "ci_{customer}_{month}_{number:04}")
    }
}

/// Error: the text is not the id of a charge.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the text is not the id of a charge")]
pub struct InvalidChargeId;

impl FromStr for ChargeRef {
    type Err = InvalidChargeId;

    fn from_str(text: &str) -> Result<Self, InvalidChargeId> {
        let parsed = || {
            // Ids of customers may contain underscores, the other parts do not.
            let mut parts = text.strip_prefix("ci_")?.rsplitn(3, '_');
            let (number, month, customer) = (parts.next()?, parts.next()?, parts.next()?);
            Some(Self {
                customer: customer.parse().ok()?,
                month: month.parse().ok()?,
                number: number.parse().ok()?,
            })
        };
        let charge = parsed().filter(|charge| charge.number > 0 && charge.to_string() == text);
        charge.ok_or(InvalidChargeId)
    }
}

/// State of a charge, without its details.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ChargeStatus {
    /// In the ledger, and never sent.
    Pending,
    /// Sent; the outcome is unknown, or not recorded yet.
    Submitted,
    /// Not at the provider: rejected, or not sent for the recorded reason. It is submitted again.
    Failed,
    /// At the provider, under the recorded id.
    Settled,
}

impl ChargeStatus {
    /// All states.
    pub const ALL: [Self; 4] = [Self::Pending, Self::Submitted, Self::Failed, Self::Settled];

    /// Returns the name in items, requests and responses.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            ChargeStatus::Pending => "pending",
            ChargeStatus::Submitted => "submitted",
            ChargeStatus::Failed => "failed",
            ChargeStatus::Settled => "settled",
        }
    }
}

impl FromStr for ChargeStatus {
    type Err = InvalidStatus;

    fn from_str(text: &str) -> Result<Self, InvalidStatus> {
        let named = Self::ALL.into_iter().find(|status| status.as_str() == text);
        named.ok_or(InvalidStatus)
    }
}

/// Error: the text is not the state of a charge.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the text is not the state of a charge")]
pub struct InvalidStatus;

/// State of a charge.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ChargeState {
    /// See [`ChargeStatus::Pending`].
    Pending,
    /// See [`ChargeStatus::Submitted`].
    Submitted,
    /// See [`ChargeStatus::Failed`].
    Failed {
        /// Reason, for the operator.
        reason: String,
    },
    /// See [`ChargeStatus::Settled`].
    Settled {
        /// Id of the provider's invoice item.
        item: String,
        /// Time at which that was recorded.
        at: Timestamp,
    },
}

impl ChargeState {
    /// Returns the state without its details.
    #[must_use]
    pub fn status(&self) -> ChargeStatus {
        match self {
            ChargeState::Pending => ChargeStatus::Pending,
            ChargeState::Submitted => ChargeStatus::Submitted,
            ChargeState::Failed { .. } => ChargeStatus::Failed,
            ChargeState::Settled { .. } => ChargeStatus::Settled,
        }
    }
}

/// Kind of a failed attempt, which leaves nothing at the provider.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SubmissionFailure {
    /// The provider rejected the charge.
    Rejected,
    /// There is nobody to charge.
    NoRecipient,
    /// The provider did not accept requests.
    Unavailable,
}

impl SubmissionFailure {
    /// Whether the failure has an event. A provider that is unavailable becomes available by itself.
    #[must_use]
    pub fn is_announced(self) -> bool {
        self != SubmissionFailure::Unavailable
    }
}

/// Recipient of a charge at the provider.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Recipient {
    /// Id of the provider's customer.
    pub customer: String,
    /// Id of the subscription whose next invoice the charge joins; without one, it joins the next of any.
    pub subscription: Option<String>,
}

/// Attempts to submit a charge.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Attempts {
    /// Number of attempts that were begun.
    pub count: u64,
    /// Number of attempts that the provider rejected.
    pub rejected: u64,
    /// Time of the last one.
    pub last_at: Option<Timestamp>,
    /// Recipient of the last one.
    pub recipient: Option<Recipient>,
}

/// A charge in the ledger, with its state.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LedgerCharge {
    /// The charge, which never changes.
    pub charge: Charge,
    /// State.
    pub state: ChargeState,
    /// Attempts to submit it.
    pub attempts: Attempts,
    /// Time from which it is submitted, or submitted again; `None` if it is settled.
    pub next_try: Option<Timestamp>,
}

impl LedgerCharge {
    /// Returns the recipient of the next attempt. While the outcome of an attempt is unknown, it is the one of
    /// that attempt: under one idempotency key, all parameters stay the same.
    #[must_use]
    pub fn recipient(&self, current: Option<&Recipient>) -> Option<Recipient> {
        let sent = self.attempts.recipient.as_ref();
        let sent = sent.filter(|_| self.state == ChargeState::Submitted);
        sent.or(current).cloned()
    }

    /// Whether the charge may be at the provider although the ledger does not say so.
    #[must_use]
    pub fn may_be_at_provider(&self) -> bool {
        self.attempts.count > 0
    }

    /// Returns the idempotency key of the next request that submits the charge: its id, and after a rejection,
    /// the number of rejections too.
    #[must_use]
    pub fn idempotency_key(&self) -> String {
        match self.attempts.rejected {
            0 => self.charge.id.clone(),
            rejected => format!("{}.{rejected}", self.charge.id),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_id_of_a_charge_names_its_billing_period_and_number() {
        let check = |id: &str| {
            let charge: ChargeRef = id.parse().unwrap();
            assert_eq!(charge.id(), id);
            charge
        };
        let charge = check("ci_acme_2026-11_0001");
        assert_eq!((charge.customer.as_str(), charge.number), ("acme", 1));
        let charge = check("ci_cus_a_b_2026-11_12345");
        assert_eq!(
            (charge.customer.as_str(), charge.number),
            ("cus_a_b", 12_345)
        );
        for invalid in [
            "",
            "ci_",
            "ci_acme",
            "ci_acme_2026-11",
            "ci_acme_2026-11_1",
            "ci_acme_2026-11_0000",
            "ci_acme_2026-13_0001",
            "ci__2026-11_0001",
            "acme_2026-11_0001",
            "ci_acme_2026-11_0001 ",
        ] {
            assert_eq!(
                invalid.parse::<ChargeRef>(),
                Err(InvalidChargeId),
                "{invalid}"
            );
        }
    }

    #[test]
    fn the_states_have_the_names_of_the_glossary() {
        let names = ChargeStatus::ALL.map(ChargeStatus::as_str);
        assert_eq!(names, ["pending", "submitted", "failed", "settled"]);
        for status in ChargeStatus::ALL {
            assert_eq!(status.as_str().parse(), Ok(status));
        }
        assert_eq!("paid".parse::<ChargeStatus>(), Err(InvalidStatus));
    }
}
