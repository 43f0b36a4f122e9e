//! Keys and customers.

use std::collections::{BTreeSet, HashMap};
use std::str::FromStr;

use aws_sdk_dynamodb::operation::update_item::UpdateItemError;
use aws_sdk_dynamodb::types::{AttributeValue, ReturnValue, ReturnValuesOnConditionCheckFailure};
use jiff::{SignedDuration, Timestamp};
use tollgate_domain::customer::Customer;
use tollgate_domain::id::{CustomerId, InvalidId, KeyId, PlanId};
use tollgate_domain::key::{ApiKey, KeyDigest, KeyPrefix, KeyRecord, Owner, Role};
use tollgate_domain::plan::Overrides;

use crate::error::StoreError;
use crate::item::{Item, Reader, n, s, t, ttl};
use crate::schema::{REGISTRY, LISTING, attr};
use crate::transaction::{Action, Refusal, Transacted};
use crate::{Store, item};

/// How long a creating request can be repeated under its idempotency key.
const IDEMPOTENCY_KEPT: SignedDuration = SignedDuration::from_hours(24);

pub(crate) const KEYS: &str = "keys";
const CUSTOMERS: &str = "customers";

/// Names a key in a URL: by its id or by its visible prefix.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum KeyRef {
    /// `key_…`
    Id(KeyId),
    /// `tg_live_…`
    Prefix(KeyPrefix),
}

impl FromStr for KeyRef {
    type Err = InvalidId;

    fn from_str(text: &str) -> Result<Self, InvalidId> {
        match text.parse() {
            Ok(prefix) => Ok(Self::Prefix(prefix)),
            Err(_) => text.parse().map(Self::Id),
        }
    }
}

/// A key about to be stored: the secret goes no further than its digest.
#[derive(Debug)]
pub struct NewKey<'a> {
    /// The key itself.
    pub secret: &'a ApiKey,
    /// What is known of it.
    pub record: &'a KeyRecord,
}

/// Marks a creating request, so that its repetition creates nothing.
#[derive(Debug, Clone)]
pub struct Idempotency {
    /// Whose request of which kind: keys of two callers do not meet.
    pub scope: String,
    /// The `Idempotency-Key` header.
    pub key: String,
    /// A digest of the request; another one under the same key is refused.
    pub request: String,
}

/// What became of a creating request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Created<T> {
    /// It was created now.
    New,
    /// An earlier request under the same idempotency key created this.
    Replayed(T),
    /// The idempotency key was used for another request.
    KeyReused,
    /// The customer it was for does not exist, or has left.
    NoCustomer,
    /// One that is named the same exists.
    Taken,
}

/// What became of a rotation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Rotated {
    /// The successor was created now.
    New,
    /// An earlier request under the same idempotency key created this successor.
    Replayed(Box<KeyRecord>),
    /// The idempotency key was used for another request.
    KeyReused,
    /// The old key was revoked, suspended, rotated or given another expiry since it was read.
    Changed,
    /// The customer whose key it is does not exist, or has left.
    NoCustomer,
    /// The successor's name is taken; another must be drawn.
    Taken,
}

/// A change to a key. Outer `None`: leave it; inner `None`: remove it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct KeyChange {
    /// The holder's name for it.
    pub name: Option<String>,
    /// When it stops working.
    pub expires_at: Option<Option<Timestamp>>,
    /// Its own hourly rate.
    pub requests_per_hour: Option<Option<u64>>,
    /// Its own monthly quota.
    pub monthly_quota: Option<Option<u64>>,
    /// Since when it is suspended. One that is suspended already stays so since then.
    pub suspended_at: Option<Option<Timestamp>>,
}

/// A change to a customer. Outer `None`: leave it; inner `None`: remove it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct CustomerChange {
    /// Name.
    pub name: Option<String>,
    /// E-mail address.
    pub email: Option<Option<String>>,
    /// Plan.
    pub plan: Option<PlanId>,
    /// Since when it is suspended. One that is suspended already stays so since then.
    pub suspended_at: Option<Option<Timestamp>>,
}

/// What became of a change to a customer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum UpdateCustomerOutcome {
    /// Made; this is the result.
    Done(Customer),
    /// There is no such customer.
    Unknown,
    /// It has been erased, and stays as it is.
    Erased,
}

/// What became of a change to a key.
#[derive(Debug, Clone, PartialEq, Eq)]
#[expect(
    clippy::large_enum_variant,
    reason = "there is one for a request, moved once"
)]
pub enum Updated {
    /// Made; this is the result.
    Done(KeyRecord),
    /// There is no such key.
    Unknown,
    /// It is an admin's, and stays as it was made.
    Admins,
    /// It is revoked, and stays as it is.
    Revoked,
    /// It has been rotated; its expiry is the end of the grace period.
    Rotated,
}

/// Part of a list.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Page<T> {
    /// In the list's order.
    pub items: Vec<T>,
    /// Where the next page begins; `None` at the end.
    pub next: Option<String>,
}

/// What the partition keys of everything about a key of this role begin with. No function's role may
/// write any admin key but to revoke it, and a key works as nothing else than what its text says.
fn namespace(role: Role) -> &'static str {
    match role {
        Role::Customer => "",
        Role::Admin => "ADMIN#",
    }
}

pub(crate) fn key_pk(role: Role, digest_hex: &str) -> String {
    format!("{}KEY#{digest_hex}", namespace(role))
}

pub(crate) fn alias_pk(role: Role, key: &KeyRef) -> String {
    let namespace = namespace(role);
    match key {
        KeyRef::Id(id) => format!("{namespace}KEYID#{id}"),
        KeyRef::Prefix(prefix) => format!("{namespace}PREFIX#{prefix}"),
    }
}

/// Where the key is stored that an alias stands for.
pub(crate) fn aliased(role: Role, alias: &Item) -> Result<String, StoreError> {
    let digest = Reader::new("key alias", alias).text("digest")?;
    Ok(key_pk(role, digest))
}

pub(crate) fn customer_pk(id: &CustomerId) -> String {
    format!("CUSTOMER#{id}")
}

/// Refuses a key for a customer who does not exist, and could not be billed, or who has left, and whose
/// keys an erasure may be going through.
fn customer_stays(customer: &CustomerId) -> Action {
    Action::check(REGISTRY, item::key(customer_pk(customer)))
        .when("attribute_exists(pk) AND attribute_not_exists(erased_at)")
}

fn put_if_absent(item: Item) -> Action {
    // The first of two that share a name is the one there is.
    Action::put(REGISTRY, item).when("attribute_not_exists(pk)")
}

impl Idempotency {
    fn pk(&self) -> String {
        format!("IDEMPOTENCY#{}#{}", self.scope, self.key)
    }

    fn put(&self, made: &str, now: Timestamp) -> Action {
        let expires = now.saturating_add(IDEMPOTENCY_KEPT).unwrap_or(now);
        let mut item = item::key(self.pk());
        item.insert("request".into(), s(&self.request));
        item.insert("made".into(), s(made));
        item.insert(attr::EXPIRES.into(), ttl(expires));
        Action::put(REGISTRY, item)
            // Absent: the first request under this key. Or expired, which counts as absent: TTL
            // deletes days late.
            .when("attribute_not_exists(pk) OR expires <= :now")
            .value(":now", ttl(now))
    }
}

/// What the idempotency item in the way of a request says.
enum Replay {
    /// The same request made this.
    Of(String),
    /// Another request holds the key.
    Reused,
}

fn replay(request: &Idempotency, refusal: &Refusal) -> Result<Option<Replay>, StoreError> {
    let item = refusal.item();
    item.map(|item| replay_of(request, item)).transpose()
}

fn replay_of(request: &Idempotency, item: &Item) -> Result<Replay, StoreError> {
    let item = Reader::new("idempotency", item);
    if item.text("request")? == request.request {
        Ok(Replay::Of(item.text("made")?.to_owned()))
    } else {
        Ok(Replay::Reused)
    }
}

fn key_items(key: &NewKey<'_>) -> [Item; 3] {
    let record = key.record;
    let role = record.owner.role();
    let digest = key.secret.digest();
    let mut item = item::key(key_pk(role, &digest.expose_hex()));
    item.insert("id".into(), s(record.id.as_str()));
    item.insert("prefix".into(), s(record.prefix.as_str()));
    item.insert("name".into(), s(&record.name));
    item.insert("created_at".into(), t(record.created_at));
    let customer = record.owner.customer();
    if let Some(customer) = customer {
        item.insert("customer".into(), s(customer.as_str()));
    }
    if let Some(expires_at) = record.expires_at {
        item.insert("expires_at".into(), t(expires_at));
    }
    if let Some(rate) = record.overrides.requests_per_hour {
        item.insert("requests_per_hour".into(), n(rate));
    }
    if let Some(quota) = record.overrides.monthly_quota {
        item.insert("monthly_quota".into(), n(quota));
    }
    if let Some(first) = &record.hour_of {
        item.insert("hour_of".into(), s(first.as_str()));
    }
    let order = format!(
        "{}#{:.3}#{}",
        customer.map_or("", CustomerId::as_str),
        record.created_at,
        record.id
    );
    item.insert(attr::LISTING.into(), s(KEYS));
    item.insert(attr::LISTING_ORDER.into(), s(order));
    let alias = |key: KeyRef| {
        let mut item = item::key(alias_pk(role, &key));
        item.insert("digest".into(), s(digest.expose_hex()));
        item
    };
    [
        item,
        alias(KeyRef::Prefix(record.prefix.clone())),
        alias(KeyRef::Id(record.id.clone())),
    ]
}

pub(crate) fn read_key(item: &Item) -> Result<KeyRecord, StoreError> {
    let item = Reader::new("key", item);
    Ok(KeyRecord {
        id: item.parsed("id")?,
        prefix: item.parsed("prefix")?,
        name: item.text("name")?.to_owned(),
        owner: match item.opt_parsed("customer")? {
            Some(customer) => Owner::Customer(customer),
            None => Owner::Admin,
        },
        created_at: item.parsed("created_at")?,
        expires_at: item.opt_parsed("expires_at")?,
        revoked_at: item.opt_parsed("revoked_at")?,
        suspended_at: item.opt_parsed("suspended_at")?,
        overrides: Overrides {
            requests_per_hour: item.opt_number("requests_per_hour")?,
            monthly_quota: item.opt_number("monthly_quota")?,
        },
        rotated_to: item.opt_parsed("rotated_to")?,
        hour_of: item.opt_parsed("hour_of")?,
    })
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

/// Collects the clauses of an update expression.
#[derive(Default)]
struct Changes {
    set: Vec<String>,
    remove: Vec<String>,
    names: HashMap<String, String>,
    values: HashMap<String, AttributeValue>,
}

impl Changes {
    fn apply(&mut self, attribute: &str, value: Option<AttributeValue>) {
        self.apply_as(attribute, value, format!(":{attribute}"));
    }

    /// The same for an instant since which something holds: the first one on record stays.
    fn apply_since(&mut self, attribute: &str, since: Option<Timestamp>) {
        let first = format!("if_not_exists(#{attribute}, :{attribute})");
        self.apply_as(attribute, since.map(t), first);
    }

    fn apply_as(&mut self, attribute: &str, value: Option<AttributeValue>, set_to: String) {
        self.names
            .insert(format!("#{attribute}"), attribute.to_owned());
        match value {
            Some(value) => {
                self.set.push(format!("#{attribute} = {set_to}"));
                self.values.insert(format!(":{attribute}"), value);
            }
            None => self.remove.push(format!("#{attribute}")),
        }
    }

    fn expression(&self) -> String {
        let clause = |verb: &str, parts: &[String]| match parts {
            [] => String::new(),
            parts => format!("{verb} {} ", parts.join(", ")),
        };
        clause("SET", &self.set) + &clause("REMOVE", &self.remove)
    }
}

impl Store {
    /// Reads what does not exist, so that the connection is open and the credentials are known when
    /// something is to be read.
    ///
    /// # Errors
    /// When the store does not answer.
    pub async fn warm_up(&self) -> Result<(), StoreError> {
        // No digest is empty.
        self.account(key_pk(Role::Customer, ""), "warming up")
            .await?;
        Ok(())
    }

    /// The key with this digest, of the role that its text claims. Read consistently: a revocation
    /// acknowledged before is seen.
    ///
    /// # Errors
    /// When the store does not answer.
    pub async fn key_by_digest(&self, digest: KeyDigest) -> Result<Option<KeyRecord>, StoreError> {
        let role = digest.role();
        let pk = key_pk(role, &digest.expose_hex());
        let key = self.key_at(pk).await?;
        // A customer's key without a customer is no admin's: whoever may change keys of customers
        // could make it one.
        Ok(key.filter(|key| key.owner.role() == role))
    }

    /// The key of that name.
    ///
    /// # Errors
    /// When the store does not answer.
    pub async fn key(&self, key: &KeyRef) -> Result<Option<KeyRecord>, StoreError> {
        match self.find_key(key).await? {
            Some((_, pk)) => self.key_at(pk).await,
            None => Ok(None),
        }
    }

    /// The customer's key of that id.
    ///
    /// # Errors
    /// When the store does not answer.
    pub async fn customer_key(&self, id: KeyId) -> Result<Option<KeyRecord>, StoreError> {
        let alias = alias_pk(Role::Customer, &KeyRef::Id(id));
        match self.account(alias, "finding a key").await? {
            Some(alias) => self.key_at(aliased(Role::Customer, &alias)?).await,
            None => Ok(None),
        }
    }

    /// Whether the key of that name is an admin's that opens anything, unless it has ended. Those of
    /// releases before 0.1.0 stand among customers' keys, and open nothing.
    ///
    /// # Errors
    /// When the store does not answer.
    pub async fn is_admin_key(&self, key: &KeyRef) -> Result<bool, StoreError> {
        let found = self.find_key(key).await?;
        Ok(found.is_some_and(|(role, _)| role == Role::Admin))
    }

    async fn key_at(&self, pk: String) -> Result<Option<KeyRecord>, StoreError> {
        let item = self.account(pk, "reading a key").await?;
        item.as_ref().map(read_key).transpose()
    }

    /// The role of the key of that name, and the partition key under which it is stored.
    async fn find_key(&self, key: &KeyRef) -> Result<Option<(Role, String)>, StoreError> {
        let alias = |role| self.account(alias_pk(role, key), "finding a key");
        let (admins, customers) = tokio::try_join!(alias(Role::Admin), alias(Role::Customer))?;
        // An admin's key goes first: no customer's can take its name.
        let admins = admins.map(|alias| (Role::Admin, alias));
        let found = admins.or_else(|| customers.map(|alias| (Role::Customer, alias)));
        let found = found.map(|(role, alias)| Ok((role, aliased(role, &alias)?)));
        found.transpose()
    }

    async fn account(
        &self,
        key: String,
        operation: &'static str,
    ) -> Result<Option<Item>, StoreError> {
        let found = self
            .client
            .get_item()
            .table_name(self.table(REGISTRY))
            .set_key(Some(item::key(key)))
            .consistent_read(true)
            .send()
            .await
            .map_err(|error| StoreError::service(operation, error))?;
        Ok(found.item)
    }

    /// What became of an earlier request under the idempotency key, if there was one: [`Created::Replayed`]
    /// or [`Created::KeyReused`]. For what has to be known before a request is checked against what may
    /// have changed since the first; that two requests at once create one thing is seen to when creating.
    ///
    /// # Errors
    /// When the store does not answer.
    pub async fn repeated_key(
        &self,
        request: &Idempotency,
    ) -> Result<Option<Created<KeyRecord>>, StoreError> {
        Ok(match self.earlier(request).await? {
            Some(Replay::Of(id)) => Some(Created::Replayed(self.replayed_key(&id).await?)),
            Some(Replay::Reused) => Some(Created::KeyReused),
            None => None,
        })
    }

    /// The same of a request to create a customer.
    ///
    /// # Errors
    /// When the store does not answer.
    pub async fn repeated_customer(
        &self,
        request: &Idempotency,
    ) -> Result<Option<Created<Customer>>, StoreError> {
        Ok(match self.earlier(request).await? {
            Some(Replay::Of(id)) => Some(Created::Replayed(self.replayed_customer(&id).await?)),
            Some(Replay::Reused) => Some(Created::KeyReused),
            None => None,
        })
    }

    async fn earlier(&self, request: &Idempotency) -> Result<Option<Replay>, StoreError> {
        let item = self.account(request.pk(), "finding an earlier request");
        let Some(item) = item.await? else {
            return Ok(None);
        };
        // As when creating: what has expired counts as absent.
        let expires = Reader::new("idempotency", &item).number(attr::EXPIRES)?;
        let now = u64::try_from(self.clock.now().as_second()).unwrap_or(0);
        match now < expires {
            true => replay_of(request, &item).map(Some),
            false => Ok(None),
        }
    }

    /// Stores a new key, its prefix and its id, each unique.
    ///
    /// # Errors
    /// When the store does not answer; the key may then have been stored.
    pub async fn create_key(
        &self,
        key: &NewKey<'_>,
        idempotency: Option<&Idempotency>,
    ) -> Result<Created<KeyRecord>, StoreError> {
        let made = key.record.id.as_str();
        let mut actions: Vec<Action> = key_items(key).into_iter().map(put_if_absent).collect();
        actions.extend(key.record.owner.customer().map(customer_stays));
        actions.extend(idempotency.map(|request| request.put(made, self.clock.now())));
        let refusals = match self.transact("creating a key", actions).await? {
            Transacted::Done => return Ok(Created::New),
            Transacted::Refused(refusals) => refusals,
        };
        if let (Some(request), Some(refusal)) = (idempotency, refusals.last()) {
            match replay(request, refusal)? {
                // This very call, whose first answer was lost for longer than the token lasts: a
                // key's id is drawn for its creation, and so names the write as well.
                Some(Replay::Of(id)) if id == made => return Ok(Created::New),
                Some(Replay::Of(id)) => return self.replayed_key(&id).await.map(Created::Replayed),
                Some(Replay::Reused) => return Ok(Created::KeyReused),
                None => {}
            }
        }
        if key.record.owner.customer().is_some() && refusals[3].is_condition() {
            return Ok(Created::NoCustomer);
        }
        match refusals[0].item().map(read_key).transpose()? {
            Some(stored) if stored.id == key.record.id => Ok(Created::New),
            _ => Ok(Created::Taken),
        }
    }

    /// What an earlier request created.
    async fn replayed_key(&self, id: &str) -> Result<KeyRecord, StoreError> {
        let corrupt = || StoreError::corrupt("idempotency", "made");
        let id = id.parse().map_err(|_| corrupt())?;
        self.customer_key(id).await?.ok_or_else(corrupt)
    }

    async fn replayed_customer(&self, id: &str) -> Result<Customer, StoreError> {
        let corrupt = || StoreError::corrupt("idempotency", "made");
        let id = id.parse().map_err(|_| corrupt())?;
        self.customer(&id).await?.ok_or_else(corrupt)
    }

    /// Stores `successor` and lets `old`, a customer's key as it was read, end at `old_ends_at`.
    ///
    /// # Errors
    /// When the store does not answer; the rotation may then have happened.
    pub async fn rotate_key(
        &self,
        old: &KeyRecord,
        old_ends_at: Timestamp,
        successor: &NewKey<'_>,
        idempotency: Option<&Idempotency>,
    ) -> Result<Rotated, StoreError> {
        let made = successor.record.id.as_str();
        let Some((_, old_pk)) = self.find_key(&KeyRef::Id(old.id.clone())).await? else {
            return Ok(Rotated::Changed);
        };
        let update = Action::update(
            REGISTRY,
            item::key(old_pk),
            "SET rotated_to = :successor, expires_at = :ends",
        )
        .value(":successor", s(made))
        .value(":ends", t(old_ends_at));
        // Not revoked: a revoked key has no successor. Not suspended: a successor would work. Not
        // rotated: it has one at most. The expiry is the one that `old_ends_at` was computed from,
        // so that it never moves later.
        let update = match old.expires_at {
            None => update.when(
                "attribute_exists(pk) AND attribute_not_exists(revoked_at) \
                 AND attribute_not_exists(suspended_at) AND attribute_not_exists(rotated_to) \
                 AND attribute_not_exists(expires_at)",
            ),
            Some(seen) => update
                .when(
                    "attribute_not_exists(revoked_at) AND attribute_not_exists(suspended_at) \
                     AND attribute_not_exists(rotated_to) AND expires_at = :seen",
                )
                .value(":seen", t(seen)),
        };
        let mut actions = vec![update];
        actions.extend(key_items(successor).into_iter().map(put_if_absent));
        actions.extend(old.owner.customer().map(customer_stays));
        actions.extend(idempotency.map(|request| request.put(made, self.clock.now())));
        let refusals = match self.transact("rotating a key", actions).await? {
            Transacted::Done => return Ok(Rotated::New),
            Transacted::Refused(refusals) => refusals,
        };
        if let (Some(request), Some(refusal)) = (idempotency, refusals.last()) {
            match replay(request, refusal)? {
                Some(Replay::Of(id)) if id == made => return Ok(Rotated::New),
                Some(Replay::Of(id)) => {
                    let successor = self.replayed_key(&id).await?;
                    return Ok(Rotated::Replayed(Box::new(successor)));
                }
                Some(Replay::Reused) => return Ok(Rotated::KeyReused),
                None => {}
            }
        }
        if !refusals[0].is_condition() {
            let is_gone = old.owner.customer().is_some() && refusals[4].is_condition();
            return Ok(if is_gone {
                Rotated::NoCustomer
            } else {
                Rotated::Taken
            });
        }
        match refusals[0].item().map(read_key).transpose()? {
            // This very call: its first try took effect.
            Some(stored) if stored.rotated_to.as_ref() == Some(&successor.record.id) => {
                Ok(Rotated::New)
            }
            _ => Ok(Rotated::Changed),
        }
    }

    /// Revokes the key of that name at `now`; one already revoked stays as it was. False if there
    /// is no such key.
    ///
    /// # Errors
    /// When the store does not answer; the key may then have been revoked.
    pub async fn revoke_key(&self, key: &KeyRef, now: Timestamp) -> Result<bool, StoreError> {
        let Some((_, key_pk)) = self.find_key(key).await? else {
            return Ok(false);
        };
        let outcome = self
            .client
            .update_item()
            .table_name(self.table(REGISTRY))
            .set_key(Some(item::key(key_pk)))
            .update_expression("SET revoked_at = :now")
            // Exists: an update must not make half a key. Not revoked: the first revocation is the
            // one on record, and a repeat of this write changes nothing.
            .condition_expression("attribute_exists(pk) AND attribute_not_exists(revoked_at)")
            .expression_attribute_values(":now", t(now))
            .return_values_on_condition_check_failure(ReturnValuesOnConditionCheckFailure::AllOld)
            .send()
            .await;
        match outcome {
            Ok(_) => Ok(true),
            Err(error) => match error.as_service_error() {
                Some(UpdateItemError::ConditionalCheckFailedException(failed)) => {
                    Ok(failed.item().is_some_and(|item| !item.is_empty()))
                }
                _ => Err(StoreError::service("revoking a key", error)),
            },
        }
    }

    /// Changes the customer's key of that name.
    ///
    /// # Errors
    /// When the store does not answer; the change may then have been made.
    pub async fn update_key(
        &self,
        key: &KeyRef,
        change: &KeyChange,
    ) -> Result<Updated, StoreError> {
        let key_pk = match self.find_key(key).await? {
            Some((Role::Customer, pk)) => pk,
            Some((Role::Admin, _)) => return Ok(Updated::Admins),
            None => return Ok(Updated::Unknown),
        };
        let mut changes = Changes::default();
        if let Some(name) = &change.name {
            changes.apply("name", Some(s(name)));
        }
        if let Some(expires_at) = change.expires_at {
            changes.apply("expires_at", expires_at.map(t));
        }
        if let Some(rate) = change.requests_per_hour {
            changes.apply("requests_per_hour", rate.map(n));
        }
        if let Some(quota) = change.monthly_quota {
            changes.apply("monthly_quota", quota.map(n));
        }
        if let Some(suspended_at) = change.suspended_at {
            changes.apply_since("suspended_at", suspended_at);
        }
        // Exists: an update must not make half a key. Not revoked: what is over stays as it was.
        let mut condition = "attribute_exists(pk) AND attribute_not_exists(revoked_at)".to_owned();
        if change.expires_at.is_some() {
            // Not rotated: the grace period that the rotation promised is not prolonged.
            condition.push_str(" AND attribute_not_exists(rotated_to)");
        }
        match self.change_account(key_pk, changes, condition).await? {
            Ok(item) => Ok(Updated::Done(read_key(&item)?)),
            Err(None) => Ok(Updated::Unknown),
            Err(Some(item)) => match read_key(&item)?.revoked_at {
                Some(_) => Ok(Updated::Revoked),
                None => Ok(Updated::Rotated),
            },
        }
    }

    /// Applies the changes: the item after them, or the item whose state refused them.
    async fn change_account(
        &self,
        key: String,
        changes: Changes,
        condition: String,
    ) -> Result<Result<Item, Option<Item>>, StoreError> {
        let outcome = self
            .client
            .update_item()
            .table_name(self.table(REGISTRY))
            .set_key(Some(item::key(key)))
            // None for a change of nothing: DynamoDB refuses empty ones, and checks the condition.
            .set_update_expression(Some(changes.expression()).filter(|text| !text.is_empty()))
            .condition_expression(condition)
            .set_expression_attribute_names((!changes.names.is_empty()).then_some(changes.names))
            .set_expression_attribute_values((!changes.values.is_empty()).then_some(changes.values))
            .return_values(ReturnValue::AllNew)
            .return_values_on_condition_check_failure(ReturnValuesOnConditionCheckFailure::AllOld)
            .send()
            .await;
        match outcome {
            Ok(updated) => Ok(Ok(updated.attributes.unwrap_or_default())),
            Err(error) => match error.as_service_error() {
                Some(UpdateItemError::ConditionalCheckFailedException(failed)) => {
                    Ok(Err(failed.item().cloned().filter(|item| !item.is_empty())))
                }
                _ => Err(StoreError::service("changing an account", error)),
            },
        }
    }

    /// Stores a new customer.
    ///
    /// # Errors
    /// When the store does not answer; the customer may then have been stored.
    pub async fn create_customer(
        &self,
        customer: &Customer,
        idempotency: Option<&Idempotency>,
    ) -> Result<Created<Customer>, StoreError> {
        let made = customer.id.as_str();
        let mark = self.transaction_token();
        let mut item = customer_item(customer);
        item.insert(attr::WRITTEN_BY.into(), s(&mark));
        let mut actions = vec![put_if_absent(item)];
        actions.extend(idempotency.map(|request| request.put(made, self.clock.now())));
        let refusals = match self.transact("creating a customer", actions).await? {
            Transacted::Done => return Ok(Created::New),
            Transacted::Refused(refusals) => refusals,
        };
        if let Some(stored) = refusals[0].item()
            && Reader::new("customer", stored).is_written_by(&mark)?
        {
            // This very call, whose first answer was lost for longer than the token lasts.
            return Ok(Created::New);
        }
        if let (Some(request), Some(refusal)) = (idempotency, refusals.get(1)) {
            match replay(request, refusal)? {
                Some(Replay::Of(id)) => {
                    let stored = self.replayed_customer(&id).await?;
                    return Ok(Created::Replayed(stored));
                }
                Some(Replay::Reused) => return Ok(Created::KeyReused),
                None => {}
            }
        }
        Ok(Created::Taken)
    }

    /// The customer of that id, read consistently.
    ///
    /// # Errors
    /// When the store does not answer.
    pub async fn customer(&self, id: &CustomerId) -> Result<Option<Customer>, StoreError> {
        let item = self.account(customer_pk(id), "reading a customer").await?;
        item.as_ref().map(read_customer).transpose()
    }

    /// Changes the customer of that id.
    ///
    /// # Errors
    /// When the store does not answer; the change may then have been made.
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
        // Exists: an update must not make half a customer. Not erased: nothing is known of one that
        // has left, and it does not come back.
        let condition = "attribute_exists(pk) AND attribute_not_exists(erased_at)".to_owned();
        match self
            .change_account(customer_pk(id), changes, condition)
            .await?
        {
            Ok(item) => Ok(UpdateCustomerOutcome::Done(read_customer(&item)?)),
            Err(None) => Ok(UpdateCustomerOutcome::Unknown),
            Err(Some(_)) => Ok(UpdateCustomerOutcome::Erased),
        }
    }

    /// Keys by customer and age, from `after` on, at most `limit` of them; those of one customer
    /// if it is named. Each with its place in the list.
    ///
    /// # Errors
    /// When the store does not answer.
    pub async fn list_keys(
        &self,
        customer: Option<&CustomerId>,
        after: Option<&str>,
        limit: usize,
    ) -> Result<Page<(String, KeyRecord)>, StoreError> {
        let prefix = customer.map(|id| format!("{id}#"));
        self.list(KEYS, prefix, after, limit, read_key).await
    }

    /// Customers by id, from `after` on, at most `limit` of them. Each with its place in the list.
    ///
    /// # Errors
    /// When the store does not answer.
    pub async fn list_customers(
        &self,
        after: Option<&str>,
        limit: usize,
    ) -> Result<Page<(String, Customer)>, StoreError> {
        self.list(CUSTOMERS, None, after, limit, read_customer)
            .await
    }

    pub(crate) async fn list<T>(
        &self,
        listing: &str,
        prefix: Option<String>,
        after: Option<&str>,
        limit: usize,
        read: fn(&Item) -> Result<T, StoreError>,
    ) -> Result<Page<(String, T)>, StoreError> {
        let mut query = self
            .client
            .query()
            .table_name(self.table(REGISTRY))
            .index_name(LISTING.name)
            .expression_attribute_values(":listing", s(listing))
            .limit(i32::try_from(limit).unwrap_or(i32::MAX));
        // DynamoDB takes neither an empty text for a key nor a range that ends before it begins.
        let after = after.filter(|after| !after.is_empty());
        // One condition on the sort key is all that a query takes, so a list that begins in the
        // middle of a prefix is bounded by the prefix's end instead.
        query = match (prefix, after) {
            (None, None) => query.key_condition_expression("listing = :listing"),
            (None, Some(after)) => query
                .key_condition_expression("listing = :listing AND listing_order > :after")
                .expression_attribute_values(":after", s(after)),
            (Some(prefix), None) => query
                .key_condition_expression(
                    "listing = :listing AND begins_with(listing_order, :prefix)",
                )
                .expression_attribute_values(":prefix", s(prefix)),
            (Some(prefix), Some(after))
                if after.starts_with(&prefix) && *after < *format!("{prefix}~") =>
            {
                query
                    .key_condition_expression(
                        "listing = :listing AND listing_order BETWEEN :after AND :end",
                    )
                    // BETWEEN includes its ends: NUL makes the first text after `after`, and
                    // nothing in a listing order sorts behind `~`.
                    .expression_attribute_values(":after", s(format!("{after}\0")))
                    .expression_attribute_values(":end", s(format!("{prefix}~")))
            }
            (Some(_), Some(_)) => {
                return Ok(Page {
                    items: Vec::new(),
                    next: None,
                });
            }
        };
        let found = query
            .send()
            .await
            .map_err(|error| StoreError::service("listing accounts", error))?;
        let place = |item: &Item| {
            let order = Reader::new("listed account", item).text(attr::LISTING_ORDER)?;
            Ok(order.to_owned())
        };
        let next = found.last_evaluated_key.as_ref().map(place).transpose()?;
        let items = found.items.unwrap_or_default();
        let items = items
            .iter()
            .map(|item| Ok((place(item)?, read(item)?)))
            .collect::<Result<_, StoreError>>()?;
        Ok(Page { items, next })
    }

    /// The plans of these customers; one that does not exist has none.
    ///
    /// # Errors
    /// When the store does not answer.
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
