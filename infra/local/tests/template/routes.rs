//! The routes of each function are the operations that it declares, and need a key if those do.

use std::collections::BTreeMap;

use serde_json::json;
use tollgate_local::openapi::operations;
use tollgate_local::template::Template;
use tollgate_local_aws::template::Stack;

/// Function, method and path.
type Route = (String, String, String);

/// Returns the declared operations, with whether each can be called without a key.
fn declared() -> BTreeMap<Route, bool> {
    let mut declared = BTreeMap::new();
    for (function, part) in operations() {
        let part = serde_json::to_value(part).unwrap();
        for (path, item) in part["paths"].as_object().unwrap() {
            for (method, operation) in item.as_object().unwrap() {
                let route = (function.to_owned(), method.to_uppercase(), path.clone());
                declared.insert(route, operation["security"] == json!([]));
            }
        }
    }
    declared
}

pub(crate) fn defects(stack: &Stack) -> Vec<String> {
    let template = Template::from_stack(stack).unwrap();
    let routes = template.routes.into_iter();
    let routed: BTreeMap<Route, bool> = routes
        .map(|route| ((route.function, route.method, route.path), route.is_open))
        .collect();
    let declared = declared();
    let mut defects = Vec::new();
    for (route, is_open) in &declared {
        let (function, method, path) = route;
        match (is_open, routed.get(route)) {
            (_, None) => defects.push(format!(
                "{function} has no event for its operation {method} {path}; add one to template.yaml"
            )),
            (true, Some(false)) => defects.push(format!(
                "{method} {path} needs a key in template.yaml, and none by its declaration"
            )),
            (false, Some(true)) => defects.push(format!(
                "{method} {path} needs no key in template.yaml, and one by its declaration"
            )),
            (true, Some(true)) | (false, Some(false)) => {}
        }
    }
    let extra = routed.keys().filter(|route| !declared.contains_key(*route));
    defects.extend(extra.map(|(function, method, path)| {
        format!(
            "{function} does not declare {method} {path}; annotate its handler with #[utoipa::path]"
        )
    }));
    defects
}
