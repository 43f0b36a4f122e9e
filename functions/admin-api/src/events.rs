//! `/admin/events`: the events that are published, in one order.

use axum::Json;
use axum::extract::State;
use tollgate_api::events::{Event, Events, EventsQuery};
use tollgate_api::problem::Member;
use tollgate_web::{AdminCaller, Problem, QueryParams, page_size};

use crate::App;

/// Largest number of an event that can be asked for, which none reaches: JSON Schema's `int64`.
const MAX_AFTER: u64 = i64::MAX.unsigned_abs();

tollgate_web::operations!(pub(crate) (app: App) list);

/// Lists the events after a number, oldest first.
///
/// To catch up, request pages until one is empty, each with `next_after` of the one before.
#[utoipa::path(
    get,
    path = "/admin/events",
    operation_id = "listEvents",
    tag = "events",
    params(EventsQuery),
    responses(
        (status = 200, description = "A page of events.", body = Events),
    ),
)]
async fn list(
    State(app): State<App>,
    _: AdminCaller,
    QueryParams(query): QueryParams<EventsQuery>,
) -> Result<Json<Events>, Problem> {
    let limit = i32::try_from(page_size(query.limit)?).unwrap_or(i32::MAX);
    let after = query.after.unwrap_or(0);
    if after > MAX_AFTER {
        let detail = format!("after may be at most {MAX_AFTER}.");
        return Err(Problem::bad_request(detail).with(Member::Field, "after"));
    }
    let events = app.store.numbered_events(after, limit).await?;
    let next_after = events.last().map_or(after, |last| last.number);
    Ok(Json(Events {
        data: events.into_iter().map(Event::new).collect(),
        next_after,
    }))
}
