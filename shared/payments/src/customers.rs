//! Customers at Stripe: one for each customer, created at the first checkout.

use sha2::{Digest, Sha256};
use tollgate_domain::customer::Customer;
use tollgate_domain::id::CustomerId as OwnId;
use tollgate_domain::submission::Recipient;
use tollgate_store::{CustomerChange, RecipientChange, UpdateCustomerOutcome};
use tollgate_stripe::{
    CustomerDetails, CustomerId, CustomerLookup, IdempotencyKey, StripeClient, StripeError,
};

use crate::{Payments, PaymentsError};

/// Most objects that a creation replaces, because they cannot be used, or their idempotency key cannot.
pub(crate) const MAX_REPLACED: usize = 3;

/// Metadata of objects at Stripe, for the operator: nothing here is ever read from it.
pub(crate) const CUSTOMER_METADATA: &str = "tollgate_customer";
const STACK_METADATA: &str = "tollgate_stack";

/// Returns an idempotency key of Stripe: a name, and a digest of the parts.
pub(crate) fn key(name: &str, parts: &[&str]) -> Result<IdempotencyKey, PaymentsError> {
    let mut digest = Sha256::new();
    for part in parts {
        // No part contains a NUL, so that other parts are another text.
        digest.update(part);
        digest.update([0]);
    }
    parse_key(&format!("{name}/{}", hex::encode(digest.finalize())))
}

/// Returns the idempotency keys of a creation, of which each further one is for when those before cannot be used.
pub(crate) fn further_keys(
    first: IdempotencyKey,
) -> impl Iterator<Item = Result<IdempotencyKey, PaymentsError>> {
    (0..=MAX_REPLACED).map(move |replaced| match replaced {
        0 => Ok(first.clone()),
        replaced => parse_key(&format!("{first}/{replaced}")),
    })
}

/// Parses an idempotency key that was composed here, and so is one.
pub(crate) fn parse_key(text: &str) -> Result<IdempotencyKey, PaymentsError> {
    text.parse()
        .map_err(|_| PaymentsError::InvalidKey(text.to_owned()))
}

impl Payments {
    /// Returns the client.
    pub(crate) fn client(&self) -> Result<&StripeClient, PaymentsError> {
        self.stripe.as_ref().ok_or(PaymentsError::NotConfigured)
    }

    /// Returns the Stripe customer of a customer, and creates and links one if there is none. Returns `None` if
    /// the customer was erased meanwhile.
    pub(crate) async fn stripe_customer(
        &self,
        stripe: &StripeClient,
        customer: &Customer,
    ) -> Result<Option<CustomerId>, PaymentsError> {
        if let Some(recipient) = &customer.recipient {
            return linked(customer, recipient).map(Some);
        }
        let created = self.create(stripe, customer).await?;
        let change = CustomerChange {
            recipient: Some(RecipientChange {
                before: None,
                after: Some(Recipient {
                    customer: created.as_str().to_owned(),
                    subscription: None,
                }),
            }),
            ..CustomerChange::default()
        };
        let updated = self.store.update_customer(&customer.id, &change);
        match updated.await? {
            UpdateCustomerOutcome::Done(_) => Ok(Some(created)),
            UpdateCustomerOutcome::Unknown | UpdateCustomerOutcome::Erased => Ok(None),
            // An admin has set the link since the customer was read.
            UpdateCustomerOutcome::Changed => {
                let stored = self.store.customer(&customer.id).await?;
                let recipient = stored.and_then(|stored| stored.recipient);
                let recipient = recipient.ok_or(PaymentsError::Contended)?;
                linked(customer, &recipient).map(Some)
            }
            UpdateCustomerOutcome::RecipientTaken => Err(PaymentsError::LinkTaken {
                customer: customer.id.as_str().to_owned(),
                stripe_customer: created.as_str().to_owned(),
            }),
        }
    }

    /// Creates the Stripe customer, with the name and the address of the customer. A repetition returns the same
    /// one, for as long as Stripe remembers the key.
    async fn create(
        &self,
        stripe: &StripeClient,
        customer: &Customer,
    ) -> Result<CustomerId, PaymentsError> {
        let metadata = [
            (CUSTOMER_METADATA, customer.id.as_str()),
            (STACK_METADATA, self.stack.as_str()),
        ];
        // Stripe rejects a key with other parameters. So a customer is created with what never changes, and
        // gets its name afterwards.
        let unnamed = CustomerDetails {
            metadata: &metadata,
            ..CustomerDetails::default()
        };
        let details = CustomerDetails {
            name: Some(customer.name.as_str()).filter(|name| !name.is_empty()),
            email: customer.email.as_deref(),
            ..unnamed
        };
        // Two stacks may share a Stripe account. Neither a stack's name nor an id contains a slash.
        let first = parse_key(&format!("tollgate/{}/{}", self.stack, customer.id))?;
        let mut failed = PaymentsError::Contended;
        for key in further_keys(first) {
            let created = match stripe.create_customer(&key?, &unnamed).await {
                Ok(created) => created,
                // If there is a Stripe customer, it has no subscription and no charges.
                Err(error) if error.is_of_used_key() => {
                    failed = error.into();
                    continue;
                }
                Err(error) => return Err(error.into()),
            };
            // Stripe replays an earlier creation. Since then, the Stripe customer may have been deleted, or an
            // admin may have linked it to another customer, whose details it has.
            if let CustomerLookup::Deleted(_) = stripe.customer(&created.id).await? {
                continue;
            }
            let owner = self.store.customer_of_stripe(created.id.as_str()).await?;
            if owner.is_some_and(|owner| owner != customer.id) {
                failed = PaymentsError::LinkTaken {
                    customer: customer.id.as_str().to_owned(),
                    stripe_customer: created.id.as_str().to_owned(),
                };
                continue;
            }
            // A key of its own: a repetition changes nothing, and a stored failure would be replayed.
            let key = parse_key(&format!("tollgate/details/{}", self.random()))?;
            let named = stripe.update_customer(&created.id, &key, &details).await?;
            return Ok(named.id);
        }
        Err(failed)
    }
}

/// Returns the error for a failed request that names the Stripe customer of a customer.
pub(crate) fn of_customer(customer: &OwnId, error: StripeError) -> PaymentsError {
    match error {
        StripeError::Rejected(rejection) if rejection.is_of_missing_customer() => {
            PaymentsError::LinkGone(customer.as_str().to_owned())
        }
        error => error.into(),
    }
}

/// Returns the id of the linked Stripe customer.
pub(crate) fn linked(
    customer: &Customer,
    recipient: &Recipient,
) -> Result<CustomerId, PaymentsError> {
    let id = recipient.customer.parse();
    id.map_err(|_| PaymentsError::InvalidLink(customer.id.as_str().to_owned()))
}
