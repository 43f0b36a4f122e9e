//! The ledger: what each customer's month has been charged.

use std::collections::HashMap;

use aws_sdk_dynamodb::types::AttributeValue;
use tollgate_domain::billing::{ChargeIntent, Charged};
use tollgate_domain::id::CustomerId;
use tollgate_domain::money::{Cents, MicroUsd};
use tollgate_domain::window::Month;

use crate::Store;
use crate::accounts::Page;
use crate::error::StoreError;
use crate::item::{Item, Reader, keys, n, s, signed, t};
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
pub struct LedgerEntry {
    /// What is charged.
    pub intent: ChargeIntent,
    /// How far it has got: `ledger_only` while no payment provider is configured.
    pub status: String,
}

/// The status of a charge that is asked of nobody, because no payment provider is configured.
const LEDGER_ONLY: &str = "ledger_only";
const ACCOUNT: &str = "ACCOUNT";
const CLOSED: &str = "CLOSED";

fn account_pk(customer: &CustomerId, month: Month) -> String {
    format!("{customer}#{month}")
}

fn closed_key(month: Month) -> Item {
    keys(format!("MONTH#{month}"), CLOSED)
}

fn intent_item(intent: &ChargeIntent) -> Item {
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

fn read_intent(item: &Item) -> Result<LedgerEntry, StoreError> {
    let item = Reader::new("charge", item);
    Ok(LedgerEntry {
        intent: ChargeIntent {
            id: item.text("id")?.to_owned(),
            customer: item.parsed("customer")?,
            month: item.parsed("month")?,
            number: item.number("number")?,
            cents: Cents(item.number("cents")?),
            cumulative: MicroUsd(item.number("cumulative_micro_usd")?),
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
    /// Customers with calls in `month` on a plan that charges overage, a page at a time, from
    /// `after` on. The index behind it lags by well under a second.
    ///
    /// # Errors
    /// When the store does not answer.
    pub async fn billable_customers(
        &self,
        month: Month,
        after: Option<BillableCursor>,
    ) -> Result<(Vec<CustomerId>, Option<BillableCursor>), StoreError> {
        let BillableCursor { shard, start } = after.unwrap_or_default();
        let last: Option<CustomerId> = match &start {
            Some(start) => Some(Reader::new("billable month", start).parsed(attr::PK)?),
            None => None,
        };
        let found = self
            .client
            .query()
            .table_name(self.table(USAGE))
            .index_name(BILLABLE.name)
            .key_condition_expression("billable_month = :month")
            .expression_attribute_values(":month", s(format!("{month}#{shard}")))
            .set_exclusive_start_key(start)
            .send()
            .await
            .map_err(|error| StoreError::service("listing billable customers", error))?;
        let customers = found.items().iter();
        let customers = customers.map(|item| Reader::new("billable month", item).parsed(attr::PK));
        let mut customers: Vec<CustomerId> = customers.collect::<Result<_, _>>()?;
        // A month that is spread is in the index as often as it has items, side by side.
        customers.dedup();
        if let Some(last) = &last
            && customers.first() == Some(last)
        {
            customers.remove(0);
        }
        let next = match found.last_evaluated_key {
            Some(start) => Some(BillableCursor {
                shard,
                start: Some(start),
            }),
            None if shard + 1 < BILLABLE_SHARDS => Some(BillableCursor {
                shard: shard + 1,
                start: None,
            }),
            None => None,
        };
        Ok((customers, next))
    }

    /// What a customer's month has been charged so far, read consistently.
    ///
    /// # Errors
    /// When the store does not answer.
    pub async fn charged(
        &self,
        customer: &CustomerId,
        month: Month,
    ) -> Result<Charged, StoreError> {
        let key = keys(account_pk(customer, month), ACCOUNT);
        let Some(item) = self.billing_item(key).await? else {
            return Ok(Charged::default());
        };
        let item = Reader::new("account", &item);
        Ok(Charged {
            charges: item.number("charges")?,
            cents: Cents(item.number("cents")?),
            over_calls: item.number("over_calls")?,
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
        intent: &ChargeIntent,
        before: Charged,
    ) -> Result<Recorded, StoreError> {
        let account = keys(account_pk(&intent.customer, intent.month), ACCOUNT);
        let account = Action::update(
            BILLING,
            account,
            "SET charges = :number, cents = :cents, over_calls = :calls",
        )
        .value(":number", n(intent.number))
        .value(":cents", n(before.cents.0 + intent.cents.0))
        .value(":calls", n(intent.to_call));
        let account = if before == Charged::default() {
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
        // Absent: a charge once written is never written over, whatever the account says.
        let charge = Action::put(BILLING, intent_item(intent)).when("attribute_not_exists(pk)");
        match self
            .transact("recording a charge", vec![account, charge])
            .await?
        {
            Transacted::Done => Ok(Recorded::Written),
            Transacted::Refused(refusals) => {
                // The charge itself stands there, computed from the same usage at the same
                // instant: this call's first try wrote it, and its answer was lost.
                let stored = refusals[1].item().map(read_intent).transpose()?;
                if stored.is_some_and(|stored| stored.intent == *intent) {
                    Ok(Recorded::Written)
                } else {
                    Ok(Recorded::Raced)
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
    ) -> Result<Page<LedgerEntry>, StoreError> {
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
        let items: Vec<LedgerEntry> = found
            .items()
            .iter()
            .map(read_intent)
            .collect::<Result<_, _>>()?;
        let next = found.last_evaluated_key.and(items.last());
        let next = next.map(|last| (last.intent.number + 1).to_string());
        Ok(Page { items, next })
    }

    /// Whether `month` is no longer billed.
    ///
    /// # Errors
    /// When the store does not answer.
    pub async fn is_closed(&self, month: Month) -> Result<bool, StoreError> {
        Ok(self.billing_item(closed_key(month)).await?.is_some())
    }

    /// Ends the billing of `month`. Closing it again changes nothing that matters.
    ///
    /// # Errors
    /// When the store does not answer.
    pub async fn close(&self, month: Month) -> Result<(), StoreError> {
        let mut item = closed_key(month);
        item.insert("closed_at".into(), t(self.clock.now()));
        self.client
            .put_item()
            .table_name(self.table(BILLING))
            .set_item(Some(item))
            .send()
            .await
            .map_err(|error| StoreError::service("closing a month", error))?;
        Ok(())
    }
}

/// Where the list of a month's billable customers goes on.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct BillableCursor {
    shard: u32,
    start: Option<HashMap<String, AttributeValue>>,
}
