//! `/admin/usage/quarantine`: quarantined usage, which can be corrected and replayed, or discarded.

use axum::Json;
use axum::extract::State;
use jiff::{SignedDuration, Timestamp};
use lambda_http::http::StatusCode;
use serde_json::{Map, Value};
use sha2::{Digest, Sha256};
use tollgate_api::problem::{Conflict, Member, NotFound, Unprocessable};
use tollgate_api::quarantine::{
    QuarantineQuery, Quarantined, QuarantinedDetails, QuarantinedKind, QuarantinedStatus, Rejected,
    Replay, Replayed,
};
use tollgate_api::schema;
use tollgate_api::usage::{Defect, IngestedOutcome};
use tollgate_api::{Cursor, List};
use tollgate_ingest::{IncomingEvent, IngestOutcome, REPLAYS};
use tollgate_store::{
    QuarantineId, QuarantineKind, QuarantinedItem, RejectedRecord, Resolution, ResolveOutcome,
};
use tollgate_web::{AdminCaller, JsonBody, ListRequest, NoQuery, PathParam, Problem, QueryParams};

use crate::App;
use crate::defects::not_countable;

/// List name in the cursors that serve as item ids.
const ITEMS: &str = "quarantined";
/// Time after the beginning of a replay at which it has certainly ended: longer than a function runs.
const REPLAY_TIME: SignedDuration = SignedDuration::from_hours(1);

tollgate_web::operations!(pub(crate) (app: App) list, show, discard, replay);

fn represent(item: QuarantinedItem) -> Quarantined {
    let rejected = item.rejected.into_iter();
    Quarantined {
        id: id(&item.id),
        kind: match item.kind {
            QuarantineKind::Items => QuarantinedKind::Items,
            QuarantineKind::Conflict => QuarantinedKind::Conflict,
            QuarantineKind::Message => QuarantinedKind::Message,
        },
        status: status(item.resolution),
        customer_id: item.customer,
        rejected: rejected
            .map(|RejectedRecord { index, reason }| Rejected { index, reason })
            .collect(),
        received_at: item.received_at,
    }
}

/// Returns the id of a quarantined item in URLs.
pub(crate) fn id(id: &QuarantineId) -> Cursor {
    Cursor::new(ITEMS, id.to_string())
}

/// Returns the status of a quarantined item in responses.
pub(crate) fn status(resolution: Option<Resolution>) -> QuarantinedStatus {
    match resolution {
        None => QuarantinedStatus::Open,
        Some(Resolution::Replayed) => QuarantinedStatus::Replayed,
        Some(Resolution::Discarded) => QuarantinedStatus::Discarded,
    }
}

/// Lists the open quarantined items, oldest first.
#[utoipa::path(
    get,
    path = "/admin/usage/quarantine",
    operation_id = "listQuarantined",
    tag = "quarantine",
    params(QuarantineQuery),
    responses(
        (status = 200, description = "A page of items.", body = List<Quarantined>),
    ),
)]
async fn list(
    State(app): State<App>,
    _: AdminCaller,
    QueryParams(query): QueryParams<QuarantineQuery>,
) -> Result<Json<List<Quarantined>>, Problem> {
    let list_request = ListRequest::new("quarantine", query.cursor.as_ref())?;
    let page = app.store.list_quarantined(list_request.after()).await?;
    Ok(Json(list_request.page(page, represent)))
}

/// Returns a quarantined item with its content.
#[utoipa::path(
    get,
    path = "/admin/usage/quarantine/{item}",
    operation_id = "getQuarantined",
    tag = "quarantine",
    params(("item" = schema::Cursor, Path, description = "Id of the quarantined item.")),
    responses(
        (status = 200, description = "The item.", body = QuarantinedDetails),
        (status = 404, response = NotFound),
    ),
)]
async fn show(
    State(app): State<App>,
    _: AdminCaller,
    _: NoQuery,
    PathParam(id): PathParam<Cursor>,
) -> Result<Json<QuarantinedDetails>, Problem> {
    let (item, body) = app.find(&id).await?;
    let event = replayable_event(&item, &body);
    Ok(Json(QuarantinedDetails {
        event: event.map(Value::Object),
        body: String::from_utf8_lossy(&body).into_owned(),
        item: represent(item),
    }))
}

/// Discards a quarantined item.
///
/// It can then no longer be replayed. To discard it again changes nothing.
#[utoipa::path(
    delete,
    path = "/admin/usage/quarantine/{item}",
    operation_id = "discardQuarantined",
    tag = "quarantine",
    params(("item" = schema::Cursor, Path, description = "Id of the quarantined item.")),
    responses(
        (status = 204, description = "The item is discarded."),
        (status = 404, response = NotFound),
        (status = 409, response = Conflict),
    ),
)]
async fn discard(
    State(app): State<App>,
    _: AdminCaller,
    _: NoQuery,
    PathParam(id): PathParam<Cursor>,
) -> Result<StatusCode, Problem> {
    let id = parse_id(&id)?;
    let mut outcome = app.store.discard(&id, None).await?;
    if outcome == ResolveOutcome::Replaying
        && let Some(since) = app.failed_replay(&id).await?
    {
        outcome = app.store.discard(&id, Some(since)).await?;
    }
    match outcome {
        ResolveOutcome::Made | ResolveOutcome::Closed(Resolution::Discarded) => {
            Ok(StatusCode::NO_CONTENT)
        }
        ResolveOutcome::Closed(Resolution::Replayed) => Err(replayed()),
        ResolveOutcome::Replaying => {
            let detail = "A replay of the item has begun and may have counted it. Replay the item again \
                          to finish it. If the replay has counted nothing, the item can be discarded an \
                          hour after it began.";
            Err(Problem::conflict(detail))
        }
        ResolveOutcome::Missing => Err(no_such_item()),
    }
}

/// Counts a quarantined item or its correction, once.
#[utoipa::path(
    post,
    path = "/admin/usage/quarantine/{item}/replay",
    operation_id = "replayQuarantined",
    tag = "quarantine",
    params(("item" = schema::Cursor, Path, description = "Id of the quarantined item.")),
    request_body = Replay,
    responses(
        (status = 200, description = "The outcome.", body = Replayed),
        (status = 404, response = NotFound),
        (status = 409, response = Conflict),
        (status = 422, response = Unprocessable),
    ),
)]
async fn replay(
    State(app): State<App>,
    _: AdminCaller,
    _: NoQuery,
    PathParam(id): PathParam<Cursor>,
    JsonBody(body): JsonBody<Replay>,
) -> Result<Json<Replayed>, Problem> {
    let (item, original) = app.find(&id).await?;
    if item.resolution == Some(Resolution::Discarded) {
        return Err(discarded());
    }
    let event = body.event.or_else(|| replayable_event(&item, &original));
    let Some(mut event) = event else {
        let detail = "The item contains no usage event. Send a corrected one as event.";
        return Err(Problem::unprocessable(detail).with(Member::Field, "event"));
    };
    let identity = replay_id(&item.id);
    event.insert("source".to_owned(), REPLAYS.into());
    event.insert("id".to_owned(), identity.clone().into());
    let event = Value::Object(event);
    if item.resolution == Some(Resolution::Replayed) {
        return app.replayed_before(identity, &event).await;
    }
    let text = event.to_string();
    if item.replaying_since.is_some() {
        let counted = app.store.counted_parts(REPLAYS, &identity, text.as_bytes());
        // An earlier replay counted another event, and failed before it marked the item as replayed.
        if counted.await?.is_none() {
            app.store.finish_replay(&item.id).await?;
            return Err(replayed_as_another());
        }
    }
    let incoming = IncomingEvent::parse_replay(&text).map_err(|defect| {
        let pointer = "/event".to_owned();
        let reason = defect.to_string();
        not_countable(&[Defect { pointer, reason }])
    })?;
    let pointer = incoming.received().pointer();
    let events = [incoming];
    let received_at = app.clock.now();
    let rejected = app.ingest.validate(&events, received_at).await?;
    let defects = rejected.into_iter().flatten().map(|rejected| Defect {
        pointer: format!("/event{pointer}/{}", rejected.index),
        reason: rejected.reason,
    });
    let defects: Vec<Defect> = defects.collect();
    if !defects.is_empty() {
        return Err(not_countable(&defects));
    }
    match app.store.begin_replay(&item.id).await? {
        ResolveOutcome::Made | ResolveOutcome::Replaying => {}
        ResolveOutcome::Closed(Resolution::Discarded) => return Err(discarded()),
        ResolveOutcome::Closed(Resolution::Replayed) => {
            return app.replayed_before(identity, &event).await;
        }
        ResolveOutcome::Missing => return Err(no_such_item()),
    }
    let results = app.ingest.ingest(&events, received_at).await;
    app.metrics.write();
    let mut outcome = IngestedOutcome::Duplicate;
    for result in results {
        match result? {
            IngestOutcome::Counted => outcome = IngestedOutcome::Counted,
            IngestOutcome::Duplicate => {}
            // Another replay counted another event meanwhile.
            IngestOutcome::Conflict => {
                app.store.finish_replay(&item.id).await?;
                return Err(replayed_as_another());
            }
        }
    }
    app.store.finish_replay(&item.id).await?;
    Ok(Json(Replayed {
        source: REPLAYS,
        id: identity,
        outcome,
    }))
}

/// Returns the usage event that a replay counts if it is sent no correction.
fn replayable_event(item: &QuarantinedItem, body: &[u8]) -> Option<Map<String, Value>> {
    let mut json: Map<String, Value> = serde_json::from_slice(body).ok()?;
    match item.kind {
        QuarantineKind::Conflict => Some(json),
        QuarantineKind::Message => match json.remove("detail")? {
            Value::Object(detail) => Some(detail),
            _ => None,
        },
        QuarantineKind::Items => {
            let data = json.get_mut("data")?.as_object_mut()?;
            for items in data.values_mut().filter_map(Value::as_array_mut) {
                let rejected = item.rejected.iter();
                let rejected = rejected.filter_map(|rejected| items.get(rejected.index).cloned());
                *items = rejected.collect();
            }
            Some(json)
        }
    }
}

fn discarded() -> Problem {
    Problem::conflict("The item was discarded.")
}

fn replayed() -> Problem {
    Problem::conflict("The item was replayed.")
}

fn replayed_as_another() -> Problem {
    Problem::conflict("The item was replayed with another usage event.")
}

/// Returns the id of the usage event that a replay of this item counts.
fn replay_id(id: &QuarantineId) -> String {
    hex::encode(Sha256::digest(id.to_string()))
}

fn parse_id(id: &Cursor) -> Result<QuarantineId, Problem> {
    let id = id.position_in(ITEMS).map_err(|_| no_such_item())?;
    id.parse().map_err(|_| no_such_item())
}

fn no_such_item() -> Problem {
    Problem::not_found("There is no quarantined item with this id.")
}

impl App {
    /// Returns the time at which the last replay of an item began, if that has counted nothing and never will.
    async fn failed_replay(&self, id: &QuarantineId) -> Result<Option<Timestamp>, Problem> {
        let found = self.store.quarantined_item(id).await?;
        let Some(since) = found.and_then(|(item, _)| item.replaying_since) else {
            return Ok(None);
        };
        if self.clock.now().duration_since(since) < REPLAY_TIME {
            return Ok(None);
        }
        // No replay counts an empty event.
        let identity = replay_id(id);
        let counted = self.store.counted_parts(REPLAYS, &identity, b"");
        let is_any = counted.await?.is_none_or(|parts| !parts.is_empty());
        Ok((!is_any).then_some(since))
    }

    /// Responds to a replay of an item that was replayed before. Counts nothing.
    async fn replayed_before(
        &self,
        identity: String,
        event: &Value,
    ) -> Result<Json<Replayed>, Problem> {
        let event = event.to_string();
        let counted = self
            .store
            .counted_parts(REPLAYS, &identity, event.as_bytes());
        match counted.await? {
            Some(parts) if !parts.is_empty() => Ok(Json(Replayed {
                source: REPLAYS,
                id: identity,
                outcome: IngestedOutcome::Duplicate,
            })),
            // Its claim has expired, so it cannot be compared.
            Some(_) => Err(replayed()),
            None => Err(replayed_as_another()),
        }
    }

    async fn find(&self, id: &Cursor) -> Result<(QuarantinedItem, Vec<u8>), Problem> {
        let id = parse_id(id)?;
        let item = self.store.quarantined_item(&id).await?;
        item.ok_or_else(no_such_item)
    }
}
