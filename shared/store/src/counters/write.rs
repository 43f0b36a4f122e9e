//! One conditional write of a counter's item.

use std::collections::HashMap;
use std::fmt;

use aws_sdk_dynamodb::error::SdkError;
use aws_sdk_dynamodb::operation::update_item::UpdateItemError;
use aws_sdk_dynamodb::types::{AttributeValue, ReturnValue, ReturnValuesOnConditionCheckFailure};
use jiff::Timestamp;

use super::share::{Calls, LeaseShare, Stored, expired_shares, swept};
use super::{MAX_SHARES, branch_pk};
use crate::Store;
use crate::error::StoreError;
use crate::item::{self, Item, n, s, signed, whole};
use crate::schema::{COUNTERS, attr};

/// Expired shares that one write removes.
const MOST_REMOVED: usize = 20;

/// An UpdateItem under construction: clauses, and the names and values that they mention.
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
    /// A write of the root of this share's counter.
    pub(super) fn root_of(share: &LeaseShare) -> Self {
        Self::of(share.counter.clone(), share)
    }

    /// A write of the item that holds the share.
    pub(super) fn holding(share: &LeaseShare) -> Self {
        let pk = match share.branch {
            None => share.counter.clone(),
            Some(branch) => branch_pk(&share.counter, branch),
        };
        Self::of(pk, share)
    }

    /// A write of a branch of this share's counter, whichever item holds the share.
    pub(super) fn branch_of(share: &LeaseShare, branch: u64) -> Self {
        Self::of(branch_pk(&share.counter, branch), share)
    }

    fn of(pk: String, share: &LeaseShare) -> Self {
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

    /// The attribute stands where it was seen. One that is not there is 0.
    pub(super) fn only_if_still(self, attribute: &str, value: &'static str, seen: u64) -> Self {
        let stands = format!("{attribute} = {value}");
        let write = self.value(value, n(seen));
        match seen {
            0 => write.only_if(format!("(attribute_not_exists({attribute}) OR {stands})")),
            _ => write.only_if(stands),
        }
    }

    /// `units` more of the root stay within the limit at the instant of the write, whoever else
    /// reserves some. The first write of a window finds no counter.
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

    /// Has the whole item returned, and not only what has changed.
    pub(super) fn returning_all(mut self) -> Self {
        self.returns = ReturnValue::AllNew;
        self
    }

    /// Leaves the share at `after`, only if it stands where it was last seen.
    pub(super) fn moving(mut self, share: &LeaseShare, after: String, entering: &Entering) -> Self {
        self = self
            .name("#share", share.attribute())
            .set("#share = :after")
            .value(":after", s(after));
        match &share.stored {
            Some(stored) => self.only_if_at(stored),
            None => entering.apply(self, share),
        }
    }

    /// Removes the share, only if it stands where it was last seen.
    pub(super) fn removing(self, share: &LeaseShare, stored: &Stored) -> Self {
        self.name("#share", share.attribute())
            .remove("#share")
            .set("shares = shares - :one")
            .value(":one", n(1))
            .only_if_at(stored)
    }

    /// The write has not taken effect yet, nor has an earlier one whose answer was lost, and nobody has
    /// removed the share for dead.
    fn only_if_at(self, stored: &Stored) -> Self {
        self.only_if("#share = :before")
            .value(":before", s(stored.to_string()))
    }

    /// Reports what the counter does not know yet of these calls. A call that was reported as spent
    /// in advance, and then was not allowed, is taken back by less than nothing.
    pub(super) fn reporting(mut self, share: &LeaseShare, calls: Calls) -> Self {
        let newly = |now: u64, reported: u64| {
            AttributeValue::N((i128::from(now) - i128::from(reported)).to_string())
        };
        let known = share.reported;
        self = self
            .set("spent = if_not_exists(spent, :zero) + :spent")
            .value(":zero", n(0))
            .value(":spent", newly(calls.spent, known.spent));
        if calls.uncounted == known.uncounted {
            return self;
        }
        self.set("uncounted = if_not_exists(uncounted, :zero) + :uncounted")
            .value(":uncounted", newly(calls.uncounted, known.uncounted))
    }

    /// Sends the write. Returns what it has changed, or the item that refused it.
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
        // The SDK's futures are large, and whoever reserves units holds several.
        match Box::pin(sent).await {
            Ok(updated) => Ok(Ok(updated.attributes.unwrap_or_default())),
            Err(error) => refusing_item(operation, error).map(Err),
        }
    }
}

/// How a share that is not there yet comes in.
#[derive(Debug, Default)]
pub(super) struct Entering {
    /// Shares that have expired, and make room.
    pub(super) expired: Vec<(String, String)>,
    /// The second that stands for their removal.
    swept: i64,
    /// Whether it comes in however many there are.
    pub(super) despite_crowd: bool,
}

impl Entering {
    pub(super) const DESPITE_CROWD: Self = Self {
        expired: Vec::new(),
        swept: 0,
        despite_crowd: true,
    };

    /// Comes in to an item that had no room, perhaps.
    pub(super) fn crowded(item: &Item, now: Timestamp) -> Self {
        let shares: u64 = item.get(attr::SHARES).and_then(whole).unwrap_or(0);
        let mut expired = expired_shares(item, now);
        // An expression has its bounds, and whoever comes next removes more.
        expired.truncate(MOST_REMOVED);
        let removed = u64::try_from(expired.len()).unwrap_or(0);
        Self {
            despite_crowd: shares.saturating_sub(removed) >= MAX_SHARES,
            expired,
            // A clock that is behind does not let in what was kept out.
            swept: now.as_second().max(swept(item)),
        }
    }

    fn apply(&self, write: Write, share: &LeaseShare) -> Write {
        let removed = u64::try_from(self.expired.len()).unwrap_or(0);
        let joined = 1 - i64::try_from(removed).unwrap_or(0);
        let mut write = write
            .set("shares = if_not_exists(shares, :zero) + :joined")
            .value(":zero", n(0))
            .value(":joined", signed(joined))
            // The id is new. A repetition finds the share there, or what has come after it; or, where
            // it has been removed since, that it comes too late.
            .only_if("attribute_not_exists(#share)")
            .only_if("(attribute_not_exists(swept) OR swept < :fence)")
            .value(":fence", signed(share.fence()));
        if !self.despite_crowd {
            // Other instances may have come in first.
            write = write
                .only_if("(attribute_not_exists(shares) OR shares < :room)")
                .value(":room", n(MAX_SHARES + removed));
        }
        if removed > 0 {
            write = write
                .set("swept = :swept")
                .value(":swept", signed(self.swept));
        }
        for (n, (attribute, text)) in self.expired.iter().enumerate() {
            // Its instance has not come back to it.
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

/// The item whose state refused a write, if that is what the error says.
fn refusing_item<R>(
    operation: &'static str,
    error: SdkError<UpdateItemError, R>,
) -> Result<Item, StoreError>
where
    R: fmt::Debug + Send + Sync + 'static,
{
    match error.as_service_error() {
        Some(UpdateItemError::ConditionalCheckFailedException(refused)) => {
            Ok(refused.item().cloned().unwrap_or_default())
        }
        _ => Err(StoreError::service(operation, error)),
    }
}
