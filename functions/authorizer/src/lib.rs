//! The authorizer: API Gateway invokes it for every call, to check the key and its limits.
//!
//! Input and output are those of a REST API's REQUEST authorizer
//! (<https://docs.aws.amazon.com/apigateway/latest/developerguide/apigateway-use-lambda-authorizer.html>):
//! an event with the request's header fields in, a policy with a context out. The template's gateway
//! responses turn an `Unauthorized` error into a 401, a denying policy into a 429, and any other error
//! into a 503. `docs/problems.md` lists the causes of each.

mod cache;
mod circuit_breaker;
mod event;
mod extension;
mod leases;
mod outcome;
mod plans;
mod thresholds;

use std::sync::Arc;
use std::time::Duration;

use aws_smithy_types::retry::RetryConfig;
use aws_smithy_types::timeout::TimeoutConfig;
use aws_types::SdkConfig;
use futures_util::future;
use tokio::time::{Instant, timeout, timeout_at};
use tollgate_api::context::{Access, Denial};
use tollgate_domain::decision::{Decision, decide};
use tollgate_domain::key::{ApiKey, KeyDigest, KeyStatus, Owner};
use tollgate_domain::plan::FailMode;
use tollgate_domain::window::Month;
use tollgate_runtime::config::{self, InvalidConfig};
use tollgate_runtime::{Chain, Clock, Env, Init, Metrics, metrics};
use tollgate_store::Store;

use cache::{CachedKey, ClockReading, KeyCache};
use circuit_breaker::{CircuitBreaker, StoreUnavailable};
pub use event::{AuthorizerResponse, Request};
pub use extension::{Extension, NotRegistered, request_sent};
use leases::{CountedCall, Leases};
pub use outcome::{AuthorizeError, UnauthorizedReason};
use outcome::{DecisionReason, dimensions};
use plans::Plans;
use thresholds::{MonthUsage, Thresholds};

/// Configuration by the operator of a stack.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Prefixes of route templates that need a valid key, and count towards no limit
    /// ([`config::is_uncounted`]).
    pub uncounted: Vec<String>,
    /// TTL of the key cache; with zero, each call reads its key.
    pub key_cache: Duration,
    /// Time beyond the TTL during which a stale key is used while the store is unavailable, on plans that
    /// fail open.
    pub stale_keys: Duration,
    /// The origin whose pages may read responses (CORS), or `*` for all.
    pub cors_origin: Option<Arc<str>>,
    /// Page on which a customer without quota can subscribe to a larger plan.
    pub upgrade_url: Option<Arc<str>>,
}

impl Settings {
    /// Reads the settings from environment variables.
    ///
    /// # Errors
    /// When a variable is missing or invalid.
    pub fn from_env(env: &Env) -> Result<Self, InvalidConfig> {
        Ok(Self {
            uncounted: config::uncounted_routes(env)?,
            key_cache: config::key_cache(env)?,
            stale_keys: config::stale_keys(env)?,
            cors_origin: config::cors_origin(env)?,
            upgrade_url: config::upgrade_url(env)?,
        })
    }
}

/// State of an authorizer instance: key cache, plans, quota leases, circuit breaker. Cheap to clone;
/// clones share it.
#[derive(Debug, Clone)]
pub struct App {
    keys: KeyCache,
    plans: Plans,
    leases: Leases,
    thresholds: Thresholds,
    settings: Arc<Settings>,
    clock: Clock,
    metrics: Metrics,
}

impl App {
    /// Builds the state of a new instance.
    ///
    /// # Errors
    /// When the environment lacks the tables or a setting, or a setting is invalid.
    pub fn build(init: &Init) -> Result<Self, InvalidConfig> {
        let settings = Settings::from_env(&init.env)?;
        Self::with_settings(init, settings)
    }

    /// Builds the state of a new instance with these settings in place of those in the environment.
    ///
    /// # Errors
    /// When the environment lacks the tables.
    pub fn with_settings(init: &Init, settings: Settings) -> Result<Self, InvalidConfig> {
        let init = Init {
            sdk: single_requests(init.sdk.clone()),
            ..init.clone()
        };
        let (store, clock, metrics) = (Store::build(&init)?, init.clock, init.metrics);
        Ok(Self::new(store, settings, clock, metrics))
    }

    /// Creates the state of a new instance. `clock` decides what has expired, and in which window a
    /// call counts; decisions are counted in `metrics`. The clients of `store` must be configured by
    /// [`single_requests`].
    #[must_use]
    pub fn new(store: Store, settings: Settings, clock: Clock, metrics: Metrics) -> Self {
        let breaker = CircuitBreaker::new(clock.clone(), store.entropy().clone());
        let (ttl, stale_for) = (settings.key_cache, settings.stale_keys);
        Self {
            keys: KeyCache::new(store.clone(), breaker.clone(), ttl, stale_for),
            plans: Plans::new(store.clone(), breaker.clone()),
            thresholds: Thresholds::new(store.clone(), breaker.clone()),
            leases: Leases::new(store, breaker, clock.clone(), metrics.clone()),
            settings: Arc::new(settings),
            clock,
            metrics,
        }
    }

    /// Reads the plans, and so opens the connection to the store, so that no call waits for it: for the
    /// initialisation of the instance. Takes no longer than a decision, even if the store does not respond.
    pub async fn warm_up(&self) {
        let deadline = Instant::now() + DECISION_TIMEOUT;
        if let Err(error) = before(deadline, self.plans.current()).await {
            tracing::warn!(error = %Chain(&error), "the plans were not read at the start");
        }
    }

    /// Releases the units left, reports the calls, and writes the metrics: for the shutdown of the
    /// instance. After a crash, the units stay reserved until the end of their window.
    pub async fn shut_down(&self) {
        let settled = timeout(SHUTDOWN_TIMEOUT, self.leases.shut_down()).await;
        if settled.is_err() {
            tracing::warn!("quota units may not have been released: timeout");
        }
        self.metrics.write();
    }
}

/// Time for the requests to the store of one decision, which is due within a second. After it, the
/// decision is made without the store.
const DECISION_TIMEOUT: Duration = Duration::from_millis(900);
/// Time that a call waits for the settling of ended windows. The next call continues it.
const SETTLE_TIMEOUT: Duration = Duration::from_millis(300);
/// Time for the settling at shutdown, out of the half second after Lambda's signal, so that the metrics
/// are written whatever the store does.
const SHUTDOWN_TIMEOUT: Duration = Duration::from_millis(400);

/// Returns the SDK's configuration for the authorizer: a timeout for each request, and no retries by
/// the SDK. The circuit breaker retries instead.
#[must_use]
pub fn single_requests(sdk: SdkConfig) -> SdkConfig {
    let timeouts = TimeoutConfig::builder()
        .connect_timeout(circuit_breaker::REQUEST_TIMEOUT)
        .operation_timeout(circuit_breaker::REQUEST_TIMEOUT)
        .build();
    sdk.into_builder()
        .retry_config(RetryConfig::disabled())
        .timeout_config(timeouts)
        .build()
}

/// Decides one call, within a second.
///
/// # Errors
/// When the key is not valid, or the store is unavailable and the plan fails closed.
pub async fn handle(
    app: &App,
    request: &Request<'_>,
) -> Result<AuthorizerResponse, AuthorizeError> {
    let now = ClockReading {
        wall: app.clock.now(),
        monotonic: Instant::now(),
    };
    // Concurrent with every decision, whatever its outcome: this may be the instance's last invocation.
    let settling = app.leases.settle_ended(now.wall);
    let settling = timeout_at(now.monotonic + SETTLE_TIMEOUT, settling);
    let (decided, _) = future::join(decide_call(app, request, now), settling).await;
    let latency_us = u64::try_from(now.monotonic.elapsed().as_micros()).unwrap_or(u64::MAX);
    let reason = decided.as_ref().map(|decided| decided.reason);
    let is_admitted = matches!(
        reason,
        Ok(DecisionReason::WithinLimits | DecisionReason::StoreUnavailable)
    );
    let is_without_store = matches!(
        reason,
        Ok(DecisionReason::StoreUnavailable) | Err(AuthorizeError::Unavailable)
    );
    let is_by_stale_key = decided.as_ref().is_ok_and(|decided| decided.by_stale_key);
    let records: [Option<metrics::Record>; 5] = [
        Some((metrics::DECISION_LATENCY, &[], latency_us)),
        Some((metrics::DECISIONS, dimensions(reason), 1)),
        is_admitted.then_some((metrics::ADMITTED_CALLS, &[], 1)),
        is_without_store.then_some((metrics::DECISIONS_WITHOUT_STORE, &[], 1)),
        is_by_stale_key.then_some((metrics::DECISIONS_BY_STALE_KEY, &[], 1)),
    ];
    app.metrics
        .record_and_write_due(records.into_iter().flatten());
    decided.map(|decided| decided.response)
}

/// A response, with the reason for it.
struct DecidedCall {
    response: AuthorizerResponse,
    reason: DecisionReason,
    by_stale_key: bool,
}

async fn decide_call(
    app: &App,
    request: &Request<'_>,
    at: ClockReading,
) -> Result<DecidedCall, AuthorizeError> {
    let now = at.wall;
    let deadline = at.monotonic + DECISION_TIMEOUT;
    let unavailable = |error: &dyn std::error::Error| {
        let request_id = &*request.request_id();
        tracing::error!(request_id, error = %Chain(error), "key or plans could not be read");
        AuthorizeError::Unavailable
    };
    let unauthorized = |reason: UnauthorizedReason, prefix: Option<&str>| {
        let request_id = &*request.request_id();
        tracing::info!(request_id, ?reason, key_prefix = prefix, "unauthorized");
        AuthorizeError::Unauthorized(reason)
    };

    let text = request
        .key()
        .ok_or_else(|| unauthorized(UnauthorizedReason::Missing, None))?;
    let key =
        ApiKey::parse(&text).map_err(|_| unauthorized(UnauthorizedReason::Malformed, None))?;
    let digest = key.digest();
    let invalid_key = |reason| unauthorized(reason, Some(key.prefix().as_str()));
    // The plans are nearly always cached; if not, they are read while the key is.
    let reading = future::join(app.keys.find(digest, at), app.plans.refresh());
    let found = before(deadline, async { reading.await.0 }).await;
    let (cached, by_stale_key) = match found {
        Ok(Some(cached)) => (cached, false),
        Ok(None) => return Err(invalid_key(UnauthorizedReason::Unknown)),
        Err(error) => match app.find_stale(digest, at) {
            Some(cached) => (cached, true),
            None => return Err(unavailable(&*error)),
        },
    };
    let record = &cached.record;
    match record.status(now) {
        KeyStatus::Active => {}
        KeyStatus::Suspended => return Err(invalid_key(UnauthorizedReason::Suspended)),
        KeyStatus::Expired => return Err(invalid_key(UnauthorizedReason::Expired)),
        KeyStatus::Revoked => return Err(invalid_key(UnauthorizedReason::Revoked)),
    }
    let decided = |access: Access, reason| DecidedCall {
        response: AuthorizerResponse::new(
            request,
            Arc::clone(&cached),
            access,
            Arc::clone(&app.settings),
        ),
        reason,
        by_stale_key,
    };
    let denied = |denial: Denial| {
        let key_prefix = record.prefix.as_str();
        let request_id = &*request.request_id();
        tracing::info!(request_id, key_prefix, ?denial, "denied");
        Ok(decided(
            Access::Denied(denial),
            DecisionReason::Denied(denial),
        ))
    };
    if record.owner == Owner::Admin {
        return Ok(decided(Access::Uncounted, DecisionReason::Uncounted));
    }
    let Some(customer) = &cached.customer else {
        tracing::error!(key_id = %record.id, "the key's customer does not exist");
        return denied(Denial::NoPlan);
    };
    if customer.erased_at.is_some() {
        return Err(invalid_key(UnauthorizedReason::Revoked));
    }
    // Precedes all reasons to deny a customer, who can always read its usage, pay, and replace a key.
    if app.is_uncounted(request) {
        return Ok(decided(Access::Uncounted, DecisionReason::Uncounted));
    }
    if customer.suspended_at.is_some() {
        return denied(Denial::CustomerSuspended);
    }
    let plans = before(deadline, app.plans.with(&customer.plan, cached.read_at)).await;
    let plans = plans.map_err(|error| unavailable(&error))?;
    let month = Month::containing(now);
    let Some(plan) = plans.plan(&customer.plan, month, &customer.pins) else {
        let (customer, plan) = (&customer.id, &customer.plan);
        tracing::error!(%customer, %plan, "the customer's plan does not exist");
        return denied(Denial::NoPlan);
    };

    let limits = plan.limits(&record.overrides);
    let call = CountedCall {
        key: record.hour_counter_id(),
        customer: &customer.id,
        now,
        deadline,
    };
    let counting = app.leases.count(call, limits, plan.max_lease.get());
    let counted = match before(deadline, counting).await {
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
                return Err(AuthorizeError::Unavailable);
            }
            app.leases.record_uncounted(call);
            return Ok(decided(Access::Uncounted, DecisionReason::StoreUnavailable));
        }
    };
    if let (Some(calls), Some(included)) = (counted.in_month(limits), plan.included()) {
        let customer = &customer.id;
        let usage = MonthUsage {
            customer,
            plan: &plan.id,
            month,
            calls,
            included,
        };
        app.thresholds.announce(usage, now, deadline).await;
    }
    let decision = decide(now, limits, counted);
    let reason = match decision {
        Decision::Allow { .. } => DecisionReason::WithinLimits,
        Decision::Deny { by, .. } => {
            tracing::info!(
                request_id = &*request.request_id(),
                key_prefix = record.prefix.as_str(),
                window = by.window.as_str(),
                "limit reached"
            );
            DecisionReason::LimitReached(by.window)
        }
    };
    Ok(decided(Access::Counted(now, decision), reason))
}

/// Awaits a result of the store until `deadline`. A write that was sent by then may still take effect:
/// its units are then reserved, and the next reservation finds them.
async fn before<T, E: From<StoreUnavailable>>(
    deadline: Instant,
    result: impl Future<Output = Result<T, E>>,
) -> Result<T, E> {
    let in_time = timeout_at(deadline, result).await;
    in_time.unwrap_or_else(|_| Err(StoreUnavailable::TimedOut.into()))
}

impl App {
    /// Returns a stale key, if the store is unavailable and the customer's plan fails open.
    fn find_stale(&self, digest: KeyDigest, at: ClockReading) -> Option<Arc<CachedKey>> {
        let cached = self.keys.find_stale(digest, at)?;
        let customer = cached.customer.as_ref()?;
        let plans = self.plans.last_read()?;
        let month = Month::containing(at.wall);
        let plan = plans.plan(&customer.plan, month, &customer.pins)?;
        (plan.fail_mode == FailMode::Open).then_some(cached)
    }

    fn is_uncounted(&self, request: &Request<'_>) -> bool {
        config::is_uncounted(&self.settings.uncounted, &request.resource)
    }
}
