//! Events of the gateway: an event file with the changes that a test needs.

#![allow(clippy::unwrap_used, reason = "a test without an event has failed")]
#![allow(dead_code, reason = "each test binary uses a part of this")]

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use lambda_http::Request;
use serde_json::{Map, Value, json};

/// Returns the workspace's directory. All crates with these tests are two directories below it.
fn workspace() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

/// Event of a REST API's proxy integration.
#[derive(Debug, Clone)]
pub(crate) struct Event(pub(crate) Value);

impl Event {
    /// Loads `events/<name>.json`.
    pub(crate) fn load(name: &str) -> Self {
        let path = workspace().join(format!("events/{name}.json"));
        let text = std::fs::read_to_string(&path);
        let text = text.unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        Self(serde_json::from_str(&text).unwrap())
    }

    /// Returns the names, without the extension, of the files in `events/<function>`.
    pub(crate) fn names(function: &str) -> BTreeSet<String> {
        let files = std::fs::read_dir(workspace().join("events").join(function)).unwrap();
        let stem = |file: PathBuf| file.file_stem().unwrap().to_str().unwrap().to_owned();
        files.map(|file| stem(file.unwrap().path())).collect()
    }

    pub(crate) fn body(self, body: &Value) -> Self {
        self.text(&body.to_string())
    }

    /// Sets the body to any text.
    pub(crate) fn text(mut self, body: &str) -> Self {
        self.0["body"] = body.into();
        self
    }

    /// Sets a base64 body, as the gateway sends binary ones.
    pub(crate) fn base64(mut self, body: &str) -> Self {
        self.0["body"] = body.into();
        self.0["isBase64Encoded"] = true.into();
        self
    }

    /// Sets the member of the JSON body at this dotted path.
    pub(crate) fn member(self, path: &str, value: Value) -> Self {
        let mut body: Value = serde_json::from_str(self.0["body"].as_str().unwrap()).unwrap();
        let member = body.pointer_mut(&format!("/{}", path.replace('.', "/")));
        *member.unwrap_or_else(|| panic!("the body has no {path}")) = value;
        self.body(&body)
    }

    /// Sets a path parameter, and the path accordingly.
    pub(crate) fn param(mut self, name: &str, value: &str) -> Self {
        self.0["pathParameters"][name] = value.into();
        let resource = self.0["resource"].as_str().unwrap();
        let path = resource.replace(&format!("{{{name}}}"), value);
        self.path(&path)
    }

    /// Sets the path within the stage.
    pub(crate) fn path(mut self, path: &str) -> Self {
        self.0["path"] = path.into();
        let stage = self.0["requestContext"]["stage"].as_str().unwrap();
        self.0["requestContext"]["path"] = format!("/{stage}{path}").into();
        self
    }

    pub(crate) fn method(mut self, method: &str) -> Self {
        self.0["httpMethod"] = method.into();
        self.0["requestContext"]["httpMethod"] = method.into();
        self
    }

    /// Sets all query parameters.
    pub(crate) fn query(mut self, query: &[(&str, &str)]) -> Self {
        let (mut single, mut multi) = (Map::new(), Map::new());
        for (name, value) in query {
            single.insert((*name).to_owned(), (*value).into());
            let values = multi.entry(*name).or_insert_with(|| json!([]));
            values.as_array_mut().unwrap().push((*value).into());
        }
        let or_null = |map: Map<_, _>| {
            if map.is_empty() {
                Value::Null
            } else {
                map.into()
            }
        };
        self.0["queryStringParameters"] = or_null(single);
        self.0["multiValueQueryStringParameters"] = or_null(multi);
        self
    }

    pub(crate) fn header(mut self, name: &str, value: &str) -> Self {
        self.0["headers"][name] = value.into();
        self.0["multiValueHeaders"][name] = json!([value]);
        self
    }

    /// Sets a header field that occurs once for each value.
    pub(crate) fn repeated_header(self, name: &str, values: &[&str]) -> Self {
        let last = values.last().copied().unwrap_or_default();
        let mut event = self.header(name, last);
        event.0["multiValueHeaders"][name] = json!(values);
        event
    }

    /// Sets the authorizer's context; `null` for a route without the authorizer.
    pub(crate) fn authorizer(mut self, context: Value) -> Self {
        self.0["requestContext"]["authorizer"] = context;
        self
    }

    /// Sets the context of a customer.
    pub(crate) fn customer(self, id: &str, plan: &str) -> Self {
        self.authorizer(json!({
            "principalId": "key_c", "role": "customer", "customerId": id, "plan": plan,
            "keyId": "key_c", "keyPrefix": "tg_live_AbCd1234",
        }))
    }

    /// Sets the context of an admin with this key.
    pub(crate) fn admin(self, key: &str) -> Self {
        self.authorizer(json!({
            "principalId": key, "role": "admin", "keyId": key, "keyPrefix": "tg_admin_AbCd1234",
        }))
    }

    pub(crate) fn request_id(&self) -> &str {
        self.0["requestContext"]["requestId"].as_str().unwrap()
    }

    pub(crate) fn request(&self) -> Request {
        lambda_http::request::from_str(&self.0.to_string()).unwrap()
    }

    /// Returns the method and route template.
    pub(crate) fn route(&self) -> (String, String) {
        let text = |name: &str| self.0[name].as_str().unwrap().to_owned();
        (text("httpMethod"), text("resource"))
    }
}

/// Returns the method and path of every route that the template deploys.
pub(crate) fn deployed_routes() -> BTreeSet<(String, String)> {
    let template = std::fs::read_to_string(workspace().join("template.yaml")).unwrap();
    let lines: Vec<&str> = template.lines().map(str::trim).collect();
    let routes = lines.windows(2).filter_map(|pair| {
        let path = pair[0].strip_prefix("Path: ")?;
        let method = pair[1].strip_prefix("Method: ")?;
        Some((method.to_uppercase(), path.to_owned()))
    });
    routes.collect()
}

/// Returns a text member of JSON.
#[track_caller]
pub(crate) fn text<'a>(body: &'a Value, member: &str) -> &'a str {
    let text = body[member].as_str();
    text.unwrap_or_else(|| panic!("{body} has no text {member}"))
}
