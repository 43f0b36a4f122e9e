//! Every environment variable that Tollgate reads, declared once.
//!
//! `main` functions read them through [`Env`]; nothing else reads the environment. The AWS SDK
//! reads its own standard variables besides (`AWS_REGION`, `AWS_ENDPOINT_URL_DYNAMODB`, …).

use std::collections::HashMap;

/// One variable.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Var {
    /// Its name in the environment.
    pub name: &'static str,
    /// What it means, and what form it takes.
    pub doc: &'static str,
    /// What holds when it is not set; `None` if it must be.
    pub default: Option<&'static str>,
}

/// What the names of the stack's tables begin with.
pub const TABLE_PREFIX: Var = Var {
    name: "TOLLGATE_TABLE_PREFIX",
    doc: "What the table names begin with: the stack's name. `prod` makes `prod-accounts`.",
    default: None,
};
/// The bus that metered functions put usage on.
pub const EVENT_BUS: Var = Var {
    name: "TOLLGATE_EVENT_BUS",
    doc: "Name or ARN of the EventBridge bus that usage is put on.",
    default: None,
};
/// The first segment of new keys.
pub const KEY_BRAND: Var = Var {
    name: "TOLLGATE_KEY_BRAND",
    doc: "First segment of new keys: 1 to 12 of a-z and 0-9. Older keys keep working.",
    default: Some("tg"),
};
/// The second segment of new customer keys.
pub const KEY_ENV: Var = Var {
    name: "TOLLGATE_KEY_ENV",
    doc: "Second segment of new customer keys, such as `live` or `test`.",
    default: Some("live"),
};
/// The plans on offer.
pub const PLANS: Var = Var {
    name: "TOLLGATE_PLANS",
    doc: "The plans as a JSON list; empty for the shipped ones (shared/domain/src/plans.json).",
    default: Some(""),
};
/// Routes that need a key but are not counted.
pub const UNCOUNTED_ROUTES: Var = Var {
    name: "TOLLGATE_UNCOUNTED_ROUTES",
    doc: "Comma-separated beginnings of route templates that need a good key but count towards \
          no limit: what a customer must reach when out of quota, and the admin API.",
    default: Some("/admin/,/api/usage/"),
};

/// Set by Lambda: part of the source of the usage that a function emits.
pub const FUNCTION_NAME: Var = Var {
    name: "AWS_LAMBDA_FUNCTION_NAME",
    doc: "The function's name; Lambda sets it.",
    default: Some("function"),
};

/// All of them, in the order they are documented.
pub const ALL: &[Var] = &[
    TABLE_PREFIX,
    EVENT_BUS,
    KEY_BRAND,
    KEY_ENV,
    PLANS,
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

    /// An environment of these values.
    #[must_use]
    pub fn of<const N: usize>(values: [(Var, &str); N]) -> Self {
        let values = values.map(|(var, value)| (var.name.to_owned(), value.to_owned()));
        Self(values.into())
    }

    /// The variable's value, or its default.
    ///
    /// # Errors
    /// When it is not set and has no default.
    pub fn get(&self, var: Var) -> Result<&str, MissingVar> {
        self.0
            .get(var.name)
            .map(String::as_str)
            .or(var.default)
            .ok_or(MissingVar(var))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `docs/configuration.md`, made from the declarations.
    fn page() -> String {
        let mut page = "# Configuration\n\n\
            The environment variables that the functions read. The template sets them. This page is\n\
            made from `shared/runtime/src/env.rs`.\n\n\
            | variable | meaning | if not set |\n|---|---|---|\n"
            .to_owned();
        for var in ALL {
            let default = match var.default {
                None => "the function does not start".to_owned(),
                Some("") => "empty".to_owned(),
                Some(value) => format!("`{value}`"),
            };
            page.push_str(&format!("| `{}` | {} | {default} |\n", var.name, var.doc));
        }
        page
    }

    #[test]
    fn the_configuration_page_is_up_to_date() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/configuration.md");
        if std::env::var_os("UPDATE_DOCS").is_some() {
            std::fs::write(path, page()).unwrap();
        }
        let found = std::fs::read_to_string(path).unwrap_or_default();
        let mend = "UPDATE_DOCS=1 cargo test -p tollgate-runtime";
        assert!(
            found == page(),
            "docs/configuration.md is stale; to mend it: {mend}"
        );
    }

    #[test]
    fn a_missing_variable_is_named_and_explained() {
        let env = Env::of([(KEY_ENV, "test")]);
        assert_eq!(env.get(KEY_ENV), Ok("test"));
        assert_eq!(env.get(KEY_BRAND), Ok("tg"));
        let error = env.get(TABLE_PREFIX).unwrap_err().to_string();
        assert!(
            error.contains("TOLLGATE_TABLE_PREFIX is not set"),
            "{error}"
        );
    }
}
