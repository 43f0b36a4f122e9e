//! The ledger of charges, by billing period: one customer's month.

use std::collections::BTreeMap;
use std::fmt;

use aws_sdk_dynamodb::operation::put_item::PutItemError;
use aws_sdk_dynamodb::types::{AttributeValue, ReturnValuesOnConditionCheckFailure};
use jiff::Timestamp;
use tollgate_domain::billing::{Charge, ChargedOverage, PeriodLedger};
use tollgate_domain::id::{CustomerId, PlanId};
use tollgate_domain::money::{Cents, MicroUsd};
use tollgate_domain::page::Page;
use tollgate_domain::submission::LedgerCharge;
use tollgate_domain::window::Month;

use crate::Store;
use crate::charges::{charge_item, read_charge};
use crate::error::StoreError;
use crate::item::{Item, MAX_SK, Reader, keys, n, s, t};
use crate::schema::{BILLABLE, BILLABLE_SHARDS, BILLING, USAGE, attr};
use crate::transaction::{Action, Transacted};

/// Outcome of recording a charge.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RecordChargeOutcome {
    /// Recorded by this call.
    Written,
    /// Not recorded: another charge was recorded since the period ledger was read.
    Raced,
}

/// Sort key of a billing period's ledger.
const PERIOD: &str = "PERIOD";
/// Beginning of the sort keys of charges.
pub(crate) const CHARGE: &str = "CHARGE#";
const CLOSED: &str = "CLOSED";
const LEFT_OPEN: &str = "LEFT_OPEN";
pub(crate) const OVERAGE_BY_PLAN: &str = "overage_by_plan";
const LISTING: &str = "listing billable customers";
/// Items of a customer in the index of billable months: one for each day, unless its aggregates are sharded.
const DAYS: i32 = 31;
/// Separator of a cursor's parts, which neither a customer's id nor a month contains.
const SEPARATOR: char = '\n';

pub(crate) fn period_pk(customer: &CustomerId, month: Month) -> String {
    format!("{customer}#{month}")
}

fn closed_key(month: Month) -> Item {
    keys(format!("MONTH#{month}"), CLOSED)
}

/// Returns the attribute with the charged overage by plan: `{<plan>: {calls, micro_usd}}`.
pub(crate) fn overage_by_plan(plans: &BTreeMap<PlanId, ChargedOverage>) -> AttributeValue {
    let plan = |(plan, overage): (&PlanId, &ChargedOverage)| {
        let overage = [
            ("calls".to_owned(), n(overage.calls)),
            ("micro_usd".to_owned(), n(overage.micro_usd.0)),
        ];
        (plan.to_string(), AttributeValue::M(overage.into()))
    };
    AttributeValue::M(plans.iter().map(plan).collect())
}

/// Reads the charged overage by plan. Empty if an earlier release wrote the item.
pub(crate) fn read_overage_by_plan(
    item: &Item,
) -> Result<BTreeMap<PlanId, ChargedOverage>, StoreError> {
    let corrupt = || StoreError::corrupt("charge", OVERAGE_BY_PLAN);
    let plans = match item.get(OVERAGE_BY_PLAN) {
        None => return Ok(BTreeMap::new()),
        Some(AttributeValue::M(plans)) => plans,
        Some(_) => return Err(corrupt()),
    };
    let plans = plans.iter().map(|(plan, overage)| {
        let overage = overage.as_m().map_err(|_| corrupt())?;
        let overage = Reader::new("charge", overage);
        let overage = ChargedOverage {
            calls: overage.number("calls")?,
            micro_usd: MicroUsd(overage.number("micro_usd")?),
        };
        Ok((plan.parse().map_err(|_| corrupt())?, overage))
    });
    plans.collect()
}

impl Store {
    /// Lists the customers with calls in `month` on a plan that charges overage, after the cursor `after`, at
    /// most `limit` of them or as many as a response of DynamoDB contains. A page may be empty and have a
    /// next one. Reads an index, which is eventually consistent.
    ///
    /// # Errors
    /// When the store fails, or the cursor is invalid.
    pub async fn billable_customers(
        &self,
        month: Month,
        after: Option<&str>,
        limit: Option<i32>,
    ) -> Result<Page<CustomerId>, StoreError> {
        let cursor = after.map(BillableCursor::read).transpose()?;
        let BillableCursor { shard, last } = cursor.unwrap_or_default();
        let partition = s(format!("{month}#{shard}"));
        let start = last.as_ref().map(|(customer, sk)| {
            let mut start = keys(customer.as_str(), sk);
            start.insert(attr::BILLABLE_MONTH.into(), partition.clone());
            start
        });
        let found = self
            .client
            .query()
            .table_name(self.table(USAGE))
            .index_name(BILLABLE.name)
            .key_condition_expression("billable_month = :month")
            .expression_attribute_values(":month", partition)
            .set_limit(limit.map(|limit| limit.saturating_mul(DAYS)))
            .set_exclusive_start_key(start)
            .send()
            .await
            .map_err(|error| StoreError::service(LISTING, error))?;
        let customer = |item: &Item| Reader::new("billable month", item).parsed(attr::PK);
        let customers = found.items().iter().map(customer);
        let customers: Vec<CustomerId> = customers.collect::<Result<_, _>>()?;
        // The index contains each shard of each day of the month, those of a customer next to one another.
        let mut items = customers.clone();
        items.dedup();
        if let Some((last, _)) = &last
            && items.first() == Some(last)
        {
            items.remove(0);
        }
        let limit = limit.and_then(|limit| usize::try_from(limit).ok());
        let limit = limit.filter(|limit| items.len() > *limit);
        let read_to = match limit {
            Some(limit) => {
                items.truncate(limit);
                let of_last = customers.iter().rposition(|it| Some(it) == items.last());
                of_last.and_then(|at| found.items().get(at))
            }
            None => found.last_evaluated_key.as_ref(),
        };
        let next = match read_to {
            Some(item) => {
                let sk = Reader::new("billable month", item).text(attr::SK)?;
                let last = Some((customer(item)?, sk.to_owned()));
                Some(BillableCursor { shard, last })
            }
            None => (shard + 1 < BILLABLE_SHARDS).then_some(BillableCursor {
                shard: shard + 1,
                last: None,
            }),
        };
        let next = next.map(|cursor| cursor.to_string());
        Ok(Page { items, next })
    }

    /// Reads the ledger of a billing period consistently.
    ///
    /// # Errors
    /// When the store fails.
    pub async fn period_ledger(
        &self,
        customer: &CustomerId,
        month: Month,
    ) -> Result<PeriodLedger, StoreError> {
        let key = keys(period_pk(customer, month), PERIOD);
        let Some(item) = self.billing_item(key).await? else {
            return Ok(PeriodLedger::default());
        };
        let overage_by_plan = read_overage_by_plan(&item)?;
        let item = Reader::new("period ledger", &item);
        Ok(PeriodLedger {
            charge_count: item.number("charges")?,
            cents: Cents(item.number("cents")?),
            overage_calls: item.number("overage_calls")?,
            overage_by_plan,
        })
    }

    pub(crate) async fn billing_item(&self, key: Item) -> Result<Option<Item>, StoreError> {
        let found = self
            .client
            .get_item()
            .table_name(self.table(BILLING))
            .set_key(Some(key))
            .consistent_read(true)
            .send()
            .await
            .map_err(|error| StoreError::service("reading the ledger", error))?;
        Ok(found.item)
    }

    /// Records a charge that was computed from the period ledger `before`.
    ///
    /// # Errors
    /// When the store fails; the charge may then be in the ledger. The caller has to read the period
    /// ledger again before it computes another.
    pub async fn record_charge(
        &self,
        charge: &Charge,
        before: &PeriodLedger,
    ) -> Result<RecordChargeOutcome, StoreError> {
        let ledger = keys(period_pk(&charge.customer, charge.month), PERIOD);
        let ledger = Action::update(
            BILLING,
            ledger,
            "SET charges = :number, cents = :cents, overage_calls = :calls, overage_by_plan = :plans",
        )
        .value(":number", n(charge.number))
        .value(":cents", n(before.cents.plus(charge.cents).0))
        .value(":calls", n(charge.overage_calls))
        .value(":plans", overage_by_plan(&charge.overage_by_plan));
        let ledger = if *before == PeriodLedger::default() {
            // Absent: this is the billing period's first charge, also with concurrent billing runs.
            ledger.when("attribute_not_exists(pk)")
        } else {
            ledger
                // The count and the sum of charges are those from which this one was computed: each
                // cent is charged by one of two concurrent billing runs, never by both.
                .when("charges = :charges_before AND cents = :cents_before")
                .value(":charges_before", n(before.charge_count))
                .value(":cents_before", n(before.cents.0))
        };
        let write_id = self.transaction_token();
        let mut item = charge_item(charge);
        item.insert(attr::WRITTEN_BY.into(), s(&write_id));
        // Absent: a recorded charge is never overwritten, even if the period ledger were wrong.
        let put = Action::put(BILLING, item).when("attribute_not_exists(pk)");
        let outcome = self.transact("recording a charge", vec![ledger, put]);
        match outcome.await? {
            Transacted::Committed => Ok(RecordChargeOutcome::Written),
            Transacted::Cancelled(results) => {
                let stored = results[1].item().map(|item| Reader::new("charge", item));
                match stored {
                    // By this very call: its first try took effect, and the response was lost.
                    Some(stored) if stored.is_written_by(&write_id)? => {
                        Ok(RecordChargeOutcome::Written)
                    }
                    _ => Ok(RecordChargeOutcome::Raced),
                }
            }
        }
    }

    /// Lists the charges of a billing period from number `from` on, oldest first. The page's cursor is the
    /// number after its last charge.
    ///
    /// # Errors
    /// When the store fails.
    pub async fn charges(
        &self,
        customer: &CustomerId,
        month: Month,
        from: u64,
    ) -> Result<Page<LedgerCharge>, StoreError> {
        let found = self
            .client
            .query()
            .table_name(self.table(BILLING))
            .key_condition_expression("pk = :pk AND sk BETWEEN :from AND :end")
            .expression_attribute_values(":pk", s(period_pk(customer, month)))
            .expression_attribute_values(":from", s(format!("{CHARGE}{from:06}")))
            .expression_attribute_values(":end", s(format!("{CHARGE}~")))
            .consistent_read(true)
            .send()
            .await
            .map_err(|error| StoreError::service("reading the ledger", error))?;
        let items: Vec<LedgerCharge> = found
            .items()
            .iter()
            .map(read_charge)
            .collect::<Result<_, _>>()?;
        let next = found.last_evaluated_key.and(items.last());
        let next = next.map(|last| (last.charge.number + 1).to_string());
        Ok(Page { items, next })
    }

    /// Returns the instant at which the billing of `month` was closed, if it is.
    ///
    /// # Errors
    /// When the store fails.
    pub async fn closed_at(&self, month: Month) -> Result<Option<Timestamp>, StoreError> {
        let item = self.billing_item(closed_key(month)).await?;
        let closed_at = |item| Reader::new("closed month", item).parsed("closed_at");
        item.as_ref().map(closed_at).transpose()
    }

    /// Closes the billing of `month`. Returns `false` if it was closed before.
    ///
    /// # Errors
    /// When the store fails; the month may then be closed.
    pub async fn close(&self, month: Month) -> Result<bool, StoreError> {
        let write_id = self.transaction_token();
        let mut item = closed_key(month);
        item.insert("closed_at".into(), t(self.clock.now()));
        item.insert(attr::WRITTEN_BY.into(), s(&write_id));
        let outcome = self
            .client
            .put_item()
            .table_name(self.table(BILLING))
            .set_item(Some(item))
            // Absent: of two concurrent billing runs that close the month, the first one's instant stays.
            .condition_expression("attribute_not_exists(pk)")
            .return_values_on_condition_check_failure(ReturnValuesOnConditionCheckFailure::AllOld)
            .send()
            .await;
        let Err(error) = outcome else {
            return Ok(true);
        };
        match error.as_service_error() {
            Some(PutItemError::ConditionalCheckFailedException(failed)) => {
                let stored = failed.item().map(|item| Reader::new("closed month", item));
                // By this very call: its first try took effect, and the response was lost.
                stored.map_or(Ok(false), |stored| stored.is_written_by(&write_id))
            }
            _ => Err(StoreError::service("closing a month", error)),
        }
    }

    /// Records that a billing run could not close `month`, so that
    /// [`months_left_open`](Self::months_left_open) returns it. Idempotent.
    ///
    /// # Errors
    /// When the store fails.
    pub async fn leave_open(&self, month: Month) -> Result<(), StoreError> {
        self.client
            .put_item()
            .table_name(self.table(BILLING))
            .set_item(Some(keys(LEFT_OPEN, month.to_string())))
            .send()
            .await
            .map_err(|error| StoreError::service("leaving a month open", error))?;
        Ok(())
    }

    /// Lists the months that a billing run could not close, oldest first. Some may have been closed since.
    ///
    /// # Errors
    /// When the store fails.
    pub async fn months_left_open(&self) -> Result<Vec<Month>, StoreError> {
        let found = self.query_all(
            "reading the ledger",
            BILLING,
            "pk = :pk",
            [(":pk", s(LEFT_OPEN))],
        );
        let found = found.await?;
        let month = |item| Reader::new("month left open", item).parsed(attr::SK);
        found.iter().map(month).collect()
    }
}

/// Cursor in the list of a month's billable customers: the shard, and within it the key of the last item
/// that was read.
#[derive(Default)]
struct BillableCursor {
    shard: u32,
    last: Option<(CustomerId, String)>,
}

impl BillableCursor {
    fn read(cursor: &str) -> Result<Self, StoreError> {
        let invalid = || StoreError::invalid_cursor(LISTING);
        let mut parts = cursor.splitn(3, SEPARATOR);
        let shard = parts.next().and_then(|shard| shard.parse().ok());
        let shard = shard.filter(|shard| *shard < BILLABLE_SHARDS);
        let last = match (parts.next(), parts.next()) {
            (None, None) => None,
            (Some(customer), Some(sk)) if (1..=MAX_SK).contains(&sk.len()) => {
                Some((customer.parse().map_err(|_| invalid())?, sk.to_owned()))
            }
            _ => return Err(invalid()),
        };
        Ok(Self {
            shard: shard.ok_or_else(invalid)?,
            last,
        })
    }
}

impl fmt::Display for BillableCursor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.shard)?;
        match &self.last {
            Some((customer, sk)) => write!(f, "{SEPARATOR}{customer}{SEPARATOR}{sk}"),
            None => Ok(()),
        }
    }
}
