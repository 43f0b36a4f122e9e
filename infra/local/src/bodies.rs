//! Bodies of requests in memory: how many bytes of them there are, whoever sends them, and whatever they
//! are inflated to.

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
/// Bytes of all larger ones together, those that smaller ones are inflated to included.
const ROOM: u32 = 8 * MAX_BODY;
/// How long a caller may take to send a body, once it is asked for.
const READ_TIMEOUT: Duration = Duration::from_secs(30);

/// Room for bodies. Cheap to clone; clones share it.
#[derive(Clone)]
pub(crate) struct Bodies(Arc<Semaphore>);

/// A body that was read, and the room that it takes.
pub(crate) struct Held {
    pub(crate) bytes: Bytes,
    room: Option<OwnedSemaphorePermit>,
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

    /// Reads a body. One that may be large, or that `is_inflated` afterwards, waits for room: until there
    /// is, its caller is kept waiting, with all but its beginning still on the way.
    pub(crate) async fn read(&self, body: Body, is_inflated: bool) -> Result<Held, Unreadable> {
        let inflated = if is_inflated { MAX_BODY } else { 0 };
        if is_small(&body) {
            let bytes = collect(body).await?;
            let room = match inflated {
                0 => None,
                inflated => Some(self.room(inflated).await?),
            };
            return Ok(Held { bytes, room });
        }
        if body.size_hint().lower() > MAX_BODY.into() {
            return Err(Unreadable::TooLarge);
        }
        let most = body.size_hint().upper();
        let most = most.and_then(|most| u32::try_from(most).ok());
        let most = most.unwrap_or(MAX_BODY).min(MAX_BODY);
        // At once: bodies that hold a part and wait for the rest would wait for one another.
        let mut room = self.room(most + inflated).await?;
        let bytes = collect(body).await?;
        // What a body of unknown length has not needed.
        shrink(&mut room, bytes.len() + inflated as usize);
        Ok(Held {
            bytes,
            room: Some(room),
        })
    }

    async fn room(&self, bytes: u32) -> Result<OwnedSemaphorePermit, Unreadable> {
        let room = Arc::clone(&self.0).acquire_many_owned(bytes);
        room.await.map_err(|_| Unreadable::Broken)
    }
}

impl Held {
    /// Puts in its place what is made of it, such as by inflating it, which takes no more room than was
    /// held for that.
    pub(crate) fn try_map<E>(self, map: impl FnOnce(Bytes) -> Result<Bytes, E>) -> Result<Self, E> {
        let Self { bytes, mut room } = self;
        let bytes = map(bytes)?;
        if let Some(room) = &mut room {
            shrink(room, bytes.len());
        }
        Ok(Self { bytes, room })
    }
}

/// Gives back all room but that of so many bytes.
fn shrink(room: &mut OwnedSemaphorePermit, bytes: usize) {
    drop(room.split(room.num_permits().saturating_sub(bytes)));
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
            held.push(bodies.read(of_size(MAX_BODY), false).await.unwrap());
        }
        let mut next = pin!(bodies.read(of_size(MAX_SMALL + 1), false));
        assert!(is_waiting(next.as_mut()).await);
        let mut unknown = pin!(bodies.read(chunked(vec![b"x".to_vec()]), false));
        assert!(is_waiting(unknown.as_mut()).await);
        let small = bodies.read(of_size(MAX_SMALL), false).await.unwrap();
        assert_eq!(small.bytes.len(), MAX_SMALL as usize);

        held.clear();
        assert_eq!(next.await.unwrap().bytes.len(), MAX_SMALL as usize + 1);
        assert_eq!(unknown.await.unwrap().bytes, "x");
    }

    #[tokio::test]
    async fn what_a_body_is_inflated_to_takes_room() {
        let bodies = Bodies::new();
        let free = || bodies.0.available_permits();
        let all = ROOM as usize;
        let mut held = Vec::new();
        // A few bytes can say millions.
        for _ in 0..ROOM / MAX_BODY {
            held.push(bodies.read(of_size(100), true).await.unwrap());
        }
        assert_eq!(free(), 0);
        let mut next = pin!(bodies.read(of_size(100), true));
        assert!(is_waiting(next.as_mut()).await);
        let inflate = |body: Held, bytes: usize| {
            let inflated = body.try_map(|_| Ok::<_, ()>(vec![b'x'; bytes].into()));
            inflated.unwrap()
        };
        let first = inflate(held.pop().unwrap(), 1_000);
        // It lacks 1,000 bytes yet.
        assert!(is_waiting(next.as_mut()).await);
        drop(first);
        drop(next.await.unwrap());
        held.clear();
        assert_eq!(free(), all);

        // A large one has room for both before it is read, so that none waits with a part of it.
        let large = bodies.read(of_size(MAX_BODY), true).await.unwrap();
        assert_eq!(free(), all - 2 * MAX_BODY as usize);
        let large = inflate(large, MAX_BODY as usize);
        assert_eq!(free(), all - MAX_BODY as usize);
        drop(large);
        let broken = bodies.read(of_size(MAX_BODY), true).await.unwrap();
        assert!(broken.try_map(|_| Err(())).is_err());
        assert_eq!(free(), all);
    }

    #[tokio::test]
    async fn a_body_of_unknown_length_holds_what_it_has() {
        let bodies = Bodies::new();
        let mut held = Vec::new();
        for _ in 0..2 * ROOM / MAX_BODY {
            let read = bodies.read(chunked(vec![vec![b'x'; 1_000], vec![b'y'; 1_000]]), false);
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
            assert_eq!(bodies.read(body, false).await.err(), Some(expected));
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
        let read = bodies.read(Body::from_stream(silent), false).await;
        assert_eq!(read.err(), Some(Unreadable::Broken));
        assert_eq!(began.elapsed().as_secs(), READ_TIMEOUT.as_secs());
        assert_eq!(bodies.0.available_permits(), ROOM as usize);
    }
}
