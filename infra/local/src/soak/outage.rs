//! Traffic while the store is down for a while: what plans promise of that time is kept, no limit is
//! exceeded, and afterwards what was admitted is what was metered, customer by customer.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use http::{Method, StatusCode};
use jiff::Timestamp;
use serde_json::{Value, json};
use tokio::task::JoinSet;
use tollgate_domain::id::{CustomerId, KeyId};
use tollgate_domain::window::Day;
use tollgate_local_aws::Fault;
use tollgate_runtime::Entropy;
use tollgate_store::Store;

use super::{Failed, lock, text};
use crate::client::{Answer, Client, NoAnswer};
use crate::product::{self, Options};

/// When the clock of the soak begins, 2026-11-22T10:00:00Z, so that it does not come to the end of its
/// hour.
const BEGINS: Timestamp = Timestamp::constant(1_795_341_600, 0);
/// How long there is traffic before the outage, and after it.
pub const AROUND: Duration = Duration::from_secs(60);
/// The longest outage that fits into the hour, in minutes.
pub const LONGEST_MINUTES: u64 = 55;
/// Callers of a customer, each with one call at a time.
const CALLERS: usize = 2;
/// Between two calls of a caller.
const CALL_PAUSE_MS: u64 = 100;
/// How long an instance may take to learn that the store is down, and to spend what it has
/// reserved; and to learn that the store is back.
const SETTLES_WITHIN: Duration = Duration::from_secs(10);
/// A rate that nobody comes to.
const NO_LIMIT: u64 = 10_000_000;
/// A rate that is used up after the outage, or about then.
const LOW_LIMIT: u64 = 3_000;

/// Who calls: a name, a plan, whether the plan lets calls through while the store is down, and the
/// calls that the key may make in the hour.
const CUSTOMERS: [(&str, &str, bool, u64); 5] = [
    ("closed", "free", false, NO_LIMIT),
    ("closed-low", "free", false, LOW_LIMIT),
    ("open", "pro", true, NO_LIMIT),
    ("open-low", "pro", true, LOW_LIMIT),
    ("unlimited", "enterprise", true, NO_LIMIT),
];

/// What happened.
#[derive(Debug, Default)]
pub struct Report {
    /// Answers while the store was down, by customer and status.
    pub answers_during: BTreeMap<&'static str, BTreeMap<u16, u64>>,
    /// Calls that were let through uncounted.
    pub uncounted: u64,
    /// Calls in the ledger of admitted calls.
    pub admitted: u64,
    /// Calls in the ledger of metered calls.
    pub metered: u64,
    /// The longest wait for an answer.
    pub longest: Duration,
    /// What should not have happened, in words; of each kind, once for a customer.
    pub violations: Vec<String>,
}

impl Report {
    /// The figures, for whoever reads them by program.
    #[must_use]
    pub fn to_json(&self) -> Value {
        json!({
            "answers_during": self.answers_during,
            "uncounted": self.uncounted,
            "admitted": self.admitted,
            "metered": self.metered,
            "longest_ms": self.longest.as_millis(),
            "violations": self.violations.len(),
        })
    }
}

/// Runs traffic on a product of its own, whose store is down for `down` after it has been up for
/// `around`, and then is up for as long again.
///
/// # Errors
/// When the product does not start, or an admin's call is refused.
pub async fn run(down: Duration, around: Duration) -> Result<Report, Failed> {
    let running = product::start(Options::default()).await?;
    let anyone = Client::new(&running.url)?;
    let admin = anyone.with_key(running.admin.expose().unwrap_or_default());
    expect(&anyone, "/_local/clock", json!({ "now": BEGINS })).await?;
    let mut customers = Vec::new();
    for (name, plan, is_open, limit) in CUSTOMERS {
        customers.push(Arc::new(
            Customer::create(&admin, name, plan, is_open, limit).await?,
        ));
    }

    let phase = Arc::new(Mutex::new(Phase {
        is_down: false,
        settled: Instant::now(),
    }));
    let begin = |is_down| {
        let settled = Instant::now() + SETTLES_WITHIN;
        *lock(&phase) = Phase { is_down, settled };
    };
    let is_over = Arc::new(AtomicBool::new(false));
    let mut callers = JoinSet::new();
    for customer in customers.iter().flat_map(|it| [it; CALLERS]) {
        let caller = Caller {
            customer: Arc::clone(customer),
            phase: Arc::clone(&phase),
            is_over: Arc::clone(&is_over),
            entropy: Entropy::system()?,
        };
        callers.spawn(async move { caller.call().await });
    }
    tokio::time::sleep(around).await;
    begin(true);
    running
        .aws
        .inject(|call| match call.target.starts_with("DynamoDB") {
            true => Fault::RequestLost,
            false => Fault::None,
        });
    tokio::time::sleep(down).await;
    begin(false);
    running.aws.heal();
    tokio::time::sleep(around).await;
    is_over.store(true, Ordering::Relaxed);
    for called in callers.join_all().await {
        called?;
    }

    let drained = expect(&anyone, "/_local/drain", Value::Null).await?;
    let store = running.store.clone();
    // Only an instance that has ended has said what it let in, to the call.
    running.stop().await?;
    let mut report = Report::default();
    if drained.json()["dead_letters"] != 0 {
        report.violations.push("usage became dead letters".into());
    }
    for customer in &customers {
        customer.settle(&store, &mut report).await?;
    }
    Ok(report)
}

/// A local route's or an admin's call that must succeed.
async fn expect(client: &Client, path: &str, body: Value) -> Result<Answer, Failed> {
    let answer = client.json(Method::POST, path, body).await?;
    if answer.status.is_success() {
        Ok(answer)
    } else {
        Err(Failed::Refused(path.to_owned(), answer.status, answer.text))
    }
}

/// A time of the store.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Phase {
    is_down: bool,
    /// Since when everyone knows.
    settled: Instant,
}

struct Customer {
    name: &'static str,
    is_open: bool,
    limit: u64,
    key: KeyId,
    client: Client,
    seen: Mutex<Seen>,
}

/// What a customer was answered.
#[derive(Default)]
struct Seen {
    during: BTreeMap<u16, u64>,
    counted: u64,
    uncounted: u64,
    longest: Duration,
    violations: BTreeMap<&'static str, String>,
}

impl Customer {
    async fn create(
        admin: &Client,
        name: &'static str,
        plan: &str,
        is_open: bool,
        limit: u64,
    ) -> Result<Self, Failed> {
        let customer = json!({ "id": name, "plan": plan });
        expect(admin, "/admin/customers", customer).await?;
        let overrides = json!({ "requests_per_hour": limit, "monthly_quota": NO_LIMIT });
        let key = json!({ "customer_id": name, "overrides": overrides });
        let key = expect(admin, "/admin/api-keys", key).await?;
        Ok(Self {
            name,
            is_open,
            limit,
            key: text(&key, "id").parse()?,
            client: admin.with_key(&text(&key, "key")),
            seen: Mutex::default(),
        })
    }

    /// Notes an answer, and whether it may be so. `is_down` is the state of the store all the time
    /// from the call to its answer, where it was one.
    fn see(&self, is_down: Option<bool>, began: Instant, answer: &Answer) {
        let is_counted = !answer.header("x-ratelimit-limit").is_empty();
        let is_limited = answer.status == StatusCode::TOO_MANY_REQUESTS && self.limit < NO_LIMIT;
        let mut seen = lock(&self.seen);
        seen.longest = seen.longest.max(began.elapsed());
        match (answer.status, is_counted) {
            (StatusCode::OK, true) => seen.counted += 1,
            (StatusCode::OK, false) => seen.uncounted += 1,
            _ => {}
        }
        if is_down == Some(true) {
            let status = answer.status.as_u16();
            *seen.during.entry(status).or_default() += 1;
        }
        let what = match (answer.status, is_down) {
            (StatusCode::OK, _) if !is_counted && !self.is_open => "let through uncounted",
            (StatusCode::OK, Some(true)) if !self.is_open => "served while the store was down",
            (StatusCode::OK, Some(false)) if !is_counted => "uncounted while the store was up",
            (StatusCode::OK, _) => return,
            _ if is_limited => return,
            (StatusCode::SERVICE_UNAVAILABLE, Some(true)) if !self.is_open => return,
            (_, Some(true)) => "refused while the store was down",
            (_, Some(false)) => "refused while the store was up",
            (StatusCode::SERVICE_UNAVAILABLE, None) => return,
            (_, None) => "refused",
        };
        let first = || format!("{}: {what}: {} {}", self.name, answer.status, answer.text);
        seen.violations.entry(what).or_insert_with(first);
    }

    /// Holds the ledgers against what was seen.
    async fn settle(&self, store: &Store, report: &mut Report) -> Result<(), Failed> {
        let seen = std::mem::take(&mut *lock(&self.seen));
        let day = Day::containing(BEGINS);
        let id: CustomerId = self.name.parse()?;
        let keys = BTreeSet::from([self.key.clone()]);
        let admitted = store.admitted_calls(&keys, day).await?;
        let metered = store.metered_calls(&id, day).await?;
        let mut differs = |what: &str, is: u64, should_be: u64| {
            if is != should_be {
                let what = format!("{}: {is} calls {what}, not {should_be}", self.name);
                report.violations.push(what);
            }
        };
        // Those that were let through without a unit were reported after the outage.
        let allowed = seen.counted + seen.uncounted;
        differs("are admitted", admitted, allowed);
        differs("are metered", metered, allowed);
        differs(
            "exceed the limit",
            seen.counted.saturating_sub(self.limit),
            0,
        );
        report.violations.extend(seen.violations.into_values());
        report.answers_during.insert(self.name, seen.during);
        report.uncounted += seen.uncounted;
        report.admitted += admitted;
        report.metered += metered;
        report.longest = report.longest.max(seen.longest);
        Ok(())
    }
}

struct Caller {
    customer: Arc<Customer>,
    phase: Arc<Mutex<Phase>>,
    is_over: Arc<AtomicBool>,
    entropy: Entropy,
}

impl Caller {
    async fn call(&self) -> Result<(), NoAnswer> {
        while !self.is_over.load(Ordering::Relaxed) {
            let pause = Duration::from_millis(self.entropy.below(CALL_PAUSE_MS));
            tokio::time::sleep(pause).await;
            let (phase, began) = (*lock(&self.phase), Instant::now());
            let answer = self.customer.client.get("/api/secure/ping").await?;
            let is_whole = phase == *lock(&self.phase) && began >= phase.settled;
            let is_down = is_whole.then_some(phase.is_down);
            self.customer.see(is_down, began, &answer);
        }
        Ok(())
    }
}
