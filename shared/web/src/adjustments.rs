//! Lists of usage adjustments, in the responses to admins and customers.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use tollgate_domain::id::{CustomerId, PlanId};
use tollgate_domain::window::Month;
use tollgate_store::LoggedAdjustment;

use crate::{Cursor, InvalidCursor, ListRequest, SignedAmount};

/// Query parameters of a list of adjustments.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AdjustmentsQuery {
    /// Month of the adjustments; the current one if absent.
    month: Option<Month>,
    cursor: Option<Cursor>,
}

impl AdjustmentsQuery {
    /// Returns the requested list of the customer's adjustments, and its month.
    ///
    /// # Errors
    /// When the cursor belongs to another list.
    pub fn listing(
        &self,
        customer: &CustomerId,
        now: Timestamp,
    ) -> Result<(ListRequest, Month), InvalidCursor> {
        let name = format!("adjustments {customer}");
        let mut request = ListRequest::new(name, self.cursor.as_ref())?;
        let month = request.window(self.month, Month::containing(now))?;
        Ok((request, month))
    }
}

/// Counted adjustment in a response.
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
    fn from(logged: LoggedAdjustment) -> Self {
        let adjustment = logged.adjustment;
        Self {
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
}
