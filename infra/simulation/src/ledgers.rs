//! Daily reconciliation of the admission ledger with the usage ledger, under bursty traffic of several
//! customers on instances that Lambda replaces.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use authorizer::{App, Request, Settings, handle, single_requests};
use jiff::{SignedDuration, Timestamp};
use serde_json::json;
use tollgate_domain::customer::Customer;
use tollgate_domain::id::CustomerId;
use tollgate_domain::key::{ApiKey, KeyFormat, KeyKind, KeyRecord, Owner};
use tollgate_domain::plan::Catalog;
use tollgate_domain::plan_book::PlanBook;
use tollgate_domain::reconciliation::LedgerComparison;
use tollgate_domain::usage::{Aggregates, UsageRecord};
use tollgate_domain::window::Day;
use tollgate_local_aws::LocalAws;
use tollgate_runtime::clock::ManualClock;
use tollgate_runtime::{Clock, Entropy, Metrics};
use tollgate_store::{EventPart, NewKey, ShardCounts, Store};

use crate::random::index;
use crate::{PREFIX, SimulationError, services, setup};

/// Bursts a day and the bound on calls in a burst, for each customer: one with little traffic, one with much.
const BURSTS: [(usize, i64); CUSTOMERS] = [(2, 100), (5, 500)];
const CUSTOMERS: usize = 2;
const KEYS: usize = 2;
const INSTANCES: usize = 3;
/// Time for counting usage.
const WITHIN: Duration = Duration::from_secs(15);
/// Time without an invocation after which an instance is shut down, as Lambda does.
const IDLE: SignedDuration = SignedDuration::from_mins(7);
/// Records of one usage event.
const BATCH: usize = 100;

/// The reconciliation of one day.
#[derive(Debug, Clone)]
pub struct DailyReconciliation {
    /// The reconciled UTC day.
    pub day: Day,
    /// The ledgers of all customers, added up.
    pub total: LedgerComparison,
    /// The ledgers of each customer with a discrepancy, by the customer's number.
    pub discrepancies: BTreeMap<usize, LedgerComparison>,
    /// Calls whose usage was lost.
    pub lost: u64,
}

/// Usage records that are lost before they are written.
#[derive(Debug, Clone, Copy)]
pub struct Loss {
    /// The customer, by number.
    pub customer: usize,
    /// Every n-th call loses its record.
    pub one_in: u64,
}

struct Simulation {
    aws: LocalAws,
    store: Store,
    clock: ManualClock,
    plans: Arc<PlanBook>,
    keys: Vec<Vec<ApiKey>>,
    instances: Vec<(App, Timestamp)>,
    entropy: Entropy,
    day: Day,
    calls: u64,
}

/// Simulates days from 1 November 2026 on, and reconciles each on the next day. A day has about a
/// hundred calls of one customer and a thousand of another, in bursts at random times.
///
/// # Errors
/// Fails if the simulation cannot be set up or run.
pub fn reconcile_days(
    seed: u64,
    days: i64,
    loss: Option<Loss>,
) -> Result<Vec<DailyReconciliation>, SimulationError> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .start_paused(true)
        .build()?;
    runtime.block_on(async {
        let mut simulation = Simulation::new(seed).await?;
        let mut reconciled = Vec::new();
        for _ in 0..days {
            reconciled.push(simulation.next_day(loss).await?);
        }
        Ok(reconciled)
    })
}

fn name(customer: usize) -> Result<CustomerId, SimulationError> {
    setup(format!("c{customer}").parse())
}

impl Simulation {
    async fn new(seed: u64) -> Result<Self, SimulationError> {
        let aws = services()?;
        let start = setup("2026-11-01T00:00:00Z".parse())?;
        let clock = ManualClock::at(start);
        let entropy = Entropy::seeded(seed);
        let store = Store::new(&aws.sdk_config(), PREFIX, clock.clock(), entropy.clone());
        setup(store.seed_plans(&setup(Catalog::shipped())?).await)?;
        let plans = Arc::new(setup(store.plans().await)?);
        let mut simulation = Self {
            aws,
            store,
            clock,
            plans,
            keys: Vec::new(),
            instances: Vec::new(),
            entropy,
            day: Day::containing(start),
            calls: 0,
        };
        for customer in 0..CUSTOMERS {
            simulation.create(customer).await?;
        }
        for _ in 0..INSTANCES {
            let instance = simulation.instance();
            simulation.instances.push((instance, simulation.now()));
        }
        Ok(simulation)
    }

    async fn create(&mut self, number: usize) -> Result<(), SimulationError> {
        let plan = ["pro", "enterprise"][number % 2];
        let customer = Customer::new(name(number)?, setup(plan.parse())?, self.now());
        self.store.create_customer(&customer, None).await?;
        let format = setup(KeyFormat::new("tg", "live"))?;
        let mut keys = Vec::new();
        for key in 0..KEYS {
            let secret = self
                .entropy
                .with(|rng| format.generate(KeyKind::Customer, rng));
            let record = KeyRecord::new(
                setup(format!("key_{number}_{key}").parse())?,
                secret.prefix(),
                Owner::Customer(customer.id.clone()),
                self.now(),
            );
            let new = NewKey {
                secret: &secret,
                record: &record,
            };
            self.store.create_key(&new, None).await?;
            keys.push(secret);
        }
        self.keys.push(keys);
        Ok(())
    }

    fn now(&self) -> Timestamp {
        self.clock.clock().now()
    }

    fn instance(&self) -> App {
        let clock: Clock = self.clock.clock();
        let sdk = single_requests(self.aws.sdk_config());
        let store = Store::new(&sdk, PREFIX, clock.clone(), self.entropy.clone());
        let settings = Settings {
            uncounted: Vec::new(),
            key_cache: Duration::from_secs(5),
            stale_keys: Duration::ZERO,
            cors_origin: None,
            upgrade_url: None,
        };
        App::new(store, settings, clock, Metrics::none())
    }

    /// Simulates the calls of one day, writes their usage, and reconciles the day at 03:30 of the next.
    async fn next_day(
        &mut self,
        loss: Option<Loss>,
    ) -> Result<DailyReconciliation, SimulationError> {
        let day = self.day;
        self.day = Day::containing(day.start() + SignedDuration::from_hours(24));
        let mut lost = 0;
        let mut metered = vec![Vec::new(); CUSTOMERS];
        for (at_ms, customer) in self.bursts() {
            let at = day.start() + SignedDuration::from_millis(at_ms);
            self.clock.set(at);
            self.shut_down_idle().await;
            if !self.call(customer).await {
                continue;
            }
            let is_lost = loss.is_some_and(|loss| {
                loss.customer == customer && self.calls.is_multiple_of(loss.one_in)
            });
            if is_lost {
                lost += 1;
            } else {
                metered[customer].push(self.record(customer, at)?);
            }
        }
        for (customer, records) in metered.iter().enumerate() {
            self.meter(day, customer, records).await?;
        }
        let reconciled_at = day.start() + SignedDuration::from_mins(27 * 60 + 30);
        self.clock.set(reconciled_at);
        self.shut_down_idle().await;
        let app = reconciliation::App {
            store: self.store.clone(),
            clock: self.clock.clock(),
            metrics: Metrics::none(),
        };
        let report = reconciliation::handle(&app).await?;
        let page = self.store.list_discrepancies(day, None).await?;
        let mut discrepancies = BTreeMap::new();
        for (customer, comparison) in page.items {
            let number = (0..CUSTOMERS).find(|it| name(*it).is_ok_and(|name| name == customer));
            discrepancies.extend(number.map(|number| (number, comparison)));
        }
        Ok(DailyReconciliation {
            day,
            total: LedgerComparison {
                admitted: report.admitted,
                metered: report.metered,
            },
            discrepancies,
            lost,
        })
    }

    /// Returns the calls of a day in order: the millisecond of the day, and the customer.
    fn bursts(&self) -> Vec<(i64, usize)> {
        let random = |bound: i64| {
            let bound = bound.unsigned_abs();
            i64::try_from(self.entropy.below(bound)).unwrap_or(0)
        };
        let one_of = |choices: [i64; 3]| choices[index(&self.entropy, choices.len())];
        let mut calls = Vec::new();
        for (customer, (bursts, max_calls)) in BURSTS.into_iter().enumerate() {
            for _ in 0..bursts {
                let hour = random(24) * 3_600_000;
                // Anywhere in the hour, at its start, or across its end.
                let start = hour + one_of([random(3_600_000), 0, 3_595_000]);
                let length = one_of([50, 2_000, 30_000]);
                for _ in 0..random(max_calls) {
                    let at = start + random(length);
                    calls.push((at.min(86_399_999), customer));
                }
            }
        }
        calls.sort_unstable();
        calls
    }

    /// Shuts down instances that have been idle for [`IDLE`], and replaces them.
    async fn shut_down_idle(&mut self) {
        for at in 0..self.instances.len() {
            let (app, called) = &self.instances[at];
            if self.now().duration_since(*called) >= IDLE {
                app.shut_down().await;
                self.instances[at] = (self.instance(), self.now());
            }
        }
    }

    /// Makes a call with one of the customer's keys. Returns whether it was allowed.
    async fn call(&mut self, customer: usize) -> bool {
        self.calls += 1;
        let pick = |bound: usize| index(&self.entropy, bound);
        let key = &self.keys[customer][pick(KEYS)];
        let event = json!({
            "methodArn": "arn:aws:execute-api:us-east-1:123456789012:api/v1/GET/ping",
            "resource": "/ping",
            "headers": { "x-api-key": key.expose() },
        });
        let event = event.to_string();
        let instance = pick(INSTANCES);
        let now = self.now();
        let (app, called) = &mut self.instances[instance];
        *called = now;
        let Ok(request) = Request::from_json(&event) else {
            return false;
        };
        let response = handle(app, &request).await;
        let response = response.ok().and_then(|it| serde_json::to_string(&it).ok());
        response.is_some_and(|response| response.contains(r#""Effect":"Allow""#))
    }

    fn record(&self, customer: usize, at: Timestamp) -> Result<UsageRecord, SimulationError> {
        Ok(UsageRecord {
            time: at,
            request_id: format!("r-{}", self.calls),
            key_id: setup(format!("key_{customer}_0").parse())?,
            plan: setup("pro".parse())?,
            method: "GET".into(),
            endpoint: "/ping".into(),
            status: 200,
            latency_ms: 5,
            request_bytes: None,
            response_bytes: None,
            billable: None,
            truncated: None,
            costs: Vec::new(),
        })
    }

    async fn meter(
        &self,
        day: Day,
        customer: usize,
        records: &[UsageRecord],
    ) -> Result<(), SimulationError> {
        let customer = name(customer)?;
        for (n, records) in records.chunks(BATCH).enumerate() {
            let id = format!("{customer}-{day}-{n}");
            let aggregates: Aggregates = records.iter().collect();
            let part = EventPart {
                source: "tollgate:ping",
                id: &id,
                part: 0,
                customer: &customer,
                aggregates: &aggregates,
                too_old: None,
                records: records.len(),
                adjustments: &[],
                rejected: &[],
                body: b"{}",
                received_at: self.now(),
            };
            let parts = std::slice::from_ref(&part);
            let shard_counts = ShardCounts::default();
            let written = self
                .store
                .write_usage(parts, &self.plans, &shard_counts, WITHIN);
            for outcome in written.await {
                setup(outcome)?;
            }
        }
        Ok(())
    }
}
