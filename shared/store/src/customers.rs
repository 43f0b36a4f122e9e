//! Customers.

use std::collections::{BTreeSet, HashMap};

use aws_sdk_dynamodb::types::AttributeValue;
use jiff::Timestamp;
use tollgate_domain::customer::{Consequence, Customer, Unpaid};
use tollgate_domain::id::{CustomerId, PlanId};
use tollgate_domain::idempotency::Idempotency;
use tollgate_domain::page::Page;
use tollgate_domain::plan_book::Pins;
use tollgate_domain::submission::Recipient;

use crate::charges::read_recipient;
use crate::error::StoreError;
use crate::idempotency::{self, CreateOutcome, EarlierUse, earlier_use};
use crate::item::{Item, Reader, s, t};
use crate::listing::CUSTOMERS;
use crate::registry::{Changes, put_if_absent};
use crate::schema::{REGISTRY, attr};
use crate::subscriptions::{put_follow_up, put_invoice_schedule};
use crate::transaction::{Action, ConditionResult, Transacted};
use crate::{Store, item};

/// A change to a customer. Outer `None`: not changed; inner `None`: removed.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct CustomerChange {
    /// Name.
    pub name: Option<String>,
    /// E-mail address.
    pub email: Option<Option<String>>,
    /// Plan.
    pub plan: Option<PlanId>,
    /// Pins to versions of plans, and those that they replace. Nothing is changed if the stored ones are
    /// others.
    pub pins: Option<PinChange>,
    /// Recipient of the customer's charges, and the one that it replaces. Nothing is changed if the stored one
    /// is another.
    pub recipient: Option<RecipientChange>,
    /// Beginning of the suspension. A customer that is already suspended keeps the first instant.
    pub suspended_at: Option<Option<Timestamp>>,
}

/// A change of a customer's pins.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PinChange {
    /// Pins from which the change was made.
    pub before: Pins,
    /// Pins after the change.
    pub after: Pins,
}

/// A change of the recipient of a customer's charges: the link to a Stripe customer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RecipientChange {
    /// Recipient from which the change was made.
    pub before: Option<Recipient>,
    /// Recipient after the change; `None` removes the link.
    pub after: Option<Recipient>,
}

impl CustomerChange {
    /// Whether a customer is as after this change.
    fn is_in(&self, customer: &Customer) -> bool {
        fn agrees<T: PartialEq>(change: Option<&T>, stored: &T) -> bool {
            change.is_none_or(|change| change == stored)
        }
        let suspended = self.suspended_at.map(|since| since.is_some());
        agrees(self.name.as_ref(), &customer.name)
            && agrees(self.email.as_ref(), &customer.email)
            && agrees(self.plan.as_ref(), &customer.plan)
            && agrees(
                self.recipient.as_ref().map(|it| &it.after),
                &customer.recipient,
            )
            && agrees(suspended.as_ref(), &customer.suspended_at.is_some())
            && agrees(self.pins.as_ref().map(|pins| &pins.after), &customer.pins)
    }

    /// Whether it does nothing but remove the link to a Stripe customer.
    fn only_unlinks(&self) -> bool {
        let rest = Self {
            recipient: None,
            ..self.clone()
        };
        let recipient = self.recipient.as_ref();
        recipient.is_some_and(|change| change.after.is_none()) && rest == Self::default()
    }
}

/// Outcome of changing a customer.
#[derive(Debug, Clone, PartialEq, Eq)]
#[expect(
    clippy::large_enum_variant,
    reason = "an outcome is matched where it is returned, and never kept"
)]
pub enum UpdateCustomerOutcome {
    /// The customer after the change.
    Done(Customer),
    /// There is no such customer.
    Unknown,
    /// The customer is erased and cannot be changed.
    Erased,
    /// The customer's pins or recipient are not those from which the change was made.
    Changed,
    /// The Stripe customer is linked to another customer.
    RecipientTaken,
}

const PINS: &str = "pins";
pub(crate) const STRIPE_CUSTOMER: &str = "stripe_customer";
pub(crate) const STRIPE_SUBSCRIPTION: &str = "stripe_subscription";
/// When the link changed, until the customer's subscription is followed by it.
pub(crate) const RELINKED_AT: &str = "relinked_at";
pub(crate) const SUBSCRIPTION_PLAN: &str = "subscription_plan";
pub(crate) const SUSPENDED_AT: &str = "suspended_at";
pub(crate) const UNPAID_SINCE: &str = "unpaid_since";
pub(crate) const UNPAID_CONSEQUENCE: &str = "unpaid_consequence";
/// Stripe customer who owes the outstanding payment. Items of earlier releases have none.
pub(crate) const UNPAID_BY: &str = "unpaid_by";
/// Marks that an admin has set the plan, or the suspension. A consequence that followed before is then waived.
pub(crate) const PLAN_WAIVER: &str = "plan_waiver";
pub(crate) const SUSPENSION_WAIVER: &str = "suspension_waiver";

pub(crate) fn customer_pk(id: &CustomerId) -> String {
    format!("CUSTOMER#{id}")
}

/// Returns the key of the item that links a Stripe customer to a customer.
pub(crate) fn link_key(stripe_customer: &str) -> Item {
    item::key(format!("STRIPE#CUSTOMER#{stripe_customer}"))
}

/// Returns the check that a checkout session can be created for the customer, who is linked to this Stripe customer.
pub(crate) fn check_linked(customer: &CustomerId, stripe_customer: &str) -> Action {
    let condition = format!("{IS_ACTIVE} AND {STRIPE_CUSTOMER} = :stripe_customer");
    Action::check(REGISTRY, item::key(customer_pk(customer)))
        // Active, as for a key. The Stripe customer is the one for which the session was created: an admin may have
        // linked another one since, to which the subscription would not belong.
        .when(condition)
        .value(":stripe_customer", s(stripe_customer))
}

/// Exists: usage of an unknown customer could not be billed. Not erased: the erasure may already be going through the
/// customer's keys, and would miss a new one.
const IS_ACTIVE: &str = "attribute_exists(pk) AND attribute_not_exists(erased_at)";

/// Returns the check that a key can be created for the customer.
pub(crate) fn check_active(customer: &CustomerId) -> Action {
    Action::check(REGISTRY, item::key(customer_pk(customer))).when(IS_ACTIVE)
}

fn customer_item(customer: &Customer) -> Item {
    let mut item = item::key(customer_pk(&customer.id));
    item.insert("id".into(), s(customer.id.as_str()));
    item.insert("name".into(), s(&customer.name));
    if let Some(email) = &customer.email {
        item.insert("email".into(), s(email));
    }
    item.insert("plan".into(), s(customer.plan.as_str()));
    if let Some(pins) = pins_value(&customer.pins) {
        item.insert(PINS.into(), pins);
    }
    if let Some(recipient) = &customer.recipient {
        item.insert(STRIPE_CUSTOMER.into(), s(&recipient.customer));
        let subscription = recipient.subscription.iter().map(s);
        item.extend(subscription.map(|id| (STRIPE_SUBSCRIPTION.to_owned(), id)));
    }
    item.insert("created_at".into(), t(customer.created_at));
    item.insert(attr::LISTING.into(), s(CUSTOMERS));
    item.insert(attr::LISTING_ORDER.into(), s(customer.id.as_str()));
    item
}

/// Returns the attribute of pins, as JSON; `None` if there are none.
fn pins_value(pins: &Pins) -> Option<AttributeValue> {
    let json = (!pins.is_empty()).then(|| serde_json::to_string(pins));
    json?.ok().map(s)
}

fn read_pins(json: Option<&str>) -> Result<Pins, StoreError> {
    let pins = json.map(serde_json::from_str).transpose();
    let pins = pins.map_err(|_| StoreError::corrupt("customer", PINS))?;
    Ok(pins.unwrap_or_default())
}

pub(crate) fn read_customer(item: &Item) -> Result<Customer, StoreError> {
    let item = Reader::new("customer", item);
    Ok(Customer {
        id: item.parsed("id")?,
        name: item.text("name")?.to_owned(),
        email: item.opt_text("email")?.map(str::to_owned),
        plan: item.parsed("plan")?,
        pins: read_pins(item.opt_text(PINS)?)?,
        recipient: read_recipient(&item)?,
        subscription_plan: item.opt_parsed(SUBSCRIPTION_PLAN)?,
        unpaid: read_unpaid(&item)?,
        created_at: item.parsed("created_at")?,
        suspended_at: item.opt_parsed(SUSPENDED_AT)?,
        erased_at: item.opt_parsed("erased_at")?,
    })
}

/// Returns the text of a consequence.
pub(crate) fn consequence_text(consequence: Consequence) -> &'static str {
    match consequence {
        Consequence::Suspended => "suspended",
        Consequence::Moved => "moved",
        Consequence::Waived => "waived",
    }
}

fn read_unpaid(item: &Reader<'_>) -> Result<Option<Unpaid>, StoreError> {
    let Some(since) = item.opt_parsed(UNPAID_SINCE)? else {
        return Ok(None);
    };
    let consequence = match item.opt_text(UNPAID_CONSEQUENCE)? {
        None => None,
        Some("suspended") if item.opt_text(SUSPENSION_WAIVER)?.is_some() => {
            Some(Consequence::Waived)
        }
        Some("moved") if item.opt_text(PLAN_WAIVER)?.is_some() => Some(Consequence::Waived),
        Some("suspended") => Some(Consequence::Suspended),
        Some("moved") => Some(Consequence::Moved),
        Some("waived") => Some(Consequence::Waived),
        Some(_) => return Err(item.corrupt(UNPAID_CONSEQUENCE)),
    };
    Ok(Some(Unpaid { since, consequence }))
}

/// Outcome of updating a customer with the items that link Stripe customers to it.
enum Linked {
    /// The customer after the update; or if its condition failed, the customer as stored.
    Customer(Result<Item, Option<Item>>),
    /// The Stripe customer is linked to another customer.
    Taken,
}

/// Adds a change of the recipient to an update, and its clauses to the condition.
fn apply_recipient(change: &RecipientChange, changes: &mut Changes, condition: &mut String) {
    fn customer(recipient: Option<&Recipient>) -> Option<AttributeValue> {
        Some(s(&recipient?.customer))
    }
    fn subscription(recipient: Option<&Recipient>) -> Option<AttributeValue> {
        recipient?.subscription.as_ref().map(s)
    }
    let (before, after) = (change.before.as_ref(), change.after.as_ref());
    for (attribute, before, after) in [
        (STRIPE_CUSTOMER, customer(before), customer(after)),
        (
            STRIPE_SUBSCRIPTION,
            subscription(before),
            subscription(after),
        ),
    ] {
        changes.apply(attribute, after);
        // The recipient is the one from which the change was made: of two concurrent links, one is rejected,
        // so that a customer has one Stripe customer, and a removed link does not come back.
        changes.expect(attribute, before, condition);
    }
}

impl Store {
    /// Returns the outcome of an earlier creating request under the same idempotency key, if there was
    /// one: [`CreateOutcome::Replayed`] or [`CreateOutcome::KeyReused`]. See
    /// [`repeated_key`](Self::repeated_key).
    ///
    /// # Errors
    /// When the store fails.
    pub async fn repeated_customer(
        &self,
        request: &Idempotency,
    ) -> Result<Option<CreateOutcome<Customer>>, StoreError> {
        Ok(match self.find_earlier_use(request).await? {
            Some(EarlierUse::SameRequest(id)) => {
                let stored = self.created_customer(&id).await?;
                Some(CreateOutcome::Replayed(stored))
            }
            Some(EarlierUse::OtherRequest) => Some(CreateOutcome::KeyReused),
            None => None,
        })
    }

    /// Reads the customer that an idempotency item refers to.
    async fn created_customer(&self, id: &str) -> Result<Customer, StoreError> {
        let id = id.parse().map_err(|_| idempotency::corrupt())?;
        let customer = self.customer(&id).await?;
        customer.ok_or_else(idempotency::corrupt)
    }

    /// Stores a new customer.
    ///
    /// # Errors
    /// When the store fails; the customer may then have been stored.
    pub async fn create_customer(
        &self,
        customer: &Customer,
        idempotency: Option<&Idempotency>,
    ) -> Result<CreateOutcome<Customer>, StoreError> {
        let made = customer.id.as_str();
        let write_id = self.transaction_token();
        let mut item = customer_item(customer);
        item.insert(attr::WRITTEN_BY.into(), s(&write_id));
        let mut actions = vec![put_if_absent(item)];
        actions
            .extend(idempotency.map(|request| idempotency::put(request, made, self.clock.now())));
        let results = match self.transact("creating a customer", actions).await? {
            Transacted::Committed => return Ok(CreateOutcome::New),
            Transacted::Cancelled(results) => results,
        };
        if let Some(stored) = results[0].item()
            && Reader::new("customer", stored).is_written_by(&write_id)?
        {
            // By this very call, whose first response was lost for longer than the token is valid.
            return Ok(CreateOutcome::New);
        }
        if let (Some(request), Some(result)) = (idempotency, results.get(1)) {
            match earlier_use(request, result)? {
                Some(EarlierUse::SameRequest(id)) => {
                    let stored = self.created_customer(&id).await?;
                    return Ok(CreateOutcome::Replayed(stored));
                }
                Some(EarlierUse::OtherRequest) => return Ok(CreateOutcome::KeyReused),
                None => {}
            }
        }
        Ok(CreateOutcome::Taken)
    }

    /// Reads a customer consistently.
    ///
    /// # Errors
    /// When the store fails.
    pub async fn customer(&self, id: &CustomerId) -> Result<Option<Customer>, StoreError> {
        let item = self.registry_item(customer_pk(id), "reading a customer");
        item.await?.as_ref().map(read_customer).transpose()
    }

    /// Changes a customer.
    ///
    /// # Errors
    /// When the store fails; the change may then have been made.
    pub async fn update_customer(
        &self,
        id: &CustomerId,
        change: &CustomerChange,
    ) -> Result<UpdateCustomerOutcome, StoreError> {
        let mut changes = Changes::default();
        if let Some(name) = &change.name {
            changes.apply("name", Some(s(name)));
        }
        if let Some(email) = &change.email {
            changes.apply("email", email.as_ref().map(s));
        }
        if let Some(plan) = &change.plan {
            changes.apply("plan", Some(s(plan.as_str())));
        }
        if let Some(suspended_at) = change.suspended_at {
            changes.apply_since(SUSPENDED_AT, suspended_at);
        }
        // Whatever followed from an outstanding payment, the payment does not undo what was decided since. A mark
        // that came before the consequence is removed with it.
        for (waiver, is_changed) in [
            (PLAN_WAIVER, change.plan.is_some()),
            (SUSPENSION_WAIVER, change.suspended_at.is_some()),
        ] {
            if is_changed {
                changes.apply(waiver, Some(t(self.clock.now())));
            }
        }
        // Exists: an update must not create an incomplete customer.
        let mut condition = "attribute_exists(pk)".to_owned();
        if !change.only_unlinks() {
            // Not erased: an erasure is final, and no personal data may be stored after it. It keeps the link, which
            // can be removed once nothing is due any more.
            condition.push_str(" AND attribute_not_exists(erased_at)");
        }
        if let Some(PinChange { before, after }) = &change.pins {
            changes.apply(PINS, pins_value(after));
            // The pins are those from which the change was made: of two concurrent changes, one is
            // rejected, so that neither is lost.
            changes.expect(PINS, pins_value(before), &mut condition);
        }
        let updated = match &change.recipient {
            Some(recipient) => {
                apply_recipient(recipient, &mut changes, &mut condition);
                if recipient.before != recipient.after {
                    changes.apply(RELINKED_AT, Some(t(self.clock.now())));
                }
                let update = changes.into_action(customer_pk(id), condition);
                match self.update_linked(id, update, recipient).await? {
                    Linked::Customer(updated) => updated,
                    Linked::Taken => return Ok(UpdateCustomerOutcome::RecipientTaken),
                }
            }
            None => {
                let updated = self.update_registry_item(customer_pk(id), changes, condition);
                updated.await?
            }
        };
        let stored = match updated {
            Ok(item) => return Ok(UpdateCustomerOutcome::Done(read_customer(&item)?)),
            Err(None) => return Ok(UpdateCustomerOutcome::Unknown),
            Err(Some(stored)) => read_customer(&stored)?,
        };
        Ok(if stored.erased_at.is_some() && !change.only_unlinks() {
            UpdateCustomerOutcome::Erased
        } else if change.is_in(&stored) {
            // By this very call: its first try took effect, and the response was lost.
            UpdateCustomerOutcome::Done(stored)
        } else {
            UpdateCustomerOutcome::Changed
        })
    }

    /// Updates a customer, the items that link Stripe customers to it, and its follow-ups, in one transaction: the other
    /// Stripe customer may have a subscription, of which no event is to come, and the earlier one items that nothing
    /// else invoices.
    async fn update_linked(
        &self,
        id: &CustomerId,
        update: Action,
        recipient: &RecipientChange,
    ) -> Result<Linked, StoreError> {
        let RecipientChange { before, after } = recipient;
        let mut actions = vec![update];
        actions.extend(after.as_ref().map(|after| {
            let mut link = link_key(&after.customer);
            link.insert(attr::CUSTOMER.into(), s(id.as_str()));
            Action::put(REGISTRY, link)
                // Absent: a Stripe customer is linked to one customer at most, so that an event of Stripe's
                // concerns one. Or linked to this one, whose subscription changes.
                .when("attribute_not_exists(pk) OR customer = :customer")
                .value(":customer", s(id.as_str()))
        }));
        let stays = |before: &&Recipient| {
            let after = after.as_ref();
            after.is_some_and(|after| after.customer == before.customer)
        };
        actions.extend(before.as_ref().filter(|it| !stays(it)).map(|before| {
            Action::delete(REGISTRY, link_key(&before.customer))
                // Of this customer: the link of another one must stay. Or absent, for a link that was stored
                // without this item.
                .when("attribute_not_exists(pk) OR customer = :customer")
                .value(":customer", s(id.as_str()))
        }));
        if before != after {
            let (now, write_id) = (self.clock.now(), self.transaction_token());
            actions.push(put_follow_up(id, now, &write_id));
            actions.extend(
                before
                    .as_ref()
                    .map(|before| put_invoice_schedule(id, &before.customer, now, &write_id)),
            );
        }
        let outcome = self.transact("changing the recipient of a customer", actions);
        let results = match outcome.await? {
            Transacted::Committed => {
                let stored = self
                    .registry_item(customer_pk(id), "reading a customer")
                    .await?;
                return Ok(Linked::Customer(stored.ok_or(None)));
            }
            Transacted::Cancelled(results) => results,
        };
        match results.first() {
            Some(ConditionResult::Failed(stored)) => Ok(Linked::Customer(Err(stored.clone()))),
            _ if after.is_some() && results.get(1).is_some_and(ConditionResult::is_failed) => {
                Ok(Linked::Taken)
            }
            _ => Err(StoreError::corrupt(
                "link of a Stripe customer",
                attr::CUSTOMER,
            )),
        }
    }

    /// Returns the customer to which a Stripe customer is linked. Reads consistently.
    ///
    /// # Errors
    /// When the store fails.
    pub async fn customer_of_stripe(
        &self,
        stripe_customer: &str,
    ) -> Result<Option<CustomerId>, StoreError> {
        let pk = format!("STRIPE#CUSTOMER#{stripe_customer}");
        let link = self.registry_item(pk, "finding a linked customer").await?;
        let customer = |item| Reader::new("link of a Stripe customer", item).parsed(attr::CUSTOMER);
        link.as_ref().map(customer).transpose()
    }

    /// Lists customers by id, after the cursor `after`, at most `limit` of them. Each is returned with the
    /// cursor of its position.
    ///
    /// # Errors
    /// When the store fails.
    pub async fn list_customers(
        &self,
        after: Option<&str>,
        limit: usize,
    ) -> Result<Page<(String, Customer)>, StoreError> {
        self.list(CUSTOMERS, None, after, limit, read_customer)
            .await
    }

    /// Reads the plans of these customers. A customer that does not exist is left out.
    ///
    /// # Errors
    /// When the store fails.
    pub async fn plans_of(
        &self,
        customers: &BTreeSet<CustomerId>,
    ) -> Result<HashMap<CustomerId, PlanId>, StoreError> {
        let keys = customers.iter().map(|id| item::key(customer_pk(id)));
        let found = self.batch_get("reading customers", REGISTRY, keys.collect());
        let customers = found.await?;
        let plans = customers.iter().map(|item| {
            let customer = read_customer(item)?;
            Ok((customer.id, customer.plan))
        });
        plans.collect()
    }
}
