//! Overage of a month, and the charge that is due for it.
//!
//! The overage of a month is always computed anew from all of its days and rounded once. The amount
//! due is the overage minus the charges so far, so neither the number of billing runs nor the order
//! of late usage records changes the month's total. If adjustments have reduced the overage below the
//! charges, the amount is negative: a credit.

use std::collections::BTreeMap;

use jiff::{SignedDuration, Timestamp};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::id::{CustomerId, PlanId};
use crate::money::{Cents, MicroUsd, SignedCents};
use crate::plan::{Catalog, MonthPolicy, OveragePrice};
use crate::submission::ChargeRef;
use crate::usage::Aggregate;
use crate::window::{Day, Month, day_range};

/// Time after its end during which a month stays open for late usage.
pub const OPEN_AFTER_END: SignedDuration = SignedDuration::from_hours(3 * 24);

/// Billable calls of a customer's month, by day and by the plan they were made on.
pub type BillableDays = BTreeMap<Day, BTreeMap<PlanId, BillableCalls>>;

/// Billable calls of one day on one plan.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct BillableCalls {
    /// Billable calls according to the usage records.
    pub calls: u64,
    /// Billable calls added (positive) or removed (negative) by adjustments.
    pub adjusted: i64,
}

/// Returns the billable calls in the aggregates of days.
#[must_use]
pub fn billable_days(aggregates: &BTreeMap<Day, Aggregate>) -> BillableDays {
    let mut days = BillableDays::new();
    for (day, aggregate) in aggregates {
        let mut by_plan: BTreeMap<PlanId, BillableCalls> = BTreeMap::new();
        for (plan, calls) in &aggregate.billable {
            by_plan.entry(plan.clone()).or_default().calls = *calls;
        }
        for (plan, calls) in &aggregate.adjusted.billable {
            by_plan.entry(plan.clone()).or_default().adjusted = *calls;
        }
        if !by_plan.is_empty() {
            days.insert(*day, by_plan);
        }
    }
    days
}

/// The overage of one plan in one month.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct OverageLine {
    /// The plan the calls were made on.
    pub plan: PlanId,
    /// Billable calls, adjustments included.
    pub calls: u64,
    /// Billable calls added (positive) or removed (negative) by adjustments.
    pub adjusted: i64,
    /// Calls that the plan includes.
    pub included: u64,
    /// Calls beyond the included ones.
    pub overage_calls: u64,
    /// Price of the overage calls.
    pub micro_usd: MicroUsd,
}

/// Error: calls were made on a plan that does not exist, so their price is unknown.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("plan {0} does not exist")]
pub struct UnknownPlan(pub PlanId);

/// Error: the charge that is due for a month is unknown.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NotRated {
    /// See [`UnknownPlan`].
    #[error(transparent)]
    UnknownPlan(#[from] UnknownPlan),
    /// The overage is larger than can be represented, which only mistaken prices or adjustments make it.
    #[error("the overage is larger than 18 trillion dollars: a price or an adjustment is wrong")]
    TooLarge,
}

/// Computes the overage of a month: one line for each plan that charges for overage and has calls.
///
/// Calls are taken in the order of their days; calls after the included ones have the price of their
/// day. Where the adjustments of a day remove more calls than it has, the latest overage calls of
/// earlier days are removed at their own price. Plans that do not charge have no line.
///
/// # Errors
/// When a plan of the calls is not in the catalogue.
pub fn overage(plans: &Catalog, days: &BillableDays) -> Result<Vec<OverageLine>, UnknownPlan> {
    let mut used = days.values().flat_map(BTreeMap::keys);
    if let Some(unknown) = used.find(|plan| plans.get(plan).is_none()) {
        return Err(UnknownPlan(unknown.clone()));
    }
    let lines = plans.iter().map(|plan| (&plan.id, &plan.month));
    let lines = lines.filter_map(|(plan, month)| overage_on_plan(plan, month, days));
    Ok(lines.collect())
}

/// Computes the overage of a month on one plan, as [`overage`] does: `None` if the plan does not charge for overage, or
/// has no calls.
#[must_use]
pub fn overage_on_plan(
    plan: &PlanId,
    month: &MonthPolicy,
    days: &BillableDays,
) -> Option<OverageLine> {
    let MonthPolicy::Overage { included, prices } = month else {
        return None;
    };
    let mut calls = 0_i128;
    let mut adjusted = 0_i64;
    // Price and number of overage calls, by day, without those that adjustments removed.
    let mut charged: Vec<(MicroUsd, u64)> = Vec::new();
    let beyond = |calls: i128| non_negative(calls).saturating_sub(*included);
    for (day, by_plan) in days {
        let of_day = by_plan.get(plan).copied().unwrap_or_default();
        let before = beyond(calls);
        calls += i128::from(of_day.calls) + i128::from(of_day.adjusted);
        adjusted = adjusted.saturating_add(of_day.adjusted);
        match beyond(calls).checked_sub(before) {
            Some(more) => charged.push((price_on(prices, *day), more)),
            None => remove_latest(&mut charged, before - beyond(calls)),
        }
    }
    if calls <= 0 && adjusted == 0 {
        return None;
    }
    let amounts = charged.iter().map(|(price, calls)| price.times(*calls));
    Some(OverageLine {
        plan: plan.clone(),
        calls: non_negative(calls),
        adjusted,
        included: *included,
        overage_calls: beyond(calls),
        micro_usd: amounts.sum(),
    })
}

/// Converts a sum of calls, which is negative if adjustments removed more than were made; that
/// counts as 0.
fn non_negative(calls: i128) -> u64 {
    u64::try_from(calls.max(0)).unwrap_or(u64::MAX)
}

/// Removes the latest `calls` of the charged calls.
fn remove_latest(charged: &mut Vec<(MicroUsd, u64)>, mut calls: u64) {
    while let Some((price, last)) = charged.pop() {
        if last > calls {
            charged.push((price, last - calls));
            return;
        }
        calls -= last;
    }
}

/// Returns the price on `day`: the latest in effect, or the first if none is in effect yet.
fn price_on(prices: &[OveragePrice], day: Day) -> MicroUsd {
    prices
        .iter()
        .rev()
        .find(|price| price.from <= day)
        .or(prices.first())
        .map_or(MicroUsd(0), |price| price.micro_usd_per_call)
}

/// Charges made so far for a billing period, a customer's month.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PeriodLedger {
    /// Number of charges.
    pub charge_count: u64,
    /// Sum of the charges.
    pub cents: Cents,
    /// Overage calls that the charges cover.
    pub overage_calls: u64,
    /// Overage that the charges cover, by plan. Empty if all charges were written by a release that
    /// did not store it.
    pub overage_by_plan: BTreeMap<PlanId, ChargedOverage>,
}

impl Charge {
    /// Returns the name of the charge.
    #[must_use]
    pub fn name(&self) -> ChargeRef {
        ChargeRef {
            customer: self.customer.clone(),
            month: self.month,
            number: self.number,
        }
    }

    /// Returns the sum of the month's earlier charges.
    #[must_use]
    pub fn charged_before(&self) -> SignedCents {
        let after = self.cumulative_overage.to_cents();
        SignedCents(after.minus(Cents(0)).0.saturating_sub(self.cents.0))
    }

    /// Returns the time for which the charge is due: from the start of the month to the time at which it was
    /// computed, or the end of the month.
    #[must_use]
    pub fn period(&self) -> [Timestamp; 2] {
        [self.month.start(), self.created_at.min(self.month.end())]
    }
}

impl PeriodLedger {
    /// Returns the overage that the charges cover: before rounding if it is stored by plan, and
    /// otherwise the sum of the charges.
    #[must_use]
    pub fn micro_usd(&self) -> MicroUsd {
        if self.overage_by_plan.is_empty() {
            return self.cents.into();
        }
        self.overage_by_plan
            .values()
            .map(|plan| plan.micro_usd)
            .sum()
    }
}

/// Overage of one plan in one month that charges cover.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct ChargedOverage {
    /// Overage calls.
    pub calls: u64,
    /// Price of the overage calls, before rounding.
    pub micro_usd: MicroUsd,
}

/// A charge: an amount due for a billing period, or if it is negative, a credit. The amount is frozen when
/// the charge is stored, before it is submitted to a payment provider.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Charge {
    /// Deterministic id: customer, month and number.
    pub id: String,
    /// Customer that pays.
    pub customer: CustomerId,
    /// Month of the overage.
    pub month: Month,
    /// Number of the charge within the month, from 1.
    pub number: u64,
    /// Amount due; negative for a credit.
    pub cents: SignedCents,
    /// Overage that the month's charges cover, this one included, before rounding.
    pub cumulative_overage: MicroUsd,
    /// `cumulative_overage` by plan; empty if the ledger does not store it.
    pub overage_by_plan: BTreeMap<PlanId, ChargedOverage>,
    /// Overage calls that the month's charges cover, this one included.
    pub overage_calls: u64,
    /// First overage call that the charge covers or the credit takes back, from 1.
    pub from_call: u64,
    /// Last overage call that the charge covers or the credit takes back. It is less than `from_call` if the
    /// number of overage calls is as before, and only their prices are others.
    pub to_call: u64,
    /// Calls added (positive) or removed (negative) by adjustments, on plans that charge for overage.
    pub adjusted_calls: i64,
    /// [`usage_lines`] of the days from which the charge was computed; empty if the ledger does not store them.
    pub usage: String,
    /// [`usage_digest`] of the same days.
    pub usage_digest: String,
    /// Text for the customer's invoice.
    pub description: String,
    /// Time at which the charge was computed.
    pub created_at: Timestamp,
}

/// Computes the charge now due for a month, if any: its overage, rounded once, minus the charges so
/// far. It is a credit if adjustments have reduced the overage below the charges.
///
/// # Errors
/// When a plan of the calls is not in the catalogue, or the sum cannot be represented.
pub fn charge_due(
    customer: &CustomerId,
    month: Month,
    plans: &Catalog,
    days: &BillableDays,
    charged: &PeriodLedger,
    now: Timestamp,
) -> Result<Option<Charge>, NotRated> {
    let lines = overage(plans, days)?;
    let beyond = lines.iter().filter(|line| line.overage_calls > 0);
    let cumulative_overage: MicroUsd = beyond.clone().map(|line| line.micro_usd).sum();
    // Sums saturate.
    if cumulative_overage == MicroUsd(u64::MAX) {
        return Err(NotRated::TooLarge);
    }
    let cents = cumulative_overage.to_cents().minus(charged.cents);
    if cents == SignedCents(0) {
        return Ok(None);
    }
    let number = charged.charge_count + 1;
    let calls = beyond.clone().map(|line| line.overage_calls);
    let overage_calls = calls.fold(0, u64::saturating_add);
    let (least, most) = match overage_calls < charged.overage_calls {
        true => (overage_calls, charged.overage_calls),
        false => (charged.overage_calls, overage_calls),
    };
    let described = beyond.clone().map(|line| (line.calls, line.included));
    let description = description(
        cents,
        most - least,
        described.collect(),
        billed_days(month, now),
    );
    let covered = beyond.map(|line| {
        let covered = ChargedOverage {
            calls: line.overage_calls,
            micro_usd: line.micro_usd,
        };
        (line.plan.clone(), covered)
    });
    Ok(Some(Charge {
        id: ChargeRef {
            customer: customer.clone(),
            month,
            number,
        }
        .id(),
        customer: customer.clone(),
        month,
        number,
        cents,
        cumulative_overage,
        overage_by_plan: covered.collect(),
        overage_calls,
        from_call: least + 1,
        to_call: most,
        description,
        adjusted_calls: lines
            .iter()
            .fold(0, |sum, line| sum.saturating_add(line.adjusted)),
        usage: usage_lines(days),
        usage_digest: usage_digest(days),
        created_at: now,
    }))
}

/// Returns the first and the last day whose calls a charge of `now` covers.
fn billed_days(month: Month, now: Timestamp) -> [Day; 2] {
    let last = Day::containing(month.end()).previous();
    let first = Day::containing(month.start());
    [first, Day::containing(now).clamp(first, last)]
}

/// Returns the text of an invoice item for the customer, such as "1,234 calls beyond the 100,000 included,
/// 1–15 November 2026". `plans` are the calls and the included calls of each plan with overage.
fn description(cents: SignedCents, calls: u64, plans: Vec<(u64, u64)>, days: [Day; 2]) -> String {
    let calls = match calls {
        1 => "1 call".to_owned(),
        calls => format!("{} calls", grouped(calls)),
    };
    let days = day_range(days[0], days[1]);
    match (cents < SignedCents(0), &plans[..]) {
        (true, _) => format!("Credit for {calls}, {days}"),
        (false, [(_, included)]) => {
            format!("{calls} beyond the {} included, {days}", grouped(*included))
        }
        (false, _) => format!("{calls} beyond the included ones, {days}"),
    }
}

/// Returns a number with a comma before each three digits.
#[must_use]
pub fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut grouped = String::with_capacity(digits.len() + digits.len() / 3);
    for (at, digit) in digits.char_indices() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            grouped.push(',');
        }
        grouped.push(digit);
    }
    grouped
}

/// Returns one line `<day> <plan> <calls>` for each day and plan, in order, with ` <sign><calls>` appended
/// where there were adjustments.
#[must_use]
pub fn usage_lines(days: &BillableDays) -> String {
    let mut lines = String::new();
    for (day, by_plan) in days {
        for (plan, BillableCalls { calls, adjusted }) in by_plan {
            lines.push_str(&match adjusted {
                0 => format!("{day} {plan} {calls}\n"),
                _ => format!("{day} {plan} {calls} {adjusted:+}\n"),
            });
        }
    }
    lines
}

/// Error: a text is not one of [`usage_lines`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the text has no billable calls by day and plan")]
pub struct InvalidUsageLines;

/// Parses a text of [`usage_lines`].
///
/// # Errors
/// When it is none.
pub fn parse_usage_lines(lines: &str) -> Result<BillableDays, InvalidUsageLines> {
    let parse = |line: &str| {
        let mut parts = line.split(' ');
        let (day, plan) = (parts.next()?.parse().ok()?, parts.next()?.parse().ok()?);
        let calls = BillableCalls {
            calls: parts.next()?.parse().ok()?,
            adjusted: parts.next().map_or(Ok(0), str::parse).ok()?,
        };
        Some((day, plan, calls))
    };
    let mut days = BillableDays::new();
    for line in lines.lines() {
        let (day, plan, calls) = parse(line).ok_or(InvalidUsageLines)?;
        days.entry(day).or_default().insert(plan, calls);
    }
    Ok(days)
}

/// Computes the SHA-256 of [`usage_lines`], in hexadecimal. It can be recomputed from the usage records.
#[must_use]
pub fn usage_digest(days: &BillableDays) -> String {
    hex::encode(Sha256::digest(usage_lines(days)))
}

/// Returns the months that a billing run at `now` covers, oldest first: the current one and the two
/// before it. The store skips closed months and adds older ones that were left open.
#[must_use]
pub fn months_to_bill(now: Timestamp) -> [Month; 3] {
    let current = Month::containing(now);
    [current.previous().previous(), current.previous(), current]
}

/// Whether a billing run that begins at `now` may close `month`: it ended at least
/// [`OPEN_AFTER_END`] ago.
#[must_use]
pub fn may_close(month: Month, now: Timestamp) -> bool {
    now.as_duration() - month.end().as_duration() >= OPEN_AFTER_END
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn days(calls: &[(&str, &str, u64)]) -> BillableDays {
        let mut days = BillableDays::new();
        for (day, plan, calls) in calls {
            let by_plan = days.entry(day.parse().unwrap()).or_default();
            let of_day = by_plan.entry(plan.parse().unwrap()).or_default();
            of_day.calls += calls;
        }
        days
    }

    fn adjust(days: &mut BillableDays, day: &str, plan: &str, calls: i64) {
        let by_plan = days.entry(day.parse().unwrap()).or_default();
        let of_day = by_plan.entry(plan.parse().unwrap()).or_default();
        of_day.adjusted += calls;
    }

    fn due(days: &BillableDays, charged: &PeriodLedger) -> Option<Charge> {
        try_due(&Catalog::shipped().unwrap(), days, charged).unwrap()
    }

    fn try_due(
        plans: &Catalog,
        days: &BillableDays,
        charged: &PeriodLedger,
    ) -> Result<Option<Charge>, NotRated> {
        let (customer, month) = ("acme".parse().unwrap(), "2026-11".parse().unwrap());
        let now = "2026-11-23T02:00:00Z".parse().unwrap();
        charge_due(&customer, month, plans, days, charged, now)
    }

    impl PeriodLedger {
        /// Returns the ledger after `charge` is added.
        fn with(&self, charge: &Charge) -> Self {
            Self {
                charge_count: charge.number,
                cents: self.cents.plus(charge.cents),
                overage_calls: charge.overage_calls,
                overage_by_plan: charge.overage_by_plan.clone(),
            }
        }
    }

    #[test]
    fn calls_beyond_the_included_ones_are_charged_once() {
        let month = days(&[("2026-11-01", "pro", 100_000), ("2026-11-02", "pro", 234)]);
        let charge = due(&month, &PeriodLedger::default()).unwrap();
        assert_eq!(charge.id, "ci_acme_2026-11_0001");
        assert_eq!(
            (charge.cents, charge.cumulative_overage),
            (SignedCents(23), MicroUsd(234_000))
        );
        assert_eq!((charge.from_call, charge.to_call), (1, 234));
        assert_eq!(due(&month, &PeriodLedger::default().with(&charge)), None);
    }

    #[test]
    fn each_plan_is_rated_by_its_own_calls() {
        let month = days(&[
            ("2026-11-01", "free", 900),
            ("2026-11-02", "pro", 100_010),
            ("2026-11-03", "enterprise", 5_000_000),
        ]);
        let charge = due(&month, &PeriodLedger::default()).unwrap();
        assert_eq!((charge.cents, charge.to_call), (SignedCents(1), 10));
    }

    #[test]
    fn a_plan_without_calls_and_adjustments_has_no_line() {
        let plans = Catalog::shipped().unwrap();
        let lines = |days| overage(&plans, &days).unwrap().len();
        assert_eq!(lines(days(&[("2026-11-01", "free", 9)])), 0);
        assert_eq!(lines(days(&[("2026-11-01", "pro", 1)])), 1);
        let mut month = days(&[]);
        adjust(&mut month, "2026-11-01", "pro", -1);
        assert_eq!(lines(month), 1);
    }

    fn two_prices() -> Catalog {
        Catalog::from_json(
            r#"[{"id":"pro","name":"Pro","requests_per_hour":1,"fail_mode":"open",
                "month":{"kind":"overage","included":10,"prices":[
                    {"from":"2026-01-01","micro_usd_per_call":1000},
                    {"from":"2026-11-10","micro_usd_per_call":5000}]}}]"#,
        )
        .unwrap()
    }

    #[test]
    fn a_call_has_the_price_of_its_day() {
        let month = days(&[("2026-11-09", "pro", 12), ("2026-11-10", "pro", 3)]);
        let lines = overage(&two_prices(), &month).unwrap();
        assert_eq!(
            (lines[0].overage_calls, lines[0].micro_usd),
            (5, MicroUsd(2 * 1_000 + 3 * 5_000))
        );
    }

    #[test]
    fn adjustments_are_charged_and_netted_like_calls() {
        let mut month = days(&[("2026-11-02", "pro", 100_100)]);
        adjust(&mut month, "2026-11-01", "pro", 30);
        adjust(&mut month, "2026-11-03", "pro", -80);
        let lines = overage(&Catalog::shipped().unwrap(), &month).unwrap();
        let line = &lines[0];
        assert_eq!((line.calls, line.adjusted), (100_050, -50));
        assert_eq!((line.overage_calls, line.micro_usd), (50, MicroUsd(50_000)));
        let charge = due(&month, &PeriodLedger::default()).unwrap();
        assert_eq!((charge.cents, charge.adjusted_calls), (SignedCents(5), -50));
        // Adjustments of a plan that does not charge for overage are not part of a charge.
        adjust(&mut month, "2026-11-11", "free", -7);
        let charge = due(&month, &PeriodLedger::default()).unwrap();
        assert_eq!((charge.cents, charge.adjusted_calls), (SignedCents(5), -50));
        let charged = PeriodLedger::default().with(&charge);
        assert_eq!(due(&month, &charged), None, "nothing is charged twice");
        adjust(&mut month, "2026-11-03", "pro", -40);
        let credit = due(&month, &charged).unwrap();
        assert_eq!((credit.from_call, credit.to_call), (11, 50));
        assert_eq!((credit.cents, credit.overage_calls), (SignedCents(-4), 10));
        assert_eq!(
            credit.description,
            "Credit for 40 calls, 1–23 November 2026"
        );
        let charged = charged.with(&credit);
        assert_eq!(due(&month, &charged), None, "nothing is credited twice");
        adjust(&mut month, "2026-11-04", "pro", 70);
        let charge = due(&month, &charged).unwrap();
        assert_eq!((charge.from_call, charge.to_call), (11, 80));
        assert_eq!(charge.cents, SignedCents(7));
    }

    #[test]
    fn adjustments_remove_the_latest_overage_calls_first() {
        let plans = two_prices();
        let check = |adjusted, overage_calls, micro_usd| {
            let mut month = days(&[("2026-11-09", "pro", 12), ("2026-11-10", "pro", 3)]);
            adjust(&mut month, "2026-11-11", "pro", adjusted);
            let line = &overage(&plans, &month).unwrap()[0];
            let found = (line.overage_calls, line.micro_usd);
            assert_eq!(found, (overage_calls, MicroUsd(micro_usd)), "{adjusted}");
        };
        check(-1, 4, 2 * 1_000 + 2 * 5_000);
        check(-3, 2, 2 * 1_000);
        check(-4, 1, 1_000);
        check(-5, 0, 0);
        check(-100, 0, 0);
        let mut none = BillableDays::new();
        adjust(&mut none, "2026-11-11", "pro", -100);
        assert_eq!(overage(&plans, &none).unwrap()[0].calls, 0);
    }

    /// Plans without included calls, each with its price of a call in micro-dollars.
    fn charging(plans: &[(&str, u64)]) -> Catalog {
        let plan = |(id, price): &(&str, u64)| {
            serde_json::json!({
                "id": id, "name": id, "requests_per_hour": 1, "fail_mode": "open",
                "month": { "kind": "overage", "included": 0, "prices": [
                    { "from": "2026-01-01", "micro_usd_per_call": price },
                ] },
            })
        };
        let plans: Vec<_> = plans.iter().map(plan).collect();
        Catalog::from_json(&serde_json::json!(plans).to_string()).unwrap()
    }

    #[test]
    fn calls_on_a_plan_that_does_not_exist_are_not_rated() {
        let month = days(&[("2026-11-01", "pro", 5), ("2026-11-02", "pro-2", 6)]);
        let check = |plans: &Catalog, month: &BillableDays, expected: Result<(), &str>| {
            let found = try_due(plans, month, &PeriodLedger::default());
            let expected = expected.map_err(str::to_owned);
            let found = found.map(drop).map_err(|error| error.to_string());
            assert_eq!(found, expected);
        };
        let both = charging(&[("pro", 1), ("pro-2", 1)]);
        check(&both, &month, Ok(()));
        let (old, new) = (charging(&[("pro", 1)]), charging(&[("pro-2", 1)]));
        check(&old, &month, Err("plan pro-2 does not exist"));
        check(&new, &month, Err("plan pro does not exist"));
        let mut corrected = days(&[("2026-11-02", "pro-2", 6)]);
        check(&new, &corrected, Ok(()));
        adjust(&mut corrected, "2026-11-02", "pro", -1);
        check(&new, &corrected, Err("plan pro does not exist"));
    }

    #[test]
    fn a_credit_on_one_plan_is_netted_with_a_charge_on_another() {
        let plans = charging(&[("pro", 10_000), ("pro-2", 10_000)]);
        let mut month = days(&[("2026-11-01", "pro", 50)]);
        let first = try_due(&plans, &month, &PeriodLedger::default());
        let first = first.unwrap().unwrap();
        assert_eq!((first.cents, first.to_call), (SignedCents(50), 50));
        let charged = PeriodLedger::default().with(&first);

        adjust(&mut month, "2026-11-02", "pro", -20);
        adjust(&mut month, "2026-11-02", "pro-2", 60);
        let second = try_due(&plans, &month, &charged).unwrap().unwrap();
        assert_eq!(second.cents, SignedCents(40));
        assert_eq!((second.from_call, second.to_call), (51, 90));
        let by_plan: Vec<_> = second
            .overage_by_plan
            .iter()
            .map(|(plan, covered)| (plan.as_str(), covered.calls))
            .collect();
        assert_eq!(by_plan, [("pro", 30), ("pro-2", 60)]);
        let charged = charged.with(&second);
        assert_eq!(charged.micro_usd(), MicroUsd(900_000));
        assert_eq!(try_due(&plans, &month, &charged), Ok(None));
    }

    #[test]
    fn the_description_is_for_people() {
        let check = |cents, calls, plans: &[(u64, u64)], now: &str, expected: &str| {
            let days = billed_days("2026-11".parse().unwrap(), now.parse().unwrap());
            let found = description(SignedCents(cents), calls, plans.to_vec(), days);
            assert_eq!(found, expected);
        };
        let pro = [(1_234_567, 100_000)];
        check(
            123,
            1_234,
            &pro,
            "2026-11-15T02:00:00Z",
            "1,234 calls beyond the 100,000 included, 1–15 November 2026",
        );
        check(
            1,
            1,
            &pro,
            "2026-11-01T00:00:00Z",
            "1 call beyond the 100,000 included, 1 November 2026",
        );
        check(
            1,
            999,
            &[(1, 0), (2, 5)],
            "2026-12-04T02:00:00Z",
            "999 calls beyond the included ones, 1–30 November 2026",
        );
        check(
            -1,
            1_000_000,
            &pro,
            "2026-12-04T02:00:00Z",
            "Credit for 1,000,000 calls, 1–30 November 2026",
        );
    }

    #[test]
    fn charges_without_overage_by_plan_are_netted_against_all_plans() {
        let plans = charging(&[("pro", 10_000), ("pro-2", 10_000)]);
        let month = days(&[("2026-11-01", "pro", 50), ("2026-11-02", "pro-2", 10)]);
        let charged = PeriodLedger {
            charge_count: 1,
            cents: Cents(55),
            overage_calls: 55,
            ..PeriodLedger::default()
        };
        assert_eq!(charged.micro_usd(), MicroUsd(550_000));
        let charge = try_due(&plans, &month, &charged).unwrap().unwrap();
        assert_eq!((charge.cents, charge.from_call), (SignedCents(5), 56));
        let charged_plans: Vec<_> = charge.overage_by_plan.keys().map(PlanId::as_str).collect();
        assert_eq!(charged_plans, ["pro", "pro-2"]);
    }

    #[test]
    fn an_overage_that_does_not_fit_is_not_rated() {
        // A million dollars a call.
        let plans = charging(&[("pro", 1_000_000_000_000)]);
        let rated = |calls| {
            let month = days(&[("2026-11-01", "pro", calls)]);
            try_due(&plans, &month, &PeriodLedger::default())
        };
        let largest = rated(18_446_744).unwrap().unwrap();
        assert_eq!(largest.cents, SignedCents(1_844_674_400_000_000));
        assert_eq!(rated(18_446_745), Err(NotRated::TooLarge));
    }

    #[test]
    fn the_digest_can_be_recomputed_with_sha256sum() {
        let month = days(&[("2026-11-01", "pro", 2), ("2026-11-02", "free", 1)]);
        // printf '2026-11-01 pro 2\n2026-11-02 free 1\n' | sha256sum
        assert_eq!(
            usage_digest(&month),
            "9fa57b35663a33e2427859ddced83276daa5a111f229945bba709e458ddc2827"
        );
        let mut adjusted = month;
        adjust(&mut adjusted, "2026-11-02", "free", -3);
        // printf '2026-11-01 pro 2\n2026-11-02 free 1 -3\n' | sha256sum
        assert_eq!(
            usage_digest(&adjusted),
            "f06a7b201f3830706a823a672f87fdb4899c1d880708ceefa35a0ea1bb39b9d2"
        );
    }

    #[test]
    fn a_month_stays_open_for_three_days() {
        let check = |now: &str, closes| {
            let month = "2026-11".parse().unwrap();
            assert_eq!(may_close(month, now.parse().unwrap()), closes, "{now}");
        };
        check("2026-12-03T23:59:59Z", false);
        check("2026-12-04T00:00:00Z", true);
        let months = months_to_bill("2027-01-05T02:00:00Z".parse().unwrap());
        assert_eq!(
            months.map(|m| m.to_string()),
            ["2026-11", "2026-12", "2027-01"]
        );
    }

    proptest! {
        /// Whatever the order of usage, adjustments and billing runs, the sum of the charges is the month's
        /// overage, rounded once.
        #[test]
        fn the_charges_of_a_month_add_up_to_its_overage(
            nightly in prop::collection::vec((1_u32..=28, 0_u64..40_000, -20_000_i64..20_000), 1..40),
        ) {
            let mut month = BillableDays::new();
            let mut charged = PeriodLedger::default();
            let mut total = 0_i64;
            for (day, calls, adjusted) in nightly {
                let day = format!("2026-11-{day:02}").parse().unwrap();
                let of_day = month.entry(day).or_default().entry("pro".parse().unwrap()).or_default();
                of_day.calls += calls;
                of_day.adjusted += adjusted;
                total += i64::try_from(calls).unwrap() + adjusted;
                let expected = u64::try_from(total - 100_000).unwrap_or(0);
                let lines = overage(&Catalog::shipped().unwrap(), &month).unwrap();
                prop_assert_eq!(lines[0].overage_calls, expected);
                if let Some(charge) = due(&month, &charged) {
                    prop_assert!(charge.from_call <= charge.to_call);
                    charged = charged.with(&charge);
                }
                prop_assert_eq!(charged.cents, MicroUsd(1_000).times(expected).to_cents());
                prop_assert_eq!(charged.micro_usd(), MicroUsd(1_000).times(charged.overage_calls));
            }
        }
    }
}
