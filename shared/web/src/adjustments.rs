//! What was corrected of a customer's usage, as admins and the customer see it.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use tollgate_domain::id::PlanId;
use tollgate_domain::window::Month;
use tollgate_store::CountedAdjustment;

use crate::{Cursor, SignedAmount};

/// The query of a list of adjustments.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AdjustmentsQuery {
    /// The current month if left out.
    month: Option<Month>,
    cursor: Option<Cursor>,
}

impl AdjustmentsQuery {
    /// The month that is asked for at `now`.
    #[must_use]
    pub fn month_at(&self, now: Timestamp) -> Month {
        self.month.unwrap_or_else(|| Month::containing(now))
    }

    /// The place after which the page begins.
    #[must_use]
    pub fn after(&self) -> Option<&str> {
        self.cursor.as_ref().map(Cursor::place)
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

impl From<CountedAdjustment> for AdjustmentView {
    fn from(counted: CountedAdjustment) -> Self {
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
