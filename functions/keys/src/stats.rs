//! `GET /admin/api-keys/stats`: how many keys there are, by status and plan.

use std::collections::BTreeMap;

use axum::extract::State;
use axum::routing::get;
use axum::{Json, Router};
use serde::Serialize;
use tollgate_domain::id::PlanId;
use tollgate_domain::key::{KeyStatus, Owner};
use tollgate_web::{AdminCaller, NoQuery, Problem};

use crate::{App, page};

/// Keys read in one go.
const READ_AT_ONCE: usize = 1_000;

/// The route.
pub fn routes(app: App) -> Router {
    Router::new()
        .route("/admin/api-keys/stats", get(stats))
        .with_state(app)
}

/// How many keys there are in each state.
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

/// The answer: all keys, those of customers by the plan they are on now, and those of admins.
#[derive(Debug, Default, Serialize)]
struct Stats {
    #[serde(flatten)]
    all: Counts,
    by_plan: BTreeMap<PlanId, Counts>,
    admin: Counts,
}

/// Counted afresh, page by page: a hundred thousand keys are some thirty reads, and no counter can
/// be wrong.
async fn stats(State(app): State<App>, _: AdminCaller, _: NoQuery) -> Result<Json<Stats>, Problem> {
    let now = app.clock.now();
    let mut stats = Stats::default();
    let mut after = None;
    loop {
        let page = page::read(&app.store, None, after.as_deref(), READ_AT_ONCE).await?;
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
