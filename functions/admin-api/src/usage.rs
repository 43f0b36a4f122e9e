//! `/admin/usage/events`: usage events from producers outside AWS, and the log of all counted usage events;
//! and the adjustments of a customer.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use serde_json::json;
use serde_json::value::RawValue;
use tollgate_analytics::list_adjustments;
use tollgate_api::List;
use tollgate_api::problem::{Conflict, Member, NotFound, Unprocessable};
use tollgate_api::quarantine::{QuarantinedRef, QuarantinedStatus};
use tollgate_api::schema;
use tollgate_api::usage::{
    Adjustment, AdjustmentsQuery, Defect, EventsQuery, IngestEvents, IngestedEvent, IngestedEvents,
    IngestedOutcome, LoggedEvent,
};
use tollgate_domain::id::CustomerId;
use tollgate_domain::usage::ReceivedEvent;
use tollgate_domain::window::Day;
use tollgate_ingest::{IncomingEvent, IngestOutcome};
use tollgate_store::{QuarantineKind, QuarantinedItemRef, StoreError};
use tollgate_web::{AdminCaller, JsonBody, ListRequest, NoQuery, PathParam, Problem, QueryParams};

use crate::defects::not_countable;
use crate::{App, quarantine};

/// Most usage events in one request.
const MAX_EVENTS: usize = 100;
/// Most quarantined items that a response lists for one usage event.
const MAX_QUARANTINED: usize = 10;

tollgate_web::operations!(pub(crate) (app: App) ingest, log, adjustments);

/// Counts usage events, each at most once ever.
///
/// If anything in the request is invalid, nothing is counted, and the problem lists the `defects`. If
/// events conflict with earlier ones of the same source and id, all others are counted, and the problem
/// lists the `conflicts`.
#[utoipa::path(
    post,
    path = "/admin/usage/events",
    operation_id = "ingestUsageEvents",
    tag = "usage",
    request_body = IngestEvents,
    responses(
        (status = 200, description = "The outcomes.", body = IngestedEvents),
        (status = 409, response = Conflict),
        (status = 422, response = Unprocessable),
    ),
)]
async fn ingest(
    State(app): State<App>,
    _: AdminCaller,
    _: NoQuery,
    JsonBody(batch): JsonBody<IngestEvents>,
) -> Result<Json<IngestedEvents>, Problem> {
    if !(1..=MAX_EVENTS).contains(&batch.events.len()) {
        let (found, field) = (batch.events.len(), "events");
        let detail = format!("The request has {found} events; it must have 1 to {MAX_EVENTS}.");
        return Err(Problem::unprocessable(detail).with(Member::Field, field));
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
                defects.push((index, Defect { pointer, reason }));
            }
        }
    }
    let received_at = app.clock.now();
    let validated = app.ingest.validate(&events, received_at).await?;
    for ((index, event), rejected) in indexes.into_iter().zip(&events).zip(validated) {
        let items = format!("/events/{index}{}", event.received().pointer());
        defects.extend(rejected.into_iter().map(|rejected| {
            let pointer = format!("{items}/{}", rejected.index);
            let reason = rejected.reason;
            (index, Defect { pointer, reason })
        }));
    }
    defects.sort_by_key(|(index, _)| *index);
    let defects: Vec<Defect> = defects.into_iter().map(|(_, defect)| defect).collect();
    if !defects.is_empty() {
        return Err(not_countable(&defects));
    }
    let events: Arc<[IncomingEvent]> = events.into();
    let results = app.ingest.ingest(&events, received_at).await;
    app.metrics.write();
    let mut data = Vec::with_capacity(results.len());
    let mut conflicts = Vec::new();
    let mut quarantined = QuarantinedOfEvents::default();
    for (index, (event, result)) in events.iter().zip(results).enumerate() {
        let received = event.received();
        // An event whose write failed may have been counted. Sent again, it is then a duplicate.
        let outcome = match result? {
            IngestOutcome::Counted => IngestedOutcome::Counted,
            IngestOutcome::Duplicate => {
                quarantined.add(&app, index, received, true).await?;
                IngestedOutcome::Duplicate
            }
            IngestOutcome::Conflict => {
                quarantined.add(&app, index, received, false).await?;
                conflicts.push(pointer_to(index));
                continue;
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
    Ok(Json(IngestedEvents {
        data,
        quarantined: quarantined.items,
        quarantined_more: quarantined.more,
    }))
}

fn pointer_to(index: usize) -> String {
    format!("/events/{index}")
}

/// Quarantined items with the sources and ids of events in the request.
#[derive(Default)]
struct QuarantinedOfEvents {
    items: Vec<QuarantinedRef>,
    /// Pointers to the events for which there are more items than listed.
    more: Vec<String>,
}

impl QuarantinedOfEvents {
    /// Adds the items with the source and id of this event; if it is a duplicate, those with records of its own.
    async fn add(
        &mut self,
        app: &App,
        index: usize,
        event: &ReceivedEvent,
        is_duplicate: bool,
    ) -> Result<(), StoreError> {
        let (source, id, store) = (&event.source, &event.id, &app.store);
        let found = store.quarantined_refs_of_event(source, id, MAX_QUARANTINED);
        let (mut items, mut has_more) = found.await?;
        if is_duplicate {
            // Items of other events come after those of the one that was counted.
            let is_of_other = |item: &QuarantinedItemRef| item.kind == QuarantineKind::Conflict;
            has_more &= !items.iter().any(is_of_other);
            items.retain(|item| !is_of_other(item));
        }
        self.items.extend(items.iter().map(|item| QuarantinedRef {
            pointer: pointer_to(index),
            id: quarantine::id(&item.id),
            status: quarantine::status(item.resolution),
        }));
        self.more.extend(has_more.then(|| pointer_to(index)));
        Ok(())
    }
}

/// Creates the 409 for events whose source and id other events have.
fn conflict(conflicts: Vec<String>, quarantined: &QuarantinedOfEvents) -> Problem {
    let QuarantinedOfEvents { items, more } = quarantined;
    let detail = "The events listed in conflicts were not counted, because other events with the same \
                  source and id came before these or with them. All other events were counted.";
    if items.is_empty() {
        return Problem::conflict(detail).with(Member::Conflicts, conflicts);
    }
    let is_open = |item: &QuarantinedRef| item.status == QuarantinedStatus::Open;
    let detail = match items.iter().any(is_open) {
        true => format!(
            "{detail} Usage of the same source and id is quarantined. To count it, send a correction to \
             POST /admin/usage/quarantine/{{id}}/replay."
        ),
        false => format!(
            "{detail} Usage of the same source and id was quarantined, and is replayed or discarded. To \
             count more, send an event with an id of its own."
        ),
    };
    Problem::conflict(detail)
        .with(Member::Conflicts, conflicts)
        .with(Member::Quarantined, json!(items))
        .with(Member::QuarantinedMore, json!(more))
}

/// Lists the counted usage events of a customer by day.
#[utoipa::path(
    get,
    path = "/admin/usage/events",
    operation_id = "listUsageEvents",
    tag = "usage",
    params(EventsQuery),
    responses(
        (status = 200, description = "A page of usage events.", body = List<LoggedEvent>),
    ),
)]
async fn log(
    State(app): State<App>,
    _: AdminCaller,
    QueryParams(query): QueryParams<EventsQuery>,
) -> Result<Json<List<LoggedEvent>>, Problem> {
    let today = Day::containing(app.clock.now());
    let customer = &query.customer_id;
    let mut list_request = ListRequest::new(format!("log {customer}"), query.cursor.as_ref())?;
    let from = list_request.window(query.from, today)?;
    let days = (from, list_request.window(query.to, today)?);
    if days.0 > days.1 {
        let detail = "In the query: from must not be after to.";
        return Err(Problem::bad_request(detail).with(Member::Field, "from"));
    }
    let page = app
        .store
        .list_logged(customer, days, list_request.after())
        .await?;
    let data = page.items.into_iter().map(|logged| {
        let text = String::from_utf8(logged.body).map_err(Problem::internal)?;
        Ok(LoggedEvent {
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
#[utoipa::path(
    get,
    path = "/admin/customers/{customer}/adjustments",
    operation_id = "listCustomerAdjustments",
    tag = "usage",
    params(("customer" = schema::CustomerId, Path, description = "Id of the customer."), AdjustmentsQuery),
    responses(
        (status = 200, description = "A page of adjustments.", body = List<Adjustment>),
        (status = 404, response = NotFound),
    ),
)]
async fn adjustments(
    State(app): State<App>,
    _: AdminCaller,
    PathParam(customer): PathParam<CustomerId>,
    QueryParams(query): QueryParams<AdjustmentsQuery>,
) -> Result<Json<List<Adjustment>>, Problem> {
    let now = app.clock.now();
    Ok(Json(
        list_adjustments(&app.store, &customer, &query, now).await?,
    ))
}
