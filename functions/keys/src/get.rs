//! `GET /admin/api-keys/{key}`: returns a key, by prefix or id.

use axum::Json;
use axum::extract::State;
use tollgate_api::keys::Key;
use tollgate_api::problem::NotFound;
use tollgate_store::KeyRef;
use tollgate_web::{AdminCaller, NoQuery, PathParam, Problem};

use crate::App;
use crate::checks::no_such_key;

tollgate_web::operations!(pub (app: App) show);

/// Returns a key.
#[utoipa::path(
    get,
    path = "/admin/api-keys/{key}",
    operation_id = "getKey",
    tag = "keys",
    params(("key" = String, Path, description = "Prefix or id of the key.", example = "tg_live_4fJ9aQ2c")),
    responses(
        (status = 200, description = "The key.", body = Key),
        (status = 404, response = NotFound),
    ),
)]
async fn show(
    State(app): State<App>,
    _: AdminCaller,
    _: NoQuery,
    PathParam(key): PathParam<KeyRef>,
) -> Result<Json<Key>, Problem> {
    let key = app.store.key(&key).await?.ok_or_else(no_such_key)?;
    Ok(Json(Key::new(key, app.clock.now())))
}
