//! The way of a request: authentication, faults, checks, idempotency, execution.

use std::time::Duration;

use axum::body::Bytes;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use http::header::{AUTHORIZATION, CONTENT_TYPE, HeaderMap};
use http::{Request, Response, StatusCode};

use crate::call::{self, Pending, Reply};
use crate::error::ApiError;
use crate::event::Cause;
use crate::fake::Inner;
use crate::fault::{self, Chosen, Fault};
use crate::form::Params;
use crate::idempotency::in_use;
use crate::spec::SPEC;
use crate::state::{State, Task};

const MAX_KEY: usize = 255;

/// Result of handling a request.
pub(crate) struct Outcome {
    /// Response; `None` if the connection is lost.
    pub(crate) response: Option<Response<Bytes>>,
    /// Time after which the response is sent.
    pub(crate) delay: Duration,
}

/// Request that was handled.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LoggedRequest {
    /// Seconds since the Unix epoch, by the stand-in's clock.
    pub time: i64,
    /// HTTP method.
    pub method: String,
    /// Path without the query.
    pub path: String,
    /// Status of the response; `None` if the connection was lost.
    pub status: Option<u16>,
    /// Whether the response is that of an earlier request with the same idempotency key.
    pub is_replay: bool,
}

/// Parts of a request, as far as they matter.
struct Incoming<'a> {
    method: &'a str,
    path: &'a str,
    encoded: &'a str,
    key: Option<String>,
    request_id: String,
}

impl Inner {
    /// Handles a request of the API.
    pub(crate) fn handle(&mut self, request: &Request<Bytes>) -> Outcome {
        self.run_until_now();
        let method = request.method().as_str();
        let path = request.uri().path();
        let body = String::from_utf8_lossy(request.body());
        // A DELETE has its parameters in the query, in the official libraries.
        let query = request.uri().query().unwrap_or_default();
        let incoming = Incoming {
            method,
            path,
            encoded: if body.is_empty() { query } else { &body },
            key: header(request.headers(), "idempotency-key")
                .filter(|_| method == "POST")
                .map(str::to_owned),
            request_id: self.ids.next("req_", 14),
        };
        let chosen = self.choose_fault(method, path);
        let result = self.respond(request.headers(), &incoming, chosen.as_ref());
        let is_lost = chosen.as_ref().is_some_and(|chosen| {
            matches!(
                chosen.fault,
                Fault::RequestLost | Fault::ResponseLost | Fault::Late { .. }
            )
        });
        let (mut reply, is_replay) = match result {
            Ok(replied) => replied,
            Err(error) => (Reply::of_error(&error, &incoming.request_id), false),
        };
        let should_retry = chosen.as_ref().and_then(|chosen| chosen.should_retry);
        let has_header = reply
            .headers
            .iter()
            .any(|(name, _)| *name == "stripe-should-retry");
        if let (Some(should_retry), 400.., false) = (should_retry, reply.status, has_header) {
            reply
                .headers
                .push(("stripe-should-retry", should_retry.to_string()));
        }
        if self.options.keeps_log {
            self.log.push(LoggedRequest {
                time: self.test.now,
                method: method.to_owned(),
                path: path.to_owned(),
                status: (!is_lost).then_some(reply.status),
                is_replay,
            });
        }
        let fault = chosen.map(|chosen| chosen.fault);
        if fault == Some(Fault::Malformed) {
            reply.status = 200;
            let cut = reply.body.floor_char_boundary(reply.body.len() / 2);
            reply.body.truncate(cut);
        }
        let delay = match fault {
            Some(Fault::Slow { milliseconds }) => Duration::from_millis(milliseconds),
            _ => Duration::ZERO,
        };
        Outcome {
            response: (!is_lost).then(|| response(reply, &incoming, is_replay)),
            delay,
        }
    }

    fn choose_fault(&mut self, method: &str, path: &str) -> Option<Chosen> {
        if let Some(chosen) = fault::choose(&mut self.faults, method, path) {
            return Some(chosen);
        }
        let fault = self
            .injector
            .as_mut()
            .and_then(|injector| injector(method, path))?;
        Some(Chosen {
            fault,
            should_retry: None,
        })
    }

    /// Returns the reply, and whether it is a replay.
    fn respond(
        &mut self,
        headers: &HeaderMap,
        incoming: &Incoming<'_>,
        chosen: Option<&Chosen>,
    ) -> Result<(Reply, bool), ApiError> {
        let fault = chosen.map(|chosen| &chosen.fault);
        match fault {
            Some(Fault::RequestLost | Fault::ServerError) => return Err(ApiError::server()),
            Some(Fault::RateLimited { retry_after }) => {
                let error = ApiError::rate_limited(TOO_MANY, "endpoint-rate");
                return Err(match retry_after {
                    Some(seconds) => error.with_header("retry-after", seconds.to_string()),
                    None => error,
                });
            }
            Some(Fault::KeyInUse) => {
                return Err(in_use(incoming.key.as_deref().unwrap_or_default()));
            }
            _ => {}
        }
        let is_live = self.authenticate(headers)?;
        self.count_request(is_live)?;
        check_version(headers)?;
        let (at, id) = call::route(incoming.method, incoming.path)?;
        let params = Params::parse(incoming.encoded);
        call::check(at, &params)?;
        let (state, other) = match is_live {
            true => (&mut self.live, &self.test),
            false => (&mut self.test, &self.live),
        };
        let pending = Pending {
            at,
            id,
            params,
            cause: Cause {
                request_id: Some(incoming.request_id.clone()),
                idempotency_key: incoming.key.clone(),
            },
        };
        let (reply, is_replay) = execute(state, pending, incoming, chosen)?;
        Ok((
            name_other_mode(reply, other, is_live, &incoming.request_id),
            is_replay,
        ))
    }

    /// Returns whether the key of a request is that of live mode.
    fn authenticate(&self, headers: &HeaderMap) -> Result<bool, ApiError> {
        let Some(key) = secret_key(headers) else {
            return Err(ApiError::unauthorized(
                "You did not provide an API key. You need to provide your API key in the Authorization header, \
                 using Bearer auth (e.g. 'Authorization: Bearer YOUR_SECRET_KEY'). See \
                 https://stripe.com/docs/api#authentication for details, or we can help at \
                 https://support.stripe.com/.",
            ));
        };
        if key == self.options.test_key {
            Ok(false)
        } else if key == self.options.live_key {
            Ok(true)
        } else if key.starts_with("pk_") {
            let message = "This API call cannot be made with a publishable API key. Please use a secret API key.";
            let error = ApiError::unauthorized(message).with_code("secret_key_required");
            Err(ApiError {
                status: 403,
                ..error
            })
        } else {
            // Only the ends of a key are shown.
            let ends = key
                .char_indices()
                .rev()
                .nth(3)
                .map_or("", |(at, _)| &key[at..]);
            let begin: String = key.chars().take(8).collect();
            Err(ApiError::unauthorized(format!(
                "Invalid API Key provided: {begin}*******{ends}"
            )))
        }
    }

    fn count_request(&mut self, is_live: bool) -> Result<(), ApiError> {
        let Some(most) = self.options.requests_per_second else {
            return Ok(());
        };
        let now = self.test.now;
        let (second, count) = &mut self.rates[usize::from(is_live)];
        if *second != now {
            (*second, *count) = (now, 0);
        }
        *count += 1;
        if *count > most {
            return Err(ApiError::rate_limited(TOO_MANY, "global-rate"));
        }
        Ok(())
    }
}

const TOO_MANY: &str = "Request rate limit exceeded. Learn more about rate limits here \
                        https://stripe.com/docs/rate-limits.";

/// Executes a checked request, or replays the response of its idempotency key.
fn execute(
    state: &mut State,
    pending: Pending,
    incoming: &Incoming<'_>,
    chosen: Option<&Chosen>,
) -> Result<(Reply, bool), ApiError> {
    let now = state.now;
    if let Some(key) = &incoming.key {
        if key.len() > MAX_KEY {
            let message = format!("Idempotency keys can be up to {MAX_KEY} characters long.");
            return Err(ApiError::idempotency(400, message));
        }
        let canonical = pending.params.canonical();
        if let Some(reply) = state.keys.replay(key, incoming.path, &canonical, now)? {
            return Ok((reply, true));
        }
        state.keys.begin(key, incoming.path, canonical, now);
    }
    let fault = chosen.map(|chosen| &chosen.fault);
    if let Some(Fault::Late { seconds }) = fault {
        state.schedule(now + seconds, Task::Execute(Box::new(pending)));
        return Err(ApiError::server());
    }
    let mut reply = match fault {
        Some(Fault::StoredServerError { executes }) => {
            if *executes {
                pending.run(state);
            }
            let mut reply = Reply::of_error(&ApiError::server(), &incoming.request_id);
            if let Some(should_retry) = chosen.and_then(|chosen| chosen.should_retry) {
                reply
                    .headers
                    .push(("stripe-should-retry", should_retry.to_string()));
            }
            reply
        }
        _ => pending.run(state),
    };
    if let Some(key) = &incoming.key {
        reply
            .headers
            .push(("original-request", incoming.request_id.clone()));
        let busy_until = match fault {
            Some(Fault::Slow { milliseconds }) => {
                let seconds = i64::try_from(milliseconds.div_ceil(1_000)).unwrap_or(i64::MAX);
                now.saturating_add(seconds)
            }
            _ => now,
        };
        state.keys.finish(key, reply.clone(), busy_until);
    }
    Ok((reply, false))
}

/// Says so in the error for a missing object that the other mode has it.
fn name_other_mode(reply: Reply, other: &State, is_live: bool, request_id: &str) -> Reply {
    if !matches!(reply.status, 400 | 404) {
        return reply;
    }
    let body: serde_json::Value = serde_json::from_str(&reply.body).unwrap_or_default();
    let message = body["error"]["message"].as_str().unwrap_or_default();
    let id = message.split('\'').nth(1).unwrap_or_default();
    if body["error"]["code"] != "resource_missing" || other.object(id).is_none() {
        return reply;
    }
    let (exists, used) = if is_live {
        ("test", "live")
    } else {
        ("live", "test")
    };
    let message = format!(
        "{message}; a similar object exists in {exists} mode, but a {used} mode key was used to make this request."
    );
    let param = body["error"]["param"].as_str().unwrap_or_default();
    let error = ApiError::invalid(message)
        .with_code("resource_missing")
        .with_param(param);
    Reply {
        body: error.body(request_id).to_string(),
        ..reply
    }
}

fn response(reply: Reply, incoming: &Incoming<'_>, is_replay: bool) -> Response<Bytes> {
    let status = StatusCode::from_u16(reply.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let mut response = Response::builder()
        .status(status)
        .header(CONTENT_TYPE, "application/json")
        .header("request-id", &incoming.request_id)
        .header("stripe-version", &SPEC.api_version);
    for (name, value) in reply.headers {
        response = response.header(name, value);
    }
    if let Some(key) = &incoming.key {
        response = response.header("idempotency-key", key);
    }
    if is_replay {
        response = response.header("idempotent-replayed", "true");
    }
    response.body(Bytes::from(reply.body)).unwrap_or_default()
}

fn check_version(headers: &HeaderMap) -> Result<(), ApiError> {
    match header(headers, "stripe-version") {
        Some(version) if version != SPEC.api_version => Err(ApiError::invalid(format!(
            "Invalid Stripe API version: {version}. stripe-fake has {} only.",
            SPEC.api_version
        ))),
        _ => Ok(()),
    }
}

fn header<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a str> {
    headers.get(name)?.to_str().ok()
}

/// Returns the secret key of a request: a bearer token, or the user name of basic authentication.
fn secret_key(headers: &HeaderMap) -> Option<String> {
    let (scheme, credentials) = headers.get(AUTHORIZATION)?.to_str().ok()?.split_once(' ')?;
    let key = match scheme {
        _ if scheme.eq_ignore_ascii_case("bearer") => credentials.trim().to_owned(),
        _ if scheme.eq_ignore_ascii_case("basic") => {
            let decoded = String::from_utf8(STANDARD.decode(credentials.trim()).ok()?).ok()?;
            decoded.split(':').next()?.to_owned()
        }
        _ => return None,
    };
    Some(key).filter(|key| !key.is_empty())
}
