//! The variables that the functions read. That each function gets those that it reads itself is
//! tested where its binary is run with what the template sets (`functions/*/tests/process.rs`):
//! it does not start without one.

use std::collections::BTreeSet;

use tollgate_local_aws::template::Stack;
use tollgate_runtime::env;

pub(crate) fn defects(stack: &Stack) -> Vec<String> {
    let mut defects = Vec::new();
    let mut set = BTreeSet::new();
    for (function, _) in stack.of_type("AWS::Serverless::Function") {
        match stack.variables(function) {
            Ok(variables) => {
                for name in variables.into_keys() {
                    let known = env::OF_TEMPLATE.iter().any(|var| var.name == name);
                    if !known {
                        defects.push(format!("{function} is given {name}, which nothing reads"));
                    }
                    set.insert(name);
                }
            }
            Err(error) => defects.push(error.to_string()),
        }
    }
    for var in env::OF_TEMPLATE {
        if !set.contains(var.name) {
            defects.push(format!("{} is set for no function", var.name));
        }
    }
    defects
}
