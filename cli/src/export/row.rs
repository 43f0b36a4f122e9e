//! Rows of an export.

use jiff::Timestamp;
use tollgate_domain::usage::{ReceivedEvent, Truncation, UsageRecord};

use crate::failure::Failure;

/// Usage record with its place: the customer, and the index within its usage event.
pub(crate) struct Row {
    pub(crate) customer: String,
    pub(crate) time: Timestamp,
    pub(crate) source: String,
    pub(crate) event: String,
    /// Index of the record in its usage event, from 0.
    pub(crate) record: i32,
    pub(crate) request: String,
    pub(crate) key: String,
    pub(crate) plan: String,
    pub(crate) method: String,
    pub(crate) endpoint: String,
    pub(crate) status: i32,
    pub(crate) latency_ms: i64,
    pub(crate) request_bytes: Option<i64>,
    pub(crate) response_bytes: Option<i64>,
    pub(crate) truncated: Option<&'static str>,
    pub(crate) billable: bool,
    pub(crate) cost_micro_usd: i64,
    /// Costs item by item, as JSON.
    pub(crate) costs: String,
}

impl Row {
    pub(crate) fn new(
        event: &ReceivedEvent,
        index: usize,
        record: UsageRecord,
    ) -> Result<Self, Failure> {
        // The API bounds all of these far below.
        let number = |number: u64| i64::try_from(number).unwrap_or(i64::MAX);
        let cost = record.costs.iter().map(|cost| number(cost.micro_usd.0));
        Ok(Self {
            customer: event.customer.to_string(),
            time: record.time,
            source: event.source.clone(),
            event: event.id.clone(),
            record: i32::try_from(index).unwrap_or(i32::MAX),
            billable: record.is_billable(),
            cost_micro_usd: cost.fold(0, i64::saturating_add),
            costs: serde_json::to_string(&record.costs)
                .map_err(|error| Failure::because("a cost cannot be written", &error))?,
            request: record.request_id,
            key: record.key_id.to_string(),
            plan: record.plan.to_string(),
            method: record.method,
            endpoint: record.endpoint,
            status: record.status.into(),
            latency_ms: number(record.latency_ms),
            request_bytes: record.request_bytes.map(number),
            response_bytes: record.response_bytes.map(number),
            truncated: record.truncated.map(|truncation| match truncation {
                Truncation::Failed => "failed",
                Truncation::Dropped => "dropped",
                Truncation::Interrupted => "interrupted",
            }),
        })
    }
}
