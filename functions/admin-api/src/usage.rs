//! `/admin/usage/events`: usage events from producers outside AWS, and the log of all counted usage events;
//! and the adjustments of a customer.

use std::sync::Arc;

use axum::extract::State;
use axum::routing::{get, post};
use axum::{Json, Router};
use serde::{Deserialize, Serialize};
use serde_json::json;
use serde_json::value::RawValue;
use tollgate_domain::id::CustomerId;
use tollgate_domain::window::Day;
use tollgate_web::{
    AdjustmentView, AdjustmentsQuery, AdminCaller, Cursor, JsonBody, List, ListRequest, NoQuery,
    PathParam, Problem, QueryParams,
};
use usage_writer::{IncomingEvent, IngestOutcome};

use crate::{App, quarantine};

/// Most usage events in one request.
const MAX_EVENTS: usize = 100;
/// Most quarantined items that a conflict response lists for one usage event.
const MAX_QUARANTINED: usize = 10;

/// Returns the routes.
pub(crate) fn routes(app: App) -> Router {
    Router::new()
        .route("/admin/usage/events", post(ingest).get(log))
        .route("/admin/customers/{customer}/adjustments", get(adjustments))
        .with_state(app)
}

/// Request body: usage events, in the form that `docs/usage-event.md` documents.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Batch {
    events: Vec<Box<RawValue>>,
}

/// Response body: the outcomes of the usage events, in their order.
#[derive(Debug, Serialize)]
struct Ingested {
    data: Vec<IngestedEvent>,
}

#[derive(Debug, Serialize)]
struct IngestedEvent {
    source: String,
    id: String,
    /// `counted` or `duplicate`.
    outcome: &'static str,
}

/// A usage event, record or adjustment that cannot be counted.
#[derive(Debug, Serialize)]
pub(crate) struct DefectView {
    /// JSON pointer (RFC 6901) into the request body.
    pub(crate) pointer: String,
    pub(crate) reason: String,
}

/// 422: some of the usage cannot be counted.
pub(crate) fn not_countable(defects: &[DefectView]) -> Problem {
    let detail = "Nothing was counted, because the request has the defects listed. Correct them, and send \
                  the whole request again.";
    Problem::unprocessable(detail).with("defects", json!(defects))
}

/// Counts usage events, each at most once ever. If anything in the request is invalid, nothing is counted:
/// the caller can correct it at once. If only some events conflict, all others are counted.
async fn ingest(
    State(app): State<App>,
    _: AdminCaller,
    _: NoQuery,
    JsonBody(batch): JsonBody<Batch>,
) -> Result<Json<Ingested>, Problem> {
    if !(1..=MAX_EVENTS).contains(&batch.events.len()) {
        let (found, field) = (batch.events.len(), "events");
        let detail = format!("The request has {found} events; it must have 1 to {MAX_EVENTS}.");
        return Err(Problem::unprocessable(detail).with("field", field));
    }
    let mut events = Vec::with_capacity(batch.events.len());
    // Indexes of the valid events in the request.
    let mut indexes = Vec::with_capacity(batch.events.len());
    let mut defects = Vec::new();
    for (index, event) in batch.events.iter().enumerate() {
        match IncomingEvent::parse(event.get()) {
            Ok(event) => {
                events.push(event);
                indexes.push(index);
            }
            Err(defect) => {
                let pointer = format!("/events/{index}");
                let reason = defect.to_string();
                defects.push((index, DefectView { pointer, reason }));
            }
        }
    }
    let writer = app.writer();
    let validated = writer.validate(&events).await?;
    for ((index, event), rejected) in indexes.into_iter().zip(&events).zip(validated) {
        let items = format!("/events/{index}{}", event.received().pointer());
        defects.extend(rejected.into_iter().map(|rejected| {
            let pointer = format!("{items}/{}", rejected.index);
            let reason = rejected.reason;
            (index, DefectView { pointer, reason })
        }));
    }
    defects.sort_by_key(|(index, _)| *index);
    let defects: Vec<DefectView> = defects.into_iter().map(|(_, defect)| defect).collect();
    if !defects.is_empty() {
        return Err(not_countable(&defects));
    }
    let events: Arc<[IncomingEvent]> = events.into();
    let results = writer.ingest(&events).await;
    app.metrics.write();
    let mut data = Vec::with_capacity(results.len());
    let mut conflicts = Vec::new();
    let mut quarantined = QuarantinedOfConflicts::default();
    for (index, (event, result)) in events.iter().zip(results).enumerate() {
        let received = event.received();
        // An event whose write failed may have been counted. Sent again, it is then a duplicate.
        let outcome = match result? {
            IngestOutcome::Counted => "counted",
            IngestOutcome::Duplicate => "duplicate",
            IngestOutcome::Conflict => {
                let pointer = format!("/events/{index}");
                let (source, id) = (&received.source, &received.id);
                let store = &app.store;
                let found = store
                    .quarantined_refs_of_event(source, id, MAX_QUARANTINED)
                    .await?;
                let (items, has_more) = found;
                quarantined
                    .items
                    .extend(items.iter().map(|item| QuarantinedView {
                        pointer: pointer.clone(),
                        id: quarantine::id(&item.id),
                        status: quarantine::status(item.resolution),
                    }));
                quarantined.more.extend(has_more.then(|| pointer.clone()));
                conflicts.push(pointer);
                "conflict"
            }
        };
        data.push(IngestedEvent {
            source: received.source.clone(),
            id: received.id.clone(),
            outcome,
        });
    }
    if !conflicts.is_empty() {
        return Err(conflict(conflicts, &quarantined));
    }
    Ok(Json(Ingested { data }))
}

/// A quarantined item of an earlier event with the source and id of the one at `pointer`.
#[derive(Debug, Serialize)]
struct QuarantinedView {
    pointer: String,
    /// Id of the quarantined item.
    id: Cursor,
    status: &'static str,
}

/// Quarantined items of the events that conflict with those of the request.
#[derive(Default)]
struct QuarantinedOfConflicts {
    items: Vec<QuarantinedView>,
    /// Pointers to the events for which there are more items than listed.
    more: Vec<String>,
}

/// 409: other events have the same source and id.
fn conflict(conflicts: Vec<String>, quarantined: &QuarantinedOfConflicts) -> Problem {
    let QuarantinedOfConflicts { items, more } = quarantined;
    let detail = "The events listed in conflicts were not counted, because other events with the same \
                  source and id came before these or with them. All other events were counted.";
    if items.is_empty() {
        return Problem::conflict(detail).with("conflicts", conflicts);
    }
    let detail = format!(
        "{detail} Usage of the earlier events that could not be counted is quarantined. To count it, \
         send a correction to POST /admin/usage/quarantine/{{id}}/replay."
    );
    Problem::conflict(detail)
        .with("conflicts", conflicts)
        .with("quarantined", json!(items))
        .with("quarantined_more", json!(more))
}

/// Query of the log.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct LogQuery {
    customer_id: CustomerId,
    /// First UTC day; today by default.
    from: Option<Day>,
    /// Last UTC day; today by default.
    to: Option<Day>,
    cursor: Option<Cursor>,
}

/// A logged part of a usage event.
#[derive(Debug, Serialize)]
struct LoggedView {
    /// Day of the counted records. A usage event with records of several days is listed once for each.
    day: Day,
    /// Number of counted records of that day.
    records: u64,
    /// The whole usage event as it arrived.
    event: Box<RawValue>,
}

/// Lists the counted usage events of a customer.
async fn log(
    State(app): State<App>,
    _: AdminCaller,
    QueryParams(query): QueryParams<LogQuery>,
) -> Result<Json<List<LoggedView>>, Problem> {
    let today = Day::containing(app.clock.now());
    let customer = &query.customer_id;
    let mut list_request = ListRequest::new(format!("log {customer}"), query.cursor.as_ref())?;
    let from = list_request.window(query.from, today)?;
    let days = (from, list_request.window(query.to, today)?);
    if days.0 > days.1 {
        let detail = "In the query: from must not be after to.";
        return Err(Problem::bad_request(detail).with("field", "from"));
    }
    let page = app
        .store
        .list_logged(customer, days, list_request.after())
        .await?;
    let data = page.items.into_iter().map(|logged| {
        let text = String::from_utf8(logged.body).map_err(Problem::internal)?;
        Ok(LoggedView {
            day: logged.day,
            records: logged.records,
            event: RawValue::from_string(text).map_err(Problem::internal)?,
        })
    });
    Ok(Json(List {
        data: data.collect::<Result<_, Problem>>()?,
        next_cursor: page.next.map(|position| list_request.cursor(&position)),
    }))
}

/// Lists the adjustments of a customer's month.
async fn adjustments(
    State(app): State<App>,
    _: AdminCaller,
    PathParam(customer): PathParam<CustomerId>,
    QueryParams(query): QueryParams<AdjustmentsQuery>,
) -> Result<Json<List<AdjustmentView>>, Problem> {
    let (list_request, month) = query.listing(&customer, app.clock.now())?;
    let page = app
        .store
        .adjustments(&customer, month, list_request.after());
    Ok(Json(list_request.page(page.await?)))
}
