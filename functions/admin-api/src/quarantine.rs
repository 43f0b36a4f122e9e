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
use tollgate_store::{Change, Closed, Kind, QuarantineId, RefusedRecord, QuarantinedItem, is_same_event};
use tollgate_web::{
    AdminCaller, Cursor, JsonBody, List, Listing, NoQuery, PathParam, Problem, QueryParams,
};
use usage_writer::{Entry, Fate};

use crate::App;
use crate::usage::{DefectView, not_countable};

/// The source of what is replayed.
const SOURCE: &str = "tollgate:quarantine";
/// What the ids of single items are cursors of, so to speak.
const ITEMS: &str = "quarantined";

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

impl From<QuarantinedItem> for SetAsideView {
    fn from(item: QuarantinedItem) -> Self {
        Self {
            id: id(&item.id),
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

/// What names something that was set aside in URLs.
pub(crate) fn id(id: &QuarantineId) -> Cursor {
    Cursor::new(ITEMS, id.to_string())
}

pub(crate) fn status(closed: Option<Closed>) -> &'static str {
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
    let listing = Listing::new("quarantine", query.cursor.as_ref())?;
    let page = app.store.waiting(listing.after()).await?;
    Ok(Json(listing.page(page)))
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
    _: NoQuery,
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
    _: NoQuery,
    PathParam(id): PathParam<Cursor>,
) -> Result<StatusCode, Problem> {
    let id = named(&id)?;
    match app.store.dismiss(&id).await? {
        Change::Made | Change::Closed(Closed::Dismissed) => Ok(StatusCode::NO_CONTENT),
        Change::Closed(Closed::Replayed) => Err(Problem::conflict("It was replayed.")),
        Change::Replaying => {
            let detail =
                "A replay of it has begun, and may have counted it. Replay it again to end that.";
            Err(Problem::conflict(detail))
        }
        Change::Missing => Err(nothing()),
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
    _: NoQuery,
    PathParam(id): PathParam<Cursor>,
    JsonBody(body): JsonBody<ReplayBody>,
) -> Result<Json<Replayed>, Problem> {
    let (item, original) = app.find(&id).await?;
    if item.closed == Some(Closed::Dismissed) {
        return Err(dismissed());
    }
    let event = body.event.or_else(|| countable(&item, &original));
    let Some(mut event) = event else {
        let detail = "No entry can be made out of this one. Give it, corrected, as event.";
        return Err(Problem::unprocessable(detail).with("field", "event"));
    };
    let identity = hex(&Sha256::digest(item.id.to_string()));
    event.insert("source".to_owned(), SOURCE.into());
    event.insert("id".to_owned(), identity.clone().into());
    let event = Value::Object(event);
    if item.closed == Some(Closed::Replayed) {
        return app.replayed_before(identity, &event).await;
    }
    let entry = Entry::read(&event.to_string()).map_err(|defect| {
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
    match app.store.begin_replay(&item.id).await? {
        Change::Made | Change::Replaying => {}
        Change::Closed(Closed::Dismissed) => return Err(dismissed()),
        Change::Closed(Closed::Replayed) => return app.replayed_before(identity, &event).await,
        Change::Missing => return Err(nothing()),
    }
    let outcomes = writer.count(&entries.into()).await;
    app.metrics.write();
    let mut outcome = "duplicate";
    for of_entry in outcomes {
        match of_entry? {
            Fate::Counted => outcome = "counted",
            Fate::Duplicate => {}
            // An earlier replay has counted it, and did not come to say so.
            Fate::Conflict => {
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

/// The entry that there is to count in something that was set aside.
fn countable(item: &QuarantinedItem, body: &[u8]) -> Option<Map<String, Value>> {
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

fn dismissed() -> Problem {
    Problem::conflict("It was dismissed.")
}

fn replayed_as_another() -> Problem {
    Problem::conflict("It was replayed as something else.")
}

fn named(id: &Cursor) -> Result<QuarantineId, Problem> {
    let id = id.place_in(ITEMS).map_err(|_| nothing())?;
    id.parse().map_err(|_| nothing())
}

fn nothing() -> Problem {
    Problem::not_found("There is nothing of that name.")
}

impl App {
    /// What there is to say of a replay of what was replayed before, of which nothing is counted.
    async fn replayed_before(
        &self,
        identity: String,
        event: &Value,
    ) -> Result<Json<Replayed>, Problem> {
        let event = event.to_string();
        match self.store.logged_event(SOURCE, &identity).await? {
            Some(counted) if is_same_event(&counted, event.as_bytes()) => Ok(Json(Replayed {
                source: SOURCE,
                id: identity,
                outcome: "duplicate",
            })),
            Some(_) => Err(replayed_as_another()),
            // It is no longer in the log.
            None => Err(Problem::conflict("It was replayed.")),
        }
    }

    async fn find(&self, id: &Cursor) -> Result<(QuarantinedItem, Vec<u8>), Problem> {
        let id = named(id)?;
        self.store.set_aside(&id).await?.ok_or_else(nothing)
    }
}
