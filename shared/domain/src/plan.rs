//! Plans as data: what a customer may call, and what calls beyond the included ones cost.

use std::num::NonZeroU64;

use serde::{Deserialize, Serialize};

use crate::id::PlanId;
use crate::lease::MAX_LEASE;
use crate::money::MicroUsd;
use crate::window::Day;

/// One plan of the catalogue.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Plan {
    /// Names the plan in records. A change of price keeps the id. A change of what is included, of
    /// the kind or of the first price takes a new one, because open months are billed by this
    /// entry; and the entry stays until the last month with calls on it has closed.
    pub id: PlanId,
    /// For people to read.
    pub name: String,
    /// Calls a key may make in a UTC hour.
    pub requests_per_hour: u64,
    /// What happens in a UTC month.
    pub month: MonthPolicy,
    /// Whether calls pass while their count cannot be stored.
    pub fail_mode: FailMode,
    /// The most calls that an instance of the authorizer takes of a limit in advance, and that
    /// are lost of it if the instance crashes. 1 is strict: each call is counted by itself, and
    /// exactly the limit is let in. What nothing limits is taken in blocks all the same.
    #[serde(default = "max_lease")]
    pub max_lease: NonZeroU64,
}

fn max_lease() -> NonZeroU64 {
    NonZeroU64::new(MAX_LEASE).unwrap_or(NonZeroU64::MIN)
}

/// What a plan includes in a UTC month, and what comes after.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "lowercase", deny_unknown_fields)]
pub enum MonthPolicy {
    /// Calls beyond `included` are refused.
    Blocked {
        /// Calls in a month.
        included: u64,
    },
    /// Calls beyond `included` pass, and are charged.
    Overage {
        /// Calls in a month that cost nothing more.
        included: u64,
        /// What a call beyond them costs, by the day it is made on; ascending, and the first
        /// holds for all days before it as well.
        prices: Vec<OveragePrice>,
    },
    /// All calls pass, and none is charged.
    Unlimited,
}

/// A price and the first UTC day it holds on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct OveragePrice {
    /// First day.
    pub from: Day,
    /// Price of one call.
    pub micro_usd_per_call: MicroUsd,
}

/// The choice made while the store that counts calls does not answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum FailMode {
    /// Let calls pass uncounted: the customer's traffic is worth more than the bound.
    Open,
    /// Refuse calls: the bound is worth more than the traffic.
    Closed,
}

/// Limits of one key that replace its plan's.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Overrides {
    /// Replaces [`Plan::requests_per_hour`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub requests_per_hour: Option<u64>,
    /// Calls with this key stop when the customer's month has reached this count, whatever the
    /// plan says: a higher quota on a blocked plan, a spending cap on the others.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub monthly_quota: Option<u64>,
}

/// The limits that hold for one key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Calls of the key in a UTC hour.
    pub per_hour: u64,
    /// Calls of the customer in a UTC month; none if nothing stops them.
    pub per_month: Option<u64>,
}

impl Plan {
    /// The plan's limits, or the key's own where it has any.
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

    /// Calls in a month before overage or refusal; none if there is no such number.
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

/// All plans on offer, in the order they are shown.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Catalog(Vec<Plan>);

/// Why a list of plans cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum InvalidCatalog {
    /// Not JSON of the documented shape.
    #[error("the plans are not a JSON list of plans")]
    Json(#[from] serde_json::Error),
    /// A plan stands twice, or none stands at all.
    #[error("the plans need ids, each its own")]
    Ids,
    /// A price list cannot be read in one way only.
    #[error("plan {0} needs one or more overage prices, with ascending days")]
    Prices(PlanId),
}

impl Catalog {
    /// Free, pro and enterprise, as this release ships them.
    ///
    /// # Errors
    /// Never in a release: a test reads the shipped list.
    pub fn shipped() -> Result<Self, InvalidCatalog> {
        Self::from_json(include_str!("plans.json"))
    }

    /// Reads a JSON list of [`Plan`]s.
    ///
    /// # Errors
    /// When it is not such a list, or is ambiguous.
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

    /// The plan of that id.
    #[must_use]
    pub fn get(&self, id: &PlanId) -> Option<&Plan> {
        self.0.iter().find(|plan| plan.id == *id)
    }

    /// All plans, in the order they are shown.
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
    fn a_keys_overrides_replace_each_limit_on_its_own() {
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
    fn ambiguous_catalogues_are_refused() {
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
        check("[]".into(), "each its own");
        check(
            format!("[{},{}]", plan("a", unlimited), plan("a", unlimited)),
            "each its own",
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
