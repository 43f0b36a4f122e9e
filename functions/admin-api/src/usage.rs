//! `/admin/usage/events`: usage from producers outside AWS, and the log of all that was counted; and what
//! was corrected of a customer's.

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
    AdjustmentView, AdjustmentsQuery, AdminCaller, Cursor, JsonBody, List, Listing, NoQuery,
    PathParam, Problem, QueryParams,
};
use usage_writer::{Entry, Fate};

use crate::{App, quarantine};

/// The most entries in one request.
const MAX_ENTRIES: usize = 100;
/// Of each of them, the most that is named of what was set aside under its identity.
const MAX_QUARANTINED: usize = 10;

/// The routes.
pub(crate) fn routes(app: App) -> Router {
    Router::new()
        .route("/admin/usage/events", post(count).get(log))
        .route("/admin/customers/{customer}/adjustments", get(adjustments))
        .with_state(app)
}

/// Entries, in the form that `docs/usage-event.md` documents.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Batch {
    events: Vec<Box<RawValue>>,
}

/// What became of the entries, in their order.
#[derive(Debug, Serialize)]
struct Counted {
    data: Vec<CountedEntry>,
}

#[derive(Debug, Serialize)]
struct CountedEntry {
    source: String,
    id: String,
    outcome: &'static str,
}

/// Something that cannot be counted, by its JSON pointer (RFC 6901) in the body.
#[derive(Debug, Serialize)]
pub(crate) struct DefectView {
    pub(crate) pointer: String,
    pub(crate) reason: String,
}

pub(crate) fn not_countable(defects: &[DefectView]) -> Problem {
    let detail = "Some of it cannot be counted, so none of it was. Correct it, and send all of it.";
    Problem::unprocessable(detail).with("defects", json!(defects))
}

/// Counts entries, each once for ever. Nothing is counted of a request in which anything is wrong: its
/// sender is there to be told. Of one in which only an identity is taken, all else is.
async fn count(
    State(app): State<App>,
    _: AdminCaller,
    _: NoQuery,
    JsonBody(batch): JsonBody<Batch>,
) -> Result<Json<Counted>, Problem> {
    if !(1..=MAX_ENTRIES).contains(&batch.events.len()) {
        let (found, field) = (batch.events.len(), "events");
        let detail = format!("There are {found} events; a request has 1 to {MAX_ENTRIES}.");
        return Err(Problem::unprocessable(detail).with("field", field));
    }
    let mut entries = Vec::with_capacity(batch.events.len());
    // Where each of them is among the events.
    let mut places = Vec::with_capacity(batch.events.len());
    let mut defects = Vec::new();
    for (at, event) in batch.events.iter().enumerate() {
        match Entry::read(event.get()) {
            Ok(entry) => {
                entries.push(entry);
                places.push(at);
            }
            Err(defect) => {
                let pointer = format!("/events/{at}");
                let reason = defect.to_string();
                defects.push((at, DefectView { pointer, reason }));
            }
        }
    }
    let writer = app.writer();
    let checked = writer.check(&entries).await?;
    for ((at, entry), refused) in places.into_iter().zip(&entries).zip(checked) {
        let items = format!("/events/{at}{}", entry.received().pointer());
        defects.extend(refused.into_iter().map(|refused| {
            let pointer = format!("{items}/{}", refused.index);
            let reason = refused.reason;
            (at, DefectView { pointer, reason })
        }));
    }
    defects.sort_by_key(|(at, _)| *at);
    let defects: Vec<DefectView> = defects.into_iter().map(|(_, defect)| defect).collect();
    if !defects.is_empty() {
        return Err(not_countable(&defects));
    }
    let entries: Arc<[Entry]> = entries.into();
    let outcomes = writer.count(&entries).await;
    app.metrics.write();
    let mut counted = Vec::with_capacity(outcomes.len());
    let mut conflicts = Vec::new();
    let mut quarantined = OfConflicts::default();
    for (at, (entry, outcome)) in entries.iter().zip(outcomes).enumerate() {
        let received = entry.received();
        // What is not known may have been counted, and is found to be when it is sent again.
        let outcome = match outcome? {
            Fate::Counted => "counted",
            Fate::Duplicate => "duplicate",
            Fate::Conflict => {
                let pointer = format!("/events/{at}");
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
                        status: quarantine::status(item.closed),
                    }));
                quarantined.more.extend(has_more.then(|| pointer.clone()));
                conflicts.push(pointer);
                "conflict"
            }
        };
        counted.push(CountedEntry {
            source: received.source.clone(),
            id: received.id.clone(),
            outcome,
        });
    }
    if !conflicts.is_empty() {
        return Err(taken(conflicts, &quarantined));
    }
    Ok(Json(Counted { data: counted }))
}

/// What was set aside of an event that came before under the identity of the one at `pointer`.
#[derive(Debug, Serialize)]
struct QuarantinedView {
    pointer: String,
    id: Cursor,
    status: &'static str,
}

/// What was set aside of events that came before.
#[derive(Default)]
struct OfConflicts {
    items: Vec<QuarantinedView>,
    /// Pointers to the events of which more than that was.
    more: Vec<String>,
}

/// 409: other events have the identities of these.
fn taken(conflicts: Vec<String>, quarantined: &OfConflicts) -> Problem {
    let OfConflicts { items, more } = quarantined;
    let taken = "Other events have the same source and id, and came before these or with them: these \
                 were not counted, and all others are.";
    if items.is_empty() {
        return Problem::conflict(taken).with("conflicts", conflicts);
    }
    let detail = format!(
        "{taken} Of those before, what could not be counted is in the quarantine: to count it after \
         all, correct it there, with POST /admin/usage/quarantine/{{id}}/replay."
    );
    Problem::conflict(detail)
        .with("conflicts", conflicts)
        .with("quarantined", json!(items))
        .with("quarantined_more", json!(more))
}

/// The query of the log.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct LogQuery {
    customer_id: CustomerId,
    /// The first UTC day; today if left out.
    from: Option<Day>,
    /// The last; today if left out.
    to: Option<Day>,
    cursor: Option<Cursor>,
}

/// An entry that was counted.
#[derive(Debug, Serialize)]
struct LoggedView {
    /// Of the records that were counted; an entry of several days comes once for each.
    day: Day,
    /// How many records of that day were counted.
    records: u64,
    /// The whole entry as it arrived.
    event: Box<RawValue>,
}

async fn log(
    State(app): State<App>,
    _: AdminCaller,
    QueryParams(query): QueryParams<LogQuery>,
) -> Result<Json<List<LoggedView>>, Problem> {
    let today = Day::containing(app.clock.now());
    let customer = &query.customer_id;
    let mut listing = Listing::new(format!("log {customer}"), query.cursor.as_ref())?;
    let from = listing.window(query.from, today)?;
    let days = (from, listing.window(query.to, today)?);
    if days.0 > days.1 {
        let detail = "In the query: from is after to.";
        return Err(Problem::bad_request(detail).with("field", "from"));
    }
    let page = app.store.logged(customer, days, listing.after()).await?;
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
        next_cursor: page.next.map(|place| listing.cursor(&place)),
    }))
}

async fn adjustments(
    State(app): State<App>,
    _: AdminCaller,
    PathParam(customer): PathParam<CustomerId>,
    QueryParams(query): QueryParams<AdjustmentsQuery>,
) -> Result<Json<List<AdjustmentView>>, Problem> {
    let (listing, month) = query.listing(&customer, app.clock.now())?;
    let page = app.store.adjustments(&customer, month, listing.after());
    Ok(Json(listing.page(page.await?)))
}
