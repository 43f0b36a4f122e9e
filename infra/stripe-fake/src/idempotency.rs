//! Idempotency keys (<https://docs.stripe.com/api/idempotent_requests>).

use std::collections::{HashMap, VecDeque};

use crate::call::Reply;
use crate::error::ApiError;

/// Seconds after which a key is forgotten.
const LIFETIME: i64 = 24 * 60 * 60;

/// Requests of the last 24 hours, by their `Idempotency-Key`.
#[derive(Default)]
pub(crate) struct Keys {
    requests: HashMap<String, Stored>,
    /// Keys in the order of their first use.
    order: VecDeque<(i64, String)>,
}

/// First request with a key.
struct Stored {
    created: i64,
    endpoint: String,
    canonical: String,
    /// Time until which the request is in progress.
    busy_until: i64,
    /// Response; `None` until the request was executed.
    reply: Option<Reply>,
}

impl Keys {
    /// Returns the response that is stored for a key, or `None` if the request is to be executed.
    ///
    /// # Errors
    /// When the first request with this key was another one, or is in progress.
    pub(crate) fn replay(
        &self,
        key: &str,
        endpoint: &str,
        canonical: &str,
        now: i64,
    ) -> Result<Option<Reply>, ApiError> {
        let Some(stored) = self
            .requests
            .get(key)
            .filter(|stored| now < stored.created + LIFETIME)
        else {
            return Ok(None);
        };
        if stored.endpoint != endpoint {
            return Err(ApiError::idempotency(
                400,
                format!(
                    "Keys for idempotent requests can only be used for the same endpoint they were first used \
                     for ('{}' vs '{endpoint}'). Try using a key other than '{key}' if you meant to execute a \
                     different request.",
                    stored.endpoint
                ),
            ));
        }
        if stored.canonical != canonical {
            return Err(ApiError::idempotency(
                400,
                format!(
                    "Keys for idempotent requests can only be used with the same parameters they were first \
                     used with. Try using a key other than '{key}' if you meant to execute a different request."
                ),
            ));
        }
        match &stored.reply {
            Some(reply) if stored.busy_until <= now => Ok(Some(reply.clone())),
            _ => Err(in_use(key)),
        }
    }

    /// Stores that a request is in progress, until [`finish`](Self::finish).
    pub(crate) fn begin(&mut self, key: &str, endpoint: &str, canonical: String, now: i64) {
        while let Some((created, _)) = self.order.front()
            && created + LIFETIME <= now
        {
            if let Some((created, key)) = self.order.pop_front()
                && self
                    .requests
                    .get(&key)
                    .is_some_and(|stored| stored.created == created)
            {
                self.requests.remove(&key);
            }
        }
        self.order.push_back((now, key.to_owned()));
        let stored = Stored {
            created: now,
            endpoint: endpoint.to_owned(),
            canonical,
            busy_until: now,
            reply: None,
        };
        self.requests.insert(key.to_owned(), stored);
    }

    /// Stores the response, which is replayed from `busy_until` on. Conflicts, limits and what the stand-in
    /// does not implement are not stored, so that the request can be repeated.
    pub(crate) fn finish(&mut self, key: &str, reply: Reply, busy_until: i64) {
        if matches!(reply.status, 409 | 429 | 501) {
            self.requests.remove(key);
        } else if let Some(stored) = self.requests.get_mut(key) {
            stored.reply = Some(reply);
            stored.busy_until = busy_until;
        }
    }
}

/// Creates the error for a key of a request in progress.
pub(crate) fn in_use(key: &str) -> ApiError {
    let message = format!(
        "There is currently another in-progress request using this Idempotent Key (that probably means you \
         submitted twice, and the other request is still going through): {key}. Please try again later."
    );
    ApiError::idempotency(409, message).with_code("idempotency_key_in_use")
}
