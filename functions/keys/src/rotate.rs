//! `POST /admin/api-keys/{key}/rotate`: creates a successor of a key, which itself keeps working for a grace
//! period.

use axum::extract::State;
use axum::response::Response;
use jiff::SignedDuration;
use tollgate_api::json::Whole;
use tollgate_api::keys::{IssuedKey, RotateKey};
use tollgate_api::problem::{Conflict, Member, NotFound, Unprocessable};
use tollgate_domain::id::KeyId;
use tollgate_domain::key::{KeyRecord, KeyStatus, Owner};
use tollgate_store::{KeyRef, NewKey, RotateOutcome};
use tollgate_web::{AdminCaller, IdempotencyKey, JsonBody, NoQuery, PathParam, Problem};

use crate::checks::{admin_key_forbidden, no_such_key};
use crate::create::{TooManyCollisions, issued};
use crate::{Issuer, MAX_ATTEMPTS};

/// Maximum grace period: 30 days.
const MAX_GRACE_S: i64 = 30 * 86_400;

tollgate_web::operations!(pub (issuer: Issuer) rotate);

/// Creates the successor of a key.
///
/// The successor has the old key's customer, name, role, limits and expiry, and shares its hourly counter. The
/// old key works until the end of the grace period.
#[utoipa::path(
    post,
    path = "/admin/api-keys/{key}/rotate",
    operation_id = "rotateKey",
    tag = "keys",
    params(("key" = String, Path, description = "Prefix or id of the key.", example = "tg_live_4fJ9aQ2c"), ("Idempotency-Key" = Option<String>, Header, description = "Key of the request: a repetition within 24 hours creates nothing.", pattern = "^[!-~]{1,255}$")),
    request_body = RotateKey,
    responses(
        (status = 201, description = "The successor was created.", body = IssuedKey, headers(("Location" = String, description = "Path of the resource."))),
        (status = 200, description = "A repetition of a request with the same `Idempotency-Key`: the successor that it created, without the secret.", body = IssuedKey, headers(("Location" = String, description = "Path of the resource."))),
        (status = 404, response = NotFound),
        (status = 409, response = Conflict),
        (status = 422, response = Unprocessable),
    ),
)]
async fn rotate(
    State(issuer): State<Issuer>,
    caller: AdminCaller,
    _: NoQuery,
    PathParam(key): PathParam<KeyRef>,
    idempotency: IdempotencyKey,
    JsonBody(body): JsonBody<RotateKey>,
) -> Result<Response, Problem> {
    let Whole(grace_period_s) = body.grace_period_s;
    let Some(grace_s) = i64::try_from(grace_period_s)
        .ok()
        .filter(|grace_s| *grace_s <= MAX_GRACE_S)
    else {
        let detail = "grace_period_s must be at most 2,592,000 (30 days).";
        return Err(Problem::unprocessable(detail).with(Member::Field, "grace_period_s"));
    };
    let now = issuer.app.clock.now();
    let store = &issuer.app.store;
    for _ in 0..MAX_ATTEMPTS {
        let old = store.key(&key).await?.ok_or_else(no_such_key)?;
        if old.owner == Owner::Admin {
            return Err(admin_key_forbidden());
        }
        let request = format!("{} {}", old.id, grace_period_s);
        let mark = idempotency.mark("rotate-key", &caller.key_id, &request);
        // A repeated request finds the key already rotated by the first request. Only the store can
        // distinguish it from a second rotation.
        if mark.is_none() || old.rotated_to.is_none() {
            check_rotatable(&old, old.status(now))?;
        }
        let grace_ends = now
            .saturating_add(SignedDuration::from_secs(grace_s))
            .unwrap_or(now);
        let old_ends_at = old.expires_at.map_or(grace_ends, |at| at.min(grace_ends));
        let secret = issuer.generate();
        let successor = KeyRecord {
            id: issuer.entropy.with(KeyId::random),
            prefix: secret.prefix(),
            created_at: now,
            rotated_to: None,
            hour_counter_id: Some(old.hour_counter_id().clone()),
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
            RotateOutcome::New => return Ok(issued(Some(&secret), successor, now)),
            RotateOutcome::Replayed(successor) => return Ok(issued(None, *successor, now)),
            RotateOutcome::KeyReused => return Err(IdempotencyKey::reused()),
            RotateOutcome::Changed => check_rotatable(&old, old.status(now))?,
            RotateOutcome::NoCustomer => {
                return Err(Problem::conflict("The customer of the key was erased."));
            }
            RotateOutcome::Taken => {}
        }
    }
    Err(Problem::internal(TooManyCollisions))
}

fn check_rotatable(key: &KeyRecord, status: KeyStatus) -> Result<(), Problem> {
    match (status, &key.rotated_to) {
        (KeyStatus::Revoked, _) => Err(Problem::conflict("The key is revoked.")),
        (_, Some(successor)) => Err(Problem::conflict("The key has already been rotated.")
            .with(Member::RotatedTo, successor.as_str())),
        (KeyStatus::Suspended, None) => Err(Problem::conflict(
            "The key is suspended. Enable it before you rotate it.",
        )),
        (KeyStatus::Expired, None) => Err(Problem::conflict("The key has expired.")),
        (KeyStatus::Active, None) => Ok(()),
    }
}
