//! Transactions, retried until they come to an answer.

use std::time::Duration;

use aws_sdk_dynamodb::error::BuildError;
use aws_sdk_dynamodb::operation::transact_write_items::TransactWriteItemsError;
use aws_sdk_dynamodb::types::{
    AttributeValue, CancellationReason, ConditionCheck, Put, ReturnValuesOnConditionCheckFailure,
    TransactWriteItem, Update,
};
use tollgate_runtime::Entropy;

use crate::Store;
use crate::error::StoreError;
use crate::item::Item;
use crate::schema::Table;

/// Tries of one transaction, the first included.
const MAX_TRIES: u32 = 8;
/// The longest wait before the second try; each further one may take twice as long.
const FIRST_WAIT: Duration = Duration::from_millis(10);
const LONGEST_WAIT: Duration = Duration::from_millis(400);

/// Reasons for which a transaction is cancelled that pass by themselves.
const CONFLICT: &str = "TransactionConflict";
const THROTTLES: [&str; 2] = ["ThrottlingError", "ProvisionedThroughputExceeded"];

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

/// How often, and how long after one another, a transaction is tried.
pub(crate) struct Backoff {
    tries: u32,
    longest: Duration,
}

impl Backoff {
    /// Before the first try.
    pub(crate) fn new() -> Self {
        Self {
            tries: 1,
            longest: FIRST_WAIT,
        }
    }

    /// Waits before another try. False if there were enough.
    pub(crate) async fn another(&mut self, entropy: &Entropy) -> bool {
        if self.tries == MAX_TRIES {
            return false;
        }
        self.tries += 1;
        let wait_ms = u64::try_from(self.longest.as_millis()).unwrap_or(u64::MAX);
        tokio::time::sleep(Duration::from_millis(entropy.below(wait_ms))).await;
        self.longest = (self.longest * 2).min(LONGEST_WAIT);
        true
    }
}

/// A try of a transaction that came to no answer.
pub(crate) struct Unsettled {
    pub(crate) error: StoreError,
    pub(crate) effect: Effect,
}

/// What an unsettled try has done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Effect {
    /// Nothing: another transaction was at one of its items.
    Conflict,
    /// Nothing, and the same again may succeed.
    None,
    /// Nothing or all of it.
    Unknown,
    /// Nothing, and the same again would fare no better.
    Never,
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
        let actions = self.built(operation, actions)?;
        let token = self.transaction_token();
        let mut backoff = Backoff::new();
        loop {
            let again = actions.clone();
            let Unsettled { error, effect } = match self.attempt(operation, again, &token).await {
                Ok(transacted) => return Ok(transacted),
                Err(unsettled) => unsettled,
            };
            if effect == Effect::Never || !backoff.another(&self.entropy).await {
                return Err(error);
            }
        }
    }

    /// The actions as the SDK has them.
    pub(crate) fn built(
        &self,
        operation: &'static str,
        actions: Vec<Action>,
    ) -> Result<Vec<TransactWriteItem>, StoreError> {
        let actions = actions.into_iter().map(|action| action.build(self));
        let actions: Result<_, _> = actions.collect();
        actions.map_err(|error| StoreError::request(operation, error))
    }

    /// What tells a transaction from others that look like it.
    pub(crate) fn transaction_token(&self) -> String {
        self.entropy
            .with(|rng| tollgate_domain::id::random_base62(rng, 32))
    }

    /// Tries the transaction of this token once.
    pub(crate) async fn attempt(
        &self,
        operation: &'static str,
        actions: Vec<TransactWriteItem>,
        token: &str,
    ) -> Result<Transacted, Unsettled> {
        let outcome = self
            .client
            .transact_write_items()
            .set_transact_items(Some(actions))
            .client_request_token(token)
            .send()
            .await;
        let Err(error) = outcome else {
            return Ok(Transacted::Done);
        };
        let mut effect = None;
        if let Some(TransactWriteItemsError::TransactionCanceledException(cancelled)) =
            error.as_service_error()
        {
            let reasons = cancelled.cancellation_reasons();
            let refusals: Vec<Refusal> = reasons.iter().map(refusal).collect();
            if refusals.iter().any(Refusal::is_condition) {
                return Ok(Transacted::Refused(refusals));
            }
            let has = |code| reasons.iter().any(|reason| reason.code() == Some(code));
            if has(CONFLICT) {
                effect = Some(Effect::Conflict);
            } else if THROTTLES.iter().any(|code| has(code)) {
                effect = Some(Effect::None);
            }
        }
        let error = StoreError::service(operation, error);
        Err(match effect {
            Some(effect) => Unsettled {
                error: error.transient(),
                effect,
            },
            None => {
                let effect = if error.is_transient() {
                    Effect::Unknown
                } else {
                    Effect::Never
                };
                Unsettled { error, effect }
            }
        })
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
