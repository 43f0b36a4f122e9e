//! Runs a scenario: instances of the authorizer, their calls, and the outcomes.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use authorizer::{App, AuthorizeError, Request, Settings, handle, single_requests};
use aws_types::region::Region;
use serde_json::{Value, json};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep};
use tollgate_domain::customer::Customer;
use tollgate_domain::decision::Window;
use tollgate_domain::id::PlanId;
use tollgate_domain::key::{ApiKey, KeyFormat, KeyKind, KeyRecord, Owner};
use tollgate_domain::plan::{Catalog, Overrides};
use tollgate_domain::plan_book::PlanVersions;
use tollgate_domain::window::{Hour, Month};
use tollgate_local_aws::LocalAws;
use tollgate_runtime::{Entropy, Metrics};
use tollgate_store::{KeyChange, KeyRef, NewKey, Store};

use super::scenario::{Event, Scenario};
use crate::capacity::{Capacity, ConsumedCapacity};
use crate::crash::{Crash, Process};
use crate::network::{Endpoint, FaultRates, Network, Write};
use crate::time::Time;
use crate::{PREFIX, SimulationError, Trace, setup};

/// Longer than the greatest delay of a request on the network.
const ALL_HAS_ARRIVED: Duration = Duration::from_secs(600);

/// History of a run, as far as the model needs it.
#[derive(Debug, Default)]
pub(crate) struct History {
    pub(crate) calls: Vec<Call>,
    /// Limits of each key, with the instant from which they apply.
    pub(crate) limits: Vec<Vec<(Instant, Overrides)>>,
    /// Instant at which each key was revoked.
    pub(crate) revoked: Vec<Option<Instant>>,
    /// Connections of instances that did not shut down cleanly. Their reserved units and the calls that
    /// they had not reported may be lost.
    pub(crate) unclean: BTreeSet<usize>,
    /// Writes over each connection, in order. Each instance has a connection of its own.
    pub(crate) writes: Vec<Vec<Write>>,
    /// Stored counters at the end of the run, by their keys.
    pub(crate) counters: BTreeMap<String, Counter>,
    /// DynamoDB requests, counted only in scenarios with a write capacity.
    pub(crate) consumed: ConsumedCapacity,
}

/// Totals of a stored counter, its branches included.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Counter {
    /// Units used at the root, those granted to branches included.
    pub(crate) used: u64,
    /// Units reserved by instances.
    pub(crate) reserved: u64,
    /// Calls for which a unit was spent.
    pub(crate) spent: u64,
    /// Calls allowed without a unit.
    pub(crate) uncounted: u64,
}

/// A call and its outcome. Calls whose instance crashed before it responded are left out.
#[derive(Debug, Clone)]
pub(crate) struct Call {
    pub(crate) key: usize,
    /// Index of the instance's connection.
    pub(crate) connection: usize,
    pub(crate) began: Instant,
    pub(crate) ended: Instant,
    /// Counters of the call's hour and month, by the instance's clock.
    pub(crate) counters: [String; 2],
    pub(crate) outcome: Outcome,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// Allowed within limits.
    AllowedCounted,
    /// Allowed without being counted, because the store was down.
    AllowedUncounted,
    Denied(Window),
    Unauthorized,
    Unavailable,
}

pub(crate) struct Simulation<'a> {
    scenario: &'a Scenario,
    aws: LocalAws,
    /// The tables, as instances reach them over their networks.
    endpoint: Endpoint,
    capacity: Capacity,
    /// Store that bypasses the simulated network.
    admin: Store,
    names: Names,
    settings: Settings,
    time: Time,
    trace: Trace,
    keys: Vec<ApiKey>,
    instances: Vec<Instance>,
    /// Connections of all instances, of replaced ones too.
    connections: Vec<Network>,
    history: Arc<Mutex<History>>,
    shutting_down: JoinSet<()>,
}

/// Names that are unique to a seed.
struct Names {
    seed: u64,
}

struct Instance {
    /// Index of its connection in [`Simulation::connections`].
    connection: usize,
    app: App,
    network: Network,
    skew_ms: Arc<AtomicI64>,
    calls: JoinSet<()>,
    /// Bounds the concurrent calls.
    concurrency: Arc<Semaphore>,
}

impl Names {
    fn customer(&self) -> String {
        format!("c{}", self.seed)
    }

    fn key(&self, key: usize) -> String {
        format!("key_{}_{key}", self.seed)
    }

    /// Returns a region for each connection, because the SDK keeps one retry budget per region and process.
    fn region(&self, connection: u64) -> Region {
        Region::new(format!("seed-{}-{connection}", self.seed))
    }
}

impl<'a> Simulation<'a> {
    /// Creates the keys and instances of a scenario.
    pub(crate) async fn new(
        seed: u64,
        scenario: &'a Scenario,
        aws: &LocalAws,
        trace: Trace,
    ) -> Result<Self, SimulationError> {
        let time = Time::starting_at(setup(scenario.start.parse())?);
        let clock = time.clock(Arc::default());
        let entropy = Entropy::seeded(seed);
        let admin = Store::new(&aws.sdk_config(), PREFIX, clock, entropy.clone());
        let fail_mode = if scenario.fails_open {
            "open"
        } else {
            "closed"
        };
        // Other seeds on the same services use the plans of the same ids.
        let plan: PlanId = setup(format!("{fail_mode}-{}", scenario.max_lease).parse())?;
        let plans = json!([{
            "id": plan, "name": "", "requests_per_hour": 0, "month": { "kind": "unlimited" },
            "fail_mode": fail_mode, "max_lease": scenario.max_lease,
        }]);
        let plans = setup(Catalog::from_json(&plans.to_string()))?;
        for plan in &plans {
            let plan = PlanVersions::new(plan.clone(), time.start);
            admin.create_plan(&plan).await?;
        }
        let settings = Settings {
            uncounted: Vec::new(),
            key_cache: scenario.key_cache,
            stale_keys: scenario.stale_keys,
            cors_origin: None,
            upgrade_url: None,
        };
        let capacity = Capacity::default();
        let mut simulation = Self {
            scenario,
            aws: aws.clone(),
            endpoint: if scenario.has_capacity {
                capacity.endpoint(aws)
            } else {
                Endpoint::tables(aws)
            },
            capacity,
            admin,
            names: Names { seed },
            settings,
            time,
            trace,
            keys: Vec::new(),
            instances: Vec::new(),
            connections: Vec::new(),
            history: Arc::default(),
            shutting_down: JoinSet::new(),
        };
        simulation.create_keys(plan, &entropy).await?;
        for skew_ms in scenario.skews_ms.clone() {
            let instance = simulation.instance(skew_ms);
            simulation.instances.push(instance);
        }
        Ok(simulation)
    }

    async fn create_keys(
        &mut self,
        plan: PlanId,
        entropy: &Entropy,
    ) -> Result<(), SimulationError> {
        let customer = Customer::new(setup(self.names.customer().parse())?, plan, self.time.start);
        self.admin.create_customer(&customer, None).await?;
        let format = setup(KeyFormat::new("tg", "live"))?;
        for (n, overrides) in self.scenario.keys.iter().enumerate() {
            let secret = entropy.with(|rng| format.generate(KeyKind::Customer, rng));
            let record = KeyRecord {
                overrides: *overrides,
                ..KeyRecord::new(
                    setup(self.names.key(n).parse())?,
                    secret.prefix(),
                    Owner::Customer(customer.id.clone()),
                    self.time.start,
                )
            };
            let new = NewKey {
                secret: &secret,
                record: &record,
            };
            self.admin.create_key(&new, None).await?;
            self.keys.push(secret);
            let mut history = lock(&self.history);
            history.limits.push(vec![(self.time.began, *overrides)]);
            history.revoked.push(None);
        }
        Ok(())
    }

    fn instance(&mut self, skew_ms: i64) -> Instance {
        let number = u64::try_from(self.connections.len()).unwrap_or(u64::MAX);
        let seed = self.names.seed.wrapping_mul(10_000).wrapping_add(number);
        let network = Network::new(
            self.endpoint.clone(),
            seed,
            self.time.began,
            self.trace.clone(),
        );
        network.set_faults(self.scenario.faults);
        self.connections.push(network.clone());
        let skew_ms = Arc::new(AtomicI64::new(skew_ms));
        let clock = self.time.clock(Arc::clone(&skew_ms));
        let sdk = self.aws.sdk_config().into_builder();
        let sdk = sdk
            .region(self.names.region(number))
            .http_client(network.http_client(&Process::new(Crash::Never)))
            .build();
        let sdk = single_requests(sdk);
        let store = Store::new(&sdk, PREFIX, clock.clone(), Entropy::seeded(seed));
        Instance {
            connection: self.connections.len() - 1,
            app: App::new(store, self.settings.clone(), clock, Metrics::none()),
            network,
            skew_ms,
            calls: JoinSet::new(),
            concurrency: Arc::new(Semaphore::new(self.scenario.calls_at_once)),
        }
    }

    /// Runs all steps, waits for calls in progress, shuts all instances down, and reads the counters.
    pub(crate) async fn run(mut self) -> Result<History, SimulationError> {
        for step in &self.scenario.steps {
            sleep(step.after).await;
            let at = self.time.began.elapsed();
            self.trace.log(|| format!("{at:?} {:?}", step.event));
            self.apply(step.event).await?;
        }
        while let Some(mut instance) = self.instances.pop() {
            while instance.calls.join_next().await.is_some() {}
            instance.network.set_faults(FaultRates::NONE);
            // Delayed requests would otherwise arrive after the shutdown, as after a crash.
            if self.scenario.faults == FaultRates::SEVERE {
                sleep(ALL_HAS_ARRIVED).await;
            }
            instance.app.shut_down().await;
        }
        while self.shutting_down.join_next().await.is_some() {}
        sleep(ALL_HAS_ARRIVED).await;
        let mut history = std::mem::take(&mut *lock(&self.history));
        history.consumed = self.capacity.consumed();
        history.writes = self.connections.iter().map(Network::writes).collect();
        let names = history.calls.iter().flat_map(|call| call.counters.clone());
        for name in names.collect::<BTreeSet<String>>() {
            let counter = self.counter(&name);
            history.counters.insert(name, counter);
        }
        Ok(history)
    }

    async fn apply(&mut self, event: Event) -> Result<(), SimulationError> {
        match event {
            Event::Call { instance, key } => self.call(instance, key),
            Event::Crash { instance } => {
                let mut crashed = self.replace(instance);
                crashed.calls.abort_all();
                lock(&self.history).unclean.insert(crashed.connection);
            }
            Event::ShutDown { instance } => {
                let mut ending = self.replace(instance);
                let history = Arc::clone(&self.history);
                let has_faults = self.scenario.faults != FaultRates::NONE;
                self.shutting_down.spawn(async move {
                    while ending.calls.join_next().await.is_some() {}
                    ending.app.shut_down().await;
                    // Its last writes may have been lost.
                    if has_faults {
                        lock(&history).unclean.insert(ending.connection);
                    }
                });
            }
            Event::SetClock { instance, skew_ms } => {
                let clock = &self.instances[instance].skew_ms;
                clock.store(skew_ms, Ordering::Relaxed);
            }
            Event::Revoke { key } => {
                let now = self.time.clock(Arc::default()).now();
                let name = KeyRef::Id(setup(self.names.key(key).parse())?);
                self.admin.revoke_key(&name, now).await?;
                let revoked = &mut lock(&self.history).revoked[key];
                revoked.get_or_insert(Instant::now());
            }
            Event::SetLimits { key, limits } => {
                let name = KeyRef::Id(setup(self.names.key(key).parse())?);
                let change = KeyChange {
                    requests_per_hour: Some(limits.requests_per_hour),
                    monthly_quota: Some(limits.monthly_quota),
                    ..KeyChange::default()
                };
                // The store does not change a revoked key; calls with it are denied anyway.
                self.admin.update_key(&name, &change).await?;
                let now = Instant::now();
                lock(&self.history).limits[key].push((now, limits));
            }
        }
        Ok(())
    }

    /// Replaces an instance by a new one. Returns the old one.
    fn replace(&mut self, instance: usize) -> Instance {
        let skew_ms = self.instances[instance].skew_ms.load(Ordering::Relaxed);
        let next = self.instance(skew_ms);
        std::mem::replace(&mut self.instances[instance], next)
    }

    fn call(&mut self, instance: usize, key: usize) {
        let called = &mut self.instances[instance];
        let (app, concurrency) = (called.app.clone(), Arc::clone(&called.concurrency));
        let clock = self.time.clock(Arc::clone(&called.skew_ms));
        let (key_id, customer) = (self.names.key(key), self.names.customer());
        let event = json!({
            "methodArn": "arn:aws:execute-api:us-east-1:123456789012:api/v1/GET/ping",
            "resource": "/ping",
            "headers": { "x-api-key": self.keys[key].expose() },
        });
        let event = event.to_string();
        let (history, trace, time) = (Arc::clone(&self.history), self.trace.clone(), self.time);
        let connection = called.connection;
        called.calls.spawn(async move {
            // Lambda sends an instance no more invocations at once than its concurrency.
            let Ok(_permit) = concurrency.acquire().await else {
                return;
            };
            let Ok(request) = Request::from_json(&event) else {
                return;
            };
            let (began, now) = (Instant::now(), clock.now());
            let outcome = match handle(&app, &request).await {
                Ok(response) => {
                    Outcome::from_response(&serde_json::to_string(&response).unwrap_or_default())
                }
                Err(AuthorizeError::Unauthorized(_)) => Outcome::Unauthorized,
                Err(AuthorizeError::Unavailable) => Outcome::Unavailable,
            };
            let call = Call {
                key,
                connection,
                began,
                ended: Instant::now(),
                counters: [
                    format!("HOUR#{key_id}#{}", Hour::containing(now)),
                    format!("MONTH#{customer}#{}", Month::containing(now)),
                ],
                outcome,
            };
            let at = time.began.elapsed();
            trace.log(|| format!("{at:?} instance {instance} key {key}: {outcome:?}"));
            lock(&history).calls.push(call);
        });
    }

    fn counter(&self, key: &str) -> Counter {
        let root = self.item(key);
        let used = number(&root, "used");
        let (mut reserved, mut spent) = (used, number(&root, "spent"));
        let mut uncounted = number(&root, "uncounted");
        for (name, _) in root.as_object().into_iter().flatten() {
            let Some(branch) = name.strip_prefix('b') else {
                continue;
            };
            let item = self.item(&format!("{key}#{branch}"));
            let not_received = number(&root, name) - number(&item, "granted");
            let not_returned = number(&item, "returned") - number(&root, &format!("r{branch}"));
            reserved -= not_received + number(&item, "unreserved") + not_returned;
            spent += number(&item, "spent");
            uncounted += number(&item, "uncounted");
        }
        // A negative number, which is a violation, shows as a number that is too large.
        let count = |number: i64| u64::try_from(number).unwrap_or(u64::MAX);
        Counter {
            used: count(used),
            reserved: count(reserved),
            // More may be subtracted than was added, because a report without a response may not have
            // taken effect.
            spent: count(spent.max(0)),
            uncounted: count(uncounted),
        }
    }

    /// Reads an item of the counters table, as DynamoDB JSON.
    fn item(&self, key: &str) -> Value {
        let request = json!({
            "TableName": format!("{PREFIX}-counters"),
            "Key": { "pk": { "S": key } },
            "ConsistentRead": true,
        });
        let (_, found) = self
            .aws
            .call("DynamoDB_20120810.GetItem", &request.to_string());
        let mut found: Value = serde_json::from_str(&found).unwrap_or_default();
        self.trace.log(|| format!("{key}: {}", found["Item"]));
        found["Item"].take()
    }
}

/// Returns a number attribute of an item, or zero if it is absent.
fn number(item: &Value, name: &str) -> i64 {
    let text = item[name]["N"].as_str();
    text.and_then(|text| text.parse().ok()).unwrap_or(0)
}

impl Outcome {
    /// Reads the outcome from the authorizer's response.
    pub(super) fn from_response(response: &str) -> Self {
        if response.contains(r#""Effect":"Allow""#) {
            if response.contains(r#""rateLimitLimit":"#) {
                Self::AllowedCounted
            } else {
                Self::AllowedUncounted
            }
        } else if response.contains(r#""window":"hour""#) {
            Self::Denied(Window::Hour)
        } else {
            Self::Denied(Window::Month)
        }
    }

    /// Returns whether the call was allowed, counted or not.
    pub(crate) fn is_admitted(self) -> bool {
        matches!(self, Self::AllowedCounted | Self::AllowedUncounted)
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
