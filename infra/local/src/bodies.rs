//! Limits on the memory for request bodies, inflated ones included: in total and by sender.

use std::collections::HashMap;
use std::error::Error;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use axum::body::{Body, Bytes, HttpBody};
use http_body_util::{BodyExt, LengthLimitError, Limited};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::timeout;

/// API Gateway's limit on a body, inflated or not.
pub(crate) const MAX_BODY: u32 = 10 * 1024 * 1024;
/// Largest body, in bytes, that is read without a permit.
const MAX_SMALL: u32 = 64 * 1024;
/// Bytes of all larger bodies together, and of all inflated ones.
const MAX_TOTAL: u32 = 8 * MAX_BODY;
/// Bytes of one sender's bodies: enough for the largest one that is inflated.
const MAX_PER_SENDER: u32 = 2 * MAX_BODY;
/// Time that a caller has to send a body, from when it is read.
const READ_TIMEOUT: Duration = Duration::from_secs(30);

/// Memory for bodies. Cheap to clone; clones share it.
#[derive(Clone)]
pub(crate) struct Bodies {
    total: Arc<Semaphore>,
    /// Semaphores of the senders that have permits or wait for them.
    by_sender: Arc<Mutex<HashMap<Sender, Arc<Semaphore>>>>,
}

/// Sender of a body. Each has its own limit, so that unfinished bodies of one do not delay another's.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) enum Sender {
    /// A customer, by id.
    Customer(String),
    /// All admins together.
    Admin,
    /// All callers of open routes together.
    Stranger,
    /// Programs on this machine, on the `/_local` routes.
    Machine,
}

/// A received body, with the permit for its memory.
pub(crate) struct ReceivedBody {
    pub(crate) bytes: Bytes,
    permit: Option<MemoryPermit>,
}

/// Permit for a number of bytes, of the total and of the sender's.
struct MemoryPermit {
    of_total: OwnedSemaphorePermit,
    of_sender: OwnedSemaphorePermit,
}

/// Failure to read a body.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum BodyError {
    /// The body exceeds the maximum size.
    TooLarge,
    /// The body did not arrive within the timeout, or is not valid HTTP.
    Broken,
}

/// Returns whether a body is small by its stated length, before any of it is read.
pub(crate) fn is_small(body: &Body) -> bool {
    let most = body.size_hint().upper();
    most.is_some_and(|most| most <= MAX_SMALL.into())
}

impl Bodies {
    pub(crate) fn new() -> Self {
        Self {
            total: Arc::new(Semaphore::new(MAX_TOTAL as usize)),
            by_sender: Arc::default(),
        }
    }

    /// Reads a body. A body that may be large, or that `is_inflated` afterwards, first waits for a permit;
    /// until then, flow control keeps most of it at the caller.
    pub(crate) async fn read(
        &self,
        body: Body,
        is_inflated: bool,
        sender: &Sender,
    ) -> Result<ReceivedBody, BodyError> {
        let inflated = if is_inflated { MAX_BODY } else { 0 };
        if is_small(&body) {
            let bytes = collect(body).await?;
            let permit = match inflated {
                0 => None,
                inflated => Some(self.acquire(inflated, sender).await?),
            };
            return Ok(ReceivedBody { bytes, permit });
        }
        if body.size_hint().lower() > MAX_BODY.into() {
            return Err(BodyError::TooLarge);
        }
        let most = body.size_hint().upper();
        let most = most.and_then(|most| u32::try_from(most).ok());
        let most = most.unwrap_or(MAX_BODY).min(MAX_BODY);
        // One acquisition for all bytes: bodies with part of their permits would wait for one another.
        let mut permit = self.acquire(most + inflated, sender).await?;
        let bytes = collect(body).await?;
        // Releases the bytes that a body of unknown length did not need.
        permit.shrink(bytes.len() + inflated as usize);
        Ok(ReceivedBody {
            bytes,
            permit: Some(permit),
        })
    }

    async fn acquire(&self, bytes: u32, sender: &Sender) -> Result<MemoryPermit, BodyError> {
        let acquire = async |semaphore: Arc<Semaphore>| {
            let permit = semaphore.acquire_many_owned(bytes).await;
            permit.map_err(|_| BodyError::Broken)
        };
        // The sender's first: a sender at its own limit does not queue for the total.
        let of_sender = acquire(self.sender_semaphore(sender)).await?;
        let of_total = acquire(Arc::clone(&self.total)).await?;
        Ok(MemoryPermit {
            of_total,
            of_sender,
        })
    }

    fn sender_semaphore(&self, sender: &Sender) -> Arc<Semaphore> {
        let mut by_sender = self
            .by_sender
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        // Permits and pending acquisitions hold a reference: one left means that the semaphore is unused.
        by_sender.retain(|_, semaphore| Arc::strong_count(semaphore) > 1);
        let semaphore = by_sender.entry(sender.clone());
        let semaphore =
            semaphore.or_insert_with(|| Arc::new(Semaphore::new(MAX_PER_SENDER as usize)));
        Arc::clone(semaphore)
    }
}

impl MemoryPermit {
    /// Releases all but `bytes`.
    fn shrink(&mut self, bytes: usize) {
        for permit in [&mut self.of_total, &mut self.of_sender] {
            drop(permit.split(permit.num_permits().saturating_sub(bytes)));
        }
    }
}

impl ReceivedBody {
    /// Replaces the bytes with the result of `map`, for example the inflated body, which must not exceed
    /// the bytes that were acquired for it. Releases the rest of the permit.
    pub(crate) fn try_map<E>(self, map: impl FnOnce(Bytes) -> Result<Bytes, E>) -> Result<Self, E> {
        let Self { bytes, mut permit } = self;
        let bytes = map(bytes)?;
        if let Some(permit) = &mut permit {
            permit.shrink(bytes.len());
        }
        Ok(Self { bytes, permit })
    }
}

/// Reads and discards a body: many callers send all of it before they read the response.
pub(crate) async fn discard(body: Body) {
    let mut body = Limited::new(body, MAX_BODY as usize);
    let read = async { while let Some(Ok(_)) = body.frame().await {} };
    let _ = timeout(READ_TIMEOUT, read).await;
}

async fn collect(body: Body) -> Result<Bytes, BodyError> {
    let read = timeout(
        READ_TIMEOUT,
        Limited::new(body, MAX_BODY as usize).collect(),
    )
    .await;
    match read {
        Ok(Ok(body)) => Ok(body.to_bytes()),
        Ok(Err(error)) if is_too_large(&*error) => Err(BodyError::TooLarge),
        Ok(Err(_)) | Err(_) => Err(BodyError::Broken),
    }
}

fn is_too_large(error: &(dyn Error + 'static)) -> bool {
    error.is::<LengthLimitError>()
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;
    use std::future::poll_fn;
    use std::pin::pin;
    use std::task::Poll;

    use axum::body::Body;

    use super::*;

    /// Returns a body without a stated length.
    fn chunked(chunks: Vec<Vec<u8>>) -> Body {
        let chunks = chunks.into_iter().map(Ok::<_, Infallible>);
        Body::from_stream(futures_util::stream::iter(chunks))
    }

    fn of_size(bytes: u32) -> Body {
        Body::from(vec![b'x'; bytes as usize])
    }

    fn customer(n: u32) -> Sender {
        Sender::Customer(format!("c-{n}"))
    }

    async fn is_waiting<F: Future>(future: std::pin::Pin<&mut F>) -> bool {
        let mut future = future;
        poll_fn(|context| Poll::Ready(future.as_mut().poll(context).is_pending())).await
    }

    #[tokio::test]
    async fn large_bodies_wait_for_memory_and_small_ones_do_not() {
        let bodies = Bodies::new();
        let mut received = Vec::new();
        for n in 0..MAX_TOTAL / MAX_BODY {
            let sender = customer(n);
            let body = bodies.read(of_size(MAX_BODY), false, &sender).await;
            received.push(body.unwrap());
        }
        let mut next = pin!(bodies.read(of_size(MAX_SMALL + 1), false, &Sender::Admin));
        assert!(is_waiting(next.as_mut()).await);
        let mut unknown = pin!(bodies.read(chunked(vec![b"x".to_vec()]), false, &Sender::Machine));
        assert!(is_waiting(unknown.as_mut()).await);
        let small = bodies.read(of_size(MAX_SMALL), false, &Sender::Admin);
        let small = small.await.unwrap();
        assert_eq!(small.bytes.len(), MAX_SMALL as usize);

        received.clear();
        assert_eq!(next.await.unwrap().bytes.len(), MAX_SMALL as usize + 1);
        assert_eq!(unknown.await.unwrap().bytes, "x");
    }

    #[tokio::test]
    async fn a_sender_at_its_limit_delays_no_other_sender() {
        let bodies = Bodies::new();
        let of_one = customer(1);
        let mut received = Vec::new();
        for _ in 0..MAX_PER_SENDER / MAX_BODY {
            let body = bodies.read(of_size(MAX_BODY), false, &of_one);
            received.push(body.await.unwrap());
        }
        let mut next = Box::pin(bodies.read(of_size(MAX_BODY), false, &of_one));
        assert!(is_waiting(next.as_mut()).await);
        for other in [customer(2), Sender::Admin, Sender::Machine] {
            let body = bodies.read(of_size(MAX_BODY), true, &other).await;
            assert_eq!(body.unwrap().bytes.len(), MAX_BODY as usize);
        }
        // Released memory is available to the sender again.
        drop(next);
        received.pop();
        let next = bodies.read(of_size(MAX_BODY), false, &of_one).await;
        assert_eq!(next.unwrap().bytes.len(), MAX_BODY as usize);
        received.clear();
        assert_eq!(bodies.total.available_permits(), MAX_TOTAL as usize);
        let _ = bodies.sender_semaphore(&Sender::Admin);
        let senders = bodies.by_sender.lock().unwrap().len();
        assert_eq!(senders, 1, "unused semaphores are removed");
    }

    #[tokio::test]
    async fn an_inflated_body_takes_memory() {
        let bodies = Bodies::new();
        let free = || bodies.total.available_permits();
        let all = MAX_TOTAL as usize;
        let mut received = Vec::new();
        // A few bytes can inflate to millions.
        for n in 0..MAX_TOTAL / MAX_BODY {
            let sender = customer(n);
            let body = bodies.read(of_size(100), true, &sender).await;
            received.push(body.unwrap());
        }
        assert_eq!(free(), 0);
        let mut next = pin!(bodies.read(of_size(100), true, &Sender::Admin));
        assert!(is_waiting(next.as_mut()).await);
        let inflate = |body: ReceivedBody, bytes: usize| {
            let inflated = body.try_map(|_| Ok::<_, ()>(vec![b'x'; bytes].into()));
            inflated.unwrap()
        };
        let first = inflate(received.pop().unwrap(), 1_000);
        // 1,000 bytes are still missing.
        assert!(is_waiting(next.as_mut()).await);
        drop(first);
        drop(next.await.unwrap());
        received.clear();
        assert_eq!(free(), all);

        // A large body acquires memory for both forms before it is read, so that none waits with a part.
        let large = bodies.read(of_size(MAX_BODY), true, &Sender::Admin);
        let large = large.await.unwrap();
        assert_eq!(free(), all - 2 * MAX_BODY as usize);
        let large = inflate(large, MAX_BODY as usize);
        assert_eq!(free(), all - MAX_BODY as usize);
        drop(large);
        let broken = bodies.read(of_size(MAX_BODY), true, &Sender::Admin);
        let broken = broken.await.unwrap();
        assert!(broken.try_map(|_| Err(())).is_err());
        assert_eq!(free(), all);
    }

    #[tokio::test]
    async fn a_body_of_unknown_length_keeps_memory_for_its_actual_length() {
        let bodies = Bodies::new();
        let mut received = Vec::new();
        for _ in 0..2 * MAX_TOTAL / MAX_BODY {
            let body = chunked(vec![vec![b'x'; 1_000], vec![b'y'; 1_000]]);
            let read = bodies.read(body, false, &Sender::Admin);
            received.push(read.await.unwrap());
        }
        assert!(received.iter().all(|body| body.bytes.len() == 2_000));
        let taken = received.len() * 2_000;
        assert_eq!(bodies.total.available_permits(), MAX_TOTAL as usize - taken);
    }

    #[tokio::test]
    async fn an_unreadable_body_takes_no_memory() {
        let bodies = Bodies::new();
        let check = async |body: Body, expected: BodyError| {
            let read = bodies.read(body, false, &Sender::Admin).await;
            assert_eq!(read.err(), Some(expected));
            assert_eq!(bodies.total.available_permits(), MAX_TOTAL as usize);
        };
        check(of_size(MAX_BODY + 1), BodyError::TooLarge).await;
        let half = vec![b'x'; MAX_BODY as usize / 2 + 1];
        check(chunked(vec![half.clone(), half]), BodyError::TooLarge).await;
        let failing = futures_util::stream::iter([Err::<Vec<u8>, _>(std::io::Error::other("cut"))]);
        check(Body::from_stream(failing), BodyError::Broken).await;
    }

    #[tokio::test(start_paused = true)]
    async fn a_body_that_stops_arriving_times_out() {
        let bodies = Bodies::new();
        let silent = futures_util::stream::pending::<Result<Vec<u8>, Infallible>>();
        let began = tokio::time::Instant::now();
        let read = bodies.read(Body::from_stream(silent), false, &Sender::Admin);
        let read = read.await;
        assert_eq!(read.err(), Some(BodyError::Broken));
        assert_eq!(began.elapsed().as_secs(), READ_TIMEOUT.as_secs());
        assert_eq!(bodies.total.available_permits(), MAX_TOTAL as usize);
    }
}
