//! The nightly run.
//!
//! It is repeatable at any point. If its time runs short, it sends the position to a queue that invokes the
//! function again.

use aws_lambda_events::sqs::SqsEvent;
use jiff::{SignedDuration, Timestamp};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use tollgate_api::billing::BillingRun;
use tollgate_billing::{Billing, DuePosition, Mode, Part, Position, due_charges, run};
use tollgate_domain::event::{Event, RunTotals};
use tollgate_domain::money::SignedCents;
use tollgate_payments::{ChargeMessage, FollowUpMessage, Queue, QueueError};
use tollgate_runtime::config::InvalidConfig;
use tollgate_runtime::{Init, env, metrics};
use tollgate_store::StoreError;

/// Time before the end of an invocation at which the run stops, so that what it has begun can end.
const MARGIN: SignedDuration = SignedDuration::from_secs(60);

/// State of a billing instance. Cheap to clone; clones share it.
#[derive(Debug, Clone)]
pub struct App {
    /// Runs billing.
    pub billing: Billing,
    /// Queue of the charge worker; `None` if there is no payment provider.
    pub charges: Option<Queue>,
    /// Queue of Stripe's events, to whose worker customers are named that are to be followed up; `None` if there is no
    /// payment provider.
    pub events: Option<Queue>,
    /// Whether events of Stripe arrive. Otherwise nothing would report a later change of a subscription that a customer
    /// was made to follow once, and customers follow none.
    pub has_events: bool,
    /// Queue that continues a run.
    pub runs: Queue,
}

impl App {
    /// Builds the state of a new instance.
    ///
    /// # Errors
    /// When the environment lacks the tables or the queues.
    pub fn build(init: &Init) -> Result<Self, InvalidConfig> {
        let queue = |var| Ok::<_, InvalidConfig>(Queue::new(&init.sdk, init.env.get(var)?));
        let is_configured = !init.env.get(env::STRIPE_SECRET)?.is_empty();
        let of_provider = |var| is_configured.then(|| queue(var)).transpose();
        Ok(Self {
            billing: Billing::build(init)?,
            charges: of_provider(env::CHARGE_QUEUE)?,
            events: of_provider(env::STRIPE_EVENT_QUEUE)?,
            has_events: !init.env.get(env::STRIPE_EVENT_SOURCES)?.is_empty(),
            runs: queue(env::BILLING_RUN_QUEUE)?,
        })
    }
}

/// Position in a run: what is left of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Progress {
    /// Billing periods are left, and then all charges are to be queued.
    Bill(Position),
    /// Charges are left to be queued, and then all customers to be followed up.
    Queue(DuePosition),
    /// Customers are left to be followed up, after this cursor.
    FollowUp(Option<String>),
}

/// Message that continues a run.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Continuation {
    /// Rest of the run.
    #[serde(flatten)]
    pub rest: Progress,
    /// Sums of the earlier parts. Messages of earlier releases have none.
    #[serde(default)]
    pub so_far: Option<RunTotals>,
}

/// Error of a billing run in which some billing periods could not be billed. All others were.
#[derive(Debug, thiserror::Error)]
#[error("{0} billing periods could not be billed; the next run tries again")]
pub struct Incomplete(u64);

/// Error of a scheduled billing run.
#[derive(Debug, thiserror::Error)]
pub enum BillingRunError {
    /// The list of customers could not be read, or the end of the run not be announced.
    #[error("the run could not be finished")]
    Store(#[from] StoreError),
    /// Charges were not queued. They are in the ledger, and the next run queues them.
    #[error("charges could not be queued")]
    Queue(#[from] QueueError),
    /// The message is not the position of a run.
    #[error("the message is not the position of a run")]
    Message(#[from] serde_json::Error),
    /// Some customers could not be billed.
    #[error(transparent)]
    Incomplete(#[from] Incomplete),
}

/// Returns the message of the queue that continues runs, or `None` for the schedule's event.
///
/// # Errors
/// When there is a message that is not a position.
fn continuation(event: &Value) -> Result<Option<Continuation>, BillingRunError> {
    if event.get("Records").is_none() {
        return Ok(None);
    }
    let event: SqsEvent = serde_json::from_value(event.clone())?;
    let message = event.records.into_iter().next();
    let body = message.and_then(|message| message.body);
    Ok(body.map(|body| serde_json::from_str(&body)).transpose()?)
}

/// Handles the nightly schedule, or a message that continues a run. Fails if any billing period could not be
/// billed, so that Lambda retries the run and an alarm is raised.
///
/// # Errors
/// When the run could not be finished, or some billing periods could not be billed.
pub async fn handle(
    app: &App,
    event: &Value,
    deadline: Option<Timestamp>,
) -> Result<BillingRun, BillingRunError> {
    let until = deadline.and_then(|deadline| deadline.saturating_sub(MARGIN).ok());
    let (from, so_far) = match continuation(event)? {
        Some(Continuation { rest, so_far }) => (Some(rest), so_far),
        None => (None, None),
    };
    let (report, rest) = next_part(app, from, until).await?;
    // Lambda's retries of an invocation have the event of the first.
    let scheduled_at = event["time"].as_str().and_then(|time| time.parse().ok());
    let now = app.billing.clock.now();
    let mut totals = so_far.unwrap_or_else(|| no_totals(scheduled_at.unwrap_or(now)));
    add(&mut totals, &report);
    if let Some(rest) = rest {
        tracing::info!(?rest, "the run is to be continued");
        let so_far = Some(totals);
        app.runs.send(&[Continuation { rest, so_far }]).await?;
    } else {
        announce(app, &totals).await?;
        app.billing.metrics.record(metrics::BILLING_RUNS, &[], 1);
        app.billing.metrics.write();
    }
    tracing::info!(
        billing_periods = report.billing_periods,
        charge_count = report.charge_count,
        cents = report.cents.0,
        failed = report.failed,
        "billing run finished"
    );
    if report.failed > 0 {
        return Err(Incomplete(report.failed).into());
    }
    Ok(report)
}

fn no_totals(scheduled_at: Timestamp) -> RunTotals {
    RunTotals {
        scheduled_at,
        billing_periods: 0,
        charge_count: 0,
        cents: SignedCents(0),
        failed: 0,
    }
}

/// Adds what a part of a run did.
fn add(totals: &mut RunTotals, part: &BillingRun) {
    totals.billing_periods += part.billing_periods;
    totals.charge_count += part.charge_count;
    totals.cents.0 = totals.cents.0.saturating_add(part.cents.0);
    totals.failed += part.failed;
}

/// Records the event of a run that has ended.
async fn announce(app: &App, totals: &RunTotals) -> Result<(), StoreError> {
    let event = Event::billing_run_completed(totals, app.billing.clock.now());
    app.billing.store.record_event(&event).await
}

/// Announces the end of a run that was made in one part, by [`next_part`].
///
/// # Errors
/// When the store fails.
pub async fn announce_whole(app: &App, report: &BillingRun) -> Result<(), BillingRunError> {
    let mut totals = no_totals(app.billing.clock.now());
    add(&mut totals, report);
    Ok(announce(app, &totals).await?)
}

/// Runs billing from a position on until a time. Returns what is left.
///
/// # Errors
/// When the store or the queue fails. What was written or queued before remains.
pub async fn next_part(
    app: &App,
    from: Option<Progress>,
    until: Option<Timestamp>,
) -> Result<(BillingRun, Option<Progress>), BillingRunError> {
    let (from, due) = match from {
        None => (Some(None), Some(DuePosition::default())),
        Some(Progress::Bill(position)) => (Some(Some(position)), Some(DuePosition::default())),
        Some(Progress::Queue(position)) => (None, Some(position)),
        Some(Progress::FollowUp(cursor)) => {
            let rest = follow_up(app, cursor, until).await?;
            return Ok((BillingRun::default(), rest));
        }
    };
    let mut report = BillingRun::default();
    if let Some(from) = from {
        // Boxed, because the compiler bounds the depth of a future's type.
        let run = Box::pin(run(&app.billing, Mode::Charge, Part { from, until }));
        let (part, rest) = run.await?;
        report = part;
        if let Some(position) = rest {
            return Ok((report, Some(Progress::Bill(position))));
        }
    }
    if let (Some(queue), Some(due)) = (&app.charges, due)
        && let Some(rest) = queue_charges(app, queue, due, until).await?
    {
        return Ok((report, Some(Progress::Queue(rest))));
    }
    let rest = follow_up(app, None, until).await?;
    Ok((report, rest))
}

/// Queues all charges that are due. Returns the position if the time is over.
async fn queue_charges(
    app: &App,
    queue: &Queue,
    mut due: DuePosition,
    until: Option<Timestamp>,
) -> Result<Option<DuePosition>, BillingRunError> {
    loop {
        let now = app.billing.clock.now();
        let (charges, next) = due_charges(&app.billing.store, now, due).await?;
        let messages: Vec<ChargeMessage> = charges
            .iter()
            .map(|charge| ChargeMessage {
                charge: charge.id(),
            })
            .collect();
        queue.send(&messages).await?;
        match next {
            None => return Ok(None),
            Some(next) if until.is_some_and(|until| now >= until) => return Ok(Some(next)),
            Some(next) => due = next,
        }
    }
}

/// Names all customers whose follow-up is due to the worker of Stripe's events; without events, only those with an invoice
/// to make. Returns what is left if the time is over. A follow-up stays in the table until the worker has done it, so that
/// the next run names it again.
async fn follow_up(
    app: &App,
    mut cursor: Option<String>,
    until: Option<Timestamp>,
) -> Result<Option<Progress>, BillingRunError> {
    let Some(queue) = &app.events else {
        return Ok(None);
    };
    loop {
        let now = app.billing.clock.now();
        let page = app.billing.store.follow_ups(cursor.as_deref()).await?;
        let has_later = page.items.iter().any(|(_, it)| it.due > now);
        let due = page.items.into_iter().map(|(_, follow_up)| follow_up);
        let messages: Vec<FollowUpMessage> = due
            .filter(|it| it.due <= now && (app.has_events || it.stripe_customer.is_some()))
            .map(|follow_up| FollowUpMessage {
                follow_up: follow_up.customer,
                stripe_customer: follow_up.stripe_customer,
            })
            .collect();
        queue.send(&messages).await?;
        match page.next {
            Some(next) if !has_later => cursor = Some(next),
            _ => return Ok(None),
        }
        if until.is_some_and(|until| now >= until) {
            return Ok(Some(Progress::FollowUp(cursor)));
        }
    }
}
