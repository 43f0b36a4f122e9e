//! Measures the usage-writer: the capacity units that it consumes, and its throughput relative to the DynamoDB engine's.

mod traffic;

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use aws_lambda_events::sqs::SqsEvent;
use jiff::Timestamp;
use serde::Serialize;
use tokio::task::JoinSet;
use tollgate_ingest::Ingest;
use tollgate_local_aws::{Call, LocalAws, wire};
use tollgate_runtime::clock::ManualClock;
use tollgate_runtime::{Clock, Entropy, Metrics};
use tollgate_store::Store;
use tollgate_store::schema::USAGE_LOG;
use usage_writer::App;

use crate::figures::HEADER;
use crate::report::table;
use crate::tables::{STACK, SeedError, services, services_with_plans};
use crate::units::{Units, metered_call, stored_bytes};
pub(crate) use traffic::{Batching, Traffic};

/// Batches as the template's event source mapping makes them, if one poller is enough.
pub(crate) const BATCHING: Batching = Batching {
    size: 1_000,
    window_s: 20,
    pollers: 1,
};
/// Time of the first usage event: on no border of days.
const FROM: Timestamp = Timestamp::constant(1_795_341_600, 0);
/// Messages in a batch of the measurement of throughput.
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
    #[error("the runtime of a writer cannot be built")]
    Runtime(#[source] std::io::Error),
    #[error("a writer panicked")]
    Panicked(#[from] tokio::task::JoinError),
}

/// Capacity units and throughput.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Figures {
    /// Full batches of events of one record, of one customer.
    full_one_customer: PerThousand,
    /// Full batches of events of one record, of ten customers.
    full_ten_customers: PerThousand,
    /// Events of 100 records, of one customer.
    hundred_one_customer: PerThousand,
    /// Events of 100 records, of ten customers.
    hundred_ten_customers: PerThousand,
    shapes: Vec<Shape>,
    /// Requests per second of the writer, divided by those of the engine alone.
    writer_over_engine: f64,
    records_per_second: f64,
    requests_per_second: f64,
    engine_requests_per_second: f64,
}

/// Units per 1,000 usage records, and sizes.
#[derive(Debug, Clone, Copy, Default, Serialize)]
pub(crate) struct PerThousand {
    pub(crate) write_units: f64,
    pub(crate) read_units: f64,
    pub(crate) requests: f64,
    pub(crate) messages_per_batch: f64,
    /// Average bytes of a message.
    pub(crate) message_bytes: f64,
    /// Bytes of the items in the usage log, per 1,000 records.
    pub(crate) stored_bytes: f64,
}

/// Traffic of events of one record at a rate, and what it consumes.
#[derive(Debug, Clone, Serialize)]
struct Shape {
    per_second: f64,
    sources: u64,
    customers: u64,
    endpoints: u64,
    duplicated_percent: u64,
    batch_size: usize,
    window_s: u64,
    pollers: u64,
    #[serde(flatten)]
    consumed: PerThousand,
}

/// Targets for the write units per 1,000 records.
const MAX_ONE_CUSTOMER: f64 = 200.0;
const MAX_TEN_CUSTOMERS: f64 = 450.0;
const MAX_HUNDRED: f64 = 91.0;
/// Target for the throughput of the writer, relative to the engine's.
const MIN_RATE: f64 = 0.7;

impl Figures {
    pub(crate) fn tables(&self) -> String {
        let line = |name: &str, value: f64, target: Option<(&str, f64, bool)>| {
            let result = match target {
                Some((_, _, true)) => "met",
                Some((_, _, false)) => "**missed**",
                None => "",
            };
            let target = target.map(|(sign, target, _)| format!("{sign} {target}"));
            [
                name.to_owned(),
                format!("{value:.2}"),
                target.unwrap_or_default(),
                result.to_owned(),
            ]
        };
        let at_most =
            |name: &str, value: f64, most: f64| line(name, value, Some(("≤", most, value <= most)));
        let lines = [
            at_most(
                "write units per 1,000 records, 1 per event, one customer",
                self.full_one_customer.write_units,
                MAX_ONE_CUSTOMER,
            ),
            at_most(
                "write units per 1,000 records, 1 per event, ten customers",
                self.full_ten_customers.write_units,
                MAX_TEN_CUSTOMERS,
            ),
            at_most(
                "write units per 1,000 records, 100 per event, one customer",
                self.hundred_one_customer.write_units,
                MAX_HUNDRED,
            ),
            line(
                "write units per 1,000 records, 100 per event, ten customers",
                self.hundred_ten_customers.write_units,
                None,
            ),
            line(
                "requests per second: × the engine's",
                self.writer_over_engine,
                Some(("≥", MIN_RATE, self.writer_over_engine >= MIN_RATE)),
            ),
            line("records per second", self.records_per_second, None),
        ];
        let head = [
            "events/s",
            "sources",
            "customers",
            "endpoints",
            "twice, %",
            "batch",
            "window, s",
            "pollers",
            "messages per batch",
            "write units",
            "read units",
            "requests",
        ];
        let shapes: Vec<[String; 12]> = self
            .shapes
            .iter()
            .map(|shape| {
                let consumed = shape.consumed;
                [
                    shape.per_second.to_string(),
                    shape.sources.to_string(),
                    shape.customers.to_string(),
                    shape.endpoints.to_string(),
                    shape.duplicated_percent.to_string(),
                    shape.batch_size.to_string(),
                    shape.window_s.to_string(),
                    shape.pollers.to_string(),
                    format!("{:.1}", consumed.messages_per_batch),
                    format!("{:.0}", consumed.write_units),
                    format!("{:.0}", consumed.read_units),
                    format!("{:.0}", consumed.requests),
                ]
            })
            .collect();
        format!(
            "{}\nPer 1,000 usage records, one in each usage event:\n\n{}",
            table(HEADER, &lines),
            table(head, &shapes)
        )
    }
}

/// Runs all measurements, on in-memory engines of their own.
pub(crate) async fn measure() -> Result<Figures, WriterError> {
    let full = |records: usize, customers: u64| Traffic {
        per_second: 1e5 / records as f64,
        events: 10_000 / records,
        records,
        sources: 10,
        customers,
        endpoints: 1,
        duplicated_percent: 0,
    };
    let full_one_customer = consumed(full(1, 1), BATCHING).await?;
    let full_ten_customers = consumed(full(1, 10), BATCHING).await?;
    let hundred = Batching {
        size: 100,
        ..BATCHING
    };
    let hundred_one_customer = consumed(full(100, 1), hundred).await?;
    let hundred_ten_customers = consumed(full(100, 10), hundred).await?;
    let mut shapes = Vec::new();
    for (traffic, batching) in shapes_to_measure() {
        let consumed = consumed(traffic, batching).await?;
        shapes.push(Shape {
            per_second: traffic.per_second,
            sources: traffic.sources,
            customers: traffic.customers,
            endpoints: traffic.endpoints,
            duplicated_percent: traffic.duplicated_percent,
            batch_size: batching.size,
            window_s: batching.window_s,
            pollers: batching.pollers,
            consumed,
        });
    }
    let mut rates = Vec::with_capacity(ROUNDS);
    for _ in 0..ROUNDS {
        rates.push(rate().await?);
    }
    rates.sort_by(|one, other| one.ratio().total_cmp(&other.ratio()));
    let rate = &rates[ROUNDS / 2];
    let per_second = |count: usize, time: Duration| count as f64 / time.as_secs_f64();
    Ok(Figures {
        full_one_customer,
        full_ten_customers,
        hundred_one_customer,
        hundred_ten_customers,
        shapes,
        writer_over_engine: rate.ratio(),
        records_per_second: per_second(rate.records, rate.writers),
        requests_per_second: per_second(rate.requests, rate.writers),
        engine_requests_per_second: per_second(rate.requests, rate.engine),
    })
}

/// Rates of usage events, and the number of events that are measured at each.
const RATES: [(f64, usize); 5] = [
    (0.1, 60),
    (2.0, 600),
    (20.0, 2_000),
    (200.0, 10_000),
    (2_000.0, 20_000),
];

/// Returns the traffic shapes: at each rate those of one and of ten customers, with one poller and with five, then with
/// other numbers of sources and endpoints, and with other batches.
fn shapes_to_measure() -> Vec<(Traffic, Batching)> {
    let at = |(per_second, events): (f64, usize)| Traffic {
        per_second,
        events,
        records: 1,
        sources: 10,
        customers: 1,
        endpoints: 1,
        duplicated_percent: 10,
    };
    let mut shapes = Vec::new();
    for rate in RATES {
        for customers in [1, 10] {
            let traffic = Traffic {
                customers,
                ..at(rate)
            };
            for pollers in [1, 5] {
                shapes.push((
                    traffic,
                    Batching {
                        pollers,
                        ..BATCHING
                    },
                ));
            }
        }
    }
    let usual = at((200.0, 10_000));
    for sources in [1, 100] {
        shapes.push((Traffic { sources, ..usual }, BATCHING));
    }
    for endpoints in [5, 20] {
        shapes.push((Traffic { endpoints, ..usual }, BATCHING));
    }
    // Far more than share a bucket, which is divided.
    shapes.push((at((1e6, 60_000)), BATCHING));
    for rate in [(2.0, 600), (20.0, 2_000), (200.0, 10_000)] {
        for (size, window_s) in [
            (100, 5),
            (1_000, 1),
            (1_000, 5),
            (1_000, 10),
            (1_000, 60),
            (10_000, 60),
        ] {
            let batching = Batching {
                size,
                window_s,
                pollers: 5,
            };
            shapes.push((at(rate), batching));
        }
    }
    shapes
}

/// Returns a writer whose requests `respond` handles.
fn writer(
    aws: &LocalAws,
    clock: Clock,
    number: u64,
    respond: impl Fn(&Call) -> (u16, String) + Clone + Send + Sync + 'static,
) -> App {
    let client = wire::http_client(move |call| {
        let response = respond(&call);
        std::future::ready(Some(response))
    });
    let sdk = aws.sdk_config().into_builder().http_client(client).build();
    let store = Store::new(&sdk, STACK, clock.clone(), Entropy::seeded(number));
    let ingest = Ingest::new(store, clock, Metrics::none());
    App { ingest }
}

async fn ingest(app: &App, batch: SqsEvent) -> Result<(), WriterError> {
    let response = usage_writer::handle(app, batch).await;
    match response.batch_item_failures.len() {
        0 => Ok(()),
        returned => Err(WriterError::Returned(returned)),
    }
}

/// Ingests traffic in these batches, one after another. Returns what it consumes per 1,000 records that are not
/// duplicates.
pub(crate) async fn consumed(
    traffic: Traffic,
    batching: Batching,
) -> Result<PerThousand, WriterError> {
    let aws = services_with_plans().await?;
    let metered = Arc::new(Mutex::new((Units::default(), 0_u64)));
    let (service, meter) = (aws.clone(), Arc::clone(&metered));
    let clock = ManualClock::at(FROM);
    let app = writer(&aws, clock.clock(), 0, move |call| {
        let (response, units) = metered_call(&service, &call.target, &call.body);
        let mut meter = lock(&meter);
        meter.0.add(units);
        meter.1 += 1;
        response
    });
    let batches = traffic.batches(batching, FROM, &Entropy::seeded(1))?;
    let (count, mut messages, mut bytes) = (batches.len(), 0, 0);
    for batch in batches {
        clock.set(batch.at);
        messages += batch.messages;
        let bodies = batch.event.records.iter().filter_map(|it| it.body.as_ref());
        bytes += bodies.map(String::len).sum::<usize>();
        ingest(&app, batch.event).await?;
    }
    let (units, requests) = *lock(&metered);
    let per_1000 = |count: f64| count * 1e3 / (traffic.events * traffic.records) as f64;
    Ok(PerThousand {
        write_units: per_1000(units.write),
        read_units: per_1000(units.read),
        requests: per_1000(requests as f64),
        messages_per_batch: messages as f64 / count as f64,
        message_bytes: bytes as f64 / messages as f64,
        stored_bytes: per_1000(stored_bytes(&aws, USAGE_LOG) as f64),
    })
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
    requests: usize,
    /// Time that the writers took.
    writers: Duration,
    /// Time that the engine took for the same requests, with as many threads.
    engine: Duration,
}

impl Rate {
    fn ratio(&self) -> f64 {
        self.engine.as_secs_f64() / self.writers.as_secs_f64()
    }
}

/// Ingests batches with a writer on each core, and then replays their requests on the engine alone.
async fn rate() -> Result<Rate, WriterError> {
    let traffic = Traffic {
        per_second: 1e5,
        events: BATCHES * BATCH,
        records: 10,
        sources: 1,
        customers: 10,
        endpoints: 1,
        duplicated_percent: 0,
    };
    let batching = Batching {
        size: BATCH,
        ..BATCHING
    };
    let mut of_writers = Vec::new();
    for writer in 0..WRITERS {
        let entropy = Entropy::seeded(u64::try_from(writer).unwrap_or(0));
        of_writers.push(traffic.batches(batching, FROM, &entropy)?);
    }
    let batches = of_writers.iter().flatten();
    let records = batches.map(|batch| records_of(&batch.event)).sum();
    let aws = services_with_plans().await?;
    let mut logs = Vec::new();
    let mut running = JoinSet::new();
    let began = Instant::now();
    for (number, batches) in of_writers.into_iter().enumerate() {
        let log = Arc::new(Mutex::new(Vec::new()));
        let (requests, service) = (Arc::clone(&log), aws.clone());
        let number = u64::try_from(number).unwrap_or(0);
        let clock = ManualClock::at(FROM);
        let app = writer(&aws, clock.clock(), number, move |call| {
            lock(&requests).push(call.clone());
            service.call(&call.target, &call.body)
        });
        logs.push(log);
        running.spawn_blocking(move || {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_time()
                .build()
                .map_err(WriterError::Runtime)?;
            runtime.block_on(async {
                for batch in batches {
                    clock.set(batch.at);
                    ingest(&app, batch.event).await?;
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
    let requests = logs.iter().map(Vec::len).sum();
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
        requests,
        writers,
        engine: began.elapsed(),
    })
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
