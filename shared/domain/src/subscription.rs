//! Plans that follow a subscription at the payment provider, and the consequences of not paying.
//!
//! The subscription as it is decides, and never the event that reports it: events arrive late, twice and in any
//! order. A plan that an admin has set stays until the subscription itself changes.

use jiff::{SignedDuration, Timestamp};

use crate::customer::{Consequence, Customer, Unpaid};
use crate::id::PlanId;

/// Subscription of a customer, as the payment provider has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SubscriptionState {
    /// There is a subscription.
    Live {
        /// Provider's id of it.
        id: String,
        /// Plan of its price; `None` if no plan has that price.
        plan: Option<PlanId>,
        /// Whether it is paid.
        is_paid: bool,
    },
    /// There is none, or it has ended.
    Ended {
        /// Plan of the one that has ended.
        plan: Option<PlanId>,
        /// Whether an invoice is still to be paid.
        is_owing: bool,
    },
}

/// Rules for customers whose subscription ends or is not paid.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SubscriptionRules {
    /// Plan of a customer whose subscription has ended.
    pub plan_after_cancellation: PlanId,
    /// Time after which a payment that is still outstanding has a consequence.
    pub grace: SignedDuration,
    /// That consequence.
    pub unpaid: UnpaidRule,
}

/// Consequence of an outstanding payment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum UnpaidRule {
    /// None.
    Nothing,
    /// The customer is suspended.
    Suspend,
    /// The customer is moved to a plan.
    Move(PlanId),
}

impl SubscriptionRules {
    /// Returns the customer as the state of its subscription makes it. A plan that an admin has set stays until the
    /// subscription changes, and so does an admin's suspension.
    #[must_use]
    pub fn apply(
        &self,
        customer: &Customer,
        state: &SubscriptionState,
        now: Timestamp,
    ) -> Customer {
        let mut after = customer.clone();
        let linked = match state {
            SubscriptionState::Live { id, .. } => Some(id.clone()),
            SubscriptionState::Ended { .. } => None,
        };
        if let Some(recipient) = &mut after.recipient {
            recipient.subscription = linked;
        }
        match state {
            SubscriptionState::Live { id, plan, is_paid } => {
                let is_new = customer.subscription() != Some(id.as_str());
                self.follow_plan(&mut after, plan.as_ref(), is_new);
                if *is_paid {
                    settle(&mut after);
                } else {
                    self.owe(&mut after, now);
                }
            }
            SubscriptionState::Ended { plan, is_owing } => {
                self.end(&mut after, plan.as_ref());
                match *is_owing {
                    true => self.owe(&mut after, now),
                    false => settle(&mut after),
                }
            }
        }
        after
    }

    /// Returns a customer whose link an admin has removed: it keeps its plan, and no payment is known to be outstanding
    /// any more.
    #[must_use]
    pub fn unlinked(customer: &Customer) -> Customer {
        let mut after = match customer.erased_at {
            // The erasure was final.
            Some(_) => Customer {
                unpaid: None,
                ..customer.clone()
            },
            None => Self::settled(customer),
        };
        after.subscription_plan = None;
        after
    }

    /// Returns a customer without the outstanding payment, and without what followed from it.
    #[must_use]
    pub fn settled(customer: &Customer) -> Customer {
        let mut after = customer.clone();
        settle(&mut after);
        after
    }

    /// Returns the time from which an outstanding payment has a consequence that it has not had yet.
    #[must_use]
    pub fn consequence_due(&self, customer: &Customer) -> Option<Timestamp> {
        let unpaid = customer.unpaid.filter(|it| it.consequence.is_none())?;
        match self.unpaid {
            UnpaidRule::Nothing => None,
            UnpaidRule::Suspend | UnpaidRule::Move(_) => Some(
                unpaid
                    .since
                    .saturating_add(self.grace)
                    .unwrap_or(Timestamp::MAX),
            ),
        }
    }

    /// Gives the customer the plan of its subscription, if that has changed.
    fn follow_plan(&self, after: &mut Customer, plan: Option<&PlanId>, is_new: bool) {
        let Some(plan) = plan else { return };
        if !is_new && after.subscription_plan.as_ref() == Some(plan) {
            return;
        }
        after.subscription_plan = Some(plan.clone());
        // Who does not pay stays on the plan for that, until the payment.
        if !has_moved(after) {
            after.plan = plan.clone();
        }
    }

    /// Takes the plan of a subscription that has ended.
    fn end(&self, after: &mut Customer, plan: Option<&PlanId>) {
        let given = after.subscription_plan.take();
        let given = given.as_ref().or(plan);
        if has_moved(after) || given == Some(&after.plan) {
            after.plan = self.plan_after_cancellation.clone();
        }
        if let Some(unpaid) = &mut after.unpaid
            && unpaid.consequence == Some(Consequence::Moved)
        {
            // The plan to which a payment would lead back is no more.
            unpaid.consequence = Some(Consequence::Waived);
        }
    }

    /// Records that a payment is outstanding, with its consequence if that is due.
    fn owe(&self, after: &mut Customer, now: Timestamp) {
        after.unpaid.get_or_insert(Unpaid {
            since: now,
            consequence: None,
        });
        if self.consequence_due(after).is_none_or(|due| now < due) {
            return;
        }
        let consequence = match &self.unpaid {
            UnpaidRule::Nothing => return,
            // An admin's suspension stays an admin's.
            UnpaidRule::Suspend if after.suspended_at.is_some() => Consequence::Waived,
            UnpaidRule::Suspend => {
                after.suspended_at = Some(now);
                Consequence::Suspended
            }
            UnpaidRule::Move(plan) if after.subscription_plan.as_ref() == Some(&after.plan) => {
                after.plan = plan.clone();
                Consequence::Moved
            }
            UnpaidRule::Move(_) => Consequence::Waived,
        };
        if let Some(unpaid) = &mut after.unpaid {
            unpaid.consequence = Some(consequence);
        }
    }
}

/// Whether the customer is on the plan of those who have not paid.
fn has_moved(customer: &Customer) -> bool {
    let consequence = customer.unpaid.and_then(|unpaid| unpaid.consequence);
    consequence == Some(Consequence::Moved)
}

/// Records that nothing is outstanding, and takes back what followed from it.
fn settle(after: &mut Customer) {
    match after.unpaid.take().and_then(|unpaid| unpaid.consequence) {
        Some(Consequence::Suspended) => after.suspended_at = None,
        Some(Consequence::Moved) => {
            if let Some(plan) = &after.subscription_plan {
                after.plan = plan.clone();
            }
        }
        Some(Consequence::Waived) | None => {}
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::submission::Recipient;

    fn p<T: std::str::FromStr<Err: std::fmt::Debug>>(text: &str) -> T {
        text.parse().unwrap()
    }

    fn now() -> Timestamp {
        p("2026-11-23T10:00:00Z")
    }

    fn days(days: i64) -> Timestamp {
        now() + SignedDuration::from_hours(24 * days)
    }

    fn customer(plan: &str) -> Customer {
        Customer {
            id: p("acme"),
            name: "Acme".to_owned(),
            email: None,
            plan: p(plan),
            pins: Default::default(),
            recipient: Some(Recipient {
                customer: "cus_1".to_owned(),
                subscription: None,
            }),
            subscription_plan: None,
            unpaid: None,
            created_at: now(),
            suspended_at: None,
            erased_at: None,
        }
    }

    fn rules(unpaid: UnpaidRule) -> SubscriptionRules {
        SubscriptionRules {
            plan_after_cancellation: p("free"),
            grace: SignedDuration::from_hours(7 * 24),
            unpaid,
        }
    }

    fn live(id: &str, plan: &str, is_paid: bool) -> SubscriptionState {
        SubscriptionState::Live {
            id: id.to_owned(),
            plan: Some(p(plan)),
            is_paid,
        }
    }

    const ENDED: SubscriptionState = SubscriptionState::Ended {
        plan: None,
        is_owing: false,
    };

    /// Applies states one after another, each on its day.
    fn apply(
        rules: &SubscriptionRules,
        customer: Customer,
        states: &[(i64, SubscriptionState)],
    ) -> Customer {
        let step = |customer: Customer, (day, state): &(i64, SubscriptionState)| {
            rules.apply(&customer, state, days(*day))
        };
        states.iter().fold(customer, step)
    }

    #[test]
    fn a_paid_subscription_gives_its_plan_and_its_end_takes_it() {
        let rules = rules(UnpaidRule::Nothing);
        let pro = apply(&rules, customer("free"), &[(0, live("sub_1", "pro", true))]);
        assert_eq!(pro.plan, p("pro"));
        assert_eq!(pro.subscription_plan, Some(p("pro")));
        assert_eq!(pro.subscription(), Some("sub_1"));
        let dearer = apply(&rules, pro.clone(), &[(1, live("sub_1", "scale", true))]);
        assert_eq!(dearer.plan, p("scale"));
        let ended = apply(&rules, dearer, &[(2, ENDED)]);
        assert_eq!(ended, customer("free"));
    }

    #[test]
    fn an_admins_plan_stays_until_the_subscription_changes() {
        let rules = rules(UnpaidRule::Nothing);
        let state = live("sub_1", "pro", true);
        let mut moved = apply(&rules, customer("free"), &[(0, state.clone())]);
        moved.plan = p("enterprise");
        assert_eq!(apply(&rules, moved.clone(), &[(1, state)]), moved);
        let ended = apply(&rules, moved.clone(), &[(2, ENDED)]);
        assert_eq!(ended.plan, p("enterprise"));
        let other = apply(&rules, moved, &[(2, live("sub_1", "scale", true))]);
        assert_eq!(other.plan, p("scale"));
    }

    #[test]
    fn a_link_that_an_admin_set_ends_with_its_subscription() {
        let mut linked = customer("pro");
        linked.recipient.as_mut().unwrap().subscription = Some("sub_1".to_owned());
        let ended = SubscriptionState::Ended {
            plan: Some(p("pro")),
            is_owing: false,
        };
        let rules = rules(UnpaidRule::Nothing);
        assert_eq!(apply(&rules, linked, &[(0, ended)]), customer("free"));
    }

    #[test]
    fn a_price_of_no_plan_changes_no_plan() {
        let state = SubscriptionState::Live {
            id: "sub_1".to_owned(),
            plan: None,
            is_paid: true,
        };
        let rules = rules(UnpaidRule::Nothing);
        let pro = apply(&rules, customer("free"), &[(0, live("sub_1", "pro", true))]);
        assert_eq!(apply(&rules, pro.clone(), &[(1, state)]), pro);
    }

    #[test]
    fn who_does_not_pay_is_suspended_after_the_grace_period_until_the_payment() {
        let rules = rules(UnpaidRule::Suspend);
        let (paid, unpaid) = (live("sub_1", "pro", true), live("sub_1", "pro", false));
        let pro = apply(&rules, customer("free"), &[(0, paid.clone())]);
        let flagged = apply(&rules, pro.clone(), &[(1, unpaid.clone())]);
        assert_eq!(flagged.suspended_at, None);
        assert_eq!(rules.consequence_due(&flagged), Some(days(8)));
        let within = apply(&rules, flagged.clone(), &[(7, unpaid.clone())]);
        assert_eq!(within, flagged);
        let suspended = apply(&rules, within, &[(8, unpaid.clone())]);
        assert_eq!(suspended.suspended_at, Some(days(8)));
        assert_eq!(rules.consequence_due(&suspended), None);
        let again = apply(&rules, suspended.clone(), &[(9, unpaid)]);
        assert_eq!(again, suspended);
        assert_eq!(apply(&rules, again, &[(10, paid)]), pro);
    }

    #[test]
    fn who_does_not_pay_is_moved_and_comes_back_to_the_plan_of_then() {
        let rules = rules(UnpaidRule::Move(p("basic")));
        let unpaid = live("sub_1", "pro", false);
        let states = [
            (0, live("sub_1", "pro", true)),
            (1, unpaid.clone()),
            (8, unpaid),
        ];
        let moved = apply(&rules, customer("free"), &states);
        assert_eq!(moved.plan, p("basic"));
        // The price changes in the meantime.
        let changed = apply(&rules, moved.clone(), &[(9, live("sub_1", "scale", false))]);
        assert_eq!(changed.plan, p("basic"));
        let paid = apply(&rules, changed, &[(10, live("sub_1", "scale", true))]);
        assert_eq!((paid.plan, paid.unpaid), (p("scale"), None));
        let ended = apply(&rules, moved, &[(10, ENDED)]);
        assert_eq!(ended, customer("free"));
    }

    #[test]
    fn a_debt_outlasts_its_subscription() {
        let rules = rules(UnpaidRule::Suspend);
        let owing = SubscriptionState::Ended {
            plan: None,
            is_owing: true,
        };
        let states = [
            (0, live("sub_1", "pro", true)),
            (1, live("sub_1", "pro", false)),
        ];
        let flagged = apply(&rules, customer("free"), &states);
        let suspended = apply(&rules, flagged, &[(2, owing.clone()), (8, owing.clone())]);
        assert_eq!(suspended.plan, p("free"));
        assert_eq!(suspended.suspended_at, Some(days(8)));
        assert_eq!(apply(&rules, suspended, &[(9, ENDED)]), customer("free"));
        // So does one that came after it, such as for the last usage.
        let flagged = apply(&rules, customer("free"), &[(0, owing.clone())]);
        assert_eq!(flagged.unpaid.unwrap().since, days(0));
        let suspended = apply(&rules, flagged, &[(7, owing)]);
        assert_eq!(suspended.suspended_at, Some(days(7)));
    }

    #[test]
    fn what_an_admin_decides_on_an_unpaid_customer_stands() {
        let rules = rules(UnpaidRule::Suspend);
        let (paid, unpaid) = (live("sub_1", "pro", true), live("sub_1", "pro", false));
        let states = [(0, paid.clone()), (1, unpaid.clone()), (8, unpaid.clone())];
        let mut enabled = apply(&rules, customer("free"), &states);
        enabled.suspended_at = None;
        enabled.unpaid.as_mut().unwrap().consequence = Some(Consequence::Waived);
        assert_eq!(
            apply(&rules, enabled.clone(), &[(9, unpaid.clone())]),
            enabled
        );
        // A suspension that was there before is not lifted by the payment.
        let mut suspended = customer("free");
        suspended.suspended_at = Some(days(0));
        let states = [(0, unpaid.clone()), (8, unpaid), (9, paid)];
        let paid = apply(&rules, suspended, &states);
        assert_eq!(paid.suspended_at, Some(days(0)));
    }

    #[test]
    fn what_followed_from_an_outstanding_payment_ends_with_the_link() {
        let unpaid = live("sub_1", "pro", false);
        let states = [
            (0, live("sub_1", "pro", true)),
            (1, unpaid.clone()),
            (8, unpaid),
        ];
        for consequence in [
            UnpaidRule::Nothing,
            UnpaidRule::Suspend,
            UnpaidRule::Move(p("basic")),
        ] {
            let owing = apply(&rules(consequence), customer("free"), &states);
            assert!(owing.unpaid.is_some());
            let unlinked = SubscriptionRules::unlinked(&owing);
            assert_eq!((unlinked.unpaid, unlinked.suspended_at), (None, None));
            assert_eq!(
                (unlinked.plan, unlinked.subscription_plan),
                (p("pro"), None)
            );
            let erased = Customer {
                erased_at: Some(days(9)),
                ..owing
            };
            let unlinked = Customer {
                unpaid: None,
                subscription_plan: None,
                ..erased.clone()
            };
            assert_eq!(SubscriptionRules::unlinked(&erased), unlinked);
        }
    }

    fn state() -> impl Strategy<Value = SubscriptionState> {
        let plan = prop::sample::select(vec![None, Some("pro"), Some("scale")]);
        (any::<bool>(), 1..3_u8, plan, any::<bool>()).prop_map(|(is_live, id, plan, flag)| {
            let plan = plan.map(p);
            match is_live {
                true => SubscriptionState::Live {
                    id: format!("sub_{id}"),
                    plan,
                    is_paid: flag,
                },
                false => SubscriptionState::Ended {
                    plan,
                    is_owing: flag,
                },
            }
        })
    }

    proptest! {
        /// An event that arrives twice changes nothing the second time; and whatever happened before, who pays
        /// has the plan of the subscription, and is not suspended.
        #[test]
        fn repetition_changes_nothing_and_payment_restores(
            states in prop::collection::vec((0..30_i64, state()), 0..12),
            last in state(),
            unpaid in prop::sample::select(vec![
                UnpaidRule::Nothing,
                UnpaidRule::Suspend,
                UnpaidRule::Move("basic".parse().unwrap()),
            ]),
        ) {
            let rules = rules(unpaid);
            let mut states = states;
            states.sort_by_key(|(day, _)| *day);
            let before = apply(&rules, customer("free"), &states);
            let once = apply(&rules, before, &[(31, last.clone())]);
            let twice = apply(&rules, once.clone(), &[(31, last)]);
            prop_assert_eq!(&once, &twice);
            let paid = apply(&rules, once, &[(32, live("sub_9", "pro", true))]);
            prop_assert_eq!(&paid.plan, &p::<PlanId>("pro"));
            prop_assert_eq!((paid.suspended_at, paid.unpaid), (None, None));
            prop_assert_eq!(&apply(&rules, paid, &[(33, ENDED)]), &customer("free"));
        }
    }
}
