//! Checkout: a page of Stripe's on which a customer subscribes to a plan.

use tollgate_api::payments::Checkout;
use tollgate_domain::id::{CustomerId, PlanId};
use tollgate_domain::idempotency::Idempotency;
use tollgate_domain::plan::Plan;
use tollgate_domain::window::Month;
use tollgate_runtime::metrics;
use tollgate_store::{CreateOutcome, StartedCheckout};
use tollgate_stripe::{
    CheckoutSession, CheckoutStatus, IdempotencyKey, NewCheckoutSession, PriceId, StripeClient,
    StripeError,
};

use crate::customers::{CUSTOMER_METADATA, key, parse_key};
use crate::{CURRENCY, Payments, PaymentsError, PriceDefect};

const PLAN_METADATA: &str = "tollgate_plan";

/// Request for a checkout.
#[derive(Debug, Clone, Copy)]
pub struct NewCheckout<'a> {
    /// Customer who subscribes.
    pub customer: &'a CustomerId,
    /// Plan.
    pub plan: &'a PlanId,
    /// Page to return to after the payment. It is not checked here.
    pub success_url: &'a str,
    /// Page to return to otherwise. It is not checked here.
    pub cancel_url: &'a str,
    /// Idempotency key of the request.
    pub idempotency: Option<&'a Idempotency>,
}

/// Outcome of a request for a checkout.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CheckoutOutcome {
    /// A session was started.
    Started(Checkout),
    /// An earlier request under the same idempotency key started this session.
    Repeated(Checkout),
    /// The idempotency key was used for another request.
    KeyReused,
    /// There is no such customer.
    NoCustomer,
    /// The customer is erased.
    Erased,
    /// There is no such plan; these can be bought.
    NoSuchPlan(Vec<PlanId>),
    /// The plan takes no new customers; these can be bought.
    RetiredPlan(Vec<PlanId>),
    /// The plan has no Stripe price; these can be bought.
    NoPrice(Vec<PlanId>),
    /// The customer is on the plan.
    OnPlan,
    /// The customer has a subscription, whose plan is changed in the billing portal.
    Subscribed,
}

impl Payments {
    /// Starts a checkout of the plan's version of this month. The session is stored before it is returned, so
    /// that what Stripe reports of it leads to the customer.
    ///
    /// # Errors
    /// When Stripe or the store fails, or the plan's price cannot be used. A session may then exist at Stripe
    /// that is not stored.
    pub async fn start_checkout(
        &self,
        new: &NewCheckout<'_>,
    ) -> Result<CheckoutOutcome, PaymentsError> {
        let stripe = self.client()?;
        // A repeated request returns the session of the first before any check that depends on the current state:
        // the customer may be on the plan by now.
        if let Some(request) = new.idempotency {
            match self.store.repeated_checkout(request).await? {
                Some(CreateOutcome::Replayed(stored)) => return repeated(stripe, stored).await,
                Some(_) => return Ok(CheckoutOutcome::KeyReused),
                None => {}
            }
        }
        let Some(customer) = self.store.customer(new.customer).await? else {
            return Ok(CheckoutOutcome::NoCustomer);
        };
        if customer.erased_at.is_some() {
            return Ok(CheckoutOutcome::Erased);
        }
        let (plans, now) = (self.store.plans().await?, self.clock.now());
        let month = Month::containing(now);
        let offered = || {
            let open = plans.iter().filter(|plan| plan.retired_at.is_none());
            let ids = open.map(|plan| plan.id().clone());
            let is_sold = |id: &PlanId| {
                let plan = plans.plan(id, month, &customer.pins);
                plan.is_some_and(|plan| plan.stripe_price.is_some())
            };
            ids.filter(is_sold).collect()
        };
        let Some(plan) = plans.plan(new.plan, month, &customer.pins) else {
            return Ok(CheckoutOutcome::NoSuchPlan(offered()));
        };
        if customer.plan == *new.plan {
            return Ok(CheckoutOutcome::OnPlan);
        }
        if plans
            .get(new.plan)
            .is_some_and(|plan| plan.retired_at.is_some())
        {
            return Ok(CheckoutOutcome::RetiredPlan(offered()));
        }
        let Some(price) = &plan.stripe_price else {
            return Ok(CheckoutOutcome::NoPrice(offered()));
        };
        let price = check_price(stripe, plan, price).await?;
        let Some(stripe_customer) = self.stripe_customer(stripe, &customer).await? else {
            return Ok(CheckoutOutcome::Erased);
        };
        let subscriptions = self.live_subscription(stripe, &stripe_customer, None);
        if subscriptions.await?.is_some() {
            return Ok(CheckoutOutcome::Subscribed);
        }
        let metadata = [
            (CUSTOMER_METADATA, customer.id.as_str()),
            (PLAN_METADATA, new.plan.as_str()),
        ];
        let session = NewCheckoutSession {
            price: &price,
            success_url: new.success_url,
            cancel_url: new.cancel_url,
            customer: Some(&stripe_customer),
            customer_email: None,
            client_reference_id: Some(customer.id.as_str()),
            anchor_day_of_month: None,
            expires_at: None,
            metadata: &metadata,
            subscription_metadata: &metadata,
        };
        let key = self.session_key(new.idempotency, &session)?;
        let session = stripe.create_checkout_session(&key, &session).await?;
        let started = StartedCheckout {
            session: session.id.as_str().to_owned(),
            customer: customer.id,
            plan: new.plan.clone(),
            created_at: now,
        };
        let recorded = self.store.record_checkout(&started, new.idempotency);
        match recorded.await? {
            CreateOutcome::New => {
                let metric = metrics::CHECKOUTS_STARTED;
                self.metrics.record_of_plan(metric, new.plan, 1);
                Ok(CheckoutOutcome::Started(represent(session, started.plan)))
            }
            CreateOutcome::Replayed(stored) if stored.session == started.session => {
                Ok(CheckoutOutcome::Repeated(represent(session, stored.plan)))
            }
            CreateOutcome::Replayed(stored) => repeated(stripe, stored).await,
            CreateOutcome::KeyReused => Ok(CheckoutOutcome::KeyReused),
            CreateOutcome::NoCustomer => Ok(CheckoutOutcome::Erased),
            CreateOutcome::Taken => Err(PaymentsError::SessionTaken(started.session)),
        }
    }

    /// Returns the idempotency key of a session. A repeated request has the same one, so that a session that was
    /// not stored is returned again; it includes all parameters that may change between the two.
    fn session_key(
        &self,
        request: Option<&Idempotency>,
        session: &NewCheckoutSession<'_>,
    ) -> Result<IdempotencyKey, PaymentsError> {
        match request {
            Some(Idempotency {
                scope,
                key: of_request,
                request,
            }) => {
                let customer = session.customer.map_or("", |customer| customer.as_str());
                let price = session.price.as_str();
                let parts = [&self.stack, scope, of_request, request, price, customer];
                key("tollgate/checkout", &parts)
            }
            None => parse_key(&format!("tollgate/checkout/{}", self.random())),
        }
    }
}

/// Returns the session that an earlier request started.
async fn repeated(
    stripe: &StripeClient,
    stored: StartedCheckout,
) -> Result<CheckoutOutcome, PaymentsError> {
    let id = stored.session.parse();
    let id = id.map_err(|_| PaymentsError::SessionTaken(stored.session.clone()))?;
    let session = stripe.checkout_session(&id).await?;
    Ok(CheckoutOutcome::Repeated(represent(session, stored.plan)))
}

/// Checks that the price of a plan charges its monthly fee.
async fn check_price(
    stripe: &StripeClient,
    plan: &Plan,
    price: &str,
) -> Result<PriceId, PaymentsError> {
    let defective = |defect| PaymentsError::Price {
        plan: plan.id.as_str().to_owned(),
        price: price.to_owned(),
        defect,
    };
    let id = price.parse();
    let id: PriceId = id.map_err(|_| defective(PriceDefect::InvalidId))?;
    let found = match stripe.price(&id).await {
        Ok(found) => found,
        Err(StripeError::Rejected(rejection)) if rejection.is_missing() => {
            return Err(defective(PriceDefect::Missing));
        }
        Err(error) => return Err(error.into()),
    };
    let fee = plan.monthly_fee_cents.0;
    let is_fee = found
        .unit_amount
        .and_then(|amount| u64::try_from(amount).ok())
        == Some(fee);
    let defect = if !found.active {
        PriceDefect::Inactive
    } else if found.currency != CURRENCY {
        PriceDefect::Currency(found.currency)
    } else if !is_fee {
        PriceDefect::Amount {
            price: found.unit_amount,
            fee,
        }
    } else if !found.is_monthly() {
        PriceDefect::Interval
    } else {
        return Ok(id);
    };
    Err(defective(defect))
}

fn represent(session: CheckoutSession, plan: PlanId) -> Checkout {
    let status = session.status.unwrap_or(CheckoutStatus::Open);
    Checkout {
        id: session.id.as_str().to_owned(),
        plan,
        url: session.url.filter(|_| status == CheckoutStatus::Open),
        status: status.as_str().to_owned(),
        expires_at: session.expires_at,
    }
}
