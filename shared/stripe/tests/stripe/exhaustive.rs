//! All sequences of four faults: the outcome of a charge must agree with what a model of Stripe has executed.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use futures_util::future::BoxFuture;
use http::{Request, Response};
use tollgate_stripe::{
    Config, FixedSecret, SecretKey, StripeClient, StripeError, Transport, TransportError,
};

use crate::script::{ITEM, ManualTiming, create_item};

/// Fault of one request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fault {
    /// None: the request is executed once, and repeated requests get the stored response.
    Pass,
    /// No connection.
    NotSent,
    /// The connection is lost before Stripe has the request.
    LostBefore,
    /// The connection is lost after the execution.
    LostAfter,
    /// The connection is lost during the execution, which ends after the next request.
    LostDuring,
    /// Too many requests.
    Throttled,
    /// The execution fails, without effect, with a status that is stored.
    Failed,
    /// The execution fails after its effect, with a status that is stored.
    FailedAfter,
    /// The execution fails after its effect, with a status that is not stored, nor is the effect undone.
    Forgotten,
    /// Another object is locked.
    Locked,
    /// The request is rejected, and the rejection stored.
    Declined,
    /// The secret key is not accepted, for a moment.
    Unauthorized,
}

const FAULTS: [Fault; 12] = [
    Fault::Pass,
    Fault::NotSent,
    Fault::LostBefore,
    Fault::LostAfter,
    Fault::LostDuring,
    Fault::Throttled,
    Fault::Failed,
    Fault::FailedAfter,
    Fault::Forgotten,
    Fault::Locked,
    Fault::Declined,
    Fault::Unauthorized,
];

/// Faults after which a repeated request may succeed.
const PASSING: [Fault; 5] = [
    Fault::NotSent,
    Fault::LostBefore,
    Fault::LostAfter,
    Fault::Throttled,
    Fault::Locked,
];

/// Model of Stripe: one idempotency key, and the number of invoice items.
#[derive(Debug, Default)]
struct Model {
    faults: VecDeque<Fault>,
    /// Status that is stored for the key.
    stored: Option<u16>,
    /// Whether a request with the key is being executed.
    executing: bool,
    items: u32,
    requests: u32,
}

/// Status and body of a response, and whether it is replayed.
type Reply = (u16, &'static str, bool);

const IN_USE: &str = r#"{"error":{"code":"idempotency_key_in_use"}}"#;
const LOCKED: &str = r#"{"error":{"code":"lock_timeout"}}"#;

impl Model {
    fn respond(&mut self) -> Result<Reply, TransportError> {
        self.requests += 1;
        let fault = self.faults.pop_front().unwrap_or(Fault::Pass);
        let lost = || Err(TransportError::Lost("reset".into()));
        match fault {
            Fault::NotSent => return Err(TransportError::NotSent("no route".into())),
            Fault::LostBefore => return lost(),
            Fault::Throttled => return Ok((429, "", false)),
            Fault::Unauthorized => return Ok((401, "", false)),
            _ => {}
        }
        let reply = self.execute(fault);
        match fault {
            Fault::LostAfter | Fault::LostDuring => lost(),
            _ => Ok(reply),
        }
    }

    fn execute(&mut self, fault: Fault) -> Reply {
        if std::mem::take(&mut self.executing) {
            return (409, IN_USE, false);
        }
        if let Some(status) = self.stored {
            return (status, body(status), true);
        }
        let (status, stored, effect) = match fault {
            Fault::Failed => (500, true, false),
            Fault::FailedAfter => (500, true, true),
            Fault::Forgotten => (500, false, true),
            Fault::Locked => (409, false, false),
            Fault::Declined => (402, true, false),
            _ => (200, true, true),
        };
        self.executing = fault == Fault::LostDuring;
        self.items += u32::from(effect);
        self.stored = stored.then_some(status);
        (status, body(status), false)
    }
}

fn body(status: u16) -> &'static str {
    match status {
        200 => ITEM,
        409 => LOCKED,
        _ => r#"{"error":{}}"#,
    }
}

#[derive(Debug, Clone)]
struct Modelled(Arc<Mutex<Model>>);

impl Transport for Modelled {
    fn send(&self, _: Request<Bytes>) -> BoxFuture<'_, Result<Response<Bytes>, TransportError>> {
        let reply = self.0.lock().unwrap().respond();
        Box::pin(async move {
            let (status, body, replayed) = reply?;
            let response = Response::builder().status(status);
            let response = response.header("idempotent-replayed", replayed.to_string());
            Ok(response.body(body.into()).unwrap())
        })
    }
}

#[tokio::test]
async fn the_outcome_agrees_with_what_was_executed() {
    let (mut done, mut rejected, mut unavailable, mut unknown, mut taken) = (0, 0, 0, 0, 0);
    let count = FAULTS.len().pow(4);
    for number in 0..count {
        let of_place = |place: u32| FAULTS[number / FAULTS.len().pow(place) % FAULTS.len()];
        let faults: Vec<Fault> = (0..4).map(of_place).collect();
        let model = Arc::new(Mutex::new(Model {
            faults: faults.iter().copied().collect(),
            ..Model::default()
        }));
        let key = SecretKey::parse("sk_test_1").unwrap();
        let client = StripeClient::new(
            Arc::new(Modelled(model.clone())),
            Arc::new(FixedSecret(key)),
            Arc::new(ManualTiming::default()),
            Config::default(),
        );
        let outcome = create_item(&client).await;
        let model = model.lock().unwrap();
        let context = || format!("{faults:?}: {outcome:?} with {} items", model.items);
        assert!(model.requests <= 4, "{}", context());
        match &outcome {
            Ok(_) => {
                assert!(model.items >= 1, "{}", context());
                done += 1;
            }
            Err(StripeError::Rejected(_)) => {
                assert_eq!(model.items, 0, "{}", context());
                rejected += 1;
            }
            Err(StripeError::Unavailable(_)) => {
                assert_eq!(model.items, 0, "{}", context());
                unavailable += 1;
            }
            Err(StripeError::Unknown(_)) => {
                unknown += 1;
                taken += u32::from(model.items > 0);
            }
        }
        // What passes by itself does not end a call before its last attempt.
        if faults[..3].iter().all(|fault| PASSING.contains(fault)) && faults[3] == Fault::Pass {
            assert!(outcome.is_ok(), "{}", context());
        }
        // Only Stripe itself can execute a request twice, by failing and not storing that it did.
        let forgotten = faults
            .iter()
            .filter(|fault| **fault == Fault::Forgotten)
            .count();
        assert!(model.items as usize <= 1 + forgotten, "{}", context());
    }
    assert_eq!(done + rejected + unavailable + unknown, count);
    // Each outcome occurs, and an unknown one both with and without an effect.
    assert!(
        done > 0 && rejected > 0 && unavailable > 0,
        "{done} {rejected} {unavailable}"
    );
    assert!(
        0 < taken && (taken as usize) < unknown,
        "{taken} of {unknown}"
    );
}
