//! The authorizer: API Gateway asks it on every call whose key it is, and whether its limits allow
//! it.
//!
//! Input and output are those of a REST API's REQUEST authorizer
//! (<https://docs.aws.amazon.com/apigateway/latest/developerguide/apigateway-use-lambda-authorizer.html>):
//! an event with the request's header fields in, a policy with a context out. An `Unauthorized`
//! error makes the gateway answer 401, a denying policy 429 by way of the template's gateway
//! responses, any other error 503. Which cause is told in which way is in `docs/problems.md`.

mod cache;
mod circuit;
mod event;
mod extension;
mod leases;
mod verdict;

use std::sync::Arc;
use std::time::Duration;

use tokio::time::{Instant, timeout, timeout_at};
use tollgate_domain::caller::{Access, Denial};
use tollgate_domain::decision::{Decision, decide};
use tollgate_domain::key::{ApiKey, KeyStatus, Owner};
use tollgate_domain::plan::{Catalog, StoreDown};
use tollgate_runtime::{Chain, Clock, Metrics, metrics};
use tollgate_store::Store;

use cache::{KeyCache, Moment};
use circuit::{Circuit, NoAnswer};
pub use event::{Answer, Request};
pub use extension::{Extension, NotRegistered, request_is_out};
use leases::Leases;
use verdict::{Grounds, dimensions};
pub use verdict::{NoGoodKey, Refused};

/// What the owner of a stack decides.
#[derive(Debug, Clone)]
pub struct Settings {
    /// The limits of each plan.
    pub plans: Catalog,
    /// Beginnings of route templates that need a good key, and count towards no limit.
    pub uncounted: Vec<String>,
    /// How long what was read of a key is gone by; zero reads always.
    pub key_cache: Duration,
    /// The origin whose pages may read answers, or `*` for all.
    pub cors_origin: Option<Arc<str>>,
}

/// What a decision is made with. Cheap to clone; all clones remember the same keys and hold the same
/// units.
#[derive(Debug, Clone)]
pub struct App {
    store: Store,
    keys: KeyCache,
    leases: Leases,
    circuit: Circuit,
    settings: Arc<Settings>,
    clock: Clock,
    metrics: Metrics,
}

impl App {
    /// An instance that knows nothing yet. `clock` decides what has expired, and in which window a
    /// call counts; decisions are counted in `metrics`.
    #[must_use]
    pub fn new(store: Store, settings: Settings, clock: Clock, metrics: Metrics) -> Self {
        let circuit = Circuit::new(clock.clone());
        Self {
            keys: KeyCache::new(store.clone(), circuit.clone(), settings.key_cache),
            leases: Leases::new(
                store.clone(),
                circuit.clone(),
                clock.clone(),
                metrics.clone(),
            ),
            store,
            circuit,
            settings: Arc::new(settings),
            clock,
            metrics,
        }
    }

    /// Opens the connection to the store, while no call waits for it: for the start of the
    /// instance, which a store that does not answer holds up no longer than a decision.
    pub async fn warm_up(&self) {
        let connected = timeout(DECIDED_WITHIN, self.store.warm_up()).await;
        match connected {
            Ok(Ok(())) => {}
            Ok(Err(error)) => {
                tracing::warn!(error = %Chain(&error), "the first call opens the connection");
            }
            Err(_) => tracing::warn!("the first call opens the connection: no answer in time"),
        }
    }

    /// Gives back the units that are not spent, and writes the metrics: for the end of the instance.
    /// An instance that ends otherwise leaves what it holds taken until the window is over.
    pub async fn end(&self) {
        // Less than Lambda lets an instance have, so that the metrics are written whatever the
        // store does.
        let given_back = timeout(ENDED_WITHIN, self.leases.give_back()).await;
        if given_back.is_err() {
            tracing::warn!("units of limits may not have been given back: no answer in time");
        }
        self.metrics.write();
    }
}

/// A decision is due within a second. What the store has not answered by then, it is made without.
const DECIDED_WITHIN: Duration = Duration::from_millis(900);
/// Of the half second between Lambda's signal and the end of the instance.
const ENDED_WITHIN: Duration = Duration::from_millis(400);

/// Decides one call, within a second.
///
/// # Errors
/// When there is no good key, or nothing can be decided.
pub async fn handle(app: &App, request: &Request<'_>) -> Result<Answer, Refused> {
    let at = Moment {
        wall: app.clock.now(),
        process: Instant::now(),
    };
    let decided = decide_call(app, request, at).await;
    let took = u64::try_from(at.process.elapsed().as_micros()).unwrap_or(u64::MAX);
    let grounds = decided.as_ref().map(|(_, grounds)| *grounds);
    let is_admitted = matches!(grounds, Ok(Grounds::WithinLimits | Grounds::StoreDown));
    let is_without_store = matches!(grounds, Ok(Grounds::StoreDown) | Err(Refused::Unavailable));
    let records: [Option<metrics::Record>; 4] = [
        Some((metrics::DECISION_LATENCY, &[], took)),
        Some((metrics::DECISIONS, dimensions(grounds), 1)),
        is_admitted.then_some((metrics::CALLS_ADMITTED, &[], 1)),
        is_without_store.then_some((metrics::DECISIONS_WITHOUT_STORE, &[], 1)),
    ];
    app.metrics
        .record_and_write_due(records.into_iter().flatten());
    decided.map(|(answer, _)| answer)
}

async fn decide_call(
    app: &App,
    request: &Request<'_>,
    at: Moment,
) -> Result<(Answer, Grounds), Refused> {
    let now = at.wall;
    let deadline = at.process + DECIDED_WITHIN;
    let unavailable = |error: Arc<NoAnswer>| {
        let request_id = request.request_id();
        tracing::error!(request_id, error = %Chain(&*error), "no decision");
        Refused::Unavailable
    };
    let unauthorized = |reason: NoGoodKey, prefix: Option<&str>| {
        let request_id = request.request_id();
        tracing::info!(request_id, ?reason, key_prefix = prefix, "unauthorized");
        Refused::Unauthorized(reason)
    };

    let text = request
        .key()
        .ok_or_else(|| unauthorized(NoGoodKey::Missing, None))?;
    let key = ApiKey::parse(text).map_err(|_| unauthorized(NoGoodKey::Malformed, None))?;
    let digest = key.digest();
    let prefix = key.prefix();
    let known = app.in_time(deadline, app.keys.find(digest, at)).await;
    let known = known.map_err(unavailable)?;
    let bad_key = |reason| unauthorized(reason, Some(prefix.as_str()));
    let known = known.ok_or_else(|| bad_key(NoGoodKey::Unknown))?;
    let record = &known.record;
    match record.status(now) {
        KeyStatus::Active => {}
        KeyStatus::Suspended => return Err(bad_key(NoGoodKey::Suspended)),
        KeyStatus::Expired => return Err(bad_key(NoGoodKey::Expired)),
        KeyStatus::Revoked => return Err(bad_key(NoGoodKey::Revoked)),
    }

    let answer = |access: Access| {
        let cors_origin = app.settings.cors_origin.clone();
        Answer::new(request, Arc::clone(&known), access, cors_origin)
    };
    let denied = |denial: Denial| {
        let request_id = request.request_id();
        let key_prefix = prefix.as_str();
        tracing::info!(request_id, key_prefix, ?denial, "denied");
        Ok((answer(Access::Denied(denial)), Grounds::Denied(denial)))
    };
    let no_plan = || {
        tracing::error!(key_id = %record.id, "the key's customer or its plan does not exist");
        denied(Denial::NoPlan)
    };
    if record.owner == Owner::Admin {
        return Ok((answer(Access::Uncounted), Grounds::Uncounted));
    }
    let Some(customer) = &known.customer else {
        return no_plan();
    };
    if customer.erased_at.is_some() {
        return Err(bad_key(NoGoodKey::Revoked));
    }
    // Before all that denies a customer: what it owes and has used stays within its reach.
    if app.is_uncounted(request) {
        return Ok((answer(Access::Uncounted), Grounds::Uncounted));
    }
    if customer.suspended_at.is_some() {
        return denied(Denial::CustomerSuspended);
    }
    let Some(plan) = app.settings.plans.get(&customer.plan) else {
        return no_plan();
    };

    let limits = plan.limits(&record.overrides);
    let max_block = plan.max_lease.get();
    let counting = app
        .leases
        .count(record.hour_key(), &customer.id, limits, max_block, now);
    let counted = match app.in_time(deadline, counting).await {
        Ok(counted) => counted,
        Err(error) => {
            let fail_open = plan.when_store_is_down == StoreDown::Open;
            tracing::error!(
                request_id = request.request_id(),
                error = %Chain(&error),
                plan = %plan.id,
                fail_open,
                "the call could not be counted"
            );
            return if fail_open {
                Ok((answer(Access::Uncounted), Grounds::StoreDown))
            } else {
                Err(Refused::Unavailable)
            };
        }
    };
    let decision = decide(now, limits, counted);
    let grounds = match decision {
        Decision::Admit { .. } => Grounds::WithinLimits,
        Decision::Refuse { by } => {
            tracing::info!(
                request_id = request.request_id(),
                key_prefix = prefix.as_str(),
                window = by.window.as_str(),
                "over the limit"
            );
            Grounds::Full(by.window)
        }
    };
    Ok((answer(Access::Counted(now, decision)), grounds))
}

impl App {
    /// What the store answers before `deadline`. What it has begun by then may still take effect:
    /// units are then taken and found by the next claim.
    async fn in_time<T, E: From<NoAnswer>>(
        &self,
        deadline: Instant,
        answer: impl Future<Output = Result<T, E>>,
    ) -> Result<T, E> {
        match timeout_at(deadline, answer).await {
            Ok(answer) => answer,
            Err(_) => {
                self.circuit.failed();
                Err(NoAnswer::Late.into())
            }
        }
    }

    fn is_uncounted(&self, request: &Request<'_>) -> bool {
        let mut prefixes = self.settings.uncounted.iter();
        prefixes.any(|prefix| request.resource.starts_with(prefix.as_str()))
    }
}
