//! `GET /admin/api-keys/{key}`: returns a key, by prefix or id.

use axum::extract::State;
use axum::routing::get;
use axum::{Json, Router};
use tollgate_store::KeyRef;
use tollgate_web::{AdminCaller, NoQuery, PathParam, Problem};

use crate::App;
use crate::view::{KeyView, no_such_key};

/// Returns the route.
pub fn routes(app: App) -> Router {
    Router::new()
        .route("/admin/api-keys/{key}", get(show))
        .with_state(app)
}

async fn show(
    State(app): State<App>,
    _: AdminCaller,
    _: NoQuery,
    PathParam(key): PathParam<KeyRef>,
) -> Result<Json<KeyView>, Problem> {
    let key = app.store.key(&key).await?.ok_or_else(no_such_key)?;
    Ok(Json(KeyView::new(key, app.clock.now())))
}
