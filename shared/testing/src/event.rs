//! Events of the gateway: an event file with the changes that a test needs.

use std::collections::BTreeSet;

use lambda_http::Request;
use serde_json::{Map, Value, json};

use crate::event_file;

/// Event of a REST API's proxy integration.
#[derive(Debug, Clone)]
pub struct Event(pub Value);

impl Event {
    /// Loads `events/<name>.json`.
    #[track_caller]
    pub fn load(name: &str) -> Self {
        Self(event_file::load(name))
    }

    /// Loads all files in `events/<function>`, with their names.
    #[track_caller]
    pub fn all(function: &str) -> Vec<(String, Self)> {
        let names = event_file::names(function).into_iter();
        let load = |name: String| (name.clone(), Self::load(&format!("{function}/{name}")));
        names.map(load).collect()
    }

    /// Sets a JSON body.
    pub fn body(self, body: &Value) -> Self {
        self.text(&body.to_string())
    }

    /// Sets the body to any text.
    pub fn text(mut self, body: &str) -> Self {
        self.0["body"] = body.into();
        self
    }

    /// Sets a base64 body, as the gateway sends binary ones.
    pub fn base64(mut self, body: &str) -> Self {
        self.0["body"] = body.into();
        self.0["isBase64Encoded"] = true.into();
        self
    }

    /// Sets the member of the JSON body at this dotted path.
    pub fn member(self, path: &str, value: Value) -> Self {
        let mut body: Value = serde_json::from_str(self.0["body"].as_str().unwrap()).unwrap();
        let member = body.pointer_mut(&format!("/{}", path.replace('.', "/")));
        *member.unwrap_or_else(|| panic!("the body has no {path}")) = value;
        self.body(&body)
    }

    /// Sets a path parameter, and the path accordingly.
    pub fn param(mut self, name: &str, value: &str) -> Self {
        self.0["pathParameters"][name] = value.into();
        let mut path = self.0["resource"].as_str().unwrap().to_owned();
        for (name, value) in self.0["pathParameters"].as_object().unwrap() {
            path = path.replace(&format!("{{{name}}}"), value.as_str().unwrap());
        }
        self.path(&path)
    }

    /// Sets the path within the stage.
    pub fn path(mut self, path: &str) -> Self {
        self.0["path"] = path.into();
        let stage = self.0["requestContext"]["stage"].as_str().unwrap();
        self.0["requestContext"]["path"] = format!("/{stage}{path}").into();
        self
    }

    /// Sets the HTTP method.
    pub fn method(mut self, method: &str) -> Self {
        self.0["httpMethod"] = method.into();
        self.0["requestContext"]["httpMethod"] = method.into();
        self
    }

    /// Sets all query parameters.
    pub fn query(mut self, query: &[(&str, &str)]) -> Self {
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

    /// Sets a header field.
    pub fn header(mut self, name: &str, value: &str) -> Self {
        self.0["headers"][name] = value.into();
        self.0["multiValueHeaders"][name] = json!([value]);
        self
    }

    /// Sets a header field that occurs once for each value.
    pub fn repeated_header(self, name: &str, values: &[&str]) -> Self {
        let last = values.last().copied().unwrap_or_default();
        let mut event = self.header(name, last);
        event.0["multiValueHeaders"][name] = json!(values);
        event
    }

    /// Sets the authorizer's context; `null` for a route without the authorizer.
    pub fn authorizer(mut self, context: Value) -> Self {
        self.0["requestContext"]["authorizer"] = context;
        self
    }

    /// Sets the context of a customer whose key has the role `call`.
    pub fn customer(self, id: &str, plan: &str) -> Self {
        self.customer_with("call", id, plan)
    }

    /// Sets the context of a customer whose key has the role `manage`.
    pub fn manager(self, id: &str, plan: &str) -> Self {
        self.customer_with("manage", id, plan)
    }

    fn customer_with(self, role: &str, id: &str, plan: &str) -> Self {
        self.authorizer(json!({
            "principalId": "key_c", "role": role, "customerId": id, "plan": plan,
            "keyId": "key_c", "keyPrefix": "tg_live_AbCd1234",
        }))
    }

    /// Sets the context of an admin with this key.
    pub fn admin(self, key: &str) -> Self {
        self.authorizer(json!({
            "principalId": key, "role": "admin", "keyId": key, "keyPrefix": "tg_admin_AbCd1234",
        }))
    }

    /// Returns the gateway's id of the request.
    pub fn request_id(&self) -> &str {
        self.0["requestContext"]["requestId"].as_str().unwrap()
    }

    /// Returns the request that the function receives.
    pub fn request(&self) -> Request {
        lambda_http::request::from_str(&self.0.to_string()).unwrap()
    }

    /// Returns the method and route template.
    pub fn route(&self) -> (String, String) {
        let text = |name: &str| self.0[name].as_str().unwrap().to_owned();
        (text("httpMethod"), text("resource"))
    }
}

/// Returns the method and path of every operation of the API, as `infra/openapi.json` declares them.
pub fn declared_routes() -> BTreeSet<(String, String)> {
    let path = event_file::workspace().join("infra/openapi.json");
    let document = std::fs::read_to_string(path).unwrap();
    let document: Value = serde_json::from_str(&document).unwrap();
    let paths = document["paths"].as_object().unwrap().iter();
    let routes = paths.flat_map(|(path, item)| {
        let methods = item.as_object().unwrap().keys();
        methods.map(move |method| (method.to_uppercase(), path.clone()))
    });
    routes.collect()
}

/// Returns a text member of JSON.
#[track_caller]
pub fn text<'a>(body: &'a Value, member: &str) -> &'a str {
    let text = body[member].as_str();
    text.unwrap_or_else(|| panic!("{body} has no text {member}"))
}
