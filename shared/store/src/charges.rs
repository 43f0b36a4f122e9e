//! Charges, and their way to the payment provider.

use std::fmt;

use jiff::Timestamp;
use tollgate_domain::billing::Charge;
use tollgate_domain::event::Event;
use tollgate_domain::money::{MicroUsd, SignedCents};
use tollgate_domain::page::Page;
use tollgate_domain::submission::{
    ATTEMPT_TIMEOUT, Attempts, ChargeRef, ChargeState, ChargeStatus, LedgerCharge, Recipient,
    SubmissionFailure,
};

use crate::Store;
use crate::billing::{CHARGE, OVERAGE_BY_PLAN, overage_by_plan, period_pk, read_overage_by_plan};
use crate::error::StoreError;
use crate::item::{Item, MAX_SK, Reader, keys, n, s, signed, t};
use crate::schema::{BILLING, OPEN_CHARGE_SHARDS, OPEN_CHARGES, attr};
use crate::transaction::{Action, Transacted};

/// Outcome of recording that an attempt to submit a charge begins.
#[derive(Debug, Clone, PartialEq, Eq)]
#[expect(
    clippy::large_enum_variant,
    reason = "an outcome is matched where it is returned, and never kept"
)]
pub enum BeginOutcome {
    /// Recorded. The charge is as after it.
    Begun(LedgerCharge),
    /// Not recorded: another attempt has begun since the charge was read, or it is settled.
    Raced,
}

/// Outcome of settling a charge.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SettleOutcome {
    /// Settled with this item, now or before.
    Settled,
    /// Settled before with this other item of the provider: the charge is there twice.
    OtherItem(String),
}

/// Outcome of recording that a charge is not at the provider.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FailOutcome {
    /// Recorded.
    Failed,
    /// Not recorded: another attempt has begun since, or it is settled.
    Superseded,
}

/// Status that earlier releases, which had no payment provider, gave to all charges.
const LEDGER_ONLY: &str = "ledger_only";
const ITEM: &str = "stripe_item";
const REASON: &str = "failure_reason";
const LISTING: &str = "listing open charges";

fn charge_key(charge: &ChargeRef) -> Item {
    keys(
        period_pk(&charge.customer, charge.month),
        format!("{CHARGE}{:06}", charge.number),
    )
}

/// Returns the partition of a charge in the index of open charges.
fn open_partition(status: ChargeStatus, charge: &ChargeRef) -> String {
    let shard = crc32fast::hash(charge.customer.as_str().as_bytes()) % OPEN_CHARGE_SHARDS;
    partition(status, shard)
}

fn partition(status: ChargeStatus, shard: u32) -> String {
    format!("{}#{shard}", status.as_str())
}

/// Returns the item of a new charge, which is pending.
pub(crate) fn charge_item(charge: &Charge) -> Item {
    let name = charge.name();
    let mut item = charge_key(&name);
    item.insert("id".into(), s(&charge.id));
    item.insert("customer".into(), s(charge.customer.as_str()));
    item.insert("month".into(), s(charge.month.to_string()));
    item.insert("number".into(), n(charge.number));
    item.insert("cents".into(), signed(charge.cents.0));
    let cumulative = n(charge.cumulative_overage.0);
    item.insert("cumulative_overage_micro_usd".into(), cumulative);
    let by_plan = overage_by_plan(&charge.overage_by_plan);
    item.insert(OVERAGE_BY_PLAN.into(), by_plan);
    item.insert("overage_calls".into(), n(charge.overage_calls));
    item.insert("from_call".into(), n(charge.from_call));
    item.insert("to_call".into(), n(charge.to_call));
    if charge.adjusted_calls != 0 {
        item.insert("adjusted_calls".into(), signed(charge.adjusted_calls));
    }
    if !charge.usage.is_empty() {
        item.insert("usage".into(), s(&charge.usage));
    }
    item.insert("usage_digest".into(), s(&charge.usage_digest));
    item.insert("description".into(), s(&charge.description));
    item.insert("created_at".into(), t(charge.created_at));
    item.insert("status".into(), s(ChargeStatus::Pending.as_str()));
    let open = open_partition(ChargeStatus::Pending, &name);
    item.insert(attr::OPEN_CHARGE.into(), s(open));
    item.insert(attr::NEXT_TRY.into(), t(charge.created_at));
    item
}

pub(crate) fn read_charge(item: &Item) -> Result<LedgerCharge, StoreError> {
    let overage_by_plan = read_overage_by_plan(item)?;
    let item = Reader::new("charge", item);
    let from_call = item.number("from_call")?;
    let to_call = item.number("to_call")?;
    let description = match item.opt_text("description")? {
        Some(description) => description.to_owned(),
        // Of an earlier release.
        None => format!("API calls {from_call} to {to_call} beyond the included ones"),
    };
    let charge = Charge {
        id: item.text("id")?.to_owned(),
        customer: item.parsed("customer")?,
        month: item.parsed("month")?,
        number: item.number("number")?,
        cents: SignedCents(
            item.opt_signed("cents")?
                .ok_or_else(|| item.corrupt("cents"))?,
        ),
        cumulative_overage: MicroUsd(item.number("cumulative_overage_micro_usd")?),
        overage_by_plan,
        // Charges of earlier releases are no credits, and so end with the last overage call.
        overage_calls: item.opt_number("overage_calls")?.unwrap_or(to_call),
        from_call,
        to_call,
        adjusted_calls: item.opt_signed("adjusted_calls")?.unwrap_or(0),
        usage: item.opt_text("usage")?.unwrap_or_default().to_owned(),
        usage_digest: item.text("usage_digest")?.to_owned(),
        description,
        created_at: item.parsed("created_at")?,
    };
    let status = match item.text("status")? {
        LEDGER_ONLY => ChargeStatus::Pending,
        _ => item.parsed("status")?,
    };
    let state = match status {
        ChargeStatus::Pending => ChargeState::Pending,
        ChargeStatus::Submitted => ChargeState::Submitted,
        ChargeStatus::Failed => ChargeState::Failed {
            reason: item.text(REASON)?.to_owned(),
        },
        ChargeStatus::Settled => ChargeState::Settled {
            item: item.text(ITEM)?.to_owned(),
            at: item.parsed("settled_at")?,
        },
    };
    let next_try = item.opt_parsed(attr::NEXT_TRY)?;
    Ok(LedgerCharge {
        attempts: Attempts {
            count: item.opt_number("attempts")?.unwrap_or(0),
            rejected: item.opt_number("rejected")?.unwrap_or(0),
            last_at: item.opt_parsed("last_attempt_at")?,
            recipient: read_recipient(&item)?,
        },
        next_try: match status {
            ChargeStatus::Settled => None,
            _ => Some(next_try.unwrap_or(charge.created_at)),
        },
        charge,
        state,
    })
}

/// Reads the recipient of a charge, or of a customer's charges.
pub(crate) fn read_recipient(item: &Reader<'_>) -> Result<Option<Recipient>, StoreError> {
    let Some(customer) = item.opt_text("stripe_customer")? else {
        return Ok(None);
    };
    Ok(Some(Recipient {
        customer: customer.to_owned(),
        subscription: item.opt_text("stripe_subscription")?.map(str::to_owned),
    }))
}

impl Store {
    /// Reads a charge consistently.
    ///
    /// # Errors
    /// When the store fails.
    pub async fn charge(&self, name: &ChargeRef) -> Result<Option<LedgerCharge>, StoreError> {
        let item = self.billing_item(charge_key(name)).await?;
        item.as_ref().map(read_charge).transpose()
    }

    /// Records that an attempt to submit the charge to this recipient begins. Until it is concluded, or
    /// [`ATTEMPT_TIMEOUT`] has passed, no other attempt should begin.
    ///
    /// # Errors
    /// When the store fails; the attempt may then be recorded.
    pub async fn begin_submission(
        &self,
        charge: &LedgerCharge,
        recipient: &Recipient,
    ) -> Result<BeginOutcome, StoreError> {
        let now = self.clock.now();
        let next_try = now
            .saturating_add(ATTEMPT_TIMEOUT)
            .unwrap_or(Timestamp::MAX);
        let name = charge.charge.name();
        let write_id = self.transaction_token();
        let mut expression = "SET #status = :submitted, attempts = :attempts, last_attempt_at = :now, \
             stripe_customer = :customer, open_charge = :open, next_try = :next, attempted_by = :write"
            .to_owned();
        expression.push_str(match &recipient.subscription {
            Some(_) => ", stripe_subscription = :subscription REMOVE failure_reason",
            None => " REMOVE failure_reason, stripe_subscription",
        });
        let action = Action::update(BILLING, charge_key(&name), expression)
            .name("#status", "status")
            .value(":submitted", s(ChargeStatus::Submitted.as_str()))
            .value(":attempts", n(charge.attempts.count + 1))
            .value(":now", t(now))
            .value(":customer", s(&recipient.customer))
            .value(":open", s(open_partition(ChargeStatus::Submitted, &name)))
            .value(":next", t(next_try))
            .value(":write", s(&write_id));
        let action = match &recipient.subscription {
            Some(subscription) => action.value(":subscription", s(subscription)),
            None => action,
        };
        let outcome = self.transact(
            "beginning to submit a charge",
            vec![when_unchanged(action, charge)],
        );
        let begun = || {
            BeginOutcome::Begun(LedgerCharge {
                state: ChargeState::Submitted,
                attempts: Attempts {
                    count: charge.attempts.count + 1,
                    rejected: charge.attempts.rejected,
                    last_at: Some(now),
                    recipient: Some(recipient.clone()),
                },
                next_try: Some(next_try),
                ..charge.clone()
            })
        };
        Ok(match outcome.await? {
            Transacted::Committed => begun(),
            Transacted::Cancelled(results) => {
                let stored = results.first().and_then(|result| result.item());
                let attempted_by = stored.and_then(|item| item.get("attempted_by"));
                // By this very call: its first try took effect, and the response was lost.
                match attempted_by == Some(&s(&write_id)) {
                    true => begun(),
                    false => BeginOutcome::Raced,
                }
            }
        })
    }

    /// Records that the charge is at the provider, as the invoice item with this id.
    ///
    /// # Errors
    /// When the store fails; that may then be recorded.
    pub async fn settle_charge(
        &self,
        charge: &Charge,
        item: &str,
    ) -> Result<SettleOutcome, StoreError> {
        let now = self.clock.now();
        let action = Action::update(
            BILLING,
            charge_key(&charge.name()),
            "SET #status = :settled, stripe_item = :item, settled_at = :now \
             REMOVE open_charge, next_try, failure_reason",
        )
        // Exists: an update would create the item. Not settled: of two items of the provider, the first stays
        // recorded, and the second is found to be one too many.
        .when("attribute_exists(pk) AND attribute_not_exists(stripe_item)")
        .name("#status", "status")
        .value(":settled", s(ChargeStatus::Settled.as_str()))
        .value(":item", s(item))
        .value(":now", t(now));
        let event = Event::charge_settled(charge, item, now);
        let outcome = self.transact_causing(
            "settling a charge",
            vec![action],
            std::slice::from_ref(&event),
        );
        match outcome.await? {
            Transacted::Committed => Ok(SettleOutcome::Settled),
            Transacted::Cancelled(results) => {
                let stored = results.first().and_then(|result| result.item());
                let stored = stored.ok_or_else(|| StoreError::corrupt("charge", attr::PK))?;
                let recorded = Reader::new("charge", stored).text(ITEM)?;
                Ok(match recorded == item {
                    // By another attempt that found the item, or by this very call's first try.
                    true => SettleOutcome::Settled,
                    false => SettleOutcome::OtherItem(recorded.to_owned()),
                })
            }
        }
    }

    /// Records that the charge is not at the provider, why, and when it is submitted again. The first failure of
    /// a charge that [is announced](SubmissionFailure::is_announced) has an event.
    ///
    /// # Errors
    /// When the store fails; that may then be recorded.
    pub async fn fail_charge(
        &self,
        charge: &LedgerCharge,
        failure: SubmissionFailure,
        reason: &str,
        next_try: Timestamp,
    ) -> Result<FailOutcome, StoreError> {
        const OPERATION: &str = "recording a failed charge";
        let name = charge.charge.name();
        let action = Action::update(
            BILLING,
            charge_key(&name),
            "SET #status = :failed, failure_reason = :reason, rejected = :rejected, \
             open_charge = :open, next_try = :next",
        )
        .name("#status", "status")
        .value(":failed", s(ChargeStatus::Failed.as_str()))
        .value(":reason", s(reason))
        .value(
            ":rejected",
            n(charge.attempts.rejected + u64::from(failure == SubmissionFailure::Rejected)),
        )
        .value(":open", s(open_partition(ChargeStatus::Failed, &name)))
        .value(":next", t(next_try));
        let action = when_unchanged(action, charge);
        let outcome = if failure.is_announced() {
            let event = Event::charge_failed(&charge.charge, reason, self.clock.now());
            self.transact_causing(OPERATION, vec![action], std::slice::from_ref(&event))
                .await?
        } else {
            self.transact(OPERATION, vec![action]).await?
        };
        // A repetition of this very call, whose first try took effect, finds its own attempt and writes the
        // same again.
        match outcome {
            Transacted::Committed => Ok(FailOutcome::Failed),
            Transacted::Cancelled(_) => Ok(FailOutcome::Superseded),
        }
    }

    /// Lists open charges in this state, of those that are due at `due` or of all, after the cursor `after`, at most `limit` of
    /// them or as many as a response of DynamoDB contains: in each of some partitions, first those that are due
    /// first. A page may be empty and have a next one. Reads an index, which is eventually consistent.
    ///
    /// # Errors
    /// When the store fails, or the cursor is invalid.
    pub async fn open_charges(
        &self,
        status: ChargeStatus,
        due: Option<Timestamp>,
        after: Option<&str>,
        limit: Option<i32>,
    ) -> Result<Page<ChargeRef>, StoreError> {
        let cursor = after.map(OpenCursor::read).transpose()?;
        let OpenCursor { shard, last } = cursor.unwrap_or_default();
        let partition = s(partition(status, shard));
        let start = last.map(|(pk, sk, next_try)| {
            let mut start = keys(pk, sk);
            start.insert(attr::OPEN_CHARGE.into(), partition.clone());
            start.insert(attr::NEXT_TRY.into(), s(next_try));
            start
        });
        let mut query = self.client.query();
        let condition = match due {
            Some(due) => {
                query = query.expression_attribute_values(":due", t(due));
                "open_charge = :open AND next_try <= :due"
            }
            None => "open_charge = :open",
        };
        let found = query
            .table_name(self.table(BILLING))
            .index_name(OPEN_CHARGES.name)
            .key_condition_expression(condition)
            .expression_attribute_values(":open", partition)
            .set_limit(limit)
            .set_exclusive_start_key(start)
            .send()
            .await
            .map_err(|error| StoreError::service(LISTING, error))?;
        let items = found
            .items()
            .iter()
            .map(read_name)
            .collect::<Result<_, _>>()?;
        let next = match &found.last_evaluated_key {
            Some(item) => {
                let item = Reader::new("charge", item);
                let last = [attr::PK, attr::SK, attr::NEXT_TRY].map(|name| item.text(name));
                let [pk, sk, next_try] = last;
                let last = (pk?.to_owned(), sk?.to_owned(), next_try?.to_owned());
                Some(OpenCursor {
                    shard,
                    last: Some(last),
                })
            }
            None => (shard + 1 < OPEN_CHARGE_SHARDS).then_some(OpenCursor {
                shard: shard + 1,
                last: None,
            }),
        };
        Ok(Page {
            items,
            next: next.map(|cursor| cursor.to_string()),
        })
    }
}

/// Adds the condition that no attempt has begun, and none has settled the charge, since it was read.
fn when_unchanged(action: Action, charge: &LedgerCharge) -> Action {
    match charge.attempts.count {
        // Exists: an update would create the item. No attempts: of two workers, one begins. Not settled: a
        // charge is submitted no more once it is at the provider.
        0 => action.when(
            "attribute_exists(pk) AND attribute_not_exists(attempts) AND attribute_not_exists(stripe_item)",
        ),
        count => action
            // As many attempts as were read, which implies that the item exists. Not settled, as above.
            .when("attempts = :before AND attribute_not_exists(stripe_item)")
            .value(":before", n(count)),
    }
}

/// Reads the name of a charge from its keys.
fn read_name(item: &Item) -> Result<ChargeRef, StoreError> {
    let item = Reader::new("charge", item);
    let period = item.text(attr::PK)?.split_once('#');
    let (customer, month) = period.ok_or_else(|| item.corrupt(attr::PK))?;
    let number = item.text(attr::SK)?.strip_prefix(CHARGE);
    Ok(ChargeRef {
        customer: customer.parse().map_err(|_| item.corrupt(attr::PK))?,
        month: month.parse().map_err(|_| item.corrupt(attr::PK))?,
        number: number
            .and_then(|number| number.parse().ok())
            .ok_or_else(|| item.corrupt(attr::SK))?,
    })
}

/// Cursor in the list of open charges: the partition, and within it the keys of the last item that was read.
#[derive(Default)]
struct OpenCursor {
    shard: u32,
    last: Option<(String, String, String)>,
}

/// Separator of a cursor's parts, which none of the keys contains.
const SEPARATOR: char = '\n';

impl OpenCursor {
    fn read(cursor: &str) -> Result<Self, StoreError> {
        let invalid = || StoreError::invalid_cursor(LISTING);
        let parts: Vec<&str> = cursor.split(SEPARATOR).collect();
        let read_shard = |shard: &str| {
            shard
                .parse()
                .ok()
                .filter(|shard| *shard < OPEN_CHARGE_SHARDS)
        };
        let is_key = |key: &str| (1..=MAX_SK).contains(&key.len());
        let (shard, last) = match parts[..] {
            [shard] => (shard, None),
            [shard, pk, sk, next_try] if is_key(pk) && is_key(sk) && is_key(next_try) => {
                let last = [pk, sk, next_try].map(str::to_owned);
                let [pk, sk, next_try] = last;
                (shard, Some((pk, sk, next_try)))
            }
            _ => return Err(invalid()),
        };
        let shard = read_shard(shard).ok_or_else(invalid)?;
        Ok(Self { shard, last })
    }
}

impl fmt::Display for OpenCursor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.shard)?;
        match &self.last {
            Some((pk, sk, next_try)) => {
                write!(f, "{SEPARATOR}{pk}{SEPARATOR}{sk}{SEPARATOR}{next_try}")
            }
            None => Ok(()),
        }
    }
}
