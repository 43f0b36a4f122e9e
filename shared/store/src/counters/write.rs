//! Conditional writes of a counter's items.

use std::collections::HashMap;
use std::fmt;

use aws_sdk_dynamodb::error::SdkError;
use aws_sdk_dynamodb::operation::update_item::UpdateItemError;
use aws_sdk_dynamodb::types::{AttributeValue, ReturnValue, ReturnValuesOnConditionCheckFailure};
use jiff::Timestamp;

use super::item::{MAX_SHARES, branch_pk};
use super::share::{AdmittedCalls, LeaseShare, Stored, expired_shares, shares_removed_at};
use crate::Store;
use crate::error::StoreError;
use crate::item::{self, Item, n, s, signed, whole};
use crate::schema::{COUNTERS, attr};

/// Tries of one operation, each of which a concurrent writer can make fail.
pub(super) const TRIES: usize = 32;
/// Bound on the expired shares that one write removes.
const MAX_REMOVED: usize = 20;

/// Builder of an UpdateItem request: clauses, and the names and values that they use.
pub(super) struct Write {
    pk: String,
    sets: Vec<&'static str>,
    removes: Vec<String>,
    conditions: Vec<String>,
    names: HashMap<String, String>,
    values: HashMap<String, AttributeValue>,
    returns: ReturnValue,
}

impl Write {
    /// Returns a write of the root of the share's counter.
    pub(super) fn root_of(share: &LeaseShare) -> Self {
        Self::new(share.counter.clone(), share)
    }

    /// Returns a write of the item in which the share is stored.
    pub(super) fn of_share(share: &LeaseShare) -> Self {
        let pk = match share.branch {
            None => share.counter.clone(),
            Some(branch) => branch_pk(&share.counter, branch),
        };
        Self::new(pk, share)
    }

    /// Returns a write of a branch of the share's counter, whichever item the share is stored in.
    pub(super) fn branch_of(share: &LeaseShare, branch: u64) -> Self {
        Self::new(branch_pk(&share.counter, branch), share)
    }

    fn new(pk: String, share: &LeaseShare) -> Self {
        let write = Self {
            pk,
            sets: Vec::with_capacity(8),
            removes: Vec::new(),
            conditions: Vec::with_capacity(4),
            names: HashMap::new(),
            values: HashMap::new(),
            returns: ReturnValue::UpdatedNew,
        };
        let expires = share.expires.clone();
        write.set("expires = :expires").value(":expires", expires)
    }

    pub(super) fn set(mut self, clause: &'static str) -> Self {
        self.sets.push(clause);
        self
    }

    pub(super) fn remove(mut self, name: impl Into<String>) -> Self {
        self.removes.push(name.into());
        self
    }

    pub(super) fn only_if(mut self, condition: impl Into<String>) -> Self {
        self.conditions.push(condition.into());
        self
    }

    /// Adds the condition that the attribute still has the value `seen`. A missing attribute counts as 0.
    pub(super) fn only_if_unchanged(self, attribute: &str, value: &'static str, seen: u64) -> Self {
        let is_equal = format!("{attribute} = {value}");
        let write = self.value(value, n(seen));
        match seen {
            0 => write.only_if(format!("(attribute_not_exists({attribute}) OR {is_equal})")),
            _ => write.only_if(is_equal),
        }
    }

    /// Adds the condition that `units` more keep the root's `used` within the limit at the time of the write,
    /// whatever other instances reserve. The first write of a window finds no counter.
    pub(super) fn only_within(self, limit: u64, units: u64) -> Self {
        self.only_if("(attribute_not_exists(used) OR used <= :limit)")
            .value(":limit", n(limit.saturating_sub(units)))
    }

    pub(super) fn name(mut self, name: impl Into<String>, attribute: impl Into<String>) -> Self {
        self.names.insert(name.into(), attribute.into());
        self
    }

    pub(super) fn value(mut self, name: impl Into<String>, value: AttributeValue) -> Self {
        self.values.insert(name.into(), value);
        self
    }

    /// Requests that the whole item be returned, and not only the changed attributes.
    pub(super) fn returning_all(mut self) -> Self {
        self.returns = ReturnValue::AllNew;
        self
    }

    /// Replaces the share by `after`, on the condition that it is as last seen. A share that is not stored
    /// yet is inserted.
    pub(super) fn replacing_share(
        mut self,
        share: &LeaseShare,
        after: String,
        insertion: &Insertion,
    ) -> Self {
        self = self
            .name("#share", share.attribute())
            .set("#share = :after")
            .value(":after", s(after));
        match &share.stored {
            Some(stored) => self.only_if_share_is(stored),
            None => insertion.apply(self, share),
        }
    }

    /// Removes the share, on the condition that it is as last seen.
    pub(super) fn removing_share(self, share: &LeaseShare, stored: &Stored) -> Self {
        self.name("#share", share.attribute())
            .remove("#share")
            .set("shares = shares - :one")
            .value(":one", n(1))
            .only_if_share_is(stored)
    }

    /// Adds the condition that the share is as last seen: neither this write nor an earlier one whose
    /// response was lost has taken effect, and no other instance has removed the share as expired.
    fn only_if_share_is(self, stored: &Stored) -> Self {
        self.only_if("#share = :before")
            .value(":before", s(stored.to_string()))
    }

    /// Reports the calls that have not been reported yet. A call that was reported as spent in advance, and
    /// then was not allowed, is taken back by a negative number.
    pub(super) fn reporting(mut self, share: &LeaseShare, calls: AdmittedCalls) -> Self {
        let change = |now: u64, reported: u64| {
            AttributeValue::N((i128::from(now) - i128::from(reported)).to_string())
        };
        let reported = share.reported;
        self = self
            .set("spent = if_not_exists(spent, :zero) + :spent")
            .value(":zero", n(0))
            .value(":spent", change(calls.spent, reported.spent));
        if calls.uncounted == reported.uncounted {
            return self;
        }
        self.set("uncounted = if_not_exists(uncounted, :zero) + :uncounted")
            .value(":uncounted", change(calls.uncounted, reported.uncounted))
    }

    /// Sends the write. Returns the changed attributes, or, if the condition failed, the item as stored.
    pub(super) async fn send(
        self,
        store: &Store,
        operation: &'static str,
    ) -> Result<Result<Item, Item>, StoreError> {
        let mut update = format!("SET {}", self.sets.join(", "));
        if !self.removes.is_empty() {
            update.push_str(" REMOVE ");
            update.push_str(&self.removes.join(", "));
        }
        let names = (!self.names.is_empty()).then_some(self.names);
        let sent = store
            .client
            .update_item()
            .table_name(store.table(COUNTERS))
            .set_key(Some(item::key(self.pk)))
            .update_expression(update)
            .condition_expression(self.conditions.join(" AND "))
            .set_expression_attribute_names(names)
            .set_expression_attribute_values(Some(self.values))
            .return_values(self.returns)
            .return_values_on_condition_check_failure(ReturnValuesOnConditionCheckFailure::AllOld)
            .send();
        // Boxed, because the SDK's futures are large, and a reservation contains several.
        match Box::pin(sent).await {
            Ok(updated) => Ok(Ok(updated.attributes.unwrap_or_default())),
            Err(error) => failed_item(operation, error).map(Err),
        }
    }
}

/// Insertion of a share that is not stored yet.
#[derive(Debug, Default)]
pub(super) struct Insertion {
    /// Expired shares, which are removed to make room.
    expired: Vec<(String, String)>,
    /// Unix second that is recorded as the time of their removal.
    removed_at: i64,
    /// Whether the share is inserted however many shares the item has.
    pub(super) ignores_room: bool,
}

impl Insertion {
    pub(super) const IGNORING_ROOM: Self = Self {
        expired: Vec::new(),
        removed_at: 0,
        ignores_room: true,
    };

    /// Returns an insertion into an item that may have no room: it removes expired shares, and ignores the
    /// room if those are too few.
    pub(super) fn for_full_item(item: &Item, now: Timestamp) -> Self {
        let shares: u64 = item.get(attr::SHARES).and_then(whole).unwrap_or(0);
        let mut expired = expired_shares(item, now);
        // DynamoDB bounds the length of an expression. Later insertions remove the others.
        expired.truncate(MAX_REMOVED);
        let removed = u64::try_from(expired.len()).unwrap_or(0);
        Self {
            ignores_room: shares.saturating_sub(removed) >= MAX_SHARES,
            expired,
            // Never decreases, so that a clock that is behind does not accept late writes that were kept
            // out before.
            removed_at: now.as_second().max(shares_removed_at(item)),
        }
    }

    fn apply(&self, write: Write, share: &LeaseShare) -> Write {
        let removed = u64::try_from(self.expired.len()).unwrap_or(0);
        let added = 1 - i64::try_from(removed).unwrap_or(0);
        let mut write = write
            .set("shares = if_not_exists(shares, :zero) + :added")
            .value(":zero", n(0))
            .value(":added", signed(added))
            // Absent: the id is new. A repetition of this write finds the share, or its tombstone.
            .only_if("attribute_not_exists(#share)")
            // No removal since the fence: if share and tombstone have been removed, it is what keeps a late
            // repetition out.
            .only_if("(attribute_not_exists(shares_removed_at) OR shares_removed_at < :fence)")
            .value(":fence", signed(share.fence()));
        if !self.ignores_room {
            // There is room: other instances may have inserted their shares first.
            write = write
                .only_if("(attribute_not_exists(shares) OR shares < :room)")
                .value(":room", n(MAX_SHARES + removed));
        }
        if removed > 0 {
            write = write
                .set("shares_removed_at = :removed_at")
                .value(":removed_at", signed(self.removed_at));
        }
        for (n, (attribute, text)) in self.expired.iter().enumerate() {
            // Unchanged: its instance has not used it again.
            let (name, seen) = (format!("#expired{n}"), format!(":expired{n}"));
            write = write
                .name(name.clone(), attribute)
                .only_if(format!("{name} = {seen}"))
                .value(seen, s(text))
                .remove(name);
        }
        write
    }
}

pub(super) fn second(at: Timestamp) -> AttributeValue {
    signed(at.as_second())
}

/// Returns the item as stored if the error is a failed condition.
fn failed_item<R>(
    operation: &'static str,
    error: SdkError<UpdateItemError, R>,
) -> Result<Item, StoreError>
where
    R: fmt::Debug + Send + Sync + 'static,
{
    match error.as_service_error() {
        Some(UpdateItemError::ConditionalCheckFailedException(failed)) => {
            Ok(failed.item().cloned().unwrap_or_default())
        }
        _ => Err(StoreError::service(operation, error)),
    }
}
