//! Every environment variable that Tollgate reads, declared once.
//!
//! `main` functions read them through [`Env`]; nothing else reads the environment. None has a
//! default: what the template forgets to set is named when the function starts, and not guessed.

use std::collections::HashMap;
use std::fmt;

/// One variable.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Var {
    /// Its name in the environment.
    pub name: &'static str,
    /// What it means, and what form it takes.
    pub doc: &'static str,
}

/// What is logged.
pub const LOG: Var = Var {
    name: "RUST_LOG",
    doc: "The lowest level that is logged: `ERROR`, `WARN`, `INFO` or `DEBUG`. After a comma, a part of \
          the program can have its own, such as `authorizer::circuit=DEBUG`, or `off`.",
};
/// What the names of the stack's tables begin with.
pub const TABLE_PREFIX: Var = Var {
    name: "TOLLGATE_TABLE_PREFIX",
    doc: "What the table names begin with: the stack's name. `prod` makes `prod-registry`.",
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
/// For how long more a key decides while it cannot be read.
pub const STALE_KEY: Var = Var {
    name: "TOLLGATE_STALE_KEY_S",
    doc: "Seconds, 0 to 3600, that a key which was good when it was last read goes on deciding after \
          its time in the cache, while DynamoDB does not answer and on plans that fail open. 0 for \
          never.",
};
/// Routes that need a key but are not counted.
pub const UNCOUNTED_ROUTES: Var = Var {
    name: "TOLLGATE_UNCOUNTED_ROUTES",
    doc: "Comma-separated beginnings of route templates that need a good key but count towards \
          no limit: what a customer must reach when out of quota, and the admin API.",
};

/// Which pages of other origins may call.
pub const CORS_ORIGINS: Var = Var {
    name: "TOLLGATE_CORS_ORIGINS",
    doc: "The origin whose pages may read answers, such as `https://app.example`; `*` for all, or empty \
          for none.",
};

/// Part of the source of the usage that a function emits.
pub const FUNCTION_NAME: Var = Var {
    name: "AWS_LAMBDA_FUNCTION_NAME",
    doc: "The function's name.",
};
/// Where the services are.
pub const REGION: Var = Var {
    name: "AWS_REGION",
    doc: "The region, such as `eu-west-1`.",
};
/// The first part of the role's credentials.
pub const ACCESS_KEY_ID: Var = Var {
    name: "AWS_ACCESS_KEY_ID",
    doc: "Of the credentials of the function's role, the id.",
};
/// The second part.
pub const SECRET_ACCESS_KEY: Var = Var {
    name: "AWS_SECRET_ACCESS_KEY",
    doc: "Of the same, the secret.",
};
/// The third part.
pub const SESSION_TOKEN: Var = Var {
    name: "AWS_SESSION_TOKEN",
    doc: "Of the same, the token, where they are for a time only, as a role's always are.",
};

/// Where all services are, for emulations of AWS.
pub const ENDPOINT_URL: Var = Var {
    name: "AWS_ENDPOINT_URL",
    doc: "The URL of all AWS services, in place of AWS's own.",
};
/// Where DynamoDB is.
pub const ENDPOINT_URL_DYNAMODB: Var = Var {
    name: "AWS_ENDPOINT_URL_DYNAMODB",
    doc: "The URL of DynamoDB; goes before `AWS_ENDPOINT_URL`.",
};
/// Where EventBridge is.
pub const ENDPOINT_URL_EVENTBRIDGE: Var = Var {
    name: "AWS_ENDPOINT_URL_EVENTBRIDGE",
    doc: "The URL of EventBridge; goes before `AWS_ENDPOINT_URL`.",
};
/// Whom to trust.
pub const CA_BUNDLE: Var = Var {
    name: "AWS_CA_BUNDLE",
    doc: "Path of a PEM file of root certificates to trust in place of all others. Without it, \
          functions in regions of AWS's commercial partition trust the roots of Amazon Trust \
          Services, and those elsewhere the roots of the machine.",
};

/// Those that the template sets, in the order they are documented.
pub const OF_TEMPLATE: &[Var] = &[
    LOG,
    TABLE_PREFIX,
    EVENT_BUS,
    KEY_BRAND,
    KEY_ENV,
    PLANS,
    KEY_CACHE,
    STALE_KEY,
    UNCOUNTED_ROUTES,
    CORS_ORIGINS,
];

/// Those that Lambda sets.
pub const OF_LAMBDA: &[Var] = &[
    FUNCTION_NAME,
    REGION,
    ACCESS_KEY_ID,
    SECRET_ACCESS_KEY,
    SESSION_TOKEN,
];

/// Standard variables of the AWS SDKs that may be set, and need not be.
pub const OPTIONAL: &[Var] = &[
    ENDPOINT_URL,
    ENDPOINT_URL_DYNAMODB,
    ENDPOINT_URL_EVENTBRIDGE,
    CA_BUNDLE,
];

/// A variable that must be set is not.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the environment variable {} is not set; it holds: {}", .0.name, .0.doc)]
pub struct MissingVar(pub Var);

/// The environment, read once at start. Some of it is secret.
#[derive(Clone)]
pub struct Env(HashMap<String, String>);

impl Env {
    /// The process's own. Variables that are not Unicode count as not set.
    #[must_use]
    pub fn of_process() -> Self {
        let known = [OF_TEMPLATE, OF_LAMBDA, OPTIONAL].concat();
        let known = known.into_iter().filter_map(|var| {
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

    /// The value of a variable that counts as not set where it is empty, as the AWS SDKs have it.
    #[must_use]
    pub fn find(&self, var: Var) -> Option<&str> {
        self.get(var).ok().filter(|value| !value.is_empty())
    }
}

impl fmt::Debug for Env {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.0.keys()).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `docs/configuration.md`, made from the declarations.
    fn page() -> String {
        let mut page = "# Configuration\n\n\
            The environment variables that the functions read. This page is made from\n\
            `shared/runtime/src/env.rs`.\n"
            .to_owned();
        let mut section = |text: &str, vars: &[Var]| {
            page.push_str(&format!("\n{text}\n\n| variable | meaning |\n|---|---|\n"));
            for var in vars {
                page.push_str(&format!("| `{}` | {} |\n", var.name, var.doc));
            }
        };
        section(
            "The template sets these, each for the functions that read it; one that is not set keeps its\n\
             function from starting.",
            OF_TEMPLATE,
        );
        section("Lambda sets these.", OF_LAMBDA);
        section(
            "These are standard variables of the AWS SDKs, and need not be set. Of the others, of files such\n\
             as `~/.aws/config`, and of the metadata of machines, the functions read none.",
            OPTIONAL,
        );
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

    #[test]
    fn values_do_not_print() {
        let env = Env::of([(SECRET_ACCESS_KEY.name.to_owned(), "wJalrXUt".to_owned())]);
        assert_eq!(format!("{env:?}"), r#"{"AWS_SECRET_ACCESS_KEY"}"#);
    }
}
