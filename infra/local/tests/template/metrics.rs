//! Check that the functions write the metrics that alarms watch and dashboards show.

use std::collections::BTreeSet;

use serde_json::Value;
use tollgate_local_aws::template::{InvalidTemplate, Node, Stack};
use tollgate_runtime::metrics::{ALL, NAMESPACE, STACK};

/// Maximum number of metrics in alarms. Ten are free, and each further one costs $0.10 a month
/// (<https://aws.amazon.com/cloudwatch/pricing/>).
const MAX_WATCHED: usize = 23;
/// Maximum number of metrics on a dashboard that are free.
const MAX_SHOWN: usize = 50;

/// Name of a metric, and names of its dimensions.
type MetricKey = (String, Vec<String>);

pub(crate) fn defects(stack: &Stack) -> Vec<String> {
    let mut defects = Vec::new();
    let written: BTreeSet<MetricKey> = ALL
        .iter()
        .map(|metric| {
            let dimensions = [STACK].iter().chain(metric.dimensions);
            let dimensions = dimensions.map(|&name| name.to_owned()).collect();
            (metric.name.to_owned(), dimensions)
        })
        .collect();
    let shown = shown(stack);
    let ours = shown.iter().filter(|line| line[0] == NAMESPACE);
    let ours: BTreeSet<Vec<String>> = ours.map(|line| line[1..].to_vec()).collect();
    let watched = match watched(stack) {
        Ok(watched) => watched,
        Err(error) => return vec![error.to_string()],
    };
    for line in watched.union(&ours) {
        let name = &line[0];
        let dimensions: Vec<String> = line[1..].iter().step_by(2).cloned().collect();
        if !written.contains(&(name.clone(), dimensions.clone())) {
            defects.push(format!("no function writes {name} by {dimensions:?}"));
        }
        // The first dimension is the stack.
        for value in line[1..].iter().skip(3).step_by(2) {
            let doc = ALL.iter().find(|metric| metric.name == name);
            if doc.is_some_and(|metric| !metric.doc.contains(&format!("`{value}`"))) {
                defects.push(format!("no {name} has the value {value}"));
            }
        }
    }
    if shown.len() > MAX_SHOWN {
        let found = shown.len();
        defects.push(format!(
            "the dashboard shows {found} metrics, of which {MAX_SHOWN} are free"
        ));
    }
    let count = alarm_metrics(stack).count();
    if count > MAX_WATCHED {
        defects.push(format!(
            "alarms watch {count} metrics, and at most {MAX_WATCHED} are intended"
        ));
    }
    defects
}

/// Returns the metrics of all alarms with the alarms' logical ids: an alarm has one metric, or several in an
/// expression.
fn alarm_metrics(stack: &Stack) -> impl Iterator<Item = (&str, Node<'_>)> {
    let alarms = stack.of_type("AWS::CloudWatch::Alarm");
    let metrics = alarms.flat_map(|(id, alarm)| {
        let alarm = alarm.get("Properties");
        let within = alarm.get("Metrics").elements();
        let within = within.map(|node| node.at("MetricStat.Metric"));
        within.chain([alarm]).map(move |metric| (id, metric))
    });
    metrics.filter(|(_, node)| !node.get("MetricName").0.is_null())
}

/// Returns Tollgate's metrics that alarms watch, each as a list of its name, and of names and values of its
/// dimensions.
fn watched(stack: &Stack) -> Result<BTreeSet<Vec<String>>, InvalidTemplate> {
    let metrics = alarm_metrics(stack);
    let ours = metrics.filter(|(_, node)| node.get("Namespace").0.as_str() == Some(NAMESPACE));
    let text = |node: Node<'_>, name| node.get(name).0.as_str().unwrap_or_default().to_owned();
    ours.map(|(alarm, node)| {
        let metric = stack.value(node.get("MetricName"), &format!("the alarm {alarm}"))?;
        let dimensions = node.get("Dimensions").elements();
        let dimensions = dimensions.flat_map(|of| [text(of, "Name"), text(of, "Value")]);
        Ok([metric].into_iter().chain(dimensions).collect())
    })
    .collect()
}

/// Returns the metrics that dashboards show, each as a list of namespace, name, and names and values of
/// dimensions. In a dashboard, `.` repeats the element above it, and `...` the start of the line above
/// (<https://docs.aws.amazon.com/AmazonCloudWatch/latest/APIReference/CloudWatch-Dashboard-Body-Structure.html>).
fn shown(stack: &Stack) -> BTreeSet<Vec<String>> {
    let mut shown = BTreeSet::new();
    for (_, dashboard) in stack.of_type("AWS::CloudWatch::Dashboard") {
        let body = dashboard.at("Properties.DashboardBody").0;
        let body = match body {
            yaml_serde::Value::Tagged(sub) => sub.value.as_str(),
            other => other.as_str(),
        };
        let body: Value = serde_json::from_str(body.unwrap_or_default()).unwrap();
        for widget in body["widgets"].as_array().unwrap() {
            let mut above: Vec<String> = Vec::new();
            for metric in widget["properties"]["metrics"]
                .as_array()
                .into_iter()
                .flatten()
            {
                let mut line: Vec<String> = Vec::new();
                let given = metric.as_array().unwrap().iter().filter_map(Value::as_str);
                let given: Vec<&str> = given.collect();
                for (place, part) in given.iter().enumerate() {
                    match *part {
                        "..." => {
                            let repeated = above.len() - (given.len() - 1 - place);
                            line.extend_from_slice(&above[..repeated]);
                        }
                        "." => line.push(above[line.len()].clone()),
                        part => line.push(part.to_owned()),
                    }
                }
                shown.insert(line.clone());
                above = line;
            }
        }
    }
    shown
}
