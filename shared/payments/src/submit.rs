//! Submission of one charge.

use jiff::{SignedDuration, Timestamp};
use tollgate_domain::id::CustomerId as OwnId;
use tollgate_domain::money::SignedCents;
use tollgate_domain::submission::{
    ATTEMPT_TIMEOUT, ChargeRef, ChargeState, ChargeStatus, LedgerCharge, RETRY_NO_RECIPIENT,
    RETRY_REJECTED, Recipient, SubmissionFailure,
};
use tollgate_runtime::{Chain, metrics};
use tollgate_store::{BeginOutcome, FailOutcome, SettleOutcome, StoreError};
use tollgate_stripe::{
    CustomerId, IdempotencyKey, InvoiceItem, NewInvoiceItem, Period, StripeClient, StripeError,
    SubscriptionId,
};

use crate::{CURRENCY, Payments};

/// Time by which the clocks of Stripe and of this function may differ.
const CLOCK_TOLERANCE: SignedDuration = SignedDuration::from_hours(1);
/// Time from the end of a month to the invoice of its charges that no subscription invoices: the last of them are
/// made when the month closes, and submitted within a day.
const INVOICE_AFTER_END: SignedDuration = SignedDuration::from_hours(4 * 24);
/// Reason of a charge whose customer is not known to Stripe.
const NO_RECIPIENT: &str = "The customer has no Stripe customer.";
/// Reason of a charge whose stored recipient is not an id of Stripe's.
const INVALID_RECIPIENT: &str = "The customer's Stripe customer or subscription is not a valid id.";

/// Outcome of submitting a charge.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SubmitOutcome {
    /// The charge is at Stripe, since now or before.
    Settled,
    /// The charge is not at Stripe, and the reason is recorded. A later run submits it again.
    Failed,
    /// Stripe is unavailable, or the outcome is unknown: the charge is to be submitted again in some minutes.
    Later,
    /// Another attempt is under way, or the time of the next one has not come.
    NotDue,
    /// A credit waits until the month's charges before it are at Stripe: an invoice must not have it without them.
    Waits,
    /// No secret key is configured, and the charge stays in the ledger.
    NotConfigured,
    /// There is no such charge.
    NoSuchCharge,
}

/// Error: the charge was not submitted, or the outcome was not recorded. It may be submitted again.
#[derive(Debug, thiserror::Error)]
pub enum SubmitError {
    /// The store failed.
    #[error("the store failed")]
    Store(#[from] StoreError),
}

impl Payments {
    /// Submits a charge, if it is due and not settled. Any number of workers may submit the same charge.
    ///
    /// # Errors
    /// When the store fails. The charge may then be at Stripe, and a repetition finds it there.
    pub async fn submit(&self, name: &ChargeRef) -> Result<SubmitOutcome, SubmitError> {
        let Some(stripe) = &self.stripe else {
            return Ok(SubmitOutcome::NotConfigured);
        };
        let Some(charge) = self.store.charge(name).await? else {
            return Ok(SubmitOutcome::NoSuchCharge);
        };
        match charge.next_try {
            None => return Ok(SubmitOutcome::Settled),
            Some(next_try) if next_try > self.clock.now() => return Ok(SubmitOutcome::NotDue),
            Some(_) => {}
        }
        if charge.charge.cents < SignedCents(0) && self.has_open_charge_before(name).await? {
            return Ok(SubmitOutcome::Waits);
        }
        let current = self.recipient_of(&name.customer).await?;
        let Some(recipient) = charge.recipient(current.as_ref()) else {
            return self
                .failed(&charge, Failure::NoRecipient, NO_RECIPIENT)
                .await;
        };
        let Some(target) = Target::parse(&self.stack, &charge, &recipient) else {
            return self
                .failed(&charge, Failure::NoRecipient, INVALID_RECIPIENT)
                .await;
        };
        // Before the item is made, so that whatever stops this attempt, the item is invoiced.
        self.schedule_invoice(&charge, &recipient, current.as_ref())
            .await?;
        let may_be_at_stripe = charge.may_be_at_provider();
        let begun = match self.store.begin_submission(&charge, &recipient).await? {
            BeginOutcome::Begun(begun) => begun,
            BeginOutcome::Raced => return Ok(SubmitOutcome::NotDue),
        };
        if may_be_at_stripe {
            match find(stripe, &begun, &target).await {
                Ok(None) => {}
                Ok(Some(item)) => return self.settled(&begun, &item).await,
                // The charge may be at Stripe, so that it stays submitted.
                Err(error) => {
                    let error = Chain(&error);
                    tracing::warn!(charge = begun.charge.id, %error, "a charge could not be looked for");
                    return Ok(SubmitOutcome::Later);
                }
            }
        }
        match create(stripe, &begun, &target).await {
            Ok(item) => self.settled(&begun, &item).await,
            Err(StripeError::Rejected(rejection)) => {
                let reason = rejection.to_string();
                self.failed(&begun, Failure::Rejected, &reason).await
            }
            Err(StripeError::Unavailable(unavailable)) => {
                let wait = unavailable
                    .retry_after
                    .and_then(|wait| wait.try_into().ok());
                let wait = wait.unwrap_or(ATTEMPT_TIMEOUT).max(ATTEMPT_TIMEOUT);
                let reason = Chain(&unavailable).to_string();
                self.failed(&begun, Failure::Unavailable(wait), &reason)
                    .await
            }
            Err(error @ StripeError::Unknown(_)) => {
                let error = Chain(&error);
                tracing::warn!(charge = begun.charge.id, %error, "the outcome of a charge is unknown");
                Ok(SubmitOutcome::Later)
            }
        }
    }

    /// Returns whom charges of a customer go to at present.
    async fn recipient_of(&self, customer: &OwnId) -> Result<Option<Recipient>, SubmitError> {
        let customer = self.store.customer(customer).await?;
        Ok(customer.and_then(|customer| customer.recipient))
    }

    /// Whether a charge of the month before this one, other than a credit, is not settled.
    async fn has_open_charge_before(&self, name: &ChargeRef) -> Result<bool, SubmitError> {
        // The latest is the likeliest.
        for number in (1..name.number).rev() {
            let earlier = ChargeRef {
                number,
                ..name.clone()
            };
            let earlier = self.store.charge(&earlier).await?;
            let is_open = |it: LedgerCharge| {
                it.charge.cents > SignedCents(0) && it.state.status() != ChargeStatus::Settled
            };
            if earlier.is_some_and(is_open) {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Schedules an invoice of the charge, unless the subscription of its customer, which is linked to `current`, invoices
    /// it.
    async fn schedule_invoice(
        &self,
        charge: &LedgerCharge,
        recipient: &Recipient,
        current: Option<&Recipient>,
    ) -> Result<(), SubmitError> {
        let LedgerCharge { charge, .. } = charge;
        let due = match &recipient.subscription {
            Some(_) if current == Some(recipient) => return Ok(()),
            // The link has changed since an earlier attempt, and what was scheduled for that may be done.
            Some(_) => self.clock.now(),
            None => {
                let due = charge.month.end().saturating_add(INVOICE_AFTER_END);
                due.unwrap_or(Timestamp::MAX)
            }
        };
        let scheduled = self
            .store
            .schedule_invoice(&charge.customer, &recipient.customer, due);
        Ok(scheduled.await?)
    }

    /// Records that the charge is at Stripe as this item.
    async fn settled(
        &self,
        charge: &LedgerCharge,
        item: &InvoiceItem,
    ) -> Result<SubmitOutcome, SubmitError> {
        if let Some(recipient) = charge.recipient(None) {
            // Without a subscription, an invoice is scheduled whoever the customer is linked to.
            let current = match recipient.subscription {
                Some(_) => self.recipient_of(&charge.charge.customer).await?,
                None => None,
            };
            // And after it: an invoice that was made in between has ended the schedule without the item.
            self.schedule_invoice(charge, &recipient, current.as_ref())
                .await?;
        }
        let id = &charge.charge.id;
        if item.amount != charge.charge.cents.0 || item.currency != CURRENCY {
            tracing::error!(
                charge = id, item = %item.id, amount = item.amount, currency = item.currency,
                "an invoice item has another amount than its charge"
            );
        }
        let settled = self.store.settle_charge(&charge.charge, item.id.as_str());
        match settled.await? {
            SettleOutcome::Settled => self.metrics.record(metrics::SETTLED_CHARGES, &[], 1),
            SettleOutcome::OtherItem(other) => {
                tracing::error!(charge = id, item = %item.id, other, "a charge is at Stripe twice");
                self.metrics.record(metrics::DOUBLED_CHARGES, &[], 1);
            }
        }
        Ok(SubmitOutcome::Settled)
    }

    /// Records that the charge is not at Stripe.
    async fn failed(
        &self,
        charge: &LedgerCharge,
        failure: Failure,
        reason: &str,
    ) -> Result<SubmitOutcome, SubmitError> {
        tracing::warn!(
            charge = charge.charge.id,
            reason,
            "a charge is not at Stripe"
        );
        let (wait, outcome) = match failure {
            Failure::Rejected => (RETRY_REJECTED, SubmitOutcome::Failed),
            Failure::NoRecipient => (RETRY_NO_RECIPIENT, SubmitOutcome::Failed),
            Failure::Unavailable(wait) => (wait, SubmitOutcome::Later),
        };
        let next_try = self
            .clock
            .now()
            .saturating_add(wait)
            .unwrap_or(Timestamp::MAX);
        let failed = self
            .store
            .fail_charge(charge, failure.kind(), reason, next_try);
        match failed.await? {
            FailOutcome::Failed => {}
            FailOutcome::Superseded => return Ok(SubmitOutcome::NotDue),
        }
        if outcome == SubmitOutcome::Failed {
            self.metrics.record(metrics::FAILED_CHARGES, &[], 1);
        }
        Ok(outcome)
    }
}

/// Kind of a failed attempt, which leaves nothing at Stripe.
#[derive(Debug, Clone, Copy)]
enum Failure {
    /// Stripe rejected the charge.
    Rejected,
    /// There is no Stripe customer to charge.
    NoRecipient,
    /// Stripe did not accept requests, and may after this time.
    Unavailable(SignedDuration),
}

impl Failure {
    fn kind(self) -> SubmissionFailure {
        match self {
            Failure::Rejected => SubmissionFailure::Rejected,
            Failure::NoRecipient => SubmissionFailure::NoRecipient,
            Failure::Unavailable(_) => SubmissionFailure::Unavailable,
        }
    }
}

/// Ids and key of an attempt.
struct Target {
    /// Name of the charge at Stripe, in the metadata of its item: `<stack>/<id>`.
    name: String,
    key: IdempotencyKey,
    customer: CustomerId,
    subscription: Option<SubscriptionId>,
}

impl Target {
    fn parse(stack: &str, charge: &LedgerCharge, recipient: &Recipient) -> Option<Self> {
        let subscription = recipient.subscription.as_ref();
        Some(Self {
            name: format!("{stack}/{}", charge.charge.id),
            key: format!("{stack}/{}", charge.idempotency_key())
                .parse()
                .ok()?,
            customer: recipient.customer.parse().ok()?,
            subscription: subscription.map(|id| id.parse()).transpose().ok()?,
        })
    }
}

/// Looks for the charge among the invoice items of its recipient.
async fn find(
    stripe: &StripeClient,
    charge: &LedgerCharge,
    target: &Target,
) -> Result<Option<InvoiceItem>, StripeError> {
    let since = charge
        .charge
        .created_at
        .saturating_sub(CLOCK_TOLERANCE)
        .ok();
    let id = &charge.charge.id;
    let found = stripe.invoice_items_of_charge(&target.name, &target.customer, since);
    let mut found = found.await?;
    // Oldest last. More than one is reported when the second is settled.
    let first = found.pop();
    if let Some(other) = found.pop() {
        tracing::error!(charge = id, item = %other.id, "a charge is at Stripe twice");
    }
    Ok(first)
}

/// Creates the invoice item of the charge.
async fn create(
    stripe: &StripeClient,
    charge: &LedgerCharge,
    target: &Target,
) -> Result<InvoiceItem, StripeError> {
    let LedgerCharge { charge, state, .. } = charge;
    debug_assert_eq!(
        *state,
        ChargeState::Submitted,
        "an attempt is recorded before its request"
    );
    let [start, end] = charge.period();
    let month = charge.month.to_string();
    let item = NewInvoiceItem {
        charge: &target.name,
        key: &target.key,
        customer: &target.customer,
        amount: charge.cents.0,
        currency: CURRENCY,
        description: &charge.description,
        subscription: target.subscription.as_ref(),
        period: Some(Period { start, end }),
        metadata: &[
            ("tollgate_customer", charge.customer.as_str()),
            ("tollgate_month", &month),
            ("tollgate_usage_digest", &charge.usage_digest),
        ],
    };
    stripe.create_invoice_item(&item).await
}
