//! Outage test: traffic while the store is down. Checks that plans fail open or closed as configured, that
//! no limit is exceeded, and that each customer's admitted calls afterwards equal its metered calls.

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

use super::{SoakError, lock, text};
use crate::client::{Client, RequestError, Response};
use crate::local_stack::{self, Options};

/// Start time of the stack's clock, 2026-11-22T10:00:00Z: the test ends before the hour does.
const START: Timestamp = Timestamp::constant(1_795_341_600, 0);
/// Duration of the traffic before and after the outage.
pub const AROUND: Duration = Duration::from_secs(60);
/// Longest outage that fits into the hour, in minutes.
pub const LONGEST_MINUTES: u64 = 55;
/// Callers per customer, each with one call at a time.
const CALLERS: usize = 2;
/// Maximum pause between two calls of a caller.
const CALL_PAUSE_MS: u64 = 100;
/// Time in which the authorizer must detect that the store is down and spend its reserved units, or detect
/// that the store is up again.
const DETECTION_TIME: Duration = Duration::from_secs(10);
/// Hourly limit that no caller reaches.
const NO_LIMIT: u64 = 10_000_000;
/// Hourly limit that is exhausted about when the outage ends or later.
const LOW_LIMIT: u64 = 3_000;

/// Customers: name, plan, whether the plan fails open, and the key's hourly limit.
const CUSTOMERS: [(&str, &str, bool, u64); 5] = [
    ("closed", "free", false, NO_LIMIT),
    ("closed-low", "free", false, LOW_LIMIT),
    ("open", "pro", true, NO_LIMIT),
    ("open-low", "pro", true, LOW_LIMIT),
    ("unlimited", "enterprise", true, NO_LIMIT),
];

/// Results of the outage test.
#[derive(Debug, Default)]
pub struct Report {
    /// Responses while the store was down, by customer and status.
    pub responses_during: BTreeMap<&'static str, BTreeMap<u16, u64>>,
    /// Calls that were allowed without being counted.
    pub uncounted: u64,
    /// Calls in the admission ledger.
    pub admitted: u64,
    /// Calls in the usage ledger.
    pub metered: u64,
    /// Longest time to a response.
    pub longest: Duration,
    /// Descriptions of violated expectations, each kind at most once per customer.
    pub violations: Vec<String>,
}

impl Report {
    /// Returns the results as JSON.
    #[must_use]
    pub fn to_json(&self) -> Value {
        json!({
            "responses_during": self.responses_during,
            "uncounted": self.uncounted,
            "admitted": self.admitted,
            "metered": self.metered,
            "longest_ms": self.longest.as_millis(),
            "violations": self.violations.len(),
        })
    }
}

/// Starts a stack and runs traffic on it. The store is up for `around`, down for `down`, and up again for
/// `around`.
///
/// # Errors
/// When the stack does not start, or a request of the admin fails.
pub async fn run(down: Duration, around: Duration) -> Result<Report, SoakError> {
    let running = local_stack::start(Options::default()).await?;
    let anyone = Client::new(&running.url)?;
    let admin = anyone.with_key(running.admin.expose().unwrap_or_default());
    expect(&anyone, "/_local/clock", json!({ "now": START })).await?;
    let mut customers = Vec::new();
    for (name, plan, fails_open, limit) in CUSTOMERS {
        customers.push(Arc::new(
            Customer::create(&admin, name, plan, fails_open, limit).await?,
        ));
    }

    let phase = Arc::new(Mutex::new(Phase {
        is_down: false,
        detected: Instant::now(),
    }));
    let begin_phase = |is_down| {
        let detected = Instant::now() + DETECTION_TIME;
        *lock(&phase) = Phase { is_down, detected };
    };
    let is_finished = Arc::new(AtomicBool::new(false));
    let mut callers = JoinSet::new();
    for customer in customers.iter().flat_map(|it| [it; CALLERS]) {
        let caller = Caller {
            customer: Arc::clone(customer),
            phase: Arc::clone(&phase),
            is_finished: Arc::clone(&is_finished),
            entropy: Entropy::system()?,
        };
        callers.spawn(async move { caller.call().await });
    }
    tokio::time::sleep(around).await;
    begin_phase(true);
    running
        .aws
        .inject(|call| match call.target.starts_with("DynamoDB") {
            true => Fault::RequestLost,
            false => Fault::None,
        });
    tokio::time::sleep(down).await;
    begin_phase(false);
    running.aws.heal();
    tokio::time::sleep(around).await;
    is_finished.store(true, Ordering::Relaxed);
    for called in callers.join_all().await {
        called?;
    }

    let drained = expect(&anyone, "/_local/drain", Value::Null).await?;
    let store = running.store.clone();
    // The admission ledger is complete only once the instance has shut down.
    running.stop().await?;
    let mut report = Report::default();
    if drained.json()["dead_letters"] != 0 {
        report.violations.push("usage became dead letters".into());
    }
    for customer in &customers {
        customer.check_ledgers(&store, &mut report).await?;
    }
    Ok(report)
}

/// Sends a request that must succeed, to a `/_local` or an admin route.
pub(super) async fn expect(
    client: &Client,
    path: &str,
    body: Value,
) -> Result<Response, SoakError> {
    let response = client.json(Method::POST, path, body).await?;
    if response.status.is_success() {
        Ok(response)
    } else {
        Err(SoakError::Status(
            path.to_owned(),
            response.status,
            response.text,
        ))
    }
}

/// Phase of the test.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Phase {
    is_down: bool,
    /// Time by which the authorizer must have detected the phase.
    detected: Instant,
}

struct Customer {
    name: &'static str,
    fails_open: bool,
    limit: u64,
    key: KeyId,
    client: Client,
    observed: Mutex<Observed>,
}

/// Responses to one customer's calls.
#[derive(Default)]
struct Observed {
    during_outage: BTreeMap<u16, u64>,
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
        fails_open: bool,
        limit: u64,
    ) -> Result<Self, SoakError> {
        let customer = json!({ "id": name, "plan": plan });
        expect(admin, "/admin/customers", customer).await?;
        let overrides = json!({ "requests_per_hour": limit, "monthly_quota": NO_LIMIT });
        let key = json!({ "customer_id": name, "overrides": overrides });
        let key = expect(admin, "/admin/api-keys", key).await?;
        Ok(Self {
            name,
            fails_open,
            limit,
            key: text(&key, "id").parse()?,
            client: admin.with_key(&text(&key, "key")),
            observed: Mutex::default(),
        })
    }

    /// Records a response and checks whether it is allowed. `is_down` is the state of the store from the
    /// request to the response; `None` if it changed or may not have been detected yet.
    fn record(&self, is_down: Option<bool>, began: Instant, response: &Response) {
        let is_counted = !response.header("x-ratelimit-limit").is_empty();
        let is_limited = response.status == StatusCode::TOO_MANY_REQUESTS && self.limit < NO_LIMIT;
        let mut observed = lock(&self.observed);
        observed.longest = observed.longest.max(began.elapsed());
        match (response.status, is_counted) {
            (StatusCode::OK, true) => observed.counted += 1,
            (StatusCode::OK, false) => observed.uncounted += 1,
            _ => {}
        }
        if is_down == Some(true) {
            let status = response.status.as_u16();
            *observed.during_outage.entry(status).or_default() += 1;
        }
        let what = match (response.status, is_down) {
            (StatusCode::OK, _) if !is_counted && !self.fails_open => {
                "allowed uncounted although fail-closed"
            }
            (StatusCode::OK, Some(true)) if !self.fails_open => {
                "allowed while the store was down although fail-closed"
            }
            (StatusCode::OK, Some(false)) if !is_counted => {
                "allowed uncounted while the store was up"
            }
            (StatusCode::OK, _) => return,
            _ if is_limited => return,
            (StatusCode::SERVICE_UNAVAILABLE, Some(true)) if !self.fails_open => return,
            (_, Some(true)) => "rejected while the store was down",
            (_, Some(false)) => "rejected while the store was up",
            (StatusCode::SERVICE_UNAVAILABLE, None) => return,
            (_, None) => "rejected",
        };
        let first = || {
            format!(
                "{}: {what}: {} {}",
                self.name, response.status, response.text
            )
        };
        observed.violations.entry(what).or_insert_with(first);
    }

    /// Compares the ledgers with the responses.
    async fn check_ledgers(&self, store: &Store, report: &mut Report) -> Result<(), SoakError> {
        let observed = std::mem::take(&mut *lock(&self.observed));
        let day = Day::containing(START);
        let id: CustomerId = self.name.parse()?;
        let keys = BTreeSet::from([self.key.clone()]);
        let admitted = store.admitted_calls(&keys, day).await?;
        let metered = store.metered_calls(&id, day).await?;
        let mut expect_equal = |what: &str, actual: u64, expected: u64| {
            if actual != expected {
                let what = format!("{}: {actual} calls {what}, not {expected}", self.name);
                report.violations.push(what);
            }
        };
        // Uncounted calls are added to the admission ledger after the outage.
        let allowed = observed.counted + observed.uncounted;
        expect_equal("are admitted", admitted, allowed);
        expect_equal("are metered", metered, allowed);
        expect_equal(
            "exceed the limit",
            observed.counted.saturating_sub(self.limit),
            0,
        );
        report.violations.extend(observed.violations.into_values());
        report
            .responses_during
            .insert(self.name, observed.during_outage);
        report.uncounted += observed.uncounted;
        report.admitted += admitted;
        report.metered += metered;
        report.longest = report.longest.max(observed.longest);
        Ok(())
    }
}

struct Caller {
    customer: Arc<Customer>,
    phase: Arc<Mutex<Phase>>,
    is_finished: Arc<AtomicBool>,
    entropy: Entropy,
}

impl Caller {
    async fn call(&self) -> Result<(), RequestError> {
        while !self.is_finished.load(Ordering::Relaxed) {
            let pause = Duration::from_millis(self.entropy.below(CALL_PAUSE_MS));
            tokio::time::sleep(pause).await;
            let (phase, began) = (*lock(&self.phase), Instant::now());
            let response = self.customer.client.get("/api/secure/ping").await?;
            let is_in_phase = phase == *lock(&self.phase) && began >= phase.detected;
            let is_down = is_in_phase.then_some(phase.is_down);
            self.customer.record(is_down, began, &response);
        }
        Ok(())
    }
}
