//! Soak test: mixed traffic while keys are revoked, expire and change plans at random. Checks that no
//! change takes effect later than `KeyCacheSeconds` allows.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use http::{Method, StatusCode};
use jiff::{SignedDuration, Timestamp};
use serde_json::{Value, json};
use tokio::task::JoinSet;
use tollgate_domain::id::InvalidId;
use tollgate_domain::plan::{Catalog, InvalidCatalog};
use tollgate_runtime::Entropy;
use tollgate_store::StoreError;

use crate::client::{Client, RequestError, Response};
use crate::local_stack::{self, Options};
use crate::start_error::StartError;

pub mod lag;
pub mod outage;

/// Active keys at a time, each of a different customer.
const KEYS: usize = 40;
/// Concurrent callers, each with one call at a time.
const CALLERS: usize = 8;
/// Maximum pause between two calls of a caller.
const CALL_PAUSE_MS: u64 = 10;
/// Maximum pause between two changes.
const CHANGE_PAUSE_MS: u64 = 300;
/// `KeyCacheSeconds` of the soak test, the same as the template's default.
const KEY_CACHE: Duration = Duration::from_secs(5);
/// Time for which an invalid key is still used in calls.
const USED_AFTER_END: Duration = Duration::from_secs(20);

/// Error that aborts the soak test.
#[derive(Debug, thiserror::Error)]
pub enum SoakError {
    /// The stack does not start.
    #[error("the local stack did not start")]
    Start(#[from] StartError),
    /// The shipped plan catalogue is invalid.
    #[error("the shipped plans cannot be read")]
    Plans(#[from] InvalidCatalog),
    /// The client cannot be created, or the server failed.
    #[error("the local stack cannot be reached")]
    Io(#[from] std::io::Error),
    /// The operating system returned no randomness.
    #[error("the operating system returned no randomness")]
    Entropy(#[from] rand::rngs::SysError),
    /// A request got no response.
    #[error(transparent)]
    Request(#[from] RequestError),
    /// A response has no valid id.
    #[error("a created resource has no valid id")]
    Id(#[from] InvalidId),
    /// The ledgers cannot be read.
    #[error("the admitted and metered calls cannot be read")]
    Store(#[from] StoreError),
    /// A request of the admin failed.
    #[error("{0} failed with {1}: {2}")]
    Status(String, StatusCode, String),
}

/// Results of the soak test.
#[derive(Debug, Default)]
pub struct Report {
    /// Responses, by status.
    pub responses: BTreeMap<u16, u64>,
    /// Revoked keys.
    pub revoked: u64,
    /// Keys that were given an expiry a few seconds ahead.
    pub expired: u64,
    /// Customers that were moved to another plan.
    pub replanned: u64,
    /// Longest time from the acknowledgement of a revocation to the start of a call that was still allowed.
    pub latest_after_revocation: Duration,
    /// Descriptions of violated expectations.
    pub violations: Vec<String>,
}

impl Report {
    /// Returns the results as JSON.
    #[must_use]
    pub fn to_json(&self) -> Value {
        json!({
            "responses": self.responses,
            "revoked": self.revoked,
            "expired": self.expired,
            "replanned": self.replanned,
            "latest_after_revocation_ms": self.latest_after_revocation.as_millis(),
            "violations": self.violations.len(),
        })
    }
}

/// Starts a stack and runs traffic on it for `duration`.
///
/// # Errors
/// When the stack does not start, or a request of the admin fails.
pub async fn run(duration: Duration) -> Result<Report, SoakError> {
    let running = local_stack::start(Options {
        parameters: vec![("KeyCacheSeconds", KEY_CACHE.as_secs().to_string())],
        ..Options::default()
    })
    .await?;
    let anyone = Client::new(&running.url)?;
    let admin_key = running.admin.expose().unwrap_or_default();
    let site = Arc::new(Site {
        admin: anyone.with_key(admin_key),
        anyone,
        entropy: Entropy::system()?,
        rates: hourly_rates()?,
        keys: Mutex::default(),
        report: Mutex::default(),
        is_finished: AtomicBool::new(false),
    });
    for _ in 0..KEYS {
        site.create().await?;
    }
    let mut callers = JoinSet::new();
    for _ in 0..CALLERS {
        let site = Arc::clone(&site);
        callers.spawn(async move { site.call_at_random().await });
    }
    let until = Instant::now() + duration;
    let mut outcome = Ok(());
    while Instant::now() < until && outcome.is_ok() {
        site.pause(CHANGE_PAUSE_MS).await;
        outcome = site.change_something().await;
    }
    site.is_finished.store(true, Ordering::Relaxed);
    for called in callers.join_all().await {
        called?;
    }
    outcome?;
    running.stop().await?;
    Ok(std::mem::take(&mut *lock(&site.report)))
}

/// Returns the hourly limit of each plan.
fn hourly_rates() -> Result<BTreeMap<String, u64>, InvalidCatalog> {
    let plans = Catalog::shipped()?;
    let rates = plans
        .iter()
        .map(|plan| (plan.id.as_str().to_owned(), plan.requests_per_hour));
    Ok(rates.collect())
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// State of the soak test, shared by its tasks.
struct Site {
    anyone: Client,
    admin: Client,
    entropy: Entropy,
    rates: BTreeMap<String, u64>,
    keys: Mutex<Vec<Arc<Key>>>,
    report: Mutex<Report>,
    is_finished: AtomicBool,
}

/// A key and its changes.
struct Key {
    client: Client,
    prefix: String,
    customer: String,
    state: Mutex<State>,
}

/// Changes of a key so far.
struct State {
    /// Whether a revocation or expiry was requested.
    is_ending: bool,
    /// Time at which the revocation was acknowledged.
    revoked: Option<Instant>,
    /// Time from which the expiry must have taken effect in all caches.
    expired: Option<Instant>,
    plans: Vec<PlanPeriod>,
}

/// A plan of a customer and the time in which it may apply.
struct PlanPeriod {
    rate: u64,
    from: Instant,
    /// Time at which the change to the next plan was acknowledged.
    until: Option<Instant>,
}

impl State {
    /// Returns the time from which the key must be rejected, if it has ended.
    fn invalid_since(&self) -> Option<Instant> {
        let revoked = self.revoked.map(|revoked| revoked + KEY_CACHE);
        revoked.into_iter().chain(self.expired).min()
    }
}

impl Site {
    async fn pause(&self, most_ms: u64) {
        let pause = Duration::from_millis(self.entropy.below(most_ms));
        tokio::time::sleep(pause).await;
    }

    fn pick<T: Clone>(&self, from: &[T]) -> Option<T> {
        let bound = u64::try_from(from.len()).unwrap_or(u64::MAX);
        let index = usize::try_from(self.entropy.below(bound)).ok()?;
        from.get(index).cloned()
    }

    fn plan(&self) -> (String, u64) {
        let plans: Vec<(String, u64)> = self.rates.clone().into_iter().collect();
        self.pick(&plans).unwrap_or_default()
    }

    async fn admin(&self, method: Method, path: &str, body: Value) -> Result<Response, SoakError> {
        let request = format!("{method} {path}");
        let response = self.admin.json(method, path, body).await?;
        if response.status.is_success() {
            Ok(response)
        } else {
            Err(SoakError::Status(request, response.status, response.text))
        }
    }

    async fn create(&self) -> Result<(), SoakError> {
        let (plan, rate) = self.plan();
        let customer = json!({ "plan": plan });
        let customer = self
            .admin(Method::POST, "/admin/customers", customer)
            .await?;
        let customer = text(&customer, "id");
        let request = json!({ "customer_id": customer });
        let key = self.admin(Method::POST, "/admin/api-keys", request).await?;
        let period = PlanPeriod {
            rate,
            from: Instant::now(),
            until: None,
        };
        let key = Key {
            client: self.anyone.with_key(&text(&key, "key")),
            prefix: text(&key, "prefix"),
            customer,
            state: Mutex::new(State {
                is_ending: false,
                revoked: None,
                expired: None,
                plans: vec![period],
            }),
        };
        lock(&self.keys).push(Arc::new(key));
        Ok(())
    }

    /// Revokes a key, sets its expiry, or moves its customer to another plan, chosen at random.
    async fn change_something(&self) -> Result<(), SoakError> {
        let active = self.active_keys();
        let Some(key) = self.pick(&active) else {
            return Ok(());
        };
        let path = format!("/admin/api-keys/{}", key.prefix);
        match self.entropy.below(3) {
            0 => {
                lock(&key.state).is_ending = true;
                self.admin(Method::DELETE, &path, Value::Null).await?;
                lock(&key.state).revoked = Some(Instant::now());
                lock(&self.report).revoked += 1;
                self.create().await
            }
            1 => {
                lock(&key.state).is_ending = true;
                let in_ms = i64::try_from(self.entropy.below(8_000)).unwrap_or(0);
                let at = Timestamp::now() + SignedDuration::from_millis(1_000 + in_ms);
                let expires = Instant::now() + Duration::from_millis(1_000 + in_ms.unsigned_abs());
                let change = json!({ "expires_at": at });
                self.admin(Method::PATCH, &path, change).await?;
                lock(&key.state).expired = Some(expires.max(Instant::now() + KEY_CACHE));
                lock(&self.report).expired += 1;
                self.create().await
            }
            _ => {
                let (plan, rate) = self.plan();
                let period = PlanPeriod {
                    rate,
                    from: Instant::now(),
                    until: None,
                };
                let last = lock(&key.state).plans.len() - 1;
                lock(&key.state).plans.push(period);
                let path = format!("/admin/customers/{}", key.customer);
                self.admin(Method::PATCH, &path, json!({ "plan": plan }))
                    .await?;
                lock(&key.state).plans[last].until = Some(Instant::now());
                lock(&self.report).replanned += 1;
                Ok(())
            }
        }
    }

    /// Returns the keys without a revocation or expiry, and removes those that ended long ago.
    fn active_keys(&self) -> Vec<Arc<Key>> {
        let mut keys = lock(&self.keys);
        keys.retain(|key| {
            let ended = lock(&key.state).invalid_since();
            ended.is_none_or(|ended| ended + USED_AFTER_END > Instant::now())
        });
        let active = keys.iter().filter(|key| !lock(&key.state).is_ending);
        active.cloned().collect()
    }

    async fn call_at_random(&self) -> Result<(), RequestError> {
        while !self.is_finished.load(Ordering::Relaxed) {
            self.pause(CALL_PAUSE_MS).await;
            let key = self.pick(&lock(&self.keys));
            let Some(key) = key else { continue };
            let began = Instant::now();
            let response = key.client.get("/api/secure/ping").await?;
            self.check(&key, began, &response);
        }
        Ok(())
    }

    fn check(&self, key: &Key, began: Instant, response: &Response) {
        let ended = Instant::now();
        let state = lock(&key.state);
        let mut report = lock(&self.report);
        *report
            .responses
            .entry(response.status.as_u16())
            .or_default() += 1;
        if response.status == StatusCode::OK {
            if let Some(revoked) = state.revoked {
                let after = began.saturating_duration_since(revoked);
                report.latest_after_revocation = report.latest_after_revocation.max(after);
            }
            if let Some(ended) = state.invalid_since().filter(|ended| began >= *ended) {
                let late = began.duration_since(ended);
                let what = format!("{} was allowed {late:?} too late", key.prefix);
                report.violations.push(what);
            }
        }
        if !state.is_ending && response.status == StatusCode::UNAUTHORIZED {
            let what = format!("{} is valid but was rejected", key.prefix);
            report.violations.push(what);
        }
        let Some(rate) = hourly_rate(response.header("ratelimit-policy")) else {
            return;
        };
        let may_apply = |period: &&PlanPeriod| {
            let is_past = period.until.is_some_and(|until| until + KEY_CACHE < began);
            period.from <= ended && !is_past
        };
        let mut plans = state.plans.iter().filter(may_apply);
        if !plans.any(|period| period.rate == rate) {
            let what = format!(
                "{} was limited to {rate} calls per hour, which is the limit of none of its plans",
                key.prefix
            );
            report.violations.push(what);
        }
    }
}

fn text(response: &Response, name: &str) -> String {
    response.json()[name]
        .as_str()
        .unwrap_or_default()
        .to_owned()
}

/// Parses the hourly limit in `RateLimit-Policy`, such as `"hour";q=100;w=3600`.
fn hourly_rate(policy: &str) -> Option<u64> {
    let (_, rest) = policy.split_once(r#""hour";q="#)?;
    let end = rest.find(';')?;
    rest[..end].parse().ok()
}
