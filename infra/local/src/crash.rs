//! The program killed at random moments under load, and started again on the same data: every call
//! that was answered 200 is metered exactly once.
//!
//! Only a call under way at a kill may be metered or not. In Lambda that is a call until its flush has
//! ended, which is after its answer; here the flush comes first, so that no answered call is excused.

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

use crate::client::{Client, NoAnswer};
use crate::product::{self, Options, StartError};

/// The customers, and the plans they are on: of those, neither refuses a call for the month's sake.
const CUSTOMERS: [(&str, &str); 3] = [("acme", "pro"), ("brio", "enterprise"), ("coda", "pro")];
/// Callers of a customer, each with a key of its own and one call at a time.
const CALLERS: usize = 4;
/// A rate that no caller comes near: what is about limits is not about kills.
const CALLS_PER_HOUR: u64 = 10_000_000;
/// The longest time from the first answer of a process to its kill.
const LONGEST_LOAD_MS: u64 = 1_500;
/// Between two deliveries of all that is queued, so that kills come in the midst of them as well.
const DRAIN_PAUSE_MS: u64 = 500;
/// How long a process that was not killed may leave all callers without an answer.
const LONGEST_SILENCE: Duration = Duration::from_secs(30);
const ADMIN_KEY: &str = "the-admin-key-of-the-crashes";

/// The crashes could not go on.
#[derive(Debug, thiserror::Error)]
pub enum Failed {
    /// The product, for a look at its data.
    #[error("the product did not start on what was left")]
    Start(#[from] StartError),
    /// The program's process, its data or the client.
    #[error("the program cannot be run")]
    Io(#[from] std::io::Error),
    /// The program ended, or printed something else than where it listens.
    #[error("the program did not start, and printed {0:?}")]
    Greeting(String),
    /// Nobody was answered.
    #[error("the program answers nobody")]
    Silent,
    /// Randomness.
    #[error("the operating system has no randomness to give")]
    Entropy(#[from] rand::rngs::SysError),
    /// A call.
    #[error(transparent)]
    NoAnswer(#[from] NoAnswer),
    /// An admin's call was refused.
    #[error("{0} was answered {1}: {2}")]
    Refused(&'static str, StatusCode, String),
    /// An answer has no such id.
    #[error("what was created has no id")]
    Id(#[from] InvalidId),
    /// The tables.
    #[error("what was metered cannot be read")]
    Store(#[from] StoreError),
    /// An entry in the log.
    #[error("an entry in the log cannot be read")]
    Log(#[from] serde_json::Error),
}

/// What happened.
#[derive(Debug, Default)]
pub struct Report {
    /// Processes that were killed.
    pub kills: u64,
    /// Answers, by status.
    pub answers: BTreeMap<u16, u64>,
    /// Calls answered 200 that were metered exactly once.
    pub metered_once: u64,
    /// Calls answered 200 that were metered more often.
    pub metered_twice: u64,
    /// Calls answered 200 that were not metered.
    pub not_metered: u64,
    /// Calls under way at a kill that were metered. Nobody was told of them.
    pub in_flight_metered: u64,
    /// Calls under way at a kill that were not metered: they had not come to their records, or the
    /// records not to the bus.
    pub in_flight_not_metered: u64,
    /// Calls in the tallies.
    pub tallied: u64,
    /// What should not have happened, in words.
    pub violations: Vec<String>,
}

impl Report {
    /// The figures, for whoever reads them by program.
    #[must_use]
    pub fn to_json(&self) -> Value {
        json!({
            "kills": self.kills,
            "answers": self.answers,
            "metered_once": self.metered_once,
            "metered_twice": self.metered_twice,
            "not_metered": self.not_metered,
            "in_flight": self.in_flight_metered + self.in_flight_not_metered,
            "in_flight_metered": self.in_flight_metered,
            "in_flight_not_metered": self.in_flight_not_metered,
            "tallied": self.tallied,
            "violations": self.violations.len(),
        })
    }
}

/// Starts the program and kills it so many times, and holds what it metered against what it answered.
/// Its data are in a directory of their own, which stays if there is something to look into.
///
/// # Errors
/// When the program does not start or answers nobody, or what it metered cannot be read.
pub async fn run(times: u64) -> Result<Report, Failed> {
    let entropy = Entropy::system()?;
    let name = entropy.with(|rng| random_base62(rng, 12));
    let data = std::env::temp_dir().join(format!("tollgate-crash-{name}"));
    let mut called = Called::default();
    let mut callers = Vec::new();
    for _ in 0..times {
        let process = Process::start(&data).await?;
        if callers.is_empty() {
            callers = create(&process.url).await?;
        }
        called.load(process, &callers, &entropy).await?;
    }
    let mut report = look(&data, &called).await?;
    if report.violations.is_empty() {
        std::fs::remove_dir_all(&data)?;
    } else {
        let what = format!("what was found is in {}", data.display());
        report.violations.push(what);
    }
    Ok(report)
}

/// The program as its users run it.
struct Process {
    child: Child,
    url: String,
    /// What it prints to a pipe without a reader would end it.
    _stdout: Lines<BufReader<ChildStdout>>,
}

impl Process {
    async fn start(data: &Path) -> Result<Self, Failed> {
        let mut command = Command::new(std::env::current_exe()?);
        command
            .args(["serve", "--port", "0", "--data"])
            .arg(data)
            .env("TOLLGATE_ADMIN_KEY", ADMIN_KEY)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .kill_on_drop(true);
        for variable in [env::PLANS, env::KEY_BRAND, env::KEY_ENV] {
            command.env_remove(variable.name);
        }
        let mut child = command.spawn()?;
        let stdout = child.stdout.take();
        let stdout = stdout.ok_or_else(|| Failed::Greeting(String::new()))?;
        let mut stdout = BufReader::new(stdout).lines();
        let greeting = stdout.next_line().await?.unwrap_or_default();
        let mut words = greeting.split_whitespace();
        let url = words.find(|word| word.starts_with("http://"));
        Ok(Self {
            child,
            url: url
                .ok_or_else(|| Failed::Greeting(greeting.clone()))?
                .to_owned(),
            _stdout: stdout,
        })
    }

    /// Ends it by SIGKILL, and waits until it has ended.
    async fn kill(mut self) -> std::io::Result<()> {
        self.child.kill().await
    }
}

/// Who calls, and with which key.
struct Caller {
    id: KeyId,
    key: String,
}

/// Makes the customers and their keys.
async fn create(url: &str) -> Result<Vec<Caller>, Failed> {
    let admin = Client::new(url)?.with_key(ADMIN_KEY);
    let create = async |path, body| {
        let answer = admin.post(path, body).await?;
        match answer.status {
            StatusCode::CREATED => Ok(answer.json()),
            status => Err(Failed::Refused(path, status, answer.text)),
        }
    };
    let text = |value: &Value, name| value[name].as_str().unwrap_or_default().to_owned();
    let mut callers = Vec::new();
    for (customer, plan) in CUSTOMERS {
        create("/admin/customers", json!({ "id": customer, "plan": plan })).await?;
        let overrides = json!({ "requests_per_hour": CALLS_PER_HOUR });
        for _ in 0..CALLERS {
            let owner = json!({ "customer_id": customer, "overrides": overrides });
            let key = create("/admin/api-keys", owner).await?;
            callers.push(Caller {
                id: text(&key, "id").parse()?,
                key: text(&key, "key"),
            });
        }
    }
    Ok(callers)
}

/// The calls of one caller to one process: all but the last were answered.
struct Calls {
    answers: Vec<(Instant, StatusCode, String)>,
    ended: Instant,
    /// Whether the last had a connection. Without one, the process had ended before it.
    has_arrived: bool,
}

/// Calls until a call is not answered.
async fn call(client: Client, entropy: Entropy, answered: Arc<Notify>) -> Calls {
    let mut answers = Vec::new();
    loop {
        let answer = match entropy.below(2) {
            0 => client.get("/api/secure/ping").await,
            _ => client.post("/api/analyze", json!({ "text": "?" })).await,
        };
        match answer {
            Ok(answer) => {
                let id = answer.header("x-amzn-requestid").to_owned();
                answers.push((Instant::now(), answer.status, id));
                answered.notify_waiters();
            }
            Err(error) => {
                let cause = std::error::Error::source(&error);
                let cause = cause.and_then(|cause| cause.downcast_ref::<legacy::Error>());
                return Calls {
                    answers,
                    ended: Instant::now(),
                    has_arrived: !cause.is_some_and(legacy::Error::is_connect),
                };
            }
        }
    }
}

/// Has all that is queued delivered again and again, until the process ends.
async fn drain(client: Client, entropy: Entropy) {
    while client.post("/_local/drain", json!({})).await.is_ok() {
        let pause = Duration::from_millis(entropy.below(DRAIN_PAUSE_MS));
        tokio::time::sleep(pause).await;
    }
}

/// What the callers know of their calls.
#[derive(Debug, Default)]
struct Called {
    answers: BTreeMap<u16, u64>,
    /// Those answered 200, by request id.
    answered: BTreeMap<String, Answered>,
    /// Those under way at a kill: which process was killed, and whose call it was.
    in_flight: BTreeSet<(usize, KeyId)>,
    /// By when each process had ended.
    ends: Vec<Timestamp>,
    violations: Vec<String>,
}

/// A call answered 200.
#[derive(Debug)]
struct Answered {
    /// Which process answered, from 0.
    process: usize,
    before_kill: Duration,
}

impl Called {
    /// Makes load on a process, and kills it in the midst of it.
    async fn load(
        &mut self,
        process: Process,
        callers: &[Caller],
        entropy: &Entropy,
    ) -> Result<(), Failed> {
        let anyone = Client::new(&process.url)?;
        let answered = Arc::new(Notify::new());
        let an_answer = async || {
            let answer = tokio::time::timeout(LONGEST_SILENCE, answered.notified());
            answer.await.map_err(|_| Failed::Silent)
        };
        let mut calls = JoinSet::new();
        for caller in callers {
            let client = anyone.with_key(&caller.key);
            let (id, entropy, answered) =
                (caller.id.clone(), entropy.clone(), Arc::clone(&answered));
            calls.spawn(async move { (id, call(client, entropy, answered).await) });
        }
        let drains = tokio::spawn(drain(anyone, entropy.clone()));
        an_answer().await?;
        let load = Duration::from_millis(entropy.below(LONGEST_LOAD_MS));
        tokio::time::sleep(load).await;
        // Half of the kills come right after an answer: nothing of its call may be left to do.
        if entropy.below(2) == 0 {
            an_answer().await?;
        }
        let killed = Instant::now();
        process.kill().await?;
        let number = self.ends.len();
        self.ends.push(Timestamp::now());
        for (id, calls) in calls.join_all().await {
            self.add(number, id, calls, killed);
        }
        // It ends with the process, as the callers do.
        let _ = drains.await;
        Ok(())
    }

    fn add(&mut self, process: usize, id: KeyId, calls: Calls, killed: Instant) {
        for (at, status, request_id) in calls.answers {
            *self.answers.entry(status.as_u16()).or_default() += 1;
            if status != StatusCode::OK {
                let what = format!("a call with {id} was answered {status}");
                self.violations.push(what);
                continue;
            }
            let answered = Answered {
                process,
                before_kill: killed.saturating_duration_since(at),
            };
            self.answered.insert(request_id, answered);
        }
        if calls.ended < killed {
            let what = format!("a call with {id} was not answered, and nothing was killed yet");
            self.violations.push(what);
        }
        if calls.has_arrived {
            self.in_flight.insert((process, id));
        }
    }

    /// Holds the records that were counted against the calls that were made.
    fn check(&self, metered: &[UsageRecord]) -> Report {
        let mut report = Report {
            kills: self.ends.len() as u64,
            answers: self.answers.clone(),
            violations: self.violations.clone(),
            ..Report::default()
        };
        let mut times: BTreeMap<&str, u64> = BTreeMap::new();
        let mut in_flight = self.in_flight.clone();
        for record in metered {
            if self.answered.contains_key(&record.request_id) {
                *times.entry(&record.request_id).or_default() += 1;
                continue;
            }
            let process = self.ends.partition_point(|end| *end < record.time);
            if in_flight.remove(&(process, record.key_id.clone())) {
                report.in_flight_metered += 1;
            } else {
                let id = &record.request_id;
                let what = format!("{id} is metered, and is no call that was made");
                report.violations.push(what);
            }
        }
        report.in_flight_not_metered = in_flight.len() as u64;
        for (id, call) in &self.answered {
            let fate = match times.get(id.as_str()) {
                Some(1) => {
                    report.metered_once += 1;
                    continue;
                }
                Some(times) => {
                    report.metered_twice += 1;
                    format!("is metered {times} times")
                }
                None => {
                    report.not_metered += 1;
                    "is not metered: its record had not come to the bus".to_owned()
                }
            };
            let (before, kill) = (call.before_kill, call.process + 1);
            let what = format!("{id} was answered {before:?} before kill {kill}, and {fate}");
            report.violations.push(what);
        }
        report
    }
}

/// Starts the product on what the processes left, has it count what is queued, and checks all of it.
async fn look(data: &Path, called: &Called) -> Result<Report, Failed> {
    let running = product::start(Options {
        data: Some(data.to_owned()),
        admin_key: Some(ADMIN_KEY.to_owned()),
        ..Options::default()
    })
    .await?;
    let anyone = Client::new(&running.url)?;
    let drained = anyone.post("/_local/drain", json!({})).await?;
    let mut tallied = 0;
    let mut wrong = Vec::new();
    if drained.json()["dead_letters"] != 0 {
        wrong.push(format!("the queue was not emptied: {}", drained.text));
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
                wrong.push(format!(
                    "the log of {customer} makes {days:?} of {month}, and what is tallied is \
                     {of_month:?}, by day {of_days:?}"
                ));
            }
            tallied += of_month.calls;
        }
        metered.extend(records);
    }
    running.stop().await?;
    let mut report = called.check(&metered);
    report.tallied = tallied;
    report.violations.extend(wrong);
    Ok(report)
}

/// The records of a customer that were counted.
async fn log(store: &Store, customer: &CustomerId) -> Result<Vec<UsageRecord>, Failed> {
    let days = [Timestamp::UNIX_EPOCH, Timestamp::now()].map(Day::containing);
    let mut records = Vec::new();
    let mut after = None;
    loop {
        let page = store
            .logged(customer, days.into(), after.as_deref())
            .await?;
        for logged in page.items {
            let entry: UsageEvent<UsageData<UsageRecord>> = serde_json::from_slice(&logged.body)?;
            // An entry of two days is logged once for each of them, and has the records of both.
            let of_day = |record: &UsageRecord| Day::containing(record.time) == logged.day;
            records.extend(entry.data.records.into_iter().filter(of_day));
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

    /// Of two processes, the first answered `a` and `b`, and each left a call of the one caller in
    /// flight.
    #[test]
    fn what_is_lost_doubled_or_made_up_is_told() {
        let ends: [Timestamp; 2] =
            ["2026-11-22T10:00:01Z", "2026-11-22T10:00:02Z"].map(|end| end.parse().unwrap());
        let mut called = Called {
            in_flight: [(0, key()), (1, key())].into(),
            ends: ends.to_vec(),
            ..Called::default()
        };
        for id in ["a", "b"] {
            let answered = Answered {
                process: 0,
                before_kill: Duration::from_millis(3),
            };
            called.answered.insert(id.to_owned(), answered);
        }
        let check = |records: &[(&str, usize)], figures: [u64; 5], told: &[&str]| {
            let records = records
                .iter()
                .map(|(id, process)| record(id, ends[*process]));
            let report = called.check(&records.collect::<Vec<_>>());
            let found = [
                report.metered_once,
                report.metered_twice,
                report.not_metered,
                report.in_flight_metered,
                report.in_flight_not_metered,
            ];
            assert_eq!(found, figures);
            assert_eq!(report.violations, told);
        };
        check(&[("a", 0), ("b", 0)], [2, 0, 0, 0, 2], &[]);
        check(
            &[("a", 0), ("b", 0), ("x", 0), ("y", 1)],
            [2, 0, 0, 2, 0],
            &[],
        );
        let lost = "b was answered 3ms before kill 1, and is not metered: its record had not come to \
                    the bus";
        check(&[("a", 0), ("x", 1)], [1, 0, 1, 1, 1], &[lost]);
        check(
            &[("a", 0), ("b", 0), ("b", 0)],
            [1, 1, 0, 0, 2],
            &["b was answered 3ms before kill 1, and is metered 2 times"],
        );
        check(
            &[("a", 0), ("b", 0), ("x", 0), ("y", 0)],
            [2, 0, 0, 1, 1],
            &["y is metered, and is no call that was made"],
        );
        check(
            &[("a", 0), ("b", 0), ("x", 0), ("x", 0)],
            [2, 0, 0, 1, 1],
            &["x is metered, and is no call that was made"],
        );
    }
}
