//! template.yaml, as far as what runs on one machine is to be as it says.

use std::collections::BTreeMap;

use yaml_serde::Value;
use yaml_serde::value::Tag;

use crate::role::{Condition, Grant, Role};

/// The template, as of the build.
pub const TEMPLATE: &str = include_str!("../../../template.yaml");

/// A part that is needed is missing from the template, or has another form.
#[derive(Debug, thiserror::Error)]
pub enum InvalidTemplate {
    /// Not YAML.
    #[error("template.yaml is not YAML")]
    Yaml(#[from] yaml_serde::Error),
    /// A part.
    #[error("template.yaml lacks {0}, or has it in another form")]
    Lacks(String),
    /// The rule's pattern uses what the local bus does not know.
    #[error("template.yaml has an event pattern that the local bus cannot apply")]
    Pattern(#[from] crate::InvalidPattern),
}

/// The template, deployed as a stack of some name.
#[derive(Debug, Clone)]
pub struct Stack {
    root: Value,
    name: String,
    parameters: BTreeMap<String, String>,
}

/// A place in the template; what is not there is null.
#[derive(Debug, Clone, Copy)]
pub struct Node<'a>(pub &'a Value);

impl<'a> Node<'a> {
    /// The member of that name.
    #[must_use]
    pub fn get(self, name: &str) -> Node<'a> {
        Node(self.0.get(name).unwrap_or(&Value::Null))
    }

    /// The member at the end of a path such as `Properties.Events`.
    #[must_use]
    pub fn at(self, path: &str) -> Node<'a> {
        path.split('.').fold(self, Node::get)
    }

    /// The members of a mapping, by name.
    pub fn members(self) -> impl Iterator<Item = (&'a str, Node<'a>)> {
        let members = self.0.as_mapping().into_iter().flatten();
        members.filter_map(|(name, value)| Some((name.as_str()?, Node(value))))
    }

    /// The elements of a list; one that stands for itself is a list of one.
    pub fn elements(self) -> impl Iterator<Item = Node<'a>> {
        let list = self.0.as_sequence();
        let single = (list.is_none() && !self.0.is_null()).then_some(self);
        list.into_iter().flatten().map(Node).chain(single)
    }

    /// A text.
    ///
    /// # Errors
    /// When it is none; `what` names it.
    pub fn text(self, what: &str) -> Result<String, InvalidTemplate> {
        let text = self.0.as_str().map(str::to_owned);
        text.ok_or_else(|| InvalidTemplate::Lacks(what.to_owned()))
    }

    /// A whole number.
    ///
    /// # Errors
    /// When it is none; `what` names it.
    pub fn number(self, what: &str) -> Result<u64, InvalidTemplate> {
        let number = self.0.as_u64();
        number.ok_or_else(|| InvalidTemplate::Lacks(what.to_owned()))
    }
}

impl Stack {
    /// The stack `name`, of the template that this program was built with.
    ///
    /// # Errors
    /// When it is no YAML; a test sees to it that it is.
    pub fn built_in(name: &str) -> Result<Self, InvalidTemplate> {
        Self::of(TEMPLATE, name)
    }

    /// The stack `name` of a template.
    ///
    /// # Errors
    /// When it is no YAML.
    pub fn of(template: &str, name: &str) -> Result<Self, InvalidTemplate> {
        Ok(Self {
            root: yaml_serde::from_str(template)?,
            name: name.to_owned(),
            parameters: BTreeMap::new(),
        })
    }

    /// The same stack with another value of a parameter than its default.
    #[must_use]
    pub fn with_parameter(mut self, name: &str, value: &str) -> Self {
        self.parameters.insert(name.to_owned(), value.to_owned());
        self
    }

    /// The stack's name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The whole template.
    #[must_use]
    pub fn root(&self) -> Node<'_> {
        Node(&self.root)
    }

    /// The resources, by logical id.
    #[must_use]
    pub fn resources(&self) -> Node<'_> {
        self.root().get("Resources")
    }

    /// The resources of a type, by logical id.
    pub fn of_type(&self, kind: &str) -> impl Iterator<Item = (&str, Node<'_>)> {
        let resources = self.resources().members();
        resources.filter(move |(_, node)| node.get("Type").0.as_str() == Some(kind))
    }

    /// The variables that the template sets for the function of that logical id. Lambda sets its
    /// name besides.
    ///
    /// # Errors
    /// When there is no such function, or a variable's value cannot be worked out.
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

    /// The role of the function of that logical id.
    ///
    /// # Errors
    /// When it has none, or one whose policies cannot be read.
    pub fn role(&self, function: &str) -> Result<Role, InvalidTemplate> {
        let lacks = || InvalidTemplate::Lacks(format!("the role of {function}"));
        let (tag, role) = tagged(self.function(function)?.get("Role")).ok_or_else(lacks)?;
        let id = role.strip_suffix(".Arn").filter(|_| *tag == "GetAtt");
        let role = self.resources().get(id.ok_or_else(lacks)?);
        let mut granted = Vec::new();
        for policy in role.at("Properties.Policies").elements() {
            for statement in policy.at("PolicyDocument.Statement").elements() {
                if statement.get("Effect").0.as_str() != Some("Allow") {
                    return Err(lacks());
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

    /// What a statement says of an action besides.
    fn conditions(
        &self,
        statement: Node<'_>,
        action: &str,
    ) -> Result<Vec<Condition>, InvalidTemplate> {
        let mut conditions = Vec::new();
        for (operator, keys) in statement.get("Condition").members() {
            for (key, values) in keys.members() {
                let lacks = || InvalidTemplate::Lacks(format!("{operator} of {key} for {action}"));
                let values = values.elements().map(|value| self.value(value, key));
                let values = values.collect::<Result<_, _>>()?;
                let condition = Condition::new(action, operator, key, values);
                conditions.push(condition.ok_or_else(lacks)?);
            }
        }
        Ok(conditions)
    }

    /// The name of the function of that logical id, or what CloudFormation makes one of.
    ///
    /// # Errors
    /// When there is no such function, or its name cannot be worked out.
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
            _ => Err(InvalidTemplate::Lacks(format!("a function {logical_id}"))),
        }
    }

    /// The value of a text, a `!Ref`, a `!GetAtt`, a `!Sub` or a `!FindInMap`.
    ///
    /// # Errors
    /// When it is none; `what` names it.
    pub fn value(&self, node: Node<'_>, what: &str) -> Result<String, InvalidTemplate> {
        let lacks = || InvalidTemplate::Lacks(format!("a value for {what}"));
        if let Some(("!FindInMap", path)) = tagged_list(node) {
            let found = path
                .iter()
                .try_fold(self.root().get("Mappings"), |node, name| {
                    Some(node.get(name.as_str()?))
                });
            return found.ok_or_else(lacks)?.text(what);
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
        value.ok_or_else(lacks)
    }

    /// The value of a property that an `!If` may leave out.
    ///
    /// # Errors
    /// When it can be neither worked out nor left out; `what` names it.
    pub fn optional(&self, node: Node<'_>, what: &str) -> Result<Option<String>, InvalidTemplate> {
        let Some(("!If", [condition, then, or])) = tagged_list(node) else {
            return match tagged(node) {
                Some((_, "AWS::NoValue")) => Ok(None),
                _ => self.value(node, what).map(Some),
            };
        };
        let lacks = || InvalidTemplate::Lacks(format!("a condition for {what}"));
        let name = condition.as_str().ok_or_else(lacks)?;
        let condition = self.root().get("Conditions").get(name);
        let chosen = if self.holds(condition).ok_or_else(lacks)? {
            then
        } else {
            or
        };
        self.optional(Node(chosen), what)
    }

    /// Whether a condition holds: a `!Not` or an `!Equals`.
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

    /// What `!Ref` makes of a pseudo parameter, a parameter or a resource that has a name.
    fn reference(&self, name: &str) -> Option<String> {
        if name == "AWS::StackName" {
            return Some(self.name.clone());
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

    /// What `!GetAtt` makes of an ARN: its last part, which tells resources apart within a stack.
    fn attribute(&self, name: &str) -> Option<String> {
        let (service, name) = self.service_and_name(name.strip_suffix(".Arn")?)?;
        Some(format!("{service}/{name}"))
    }

    /// The kind of a resource as its ARN has it, and its name.
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

/// The short form of an intrinsic function with a list: its name and the list.
fn tagged_list(node: Node<'_>) -> Option<(&'static str, &[Value])> {
    const NAMES: [&str; 4] = ["!Equals", "!FindInMap", "!If", "!Not"];
    let Value::Tagged(tagged) = node.0 else {
        return None;
    };
    let name = NAMES.into_iter().find(|name| tagged.tag == *name)?;
    Some((name, tagged.value.as_sequence()?))
}

/// The short form of an intrinsic function with a text: its name and the text.
fn tagged(node: Node<'_>) -> Option<(&Tag, &str)> {
    match node.0 {
        Value::Tagged(tagged) => Some((&tagged.tag, tagged.value.as_str()?)),
        _ => None,
    }
}
