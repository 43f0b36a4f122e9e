//! Reads and writes of single items of the registry table.

use std::collections::HashMap;

use aws_sdk_dynamodb::operation::update_item::UpdateItemError;
use aws_sdk_dynamodb::types::{AttributeValue, ReturnValue, ReturnValuesOnConditionCheckFailure};
use jiff::Timestamp;

use crate::error::StoreError;
use crate::item::{Item, t};
use crate::schema::REGISTRY;
use crate::transaction::Action;
use crate::{Store, item};

/// Returns the put of an item that must not exist yet.
pub(crate) fn put_if_absent(item: Item) -> Action {
    // Absent: of two items with the same key, the first stays.
    Action::put(REGISTRY, item).when("attribute_not_exists(pk)")
}

/// Clauses of an update expression.
#[derive(Default)]
pub(crate) struct Changes {
    set: Vec<String>,
    remove: Vec<String>,
    names: HashMap<String, String>,
    values: HashMap<String, AttributeValue>,
}

impl Changes {
    /// Sets an attribute, or removes it if `value` is `None`.
    pub(crate) fn apply(&mut self, attribute: &str, value: Option<AttributeValue>) {
        self.apply_as(attribute, value, format!(":{attribute}"));
    }

    /// Sets or removes the timestamp of the beginning of a state. A timestamp that is already stored is
    /// not overwritten.
    pub(crate) fn apply_since(&mut self, attribute: &str, since: Option<Timestamp>) {
        let first = format!("if_not_exists(#{attribute}, :{attribute})");
        self.apply_as(attribute, since.map(t), first);
    }

    /// Removes an attribute.
    pub(crate) fn remove(&mut self, attribute: &str) {
        self.names
            .insert(format!("#{attribute}"), attribute.to_owned());
        let removed = format!("#{attribute}");
        if !self.remove.contains(&removed) {
            self.remove.push(removed);
        }
    }

    /// Adds a clause to the condition: an attribute has this value, or `None`, no value.
    pub(crate) fn expect(
        &mut self,
        attribute: &str,
        value: Option<AttributeValue>,
        condition: &mut String,
    ) {
        self.names
            .insert(format!("#{attribute}"), attribute.to_owned());
        match value {
            Some(value) => {
                condition.push_str(&format!(" AND #{attribute} = :{attribute}_before"));
                self.value(&format!(":{attribute}_before"), value);
            }
            None => condition.push_str(&format!(" AND attribute_not_exists(#{attribute})")),
        }
    }

    /// Adds a value for the condition.
    pub(crate) fn value(&mut self, placeholder: &str, value: AttributeValue) {
        self.values.insert(placeholder.to_owned(), value);
    }

    fn apply_as(&mut self, attribute: &str, value: Option<AttributeValue>, set_to: String) {
        match value {
            Some(value) => {
                self.names
                    .insert(format!("#{attribute}"), attribute.to_owned());
                self.set.push(format!("#{attribute} = {set_to}"));
                self.values.insert(format!(":{attribute}"), value);
            }
            None => self.remove(attribute),
        }
    }

    /// Returns the update of an item as an action of a transaction.
    pub(crate) fn into_action(self, key: String, condition: String) -> Action {
        let mut action =
            Action::update(REGISTRY, item::key(key), self.expression()).when(condition);
        for (placeholder, name) in self.names {
            action = action.name(placeholder, name);
        }
        for (placeholder, value) in self.values {
            action = action.value(placeholder, value);
        }
        action
    }

    fn expression(&self) -> String {
        let clause = |verb: &str, parts: &[String]| match parts {
            [] => String::new(),
            parts => format!("{verb} {} ", parts.join(", ")),
        };
        clause("SET", &self.set) + &clause("REMOVE", &self.remove)
    }
}

impl Store {
    /// Reads an item of the registry consistently.
    pub(crate) async fn registry_item(
        &self,
        key: String,
        operation: &'static str,
    ) -> Result<Option<Item>, StoreError> {
        let found = self
            .client
            .get_item()
            .table_name(self.table(REGISTRY))
            .set_key(Some(item::key(key)))
            .consistent_read(true)
            .send()
            .await
            .map_err(|error| StoreError::service(operation, error))?;
        Ok(found.item)
    }

    /// Applies the changes to an item of the registry. Returns the item after them, or, if the condition
    /// failed, the item as stored.
    pub(crate) async fn update_registry_item(
        &self,
        key: String,
        changes: Changes,
        condition: String,
    ) -> Result<Result<Item, Option<Item>>, StoreError> {
        let outcome = self
            .client
            .update_item()
            .table_name(self.table(REGISTRY))
            .set_key(Some(item::key(key)))
            // None for no changes: DynamoDB rejects an empty expression, and checks the condition
            // without one.
            .set_update_expression(Some(changes.expression()).filter(|text| !text.is_empty()))
            .condition_expression(condition)
            .set_expression_attribute_names((!changes.names.is_empty()).then_some(changes.names))
            .set_expression_attribute_values((!changes.values.is_empty()).then_some(changes.values))
            .return_values(ReturnValue::AllNew)
            .return_values_on_condition_check_failure(ReturnValuesOnConditionCheckFailure::AllOld)
            .send()
            .await;
        match outcome {
            Ok(updated) => Ok(Ok(updated.attributes.unwrap_or_default())),
            Err(error) => match error.as_service_error() {
                Some(UpdateItemError::ConditionalCheckFailedException(failed)) => {
                    Ok(Err(failed.item().cloned().filter(|item| !item.is_empty())))
                }
                _ => Err(StoreError::service("updating a registry item", error)),
            },
        }
    }
}
