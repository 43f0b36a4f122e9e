//! Nightly runs over many customers, of whom few owe.

use std::time::{Duration, Instant};

use hyper::body::Bytes;
use serde::Serialize;
use serde_json::{Value, json};
use tollgate_local_aws::LocalAws;
use tollgate_runtime::env;

use super::{BillingError, Functions, ONE_OWES_OF, SECRET, seed};
use crate::contender::{Contender, Process};
use crate::dynamodb::{Counts, DynamoDb};
use crate::run::progress;

const SCHEDULE: &str = include_str!("../../../../events/billing/schedule.json");
/// Time of an invocation, as in the template.
const TIMEOUT: Duration = Duration::from_secs(900);
/// Most invocations of a run.
const MAX_PARTS: usize = 20;

/// Nightly runs over some number of customers.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Measured {
    pub(crate) customers: usize,
    pub(crate) owing: usize,
    pub(crate) written_items: usize,
    /// Run in which each customer who owes is charged.
    pub(crate) first: Run,
    /// Run in which nothing more is due.
    pub(crate) second: Run,
    /// Peak resident memory of the process, in bytes, after both runs.
    pub(crate) peak_bytes: u64,
    /// Peak resident memory before the first run.
    pub(crate) initial_bytes: u64,
}

/// One run.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Run {
    pub(crate) seconds: f64,
    pub(crate) invocations: usize,
    pub(crate) charges: u64,
    pub(crate) queued: u64,
    pub(crate) counts: Counts,
}

impl Run {
    /// Returns the number of requests that read.
    pub(crate) fn reads(&self) -> u64 {
        self.counts.reads()
    }
}

/// Measures two runs over `customers` customers.
pub(super) async fn measure(
    functions: &Functions,
    customers: usize,
) -> Result<Measured, BillingError> {
    let owing = customers / ONE_OWES_OF;
    progress(&format!(
        "creating {customers} customers, of whom {owing} owe"
    ));
    let aws = seed::services_with_plan().await?;
    aws.set_secret(SECRET, "sk_test_stripe_fake");
    let written_items = seed::customers(&aws, owing, customers - owing, &[]).await?;
    progress(&format!("billing {customers} customers"));
    let endpoint = DynamoDb::start(aws.clone(), &functions.dir)?;
    endpoint.measure_capacity(true);
    let contender = functions.planner()?;
    let mut process = contender.start_for(&endpoint, TIMEOUT).await?;
    let initial_bytes = process.memory()?.peak;
    let first = run(&contender, &mut process, &endpoint, &aws).await?;
    let second = run(&contender, &mut process, &endpoint, &aws).await?;
    let charges = (first.charges, second.charges);
    if charges != (owing as u64, 0) || first.queued != owing as u64 {
        let wrong = format!("{owing} owe; charges and messages are {first:?}, {second:?}");
        return Err(BillingError::Wrong(wrong));
    }
    let peak_bytes = process.memory()?.peak;
    process.shut_down().await?;
    Ok(Measured {
        customers,
        owing,
        written_items,
        first,
        second,
        peak_bytes,
        initial_bytes,
    })
}

/// Invokes the function as the schedule does, and then as its own messages do, until the run is finished. The queued
/// charges are taken away.
pub(super) async fn run(
    contender: &Contender,
    process: &mut Process,
    endpoint: &DynamoDb,
    aws: &LocalAws,
) -> Result<Run, BillingError> {
    let runs = queue(contender, aws, env::BILLING_RUN_QUEUE.name)?;
    let queued = queue(contender, aws, env::CHARGE_QUEUE.name)?;
    let earlier = endpoint.counts();
    let queued_before = queued.counts()?.queued;
    let (began, mut charges) = (Instant::now(), 0);
    let mut event = Bytes::from_static(SCHEDULE.as_bytes());
    for invocations in 1..=MAX_PARTS {
        let invocation = process.invoke(&event).await?;
        let report: Value = serde_json::from_slice(&invocation.response)?;
        if report["failed"] != 0 {
            return Err(BillingError::Wrong(report.to_string()));
        }
        charges += report["charge_count"].as_u64().unwrap_or(0);
        let Some(message) = runs.receive(1)?.pop() else {
            return Ok(Run {
                seconds: began.elapsed().as_secs_f64(),
                invocations,
                charges,
                queued: queued.counts()?.queued - queued_before,
                counts: endpoint.counts().since(&earlier),
            });
        };
        runs.delete(&[message.id])?;
        let record = json!({ "messageId": message.id.to_string(), "body": message.body });
        event = Bytes::from(json!({ "Records": [record] }).to_string());
    }
    Err(BillingError::Wrong("the run does not end".to_owned()))
}

/// Returns the queue whose URL is in a variable of the function.
pub(super) fn queue(
    contender: &Contender,
    aws: &LocalAws,
    variable: &str,
) -> Result<std::sync::Arc<tollgate_local_aws::Queue>, BillingError> {
    let mut variables = contender.variables.iter();
    let url = variables.find_map(|(name, value)| (name == variable).then_some(value));
    let name = url.and_then(|url| url.rsplit('/').next());
    let name = name.ok_or_else(|| BillingError::Wrong(format!("{variable} is not set")))?;
    Ok(aws.named_queue(name)?)
}
