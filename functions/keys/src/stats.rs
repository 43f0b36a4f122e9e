//! `GET /admin/api-keys/stats`: counts keys by status and plan.

use axum::Json;
use axum::extract::State;
use tollgate_api::keys::KeyStats;
use tollgate_domain::key::Owner;
use tollgate_web::{AdminCaller, NoQuery, Problem};

use crate::{App, page};

/// Keys read from the store at a time.
const BATCH: usize = 1_000;

tollgate_web::operations!(pub (app: App) stats);

/// Counts keys by state and plan.
#[utoipa::path(
    get,
    path = "/admin/api-keys/stats",
    operation_id = "getKeyStats",
    tag = "keys",
    responses(
        (status = 200, description = "The counts.", body = KeyStats),
    ),
)]
async fn stats(
    State(app): State<App>,
    _: AdminCaller,
    _: NoQuery,
) -> Result<Json<KeyStats>, Problem> {
    let now = app.clock.now();
    let mut stats = KeyStats::default();
    let mut after = None;
    loop {
        let page = page::read(&app.store, None, after.as_deref(), BATCH).await?;
        for listed in &page.items {
            let status = listed.key.status(now);
            stats.all.add(status);
            match &listed.plan {
                Some(plan) => stats.by_plan.entry(plan.clone()).or_default().add(status),
                None if listed.key.owner == Owner::Admin => stats.admin.add(status),
                None => {}
            }
        }
        after = page.next;
        if after.is_none() {
            return Ok(Json(stats));
        }
    }
}
