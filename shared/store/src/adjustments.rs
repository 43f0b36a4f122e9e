//! Adjustments, each stored as an item beside the aggregates that include it, so that a report can explain
//! how a sum differs from the recorded usage.

use jiff::Timestamp;
use tollgate_domain::id::CustomerId;
use tollgate_domain::page::Page;
use tollgate_domain::usage::Adjustment;
use tollgate_domain::window::{Day, Month};

use crate::Store;
use crate::error::StoreError;
use crate::event_part::EventPart;
use crate::item::{Item, MAX_SK, Reader, keys, s, signed, t};
use crate::schema::{USAGE, attr};

/// Adjustments per page.
const PAGE: i32 = 50;
const LISTING: &str = "listing adjustments";
const PREFIX: &str = "ADJUSTMENT#";

/// A counted adjustment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LoggedAdjustment {
    /// The adjustment.
    pub adjustment: Adjustment,
    /// Source of the adjustment's usage event, which is identified by `source` and `id`.
    pub source: String,
    /// Id of the usage event, unique within the source.
    pub id: String,
    /// Time of the event's arrival.
    pub received_at: Timestamp,
}

/// Returns the item of an adjustment, `index` being its index in the usage event.
pub(crate) fn adjustment_item(part: &EventPart<'_>, index: usize, adjustment: &Adjustment) -> Item {
    let day = Day::containing(adjustment.time);
    let sk = format!("{PREFIX}{day}#{}#{index:02}", part.pk());
    let mut item = keys(part.customer.as_str(), sk);
    item.insert("time".into(), t(adjustment.time));
    item.insert("plan".into(), s(adjustment.plan.as_str()));
    item.insert("billable_calls".into(), signed(adjustment.billable_calls));
    item.insert("cost_micro_usd".into(), signed(adjustment.micro_usd));
    item.insert("reason".into(), s(&adjustment.reason));
    item.insert("source".into(), s(part.source));
    item.insert("id".into(), s(part.id));
    item.insert("received_at".into(), t(part.received_at));
    item
}

fn read(item: &Item) -> Result<LoggedAdjustment, StoreError> {
    let item = Reader::new("adjustment", item);
    let number = |name| item.opt_signed(name).map(|number| number.unwrap_or(0));
    Ok(LoggedAdjustment {
        adjustment: Adjustment {
            time: item.parsed("time")?,
            plan: item.parsed("plan")?,
            billable_calls: number("billable_calls")?,
            micro_usd: number("cost_micro_usd")?,
            reason: item.text("reason")?.to_owned(),
        },
        source: item.text("source")?.to_owned(),
        id: item.text("id")?.to_owned(),
        received_at: item.parsed("received_at")?,
    })
}

impl Store {
    /// Lists the adjustments of a customer's month by day, after the cursor `after`. The read is
    /// consistent.
    ///
    /// # Errors
    /// When the store fails, or the cursor is invalid.
    pub async fn adjustments(
        &self,
        customer: &CustomerId,
        month: Month,
        after: Option<&str>,
    ) -> Result<Page<LoggedAdjustment>, StoreError> {
        let prefix = format!("{PREFIX}{month}-");
        if after.is_some_and(|after| prefix.len() + after.len() > MAX_SK) {
            return Err(StoreError::invalid_cursor(LISTING));
        }
        let start = after.map(|after| keys(customer.as_str(), format!("{prefix}{after}")));
        let found = self
            .client
            .query()
            .table_name(self.table(USAGE))
            .key_condition_expression("pk = :pk AND begins_with(sk, :prefix)")
            .expression_attribute_values(":pk", s(customer.as_str()))
            .expression_attribute_values(":prefix", s(&prefix))
            .consistent_read(true)
            .limit(PAGE)
            .set_exclusive_start_key(start)
            .send()
            .await
            .map_err(|error| StoreError::service(LISTING, error))?;
        let items = found.items().iter().map(read);
        let items = items.collect::<Result<_, _>>()?;
        let next = found.last_evaluated_key.map(|key| {
            let sk = Reader::new("adjustment", &key).text(attr::SK)?;
            let cursor = sk.strip_prefix(&prefix);
            let cursor = cursor.ok_or_else(|| StoreError::corrupt("adjustment", attr::SK))?;
            Ok::<_, StoreError>(cursor.to_owned())
        });
        let next = next.transpose()?;
        Ok(Page { items, next })
    }
}
