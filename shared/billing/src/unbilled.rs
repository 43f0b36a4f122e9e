//! Usage that was counted after its month had closed, and the charge that would be due if it were open.

use tollgate_domain::billing::{Charge, NotRated, charge_due};
use tollgate_domain::id::CustomerId;
use tollgate_domain::money::{Cents, MicroUsd};
use tollgate_domain::page::Page;
use tollgate_domain::plan_book::PlanBook;
use tollgate_domain::window::Month;
use tollgate_store::StoreError;

use crate::Billing;

/// Customers read for a page. Each takes three reads.
const PAGE: i32 = 25;

/// A customer with unbilled usage in a closed month.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UnbilledCustomer {
    /// The customer.
    pub customer_id: CustomerId,
    /// The unbilled usage. An error if a plan of the month's calls does not exist.
    pub usage: Result<UnbilledUsage, NotRated>,
}

/// Overage that no charge covers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct UnbilledUsage {
    /// Overage calls.
    pub calls: u64,
    /// Cost of these calls at the plans' prices, not rounded.
    pub overage: MicroUsd,
    /// The charge that would be due for them: at least a cent.
    pub due: Cents,
}

/// Lists customers with overage in a closed month that no charge covers, from `after` on. A page is empty,
/// and may still be followed by another, if none of the customers read for it has unbilled usage.
///
/// # Errors
/// When the store cannot be read.
pub async fn unbilled(
    billing: &Billing,
    month: Month,
    after: Option<&str>,
) -> Result<Page<UnbilledCustomer>, StoreError> {
    let plans = billing.store.plans().await?;
    let mut next = after.map(str::to_owned);
    let mut items = Vec::new();
    let mut left = PAGE;
    loop {
        let page = billing
            .store
            .billable_customers(month, next.as_deref(), Some(left));
        let page = page.await?;
        next = page.next;
        left -= i32::try_from(page.items.len()).unwrap_or(left);
        for customer_id in page.items {
            let usage = unbilled_usage(billing, &plans, &customer_id, month)
                .await?
                .transpose();
            items.extend(usage.map(|usage| UnbilledCustomer { customer_id, usage }));
        }
        if left <= 0 || next.is_none() {
            return Ok(Page { items, next });
        }
    }
}

/// Computes the unbilled usage of one customer.
async fn unbilled_usage(
    billing: &Billing,
    plans: &PlanBook,
    customer: &CustomerId,
    month: Month,
) -> Result<Result<Option<UnbilledUsage>, NotRated>, StoreError> {
    let plans = plans.catalog(month, &billing.pins(customer).await?);
    let ledger = billing.store.period_ledger(customer, month).await?;
    let days = billing.store.billable_days(customer, month).await?;
    let now = billing.clock.now();
    let due = charge_due(customer, month, &plans, &days, &ledger, now);
    // A credit is no usage that is to be billed.
    let due = due.map(|due| due.filter(|due| due.cents.0 > 0));
    let unbilled = |due: Charge| UnbilledUsage {
        calls: (due.to_call + 1).saturating_sub(due.from_call),
        overage: MicroUsd(
            due.cumulative_overage
                .0
                .saturating_sub(ledger.micro_usd().0),
        ),
        due: due.cents.abs(),
    };
    Ok(due.map(|due| due.map(unbilled)))
}
