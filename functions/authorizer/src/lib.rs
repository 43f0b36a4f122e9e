//! The authorizer: API Gateway asks it on every call whose key it is, and whether its limits allow
//! it.
//!
//! Input and output are those of a REST API's REQUEST authorizer
//! (<https://docs.aws.amazon.com/apigateway/latest/developerguide/apigateway-use-lambda-authorizer.html>):
//! an event with the request's header fields in, a policy with a context out. An `Unauthorized`
//! error makes the gateway answer 401, a denying policy 429 by way of the template's gateway
//! responses, any other error 503.

mod cache;
mod event;
mod verdict;

use std::sync::Arc;
use std::time::Duration;

use tokio::time::error::Elapsed;
use tokio::time::{Instant, timeout_at};
use tollgate_domain::caller::{self, Caller, Context, Identity};
use tollgate_domain::customer::Customer;
use tollgate_domain::decision::{Counted, Decision, decide};
use tollgate_domain::key::{ApiKey, KeyRecord, KeyStatus, Owner};
use tollgate_domain::plan::{Catalog, Plan, StoreDown};
use tollgate_runtime::{Chain, Clock, Metrics, metrics};
use tollgate_store::{Store, StoreError};

pub use cache::KeyCache;
pub use event::{Answer, Request};
pub use verdict::{Cause, NoGoodKey, Refused};
use verdict::{Grounds, dimensions};

/// What a decision is made with.
#[derive(Debug, Clone)]
pub struct App {
    /// Keys and customers, as they were a moment ago.
    pub keys: KeyCache,
    /// The counters.
    pub store: Store,
    /// The limits of each plan.
    pub plans: Catalog,
    /// Beginnings of route templates that need a good key, and count towards no limit.
    pub uncounted: Vec<String>,
    /// Decides what has expired, and in which window a call counts.
    pub clock: Clock,
    /// Decisions are counted here.
    pub metrics: Metrics,
}

/// A decision is due within a second. What the store has not answered by then, it is made without.
const DECIDED_WITHIN: Duration = Duration::from_millis(900);

/// Why the store had no part in a decision.
#[derive(Debug, thiserror::Error)]
enum NoAnswer {
    #[error(transparent)]
    Counting(#[from] StoreError),
    #[error(transparent)]
    Reading(#[from] Arc<StoreError>),
    #[error("the store did not answer in time")]
    Late(#[from] Elapsed),
}

/// What the store answers before `deadline`. What it has begun by then may still take effect: a
/// call is then counted and not let in, which no limit minds.
async fn in_time<T, E>(
    deadline: Instant,
    answer: impl Future<Output = Result<T, E>>,
) -> Result<T, NoAnswer>
where
    NoAnswer: From<E>,
{
    Ok(timeout_at(deadline, answer).await??)
}

/// Decides one call, within a second.
///
/// # Errors
/// When there is no good key, or nothing can be decided.
pub async fn handle(app: &App, request: &Request<'_>) -> Result<Answer, Refused> {
    let started = Instant::now();
    let decided = decide_call(app, request, started + DECIDED_WITHIN).await;
    let took = u64::try_from(started.elapsed().as_micros()).unwrap_or(u64::MAX);
    app.metrics.record(metrics::DECISION_LATENCY, &[], took);
    let grounds = decided.as_ref().map(|(_, grounds)| *grounds);
    app.metrics
        .record(metrics::DECISIONS, dimensions(grounds), 1);
    if matches!(grounds, Ok(Grounds::WithinLimits | Grounds::StoreDown)) {
        app.metrics.record(metrics::CALLS_ADMITTED, &[], 1);
    }
    let store_down = Refused::Unavailable(Cause::StoreDown);
    if matches!(grounds, Ok(Grounds::StoreDown)) || grounds.is_err_and(|e| *e == store_down) {
        app.metrics.record(metrics::DECISIONS_WITHOUT_STORE, &[], 1);
    }
    app.metrics.write_due();
    decided.map(|(answer, _)| answer)
}

async fn decide_call(
    app: &App,
    request: &Request<'_>,
    deadline: Instant,
) -> Result<(Answer, Grounds), Refused> {
    let now = app.clock.now();
    let unavailable = |error: NoAnswer| {
        let request_id = request.request_id();
        tracing::error!(request_id, error = %Chain(&error), "no decision");
        Refused::Unavailable(Cause::StoreDown)
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
    let known = in_time(deadline, app.keys.find(digest)).await;
    let known = known.map_err(unavailable)?;
    let bad_key = |reason| unauthorized(reason, Some(prefix.as_str()));
    let known = known.ok_or_else(|| bad_key(NoGoodKey::Unknown))?;
    let record = &known.record;
    match record.status(now) {
        KeyStatus::Active => {}
        KeyStatus::Expired => return Err(bad_key(NoGoodKey::Expired)),
        KeyStatus::Revoked => return Err(bad_key(NoGoodKey::Revoked)),
    }

    if record.owner == Owner::Admin {
        let context = context_of(record, Identity::Admin);
        let answer = Answer::allow(&record.id, request, context);
        return Ok((answer, Grounds::Uncounted));
    }
    let customer = known.customer.as_ref();
    let Some((customer, plan)) = customer.and_then(|customer| app.with_plan(customer)) else {
        tracing::error!(key_id = %record.id, "the key's customer or its plan does not exist");
        return Err(Refused::Unavailable(Cause::NoPlan));
    };
    let identity = Identity::Customer {
        id: customer.id.clone(),
        plan: plan.id.clone(),
    };
    let mut context = context_of(record, identity);
    if app.is_uncounted(request) {
        let answer = Answer::allow(&record.id, request, context);
        return Ok((answer, Grounds::Uncounted));
    }

    let limits = plan.limits(&record.overrides);
    let counting = app.store.count_call(&record.id, &customer.id, limits, now);
    let counted = match in_time(deadline, counting).await {
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
                let answer = Answer::allow(&record.id, request, context);
                Ok((answer, Grounds::StoreDown))
            } else {
                Err(Refused::Unavailable(Cause::StoreDown))
            };
        }
    };
    let taken = match counted {
        Counted::Both { .. } => 2,
        Counted::MonthFull => 1,
        Counted::HourFull => 0,
    };
    app.metrics.record(metrics::LEASES, &[], taken);
    match decide(now, limits, counted) {
        Decision::Admit { hour, month } => {
            caller::add_standing(&mut context, now, hour, month);
            let answer = Answer::allow(&record.id, request, context);
            Ok((answer, Grounds::WithinLimits))
        }
        Decision::Refuse { by } => {
            tracing::info!(
                request_id = request.request_id(),
                key_prefix = prefix.as_str(),
                window = by.window.as_str(),
                "over the limit"
            );
            context.extend(caller::refusal_context(now, by));
            let answer = Answer::deny(&record.id, request, context);
            Ok((answer, Grounds::Full(by.window)))
        }
    }
}

fn context_of(record: &KeyRecord, identity: Identity) -> Context {
    let caller = Caller {
        identity,
        key_id: record.id.clone(),
        key_prefix: record.prefix.clone(),
    };
    caller.to_context()
}

impl App {
    fn with_plan<'a>(&'a self, customer: &'a Customer) -> Option<(&'a Customer, &'a Plan)> {
        let plan = self.plans.get(&customer.plan)?;
        Some((customer, plan))
    }

    fn is_uncounted(&self, request: &Request<'_>) -> bool {
        let mut prefixes = self.uncounted.iter();
        prefixes.any(|prefix| request.resource.starts_with(prefix.as_str()))
    }
}
