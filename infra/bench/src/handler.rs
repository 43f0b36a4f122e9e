//! Measures the authorizer's handler in the benchmark's own process.

use std::time::{Duration, Instant};

use authorizer::{App, Request, Settings, handle};
use hyper::body::Bytes;
use tollgate_local_aws::LocalAws;
use tollgate_runtime::{Clock, Metrics};

use crate::contender::allows;
use crate::samples::Samples;
use crate::tables::store;

/// TTL of the key cache, at its maximum.
const KEY_CACHE: Duration = Duration::from_secs(60);
const WARM_UP: u32 = 500;

/// An error that prevents the measurement of the handler.
#[derive(Debug, thiserror::Error)]
pub(crate) enum HandlerError {
    #[error("an event or a response is not valid JSON")]
    Json(#[from] serde_json::Error),
    #[error("an event is not valid UTF-8")]
    Text(#[from] std::str::Utf8Error),
    #[error("the handler failed")]
    Authorize(#[from] authorizer::AuthorizeError),
    #[error("the handler did not allow the call: {0}")]
    NotAllowed(String),
}

/// Measures the handler from the event's bytes to the response's bytes. Returns the mean of each of `batches`
/// batches of `calls` calls. Metrics are kept in memory, as on Lambda between two writes.
pub(crate) async fn measure(
    aws: &LocalAws,
    event: &Bytes,
    batches: usize,
    calls: u32,
) -> Result<Samples, HandlerError> {
    let clock = Clock::system();
    let settings = Settings {
        uncounted: Vec::new(),
        key_cache: KEY_CACHE,
        stale_keys: Duration::ZERO,
        cors_origin: None,
        upgrade_url: None,
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
    let response = decide(&app, event).await?;
    if allows(&response) {
        Ok(samples)
    } else {
        let response = String::from_utf8_lossy(&response).into_owned();
        Err(HandlerError::NotAllowed(response))
    }
}

async fn decide(app: &App, event: &[u8]) -> Result<Vec<u8>, HandlerError> {
    // The Lambda runtime passes the event to the function as a string.
    let event = str::from_utf8(event)?;
    let request = Request::from_json(event)?;
    let response = handle(app, &request).await?;
    Ok(response.to_json()?)
}
