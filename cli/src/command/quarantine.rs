//! `tollgate quarantine`.

use std::path::PathBuf;

use clap::Subcommand;
use serde_json::json;

use crate::client::{Call, path};
use crate::command::read_json;
use crate::context::Context;
use crate::failure::Failure;
use crate::output::{Column, text};

const COLUMNS: &[Column] = &[
    text("ID", "/id"),
    text("KIND", "/kind"),
    text("CUSTOMER", "/customer_id"),
    text("RECEIVED", "/received_at"),
    text("STATUS", "/status"),
    text("REASON", "/rejected/0/reason"),
];

#[derive(Subcommand)]
pub(crate) enum Quarantine {
    /// Lists the open quarantined items, oldest first.
    List {
        /// Most items; by default, all.
        #[arg(long, value_name = "N")]
        limit: Option<usize>,
    },
    /// Shows a quarantined item with its content.
    Get {
        /// Id.
        item: String,
    },
    /// Counts a quarantined item, once, unchanged or corrected.
    Replay {
        /// Id.
        item: String,
        /// File with the corrected usage event as JSON; `-` is standard input.
        #[arg(long, value_name = "FILE")]
        correction: Option<PathBuf>,
    },
    /// Discards a quarantined item.
    Discard {
        /// Id.
        item: String,
    },
}

impl Quarantine {
    pub(crate) async fn run(self, context: &mut Context) -> Result<(), Failure> {
        let resource = |item: &str| path(&["admin", "usage", "quarantine", item], &[]);
        match self {
            Quarantine::List { limit } => {
                let path = path(&["admin", "usage", "quarantine"], &[]);
                context.list(&path, COLUMNS, limit).await
            }
            Quarantine::Get { item } => context.show(resource(&item)).await,
            Quarantine::Replay { item, correction } => {
                let body = match correction {
                    Some(file) => json!({ "event": read_json(&file)? }),
                    None => json!({}),
                };
                let path = path(&["admin", "usage", "quarantine", &item, "replay"], &[]);
                context
                    .print(&Call::post_repeatable(path, body.to_string()))
                    .await
            }
            Quarantine::Discard { item } => {
                context.client.call(&Call::delete(resource(&item))).await?;
                crate::note(format!("item {item} is discarded"));
                Ok(())
            }
        }
    }
}
