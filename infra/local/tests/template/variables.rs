//! Check of the environment variables that the template sets. That each function gets the variables that it
//! reads is tested by running its binary with the template's variables (`functions/*/tests/process.rs`): it
//! does not start without one.

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
                    let is_read = env::TEMPLATE_VARS.iter().any(|var| var.name == name);
                    if !is_read {
                        defects.push(format!("{function} is given {name}, which nothing reads"));
                    }
                    set.insert(name);
                }
            }
            Err(error) => defects.push(error.to_string()),
        }
    }
    for var in env::TEMPLATE_VARS {
        if !set.contains(var.name) {
            defects.push(format!("{} is set for no function", var.name));
        }
    }
    defects
}
