//! Check of the path of usage from the event bus to the usage-writer.

use serde_json::json;
use tollgate_local::template::Template;
use tollgate_local_aws::MAX_RECEIVES;
use tollgate_local_aws::template::Stack;

/// Designed batch size and batching window in seconds.
const BATCH: (usize, u64) = (1_000, 20);
/// Longest batching window that the parameter allows, in seconds.
const LONGEST_WINDOW_S: u64 = 60;

pub(crate) fn defects(stack: &Stack) -> Vec<String> {
    let mut defects = Vec::new();
    let template = Template::from_stack(stack).unwrap();
    if template.usage.batch_size != BATCH.0 {
        defects.push(format!(
            "usage is counted in batches of {}",
            template.usage.batch_size
        ));
    }
    let window_s = template.usage.window.as_secs();
    if window_s != BATCH.1 {
        defects.push(format!("batches wait for {window_s} s to fill"));
    }
    let resources = stack.resources();
    let source = resources.at("UsageWriterEventSource.Properties");
    let mut responses = source.get("FunctionResponseTypes").elements();
    if !responses.any(|kind| kind.0.as_str() == Some("ReportBatchItemFailures")) {
        let what = "without ReportBatchItemFailures a failed message is lost as if counted";
        defects.push(what.to_owned());
    }
    let longest = usage_writer::BATCH_TIMEOUT.as_secs();
    let timeout = resources.at("UsageWriterFunction.Properties.Timeout");
    match timeout.number("the usage-writer's timeout") {
        Ok(timeout) if timeout > longest => {}
        Ok(timeout) => {
            defects.push(format!(
                "a batch may take {longest} s, and the usage-writer has {timeout}"
            ));
        }
        Err(error) => defects.push(error.to_string()),
    }
    let window = stack.root().at("Parameters.UsageWindowSeconds.MaxValue");
    let invisible = resources.at("UsageQueue.Properties.VisibilityTimeout");
    match (
        timeout.number("timeout"),
        window.number("window"),
        invisible.number("visibility"),
    ) {
        (Ok(timeout), Ok(LONGEST_WINDOW_S), Ok(invisible))
            if invisible >= 6 * timeout + LONGEST_WINDOW_S => {}
        _ => defects.push("messages become visible too early".to_owned()),
    }
    let policy = resources.at("UsageQueue.Properties.RedrivePolicy");
    let deliveries = policy.get("maxReceiveCount").number("maxReceiveCount");
    match deliveries {
        Ok(deliveries) if deliveries == u64::from(MAX_RECEIVES) => {}
        Ok(deliveries) => {
            defects.push(format!(
                "a message becomes a dead letter after {deliveries} deliveries, in the local queue after 5"
            ));
        }
        Err(error) => defects.push(error.to_string()),
    }
    let pattern = resources.at("UsageRule.Properties.EventPattern").0;
    let pattern = serde_json::to_value(pattern).unwrap();
    if pattern != json!({ "detail-type": [{ "prefix": "tollgate." }] }) {
        defects.push("the rule does not match all events to count or to quarantine".to_owned());
    }
    defects
}
