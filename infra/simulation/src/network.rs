//! A network between one instance and a service, on which happens whatever can: requests and answers
//! are lost, come twice, come late, or not at all.
//!
//! What becomes of a request depends on the seed and on the request alone, so that a seed tells the
//! same story each time. A request that was sent goes on by itself, whoever waits for its answer.

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

/// How many of a hundred requests meet with what.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Weather {
    request_lost: u64,
    answer_lost: u64,
    throttled: u64,
    /// Arrives again later.
    doubled: u64,
    /// Takes up to two seconds.
    slow: u64,
    /// Arrives minutes later.
    held_back: u64,
    /// Takes effect, and is never answered.
    unanswered: u64,
    /// Of transactions: meets another at one of its items.
    conflict: u64,
}

impl Weather {
    pub(crate) const CALM: Self = Self {
        request_lost: 0,
        answer_lost: 0,
        throttled: 0,
        doubled: 0,
        slow: 0,
        held_back: 0,
        unanswered: 0,
        conflict: 0,
    };
    pub(crate) const LOSSY: Self = Self {
        request_lost: 5,
        answer_lost: 12,
        throttled: 4,
        doubled: 5,
        slow: 5,
        held_back: 0,
        unanswered: 0,
        conflict: 0,
    };
    pub(crate) const STORMY: Self = Self {
        request_lost: 10,
        answer_lost: 15,
        throttled: 5,
        doubled: 10,
        slow: 10,
        held_back: 10,
        unanswered: 5,
        conflict: 0,
    };
    /// Of a service that is as good as gone.
    pub(crate) const DARK: Self = Self {
        request_lost: 95,
        ..Self::CALM
    };
    /// What a transaction meets at a busy table besides.
    pub(crate) const CROWDED: Self = Self {
        conflict: 25,
        ..Self::STORMY
    };
}

/// One write of a counter that was sent.
#[derive(Debug, Clone)]
pub(crate) struct Write {
    pub(crate) at: Instant,
    /// The counter's key.
    pub(crate) counter: String,
    /// How many units it asks for, if it is a reservation.
    pub(crate) units: Option<u64>,
    pub(crate) is_answered: bool,
    /// Whether the answer was that it had taken effect.
    pub(crate) is_done: bool,
    /// When it took effect, if the instance was not told so.
    pub(crate) unseen_effect: Option<Instant>,
}

/// What is at the other end of a line: takes the target and the body of a request, and gives status and
/// body of its answer.
#[derive(Clone)]
pub(crate) struct Far(Arc<Answer>);

type Answer = dyn Fn(&str, &str) -> (u16, String) + Send + Sync;

impl Far {
    pub(crate) fn new(
        answer: impl Fn(&str, &str) -> (u16, String) + Send + Sync + 'static,
    ) -> Self {
        Self(Arc::new(answer))
    }

    /// The tables.
    pub(crate) fn tables(aws: &LocalAws) -> Self {
        let aws = aws.clone();
        Self::new(move |target, body| aws.answer(target, body))
    }

    fn answer(&self, target: &str, body: &str) -> (u16, String) {
        (self.0)(target, body)
    }
}

impl std::fmt::Debug for Far {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Far").finish_non_exhaustive()
    }
}

/// What one instance is connected by. Cheap to clone; all clones are the same line.
#[derive(Debug, Clone)]
pub(crate) struct Network {
    far: Far,
    line: Arc<Line>,
}

#[derive(Debug)]
struct Line {
    seed: u64,
    began: Instant,
    trace: Trace,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    weather: Weather,
    /// How often the same request was sent.
    sent: HashMap<u64, u64>,
    writes: Vec<Write>,
}

/// What becomes of a request.
#[derive(Debug)]
struct Fate {
    arrives_after: Duration,
    /// Not at all, if there is none.
    takes_effect: bool,
    is_throttled: bool,
    meets_another: bool,
    again_after: Option<Duration>,
    answer: Reply,
    answered_after: Duration,
}

#[derive(Debug, PartialEq, Eq)]
enum Reply {
    Arrives,
    Lost,
    Never,
}

impl Network {
    /// A line of its own seed, in a run that began at this instant.
    pub(crate) fn new(far: Far, seed: u64, began: Instant, trace: Trace) -> Self {
        let state = State {
            weather: Weather::CALM,
            sent: HashMap::new(),
            writes: Vec::new(),
        };
        let line = Line {
            seed,
            began,
            trace,
            state: Mutex::new(state),
        };
        Self {
            far,
            line: Arc::new(line),
        }
    }

    /// What the SDK's clients of the instance send by.
    pub(crate) fn http_client(&self) -> SharedHttpClient {
        let this = self.clone();
        wire::http_client(move |call| {
            let answer = this.send(call);
            async { answer.await.ok() }
        })
    }

    pub(crate) fn set(&self, weather: Weather) {
        self.state().weather = weather;
    }

    /// All writes of counters so far.
    pub(crate) fn writes(&self) -> Vec<Write> {
        self.state().writes.clone()
    }

    fn was_answered(&self, write: Option<usize>, is_done: bool) {
        if let Some(write) = write {
            let write = &mut self.state().writes[write];
            write.is_answered = true;
            write.is_done = is_done;
        }
    }

    fn was_unseen(&self, write: Option<usize>, effect: Option<Instant>) {
        if let (Some(write), Some(_)) = (write, effect) {
            self.state().writes[write].unseen_effect = effect;
        }
    }

    fn tell(&self, line: impl FnOnce() -> String) {
        let Line {
            seed, began, trace, ..
        } = &*self.line;
        trace.tell(|| format!("{:?} line {seed} {}", began.elapsed(), line()));
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.line
            .state
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    fn fate(&self, target: &str, body: &Value) -> Fate {
        let mut state = self.state();
        // As text, because the SDK writes maps in an order that differs from run to run, and values
        // sort theirs.
        let mut hasher = DefaultHasher::new();
        (self.line.seed, target, body.to_string()).hash(&mut hasher);
        let request = hasher.finish();
        let times = state.sent.entry(request).or_default();
        *times += 1;
        let drawn = Entropy::seeded(request.wrapping_add(*times));
        state.weather.fate(&drawn)
    }

    fn record(&self, target: &str, body: &Value) -> Option<usize> {
        if !target.ends_with(".UpdateItem") {
            return None;
        }
        let units = &body["ExpressionAttributeValues"][":units"]["N"];
        let write = Write {
            at: Instant::now(),
            counter: body["Key"]["pk"]["S"].as_str()?.to_owned(),
            units: units.as_str().and_then(|units| units.parse().ok()),
            is_answered: false,
            is_done: false,
            unseen_effect: None,
        };
        let mut state = self.state();
        state.writes.push(write);
        Some(state.writes.len() - 1)
    }

    /// Sends a request. The answer comes, or the sender is dropped, when the time for it has come.
    fn send(&self, call: Call) -> oneshot::Receiver<(u16, String)> {
        let (answer, receiver) = oneshot::channel();
        let value: Value = serde_json::from_str(&call.body).unwrap_or_default();
        let fate = self.fate(&call.target, &value);
        let write = self.record(&call.target, &value);
        self.tell(|| {
            let change = &value["ExpressionAttributeValues"];
            format!("sends {} {change} {fate:?}", value["Key"]["pk"]["S"])
        });
        let this = self.clone();
        tokio::spawn(async move {
            sleep(fate.arrives_after).await;
            let take_effect = || {
                let answered = this.far.answer(&call.target, &call.body);
                this.tell(|| format!("is answered {} {}", answered.0, answered.1));
                answered
            };
            let took_effect = |answered: &Option<(u16, String)>| {
                let is_good = answered.as_ref().is_some_and(|(status, _)| *status == 200);
                is_good.then(Instant::now)
            };
            let answered = if fate.is_throttled {
                Some(call.throttled())
            } else if fate.meets_another && call.operation() == "TransactWriteItems" {
                Some(call.conflict())
            } else {
                fate.takes_effect.then(take_effect)
            };
            let effect = took_effect(&answered);
            if let Some(later) = fate.again_after {
                let (again, call) = (this.clone(), call.clone());
                tokio::spawn(async move {
                    sleep(later).await;
                    let (status, answer) = again.far.answer(&call.target, &call.body);
                    again.tell(|| format!("again: {status} {answer}"));
                    if status == 200 {
                        again.was_unseen(write, Some(Instant::now()));
                    }
                });
            }
            sleep(fate.answered_after).await;
            match (fate.answer, answered) {
                (Reply::Arrives, Some(answered)) => match answer.send(answered) {
                    // A throttle tells nothing of what was sent before.
                    Ok(()) if fate.is_throttled => {}
                    Ok(()) => this.was_answered(write, effect.is_some()),
                    // Whoever has asked has given up.
                    Err(_) => this.was_unseen(write, effect),
                },
                (Reply::Never, _) => {
                    this.was_unseen(write, effect);
                    // Whoever has asked waits for as long as it likes.
                    std::future::pending::<()>().await;
                }
                _ => {
                    this.was_unseen(write, effect);
                    drop(answer);
                }
            }
        });
        receiver
    }
}

impl Weather {
    fn fate(&self, drawn: &Entropy) -> Fate {
        let mut lot = drawn.below(100);
        let mut meets = |percent: u64| {
            let hit = lot < percent;
            lot = if hit {
                u64::MAX
            } else {
                lot.saturating_sub(percent)
            };
            hit
        };
        let ms = |most: u64| Duration::from_millis(1 + drawn.below(most));
        let mut fate = Fate {
            arrives_after: ms(10),
            takes_effect: true,
            is_throttled: false,
            meets_another: false,
            again_after: None,
            answer: Reply::Arrives,
            answered_after: ms(10),
        };
        if meets(self.request_lost) {
            fate.takes_effect = false;
            fate.answer = Reply::Lost;
        } else if meets(self.answer_lost) {
            fate.answer = Reply::Lost;
        } else if meets(self.throttled) {
            fate.takes_effect = false;
            fate.is_throttled = true;
        } else if meets(self.doubled) {
            let most = if drawn.below(2) == 0 { 50 } else { 200_000 };
            fate.again_after = Some(ms(most));
        } else if meets(self.slow) {
            fate.arrives_after = ms(1_000);
            fate.answered_after = ms(1_000);
        } else if meets(self.held_back) {
            fate.arrives_after = ms(200_000);
        } else if meets(self.unanswered) {
            fate.answer = Reply::Never;
        } else if meets(self.conflict) {
            fate.meets_another = true;
        }
        fate
    }
}
