//! The instances, the calls, and what becomes of them.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use authorizer::{App, Refused, Request, Settings, handle, single_requests};
use aws_types::region::Region;
use serde_json::{Value, json};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep};
use tollgate_domain::customer::Customer;
use tollgate_domain::decision::Window;
use tollgate_domain::key::{ApiKey, KeyFormat, KeyRecord, Owner, Role};
use tollgate_domain::plan::{Catalog, Overrides};
use tollgate_domain::window::{Hour, Month};
use tollgate_local_aws::LocalAws;
use tollgate_runtime::{Entropy, Metrics};
use tollgate_store::{KeyChange, KeyRef, NewKey, Store};

use super::scenario::{Event, Scenario};
use crate::capacity::{Capacity, Spent};
use crate::network::{Far, Network, Weather, Write};
use crate::time::Time;
use crate::{PREFIX, Trace, Unable, made_up};

/// Longer than anything is held back on the network.
const ALL_HAS_ARRIVED: Duration = Duration::from_secs(600);

/// Everything that the model has to know.
#[derive(Debug, Default)]
pub(crate) struct Story {
    pub(crate) calls: Vec<Call>,
    /// The limits of each key, with the instant from which each holds.
    pub(crate) limits: Vec<Vec<(Instant, Overrides)>>,
    /// When each key was revoked.
    pub(crate) revoked: Vec<Option<Instant>>,
    /// The lines of instances that did not end in peace: their units may be lost, and what they had
    /// not reported.
    pub(crate) lost: BTreeSet<usize>,
    /// The writes of each line, in order. Each instance has a line of its own.
    pub(crate) writes: Vec<Vec<Write>>,
    /// What the counters held in the end, by key.
    pub(crate) counters: BTreeMap<String, Counter>,
    /// What was asked of DynamoDB, if that was measured.
    pub(crate) asked: Spent,
}

/// A counter as it is stored, its branches included.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Counter {
    /// Units at the root, those granted to branches included.
    pub(crate) used: u64,
    /// Units that instances have reserved.
    pub(crate) reserved: u64,
    /// Calls that units were spent on.
    pub(crate) spent: u64,
    /// Calls that were let through without.
    pub(crate) uncounted: u64,
}

/// A call and what its caller learnt. One whose instance crashed learnt nothing, and is not there.
#[derive(Debug, Clone)]
pub(crate) struct Call {
    pub(crate) key: usize,
    /// The line of its instance.
    pub(crate) line: usize,
    pub(crate) began: Instant,
    pub(crate) ended: Instant,
    /// The counters of its hour and its month, by the clock of its instance.
    pub(crate) counters: [String; 2],
    pub(crate) outcome: Outcome,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// Let in within limits.
    Admitted,
    /// Let in uncounted, because the store was down.
    LetThrough,
    Refused(Window),
    Unauthorized,
    Unavailable,
}

pub(crate) struct World<'a> {
    scenario: &'a Scenario,
    aws: LocalAws,
    /// What instances reach over their networks.
    far: Far,
    capacity: Capacity,
    /// Reaches the tables past the network.
    admin: Store,
    names: Names,
    settings: Settings,
    time: Time,
    trace: Trace,
    keys: Vec<ApiKey>,
    instances: Vec<Instance>,
    /// The lines of all instances there ever were.
    lines: Vec<Network>,
    story: Arc<Mutex<Story>>,
    ending: JoinSet<()>,
}

/// Names that no other seed has.
struct Names {
    seed: u64,
}

struct Instance {
    /// The place of its line among all.
    line: usize,
    app: App,
    network: Network,
    skew_ms: Arc<AtomicI64>,
    calls: JoinSet<()>,
    room: Arc<Semaphore>,
}

impl Names {
    fn customer(&self) -> String {
        format!("c{}", self.seed)
    }

    fn key(&self, key: usize) -> String {
        format!("key_{}_{key}", self.seed)
    }

    /// A region, because the SDK keeps a budget of retries for each region of the process.
    fn region(&self, line: u64) -> Region {
        Region::new(format!("seed-{}-{line}", self.seed))
    }
}

impl<'a> World<'a> {
    /// A world in which nothing has happened yet.
    pub(crate) async fn new(
        seed: u64,
        scenario: &'a Scenario,
        aws: &LocalAws,
        trace: Trace,
    ) -> Result<Self, Unable> {
        let time = Time::beginning(made_up(scenario.start.parse())?);
        let right = time.clock(Arc::default());
        let entropy = Entropy::seeded(seed);
        let admin = Store::new(&aws.sdk_config(), PREFIX, right, entropy.clone());
        let policy = if scenario.fails_open {
            "open"
        } else {
            "closed"
        };
        let plans = json!([{
            "id": "plan", "name": "", "requests_per_hour": 0, "month": { "kind": "unlimited" },
            "fail_mode": policy, "max_lease": scenario.max_lease,
        }]);
        let settings = Settings {
            plans: made_up(Catalog::from_json(&plans.to_string()))?,
            uncounted: Vec::new(),
            key_cache: scenario.key_cache,
            stale_keys: scenario.stale_keys,
            cors_origin: None,
        };
        let capacity = Capacity::default();
        let mut world = Self {
            scenario,
            aws: aws.clone(),
            far: if scenario.has_capacity {
                capacity.of_tables(aws)
            } else {
                Far::tables(aws)
            },
            capacity,
            admin,
            names: Names { seed },
            settings,
            time,
            trace,
            keys: Vec::new(),
            instances: Vec::new(),
            lines: Vec::new(),
            story: Arc::default(),
            ending: JoinSet::new(),
        };
        world.create_keys(&entropy).await?;
        for skew_ms in scenario.skews_ms.clone() {
            let instance = world.instance(skew_ms);
            world.instances.push(instance);
        }
        Ok(world)
    }

    async fn create_keys(&mut self, entropy: &Entropy) -> Result<(), Unable> {
        let customer = Customer {
            id: made_up(self.names.customer().parse())?,
            name: String::new(),
            email: None,
            plan: made_up("plan".parse())?,
            created_at: self.time.start,
            suspended_at: None,
            erased_at: None,
        };
        self.admin.create_customer(&customer, None).await?;
        let format = made_up(KeyFormat::new("tg", "live"))?;
        for (n, overrides) in self.scenario.keys.iter().enumerate() {
            let secret = entropy.with(|rng| format.generate(Role::Customer, rng));
            let record = KeyRecord {
                id: made_up(self.names.key(n).parse())?,
                prefix: secret.prefix(),
                name: String::new(),
                owner: Owner::Customer(customer.id.clone()),
                created_at: self.time.start,
                expires_at: None,
                revoked_at: None,
                suspended_at: None,
                overrides: *overrides,
                rotated_to: None,
                hour_of: None,
            };
            let new = NewKey {
                secret: &secret,
                record: &record,
            };
            self.admin.create_key(&new, None).await?;
            self.keys.push(secret);
            let mut story = lock(&self.story);
            story.limits.push(vec![(self.time.began, *overrides)]);
            story.revoked.push(None);
        }
        Ok(())
    }

    fn instance(&mut self, skew_ms: i64) -> Instance {
        let number = u64::try_from(self.lines.len()).unwrap_or(u64::MAX);
        let line = self.names.seed.wrapping_mul(10_000).wrapping_add(number);
        let network = Network::new(self.far.clone(), line, self.time.began, self.trace.clone());
        network.set(self.scenario.weather);
        self.lines.push(network.clone());
        let skew_ms = Arc::new(AtomicI64::new(skew_ms));
        let clock = self.time.clock(Arc::clone(&skew_ms));
        let sdk = self.aws.sdk_config().into_builder();
        let sdk = sdk
            .region(self.names.region(number))
            .http_client(network.http_client())
            .build();
        let sdk = single_requests(sdk);
        let store = Store::new(&sdk, PREFIX, clock.clone(), Entropy::seeded(line));
        Instance {
            line: self.lines.len() - 1,
            app: App::new(store, self.settings.clone(), clock, Metrics::none()),
            network,
            skew_ms,
            calls: JoinSet::new(),
            room: Arc::new(Semaphore::new(self.scenario.calls_at_once)),
        }
    }

    /// Plays all steps, lets what is under way come to its end, and looks at the counters.
    pub(crate) async fn play(mut self) -> Result<Story, Unable> {
        for step in &self.scenario.steps {
            sleep(step.after).await;
            let at = self.time.began.elapsed();
            self.trace.tell(|| format!("{at:?} {:?}", step.event));
            self.take(step.event).await?;
        }
        while let Some(mut instance) = self.instances.pop() {
            while instance.calls.join_next().await.is_some() {}
            instance.network.set(Weather::CALM);
            // What is held back would otherwise arrive after the end, as after a crash.
            if self.scenario.weather == Weather::STORMY {
                sleep(ALL_HAS_ARRIVED).await;
            }
            instance.app.end().await;
        }
        while self.ending.join_next().await.is_some() {}
        sleep(ALL_HAS_ARRIVED).await;
        let mut story = std::mem::take(&mut *lock(&self.story));
        story.asked = self.capacity.spent();
        story.writes = self.lines.iter().map(Network::writes).collect();
        let named = story.calls.iter().flat_map(|call| call.counters.clone());
        for name in named.collect::<BTreeSet<String>>() {
            let counter = self.counter(&name);
            story.counters.insert(name, counter);
        }
        Ok(story)
    }

    async fn take(&mut self, event: Event) -> Result<(), Unable> {
        match event {
            Event::Call { instance, key } => self.call(instance, key),
            Event::Crash { instance } => {
                let mut crashed = self.replace(instance);
                crashed.calls.abort_all();
                lock(&self.story).lost.insert(crashed.line);
            }
            Event::End { instance } => {
                let mut ended = self.replace(instance);
                let story = Arc::clone(&self.story);
                let is_calm = self.scenario.weather == Weather::CALM;
                self.ending.spawn(async move {
                    while ended.calls.join_next().await.is_some() {}
                    ended.app.end().await;
                    // What it has told may not have arrived.
                    if !is_calm {
                        lock(&story).lost.insert(ended.line);
                    }
                });
            }
            Event::SetClock { instance, skew_ms } => {
                let clock = &self.instances[instance].skew_ms;
                clock.store(skew_ms, Ordering::Relaxed);
            }
            Event::Revoke { key } => {
                let now = self.time.clock(Arc::default()).now();
                let name = KeyRef::Id(made_up(self.names.key(key).parse())?);
                self.admin.revoke_key(&name, now).await?;
                let revoked = &mut lock(&self.story).revoked[key];
                revoked.get_or_insert(Instant::now());
            }
            Event::SetLimits { key, limits } => {
                let name = KeyRef::Id(made_up(self.names.key(key).parse())?);
                let change = KeyChange {
                    requests_per_hour: Some(limits.requests_per_hour),
                    monthly_quota: Some(limits.monthly_quota),
                    ..KeyChange::default()
                };
                // A revoked key stays as it is, which changes nothing here.
                self.admin.update_key(&name, &change).await?;
                let now = Instant::now();
                lock(&self.story).limits[key].push((now, limits));
            }
        }
        Ok(())
    }

    /// The instance, in whose place is another from now on.
    fn replace(&mut self, instance: usize) -> Instance {
        let skew_ms = self.instances[instance].skew_ms.load(Ordering::Relaxed);
        let next = self.instance(skew_ms);
        std::mem::replace(&mut self.instances[instance], next)
    }

    fn call(&mut self, instance: usize, key: usize) {
        let called = &mut self.instances[instance];
        let (app, room) = (called.app.clone(), Arc::clone(&called.room));
        let clock = self.time.clock(Arc::clone(&called.skew_ms));
        let (key_id, customer) = (self.names.key(key), self.names.customer());
        let event = json!({
            "methodArn": "arn:aws:execute-api:us-east-1:123456789012:api/v1/GET/ping",
            "resource": "/ping",
            "headers": { "x-api-key": self.keys[key].expose() },
        });
        let event = event.to_string();
        let (story, trace, time) = (Arc::clone(&self.story), self.trace.clone(), self.time);
        let line = called.line;
        called.calls.spawn(async move {
            // Lambda gives an instance no more calls at once than it takes on.
            let Ok(_room) = room.acquire().await else {
                return;
            };
            let Ok(request) = Request::from_json(&event) else {
                return;
            };
            let (began, now) = (Instant::now(), clock.now());
            let outcome = match handle(&app, &request).await {
                Ok(answer) => Outcome::of(&serde_json::to_string(&answer).unwrap_or_default()),
                Err(Refused::Unauthorized(_)) => Outcome::Unauthorized,
                Err(Refused::Unavailable) => Outcome::Unavailable,
            };
            let call = Call {
                key,
                line,
                began,
                ended: Instant::now(),
                counters: [
                    format!("HOUR#{key_id}#{}", Hour::containing(now)),
                    format!("MONTH#{customer}#{}", Month::containing(now)),
                ],
                outcome,
            };
            let at = time.began.elapsed();
            trace.tell(|| format!("{at:?} instance {instance} key {key}: {outcome:?}"));
            lock(&story).calls.push(call);
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
            let unfollowed = number(&root, name) - number(&item, "granted");
            let on_the_way_back = number(&item, "returned") - number(&root, &format!("r{branch}"));
            reserved -= unfollowed + number(&item, "unreserved") + on_the_way_back;
            spent += number(&item, "spent");
            uncounted += number(&item, "uncounted");
        }
        // What should not be negative, and is, shows as too large.
        let count = |number: i64| u64::try_from(number).unwrap_or(u64::MAX);
        Counter {
            used: count(used),
            reserved: count(reserved),
            // Of reports that are in doubt too much may be taken back.
            spent: count(spent.max(0)),
            uncounted: count(uncounted),
        }
    }

    /// An item of the counters' table, as DynamoDB JSON.
    fn item(&self, key: &str) -> Value {
        let request = json!({
            "TableName": format!("{PREFIX}-counters"),
            "Key": { "pk": { "S": key } },
            "ConsistentRead": true,
        });
        let (_, found) = self
            .aws
            .answer("DynamoDB_20120810.GetItem", &request.to_string());
        let mut found: Value = serde_json::from_str(&found).unwrap_or_default();
        self.trace.tell(|| format!("{key}: {}", found["Item"]));
        found["Item"].take()
    }
}

/// A number of an item; zero if it has none of that name.
fn number(item: &Value, name: &str) -> i64 {
    let text = item[name]["N"].as_str();
    text.and_then(|text| text.parse().ok()).unwrap_or(0)
}

impl Outcome {
    /// What a policy says.
    fn of(answer: &str) -> Self {
        if answer.contains(r#""Effect":"Allow""#) {
            if answer.contains(r#""rateLimitLimit":"#) {
                Self::Admitted
            } else {
                Self::LetThrough
            }
        } else if answer.contains(r#""window":"hour""#) {
            Self::Refused(Window::Hour)
        } else {
            Self::Refused(Window::Month)
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
