//! Checkout: a page of Stripe's on which a customer subscribes to a plan.

use tollgate_api::payments::Checkout;
use tollgate_domain::id::{CustomerId, PlanId};
use tollgate_domain::idempotency::Idempotency;
use tollgate_domain::plan::Plan;
use tollgate_domain::window::Month;
use tollgate_runtime::metrics;
use tollgate_store::{CheckoutRecord, RecordCheckoutOutcome, StartedCheckout};
use tollgate_stripe::{
    CheckoutSession, CheckoutStatus, CustomerId as StripeCustomerId, IdempotencyKey,
    NewCheckoutSession, PriceId, StripeClient, StripeError,
};

use crate::customers::{CUSTOMER_METADATA, further_keys, key, of_customer, parse_key};
use crate::subscription::has_ended;
use crate::{CURRENCY, Payments, PaymentsError, PriceDefect};

const PLAN_METADATA: &str = "tollgate_plan";

/// Most times that other requests of the customer may store a session first. They are requests at the same time.
const MAX_OVERTAKEN: usize = 10;

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
    /// The customer has a subscription to the plan.
    OnPlan,
    /// The customer has a subscription, whose plan is changed in the billing portal.
    Subscribed,
    /// Stripe does not end an earlier session of the customer, which is open: it may just be being paid.
    BeingPaid,
}

/// State of an earlier session, after an attempt to expire it.
enum Earlier {
    /// Nobody can pay on its page any more, and it has left no subscription.
    Over,
    /// It was completed, and its subscription has not ended.
    Paid,
    /// It is open.
    Open,
}

impl Payments {
    /// Starts a checkout of the plan's version of this month. The session is stored before it is returned, so
    /// that what Stripe reports of it leads to the customer; and it is stored after the customer's earlier one was
    /// expired, so that at most one of the sessions that were returned can be paid.
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
        if let Some(outcome) = self.repeated(stripe, new).await? {
            return Ok(outcome);
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
        let is_retired = plans
            .get(new.plan)
            .is_some_and(|plan| plan.retired_at.is_some());
        // Who is on a retired plan stays on it, and may pay for it.
        if is_retired && customer.plan != *new.plan {
            return Ok(CheckoutOutcome::RetiredPlan(offered()));
        }
        let Some(price) = &plan.stripe_price else {
            return Ok(CheckoutOutcome::NoPrice(offered()));
        };
        let price = check_price(stripe, plan, price).await?;
        let Some(stripe_customer) = self.stripe_customer(stripe, &customer).await? else {
            return Ok(CheckoutOutcome::Erased);
        };
        let subscription = self.live_subscription(stripe, &customer.id, &stripe_customer, None);
        if let Some(subscription) = subscription.await? {
            let mut items = subscription.items.data.iter();
            return Ok(match items.any(|item| item.price.id == price) {
                true => CheckoutOutcome::OnPlan,
                false => CheckoutOutcome::Subscribed,
            });
        }
        let metadata = [
            (CUSTOMER_METADATA, customer.id.as_str()),
            (PLAN_METADATA, new.plan.as_str()),
        ];
        let session = NewCheckoutSession {
            price: &price,
            success_url: new.success_url,
            cancel_url: new.cancel_url,
            // A price may have amounts in other currencies, and Stripe would choose one of them or convert: the plan's
            // fee and its overage are in this one.
            currency: Some(CURRENCY),
            adaptive_pricing: Some(false),
            customer: Some(&stripe_customer),
            customer_email: None,
            client_reference_id: Some(customer.id.as_str()),
            anchor_day_of_month: None,
            expires_at: None,
            metadata: &metadata,
            subscription_metadata: &metadata,
        };
        self.store_session(stripe, new, &stripe_customer, &session)
            .await
    }

    /// Expires the customer's earlier session, creates one, and stores it; again if another request has stored one
    /// meanwhile.
    async fn store_session(
        &self,
        stripe: &StripeClient,
        new: &NewCheckout<'_>,
        stripe_customer: &StripeCustomerId,
        session: &NewCheckoutSession<'_>,
    ) -> Result<CheckoutOutcome, PaymentsError> {
        let mut keys = self.session_keys(new.idempotency, session)?;
        let mut created = None;
        for _ in 0..MAX_OVERTAKEN {
            let earlier = self.store.open_checkout(new.customer).await?;
            if let Some(earlier) = &earlier {
                // It may be of this very request, which another instance executes: this one must not end it. The two
                // are stored together, so that who has read the session finds the request.
                if let Some(outcome) = self.repeated(stripe, new).await? {
                    return Ok(outcome);
                }
                match self.end(stripe, earlier, stripe_customer).await? {
                    Earlier::Over => {}
                    Earlier::Paid => return Ok(CheckoutOutcome::Subscribed),
                    Earlier::Open => return Ok(CheckoutOutcome::BeingPaid),
                }
            }
            let made = match created.take() {
                Some(made) => made,
                None => self.create_session(stripe, new, &mut keys, session).await?,
            };
            let started = StartedCheckout {
                session: made.id.as_str().to_owned(),
                customer: new.customer.clone(),
                plan: new.plan.clone(),
                created_at: self.clock.now(),
            };
            let record = CheckoutRecord {
                started: &started,
                stripe_customer: stripe_customer.as_str(),
                earlier: earlier.as_deref(),
                idempotency: new.idempotency,
            };
            match self.store.record_checkout(&record).await? {
                RecordCheckoutOutcome::Recorded => {
                    let metric = metrics::CHECKOUTS_STARTED;
                    self.metrics.record_of_plan(metric, new.plan, 1);
                    return Ok(CheckoutOutcome::Started(represent(made, started.plan)));
                }
                // Of this request, or of one with the same idempotency key that is a day old: Stripe may remember a
                // key for longer than the store. Then the session is over, and the next key makes another one.
                RecordCheckoutOutcome::Repeated(stored) => {
                    let is_made = stored.session == started.session;
                    let stored = read(stripe, stored).await?;
                    if !is_made || stored.status == CheckoutStatus::Open.as_str() {
                        return Ok(CheckoutOutcome::Repeated(stored));
                    }
                }
                RecordCheckoutOutcome::KeyReused => return Ok(CheckoutOutcome::KeyReused),
                RecordCheckoutOutcome::NoCustomer => return Ok(CheckoutOutcome::Erased),
                RecordCheckoutOutcome::Overtaken => created = Some(made),
                RecordCheckoutOutcome::Relinked => return Err(PaymentsError::Contended),
                RecordCheckoutOutcome::Taken => {
                    return Err(PaymentsError::SessionTaken(started.session));
                }
            }
        }
        Err(PaymentsError::Contended)
    }

    /// Returns the outcome of an earlier request under the same idempotency key, if there was one.
    async fn repeated(
        &self,
        stripe: &StripeClient,
        new: &NewCheckout<'_>,
    ) -> Result<Option<CheckoutOutcome>, PaymentsError> {
        let Some(request) = new.idempotency else {
            return Ok(None);
        };
        Ok(match self.store.repeated_checkout(request).await? {
            Some(RecordCheckoutOutcome::Repeated(stored)) => {
                Some(CheckoutOutcome::Repeated(read(stripe, stored).await?))
            }
            Some(_) => Some(CheckoutOutcome::KeyReused),
            None => None,
        })
    }

    /// Expires an earlier session of the customer, so that it cannot be paid any more.
    async fn end(
        &self,
        stripe: &StripeClient,
        session: &str,
        customer: &StripeCustomerId,
    ) -> Result<Earlier, PaymentsError> {
        let id = session.parse();
        let id = id.map_err(|_| PaymentsError::SessionTaken(session.to_owned()))?;
        // A rejection is stored under a key too, and a page that is just being paid may be open again later.
        let key = parse_key(&format!("tollgate/expire/{}", self.random()))?;
        match stripe.expire_checkout_session(&key, &id).await {
            Ok(_) => return Ok(Earlier::Over),
            Err(error @ StripeError::Unavailable(_)) => return Err(error.into()),
            // It is not open, or may have been expired by this request.
            Err(StripeError::Rejected(_) | StripeError::Unknown(_)) => {}
        }
        let found = match stripe.checkout_session(&id).await {
            Ok(found) => found,
            Err(StripeError::Rejected(rejection)) if rejection.is_missing() => {
                return Ok(Earlier::Over);
            }
            Err(error) => return Err(error.into()),
        };
        match (found.status, found.subscription) {
            (Some(CheckoutStatus::Expired), _) => Ok(Earlier::Over),
            (Some(CheckoutStatus::Complete), Some(subscription)) => {
                let subscription = stripe.subscription(&subscription).await?;
                // One of a Stripe customer to whom the customer is no longer linked is the operator's to end.
                let is_over = has_ended(&subscription.status) || subscription.customer != *customer;
                Ok(if is_over {
                    Earlier::Over
                } else {
                    Earlier::Paid
                })
            }
            (Some(CheckoutStatus::Complete), None) => Ok(Earlier::Paid),
            _ => Ok(Earlier::Open),
        }
    }

    /// Creates a session, or gets the one that an earlier request under the same idempotency key has created.
    async fn create_session(
        &self,
        stripe: &StripeClient,
        new: &NewCheckout<'_>,
        keys: &mut impl Iterator<Item = Result<IdempotencyKey, PaymentsError>>,
        session: &NewCheckoutSession<'_>,
    ) -> Result<CheckoutSession, PaymentsError> {
        let mut failed = PaymentsError::Contended;
        for key in keys {
            match stripe.create_checkout_session(&key?, session).await {
                // Stripe replays a creation as it was then.
                Ok(created) if created.expires_at <= self.clock.now() => {}
                Ok(created) => return Ok(created),
                // If there is a session, nobody has its address.
                Err(error) if error.is_of_used_key() => failed = error.into(),
                Err(error) => return Err(of_customer(new.customer, error)),
            }
        }
        Err(failed)
    }

    /// Returns the idempotency keys of a session, of which each further one is for when those before cannot be used.
    /// A repeated request has the same ones, so that a session that was not stored is returned again; they include
    /// all parameters that may change between the two.
    fn session_keys(
        &self,
        request: Option<&Idempotency>,
        session: &NewCheckoutSession<'_>,
    ) -> Result<impl Iterator<Item = Result<IdempotencyKey, PaymentsError>> + use<>, PaymentsError>
    {
        let first = match request {
            Some(Idempotency {
                scope,
                key: of_request,
                request,
            }) => {
                let customer = session.customer.map_or("", |customer| customer.as_str());
                let price = session.price.as_str();
                let parts = [&self.stack, scope, of_request, request, price, customer];
                key("tollgate/checkout", &parts)?
            }
            None => parse_key(&format!("tollgate/checkout/{}", self.random()))?,
        };
        Ok(further_keys(first))
    }
}

/// Returns a stored session as it is now.
async fn read(stripe: &StripeClient, stored: StartedCheckout) -> Result<Checkout, PaymentsError> {
    let id = stored.session.parse();
    let id = id.map_err(|_| PaymentsError::SessionTaken(stored.session.clone()))?;
    let session = stripe.checkout_session(&id).await?;
    Ok(represent(session, stored.plan))
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
    } else if !found.is_fixed() {
        PriceDefect::Usage
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
