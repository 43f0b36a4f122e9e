//! Plans as data: limits, included calls and the price of overage.

use std::num::NonZeroU64;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::id::PlanId;
use crate::lease::MAX_LEASE;
use crate::money::{Cents, MicroUsd};
use crate::window::Day;

/// Limits and prices of a plan, in one version.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Plan {
    /// Id of the plan in records, which all versions have.
    pub id: PlanId,
    /// Display name.
    pub name: String,
    /// Calls of a key allowed in a UTC hour.
    pub requests_per_hour: u64,
    /// Included calls of a UTC month, and the policy beyond them.
    pub month: MonthPolicy,
    /// Behaviour while the store cannot count calls.
    pub fail_mode: FailMode,
    /// Maximum units of a limit that an authorizer instance reserves at once, and that are lost if it
    /// crashes. 1 is strict: each call is counted by its own write, and exactly the limit is allowed.
    /// It does not apply to counters without a limit.
    #[serde(default = "max_lease")]
    pub max_lease: NonZeroU64,
    /// Monthly fee, in US cents, which the customer's subscription charges. Not part of the ledger.
    #[serde(default)]
    pub monthly_fee_cents: Cents,
    /// Id of the Stripe price that carries the monthly fee. A plan without one cannot be subscribed to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stripe_price: Option<String>,
    /// Cadence at which charges are made and submitted to the payment provider.
    #[serde(default)]
    pub submission: SubmissionCadence,
}

fn max_lease() -> NonZeroU64 {
    NonZeroU64::new(MAX_LEASE).unwrap_or(NonZeroU64::MIN)
}

/// Included calls of a UTC month, and the policy beyond them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "lowercase", deny_unknown_fields)]
pub enum MonthPolicy {
    /// Calls beyond `included` are denied.
    Blocked {
        /// Calls allowed in a month.
        included: u64,
    },
    /// Calls beyond `included` are allowed and charged.
    Overage {
        /// Calls in a month that are not charged.
        included: u64,
        /// Prices of an overage call, in ascending order of their first day. The first price also
        /// applies to all earlier days.
        prices: Vec<OveragePrice>,
    },
    /// All calls are allowed, and none is charged.
    Unlimited,
}

/// Price of an overage call from a UTC day on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct OveragePrice {
    /// First day on which the price applies.
    pub from: Day,
    /// Price of one call.
    pub micro_usd_per_call: MicroUsd,
}

/// Decision on calls while the store is unavailable and cannot count them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum FailMode {
    /// Fail-open: calls are allowed uncounted; the customer's traffic is worth more than the limit.
    Open,
    /// Fail-closed: calls are denied; the limit is worth more than the traffic.
    Closed,
}

/// Cadence at which charges are made and submitted to the payment provider. In between, the overage adds up.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum SubmissionCadence {
    /// Daily, after the nightly billing run.
    #[default]
    Nightly,
    /// On Mondays, and when the month closes.
    Weekly,
    /// When the month closes.
    Monthly,
}

impl SubmissionCadence {
    /// Whether a billing run at `now` charges for `month`, which the run may close or not.
    #[must_use]
    pub fn is_due(self, now: Timestamp, closes: bool) -> bool {
        closes
            || match self {
                SubmissionCadence::Nightly => true,
                SubmissionCadence::Weekly => Day::containing(now).is_monday(),
                SubmissionCadence::Monthly => false,
            }
    }
}

/// Limits of one key that replace its plan's.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Overrides {
    /// Replaces [`Plan::requests_per_hour`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub requests_per_hour: Option<u64>,
    /// Count of the customer's calls in a month from which calls with this key are denied, whatever the
    /// plan's quota: a higher quota on a blocked plan, a spending cap on the others.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub monthly_quota: Option<u64>,
}

/// Limits of one key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Calls of the key in a UTC hour.
    pub per_hour: u64,
    /// Calls of the customer in a UTC month; `None` if they are unlimited.
    pub per_month: Option<u64>,
}

impl Plan {
    /// Returns the plan's limits with the key's overrides applied.
    #[must_use]
    pub fn limits(&self, overrides: &Overrides) -> Limits {
        let plan_month = match self.month {
            MonthPolicy::Blocked { included } => Some(included),
            MonthPolicy::Overage { .. } | MonthPolicy::Unlimited => None,
        };
        Limits {
            per_hour: overrides
                .requests_per_hour
                .unwrap_or(self.requests_per_hour),
            per_month: overrides.monthly_quota.or(plan_month),
        }
    }

    /// Returns the included calls of a month, or `None` on an unlimited plan.
    #[must_use]
    pub fn included(&self) -> Option<u64> {
        match self.month {
            MonthPolicy::Blocked { included } | MonthPolicy::Overage { included, .. } => {
                Some(included)
            }
            MonthPolicy::Unlimited => None,
        }
    }

    /// Whether calls beyond the included ones are charged.
    #[must_use]
    pub fn charges_overage(&self) -> bool {
        matches!(self.month, MonthPolicy::Overage { .. })
    }
}

/// Catalogue of all plans, in display order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Catalog(Vec<Plan>);

/// Error: the list of plans is invalid.
#[derive(Debug, thiserror::Error)]
pub enum InvalidCatalog {
    /// It is not JSON of the documented shape.
    #[error("the plans are not a JSON list of plans")]
    Json(#[from] serde_json::Error),
    /// Two plans have the same id, or the list is empty.
    #[error("there must be at least one plan, and each needs an id of its own")]
    Ids,
    /// A plan's overage prices are missing or not in ascending order.
    #[error("plan {0} needs one or more overage prices, with ascending days")]
    Prices(PlanId),
}

impl Catalog {
    /// Returns the plans free, pro and enterprise, as shipped with this release.
    ///
    /// # Errors
    /// Never in a release: a test reads the shipped list.
    pub fn shipped() -> Result<Self, InvalidCatalog> {
        Self::from_json(include_str!("plans.json"))
    }

    /// Parses a JSON list of [`Plan`]s.
    ///
    /// # Errors
    /// When it is not such a list, ids are not unique, or overage prices are missing or not ascending.
    pub fn from_json(json: &str) -> Result<Self, InvalidCatalog> {
        let plans: Vec<Plan> = serde_json::from_str(json)?;
        for (at, plan) in plans.iter().enumerate() {
            if plans[..at].iter().any(|other| other.id == plan.id) {
                return Err(InvalidCatalog::Ids);
            }
            if let MonthPolicy::Overage { prices, .. } = &plan.month {
                let ascending = prices.windows(2).all(|pair| pair[0].from < pair[1].from);
                if prices.is_empty() || !ascending {
                    return Err(InvalidCatalog::Prices(plan.id.clone()));
                }
            }
        }
        if plans.is_empty() {
            return Err(InvalidCatalog::Ids);
        }
        Ok(Self(plans))
    }

    /// Creates a catalogue of these plans, which have different ids.
    pub(crate) fn of(plans: Vec<Plan>) -> Self {
        Self(plans)
    }

    /// Returns the plan with that id.
    #[must_use]
    pub fn get(&self, id: &PlanId) -> Option<&Plan> {
        self.0.iter().find(|plan| plan.id == *id)
    }

    /// Iterates over all plans, in display order.
    pub fn iter(&self) -> std::slice::Iter<'_, Plan> {
        self.0.iter()
    }
}

impl<'a> IntoIterator for &'a Catalog {
    type Item = &'a Plan;
    type IntoIter = std::slice::Iter<'a, Plan>;

    fn into_iter(self) -> Self::IntoIter {
        self.iter()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shipped(id: &str) -> Plan {
        let catalog = Catalog::shipped().unwrap();
        catalog.get(&id.parse().unwrap()).unwrap().clone()
    }

    #[test]
    fn the_shipped_plans_are_the_documented_ones() {
        let check = |id: &str, per_hour, per_month, included, charges| {
            let plan = shipped(id);
            let limits = plan.limits(&Overrides::default());
            assert_eq!(
                limits,
                Limits {
                    per_hour,
                    per_month
                }
            );
            assert_eq!(plan.included(), included);
            assert_eq!(plan.charges_overage(), charges);
        };
        check("free", 100, Some(1_000), Some(1_000), false);
        check("pro", 10_000, None, Some(100_000), true);
        check("enterprise", 100_000, None, None, false);
    }

    #[test]
    fn the_overrides_of_a_key_replace_each_limit_separately() {
        let rate = Overrides {
            requests_per_hour: Some(5),
            monthly_quota: None,
        };
        assert_eq!(
            shipped("free").limits(&rate),
            Limits {
                per_hour: 5,
                per_month: Some(1_000)
            }
        );
        let cap = Overrides {
            requests_per_hour: None,
            monthly_quota: Some(0),
        };
        assert_eq!(
            shipped("pro").limits(&cap),
            Limits {
                per_hour: 10_000,
                per_month: Some(0)
            }
        );
    }

    #[test]
    fn ambiguous_catalogues_are_rejected() {
        let plan = |id: &str, month: &str| {
            format!(
                r#"{{"id":"{id}","name":"","requests_per_hour":1,"month":{month},"fail_mode":"open"}}"#
            )
        };
        let unlimited = r#"{"kind":"unlimited"}"#;
        let check = |json: String, expected: &str| {
            let error = Catalog::from_json(&json).unwrap_err().to_string();
            assert!(error.contains(expected), "{json}: {error}");
        };
        check("{}".into(), "not a JSON list");
        check("[]".into(), "an id of its own");
        check(
            format!("[{},{}]", plan("a", unlimited), plan("a", unlimited)),
            "an id of its own",
        );
        check(
            format!(
                "[{}]",
                plan("a", r#"{"kind":"overage","included":1,"prices":[]}"#)
            ),
            "plan a needs one or more",
        );
        let price = r#"{"from":"2026-01-01","micro_usd_per_call":1}"#;
        let month = format!(r#"{{"kind":"overage","included":1,"prices":[{price},{price}]}}"#);
        check(
            format!("[{}]", plan("a", &month)),
            "plan a needs one or more",
        );
        check(format!("[{}]", plan("A", unlimited)), "not a JSON list");
    }
}
