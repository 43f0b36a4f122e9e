//! Calls counted in windows, never beyond a limit.

use aws_sdk_dynamodb::config::retry::RetryConfig;
use aws_sdk_dynamodb::types::{AttributeValue, ReturnValue};
use jiff::{SignedDuration, Timestamp};
use tollgate_domain::decision::Counted;
use tollgate_domain::id::{CustomerId, KeyId};
use tollgate_domain::plan::Limits;
use tollgate_domain::window::{Hour, Month};
use tollgate_runtime::Chain;

use crate::error::StoreError;
use crate::item::{Reader, n, ttl};
use crate::schema::{COUNTERS, attr};
use crate::{Store, item};

/// How long a counter outlives its window. It must not vanish while a clock that is behind still
/// counts in it.
const KEPT_AFTER_WINDOW: SignedDuration = SignedDuration::from_hours(48);

/// A counter: its key, and when its item may go.
struct Counter {
    pk: String,
    expires: AttributeValue,
}

impl Counter {
    fn of_hour(key: &KeyId, hour: Hour) -> Self {
        Self::new(format!("HOUR#{key}#{hour}"), hour.end())
    }

    fn of_month(customer: &CustomerId, month: Month) -> Self {
        Self::new(format!("MONTH#{customer}#{month}"), month.end())
    }

    fn new(pk: String, end: Timestamp) -> Self {
        let expires = end.saturating_add(KEPT_AFTER_WINDOW).unwrap_or(end);
        Self {
            pk,
            expires: ttl(expires),
        }
    }

    fn key(&self) -> item::Item {
        item::key(&self.pk)
    }
}

impl Store {
    /// Counts one call, made at `now` with `key` of `customer`, in its hour and its month: in
    /// both, or, if either is full, in neither.
    ///
    /// The hour is counted first and given back if the month is full, so that of any number of
    /// concurrent calls exactly as many pass as the smaller remainder allows. A failure between
    /// the two writes leaves the hour counted, which refuses a call too many rather than admitting
    /// one.
    ///
    /// # Errors
    /// When the store does not answer; the call may then have been counted.
    pub async fn count_call(
        &self,
        key: &KeyId,
        customer: &CustomerId,
        limits: Limits,
        now: Timestamp,
    ) -> Result<Counted, StoreError> {
        let hour = Counter::of_hour(key, Hour::containing(now));
        let month = Counter::of_month(customer, Month::containing(now));
        let Some(in_hour) = self.count(&hour, Some(limits.per_hour)).await? else {
            return Ok(Counted::HourFull);
        };
        match self.count(&month, limits.per_month).await? {
            Some(in_month) => Ok(Counted::Both { in_hour, in_month }),
            None => {
                self.uncount(&hour).await;
                Ok(Counted::MonthFull)
            }
        }
    }

    /// Calls of `customer` that were admitted in `month`.
    ///
    /// # Errors
    /// When the store does not answer.
    pub async fn admitted(&self, customer: &CustomerId, month: Month) -> Result<u64, StoreError> {
        let found = self
            .client
            .get_item()
            .table_name(self.table(COUNTERS))
            .set_key(Some(Counter::of_month(customer, month).key()))
            .consistent_read(true)
            .send()
            .await
            .map_err(|error| StoreError::service("reading a counter", error))?;
        match &found.item {
            None => Ok(0),
            Some(item) => Reader::new("counter", item).number(attr::USED),
        }
    }

    /// Adds one to the counter and returns the sum, or `None` if that would exceed the limit.
    ///
    /// The SDK repeats the write when an answer is lost. If the first try did count, the repeat
    /// counts again: the counter is then one too high, and never too low.
    async fn count(
        &self,
        counter: &Counter,
        limit: Option<u64>,
    ) -> Result<Option<u64>, StoreError> {
        // An absent counter stands for 0 and passes the condition below, which is wrong for one
        // limit alone.
        if limit == Some(0) {
            return Ok(None);
        }
        let mut request = self
            .client
            .update_item()
            .table_name(self.table(COUNTERS))
            .set_key(Some(counter.key()))
            .update_expression("SET used = if_not_exists(used, :none) + :one, expires = :expires")
            .expression_attribute_values(":none", n(0))
            .expression_attribute_values(":one", n(1))
            .expression_attribute_values(":expires", counter.expires.clone())
            .return_values(ReturnValue::UpdatedNew);
        if let Some(limit) = limit {
            request = request
                // The first call of a window finds no counter. After that the count must be below
                // the limit at the instant of the write, whoever else is counting.
                .condition_expression("attribute_not_exists(used) OR used < :limit")
                .expression_attribute_values(":limit", n(limit));
        }
        match request.send().await {
            Ok(updated) => {
                let counted = updated.attributes.unwrap_or_default();
                Reader::new("counter", &counted)
                    .number(attr::USED)
                    .map(Some)
            }
            Err(error)
                if error
                    .as_service_error()
                    .is_some_and(|e| e.is_conditional_check_failed_exception()) =>
            {
                Ok(None)
            }
            Err(error) => Err(StoreError::service("counting a call", error)),
        }
    }

    /// Takes back what [`count`](Self::count) added.
    ///
    /// Tried once: a repeat after a lost answer could take back twice and so admit a call too
    /// many. What is not taken back stays counted.
    async fn uncount(&self, counter: &Counter) {
        let once = aws_sdk_dynamodb::Config::builder().retry_config(RetryConfig::disabled());
        let outcome = self
            .client
            .update_item()
            .table_name(self.table(COUNTERS))
            .set_key(Some(counter.key()))
            .update_expression("SET used = used - :one")
            // Never below zero, and never on a counter that has expired and gone.
            .condition_expression("used >= :one")
            .expression_attribute_values(":one", n(1))
            .customize()
            .config_override(once)
            .send()
            .await;
        if let Err(error) = outcome {
            let error = StoreError::service("giving back a call", error);
            tracing::warn!(error = %Chain(&error), "a refused call stays counted in its hour");
        }
    }
}
