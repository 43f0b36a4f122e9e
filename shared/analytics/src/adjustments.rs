//! Adjustments of a month.

use jiff::Timestamp;
use tollgate_api::List;
use tollgate_api::money::SignedAmount;
use tollgate_api::usage::{Adjustment, AdjustmentsQuery};
use tollgate_domain::id::CustomerId;
use tollgate_domain::window::Month;
use tollgate_store::{LoggedAdjustment, Store};
use tollgate_web::{ListRequest, Problem};

/// Lists the adjustments of a customer's month by day. The month is the one of `now` if the query has none.
///
/// # Errors
/// When the cursor belongs to another list, or the store fails.
pub async fn list_adjustments(
    store: &Store,
    customer: &CustomerId,
    query: &AdjustmentsQuery,
    now: Timestamp,
) -> Result<List<Adjustment>, Problem> {
    let name = format!("adjustments {customer}");
    let mut request = ListRequest::new(name, query.cursor.as_ref())?;
    let month = request.window(query.month, Month::containing(now))?;
    let page = store.adjustments(customer, month, request.after()).await?;
    Ok(request.page(page, represent))
}

pub(crate) fn represent(logged: LoggedAdjustment) -> Adjustment {
    let adjustment = logged.adjustment;
    Adjustment {
        time: adjustment.time,
        plan: adjustment.plan,
        billable_calls: adjustment.billable_calls,
        cost: SignedAmount::of(adjustment.micro_usd),
        reason: adjustment.reason,
        source: logged.source,
        id: logged.id,
        received_at: logged.received_at,
    }
}
