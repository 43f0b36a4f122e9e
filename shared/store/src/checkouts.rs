//! Checkout sessions that were started, by which an event of Stripe's leads to the customer.

use jiff::{SignedDuration, Timestamp};
use tollgate_domain::id::{CustomerId, PlanId};
use tollgate_domain::idempotency::Idempotency;

use crate::customers::{check_linked, read_customer};
use crate::error::StoreError;
use crate::idempotency::{self, EarlierUse, earlier_use};
use crate::item::{Item, Reader, s, t, ttl};
use crate::registry::put_if_absent;
use crate::schema::{REGISTRY, attr};
use crate::transaction::{Action, ConditionResult, Transacted};
use crate::{Store, item};

/// Time for which a checkout session is kept. Stripe's page is open for a day at most, the payment may take two
/// weeks, and events of it are delivered for three days more.
const CHECKOUT_KEPT: SignedDuration = SignedDuration::from_hours(90 * 24);

/// Time for which a customer's last session is kept: longer than Stripe's page is open, and than a bank debit takes.
const OPEN_KEPT: SignedDuration = SignedDuration::from_hours(30 * 24);

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

/// Checkout session to store.
#[derive(Debug, Clone, Copy)]
pub struct CheckoutRecord<'a> {
    /// The session.
    pub started: &'a StartedCheckout,
    /// Stripe's id of the Stripe customer for which it was created.
    pub stripe_customer: &'a str,
    /// The customer's last session, as it was read: it is not open any more.
    pub earlier: Option<&'a str>,
    /// Idempotency key of the request.
    pub idempotency: Option<&'a Idempotency>,
}

/// Outcome of storing a checkout session.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RecordCheckoutOutcome {
    /// It was stored, and is the customer's last one.
    Recorded,
    /// An earlier request stored this session, under the same idempotency key or of the same id.
    Repeated(StartedCheckout),
    /// The idempotency key was used for another request.
    KeyReused,
    /// The customer does not exist, or is erased.
    NoCustomer,
    /// The customer is linked to another Stripe customer, or to none.
    Relinked,
    /// Another request has stored a session of the customer since the last one was read.
    Overtaken,
    /// The session is stored for another customer.
    Taken,
}

const KIND: &str = "checkout session";
const CREATED_AT: &str = "created_at";
const PLAN: &str = "plan";

/// Name without a meaning to DynamoDB, of which `session` is a reserved word.
const OPEN_SESSION: &str = "open_session";

fn pk(session: &str) -> String {
    format!("STRIPE#CHECKOUT#{session}")
}

fn open_pk(customer: &CustomerId) -> String {
    format!("STRIPE#OPEN#{customer}")
}

/// Returns the put of a customer's last session.
fn put_open(new: &CheckoutRecord<'_>) -> Action {
    let StartedCheckout {
        session,
        customer,
        created_at,
        ..
    } = new.started;
    let expires = created_at.saturating_add(OPEN_KEPT);
    let mut item = item::key(open_pk(customer));
    item.insert(OPEN_SESSION.into(), s(session));
    item.insert(attr::EXPIRES.into(), ttl(expires.unwrap_or(Timestamp::MAX)));
    let put = Action::put(REGISTRY, item);
    match new.earlier {
        // The last session is the one that was found not to be open, so that of two sessions that are created at the
        // same time, the second is stored after the first has been expired.
        Some(earlier) => put
            .when(format!("{OPEN_SESSION} = :earlier"))
            .value(":earlier", s(earlier)),
        // Still none, for the same reason.
        None => put.when("attribute_not_exists(pk)"),
    }
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
    /// was one: [`RecordCheckoutOutcome::Repeated`] or [`RecordCheckoutOutcome::KeyReused`].
    ///
    /// # Errors
    /// When the store fails.
    pub async fn repeated_checkout(
        &self,
        request: &Idempotency,
    ) -> Result<Option<RecordCheckoutOutcome>, StoreError> {
        Ok(match self.find_earlier_use(request).await? {
            Some(EarlierUse::SameRequest(session)) => {
                let stored = self.stored_checkout(&session).await?;
                Some(RecordCheckoutOutcome::Repeated(stored))
            }
            Some(EarlierUse::OtherRequest) => Some(RecordCheckoutOutcome::KeyReused),
            None => None,
        })
    }

    /// Reads the checkout session that an idempotency item refers to.
    async fn stored_checkout(&self, session: &str) -> Result<StartedCheckout, StoreError> {
        let checkout = self.checkout(session).await?;
        checkout.ok_or_else(idempotency::corrupt)
    }

    /// Stores a checkout session as the customer's last one.
    ///
    /// # Errors
    /// When the store fails; the session may then have been stored.
    pub async fn record_checkout(
        &self,
        new: &CheckoutRecord<'_>,
    ) -> Result<RecordCheckoutOutcome, StoreError> {
        let CheckoutRecord {
            started,
            stripe_customer,
            idempotency,
            ..
        } = *new;
        let write_id = self.transaction_token();
        let mut item = checkout_item(started);
        item.insert(attr::WRITTEN_BY.into(), s(&write_id));
        let mut actions = vec![
            put_if_absent(item),
            check_linked(&started.customer, stripe_customer),
            put_open(new),
        ];
        actions.extend(
            idempotency
                .map(|request| idempotency::put(request, &started.session, self.clock.now())),
        );
        let results = match self.transact("storing a checkout session", actions).await? {
            Transacted::Committed => return Ok(RecordCheckoutOutcome::Recorded),
            Transacted::Cancelled(results) => results,
        };
        let stored = results[0].item();
        if let Some(stored) = stored
            && Reader::new(KIND, stored).is_written_by(&write_id)?
        {
            // By this very call, whose first response was lost for longer than the token is valid.
            return Ok(RecordCheckoutOutcome::Recorded);
        }
        if let (Some(request), Some(result)) = (idempotency, results.get(3)) {
            match earlier_use(request, result)? {
                Some(EarlierUse::SameRequest(session)) => {
                    let stored = self.stored_checkout(&session).await?;
                    return Ok(RecordCheckoutOutcome::Repeated(stored));
                }
                Some(EarlierUse::OtherRequest) => return Ok(RecordCheckoutOutcome::KeyReused),
                None => {}
            }
        }
        if let ConditionResult::Failed(customer) = &results[1] {
            let customer = customer.as_ref().map(read_customer).transpose()?;
            let is_active = customer.is_some_and(|customer| customer.erased_at.is_none());
            return Ok(match is_active {
                true => RecordCheckoutOutcome::Relinked,
                false => RecordCheckoutOutcome::NoCustomer,
            });
        }
        match stored.map(read_checkout).transpose()? {
            // By an earlier request whose idempotency item has expired: Stripe may remember a key for longer.
            Some(stored) if stored.customer == started.customer => {
                Ok(RecordCheckoutOutcome::Repeated(stored))
            }
            Some(_) => Ok(RecordCheckoutOutcome::Taken),
            None => Ok(RecordCheckoutOutcome::Overtaken),
        }
    }

    /// Reads Stripe's id of the customer's last checkout session, consistently. No other one of the customer's that was
    /// returned is open.
    ///
    /// # Errors
    /// When the store fails.
    pub async fn open_checkout(&self, customer: &CustomerId) -> Result<Option<String>, StoreError> {
        let item = self.registry_item(open_pk(customer), "reading the last checkout session");
        let item = item.await?;
        let session = |item| {
            Reader::new("open checkout session", item)
                .text(OPEN_SESSION)
                .map(str::to_owned)
        };
        item.as_ref().map(session).transpose()
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
