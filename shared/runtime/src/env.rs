//! Every environment variable that Tollgate reads, declared once.
//!
//! `main` functions read them through [`Env`]; nothing else reads the environment. None has a
//! default: what the template forgets to set is named when the function starts, and not guessed. The
//! AWS SDK reads its own standard variables besides (`AWS_REGION`, `AWS_ENDPOINT_URL_DYNAMODB`, …),
//! and the Lambda runtime `RUST_LOG`.

use std::collections::HashMap;

/// One variable.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Var {
    /// Its name in the environment.
    pub name: &'static str,
    /// What it means, and what form it takes.
    pub doc: &'static str,
}

/// What the names of the stack's tables begin with.
pub const TABLE_PREFIX: Var = Var {
    name: "TOLLGATE_TABLE_PREFIX",
    doc: "What the table names begin with: the stack's name. `prod` makes `prod-accounts`.",
};
/// The bus that metered functions put usage on.
pub const EVENT_BUS: Var = Var {
    name: "TOLLGATE_EVENT_BUS",
    doc: "Name or ARN of the EventBridge bus that usage is put on.",
};
/// The first segment of new keys.
pub const KEY_BRAND: Var = Var {
    name: "TOLLGATE_KEY_BRAND",
    doc: "First segment of new keys: 1 to 12 of a-z and 0-9. Older keys keep working.",
};
/// The second segment of new customer keys.
pub const KEY_ENV: Var = Var {
    name: "TOLLGATE_KEY_ENV",
    doc: "Second segment of new customer keys, such as `live` or `test`.",
};
/// The plans on offer.
pub const PLANS: Var = Var {
    name: "TOLLGATE_PLANS",
    doc: "The plans as a JSON list, or `shipped` for those of shared/domain/src/plans.json.",
};
/// How long a key that was read is gone by.
pub const KEY_CACHE: Var = Var {
    name: "TOLLGATE_KEY_CACHE_S",
    doc: "Seconds, 0 to 60, that the authorizer goes by what it has read of a key and its customer: \
          the longest that a revoked key still works. 0 reads at every call.",
};
/// Routes that need a key but are not counted.
pub const UNCOUNTED_ROUTES: Var = Var {
    name: "TOLLGATE_UNCOUNTED_ROUTES",
    doc: "Comma-separated beginnings of route templates that need a good key but count towards \
          no limit: what a customer must reach when out of quota, and the admin API.",
};

/// Set by Lambda: part of the source of the usage that a function emits.
pub const FUNCTION_NAME: Var = Var {
    name: "AWS_LAMBDA_FUNCTION_NAME",
    doc: "The function's name; Lambda sets it.",
};

/// All of them, in the order they are documented.
pub const ALL: &[Var] = &[
    TABLE_PREFIX,
    EVENT_BUS,
    KEY_BRAND,
    KEY_ENV,
    PLANS,
    KEY_CACHE,
    UNCOUNTED_ROUTES,
    FUNCTION_NAME,
];

/// A variable that must be set is not.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the environment variable {} is not set; it holds: {}", .0.name, .0.doc)]
pub struct MissingVar(pub Var);

/// The environment, read once at start.
#[derive(Debug, Clone)]
pub struct Env(HashMap<String, String>);

impl Env {
    /// The process's own. Variables that are not Unicode count as not set.
    #[must_use]
    pub fn of_process() -> Self {
        let known = ALL.iter().filter_map(|var| {
            let value = std::env::var(var.name).ok()?;
            Some((var.name.to_owned(), value))
        });
        Self(known.collect())
    }

    /// An environment of these values, by name.
    #[must_use]
    pub fn of(values: impl IntoIterator<Item = (String, String)>) -> Self {
        Self(values.into_iter().collect())
    }

    /// The variable's value.
    ///
    /// # Errors
    /// When it is not set.
    pub fn get(&self, var: Var) -> Result<&str, MissingVar> {
        let value = self.0.get(var.name).map(String::as_str);
        value.ok_or(MissingVar(var))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `docs/configuration.md`, made from the declarations.
    fn page() -> String {
        let mut page = "# Configuration\n\n\
            The environment variables that the functions read. The template sets them, each for the\n\
            functions that read it; one that is not set keeps its function from starting. `RUST_LOG`\n\
            is the lowest level that is logged. This page is made from `shared/runtime/src/env.rs`.\n\n\
            | variable | meaning |\n|---|---|\n"
            .to_owned();
        for var in ALL {
            page.push_str(&format!("| `{}` | {} |\n", var.name, var.doc));
        }
        page
    }

    #[test]
    fn the_configuration_page_is_up_to_date() {
        crate::assert_page("configuration.md", &page());
    }

    #[test]
    fn a_missing_variable_is_named_and_explained() {
        let env = Env::of([(KEY_ENV.name.to_owned(), "test".to_owned())]);
        assert_eq!(env.get(KEY_ENV), Ok("test"));
        let error = env.get(TABLE_PREFIX).unwrap_err().to_string();
        assert!(
            error.contains("TOLLGATE_TABLE_PREFIX is not set"),
            "{error}"
        );
    }
}
