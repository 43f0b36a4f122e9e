//! Two ledgers of the same calls: what differs is found, and nothing else.

#![allow(
    clippy::unwrap_used,
    reason = "a test that cannot begin, or cannot look, has failed"
)]

use simulation::ledgers::{Loss, nights};

#[test]
fn in_thirty_days_of_bursts_a_loss_of_one_in_a_hundred_is_found_and_nothing_else() {
    let loss = Loss {
        customer: 1,
        one_in: 100,
    };
    let nights = nights(1, 30, Some(loss)).unwrap();
    assert_eq!(nights.len(), 30);
    for night in &nights {
        let total = night.total;
        assert!(total.admitted > 100, "{night:?}");
        assert_eq!(total.admitted, total.metered + night.lost, "{night:?}");
        let others = night.found.keys().filter(|customer| **customer != 1);
        assert_eq!(others.count(), 0, "{night:?}");
    }
    let found = nights.iter().filter(|night| night.found.contains_key(&1));
    assert!(found.count() >= 3, "{nights:#?}");
}
