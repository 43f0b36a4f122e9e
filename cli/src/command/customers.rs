//! `tollgate customers`.

use clap::{Args, Subcommand};
use serde_json::{Value, json};

use crate::client::{Call, path};
use crate::command::OrNone;
use crate::context::{Context, idempotency_key, object};
use crate::failure::Failure;
use crate::output::{Column, text};

const COLUMNS: &[Column] = &[
    text("ID", "/id"),
    text("PLAN", "/plan"),
    text("ENABLED", "/enabled"),
    text("CREATED", "/created_at"),
    text("ERASED", "/erased_at"),
    text("UNPAID SINCE", "/unpaid/since"),
    text("STRIPE CUSTOMER", "/stripe/customer"),
    text("NAME", "/name"),
];

#[derive(Subcommand)]
pub(crate) enum Customers {
    /// Lists customers by id.
    List {
        /// Most customers; by default, all.
        #[arg(long, value_name = "N")]
        limit: Option<usize>,
    },
    /// Shows a customer.
    Get {
        /// Id.
        customer: String,
    },
    /// Creates a customer.
    Create(Create),
    /// Changes a customer.
    Update(Update),
    /// Shows what an erasure of a customer's personal data would do; with --yes, does it. It cannot be undone.
    Erase {
        /// Id.
        customer: String,
        /// Erases.
        #[arg(long)]
        yes: bool,
    },
}

#[derive(Args)]
pub(crate) struct Create {
    /// Id; a random one if absent.
    customer: Option<String>,
    /// Plan.
    #[arg(long, value_name = "ID")]
    plan: String,
    /// Name, for people.
    #[arg(long)]
    name: Option<String>,
    /// E-mail address.
    #[arg(long, value_name = "ADDRESS")]
    email: Option<String>,
    /// Key under which the creation can be repeated within a day, and has one effect.
    #[arg(long, value_name = "TEXT")]
    idempotency_key: Option<String>,
}

#[derive(Args)]
pub(crate) struct Update {
    /// Id.
    customer: String,
    /// Plan.
    #[arg(long, value_name = "ID")]
    plan: Option<String>,
    /// Name, for people.
    #[arg(long)]
    name: Option<String>,
    /// E-mail address, or `none`.
    #[arg(long, value_name = "ADDRESS")]
    email: Option<OrNone<String>>,
    /// Pins the customer to a version of a plan, or with `none` lets it follow the plan again.
    #[arg(long, value_name = "VERSION", requires_all = ["pin_plan", "pin_from"])]
    pin: Option<OrNone<u64>>,
    /// Plan of the pin.
    #[arg(long, value_name = "ID", requires = "pin")]
    pin_plan: Option<String>,
    /// First month of the pin, such as 2026-12.
    #[arg(long, value_name = "MONTH", requires = "pin")]
    pin_from: Option<String>,
    /// Stripe customer to link, or `none`.
    #[arg(long, value_name = "ID")]
    stripe_customer: Option<OrNone<String>>,
    /// Subscription of the Stripe customer; none if absent.
    #[arg(long, value_name = "ID", requires = "stripe_customer")]
    stripe_subscription: Option<String>,
    /// Suspends the customer.
    #[arg(long, conflicts_with = "enable")]
    suspend: bool,
    /// Ends the suspension of the customer.
    #[arg(long)]
    enable: bool,
}

impl Customers {
    pub(crate) async fn run(self, context: &mut Context) -> Result<(), Failure> {
        let resource = |id: &str| path(&["admin", "customers", id], &[]);
        match self {
            Customers::List { limit } => {
                let path = path(&["admin", "customers"], &[]);
                context.list(&path, COLUMNS, limit).await
            }
            Customers::Get { customer } => context.show(resource(&customer)).await,
            Customers::Create(create) => {
                let body = object([
                    ("id", create.customer.map(Value::from)),
                    ("plan", Some(create.plan.into())),
                    ("name", create.name.map(Value::from)),
                    ("email", create.email.map(Value::from)),
                ]);
                let key = idempotency_key(create.idempotency_key)?;
                let call = Call::post(path(&["admin", "customers"], &[]), &body);
                context.print(&call.with_idempotency_key(key)).await
            }
            Customers::Update(update) => {
                let path = resource(&update.customer);
                context.print(&Call::patch(path, &update.patch()?)).await
            }
            Customers::Erase { customer, yes } => {
                let dry_run = if yes { "false" } else { "true" };
                let path = path(
                    &["admin", "customers", &customer],
                    &[("dry_run", Some(dry_run))],
                );
                context.print(&Call::delete(path)).await?;
                if !yes {
                    crate::note("nothing was erased; add --yes to erase, irrecoverably");
                }
                Ok(())
            }
        }
    }
}

impl Update {
    fn patch(self) -> Result<Value, Failure> {
        let enabled = (self.suspend || self.enable).then_some(self.enable);
        let pin = self.pin.map(|version| {
            json!({ "plan": self.pin_plan, "version": version.patch(), "from": self.pin_from })
        });
        let subscription = self.stripe_subscription;
        let stripe = self.stripe_customer.map(|OrNone(customer)| match customer {
            Some(customer) => json!({ "customer": customer, "subscription": subscription }),
            None => Value::Null,
        });
        let patch = object([
            ("plan", self.plan.map(Value::from)),
            ("name", self.name.map(Value::from)),
            ("email", self.email.map(OrNone::patch)),
            ("pin", pin),
            ("stripe", stripe),
            ("enabled", enabled.map(Value::from)),
        ]);
        if patch == json!({}) {
            return Err(Failure::usage(
                "name a change of the customer: see tollgate customers update --help",
            ));
        }
        Ok(patch)
    }
}
