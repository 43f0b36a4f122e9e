//! The usage API: usage, records and adjustments of the calling customer.

use axum::Json;
use axum::extract::State;
use tollgate_analytics::{current_usage, list_adjustments, list_records};
use tollgate_api::List;
use tollgate_api::usage::{Adjustment, AdjustmentsQuery, CurrentUsage, RecordsQuery, UsageRecords};
use tollgate_ingest::Ingest;
use tollgate_runtime::config::InvalidConfig;
use tollgate_runtime::{Clock, Init};
use tollgate_store::Store;
use tollgate_web::{CustomerCaller, NoQuery, Problem, QueryParams};

/// State of a usage-api instance. Cheap to clone; clones share it.
#[derive(Debug, Clone)]
pub struct App {
    /// The tables.
    pub store: Store,
    /// Reads back what was counted.
    pub ingest: Ingest,
    /// Clock that decides which month is the current one.
    pub clock: Clock,
}

impl App {
    /// Builds the state of a new instance.
    ///
    /// # Errors
    /// When the environment lacks the tables.
    pub fn build(init: &Init) -> Result<Self, InvalidConfig> {
        Ok(Self {
            store: Store::build(init)?,
            ingest: Ingest::build(init)?,
            clock: init.clock.clone(),
        })
    }
}

tollgate_web::operations!(pub (app: App) current, adjustments, records);

/// Returns the caller's usage of the current month.
#[utoipa::path(
    get,
    path = "/api/usage/current",
    operation_id = "getCurrentUsage",
    tag = "customer",
    responses(
        (status = 200, description = "The usage.", body = CurrentUsage),
    ),
)]
async fn current(
    State(app): State<App>,
    caller: CustomerCaller,
    _: NoQuery,
) -> Result<Json<CurrentUsage>, Problem> {
    let CustomerCaller { id, plan, key_id } = caller;
    let now = app.clock.now();
    let usage = current_usage(&app.store, &id, &plan, key_id, now);
    Ok(Json(usage.await?))
}

/// Lists the adjustments of a month of the caller, each with its reason.
#[utoipa::path(
    get,
    path = "/api/usage/adjustments",
    operation_id = "listAdjustments",
    tag = "customer",
    params(AdjustmentsQuery),
    responses(
        (status = 200, description = "A page of adjustments.", body = List<Adjustment>),
    ),
)]
async fn adjustments(
    State(app): State<App>,
    caller: CustomerCaller,
    QueryParams(query): QueryParams<AdjustmentsQuery>,
) -> Result<Json<List<Adjustment>>, Problem> {
    let now = app.clock.now();
    Ok(Json(
        list_adjustments(&app.store, &caller.id, &query, now).await?,
    ))
}

/// Lists the counted usage records and adjustments of a month of the caller, from which a bill can be recomputed.
#[utoipa::path(
    get,
    path = "/api/usage/records",
    operation_id = "listRecords",
    tag = "customer",
    params(RecordsQuery),
    responses(
        (status = 200, description = "A page of records and adjustments.", body = UsageRecords),
    ),
)]
async fn records(
    State(app): State<App>,
    caller: CustomerCaller,
    QueryParams(query): QueryParams<RecordsQuery>,
) -> Result<Json<UsageRecords>, Problem> {
    Ok(Json(list_records(&app.ingest, &caller.id, &query).await?))
}
