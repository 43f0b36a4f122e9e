//! Customers.

use std::collections::{BTreeSet, HashMap};

use jiff::Timestamp;
use tollgate_domain::customer::Customer;
use tollgate_domain::id::{CustomerId, PlanId};
use tollgate_domain::idempotency::Idempotency;
use tollgate_domain::page::Page;

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
    /// Beginning of the suspension. A customer that is already suspended keeps the first instant.
    pub suspended_at: Option<Option<Timestamp>>,
}

/// Outcome of changing a customer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum UpdateCustomerOutcome {
    /// The customer after the change.
    Done(Customer),
    /// There is no such customer.
    Unknown,
    /// The customer is erased and cannot be changed.
    Erased,
}

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
    item.insert("created_at".into(), t(customer.created_at));
    item.insert(attr::LISTING.into(), s(CUSTOMERS));
    item.insert(attr::LISTING_ORDER.into(), s(customer.id.as_str()));
    item
}

pub(crate) fn read_customer(item: &Item) -> Result<Customer, StoreError> {
    let item = Reader::new("customer", item);
    Ok(Customer {
        id: item.parsed("id")?,
        name: item.text("name")?.to_owned(),
        email: item.opt_text("email")?.map(str::to_owned),
        plan: item.parsed("plan")?,
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
        if let Some(suspended_at) = change.suspended_at {
            changes.apply_since("suspended_at", suspended_at);
        }
        // Exists: an update must not create an incomplete customer. Not erased: an erasure is final,
        // and no personal data may be stored after it.
        let condition = "attribute_exists(pk) AND attribute_not_exists(erased_at)".to_owned();
        match self
            .update_registry_item(customer_pk(id), changes, condition)
            .await?
        {
            Ok(item) => Ok(UpdateCustomerOutcome::Done(read_customer(&item)?)),
            Err(None) => Ok(UpdateCustomerOutcome::Unknown),
            Err(Some(_)) => Ok(UpdateCustomerOutcome::Erased),
        }
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
