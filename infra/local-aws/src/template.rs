//! Reader of the parts of template.yaml that the local services follow.

mod for_each;

use std::collections::BTreeMap;

use yaml_serde::Value;
use yaml_serde::value::Tag;

use crate::role::{Condition, Grant, Role};

/// Text of the template at build time.
pub const TEMPLATE: &str = include_str!("../../../template.yaml");

/// Error for a template in which a required part is missing or has an unsupported form.
#[derive(Debug, thiserror::Error)]
pub enum InvalidTemplate {
    /// The text is not YAML.
    #[error("template.yaml is not YAML")]
    Yaml(#[from] yaml_serde::Error),
    /// A part, given by its description, is missing or has an unsupported form.
    #[error("template.yaml lacks {0}, or has it in an unsupported form")]
    Missing(String),
    /// A loop has an unsupported form, given by its description.
    #[error("template.yaml has a loop that is not supported: {0}")]
    Loop(String),
    /// The rule's pattern uses operators that the local bus does not support.
    #[error("template.yaml has an event pattern that the local bus does not support")]
    Pattern(#[from] crate::InvalidPattern),
}

/// The template with a stack name and parameter values.
#[derive(Debug, Clone)]
pub struct Stack {
    root: Value,
    name: String,
    parameters: BTreeMap<String, String>,
}

/// A node of the template; null if it does not exist.
#[derive(Debug, Clone, Copy)]
pub struct Node<'a>(pub &'a Value);

impl<'a> Node<'a> {
    /// Returns the member `name`.
    #[must_use]
    pub fn get(self, name: &str) -> Node<'a> {
        Node(self.0.get(name).unwrap_or(&Value::Null))
    }

    /// Returns the member at a path such as `Properties.Events`.
    #[must_use]
    pub fn at(self, path: &str) -> Node<'a> {
        path.split('.').fold(self, Node::get)
    }

    /// Returns the members of a mapping with their names.
    pub fn members(self) -> impl Iterator<Item = (&'a str, Node<'a>)> {
        let members = self.0.as_mapping().into_iter().flatten();
        members.filter_map(|(name, value)| Some((name.as_str()?, Node(value))))
    }

    /// Returns the elements of a list; another value is treated as a list of one.
    pub fn elements(self) -> impl Iterator<Item = Node<'a>> {
        let list = self.0.as_sequence();
        let single = (list.is_none() && !self.0.is_null()).then_some(self);
        list.into_iter().flatten().map(Node).chain(single)
    }

    /// Returns the node as a string.
    ///
    /// # Errors
    /// When it is not a string; `what` describes the node in the error.
    pub fn text(self, what: &str) -> Result<String, InvalidTemplate> {
        let text = self.0.as_str().map(str::to_owned);
        text.ok_or_else(|| InvalidTemplate::Missing(what.to_owned()))
    }

    /// Returns the node as a whole number.
    ///
    /// # Errors
    /// When it is not a whole number; `what` describes the node in the error.
    pub fn number(self, what: &str) -> Result<u64, InvalidTemplate> {
        let number = self.0.as_u64();
        number.ok_or_else(|| InvalidTemplate::Missing(what.to_owned()))
    }
}

impl Stack {
    /// Parses the template that this program was built with, as the stack `name`.
    ///
    /// # Errors
    /// When it is not YAML or has an unsupported loop, which a test rules out.
    pub fn built_in(name: &str) -> Result<Self, InvalidTemplate> {
        Self::parse(TEMPLATE, name)
    }

    /// Parses a template and expands its loops, as the stack `name`.
    ///
    /// # Errors
    /// When it is not YAML, or a loop is not supported.
    pub fn parse(template: &str, name: &str) -> Result<Self, InvalidTemplate> {
        Ok(Self {
            root: for_each::expand(yaml_serde::from_str(template)?)?,
            name: name.to_owned(),
            parameters: BTreeMap::new(),
        })
    }

    /// Sets a parameter in place of its default.
    #[must_use]
    pub fn with_parameter(mut self, name: &str, value: &str) -> Self {
        self.parameters.insert(name.to_owned(), value.to_owned());
        self
    }

    /// Returns the stack's name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Returns the root node of the template.
    #[must_use]
    pub fn root(&self) -> Node<'_> {
        Node(&self.root)
    }

    /// Returns the mapping of resources by logical id.
    #[must_use]
    pub fn resources(&self) -> Node<'_> {
        self.root().get("Resources")
    }

    /// Returns the resources of a type with their logical ids, except those whose condition does not hold.
    pub fn of_type(&self, kind: &str) -> impl Iterator<Item = (&str, Node<'_>)> {
        let resources = self.resources().members();
        resources.filter(move |(_, node)| {
            node.get("Type").0.as_str() == Some(kind) && self.is_created(*node)
        })
    }

    /// Returns whether a resource has no condition, or one that holds.
    #[must_use]
    pub fn is_created(&self, resource: Node<'_>) -> bool {
        let condition = resource.get("Condition").0.as_str();
        condition.is_none_or(|name| self.condition(name) == Some(true))
    }

    /// Returns the environment variables that the template sets for the function with that logical id.
    /// In AWS, Lambda sets further ones, such as the function's name.
    ///
    /// # Errors
    /// When there is no such function, or a variable's value cannot be resolved.
    pub fn variables(&self, function: &str) -> Result<BTreeMap<String, String>, InvalidTemplate> {
        let function = self.function(function)?;
        let globals = self.root().at("Globals.Function");
        let mut variables = BTreeMap::new();
        for node in [globals, function] {
            for (name, value) in node.at("Environment.Variables").members() {
                variables.insert(name.to_owned(), self.value(value, name)?);
            }
        }
        Ok(variables)
    }

    /// Returns the policies that are resources of their own and are attached to the role of the function with
    /// that logical id, with their logical ids.
    ///
    /// # Errors
    /// When the function has no role.
    pub fn policies(&self, function: &str) -> Result<Vec<(&str, Node<'_>)>, InvalidTemplate> {
        let role = self.role_id(function)?;
        let is_attached = |policy: Node<'_>| {
            let roles = policy.at("Properties.Roles");
            roles
                .elements()
                .filter_map(tagged)
                .any(|(tag, id)| *tag == "Ref" && id == role)
        };
        let policies = self.of_type("AWS::IAM::Policy");
        Ok(policies
            .filter(|(_, policy)| is_attached(*policy))
            .collect())
    }

    /// Returns the IAM role of the function with that logical id, with the policies attached to it.
    ///
    /// # Errors
    /// When it has none, or its policies are not supported.
    pub fn role(&self, function: &str) -> Result<Role, InvalidTemplate> {
        let missing = || InvalidTemplate::Missing(format!("the role of {function}"));
        let role = self.resources().get(self.role_id(function)?);
        let own = role.at("Properties.Policies").elements();
        let attached = self.policies(function)?.into_iter();
        let attached = attached.map(|(_, policy)| policy.get("Properties"));
        let mut granted = Vec::new();
        for policy in own.chain(attached) {
            for statement in policy.at("PolicyDocument.Statement").elements() {
                if statement.get("Effect").0.as_str() != Some("Allow") {
                    return Err(missing());
                }
                for action in statement.get("Action").elements() {
                    let action = action.text("an action")?;
                    for resource in statement.get("Resource").elements() {
                        granted.push(Grant {
                            action: action.clone(),
                            resource: self.value(resource, "a resource")?,
                            conditions: self.conditions(statement, &action)?,
                        });
                    }
                }
            }
        }
        Ok(Role::new(function, granted))
    }

    /// Returns the logical id of the role of the function with that logical id.
    fn role_id(&self, function: &str) -> Result<&str, InvalidTemplate> {
        let missing = || InvalidTemplate::Missing(format!("the role of {function}"));
        let (tag, role) = tagged(self.function(function)?.get("Role")).ok_or_else(missing)?;
        let id = role.strip_suffix(".Arn").filter(|_| *tag == "GetAtt");
        id.ok_or_else(missing)
    }

    /// Returns a policy statement's conditions for an action.
    fn conditions(
        &self,
        statement: Node<'_>,
        action: &str,
    ) -> Result<Vec<Condition>, InvalidTemplate> {
        let mut conditions = Vec::new();
        for (operator, keys) in statement.get("Condition").members() {
            for (key, values) in keys.members() {
                let missing =
                    || InvalidTemplate::Missing(format!("{operator} of {key} for {action}"));
                let values = values.elements().map(|value| self.value(value, key));
                let values = values.collect::<Result<_, _>>()?;
                let condition = Condition::new(action, operator, key, values);
                conditions.push(condition.ok_or_else(missing)?);
            }
        }
        Ok(conditions)
    }

    /// Returns the name of the function with that logical id; the logical id itself if the template leaves
    /// the name to CloudFormation.
    ///
    /// # Errors
    /// When there is no such function, or its name cannot be resolved.
    pub fn function_name(&self, logical_id: &str) -> Result<String, InvalidTemplate> {
        let name = self.function(logical_id)?.get("FunctionName");
        if name.0.is_null() {
            return Ok(logical_id.to_owned());
        }
        self.value(name, "the name of a function")
    }

    fn function(&self, logical_id: &str) -> Result<Node<'_>, InvalidTemplate> {
        let node = self.resources().get(logical_id);
        match node.get("Type").0.as_str() {
            Some("AWS::Serverless::Function") => Ok(node.get("Properties")),
            _ => Err(InvalidTemplate::Missing(format!("a function {logical_id}"))),
        }
    }

    /// Resolves a string, a `!Ref`, a `!GetAtt`, a `!Sub`, a `!FindInMap` or a `!Join` of a `!Split`.
    ///
    /// # Errors
    /// When the node is none of them; `what` describes it in the error.
    pub fn value(&self, node: Node<'_>, what: &str) -> Result<String, InvalidTemplate> {
        let missing = || InvalidTemplate::Missing(format!("a value for {what}"));
        if let Some(("!FindInMap", path)) = tagged_list(node) {
            let found = path
                .iter()
                .try_fold(self.root().get("Mappings"), |node, name| {
                    Some(node.get(name.as_str()?))
                });
            return found.ok_or_else(missing)?.text(what);
        }
        match tagged_list(node) {
            Some(("!Sub", [text, variables])) => {
                let text = text.as_str().ok_or_else(missing)?;
                let mut text = text.to_owned();
                for (name, value) in Node(variables).members() {
                    text = text.replace(&format!("${{{name}}}"), &self.value(value, what)?);
                }
                return self.substitute(&text).ok_or_else(missing);
            }
            Some(("!Join", [separator, list])) => {
                let separator = separator.as_str().ok_or_else(missing)?;
                let Some(("!Split", [delimiter, text])) = tagged_list(Node(list)) else {
                    return Err(missing());
                };
                let delimiter = delimiter.as_str().ok_or_else(missing)?;
                return Ok(self.value(Node(text), what)?.replace(delimiter, separator));
            }
            _ => {}
        }
        let Some((tag, text)) = tagged(node) else {
            return node.text(what);
        };
        let value = match tag.to_string().as_str() {
            "!Ref" => self.reference(text),
            "!GetAtt" => self.attribute(text),
            "!Sub" => self.substitute(text),
            _ => None,
        };
        value.ok_or_else(missing)
    }

    /// Resolves a whole number, or a `!Ref` to a parameter that is one.
    ///
    /// # Errors
    /// When the node is neither; `what` describes it in the error.
    pub fn number(&self, node: Node<'_>, what: &str) -> Result<u64, InvalidTemplate> {
        node.number(what).or_else(|missing| {
            let text = self.value(node, what)?;
            text.parse().map_err(|_| missing)
        })
    }

    /// Resolves a property that an `!If` may omit with `AWS::NoValue`.
    ///
    /// # Errors
    /// When it cannot be resolved; `what` describes it in the error.
    pub fn optional(&self, node: Node<'_>, what: &str) -> Result<Option<String>, InvalidTemplate> {
        let chosen = self.chosen(node, what)?;
        chosen.map(|node| self.value(node, what)).transpose()
    }

    /// Returns the branch that an `!If` selects, or the node itself if it is none. `None` for `AWS::NoValue`.
    ///
    /// # Errors
    /// When the condition cannot be evaluated; `what` describes the node in the error.
    pub fn chosen<'a>(
        &self,
        node: Node<'a>,
        what: &str,
    ) -> Result<Option<Node<'a>>, InvalidTemplate> {
        let Some(("!If", [condition, then, or])) = tagged_list(node) else {
            let is_omitted = tagged(node).is_some_and(|(_, text)| text == "AWS::NoValue");
            return Ok((!is_omitted).then_some(node));
        };
        let holds = condition.as_str().and_then(|name| self.condition(name));
        let missing = || InvalidTemplate::Missing(format!("a condition for {what}"));
        let chosen = if holds.ok_or_else(missing)? { then } else { or };
        self.chosen(Node(chosen), what)
    }

    /// Evaluates the condition with that name. `None` if there is none, or it cannot be resolved.
    fn condition(&self, name: &str) -> Option<bool> {
        self.holds(self.root().get("Conditions").get(name))
    }

    /// Evaluates a condition: a `!Not` or an `!Equals`. `None` if it cannot be resolved.
    fn holds(&self, condition: Node<'_>) -> Option<bool> {
        match tagged_list(condition)? {
            ("!Not", [condition]) => self.holds(Node(condition)).map(|holds| !holds),
            ("!Equals", [one, other]) => {
                let value = |node| self.value(Node(node), "a condition").ok();
                Some(value(one)? == value(other)?)
            }
            _ => None,
        }
    }

    fn substitute(&self, text: &str) -> Option<String> {
        let mut parts = text.split("${");
        let mut value = parts.next()?.to_owned();
        for part in parts {
            let (name, rest) = part.split_once('}')?;
            value.push_str(&self.reference(name).or_else(|| self.attribute(name))?);
            value.push_str(rest);
        }
        Some(value)
    }

    /// Resolves a `!Ref` of a pseudo parameter, a parameter or a resource that has a name.
    fn reference(&self, name: &str) -> Option<String> {
        match name {
            "AWS::StackName" => return Some(self.name.clone()),
            "AWS::Partition" => return Some("aws".to_owned()),
            "AWS::Region" => return Some("us-east-1".to_owned()),
            "AWS::AccountId" => return Some("000000000000".to_owned()),
            _ => {}
        }
        if let Some(value) = self.parameters.get(name) {
            return Some(value.clone());
        }
        let default = self.root().at("Parameters").get(name).get("Default");
        if let Some(text) = default.0.as_str() {
            return Some(text.to_owned());
        }
        if let Some(number) = default.0.as_u64() {
            return Some(number.to_string());
        }
        let (_, name) = self.service_and_name(name)?;
        Some(name)
    }

    /// Resolves a `!GetAtt` of an ARN to the ARN's last part, which is unique within a stack.
    fn attribute(&self, name: &str) -> Option<String> {
        let (service, name) = self.service_and_name(name.strip_suffix(".Arn")?)?;
        Some(format!("{service}/{name}"))
    }

    /// Returns a resource's type as in its ARN, and its name.
    fn service_and_name(&self, logical_id: &str) -> Option<(&'static str, String)> {
        let node = self.resources().get(logical_id);
        let (service, property) = match node.get("Type").0.as_str()? {
            "AWS::DynamoDB::Table" => ("table", "TableName"),
            "AWS::Events::EventBus" => ("event-bus", "Name"),
            "AWS::Logs::LogGroup" => ("log-group", "LogGroupName"),
            "AWS::SQS::Queue" => return Some(("queue", logical_id.to_owned())),
            _ => return None,
        };
        let name = self.value(node.get("Properties").get(property), property);
        Some((service, name.ok()?))
    }
}

/// Returns the name and the list of an intrinsic function in its short form with a list.
fn tagged_list(node: Node<'_>) -> Option<(&'static str, &[Value])> {
    const NAMES: [&str; 7] = [
        "!Equals",
        "!FindInMap",
        "!If",
        "!Join",
        "!Not",
        "!Split",
        "!Sub",
    ];
    let Value::Tagged(tagged) = node.0 else {
        return None;
    };
    let name = NAMES.into_iter().find(|name| tagged.tag == *name)?;
    Some((name, tagged.value.as_sequence()?))
}

/// Returns the tag and the string of an intrinsic function in its short form with a string.
fn tagged(node: Node<'_>) -> Option<(&Tag, &str)> {
    match node.0 {
        Value::Tagged(tagged) => Some((&tagged.tag, tagged.value.as_str()?)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const STACK: &str = "
Parameters: { Switch: { Default: closed } }
Conditions: { Open: !Equals [!Ref Switch, open] }
Resources:
  Function: { Type: AWS::Serverless::Function, Properties: { Role: !GetAtt Role.Arn } }
  Role:
    Type: AWS::IAM::Role
    Properties:
      Policies:
        - PolicyDocument: { Statement: { Effect: Allow, Action: dynamodb:GetItem, Resource: t } }
  Attached:
    Type: AWS::IAM::Policy
    Properties:
      Roles: [!Ref Role]
      PolicyDocument: { Statement: { Effect: Allow, Action: dynamodb:PutItem, Resource: t } }
  AttachedIfOpen:
    Type: AWS::IAM::Policy
    Condition: Open
    Properties:
      Roles: [!Ref Role]
      PolicyDocument: { Statement: { Effect: Allow, Action: dynamodb:Query, Resource: t } }
  OfAnother:
    Type: AWS::IAM::Policy
    Properties:
      Roles: [!Ref OtherRole]
      PolicyDocument: { Statement: { Effect: Allow, Action: dynamodb:DeleteItem, Resource: t } }
";

    #[test]
    fn a_role_has_its_own_policies_and_those_attached_to_it() {
        let stack = Stack::parse(STACK, "test").unwrap();
        let check = |stack: &Stack, expected: &[&str]| {
            let granted = stack.role("Function").unwrap().unused();
            let granted: Vec<_> = granted.iter().map(|one| one.action.as_str()).collect();
            assert_eq!(granted, expected);
        };
        check(&stack, &["dynamodb:GetItem", "dynamodb:PutItem"]);
        let open = stack.with_parameter("Switch", "open");
        check(
            &open,
            &["dynamodb:GetItem", "dynamodb:PutItem", "dynamodb:Query"],
        );
    }

    #[test]
    fn a_statement_that_does_not_allow_is_rejected() {
        let denies = STACK.replace(
            "Allow, Action: dynamodb:PutItem",
            "Deny, Action: dynamodb:PutItem",
        );
        let stack = Stack::parse(&denies, "test").unwrap();
        assert!(stack.role("Function").is_err());
    }

    #[test]
    fn an_if_selects_a_branch_or_omits_the_property() {
        let stack = Stack::parse(STACK, "test").unwrap();
        let open = stack.clone().with_parameter("Switch", "open");
        let value = |yaml: &str| yaml_serde::from_str::<Value>(yaml).unwrap();
        let either = value("!If [Open, a, !Ref AWS::NoValue]");
        let chosen = |stack: &Stack| stack.optional(Node(&either), "a property").unwrap();
        assert_eq!(chosen(&stack), None);
        assert_eq!(chosen(&open).as_deref(), Some("a"));
        let unknown = value("!If [Unknown, a, b]");
        let error = stack.optional(Node(&unknown), "a property").unwrap_err();
        assert!(
            error.to_string().contains("a condition for a property"),
            "{error}"
        );
    }
}
