//! Crash test: kills the program at random times under load, restarts it on the same data, and checks
//! that every call with a 200 response is metered exactly once.
//!
//! Only a call in progress at a kill may be metered or not. In Lambda, a call is in progress until its
//! flush has ended, which is after its response; here the flush comes first, so that there is no exception
//! for a call with a response.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::process::Stdio;
use std::sync::Arc;
use std::time::{Duration, Instant};

use http::StatusCode;
use hyper_util::client::legacy;
use jiff::Timestamp;
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt, BufReader, Lines};
use tokio::process::{Child, ChildStdout, Command};
use tokio::sync::Notify;
use tokio::task::JoinSet;
use tollgate_domain::id::{CustomerId, InvalidId, KeyId, random_base62};
use tollgate_domain::usage::{Aggregate, UsageData, UsageEvent, UsageRecord};
use tollgate_domain::window::{Day, Month};
use tollgate_runtime::{Entropy, env};
use tollgate_store::{Store, StoreError};

use crate::client::{Client, RequestError};
use crate::local_stack::{self, Options};
use crate::start_error::StartError;

/// Customers and their plans, whose monthly quotas are not exhausted by the test.
const CUSTOMERS: [(&str, &str); 3] = [("acme", "pro"), ("brio", "enterprise"), ("coda", "pro")];
/// Callers per customer, each with its own key and one call at a time.
const CALLERS: usize = 4;
/// Hourly limit that no caller reaches: this test is not about limits.
const CALLS_PER_HOUR: u64 = 10_000_000;
/// Maximum time from the first response of a process to its kill.
const LONGEST_LOAD_MS: u64 = 1_500;
/// Maximum pause between two drains of the queue, so that some kills happen during one.
const DRAIN_PAUSE_MS: u64 = 500;
/// Timeout for the next response to any caller.
const RESPONSE_TIMEOUT: Duration = Duration::from_secs(30);
const ADMIN_KEY: &str = "the-admin-key-of-the-crash-test";

/// Error that aborts the crash test.
#[derive(Debug, thiserror::Error)]
pub enum CrashError {
    /// The stack does not start for the check of its data.
    #[error("the local stack did not start on the data after the kills")]
    Start(#[from] StartError),
    /// The process, its data directory or the client fails.
    #[error("the program cannot be run")]
    Io(#[from] std::io::Error),
    /// The program ended, or did not print its URL.
    #[error("the program did not start, and printed {0:?}")]
    Greeting(String),
    /// No caller got a response within the timeout.
    #[error("the program does not respond")]
    NoResponse,
    /// The operating system returned no randomness.
    #[error("the operating system returned no randomness")]
    Entropy(#[from] rand::rngs::SysError),
    /// A request got no response.
    #[error(transparent)]
    Request(#[from] RequestError),
    /// A request of the admin failed.
    #[error("{0} failed with {1}: {2}")]
    Status(&'static str, StatusCode, String),
    /// A response has no valid id.
    #[error("a created resource has no valid id")]
    Id(#[from] InvalidId),
    /// The metered usage cannot be read.
    #[error("the metered usage cannot be read")]
    Store(#[from] StoreError),
    /// A usage event in the log cannot be parsed.
    #[error("a usage event in the log cannot be parsed")]
    Log(#[from] serde_json::Error),
}

/// Results of the crash test.
#[derive(Debug, Default)]
pub struct Report {
    /// Killed processes.
    pub kills: u64,
    /// Responses, by status.
    pub responses: BTreeMap<u16, u64>,
    /// Calls with a 200 response that were metered exactly once.
    pub metered_once: u64,
    /// Calls with a 200 response that were metered more than once.
    pub metered_repeatedly: u64,
    /// Calls with a 200 response that were not metered.
    pub not_metered: u64,
    /// Calls in progress at a kill, without a response, that were metered.
    pub in_flight_metered: u64,
    /// Calls in progress at a kill that were not metered: their usage records had not reached the bus.
    pub in_flight_not_metered: u64,
    /// Calls in the monthly aggregates.
    pub aggregated: u64,
    /// Descriptions of violated expectations.
    pub violations: Vec<String>,
}

impl Report {
    /// Returns the results as JSON.
    #[must_use]
    pub fn to_json(&self) -> Value {
        json!({
            "kills": self.kills,
            "responses": self.responses,
            "metered_once": self.metered_once,
            "metered_repeatedly": self.metered_repeatedly,
            "not_metered": self.not_metered,
            "in_flight": self.in_flight_metered + self.in_flight_not_metered,
            "in_flight_metered": self.in_flight_metered,
            "in_flight_not_metered": self.in_flight_not_metered,
            "aggregated": self.aggregated,
            "violations": self.violations.len(),
        })
    }
}

/// Starts and kills the program `times` times, then compares its metered calls with its responses. The
/// data are in a temporary directory, which is kept if there are violations.
///
/// # Errors
/// When the program does not start or respond, or the metered usage cannot be read.
pub async fn run(times: u64) -> Result<Report, CrashError> {
    let entropy = Entropy::system()?;
    let name = entropy.with(|rng| random_base62(rng, 12));
    let data = std::env::temp_dir().join(format!("tollgate-crash-{name}"));
    let mut observed = Observed::default();
    let mut callers = Vec::new();
    for _ in 0..times {
        let process = Process::start(&data).await?;
        if callers.is_empty() {
            callers = create(&process.url).await?;
        }
        observed.load(process, &callers, &entropy).await?;
    }
    let mut report = check_data(&data, &observed).await?;
    if report.violations.is_empty() {
        std::fs::remove_dir_all(&data)?;
    } else {
        let what = format!("the data are kept in {}", data.display());
        report.violations.push(what);
    }
    Ok(report)
}

/// A process of the program, run as by a user.
struct Process {
    child: Child,
    url: String,
    /// Kept open: a process that prints to a closed pipe is ended by SIGPIPE.
    _stdout: Lines<BufReader<ChildStdout>>,
}

impl Process {
    async fn start(data: &Path) -> Result<Self, CrashError> {
        let mut command = Command::new(std::env::current_exe()?);
        command
            .args(["serve", "--port", "0", "--data"])
            .arg(data)
            .env("TOLLGATE_ADMIN_KEY", ADMIN_KEY)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .kill_on_drop(true);
        for variable in ["TOLLGATE_PLANS", env::KEY_BRAND.name, env::KEY_ENV.name] {
            command.env_remove(variable);
        }
        let mut child = command.spawn()?;
        let stdout = child.stdout.take();
        let stdout = stdout.ok_or_else(|| CrashError::Greeting(String::new()))?;
        let mut stdout = BufReader::new(stdout).lines();
        let greeting = stdout.next_line().await?.unwrap_or_default();
        let mut words = greeting.split_whitespace();
        let url = words.find(|word| word.starts_with("http://"));
        Ok(Self {
            child,
            url: url
                .ok_or_else(|| CrashError::Greeting(greeting.clone()))?
                .to_owned(),
            _stdout: stdout,
        })
    }

    /// Kills the process with SIGKILL and waits until it has ended.
    async fn kill(mut self) -> std::io::Result<()> {
        self.child.kill().await
    }
}

/// A caller with its key.
struct Caller {
    id: KeyId,
    key: String,
}

/// Creates the customers and their keys.
async fn create(url: &str) -> Result<Vec<Caller>, CrashError> {
    let admin = Client::new(url)?.with_key(ADMIN_KEY);
    let create = async |path, body| {
        let response = admin.post(path, body).await?;
        match response.status {
            StatusCode::CREATED => Ok(response.json()),
            status => Err(CrashError::Status(path, status, response.text)),
        }
    };
    let text = |value: &Value, name| value[name].as_str().unwrap_or_default().to_owned();
    let mut callers = Vec::new();
    for (customer, plan) in CUSTOMERS {
        create("/admin/customers", json!({ "id": customer, "plan": plan })).await?;
        let overrides = json!({ "requests_per_hour": CALLS_PER_HOUR });
        for _ in 0..CALLERS {
            let request = json!({ "customer_id": customer, "overrides": overrides });
            let key = create("/admin/api-keys", request).await?;
            callers.push(Caller {
                id: text(&key, "id").parse()?,
                key: text(&key, "key"),
            });
        }
    }
    Ok(callers)
}

/// Calls of one caller to one process: all but the last got a response.
struct Calls {
    responses: Vec<(Instant, StatusCode, String)>,
    ended: Instant,
    /// Whether the last call had a connection. Without one, the process had ended before the call.
    reached_process: bool,
}

/// Makes calls until one gets no response.
async fn call(client: Client, entropy: Entropy, responded: Arc<Notify>) -> Calls {
    let mut responses = Vec::new();
    loop {
        let response = match entropy.below(2) {
            0 => client.get("/api/secure/ping").await,
            _ => client.post("/api/analyze", json!({ "text": "?" })).await,
        };
        match response {
            Ok(response) => {
                let id = response.header("x-amzn-requestid").to_owned();
                responses.push((Instant::now(), response.status, id));
                responded.notify_waiters();
            }
            Err(error) => {
                let cause = std::error::Error::source(&error);
                let cause = cause.and_then(|cause| cause.downcast_ref::<legacy::Error>());
                return Calls {
                    responses,
                    ended: Instant::now(),
                    reached_process: !cause.is_some_and(legacy::Error::is_connect),
                };
            }
        }
    }
}

/// Drains the queue repeatedly until the process ends.
async fn drain(client: Client, entropy: Entropy) {
    while client.post("/_local/drain", json!({})).await.is_ok() {
        let pause = Duration::from_millis(entropy.below(DRAIN_PAUSE_MS));
        tokio::time::sleep(pause).await;
    }
}

/// Calls as observed by the callers.
#[derive(Debug, Default)]
struct Observed {
    responses: BTreeMap<u16, u64>,
    /// Calls with a 200 response, by request id.
    succeeded: BTreeMap<String, Success>,
    /// Calls in progress at a kill: number of the killed process, and the caller's key.
    in_flight: BTreeSet<(usize, KeyId)>,
    /// Times by which each process had ended.
    ends: Vec<Timestamp>,
    violations: Vec<String>,
}

/// A call with a 200 response.
#[derive(Debug)]
struct Success {
    /// Number of the process that responded, from 0.
    process: usize,
    before_kill: Duration,
}

impl Observed {
    /// Puts load on a process and kills it meanwhile.
    async fn load(
        &mut self,
        process: Process,
        callers: &[Caller],
        entropy: &Entropy,
    ) -> Result<(), CrashError> {
        let anyone = Client::new(&process.url)?;
        let responded = Arc::new(Notify::new());
        let next_response = async || {
            let response = tokio::time::timeout(RESPONSE_TIMEOUT, responded.notified());
            response.await.map_err(|_| CrashError::NoResponse)
        };
        let mut calls = JoinSet::new();
        for caller in callers {
            let client = anyone.with_key(&caller.key);
            let (id, entropy, responded) =
                (caller.id.clone(), entropy.clone(), Arc::clone(&responded));
            calls.spawn(async move { (id, call(client, entropy, responded).await) });
        }
        let drains = tokio::spawn(drain(anyone, entropy.clone()));
        next_response().await?;
        let load = Duration::from_millis(entropy.below(LONGEST_LOAD_MS));
        tokio::time::sleep(load).await;
        // Half of the kills happen directly after a response, when its call must be metered already.
        if entropy.below(2) == 0 {
            next_response().await?;
        }
        let killed = Instant::now();
        process.kill().await?;
        let number = self.ends.len();
        self.ends.push(Timestamp::now());
        for (id, calls) in calls.join_all().await {
            self.add(number, id, calls, killed);
        }
        // Ends with the process, as the callers do.
        let _ = drains.await;
        Ok(())
    }

    fn add(&mut self, process: usize, id: KeyId, calls: Calls, killed: Instant) {
        for (at, status, request_id) in calls.responses {
            *self.responses.entry(status.as_u16()).or_default() += 1;
            if status != StatusCode::OK {
                let what = format!("a call with {id} got {status}");
                self.violations.push(what);
                continue;
            }
            let success = Success {
                process,
                before_kill: killed.saturating_duration_since(at),
            };
            self.succeeded.insert(request_id, success);
        }
        if calls.ended < killed {
            let what = format!("a call with {id} got no response before any kill");
            self.violations.push(what);
        }
        if calls.reached_process {
            self.in_flight.insert((process, id));
        }
    }

    /// Compares the counted usage records with the calls.
    fn check(&self, metered: &[UsageRecord]) -> Report {
        let mut report = Report {
            kills: self.ends.len() as u64,
            responses: self.responses.clone(),
            violations: self.violations.clone(),
            ..Report::default()
        };
        let mut times: BTreeMap<&str, u64> = BTreeMap::new();
        let mut in_flight = self.in_flight.clone();
        for record in metered {
            if self.succeeded.contains_key(&record.request_id) {
                *times.entry(&record.request_id).or_default() += 1;
                continue;
            }
            let process = self.ends.partition_point(|end| *end < record.time);
            if in_flight.remove(&(process, record.key_id.clone())) {
                report.in_flight_metered += 1;
            } else {
                let id = &record.request_id;
                let what = format!("{id} is metered, but no such call was made");
                report.violations.push(what);
            }
        }
        report.in_flight_not_metered = in_flight.len() as u64;
        for (id, call) in &self.succeeded {
            let finding = match times.get(id.as_str()) {
                Some(1) => {
                    report.metered_once += 1;
                    continue;
                }
                Some(times) => {
                    report.metered_repeatedly += 1;
                    format!("is metered {times} times")
                }
                None => {
                    report.not_metered += 1;
                    "is not metered: its usage record had not reached the bus".to_owned()
                }
            };
            let (before, kill) = (call.before_kill, call.process + 1);
            let what =
                format!("{id} got its response {before:?} before kill {kill}, and {finding}");
            report.violations.push(what);
        }
        report
    }
}

/// Starts the stack on the data of the killed processes, drains the queue, and checks the usage.
async fn check_data(data: &Path, observed: &Observed) -> Result<Report, CrashError> {
    let running = local_stack::start(Options {
        data: Some(data.to_owned()),
        admin_key: Some(ADMIN_KEY.to_owned()),
        ..Options::default()
    })
    .await?;
    let anyone = Client::new(&running.url)?;
    let drained = anyone.post("/_local/drain", json!({})).await?;
    let mut aggregated = 0;
    let mut violations = Vec::new();
    if drained.json()["dead_letters"] != 0 {
        violations.push(format!("the queue was not emptied: {}", drained.text));
    }
    let this_month = Month::containing(Timestamp::now());
    let mut metered = Vec::new();
    for (customer, _) in CUSTOMERS {
        let customer = customer.parse()?;
        let records = log(&running.store, &customer).await?;
        for month in [this_month.previous(), this_month] {
            let mut days: BTreeMap<Day, Aggregate> = BTreeMap::new();
            let mut sum = Aggregate::default();
            for record in &records {
                let day = Day::containing(record.time);
                if day.month() == month {
                    days.entry(day).or_default().add(record);
                    sum.add(record);
                }
            }
            let of_month = running.store.month_usage(&customer, month).await?;
            let of_days = running.store.day_usage(&customer, month).await?;
            if of_month != sum || of_days != days {
                violations.push(format!(
                    "the usage log of {customer} in {month} adds up to {days:?}, but the aggregates are \
                     {of_month:?}, by day {of_days:?}"
                ));
            }
            aggregated += of_month.calls;
        }
        metered.extend(records);
    }
    running.stop().await?;
    let mut report = observed.check(&metered);
    report.aggregated = aggregated;
    report.violations.extend(violations);
    Ok(report)
}

/// Reads the counted usage records of a customer.
async fn log(store: &Store, customer: &CustomerId) -> Result<Vec<UsageRecord>, CrashError> {
    let days = [Timestamp::UNIX_EPOCH, Timestamp::now()].map(Day::containing);
    let mut records = Vec::new();
    let mut after = None;
    loop {
        let page = store
            .list_logged(customer, days.into(), after.as_deref())
            .await?;
        for logged in page.items {
            let event: UsageEvent<UsageData<UsageRecord>> = serde_json::from_slice(&logged.body)?;
            // An event with records of two days is logged once for each day, with the records of both.
            let of_day = |record: &UsageRecord| Day::containing(record.time) == logged.day;
            records.extend(event.data.records.into_iter().filter(of_day));
        }
        after = page.next;
        if after.is_none() {
            return Ok(records);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key() -> KeyId {
        "key_1".parse().unwrap()
    }

    fn record(request_id: &str, time: Timestamp) -> UsageRecord {
        UsageRecord {
            time,
            request_id: request_id.to_owned(),
            key_id: key(),
            plan: "pro".parse().unwrap(),
            method: "GET".to_owned(),
            endpoint: "/api/secure/ping".to_owned(),
            status: 200,
            latency_ms: 0,
            request_bytes: None,
            response_bytes: None,
            truncated: None,
            billable: None,
            costs: Vec::new(),
        }
    }

    /// The first of two processes responded to `a` and `b`, and each had a call of the one caller in
    /// progress when it was killed.
    #[test]
    fn lost_duplicate_and_unknown_calls_are_reported() {
        let ends: [Timestamp; 2] =
            ["2026-11-22T10:00:01Z", "2026-11-22T10:00:02Z"].map(|end| end.parse().unwrap());
        let mut observed = Observed {
            in_flight: [(0, key()), (1, key())].into(),
            ends: ends.to_vec(),
            ..Observed::default()
        };
        for id in ["a", "b"] {
            let success = Success {
                process: 0,
                before_kill: Duration::from_millis(3),
            };
            observed.succeeded.insert(id.to_owned(), success);
        }
        let check = |records: &[(&str, usize)], figures: [u64; 5], violations: &[&str]| {
            let records = records
                .iter()
                .map(|(id, process)| record(id, ends[*process]));
            let report = observed.check(&records.collect::<Vec<_>>());
            let found = [
                report.metered_once,
                report.metered_repeatedly,
                report.not_metered,
                report.in_flight_metered,
                report.in_flight_not_metered,
            ];
            assert_eq!(found, figures);
            assert_eq!(report.violations, violations);
        };
        check(&[("a", 0), ("b", 0)], [2, 0, 0, 0, 2], &[]);
        check(
            &[("a", 0), ("b", 0), ("x", 0), ("y", 1)],
            [2, 0, 0, 2, 0],
            &[],
        );
        let lost = "b got its response 3ms before kill 1, and is not metered: its usage record had not \
                    reached the bus";
        check(&[("a", 0), ("x", 1)], [1, 0, 1, 1, 1], &[lost]);
        check(
            &[("a", 0), ("b", 0), ("b", 0)],
            [1, 1, 0, 0, 2],
            &["b got its response 3ms before kill 1, and is metered 2 times"],
        );
        check(
            &[("a", 0), ("b", 0), ("x", 0), ("y", 0)],
            [2, 0, 0, 1, 1],
            &["y is metered, but no such call was made"],
        );
        check(
            &[("a", 0), ("b", 0), ("x", 0), ("x", 0)],
            [2, 0, 0, 1, 1],
            &["x is metered, but no such call was made"],
        );
    }
}
