//! The authorizer's handler by itself, in this process.

use std::time::{Duration, Instant};

use authorizer::{App, Request, Settings, handle};
use hyper::body::Bytes;
use tollgate_domain::plan::Catalog;
use tollgate_local_aws::LocalAws;
use tollgate_runtime::{Clock, Metrics};

use crate::contender::allows;
use crate::samples::Samples;
use crate::tables::store;

/// As long as a key may be remembered.
const KEY_CACHE: Duration = Duration::from_secs(60);
const WARM_UP: u32 = 500;

/// Why the handler could not be measured.
#[derive(Debug, thiserror::Error)]
pub(crate) enum HandlerError {
    #[error("the shipped plans cannot be used")]
    Plans(#[from] tollgate_domain::plan::InvalidCatalog),
    #[error("an event or an answer is no JSON")]
    Json(#[from] serde_json::Error),
    #[error("an event is no text")]
    Text(#[from] std::str::Utf8Error),
    #[error("the handler refused the call")]
    Refused(#[from] authorizer::Refused),
    #[error("the handler did not allow the call: {0}")]
    NotAllowed(String),
}

/// The event's bytes in, the answer's bytes out: the mean of each of `batches` batches of `calls`.
/// Metrics are kept in memory, as they are on Lambda until they are due.
pub(crate) async fn measure(
    aws: &LocalAws,
    event: &Bytes,
    batches: usize,
    calls: u32,
) -> Result<Samples, HandlerError> {
    let clock = Clock::system();
    let settings = Settings {
        plans: Catalog::shipped()?,
        uncounted: Vec::new(),
        key_cache: KEY_CACHE,
        stale_keys: Duration::ZERO,
        cors_origin: None,
    };
    let metrics = Metrics::new("bench", clock.clone(), |_| {});
    let app = App::new(store(aws), settings, clock, metrics);
    for _ in 0..WARM_UP {
        decide(&app, event).await?;
    }
    let mut samples = Samples::default();
    for _ in 0..batches {
        let began = Instant::now();
        for _ in 0..calls {
            std::hint::black_box(decide(&app, event).await?);
        }
        samples.push(began.elapsed() / calls);
    }
    let answer = decide(&app, event).await?;
    if allows(&answer) {
        Ok(samples)
    } else {
        let answer = String::from_utf8_lossy(&answer).into_owned();
        Err(HandlerError::NotAllowed(answer))
    }
}

async fn decide(app: &App, event: &[u8]) -> Result<Vec<u8>, HandlerError> {
    // The function gets its event from the runtime as a text.
    let event = str::from_utf8(event)?;
    let request = Request::from_json(event)?;
    let answer = handle(app, &request).await?;
    Ok(answer.to_json()?)
}
