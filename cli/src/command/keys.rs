//! `tollgate keys`.

use clap::{Args, Subcommand};
use jiff::Timestamp;
use serde::Deserialize;
use serde_json::{Value, json};

use crate::client::{Call, path};
use crate::command::OrNone;
use crate::context::{Context, idempotency_key, object};
use crate::failure::Failure;
use crate::output::{Column, text};

const COLUMNS: &[Column] = &[
    text("ID", "/id"),
    text("PREFIX", "/prefix"),
    text("CUSTOMER", "/customer_id"),
    text("PLAN", "/plan"),
    text("ROLE", "/role"),
    text("STATUS", "/status"),
    text("CREATED", "/created_at"),
    text("EXPIRES", "/expires_at"),
    text("NAME", "/name"),
];

#[derive(Subcommand)]
pub(crate) enum Keys {
    /// Lists keys, by customer and age.
    List(List),
    /// Shows a key.
    Get {
        /// Id or prefix.
        key: String,
    },
    /// Creates a key of a customer, and prints it on standard output, once.
    Create(Create),
    /// Changes a key.
    Update(Update),
    /// Creates the successor of a key, and prints it on standard output, once.
    Rotate(Rotate),
    /// Revokes a key, for ever.
    Revoke {
        /// Id or prefix.
        key: String,
    },
    /// Counts keys by state and plan.
    Stats,
}

#[derive(Args)]
pub(crate) struct List {
    /// Only keys of this customer.
    #[arg(long, value_name = "ID")]
    customer: Option<String>,
    /// Only keys of customers on this plan.
    #[arg(long, value_name = "ID")]
    plan: Option<String>,
    /// Only keys in this state.
    #[arg(long, value_parser = ["active", "suspended", "expired", "revoked"])]
    status: Option<String>,
    /// Most keys; by default, all.
    #[arg(long, value_name = "N")]
    limit: Option<usize>,
}

#[derive(Args)]
pub(crate) struct Create {
    /// Customer.
    customer: String,
    /// Name, for people.
    #[arg(long)]
    name: Option<String>,
    /// Whether the key may only make calls, or also manage the customer's keys and billing.
    #[arg(long, value_parser = ["call", "manage"])]
    role: Option<String>,
    /// Time at which the key expires, such as 2027-01-01T00:00:00Z.
    #[arg(long, value_name = "TIME")]
    expires_at: Option<Timestamp>,
    /// Calls an hour, in place of the plan's.
    #[arg(long, value_name = "N")]
    requests_per_hour: Option<u64>,
    /// Calls a month, in place of the plan's.
    #[arg(long, value_name = "N")]
    monthly_quota: Option<u64>,
    /// Key under which the creation can be repeated within a day, and has one effect.
    #[arg(long, value_name = "TEXT")]
    idempotency_key: Option<String>,
}

#[derive(Args)]
pub(crate) struct Update {
    /// Id or prefix.
    key: String,
    /// Name, for people.
    #[arg(long)]
    name: Option<String>,
    /// Time at which the key expires, or `none`.
    #[arg(long, value_name = "TIME")]
    expires_at: Option<OrNone<Timestamp>>,
    /// Calls an hour, or `none` for those of the plan.
    #[arg(long, value_name = "N")]
    requests_per_hour: Option<OrNone<u64>>,
    /// Calls a month, or `none` for those of the plan.
    #[arg(long, value_name = "N")]
    monthly_quota: Option<OrNone<u64>>,
    /// Suspends the key.
    #[arg(long, conflicts_with = "enable")]
    suspend: bool,
    /// Ends the suspension of the key.
    #[arg(long)]
    enable: bool,
}

#[derive(Args)]
pub(crate) struct Rotate {
    /// Id or prefix.
    key: String,
    /// Seconds for which the key still works; by default, a day.
    #[arg(long, value_name = "SECONDS")]
    grace_period: Option<u64>,
    /// Key under which the rotation can be repeated within a day, and has one effect.
    #[arg(long, value_name = "TEXT")]
    idempotency_key: Option<String>,
}

/// Key as it is issued: the only response with the secret.
#[derive(Deserialize)]
struct Issued {
    id: String,
    prefix: String,
    customer_id: Option<String>,
    key: Option<String>,
}

impl Keys {
    pub(crate) async fn run(self, context: &mut Context) -> Result<(), Failure> {
        match self {
            Keys::List(list) => {
                let List {
                    customer,
                    plan,
                    status,
                    limit,
                } = list;
                let query = [
                    ("customer_id", customer.as_deref()),
                    ("plan", plan.as_deref()),
                    ("status", status.as_deref()),
                ];
                let path = path(&["admin", "api-keys"], &query);
                context.list(&path, COLUMNS, limit).await
            }
            Keys::Get { key } => context.show(path(&["admin", "api-keys", &key], &[])).await,
            Keys::Create(create) => create.run(context).await,
            Keys::Update(update) => {
                let path = path(&["admin", "api-keys", &update.key], &[]);
                context.print(&Call::patch(path, &update.patch()?)).await
            }
            Keys::Rotate(rotate) => {
                let body = object([("grace_period_s", rotate.grace_period.map(Value::from))]);
                let path = path(&["admin", "api-keys", &rotate.key, "rotate"], &[]);
                let key = idempotency_key(rotate.idempotency_key)?;
                issue(context, &Call::post(path, &body).with_idempotency_key(key)).await
            }
            Keys::Revoke { key } => {
                let path = path(&["admin", "api-keys", &key], &[]);
                context.client.call(&Call::delete(path)).await?;
                crate::note(format!("key {key} is revoked"));
                Ok(())
            }
            Keys::Stats => {
                context
                    .show(path(&["admin", "api-keys", "stats"], &[]))
                    .await
            }
        }
    }
}

impl Create {
    async fn run(self, context: &mut Context) -> Result<(), Failure> {
        let overrides = object([
            ("requests_per_hour", self.requests_per_hour.map(Value::from)),
            ("monthly_quota", self.monthly_quota.map(Value::from)),
        ]);
        let body = object([
            ("customer_id", Some(self.customer.into())),
            ("name", self.name.map(Value::from)),
            ("role", self.role.map(Value::from)),
            ("expires_at", self.expires_at.map(|at| json!(at))),
            ("overrides", Some(overrides)),
        ]);
        let key = idempotency_key(self.idempotency_key)?;
        let call = Call::post(path(&["admin", "api-keys"], &[]), &body).with_idempotency_key(key);
        issue(context, &call).await
    }
}

impl Update {
    fn patch(&self) -> Result<Value, Failure> {
        let overrides = object([
            (
                "requests_per_hour",
                self.requests_per_hour.clone().map(OrNone::patch),
            ),
            (
                "monthly_quota",
                self.monthly_quota.clone().map(OrNone::patch),
            ),
        ]);
        let enabled = (self.suspend || self.enable).then_some(self.enable);
        let patch = object([
            ("name", self.name.clone().map(Value::from)),
            ("expires_at", self.expires_at.clone().map(OrNone::patch)),
            ("overrides", (overrides != json!({})).then_some(overrides)),
            ("enabled", enabled.map(Value::from)),
        ]);
        if patch == json!({}) {
            return Err(Failure::usage(
                "name a change of the key: see tollgate keys update --help",
            ));
        }
        Ok(patch)
    }
}

/// Creates a key. Prints it alone on standard output, so that it can be assigned to a variable.
async fn issue(context: &mut Context, call: &Call) -> Result<(), Failure> {
    let response = context.client.call(call).await?;
    let issued: Issued = response.read()?;
    let Issued {
        id, prefix, key, ..
    } = &issued;
    let owner = issued.customer_id.as_deref().unwrap_or("the operator");
    if context.output.is_json {
        context.output.document(&response.body)?;
    }
    let Some(key) = key else {
        crate::note(format!(
            "key {id} ({prefix}…) of {owner} was created by an earlier request, and is shown only once: if that \
             response was lost, rotate or revoke the key"
        ));
        return Ok(());
    };
    if !context.output.is_json {
        crate::note(format!("key {id} ({prefix}…) of {owner}, shown only once:"));
        context.output.line(key)?;
    }
    Ok(())
}
