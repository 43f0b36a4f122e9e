//! Client, output and paging of the commands over the API.

use serde::Deserialize;
use serde_json::value::RawValue;
use serde_json::{Map, Value};
use tollgate_domain::id::random_base62;
use tollgate_runtime::Entropy;

use crate::client::{Call, Client};
use crate::failure::Failure;
use crate::output::{Column, Output, Table};
use crate::text::compact;

/// Client and output of a command.
pub(crate) struct Context {
    pub(crate) client: Client,
    pub(crate) output: Output,
}

/// Page of a list.
#[derive(Deserialize)]
pub(crate) struct Page<T> {
    pub(crate) data: Vec<T>,
    #[serde(default)]
    pub(crate) next_cursor: Option<String>,
}

impl Context {
    /// Reads a resource and prints it.
    pub(crate) async fn show(&mut self, path: String) -> Result<(), Failure> {
        self.print(&Call::get(path)).await
    }

    /// Sends a request and prints the document that it returns.
    pub(crate) async fn print(&mut self, call: &Call) -> Result<(), Failure> {
        let response = self.client.call(call).await?;
        self.output.document(&response.body)
    }

    /// Prints a list as it is read, page by page: as a table, or each item as a line of JSON.
    pub(crate) async fn list(
        &mut self,
        path: &str,
        columns: &[Column],
        limit: Option<usize>,
    ) -> Result<(), Failure> {
        let mut table = Table::new(columns);
        let mut left = limit.unwrap_or(usize::MAX);
        let mut cursor: Option<String> = None;
        let mut is_empty = true;
        loop {
            let page: Page<Box<RawValue>> = self
                .client
                .get(with_cursor(path, cursor.as_deref()))
                .await?;
            let items = &page.data[..page.data.len().min(left)];
            is_empty &= items.is_empty();
            left -= items.len();
            if self.output.is_json {
                for item in items {
                    self.output.line(&compact(item.get()))?;
                }
            } else {
                let rows = items.iter().map(|item| serde_json::from_str(item.get()));
                let rows: Vec<Value> = rows.collect::<Result<_, _>>().unwrap_or_default();
                table.rows(&mut self.output, &rows)?;
            }
            self.output.flush()?;
            cursor = page.next_cursor;
            if cursor.is_none() || left == 0 {
                break;
            }
        }
        if is_empty && !self.output.is_json {
            crate::note("nothing found");
        }
        Ok(())
    }
}

/// Adds the cursor of a page to the path of a list.
pub(crate) fn with_cursor(path: &str, cursor: Option<&str>) -> String {
    let Some(cursor) = cursor else {
        return path.to_owned();
    };
    let separator = if path.contains('?') { '&' } else { '?' };
    let query = crate::client::path(&[], &[("cursor", Some(cursor))]);
    format!("{path}{separator}{}", query.trim_start_matches('?'))
}

/// Returns a JSON object of the members that are given.
pub(crate) fn object<const N: usize>(members: [(&str, Option<Value>); N]) -> Value {
    let members = members.into_iter();
    let given = members.filter_map(|(name, value)| Some((name.to_owned(), value?)));
    Value::Object(given.collect::<Map<_, _>>())
}

/// Returns the idempotency key of a creation: the given one, or a random one, with which this command can repeat it.
pub(crate) fn idempotency_key(given: Option<String>) -> Result<String, Failure> {
    if let Some(key) = given {
        return Ok(key);
    }
    let entropy = Entropy::system()
        .map_err(|error| Failure::because("the operating system provides no randomness", &error))?;
    Ok(entropy.with(|rng| random_base62(rng, 22)))
}
