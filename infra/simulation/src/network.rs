//! An unreliable network between one instance and a service: requests and responses are lost, duplicated,
//! or delayed.
//!
//! The delivery of a request depends only on the seed and on the request, so that every run of a seed is
//! the same. A request that was sent is delivered even if its sender no longer waits for the response.

use std::collections::HashMap;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use aws_smithy_runtime_api::client::http::SharedHttpClient;
use serde_json::Value;
use tokio::sync::oneshot;
use tokio::time::{Instant, sleep};
use tollgate_local_aws::{Call, LocalAws, wire};
use tollgate_runtime::Entropy;

use crate::Trace;
use crate::crash::Process;

/// Percentages of requests that meet each fault.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct FaultRates {
    request_lost: u64,
    response_lost: u64,
    throttled: u64,
    /// The request arrives a second time, later.
    duplicated: u64,
    /// The round trip takes up to two seconds.
    slow: u64,
    /// The request arrives up to 200 seconds later.
    delayed: u64,
    /// The request takes effect, and the connection stays open without a response.
    unanswered: u64,
    /// The request, if it is a transaction, conflicts with another one.
    conflict: u64,
}

impl FaultRates {
    pub(crate) const NONE: Self = Self {
        request_lost: 0,
        response_lost: 0,
        throttled: 0,
        duplicated: 0,
        slow: 0,
        delayed: 0,
        unanswered: 0,
        conflict: 0,
    };
    pub(crate) const LOSSY: Self = Self {
        request_lost: 5,
        response_lost: 12,
        throttled: 4,
        duplicated: 5,
        slow: 5,
        delayed: 0,
        unanswered: 0,
        conflict: 0,
    };
    pub(crate) const SEVERE: Self = Self {
        request_lost: 10,
        response_lost: 15,
        throttled: 5,
        duplicated: 10,
        slow: 10,
        delayed: 10,
        unanswered: 5,
        conflict: 0,
    };
    /// Rates of a service that is almost unreachable.
    pub(crate) const OUTAGE: Self = Self {
        request_lost: 95,
        ..Self::NONE
    };
    /// [`FaultRates::SEVERE`], with conflicts of transactions as on a busy table.
    pub(crate) const CONTENDED: Self = Self {
        conflict: 25,
        ..Self::SEVERE
    };
}

/// A write of a counter, as sent by an instance.
#[derive(Debug, Clone)]
pub(crate) struct Write {
    pub(crate) at: Instant,
    /// The counter's key.
    pub(crate) counter: String,
    /// Units to reserve, if the write is a reservation.
    pub(crate) units: Option<u64>,
    pub(crate) has_response: bool,
    /// Whether the response confirmed that the write took effect.
    pub(crate) is_confirmed: bool,
    /// Instant at which the write took effect, if no response confirmed it.
    pub(crate) unseen_effect: Option<Instant>,
}

/// A service at the far end of a network. Takes the target and the body of a request, and returns status
/// and body of the response.
#[derive(Clone)]
pub(crate) struct Endpoint(Arc<Respond>);

type Respond = dyn Fn(&str, &str) -> (u16, String) + Send + Sync;

impl Endpoint {
    pub(crate) fn new(
        respond: impl Fn(&str, &str) -> (u16, String) + Send + Sync + 'static,
    ) -> Self {
        Self(Arc::new(respond))
    }

    /// Returns the endpoint of the tables.
    pub(crate) fn tables(aws: &LocalAws) -> Self {
        let aws = aws.clone();
        Self::new(move |target, body| aws.call(target, body))
    }

    fn respond(&self, target: &str, body: &str) -> (u16, String) {
        (self.0)(target, body)
    }
}

impl std::fmt::Debug for Endpoint {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Endpoint").finish_non_exhaustive()
    }
}

/// The network between one instance and an endpoint. Cheap to clone; clones share the connection.
#[derive(Debug, Clone)]
pub(crate) struct Network {
    endpoint: Endpoint,
    connection: Arc<Connection>,
}

#[derive(Debug)]
struct Connection {
    seed: u64,
    began: Instant,
    trace: Trace,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    faults: FaultRates,
    /// Times that each request was sent, by its hash.
    sent: HashMap<u64, u64>,
    writes: Vec<Write>,
}

/// Delivery of a request and of its response.
#[derive(Debug)]
struct Delivery {
    arrives_after: Duration,
    /// Whether the request reaches the endpoint.
    takes_effect: bool,
    is_throttled: bool,
    /// Whether the request, if it is a transaction, conflicts with another one.
    conflicts: bool,
    duplicate_after: Option<Duration>,
    response: ResponseDelivery,
    response_after: Duration,
}

#[derive(Debug, PartialEq, Eq)]
enum ResponseDelivery {
    Arrives,
    /// The connection breaks.
    Lost,
    /// The connection stays open.
    Never,
}

impl Network {
    /// Connects to `endpoint`, without faults. `began` is the instant at which the run started.
    pub(crate) fn new(endpoint: Endpoint, seed: u64, began: Instant, trace: Trace) -> Self {
        let state = State {
            faults: FaultRates::NONE,
            sent: HashMap::new(),
            writes: Vec::new(),
        };
        let connection = Connection {
            seed,
            began,
            trace,
            state: Mutex::new(state),
        };
        Self {
            endpoint,
            connection: Arc::new(connection),
        }
    }

    /// Returns an HTTP client for the SDK clients of a process that sends over this network.
    pub(crate) fn http_client(&self, process: &Process) -> SharedHttpClient {
        let (this, process) = (self.clone(), process.clone());
        wire::http_client(move |call| {
            let (this, process) = (this.clone(), process.clone());
            async move {
                process.pass().await;
                let response = this.send(call).await.ok();
                process.pass().await;
                response
            }
        })
    }

    pub(crate) fn set_faults(&self, faults: FaultRates) {
        self.state().faults = faults;
    }

    /// Returns all writes of counters so far.
    pub(crate) fn writes(&self) -> Vec<Write> {
        self.state().writes.clone()
    }

    fn record_response(&self, write: Option<usize>, is_confirmed: bool) {
        if let Some(write) = write {
            let write = &mut self.state().writes[write];
            write.has_response = true;
            write.is_confirmed = is_confirmed;
        }
    }

    fn record_unseen_effect(&self, write: Option<usize>, effect: Option<Instant>) {
        if let (Some(write), Some(_)) = (write, effect) {
            self.state().writes[write].unseen_effect = effect;
        }
    }

    fn log(&self, line: impl FnOnce() -> String) {
        let Connection {
            seed, began, trace, ..
        } = &*self.connection;
        trace.log(|| format!("{:?} connection {seed} {}", began.elapsed(), line()));
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.connection
            .state
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    fn delivery(&self, target: &str, body: &Value) -> Delivery {
        let mut state = self.state();
        // Hashes the parsed body, whose members are sorted, because the SDK serialises maps in an order that
        // differs between runs.
        let mut hasher = DefaultHasher::new();
        (self.connection.seed, target, body.to_string()).hash(&mut hasher);
        let request = hasher.finish();
        let times = state.sent.entry(request).or_default();
        *times += 1;
        let entropy = Entropy::seeded(request.wrapping_add(*times));
        state.faults.delivery(&entropy)
    }

    fn record_write(&self, target: &str, body: &Value) -> Option<usize> {
        if !target.ends_with(".UpdateItem") {
            return None;
        }
        let units = &body["ExpressionAttributeValues"][":units"]["N"];
        let write = Write {
            at: Instant::now(),
            counter: body["Key"]["pk"]["S"].as_str()?.to_owned(),
            units: units.as_str().and_then(|units| units.parse().ok()),
            has_response: false,
            is_confirmed: false,
            unseen_effect: None,
        };
        let mut state = self.state();
        state.writes.push(write);
        Some(state.writes.len() - 1)
    }

    /// Sends a request. The receiver gets the response once it arrives, or an error once the connection
    /// breaks.
    pub(crate) fn send(&self, call: Call) -> oneshot::Receiver<(u16, String)> {
        let (sender, receiver) = oneshot::channel();
        let value: Value = serde_json::from_str(&call.body).unwrap_or_default();
        let delivery = self.delivery(&call.target, &value);
        let write = self.record_write(&call.target, &value);
        self.log(|| {
            let change = &value["ExpressionAttributeValues"];
            format!("sends {} {change} {delivery:?}", value["Key"]["pk"]["S"])
        });
        let this = self.clone();
        tokio::spawn(async move {
            sleep(delivery.arrives_after).await;
            let take_effect = || {
                let response = this.endpoint.respond(&call.target, &call.body);
                this.log(|| format!("response {} {}", response.0, response.1));
                response
            };
            let took_effect = |response: &Option<(u16, String)>| {
                let is_ok = response.as_ref().is_some_and(|(status, _)| *status == 200);
                is_ok.then(Instant::now)
            };
            let response = if delivery.is_throttled {
                Some(call.throttled())
            } else if delivery.conflicts && call.operation() == "TransactWriteItems" {
                Some(call.conflict())
            } else {
                delivery.takes_effect.then(take_effect)
            };
            let effect = took_effect(&response);
            if let Some(later) = delivery.duplicate_after {
                let (network, call) = (this.clone(), call.clone());
                tokio::spawn(async move {
                    sleep(later).await;
                    let (status, body) = network.endpoint.respond(&call.target, &call.body);
                    network.log(|| format!("duplicate: {status} {body}"));
                    if status == 200 {
                        network.record_unseen_effect(write, Some(Instant::now()));
                    }
                });
            }
            sleep(delivery.response_after).await;
            match (delivery.response, response) {
                (ResponseDelivery::Arrives, Some(response)) => match sender.send(response) {
                    // A throttled attempt does not show whether an earlier attempt took effect.
                    Ok(()) if delivery.is_throttled => {}
                    Ok(()) => this.record_response(write, effect.is_some()),
                    // The sender's request has timed out.
                    Err(_) => this.record_unseen_effect(write, effect),
                },
                (ResponseDelivery::Never, _) => {
                    this.record_unseen_effect(write, effect);
                    // Keeps the connection open, so that the sender waits for its own timeout.
                    std::future::pending::<()>().await;
                }
                _ => {
                    this.record_unseen_effect(write, effect);
                    drop(sender);
                }
            }
        });
        receiver
    }
}

impl FaultRates {
    fn delivery(&self, entropy: &Entropy) -> Delivery {
        let mut roll = entropy.below(100);
        let mut occurs = |percent: u64| {
            let hit = roll < percent;
            roll = if hit {
                u64::MAX
            } else {
                roll.saturating_sub(percent)
            };
            hit
        };
        let ms = |max: u64| Duration::from_millis(1 + entropy.below(max));
        let mut delivery = Delivery {
            arrives_after: ms(10),
            takes_effect: true,
            is_throttled: false,
            conflicts: false,
            duplicate_after: None,
            response: ResponseDelivery::Arrives,
            response_after: ms(10),
        };
        if occurs(self.request_lost) {
            delivery.takes_effect = false;
            delivery.response = ResponseDelivery::Lost;
        } else if occurs(self.response_lost) {
            delivery.response = ResponseDelivery::Lost;
        } else if occurs(self.throttled) {
            delivery.takes_effect = false;
            delivery.is_throttled = true;
        } else if occurs(self.duplicated) {
            let max = if entropy.below(2) == 0 { 50 } else { 200_000 };
            delivery.duplicate_after = Some(ms(max));
        } else if occurs(self.slow) {
            delivery.arrives_after = ms(1_000);
            delivery.response_after = ms(1_000);
        } else if occurs(self.delayed) {
            delivery.arrives_after = ms(200_000);
        } else if occurs(self.unanswered) {
            delivery.response = ResponseDelivery::Never;
        } else if occurs(self.conflict) {
            delivery.conflicts = true;
        }
        delivery
    }
}
