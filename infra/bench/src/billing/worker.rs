//! The rate at which two charge workers send requests to Stripe.

use std::cell::RefCell;
use std::collections::{BTreeMap, HashSet, VecDeque};
use std::net::Ipv4Addr;
use std::time::{Duration, Instant};

use http::Request;
use hyper::body::Bytes;
use jiff::{SignedDuration, Timestamp};
use serde::Serialize;
use serde_json::{Value, json};
use stripe_fake::{LoggedRequest, Options, StripeFake};
use tokio::runtime::Builder;
use tollgate_domain::submission::{ATTEMPT_TIMEOUT, ChargeRef};
use tollgate_local_aws::LocalAws;
use tollgate_runtime::{Clock, Entropy, env};
use tollgate_store::{BeginOutcome, Store};

use super::{BillingError, Functions, SECRET, planner, seed};
use crate::contender::Process;
use crate::dynamodb::DynamoDb;
use crate::run::progress;
use crate::tables::STACK;

/// Requests a second that all workers together may send: the template's default.
pub(crate) const RATE: f64 = 15.0;
/// Workers at a time: the maximum concurrency of the queue.
const WORKERS: usize = 2;
/// Messages of an invocation, as in the template.
const BATCH: usize = 10;
/// Time of an invocation, as in the template.
const TIMEOUT: Duration = Duration::from_secs(300);
/// Seconds of a part of a measurement.
const BUCKET_S: i64 = 10;
/// Time for which the workers run before and after the measured time.
const MARGIN: Duration = Duration::from_secs(5);
const KEY: &str = "sk_test_stripe_fake";

/// Rate of the workers with one kind of charges.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Case {
    pub(crate) name: &'static str,
    pub(crate) seconds: u64,
    /// Requests a second, in each ten seconds.
    pub(crate) rates: Vec<f64>,
    /// Requests by method and path, in the measured time.
    pub(crate) requests: BTreeMap<String, u64>,
    /// Charges that the workers submitted, before and after the measured time too.
    pub(crate) charges: usize,
}

impl Case {
    pub(crate) fn min(&self) -> f64 {
        self.rates.iter().copied().fold(f64::INFINITY, f64::min)
    }

    pub(crate) fn max(&self) -> f64 {
        self.rates.iter().copied().fold(0.0, f64::max)
    }

    pub(crate) fn mean(&self) -> f64 {
        self.rates.iter().sum::<f64>() / self.rates.len() as f64
    }
}

/// Measures the rate with charges that no worker has tried, and with charges of unknown outcome.
pub(super) async fn measure(
    functions: &Functions,
    time: Duration,
) -> Result<Vec<Case>, BillingError> {
    // A charge that was tried takes two requests, and one that was not takes one.
    let requests = (time + 2 * MARGIN).as_secs_f64() * RATE * 1.2;
    let (new, tried) = (requests as usize + 100, requests as usize / 2 + 100);
    progress(&format!("charging {} customers", new + tried));
    let stripe = StripeFake::new(Options {
        keeps_log: true,
        ..Options::new(Timestamp::now)
    });
    let url = serve(&stripe)?;
    let aws = seed::services_with_plan().await?;
    aws.set_secret(SECRET, KEY);
    let mut stripe_customers = Vec::with_capacity(new + tried);
    for _ in 0..new + tried {
        stripe_customers.push(create_stripe_customer(&stripe).await?);
    }
    seed::customers(&aws, new + tried, 0, &stripe_customers).await?;
    let endpoint = DynamoDb::start(aws.clone(), &functions.dir)?;
    let planner = functions.planner()?;
    let mut process = planner.start_for(&endpoint, TIMEOUT).await?;
    planner::run(&planner, &mut process, &endpoint, &aws).await?;
    process.shut_down().await?;
    let queue = planner::queue(&planner, &aws, env::CHARGE_QUEUE.name)?;
    let messages = queue.receive(new + tried)?.into_iter();
    let mut new_charges: VecDeque<String> = messages.map(|message| message.body).collect();
    let tried_charges = new_charges.split_off(new);
    begin(&aws, &tried_charges).await?;

    let mut workers = Vec::with_capacity(WORKERS);
    for number in 1..=WORKERS {
        let worker = functions.worker(number, &url)?;
        workers.push(worker.start_for(&endpoint, TIMEOUT).await?);
    }
    let mut cases = Vec::new();
    for (name, charges) in [
        ("new charges, each one request", new_charges),
        (
            "charges of unknown outcome, each two requests",
            tried_charges,
        ),
    ] {
        progress(&format!("measuring the rate: {name}"));
        cases.push(rate(name, &mut workers, &stripe, charges, time).await?);
    }
    for worker in workers {
        worker.shut_down().await?;
    }
    check_each_once(&stripe, cases.iter().map(|case| case.charges).sum())?;
    Ok(cases)
}

/// Serves the stand-in on a thread of its own, until the program exits. Returns its URL.
fn serve(stripe: &StripeFake) -> Result<String, BillingError> {
    let failed = |error: std::io::Error| BillingError::Stripe(error.to_string());
    let listener = std::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).map_err(failed)?;
    listener.set_nonblocking(true).map_err(failed)?;
    let url = format!("http://{}", listener.local_addr().map_err(failed)?);
    let runtime = Builder::new_current_thread().enable_all().build();
    let (runtime, stripe) = (runtime.map_err(failed)?, stripe.clone());
    let run = move || {
        runtime.block_on(async {
            match tokio::net::TcpListener::from_std(listener) {
                Ok(listener) => match stripe_fake::serve(listener, stripe).await {},
                Err(error) => eprintln!("bench: the stand-in for Stripe failed: {error}"),
            }
        });
    };
    let thread = std::thread::Builder::new().name("stripe".to_owned());
    thread.spawn(run).map_err(failed)?;
    Ok(url)
}

async fn create_stripe_customer(stripe: &StripeFake) -> Result<String, BillingError> {
    let failed = |error: &dyn std::fmt::Display| BillingError::Stripe(error.to_string());
    let request = Request::post("/v1/customers")
        .header("authorization", format!("Bearer {KEY}"))
        .body(Bytes::from_static(b"name=Bench"));
    let request = request.map_err(|error| failed(&error))?;
    let response = stripe.send(request).await.map_err(|error| failed(&error))?;
    let created: Value = serde_json::from_slice(response.body())?;
    let id = created["id"].as_str().map(str::to_owned);
    id.ok_or_else(|| BillingError::Stripe(created.to_string()))
}

/// Begins an attempt to submit each charge, of which nothing was heard since: its outcome is unknown.
async fn begin(aws: &LocalAws, messages: &VecDeque<String>) -> Result<(), BillingError> {
    let long_ago = || {
        let ago = ATTEMPT_TIMEOUT + SignedDuration::from_secs(60);
        let then = Timestamp::now().saturating_sub(ago);
        then.unwrap_or(Timestamp::UNIX_EPOCH)
    };
    let clock = Clock::from_fn(long_ago);
    let store = Store::new(&aws.sdk_config(), STACK, clock, Entropy::seeded(2));
    for message in messages {
        let body: Value = serde_json::from_str(message)?;
        let wrong = || BillingError::Wrong(format!("{body} is no charge of ours"));
        let name = body["charge"].as_str().and_then(|name| name.parse().ok());
        let name: ChargeRef = name.ok_or_else(wrong)?;
        let charge = store.charge(&name).await?.ok_or_else(wrong)?;
        let customer = store.customer(&name.customer).await?;
        let recipient = customer.and_then(|customer| customer.recipient);
        let recipient = recipient.ok_or_else(wrong)?;
        match store.begin_submission(&charge, &recipient).await? {
            BeginOutcome::Begun(_) => {}
            BeginOutcome::Raced => return Err(wrong()),
        }
    }
    Ok(())
}

/// Lets the workers submit charges, and counts the requests that the stand-in gets.
async fn rate(
    name: &'static str,
    workers: &mut [Process],
    stripe: &StripeFake,
    charges: VecDeque<String>,
    time: Duration,
) -> Result<Case, BillingError> {
    let all = charges.len();
    let charges = RefCell::new(charges);
    stripe.take_log();
    let until = Instant::now() + time + 2 * MARGIN;
    let [first, second] = workers else {
        return Err(BillingError::Wrong("there are not two workers".to_owned()));
    };
    let (first, second) = tokio::join!(
        submit(first, &charges, until),
        submit(second, &charges, until)
    );
    first?;
    second?;
    let log = stripe.take_log();
    let began = log.first().map_or(0, |request| request.time);
    let margin = i64::try_from(MARGIN.as_secs()).unwrap_or(0);
    let seconds = time.as_secs();
    let (rates, requests) = count(&log, began + margin, seconds)?;
    Ok(Case {
        name,
        seconds,
        rates,
        requests,
        charges: all - charges.borrow().len(),
    })
}

/// Invokes a worker with batch after batch, as the queue does.
async fn submit(
    worker: &mut Process,
    charges: &RefCell<VecDeque<String>>,
    until: Instant,
) -> Result<(), BillingError> {
    while Instant::now() < until {
        let batch: Vec<Value> = {
            let mut charges = charges.borrow_mut();
            let count = charges.len().min(BATCH);
            let bodies = charges.drain(..count).enumerate();
            bodies
                .map(|(at, body)| json!({ "messageId": at.to_string(), "body": body }))
                .collect()
        };
        if batch.is_empty() {
            return Err(BillingError::Wrong("there are too few charges".to_owned()));
        }
        let event = json!({ "Records": batch }).to_string();
        let invocation = worker.invoke(&Bytes::from(event)).await?;
        let response: Value = serde_json::from_slice(&invocation.response)?;
        if response != json!({ "batchItemFailures": [] }) {
            return Err(BillingError::Wrong(response.to_string()));
        }
    }
    Ok(())
}

type Counted = (Vec<f64>, BTreeMap<String, u64>);

/// Returns the rate in each part of the measured time, and the requests in all of it.
fn count(log: &[LoggedRequest], from: i64, seconds: u64) -> Result<Counted, BillingError> {
    let parts = i64::try_from(seconds).unwrap_or(0) / BUCKET_S;
    let mut buckets = vec![0_u32; usize::try_from(parts).unwrap_or(0)];
    let mut requests = BTreeMap::new();
    for request in log {
        let Ok(bucket) = usize::try_from((request.time - from).div_euclid(BUCKET_S)) else {
            continue;
        };
        let Some(count) = buckets.get_mut(bucket) else {
            continue;
        };
        if request.status != Some(200) {
            return Err(BillingError::Stripe(format!("{request:?}")));
        }
        *count += 1;
        let name = format!("{} {}", request.method, request.path);
        *requests.entry(name).or_default() += 1;
    }
    let rates = buckets.into_iter().map(|count| f64::from(count) / 10.0);
    Ok((rates.collect(), requests))
}

/// Checks that each submitted charge is at the stand-in once.
fn check_each_once(stripe: &StripeFake, submitted: usize) -> Result<(), BillingError> {
    let items = stripe.invoice_items();
    let names = items
        .iter()
        .map(|item| item["metadata"]["tollgate_charge"].to_string());
    let names: HashSet<String> = names.collect();
    if (items.len(), names.len()) == (submitted, submitted) {
        return Ok(());
    }
    let (items, names) = (items.len(), names.len());
    let wrong = format!("{submitted} charges are {items} invoice items of {names} charges");
    Err(BillingError::Wrong(wrong))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(time: i64, method: &str) -> LoggedRequest {
        LoggedRequest {
            time,
            method: method.to_owned(),
            path: "/v1/invoiceitems".to_owned(),
            status: Some(200),
            is_replay: false,
        }
    }

    #[test]
    fn requests_are_counted_in_parts_of_ten_seconds() {
        let log = [
            request(99, "POST"),
            request(100, "POST"),
            request(109, "POST"),
            request(110, "GET"),
            request(120, "POST"),
        ];
        let (rates, requests) = count(&log, 100, 20).unwrap();
        assert_eq!(rates, [0.2, 0.1]);
        let expected = [("GET /v1/invoiceitems", 1), ("POST /v1/invoiceitems", 2)];
        let expected = expected.map(|(name, count)| (name.to_owned(), count));
        assert_eq!(requests, BTreeMap::from(expected));
        let mut lost = request(100, "POST");
        lost.status = None;
        count(&[lost], 100, 20).unwrap_err();
    }
}
