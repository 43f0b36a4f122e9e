//! Check that the API's routes are those that the functions' code serves.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use tollgate_local::template::Template;
use tollgate_local_aws::template::Stack;

const METHODS: [&str; 5] = ["delete", "get", "patch", "post", "put"];

pub(crate) fn defects(stack: &Stack) -> Vec<String> {
    let template = Template::from_stack(stack).unwrap();
    let routed: BTreeSet<(String, String)> = template
        .routes
        .iter()
        .map(|route| (route.method.clone(), route.path.clone()))
        .collect();
    let mut defects = Vec::new();
    let mut served = BTreeSet::new();
    for function in function_dirs() {
        for (method, path) in routes_in(&function.join("src")) {
            if !routed.contains(&(method.clone(), path.clone())) {
                let name = function.file_name().unwrap().to_string_lossy();
                defects.push(format!(
                    "no function has {method} {path} in functions/{name}"
                ));
            }
            served.insert((method, path));
        }
    }
    for route in template.routes {
        if !served.contains(&(route.method.clone(), route.path.clone())) {
            let (method, path) = (route.method, route.path);
            defects.push(format!(
                "no code serves {method} {path} of {}",
                route.function
            ));
        }
    }
    defects
}

/// Returns the functions' directories.
pub(crate) fn function_dirs() -> Vec<PathBuf> {
    let dir = concat!(env!("CARGO_MANIFEST_DIR"), "/../../functions");
    let entries = std::fs::read_dir(dir).unwrap();
    let dirs = entries.map(|entry| entry.unwrap().path());
    dirs.filter(|path| path.is_dir()).collect()
}

/// Returns the routes in the sources under a directory: each method in each `.route("…", …)`.
fn routes_in(dir: &Path) -> Vec<(String, String)> {
    let mut routes = Vec::new();
    for entry in std::fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            routes.extend(routes_in(&path));
        } else {
            let source = std::fs::read_to_string(&path).unwrap();
            for call in source.split(".route(\"").skip(1) {
                let (path, handlers) = call.split_once('"').unwrap();
                let handlers = within_parentheses(handlers);
                for method in METHODS {
                    let called = handlers
                        .match_indices(&format!("{method}("))
                        .any(|(at, _)| {
                            let before = handlers[..at].chars().next_back();
                            before.is_none_or(|c| !c.is_alphanumeric() && c != '_')
                        });
                    if called {
                        routes.push((method.to_ascii_uppercase(), path.to_owned()));
                    }
                }
            }
        }
    }
    routes
}

/// Returns the text up to the parenthesis that closes the call.
fn within_parentheses(text: &str) -> &str {
    let mut open = 1;
    let end = text.find(|c| {
        match c {
            '(' => open += 1,
            ')' => open -= 1,
            _ => {}
        }
        open == 0
    });
    &text[..end.unwrap()]
}
