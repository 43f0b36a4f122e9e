//! Customers.

use std::collections::{BTreeSet, HashMap};

use aws_sdk_dynamodb::types::AttributeValue;
use jiff::Timestamp;
use tollgate_domain::customer::Customer;
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
use crate::transaction::{Action, Transacted};
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
    /// Recipient of the customer's charges.
    pub recipient: Option<Option<Recipient>>,
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
            && agrees(self.recipient.as_ref(), &customer.recipient)
            && agrees(suspended.as_ref(), &customer.suspended_at.is_some())
            && agrees(self.pins.as_ref().map(|pins| &pins.after), &customer.pins)
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
    /// The customer's pins are not those from which the change was made.
    Changed,
}

const PINS: &str = "pins";

pub(crate) fn customer_pk(id: &CustomerId) -> String {
    format!("CUSTOMER#{id}")
}

/// Returns the check that a key can be created for the customer.
pub(crate) fn check_active(customer: &CustomerId) -> Action {
    Action::check(REGISTRY, item::key(customer_pk(customer)))
        // Exists: usage of an unknown customer could not be billed. Not erased: the erasure may already
        // be going through the customer's keys, and would miss this one.
        .when("attribute_exists(pk) AND attribute_not_exists(erased_at)")
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
        item.insert("stripe_customer".into(), s(&recipient.customer));
        let subscription = recipient.subscription.iter().map(s);
        item.extend(subscription.map(|id| ("stripe_subscription".to_owned(), id)));
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
        created_at: item.parsed("created_at")?,
        suspended_at: item.opt_parsed("suspended_at")?,
        erased_at: item.opt_parsed("erased_at")?,
    })
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
        if let Some(recipient) = &change.recipient {
            let recipient = recipient.as_ref();
            let customer = recipient.map(|recipient| s(&recipient.customer));
            let subscription = recipient.and_then(|recipient| recipient.subscription.as_ref());
            changes.apply("stripe_customer", customer);
            changes.apply("stripe_subscription", subscription.map(s));
        }
        if let Some(suspended_at) = change.suspended_at {
            changes.apply_since("suspended_at", suspended_at);
        }
        // Exists: an update must not create an incomplete customer. Not erased: an erasure is final,
        // and no personal data may be stored after it.
        let mut condition = "attribute_exists(pk) AND attribute_not_exists(erased_at)".to_owned();
        if let Some(PinChange { before, after }) = &change.pins {
            changes.apply(PINS, pins_value(after));
            // The pins are those from which the change was made: of two concurrent changes, one is
            // rejected, so that neither is lost.
            match pins_value(before) {
                Some(before) => {
                    condition.push_str(" AND #pins = :pins_before");
                    changes.value(":pins_before", before);
                }
                None => condition.push_str(" AND attribute_not_exists(#pins)"),
            }
        }
        let updated = self.update_registry_item(customer_pk(id), changes, condition);
        let stored = match updated.await? {
            Ok(item) => return Ok(UpdateCustomerOutcome::Done(read_customer(&item)?)),
            Err(None) => return Ok(UpdateCustomerOutcome::Unknown),
            Err(Some(stored)) => read_customer(&stored)?,
        };
        Ok(if stored.erased_at.is_some() {
            UpdateCustomerOutcome::Erased
        } else if change.is_in(&stored) {
            // By this very call: its first try took effect, and the response was lost.
            UpdateCustomerOutcome::Done(stored)
        } else {
            UpdateCustomerOutcome::Changed
        })
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
