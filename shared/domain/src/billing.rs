//! Overage: what a month's calls cost beyond the included ones, and what of it is due now.
//!
//! The amount of a month is always computed afresh from all of its days and rounded once. What is
//! due is that amount less what has been charged already, so neither the number of runs nor the
//! order of late records changes what a customer pays in the end. Charges are netted plan by plan:
//! a plan that has become cheaper than what was charged for it lowers no other plan's overage.

use std::collections::BTreeMap;

use jiff::{SignedDuration, Timestamp};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::id::{CustomerId, PlanId};
use crate::key::hex;
use crate::money::{Cents, MicroUsd};
use crate::plan::{Catalog, MonthPolicy, OveragePrice};
use crate::usage::Aggregate;
use crate::window::{Day, Month};

/// How long after its end a month stays open for late usage.
pub const OPEN_AFTER_END: SignedDuration = SignedDuration::from_hours(3 * 24);

/// Billable calls of a customer's month, by day and by the plan they were made on.
pub type BillableDays = BTreeMap<Day, BTreeMap<PlanId, Billable>>;

/// Billable calls of one day on one plan.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Billable {
    /// As they were recorded.
    pub calls: u64,
    /// What adjustments add to them, or take away.
    pub adjusted: i64,
}

/// The billable calls in the tallies of days.
#[must_use]
pub fn billable_days(tallies: &BTreeMap<Day, Aggregate>) -> BillableDays {
    let mut days = BillableDays::new();
    for (day, tally) in tallies {
        let mut by_plan: BTreeMap<PlanId, Billable> = BTreeMap::new();
        for (plan, calls) in &tally.billable {
            by_plan.entry(plan.clone()).or_default().calls = *calls;
        }
        for (plan, calls) in &tally.adjusted.billable {
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
    /// Billable calls on it, adjustments included.
    pub calls: u64,
    /// What adjustments have added to them, or taken away.
    pub adjusted: i64,
    /// Those that the plan includes.
    pub included: u64,
    /// Those charged for.
    pub over: u64,
    /// What they cost.
    pub micro_usd: MicroUsd,
}

/// Calls were made on a plan that is not in the catalogue, so what they cost is not known.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("plan {0} is not in the catalogue")]
pub struct UnknownPlan(pub PlanId);

/// Computes the overage of a month: a line for each plan that charges any.
///
/// Calls are taken in the order of their days; those after the included ones are priced as of the
/// day they were made on. A day on which adjustments take away more calls than were made gives back
/// the latest of the earlier days at their price. Plans that do not charge have no line.
///
/// # Errors
/// When a plan of the calls is not in the catalogue.
pub fn overage(plans: &Catalog, days: &BillableDays) -> Result<Vec<OverageLine>, UnknownPlan> {
    let mut used = days.values().flat_map(BTreeMap::keys);
    if let Some(unknown) = used.find(|plan| plans.get(plan).is_none()) {
        return Err(UnknownPlan(unknown.clone()));
    }
    let mut lines = Vec::new();
    for plan in plans {
        let MonthPolicy::Overage { included, prices } = &plan.month else {
            continue;
        };
        let mut calls = 0_i128;
        let mut adjusted = 0_i64;
        // Calls that are charged for, as far as none took them back, with their price.
        let mut charged: Vec<(MicroUsd, u64)> = Vec::new();
        let over = |calls: i128| whole(calls).saturating_sub(*included);
        for (day, by_plan) in days {
            let of_day = by_plan.get(&plan.id).copied().unwrap_or_default();
            let before = over(calls);
            calls += i128::from(of_day.calls) + i128::from(of_day.adjusted);
            adjusted = adjusted.saturating_add(of_day.adjusted);
            match over(calls).checked_sub(before) {
                Some(more) => charged.push((price_on(prices, *day), more)),
                None => take_back(&mut charged, before - over(calls)),
            }
        }
        if calls > 0 || adjusted != 0 {
            let amounts = charged.iter().map(|(price, calls)| price.times(*calls));
            lines.push(OverageLine {
                plan: plan.id.clone(),
                calls: whole(calls),
                adjusted,
                included: *included,
                over: over(calls),
                micro_usd: amounts.sum(),
            });
        }
    }
    Ok(lines)
}

/// A sum of calls as a number of calls: there are none where more were taken away than made.
fn whole(calls: i128) -> u64 {
    u64::try_from(calls.max(0)).unwrap_or(u64::MAX)
}

/// Takes the latest of the charged calls away.
fn take_back(charged: &mut Vec<(MicroUsd, u64)>, mut calls: u64) {
    while let Some((price, last)) = charged.pop() {
        if last > calls {
            charged.push((price, last - calls));
            return;
        }
        calls -= last;
    }
}

/// The price that holds on `day`: the last one that has begun, or the first of all.
fn price_on(prices: &[OveragePrice], day: Day) -> MicroUsd {
    prices
        .iter()
        .rev()
        .find(|price| price.from <= day)
        .or(prices.first())
        .map_or(MicroUsd(0), |price| price.micro_usd_per_call)
}

/// What a customer's month has been charged so far.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PeriodLedger {
    /// The number of charges.
    pub charges: u64,
    /// Their sum.
    pub cents: Cents,
    /// The overage calls that they cover.
    pub over_calls: u64,
    /// The overage that they cover, by plan. Empty where no charge says so, because all were
    /// written by a release that did not: they are netted against the overage of all plans.
    pub covered: BTreeMap<PlanId, ChargedOverage>,
}

impl PeriodLedger {
    /// The overage that the charges cover, before rounding as far as that is known.
    #[must_use]
    pub fn micro_usd(&self) -> MicroUsd {
        if self.covered.is_empty() {
            return self.cents.into();
        }
        self.covered.values().map(|plan| plan.micro_usd).sum()
    }
}

/// Overage of one plan in one month that charges cover: the most that it has come to when one was
/// made.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct ChargedOverage {
    /// Overage calls.
    pub calls: u64,
    /// What they cost, before rounding.
    pub micro_usd: MicroUsd,
}

/// A charge that is due: the amount is frozen when it is written down, before anyone is asked to
/// pay it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Charge {
    /// The same whoever computes it: customer, month and number.
    pub id: String,
    /// Who pays.
    pub customer: CustomerId,
    /// For which month.
    pub month: Month,
    /// The charge's number within the month, from 1.
    pub number: u64,
    /// How much.
    pub cents: Cents,
    /// The overage that the month's charges cover with this one, before rounding.
    pub cumulative: MicroUsd,
    /// The same by plan; empty where the ledger does not say it.
    pub covered: BTreeMap<PlanId, ChargedOverage>,
    /// The first overage call it covers, from 1.
    pub from_call: u64,
    /// The last one. It may be an earlier one than the charge before ended with: fewer calls, each
    /// at a higher price. Then it covers none.
    pub to_call: u64,
    /// What adjustments had added to the month's calls on plans that charge, or taken away.
    pub adjusted_calls: i64,
    /// [`usage_digest`] of the days it was computed from.
    pub usage_digest: String,
    /// When it was computed.
    pub created_at: Timestamp,
}

/// Computes the charge now due for a month, if any: its overage rounded once, less what was charged
/// before. Of a plan whose overage has become less than what charges cover of it, what they cover
/// counts, so that nothing of it is netted against other plans.
///
/// Nothing is due when late corrections made the month cheaper than what was charged.
///
/// # Errors
/// When a plan of the calls is not in the catalogue: the month's overage is then not known.
pub fn charge_due(
    customer: &CustomerId,
    month: Month,
    plans: &Catalog,
    days: &BillableDays,
    charged: &PeriodLedger,
    now: Timestamp,
) -> Result<Option<Charge>, UnknownPlan> {
    let lines = overage(plans, days)?;
    let mut covered = charged.covered.clone();
    for line in lines.iter().filter(|line| line.over > 0) {
        let plan = covered.entry(line.plan.clone()).or_default();
        plan.calls = plan.calls.max(line.over);
        plan.micro_usd = plan.micro_usd.max(line.micro_usd);
    }
    let cumulative: MicroUsd = covered.values().map(|plan| plan.micro_usd).sum();
    let due = cumulative.to_cents().0.saturating_sub(charged.cents.0);
    if due == 0 {
        return Ok(None);
    }
    let number = charged.charges + 1;
    let calls = covered.values().map(|plan| plan.calls);
    let to_call = calls.fold(0, u64::saturating_add);
    Ok(Some(Charge {
        id: format!("ci_{customer}_{month}_{number:04}"),
        customer: customer.clone(),
        month,
        number,
        cents: Cents(due),
        cumulative,
        covered,
        from_call: charged.over_calls.min(to_call) + 1,
        to_call,
        adjusted_calls: lines
            .iter()
            .fold(0, |sum, line| sum.saturating_add(line.adjusted)),
        usage_digest: usage_digest(days),
        created_at: now,
    }))
}

/// SHA-256, in hexadecimal, of one line `<day> <plan> <calls>` for each day and plan, in order; where
/// there were adjustments, ` <sign><calls>` comes after it. Anyone with the usage records can compute
/// it.
#[must_use]
pub fn usage_digest(days: &BillableDays) -> String {
    let mut hash = Sha256::new();
    for (day, by_plan) in days {
        for (plan, Billable { calls, adjusted }) in by_plan {
            match adjusted {
                0 => hash.update(format!("{day} {plan} {calls}\n")),
                _ => hash.update(format!("{day} {plan} {calls} {adjusted:+}\n")),
            }
        }
    }
    hex(&hash.finalize())
}

/// The months that every billing run at `now` looks at, oldest first: the current one, and the two
/// before it. The store leaves out those that are closed, and adds those that were left open.
#[must_use]
pub fn months_to_bill(now: Timestamp) -> [Month; 3] {
    let current = Month::containing(now);
    [current.previous().previous(), current.previous(), current]
}

/// Whether a billing run that begins at `now` may close `month`: late usage of it is no longer waited
/// for.
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
    ) -> Result<Option<Charge>, UnknownPlan> {
        let (customer, month) = ("acme".parse().unwrap(), "2026-11".parse().unwrap());
        let now = "2026-11-23T02:00:00Z".parse().unwrap();
        charge_due(&customer, month, plans, days, charged, now)
    }

    impl PeriodLedger {
        /// What is charged once this charge is, too.
        fn with(&self, intent: &Charge) -> Self {
            Self {
                charges: intent.number,
                cents: Cents(self.cents.0 + intent.cents.0),
                over_calls: intent.to_call,
                covered: intent.covered.clone(),
            }
        }
    }

    #[test]
    fn calls_beyond_the_included_ones_are_charged_once() {
        let month = days(&[("2026-11-01", "pro", 100_000), ("2026-11-02", "pro", 234)]);
        let intent = due(&month, &PeriodLedger::default()).unwrap();
        assert_eq!(intent.id, "ci_acme_2026-11_0001");
        assert_eq!(
            (intent.cents, intent.cumulative),
            (Cents(23), MicroUsd(234_000))
        );
        assert_eq!((intent.from_call, intent.to_call), (1, 234));
        assert_eq!(due(&month, &PeriodLedger::default().with(&intent)), None);
    }

    #[test]
    fn each_plan_is_held_against_its_own_calls() {
        let month = days(&[
            ("2026-11-01", "free", 900),
            ("2026-11-02", "pro", 100_010),
            ("2026-11-03", "enterprise", 5_000_000),
        ]);
        let intent = due(&month, &PeriodLedger::default()).unwrap();
        assert_eq!((intent.cents, intent.to_call), (Cents(1), 10));
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
    fn a_call_costs_what_its_day_says() {
        let month = days(&[("2026-11-09", "pro", 12), ("2026-11-10", "pro", 3)]);
        let lines = overage(&two_prices(), &month).unwrap();
        assert_eq!(
            (lines[0].over, lines[0].micro_usd),
            (5, MicroUsd(2 * 1_000 + 3 * 5_000))
        );
    }

    #[test]
    fn adjustments_are_charged_and_taken_off_as_calls_are() {
        let mut month = days(&[("2026-11-02", "pro", 100_100)]);
        adjust(&mut month, "2026-11-01", "pro", 30);
        adjust(&mut month, "2026-11-03", "pro", -80);
        let lines = overage(&Catalog::shipped().unwrap(), &month).unwrap();
        let line = &lines[0];
        assert_eq!((line.calls, line.adjusted), (100_050, -50));
        assert_eq!((line.over, line.micro_usd), (50, MicroUsd(50_000)));
        let intent = due(&month, &PeriodLedger::default()).unwrap();
        assert_eq!((intent.cents, intent.adjusted_calls), (Cents(5), -50));
        // Calls that nobody charges for are no part of a charge.
        adjust(&mut month, "2026-11-11", "free", -7);
        let intent = due(&month, &PeriodLedger::default()).unwrap();
        assert_eq!((intent.cents, intent.adjusted_calls), (Cents(5), -50));
        let charged = PeriodLedger::default().with(&intent);
        adjust(&mut month, "2026-11-03", "pro", -40);
        assert_eq!(due(&month, &charged), None, "nothing is charged twice");
        adjust(&mut month, "2026-11-04", "pro", 70);
        let intent = due(&month, &charged).unwrap();
        assert_eq!((intent.from_call, intent.to_call), (51, 80));
        assert_eq!(intent.cents, Cents(3), "what was charged too much counts");
    }

    #[test]
    fn what_is_taken_back_is_what_was_charged_last() {
        let plans = two_prices();
        let check = |adjusted, over, micro_usd| {
            let mut month = days(&[("2026-11-09", "pro", 12), ("2026-11-10", "pro", 3)]);
            adjust(&mut month, "2026-11-11", "pro", adjusted);
            let line = &overage(&plans, &month).unwrap()[0];
            let found = (line.over, line.micro_usd);
            assert_eq!(found, (over, MicroUsd(micro_usd)), "{adjusted}");
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

    /// Plans that charge each call from the first: so many micro-dollars a call.
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
    fn calls_on_a_plan_that_is_not_in_the_catalogue_are_not_rated() {
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
        check(&old, &month, Err("plan pro-2 is not in the catalogue"));
        check(&new, &month, Err("plan pro is not in the catalogue"));
        let mut corrected = days(&[("2026-11-02", "pro-2", 6)]);
        check(&new, &corrected, Ok(()));
        adjust(&mut corrected, "2026-11-02", "pro", -1);
        check(&new, &corrected, Err("plan pro is not in the catalogue"));
    }

    #[test]
    fn what_one_plan_was_charged_is_not_taken_off_another() {
        let dear = charging(&[("pro", 10_000), ("pro-2", 10_000)]);
        let mut month = days(&[("2026-11-01", "pro", 50)]);
        let first = try_due(&dear, &month, &PeriodLedger::default());
        let first = first.unwrap().unwrap();
        assert_eq!((first.cents, first.to_call), (Cents(50), 50));
        let charged = PeriodLedger::default().with(&first);

        // The first price of a plan applies backwards, and this one has fallen.
        let cheap = charging(&[("pro", 1_000), ("pro-2", 10_000)]);
        assert_eq!(try_due(&cheap, &month, &charged), Ok(None));
        adjust(&mut month, "2026-11-02", "pro", -20);
        adjust(&mut month, "2026-11-02", "pro-2", 60);
        let second = try_due(&cheap, &month, &charged).unwrap().unwrap();
        assert_eq!(second.cents, Cents(60));
        assert_eq!((second.from_call, second.to_call), (51, 110));
        assert_eq!(second.cumulative, MicroUsd(1_100_000));
        let charged = charged.with(&second);
        assert_eq!(charged.micro_usd(), MicroUsd(1_100_000));
        assert_eq!(try_due(&cheap, &month, &charged), Ok(None));
    }

    #[test]
    fn charges_that_name_no_plan_are_taken_off_all_of_them() {
        let plans = charging(&[("pro", 10_000), ("pro-2", 10_000)]);
        let month = days(&[("2026-11-01", "pro", 50), ("2026-11-02", "pro-2", 10)]);
        let charged = PeriodLedger {
            charges: 1,
            cents: Cents(55),
            over_calls: 55,
            ..PeriodLedger::default()
        };
        assert_eq!(charged.micro_usd(), MicroUsd(550_000));
        let intent = try_due(&plans, &month, &charged).unwrap().unwrap();
        assert_eq!((intent.cents, intent.from_call), (Cents(5), 56));
        let plans_covered: Vec<_> = intent.covered.keys().map(PlanId::as_str).collect();
        assert_eq!(plans_covered, ["pro", "pro-2"]);
    }

    #[test]
    fn the_digest_can_be_computed_elsewhere() {
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
        /// However usage arrives and is corrected, and however often it is billed, the sum of the
        /// charges is the most that the month's overage, rounded once, has come to.
        #[test]
        fn the_charges_of_a_month_add_up_to_its_overage(
            nightly in prop::collection::vec((1_u32..=28, 0_u64..40_000, -20_000_i64..20_000), 1..40),
        ) {
            let mut month = BillableDays::new();
            let mut charged = PeriodLedger::default();
            let mut most = Cents(0);
            let mut total = 0_i64;
            for (day, calls, adjusted) in nightly {
                let day = format!("2026-11-{day:02}").parse().unwrap();
                let of_day = month.entry(day).or_default().entry("pro".parse().unwrap()).or_default();
                of_day.calls += calls;
                of_day.adjusted += adjusted;
                total += i64::try_from(calls).unwrap() + adjusted;
                let over = u64::try_from(total - 100_000).unwrap_or(0);
                let lines = overage(&Catalog::shipped().unwrap(), &month).unwrap();
                prop_assert_eq!(lines[0].over, over);
                most = most.max(MicroUsd(1_000).times(over).to_cents());
                if let Some(intent) = due(&month, &charged) {
                    prop_assert!(intent.from_call <= intent.to_call);
                    charged = charged.with(&intent);
                }
                prop_assert_eq!(charged.cents, most);
            }
        }
    }
}
