//! Usage that was counted after its month closed: what it would be charged if the month were open.

use tollgate_domain::billing::{Charge, UnknownPlan, charge_due};
use tollgate_domain::id::CustomerId;
use tollgate_domain::money::{Cents, MicroUsd};
use tollgate_domain::window::Month;
use tollgate_store::{Page, StoreError};

use crate::App;

/// Customers looked at for a page: each is two reads.
const PAGE: i32 = 25;

/// A customer of whose closed month something is in no bill.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AtStake {
    /// Whose usage.
    pub customer_id: CustomerId,
    /// How much of it; not known while a plan of it is not in the catalogue.
    pub stake: Result<Stake, UnknownPlan>,
}

/// Overage that no charge covers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stake {
    /// Overage calls.
    pub calls: u64,
    /// What they cost at the plans' prices.
    pub overage: MicroUsd,
    /// The charge that would be due for them: at least a cent.
    pub due: Cents,
}

/// Lists customers with overage in a closed month that no charge covers, from `after` on. A page may
/// be empty and have a next one, where nothing is at stake of the customers that it looked at.
///
/// # Errors
/// When the store does not answer.
pub async fn unbilled(
    app: &App,
    month: Month,
    after: Option<&str>,
) -> Result<Page<AtStake>, StoreError> {
    let mut next = after.map(str::to_owned);
    let mut items = Vec::new();
    let mut left = PAGE;
    loop {
        let page = app
            .store
            .billable_customers(month, next.as_deref(), Some(left));
        let page = page.await?;
        next = page.next;
        left -= i32::try_from(page.items.len()).unwrap_or(left);
        for customer_id in page.items {
            let stake = stake(app, &customer_id, month).await?.transpose();
            items.extend(stake.map(|stake| AtStake { customer_id, stake }));
        }
        if left <= 0 || next.is_none() {
            return Ok(Page { items, next });
        }
    }
}

/// Computes what is at stake of one customer.
async fn stake(
    app: &App,
    customer: &CustomerId,
    month: Month,
) -> Result<Result<Option<Stake>, UnknownPlan>, StoreError> {
    let charged = app.store.charged(customer, month).await?;
    let days = app.store.billable_days(customer, month).await?;
    let now = app.clock.now();
    let due = charge_due(customer, month, &app.plans, &days, &charged, now);
    let stake = |due: Charge| Stake {
        calls: (due.to_call + 1).saturating_sub(due.from_call),
        overage: MicroUsd(due.cumulative.0.saturating_sub(charged.micro_usd().0)),
        due: due.cents,
    };
    Ok(due.map(|due| due.map(stake)))
}
