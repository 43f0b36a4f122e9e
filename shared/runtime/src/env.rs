//! Declarations of all environment variables that Tollgate reads.
//!
//! `main` functions read them through [`Env`]; no other code reads the environment. There are no
//! defaults: if the template does not set a variable, the function fails at its cold start with an error
//! that names it.

use std::collections::HashMap;
use std::fmt;

/// Declaration of an environment variable.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Var {
    /// Name in the environment.
    pub name: &'static str,
    /// Meaning and format, in Markdown.
    pub doc: &'static str,
}

/// Log levels.
pub const LOG: Var = Var {
    name: "RUST_LOG",
    doc: "Lowest level that is logged: `ERROR`, `WARN`, `INFO` or `DEBUG`. Modules can have levels of \
          their own after commas, such as `WARN,authorizer::circuit_breaker=DEBUG`; `off` disables one.",
};
/// Prefix of the stack's table names.
pub const TABLE_PREFIX: Var = Var {
    name: "TOLLGATE_TABLE_PREFIX",
    doc: "Prefix of the table names: the stack's name. With `prod`, a table is `prod-registry`.",
};
/// Event bus for usage events.
pub const EVENT_BUS: Var = Var {
    name: "TOLLGATE_EVENT_BUS",
    doc: "Name or ARN of the EventBridge bus to which metered functions send usage events.",
};
/// First segment of new keys.
pub const KEY_BRAND: Var = Var {
    name: "TOLLGATE_KEY_BRAND",
    doc: "First segment of new keys: 1 to 12 of a-z and 0-9. Older keys keep working.",
};
/// Second segment of new customer keys.
pub const KEY_ENV: Var = Var {
    name: "TOLLGATE_KEY_ENV",
    doc: "Second segment of new customer keys, such as `live` or `test`.",
};
/// Name of the secret with Stripe's key.
pub const STRIPE_SECRET: Var = Var {
    name: "TOLLGATE_STRIPE_SECRET",
    doc: "Name of the secret in Secrets Manager whose text is Stripe's secret key; with `ssm:` before it, \
          the name of a parameter in Parameter Store. If empty, Stripe is not used.",
};
/// Address of Stripe's API.
pub const STRIPE_URL: Var = Var {
    name: "TOLLGATE_STRIPE_URL",
    doc: "Address of Stripe's API.",
};
/// Rate of the charge workers' requests to Stripe.
pub const STRIPE_RATE: Var = Var {
    name: "TOLLGATE_STRIPE_RATE",
    doc: "Requests to Stripe per second that all charge workers together send, 1 to 100. A charge takes one, \
          or two if it was attempted before.",
};
/// Origins to which Stripe's pages lead back.
pub const RETURN_ORIGINS: Var = Var {
    name: "TOLLGATE_RETURN_ORIGINS",
    doc: "Comma-separated origins, such as `https://app.example`, of the pages to which Stripe may lead \
          customers back from checkout and billing portal; none if empty.",
};
/// Queue of the charge worker.
pub const CHARGE_QUEUE: Var = Var {
    name: "TOLLGATE_CHARGE_QUEUE",
    doc: "URL of the queue of charges to submit.",
};
/// Queue that continues billing runs.
pub const BILLING_RUN_QUEUE: Var = Var {
    name: "TOLLGATE_BILLING_RUN_QUEUE",
    doc: "URL of the queue that continues billing runs whose time was over.",
};
/// Name of the secret with which Stripe signs webhooks.
pub const STRIPE_WEBHOOK_SECRET: Var = Var {
    name: "TOLLGATE_STRIPE_WEBHOOK_SECRET",
    doc: "Name of the secret or parameter, as that of Stripe's key, whose text is the signing secret of the \
          webhook endpoint: `whsec_…`, or several separated by spaces while one replaces another. If empty, \
          webhooks are rejected.",
};
/// Queue of Stripe's events.
pub const STRIPE_EVENT_QUEUE: Var = Var {
    name: "TOLLGATE_STRIPE_EVENT_QUEUE",
    doc: "URL of the queue of Stripe's events.",
};
/// Ways by which Stripe's events arrive.
pub const STRIPE_EVENT_SOURCES: Var = Var {
    name: "TOLLGATE_STRIPE_EVENT_SOURCES",
    doc: "Names of the webhook endpoint's signing secret and of the partner event bus; if empty, no events of Stripe \
          arrive, and plans are left to admins.",
};
/// Plan of customers whose subscription has ended.
pub const PLAN_AFTER_CANCELLATION: Var = Var {
    name: "TOLLGATE_PLAN_AFTER_CANCELLATION",
    doc: "Id of the plan of a customer whose subscription has ended.",
};
/// Consequence of an outstanding payment.
pub const ON_UNPAID: Var = Var {
    name: "TOLLGATE_ON_UNPAID",
    doc: "What follows when a payment is outstanding for longer than the grace period: `nothing`, `suspend`, or \
          `plan:` and the id of the plan to which the customer is moved. A payment takes it back.",
};
/// Grace period of an outstanding payment.
pub const UNPAID_GRACE_DAYS: Var = Var {
    name: "TOLLGATE_UNPAID_GRACE_DAYS",
    doc: "Days for which a payment may be outstanding before anything follows, 0 to 90.",
};
/// Page for customers without quota.
pub const UPGRADE_URL: Var = Var {
    name: "TOLLGATE_UPGRADE_URL",
    doc: "Address of the page on which customers can subscribe to a larger plan, in the responses to calls beyond \
          a monthly quota; none if empty.",
};
/// TTL of the authorizer's key cache.
pub const KEY_CACHE: Var = Var {
    name: "TOLLGATE_KEY_CACHE_S",
    doc: "TTL of the authorizer's key cache in seconds, 0 to 60: the longest time that a revoked key \
          still works. With 0, every call reads the key and its customer from DynamoDB.",
};
/// Stale-if-error time of the authorizer's key cache.
pub const STALE_KEY: Var = Var {
    name: "TOLLGATE_STALE_KEY_S",
    doc: "Stale-if-error time of the authorizer's key cache in seconds, 0 to 3600: for how long after \
          the TTL a key that was valid is still used while DynamoDB is unavailable, on plans that fail \
          open. With 0, never.",
};
/// Routes that need a key but are not counted.
pub const UNCOUNTED_ROUTES: Var = Var {
    name: "TOLLGATE_UNCOUNTED_ROUTES",
    doc: "Comma-separated prefixes of route templates that need a valid key but count towards no \
          limit: routes that a customer without quota still needs, and the admin API. Prefixes are \
          whole segments: `/api/keys` and what is below it, `/api/usage/` only what is below it.",
};

/// Origin whose pages may read responses.
pub const CORS_ORIGINS: Var = Var {
    name: "TOLLGATE_CORS_ORIGINS",
    doc: "The origin whose pages may read responses, such as `https://app.example`; `*` for all, or \
          empty for none.",
};

/// Bus of events.
pub const EVENTS_BUS: Var = Var {
    name: "TOLLGATE_EVENTS_BUS",
    doc: "Name or ARN of the EventBridge bus on which events for operator and customers are put.",
};
/// Queue of deliveries to webhooks.
pub const WEBHOOK_QUEUE: Var = Var {
    name: "TOLLGATE_WEBHOOK_QUEUE",
    doc: "URL of the queue of deliveries to webhooks.",
};
/// Whether webhooks may lead to this machine.
pub const WEBHOOK_LOOPBACK: Var = Var {
    name: "TOLLGATE_WEBHOOK_LOOPBACK",
    doc: "`true` allows webhooks to loopback addresses, by HTTP too. Only for a stack on one machine, which sets it \
          itself.",
};

/// Name of the function, which is part of the `source` of its usage events.
pub const FUNCTION_NAME: Var = Var {
    name: "AWS_LAMBDA_FUNCTION_NAME",
    doc: "Name of the function.",
};
/// Region of the AWS services.
pub const REGION: Var = Var {
    name: "AWS_REGION",
    doc: "AWS region, such as `eu-west-1`.",
};
/// Access key id of the role's credentials.
pub const ACCESS_KEY_ID: Var = Var {
    name: "AWS_ACCESS_KEY_ID",
    doc: "Access key id of the credentials of the function's role.",
};
/// Secret access key of the role's credentials.
pub const SECRET_ACCESS_KEY: Var = Var {
    name: "AWS_SECRET_ACCESS_KEY",
    doc: "Secret access key of the credentials of the function's role.",
};
/// Session token of the role's credentials.
pub const SESSION_TOKEN: Var = Var {
    name: "AWS_SESSION_TOKEN",
    doc: "Session token of the credentials. Temporary credentials, such as a role's, always have one.",
};

/// Endpoint of all AWS services, for emulators.
pub const ENDPOINT_URL: Var = Var {
    name: "AWS_ENDPOINT_URL",
    doc: "URL of all AWS services, instead of AWS's own.",
};
/// Endpoint of DynamoDB.
pub const ENDPOINT_URL_DYNAMODB: Var = Var {
    name: "AWS_ENDPOINT_URL_DYNAMODB",
    doc: "URL of DynamoDB; takes precedence over `AWS_ENDPOINT_URL`.",
};
/// Endpoint of EventBridge.
pub const ENDPOINT_URL_EVENTBRIDGE: Var = Var {
    name: "AWS_ENDPOINT_URL_EVENTBRIDGE",
    doc: "URL of EventBridge; takes precedence over `AWS_ENDPOINT_URL`.",
};
/// Root certificates to trust.
pub const CA_BUNDLE: Var = Var {
    name: "AWS_CA_BUNDLE",
    doc: "Path of a PEM file of root certificates to trust instead of all others. Without it, functions \
          in regions of AWS's commercial partition trust the roots of Amazon Trust Services, and \
          functions in other regions the system's roots.",
};

/// Variables that the template sets, in the order of the documentation.
pub const TEMPLATE_VARS: &[Var] = &[
    LOG,
    TABLE_PREFIX,
    EVENT_BUS,
    KEY_BRAND,
    KEY_ENV,
    STRIPE_SECRET,
    STRIPE_URL,
    STRIPE_RATE,
    RETURN_ORIGINS,
    CHARGE_QUEUE,
    BILLING_RUN_QUEUE,
    STRIPE_WEBHOOK_SECRET,
    STRIPE_EVENT_QUEUE,
    STRIPE_EVENT_SOURCES,
    PLAN_AFTER_CANCELLATION,
    ON_UNPAID,
    UNPAID_GRACE_DAYS,
    UPGRADE_URL,
    EVENTS_BUS,
    WEBHOOK_QUEUE,
    KEY_CACHE,
    STALE_KEY,
    UNCOUNTED_ROUTES,
    CORS_ORIGINS,
];

/// Variables that Lambda sets.
pub const LAMBDA_VARS: &[Var] = &[
    FUNCTION_NAME,
    REGION,
    ACCESS_KEY_ID,
    SECRET_ACCESS_KEY,
    SESSION_TOKEN,
];

/// Optional standard variables of the AWS SDKs.
pub const OPTIONAL_VARS: &[Var] = &[
    ENDPOINT_URL,
    ENDPOINT_URL_DYNAMODB,
    ENDPOINT_URL_EVENTBRIDGE,
    CA_BUNDLE,
];

/// Optional variables for a stack on one machine.
pub const LOCAL_VARS: &[Var] = &[WEBHOOK_LOOPBACK];

/// Error: a required variable is not set.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the environment variable {} is not set; it holds: {}", .0.name, .0.doc)]
pub struct MissingVar(pub Var);

/// Environment variables of the program, read once at the start. `Debug` prints only their names,
/// because some values are secret.
#[derive(Clone)]
pub struct Env(HashMap<String, String>);

impl Env {
    /// Reads all declared variables of the process. A value that is not Unicode counts as not set.
    #[must_use]
    pub fn from_process() -> Self {
        let declared = [TEMPLATE_VARS, LAMBDA_VARS, OPTIONAL_VARS, LOCAL_VARS].concat();
        let values = declared.into_iter().filter_map(|var| {
            let value = std::env::var(var.name).ok()?;
            Some((var.name.to_owned(), value))
        });
        Self(values.collect())
    }

    /// Creates an environment from pairs of name and value.
    #[must_use]
    pub fn from_vars(values: impl IntoIterator<Item = (String, String)>) -> Self {
        Self(values.into_iter().collect())
    }

    /// Returns the value of a required variable.
    ///
    /// # Errors
    /// When it is not set.
    pub fn get(&self, var: Var) -> Result<&str, MissingVar> {
        let value = self.0.get(var.name).map(String::as_str);
        value.ok_or(MissingVar(var))
    }

    /// Returns the value of a variable unless it is empty. Like the AWS SDKs, this treats an empty value
    /// as not set.
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

    /// Generates `docs/configuration.md` from the declarations.
    fn page() -> String {
        let mut page = "# Configuration\n\n\
            Environment variables that the functions read. This page is generated from\n\
            `shared/runtime/src/env.rs`.\n"
            .to_owned();
        let mut section = |text: &str, vars: &[Var]| {
            page.push_str(&format!("\n{text}\n\n| variable | meaning |\n|---|---|\n"));
            for var in vars {
                page.push_str(&format!("| `{}` | {} |\n", var.name, var.doc));
            }
        };
        section(
            "The template sets these, each for the functions that read it. A function fails at its cold\n\
             start if one of its variables is not set.",
            TEMPLATE_VARS,
        );
        section("Lambda sets these.", LAMBDA_VARS);
        section(
            "These are standard variables of the AWS SDKs, and optional. The functions do not read the SDKs'\n\
             other variables, files such as `~/.aws/config`, or instance metadata.",
            OPTIONAL_VARS,
        );
        section(
            "This one is for a stack on one machine. The template does not set it.",
            LOCAL_VARS,
        );
        page
    }

    #[test]
    fn the_configuration_page_is_up_to_date() {
        crate::assert_page("configuration.md", &page());
    }

    #[test]
    fn a_missing_variable_is_named_and_explained() {
        let env = Env::from_vars([(KEY_ENV.name.to_owned(), "test".to_owned())]);
        assert_eq!(env.get(KEY_ENV), Ok("test"));
        let error = env.get(TABLE_PREFIX).unwrap_err().to_string();
        assert!(
            error.contains("TOLLGATE_TABLE_PREFIX is not set"),
            "{error}"
        );
    }

    #[test]
    fn debug_output_has_no_values() {
        let env = Env::from_vars([(SECRET_ACCESS_KEY.name.to_owned(), "wJalrXUt".to_owned())]);
        assert_eq!(format!("{env:?}"), r#"{"AWS_SECRET_ACCESS_KEY"}"#);
    }
}
