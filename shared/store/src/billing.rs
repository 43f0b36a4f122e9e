//! The ledger: what each customer's month has been charged.

use std::collections::BTreeMap;
use std::fmt;

use aws_sdk_dynamodb::operation::put_item::PutItemError;
use aws_sdk_dynamodb::types::{AttributeValue, ReturnValuesOnConditionCheckFailure};
use jiff::Timestamp;
use tollgate_domain::billing::{Charge, PeriodLedger, ChargedOverage};
use tollgate_domain::id::{CustomerId, PlanId};
use tollgate_domain::money::{Cents, MicroUsd};
use tollgate_domain::window::Month;

use crate::Store;
use crate::accounts::Page;
use crate::error::StoreError;
use crate::item::{Item, MAX_SK, Reader, keys, n, s, signed, t};
use crate::schema::{BILLABLE, BILLABLE_SHARDS, BILLING, USAGE, attr};
use crate::transaction::{Action, Transacted};

/// What became of writing a charge down.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Recorded {
    /// It is in the ledger now, by this call.
    Written,
    /// Another charge was written since the month was read; nothing was changed.
    Raced,
}

/// A charge as the ledger has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LedgerCharge {
    /// What is charged.
    pub intent: Charge,
    /// How far it has got: `ledger_only` while no payment provider is configured.
    pub status: String,
}

/// The status of a charge that is asked of nobody, because no payment provider is configured.
const LEDGER_ONLY: &str = "ledger_only";
const ACCOUNT: &str = "ACCOUNT";
const CLOSED: &str = "CLOSED";
const LEFT_OPEN: &str = "LEFT_OPEN";
const COVERED: &str = "covered";
const LISTING: &str = "listing billable customers";
/// What separates the parts of a cursor: neither a customer's id nor a month has it.
const BETWEEN: char = '\n';

fn account_pk(customer: &CustomerId, month: Month) -> String {
    format!("{customer}#{month}")
}

fn closed_key(month: Month) -> Item {
    keys(format!("MONTH#{month}"), CLOSED)
}

/// What charges cover, by plan: `{<plan>: {calls, micro_usd}}`.
fn covered(plans: &BTreeMap<PlanId, ChargedOverage>) -> AttributeValue {
    let plan = |(plan, covered): (&PlanId, &ChargedOverage)| {
        let of_plan = [
            ("calls".to_owned(), n(covered.calls)),
            ("micro_usd".to_owned(), n(covered.micro_usd.0)),
        ];
        (plan.to_string(), AttributeValue::M(of_plan.into()))
    };
    AttributeValue::M(plans.iter().map(plan).collect())
}

/// The same, read; nothing where a release before wrote the item.
fn read_covered(item: &Item) -> Result<BTreeMap<PlanId, ChargedOverage>, StoreError> {
    let corrupt = || StoreError::corrupt("charge", COVERED);
    let plans = match item.get(COVERED) {
        None => return Ok(BTreeMap::new()),
        Some(AttributeValue::M(plans)) => plans,
        Some(_) => return Err(corrupt()),
    };
    let plans = plans.iter().map(|(plan, covered)| {
        let covered = covered.as_m().map_err(|_| corrupt())?;
        let covered = Reader::new("charge", covered);
        let covered = ChargedOverage {
            calls: covered.number("calls")?,
            micro_usd: MicroUsd(covered.number("micro_usd")?),
        };
        Ok((plan.parse().map_err(|_| corrupt())?, covered))
    });
    plans.collect()
}

fn intent_item(intent: &Charge) -> Item {
    let mut item = keys(
        account_pk(&intent.customer, intent.month),
        format!("INTENT#{:06}", intent.number),
    );
    item.insert("id".into(), s(&intent.id));
    item.insert("customer".into(), s(intent.customer.as_str()));
    item.insert("month".into(), s(intent.month.to_string()));
    item.insert("number".into(), n(intent.number));
    item.insert("cents".into(), n(intent.cents.0));
    item.insert("cumulative_micro_usd".into(), n(intent.cumulative.0));
    item.insert(COVERED.into(), covered(&intent.covered));
    item.insert("from_call".into(), n(intent.from_call));
    item.insert("to_call".into(), n(intent.to_call));
    if intent.adjusted_calls != 0 {
        item.insert("adjusted_calls".into(), signed(intent.adjusted_calls));
    }
    item.insert("usage_digest".into(), s(&intent.usage_digest));
    item.insert("created_at".into(), t(intent.created_at));
    item.insert("status".into(), s(LEDGER_ONLY));
    item
}

fn read_intent(item: &Item) -> Result<LedgerCharge, StoreError> {
    let covered = read_covered(item)?;
    let item = Reader::new("charge", item);
    Ok(LedgerCharge {
        intent: Charge {
            id: item.text("id")?.to_owned(),
            customer: item.parsed("customer")?,
            month: item.parsed("month")?,
            number: item.number("number")?,
            cents: Cents(item.number("cents")?),
            cumulative: MicroUsd(item.number("cumulative_micro_usd")?),
            covered,
            from_call: item.number("from_call")?,
            to_call: item.number("to_call")?,
            adjusted_calls: item.opt_signed("adjusted_calls")?.unwrap_or(0),
            usage_digest: item.text("usage_digest")?.to_owned(),
            created_at: item.parsed("created_at")?,
        },
        status: item.text("status")?.to_owned(),
    })
}

impl Store {
    /// Customers with calls in `month` on a plan that charges overage, from after `after` on, at most
    /// `limit` of them or as many as an answer holds. A page may be empty and have a next one. The
    /// index behind it lags by well under a second.
    ///
    /// # Errors
    /// When the store does not answer.
    pub async fn billable_customers(
        &self,
        month: Month,
        after: Option<&str>,
        limit: Option<i32>,
    ) -> Result<Page<CustomerId>, StoreError> {
        let place = after.map(BillablePlace::read).transpose()?;
        let BillablePlace { shard, last } = place.unwrap_or_default();
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
            .set_limit(limit)
            .set_exclusive_start_key(start)
            .send()
            .await
            .map_err(|error| StoreError::service(LISTING, error))?;
        let customer = |item: &Item| Reader::new("billable month", item).parsed(attr::PK);
        let customers = found.items().iter().map(customer);
        let mut items: Vec<CustomerId> = customers.collect::<Result<_, _>>()?;
        // A month that is spread is in the index as often as it has items, side by side.
        items.dedup();
        if let Some((last, _)) = &last
            && items.first() == Some(last)
        {
            items.remove(0);
        }
        let next = match &found.last_evaluated_key {
            Some(item) => {
                let sk = Reader::new("billable month", item).text(attr::SK)?;
                let last = Some((customer(item)?, sk.to_owned()));
                Some(BillablePlace { shard, last })
            }
            None => (shard + 1 < BILLABLE_SHARDS).then_some(BillablePlace {
                shard: shard + 1,
                last: None,
            }),
        };
        let next = next.map(|place| place.to_string());
        Ok(Page { items, next })
    }

    /// What a customer's month has been charged so far, read consistently.
    ///
    /// # Errors
    /// When the store does not answer.
    pub async fn charged(
        &self,
        customer: &CustomerId,
        month: Month,
    ) -> Result<PeriodLedger, StoreError> {
        let key = keys(account_pk(customer, month), ACCOUNT);
        let Some(item) = self.billing_item(key).await? else {
            return Ok(PeriodLedger::default());
        };
        let covered = read_covered(&item)?;
        let item = Reader::new("account", &item);
        Ok(PeriodLedger {
            charges: item.number("charges")?,
            cents: Cents(item.number("cents")?),
            over_calls: item.number("over_calls")?,
            covered,
        })
    }

    async fn billing_item(&self, key: Item) -> Result<Option<Item>, StoreError> {
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

    /// Writes a charge down, computed when `before` had been charged.
    ///
    /// # Errors
    /// When the store does not answer; the charge may then be in the ledger, and computing it
    /// afresh finds that out.
    pub async fn record_charge(
        &self,
        intent: &Charge,
        before: &PeriodLedger,
    ) -> Result<Recorded, StoreError> {
        let account = keys(account_pk(&intent.customer, intent.month), ACCOUNT);
        let account = Action::update(
            BILLING,
            account,
            "SET charges = :number, cents = :cents, over_calls = :calls, covered = :covered",
        )
        .value(":number", n(intent.number))
        .value(":cents", n(before.cents.0 + intent.cents.0))
        .value(":calls", n(intent.to_call))
        .value(":covered", covered(&intent.covered));
        let account = if *before == PeriodLedger::default() {
            // Absent: this is the month's first charge, whoever else is writing one.
            account.when("attribute_not_exists(pk)")
        } else {
            account
                // The same number of charges, of the same sum, as when this one was computed: a
                // cent is charged by one of two concurrent runs, never by both.
                .when("charges = :charges_before AND cents = :cents_before")
                .value(":charges_before", n(before.charges))
                .value(":cents_before", n(before.cents.0))
        };
        let mark = self.transaction_token();
        let mut charge = intent_item(intent);
        charge.insert(attr::WRITTEN_BY.into(), s(&mark));
        // Absent: a charge once written is never written over, whatever the account says.
        let charge = Action::put(BILLING, charge).when("attribute_not_exists(pk)");
        match self
            .transact("recording a charge", vec![account, charge])
            .await?
        {
            Transacted::Done => Ok(Recorded::Written),
            Transacted::Refused(refusals) => {
                let stored = refusals[1].item().map(|item| Reader::new("charge", item));
                match stored {
                    // This call's first try wrote it, and its answer was lost.
                    Some(stored) if stored.is_written_by(&mark)? => Ok(Recorded::Written),
                    _ => Ok(Recorded::Raced),
                }
            }
        }
    }

    /// The charges of a customer's month, oldest first. The number after the last one of this page
    /// begins the next.
    ///
    /// # Errors
    /// When the store does not answer.
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
            .expression_attribute_values(":pk", s(account_pk(customer, month)))
            .expression_attribute_values(":from", s(format!("INTENT#{from:06}")))
            .expression_attribute_values(":end", s("INTENT#~"))
            .consistent_read(true)
            .send()
            .await
            .map_err(|error| StoreError::service("reading the ledger", error))?;
        let items: Vec<LedgerCharge> = found
            .items()
            .iter()
            .map(read_intent)
            .collect::<Result<_, _>>()?;
        let next = found.last_evaluated_key.and(items.last());
        let next = next.map(|last| (last.intent.number + 1).to_string());
        Ok(Page { items, next })
    }

    /// When the billing of `month` ended, if it has.
    ///
    /// # Errors
    /// When the store does not answer.
    pub async fn closed_at(&self, month: Month) -> Result<Option<Timestamp>, StoreError> {
        let item = self.billing_item(closed_key(month)).await?;
        let closed_at = |item| Reader::new("closed month", item).parsed("closed_at");
        item.as_ref().map(closed_at).transpose()
    }

    /// Ends the billing of `month`. False if it had ended before.
    ///
    /// # Errors
    /// When the store does not answer; the month may then be closed.
    pub async fn close(&self, month: Month) -> Result<bool, StoreError> {
        let mark = self.transaction_token();
        let mut item = closed_key(month);
        item.insert("closed_at".into(), t(self.clock.now()));
        item.insert(attr::WRITTEN_BY.into(), s(&mark));
        let outcome = self
            .client
            .put_item()
            .table_name(self.table(BILLING))
            .set_item(Some(item))
            // Absent: the first instant is the one on record, of two runs that close it at once.
            .condition_expression("attribute_not_exists(pk)")
            .return_values_on_condition_check_failure(ReturnValuesOnConditionCheckFailure::AllOld)
            .send()
            .await;
        let Err(error) = outcome else {
            return Ok(true);
        };
        match error.as_service_error() {
            Some(PutItemError::ConditionalCheckFailedException(refused)) => {
                let stored = refused.item().map(|item| Reader::new("closed month", item));
                // This call's first try closed it, and its answer was lost.
                stored.map_or(Ok(false), |stored| stored.is_written_by(&mark))
            }
            _ => Err(StoreError::service("closing a month", error)),
        }
    }

    /// Notes that a run could not close `month`, so that [`months_left_open`](Self::months_left_open)
    /// names it for as long as it is not closed. Noting it again changes nothing.
    ///
    /// # Errors
    /// When the store does not answer.
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

    /// Months that a run could not close, oldest first. Some may have been closed since.
    ///
    /// # Errors
    /// When the store does not answer.
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

/// A place in the list of a month's billable customers: `<shard>`, and within it the key of the item
/// that it goes on after.
#[derive(Default)]
struct BillablePlace {
    shard: u32,
    last: Option<(CustomerId, String)>,
}

impl BillablePlace {
    fn read(place: &str) -> Result<Self, StoreError> {
        let none = || StoreError::invalid_cursor(LISTING);
        let mut parts = place.splitn(3, BETWEEN);
        let shard = parts.next().and_then(|shard| shard.parse().ok());
        let shard = shard.filter(|shard| *shard < BILLABLE_SHARDS);
        let last = match (parts.next(), parts.next()) {
            (None, None) => None,
            (Some(customer), Some(sk)) if (1..=MAX_SK).contains(&sk.len()) => {
                Some((customer.parse().map_err(|_| none())?, sk.to_owned()))
            }
            _ => return Err(none()),
        };
        Ok(Self {
            shard: shard.ok_or_else(none)?,
            last,
        })
    }
}

impl fmt::Display for BillablePlace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.shard)?;
        match &self.last {
            Some((customer, sk)) => write!(f, "{BETWEEN}{customer}{BETWEEN}{sk}"),
            None => Ok(()),
        }
    }
}
