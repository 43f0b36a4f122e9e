//! `PATCH /admin/api-keys/{key}`: changes the name, expiry or limits of a key, suspends it, or enables it
//! again.

use axum::extract::State;
use axum::routing::patch;
use axum::{Json, Router};
use serde::Deserialize;
use tollgate_domain::time::Rfc3339;
use tollgate_store::{KeyChange, KeyRef, UpdateOutcome};
use tollgate_web::{
    AdminCaller, JsonBody, NoQuery, Object, PathParam, Problem, check_enabled, nullable,
};

use crate::App;
use crate::view::{
    KeyView, admin_key_forbidden, check_expiry, check_limit, check_name, no_such_key,
};

/// Returns the route.
pub fn routes(app: App) -> Router {
    Router::new()
        .route("/admin/api-keys/{key}", patch(update))
        .with_state(app)
}

/// Request body: a merge patch (RFC 7396). Members that are absent stay, members that are `null` are removed.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct KeyPatch {
    #[serde(default, deserialize_with = "nullable")]
    name: Option<Option<String>>,
    #[serde(default, deserialize_with = "nullable")]
    expires_at: Option<Option<Rfc3339>>,
    #[serde(default, deserialize_with = "nullable")]
    overrides: Option<Option<Object<OverridesPatch>>>,
    #[serde(default, deserialize_with = "nullable")]
    enabled: Option<Option<bool>>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct OverridesPatch {
    #[serde(default, deserialize_with = "nullable")]
    requests_per_hour: Option<Option<u64>>,
    #[serde(default, deserialize_with = "nullable")]
    monthly_quota: Option<Option<u64>>,
}

async fn update(
    State(app): State<App>,
    _: AdminCaller,
    _: NoQuery,
    PathParam(key): PathParam<KeyRef>,
    JsonBody(patch): JsonBody<KeyPatch>,
) -> Result<Json<KeyView>, Problem> {
    let now = app.clock.now();
    let no_overrides = || OverridesPatch {
        requests_per_hour: Some(None),
        monthly_quota: Some(None),
    };
    let overrides = patch
        .overrides
        .map(|overrides| overrides.map_or_else(no_overrides, |Object(overrides)| overrides))
        .unwrap_or_default();
    let expires_at = patch.expires_at.map(|at| check_expiry(at, now));
    let enabled = patch.enabled.map(check_enabled).transpose()?;
    let change = KeyChange {
        name: patch.name.map(Option::unwrap_or_default),
        expires_at: expires_at.transpose()?,
        requests_per_hour: overrides.requests_per_hour,
        monthly_quota: overrides.monthly_quota,
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
        UpdateOutcome::Done(key) => Ok(Json(KeyView::new(key, now))),
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
