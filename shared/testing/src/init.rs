//! Inputs of a function's state.

use tollgate_domain::plan::Catalog;
use tollgate_local_aws::fixture::Fixture;
use tollgate_local_aws::template::Stack;
use tollgate_runtime::env::Var;
use tollgate_runtime::{Env, Init, Metrics};

use crate::seed::seed_plans;

/// Returns the inputs of a function that the template declares: the variables that it sets, and the fixture's
/// services, clock and randomness. Metrics are dropped. Unless the test has seeded other plans, the store is
/// seeded with the shipped ones.
pub fn init(at: &Fixture, function: &str) -> Init {
    init_with(at, function, [])
}

/// Returns the same inputs, with these variables in place of the template's.
pub fn init_with<const N: usize>(at: &Fixture, function: &str, changed: [(Var, &str); N]) -> Init {
    seed_plans(at, &Catalog::shipped().unwrap());
    let stack = Stack::built_in("test").unwrap();
    let variables = stack.variables(function).unwrap();
    let changed = changed.map(|(var, value)| (var.name.to_owned(), value.to_owned()));
    Init {
        env: Env::from_vars(variables.into_iter().chain(changed)),
        sdk: at.aws.sdk_config(),
        clock: at.clock(),
        entropy: at.entropy.clone(),
        metrics: Metrics::none(),
    }
}
