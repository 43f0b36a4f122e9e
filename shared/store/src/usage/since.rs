//! The time since which all releases that count usage put claims.

use std::sync::{Arc, Mutex, PoisonError};

use aws_sdk_dynamodb::operation::put_item::PutItemError;
use aws_sdk_dynamodb::types::Select;
use jiff::{SignedDuration, Timestamp};

use crate::Store;
use crate::error::StoreError;
use crate::item::{Item, Reader, keys, s, t};
use crate::schema::USAGE_LOG;

/// Partition key of the item with the time. It is in a table of which earlier releases read no item that they did not write.
const SINCE_PK: &str = "#CLAIMS_SINCE";
const SINCE_SK: &str = "#";
const BEGINNING: &str = "beginning claims";
/// Attribute with the time.
const SINCE: &str = "since";
/// Time after a deployment in which instances of the release before it may still count usage.
const DEPLOYING: SignedDuration = SignedDuration::from_hours(24);
/// Absent: concurrent deployments write one time.
const IS_FIRST: &str = "attribute_not_exists(pk)";

/// The time, once this instance has read it. Clones share it.
#[derive(Debug, Clone, Default)]
pub(crate) struct ClaimsSince(Arc<Mutex<Option<Timestamp>>>);

fn item(since: Timestamp) -> Item {
    let mut item = keys(SINCE_PK, SINCE_SK);
    item.insert(SINCE.into(), t(since));
    item
}

impl Store {
    /// Says since when claims are put, before the first of the functions that put them is created: for ever, if no usage
    /// was counted before, or from some time on.
    pub(crate) async fn begin_claims(&self) -> Result<(), StoreError> {
        if self.claims_since().await?.is_some() {
            return Ok(());
        }
        let found = self
            .client
            .scan()
            .table_name(self.table(USAGE_LOG))
            .select(Select::SpecificAttributes)
            .projection_expression("pk, sk")
            .consistent_read(true)
            .limit(1)
            .send()
            .await
            .map_err(|error| StoreError::service(BEGINNING, error))?;
        let since = match found.items().is_empty() {
            true => Timestamp::UNIX_EPOCH,
            false => self.after_deployment(),
        };
        let put = self
            .client
            .put_item()
            .table_name(self.table(USAGE_LOG))
            .set_item(Some(item(since)))
            .condition_expression(IS_FIRST)
            .send()
            .await;
        match put {
            Ok(_) => Ok(()),
            Err(error) => match error.as_service_error() {
                Some(PutItemError::ConditionalCheckFailedException(_)) => Ok(()),
                _ => Err(StoreError::service(BEGINNING, error)),
            },
        }
    }

    /// Says since when claims are put, before this release replaces an earlier one. That may be for a second time, because
    /// a deployment that fails is rolled back; what the earlier release counted in between, it counted without claims.
    ///
    /// # Errors
    /// When the store fails; the time may then be stored.
    pub async fn begin_claims_again(&self) -> Result<(), StoreError> {
        let since = self.after_deployment();
        self.client
            .put_item()
            .table_name(self.table(USAGE_LOG))
            .set_item(Some(item(since)))
            .send()
            .await
            .map_err(|error| StoreError::service(BEGINNING, error))?;
        *self.claims_since.lock() = Some(since);
        Ok(())
    }

    /// Returns the time after which no instance of an earlier release counts usage.
    fn after_deployment(&self) -> Timestamp {
        let now = self.clock.now();
        now.saturating_add(DEPLOYING).unwrap_or(now)
    }

    /// Returns the time since which all releases put claims, if it is known.
    pub(crate) async fn claims_since(&self) -> Result<Option<Timestamp>, StoreError> {
        let known = *self.claims_since.lock();
        if known.is_some() {
            return Ok(known);
        }
        let found = self.query_all(
            "reading the time of claims",
            USAGE_LOG,
            "pk = :pk",
            [(":pk", s(SINCE_PK))],
        );
        let found = found.await?;
        let since = found.first();
        let since = since.map(|item| Reader::new("claims", item).parsed(SINCE));
        let since = since.transpose()?;
        *self.claims_since.lock() = since;
        Ok(since)
    }
}

impl ClaimsSince {
    fn lock(&self) -> std::sync::MutexGuard<'_, Option<Timestamp>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
