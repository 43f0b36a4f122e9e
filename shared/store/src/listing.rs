//! Lists of the registry: keys and customers.
use tollgate_domain::page::Page;

use crate::Store;
use crate::error::StoreError;
use crate::item::{Item, Reader, s};
use crate::schema::{LISTING, REGISTRY, attr};

/// Partition of keys in [`LISTING`].
pub(crate) const KEYS: &str = "keys";
/// Partition of customers in [`LISTING`].
pub(crate) const CUSTOMERS: &str = "customers";

impl Store {
    /// Lists the items of a partition whose listing order begins with `prefix`, after the cursor `after`,
    /// at most `limit` of them. Each is returned with the cursor of its position.
    pub(crate) async fn list<T>(
        &self,
        listing: &str,
        prefix: Option<String>,
        after: Option<&str>,
        limit: usize,
        read: fn(&Item) -> Result<T, StoreError>,
    ) -> Result<Page<(String, T)>, StoreError> {
        let mut query = self
            .client
            .query()
            .table_name(self.table(REGISTRY))
            .index_name(LISTING.name)
            .expression_attribute_values(":listing", s(listing))
            .limit(i32::try_from(limit).unwrap_or(i32::MAX));
        // DynamoDB rejects an empty key, and a range whose end is before its beginning.
        let after = after.filter(|after| !after.is_empty());
        // A query takes one condition on the sort key, so a list that begins within a prefix is bounded
        // by the prefix's end instead.
        query = match (prefix, after) {
            (None, None) => query.key_condition_expression("listing = :listing"),
            (None, Some(after)) => query
                .key_condition_expression("listing = :listing AND listing_order > :after")
                .expression_attribute_values(":after", s(after)),
            (Some(prefix), None) => query
                .key_condition_expression(
                    "listing = :listing AND begins_with(listing_order, :prefix)",
                )
                .expression_attribute_values(":prefix", s(prefix)),
            (Some(prefix), Some(after))
                if after.starts_with(&prefix) && *after < *format!("{prefix}~") =>
            {
                query
                    .key_condition_expression(
                        "listing = :listing AND listing_order BETWEEN :after AND :end",
                    )
                    // BETWEEN includes its ends: NUL makes the first text after `after`, and
                    // nothing in a listing order sorts after `~`.
                    .expression_attribute_values(":after", s(format!("{after}\0")))
                    .expression_attribute_values(":end", s(format!("{prefix}~")))
            }
            (Some(_), Some(_)) => {
                return Ok(Page {
                    items: Vec::new(),
                    next: None,
                });
            }
        };
        let found = query
            .send()
            .await
            .map_err(|error| StoreError::service("listing the registry", error))?;
        let cursor = |item: &Item| {
            let order = Reader::new("listed item", item).text(attr::LISTING_ORDER)?;
            Ok(order.to_owned())
        };
        let next = found.last_evaluated_key.as_ref().map(cursor).transpose()?;
        let items = found.items.unwrap_or_default();
        let items = items
            .iter()
            .map(|item| Ok((cursor(item)?, read(item)?)))
            .collect::<Result<_, StoreError>>()?;
        Ok(Page { items, next })
    }
}
