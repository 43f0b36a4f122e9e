//! Recomputation of a charge, as `docs/proof.py` does it for customers.

use std::collections::BTreeSet;

use serde::Deserialize;
use tollgate_domain::billing::{BillableCalls, BillableDays, overage_on_plan, usage_digest};
use tollgate_domain::id::PlanId;
use tollgate_domain::money::MicroUsd;
use tollgate_domain::plan::{MonthPolicy, OveragePrice};
use tollgate_domain::window::Day;

use crate::client::{Call, path};
use crate::context::{Context, Page, with_cursor};
use crate::failure::Failure;
use crate::logged::{LoggedEvent, Records, name};

/// Calculation of a charge, as the API returns it.
#[derive(Deserialize)]
struct Proof {
    charge: Charge,
    charged_before: Amount,
    kept_from: Day,
    plans: Vec<RatedPlan>,
    usage: Vec<RatedCalls>,
    usage_digest: String,
}

#[derive(Deserialize)]
struct Charge {
    amount: Amount,
    description: String,
    month: String,
}

#[derive(Deserialize)]
struct Amount {
    micro_usd: i64,
    display: String,
}

#[derive(Deserialize)]
struct RatedPlan {
    plan: PlanId,
    month: RatedMonth,
}

/// Policy of a month, as the API returns it: a later release may add members.
#[derive(Deserialize)]
#[serde(tag = "kind", rename_all = "lowercase")]
enum RatedMonth {
    Overage { included: u64, prices: Vec<Price> },
    Blocked,
    Unlimited,
}

#[derive(Deserialize)]
struct Price {
    from: Day,
    micro_usd_per_call: MicroUsd,
}

impl RatedMonth {
    /// Returns the policy, if overage is charged.
    fn policy(&self) -> Option<MonthPolicy> {
        let RatedMonth::Overage { included, prices } = self else {
            return None;
        };
        let prices = prices.iter().map(|price| OveragePrice {
            from: price.from,
            micro_usd_per_call: price.micro_usd_per_call,
        });
        Some(MonthPolicy::Overage {
            included: *included,
            prices: prices.collect(),
        })
    }
}

#[derive(Deserialize)]
struct RatedCalls {
    day: Day,
    plan: PlanId,
    calls: u64,
    adjusted_calls: i64,
}

#[derive(Deserialize)]
struct Adjustment {
    time: jiff::Timestamp,
    plan: PlanId,
    billable_calls: i64,
}

/// Shows the calculation of a charge, and whether it is right.
pub(crate) async fn run(
    context: &mut Context,
    customer: &str,
    charge: &str,
) -> Result<(), Failure> {
    let segments = ["admin", "customers", customer, "charges", charge, "proof"];
    let response = context
        .client
        .call(&Call::get(path(&segments, &[])))
        .await?;
    let proof: Proof = response.read()?;
    context.output.document(&response.body)?;
    context.output.flush()?;
    if proof.usage.is_empty() {
        return Err(Failure::of(
            "the charge cannot be recomputed: it was made by a release that did not keep the calls of charges",
        ));
    }
    let now = counted(context, customer, &proof).await?;
    let billed = billed_days(&proof.usage);
    let plans = |days: &BillableDays| {
        let plans = days
            .iter()
            .flat_map(|(day, by_plan)| by_plan.keys().map(|plan| (*day, plan.clone())));
        plans.collect::<BTreeSet<_>>()
    };
    for (day, plan) in &plans(&billed) | &plans(&now) {
        let calls = |days: &BillableDays| days.get(&day)?.get(&plan).copied();
        if day < proof.kept_from {
            crate::note(format!(
                "{day}, {plan}: the records of this day are not kept any more"
            ));
        } else if calls(&billed).unwrap_or_default() != calls(&now).unwrap_or_default() {
            crate::note(format!(
                "{day}, {plan}: the records have other calls now than the charge was computed from"
            ));
        }
    }
    if usage_digest(&billed) != proof.usage_digest {
        return Err(Failure::of(
            "the calls of the charge do not have the digest that the ledger has",
        ));
    }
    let due = due(&proof, &billed);
    if due != i128::from(proof.charge.amount.micro_usd) {
        return Err(Failure::of(format!(
            "the charge is {}, and its calls cost {due} millionths of a dollar",
            proof.charge.amount.display
        )));
    }
    crate::note(format!(
        "{charge}: {}, {}: as computed from its calls",
        proof.charge.amount.display, proof.charge.description
    ));
    Ok(())
}

/// Counts the calls of the month in the customer's usage events and adjustments, as they are now.
async fn counted(
    context: &Context,
    customer: &str,
    proof: &Proof,
) -> Result<BillableDays, Failure> {
    let mut counted = BillableDays::new();
    let days = proof.usage.iter().map(|row| row.day);
    let Some((first, last)) = days.clone().min().zip(days.max()) else {
        return Ok(counted);
    };
    let (from, to) = (first.to_string(), last.to_string());
    let query = [
        ("customer_id", Some(customer)),
        ("from", Some(from.as_str())),
        ("to", Some(to.as_str())),
    ];
    let path_of_events = path(&["admin", "usage", "events"], &query);
    let mut cursor = None;
    loop {
        let page: Page<LoggedEvent> = context
            .client
            .get(with_cursor(&path_of_events, cursor.as_deref()))
            .await?;
        for logged in &page.data {
            let (event, records) = logged.counted()?;
            let records = match records {
                Records::Certain(records) => records,
                Records::Uncertain => {
                    crate::note(format!(
                        "{}: some records of usage event {} were not counted, and the API does not say \
                        which",
                        logged.day,
                        name(&event)
                    ));
                    continue;
                }
            };
            for (_, record) in records.iter().filter(|(_, record)| record.is_billable()) {
                let by_plan = counted.entry(logged.day).or_default();
                by_plan.entry(record.plan.clone()).or_default().calls += 1;
            }
        }
        cursor = page.next_cursor;
        if cursor.is_none() {
            break;
        }
    }
    let segments = ["admin", "customers", customer, "adjustments"];
    let path_of_adjustments = path(&segments, &[("month", Some(&proof.charge.month))]);
    let mut cursor = None;
    loop {
        let page: Page<Adjustment> = context
            .client
            .get(with_cursor(&path_of_adjustments, cursor.as_deref()))
            .await?;
        for Adjustment {
            time,
            plan,
            billable_calls,
        } in page.data
        {
            let by_plan = counted.entry(Day::containing(time)).or_default();
            by_plan.entry(plan).or_default().adjusted += billable_calls;
        }
        cursor = page.next_cursor;
        if cursor.is_none() {
            return Ok(counted);
        }
    }
}

/// Returns the calls of a charge by day and plan.
fn billed_days(usage: &[RatedCalls]) -> BillableDays {
    let mut days = BillableDays::new();
    for row in usage {
        let calls = BillableCalls {
            calls: row.calls,
            adjusted: row.adjusted_calls,
        };
        let by_plan = days.entry(row.day).or_default();
        by_plan.insert(row.plan.clone(), calls);
    }
    days
}

/// Returns what is due in micro-dollars: the overage, rounded to cents, less what was charged before.
fn due(proof: &Proof, days: &BillableDays) -> i128 {
    let lines = proof.plans.iter().filter_map(|rated| {
        let month = rated.month.policy()?;
        overage_on_plan(&rated.plan, &month, days)
    });
    let overage: MicroUsd = lines.map(|line| line.micro_usd).sum();
    let rounded = MicroUsd::from(overage.to_cents());
    i128::from(rounded.0) - i128::from(proof.charged_before.micro_usd)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn day(text: &str) -> Day {
        text.parse().unwrap()
    }

    #[test]
    fn calls_that_are_taken_back_are_the_latest_ones() {
        let prices = [("2026-01-01", 1000), ("2026-11-10", 3000)].map(|(from, price)| Price {
            from: day(from),
            micro_usd_per_call: MicroUsd(price),
        });
        let month = RatedMonth::Overage {
            included: 10,
            prices: prices.into(),
        };
        let month = month.policy().unwrap();
        let check = |usage: &[(&str, i64)], expected: u64| {
            let rows = usage.iter().map(|(text, calls)| RatedCalls {
                day: day(text),
                plan: "pro".parse().unwrap(),
                calls: u64::try_from(*calls).unwrap_or(0),
                adjusted_calls: (*calls).min(0),
            });
            let days = billed_days(&rows.collect::<Vec<_>>());
            let line = overage_on_plan(&"pro".parse().unwrap(), &month, &days).unwrap();
            assert_eq!(line.micro_usd, MicroUsd(expected), "{usage:?}");
        };
        check(&[("2026-11-01", 10)], 0);
        check(&[("2026-11-01", 12), ("2026-11-10", 1)], 5000);
        check(
            &[("2026-11-01", 12), ("2026-11-10", 1), ("2026-11-11", -2)],
            1000,
        );
        check(
            &[("2026-11-01", 12), ("2026-11-10", -20), ("2026-11-11", 9)],
            0,
        );
        check(
            &[("2026-11-01", 12), ("2026-11-10", -5), ("2026-11-11", 4)],
            3000,
        );
    }
}
