//! Mixed traffic for a while, with keys revoked, expired and moved to other plans at random: no change
//! may take effect later than `KeyCacheSeconds` say.

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

use crate::client::{Answer, Client, NoAnswer};
use crate::product::{self, Options, StartError};

pub mod outage;

/// Keys in use at a time, each of a customer of its own.
const KEYS: usize = 40;
const CALLERS: usize = 8;
/// Between two calls of a caller, and between two changes.
const CALL_PAUSE_MS: u64 = 10;
const CHANGE_PAUSE_MS: u64 = 300;
/// The `KeyCacheSeconds` of the soak, which is also the template's default.
const DELAY: Duration = Duration::from_secs(5);
/// How long a dead key is tried.
const TRIED_AFTER_DEATH: Duration = Duration::from_secs(20);

/// The soak could not go on.
#[derive(Debug, thiserror::Error)]
pub enum Failed {
    /// The product.
    #[error("the product did not start")]
    Start(#[from] StartError),
    /// The plans.
    #[error("the shipped plans cannot be read")]
    Plans(#[from] InvalidCatalog),
    /// The client, or the server at its end.
    #[error("the product cannot be reached")]
    Io(#[from] std::io::Error),
    /// Randomness.
    #[error("the operating system has no randomness to give")]
    Entropy(#[from] rand::rngs::SysError),
    /// A call.
    #[error(transparent)]
    NoAnswer(#[from] NoAnswer),
    /// An answer has no such id.
    #[error("what was created has no id")]
    Id(#[from] InvalidId),
    /// The ledgers.
    #[error("what was admitted and metered cannot be read")]
    Store(#[from] StoreError),
    /// A change was refused.
    #[error("{0} was answered {1}: {2}")]
    Refused(String, StatusCode, String),
}

/// What happened.
#[derive(Debug, Default)]
pub struct Report {
    /// Answers, by status.
    pub answers: BTreeMap<u16, u64>,
    /// Keys that were revoked.
    pub revoked: u64,
    /// Keys that were given an expiry a moment ahead.
    pub expired: u64,
    /// Customers that were moved to another plan.
    pub replanned: u64,
    /// The longest time after a revocation was acknowledged at which a call was made and let in.
    pub latest_after_revocation: Duration,
    /// What should not have happened, in words.
    pub violations: Vec<String>,
}

impl Report {
    /// The figures, for whoever reads them by program.
    #[must_use]
    pub fn to_json(&self) -> Value {
        json!({
            "answers": self.answers,
            "revoked": self.revoked,
            "expired": self.expired,
            "replanned": self.replanned,
            "latest_after_revocation_ms": self.latest_after_revocation.as_millis(),
            "violations": self.violations.len(),
        })
    }
}

/// Runs traffic on a product of its own for so long.
///
/// # Errors
/// When the product does not start, or an admin's call is refused.
pub async fn run(lasts: Duration) -> Result<Report, Failed> {
    let running = product::start(Options {
        parameters: vec![("KeyCacheSeconds", DELAY.as_secs().to_string())],
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
        is_over: AtomicBool::new(false),
    });
    for _ in 0..KEYS {
        site.create().await?;
    }
    let mut callers = JoinSet::new();
    for _ in 0..CALLERS {
        let site = Arc::clone(&site);
        callers.spawn(async move { site.call_at_random().await });
    }
    let until = Instant::now() + lasts;
    let mut outcome = Ok(());
    while Instant::now() < until && outcome.is_ok() {
        site.pause(CHANGE_PAUSE_MS).await;
        outcome = site.change_something().await;
    }
    site.is_over.store(true, Ordering::Relaxed);
    for called in callers.join_all().await {
        called?;
    }
    outcome?;
    running.stop().await?;
    Ok(std::mem::take(&mut *lock(&site.report)))
}

/// What each plan allows in an hour.
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

struct Site {
    anyone: Client,
    admin: Client,
    entropy: Entropy,
    rates: BTreeMap<String, u64>,
    keys: Mutex<Vec<Arc<Key>>>,
    report: Mutex<Report>,
    is_over: AtomicBool,
}

/// A key and what was done to it.
struct Key {
    client: Client,
    prefix: String,
    customer: String,
    state: Mutex<State>,
}

struct State {
    /// Whether its revocation or expiry is on its way, at the least.
    is_ending: bool,
    /// When its revocation was acknowledged.
    revoked: Option<Instant>,
    /// When its expiry, and the knowledge of it, has come everywhere.
    expired: Option<Instant>,
    plans: Vec<Planned>,
}

/// A plan, and when it may have been gone by.
struct Planned {
    rate: u64,
    from: Instant,
    /// When the next one was acknowledged.
    until: Option<Instant>,
}

impl State {
    /// Since when it should open nothing.
    fn dead_since(&self) -> Option<Instant> {
        let revoked = self.revoked.map(|revoked| revoked + DELAY);
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

    async fn admin(&self, method: Method, path: &str, body: Value) -> Result<Answer, Failed> {
        let what = format!("{method} {path}");
        let answer = self.admin.json(method, path, body).await?;
        if answer.status.is_success() {
            Ok(answer)
        } else {
            Err(Failed::Refused(what, answer.status, answer.text))
        }
    }

    async fn create(&self) -> Result<(), Failed> {
        let (plan, rate) = self.plan();
        let customer = json!({ "plan": plan });
        let customer = self
            .admin(Method::POST, "/admin/customers", customer)
            .await?;
        let customer = text(&customer, "id");
        let owner = json!({ "customer_id": customer });
        let key = self.admin(Method::POST, "/admin/api-keys", owner).await?;
        let planned = Planned {
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
                plans: vec![planned],
            }),
        };
        lock(&self.keys).push(Arc::new(key));
        Ok(())
    }

    /// Revokes a key, lets one expire, or moves a customer to another plan.
    async fn change_something(&self) -> Result<(), Failed> {
        let living = self.living();
        let Some(key) = self.pick(&living) else {
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
                lock(&key.state).expired = Some(expires.max(Instant::now() + DELAY));
                lock(&self.report).expired += 1;
                self.create().await
            }
            _ => {
                let (plan, rate) = self.plan();
                let planned = Planned {
                    rate,
                    from: Instant::now(),
                    until: None,
                };
                let last = lock(&key.state).plans.len() - 1;
                lock(&key.state).plans.push(planned);
                let path = format!("/admin/customers/{}", key.customer);
                self.admin(Method::PATCH, &path, json!({ "plan": plan }))
                    .await?;
                lock(&key.state).plans[last].until = Some(Instant::now());
                lock(&self.report).replanned += 1;
                Ok(())
            }
        }
    }

    /// The keys that nothing has ended yet. Those that ended long ago are forgotten.
    fn living(&self) -> Vec<Arc<Key>> {
        let mut keys = lock(&self.keys);
        keys.retain(|key| {
            let dead = lock(&key.state).dead_since();
            dead.is_none_or(|dead| dead + TRIED_AFTER_DEATH > Instant::now())
        });
        let living = keys.iter().filter(|key| !lock(&key.state).is_ending);
        living.cloned().collect()
    }

    async fn call_at_random(&self) -> Result<(), NoAnswer> {
        while !self.is_over.load(Ordering::Relaxed) {
            self.pause(CALL_PAUSE_MS).await;
            let key = self.pick(&lock(&self.keys));
            let Some(key) = key else { continue };
            let began = Instant::now();
            let answer = key.client.get("/api/secure/ping").await?;
            self.check(&key, began, &answer);
        }
        Ok(())
    }

    fn check(&self, key: &Key, began: Instant, answer: &Answer) {
        let ended = Instant::now();
        let state = lock(&key.state);
        let mut report = lock(&self.report);
        *report.answers.entry(answer.status.as_u16()).or_default() += 1;
        if answer.status == StatusCode::OK {
            if let Some(revoked) = state.revoked {
                let after = began.saturating_duration_since(revoked);
                report.latest_after_revocation = report.latest_after_revocation.max(after);
            }
            if let Some(dead) = state.dead_since().filter(|dead| began >= *dead) {
                let late = began.duration_since(dead);
                let what = format!("{} was let in {late:?} after it could be", key.prefix);
                report.violations.push(what);
            }
        }
        if !state.is_ending && answer.status == StatusCode::UNAUTHORIZED {
            let what = format!("{} is good, and was not let in", key.prefix);
            report.violations.push(what);
        }
        let Some(rate) = hourly_rate(answer.header("ratelimit-policy")) else {
            return;
        };
        let may_hold = |planned: &&Planned| {
            let is_over = planned.until.is_some_and(|until| until + DELAY < began);
            planned.from <= ended && !is_over
        };
        let mut plans = state.plans.iter().filter(may_hold);
        if !plans.any(|planned| planned.rate == rate) {
            let what = format!(
                "{} was held to {rate} an hour, of no plan it is on",
                key.prefix
            );
            report.violations.push(what);
        }
    }
}

fn text(answer: &Answer, name: &str) -> String {
    answer.json()[name].as_str().unwrap_or_default().to_owned()
}

/// The hour's quota in `RateLimit-Policy`, such as `"hour";q=100;w=3600`.
fn hourly_rate(policy: &str) -> Option<u64> {
    let (_, rest) = policy.split_once(r#""hour";q="#)?;
    let end = rest.find(';')?;
    rest[..end].parse().ok()
}
