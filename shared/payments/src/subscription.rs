//! The subscription of a customer at Stripe.

use tollgate_api::payments::{CustomerSubscription, PlanSummary, Subscription};
use tollgate_domain::id::CustomerId;
use tollgate_domain::window::Month;
use tollgate_stripe::{CustomerId as StripeCustomerId, StripeClient, SubscriptionStatus};

use crate::customers::{linked, of_customer};
use crate::{Payments, PaymentsError};

impl Payments {
    /// Returns the plan and the subscription of a customer; `None` if there is no such customer.
    ///
    /// # Errors
    /// When Stripe or the store fails.
    pub async fn subscription(
        &self,
        customer: &CustomerId,
    ) -> Result<Option<CustomerSubscription>, PaymentsError> {
        let Some(customer) = self.store.customer(customer).await? else {
            return Ok(None);
        };
        let plans = self.store.plans().await?;
        let month = Month::containing(self.clock.now());
        let plan = plans.plan(&customer.plan, month, &customer.pins);
        let subscription = match &customer.recipient {
            Some(recipient) => {
                let stripe_customer = linked(&customer, recipient)?;
                let linked = recipient.subscription.as_deref();
                let stripe = self.client()?;
                let found = self.live_subscription(stripe, &customer.id, &stripe_customer, linked);
                found.await?
            }
            None => None,
        };
        Ok(Some(CustomerSubscription {
            plan: PlanSummary {
                name: plan.map(|plan| plan.name.clone()),
                monthly_fee: plan.map(|plan| plan.monthly_fee_cents.into()),
                id: customer.plan,
            },
            subscription: subscription.map(represent),
            unpaid_since: customer.unpaid.map(|unpaid| unpaid.since),
        }))
    }

    /// Returns a subscription of a customer's Stripe customer that has not ended: the linked one, or else the newest.
    pub(crate) async fn live_subscription(
        &self,
        stripe: &StripeClient,
        customer: &CustomerId,
        stripe_customer: &StripeCustomerId,
        linked: Option<&str>,
    ) -> Result<Option<tollgate_stripe::Subscription>, PaymentsError> {
        let listed = stripe.subscriptions(stripe_customer).all().await;
        let mut live = listed.map_err(|error| of_customer(customer, error))?;
        // The filter of a list is Stripe's; whose subscription this is must not depend on it alone.
        live.retain(|it| it.customer == *stripe_customer && !has_ended(&it.status));
        let is_linked = |it: &tollgate_stripe::Subscription| Some(it.id.as_str()) == linked;
        let at = live.iter().position(is_linked).unwrap_or(0);
        Ok(live.into_iter().nth(at))
    }
}

/// Whether a subscription charges nothing any more, and cannot be resumed.
pub(crate) fn has_ended(status: &SubscriptionStatus) -> bool {
    matches!(
        status,
        SubscriptionStatus::Canceled | SubscriptionStatus::IncompleteExpired
    )
}

fn represent(subscription: tollgate_stripe::Subscription) -> Subscription {
    let item = subscription.items.data.first();
    Subscription {
        id: subscription.id.as_str().to_owned(),
        status: subscription.status.as_str().to_owned(),
        current_period_start: item.map(|item| item.current_period_start),
        current_period_end: item.map(|item| item.current_period_end),
        cancel_at_period_end: subscription.cancel_at_period_end,
        cancel_at: subscription.cancel_at,
    }
}
