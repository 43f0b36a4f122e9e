//! `DELETE /admin/api-keys/{key}`: ends a key, by prefix or id.

use axum::Router;
use axum::extract::State;
use axum::routing::delete;
use lambda_http::http::StatusCode;
use tollgate_store::KeyRef;
use tollgate_web::{AdminCaller, NoQuery, PathParam, Problem};

use crate::App;
use crate::view::no_such_key;

/// The route.
pub fn routes(app: App) -> Router {
    Router::new()
        .route("/admin/api-keys/{key}", delete(revoke))
        .with_state(app)
}

/// 204 also for a key revoked before: it is what the caller asked for.
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
