//! What the local product reads from the template: the one that is deployed to AWS, so that the two
//! cannot drift apart.

use std::collections::BTreeMap;

use tollgate_local_aws::Rule;
use yaml_serde::Value;

/// The template, as of the build.
const TEMPLATE: &str = include_str!("../../../template.yaml");

/// The parts of the template that the local product plays.
#[derive(Debug)]
pub struct Template {
    /// The API's stage.
    pub stage: String,
    /// The API's routes.
    pub routes: Vec<Route>,
    /// The gateway's own answers, by API Gateway's names for them.
    pub responses: BTreeMap<String, GatewayResponse>,
    /// Which events the queue gets.
    pub rule: Rule,
    /// The authorizer's `TOLLGATE_UNCOUNTED_ROUTES`.
    pub uncounted_routes: String,
    /// Most messages in a batch for the usage-writer.
    pub batch_size: usize,
    /// The longest wait for a batch to fill, in seconds.
    pub batch_window_s: u64,
}

/// A route of the API.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Route {
    /// HTTP method in upper case.
    pub method: String,
    /// Path with parameters in braces.
    pub path: String,
    /// Logical id of the function behind it.
    pub function: String,
}

/// A gateway response.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct GatewayResponse {
    /// Replaces the response's own status.
    pub status: Option<u16>,
    /// Header fields: a literal in single quotes, or the name of a context variable.
    pub headers: BTreeMap<String, String>,
    /// The body, with `$context.…` to fill in.
    pub body: String,
}

/// The template lacks a part that the local product plays.
#[derive(Debug, thiserror::Error)]
pub enum InvalidTemplate {
    /// Not YAML.
    #[error("template.yaml is not YAML")]
    Yaml(#[from] yaml_serde::Error),
    /// A part is missing, or has another form.
    #[error("template.yaml lacks {0}, or has it in another form")]
    Lacks(String),
    /// The rule's pattern uses what the local bus does not know.
    #[error("template.yaml has an event pattern that the local bus cannot apply")]
    Pattern(#[from] tollgate_local_aws::InvalidPattern),
}

/// A place in the template; what is not there is null.
#[derive(Clone, Copy)]
struct Node<'a>(&'a Value);

impl<'a> Node<'a> {
    fn get(self, name: &str) -> Node<'a> {
        Node(self.0.get(name).unwrap_or(&Value::Null))
    }

    fn at(self, path: &str) -> Node<'a> {
        path.split('.').fold(self, Node::get)
    }

    /// The members of a mapping, by name.
    fn members(self) -> impl Iterator<Item = (&'a str, Node<'a>)> {
        let members = self.0.as_mapping().into_iter().flatten();
        members.filter_map(|(name, value)| Some((name.as_str()?, Node(value))))
    }

    fn text(self, what: &str) -> Result<String, InvalidTemplate> {
        let text = self.0.as_str().map(str::to_owned);
        text.ok_or_else(|| InvalidTemplate::Lacks(what.to_owned()))
    }

    fn number(self, what: &str) -> Result<u64, InvalidTemplate> {
        let number = self.0.as_u64();
        number.ok_or_else(|| InvalidTemplate::Lacks(what.to_owned()))
    }
}

impl Template {
    /// Reads the template that this program was built with.
    ///
    /// # Errors
    /// When a part is missing; a test sees to it that none is.
    pub fn built_in() -> Result<Self, InvalidTemplate> {
        Self::read(TEMPLATE)
    }

    fn read(yaml: &str) -> Result<Self, InvalidTemplate> {
        let root: Value = yaml_serde::from_str(yaml)?;
        let resources = Node(&root).get("Resources");
        let mut routes = Vec::new();
        for (function, resource) in resources.members() {
            for (event, node) in resource.at("Properties.Events").members() {
                if node.get("Type").0.as_str() == Some("Api") {
                    let what = |part: &str| format!("{part} of {function}'s event {event}");
                    let method = node.at("Properties.Method").text(&what("the method"))?;
                    routes.push(Route {
                        method: method.to_ascii_uppercase(),
                        path: node.at("Properties.Path").text(&what("the path"))?,
                        function: function.to_owned(),
                    });
                }
            }
        }
        if routes.is_empty() {
            return Err(InvalidTemplate::Lacks("routes".to_owned()));
        }
        let api = resources.at("Api.Properties");
        let responses = api.get("GatewayResponses").members().map(|(name, node)| {
            let headers = node.at("ResponseParameters.Headers").members();
            let headers = headers
                .map(|(header, value)| Ok((header.to_owned(), value.text(header)?)))
                .collect::<Result<_, InvalidTemplate>>()?;
            let status = node.get("StatusCode").0.as_u64();
            let response = GatewayResponse {
                status: status.and_then(|status| u16::try_from(status).ok()),
                headers,
                body: node.at("ResponseTemplates.application/json").text(name)?,
            };
            Ok((name.to_owned(), response))
        });
        let responses = responses.collect::<Result<_, InvalidTemplate>>()?;
        let pattern = resources.at("UsageRule.Properties.EventPattern").0;
        let pattern = serde_json::to_value(pattern)
            .map_err(|_| InvalidTemplate::Lacks("the rule's event pattern".to_owned()))?;
        let variables = resources.at("AuthorizerFunction.Properties.Environment.Variables");
        let source = resources.at("UsageWriterEventSource.Properties");
        let batch_size = source.get("BatchSize").number("the batch size")?;
        Ok(Self {
            stage: api.get("StageName").text("the stage's name")?,
            routes,
            responses,
            rule: Rule::new(pattern)?,
            uncounted_routes: variables
                .get("TOLLGATE_UNCOUNTED_ROUTES")
                .text("TOLLGATE_UNCOUNTED_ROUTES")?,
            batch_size: usize::try_from(batch_size).unwrap_or(usize::MAX),
            batch_window_s: source
                .get("MaximumBatchingWindowInSeconds")
                .number("the batching window")?,
        })
    }
}

#[cfg(test)]
mod tests {
    use tollgate_store::schema::{Projection, TABLES};

    use super::*;

    fn resources() -> Value {
        let root: Value = yaml_serde::from_str(TEMPLATE).unwrap();
        root["Resources"].clone()
    }

    #[test]
    fn the_template_has_the_parts_that_the_local_product_plays() {
        let template = Template::built_in().unwrap();
        assert_eq!(template.stage, "v1");
        assert_eq!((template.batch_size, template.batch_window_s), (100, 5));
        let denied = &template.responses["ACCESS_DENIED"];
        assert_eq!(denied.status, Some(429));
        assert_eq!(
            denied.headers["Retry-After"],
            "context.authorizer.retryAfter"
        );
    }

    #[test]
    fn a_message_dies_after_as_many_deliveries_here_as_there() {
        let resources = resources();
        let policy = Node(&resources).at("UsageQueue.Properties.RedrivePolicy");
        let max = policy
            .get("maxReceiveCount")
            .number("maxReceiveCount")
            .unwrap();
        assert_eq!(max, u64::from(tollgate_local_aws::MAX_RECEIVES));
    }

    /// Every table of the schema stands in the template with the same keys, indexes and TTL, and
    /// the template has no other.
    #[test]
    fn the_templates_tables_are_the_schemas() {
        let resources = resources();
        let tables: Vec<Node<'_>> = Node(&resources)
            .members()
            .map(|(_, resource)| resource)
            .filter(|resource| resource.get("Type").0.as_str() == Some("AWS::DynamoDB::Table"))
            .map(|resource| resource.get("Properties"))
            .collect();
        assert_eq!(tables.len(), TABLES.len());
        for table in TABLES {
            let name = format!("${{AWS::StackName}}-{}", table.name);
            let found = tables.iter().find(|node| {
                matches!(node.get("TableName").0, Value::Tagged(sub) if sub.value == name.as_str())
            });
            let found = found.unwrap_or_else(|| panic!("template.yaml has no table {name}"));
            let mut attributes = vec![table.hash];
            attributes.extend(table.range);
            assert_eq!(
                found.get("KeySchema").0,
                &key_schema(table.hash, table.range),
                "{name}"
            );
            let ttl = found.at("TimeToLiveSpecification.AttributeName").0.as_str();
            assert_eq!(ttl, table.ttl, "{name}");
            assert_eq!(found.get("BillingMode").0.as_str(), Some("PAY_PER_REQUEST"));
            let indexes = found.get("GlobalSecondaryIndexes").0.as_sequence();
            let indexes = indexes.map(Vec::as_slice).unwrap_or_default();
            assert_eq!(indexes.len(), table.indexes.len(), "{name}");
            for (index, node) in table.indexes.iter().zip(indexes) {
                let node = Node(node);
                assert_eq!(node.get("IndexName").0.as_str(), Some(index.name));
                let schema = key_schema(index.hash, Some(index.range));
                assert_eq!(node.get("KeySchema").0, &schema, "{name}");
                let projection = match index.projection {
                    Projection::All => "ALL",
                    Projection::KeysOnly => "KEYS_ONLY",
                };
                let found = node.at("Projection.ProjectionType").0.as_str();
                assert_eq!(found, Some(projection), "{name}");
                attributes.extend([index.hash, index.range]);
            }
            attributes.sort_unstable();
            attributes.dedup();
            let mut defined: Vec<(&str, &str)> = found
                .get("AttributeDefinitions")
                .0
                .as_sequence()
                .into_iter()
                .flatten()
                .map(|node| {
                    let text = |name| node.get(name).and_then(Value::as_str).unwrap_or_default();
                    (text("AttributeName"), text("AttributeType"))
                })
                .collect();
            defined.sort_unstable();
            let expected: Vec<(&str, &str)> =
                attributes.into_iter().map(|name| (name, "S")).collect();
            assert_eq!(defined, expected, "{name}");
        }
    }

    fn key_schema(hash: &str, range: Option<&str>) -> Value {
        let mut yaml = format!("[{{AttributeName: {hash}, KeyType: HASH}}");
        if let Some(range) = range {
            yaml.push_str(&format!(", {{AttributeName: {range}, KeyType: RANGE}}"));
        }
        yaml_serde::from_str(&(yaml + "]")).unwrap()
    }
}
