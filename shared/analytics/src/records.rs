//! Counted usage records of a month.

use std::collections::BTreeSet;

use tollgate_api::usage::{CountedRecord, RatedPlan, RecordsQuery, UsageRecords};
use tollgate_domain::id::{CustomerId, PlanId};
use tollgate_domain::page::Page;
use tollgate_domain::window::{Day, Month};
use tollgate_ingest::Ingest;
use tollgate_store::{LoggedAdjustment, kept_from};
use tollgate_web::{ListRequest, Problem};

use crate::adjustments::represent;

/// Lists the counted records and adjustments of a customer's month, by day. The month is the current one if the
/// query has none.
///
/// # Errors
/// When the cursor belongs to another list, or the store fails.
pub async fn list_records(
    ingest: &Ingest,
    customer: &CustomerId,
    query: &RecordsQuery,
) -> Result<UsageRecords, Problem> {
    let now = ingest.clock.now();
    let name = format!("records {customer}");
    let mut request = ListRequest::new(name, query.cursor.as_ref())?;
    let month = request.window(query.month, Month::containing(now))?;
    let store = &ingest.store;
    let days = (
        Day::containing(month.start()),
        Day::containing(month.end()).previous(),
    );
    let Page { items, next } = store.list_logged(customer, days, request.after()).await?;
    let (mut data, mut adjustments) = (Vec::new(), Vec::new());
    let mut used = BTreeSet::<PlanId>::new();
    for logged in items {
        let received_at = logged.received_at;
        let counted = ingest.counted(&logged).await?;
        for record in counted.records {
            used.insert(record.plan.clone());
            data.push(CountedRecord {
                billable: record.is_billable(),
                time: record.time,
                plan: record.plan,
                method: record.method,
                endpoint: record.endpoint,
                status: record.status,
                key_id: record.key_id,
                request_id: record.request_id,
                source: counted.source.clone(),
                id: counted.id.clone(),
                received_at,
            });
        }
        for adjustment in counted.adjustments {
            used.insert(adjustment.plan.clone());
            adjustments.push(represent(LoggedAdjustment {
                adjustment,
                source: counted.source.clone(),
                id: counted.id.clone(),
                received_at,
            }));
        }
    }
    let plans = store.plans().await?;
    let pins = store.customer(customer).await?;
    let pins = pins.map(|customer| customer.pins).unwrap_or_default();
    let rated = used.iter();
    let rated = rated.filter_map(|plan| plans.in_effect(plan, month, &pins));
    Ok(UsageRecords {
        month,
        kept_from: kept_from(now),
        plans: rated.map(RatedPlan::from).collect(),
        data,
        adjustments,
        next_cursor: next.map(|position| request.cursor(&position)),
    })
}
