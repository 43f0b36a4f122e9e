//! Traffic with many keys, on as many instances as Lambda starts for it.
//!
//! Calls arrive by a Poisson process, with keys distributed by Zipf's law, and a [`Router`] chooses their instances.
//! The instances run the authorizer's code in virtual time. Only cold starts, the handler and requests to DynamoDB take
//! time, and nothing fails.

mod arrivals;
mod requests;
mod router;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use authorizer::{
    App, AuthorizeError, AuthorizerResponse, Request, Settings, handle, single_requests,
};
use jiff::Timestamp;
use serde_json::json;
use tokio::task::{JoinError, JoinSet};
use tokio::time::{Instant, sleep, sleep_until};
use tollgate_domain::customer::Customer;
use tollgate_domain::id::{CustomerId, KeyId, PlanId};
use tollgate_domain::key::{KeyFormat, KeyKind, KeyRecord, Owner};
use tollgate_domain::plan::Catalog;
use tollgate_domain::plan_book::PlanVersions;
use tollgate_domain::window::Month;
use tollgate_local_aws::{LocalAws, wire};
use tollgate_runtime::{Entropy, Metrics};
use tollgate_store::{NewKey, Store};

use super::simulation::Outcome;
use crate::time::Time;
use crate::{PREFIX, SimulationError, in_virtual_time, setup};
use arrivals::Arrivals;
use requests::Meter;
pub use requests::{Consumed, Purpose, Requests};
pub use router::{Route, Router};

/// Time that a call keeps its instance busy besides requests to DynamoDB.
///
/// It is added to the end of a decision and not slept. Timers have whole milliseconds; so the end of a call is known at
/// least one millisecond before it is reached, and routes do not depend on the order in which tasks run.
pub const HANDLER_TIME: Duration = Duration::from_millis(1);

/// Calls of a key allowed in an hour, and of a customer in a month. Neither is reached.
const CALLS_PER_HOUR: u64 = 1_000_000;
const CALLS_PER_MONTH: u64 = 100_000_000;

/// Parameters of the traffic and of the function.
#[derive(Debug, Clone, Copy)]
pub struct Routing {
    /// UTC time at which the traffic starts.
    pub start: Timestamp,
    /// Calls that arrive in a second, on average.
    pub per_second: u32,
    /// Number of keys. By Zipf's law, the n-th gets one n-th of the calls of the first.
    pub keys: usize,
    /// Number of keys of a customer.
    pub keys_per_customer: usize,
    /// The month of the plan of all customers.
    pub month: MonthKind,
    /// Maximum units in one reservation under a limit.
    pub max_lease: u64,
    /// TTL of the key cache.
    pub key_cache: Duration,
    /// Time of a request to DynamoDB, in whole milliseconds.
    pub round_trip: Duration,
    /// Time of a cold start, in which the instance reads the plans, in whole milliseconds.
    pub cold_start: Duration,
    /// Time without a call after which an instance ends.
    pub idle_timeout: Duration,
    /// Time before the steady state.
    pub warm_up: Duration,
    /// Time of the steady state.
    pub steady: Duration,
    /// Seed of arrivals and keys.
    pub seed: u64,
}

/// Calls of a month on a plan.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MonthKind {
    /// A quota, which is not reached.
    Blocked,
    /// No limit; calls beyond the included ones are charged.
    Overage,
}

/// Results of a simulation.
#[derive(Debug, Clone)]
pub struct RoutingOutcome {
    /// From the first call on, cold starts included.
    pub whole: Period,
    /// After the warm-up.
    pub steady: Period,
    /// Requests after the last call, when all instances have ended.
    pub end: Requests,
    /// Calls that the counters of all months have, once all instances have ended.
    pub admitted: u64,
}

/// Calls of a period, and what they took.
#[derive(Debug, Clone, PartialEq)]
pub struct Period {
    /// Calls that arrived.
    pub calls: u64,
    /// Calls that were allowed and counted.
    pub counted: u64,
    /// Instances that started.
    pub started: usize,
    /// Greatest number of instances at once.
    pub most_instances: usize,
    /// Requests to DynamoDB.
    pub requests: Requests,
    /// Time that the decisions of all calls waited for DynamoDB.
    pub waited: Duration,
    /// Time that all calls kept their instances busy, without the starts of instances.
    pub busy: Duration,
    /// Times from the arrivals of the calls to their decisions, starts of instances included, in ascending order.
    latencies: Vec<Duration>,
}

/// Simulates routed traffic.
///
/// # Errors
/// Fails if the simulation cannot be set up or run.
pub fn routing(parameters: Routing, aws: &LocalAws) -> Result<RoutingOutcome, SimulationError> {
    in_virtual_time(parameters.seed, async {
        Simulation::new(parameters, aws).await?.run().await
    })
}

impl RoutingOutcome {
    /// Returns whether all calls were allowed and counted, and are in the counters.
    #[must_use]
    pub fn is_counted(&self) -> bool {
        let Period { calls, counted, .. } = self.whole;
        counted == calls && self.admitted == calls
    }
}

impl Period {
    /// Returns the nearest-rank percentile of the latencies, or zero if there are none.
    #[must_use]
    pub fn latency(&self, percent: usize) -> Duration {
        let rank = (self.latencies.len() * percent).div_ceil(100).max(1);
        self.latencies.get(rank - 1).copied().unwrap_or_default()
    }
}

struct Simulation {
    parameters: Routing,
    time: Time,
    aws: LocalAws,
    meter: Meter,
    /// Store that bypasses the simulated network.
    admin: Store,
    customers: Vec<CustomerId>,
    /// Event of each key.
    events: Vec<Arc<str>>,
    apps: BTreeMap<usize, App>,
    calls: JoinSet<FinishedCall>,
    shutting_down: JoinSet<()>,
}

/// A call after its decision.
#[derive(Debug, Clone, Copy)]
struct FinishedCall {
    instance: usize,
    /// Times since the start of the simulation.
    arrived: Duration,
    ended: Duration,
    waited: Duration,
    is_counted: bool,
}

/// Calls and instances of a period that has not ended.
#[derive(Debug, Default)]
struct Ongoing {
    /// State when it began.
    started_before: usize,
    requests_before: Requests,
    most_instances: usize,
    calls: Vec<FinishedCall>,
}

impl Simulation {
    async fn new(parameters: Routing, aws: &LocalAws) -> Result<Self, SimulationError> {
        let time = Time::starting_at(parameters.start);
        let entropy = Entropy::seeded(parameters.seed);
        let clock = time.clock(Arc::default());
        let admin = Store::new(&aws.sdk_config(), PREFIX, clock, entropy.clone());
        let mut simulation = Self {
            parameters,
            time,
            aws: aws.clone(),
            meter: Meter::new(aws.clone()),
            admin,
            customers: Vec::new(),
            events: Vec::new(),
            apps: BTreeMap::new(),
            calls: JoinSet::new(),
            shutting_down: JoinSet::new(),
        };
        let plan = simulation.create_plan().await?;
        simulation.create_keys(&plan, &entropy).await?;
        Ok(simulation)
    }

    async fn create_plan(&self) -> Result<PlanId, SimulationError> {
        let month = match self.parameters.month {
            MonthKind::Blocked => json!({ "kind": "blocked", "included": CALLS_PER_MONTH }),
            MonthKind::Overage => json!({
                "kind": "overage", "included": CALLS_PER_MONTH,
                "prices": [{ "from": "2026-01-01", "micro_usd_per_call": 1_000 }],
            }),
        };
        let plans = json!([{
            "id": "routing", "name": "", "requests_per_hour": CALLS_PER_HOUR, "month": month,
            "fail_mode": "open", "max_lease": self.parameters.max_lease,
        }]);
        let plans = setup(Catalog::from_json(&plans.to_string()))?;
        for plan in &plans {
            let plan = PlanVersions::new(plan.clone(), self.time.start);
            self.admin.create_plan(&plan).await?;
        }
        setup("routing".parse())
    }

    /// Creates customers and keys. The keys are dealt to the customers in turn, so that no customer has all of the most
    /// used ones.
    async fn create_keys(
        &mut self,
        plan: &PlanId,
        entropy: &Entropy,
    ) -> Result<(), SimulationError> {
        let Routing {
            keys,
            keys_per_customer,
            ..
        } = self.parameters;
        for n in 0..keys.div_ceil(keys_per_customer.max(1)).max(1) {
            let customer = Customer::new(
                setup(format!("customer-{n}").parse())?,
                plan.clone(),
                self.time.start,
            );
            self.admin.create_customer(&customer, None).await?;
            self.customers.push(customer.id);
        }
        let format = setup(KeyFormat::new("tg", "live"))?;
        for n in 0..keys {
            let customer = &self.customers[n % self.customers.len()];
            let secret = entropy.with(|rng| format.generate(KeyKind::Customer, rng));
            let record = KeyRecord::new(
                entropy.with(KeyId::random),
                secret.prefix(),
                Owner::Customer(customer.clone()),
                self.time.start,
            );
            let new = NewKey {
                secret: &secret,
                record: &record,
            };
            self.admin.create_key(&new, None).await?;
            let event = json!({
                "methodArn": "arn:aws:execute-api:us-east-1:123456789012:api/v1/GET/ping",
                "resource": "/ping",
                "headers": { "x-api-key": secret.expose() },
            });
            self.events.push(event.to_string().into());
        }
        Ok(())
    }

    async fn run(mut self) -> Result<RoutingOutcome, SimulationError> {
        let Routing {
            per_second,
            warm_up,
            steady,
            idle_timeout,
            seed,
            ..
        } = self.parameters;
        let mut arrivals = Arrivals::new(seed, per_second, self.events.len());
        let mut router = Router::new(idle_timeout);
        let mut before = Ongoing::default();
        let mut after: Option<Ongoing> = None;
        loop {
            let (at, key) = arrivals.next();
            // Tasks run only at whole milliseconds, so that a call is decided up to one too late. Its times are exact.
            sleep_until(self.time.began + in_whole_ms(at)).await;
            while let Some(call) = self.calls.try_join_next() {
                let call = finished(call)?;
                router.finish(call.instance, call.ended);
                let period = after.as_mut().filter(|_| call.arrived >= warm_up);
                period.unwrap_or(&mut before).calls.push(call);
            }
            if at >= warm_up && after.is_none() {
                after = Some(self.begin(&router));
            }
            for ended in router.end_idle(at) {
                self.end(ended);
            }
            if at >= warm_up + steady {
                break;
            }
            let route = router.route(at);
            if route.is_new {
                let app = self.instance(route.instance);
                self.apps.insert(route.instance, app);
            }
            let period = after.as_mut().unwrap_or(&mut before);
            period.most_instances = period.most_instances.max(router.running());
            self.call(route, at, key);
        }
        let mut after = after.unwrap_or_default();
        while let Some(call) = self.calls.join_next().await {
            after.calls.push(finished(call)?);
        }
        let requests = self.meter.requests();
        let instances: Vec<usize> = self.apps.keys().copied().collect();
        for instance in instances {
            self.end(instance);
        }
        while self.shutting_down.join_next().await.is_some() {}
        let whole = Ongoing {
            most_instances: before.most_instances.max(after.most_instances),
            calls: [&before.calls[..], &after.calls[..]].concat(),
            ..Ongoing::default()
        };
        Ok(RoutingOutcome {
            whole: whole.ended(router.started(), &requests),
            steady: after.ended(router.started(), &requests),
            end: self.meter.requests().since(&requests),
            admitted: self.admitted().await?,
        })
    }

    fn begin(&self, router: &Router) -> Ongoing {
        Ongoing {
            started_before: router.started(),
            requests_before: self.meter.requests(),
            ..Ongoing::default()
        }
    }

    fn instance(&self, number: usize) -> App {
        let (meter, round_trip) = (self.meter.clone(), self.parameters.round_trip);
        let network = wire::http_client(move |call| {
            let meter = meter.clone();
            async move {
                // A request takes effect half a round trip after it was sent, in whole milliseconds.
                let there = in_whole_ms(round_trip / 2);
                sleep(there).await;
                let response = meter.respond(&call);
                sleep(round_trip - there).await;
                Some(response)
            }
        });
        let sdk = self.aws.sdk_config().into_builder();
        let sdk = single_requests(sdk.http_client(network).build());
        let clock = self.time.clock(Arc::default());
        let number = u64::try_from(number).unwrap_or(u64::MAX);
        let seed = self.parameters.seed.wrapping_mul(1_000_000);
        let entropy = Entropy::seeded(seed.wrapping_add(number));
        let store = Store::new(&sdk, PREFIX, clock.clone(), entropy);
        let settings = Settings {
            uncounted: Vec::new(),
            key_cache: self.parameters.key_cache,
            stale_keys: Duration::from_secs(900),
            cors_origin: None,
            upgrade_url: None,
        };
        App::new(store, settings, clock, Metrics::none())
    }

    /// Decides a call on its instance, once that has started.
    fn call(&mut self, route: Route, arrived: Duration, key: usize) {
        let Some(app) = self.apps.get(&route.instance).cloned() else {
            return;
        };
        let event = Arc::clone(&self.events[key]);
        let cold_start = self.parameters.cold_start;
        self.calls.spawn(async move {
            let routed = Instant::now();
            if route.is_new {
                tokio::join!(sleep(cold_start), app.warm_up());
            }
            let began = Instant::now();
            let is_counted = match Request::from_json(&event) {
                Ok(request) => is_counted(&handle(&app, &request).await),
                Err(_) => false,
            };
            FinishedCall {
                instance: route.instance,
                arrived,
                ended: arrived + routed.elapsed() + HANDLER_TIME,
                waited: began.elapsed(),
                is_counted,
            }
        });
    }

    /// Ends an instance, as Lambda's signal does.
    fn end(&mut self, instance: usize) {
        if let Some(app) = self.apps.remove(&instance) {
            self.shutting_down
                .spawn(async move { app.shut_down().await });
        }
    }

    /// Returns the calls in the counters of all customers.
    async fn admitted(&self) -> Result<u64, SimulationError> {
        let months = [
            Month::containing(self.time.start),
            Month::containing(self.time.clock(Arc::default()).now()),
        ];
        let mut admitted = 0;
        let last = if months[0] == months[1] { 1 } else { 2 };
        for customer in &self.customers {
            for month in &months[..last] {
                let counter = self.admin.month_counter(customer, *month).await?;
                admitted += counter.admitted();
            }
        }
        Ok(admitted)
    }
}

impl Ongoing {
    /// Ends the period, in which so many instances have started in all.
    fn ended(self, started: usize, requests: &Requests) -> Period {
        let mut latencies: Vec<Duration> = self
            .calls
            .iter()
            .map(|call| call.ended - call.arrived)
            .collect();
        latencies.sort_unstable();
        let count = |count: usize| u64::try_from(count).unwrap_or(u64::MAX);
        let counted = self.calls.iter().filter(|call| call.is_counted).count();
        let waited: Duration = self.calls.iter().map(|call| call.waited).sum();
        let calls = u32::try_from(self.calls.len()).unwrap_or(u32::MAX);
        Period {
            calls: count(self.calls.len()),
            counted: count(counted),
            started: started - self.started_before,
            most_instances: self.most_instances,
            requests: requests.since(&self.requests_before),
            waited,
            busy: waited + HANDLER_TIME * calls,
            latencies,
        }
    }
}

fn finished(call: Result<FinishedCall, JoinError>) -> Result<FinishedCall, SimulationError> {
    setup(call)
}

fn is_counted(response: &Result<AuthorizerResponse, AuthorizeError>) -> bool {
    let Ok(response) = response else {
        return false;
    };
    let response = serde_json::to_string(response).unwrap_or_default();
    Outcome::from_response(&response) == Outcome::AllowedCounted
}

/// Rounds up to whole milliseconds.
fn in_whole_ms(time: Duration) -> Duration {
    let ms = time.as_nanos().div_ceil(1_000_000);
    Duration::from_millis(u64::try_from(ms).unwrap_or(u64::MAX))
}
