//! `/admin/usage/quarantine`: quarantined usage, which can be corrected and replayed, or discarded.

use axum::extract::State;
use axum::routing::{get, post};
use axum::{Json, Router};
use jiff::Timestamp;
use lambda_http::http::StatusCode;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use sha2::{Digest, Sha256};
use tollgate_domain::id::CustomerId;
use tollgate_domain::key::hex;
use tollgate_store::{
    QuarantineId, QuarantineKind, QuarantinedItem, RejectedRecord, Resolution, ResolveOutcome,
    is_same_event,
};
use tollgate_web::{
    AdminCaller, Cursor, JsonBody, List, ListRequest, NoQuery, PathParam, Problem, QueryParams,
};
use usage_writer::{IncomingEvent, IngestOutcome};

use crate::App;
use crate::usage::{DefectView, not_countable};

/// Source of replayed usage events.
const SOURCE: &str = "tollgate:quarantine";
/// List name in the cursors that serve as item ids.
const ITEMS: &str = "quarantined";

/// Returns the routes.
pub(crate) fn routes(app: App) -> Router {
    Router::new()
        .route("/admin/usage/quarantine", get(list))
        .route("/admin/usage/quarantine/{item}", get(show).delete(discard))
        .route("/admin/usage/quarantine/{item}/replay", post(replay))
        .with_state(app)
}

/// A quarantined item, without its body.
#[derive(Debug, Serialize)]
struct QuarantinedItemView {
    id: Cursor,
    kind: &'static str,
    status: &'static str,
    customer_id: Option<CustomerId>,
    rejected: Vec<RejectedView>,
    received_at: Timestamp,
}

#[derive(Debug, Serialize)]
struct RejectedView {
    /// Index among the records or adjustments of the usage event, from 0.
    index: usize,
    reason: String,
}

impl From<RejectedRecord> for RejectedView {
    fn from(rejected: RejectedRecord) -> Self {
        let RejectedRecord { index, reason } = rejected;
        Self { index, reason }
    }
}

impl From<QuarantinedItem> for QuarantinedItemView {
    fn from(item: QuarantinedItem) -> Self {
        Self {
            id: id(&item.id),
            kind: match item.kind {
                QuarantineKind::Items => "items",
                QuarantineKind::Conflict => "conflict",
                QuarantineKind::Message => "message",
            },
            status: status(item.resolution),
            customer_id: item.customer,
            rejected: item.rejected.into_iter().map(RejectedView::from).collect(),
            received_at: item.received_at,
        }
    }
}

/// Returns the id of a quarantined item in URLs.
pub(crate) fn id(id: &QuarantineId) -> Cursor {
    Cursor::new(ITEMS, id.to_string())
}

/// Returns the status of a quarantined item in responses.
pub(crate) fn status(resolution: Option<Resolution>) -> &'static str {
    match resolution {
        None => "open",
        Some(Resolution::Replayed) => "replayed",
        Some(Resolution::Discarded) => "discarded",
    }
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct ListQuery {
    cursor: Option<Cursor>,
}

/// Lists the open items, oldest first.
async fn list(
    State(app): State<App>,
    _: AdminCaller,
    QueryParams(query): QueryParams<ListQuery>,
) -> Result<Json<List<QuarantinedItemView>>, Problem> {
    let list_request = ListRequest::new("quarantine", query.cursor.as_ref())?;
    let page = app.store.list_quarantined(list_request.after()).await?;
    Ok(Json(list_request.page(page)))
}

/// A quarantined item with its body.
#[derive(Debug, Serialize)]
struct QuarantinedItemWithBody {
    #[serde(flatten)]
    item: QuarantinedItemView,
    /// The usage event or message as it arrived, as text.
    body: String,
    /// The usage event that a replay would count, with only the rejected records or adjustments. `null` if
    /// the body contains no usage event.
    event: Option<Value>,
}

async fn show(
    State(app): State<App>,
    _: AdminCaller,
    _: NoQuery,
    PathParam(id): PathParam<Cursor>,
) -> Result<Json<QuarantinedItemWithBody>, Problem> {
    let (item, body) = app.find(&id).await?;
    let event = replayable_event(&item, &body);
    Ok(Json(QuarantinedItemWithBody {
        event: event.map(Value::Object),
        body: String::from_utf8_lossy(&body).into_owned(),
        item: item.into(),
    }))
}

/// Discards a quarantined item. It can then no longer be replayed.
async fn discard(
    State(app): State<App>,
    _: AdminCaller,
    _: NoQuery,
    PathParam(id): PathParam<Cursor>,
) -> Result<StatusCode, Problem> {
    let id = parse_id(&id)?;
    match app.store.discard(&id).await? {
        ResolveOutcome::Made | ResolveOutcome::Closed(Resolution::Discarded) => {
            Ok(StatusCode::NO_CONTENT)
        }
        ResolveOutcome::Closed(Resolution::Replayed) => Err(replayed()),
        ResolveOutcome::Replaying => {
            let detail = "A replay of the item has begun and may have counted it. Replay the item again \
                          to finish it.";
            Err(Problem::conflict(detail))
        }
        ResolveOutcome::Missing => Err(no_such_item()),
    }
}

/// Request body of a replay.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct ReplayBody {
    /// Corrected usage event to count; its source and id are ignored. By default, the quarantined usage is
    /// counted as it is.
    event: Option<Map<String, Value>>,
}

#[derive(Debug, Serialize)]
struct Replayed {
    /// Source of the counted usage event.
    source: &'static str,
    /// Id of the counted usage event.
    id: String,
    /// `counted`, or `duplicate` if it was replayed before.
    outcome: &'static str,
}

/// Counts the quarantined usage or its correction, once: the source and id of the replayed usage event are
/// derived from the id of the item.
async fn replay(
    State(app): State<App>,
    _: AdminCaller,
    _: NoQuery,
    PathParam(id): PathParam<Cursor>,
    JsonBody(body): JsonBody<ReplayBody>,
) -> Result<Json<Replayed>, Problem> {
    let (item, original) = app.find(&id).await?;
    if item.resolution == Some(Resolution::Discarded) {
        return Err(discarded());
    }
    let event = body.event.or_else(|| replayable_event(&item, &original));
    let Some(mut event) = event else {
        let detail = "The item contains no usage event. Send a corrected one as event.";
        return Err(Problem::unprocessable(detail).with("field", "event"));
    };
    let identity = hex(&Sha256::digest(item.id.to_string()));
    event.insert("source".to_owned(), SOURCE.into());
    event.insert("id".to_owned(), identity.clone().into());
    let event = Value::Object(event);
    if item.resolution == Some(Resolution::Replayed) {
        return app.replayed_before(identity, &event).await;
    }
    let incoming = IncomingEvent::parse(&event.to_string()).map_err(|defect| {
        let pointer = "/event".to_owned();
        let reason = defect.to_string();
        not_countable(&[DefectView { pointer, reason }])
    })?;
    let writer = app.writer();
    let pointer = incoming.received().pointer();
    let events = [incoming];
    let rejected = writer.validate(&events).await?;
    let defects = rejected.into_iter().flatten().map(|rejected| DefectView {
        pointer: format!("/event{pointer}/{}", rejected.index),
        reason: rejected.reason,
    });
    let defects: Vec<DefectView> = defects.collect();
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
    let results = writer.ingest(&events.into()).await;
    app.metrics.write();
    let mut outcome = "duplicate";
    for result in results {
        match result? {
            IngestOutcome::Counted => outcome = "counted",
            IngestOutcome::Duplicate => {}
            // An earlier replay counted another event, and failed before it marked the item as replayed.
            IngestOutcome::Conflict => {
                app.store.finish_replay(&item.id).await?;
                return Err(replayed_as_another());
            }
        }
    }
    app.store.finish_replay(&item.id).await?;
    Ok(Json(Replayed {
        source: SOURCE,
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

fn parse_id(id: &Cursor) -> Result<QuarantineId, Problem> {
    let id = id.position_in(ITEMS).map_err(|_| no_such_item())?;
    id.parse().map_err(|_| no_such_item())
}

fn no_such_item() -> Problem {
    Problem::not_found("There is no quarantined item with this id.")
}

impl App {
    /// Responds to a replay of an item that was replayed before. Counts nothing.
    async fn replayed_before(
        &self,
        identity: String,
        event: &Value,
    ) -> Result<Json<Replayed>, Problem> {
        let event = event.to_string();
        match self.store.logged_event(SOURCE, &identity).await? {
            Some(logged) if is_same_event(&logged, event.as_bytes()) => Ok(Json(Replayed {
                source: SOURCE,
                id: identity,
                outcome: "duplicate",
            })),
            Some(_) => Err(replayed_as_another()),
            // The event is no longer in the log, so it cannot be compared.
            None => Err(replayed()),
        }
    }

    async fn find(&self, id: &Cursor) -> Result<(QuarantinedItem, Vec<u8>), Problem> {
        let id = parse_id(id)?;
        let item = self.store.quarantined_item(&id).await?;
        item.ok_or_else(no_such_item)
    }
}
