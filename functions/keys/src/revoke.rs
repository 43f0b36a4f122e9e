//! `DELETE /admin/api-keys/{key}`: revokes a key, by prefix or id.

use axum::Router;
use axum::extract::State;
use axum::routing::delete;
use lambda_http::http::StatusCode;
use tollgate_store::KeyRef;
use tollgate_web::{AdminCaller, NoQuery, PathParam, Problem};

use crate::App;
use crate::view::no_such_key;

/// Returns the route.
pub fn routes(app: App) -> Router {
    Router::new()
        .route("/admin/api-keys/{key}", delete(revoke))
        .with_state(app)
}

/// Revokes a key. Idempotent: returns 204 also if the key was revoked before.
async fn revoke(
    State(app): State<App>,
    _: AdminCaller,
    _: NoQuery,
    PathParam(key): PathParam<KeyRef>,
) -> Result<StatusCode, Problem> {
    if app.store.revoke_key(&key, app.clock.now()).await? {
        Ok(StatusCode::NO_CONTENT)
    } else {
        Err(no_such_key())
    }
}
