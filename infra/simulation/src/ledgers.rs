//! The admission ledger and the usage ledger, reconciled night after night, under bursty traffic of
//! several customers on instances that come and go.

use std::collections::BTreeMap;
use std::time::Duration;

use authorizer::{App, Request, Settings, handle, single_requests};
use jiff::{SignedDuration, Timestamp};
use serde_json::json;
use tollgate_domain::customer::Customer;
use tollgate_domain::id::CustomerId;
use tollgate_domain::key::{ApiKey, KeyFormat, KeyRecord, Owner, Role};
use tollgate_domain::plan::{Catalog, Overrides};
use tollgate_domain::reconciliation::LedgerComparison;
use tollgate_domain::usage::{Aggregates, UsageRecord};
use tollgate_domain::window::Day;
use tollgate_local_aws::LocalAws;
use tollgate_runtime::clock::ManualClock;
use tollgate_runtime::{Clock, Entropy, Metrics};
use tollgate_store::{EventPart, NewKey, ShardCounts, Store};

use crate::drawn::index;
use crate::{PREFIX, Unable, made_up, services};

/// One with little traffic, and one with much.
const BURSTS: [(usize, i64); CUSTOMERS] = [(2, 100), (5, 500)];
const CUSTOMERS: usize = 2;
const KEYS: usize = 2;
const INSTANCES: usize = 3;
/// An instance that nobody has called for so long is ended, as Lambda does.
const IDLE: SignedDuration = SignedDuration::from_mins(7);
/// Records of one usage event.
const BATCH: usize = 100;

/// One day's reconciliation.
#[derive(Debug, Clone)]
pub struct Night {
    /// The UTC day that it is of.
    pub day: Day,
    /// What all customers' ledgers say.
    pub total: LedgerComparison,
    /// The customers whose ledgers differ, by number, and what those say.
    pub found: BTreeMap<usize, LedgerComparison>,
    /// Calls whose usage was lost.
    pub lost: u64,
}

/// Usage that is lost on its way.
#[derive(Debug, Clone, Copy)]
pub struct Loss {
    /// The customer, by number.
    pub customer: usize,
    /// One call of so many.
    pub one_in: u64,
}

struct Stage {
    aws: LocalAws,
    store: Store,
    clock: ManualClock,
    plans: Catalog,
    keys: Vec<Vec<ApiKey>>,
    instances: Vec<(App, Timestamp)>,
    entropy: Entropy,
    day: Day,
    calls: u64,
}

/// Plays that many days from the first of November 2026 on, and reconciles each in the night after it.
/// Each day has a hundred calls of one customer and a thousand of another, in bursts at any time.
///
/// # Errors
/// When it cannot be played.
pub fn nights(seed: u64, days: i64, loss: Option<Loss>) -> Result<Vec<Night>, Unable> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .start_paused(true)
        .build()?;
    runtime.block_on(async {
        let mut stage = Stage::set(seed).await?;
        let mut nights = Vec::new();
        for _ in 0..days {
            nights.push(stage.next_day(loss).await?);
        }
        Ok(nights)
    })
}

fn name(customer: usize) -> Result<CustomerId, Unable> {
    made_up(format!("c{customer}").parse())
}

impl Stage {
    async fn set(seed: u64) -> Result<Self, Unable> {
        let aws = services()?;
        let start = made_up("2026-11-01T00:00:00Z".parse())?;
        let clock = ManualClock::at(start);
        let entropy = Entropy::seeded(seed);
        let store = Store::new(&aws.sdk_config(), PREFIX, clock.clock(), entropy.clone());
        let plans = made_up(Catalog::shipped())?;
        let mut stage = Self {
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
            stage.create(customer).await?;
        }
        for _ in 0..INSTANCES {
            let instance = stage.instance();
            stage.instances.push((instance, stage.now()));
        }
        Ok(stage)
    }

    async fn create(&mut self, number: usize) -> Result<(), Unable> {
        let plan = ["pro", "enterprise"][number % 2];
        let customer = Customer {
            id: name(number)?,
            name: String::new(),
            email: None,
            plan: made_up(plan.parse())?,
            created_at: self.now(),
            suspended_at: None,
            erased_at: None,
        };
        self.store.create_customer(&customer, None).await?;
        let format = made_up(KeyFormat::new("tg", "live"))?;
        let mut keys = Vec::new();
        for key in 0..KEYS {
            let secret = self
                .entropy
                .with(|rng| format.generate(Role::Customer, rng));
            let record = KeyRecord {
                id: made_up(format!("key_{number}_{key}").parse())?,
                prefix: secret.prefix(),
                name: String::new(),
                owner: Owner::Customer(customer.id.clone()),
                created_at: self.now(),
                expires_at: None,
                revoked_at: None,
                suspended_at: None,
                overrides: Overrides::default(),
                rotated_to: None,
                hour_of: None,
            };
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
            plans: self.plans.clone(),
            uncounted: Vec::new(),
            key_cache: Duration::from_secs(5),
            stale_keys: Duration::ZERO,
            cors_origin: None,
        };
        App::new(store, settings, clock, Metrics::none())
    }

    /// Plays a day, meters it, and reconciles it at half past three of the next.
    async fn next_day(&mut self, loss: Option<Loss>) -> Result<Night, Unable> {
        let day = self.day;
        self.day = Day::containing(day.start() + SignedDuration::from_hours(24));
        let mut lost = 0;
        let mut metered = vec![Vec::new(); CUSTOMERS];
        for (at_ms, customer) in self.bursts() {
            let at = day.start() + SignedDuration::from_millis(at_ms);
            self.clock.set(at);
            self.end_idle().await;
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
        let night = day.start() + SignedDuration::from_mins(27 * 60 + 30);
        self.clock.set(night);
        self.end_idle().await;
        let reconciling = reconciliation::App {
            store: self.store.clone(),
            clock: self.clock.clock(),
            metrics: Metrics::none(),
        };
        let report = reconciliation::handle(&reconciling).await?;
        let page = self.store.differences(day, None).await?;
        let mut found = BTreeMap::new();
        for (customer, comparison) in page.items {
            let number = (0..CUSTOMERS).find(|it| name(*it).is_ok_and(|name| name == customer));
            found.extend(number.map(|number| (number, comparison)));
        }
        Ok(Night {
            day,
            total: LedgerComparison {
                admitted: report.admitted,
                metered: report.metered,
            },
            found,
            lost,
        })
    }

    /// The calls of a day, each at its millisecond, in order.
    fn bursts(&self) -> Vec<(i64, usize)> {
        let draw = |bound: i64| {
            let bound = bound.unsigned_abs();
            i64::try_from(self.entropy.below(bound)).unwrap_or(0)
        };
        let one_of = |choices: [i64; 3]| choices[index(&self.entropy, choices.len())];
        let mut calls = Vec::new();
        for (customer, (bursts, most_calls)) in BURSTS.into_iter().enumerate() {
            for _ in 0..bursts {
                let hour = draw(24) * 3_600_000;
                // Anywhere in the hour, at its very beginning, or over its end.
                let begins = hour + one_of([draw(3_600_000), 0, 3_595_000]);
                let lasts = one_of([50, 2_000, 30_000]);
                for _ in 0..draw(most_calls) {
                    let at = begins + draw(lasts);
                    calls.push((at.min(86_399_999), customer));
                }
            }
        }
        calls.sort_unstable();
        calls
    }

    /// Ends instances that nobody has called for a while; others take their places.
    async fn end_idle(&mut self) {
        for at in 0..self.instances.len() {
            let (app, called) = &self.instances[at];
            if self.now().duration_since(*called) >= IDLE {
                app.end().await;
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
        let answer = handle(app, &request).await;
        let answer = answer.ok().and_then(|it| serde_json::to_string(&it).ok());
        answer.is_some_and(|answer| answer.contains(r#""Effect":"Allow""#))
    }

    fn record(&self, customer: usize, at: Timestamp) -> Result<UsageRecord, Unable> {
        Ok(UsageRecord {
            time: at,
            request_id: format!("r-{}", self.calls),
            key_id: made_up(format!("key_{customer}_0").parse())?,
            plan: made_up("pro".parse())?,
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
    ) -> Result<(), Unable> {
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
                records: records.len(),
                adjustments: &[],
                refused: &[],
                body: b"{}",
                received_at: self.now(),
            };
            let parts = std::slice::from_ref(&part);
            let spread = ShardCounts::default();
            let written = self.store.write_usage(parts, &self.plans, &spread);
            for outcome in written.await {
                made_up(outcome)?;
            }
        }
        Ok(())
    }
}
