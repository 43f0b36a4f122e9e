//! `tollgate events`.

use clap::Args;
use serde::Deserialize;
use serde_json::Value;
use serde_json::value::RawValue;

use crate::client::path;
use crate::context::Context;
use crate::failure::Failure;
use crate::output::{Column, Table, number, text};
use crate::text::compact;

const COLUMNS: &[Column] = &[
    number("NUMBER", "/number"),
    text("TIME", "/timestamp"),
    text("TYPE", "/type"),
    text("CUSTOMER", "/customer_id"),
    text("DATA", "/data"),
];

#[derive(Args)]
pub(crate) struct Events {
    /// Number of the last event that is known.
    #[arg(long, value_name = "NUMBER", default_value_t = 0)]
    after: u64,
    /// Most events; by default, all.
    #[arg(long, value_name = "N")]
    limit: Option<usize>,
}

#[derive(Deserialize)]
struct Page {
    data: Vec<Box<RawValue>>,
    next_after: u64,
}

impl Events {
    pub(crate) async fn run(self, context: &mut Context) -> Result<(), Failure> {
        let mut table = Table::new(COLUMNS);
        let (mut after, mut left) = (self.after, self.limit.unwrap_or(usize::MAX));
        let mut is_empty = true;
        while left > 0 {
            let (number, limit) = (after.to_string(), left.min(100).to_string());
            let query = [
                ("after", Some(number.as_str())),
                ("limit", Some(limit.as_str())),
            ];
            let page: Page = context
                .client
                .get(path(&["admin", "events"], &query))
                .await?;
            if page.data.is_empty() {
                break;
            }
            is_empty = false;
            left = left.saturating_sub(page.data.len());
            after = page.next_after;
            if context.output.is_json {
                for event in &page.data {
                    context.output.line(&compact(event.get()))?;
                }
            } else {
                let rows = page
                    .data
                    .iter()
                    .map(|event| serde_json::from_str(event.get()));
                let rows: Vec<Value> = rows.collect::<Result<_, _>>().unwrap_or_default();
                table.rows(&mut context.output, &rows)?;
            }
            context.output.flush()?;
        }
        if is_empty && !context.output.is_json {
            crate::note("nothing found");
        }
        Ok(())
    }
}
