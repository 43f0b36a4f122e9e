//! Charges that are due for submission.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use tollgate_domain::submission::{ChargeRef, ChargeStatus};
use tollgate_store::{Store, StoreError};

/// States of charges that are submitted, or submitted again when their time has come.
const OPEN: [ChargeStatus; 3] = [
    ChargeStatus::Pending,
    ChargeStatus::Failed,
    ChargeStatus::Submitted,
];

/// Charges per page. DynamoDB's own bound of a page would let the memory of a run grow with the number of charges.
const PAGE: i32 = 200;

/// Position in the list of charges that are due.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DuePosition {
    /// Index of the state.
    state: usize,
    /// Cursor within the state.
    after: Option<String>,
}

/// Lists charges that are due for submission at `now`, from a position on: those that were never submitted, those
/// that were not accepted, and those whose worker has not reported the outcome. A page may be empty and have a
/// next one.
///
/// # Errors
/// When the store fails.
pub async fn due_charges(
    store: &Store,
    now: Timestamp,
    from: DuePosition,
) -> Result<(Vec<ChargeRef>, Option<DuePosition>), StoreError> {
    let DuePosition { state, after } = from;
    let Some(status) = OPEN.get(state) else {
        return Ok((Vec::new(), None));
    };
    let page = store
        .open_charges(*status, Some(now), after.as_deref(), Some(PAGE))
        .await?;
    let next = match page.next {
        Some(after) => Some(DuePosition {
            state,
            after: Some(after),
        }),
        None => (state + 1 < OPEN.len()).then_some(DuePosition {
            state: state + 1,
            after: None,
        }),
    };
    Ok((page.items, next))
}
