//! Lag test: calls at a steady rate, and the time from each of them to its count.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use jiff::Timestamp;
use serde_json::{Value, json};
use tokio::task::JoinSet;
use tollgate_domain::id::CustomerId;
use tollgate_domain::window::Month;

use super::outage::expect;
use super::{SoakError, text};
use crate::client::Client;
use crate::local_stack::{self, Options};

/// Rates of calls, a second.
const RATES: [u32; 3] = [1, 100, 1_000];
/// Hourly limit that is not reached.
const NO_LIMIT: u64 = 10_000_000;
/// Pause between two reads of the count, which is as much too late at most.
const READ_PAUSE: Duration = Duration::from_millis(20);
/// Time after the last call in which all of them must be counted: several batching windows.
const DEADLINE: Duration = Duration::from_secs(120);

/// Times from a call's response to its count.
#[derive(Debug, Clone, Copy)]
pub struct Lag {
    /// Calls that were counted.
    pub calls: usize,
    /// Calls that were not counted in time.
    pub missing: usize,
    /// Counted calls beyond those that were made.
    pub excess: usize,
    /// Responses a second.
    pub rate: u128,
    /// Median.
    pub p50: Duration,
    /// 99th percentile.
    pub p99: Duration,
}

/// Results of the lag test, by calls a second.
#[derive(Debug, Default)]
pub struct Report {
    /// Times from calls to their counts.
    pub lags: BTreeMap<u32, Lag>,
    /// Descriptions of violated expectations.
    pub violations: Vec<String>,
}

impl Report {
    /// Returns the results as JSON.
    #[must_use]
    pub fn to_json(&self) -> Value {
        let of_rate = |(rate, lag): (&u32, &Lag)| {
            json!({
                "calls_per_second": rate,
                "reached_per_second": lag.rate,
                "calls": lag.calls,
                "p50_ms": lag.p50.as_millis(),
                "p99_ms": lag.p99.as_millis(),
            })
        };
        let lags: Vec<Value> = self.lags.iter().map(of_rate).collect();
        json!({ "lags": lags, "violations": self.violations.len() })
    }
}

/// Starts a stack for each rate, and calls it for `duration`. Usage is collected for the template's batching window.
///
/// # Errors
/// When the stack does not start, or a request of the admin fails.
pub async fn run(duration: Duration) -> Result<Report, SoakError> {
    let mut report = Report::default();
    for rate in RATES {
        let lag = measure(rate, duration).await?;
        for (calls, what) in [(lag.missing, "not counted"), (lag.excess, "counted twice")] {
            if calls > 0 {
                let violation = format!("{calls} of the calls at {rate} a second were {what}");
                report.violations.push(violation);
            }
        }
        report.lags.insert(rate, lag);
    }
    Ok(report)
}

async fn measure(rate: u32, duration: Duration) -> Result<Lag, SoakError> {
    let running = local_stack::start(Options::default()).await?;
    let anyone = Client::new(&running.url)?;
    let admin = anyone.with_key(running.admin.expose().unwrap_or_default());
    let customer = json!({ "id": "acme", "plan": "enterprise" });
    expect(&admin, "/admin/customers", customer).await?;
    let overrides = json!({ "requests_per_hour": NO_LIMIT, "monthly_quota": NO_LIMIT });
    let key = json!({ "customer_id": "acme", "overrides": overrides });
    let key = expect(&admin, "/admin/api-keys", key).await?;
    let client = anyone.with_key(&text(&key, "key"));

    let customer: CustomerId = "acme".parse()?;
    let store = running.store.clone();
    let month = Month::containing(Timestamp::now());
    let calls_made = u64::from(rate) * duration.as_secs();
    let total = usize::try_from(calls_made).unwrap_or(usize::MAX);
    // The time at which each number of calls was counted, for the first one that is not known yet.
    let counting = tokio::spawn(async move {
        let mut counted: Vec<Instant> = Vec::with_capacity(total);
        let until = Instant::now() + duration + DEADLINE;
        while counted.len() < total && Instant::now() < until {
            tokio::time::sleep(READ_PAUSE).await;
            let calls = store.month_usage(&customer, month).await?.calls;
            let calls = usize::try_from(calls).unwrap_or(usize::MAX);
            counted.resize(calls.max(counted.len()), Instant::now());
        }
        Ok::<_, SoakError>(counted)
    });
    let began = Instant::now();
    let mut calls = JoinSet::new();
    for n in 0..calls_made {
        let due = began + Duration::from_micros(n * 1_000_000 / u64::from(rate));
        tokio::time::sleep_until(due.into()).await;
        let client = client.clone();
        calls.spawn(async move {
            let response = client.get("/api/secure/ping").await?;
            Ok::<_, SoakError>((response.status, Instant::now()))
        });
    }
    let mut responded = Vec::with_capacity(total);
    for call in calls.join_all().await {
        let (status, at) = call?;
        if !status.is_success() {
            return Err(SoakError::Status(
                "a call".to_owned(),
                status,
                String::new(),
            ));
        }
        responded.push(at);
    }
    responded.sort_unstable();
    let took = responded
        .last()
        .map_or(Duration::ZERO, |last| *last - began);
    let counted = counting.await.map_err(std::io::Error::other)??;
    running.stop().await?;
    // Calls are taken to be counted in the order of their responses, so that the sum of times is right.
    let lags = responded.iter().zip(&counted);
    let mut lags: Vec<Duration> = lags
        .map(|(responded, counted)| counted.saturating_duration_since(*responded))
        .collect();
    lags.sort_unstable();
    let percentile = |percent: usize| {
        let rank = (lags.len() * percent).div_ceil(100).max(1);
        lags.get(rank - 1).copied().unwrap_or_default()
    };
    Ok(Lag {
        calls: counted.len(),
        missing: total.saturating_sub(counted.len()),
        excess: counted.len().saturating_sub(total),
        rate: u128::from(calls_made) * 1_000 / took.as_millis().max(1),
        p50: percentile(50),
        p99: percentile(99),
    })
}
