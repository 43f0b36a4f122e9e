//! `tollgate webhooks`.

use clap::Subcommand;
use serde_json::{Value, json};

use crate::client::{Call, path};
use crate::context::{Context, object};
use crate::failure::Failure;
use crate::output::{Column, text};

const COLUMNS: &[Column] = &[
    text("ID", "/id"),
    text("URL", "/url"),
    text("TYPES", "/types"),
    text("CREATED", "/created_at"),
    text("DISABLED", "/disabled_at"),
    text("LAST FAILURE", "/last_failure/at"),
    text("REASON", "/last_failure/reason"),
];

#[derive(Subcommand)]
pub(crate) enum Webhooks {
    /// Lists webhooks.
    List,
    /// Creates a webhook, to which events are sent from now on, and prints its secret on standard output, once.
    Create {
        /// Address, which begins with https://.
        url: String,
        /// Type of event to send; can be repeated. By default, all.
        #[arg(long = "type", value_name = "TYPE")]
        types: Vec<String>,
    },
    /// Deletes a webhook.
    Delete {
        /// Id.
        webhook: String,
    },
}

impl Webhooks {
    pub(crate) async fn run(self, context: &mut Context) -> Result<(), Failure> {
        let all = path(&["admin", "webhooks"], &[]);
        match self {
            Webhooks::List => context.list(&all, COLUMNS, None).await,
            Webhooks::Create { url, types } => {
                let types = (!types.is_empty()).then(|| json!(types));
                let body = object([("url", Some(url.into())), ("types", types)]);
                let response = context.client.call(&Call::post(all, &body)).await?;
                if context.output.is_json {
                    return context.output.document(&response.body);
                }
                let created: Value = response.read()?;
                let member = |name: &str| created[name].as_str().unwrap_or_default();
                let (id, url) = (member("id"), member("url"));
                crate::note(format!(
                    "webhook {id} to {url}; its secret, shown only once:"
                ));
                context.output.line(member("secret"))
            }
            Webhooks::Delete { webhook } => {
                let path = path(&["admin", "webhooks", &webhook], &[]);
                context.client.call(&Call::delete(path)).await?;
                crate::note(format!("webhook {webhook} is deleted"));
                Ok(())
            }
        }
    }
}
