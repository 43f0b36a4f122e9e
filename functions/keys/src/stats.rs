//! `GET /admin/api-keys/stats`: counts keys by status and plan.

use std::collections::BTreeMap;

use axum::extract::State;
use axum::routing::get;
use axum::{Json, Router};
use serde::Serialize;
use tollgate_domain::id::PlanId;
use tollgate_domain::key::{KeyStatus, Owner};
use tollgate_web::{AdminCaller, NoQuery, Problem};

use crate::{App, page};

/// Keys read from the store at a time.
const BATCH: usize = 1_000;

/// Returns the route.
pub fn routes(app: App) -> Router {
    Router::new()
        .route("/admin/api-keys/stats", get(stats))
        .with_state(app)
}

/// Numbers of keys by status.
#[derive(Debug, Default, Clone, Copy, Serialize)]
struct Counts {
    total: u64,
    active: u64,
    suspended: u64,
    expired: u64,
    revoked: u64,
}

impl Counts {
    fn add(&mut self, status: KeyStatus) {
        self.total += 1;
        match status {
            KeyStatus::Active => self.active += 1,
            KeyStatus::Suspended => self.suspended += 1,
            KeyStatus::Expired => self.expired += 1,
            KeyStatus::Revoked => self.revoked += 1,
        }
    }
}

/// Response body: the counts of all keys, of customers' keys by current plan, and of admin keys.
#[derive(Debug, Default, Serialize)]
struct Stats {
    #[serde(flatten)]
    all: Counts,
    by_plan: BTreeMap<PlanId, Counts>,
    admin: Counts,
}

/// Counts all keys, page by page. Stored counters could drift; a hundred thousand keys take about thirty
/// reads.
async fn stats(State(app): State<App>, _: AdminCaller, _: NoQuery) -> Result<Json<Stats>, Problem> {
    let now = app.clock.now();
    let mut stats = Stats::default();
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
