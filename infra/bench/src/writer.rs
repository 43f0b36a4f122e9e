//! Measures the usage-writer: the write units that it consumes, and its throughput relative to the DynamoDB
//! engine's.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use aws_lambda_events::sqs::SqsEvent;
use jiff::{SignedDuration, Timestamp};
use serde::Serialize;
use serde_json::{Map, Value, json};
use tokio::task::JoinSet;
use tollgate_domain::usage::EVENT_TYPE;
use tollgate_ingest::Ingest;
use tollgate_local_aws::{Call, LocalAws, wire};
use tollgate_runtime::{Clock, Entropy, Metrics};
use tollgate_store::Store;
use usage_writer::App;

use crate::figures::HEADER;
use crate::report::table;
use crate::tables::{STACK, SeedError, services, services_with_plans};

/// Messages in a batch: the template's `BatchSize`.
const BATCH: usize = 100;
/// Concurrent writers in the measurement of throughput, one for each core.
const WRITERS: usize = 2;
/// Batches of each writer.
const BATCHES: usize = 20;
/// Runs of the measurement of throughput, of which the median is reported.
const ROUNDS: usize = 5;

/// An error that prevents the measurement of the writer.
#[derive(Debug, thiserror::Error)]
pub(crate) enum WriterError {
    #[error(transparent)]
    Seed(#[from] SeedError),
    #[error("a batch is not a valid SQS event")]
    Json(#[from] serde_json::Error),
    #[error("the writer returned {0} messages as failed")]
    Returned(usize),
    #[error("the engine failed with {0}")]
    Engine(String),
    #[error("the runtime of a writer cannot be built")]
    Runtime(#[source] std::io::Error),
    #[error("a writer panicked")]
    Panicked(#[from] tokio::task::JoinError),
}

/// Write units per 1,000 usage records, and throughput.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Figures {
    /// Write units with one record in each event, all of one customer.
    write_units_per_1000_one_by_one: f64,
    /// Write units with 100 records in each event, all of one customer.
    write_units_per_1000_one_customer: f64,
    /// Write units with 100 records in each event, of ten customers in turn.
    write_units_per_1000_ten_customers: f64,
    /// Transactions per second of the writer, divided by those of the engine alone.
    writer_over_engine: f64,
    records_per_second: f64,
    transactions_per_second: f64,
    engine_transactions_per_second: f64,
}

/// Target for the write units per 1,000 records of one customer.
const MAX_UNITS: f64 = 150.0;
/// Target for the throughput of the writer, relative to the engine's.
const MIN_RATE: f64 = 0.7;

impl Figures {
    pub(crate) fn table(&self) -> String {
        let line = |name: &str, value: f64, target: &str, is_met: Option<bool>| {
            let result = match is_met {
                Some(true) => "met",
                Some(false) => "**missed**",
                None => "",
            };
            [name, &format!("{value:.2}"), target, result].map(str::to_owned)
        };
        let one_customer = self.write_units_per_1000_one_customer;
        let lines = [
            line(
                "write units per 1,000 records, 1 per event",
                self.write_units_per_1000_one_by_one,
                "",
                None,
            ),
            line(
                "write units per 1,000 records, 100 per event, one customer",
                one_customer,
                &format!("≤ {MAX_UNITS}"),
                Some(one_customer <= MAX_UNITS),
            ),
            line(
                "write units per 1,000 records, 100 per event, ten customers",
                self.write_units_per_1000_ten_customers,
                "",
                None,
            ),
            line(
                "transactions per second: × the engine's",
                self.writer_over_engine,
                &format!("≥ {MIN_RATE}"),
                Some(self.writer_over_engine >= MIN_RATE),
            ),
            line("records per second", self.records_per_second, "", None),
        ];
        table(HEADER, &lines)
    }
}

/// Runs all measurements, on in-memory engines of their own.
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

/// Generates `count` batches of `messages` messages, each with a usage event of `records` records, of the
/// customers in turn.
fn batches(
    count: usize,
    messages: usize,
    records: usize,
    customers: usize,
    now: Timestamp,
) -> Result<Vec<SqsEvent>, serde_json::Error> {
    // Records differ as real ones do.
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
    let usage_event = |batch: usize, message: usize| {
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
            let detail = usage_event(batch, message);
            let body =
                json!({ "detail-type": EVENT_TYPE, "source": detail["source"], "detail": detail });
            json!({ "messageId": message.to_string(), "body": body.to_string() })
        });
        serde_json::from_value(json!({ "Records": messages.collect::<Vec<_>>() }))
    };
    (0..count).map(batch).collect()
}

/// Returns a writer on `aws` that calls `observe` with each of its requests.
fn writer(
    aws: &LocalAws,
    number: u64,
    observe: impl Fn(&Call) + Clone + Send + Sync + 'static,
) -> Result<App, WriterError> {
    let service = aws.clone();
    let client = wire::http_client(move |call| {
        let response = service.call(&call.target, &call.body);
        observe(&call);
        std::future::ready(Some(response))
    });
    let sdk = aws.sdk_config().into_builder().http_client(client).build();
    let clock = Clock::system();
    let store = Store::new(&sdk, STACK, clock.clone(), Entropy::seeded(number));
    let ingest = Ingest::new(store, clock, Metrics::none());
    Ok(App { ingest })
}

async fn ingest(app: &App, batch: SqsEvent) -> Result<(), WriterError> {
    let response = usage_writer::handle(app, batch).await;
    match response.batch_item_failures.len() {
        0 => Ok(()),
        returned => Err(WriterError::Returned(returned)),
    }
}

/// Returns the write units per 1,000 records of these batches, as reported by the engine.
async fn units(batches: &[SqsEvent]) -> Result<f64, WriterError> {
    let aws = services_with_plans().await?;
    let calls = Arc::new(Mutex::new(Vec::new()));
    let log = Arc::clone(&calls);
    let app = writer(&aws, 0, move |call| {
        lock(&log).push(call.clone());
    })?;
    for batch in batches {
        ingest(&app, batch.clone()).await?;
    }
    // Replays the requests on empty tables, with the consumed capacity requested.
    let aws = services()?;
    let mut units = 0.0;
    for call in lock(&calls).iter() {
        let mut request: Map<String, Value> = serde_json::from_str(&call.body)?;
        request.insert("ReturnConsumedCapacity".to_owned(), "TOTAL".into());
        let (status, response) = aws.call(&call.target, &Value::from(request).to_string());
        if status != 200 {
            return Err(WriterError::Engine(response));
        }
        let response: Value = serde_json::from_str(&response)?;
        let tables = response["ConsumedCapacity"]
            .as_array()
            .into_iter()
            .flatten();
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
    /// Time that the writers took.
    writers: Duration,
    /// Time that the engine took for the same transactions, with as many threads.
    engine: Duration,
}

impl Rate {
    fn ratio(&self) -> f64 {
        self.engine.as_secs_f64() / self.writers.as_secs_f64()
    }
}

/// Ingests batches with a writer on each core, and then replays their transactions on the engine alone.
async fn rate(now: Timestamp) -> Result<Rate, WriterError> {
    let mut of_writers = Vec::new();
    for writer in 0..WRITERS {
        let mut batches = batches(BATCHES, BATCH, 10, 10, now)?;
        for batch in &mut batches {
            for message in &mut batch.records {
                let body = message.body.take().unwrap_or_default();
                // Makes the event's id unique to the writer.
                let id = "\"id\":\"";
                message.body = Some(body.replace(id, &format!("{id}{writer}-")));
            }
        }
        of_writers.push(batches);
    }
    let records = of_writers.iter().flatten().map(records_of).sum();
    let aws = services_with_plans().await?;
    let mut logs = Vec::new();
    let mut running = JoinSet::new();
    let began = Instant::now();
    for (number, batches) in of_writers.into_iter().enumerate() {
        let log = Arc::new(Mutex::new(Vec::new()));
        let requests = Arc::clone(&log);
        let number = u64::try_from(number).unwrap_or(0);
        let app = writer(&aws, number, move |call| {
            lock(&requests).push(call.clone());
        })?;
        logs.push(log);
        running.spawn_blocking(move || {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_time()
                .build()
                .map_err(WriterError::Runtime)?;
            runtime.block_on(async {
                for batch in batches {
                    ingest(&app, batch).await?;
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
                    std::hint::black_box(aws.call(&call.target, &call.body));
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
