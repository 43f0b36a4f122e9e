//! What was corrected of a customer's usage, as admins and the customer see it.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use tollgate_domain::id::{CustomerId, PlanId};
use tollgate_domain::window::Month;
use tollgate_store::LoggedAdjustment;

use crate::{Cursor, InvalidCursor, Listing, SignedAmount};

/// The query of a list of adjustments.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AdjustmentsQuery {
    /// The current month if left out.
    month: Option<Month>,
    cursor: Option<Cursor>,
}

impl AdjustmentsQuery {
    /// The list of this customer's that is asked for at `now`, and of which month it is.
    ///
    /// # Errors
    /// When the cursor is of another one.
    pub fn listing(
        &self,
        customer: &CustomerId,
        now: Timestamp,
    ) -> Result<(Listing, Month), InvalidCursor> {
        let name = format!("adjustments {customer}");
        let mut listing = Listing::new(name, self.cursor.as_ref())?;
        let month = listing.window(self.month, Month::containing(now))?;
        Ok((listing, month))
    }
}

/// An adjustment as it was counted.
#[derive(Debug, Clone, Serialize)]
pub struct AdjustmentView {
    time: Timestamp,
    plan: PlanId,
    billable_calls: i64,
    cost: SignedAmount,
    reason: String,
    source: String,
    id: String,
    received_at: Timestamp,
}

impl From<LoggedAdjustment> for AdjustmentView {
    fn from(counted: LoggedAdjustment) -> Self {
        let adjustment = counted.adjustment;
        Self {
            time: adjustment.time,
            plan: adjustment.plan,
            billable_calls: adjustment.billable_calls,
            cost: SignedAmount::of(adjustment.micro_usd),
            reason: adjustment.reason,
            source: counted.source,
            id: counted.id,
            received_at: counted.received_at,
        }
    }
}
