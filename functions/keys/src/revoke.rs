//! `DELETE /admin/api-keys/{key}`: revokes a key, by prefix or id.

use axum::extract::State;
use lambda_http::http::StatusCode;
use tollgate_api::problem::NotFound;
use tollgate_store::KeyRef;
use tollgate_web::{AdminCaller, NoQuery, PathParam, Problem};

use crate::App;
use crate::checks::no_such_key;

tollgate_web::operations!(pub (app: App) revoke);

/// Revokes a key.
///
/// A revoked key stays revoked. To revoke it again changes nothing.
#[utoipa::path(
    delete,
    path = "/admin/api-keys/{key}",
    operation_id = "revokeKey",
    tag = "keys",
    params(("key" = String, Path, description = "Prefix or id of the key.", example = "tg_live_4fJ9aQ2c")),
    responses(
        (status = 204, description = "The key is revoked."),
        (status = 404, response = NotFound),
    ),
)]
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
