//! Parameters that Stripe's API has, from `parameters.json`, which `infra/stripe-fake/parameters.py` generates.

use std::collections::HashMap;
use std::sync::LazyLock;

use serde_json::Value;

use crate::error::ApiError;
use crate::form::{Param, Params};

/// The parameters of all operations. They are parsed once in a process.
pub(crate) static SPEC: LazyLock<Spec> = LazyLock::new(|| {
    let parsed = serde_json::from_str(include_str!("parameters.json"));
    Spec::from_json(&parsed.unwrap_or_default())
});

/// Parameters by operation, such as `POST /v1/customers`.
pub(crate) struct Spec {
    pub(crate) api_version: String,
    operations: HashMap<String, Fields>,
}

type Fields = HashMap<String, Field>;

struct Field {
    is_required: bool,
    node: Node,
}

/// Values that a parameter may have.
enum Node {
    Text,
    Integer,
    Boolean,
    Decimal,
    /// Any names with texts.
    Map,
    Values(Vec<String>),
    Object(Fields),
    List(Box<Node>),
    /// Any names, each with such a value.
    Each(Box<Node>),
    Any(Vec<Node>),
}

impl Spec {
    fn from_json(json: &Value) -> Self {
        let operations = json["operations"].as_object().into_iter().flatten();
        Self {
            api_version: json["api_version"].as_str().unwrap_or_default().to_owned(),
            operations: operations
                .map(|(operation, of)| (operation.clone(), fields(of)))
                .collect(),
        }
    }

    /// Returns the names of the operations.
    #[cfg(test)]
    pub(crate) fn operations(&self) -> impl Iterator<Item = &str> {
        self.operations.keys().map(String::as_str)
    }

    /// Returns whether an operation has a parameter, by its path with dots and without indices.
    #[cfg(test)]
    pub(crate) fn has(&self, operation: &str, path: &str) -> bool {
        fn below<'a>(node: &'a Node, name: &str) -> Option<&'a Node> {
            match node {
                Node::Object(fields) => fields.get(name).map(|field| &field.node),
                Node::List(of) | Node::Each(of) => below(of, name),
                Node::Any(nodes) => nodes.iter().find_map(|node| below(node, name)),
                _ => None,
            }
        }
        let mut names = path.split('.');
        let first = names
            .next()
            .and_then(|name| self.operations.get(operation)?.get(name));
        let found = first.map(|field| &field.node);
        names.fold(found, |node, name| below(node?, name)).is_some()
    }

    /// Checks names and types of an operation's parameters.
    ///
    /// # Errors
    /// When one is unknown, is missing or has a value of another type.
    pub(crate) fn check(&self, operation: &str, params: &Params) -> Result<(), ApiError> {
        match self.operations.get(operation) {
            Some(fields) => check_fields(fields, params, ""),
            None => Ok(()),
        }
    }
}

fn fields(json: &Value) -> Fields {
    let fields = json.as_object().into_iter().flatten();
    let fields = fields.map(|(name, of)| {
        let is_required = name.ends_with('!');
        let node = node(of);
        let name = name.trim_end_matches('!').to_owned();
        (name, Field { is_required, node })
    });
    fields.collect()
}

fn node(json: &Value) -> Node {
    match json {
        Value::String(kind) => match kind.as_str() {
            "integer" => Node::Integer,
            "boolean" => Node::Boolean,
            "decimal" => Node::Decimal,
            "map" => Node::Map,
            _ => Node::Text,
        },
        Value::Array(values) => {
            let values = values.iter().filter_map(Value::as_str);
            Node::Values(values.map(str::to_owned).collect())
        }
        json if json.get("object").is_some() => Node::Object(fields(&json["object"])),
        json if json.get("list").is_some() => Node::List(Box::new(node(&json["list"]))),
        json if json.get("each").is_some() => Node::Each(Box::new(node(&json["each"]))),
        json => {
            let nodes = json["any"].as_array().into_iter().flatten();
            Node::Any(nodes.map(node).collect())
        }
    }
}

fn check_fields(fields: &Fields, params: &Params, path: &str) -> Result<(), ApiError> {
    for (name, param) in params.iter() {
        let path = below(path, name);
        let Some(field) = fields.get(name) else {
            return Err(
                ApiError::invalid(format!("Received unknown parameter: {path}"))
                    .with_code("parameter_unknown")
                    .with_param(path),
            );
        };
        check(&field.node, param, &path)?;
    }
    let required = fields.iter().filter(|(_, field)| field.is_required);
    let mut missing: Vec<&String> = required
        .map(|(name, _)| name)
        .filter(|name| params.get(name).is_none())
        .collect();
    missing.sort_unstable();
    match missing.first() {
        Some(name) => Err(ApiError::parameter_missing(&below(path, name))),
        None => Ok(()),
    }
}

fn below(path: &str, name: &str) -> String {
    if path.is_empty() {
        name.to_owned()
    } else {
        format!("{path}[{name}]")
    }
}

fn check(node: &Node, param: &Param, path: &str) -> Result<(), ApiError> {
    match param {
        Param::Text(text) => check_text(node, text, path),
        Param::Nested(params) => check_nested(node, params, path),
    }
}

fn check_nested(node: &Node, params: &Params, path: &str) -> Result<(), ApiError> {
    match node {
        Node::Object(fields) => check_fields(fields, params, path),
        Node::Map => {
            for (name, param) in params.iter() {
                if let Param::Nested(_) = param {
                    let path = below(path, name);
                    return Err(
                        ApiError::invalid("Metadata values must be strings").with_param(path)
                    );
                }
            }
            Ok(())
        }
        Node::List(of) => {
            for (name, param) in params.iter() {
                if name.parse::<u32>().is_err() {
                    return Err(ApiError::invalid("Invalid array").with_param(path));
                }
                check(of, param, &below(path, name))?;
            }
            Ok(())
        }
        Node::Each(of) => {
            let mut params = params.iter();
            params.try_for_each(|(name, param)| check(of, param, &below(path, name)))
        }
        Node::Any(nodes) => {
            let is_nested = |node: &&Node| {
                matches!(
                    node,
                    Node::Object(_) | Node::Map | Node::List(_) | Node::Each(_)
                )
            };
            match nodes.iter().find(is_nested) {
                Some(node) => check_nested(node, params, path),
                None => Err(ApiError::invalid("Invalid string: {}").with_param(path)),
            }
        }
        Node::Integer => Err(ApiError::invalid("Invalid integer: {}")
            .with_code("parameter_invalid_integer")
            .with_param(path)),
        Node::Text | Node::Boolean | Node::Decimal | Node::Values(_) => {
            Err(ApiError::invalid("Invalid string: {}").with_param(path))
        }
    }
}

fn check_text(node: &Node, text: &str, path: &str) -> Result<(), ApiError> {
    let invalid = |message: String| Err(ApiError::invalid(message).with_param(path));
    match node {
        Node::Any(nodes) => {
            let mut errors = nodes.iter().map(|node| check_text(node, text, path));
            match errors.find_map(Result::ok) {
                Some(()) => Ok(()),
                None => {
                    let scalar = nodes.iter().find(|node| {
                        matches!(node, Node::Text | Node::Integer | Node::Boolean | Node::Decimal)
                    });
                    match scalar.or(nodes.first()) {
                        Some(node) => check_text(node, text, path),
                        None => Ok(()),
                    }
                }
            }
        }
        Node::Values(values) if values.iter().any(|value| value == text) => Ok(()),
        _ if text.is_empty() => Err(ApiError::invalid(format!(
            "You passed an empty string for '{path}'. We assume empty values are an attempt to unset a \
             parameter; however '{path}' cannot be unset. You should remove '{path}' from your request or \
             supply a non-empty value."
        ))
        .with_code("parameter_invalid_empty")
        .with_param(path)),
        Node::Text => Ok(()),
        Node::Integer if text.parse::<i64>().is_ok() => Ok(()),
        Node::Integer => Err(ApiError::invalid(format!("Invalid integer: {text}"))
            .with_code("parameter_invalid_integer")
            .with_param(path)),
        Node::Boolean if matches!(text, "true" | "false") => Ok(()),
        Node::Boolean => invalid(format!("Invalid boolean: {text}")),
        Node::Decimal if crate::money::Decimal::parse(text).is_some() => Ok(()),
        Node::Decimal => invalid(format!("Invalid decimal: {text}; must be a string with at most 12 decimal places")),
        Node::Values(values) => {
            let name = path.rsplit('[').next().unwrap_or(path).trim_end_matches(']');
            let last = values.len().saturating_sub(1);
            let values = match values.split_at(last) {
                ([], [value]) => value.clone(),
                (first, last) => format!("{}, or {}", first.join(", "), last.join("")),
            };
            invalid(format!("Invalid {name}: must be one of {values}"))
        }
        Node::Map | Node::Object(_) | Node::Each(_) => invalid("Invalid object".to_owned()),
        Node::List(_) => invalid("Invalid array".to_owned()),
    }
}
