//! Fixtures of the store's tests.

#![allow(clippy::unwrap_used, reason = "a failed set-up or read fails the test")]
#![allow(dead_code, reason = "each test binary uses a part of this")]

use std::sync::Arc;

use jiff::Timestamp;
use serde_json::{Map, Value, json};
use tollgate_domain::billing::{BillableCalls, Charge, ChargedOverage, PeriodLedger};
use tollgate_domain::customer::{Consequence, Customer, Unpaid};
use tollgate_domain::id::CustomerId;
use tollgate_domain::idempotency::Idempotency;
use tollgate_domain::key::{ApiKey, KeyFormat, KeyRecord, Owner};
use tollgate_domain::money::{Cents, MicroUsd, SignedCents};
use tollgate_domain::plan::Catalog;
use tollgate_domain::plan_book::{Pin, Pins, PlanVersion, PlanVersions};
use tollgate_domain::submission::Recipient;
use tollgate_domain::usage::{Adjustment, Aggregates, UsageRecord};
use tollgate_domain::window::{Hour, Month};
use tollgate_local_aws::fixture::Fixture;
use tollgate_runtime::Entropy;
use tollgate_store::schema::Table;
use tollgate_store::{
    AdmittedCalls, CheckoutRecord, CreateOutcome, CustomerChange, CustomerToFollow, EventPart,
    FollowOutcome, KeyChange, KeyRef, LeaseShare, NewKey, RecipientChange, RecordChargeOutcome,
    RecordCheckoutOutcome, RejectedRecord, ReserveOutcome, RotateOutcome, ShardCounts,
    StartedCheckout, Store, StoreError, UpdateCustomerOutcome, UpdateOutcome, WriteUsageOutcome,
};
use tollgate_testing::customers::key_record;
use tollgate_testing::seed::no_older_claims;
use tollgate_testing::stored::{items, raw, text};
use tollgate_testing::usage::COUNTING_TIME;
use tollgate_testing::{p, plans};

/// Time of all fixtures' clocks.
pub(crate) const NOW: &str = "2026-11-22T10:00:00Z";

pub(crate) fn fixture() -> Fixture {
    let at = Fixture::at(NOW);
    no_older_claims(&at);
    at
}

/// A key with its record.
pub(crate) struct Key {
    pub(crate) secret: ApiKey,
    pub(crate) record: KeyRecord,
}

impl Key {
    pub(crate) fn of(owner: Owner, seed: u64) -> Self {
        let format = KeyFormat::new("tg", "live").unwrap();
        let secret = Entropy::seeded(seed).with(|rng| format.generate(owner.kind(), rng));
        let record = KeyRecord {
            name: format!("Key {seed}"),
            created_at: p("2026-11-20T09:00:00.25Z"),
            ..key_record(&secret, p(&format!("key_{seed:04}")), owner)
        };
        Self { secret, record }
    }

    /// Returns a key of the customer `acme`.
    pub(crate) fn of_acme(seed: u64) -> Self {
        Self::of(Owner::Customer(p("acme")), seed)
    }

    pub(crate) fn as_new(&self) -> NewKey<'_> {
        NewKey {
            secret: &self.secret,
            record: &self.record,
        }
    }

    /// Stores the key.
    pub(crate) async fn create(&self, at: &Fixture) {
        assert_eq!(create_key(at, self, None).await, CreateOutcome::New);
    }

    pub(crate) fn by_id(&self) -> KeyRef {
        KeyRef::Id(self.record.id.clone())
    }

    pub(crate) fn by_prefix(&self) -> KeyRef {
        KeyRef::Prefix(self.record.prefix.clone())
    }
}

pub(crate) fn customer(id: &str) -> Customer {
    Customer {
        name: format!("{id} Ltd"),
        email: Some(format!("bills@{id}.example")),
        ..Customer::new(p(id), p("pro"), p("2026-11-01T08:30:00.125Z"))
    }
}

pub(crate) async fn create_customer(at: &Fixture, id: &str) {
    let created = at.store.create_customer(&customer(id), None).await.unwrap();
    assert_eq!(created, CreateOutcome::New);
}

pub(crate) async fn create_key(
    at: &Fixture,
    key: &Key,
    request: Option<&Idempotency>,
) -> CreateOutcome<KeyRecord> {
    at.store.create_key(&key.as_new(), request).await.unwrap()
}

/// Rotates `old`, as it was created, with an expiry a day from now.
pub(crate) async fn rotate_key(
    at: &Fixture,
    old: &Key,
    successor: &Key,
    request: Option<&Idempotency>,
) -> RotateOutcome {
    let (store, ends) = (&at.store, p("2026-11-23T10:00:00Z"));
    let successor = successor.as_new();
    let rotated = store.rotate_key(&old.record, ends, &successor, request);
    rotated.await.unwrap()
}

pub(crate) async fn update_key(at: &Fixture, key: &Key, change: &KeyChange) -> UpdateOutcome {
    let updated = at.store.update_key(&key.by_prefix(), change).await;
    updated.unwrap()
}

pub(crate) async fn update_customer(
    at: &Fixture,
    id: &str,
    change: &CustomerChange,
) -> UpdateCustomerOutcome {
    at.store.update_customer(&p(id), change).await.unwrap()
}

/// Returns a new share of the hour of `key_0001`, of which nothing is stored yet.
pub(crate) fn hour_share(at: &Fixture) -> LeaseShare {
    at.store.hour_share(&p("key_0001"), hour())
}

pub(crate) fn hour() -> Hour {
    Hour::containing(p(NOW))
}

/// Returns calls that each spent a unit.
pub(crate) fn spent(spent: u64) -> AdmittedCalls {
    AdmittedCalls {
        spent,
        uncounted: 0,
    }
}

/// Reserves units, and reports `calls` calls as spent.
pub(crate) async fn reserve(
    at: &Fixture,
    share: &mut LeaseShare,
    units: u64,
    limit: Option<u64>,
    calls: u64,
) -> ReserveOutcome {
    let reserved = at.store.reserve(share, units, limit, spent(calls), 0).await;
    reserved.unwrap()
}

/// Releases `units` units, and reports `calls` calls as spent.
pub(crate) async fn release(at: &Fixture, share: &mut LeaseShare, units: u64, calls: u64) {
    share.release(units, spent(calls));
    at.store.settle(share, spent(calls)).await.unwrap();
}

/// Returns the outcome of a reservation at the root of a counter.
pub(crate) fn reserved(units: u64, used: u64) -> ReserveOutcome {
    ReserveOutcome::Reserved { units, used }
}

pub(crate) async fn record(
    at: &Fixture,
    charge: &Charge,
    before: PeriodLedger,
) -> RecordChargeOutcome {
    at.store.record_charge(charge, &before).await.unwrap()
}

pub(crate) async fn write_usage(at: &Fixture, event: &Event) -> WriteUsageOutcome {
    try_to_write(&at.store, &event.part()).await.unwrap()
}

/// Counts a part. Returns the error if that fails.
pub(crate) async fn try_to_write(
    store: &Store,
    part: &EventPart<'_>,
) -> Result<WriteUsageOutcome, StoreError> {
    let part = std::slice::from_ref(part);
    let mut outcomes = store
        .write_usage(part, &plans(), &ShardCounts::default(), COUNTING_TIME)
        .await;
    let outcome = outcomes.pop().unwrap();
    outcome.map_err(|error| Arc::into_inner(error).unwrap())
}

/// Returns a fixture with the customer `acme` and these keys.
pub(crate) async fn with_keys(keys: &[&Key]) -> Fixture {
    let at = fixture();
    create_customer(&at, "acme").await;
    for key in keys {
        key.create(&at).await;
    }
    at
}

/// Returns the idempotency key `once`, for the request with this digest.
pub(crate) fn once(request: &str) -> Idempotency {
    Idempotency {
        scope: "tests".into(),
        key: "once".into(),
        request: request.into(),
    }
}

/// Returns a call on a plan: GET of an endpoint in 5 ms.
pub(crate) fn call(time: &str, plan: &str, endpoint: &str, status: u16) -> UsageRecord {
    UsageRecord {
        time: p(time),
        request_id: "r-1".into(),
        key_id: p("key_0001"),
        plan: p(plan),
        method: "GET".into(),
        endpoint: endpoint.into(),
        status,
        latency_ms: 5,
        request_bytes: None,
        response_bytes: None,
        truncated: None,
        billable: None,
        costs: Vec::new(),
    }
}

/// Owned data of an [`EventPart`].
#[derive(Clone)]
pub(crate) struct Event {
    pub(crate) source: String,
    pub(crate) id: String,
    pub(crate) part: usize,
    pub(crate) customer: CustomerId,
    pub(crate) aggregates: Aggregates,
    pub(crate) records: usize,
    pub(crate) adjustments: Vec<(usize, Adjustment)>,
    pub(crate) rejected: Vec<RejectedRecord>,
    pub(crate) body: Vec<u8>,
    pub(crate) received_at: Timestamp,
}

impl Event {
    /// Returns the event `admin` / `id` with these adjustments of one day.
    pub(crate) fn of_adjustments(customer: &str, id: &str, adjustments: &[Adjustment]) -> Self {
        let mut event = Self::new(customer, id, &[]);
        for adjustment in adjustments {
            event.aggregates.adjust(adjustment);
        }
        event.source = "admin".into();
        event.adjustments = adjustments.iter().cloned().enumerate().collect();
        event
    }

    /// Returns the event `tollgate:ping` / `id` with these records.
    pub(crate) fn new(customer: &str, id: &str, records: &[UsageRecord]) -> Self {
        Self {
            source: "tollgate:ping".into(),
            id: id.into(),
            part: 0,
            customer: p(customer),
            aggregates: records.iter().collect(),
            records: records.len(),
            adjustments: Vec::new(),
            rejected: Vec::new(),
            body: json!({ "id": id, "subject": customer })
                .to_string()
                .into_bytes(),
            received_at: p(NOW),
        }
    }

    pub(crate) fn part(&self) -> EventPart<'_> {
        EventPart {
            source: &self.source,
            id: &self.id,
            part: self.part,
            customer: &self.customer,
            aggregates: &self.aggregates,
            too_old: None,
            records: self.records,
            adjustments: &self.adjustments,
            rejected: &self.rejected,
            body: &self.body,
            received_at: self.received_at,
        }
    }
}

/// Returns an adjustment on the plan `pro` of this number of calls.
pub(crate) fn adjustment(time: &str, billable_calls: i64) -> Adjustment {
    Adjustment {
        time: p(time),
        plan: p("pro"),
        billable_calls,
        micro_usd: -1_000,
        reason: "our outage".into(),
    }
}

/// Returns the charge of this number for November, of 23 cents for 230 calls.
pub(crate) fn charge(number: u64) -> Charge {
    Charge {
        id: format!("ci_acme_2026-11_{number:04}"),
        customer: p("acme"),
        month: p("2026-11"),
        number,
        cents: SignedCents(23),
        cumulative_overage: MicroUsd(230_000 * number),
        overage_by_plan: charged(number).overage_by_plan,
        overage_calls: 230 * number,
        from_call: 230 * (number - 1) + 1,
        to_call: 230 * number,
        adjusted_calls: 0,
        usage: format!("2026-11-22 pro {}\n", 100_000 + 230 * number),
        usage_digest: format!("digest {number}"),
        description: format!("description {number}"),
        created_at: p("2026-11-22T02:00:00.5Z"),
    }
}

/// Returns the period ledger with this number of charges as [`charge`] returns them.
pub(crate) fn charged(charge_count: u64) -> PeriodLedger {
    let pro = ChargedOverage {
        calls: 230 * charge_count,
        micro_usd: MicroUsd(230_000 * charge_count),
    };
    PeriodLedger {
        charge_count,
        cents: Cents(23 * charge_count),
        overage_calls: 230 * charge_count,
        overage_by_plan: (charge_count > 0)
            .then(|| (p("pro"), pro))
            .into_iter()
            .collect(),
    }
}

/// Returns billable calls without adjustments.
pub(crate) fn billable(calls: u64) -> BillableCalls {
    BillableCalls { calls, adjusted: 0 }
}

/// Lists a month's billable customers, over all pages.
pub(crate) async fn all_billable(store: &Store, month: Month) -> Vec<CustomerId> {
    let mut all = Vec::new();
    let mut after: Option<String> = None;
    loop {
        let page = store.billable_customers(month, after.as_deref(), None);
        let page = page.await.unwrap();
        all.extend(page.items);
        after = page.next;
        if after.is_none() {
            return all;
        }
    }
}

/// Puts an item.
pub(crate) fn put(at: &Fixture, table: Table, item: &Value) {
    raw(at, "PutItem", table, json!({ "Item": item }));
}

/// Changes the one item of the table whose partition key begins with `pk`.
pub(crate) fn edit(at: &Fixture, table: Table, pk: &str, change: impl FnOnce(&mut Value)) {
    let mut item = the_one(at, table, pk);
    change(&mut item);
    put(at, table, &item);
}

/// Deletes the one item of the table whose partition key begins with `pk`.
pub(crate) fn delete(at: &Fixture, table: Table, pk: &str) {
    let item = the_one(at, table, pk);
    let mut key = Map::new();
    for name in [Some(table.hash), table.range].into_iter().flatten() {
        key.insert(name.to_owned(), item[name].clone());
    }
    raw(at, "DeleteItem", table, json!({ "Key": key }));
}

/// Returns the one item of the table whose partition key begins with `pk`.
pub(crate) fn the_one(at: &Fixture, table: Table, pk: &str) -> Value {
    let found = items(at, table).into_iter();
    let mut found = found.filter(|item| text(item, table.hash).starts_with(pk));
    let one = found.next().unwrap();
    assert!(found.next().is_none(), "several items begin with {pk}");
    one
}

/// Returns the root of the only counter.
pub(crate) fn counter(at: &Fixture) -> Value {
    let mut counters = items(at, tollgate_store::schema::COUNTERS);
    counters.retain(|item| text(item, "pk").matches('#').count() == 2);
    assert!(counters.len() <= 1, "{counters:?}");
    counters.pop().unwrap_or_default()
}

/// Returns the `used` units of the only counter's root, and the calls reported there as spent.
pub(crate) fn used_and_spent(at: &Fixture) -> (u64, u64) {
    let counter = counter(at);
    let number = |name: &str| counter[name]["N"].as_str().map_or(0, p);
    (number("used"), number("spent"))
}

/// Returns the pin of a customer to a version of `pro`, from a month on.
pub(crate) fn pinned(version: u64, from: &str) -> Pins {
    let mut pins = Pins::default();
    let pin = Pin {
        plan: p("pro"),
        version: Some(version),
        from: p(from),
    };
    pins.set(pin, p(NOW)).unwrap();
    pins
}

/// Returns the shipped plan with that id, created now.
pub(crate) fn plan(id: &str) -> PlanVersions {
    let catalog = Catalog::shipped().unwrap();
    PlanVersions::new(catalog.get(&p(id)).unwrap().clone(), p(NOW))
}

/// Returns a second version of a plan, with another name, from December on.
pub(crate) fn second_version(id: &str, name: &str) -> PlanVersion {
    let plan = plan(id);
    let mut changed = plan.latest().plan.clone();
    changed.name = name.to_owned();
    plan.next(changed, p("2026-12"), 1, p(NOW)).unwrap()
}

/// Returns the change that links a customer without a link to this recipient.
pub(crate) fn link(after: Recipient) -> CustomerChange {
    relink(None, Some(after))
}

/// Returns the change of a customer's recipient.
pub(crate) fn relink(before: Option<Recipient>, after: Option<Recipient>) -> CustomerChange {
    CustomerChange {
        recipient: Some(RecipientChange { before, after }),
        ..CustomerChange::default()
    }
}

/// Returns the checkout session `cs_1` of `acme` for the plan `pro`.
pub(crate) fn checkout() -> StartedCheckout {
    StartedCheckout {
        session: "cs_1".to_owned(),
        customer: p("acme"),
        plan: p("pro"),
        created_at: p(NOW),
    }
}

/// Stores a checkout session after `earlier`, for the Stripe customer of `acme`.
pub(crate) async fn record_checkout(
    at: &Fixture,
    started: &StartedCheckout,
    earlier: Option<&str>,
    idempotency: Option<&Idempotency>,
) -> RecordCheckoutOutcome {
    let record = CheckoutRecord {
        started,
        stripe_customer: &recipient().customer,
        earlier,
        idempotency,
    };
    at.store.record_checkout(&record).await.unwrap()
}

/// Creates the customer `acme`, linked to its Stripe customer.
pub(crate) async fn create_linked(at: &Fixture) {
    create_customer(at, "acme").await;
    update_customer(at, "acme", &link(recipient())).await;
}

/// Returns the recipient of the charges of `acme`.
pub(crate) fn recipient() -> Recipient {
    Recipient {
        customer: "cus_acme".to_owned(),
        subscription: Some("sub_acme".to_owned()),
    }
}

/// Stores `acme` on the plan `free`, linked to a Stripe customer, and returns it as it is before its subscription is
/// read.
pub(crate) async fn customer_to_follow(at: &Fixture) -> CustomerToFollow {
    create_customer(at, "acme").await;
    let change = CustomerChange {
        plan: Some(p("free")),
        ..link(Recipient {
            subscription: None,
            ..recipient()
        })
    };
    update_customer(at, "acme", &change).await;
    read_to_follow(at).await
}

/// Reads `acme` as it is before its subscription is read.
pub(crate) async fn read_to_follow(at: &Fixture) -> CustomerToFollow {
    let found = at.store.customer_to_follow(&p("acme")).await;
    found.unwrap().unwrap()
}

/// Returns the customer as an unpaid subscription makes it, for which it was suspended.
pub(crate) fn unpaid(before: &Customer) -> Customer {
    Customer {
        plan: p("pro"),
        recipient: Some(recipient()),
        subscription_plan: Some(p("pro")),
        unpaid: Some(Unpaid {
            since: p("2026-11-15T10:00:00Z"),
            consequence: Some(Consequence::Suspended),
        }),
        suspended_at: Some(p(NOW)),
        ..before.clone()
    }
}

/// Returns the customer as a paid subscription makes it.
pub(crate) fn paid(before: &Customer) -> Customer {
    Customer {
        unpaid: None,
        suspended_at: None,
        ..unpaid(before)
    }
}

pub(crate) async fn follow(
    at: &Fixture,
    before: &CustomerToFollow,
    after: &Customer,
    due: Option<Timestamp>,
) -> FollowOutcome {
    at.store.follow(before, after, due).await.unwrap()
}
