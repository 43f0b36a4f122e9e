//! Checkout sessions that were started, by which an event of Stripe's leads to the customer.

use jiff::{SignedDuration, Timestamp};
use tollgate_domain::id::{CustomerId, PlanId};
use tollgate_domain::idempotency::Idempotency;

use crate::customers::check_active;
use crate::error::StoreError;
use crate::idempotency::{self, CreateOutcome, EarlierUse, earlier_use};
use crate::item::{Item, Reader, s, t, ttl};
use crate::registry::put_if_absent;
use crate::schema::attr;
use crate::transaction::Transacted;
use crate::{Store, item};

/// Time for which a checkout session is kept. Stripe's page is open for a day at most, the payment may take two
/// weeks, and events of it are delivered for three days more.
const CHECKOUT_KEPT: SignedDuration = SignedDuration::from_hours(90 * 24);

/// A checkout session that was started.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StartedCheckout {
    /// Stripe's id of the session.
    pub session: String,
    /// Customer for whom it was started.
    pub customer: CustomerId,
    /// Plan that is bought.
    pub plan: PlanId,
    /// Time of creation.
    pub created_at: Timestamp,
}

const KIND: &str = "checkout session";
const CREATED_AT: &str = "created_at";
const PLAN: &str = "plan";

fn pk(session: &str) -> String {
    format!("STRIPE#CHECKOUT#{session}")
}

fn checkout_item(checkout: &StartedCheckout) -> Item {
    let expires = checkout.created_at.saturating_add(CHECKOUT_KEPT);
    let mut item = item::key(pk(&checkout.session));
    item.insert(attr::CUSTOMER.into(), s(checkout.customer.as_str()));
    item.insert(PLAN.into(), s(checkout.plan.as_str()));
    item.insert(CREATED_AT.into(), t(checkout.created_at));
    item.insert(attr::EXPIRES.into(), ttl(expires.unwrap_or(Timestamp::MAX)));
    item
}

fn read_checkout(item: &Item) -> Result<StartedCheckout, StoreError> {
    let item = Reader::new(KIND, item);
    let session = item.text(attr::PK)?.strip_prefix("STRIPE#CHECKOUT#");
    Ok(StartedCheckout {
        session: session.ok_or_else(|| item.corrupt(attr::PK))?.to_owned(),
        customer: item.parsed(attr::CUSTOMER)?,
        plan: item.parsed(PLAN)?,
        created_at: item.parsed(CREATED_AT)?,
    })
}

impl Store {
    /// Returns the outcome of an earlier request for a checkout session under the same idempotency key, if there
    /// was one: [`CreateOutcome::Replayed`] or [`CreateOutcome::KeyReused`].
    ///
    /// # Errors
    /// When the store fails.
    pub async fn repeated_checkout(
        &self,
        request: &Idempotency,
    ) -> Result<Option<CreateOutcome<StartedCheckout>>, StoreError> {
        Ok(match self.find_earlier_use(request).await? {
            Some(EarlierUse::SameRequest(session)) => {
                let stored = self.stored_checkout(&session).await?;
                Some(CreateOutcome::Replayed(stored))
            }
            Some(EarlierUse::OtherRequest) => Some(CreateOutcome::KeyReused),
            None => None,
        })
    }

    /// Reads the checkout session that an idempotency item refers to.
    async fn stored_checkout(&self, session: &str) -> Result<StartedCheckout, StoreError> {
        let checkout = self.checkout(session).await?;
        checkout.ok_or_else(idempotency::corrupt)
    }

    /// Stores a checkout session. One that is stored already is [`CreateOutcome::Replayed`].
    ///
    /// # Errors
    /// When the store fails; the session may then have been stored.
    pub async fn record_checkout(
        &self,
        checkout: &StartedCheckout,
        idempotency: Option<&Idempotency>,
    ) -> Result<CreateOutcome<StartedCheckout>, StoreError> {
        let write_id = self.transaction_token();
        let mut item = checkout_item(checkout);
        item.insert(attr::WRITTEN_BY.into(), s(&write_id));
        let mut actions = vec![put_if_absent(item), check_active(&checkout.customer)];
        actions.extend(
            idempotency
                .map(|request| idempotency::put(request, &checkout.session, self.clock.now())),
        );
        let results = match self.transact("storing a checkout session", actions).await? {
            Transacted::Committed => return Ok(CreateOutcome::New),
            Transacted::Cancelled(results) => results,
        };
        let stored = results[0].item();
        if let Some(stored) = stored
            && Reader::new(KIND, stored).is_written_by(&write_id)?
        {
            // By this very call, whose first response was lost for longer than the token is valid.
            return Ok(CreateOutcome::New);
        }
        if let (Some(request), Some(result)) = (idempotency, results.get(2)) {
            match earlier_use(request, result)? {
                Some(EarlierUse::SameRequest(session)) => {
                    let stored = self.stored_checkout(&session).await?;
                    return Ok(CreateOutcome::Replayed(stored));
                }
                Some(EarlierUse::OtherRequest) => return Ok(CreateOutcome::KeyReused),
                None => {}
            }
        }
        if results[1].is_failed() {
            return Ok(CreateOutcome::NoCustomer);
        }
        match stored.map(read_checkout).transpose()? {
            // By an earlier request whose idempotency item has expired: Stripe may remember a key for longer.
            Some(stored) if stored.customer == checkout.customer => {
                Ok(CreateOutcome::Replayed(stored))
            }
            _ => Ok(CreateOutcome::Taken),
        }
    }

    /// Reads a checkout session consistently.
    ///
    /// # Errors
    /// When the store fails.
    pub async fn checkout(&self, session: &str) -> Result<Option<StartedCheckout>, StoreError> {
        let item = self.registry_item(pk(session), "reading a checkout session");
        item.await?.as_ref().map(read_checkout).transpose()
    }
}
