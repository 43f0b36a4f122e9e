//! The usage-writer: what counting takes of the tables, and how much of the engine's own rate is left.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use aws_lambda_events::sqs::SqsEvent;
use jiff::{SignedDuration, Timestamp};
use serde::Serialize;
use serde_json::{Map, Value, json};
use tokio::task::JoinSet;
use tollgate_domain::plan::Catalog;
use tollgate_domain::usage::EVENT_TYPE;
use tollgate_local_aws::{Call, LocalAws, wire};
use tollgate_runtime::{Clock, Entropy, Metrics};
use tollgate_store::{ShardCounts, Store};
use usage_writer::{App, Owners};

use crate::report::table;
use crate::tables::{STACK, SeedError, services};

/// Messages in a batch: the template's `BatchSize`.
const BATCH: usize = 100;
/// Writers at work at the same time where the rate is measured, one for each core.
const WRITERS: usize = 2;
/// Batches of each of them.
const BATCHES: usize = 20;
/// Runs of each measurement; the median counts.
const ROUNDS: usize = 5;

/// Why the writer could not be measured.
#[derive(Debug, thiserror::Error)]
pub(crate) enum WriterError {
    #[error(transparent)]
    Seed(#[from] SeedError),
    #[error("the shipped plans cannot be used")]
    Plans(#[from] tollgate_domain::plan::InvalidCatalog),
    #[error("a batch is no event of a queue")]
    Json(#[from] serde_json::Error),
    #[error("the writer returned {0} messages")]
    Returned(usize),
    #[error("the engine answered {0}")]
    Refused(String),
    #[error("a writer did not come to its end")]
    Ended(#[from] tokio::task::JoinError),
}

/// Write units for 1,000 records, and rates.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Figures {
    /// One record in each entry, all of one customer.
    write_units_per_1000_one_by_one: f64,
    /// A hundred in each, of one customer.
    write_units_per_1000_one_customer: f64,
    /// The same, of ten customers in turn.
    write_units_per_1000_ten_customers: f64,
    /// Transactions a second of the writer, over those of the engine alone.
    writer_over_engine: f64,
    records_per_second: f64,
    transactions_per_second: f64,
    engine_transactions_per_second: f64,
}

/// The most write units that 1,000 records of one customer may take.
const MOST_UNITS: f64 = 150.0;
/// The least that the writer may leave of the engine's rate.
const LEAST_RATE: f64 = 0.7;

impl Figures {
    pub(crate) fn table(&self) -> String {
        let line = |name: &str, value: f64, target: &str, is_met: Option<bool>| {
            let verdict = match is_met {
                Some(true) => "met",
                Some(false) => "**missed**",
                None => "",
            };
            [name, &format!("{value:.2}"), target, verdict].map(str::to_owned)
        };
        let one_customer = self.write_units_per_1000_one_customer;
        let lines = [
            line(
                "write units for 1,000 records, one in each entry",
                self.write_units_per_1000_one_by_one,
                "",
                None,
            ),
            line(
                "the same, 100 in each, one customer",
                one_customer,
                &format!("≤ {MOST_UNITS}"),
                Some(one_customer <= MOST_UNITS),
            ),
            line(
                "the same, ten customers",
                self.write_units_per_1000_ten_customers,
                "",
                None,
            ),
            line(
                "transactions of the writer: × the engine's own rate",
                self.writer_over_engine,
                &format!("≥ {LEAST_RATE}"),
                Some(self.writer_over_engine >= LEAST_RATE),
            ),
            line("records a second", self.records_per_second, "", None),
        ];
        table(["figure", "measured", "target", ""], &lines)
    }
}

/// Measures on engines of its own, in memory.
pub(crate) async fn measure() -> Result<Figures, WriterError> {
    let now = Timestamp::now();
    let one_by_one = units(&batches(10, BATCH, 1, 1, now)?).await?;
    let one_customer = units(&batches(1, BATCH, 100, 1, now)?).await?;
    let ten_customers = units(&batches(1, BATCH, 100, 10, now)?).await?;
    let mut rates = Vec::with_capacity(ROUNDS);
    for _ in 0..ROUNDS {
        rates.push(rate(now).await?);
    }
    rates.sort_by(|one, other| one.ratio().total_cmp(&other.ratio()));
    let rate = &rates[ROUNDS / 2];
    let per_second = |count: usize, time: Duration| count as f64 / time.as_secs_f64();
    Ok(Figures {
        write_units_per_1000_one_by_one: one_by_one,
        write_units_per_1000_one_customer: one_customer,
        write_units_per_1000_ten_customers: ten_customers,
        writer_over_engine: rate.ratio(),
        records_per_second: per_second(rate.records, rate.writers),
        transactions_per_second: per_second(rate.transactions, rate.writers),
        engine_transactions_per_second: per_second(rate.transactions, rate.engine),
    })
}

/// Batches of messages, each an entry of `records` records; customers take turns.
fn batches(
    count: usize,
    messages: usize,
    records: usize,
    customers: usize,
    now: Timestamp,
) -> Result<Vec<SqsEvent>, serde_json::Error> {
    // As little alike as the records of one customer are.
    let entropy = Entropy::seeded(1);
    let uuid = || {
        let hex = format!(
            "{:016x}{:016x}",
            entropy.below(u64::MAX),
            entropy.below(u64::MAX)
        );
        let groups = [
            &hex[..8],
            &hex[8..12],
            &hex[12..16],
            &hex[16..20],
            &hex[20..],
        ];
        groups.join("-")
    };
    let entry = |batch: usize, message: usize| {
        let records: Vec<Value> = (0..records)
            .map(|_| {
                let ago =
                    SignedDuration::from_millis(i64::try_from(entropy.below(5_000)).unwrap_or(0));
                json!({
                    "time": now - ago, "request_id": uuid(),
                    "key_id": "key_7pQ2vX9bTzR4cYdLw5Ha", "plan": "pro", "method": "GET",
                    "endpoint": "/api/things/{id}", "status": 200, "latency_ms": entropy.below(200),
                    "request_bytes": 0, "response_bytes": entropy.below(2_000), "billable": true,
                })
            })
            .collect();
        json!({
            "specversion": "1.0", "id": format!("{records}-{batch}-{message}", records = records.len()),
            "source": "tollgate:bench", "type": EVENT_TYPE, "time": now,
            "subject": format!("customer-{}", message % customers), "data": { "records": records },
        })
    };
    let batch = |batch: usize| {
        let messages = (0..messages).map(|message| {
            let entry = entry(batch, message);
            let event =
                json!({ "detail-type": EVENT_TYPE, "source": entry["source"], "detail": entry });
            json!({ "messageId": message.to_string(), "body": event.to_string() })
        });
        serde_json::from_value(json!({ "Records": messages.collect::<Vec<_>>() }))
    };
    (0..count).map(batch).collect()
}

/// A writer on `aws`; `see` is told each call and its answer.
fn writer(
    aws: &LocalAws,
    number: u64,
    see: impl Fn(&Call, &str) + Clone + Send + Sync + 'static,
) -> Result<App, WriterError> {
    let far = aws.clone();
    let client = wire::http_client(move |call| {
        let answer = far.answer(&call.target, &call.body);
        see(&call, &answer.1);
        std::future::ready(Some(answer))
    });
    let sdk = aws.sdk_config().into_builder().http_client(client).build();
    let clock = Clock::system();
    Ok(App {
        store: Store::new(&sdk, STACK, clock.clone(), Entropy::seeded(number)),
        spread: ShardCounts::default(),
        owners: Owners::default(),
        plans: Catalog::shipped()?,
        metrics: Metrics::none(),
        clock,
    })
}

async fn count(app: &App, batch: SqsEvent) -> Result<(), WriterError> {
    let response = usage_writer::handle(app, batch).await;
    match response.batch_item_failures.len() {
        0 => Ok(()),
        returned => Err(WriterError::Returned(returned)),
    }
}

/// Write units for 1,000 records of these batches, as the engine states them.
async fn units(batches: &[SqsEvent]) -> Result<f64, WriterError> {
    let aws = services()?;
    let calls = Arc::new(Mutex::new(Vec::new()));
    let seen = Arc::clone(&calls);
    let app = writer(&aws, 0, move |call, _| {
        lock(&seen).push(call.clone());
    })?;
    for batch in batches {
        count(&app, batch.clone()).await?;
    }
    // Counted again on empty tables, where the engine is asked what that takes.
    let aws = services()?;
    let mut units = 0.0;
    for call in lock(&calls).iter() {
        let mut request: Map<String, Value> = serde_json::from_str(&call.body)?;
        request.insert("ReturnConsumedCapacity".to_owned(), "TOTAL".into());
        let (status, answer) = aws.answer(&call.target, &Value::from(request).to_string());
        if status != 200 {
            return Err(WriterError::Refused(answer));
        }
        let answer: Value = serde_json::from_str(&answer)?;
        let tables = answer["ConsumedCapacity"].as_array().into_iter().flatten();
        units += tables
            .map(|table| table["CapacityUnits"].as_f64().unwrap_or(0.0))
            .sum::<f64>();
    }
    let records = batches.iter().map(records_of).sum::<usize>();
    Ok(units * 1_000.0 / records as f64)
}

fn records_of(batch: &SqsEvent) -> usize {
    let bodies = batch
        .records
        .iter()
        .filter_map(|message| message.body.as_deref());
    bodies
        .map(|body| body.matches("\"request_id\"").count())
        .sum()
}

struct Rate {
    records: usize,
    transactions: usize,
    /// What the writers took for them.
    writers: Duration,
    /// What the engine took for the same transactions, with as many threads.
    engine: Duration,
}

impl Rate {
    fn ratio(&self) -> f64 {
        self.engine.as_secs_f64() / self.writers.as_secs_f64()
    }
}

/// Counts batches with a writer on each core, and then has the engine alone do what they have asked.
async fn rate(now: Timestamp) -> Result<Rate, WriterError> {
    let mut of_writers = Vec::new();
    for writer in 0..WRITERS {
        let mut batches = batches(BATCHES, BATCH, 10, 10, now)?;
        for batch in &mut batches {
            for message in &mut batch.records {
                let body = message.body.take().unwrap_or_default();
                let of_its_own = |text: &str| body.replace(text, &format!("{text}{writer}-"));
                message.body = Some(of_its_own("\"id\":\""));
            }
        }
        of_writers.push(batches);
    }
    let records = of_writers.iter().flatten().map(records_of).sum();
    let aws = services()?;
    let mut logs = Vec::new();
    let mut running = JoinSet::new();
    let began = Instant::now();
    for (number, batches) in of_writers.into_iter().enumerate() {
        let log = Arc::new(Mutex::new(Vec::new()));
        let seen = Arc::clone(&log);
        let number = u64::try_from(number).unwrap_or(0);
        let app = writer(&aws, number, move |call, _| lock(&seen).push(call.clone()))?;
        logs.push(log);
        running.spawn_blocking(move || {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_time()
                .build()
                .map_err(|error| WriterError::Refused(error.to_string()))?;
            runtime.block_on(async {
                for batch in batches {
                    count(&app, batch).await?;
                }
                Ok::<(), WriterError>(())
            })
        });
    }
    while let Some(ended) = running.join_next().await {
        ended??;
    }
    let writers = began.elapsed();
    let logs: Vec<Vec<Call>> = logs
        .iter()
        .map(|log| std::mem::take(&mut *lock(log)))
        .collect();
    let transactions = logs.iter().map(Vec::len).sum();
    let aws = services()?;
    let began = Instant::now();
    std::thread::scope(|scope| {
        for log in &logs {
            let aws = &aws;
            scope.spawn(move || {
                for call in log {
                    std::hint::black_box(aws.answer(&call.target, &call.body));
                }
            });
        }
    });
    Ok(Rate {
        records,
        transactions,
        writers,
        engine: began.elapsed(),
    })
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
