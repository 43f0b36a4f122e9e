//! `GET /admin/api-keys`: lists keys by customer and age.

use axum::Json;
use axum::extract::State;
use tollgate_api::List;
use tollgate_api::keys::{Key, KeysQuery, ListedKey};
use tollgate_web::{AdminCaller, ListRequest, Problem, QueryParams, page_size};

use crate::App;
use crate::page::{self, Listed};

/// Keys read from the store at a time.
const BATCH: usize = 100;
/// Most keys read for one request. A page of a filtered list may therefore be short, and still be followed by
/// another.
const MAX_READ: usize = 1_000;

tollgate_web::operations!(pub (app: App) list);

/// Lists keys by customer and age.
///
/// A page of a filtered list may be short or empty, and still be followed by another.
#[utoipa::path(
    get,
    path = "/admin/api-keys",
    operation_id = "listKeys",
    tag = "keys",
    params(KeysQuery),
    responses(
        (status = 200, description = "A page of keys.", body = List<ListedKey>),
    ),
)]
async fn list(
    State(app): State<App>,
    _: AdminCaller,
    QueryParams(filter): QueryParams<KeysQuery>,
) -> Result<Json<List<ListedKey>>, Problem> {
    let limit = page_size(filter.limit)?;
    let now = app.clock.now();
    let mut data = Vec::new();
    let KeysQuery {
        customer_id,
        plan,
        status,
        ..
    } = &filter;
    let name = format!("keys {customer_id:?} {plan:?} {status:?}");
    let list_request = ListRequest::new(name, filter.cursor.as_ref())?;
    let mut after = list_request.after().map(str::to_owned);
    for _ in 0..MAX_READ / BATCH {
        let customer = filter.customer_id.as_ref();
        let page = page::read(&app.store, customer, after.as_deref(), BATCH).await?;
        let more = page.next.is_some();
        let last = page.items.len();
        for (at, listed) in page.items.into_iter().enumerate() {
            let Listed {
                position,
                key,
                plan,
            } = listed;
            let matches = filter.status.is_none_or(|status| status == key.status(now))
                && (filter.plan.is_none() || filter.plan == plan);
            if matches {
                let key = Key::new(key, now);
                data.push(ListedKey { key, plan });
            }
            if data.len() == limit {
                let ended = !more && at + 1 == last;
                let next_cursor = (!ended).then(|| list_request.cursor(&position));
                return Ok(Json(List { data, next_cursor }));
            }
            after = Some(position);
        }
        if !more {
            let next_cursor = None;
            return Ok(Json(List { data, next_cursor }));
        }
    }
    let next_cursor = after.map(|position| list_request.cursor(&position));
    Ok(Json(List { data, next_cursor }))
}
