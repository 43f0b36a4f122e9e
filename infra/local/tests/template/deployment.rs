//! Check of what a deployment replaces and in which order: the authorizer's canary, policies before their
//! functions, plans before the functions that read them, and the functions and the lake, which are optional.

use tollgate_local_aws::template::{Node, Stack};
use yaml_serde::Value;

const FUNCTION: &str = "AWS::Serverless::Function";
/// Optional functions, by the parameter that omits them.
const OPTIONAL: [(&str, &[&str]); 2] = [
    ("ApiDocs", &["ApiDocs"]),
    ("Examples", &["Ping", "Analyze"]),
];

pub(crate) fn defects(stack: &Stack) -> Vec<String> {
    let mut defects = canary(stack);
    defects.extend(policies_first(stack));
    defects.extend(plans_first(stack));
    defects.extend(optional(stack));
    defects.extend(lake(stack));
    defects
}

/// Checks that a new version of the authorizer decides few calls at first, and that an alarm ends that.
fn canary(stack: &Stack) -> Vec<String> {
    let mut defects = Vec::new();
    let mut report = |found: bool, defect: &str| {
        if !found {
            defects.push(defect.to_owned());
        }
    };
    let transforms = stack.root().get("Transform").elements();
    let transforms: Vec<_> = transforms.filter_map(|name| name.0.as_str()).collect();
    report(
        transforms == ["AWS::LanguageExtensions", "AWS::Serverless-2016-10-31"],
        "a changed parameter publishes no version: the values are not inserted before SAM compares",
    );
    let function = stack.resources().at("AuthorizerFunction.Properties");
    report(
        function.get("AutoPublishAlias").0.as_str() == Some("live"),
        "the authorizer has no versions, and a new one decides all calls at once",
    );
    report(
        function.get("AutoPublishAliasAllProperties").0.as_bool() == Some(true),
        "a changed configuration of the authorizer publishes no version",
    );
    let called = stack
        .resources()
        .at("Api.Properties.Auth.Authorizers.KeyAuthorizer.FunctionArn");
    report(
        reference(called) == Some("AuthorizerFunction.Alias"),
        "the gateway does not call the authorizer through its alias",
    );
    let preference = function.get("DeploymentPreference");
    let chosen = |name| stack.chosen(preference.get(name), name).ok().flatten();
    let kind = chosen("Type")
        .and_then(|kind| kind.0.as_str())
        .unwrap_or_default();
    let minutes = kind
        .strip_prefix("Canary10Percent")
        .and_then(|rest| rest.strip_suffix("Minutes"));
    let Some(seconds) = minutes.and_then(|minutes| Some(minutes.parse::<u64>().ok()? * 60)) else {
        defects.push(format!(
            "a new authorizer is deployed by {kind:?}, and not as a canary"
        ));
        return defects;
    };
    let alarms: Vec<&str> = chosen("Alarms")
        .into_iter()
        .flat_map(Node::elements)
        .filter_map(reference)
        .collect();
    if alarms.is_empty() {
        defects.push("no alarm rolls a new authorizer back".to_owned());
    }
    for alarm in alarms {
        let properties = stack.resources().get(alarm).get("Properties");
        let number = |name| {
            let text = stack.value(properties.get(name), name);
            text.ok()
                .and_then(|text| text.parse::<u64>().ok())
                .or(properties.get(name).0.as_u64())
        };
        let points = number("DatapointsToAlarm").or_else(|| number("EvaluationPeriods"));
        // The periods of an alarm do not begin with the canary, so that one more may pass.
        let latest = points
            .zip(number("Period"))
            .map(|(points, period)| (points + 1) * period);
        if latest.is_none_or(|latest| latest > seconds) {
            defects.push(format!("the canary may end before {alarm} rings"));
        }
    }
    defects
}

/// Returns the logical ids of the resources that exist before a resource.
fn awaited(resource: Node<'_>) -> Vec<&str> {
    let awaited = resource.get("DependsOn").elements();
    awaited.filter_map(|name| name.0.as_str()).collect()
}

/// Checks that no function exists before the policies of its role: it would lack permissions for a moment.
fn policies_first(stack: &Stack) -> Vec<String> {
    let mut defects = Vec::new();
    for (function, resource) in stack.of_type(FUNCTION) {
        let awaited = awaited(resource);
        match stack.policies(function) {
            Ok(policies) => {
                let early = policies
                    .iter()
                    .filter(|(policy, _)| !awaited.contains(policy));
                defects.extend(early.map(|(policy, _)| format!("{function} may precede {policy}")));
            }
            Err(error) => defects.push(error.to_string()),
        }
    }
    defects
}

/// Checks that the plans are seeded before a function that uses their table exists, and before a new version of
/// it replaces one that did not read plans.
fn plans_first(stack: &Stack) -> Vec<String> {
    let table = stack.value(
        stack.resources().at("BillingTable.Properties.TableName"),
        "a table",
    );
    let table = format!("table/{}", table.unwrap_or_default());
    let mut defects = Vec::new();
    for (function, resource) in stack.of_type(FUNCTION) {
        let policies = stack.policies(function).unwrap_or_default();
        let uses_plans = policies.iter().any(|(_, policy)| {
            let statements = policy.at("Properties.PolicyDocument.Statement").elements();
            let resources = statements.flat_map(|statement| statement.get("Resource").elements());
            let mut resources = resources.map(|resource| stack.value(resource, "a resource"));
            resources.any(|resource| resource.is_ok_and(|resource| resource == table))
        });
        let is_seed = function == "PlanSeedFunction";
        if uses_plans && !is_seed && !awaited(resource).contains(&"PlanSeed") {
            defects.push(format!("{function} may precede the plans"));
        }
    }
    defects
}

/// Checks that a parameter omits all resources of its functions, and nothing else.
fn optional(stack: &Stack) -> Vec<String> {
    let mut defects = Vec::new();
    for (parameter, functions) in OPTIONAL {
        let without = stack.clone().with_parameter(parameter, "false");
        let resources = without.resources().members();
        let wrong = resources.filter(|(id, resource)| {
            let is_omitted = functions.iter().any(|function| id.starts_with(function));
            stack.is_created(*resource) && without.is_created(*resource) == is_omitted
        });
        let wrong =
            wrong.map(|(id, _)| format!("the parameter {parameter} has the wrong effect on {id}"));
        defects.extend(wrong);
    }
    defects
}

/// Checks that there is no lake by default, and that with one only its own resources are new.
fn lake(stack: &Stack) -> Vec<String> {
    let with = stack.clone().with_parameter("Lake", "true");
    let resources = with.resources().members();
    let wrong = resources.filter(|(id, resource)| {
        let is_new = with.is_created(*resource) && !stack.is_created(*resource);
        is_new != id.starts_with("Lake")
    });
    let wrong = wrong.map(|(id, _)| format!("the parameter Lake has the wrong effect on {id}"));
    let mut defects: Vec<String> = wrong.collect();
    let pattern = |rule: &str| with.resources().get(rule).at("Properties.EventPattern");
    for other in ["LakeRule", "LakeArchive"] {
        if pattern(other).0 != pattern("UsageRule").0 {
            defects.push(format!("{other} does not have the pattern of UsageRule"));
        }
    }
    defects
}

/// Returns what a `!Ref` refers to.
fn reference(node: Node<'_>) -> Option<&str> {
    match node.0 {
        Value::Tagged(tagged) if tagged.tag == "!Ref" => tagged.value.as_str(),
        _ => None,
    }
}
