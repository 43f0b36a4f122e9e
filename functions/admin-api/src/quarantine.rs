//! `/admin/usage/quarantine`: what could not be counted, corrected, and counted after all.

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
use tollgate_store::{Closed, Kind, QuarantineId, RefusedRecord, SetAside};
use tollgate_web::{AdminCaller, Cursor, JsonBody, List, PathParam, Problem, QueryParams};
use usage_writer::{Entry, Fate};

use crate::App;
use crate::usage::{DefectView, not_countable};

/// The source of what is replayed.
const SOURCE: &str = "tollgate:quarantine";

/// The routes.
pub(crate) fn routes(app: App) -> Router {
    Router::new()
        .route("/admin/usage/quarantine", get(list))
        .route("/admin/usage/quarantine/{item}", get(show).delete(dismiss))
        .route("/admin/usage/quarantine/{item}/replay", post(replay))
        .with_state(app)
}

/// Something that was set aside.
#[derive(Debug, Serialize)]
struct SetAsideView {
    id: Cursor,
    kind: &'static str,
    status: &'static str,
    customer_id: Option<CustomerId>,
    refused: Vec<RefusedView>,
    received_at: Timestamp,
}

#[derive(Debug, Serialize)]
struct RefusedView {
    /// The place among the records or adjustments of the entry, from 0.
    index: usize,
    reason: String,
}

impl From<RefusedRecord> for RefusedView {
    fn from(refused: RefusedRecord) -> Self {
        let RefusedRecord { index, reason } = refused;
        Self { index, reason }
    }
}

impl From<SetAside> for SetAsideView {
    fn from(item: SetAside) -> Self {
        Self {
            id: Cursor::new(item.id.to_string()),
            kind: match item.kind {
                Kind::Items => "items",
                Kind::Conflict => "conflict",
                Kind::Message => "message",
            },
            status: status(item.closed),
            customer_id: item.customer,
            refused: item.refused.into_iter().map(RefusedView::from).collect(),
            received_at: item.received_at,
        }
    }
}

fn status(closed: Option<Closed>) -> &'static str {
    match closed {
        None => "waiting",
        Some(Closed::Replayed) => "replayed",
        Some(Closed::Dismissed) => "dismissed",
    }
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct ListQuery {
    cursor: Option<Cursor>,
}

/// What waits, oldest first.
async fn list(
    State(app): State<App>,
    _: AdminCaller,
    QueryParams(query): QueryParams<ListQuery>,
) -> Result<Json<List<SetAsideView>>, Problem> {
    let after = query.cursor.as_ref().map(Cursor::place);
    let page = app.store.waiting(after).await?;
    Ok(Json(page.into()))
}

/// One of them, with what it is about.
#[derive(Debug, Serialize)]
struct Whole {
    #[serde(flatten)]
    item: SetAsideView,
    /// What arrived, as text.
    body: String,
    /// What a replay would count, to be corrected: of an entry, what was refused. `null` where no
    /// entry can be made out.
    event: Option<Value>,
}

async fn show(
    State(app): State<App>,
    _: AdminCaller,
    PathParam(id): PathParam<Cursor>,
) -> Result<Json<Whole>, Problem> {
    let (item, body) = app.find(&id).await?;
    let event = countable(&item, &body);
    Ok(Json(Whole {
        event: event.map(Value::Object),
        body: String::from_utf8_lossy(&body).into_owned(),
        item: item.into(),
    }))
}

/// Takes something off the list for good.
async fn dismiss(
    State(app): State<App>,
    _: AdminCaller,
    PathParam(id): PathParam<Cursor>,
) -> Result<StatusCode, Problem> {
    let id = named(&id)?;
    match app.store.close_set_aside(&id, Closed::Dismissed).await? {
        None => Err(nothing()),
        Some(Closed::Dismissed) => Ok(StatusCode::NO_CONTENT),
        Some(Closed::Replayed) => Err(Problem::conflict("It was replayed.")),
    }
}

/// The body of a replay.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct ReplayBody {
    /// The entry to count in its place; its source and id are of no account. Left out: what was set
    /// aside, as it is.
    event: Option<Map<String, Value>>,
}

#[derive(Debug, Serialize)]
struct Replayed {
    /// Under which identity it was counted.
    source: &'static str,
    id: String,
    /// `duplicate` if it was replayed before.
    outcome: &'static str,
}

/// Counts what was set aside, or its correction, once: its identity is that of its place in the
/// quarantine.
async fn replay(
    State(app): State<App>,
    _: AdminCaller,
    PathParam(id): PathParam<Cursor>,
    JsonBody(body): JsonBody<ReplayBody>,
) -> Result<Json<Replayed>, Problem> {
    let (item, original) = app.find(&id).await?;
    if item.closed == Some(Closed::Dismissed) {
        return Err(Problem::conflict("It was dismissed."));
    }
    let event = body.event.or_else(|| countable(&item, &original));
    let Some(mut event) = event else {
        let detail = "No entry can be made out of this one. Give it, corrected, as event.";
        return Err(Problem::unprocessable(detail).with("field", "event"));
    };
    let identity = hex(&Sha256::digest(item.id.to_string()));
    event.insert("source".to_owned(), SOURCE.into());
    event.insert("id".to_owned(), identity.clone().into());
    let entry = Entry::read(&Value::Object(event).to_string()).map_err(|defect| {
        let pointer = "/event".to_owned();
        let reason = defect.to_string();
        not_countable(&[DefectView { pointer, reason }])
    })?;
    let writer = app.writer();
    let pointer = entry.received().pointer();
    let entries = [entry];
    let refused = writer.check(&entries).await?;
    let refused = refused.into_iter().flatten().map(|refused| DefectView {
        pointer: format!("/event{pointer}/{}", refused.index),
        reason: refused.reason,
    });
    let refused: Vec<DefectView> = refused.collect();
    if !refused.is_empty() {
        return Err(not_countable(&refused));
    }
    let outcomes = writer.count(&entries.into()).await;
    app.metrics.write();
    let mut outcome = "duplicate";
    for of_entry in outcomes {
        match of_entry? {
            Fate::Counted => outcome = "counted",
            Fate::Duplicate => {}
            Fate::Conflict => {
                return Err(Problem::conflict("It was replayed as something else."));
            }
        }
    }
    app.store
        .close_set_aside(&item.id, Closed::Replayed)
        .await?;
    Ok(Json(Replayed {
        source: SOURCE,
        id: identity,
        outcome,
    }))
}

/// The entry that there is to count in something that was set aside.
fn countable(item: &SetAside, body: &[u8]) -> Option<Map<String, Value>> {
    let mut json: Map<String, Value> = serde_json::from_slice(body).ok()?;
    match item.kind {
        Kind::Conflict => Some(json),
        Kind::Message => match json.remove("detail")? {
            Value::Object(detail) => Some(detail),
            _ => None,
        },
        Kind::Items => {
            let data = json.get_mut("data")?.as_object_mut()?;
            for items in data.values_mut().filter_map(Value::as_array_mut) {
                let refused = item.refused.iter();
                let refused = refused.filter_map(|refused| items.get(refused.index).cloned());
                *items = refused.collect();
            }
            Some(json)
        }
    }
}

fn named(id: &Cursor) -> Result<QuarantineId, Problem> {
    id.place().parse().map_err(|_| nothing())
}

fn nothing() -> Problem {
    Problem::not_found("There is nothing of that name.")
}

impl App {
    async fn find(&self, id: &Cursor) -> Result<(SetAside, Vec<u8>), Problem> {
        let id = named(id)?;
        self.store.set_aside(&id).await?.ok_or_else(nothing)
    }
}
