//! The routes of each function are the operations that it declares.

use std::collections::BTreeSet;

use tollgate_local::openapi::operations;
use tollgate_local::template::Template;
use tollgate_local_aws::template::Stack;

/// Function, method and path.
type Route = (String, String, String);

fn declared() -> BTreeSet<Route> {
    let mut declared = BTreeSet::new();
    for (function, part) in operations() {
        let part = serde_json::to_value(part).unwrap();
        for (path, item) in part["paths"].as_object().unwrap() {
            for method in item.as_object().unwrap().keys() {
                let method = method.to_uppercase();
                declared.insert((function.to_owned(), method, path.clone()));
            }
        }
    }
    declared
}

pub(crate) fn defects(stack: &Stack) -> Vec<String> {
    let template = Template::from_stack(stack).unwrap();
    let routes = template.routes.into_iter();
    let routed: BTreeSet<Route> = routes
        .map(|route| (route.function, route.method, route.path))
        .collect();
    let declared = declared();
    let missing = declared.difference(&routed);
    let missing = missing.map(|(function, method, path)| {
        format!(
            "{function} has no event for its operation {method} {path}; add one to template.yaml"
        )
    });
    let extra = routed.difference(&declared);
    let extra = extra.map(|(function, method, path)| {
        format!(
            "{function} does not declare {method} {path}; annotate its handler with #[utoipa::path]"
        )
    });
    missing.chain(extra).collect()
}
