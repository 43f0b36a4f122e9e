//! `PATCH /admin/api-keys/{key}`: changes the name, expiry or limits of a key, suspends it, or enables it
//! again.

use axum::Json;
use axum::extract::State;
use tollgate_api::json::{Object, Whole};
use tollgate_api::keys::{Key, UpdateKey, UpdateOverrides};
use tollgate_api::problem::{Conflict, NotFound, Unprocessable};
use tollgate_store::{KeyChange, KeyRef, UpdateOutcome};
use tollgate_web::{AdminCaller, JsonBody, NoQuery, PathParam, Problem, check_enabled, check_name};

use crate::App;
use crate::checks::{admin_key_forbidden, check_expiry, check_limit, no_such_key};

tollgate_web::operations!(pub (app: App) update);

/// Changes the name, expiry or limits of a key, suspends it, or enables it again.
#[utoipa::path(
    patch,
    path = "/admin/api-keys/{key}",
    operation_id = "updateKey",
    tag = "keys",
    params(("key" = String, Path, description = "Prefix or id of the key.", example = "tg_live_4fJ9aQ2c")),
    request_body = UpdateKey,
    responses(
        (status = 200, description = "The changed key.", body = Key),
        (status = 404, response = NotFound),
        (status = 409, response = Conflict),
        (status = 422, response = Unprocessable),
    ),
)]
async fn update(
    State(app): State<App>,
    _: AdminCaller,
    _: NoQuery,
    PathParam(key): PathParam<KeyRef>,
    JsonBody(patch): JsonBody<UpdateKey>,
) -> Result<Json<Key>, Problem> {
    let now = app.clock.now();
    let no_overrides = || UpdateOverrides {
        requests_per_hour: Some(None),
        monthly_quota: Some(None),
    };
    let overrides = patch
        .overrides
        .map(|overrides| overrides.map_or_else(no_overrides, |Object(overrides)| overrides))
        .unwrap_or_default();
    let limit = |limit: Option<Whole>| limit.map(|Whole(limit)| limit);
    let expires_at = patch.expires_at.map(|at| check_expiry(at, now));
    let enabled = patch.enabled.map(check_enabled).transpose()?;
    let change = KeyChange {
        name: patch.name.map(Option::unwrap_or_default),
        expires_at: expires_at.transpose()?,
        requests_per_hour: overrides.requests_per_hour.map(limit),
        monthly_quota: overrides.monthly_quota.map(limit),
        suspended_at: enabled.map(|enabled| (!enabled).then_some(now)),
    };
    if change == KeyChange::default() {
        return Err(Problem::unprocessable("The patch changes nothing."));
    }
    if let Some(name) = &change.name {
        check_name(name)?;
    }
    check_limit(
        "overrides.requests_per_hour",
        change.requests_per_hour.flatten(),
    )?;
    check_limit("overrides.monthly_quota", change.monthly_quota.flatten())?;
    match app.store.update_key(&key, &change).await? {
        UpdateOutcome::Done(key) => Ok(Json(Key::new(key, now))),
        UpdateOutcome::Unknown => Err(no_such_key()),
        UpdateOutcome::Admins => Err(admin_key_forbidden()),
        UpdateOutcome::Revoked => Err(Problem::conflict(
            "The key is revoked and cannot be changed.",
        )),
        UpdateOutcome::Rotated => Err(Problem::conflict(
            "The key has been rotated: its expiry is the end of the grace period and cannot be changed.",
        )),
    }
}
