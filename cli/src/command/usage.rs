//! `tollgate usage`.

use std::path::PathBuf;

use clap::{Args, Subcommand};
use serde_json::value::RawValue;

use crate::client::{Call, path};
use crate::command::read_input;
use crate::context::{Context, with_cursor};
use crate::failure::Failure;
use crate::output::{Column, Table, number, text};
use crate::report::{Reported, report};

const EVENTS: &[Column] = &[
    text("DAY", "/day"),
    number("RECORDS", "/records"),
    text("TYPE", "/event/type"),
    text("SOURCE", "/event/source"),
    text("ID", "/event/id"),
    text("TIME", "/event/time"),
];

const ADJUSTMENTS: &[Column] = &[
    text("TIME", "/time"),
    text("PLAN", "/plan"),
    number("BILLABLE CALLS", "/billable_calls"),
    number("COST", "/cost"),
    text("SOURCE", "/source"),
    text("ID", "/id"),
    text("RECEIVED", "/received_at"),
    text("REASON", "/reason"),
];

const DISCREPANCIES: &[Column] = &[
    text("CUSTOMER", "/customer_id"),
    number("ADMITTED", "/admitted"),
    number("METERED", "/metered"),
    number("METERED NOW", "/metered_now"),
    text("SILENT", "/silent"),
];

#[derive(Subcommand)]
pub(crate) enum Usage {
    /// Lists the counted usage events of a customer, by day.
    Events(Events),
    /// Lists the adjustments of a customer's month.
    Adjustments {
        /// Customer.
        customer: String,
        /// UTC month, such as 2026-11; by default, the current one.
        #[arg(long, value_name = "MONTH")]
        month: Option<String>,
        /// Most adjustments; by default, all.
        #[arg(long, value_name = "N")]
        limit: Option<usize>,
    },
    /// Shows the reconciliation of admitted with metered calls. With --json, prints each page as a line.
    Reconciliation {
        /// UTC day, such as 2026-11-22; by default, the last one that was reconciled.
        #[arg(long, value_name = "DAY")]
        day: Option<String>,
    },
    /// Counts usage events of a file, each at most once ever: the file can be sent again after a failure.
    ReportEvents {
        /// File with a usage event on each line; `-` is standard input.
        file: PathBuf,
    },
}

#[derive(Args)]
pub(crate) struct Events {
    /// Customer.
    customer: String,
    /// First UTC day, such as 2026-11-22; by default, today.
    #[arg(long, value_name = "DAY")]
    from: Option<String>,
    /// Last UTC day; by default, today.
    #[arg(long, value_name = "DAY")]
    to: Option<String>,
    /// Most usage events; by default, all.
    #[arg(long, value_name = "N")]
    limit: Option<usize>,
}

impl Usage {
    pub(crate) async fn run(self, context: &mut Context) -> Result<(), Failure> {
        match self {
            Usage::Events(events) => {
                let query = [
                    ("customer_id", Some(events.customer.as_str())),
                    ("from", events.from.as_deref()),
                    ("to", events.to.as_deref()),
                ];
                let path = path(&["admin", "usage", "events"], &query);
                context.list(&path, EVENTS, events.limit).await
            }
            Usage::Adjustments {
                customer,
                month,
                limit,
            } => {
                let segments = ["admin", "customers", &customer, "adjustments"];
                let path = path(&segments, &[("month", month.as_deref())]);
                context.list(&path, ADJUSTMENTS, limit).await
            }
            Usage::Reconciliation { day } => {
                let path = path(
                    &["admin", "usage", "reconciliation"],
                    &[("day", day.as_deref())],
                );
                summarised(context, &path, DISCREPANCIES).await
            }
            Usage::ReportEvents { file } => {
                let text = read_input(&file)?;
                let mut events = Vec::new();
                for (at, line) in text.lines().enumerate() {
                    if line.trim().is_empty() {
                        continue;
                    }
                    let line = line.trim();
                    let event: Box<RawValue> = serde_json::from_str(line).map_err(|error| {
                        Failure::because(
                            format!("line {} is not a usage event; nothing was sent", at + 1),
                            &error,
                        )
                    })?;
                    events.push(Reported {
                        origin: format!("line {}", at + 1),
                        event,
                    });
                }
                report(context, &events).await
            }
        }
    }
}

/// Prints a list that has more than its items: first that, and then the items of all pages.
pub(crate) async fn summarised(
    context: &mut Context,
    path: &str,
    columns: &[Column],
) -> Result<(), Failure> {
    let mut table = Table::new(columns);
    let mut cursor: Option<String> = None;
    loop {
        let page = with_cursor(path, cursor.as_deref());
        let response = context.client.call(&Call::get(page)).await?;
        let mut page: serde_json::Value = response.read()?;
        let next = page["next_cursor"].as_str().map(str::to_owned);
        if context.output.is_json {
            context.output.document(&response.body)?;
        } else {
            let rows = page["data"].take();
            if let (None, Some(members)) = (&cursor, page.as_object_mut()) {
                members.retain(|name, _| name != "data" && name != "next_cursor");
                context.output.details(&page)?;
            }
            let rows = rows.as_array().map_or(&[][..], Vec::as_slice);
            if cursor.is_none() && !rows.is_empty() {
                context.output.line("")?;
            }
            table.rows(&mut context.output, rows)?;
        }
        cursor = next;
        if cursor.is_none() {
            return Ok(());
        }
    }
}
