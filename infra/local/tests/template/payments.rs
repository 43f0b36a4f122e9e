//! Check of the queues and the rule that lead to Stripe and back.

use std::collections::BTreeSet;

use tollgate_local_aws::template::Stack;
use tollgate_payments::{EVENT_TYPES, WORKERS};

/// Mappings of queues whose functions report the messages of a batch that failed.
const SOURCES: [&str; 3] = [
    "ChargeWorkerEventSource",
    "StripeEventsEventSource",
    "WebhookSenderEventSource",
];

pub(crate) fn defects(stack: &Stack) -> Vec<String> {
    let mut defects = Vec::new();
    let resources = stack.resources();
    for source in SOURCES {
        let properties = resources.get(source).get("Properties");
        let mut responses = properties.get("FunctionResponseTypes").elements();
        if !responses.any(|kind| kind.0.as_str() == Some("ReportBatchItemFailures")) {
            defects.push(format!(
                "{source}: a failed message is lost without ReportBatchItemFailures"
            ));
        }
    }
    // The rate of each worker is its share of the rate of all.
    for source in ["ChargeWorkerEventSource", "StripeEventsEventSource"] {
        let scaling = resources.get(source).at("Properties.ScalingConfig");
        match scaling
            .get("MaximumConcurrency")
            .number("MaximumConcurrency")
        {
            Ok(workers) if workers == u64::from(WORKERS) => {}
            Ok(workers) => {
                defects.push(format!("{source} has {workers} workers, and not {WORKERS}"));
            }
            Err(error) => defects.push(error.to_string()),
        }
    }
    let rule = resources.at("StripeEventRule.Properties.EventPattern");
    let types = rule.get("detail-type").elements();
    let types: BTreeSet<&str> = types.filter_map(|kind| kind.0.as_str()).collect();
    if types != EVENT_TYPES.into() {
        defects.push(
            "StripeEventRule does not select the types of events that are handled".to_owned(),
        );
    }
    defects
}
