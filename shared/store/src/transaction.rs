//! Transactions, retried until they come to an answer.

use std::time::Duration;

use aws_sdk_dynamodb::error::BuildError;
use aws_sdk_dynamodb::operation::transact_write_items::TransactWriteItemsError;
use aws_sdk_dynamodb::types::{
    AttributeValue, CancellationReason, ConditionCheck, Put, ReturnValuesOnConditionCheckFailure,
    TransactWriteItem, Update,
};

use crate::Store;
use crate::error::StoreError;
use crate::item::Item;
use crate::schema::Table;

/// Tries of one transaction, the first included.
const MAX_TRIES: u32 = 8;
/// The longest wait before the second try; each further one may take twice as long.
const FIRST_WAIT: Duration = Duration::from_millis(10);
const LONGEST_WAIT: Duration = Duration::from_millis(400);

/// How a transaction ended.
pub(crate) enum Transacted {
    /// All of it took effect.
    Done,
    /// None of it did. What stopped each action, in their order.
    Refused(Vec<Refusal>),
}

/// What stopped one action of a transaction.
#[derive(Debug, Clone)]
pub(crate) enum Refusal {
    /// Nothing.
    None,
    /// Its condition; with the item as it stood, if there was one.
    Condition(Option<Item>),
}

/// One action of a transaction.
pub(crate) struct Action {
    table: Table,
    kind: Kind,
    condition: Option<&'static str>,
    names: Vec<(String, String)>,
    values: Vec<(String, AttributeValue)>,
}

enum Kind {
    Put(Item),
    Update { key: Item, expression: String },
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

    /// The condition without which the transaction is refused.
    pub(crate) fn when(mut self, condition: &'static str) -> Self {
        self.condition = Some(condition);
        self
    }

    /// Adds a `SET` of one attribute to an update.
    pub(crate) fn also_set(mut self, attribute: &str, value: AttributeValue) -> Self {
        if let Kind::Update { expression, .. } = &mut self.kind {
            expression.push_str(&format!(" SET #{attribute} = :{attribute}"));
        }
        self.name(format!("#{attribute}"), attribute)
            .value(format!(":{attribute}"), value)
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
        let condition = self.condition.map(str::to_owned);
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

impl Store {
    /// Runs the actions as one transaction.
    ///
    /// A conflict with another transaction, a throttle or a lost answer is retried with the same
    /// token, so that a try that did take effect is not made again within ten minutes; the
    /// actions' own conditions guard them after that.
    pub(crate) async fn transact(
        &self,
        operation: &'static str,
        actions: Vec<Action>,
    ) -> Result<Transacted, StoreError> {
        let actions: Vec<TransactWriteItem> = actions
            .into_iter()
            .map(|action| action.build(self))
            .collect::<Result<_, _>>()
            .map_err(|error| StoreError::request(operation, error))?;
        let token = self
            .entropy
            .with(|rng| tollgate_domain::id::random_base62(rng, 32));
        let mut longest = FIRST_WAIT;
        let mut tries = 0;
        loop {
            tries += 1;
            let outcome = self
                .client
                .transact_write_items()
                .set_transact_items(Some(actions.clone()))
                .client_request_token(&token)
                .send()
                .await;
            let Err(error) = outcome else {
                return Ok(Transacted::Done);
            };
            let mut passing = false;
            if let Some(TransactWriteItemsError::TransactionCanceledException(cancelled)) =
                error.as_service_error()
            {
                let reasons = cancelled.cancellation_reasons();
                let refusals: Vec<Refusal> = reasons.iter().map(refusal).collect();
                if refusals.iter().any(Refusal::is_condition) {
                    return Ok(Transacted::Refused(refusals));
                }
                passing = reasons.iter().any(is_passing);
            }
            let failure = StoreError::service(operation, error);
            if tries == MAX_TRIES || !(passing || failure.is_transient()) {
                return Err(if passing {
                    failure.transient()
                } else {
                    failure
                });
            }
            let wait_ms = u64::try_from(longest.as_millis()).unwrap_or(u64::MAX);
            tokio::time::sleep(Duration::from_millis(self.entropy.below(wait_ms))).await;
            longest = (longest * 2).min(LONGEST_WAIT);
        }
    }
}

impl Refusal {
    pub(crate) fn is_condition(&self) -> bool {
        matches!(self, Refusal::Condition(_))
    }

    /// The item that made the condition fail.
    pub(crate) fn item(&self) -> Option<&Item> {
        match self {
            Refusal::Condition(item) => item.as_ref(),
            Refusal::None => None,
        }
    }
}

fn refusal(reason: &CancellationReason) -> Refusal {
    if reason.code() == Some("ConditionalCheckFailed") {
        Refusal::Condition(reason.item.clone().filter(|item| !item.is_empty()))
    } else {
        Refusal::None
    }
}

/// Whether a reason for which a transaction was cancelled passes by itself.
fn is_passing(reason: &CancellationReason) -> bool {
    matches!(
        reason.code(),
        Some("TransactionConflict" | "ThrottlingError" | "ProvisionedThroughputExceeded")
    )
}
