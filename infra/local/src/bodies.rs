//! Bodies of requests in memory: how many bytes of them there are, whoever sends them, and whatever they
//! are inflated to.

use std::collections::HashMap;
use std::error::Error;
use std::sync::{Arc, Mutex, PoisonError};
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
/// Bytes of those of one sender: what the largest that is inflated needs.
const SHARE: u32 = 2 * MAX_BODY;
/// How long a caller may take to send a body, once it is asked for.
const READ_TIMEOUT: Duration = Duration::from_secs(30);

/// Room for bodies. Cheap to clone; clones share it.
#[derive(Clone)]
pub(crate) struct Bodies {
    all: Arc<Semaphore>,
    /// Of senders who hold some of it or wait for it.
    shares: Arc<Mutex<HashMap<Sender, Arc<Semaphore>>>>,
}

/// Whose body it is. Whoever sends many and does not end them keeps waiting nobody else.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) enum Sender {
    /// By id.
    Customer(String),
    /// All admins together.
    Admin,
    /// Programs of this machine, on routes that ask for no key.
    Machine,
}

/// A body that was read, and the room that it takes.
pub(crate) struct Held {
    pub(crate) bytes: Bytes,
    room: Option<Room>,
}

/// Bytes that are held, of all and of the sender's share.
struct Room {
    of_all: OwnedSemaphorePermit,
    of_share: OwnedSemaphorePermit,
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
        Self {
            all: Arc::new(Semaphore::new(ROOM as usize)),
            shares: Arc::default(),
        }
    }

    /// Reads a body. One that may be large, or that `is_inflated` afterwards, waits for room: until there
    /// is, its caller is kept waiting, with all but its beginning still on the way.
    pub(crate) async fn read(
        &self,
        body: Body,
        is_inflated: bool,
        sender: &Sender,
    ) -> Result<Held, Unreadable> {
        let inflated = if is_inflated { MAX_BODY } else { 0 };
        if is_small(&body) {
            let bytes = collect(body).await?;
            let room = match inflated {
                0 => None,
                inflated => Some(self.room(inflated, sender).await?),
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
        let mut room = self.room(most + inflated, sender).await?;
        let bytes = collect(body).await?;
        // What a body of unknown length has not needed.
        room.shrink(bytes.len() + inflated as usize);
        Ok(Held {
            bytes,
            room: Some(room),
        })
    }

    async fn room(&self, bytes: u32, sender: &Sender) -> Result<Room, Unreadable> {
        let acquire = async |room: Arc<Semaphore>| {
            let room = room.acquire_many_owned(bytes).await;
            room.map_err(|_| Unreadable::Broken)
        };
        // The share first: whoever waits for it has no place among those who wait for the whole.
        let of_share = acquire(self.share(sender)).await?;
        let of_all = acquire(Arc::clone(&self.all)).await?;
        Ok(Room { of_all, of_share })
    }

    fn share(&self, sender: &Sender) -> Arc<Semaphore> {
        let mut shares = self.shares.lock().unwrap_or_else(PoisonError::into_inner);
        // Whoever holds or awaits a part of one has it too.
        shares.retain(|_, share| Arc::strong_count(share) > 1);
        let share = shares.entry(sender.clone());
        let share = share.or_insert_with(|| Arc::new(Semaphore::new(SHARE as usize)));
        Arc::clone(share)
    }
}

impl Room {
    /// Gives back all but so many bytes.
    fn shrink(&mut self, bytes: usize) {
        for room in [&mut self.of_all, &mut self.of_share] {
            drop(room.split(room.num_permits().saturating_sub(bytes)));
        }
    }
}

impl Held {
    /// Puts in its place what is made of it, such as by inflating it, which takes no more room than was
    /// held for that.
    pub(crate) fn try_map<E>(self, map: impl FnOnce(Bytes) -> Result<Bytes, E>) -> Result<Self, E> {
        let Self { bytes, mut room } = self;
        let bytes = map(bytes)?;
        if let Some(room) = &mut room {
            room.shrink(bytes.len());
        }
        Ok(Self { bytes, room })
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

    fn customer(n: u32) -> Sender {
        Sender::Customer(format!("c-{n}"))
    }

    async fn is_waiting<F: Future>(future: std::pin::Pin<&mut F>) -> bool {
        let mut future = future;
        poll_fn(|context| Poll::Ready(future.as_mut().poll(context).is_pending())).await
    }

    #[tokio::test]
    async fn large_bodies_wait_for_room_and_small_ones_do_not() {
        let bodies = Bodies::new();
        let mut held = Vec::new();
        for n in 0..ROOM / MAX_BODY {
            let sender = customer(n);
            let body = bodies.read(of_size(MAX_BODY), false, &sender).await;
            held.push(body.unwrap());
        }
        let mut next = pin!(bodies.read(of_size(MAX_SMALL + 1), false, &Sender::Admin));
        assert!(is_waiting(next.as_mut()).await);
        let mut unknown = pin!(bodies.read(chunked(vec![b"x".to_vec()]), false, &Sender::Machine));
        assert!(is_waiting(unknown.as_mut()).await);
        let small = bodies.read(of_size(MAX_SMALL), false, &Sender::Admin);
        let small = small.await.unwrap();
        assert_eq!(small.bytes.len(), MAX_SMALL as usize);

        held.clear();
        assert_eq!(next.await.unwrap().bytes.len(), MAX_SMALL as usize + 1);
        assert_eq!(unknown.await.unwrap().bytes, "x");
    }

    #[tokio::test]
    async fn who_keeps_many_bodies_keeps_waiting_nobody_else() {
        let bodies = Bodies::new();
        let of_one = customer(1);
        let mut held = Vec::new();
        for _ in 0..SHARE / MAX_BODY {
            let body = bodies.read(of_size(MAX_BODY), false, &of_one);
            held.push(body.await.unwrap());
        }
        let mut next = Box::pin(bodies.read(of_size(MAX_BODY), false, &of_one));
        assert!(is_waiting(next.as_mut()).await);
        for other in [customer(2), Sender::Admin, Sender::Machine] {
            let body = bodies.read(of_size(MAX_BODY), true, &other).await;
            assert_eq!(body.unwrap().bytes.len(), MAX_BODY as usize);
        }
        // What it gives back is its own again.
        drop(next);
        held.pop();
        let next = bodies.read(of_size(MAX_BODY), false, &of_one).await;
        assert_eq!(next.unwrap().bytes.len(), MAX_BODY as usize);
        held.clear();
        assert_eq!(bodies.all.available_permits(), ROOM as usize);
        let _ = bodies.share(&Sender::Admin);
        assert_eq!(bodies.shares.lock().unwrap().len(), 1, "others are kept");
    }

    #[tokio::test]
    async fn what_a_body_is_inflated_to_takes_room() {
        let bodies = Bodies::new();
        let free = || bodies.all.available_permits();
        let all = ROOM as usize;
        let mut held = Vec::new();
        // A few bytes can say millions.
        for n in 0..ROOM / MAX_BODY {
            let sender = customer(n);
            let body = bodies.read(of_size(100), true, &sender).await;
            held.push(body.unwrap());
        }
        assert_eq!(free(), 0);
        let mut next = pin!(bodies.read(of_size(100), true, &Sender::Admin));
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
    async fn a_body_of_unknown_length_holds_what_it_has() {
        let bodies = Bodies::new();
        let mut held = Vec::new();
        for _ in 0..2 * ROOM / MAX_BODY {
            let body = chunked(vec![vec![b'x'; 1_000], vec![b'y'; 1_000]]);
            let read = bodies.read(body, false, &Sender::Admin);
            held.push(read.await.unwrap());
        }
        assert!(held.iter().all(|body| body.bytes.len() == 2_000));
        let taken = held.len() * 2_000;
        assert_eq!(bodies.all.available_permits(), ROOM as usize - taken);
    }

    #[tokio::test]
    async fn what_cannot_be_read_takes_no_room() {
        let bodies = Bodies::new();
        let check = async |body: Body, expected: Unreadable| {
            let read = bodies.read(body, false, &Sender::Admin).await;
            assert_eq!(read.err(), Some(expected));
            assert_eq!(bodies.all.available_permits(), ROOM as usize);
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
        let read = bodies.read(Body::from_stream(silent), false, &Sender::Admin);
        let read = read.await;
        assert_eq!(read.err(), Some(Unreadable::Broken));
        assert_eq!(began.elapsed().as_secs(), READ_TIMEOUT.as_secs());
        assert_eq!(bodies.all.available_permits(), ROOM as usize);
    }
}
