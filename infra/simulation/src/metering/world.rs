//! The functions, the writers, and what becomes of records between them.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use aws_types::region::Region;
use jiff::SignedDuration;
use serde_json::{Value, json};
use tokio::sync::mpsc;
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::{sleep, timeout};
use tollgate_domain::id::CustomerId;
use tollgate_domain::money::MicroUsd;
use tollgate_domain::plan::Catalog;
use tollgate_domain::usage::{ADJUSTMENT_TYPE, Cost, EVENT_TYPE, UsageRecord};
use tollgate_domain::window::{Day, Month};
use tollgate_local_aws::LocalAws;
use tollgate_metering::{Emitter, Spill};
use tollgate_runtime::{Clock, Entropy, Metrics, aws};
use tollgate_store::{ShardCounts, Store};
use usage_writer::{App, Owners};

use super::queue::Queue;
use super::scenario::{Event, Scenario};
use super::{Deviation, model};
use crate::network::{Far, Network, Weather};
use crate::time::Time;
use crate::{PREFIX, Trace, Unable, made_up};

/// Longer than anything is held back on the network.
const ALL_HAS_ARRIVED: Duration = Duration::from_secs(600);
/// How long a writer may take for a batch.
const WRITER_TIMEOUT: Duration = Duration::from_secs(300);

/// All lines there ever were, in all runs.
static LINES: AtomicU64 = AtomicU64::new(0);

pub(crate) struct World<'a> {
    seed: u64,
    scenario: &'a Scenario,
    aws: LocalAws,
    time: Time,
    trace: Trace,
    entropy: Entropy,
    queue: Queue,
    plans: Catalog,
    functions: Vec<Function>,
    writers: Vec<Writer>,
    lines: u64,
    calls: u64,
    /// What instances that were told to end have written down.
    spilled: Arc<Mutex<Vec<String>>>,
    /// Records that instances had in hand when they were told to end.
    in_hand: BTreeSet<String>,
    /// Entries of which one of two is counted, with their customers and ids.
    rivals: Vec<(String, String, [Value; 2])>,
}

/// An instance of a metered function.
struct Function {
    emitter: Emitter,
    network: Network,
    skew_ms: Arc<AtomicI64>,
    clock: Clock,
    /// One invocation at a time: the records of each, flushed before the next.
    invocations: mpsc::UnboundedSender<Vec<(CustomerId, UsageRecord)>>,
    running: JoinHandle<()>,
    /// The request ids of all records that it has taken.
    taken: Arc<Mutex<Vec<String>>>,
}

struct Writer {
    network: Network,
    skew_ms: Arc<AtomicI64>,
    crashes: Arc<AtomicU64>,
}

impl<'a> World<'a> {
    /// A world in which nothing has happened yet.
    pub(crate) fn new(
        seed: u64,
        scenario: &'a Scenario,
        aws: &LocalAws,
        trace: Trace,
    ) -> Result<Self, Unable> {
        let entropy = Entropy::seeded(seed);
        let mut world = Self {
            seed,
            scenario,
            aws: aws.clone(),
            time: Time::beginning(made_up(scenario.start.parse())?),
            trace,
            queue: Queue::new(Entropy::seeded(seed ^ 0x0b05)),
            entropy,
            plans: made_up(Catalog::shipped())?,
            functions: Vec::new(),
            writers: Vec::new(),
            lines: 0,
            calls: 0,
            spilled: Arc::default(),
            in_hand: BTreeSet::new(),
            rivals: Vec::new(),
        };
        for &skew_ms in &scenario.functions_ms {
            let function = world.function(skew_ms);
            world.functions.push(function);
        }
        Ok(world)
    }

    fn customer(&self, number: usize) -> String {
        format!("m{}-{number}", self.seed)
    }

    /// A line of its own seed, and what the SDK sends by it.
    fn line(&mut self, far: Far, weather: Weather) -> (Network, u64, aws_types::SdkConfig) {
        self.lines += 1;
        let number = self.lines;
        let seed = self.seed.wrapping_mul(1_000).wrapping_add(number);
        let network = Network::new(far, seed, self.time.began, self.trace.clone());
        network.set(weather);
        // The SDK keeps a budget of retries for each region of the process. One of its own, at each run,
        // lets a seed tell the same story each time.
        let region = LINES.fetch_add(1, Ordering::Relaxed);
        let region = Region::new(format!("usage-{region}"));
        let sdk = self.aws.sdk_config().into_builder();
        let sdk = sdk.region(region).http_client(network.http_client());
        (network, seed, sdk.build())
    }

    fn function(&mut self, skew_ms: i64) -> Function {
        let queue = self.queue.clone();
        let bus = Far::new(move |_, body| queue.put_events(body));
        let (network, seed, sdk) = self.line(bus, self.scenario.to_bus);
        let timeouts = aws::timeouts(aws::INTERACTIVE_TIMEOUT);
        let sdk = sdk.into_builder().timeout_config(timeouts).build();
        let skew_ms = Arc::new(AtomicI64::new(skew_ms));
        let clock = self.time.clock(Arc::clone(&skew_ms));
        let name = format!("f{seed}");
        let entropy = Entropy::seeded(seed);
        let spilled = Arc::clone(&self.spilled);
        let spill = Spill::new(Metrics::none(), move |line| {
            lock(&spilled).push(line.to_owned());
        });
        let emitter = Emitter::new(&sdk, "bus", &name, clock.clone(), entropy, spill);
        let (invocations, mut invoked) =
            mpsc::unbounded_channel::<Vec<(CustomerId, UsageRecord)>>();
        let flushing = emitter.clone();
        let taken = Arc::new(Mutex::new(Vec::new()));
        let (takes, is_buffered) = (Arc::clone(&taken), self.scenario.is_buffered);
        let running = tokio::spawn(async move {
            while let Some(records) = invoked.recv().await {
                for (customer, record) in records {
                    lock(&takes).push(record.request_id.clone());
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
            taken,
        }
    }

    /// Starts a writer, which goes on until it is aborted.
    fn writer(&mut self, skew_ms: i64, running: &mut JoinSet<()>) -> Writer {
        let far = Far::tables(&self.aws);
        let (network, seed, sdk) = self.line(far, self.scenario.to_tables);
        let timeouts = aws::timeouts(aws::BACKGROUND_TIMEOUT);
        let sdk = sdk.into_builder().timeout_config(timeouts).build();
        let skew_ms = Arc::new(AtomicI64::new(skew_ms));
        let clock = self.time.clock(Arc::clone(&skew_ms));
        let entropy = Entropy::seeded(seed);
        let app = App {
            store: Store::new(&sdk, PREFIX, clock.clone(), entropy.clone()),
            spread: ShardCounts::default(),
            owners: Owners::default(),
            plans: self.plans.clone(),
            clock,
            metrics: Metrics::none(),
        };
        let crashes = Arc::new(AtomicU64::new(self.scenario.writer_crashes));
        let (queue, may_crash, trace) =
            (self.queue.clone(), Arc::clone(&crashes), self.trace.clone());
        let began = self.time.began;
        running.spawn(async move {
            loop {
                let taken = queue.take().await;
                let records: Vec<_> = taken
                    .iter()
                    .map(|(id, body)| json!({ "messageId": id, "body": body }))
                    .collect();
                let Ok(event) = serde_json::from_value(json!({ "Records": records })) else {
                    return;
                };
                let limit = if entropy.below(100) < may_crash.load(Ordering::Relaxed) {
                    Duration::from_millis(entropy.below(500))
                } else {
                    WRITER_TIMEOUT
                };
                let counted = timeout(limit, usage_writer::handle(&app, event)).await;
                let at = began.elapsed();
                let Ok(response) = counted else {
                    trace.tell(|| format!("{at:?} writer {seed} ended with {}", taken.len()));
                    continue;
                };
                let failed: BTreeSet<String> = response
                    .batch_item_failures
                    .into_iter()
                    .map(|failure| failure.item_identifier)
                    .collect();
                trace.tell(|| {
                    format!(
                        "{at:?} writer {seed} has {}, returns {failed:?}",
                        taken.len()
                    )
                });
                let done = taken.into_iter().map(|(id, _)| id);
                queue.delete(done.filter(|id| !failed.contains(id)));
            }
        });
        Writer {
            network,
            skew_ms,
            crashes,
        }
    }

    /// Plays all steps, lets what is under way come to its end, and compares.
    pub(crate) async fn play(mut self) -> Result<Deviation, Unable> {
        let mut running = JoinSet::new();
        for &skew_ms in &self.scenario.writers_ms {
            let writer = self.writer(skew_ms, &mut running);
            self.writers.push(writer);
        }
        for step in &self.scenario.steps {
            sleep(step.after).await;
            let at = self.time.began.elapsed();
            self.trace.tell(|| format!("{at:?} {:?}", step.event));
            self.take(step.event).await?;
        }
        let mut in_hand = std::mem::take(&mut self.in_hand);
        for function in self.functions.drain(..) {
            drop(function.invocations);
            // Its network fails on while it works off what it was given.
            let _ = function.running.await;
            function.network.set(Weather::CALM);
            self.queue.calm();
            function.emitter.flush().await;
            in_hand.extend(std::mem::take(&mut *lock(&function.taken)));
        }
        for line in std::mem::take(&mut *lock(&self.spilled)) {
            let line: Value = serde_json::from_str(&line).unwrap_or_default();
            self.queue.put(&line["entry"], EVENT_TYPE);
        }
        // What was held back on the way to the bus is accepted now.
        sleep(ALL_HAS_ARRIVED).await;
        for writer in &self.writers {
            writer.network.set(Weather::CALM);
            writer.crashes.store(0, Ordering::Relaxed);
        }
        while !self.queue.is_empty() {
            sleep(ALL_HAS_ARRIVED).await;
        }
        // As is what was held back on the way to the tables.
        sleep(ALL_HAS_ARRIVED).await;
        running.abort_all();
        self.compare(&in_hand).await
    }

    async fn take(&mut self, event: Event) -> Result<(), Unable> {
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
            Event::End { function } => {
                let ended = self.replace(function);
                ended.running.abort();
                // It takes nothing more once it has ended.
                let _ = ended.running.await;
                ended.emitter.close().await;
                self.in_hand
                    .extend(std::mem::take(&mut *lock(&ended.taken)));
            }
            Event::Adjust { customer } => {
                let entry = self.adjustments(customer);
                self.queue.put(&entry, ADJUSTMENT_TYPE);
            }
            Event::Rivals { customer } => {
                let rivals = [self.adjustments(customer), self.adjustments(customer)];
                let [first, mut second] = rivals;
                second["id"] = first["id"].clone();
                let rivals = [first, second];
                self.queue.put_rivals(&rivals, ADJUSTMENT_TYPE);
                let id = rivals[0]["id"].as_str().unwrap_or_default().to_owned();
                self.rivals.push((self.customer(customer), id, rivals));
            }
            Event::SetClock { function, skew_ms } => {
                let clock = &self.functions[function].skew_ms;
                clock.store(skew_ms, Ordering::Relaxed);
            }
            Event::CutOff { writer } => self.writers[writer].network.set(Weather::DARK),
            Event::Reconnect { writer } => {
                let network = &self.writers[writer].network;
                network.set(self.scenario.to_tables);
            }
            Event::SetWriterClock { writer, skew_ms } => {
                let clock = &self.writers[writer].skew_ms;
                clock.store(skew_ms, Ordering::Relaxed);
            }
        }
        Ok(())
    }

    /// Puts another instance in the place of this one.
    fn replace(&mut self, function: usize) -> Function {
        let skew_ms = self.functions[function].skew_ms.load(Ordering::Relaxed);
        let another = self.function(skew_ms);
        std::mem::replace(&mut self.functions[function], another)
    }

    /// An entry of adjustments, of today and yesterday.
    fn adjustments(&mut self, customer: usize) -> Value {
        self.calls += 1;
        let id = format!("a{}-{}", self.seed, self.calls);
        let now = self.time.clock(Arc::default()).now();
        let drawn = |below| i64::try_from(self.entropy.below(below)).unwrap_or(0);
        let adjustments: Vec<Value> = (0..1 + drawn(3))
            .map(|_| {
                let plan = if drawn(2) == 0 { "free" } else { "pro" };
                json!({
                    "time": now - SignedDuration::from_hours(drawn(24)),
                    "plan": plan,
                    "billable_calls": drawn(2_000) - 1_000,
                    "micro_usd": 1 + drawn(1_000),
                    "reason": format!("{id}, {}", drawn(1_000_000)),
                })
            })
            .collect();
        json!({
            "specversion": "1.0", "id": id, "source": "support", "type": ADJUSTMENT_TYPE,
            "time": now, "subject": self.customer(customer), "data": { "adjustments": adjustments },
        })
    }

    /// A call to that function, answered just now.
    fn call(&mut self, function: usize) -> Result<(CustomerId, UsageRecord), Unable> {
        self.calls += 1;
        let drawn = |below| self.entropy.below(below);
        // Most calls are of the first: a hot customer.
        let customer = usize::try_from(drawn(6)).unwrap_or(0);
        let customer = if customer < self.scenario.customers {
            customer
        } else {
            0
        };
        let plan = ["free", "pro", "enterprise"][usize::try_from(drawn(3)).unwrap_or(0)];
        let method = ["GET", "POST"][usize::try_from(drawn(2)).unwrap_or(0)];
        let status = [200, 204, 404, 429, 500][usize::try_from(drawn(5)).unwrap_or(0)];
        let costs = (0..drawn(3)).map(|part| Cost {
            provider: Some(format!("p{part}")),
            input_tokens: drawn(1_000),
            tokens: drawn(1_000),
            micro_usd: MicroUsd(drawn(10_000)),
            unpriced: drawn(4) == 0,
            ..Cost::default()
        });
        let record = UsageRecord {
            time: self.functions[function].clock.now(),
            request_id: format!("r{}-{}", self.seed, self.calls),
            key_id: made_up("key_1".parse())?,
            plan: made_up(plan.parse())?,
            method: method.to_owned(),
            endpoint: format!("/things/{}", drawn(3)),
            status,
            latency_ms: drawn(2_000),
            request_bytes: None,
            response_bytes: Some(drawn(10_000)),
            truncated: None,
            billable: [None, Some(true), Some(false)][usize::try_from(drawn(3)).unwrap_or(0)],
            costs: costs.collect(),
        };
        Ok((made_up(self.customer(customer).parse())?, record))
    }

    async fn compare(&self, in_hand: &BTreeSet<String>) -> Result<Deviation, Unable> {
        let mut accepted = self.queue.accepted();
        let customers: Vec<String> = (0..3).map(|n| self.customer(n)).collect();
        let start = self.time.start;
        let day = SignedDuration::from_hours(24);
        let (before, after) = (start - day, start + day);
        let months = [
            Month::containing(before),
            Month::containing(start),
            Month::containing(after),
        ];
        let months = BTreeSet::from(months);
        let clock = self.time.clock(Arc::default());
        let store = Store::new(&self.aws.sdk_config(), PREFIX, clock, self.entropy.clone());
        let months: Vec<Month> = months.into_iter().collect();
        let days = (Day::containing(before - day), Day::containing(after));
        let mut logs = BTreeMap::new();
        for customer in &customers {
            let log = model::logged(&store, customer, days).await?;
            logs.insert(customer.as_str(), log);
        }
        let mut wrong = Vec::new();
        for (customer, id, rivals) in &self.rivals {
            let log = logs.get(customer.as_str());
            let counted = log.and_then(|log| log.entries.get(id));
            let Some(counted) = counted.filter(|counted| rivals.contains(counted)) else {
                wrong.push(format!("{id}: neither of two rivals is in the log"));
                continue;
            };
            let adjustments = counted["data"]["adjustments"].as_array();
            for (place, adjustment) in adjustments.into_iter().flatten().enumerate() {
                let of = (customer.clone(), adjustment.clone());
                accepted.insert(format!("{id}/{place}"), of);
            }
            let set_aside = store.quarantined_of_event("support", id).await?.len();
            if set_aside != 1 {
                wrong.push(format!("{id}: {set_aside} rivals are set aside and not 1"));
            }
        }
        let expected = model::expected(accepted.values());
        let stored = model::stored(&store, &customers, &months).await?;
        let mut deviation = model::compare(&expected, &stored);
        deviation.mismatches.extend(wrong);
        let mut by_customer: BTreeMap<&str, u64> = BTreeMap::new();
        for (customer, item) in accepted.values() {
            let is_record = item["request_id"].is_string();
            *by_customer.entry(customer).or_default() += u64::from(is_record);
        }
        for (customer, log) in &logs {
            let should = by_customer.get(customer).copied().unwrap_or(0);
            if log.records != should {
                let what = format!("log {customer}: {} records and not {should}", log.records);
                deviation.mismatches.push(what);
            }
        }
        for id in in_hand.iter().filter(|id| !accepted.contains_key(*id)) {
            deviation.lost += 1;
            deviation.mismatches.push(format!("{id} was never sent"));
        }
        Ok(deviation)
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
