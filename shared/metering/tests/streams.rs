//! Records of calls with a streamed response, wherever the stream ends.

#![allow(clippy::unwrap_used, reason = "a test whose setup fails has failed")]

use std::collections::VecDeque;
use std::convert::Infallible;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http_body::{Body, Frame};
use http_body_util::{BodyExt, Empty, Full};
use lambda_http::http::{HeaderMap, Response};
use lambda_http::{Request, service_fn};
use tokio::time::sleep;
use tollgate_domain::llm::Tokens;
use tollgate_domain::money::MicroUsd;
use tollgate_domain::usage::{Cost, Truncation, UsageRecord};
use tollgate_local_aws::CloudWatch;
use tollgate_local_aws::fixture::Fixture;
use tollgate_metering::{LateCost, MeteredBody, Metering, RequestCost};
use tollgate_runtime::metrics::LATE_COSTS;
use tollgate_testing::event::Event;
use tollgate_testing::metered::{NOW, delivered, metering_with_metrics, the_record};
use tower::{Layer, ServiceExt};

const CHUNK: &str = "chunk";
/// Tokens that are added before the first chunk, with each chunk, and while the body is dropped.
const BEFORE: u64 = 700;
const EACH: u64 = 1;
const AT_LAST: u64 = 10;

/// End of a stream, after its last chunk.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Then {
    End,
    Fail,
    Panic,
}

/// Streamed output of a language model, which adds its costs.
#[derive(Debug)]
struct Model {
    chunks: usize,
    then: Then,
    cost: RequestCost,
    reported: Arc<AtomicU64>,
}

impl Model {
    fn report(&self, tokens: u64) {
        if self.cost.add_tokens("openai", tokens).is_ok() {
            self.reported.fetch_add(tokens, Ordering::Relaxed);
        }
    }
}

impl Body for Model {
    type Data = Bytes;
    type Error = &'static str;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, &'static str>>> {
        if self.chunks > 0 {
            self.chunks -= 1;
            self.report(EACH);
            return Poll::Ready(Some(Ok(Frame::data(CHUNK.into()))));
        }
        match self.then {
            Then::End => Poll::Ready(None),
            Then::Fail => Poll::Ready(Some(Err("the model disconnected"))),
            Then::Panic => panic!("a bug in the stream"),
        }
    }
}

impl Drop for Model {
    fn drop(&mut self) {
        self.report(AT_LAST);
    }
}

/// A call whose response is being streamed.
struct Streaming {
    at: Fixture,
    metering: Metering,
    cloudwatch: CloudWatch,
    /// Tokens that the handler and its body have added without an error.
    reported: Arc<AtomicU64>,
    /// The response body; `None` once it is dropped.
    body: Option<MeteredBody<Model>>,
}

/// Calls a function that streams a number of chunks, and then ends as `then` says.
async fn stream(chunks: usize, then: Then) -> Streaming {
    let at = Fixture::at(NOW);
    let (metering, cloudwatch) = metering_with_metrics(&at, "ping");
    let reported = Arc::new(AtomicU64::new(0));
    let counter = Arc::clone(&reported);
    let function = service_fn(move |request: Request| {
        let cost = request.extensions().get::<RequestCost>().unwrap().clone();
        let reported = Arc::clone(&counter);
        let model = Model {
            chunks,
            then,
            cost,
            reported,
        };
        model.report(BEFORE);
        async move { Ok::<_, Infallible>(Response::new(model)) }
    });
    let function = metering.layer().layer(function);
    let response = function.oneshot(Event::load("ping/ping").request()).await;
    Streaming {
        body: Some(response.unwrap().into_body()),
        at,
        metering,
        cloudwatch,
        reported,
    }
}

impl Streaming {
    fn body(&mut self) -> &mut MeteredBody<Model> {
        self.body.as_mut().unwrap()
    }

    async fn read(&mut self, chunks: usize) {
        for _ in 0..chunks {
            let frame = self.body().frame().await.unwrap().unwrap();
            assert_eq!(frame.into_data().unwrap(), CHUNK);
        }
    }

    fn reported(&self) -> u64 {
        self.reported.load(Ordering::Relaxed)
    }

    /// Checks that there is one record, with the bytes of `chunks` and all tokens added without an error.
    async fn check(&self, chunks: u64, truncated: Option<Truncation>) {
        self.metering.emitter().flush().await;
        let record = the_record(&self.at);
        let sent = chunks * CHUNK.len() as u64;
        assert_eq!((record.status, record.response_bytes), (200, Some(sent)));
        assert_eq!(record.truncated, truncated);
        let tokens: u64 = record.costs.iter().map(Cost::all_tokens).sum();
        assert_eq!(tokens, self.reported(), "{truncated:?} after {chunks}");
        let is_served = matches!(truncated, None | Some(Truncation::Dropped));
        assert_eq!(record.billable, Some(is_served));
    }
}

const CHUNKS: usize = 4;

#[tokio::test]
async fn a_stream_that_ends_is_recorded_with_all_costs() {
    for chunks in 0..=CHUNKS {
        let mut streaming = stream(chunks, Then::End).await;
        streaming.read(chunks).await;
        assert!(!streaming.body().is_end_stream());
        assert!(streaming.body().frame().await.is_none());
        let sent = chunks as u64;
        assert_eq!(streaming.reported(), BEFORE + sent * EACH + AT_LAST);
        streaming.check(sent, None).await;
        assert!(streaming.body().is_end_stream());
        assert!(streaming.body().frame().await.is_none());
    }
}

#[tokio::test]
async fn a_dropped_stream_is_recorded_with_the_costs_so_far() {
    for chunks in 0..=CHUNKS {
        let mut streaming = stream(CHUNKS, Then::End).await;
        streaming.read(chunks).await;
        assert_eq!(delivered(&streaming.at), [0; 0]);
        let sent = chunks as u64;
        drop(streaming.body.take());
        assert_eq!(streaming.reported(), BEFORE + sent * EACH + AT_LAST);
        streaming.check(sent, Some(Truncation::Dropped)).await;
    }
}

#[tokio::test]
async fn a_failed_stream_is_recorded_with_all_costs_and_not_billable() {
    for chunks in 0..=CHUNKS {
        let mut streaming = stream(chunks, Then::Fail).await;
        streaming.read(chunks).await;
        let error = streaming.body().frame().await.unwrap().unwrap_err();
        assert_eq!(error, "the model disconnected");
        let sent = chunks as u64;
        assert_eq!(streaming.reported(), BEFORE + sent * EACH + AT_LAST);
        streaming.check(sent, Some(Truncation::Failed)).await;
        assert!(streaming.body().frame().await.is_none());
    }
}

#[tokio::test]
async fn a_stream_that_panics_is_recorded_as_failed() {
    for chunks in 0..=CHUNKS {
        let mut streaming = stream(chunks, Then::Panic).await;
        streaming.read(chunks).await;
        let read = tokio::spawn(streaming.body.take().unwrap().collect());
        assert!(read.await.unwrap_err().is_panic());
        let sent = chunks as u64;
        assert_eq!(streaming.reported(), BEFORE + sent * EACH + AT_LAST);
        streaming.check(sent, Some(Truncation::Failed)).await;
    }
}

#[tokio::test]
async fn a_stream_interrupted_by_a_shutdown_is_recorded_with_the_costs_so_far() {
    for chunks in 0..=CHUNKS {
        let mut streaming = stream(CHUNKS, Then::End).await;
        streaming.read(chunks).await;
        streaming.metering.emitter().close().await;
        let sent = chunks as u64;
        assert_eq!(streaming.reported(), BEFORE + sent * EACH);
        let interrupted = Some(Truncation::Interrupted);
        streaming.check(sent, interrupted).await;

        // The rest may still be read, and its costs are late.
        streaming.read(CHUNKS - chunks).await;
        assert!(streaming.body().frame().await.is_none());
        streaming.metering.emitter().close().await;
        assert_eq!(delivered(&streaming.at), [0; 0]);
        assert_eq!(streaming.reported(), BEFORE + sent * EACH);
        let late = CHUNKS as u64 - sent + 1;
        assert_eq!(streaming.cloudwatch.sum(LATE_COSTS, &[]), late);
    }
}

/// A body with these frames that does not report the end of the stream with the last one.
struct Frames(VecDeque<Frame<Bytes>>);

impl Body for Frames {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        Poll::Ready(self.0.pop_front().map(Ok))
    }
}

/// Reads a number of frames of a response body, drops it, and returns the record of the call.
async fn record_of<B>(body: B, frames: usize) -> UsageRecord
where
    B: Body<Data = Bytes, Error = Infallible> + Unpin + Send + 'static,
{
    let at = Fixture::at(NOW);
    let (metering, _) = metering_with_metrics(&at, "ping");
    let mut response = Some(Response::new(body));
    let function = service_fn(move |_: Request| {
        let response = response.take().unwrap();
        async { Ok::<_, Infallible>(response) }
    });
    let function = metering.layer().layer(function);
    let response = function.oneshot(Event::load("ping/ping").request()).await;
    let mut body = response.unwrap().into_body();
    for _ in 0..frames {
        let Ok(_) = body.frame().await.unwrap();
    }
    drop(body);
    metering.emitter().flush().await;
    the_record(&at)
}

#[tokio::test]
async fn a_body_need_not_be_polled_after_its_last_frame() {
    let record = record_of(Empty::new(), 0).await;
    assert_eq!((record.response_bytes, record.truncated), (Some(0), None));

    let whole = Full::<Bytes>::from("a response");
    let record = record_of(whole.clone(), 1).await;
    assert_eq!((record.response_bytes, record.truncated), (Some(10), None));
    let record = record_of(whole, 0).await;
    let dropped = Some(Truncation::Dropped);
    assert_eq!(
        (record.response_bytes, record.truncated),
        (Some(0), dropped)
    );

    let frames = || {
        let data = Frame::data("a response".into());
        Frames([data, Frame::trailers(HeaderMap::new())].into())
    };
    let record = record_of(frames(), 2).await;
    assert_eq!((record.response_bytes, record.truncated), (Some(10), None));
    let record = record_of(frames(), 1).await;
    assert_eq!(
        (record.response_bytes, record.truncated),
        (Some(10), dropped)
    );
}

#[tokio::test]
async fn adding_a_late_cost_is_an_error() {
    let at = Fixture::at(NOW);
    let (metering, cloudwatch) = metering_with_metrics(&at, "ping");
    let (sender, mut costs) = tokio::sync::mpsc::unbounded_channel();
    let function = service_fn(move |request: Request| {
        let cost = request.extensions().get::<RequestCost>().unwrap().clone();
        cost.add_tokens("openai", 1).unwrap();
        sender.send(cost).unwrap();
        async { Ok::<_, Infallible>(Response::new(Full::<Bytes>::from("a response"))) }
    });
    let function = metering.layer().layer(function);
    let response = function.oneshot(Event::load("ping/ping").request()).await;
    response.unwrap().into_body().collect().await.unwrap();

    let cost = costs.recv().await.unwrap();
    let tokens = Tokens::of(1);
    assert_eq!(cost.add_tokens("openai", 1), Err(LateCost));
    assert_eq!(cost.add_model_tokens("openai", "m", tokens), Err(LateCost));
    assert_eq!(cost.add_amount(MicroUsd(1)), Err(LateCost));
    metering.emitter().close().await;
    assert_eq!(cloudwatch.sum(LATE_COSTS, &[]), 3);
    let record = the_record(&at);
    assert_eq!(record.costs.len(), 1);
    assert_eq!(
        (record.costs[0].tokens, record.costs[0].micro_usd),
        (1, MicroUsd(10))
    );
}

#[tokio::test]
async fn a_call_without_a_response_at_shutdown_is_recorded_with_status_502() {
    let at = Fixture::at(NOW);
    let (metering, _) = metering_with_metrics(&at, "ping");
    let function = service_fn(async |request: Request| {
        let cost = request.extensions().get::<RequestCost>().unwrap();
        cost.add_tokens("openai", 7).unwrap();
        std::future::pending::<()>().await;
        Ok::<_, Infallible>(Response::new(Empty::<Bytes>::new()))
    });
    let function = metering.layer().layer(function);
    let call = tokio::spawn(function.oneshot(Event::load("ping/ping").request()));
    tokio::task::yield_now().await;
    metering.emitter().close().await;
    let record = the_record(&at);
    assert_eq!((record.status, record.billable), (502, Some(false)));
    assert_eq!((record.response_bytes, record.truncated), (None, None));
    assert_eq!(record.costs[0].tokens, 7);
    call.abort();
    assert!(call.await.unwrap_err().is_cancelled());
    metering.emitter().flush().await;
    assert_eq!(delivered(&at), [0; 0]);
}

#[tokio::test(start_paused = true)]
async fn the_latency_of_a_stream_includes_its_body() {
    let mut streaming = stream(2, Then::End).await;
    for _ in 0..2 {
        sleep(Duration::from_millis(30)).await;
        streaming.read(1).await;
    }
    assert!(streaming.body().frame().await.is_none());
    streaming.metering.emitter().flush().await;
    assert_eq!(the_record(&streaming.at).latency_ms, 60);
}
