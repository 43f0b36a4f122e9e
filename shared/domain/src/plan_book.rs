//! Versions of plans, and which of them applies to a customer's month.
//!
//! Versions are only ever added. A version applies to whole months, from one on that begins more than
//! [`NOTICE`] after the version is created, so that no call is rated by another version than the one under
//! which it was allowed. Plans can therefore be cached for [`PLAN_TTL`] without ever being stale.
//! Customers follow a plan, or are pinned to one of its versions, from a month's start too.

use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use serde::{Deserialize, Serialize};

use crate::id::PlanId;
use crate::plan::{Catalog, Plan};
use crate::window::Month;

/// Least time between the creation of a version, or of a pin, and the month in which it takes effect.
pub const NOTICE: SignedDuration = SignedDuration::from_hours(1);
/// Time for which plans that were read may be cached. It is shorter than [`NOTICE`] by more than clocks differ
/// and a read takes, so that each instance knows a version before it takes effect.
pub const PLAN_TTL: Duration = Duration::from_secs(45 * 60);

/// Returns the first month in which a version or a pin that is created at `now` can take effect.
#[must_use]
pub fn earliest_effect(now: Timestamp) -> Month {
    let noticed = now.saturating_add(NOTICE).unwrap_or(Timestamp::MAX);
    Month::containing(noticed).next()
}

/// Months after [`earliest_effect`] in which a version or a pin can take effect: no earlier one can follow it, so that a
/// mistyped year must not keep a plan as it is for ever.
const MOST_AHEAD: i32 = 24;

/// Returns the last month in which a version or a pin that is created at `now` can take effect.
#[must_use]
pub fn latest_effect(now: Timestamp) -> Month {
    earliest_effect(now).plus(MOST_AHEAD)
}

/// Versions of one plan.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PlanVersions {
    /// Version 1.
    first: PlanVersion,
    /// Versions 2, 3, …, of which none takes effect earlier than the one before.
    later: Vec<PlanVersion>,
    /// Time of the retirement. A retired plan applies to the customers who are on it, and takes no others.
    pub retired_at: Option<Timestamp>,
}

/// A version of a plan.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PlanVersion {
    /// Number of the version, from 1.
    pub number: u64,
    /// First month to which the version applies. The first version also applies to all earlier months.
    pub takes_effect: Month,
    /// Time of creation.
    pub created_at: Timestamp,
    /// Limits and prices.
    pub plan: Plan,
}

/// Error: the version cannot be added.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvalidVersion {
    /// The caller has seen another latest version.
    #[error("the latest version is {0}")]
    NotExpected(u64),
    /// The version would apply to a month that has begun, or does not begin more than [`NOTICE`] from then.
    #[error(
        "a version takes effect at the start of a month, more than an hour from now: {0} at the earliest"
    )]
    TooEarly(Month),
    /// The version would take effect too far ahead.
    #[error("a version takes effect in {0} at the latest")]
    TooLate(Month),
    /// The version would take effect before the latest one.
    #[error(
        "version {latest} takes effect in {month}, and a later one cannot take effect before that"
    )]
    BeforeLatest {
        /// Number of the latest version.
        latest: u64,
        /// Month in which it takes effect.
        month: Month,
    },
}

impl PlanVersions {
    /// Creates a plan with its first version.
    #[must_use]
    pub fn new(plan: Plan, created_at: Timestamp) -> Self {
        let first = PlanVersion {
            number: 1,
            takes_effect: Month::containing(created_at),
            created_at,
            plan,
        };
        Self {
            first,
            later: Vec::new(),
            retired_at: None,
        }
    }

    /// Creates a plan from its stored versions. `None` if they are not versions 1, 2, … of one plan in the order
    /// in which they take effect.
    #[must_use]
    pub fn from_stored(versions: Vec<PlanVersion>, retired_at: Option<Timestamp>) -> Option<Self> {
        let are_in_order = (1..)
            .zip(&versions)
            .all(|(number, version)| version.number == number)
            && versions.windows(2).all(|pair| {
                pair[0].takes_effect <= pair[1].takes_effect && pair[0].plan.id == pair[1].plan.id
            });
        let mut versions = versions.into_iter();
        let first = versions.next()?;
        are_in_order.then(|| Self {
            first,
            later: versions.collect(),
            retired_at,
        })
    }

    /// Returns the id of the plan.
    #[must_use]
    pub fn id(&self) -> &PlanId {
        &self.first.plan.id
    }

    /// Iterates over the versions, oldest first.
    pub fn iter(&self) -> impl DoubleEndedIterator<Item = &PlanVersion> {
        std::iter::once(&self.first).chain(&self.later)
    }

    /// Returns the latest version, which may not have taken effect yet.
    #[must_use]
    pub fn latest(&self) -> &PlanVersion {
        self.later.last().unwrap_or(&self.first)
    }

    /// Returns the version that applies to `month`: the pinned one, or else the last that has taken effect.
    #[must_use]
    pub fn in_effect(&self, month: Month, pinned: Option<u64>) -> &PlanVersion {
        let pinned = pinned.and_then(|number| self.iter().find(|version| version.number == number));
        let last = || {
            self.iter()
                .rev()
                .find(|version| version.takes_effect <= month)
        };
        pinned.or_else(last).unwrap_or(&self.first)
    }

    /// Whether calls on the plan may be charged in some month.
    #[must_use]
    pub fn may_charge_overage(&self) -> bool {
        self.iter().any(|version| version.plan.charges_overage())
    }

    /// Returns the version that `plan` becomes. It is not added.
    ///
    /// # Errors
    /// When `expected` is not the latest version, or `takes_effect` is before [`earliest_effect`] or the month in which
    /// the latest version takes effect, or after [`latest_effect`].
    pub fn next(
        &self,
        plan: Plan,
        takes_effect: Month,
        expected: u64,
        now: Timestamp,
    ) -> Result<PlanVersion, InvalidVersion> {
        let latest = self.latest();
        if latest.number != expected {
            return Err(InvalidVersion::NotExpected(latest.number));
        }
        let earliest = earliest_effect(now);
        if takes_effect < earliest {
            return Err(InvalidVersion::TooEarly(earliest));
        }
        let last = latest_effect(now);
        if takes_effect > last {
            return Err(InvalidVersion::TooLate(last));
        }
        if takes_effect < latest.takes_effect {
            return Err(InvalidVersion::BeforeLatest {
                latest: latest.number,
                month: latest.takes_effect,
            });
        }
        Ok(PlanVersion {
            number: latest.number + 1,
            takes_effect,
            created_at: now,
            plan,
        })
    }
}

/// All plans, in the order of their creation.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PlanBook(Vec<PlanVersions>);

impl PlanBook {
    /// Creates a book of these plans, which have different ids.
    #[must_use]
    pub fn new(mut plans: Vec<PlanVersions>) -> Self {
        plans.sort_by(|one, other| {
            let key = |plan: &PlanVersions| (plan.first.created_at, plan.id().clone());
            key(one).cmp(&key(other))
        });
        Self(plans)
    }

    /// Creates a book of the plans of a catalogue, each with one version.
    #[must_use]
    pub fn from_catalog(catalog: &Catalog, created_at: Timestamp) -> Self {
        let plans = catalog.iter().cloned();
        Self::new(
            plans
                .map(|plan| PlanVersions::new(plan, created_at))
                .collect(),
        )
    }

    /// Returns the plan with that id.
    #[must_use]
    pub fn get(&self, id: &PlanId) -> Option<&PlanVersions> {
        self.0.iter().find(|plan| plan.id() == id)
    }

    /// Iterates over all plans.
    pub fn iter(&self) -> std::slice::Iter<'_, PlanVersions> {
        self.0.iter()
    }

    /// Returns the version of the plan that applies to a customer with these pins in `month`.
    #[must_use]
    pub fn plan(&self, id: &PlanId, month: Month, pins: &Pins) -> Option<&Plan> {
        let plan = self.get(id)?;
        Some(&plan.in_effect(month, pins.version(id, month)).plan)
    }

    /// Whether calls on the plan may be charged in some month. `false` if there is no such plan.
    #[must_use]
    pub fn may_charge_overage(&self, id: &PlanId) -> bool {
        self.get(id).is_some_and(PlanVersions::may_charge_overage)
    }

    /// Returns the least number of included calls of the plan's versions that charge for calls beyond them.
    #[must_use]
    pub fn least_charged_from(&self, id: &PlanId) -> Option<u64> {
        let versions = self.get(id)?.iter();
        let charging = versions.filter(|version| version.plan.charges_overage());
        charging.filter_map(|version| version.plan.included()).min()
    }

    /// Returns the version of a plan that applies to a customer with these pins in `month`.
    #[must_use]
    pub fn in_effect(&self, id: &PlanId, month: Month, pins: &Pins) -> Option<&PlanVersion> {
        let plan = self.get(id)?;
        Some(plan.in_effect(month, pins.version(id, month)))
    }

    /// Returns the versions of all plans that apply to a customer with these pins in `month`.
    #[must_use]
    pub fn catalog(&self, month: Month, pins: &Pins) -> Catalog {
        let plans = self.0.iter().map(|plan| {
            let pinned = pins.version(plan.id(), month);
            plan.in_effect(month, pinned).plan.clone()
        });
        Catalog::of(plans.collect())
    }
}

/// Pins of a customer to versions of plans.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Pins(Vec<Pin>);

/// Pin of a customer to a version of a plan, from a month on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Pin {
    /// Plan.
    pub plan: PlanId,
    /// Number of the version; `None` ends an earlier pin, so that the customer follows the plan again.
    pub version: Option<u64>,
    /// First month.
    pub from: Month,
}

/// Error: the pin cannot be added.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum InvalidPin {
    /// The pin would apply to a month that has begun, or does not begin more than [`NOTICE`] from then.
    #[error(
        "a pin takes effect at the start of a month, more than an hour from now: {0} at the earliest"
    )]
    TooEarly(Month),
    /// The pin would take effect too far ahead.
    #[error("a pin takes effect in {0} at the latest")]
    TooLate(Month),
}

impl Pins {
    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Returns the version to which the customer is pinned in `month`, if it is.
    #[must_use]
    pub fn version(&self, plan: &PlanId, month: Month) -> Option<u64> {
        let in_effect = self
            .0
            .iter()
            .filter(|pin| pin.plan == *plan && pin.from <= month);
        in_effect.max_by_key(|pin| pin.from)?.version
    }

    /// Adds a pin, in the place of those of the plan that would take effect in the same month or later.
    ///
    /// # Errors
    /// When the month is before [`earliest_effect`] or after [`latest_effect`].
    pub fn set(&mut self, pin: Pin, now: Timestamp) -> Result<(), InvalidPin> {
        let (earliest, last) = (earliest_effect(now), latest_effect(now));
        if pin.from < earliest {
            return Err(InvalidPin::TooEarly(earliest));
        }
        if pin.from > last {
            return Err(InvalidPin::TooLate(last));
        }
        self.0
            .retain(|other| other.plan != pin.plan || other.from < pin.from);
        self.0.push(pin);
        Ok(())
    }

    /// Iterates over the pins, in the order in which they were set.
    pub fn iter(&self) -> std::slice::Iter<'_, Pin> {
        self.0.iter()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: &str = "2026-11-22T10:00:00Z";

    fn month(text: &str) -> Month {
        text.parse().unwrap()
    }

    fn at(text: &str) -> Timestamp {
        text.parse().unwrap()
    }

    /// Returns a version of the plan `pro` with this number of included calls.
    fn pro(included: u64) -> Plan {
        let json = format!(
            r#"[{{"id":"pro","name":"Pro","requests_per_hour":1,"fail_mode":"open","month":
                {{"kind":"blocked","included":{included}}}}}]"#
        );
        let catalog = Catalog::from_json(&json).unwrap();
        catalog.iter().next().unwrap().clone()
    }

    /// Returns a plan whose versions take effect in these months; version n includes n calls.
    fn versions(months: &[&str]) -> PlanVersions {
        let stored = (1..).zip(months).map(|(number, takes_effect)| PlanVersion {
            number,
            takes_effect: month(takes_effect),
            created_at: at("2026-01-01T00:00:00Z"),
            plan: pro(number),
        });
        PlanVersions::from_stored(stored.collect(), None).unwrap()
    }

    #[test]
    fn the_last_version_that_has_taken_effect_applies() {
        let plan = versions(&["2026-03", "2026-05", "2026-05", "2026-09"]);
        let check = |in_month: &str, expected| {
            assert_eq!(
                plan.in_effect(month(in_month), None).number,
                expected,
                "{in_month}"
            );
        };
        check("2025-12", 1);
        check("2026-03", 1);
        check("2026-04", 1);
        check("2026-05", 3);
        check("2026-08", 3);
        check("2026-09", 4);
        check("2030-01", 4);
    }

    #[test]
    fn a_pin_applies_from_its_month_until_it_is_ended() {
        let plan = versions(&["2026-03", "2026-05"]);
        let book = PlanBook::new(vec![plan]);
        let id: PlanId = "pro".parse().unwrap();
        let pin = |version, from: &str| Pin {
            plan: id.clone(),
            version,
            from: month(from),
        };
        let mut pins = Pins::default();
        pins.set(pin(Some(1), "2026-12"), at(NOW)).unwrap();
        pins.set(pin(None, "2027-02"), at("2026-12-31T23:59:59Z"))
            .unwrap();
        let check = |in_month: &str, expected| {
            let plan = book.plan(&id, month(in_month), &pins).unwrap();
            assert_eq!(plan.included(), Some(expected), "{in_month}");
            let catalog = book.catalog(month(in_month), &pins);
            assert_eq!(catalog.get(&id), Some(plan));
        };
        check("2026-11", 2);
        check("2026-12", 1);
        check("2027-01", 1);
        check("2027-02", 2);
        let other: PlanId = "free".parse().unwrap();
        assert_eq!(pins.version(&other, month("2026-12")), None);
        assert_eq!(book.plan(&other, month("2026-12"), &pins), None);
    }

    #[test]
    fn a_pin_replaces_those_that_would_take_effect_later() {
        let id: PlanId = "pro".parse().unwrap();
        let pin = |version, from: &str| Pin {
            plan: id.clone(),
            version: Some(version),
            from: month(from),
        };
        let mut pins = Pins::default();
        for (version, from) in [(1, "2026-12"), (2, "2027-03"), (3, "2027-01")] {
            pins.set(pin(version, from), at(NOW)).unwrap();
        }
        let found: Vec<_> = pins
            .iter()
            .map(|pin| (pin.version, pin.from.to_string()))
            .collect();
        assert_eq!(
            found,
            [(Some(1), "2026-12".into()), (Some(3), "2027-01".into())]
        );
        let too_early = pins.set(pin(1, "2026-11"), at(NOW)).unwrap_err();
        assert_eq!(too_early, InvalidPin::TooEarly(month("2026-12")));
        let too_late = pins.set(pin(1, "2029-01"), at(NOW)).unwrap_err();
        assert_eq!(too_late, InvalidPin::TooLate(month("2028-12")));
    }

    #[test]
    fn a_month_that_begins_within_the_notice_is_too_early() {
        let check = |now: &str, expected: &str| {
            assert_eq!(earliest_effect(at(now)), month(expected), "{now}");
        };
        check("2026-11-01T00:00:00Z", "2026-12");
        check("2026-11-30T22:59:59Z", "2026-12");
        check("2026-11-30T23:00:00Z", "2027-01");
        check("2026-12-01T00:00:00Z", "2027-01");
        assert!(PLAN_TTL < NOTICE.unsigned_abs());
    }

    #[test]
    fn a_version_takes_effect_in_a_later_month_and_not_before_the_latest() {
        let plan = versions(&["2026-03", "2027-02"]);
        let check = |takes_effect: &str, expected, outcome: Result<u64, InvalidVersion>| {
            let next = plan.next(pro(9), month(takes_effect), expected, at(NOW));
            assert_eq!(
                next.map(|version| version.number),
                outcome,
                "{takes_effect}"
            );
        };
        check("2027-02", 2, Ok(3));
        check("2027-03", 2, Ok(3));
        check("2028-12", 2, Ok(3));
        check("2029-01", 2, Err(InvalidVersion::TooLate(month("2028-12"))));
        check("2027-03", 1, Err(InvalidVersion::NotExpected(2)));
        check(
            "2026-11",
            2,
            Err(InvalidVersion::TooEarly(month("2026-12"))),
        );
        let (latest, month) = (2, month("2027-02"));
        check(
            "2026-12",
            2,
            Err(InvalidVersion::BeforeLatest { latest, month }),
        );
    }

    #[test]
    fn stored_versions_have_to_be_complete_and_in_order() {
        let valid: Vec<PlanVersion> = versions(&["2026-03", "2026-05"]).iter().cloned().collect();
        let check = |change: &dyn Fn(&mut Vec<PlanVersion>), is_valid: bool| {
            let mut versions = valid.clone();
            change(&mut versions);
            assert_eq!(
                PlanVersions::from_stored(versions, None).is_some(),
                is_valid
            );
        };
        check(&|_| (), true);
        check(&|versions| versions.clear(), false);
        check(&|versions| drop(versions.remove(0)), false);
        check(&|versions| versions.reverse(), false);
        check(
            &|versions| versions[1].takes_effect = month("2026-02"),
            false,
        );
        check(
            &|versions| versions[1].plan.id = "free".parse().unwrap(),
            false,
        );
    }

    #[test]
    fn plans_are_in_the_order_of_their_creation() {
        let plan = |id: &str, created_at: &str| {
            let plan = Plan {
                id: id.parse().unwrap(),
                ..pro(1)
            };
            PlanVersions::new(plan, at(created_at))
        };
        let book = PlanBook::new(vec![
            plan("b", "2026-11-02T00:00:00Z"),
            plan("c", "2026-11-01T00:00:00Z"),
            plan("a", "2026-11-02T00:00:00Z"),
        ]);
        let ids: Vec<&str> = book.iter().map(|plan| plan.id().as_str()).collect();
        assert_eq!(ids, ["c", "a", "b"]);
    }
}
