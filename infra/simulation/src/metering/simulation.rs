//! Runs a scenario: metered functions, usage-writers, and the bus and queue between them.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use aws_types::region::Region;
use jiff::{SignedDuration, Timestamp};
use serde_json::{Value, json};
use tokio::sync::mpsc;
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::{sleep, sleep_until, timeout};
use tollgate_domain::id::{CustomerId, uuid_v7};
use tollgate_domain::money::MicroUsd;
use tollgate_domain::plan::Catalog;
use tollgate_domain::usage::{ADJUSTMENT_TYPE, Cost, EVENT_TYPE, UsageRecord};
use tollgate_domain::window::{Day, Month};
use tollgate_ingest::Ingest;
use tollgate_local_aws::LocalAws;
use tollgate_metering::{Emitter, UnsentLog};
use tollgate_runtime::{Clock, Entropy, Metrics, aws};
use tollgate_store::Store;
use usage_writer::App;

use super::earlier::EarlierWriter;
use super::queue::Queue;
use super::scenario::{Event, Scenario};
use super::{Deviation, model};
use crate::crash::{Crash, Process};
use crate::lagging::lagging_tables;
use crate::network::{Endpoint, FaultRates, Network};
use crate::time::Time;
use crate::{PREFIX, SimulationError, Trace, setup};

/// Longer than the greatest delay of a request on the network.
const ALL_HAS_ARRIVED: Duration = Duration::from_secs(600);
/// Time after the start of a run since which all releases put claims. The steps take less, and so do the requests of the
/// instances of the earlier release that have ended.
const CLAIMS_BEGIN_AFTER: SignedDuration = SignedDuration::from_mins(110);
/// The usage-writer's function timeout.
const WRITER_TIMEOUT: Duration = Duration::from_secs(30);

/// Number of connections so far, in all runs of the process.
static CONNECTIONS: AtomicU64 = AtomicU64::new(0);

pub(crate) struct Simulation<'a> {
    seed: u64,
    scenario: &'a Scenario,
    aws: LocalAws,
    tables: Endpoint,
    time: Time,
    trace: Trace,
    entropy: Entropy,
    queue: Queue,
    functions: Vec<Function>,
    writers: Vec<Writer>,
    connections: u64,
    calls: u64,
    /// Log lines of unsent usage, written by instances as they shut down.
    unsent: Arc<Mutex<Vec<String>>>,
    /// Request ids of all records of instances that shut down.
    recorded: BTreeSet<String>,
    /// Pairs of events with the same source and id, with their customers and ids.
    conflicting: Vec<(String, String, [Value; 2])>,
}

/// An instance of a metered function.
struct Function {
    emitter: Emitter,
    network: Network,
    skew_ms: Arc<AtomicI64>,
    clock: Clock,
    /// Records of each invocation; invocations are handled one after the other.
    invocations: mpsc::UnboundedSender<Vec<(CustomerId, UsageRecord)>>,
    running: JoinHandle<()>,
    /// Request ids of all records that it has recorded.
    recorded: Arc<Mutex<Vec<String>>>,
}

/// An instance of a usage-writer.
enum Instance {
    Current(App),
    Earlier(EarlierWriter),
}

impl Instance {
    /// Handles a batch of messages with their ids. Returns the ids of those that are to be delivered again.
    async fn handle(&self, messages: &[(String, String)]) -> BTreeSet<String> {
        let mut failed: BTreeSet<String> = messages.iter().map(|(id, _)| id.clone()).collect();
        match self {
            Instance::Current(app) => {
                let records = messages.iter();
                let records = records.map(|(id, body)| json!({ "messageId": id, "body": body }));
                let event = json!({ "Records": Value::from_iter(records) });
                if let Ok(event) = serde_json::from_value(event) {
                    let response = usage_writer::handle(app, event).await;
                    let failures = response.batch_item_failures.into_iter();
                    failed = failures.map(|failure| failure.item_identifier).collect();
                }
            }
            Instance::Earlier(writer) => {
                for (id, body) in messages {
                    if writer.handle(id, body).await {
                        failed.remove(id);
                    }
                }
            }
        }
        failed
    }
}

struct Writer {
    network: Network,
    skew_ms: Arc<AtomicI64>,
    crash_percent: Arc<AtomicU64>,
}

impl<'a> Simulation<'a> {
    /// Creates the metered functions of a scenario.
    pub(crate) fn new(
        seed: u64,
        scenario: &'a Scenario,
        aws: &LocalAws,
        trace: Trace,
    ) -> Result<Self, SimulationError> {
        let entropy = Entropy::seeded(seed);
        let time = Time::starting_at(setup(scenario.start.parse())?);
        let mut simulation = Self {
            seed,
            scenario,
            aws: aws.clone(),
            tables: lagging_tables(aws, time.clock(Arc::default())),
            time,
            trace,
            queue: Queue::new(Entropy::seeded(seed ^ 0x0b05)),
            entropy,
            functions: Vec::new(),
            writers: Vec::new(),
            connections: 0,
            calls: 0,
            unsent: Arc::default(),
            recorded: BTreeSet::new(),
            conflicting: Vec::new(),
        };
        for &skew_ms in &scenario.function_skews_ms {
            let function = simulation.function(skew_ms);
            simulation.functions.push(function);
        }
        Ok(simulation)
    }

    fn customer(&self, number: usize) -> String {
        format!("m{}-{number}", self.seed)
    }

    /// Connects to an endpoint. Returns the network, its seed, and an SDK configuration that uses it.
    fn connect(
        &mut self,
        endpoint: Endpoint,
        faults: FaultRates,
    ) -> (Network, u64, aws_types::SdkConfig) {
        self.connections += 1;
        let number = self.connections;
        let seed = self.seed.wrapping_mul(1_000).wrapping_add(number);
        let network = Network::new(endpoint, seed, self.time.began, self.trace.clone());
        network.set_faults(faults);
        // The SDK keeps one retry budget per region and process. With a region for each connection, every
        // run of a seed is the same.
        let region = CONNECTIONS.fetch_add(1, Ordering::Relaxed);
        let region = Region::new(format!("usage-{region}"));
        let sdk = self.aws.sdk_config().into_builder();
        let sdk = sdk
            .region(region)
            .http_client(network.http_client(&Process::new(Crash::Never)));
        (network, seed, sdk.build())
    }

    fn function(&mut self, skew_ms: i64) -> Function {
        let queue = self.queue.clone();
        let bus = Endpoint::new(move |_, body| queue.put_events(body));
        let (network, seed, sdk) = self.connect(bus, self.scenario.bus_faults);
        let timeouts = aws::timeouts(aws::INTERACTIVE_TIMEOUT);
        let sdk = sdk.into_builder().timeout_config(timeouts).build();
        let skew_ms = Arc::new(AtomicI64::new(skew_ms));
        let clock = self.time.clock(Arc::clone(&skew_ms));
        let name = format!("f{seed}");
        let entropy = Entropy::seeded(seed);
        let unsent = Arc::clone(&self.unsent);
        let unsent_log = UnsentLog::new(Metrics::none(), move |line| {
            lock(&unsent).push(line.to_owned());
        });
        let emitter = Emitter::new(&sdk, "bus", &name, clock.clone(), entropy, unsent_log);
        let (invocations, mut invoked) =
            mpsc::unbounded_channel::<Vec<(CustomerId, UsageRecord)>>();
        let flushing = emitter.clone();
        let recorded = Arc::new(Mutex::new(Vec::new()));
        let (recording, is_buffered) = (Arc::clone(&recorded), self.scenario.is_buffered);
        let running = tokio::spawn(async move {
            while let Some(records) = invoked.recv().await {
                for (customer, record) in records {
                    lock(&recording).push(record.request_id.clone());
                    flushing.record(customer, record);
                }
                match is_buffered {
                    true => flushing.flush_due().await,
                    false => flushing.flush().await,
                }
            }
        });
        Function {
            emitter,
            network,
            skew_ms,
            clock,
            invocations,
            running,
            recorded,
        }
    }

    /// Starts a writer of this release, or an earlier one, which runs until it is aborted.
    fn writer(&mut self, is_earlier: bool, skew_ms: i64, running: &mut JoinSet<()>) -> Writer {
        let tables = self.tables.clone();
        let (network, seed, sdk) = self.connect(tables, self.scenario.table_faults);
        let timeouts = aws::timeouts(aws::BACKGROUND_TIMEOUT);
        let sdk = sdk.into_builder().timeout_config(timeouts).build();
        let skew_ms = Arc::new(AtomicI64::new(skew_ms));
        let clock = self.time.clock(Arc::clone(&skew_ms));
        let entropy = Entropy::seeded(seed);
        let store = Store::new(&sdk, PREFIX, clock.clone(), entropy.clone());
        let store = store.with_buckets_of(self.scenario.max_claims);
        let ingest = Ingest::new(store, clock, Metrics::none());
        let instance = match is_earlier {
            false => Instance::Current(App { ingest }),
            true => Instance::Earlier(EarlierWriter {
                network: network.clone(),
                ingest,
                entropy: entropy.clone(),
            }),
        };
        let crash_percent = Arc::new(AtomicU64::new(self.scenario.writer_crash_percent));
        let (queue, crashes, trace) = (
            self.queue.clone(),
            Arc::clone(&crash_percent),
            self.trace.clone(),
        );
        let began = self.time.began;
        running.spawn(async move {
            loop {
                let messages = queue.receive().await;
                let limit = if entropy.below(100) < crashes.load(Ordering::Relaxed) {
                    Duration::from_millis(entropy.below(500))
                } else {
                    WRITER_TIMEOUT
                };
                let failed = timeout(limit, instance.handle(&messages)).await;
                let at = began.elapsed();
                let Ok(failed) = failed else {
                    trace.log(|| {
                        format!(
                            "{at:?} writer {seed} crashed with {} messages",
                            messages.len()
                        )
                    });
                    continue;
                };
                trace.log(|| {
                    format!(
                        "{at:?} writer {seed} received {} messages, failed {failed:?}",
                        messages.len()
                    )
                });
                let ids = messages.into_iter().map(|(id, _)| id);
                queue.delete(ids.filter(|id| !failed.contains(id)));
            }
        });
        Writer {
            network,
            skew_ms,
            crash_percent,
        }
    }

    /// Runs all steps, waits until all usage is written, and compares it with the model.
    pub(crate) async fn run(mut self) -> Result<Deviation, SimulationError> {
        let (clock, entropy) = (self.time.clock(Arc::default()), Entropy::seeded(self.seed));
        let store = Store::new(&self.aws.sdk_config(), PREFIX, clock, entropy);
        store.seed_plans(&setup(Catalog::shipped())?).await?;
        self.begin_claims()?;
        self.forget_usage_of_all()?;
        let (mut running, mut earlier) = (JoinSet::new(), JoinSet::new());
        for &skew_ms in &self.scenario.writer_skews_ms {
            let writer = self.writer(false, skew_ms, &mut running);
            self.writers.push(writer);
        }
        let upgrade = self.scenario.upgrade.as_ref();
        for &skew_ms in upgrade.into_iter().flat_map(|upgrade| &upgrade.skews_ms) {
            self.writer(true, skew_ms, &mut earlier);
        }
        for (number, step) in self.scenario.steps.iter().enumerate() {
            if let Some(upgrade) = upgrade.filter(|upgrade| upgrade.steps == number) {
                earlier.abort_all();
                sleep_until(self.time.began + upgrade.goes_on_after).await;
            }
            sleep(step.after).await;
            let at = self.time.began.elapsed();
            self.trace.log(|| format!("{at:?} {:?}", step.event));
            self.apply(step.event).await?;
        }
        earlier.abort_all();
        let mut recorded = std::mem::take(&mut self.recorded);
        for function in self.functions.drain(..) {
            drop(function.invocations);
            // Faults continue while it handles the invocations that it has received.
            let _ = function.running.await;
            function.network.set_faults(FaultRates::NONE);
            self.queue.stop_faults();
            function.emitter.flush().await;
            recorded.extend(std::mem::take(&mut *lock(&function.recorded)));
        }
        for line in std::mem::take(&mut *lock(&self.unsent)) {
            let line: Value = serde_json::from_str(&line).unwrap_or_default();
            self.queue.put(&line["event"], EVENT_TYPE);
        }
        // Delayed requests to the bus arrive now.
        sleep(ALL_HAS_ARRIVED).await;
        for writer in &self.writers {
            writer.network.set_faults(FaultRates::NONE);
            writer.crash_percent.store(0, Ordering::Relaxed);
        }
        let dead_letters = self.queue.dead_letters();
        if dead_letters > 0 && self.scenario.has_reliable_writers() {
            return Ok(stuck(dead_letters, "there were no faults"));
        }
        self.queue.redrive();
        while !self.queue.is_empty() {
            sleep(ALL_HAS_ARRIVED).await;
        }
        let dead_letters = self.queue.dead_letters();
        if dead_letters > 0 {
            return Ok(stuck(dead_letters, "faults have ceased"));
        }
        // Delayed requests to the tables arrive now.
        sleep(ALL_HAS_ARRIVED).await;
        running.abort_all();
        self.compare(&recorded).await
    }

    /// Stores since when all releases put claims. Runs that share tables each have a time of their own.
    fn begin_claims(&self) -> Result<(), SimulationError> {
        let since = match self.scenario.upgrade {
            None => Timestamp::UNIX_EPOCH,
            Some(_) => self.time.start + CLAIMS_BEGIN_AFTER,
        };
        let item = json!({ "TableName": format!("{PREFIX}-usage-log"), "Item": {
            "pk": { "S": "#CLAIMS_SINCE" }, "sk": { "S": "#" }, "since": { "S": since },
        } });
        match self
            .aws
            .call("DynamoDB_20120810.PutItem", &item.to_string())
        {
            (200, _) => Ok(()),
            (_, response) => Err(SimulationError::Setup(response.into())),
        }
    }

    /// Deletes the aggregates of all customers, which runs that share tables would share.
    fn forget_usage_of_all(&self) -> Result<(), SimulationError> {
        let table = format!("{PREFIX}-usage");
        let call = |operation: &str, request: &Value| {
            let target = format!("DynamoDB_20120810.{operation}");
            match self.aws.call(&target, &request.to_string()) {
                (200, response) => setup(serde_json::from_str::<Value>(&response)),
                (_, response) => Err(SimulationError::Setup(response.into())),
            }
        };
        for month in self.months() {
            let query = json!({
                "TableName": table, "KeyConditionExpression": "pk = :pk",
                "ProjectionExpression": "pk, sk",
                "ExpressionAttributeValues": { ":pk": { "S": format!("ALL#{month}") } },
            });
            let found = call("Query", &query)?;
            for key in found["Items"].as_array().into_iter().flatten() {
                call("DeleteItem", &json!({ "TableName": table, "Key": key }))?;
            }
        }
        Ok(())
    }

    /// Returns the months of all usage.
    fn months(&self) -> BTreeSet<Month> {
        let (start, day) = (self.time.start, SignedDuration::from_hours(24));
        let times = [start - day * 2, start, start + day * 3];
        times.map(Month::containing).into()
    }

    async fn apply(&mut self, event: Event) -> Result<(), SimulationError> {
        match event {
            Event::Calls { function, count } => {
                let mut records = Vec::new();
                for _ in 0..count {
                    records.push(self.call(function)?);
                }
                // The receiver lives as long as the function.
                let _ = self.functions[function].invocations.send(records);
            }
            Event::Crash { function } => {
                self.replace(function).running.abort();
            }
            Event::ShutDown { function } => {
                let ending = self.replace(function);
                ending.running.abort();
                // Waits until it records nothing more.
                let _ = ending.running.await;
                ending.emitter.close().await;
                self.recorded
                    .extend(std::mem::take(&mut *lock(&ending.recorded)));
            }
            Event::Adjust { customer } => {
                let event = self.adjustments(customer);
                self.queue.put(&event, ADJUSTMENT_TYPE);
            }
            Event::Conflict { customer } => {
                let first = self.adjustments(customer);
                let mut second = self.adjustments(customer);
                second["id"] = first["id"].clone();
                let events = [first, second];
                self.queue.put_conflicting(&events, ADJUSTMENT_TYPE);
                let id = events[0]["id"].as_str().unwrap_or_default().to_owned();
                self.conflicting.push((self.customer(customer), id, events));
            }
            Event::SetClock { function, skew_ms } => {
                let clock = &self.functions[function].skew_ms;
                clock.store(skew_ms, Ordering::Relaxed);
            }
            Event::Disconnect { writer } => {
                let network = &self.writers[writer].network;
                network.set_faults(FaultRates::OUTAGE);
            }
            Event::Reconnect { writer } => {
                let network = &self.writers[writer].network;
                network.set_faults(self.scenario.table_faults);
            }
            Event::SetWriterClock { writer, skew_ms } => {
                let clock = &self.writers[writer].skew_ms;
                clock.store(skew_ms, Ordering::Relaxed);
            }
        }
        Ok(())
    }

    /// Replaces an instance by a new one. Returns the old one.
    fn replace(&mut self, function: usize) -> Function {
        let skew_ms = self.functions[function].skew_ms.load(Ordering::Relaxed);
        let next = self.function(skew_ms);
        std::mem::replace(&mut self.functions[function], next)
    }

    /// Generates a usage event with adjustments of the last two days.
    fn adjustments(&mut self, customer: usize) -> Value {
        self.calls += 1;
        let now = self.time.clock(Arc::default()).now();
        let random = |bound| i64::try_from(self.entropy.below(bound)).unwrap_or(0);
        let uuid = |at| self.entropy.with(|rng| uuid_v7(at, rng));
        let id = match random(4) {
            0 => uuid(now),
            // All of one moment, and of another century.
            1 => uuid(self.time.start),
            2 => uuid(now + SignedDuration::from_hours(100 * 365 * 24)),
            _ => format!("a{}-{}", self.seed, self.calls),
        };
        let adjustments: Vec<Value> = (0..1 + random(3))
            .map(|_| {
                let plan = if random(2) == 0 { "free" } else { "pro" };
                json!({
                    "time": now - SignedDuration::from_hours(random(48)),
                    "plan": plan,
                    "billable_calls": random(2_000) - 1_000,
                    "micro_usd": 1 + random(1_000),
                    "reason": format!("{id}, {}", random(1_000_000)),
                })
            })
            .collect();
        json!({
            "specversion": "1.0", "id": id, "source": "support", "type": ADJUSTMENT_TYPE,
            "time": now, "subject": self.customer(customer), "data": { "adjustments": adjustments },
        })
    }

    /// Generates the usage record of a call that the function has just responded to.
    fn call(&mut self, function: usize) -> Result<(CustomerId, UsageRecord), SimulationError> {
        self.calls += 1;
        let random = |bound| self.entropy.below(bound);
        // Most calls are the first customer's, whose aggregates become hot.
        let customer = usize::try_from(random(6)).unwrap_or(0);
        let customer = if customer < self.scenario.customers {
            customer
        } else {
            0
        };
        let plan = ["free", "pro", "enterprise"][usize::try_from(random(3)).unwrap_or(0)];
        let method = ["GET", "POST"][usize::try_from(random(2)).unwrap_or(0)];
        let status = [200, 204, 404, 429, 500][usize::try_from(random(5)).unwrap_or(0)];
        // In half of the runs more than an item has slots for.
        let breadth = [1, 8][usize::try_from(self.seed % 2).unwrap_or(0)];
        let costs = (0..random(4)).map(|_| Cost {
            provider: (random(4) > 0).then(|| format!("p{}", random(2))),
            model: (random(4) > 0).then(|| format!("m{}", random(2 * breadth))),
            input_tokens: random(1_000),
            tokens: random(1_000),
            micro_usd: MicroUsd(random(10_000)),
            unpriced: random(4) == 0,
            ..Cost::default()
        });
        let record = UsageRecord {
            time: self.functions[function].clock.now(),
            request_id: format!("r{}-{}", self.seed, self.calls),
            key_id: setup(format!("key_{customer}{}", random(breadth)).parse())?,
            plan: setup(plan.parse())?,
            method: method.to_owned(),
            endpoint: format!("/things/{}", random(3 * breadth)),
            status,
            latency_ms: random(2_000),
            request_bytes: None,
            response_bytes: Some(random(10_000)),
            truncated: None,
            billable: [None, Some(true), Some(false)][usize::try_from(random(3)).unwrap_or(0)],
            costs: costs.collect(),
        };
        Ok((setup(self.customer(customer).parse())?, record))
    }

    async fn compare(&self, recorded: &BTreeSet<String>) -> Result<Deviation, SimulationError> {
        let mut accepted = self.queue.accepted();
        let customers: Vec<String> = (0..3).map(|n| self.customer(n)).collect();
        let start = self.time.start;
        let day = SignedDuration::from_hours(24);
        let (before, after) = (start - day * 2, start + day * 3);
        let clock = self.time.clock(Arc::default());
        let store = Store::new(&self.aws.sdk_config(), PREFIX, clock, self.entropy.clone());
        let months: Vec<Month> = self.months().into_iter().collect();
        let days = (Day::containing(before - day), Day::containing(after));
        let mut logs = BTreeMap::new();
        for customer in &customers {
            let log = model::read_log(&store, customer, days).await?;
            logs.insert(customer.as_str(), log);
        }
        let mut mismatches = Vec::new();
        for (customer, id, events) in &self.conflicting {
            let log = logs.get(customer.as_str());
            let counted = log.and_then(|log| log.events.get(id));
            let Some(counted) = counted.filter(|counted| events.contains(counted)) else {
                mismatches.push(format!(
                    "{id}: neither of two conflicting events is in the log"
                ));
                continue;
            };
            let adjustments = counted["data"]["adjustments"].as_array();
            for (index, adjustment) in adjustments.into_iter().flatten().enumerate() {
                let item = (customer.clone(), adjustment.clone());
                accepted.insert(format!("{id}/{index}"), item);
            }
            let quarantined = store.quarantined_of_event("support", id).await?.len();
            if quarantined != 1 {
                mismatches.push(format!(
                    "{id}: {quarantined} conflicting events are quarantined, expected 1"
                ));
            }
        }
        let mut expected = model::expected(accepted.values());
        let mut stored = model::stored(&store, &customers, &months).await?;
        if self.scenario.upgrade.is_some() {
            model::as_earlier(&mut expected);
            model::as_earlier(&mut stored);
        }
        let mut deviation = model::compare(&expected, &stored);
        deviation.mismatches.extend(mismatches);
        let mut by_customer: BTreeMap<&str, u64> = BTreeMap::new();
        for (customer, item) in accepted.values() {
            let is_record = item["request_id"].is_string();
            *by_customer.entry(customer).or_default() += u64::from(is_record);
        }
        for (customer, log) in &mut logs {
            let expected = adjusted_days(&accepted, customer);
            log.adjusted.sort_unstable();
            if log.adjusted != expected {
                let found = &log.adjusted;
                let message = format!("log {customer}: {found:?}, expected {expected:?}");
                deviation.mismatches.push(message);
            }
            let expected = by_customer.get(customer).copied().unwrap_or(0);
            if log.records != expected {
                let message = format!(
                    "log {customer}: {} records, expected {expected}",
                    log.records
                );
                deviation.mismatches.push(message);
            }
        }
        for id in recorded.iter().filter(|id| !accepted.contains_key(*id)) {
            deviation.lost += 1;
            deviation.mismatches.push(format!("{id} was never sent"));
        }
        Ok(deviation)
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Returns the ids of a customer's events with adjustments, and the days of their parts.
fn adjusted_days(
    accepted: &BTreeMap<String, (String, Value)>,
    customer: &str,
) -> Vec<(String, String)> {
    let of_customer = accepted.iter().filter(|(_, (of, _))| of == customer);
    let adjustments = of_customer.filter(|(_, (_, item))| item["reason"].is_string());
    let days = adjustments.filter_map(|(key, (_, item))| {
        let (id, _) = key.rsplit_once('/')?;
        let day = item["time"].as_str()?.get(..10)?;
        Some((id.trim_matches('"').to_owned(), day.to_owned()))
    });
    let days: BTreeSet<(String, String)> = days.collect();
    days.into_iter().collect()
}

/// Returns the deviation that messages are not handled.
fn stuck(messages: usize, though: &str) -> Deviation {
    let stuck = format!("{messages} messages are not handled though {though}");
    Deviation {
        mismatches: vec![stuck],
        ..Deviation::default()
    }
}
