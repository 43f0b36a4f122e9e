//! Reconciliation reports lost usage, and reports no discrepancy where none is.

#![allow(
    clippy::unwrap_used,
    reason = "a test that cannot be set up has failed"
)]

use simulation::ledgers::{Loss, reconcile_days};

#[test]
fn reconciliation_of_thirty_days_finds_only_the_customer_that_loses_one_percent() {
    let loss = Loss {
        customer: 1,
        one_in: 100,
    };
    let days = reconcile_days(1, 30, Some(loss)).unwrap();
    assert_eq!(days.len(), 30);
    for day in &days {
        let total = day.total;
        assert!(total.admitted > 100, "{day:?}");
        assert_eq!(total.admitted, total.metered + day.lost, "{day:?}");
        let others = day.discrepancies.keys().filter(|customer| **customer != 1);
        assert_eq!(others.count(), 0, "{day:?}");
    }
    let found = days.iter().filter(|day| day.discrepancies.contains_key(&1));
    assert!(found.count() >= 3, "{days:#?}");
}
