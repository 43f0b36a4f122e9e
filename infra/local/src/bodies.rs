//! Bodies of requests in memory: how many bytes of them there are, whoever sends them.

use std::error::Error;
use std::sync::Arc;
use std::time::Duration;

use axum::body::{Body, Bytes, HttpBody};
use http_body_util::{BodyExt, LengthLimitError, Limited};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::timeout;

/// API Gateway's bound on a body, inflated or not.
pub(crate) const MAX_BODY: u32 = 10 * 1024 * 1024;
/// Bytes of a body that is read from anyone, at once.
const MAX_SMALL: u32 = 64 * 1024;
/// Bytes of all larger ones together.
const ROOM: u32 = 8 * MAX_BODY;
/// How long a caller may take to send a body, once it is asked for.
const READ_TIMEOUT: Duration = Duration::from_secs(30);

/// Room for bodies. Cheap to clone; clones share it.
#[derive(Clone)]
pub(crate) struct Bodies(Arc<Semaphore>);

/// A body that was read, and the room that it takes.
pub(crate) struct Held {
    pub(crate) bytes: Bytes,
    _room: Option<OwnedSemaphorePermit>,
}

/// Why a body could not be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Unreadable {
    /// It has more bytes than it may.
    TooLarge,
    /// Its bytes did not come in time, or not as HTTP has them.
    Broken,
}

/// Whether a body is known to be small, before any of it is read.
pub(crate) fn is_small(body: &Body) -> bool {
    let most = body.size_hint().upper();
    most.is_some_and(|most| most <= MAX_SMALL.into())
}

impl Bodies {
    pub(crate) fn new() -> Self {
        Self(Arc::new(Semaphore::new(ROOM as usize)))
    }

    /// Reads a body. One that may be large is read when there is room for it: until then its
    /// caller is kept waiting, with all but its beginning still on the way.
    pub(crate) async fn read(&self, body: Body) -> Result<Held, Unreadable> {
        if is_small(&body) {
            return Ok(Held {
                bytes: collect(body).await?,
                _room: None,
            });
        }
        if body.size_hint().lower() > MAX_BODY.into() {
            return Err(Unreadable::TooLarge);
        }
        let most = body.size_hint().upper();
        let most = most.and_then(|most| u32::try_from(most).ok());
        let room = Arc::clone(&self.0).acquire_many_owned(most.unwrap_or(MAX_BODY));
        let mut room = room.await.map_err(|_| Unreadable::Broken)?;
        let bytes = collect(body).await?;
        // What a body of unknown length has not needed.
        drop(room.split(room.num_permits().saturating_sub(bytes.len())));
        Ok(Held {
            bytes,
            _room: Some(room),
        })
    }
}

/// Reads a body and keeps nothing of it: many callers send all of it before they read an answer.
pub(crate) async fn discard(body: Body) {
    let mut body = Limited::new(body, MAX_BODY as usize);
    let read = async { while let Some(Ok(_)) = body.frame().await {} };
    let _ = timeout(READ_TIMEOUT, read).await;
}

async fn collect(body: Body) -> Result<Bytes, Unreadable> {
    let read = timeout(
        READ_TIMEOUT,
        Limited::new(body, MAX_BODY as usize).collect(),
    )
    .await;
    match read {
        Ok(Ok(body)) => Ok(body.to_bytes()),
        Ok(Err(error)) if is_too_large(&*error) => Err(Unreadable::TooLarge),
        Ok(Err(_)) | Err(_) => Err(Unreadable::Broken),
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

    /// A body without a stated length.
    fn chunked(chunks: Vec<Vec<u8>>) -> Body {
        let chunks = chunks.into_iter().map(Ok::<_, Infallible>);
        Body::from_stream(futures_util::stream::iter(chunks))
    }

    fn of_size(bytes: u32) -> Body {
        Body::from(vec![b'x'; bytes as usize])
    }

    async fn is_waiting<F: Future>(future: std::pin::Pin<&mut F>) -> bool {
        let mut future = future;
        poll_fn(|context| Poll::Ready(future.as_mut().poll(context).is_pending())).await
    }

    #[tokio::test]
    async fn large_bodies_wait_for_room_and_small_ones_do_not() {
        let bodies = Bodies::new();
        let mut held = Vec::new();
        for _ in 0..ROOM / MAX_BODY {
            held.push(bodies.read(of_size(MAX_BODY)).await.unwrap());
        }
        let mut next = pin!(bodies.read(of_size(MAX_SMALL + 1)));
        assert!(is_waiting(next.as_mut()).await);
        let mut unknown = pin!(bodies.read(chunked(vec![b"x".to_vec()])));
        assert!(is_waiting(unknown.as_mut()).await);
        let small = bodies.read(of_size(MAX_SMALL)).await.unwrap();
        assert_eq!(small.bytes.len(), MAX_SMALL as usize);

        held.clear();
        assert_eq!(next.await.unwrap().bytes.len(), MAX_SMALL as usize + 1);
        assert_eq!(unknown.await.unwrap().bytes, "x");
    }

    #[tokio::test]
    async fn a_body_of_unknown_length_holds_what_it_has() {
        let bodies = Bodies::new();
        let mut held = Vec::new();
        for _ in 0..2 * ROOM / MAX_BODY {
            let read = bodies.read(chunked(vec![vec![b'x'; 1_000], vec![b'y'; 1_000]]));
            held.push(read.await.unwrap());
        }
        assert!(held.iter().all(|body| body.bytes.len() == 2_000));
        let taken = held.len() * 2_000;
        assert_eq!(bodies.0.available_permits(), ROOM as usize - taken);
    }

    #[tokio::test]
    async fn what_cannot_be_read_takes_no_room() {
        let bodies = Bodies::new();
        let check = async |body: Body, expected: Unreadable| {
            assert_eq!(bodies.read(body).await.err(), Some(expected));
            assert_eq!(bodies.0.available_permits(), ROOM as usize);
        };
        check(of_size(MAX_BODY + 1), Unreadable::TooLarge).await;
        let half = vec![b'x'; MAX_BODY as usize / 2 + 1];
        check(chunked(vec![half.clone(), half]), Unreadable::TooLarge).await;
        let failing = futures_util::stream::iter([Err::<Vec<u8>, _>(std::io::Error::other("cut"))]);
        check(Body::from_stream(failing), Unreadable::Broken).await;
    }

    #[tokio::test(start_paused = true)]
    async fn who_stops_sending_is_not_waited_for() {
        let bodies = Bodies::new();
        let silent = futures_util::stream::pending::<Result<Vec<u8>, Infallible>>();
        let began = tokio::time::Instant::now();
        let read = bodies.read(Body::from_stream(silent)).await;
        assert_eq!(read.err(), Some(Unreadable::Broken));
        assert_eq!(began.elapsed().as_secs(), READ_TIMEOUT.as_secs());
        assert_eq!(bodies.0.available_permits(), ROOM as usize);
    }
}
