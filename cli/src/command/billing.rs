//! `tollgate billing`.

use clap::Subcommand;
use serde_json::json;

use crate::client::{Call, path};
use crate::command::usage::summarised;
use crate::context::Context;
use crate::failure::Failure;
use crate::output::{Column, number, text};
use crate::proof;

const CHARGES: &[Column] = &[
    text("ID", "/id"),
    text("STATUS", "/status"),
    number("AMOUNT", "/amount"),
    number("FROM CALL", "/from_call"),
    number("TO CALL", "/to_call"),
    text("CREATED", "/created_at"),
    text("SETTLED", "/settled_at"),
    text("FAILURE", "/failure_reason"),
];

const OPEN_CHARGES: &[Column] = &[
    text("CUSTOMER", "/customer_id"),
    text("ID", "/charge/id"),
    text("STATUS", "/charge/status"),
    number("AMOUNT", "/charge/amount"),
    text("CREATED", "/charge/created_at"),
    text("NEXT TRY", "/charge/next_try"),
    text("FAILURE", "/charge/failure_reason"),
];

const UNBILLED: &[Column] = &[
    text("CUSTOMER", "/customer_id"),
    number("CALLS", "/calls"),
    number("OVERAGE", "/overage"),
    number("DUE", "/due"),
    text("REASON", "/reason"),
];

#[derive(Subcommand)]
pub(crate) enum Billing {
    /// Runs billing: writes the charges that are due to the ledger, from which the nightly run submits them.
    Run {
        /// Writes nothing, and shows what a run would charge.
        #[arg(long)]
        dry_run: bool,
    },
    /// Lists charges: of a customer's month, or of all customers in a state.
    Charges {
        /// Customer.
        #[arg(required_unless_present = "status")]
        customer: Option<String>,
        /// UTC month of the customer, such as 2026-11; by default, the current one.
        #[arg(long, value_name = "MONTH", conflicts_with = "status")]
        month: Option<String>,
        /// State, for the charges of all customers that are not settled.
        #[arg(long, conflicts_with = "customer", value_parser = ["pending", "submitted", "failed"])]
        status: Option<String>,
        /// Most charges; by default, all.
        #[arg(long, value_name = "N")]
        limit: Option<usize>,
    },
    /// Recomputes a charge from its calls, and compares these with the customer's usage events. Exits with 1 if the
    /// charge is not what its calls cost.
    Proof {
        /// Customer.
        customer: String,
        /// Id of the charge.
        charge: String,
    },
    /// Lists the customers with usage that was counted after its month had closed. With --json, prints each page as a
    /// line.
    Unbilled {
        /// UTC month, such as 2026-11; by default, the last one.
        #[arg(long, value_name = "MONTH")]
        month: Option<String>,
    },
}

impl Billing {
    pub(crate) async fn run(self, context: &mut Context) -> Result<(), Failure> {
        match self {
            Billing::Run { dry_run } => {
                let body = json!({ "dry_run": dry_run }).to_string();
                let path = path(&["admin", "billing", "run"], &[]);
                context.print(&Call::post_repeatable(path, body)).await
            }
            Billing::Charges {
                customer: Some(customer),
                month,
                limit,
                ..
            } => {
                let segments = ["admin", "customers", &customer, "charges"];
                let path = path(&segments, &[("month", month.as_deref())]);
                context.list(&path, CHARGES, limit).await
            }
            Billing::Charges { status, limit, .. } => {
                let path = path(
                    &["admin", "billing", "charges"],
                    &[("status", status.as_deref())],
                );
                context.list(&path, OPEN_CHARGES, limit).await
            }
            Billing::Proof { customer, charge } => proof::run(context, &customer, &charge).await,
            Billing::Unbilled { month } => {
                let path = path(
                    &["admin", "billing", "unbilled"],
                    &[("month", month.as_deref())],
                );
                summarised(context, &path, UNBILLED).await
            }
        }
    }
}
