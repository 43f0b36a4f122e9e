//! `tollgate plans`.

use std::path::PathBuf;

use clap::{Args, Subcommand};
use serde::Deserialize;
use serde_json::{Value, json};

use crate::client::{Call, path};
use crate::command::read_json;
use crate::context::{Context, Page, object};
use crate::failure::Failure;
use crate::output::{Column, Table, number, text};

const COLUMNS: &[Column] = &[
    text("ID", "/id"),
    number("VERSION", "/version"),
    text("TAKES EFFECT", "/takes_effect"),
    number("CALLS/HOUR", "/definition/requests_per_hour"),
    text("MONTH", "/definition/month/kind"),
    number("INCLUDED", "/definition/month/included"),
    text("FURTHER CALLS", "/price"),
    text("FAIL MODE", "/definition/fail_mode"),
    text("STRIPE PRICE", "/definition/stripe_price"),
    text("RETIRED", "/retired_at"),
    text("NAME", "/definition/name"),
];

const AFFECTED: &[Column] = &[
    text("CUSTOMER", "/customer_id"),
    number("VERSION", "/version"),
];

#[derive(Subcommand)]
pub(crate) enum Plans {
    /// Lists plans with their versions.
    List,
    /// Shows a plan with its versions.
    Get {
        /// Id.
        plan: String,
    },
    /// Creates a plan, which applies at once.
    Create {
        /// Id.
        plan: String,
        #[command(flatten)]
        definition: Definition,
    },
    /// Shows the customers to whom a further version of a plan would apply; with --yes, adds it.
    AddVersion(AddVersion),
    /// Retires a plan, after which it takes no further customers.
    Retire {
        /// Id.
        plan: String,
    },
    /// Ends the retirement of a plan.
    Unretire {
        /// Id.
        plan: String,
    },
}

/// Limits and prices: from a file, or from options.
#[derive(Args)]
pub(crate) struct Definition {
    /// File with the definition as JSON, as the API has it; `-` is standard input.
    #[arg(long, value_name = "FILE", conflicts_with_all = ["name", "requests_per_hour", "fail_mode", "unlimited", "included"])]
    file: Option<PathBuf>,
    /// Name, for people.
    #[arg(long, required_unless_present = "file")]
    name: Option<String>,
    /// Calls an hour of a key.
    #[arg(long, value_name = "N", required_unless_present = "file")]
    requests_per_hour: Option<u64>,
    /// Decision on calls while the store does not respond.
    #[arg(long, value_parser = ["open", "closed"], default_value = "closed")]
    fail_mode: String,
    /// Calls a month are not limited.
    #[arg(long, conflicts_with = "included")]
    unlimited: bool,
    /// Calls a month that are included. Further ones are denied, or with --price charged.
    #[arg(long, value_name = "N", required_unless_present_any = ["file", "unlimited"])]
    included: Option<u64>,
    /// Price of a further call in millionths of a US dollar.
    #[arg(long, value_name = "MICRO_USD", requires_all = ["included", "price_from"])]
    price: Option<u64>,
    /// UTC day from which the price applies, such as 2026-01-01.
    #[arg(long, value_name = "DAY", requires = "price")]
    price_from: Option<String>,
    /// Monthly fee in US cents, charged by the customer's subscription.
    #[arg(long, value_name = "CENTS")]
    monthly_fee: Option<u64>,
    /// Price at Stripe.
    #[arg(long, value_name = "ID")]
    stripe_price: Option<String>,
}

#[derive(Args)]
pub(crate) struct AddVersion {
    /// Id.
    plan: String,
    /// First month to which the version applies, such as 2026-12.
    #[arg(long, value_name = "MONTH")]
    takes_effect: String,
    /// Number of the latest version, on which the new one is based; by default, the latest one there is.
    #[arg(long, value_name = "N")]
    expected_version: Option<u64>,
    /// Adds the version.
    #[arg(long)]
    yes: bool,
    #[command(flatten)]
    definition: Definition,
}

/// Plan, as far as this program reads it.
#[derive(Deserialize)]
struct Plan {
    id: String,
    retired_at: Option<String>,
    versions: Vec<Value>,
}

impl Plans {
    pub(crate) async fn run(self, context: &mut Context) -> Result<(), Failure> {
        let resource = |id: &str| path(&["admin", "plans", id], &[]);
        match self {
            Plans::List if context.output.is_json => {
                let path = path(&["admin", "plans"], &[]);
                context.list(&path, COLUMNS, None).await
            }
            Plans::List => {
                let plans: Page<Plan> = context.client.get(path(&["admin", "plans"], &[])).await?;
                let rows: Vec<Value> = plans.data.into_iter().flat_map(Plan::rows).collect();
                Table::new(COLUMNS).rows(&mut context.output, &rows)
            }
            Plans::Get { plan } if !context.output.is_json => {
                let plan: Plan = context.client.get(resource(&plan)).await?;
                Table::new(COLUMNS).rows(&mut context.output, &plan.rows())
            }
            Plans::Get { plan } => context.show(resource(&plan)).await,
            Plans::Create { plan, definition } => {
                let body = json!({ "id": plan, "definition": definition.read()? });
                let path = path(&["admin", "plans"], &[]);
                context
                    .print(&Call::post_repeatable(path, body.to_string()))
                    .await
            }
            Plans::AddVersion(version) => version.run(context).await,
            Plans::Retire { plan } => {
                let call = Call::patch(resource(&plan), &json!({ "retired": true }));
                context.print(&call).await
            }
            Plans::Unretire { plan } => {
                let call = Call::patch(resource(&plan), &json!({ "retired": false }));
                context.print(&call).await
            }
        }
    }
}

impl Plan {
    /// Returns a row for each version.
    fn rows(self) -> Vec<Value> {
        let row = |mut version: Value| {
            let prices = version["definition"]["month"]["prices"].as_array();
            let prices = prices.map(|prices| prices.iter().map(price).collect::<Vec<_>>());
            version["price"] = json!(prices);
            version["id"] = self.id.as_str().into();
            version["retired_at"] = json!(self.retired_at);
            version
        };
        self.versions.into_iter().map(row).collect()
    }
}

/// Returns a price of calls in dollars, exactly.
fn price(price: &Value) -> String {
    let micro_usd = price["micro_usd_per_call"].as_u64().unwrap_or_default();
    let dollars = format!("{}.{:06}", micro_usd / 1_000_000, micro_usd % 1_000_000);
    let dollars = dollars.trim_end_matches('0').trim_end_matches('.');
    format!(
        "${dollars} from {}",
        price["from"].as_str().unwrap_or_default()
    )
}

impl Definition {
    fn read(self) -> Result<Value, Failure> {
        if let Some(file) = self.file {
            return read_json(&file);
        }
        let month = match (self.included, self.price) {
            (Some(included), Some(price)) => {
                let prices = json!([{ "from": self.price_from, "micro_usd_per_call": price }]);
                json!({ "kind": "overage", "included": included, "prices": prices })
            }
            (Some(included), None) => json!({ "kind": "blocked", "included": included }),
            (None, _) => json!({ "kind": "unlimited" }),
        };
        Ok(object([
            ("name", self.name.map(Value::from)),
            ("requests_per_hour", self.requests_per_hour.map(Value::from)),
            ("fail_mode", Some(self.fail_mode.into())),
            ("month", Some(month)),
            ("monthly_fee_cents", self.monthly_fee.map(Value::from)),
            ("stripe_price", self.stripe_price.map(Value::from)),
        ]))
    }
}

impl AddVersion {
    async fn run(self, context: &mut Context) -> Result<(), Failure> {
        let Self { plan, yes, .. } = self;
        let expected = match self.expected_version {
            Some(expected) => expected,
            None => {
                let found: Plan = context
                    .client
                    .get(path(&["admin", "plans", &plan], &[]))
                    .await?;
                let numbers = found
                    .versions
                    .iter()
                    .filter_map(|version| version["version"].as_u64());
                numbers.max().unwrap_or(1)
            }
        };
        let body = json!({
            "definition": self.definition.read()?,
            "dry_run": !yes,
            "expected_version": expected,
            "takes_effect": self.takes_effect,
        });
        let mut cursor: Option<String> = None;
        let mut table = Table::new(AFFECTED);
        let mut customers = 0;
        loop {
            let path = path(
                &["admin", "plans", &plan, "versions"],
                &[("cursor", cursor.as_deref())],
            );
            let response = context
                .client
                .call(&Call::post_repeatable(path, body.to_string()))
                .await?;
            if yes || context.output.is_json {
                context.output.document(&response.body)?;
            }
            let added: Value = response.read()?;
            if let (false, Some(rows)) = (yes, added["affected"]["data"].as_array()) {
                customers += rows.len();
                if !context.output.is_json {
                    table.rows(&mut context.output, rows)?;
                }
            }
            cursor = added["affected"]["next_cursor"].as_str().map(str::to_owned);
            if cursor.is_none() {
                break;
            }
        }
        if !yes {
            crate::note(format!(
                "version {} would apply to these {customers} customers from {} on; add --yes to add it",
                expected + 1,
                self.takes_effect
            ));
        }
        Ok(())
    }
}
