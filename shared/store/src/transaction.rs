//! Transactions, with retries.

use std::borrow::Cow;
use std::time::Duration;

use aws_sdk_dynamodb::error::BuildError;
use aws_sdk_dynamodb::operation::transact_write_items::TransactWriteItemsError;
use aws_sdk_dynamodb::types::{
    AttributeValue, CancellationReason, ConditionCheck, Delete, Put,
    ReturnValuesOnConditionCheckFailure, TransactWriteItem, Update,
};
use tollgate_runtime::Entropy;

use crate::Store;
use crate::error::StoreError;
use crate::item::Item;
use crate::schema::Table;

/// DynamoDB's bound on the actions of a transaction.
pub(crate) const MAX_ACTIONS: usize = 100;
/// Tries of one transaction, the first included.
const MAX_TRIES: u32 = 8;
/// Upper bound of the random wait before the second try. It doubles before each further one.
const FIRST_WAIT: Duration = Duration::from_millis(10);
const LONGEST_WAIT: Duration = Duration::from_millis(400);

/// Codes of transient cancellation reasons.
const CONFLICT: &str = "TransactionConflict";
const THROTTLES: [&str; 2] = ["ThrottlingError", "ProvisionedThroughputExceeded"];

/// Outcome of a transaction.
pub(crate) enum Transacted {
    /// All of it took effect.
    Committed,
    /// None of it took effect, because a condition failed. One result per action, in their order.
    Cancelled(Vec<ConditionResult>),
}

/// Result of one action's condition in a cancelled transaction.
#[derive(Debug, Clone)]
pub(crate) enum ConditionResult {
    /// The condition did not fail.
    Passed,
    /// The condition failed; with the item as stored, if there was one.
    Failed(Option<Item>),
}

/// One action of a transaction.
#[derive(Clone)]
pub(crate) struct Action {
    table: Table,
    kind: Kind,
    condition: Option<Cow<'static, str>>,
    names: Vec<(String, String)>,
    values: Vec<(String, AttributeValue)>,
}

#[derive(Clone)]
enum Kind {
    Put(Item),
    Update { key: Item, expression: String },
    Delete { key: Item },
    Check { key: Item },
}

impl Action {
    pub(crate) fn put(table: Table, item: Item) -> Self {
        Self::new(table, Kind::Put(item))
    }

    pub(crate) fn update(table: Table, key: Item, expression: impl Into<String>) -> Self {
        let expression = expression.into();
        Self::new(table, Kind::Update { key, expression })
    }

    pub(crate) fn delete(table: Table, key: Item) -> Self {
        Self::new(table, Kind::Delete { key })
    }

    pub(crate) fn check(table: Table, key: Item) -> Self {
        Self::new(table, Kind::Check { key })
    }

    fn new(table: Table, kind: Kind) -> Self {
        Self {
            table,
            kind,
            condition: None,
            names: Vec::new(),
            values: Vec::new(),
        }
    }

    /// Sets the action's condition. If it fails, the whole transaction is cancelled.
    pub(crate) fn when(mut self, condition: impl Into<Cow<'static, str>>) -> Self {
        self.condition = Some(condition.into());
        self
    }

    pub(crate) fn name(mut self, placeholder: impl Into<String>, name: impl Into<String>) -> Self {
        self.names.push((placeholder.into(), name.into()));
        self
    }

    pub(crate) fn value(mut self, placeholder: impl Into<String>, value: AttributeValue) -> Self {
        self.values.push((placeholder.into(), value));
        self
    }

    fn build(self, store: &Store) -> Result<TransactWriteItem, BuildError> {
        const WITH_OLD: ReturnValuesOnConditionCheckFailure =
            ReturnValuesOnConditionCheckFailure::AllOld;
        let table = store.table(self.table);
        let condition = self.condition.map(Cow::into_owned);
        let names = (!self.names.is_empty()).then(|| self.names.into_iter().collect());
        let values = (!self.values.is_empty()).then(|| self.values.into_iter().collect());
        let action = TransactWriteItem::builder();
        let action = match self.kind {
            Kind::Put(item) => action.put(
                Put::builder()
                    .table_name(table)
                    .set_item(Some(item))
                    .set_condition_expression(condition)
                    .set_expression_attribute_names(names)
                    .set_expression_attribute_values(values)
                    .return_values_on_condition_check_failure(WITH_OLD)
                    .build()?,
            ),
            Kind::Update { key, expression } => action.update(
                Update::builder()
                    .table_name(table)
                    .set_key(Some(key))
                    .update_expression(expression)
                    .set_condition_expression(condition)
                    .set_expression_attribute_names(names)
                    .set_expression_attribute_values(values)
                    .return_values_on_condition_check_failure(WITH_OLD)
                    .build()?,
            ),
            Kind::Delete { key } => action.delete(
                Delete::builder()
                    .table_name(table)
                    .set_key(Some(key))
                    .set_condition_expression(condition)
                    .set_expression_attribute_names(names)
                    .set_expression_attribute_values(values)
                    .return_values_on_condition_check_failure(WITH_OLD)
                    .build()?,
            ),
            Kind::Check { key } => action.condition_check(
                ConditionCheck::builder()
                    .table_name(table)
                    .set_key(Some(key))
                    .set_condition_expression(condition)
                    .set_expression_attribute_names(names)
                    .set_expression_attribute_values(values)
                    .return_values_on_condition_check_failure(WITH_OLD)
                    .build()?,
            ),
        };
        Ok(action.build())
    }
}

/// Number of tries of a request, and the waits between them. Not a library's: the waits are drawn from the
/// store's `Entropy`, so that a simulation can repeat them.
pub(crate) struct Backoff {
    tries: u32,
    max_wait: Duration,
}

impl Backoff {
    /// Returns the state before the first try.
    pub(crate) fn new() -> Self {
        Self {
            tries: 1,
            max_wait: FIRST_WAIT,
        }
    }

    /// Waits before another try. Returns `false`, at once, if the number of tries is used up.
    pub(crate) async fn next_try(&mut self, entropy: &Entropy) -> bool {
        if self.tries == MAX_TRIES {
            return false;
        }
        self.tries += 1;
        let wait_ms = u64::try_from(self.max_wait.as_millis()).unwrap_or(u64::MAX);
        tokio::time::sleep(Duration::from_millis(entropy.below(wait_ms))).await;
        self.max_wait = (self.max_wait * 2).min(LONGEST_WAIT);
        true
    }
}

/// A failed try of a transaction.
pub(crate) struct FailedTry {
    pub(crate) error: StoreError,
    pub(crate) effect: Effect,
    /// Indexes of the actions on whose items another transaction was in progress.
    pub(crate) conflicts: Vec<usize>,
}

/// Effect of a failed try.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Effect {
    /// None, and a retry may succeed.
    None,
    /// All of the transaction or none of it.
    Unknown,
    /// None, and a retry would fail too.
    Permanent,
}

impl Store {
    /// Runs the actions as one transaction.
    ///
    /// A conflict with another transaction, a throttled request or a lost response is retried with the
    /// same token, so that DynamoDB does not apply a try that took effect again within ten minutes;
    /// after that, the actions' own conditions prevent it.
    pub(crate) async fn transact(
        &self,
        operation: &'static str,
        actions: Vec<Action>,
    ) -> Result<Transacted, StoreError> {
        let actions = self.build_actions(operation, actions)?;
        let token = self.transaction_token();
        let mut backoff = Backoff::new();
        loop {
            let actions = actions.clone();
            let tried = self.attempt(operation, actions, &token).await;
            let FailedTry { error, effect, .. } = match tried {
                Ok(transacted) => return Ok(transacted),
                Err(failed) => failed,
            };
            if effect == Effect::Permanent || !backoff.next_try(&self.entropy).await {
                return Err(error);
            }
        }
    }

    /// Builds the SDK's form of the actions.
    pub(crate) fn build_actions(
        &self,
        operation: &'static str,
        actions: Vec<Action>,
    ) -> Result<Vec<TransactWriteItem>, StoreError> {
        let actions = actions.into_iter().map(|action| action.build(self));
        let actions: Result<_, _> = actions.collect();
        actions.map_err(|error| StoreError::request(operation, error))
    }

    /// Returns a random id for one transaction or write, which distinguishes it from others with the
    /// same content.
    pub(crate) fn transaction_token(&self) -> String {
        self.entropy
            .with(|rng| tollgate_domain::id::random_base62(rng, 32))
    }

    /// Sends the transaction once, under this client request token.
    pub(crate) async fn attempt(
        &self,
        operation: &'static str,
        actions: Vec<TransactWriteItem>,
        token: &str,
    ) -> Result<Transacted, FailedTry> {
        let outcome = self
            .client
            .transact_write_items()
            .set_transact_items(Some(actions))
            .client_request_token(token)
            .send()
            .await;
        let Err(error) = outcome else {
            return Ok(Transacted::Committed);
        };
        let mut effect = None;
        let mut conflicts = Vec::new();
        if let Some(TransactWriteItemsError::TransactionCanceledException(cancelled)) =
            error.as_service_error()
        {
            let reasons = cancelled.cancellation_reasons();
            let results: Vec<ConditionResult> = reasons.iter().map(condition_result).collect();
            if results.iter().any(ConditionResult::is_failed) {
                return Ok(Transacted::Cancelled(results));
            }
            let codes = reasons.iter().map(|reason| reason.code());
            let of_conflicts = codes.clone().enumerate();
            let of_conflicts = of_conflicts.filter(|(_, code)| *code == Some(CONFLICT));
            conflicts.extend(of_conflicts.map(|(index, _)| index));
            let is_throttled = codes.flatten().any(|code| THROTTLES.contains(&code));
            if is_throttled || !conflicts.is_empty() {
                effect = Some(Effect::None);
            }
        }
        let error = StoreError::service(operation, error);
        Err(match effect {
            Some(effect) => FailedTry {
                error: error.transient(),
                effect,
                conflicts,
            },
            None => {
                let effect = if error.is_transient() {
                    Effect::Unknown
                } else {
                    Effect::Permanent
                };
                FailedTry {
                    error,
                    effect,
                    conflicts,
                }
            }
        })
    }
}

impl ConditionResult {
    pub(crate) fn is_failed(&self) -> bool {
        matches!(self, ConditionResult::Failed(_))
    }

    /// Returns the item that made the condition fail.
    pub(crate) fn item(&self) -> Option<&Item> {
        match self {
            ConditionResult::Failed(item) => item.as_ref(),
            ConditionResult::Passed => None,
        }
    }
}

fn condition_result(reason: &CancellationReason) -> ConditionResult {
    if reason.code() == Some("ConditionalCheckFailed") {
        ConditionResult::Failed(reason.item.clone().filter(|item| !item.is_empty()))
    } else {
        ConditionResult::Passed
    }
}
