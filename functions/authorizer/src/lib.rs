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

use aws_smithy_types::retry::RetryConfig;
use aws_smithy_types::timeout::TimeoutConfig;
use aws_types::SdkConfig;
use futures_util::future;
use tokio::time::{Instant, timeout, timeout_at};
use tollgate_domain::caller::{Access, Denial};
use tollgate_domain::decision::{Decision, decide};
use tollgate_domain::key::{ApiKey, KeyDigest, KeyStatus, Owner};
use tollgate_domain::plan::{Catalog, FailMode};
use tollgate_runtime::{Chain, Clock, Metrics, metrics};
use tollgate_store::Store;

use cache::{KeyCache, Known, Moment};
use circuit::{Circuit, NoAnswer};
pub use event::{Answer, Request};
pub use extension::{Extension, NotRegistered, request_is_out};
use leases::{Counting, Leases};
use verdict::{Grounds, dimensions};
pub use verdict::{NoGoodKey, Refused};

/// What the owner of a stack decides.
#[derive(Debug, Clone)]
pub struct Settings {
    /// The limits of each plan.
    pub plans: Catalog,
    /// Beginnings of route templates that need a good key, and count towards no limit.
    pub uncounted: Vec<String>,
    /// For how long what was read of a key decides (TTL); zero reads always.
    pub key_cache: Duration,
    /// For how long more it decides while the store does not answer, on plans that fail open.
    pub stale_keys: Duration,
    /// The origin whose pages may read answers, or `*` for all.
    pub cors_origin: Option<Arc<str>>,
}

/// State of an authorizer instance: key cache, quota leases, circuit breaker. Cheap to clone; clones
/// share it.
#[derive(Debug, Clone)]
pub struct App {
    store: Store,
    keys: KeyCache,
    leases: Leases,
    settings: Arc<Settings>,
    clock: Clock,
    metrics: Metrics,
}

impl App {
    /// An instance that knows nothing yet. `clock` decides what has expired, and in which window a
    /// call counts; decisions are counted in `metrics`. The clients of `store` are configured by
    /// [`single_requests`].
    #[must_use]
    pub fn new(store: Store, settings: Settings, clock: Clock, metrics: Metrics) -> Self {
        let circuit = Circuit::new(clock.clone(), store.entropy().clone());
        let (ttl, stale) = (settings.key_cache, settings.stale_keys);
        Self {
            keys: KeyCache::new(store.clone(), circuit.clone(), ttl, stale),
            leases: Leases::new(
                store.clone(),
                circuit.clone(),
                clock.clone(),
                metrics.clone(),
            ),
            store,
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

    /// Releases the units that are not spent, reports those that are, and writes the metrics: for the
    /// end of the instance. An instance that ends otherwise leaves what it holds reserved until the
    /// window is over.
    pub async fn end(&self) {
        // Less than Lambda lets an instance have, so that the metrics are written whatever the
        // store does.
        let settled = timeout(ENDED_WITHIN, self.leases.end()).await;
        if settled.is_err() {
            tracing::warn!("units of limits may not have been released: no answer in time");
        }
        self.metrics.write();
    }
}

/// A decision is due within a second. What the store has not answered by then, it is made without.
const DECIDED_WITHIN: Duration = Duration::from_millis(900);
/// What a call waits at most for windows that have ended. What is left is for the next one.
const SETTLED_WITHIN: Duration = Duration::from_millis(300);
/// Of the half second between Lambda's signal and the end of the instance.
const ENDED_WITHIN: Duration = Duration::from_millis(400);

/// The SDK's configuration for the authorizer: each request is made once, within a bound, and which to
/// repeat, and when, is decided by what it was for.
#[must_use]
pub fn single_requests(sdk: SdkConfig) -> SdkConfig {
    let timeouts = TimeoutConfig::builder()
        .connect_timeout(circuit::REQUEST)
        .operation_timeout(circuit::REQUEST)
        .build();
    sdk.into_builder()
        .retry_config(RetryConfig::disabled())
        .timeout_config(timeouts)
        .build()
}

/// Decides one call, within a second.
///
/// # Errors
/// When there is no good key, or nothing can be decided.
pub async fn handle(app: &App, request: &Request<'_>) -> Result<Answer, Refused> {
    let at = Moment {
        wall: app.clock.now(),
        process: Instant::now(),
    };
    // Whatever comes of the call, and at most beside it: there may be no other.
    let settling = app.leases.settle_ended(at.wall);
    let settling = timeout_at(at.process + SETTLED_WITHIN, settling);
    let (decided, _) = future::join(decide_call(app, request, at), settling).await;
    let took = u64::try_from(at.process.elapsed().as_micros()).unwrap_or(u64::MAX);
    let grounds = decided.as_ref().map(|decided| decided.grounds);
    let is_admitted = matches!(grounds, Ok(Grounds::WithinLimits | Grounds::StoreDown));
    let is_without_store = matches!(grounds, Ok(Grounds::StoreDown) | Err(Refused::Unavailable));
    let is_by_stale_key = decided.as_ref().is_ok_and(|decided| decided.by_stale_key);
    let records: [Option<metrics::Record>; 5] = [
        Some((metrics::DECISION_LATENCY, &[], took)),
        Some((metrics::DECISIONS, dimensions(grounds), 1)),
        is_admitted.then_some((metrics::CALLS_ADMITTED, &[], 1)),
        is_without_store.then_some((metrics::DECISIONS_WITHOUT_STORE, &[], 1)),
        is_by_stale_key.then_some((metrics::DECISIONS_BY_STALE_KEY, &[], 1)),
    ];
    app.metrics
        .record_and_write_due(records.into_iter().flatten());
    decided.map(|decided| decided.answer)
}

/// A policy, and how it came about.
struct Decided {
    answer: Answer,
    grounds: Grounds,
    by_stale_key: bool,
}

async fn decide_call(app: &App, request: &Request<'_>, at: Moment) -> Result<Decided, Refused> {
    let now = at.wall;
    let deadline = at.process + DECIDED_WITHIN;
    let unavailable = |error: &dyn std::error::Error| {
        let request_id = &*request.request_id();
        tracing::error!(request_id, error = %Chain(error), "no decision");
        Refused::Unavailable
    };
    let unauthorized = |reason: NoGoodKey, prefix: Option<&str>| {
        let request_id = &*request.request_id();
        tracing::info!(request_id, ?reason, key_prefix = prefix, "unauthorized");
        Refused::Unauthorized(reason)
    };

    let text = request
        .key()
        .ok_or_else(|| unauthorized(NoGoodKey::Missing, None))?;
    let key = ApiKey::parse(&text).map_err(|_| unauthorized(NoGoodKey::Malformed, None))?;
    let digest = key.digest();
    let bad_key = |reason| unauthorized(reason, Some(key.prefix().as_str()));
    let (known, by_stale_key) = match in_time(deadline, app.keys.find(digest, at)).await {
        Ok(Some(known)) => (known, false),
        Ok(None) => return Err(bad_key(NoGoodKey::Unknown)),
        Err(error) => match app.find_stale(digest, at) {
            Some(known) => (known, true),
            None => return Err(unavailable(&*error)),
        },
    };
    let record = &known.record;
    match record.status(now) {
        KeyStatus::Active => {}
        KeyStatus::Suspended => return Err(bad_key(NoGoodKey::Suspended)),
        KeyStatus::Expired => return Err(bad_key(NoGoodKey::Expired)),
        KeyStatus::Revoked => return Err(bad_key(NoGoodKey::Revoked)),
    }
    let decided = |access: Access, grounds| Decided {
        answer: Answer::new(
            request,
            Arc::clone(&known),
            access,
            app.settings.cors_origin.clone(),
        ),
        grounds,
        by_stale_key,
    };
    let denied = |denial: Denial| {
        let key_prefix = record.prefix.as_str();
        let request_id = &*request.request_id();
        tracing::info!(request_id, key_prefix, ?denial, "denied");
        Ok(decided(Access::Denied(denial), Grounds::Denied(denial)))
    };
    if record.owner == Owner::Admin {
        return Ok(decided(Access::Uncounted, Grounds::Uncounted));
    }
    let Some(customer) = &known.customer else {
        tracing::error!(key_id = %record.id, "the key's customer does not exist");
        return denied(Denial::NoPlan);
    };
    if customer.erased_at.is_some() {
        return Err(bad_key(NoGoodKey::Revoked));
    }
    // Before all that denies a customer: what it owes and has used stays within its reach.
    if app.is_uncounted(request) {
        return Ok(decided(Access::Uncounted, Grounds::Uncounted));
    }
    if customer.suspended_at.is_some() {
        return denied(Denial::CustomerSuspended);
    }
    let Some(plan) = app.settings.plans.get(&customer.plan) else {
        let (customer, plan) = (&customer.id, &customer.plan);
        tracing::error!(%customer, %plan, "the customer's plan is not in the catalogue");
        return denied(Denial::NoPlan);
    };

    let limits = plan.limits(&record.overrides);
    let call = Counting {
        key: record.hour_key(),
        customer: &customer.id,
        now,
        deadline,
    };
    let counting = app.leases.count(call, limits, plan.max_lease.get());
    let counted = match in_time(deadline, counting).await {
        Ok(counted) => counted,
        Err(error) => {
            let fail_open = plan.fail_mode == FailMode::Open;
            tracing::error!(
                request_id = &*request.request_id(),
                error = %Chain(&error),
                plan = %plan.id,
                fail_open,
                "the call could not be counted"
            );
            if !fail_open {
                return Err(Refused::Unavailable);
            }
            app.leases.allowed_uncounted(call);
            return Ok(decided(Access::Uncounted, Grounds::StoreDown));
        }
    };
    let decision = decide(now, limits, counted);
    let grounds = match decision {
        Decision::Allow { .. } => Grounds::WithinLimits,
        Decision::Deny { by, .. } => {
            tracing::info!(
                request_id = &*request.request_id(),
                key_prefix = record.prefix.as_str(),
                window = by.window.as_str(),
                "over the limit"
            );
            Grounds::Full(by.window)
        }
    };
    Ok(decided(Access::Counted(now, decision), grounds))
}

/// Awaits what the store answers before `deadline`. What it has begun by then may still take effect:
/// units are then reserved and found by the next reservation.
async fn in_time<T, E: From<NoAnswer>>(
    deadline: Instant,
    answer: impl Future<Output = Result<T, E>>,
) -> Result<T, E> {
    let in_time = timeout_at(deadline, answer).await;
    in_time.unwrap_or_else(|_| Err(NoAnswer::Late.into()))
}

impl App {
    /// A key that was good when it was last read, for a store that does not answer: only where the
    /// customer's plan lets calls pass then.
    fn find_stale(&self, digest: KeyDigest, at: Moment) -> Option<Arc<Known>> {
        let known = self.keys.find_stale(digest, at)?;
        let plan = self.settings.plans.get(&known.customer.as_ref()?.plan)?;
        (plan.fail_mode == FailMode::Open).then_some(known)
    }

    fn is_uncounted(&self, request: &Request<'_>) -> bool {
        let mut prefixes = self.settings.uncounted.iter();
        prefixes.any(|prefix| request.resource.starts_with(prefix.as_str()))
    }
}
