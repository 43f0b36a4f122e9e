//! `POST /admin/api-keys/{key}/rotate`: makes a successor, and lets the key work for a while yet.

use axum::Router;
use axum::extract::State;
use axum::response::Response;
use axum::routing::post;
use jiff::SignedDuration;
use serde::{Deserialize, Serialize};
use tollgate_domain::id::KeyId;
use tollgate_domain::key::{KeyRecord, KeyStatus, Owner};
use tollgate_store::{KeyRef, NewKey, Rotated};
use tollgate_web::{AdminCaller, IdempotencyKey, JsonBody, NoQuery, PathParam, Problem};

use crate::create::{NamesTaken, issued};
use crate::view::{admins_key, no_such_key};
use crate::{Issuer, MAX_DRAWS};

/// The grace period without a `grace_period_s`: a day.
const DEFAULT_GRACE_S: u32 = 86_400;
/// The longest one: 30 days.
const MAX_GRACE_S: u32 = 30 * 86_400;

/// The route.
pub fn routes(issuer: Issuer) -> Router {
    Router::new()
        .route("/admin/api-keys/{key}/rotate", post(rotate))
        .with_state(issuer)
}

/// The body.
#[derive(Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
struct Rotation {
    /// How long the old key still works, in seconds; 0 ends it at once.
    #[serde(default = "default_grace_s")]
    grace_period_s: u32,
}

fn default_grace_s() -> u32 {
    DEFAULT_GRACE_S
}

/// The successor has the old key's owner, name, limits and expiry, and goes on with its hour. The old
/// key ends with the grace period, and never later than it would have.
async fn rotate(
    State(issuer): State<Issuer>,
    caller: AdminCaller,
    _: NoQuery,
    PathParam(key): PathParam<KeyRef>,
    idempotency: IdempotencyKey,
    JsonBody(body): JsonBody<Rotation>,
) -> Result<Response, Problem> {
    if body.grace_period_s > MAX_GRACE_S {
        let detail = "The grace period is at most 2,592,000 seconds (30 days).";
        return Err(Problem::unprocessable(detail).with("field", "grace_period_s"));
    }
    let now = issuer.app.clock.now();
    let store = &issuer.app.store;
    for _ in 0..MAX_DRAWS {
        let old = store.key(&key).await?.ok_or_else(no_such_key)?;
        if old.owner == Owner::Admin {
            return Err(admins_key());
        }
        let request = format!("{} {}", old.id, body.grace_period_s);
        let mark = idempotency.mark("rotate-key", &caller.key_id, &request);
        // A repeated request finds the key rotated by the first; only the store can tell it from
        // another rotation.
        if mark.is_none() || old.rotated_to.is_none() {
            check_rotatable(&old, old.status(now))?;
        }
        let grace_ends = now
            .saturating_add(SignedDuration::from_secs(body.grace_period_s.into()))
            .unwrap_or(now);
        let old_ends_at = old.expires_at.map_or(grace_ends, |at| at.min(grace_ends));
        let secret = issuer.draw();
        let successor = KeyRecord {
            id: issuer.entropy.with(KeyId::random),
            prefix: secret.prefix(),
            created_at: now,
            rotated_to: None,
            hour_of: Some(old.hour_key().clone()),
            ..old.clone()
        };
        let new = NewKey {
            secret: &secret,
            record: &successor,
        };
        match store
            .rotate_key(&old, old_ends_at, &new, mark.as_ref())
            .await?
        {
            Rotated::New => return Ok(issued(Some(&secret), successor, now)),
            Rotated::Replayed(successor) => return Ok(issued(None, *successor, now)),
            Rotated::KeyReused => return Err(IdempotencyKey::reused()),
            Rotated::Changed => check_rotatable(&old, old.status(now))?,
            Rotated::NoCustomer => {
                return Err(Problem::conflict("The customer whose key it is has left."));
            }
            Rotated::Taken => {}
        }
    }
    Err(Problem::internal(NamesTaken))
}

fn check_rotatable(key: &KeyRecord, status: KeyStatus) -> Result<(), Problem> {
    match (status, &key.rotated_to) {
        (KeyStatus::Revoked, _) => Err(Problem::conflict("The key is revoked.")),
        (_, Some(successor)) => Err(Problem::conflict("The key has been rotated already.")
            .with("rotated_to", successor.as_str())),
        (KeyStatus::Suspended, None) => Err(Problem::conflict(
            "The key is suspended. Enable it, and rotate it then.",
        )),
        (KeyStatus::Expired, None) => Err(Problem::conflict("The key has expired.")),
        (KeyStatus::Active, None) => Ok(()),
    }
}
