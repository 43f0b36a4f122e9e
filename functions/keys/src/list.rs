//! `GET /admin/api-keys`: keys by customer and age.

use axum::extract::State;
use axum::routing::get;
use axum::{Json, Router};
use serde::Deserialize;
use tollgate_domain::id::{CustomerId, PlanId};
use tollgate_domain::key::KeyStatus;
use tollgate_web::{AdminCaller, Cursor, List, Listing, PageParams, Problem, QueryParams};

use crate::App;
use crate::page::{self, Listed};
use crate::view::{KeyView, ListedKey};

/// Keys read in one go, and in one request: a page of a filtered list may be short, and the list
/// goes on behind it.
const READ_AT_ONCE: usize = 100;
const MAX_READ: usize = 1_000;

/// The route.
pub fn routes(app: App) -> Router {
    Router::new()
        .route("/admin/api-keys", get(list))
        .with_state(app)
}

/// The query.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Filter {
    customer_id: Option<CustomerId>,
    plan: Option<PlanId>,
    status: Option<KeyStatus>,
    limit: Option<usize>,
    cursor: Option<Cursor>,
}

async fn list(
    State(app): State<App>,
    _: AdminCaller,
    QueryParams(filter): QueryParams<Filter>,
) -> Result<Json<List<ListedKey>>, Problem> {
    let limit = PageParams::limit(filter.limit)?;
    let now = app.clock.now();
    let mut data = Vec::new();
    let Filter {
        customer_id,
        plan,
        status,
        ..
    } = &filter;
    let name = format!("keys {customer_id:?} {plan:?} {status:?}");
    let listing = Listing::new(name, filter.cursor.as_ref())?;
    let mut after = listing.after().map(str::to_owned);
    for _ in 0..MAX_READ / READ_AT_ONCE {
        let customer = filter.customer_id.as_ref();
        let after_place = after.as_deref();
        let page = page::read(&app.store, customer, after_place, READ_AT_ONCE).await?;
        let more = page.next.is_some();
        let last = page.items.len();
        for (at, listed) in page.items.into_iter().enumerate() {
            let Listed { place, key, plan } = listed;
            let wanted = filter.status.is_none_or(|status| status == key.status(now))
                && (filter.plan.is_none() || filter.plan == plan);
            if wanted {
                let key = KeyView::new(key, now);
                data.push(ListedKey { key, plan });
            }
            if data.len() == limit {
                let ended = !more && at + 1 == last;
                let next_cursor = (!ended).then(|| listing.cursor(&place));
                return Ok(Json(List { data, next_cursor }));
            }
            after = Some(place);
        }
        if !more {
            let next_cursor = None;
            return Ok(Json(List { data, next_cursor }));
        }
    }
    let next_cursor = after.map(|place| listing.cursor(&place));
    Ok(Json(List { data, next_cursor }))
}
