//! Recomputation of a charge, in millionths of a dollar, as `docs/proof.py` does it for customers.

use std::collections::{BTreeMap, BTreeSet};

use serde::Deserialize;
use sha2::{Digest, Sha256};
use tollgate_domain::window::Day;

use crate::client::{Call, path};
use crate::context::{Context, Page, with_cursor};
use crate::failure::Failure;
use crate::logged::{LoggedEvent, Records};

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
    plan: String,
    month: MonthPolicy,
}

#[derive(Deserialize)]
#[serde(tag = "kind", rename_all = "lowercase")]
enum MonthPolicy {
    Overage { included: i64, prices: Vec<Price> },
    Blocked,
    Unlimited,
}

#[derive(Deserialize)]
struct Price {
    from: Day,
    micro_usd_per_call: i64,
}

#[derive(Deserialize)]
struct RatedCalls {
    day: Day,
    plan: String,
    calls: i64,
    adjusted_calls: i64,
}

#[derive(Deserialize)]
struct Adjustment {
    time: jiff::Timestamp,
    plan: String,
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
    let billed = proof
        .usage
        .iter()
        .map(|row| ((row.day, row.plan.clone()), (row.calls, row.adjusted_calls)));
    let billed: BTreeMap<_, _> = billed.collect();
    let keys: BTreeSet<_> = billed.keys().chain(now.keys()).collect();
    for key in keys {
        let (day, plan) = key;
        if *day < proof.kept_from {
            crate::note(format!(
                "{day}, {plan}: the records of this day are not kept any more"
            ));
        } else if billed.get(key).copied().unwrap_or_default()
            != now.get(key).copied().unwrap_or_default()
        {
            crate::note(format!(
                "{day}, {plan}: the records have other calls now than the charge was computed from"
            ));
        }
    }
    if digest(&proof.usage) != proof.usage_digest {
        return Err(Failure::of(
            "the calls of the charge do not have the digest that the ledger has",
        ));
    }
    let due = due(&proof);
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

/// Billable calls, and those of adjustments, by day and plan.
type Calls = BTreeMap<(Day, String), (i64, i64)>;

/// Counts the calls of the month in the customer's usage events and adjustments, as they are now.
async fn counted(context: &Context, customer: &str, proof: &Proof) -> Result<Calls, Failure> {
    let mut calls = Calls::new();
    let days = proof.usage.iter().map(|row| row.day);
    let Some((first, last)) = days.clone().min().zip(days.max()) else {
        return Ok(calls);
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
            let records = match logged.counted_records()? {
                Records::Certain(records) => records,
                Records::Uncertain => {
                    crate::note(format!(
                        "{}: some records of usage event {} were not counted, and the API does not say \
                        which",
                        logged.day,
                        logged.name()
                    ));
                    continue;
                }
            };
            for (_, record) in records.iter().filter(|(_, record)| record.is_billable()) {
                calls
                    .entry((logged.day, record.plan.to_string()))
                    .or_default()
                    .0 += 1;
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
            calls.entry((Day::containing(time), plan)).or_default().1 += billable_calls;
        }
        cursor = page.next_cursor;
        if cursor.is_none() {
            return Ok(calls);
        }
    }
}

/// Returns the SHA-256 of the calls, in hexadecimal digits.
fn digest(usage: &[RatedCalls]) -> String {
    let mut lines = String::new();
    for row in usage {
        let RatedCalls {
            day,
            plan,
            calls,
            adjusted_calls,
        } = row;
        let adjusted = match adjusted_calls {
            0 => String::new(),
            adjusted => format!(" {adjusted:+}"),
        };
        lines.push_str(&format!("{day} {plan} {calls}{adjusted}\n"));
    }
    hex::encode(Sha256::digest(lines.as_bytes()))
}

/// Returns what is due: the cost of the overage calls, rounded half up to a cent, less what was charged before.
fn due(proof: &Proof) -> i128 {
    const CENT: i128 = 10_000;
    let mut cost = 0;
    for plan in &proof.plans {
        let MonthPolicy::Overage { included, prices } = &plan.month else {
            continue;
        };
        let of_plan = proof.usage.iter().filter(|row| row.plan == plan.plan);
        let mut usage: Vec<(Day, i64)> = of_plan
            .map(|row| (row.day, row.calls + row.adjusted_calls))
            .collect();
        usage.sort_unstable();
        cost += overage(*included, prices, &usage);
    }
    (cost + CENT / 2).div_euclid(CENT) * CENT - i128::from(proof.charged_before.micro_usd)
}

/// Returns the cost of the calls beyond the included ones. Calls that are taken back are the latest ones, at their own
/// prices.
fn overage(included: i64, prices: &[Price], usage: &[(Day, i64)]) -> i128 {
    let mut total = 0;
    // Overage calls in the order of their days, those of a day at one price.
    let mut beyond: Vec<(i64, i64)> = Vec::new();
    for (day, calls) in usage {
        let before = (total - included).max(0);
        total += calls;
        let mut more = (total - included).max(0) - before;
        let price = prices
            .iter()
            .rfind(|price| price.from <= *day)
            .or(prices.first());
        let price = price.map_or(0, |price| price.micro_usd_per_call);
        if more > 0 {
            beyond.push((more, price));
        }
        while let Some((calls, _)) = beyond.last_mut().filter(|_| more < 0) {
            let taken = (-more).min(*calls);
            *calls -= taken;
            more += taken;
            if *calls == 0 {
                beyond.pop();
            }
        }
    }
    let costs = beyond
        .iter()
        .map(|(calls, price)| i128::from(*calls) * i128::from(*price));
    costs.sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn day(text: &str) -> Day {
        text.parse().unwrap()
    }

    #[test]
    fn calls_that_are_taken_back_are_the_latest_ones() {
        let prices =
            [("2026-01-01", 1000), ("2026-11-10", 3000)].map(|(from, micro_usd_per_call)| Price {
                from: day(from),
                micro_usd_per_call,
            });
        let check = |usage: &[(&str, i64)], expected: i128| {
            let usage: Vec<(Day, i64)> = usage
                .iter()
                .map(|(text, calls)| (day(text), *calls))
                .collect();
            assert_eq!(overage(10, &prices, &usage), expected, "{usage:?}");
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
