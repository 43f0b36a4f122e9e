//! Plans follow subscriptions: what happens at Stripe changes the plan of a customer, flags outstanding payments,
//! and makes invoices for charges that no subscription invoices any more.
//!
//! An event only says whose subscription is to be read. It arrives late, twice and in any order, so that nothing in
//! it but ids is used.

use std::collections::{BTreeMap, BTreeSet};

use jiff::{SignedDuration, Timestamp};
use serde::Deserialize;
use serde_json::value::RawValue;
use tollgate_domain::customer::Customer;
use tollgate_domain::id::{CustomerId, PlanId};
use tollgate_domain::plan_book::PlanBook;
use tollgate_domain::submission::Recipient;
use tollgate_domain::subscription::{SubscriptionRules, SubscriptionState};
use tollgate_runtime::config::{self, InvalidConfig};
use tollgate_runtime::{Init, metrics};
use tollgate_store::FollowOutcome;
use tollgate_stripe::{
    CustomerId as StripeCustomerId, CustomerLookup, Event, InvalidEvent, Invoice, InvoiceFilter,
    InvoiceItem, InvoiceItemFilter, InvoiceStatus, NewInvoice, PaymentMethodId, StripeClient,
    StripeError, Subscription, SubscriptionId, SubscriptionStatus,
};

use crate::customers::{key, linked, of_customer};
use crate::queue::FollowUpMessage;
use crate::subscription::has_ended;
use crate::{CURRENCY, Patience, Payments, PaymentsError};

/// Types of events that may change a customer. All others are ignored.
pub const EVENT_TYPES: [&str; 11] = [
    "checkout.session.async_payment_succeeded",
    "checkout.session.completed",
    "customer.subscription.created",
    "customer.subscription.deleted",
    "customer.subscription.paused",
    "customer.subscription.resumed",
    "customer.subscription.updated",
    "invoice.marked_uncollectible",
    "invoice.paid",
    "invoice.payment_failed",
    "invoice.voided",
];

/// Tries of following a subscription while others change the customer.
const MAX_TRIES: u32 = 5;
/// Most invoices that are made of a customer's pending items at a time. Stripe takes 250 items into each.
const MAX_INVOICES: u32 = 20;

/// Time for which an invoice of a Stripe customer stays scheduled who does not exist and is linked no longer: the link was a
/// mistake, unless it is the secret key that is wrong, which is mended by then.
const MISSING_KEPT: SignedDuration = SignedDuration::from_hours(7 * 24);

/// Text on an invoice that is made here.
const FINAL_INVOICE: &str = "Usage beyond the included calls";

/// Makes customers follow their subscriptions. Cheap to clone; clones share it.
#[derive(Debug, Clone)]
pub struct Follower {
    /// Tables and Stripe.
    pub payments: Payments,
    /// Consequences of the end of a subscription, and of an outstanding payment.
    pub rules: SubscriptionRules,
}

/// Outcome of handling an event.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EventOutcome {
    /// The customer follows its subscription.
    Followed,
    /// The event was handled before.
    Repeated,
    /// Events of this type change nothing.
    Ignored,
    /// The event is of no customer here: other software, or another stack, may share the Stripe account.
    Foreign,
}

/// Occasion on which a customer is followed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Occasion<'a> {
    /// The payment of the invoice with this id has failed. The invoice may be no subscription's, such as one for usage
    /// alone. Only this event distinguishes it from one whose payment is on its way: both are open, and a payment was
    /// attempted.
    FailedPayment(&'a str),
    /// Any other.
    Any,
}

/// Error: a message was not handled.
#[derive(Debug, thiserror::Error)]
pub enum MessageError {
    /// It is not an event of Stripe, and does not name a customer to follow up.
    #[error("the message is not an event of Stripe")]
    Event(#[from] InvalidEvent),
    /// Stripe or the store failed.
    #[error(transparent)]
    Payments(#[from] PaymentsError),
}

/// Event of a partner event bus, whose detail is an event of Stripe.
#[derive(Deserialize)]
struct BusEvent {
    detail: Box<RawValue>,
}

impl Follower {
    /// Builds the state of a new instance.
    ///
    /// # Errors
    /// When the environment lacks a variable, or has an invalid one.
    pub fn build(init: &Init) -> Result<Self, InvalidConfig> {
        Ok(Self {
            payments: Payments::build(init, Patience::Events)?,
            rules: config::subscription_rules(&init.env)?,
        })
    }

    /// Handles a message of the queue of Stripe's events: an event, or a customer to follow up.
    ///
    /// # Errors
    /// When it is neither, or Stripe or the store fails. The message is then to be delivered again.
    pub async fn handle_message(&self, body: &str) -> Result<EventOutcome, MessageError> {
        if let Ok(message) = serde_json::from_str(body) {
            let FollowUpMessage {
                follow_up,
                stripe_customer,
            } = message;
            match stripe_customer {
                Some(stripe_customer) => self.invoice_if_due(&stripe_customer).await?,
                None => match self.follow(&follow_up, Occasion::Any).await {
                    // The link or the secret key is wrong. Repetitions would not help before someone mends that; the
                    // follow-up stays, and each billing run names it again.
                    Err(PaymentsError::LinkGone(customer)) => {
                        self.record_missing();
                        tracing::error!(
                            customer,
                            "the Stripe customer that a customer is linked to does not exist"
                        );
                    }
                    followed => followed?,
                },
            }
            return Ok(EventOutcome::Followed);
        }
        let event = match serde_json::from_str::<BusEvent>(body) {
            // A dead letter of the rule has the event as it was on the bus.
            Ok(on_bus) => Event::parse(on_bus.detail.get().as_bytes())?,
            Err(_) => Event::parse(body.as_bytes())?,
        };
        let outcome = self.handle(&event).await?;
        let metric = match outcome {
            EventOutcome::Followed | EventOutcome::Repeated => metrics::STRIPE_EVENTS,
            EventOutcome::Foreign => metrics::FOREIGN_STRIPE_EVENTS,
            EventOutcome::Ignored => return Ok(outcome),
        };
        self.payments.metrics.record(metric, &[], 1);
        tracing::info!(event = %event.id, kind = event.kind, ?outcome, "event of Stripe");
        Ok(outcome)
    }

    /// Handles an event of Stripe.
    ///
    /// # Errors
    /// When Stripe or the store fails. The event is then to be handled again.
    pub async fn handle(&self, event: &Event) -> Result<EventOutcome, PaymentsError> {
        if !EVENT_TYPES.contains(&event.kind.as_str()) {
            return Ok(EventOutcome::Ignored);
        }
        let store = &self.payments.store;
        let Some(customer) = self.customer_of(event).await? else {
            return Ok(EventOutcome::Foreign);
        };
        // This only saves requests: an event that is handled twice changes nothing the second time.
        if store.is_handled(event.id.as_str()).await? {
            return Ok(EventOutcome::Repeated);
        }
        let occasion = match (event.kind.as_str(), &event.object_id) {
            ("invoice.payment_failed", Some(invoice)) => Occasion::FailedPayment(invoice),
            _ => Occasion::Any,
        };
        self.follow(&customer, occasion).await?;
        store.mark_handled(event.id.as_str()).await?;
        Ok(EventOutcome::Followed)
    }

    /// Returns the customer of an event: by our own link of its Stripe customer, or by the checkout session that we
    /// started. Metadata, which others can write, has no say.
    async fn customer_of(&self, event: &Event) -> Result<Option<CustomerId>, PaymentsError> {
        let store = &self.payments.store;
        if let Some(customer) = &event.customer
            && let Some(found) = store.customer_of_stripe(customer).await?
        {
            return Ok(Some(found));
        }
        let Some(session) = &event.object_id else {
            return Ok(None);
        };
        if event.object_type != "checkout.session" {
            return Ok(None);
        }
        let started = store.checkout(session).await?.map(|it| it.customer);
        if let Some(customer) = &started {
            // An admin has changed the link since the checkout began. Money was paid for nothing, unless someone
            // links the Stripe customer again, or refunds it.
            tracing::error!(
                %customer, session, stripe_customer = event.customer,
                "a checkout is of a Stripe customer who is no longer linked"
            );
        }
        Ok(started)
    }

    /// Gives a customer the state of its subscription, and makes an invoice that is due. After an error, the customer may
    /// have the state, and is to be followed again.
    async fn follow(&self, id: &CustomerId, occasion: Occasion<'_>) -> Result<(), PaymentsError> {
        let Payments { store, clock, .. } = &self.payments;
        let stripe = self.payments.client()?;
        for _ in 0..MAX_TRIES {
            let Some(before) = store.customer_to_follow(id).await? else {
                return Ok(());
            };
            let stored = &before.customer;
            let Some(recipient) = &stored.recipient else {
                let after = SubscriptionRules::unlinked(stored);
                match store.follow(&before, &after, None).await? {
                    FollowOutcome::Raced => continue,
                    FollowOutcome::Followed | FollowOutcome::Gone => return Ok(()),
                }
            };
            let stripe_customer = linked(stored, recipient)?;
            // What was owed at an earlier Stripe customer ends with its link, as it does without another one.
            let settled = before
                .owes_elsewhere()
                .then(|| SubscriptionRules::settled(stored));
            let customer = settled.as_ref().unwrap_or(stored);
            let plans = store.plans().await?;
            let found = subscriptions(stripe, id, &stripe_customer).await?;
            let is_deleted = found.is_none();
            let all = found.unwrap_or_default();
            let prices = plans_of_prices(&plans);
            // The Stripe customer may have subscriptions to something else, whose invoices are no concern of ours.
            let is_ours = |id: &SubscriptionId| {
                let is_of_plan = |it: &Subscription| {
                    let mut items = it.items.data.iter();
                    items.any(|item| prices.contains_key(item.price.id.as_str()))
                };
                recipient.subscription.as_deref() == Some(id.as_str())
                    || all.iter().any(|it| it.id == *id && is_of_plan(it))
            };
            let is_debt = |invoice: &Invoice| {
                let is_meant = match (&customer.unpaid, occasion) {
                    // Another subscription, even one that is paid, does not pay the debt.
                    (Some(_), _) => true,
                    (None, Occasion::FailedPayment(failed)) => invoice.id.as_str() == failed,
                    (None, Occasion::Any) => false,
                };
                // The status of a live subscription says whether its latest invoice is paid in time: its payment may be on
                // its way.
                let is_in_time = all.iter().any(|it| {
                    it.latest_invoice.as_ref() == Some(&invoice.id)
                        && is_live(&it.status)
                        && is_paid(&it.status)
                });
                let is_ours = invoice.subscription().is_none_or(is_ours);
                is_meant && is_ours && !is_first(invoice) && !is_in_time
            };
            let may_owe = customer.unpaid.is_some() || occasion != Occasion::Any;
            let is_owing = match is_deleted {
                // Nobody can pay any more. What followed from a debt is left to an admin.
                true => customer.unpaid.is_some(),
                false => may_owe && owes(stripe, &stripe_customer, is_debt, clock.now()).await?,
            };
            let is_shared = prices.values().any(|of_price| of_price.len() > 1);
            let bought = match is_shared {
                true => self.bought_plan(id).await?,
                false => None,
            };
            let choice = PlanChoice {
                plan_book: &plans,
                prices: &prices,
                customer,
                recipient,
                bought,
            };
            let state = find(stripe, &choice, &all, is_owing).await?;
            let mut after = self.rules.apply(customer, &state, clock.now());
            if customer.erased_at.is_some() {
                if let SubscriptionState::Live { id, .. } = &state
                    && customer.subscription() != Some(id)
                {
                    // Of a checkout page that was open at the erasure. Only the operator can cancel and refund it.
                    tracing::error!(
                        customer = %customer.id, subscription = id,
                        "an erased customer has bought a subscription"
                    );
                }
                // Charges may still be due, and must not go to a subscription that has ended.
                after = Customer {
                    recipient: after.recipient,
                    unpaid: None,
                    ..stored.clone()
                };
            }
            if after.plan != customer.plan && plans.get(&after.plan).is_none() {
                return Err(PaymentsError::NoSuchPlan(after.plan.as_str().to_owned()));
            }
            if recipient.subscription.is_some() && after.subscription() != customer.subscription() {
                // Before the subscription is forgotten: whatever happens next, its last charges get an invoice.
                let scheduled = store.schedule_invoice(id, &recipient.customer, clock.now());
                scheduled.await?;
            }
            let due = self.rules.consequence_due(&after);
            match store.follow(&before, &after, due).await? {
                FollowOutcome::Followed => {}
                FollowOutcome::Raced => continue,
                FollowOutcome::Gone => return Ok(()),
            }
            if after != *stored {
                tracing::info!(
                    customer = %id, plan = %after.plan, plan_before = %stored.plan,
                    suspended = after.suspended_at.is_some(), unpaid = after.unpaid.is_some(),
                    "a customer follows its subscription"
                );
            }
            return self.invoice_if_due(stripe_customer.as_str()).await;
        }
        Err(PaymentsError::Contended)
    }

    /// Returns the plan of the customer's last checkout.
    async fn bought_plan(&self, customer: &CustomerId) -> Result<Option<PlanId>, PaymentsError> {
        let store = &self.payments.store;
        let Some(session) = store.open_checkout(customer).await? else {
            return Ok(None);
        };
        Ok(store.checkout(&session).await?.map(|started| started.plan))
    }

    /// Makes the invoice that is scheduled for a Stripe customer, if it is due.
    async fn invoice_if_due(&self, stripe_customer: &str) -> Result<(), PaymentsError> {
        let Payments { store, clock, .. } = &self.payments;
        let stripe = self.payments.client()?;
        // Read before the items are: an item that comes later schedules an invoice again.
        let Some(scheduled) = store.scheduled_invoice(stripe_customer).await? else {
            return Ok(());
        };
        if scheduled.due > clock.now() {
            return Ok(());
        }
        let customer = stripe_customer.parse();
        let customer: StripeCustomerId =
            customer.map_err(|_| PaymentsError::InvalidLink(scheduled.customer.to_string()))?;
        match stripe.customer(&customer).await {
            Ok(CustomerLookup::Present(_)) => {}
            Ok(CustomerLookup::Deleted(deleted)) => {
                tracing::error!(
                    customer = %scheduled.customer, stripe_customer = %deleted,
                    "items of a Stripe customer who was deleted cannot be invoiced, if there are any"
                );
                return Ok(store.end_scheduled_invoice(&scheduled).await?);
            }
            Err(StripeError::Rejected(rejection)) if rejection.is_missing() => {
                // As for a link to follow: the schedule stays until someone mends the link or the secret key.
                self.record_missing();
                tracing::error!(
                    customer = %scheduled.customer, stripe_customer,
                    "items of a Stripe customer who does not exist cannot be invoiced, if there are any"
                );
                let is_old = clock.now().duration_since(scheduled.due) > MISSING_KEPT;
                if is_old && store.customer_of_stripe(stripe_customer).await?.is_none() {
                    store.end_scheduled_invoice(&scheduled).await?;
                }
                return Ok(());
            }
            Err(error) => return Err(error.into()),
        }
        let all = stripe.subscriptions(&customer).all().await?;
        let live = all.iter().find(|it| is_live(&it.status));
        // Checkout leaves the card with the subscription, and not with the customer.
        let card = all.iter().find_map(|it| it.default_payment_method.as_ref());
        let live = live.map(|it| &it.id);
        let is_rest_pending = self.invoice(stripe, &customer, live, card).await?;
        if is_rest_pending && !self.is_followed(stripe_customer, live).await? {
            // The subscription invoices the rest, unless it ends before: no event of that leads here, because no
            // customer follows it. So each billing run looks again.
            return Ok(());
        }
        store.end_scheduled_invoice(&scheduled).await?;
        Ok(())
    }

    /// Whether the customer who is linked to a Stripe customer follows this subscription of it, so that its end makes an
    /// invoice.
    async fn is_followed(
        &self,
        stripe_customer: &str,
        subscription: Option<&SubscriptionId>,
    ) -> Result<bool, PaymentsError> {
        let store = &self.payments.store;
        let Some(customer) = store.customer_of_stripe(stripe_customer).await? else {
            return Ok(false);
        };
        let customer = store.customer(&customer).await?;
        let followed = customer.as_ref().and_then(Customer::subscription);
        Ok(followed.is_some() && followed == subscription.map(|it| it.as_str()))
    }

    fn record_missing(&self) {
        let metrics = &self.payments.metrics;
        metrics.record(metrics::MISSING_STRIPE_CUSTOMERS, &[], 1);
    }

    /// Makes invoices of the pending items that the live subscription will not invoice. Returns whether it will invoice
    /// others of this stack.
    async fn invoice(
        &self,
        stripe: &StripeClient,
        customer: &StripeCustomerId,
        live: Option<&SubscriptionId>,
        card: Option<&PaymentMethodId>,
    ) -> Result<bool, PaymentsError> {
        let of_this_stack = format!("{}/", self.payments.stack);
        let is_ours = |item: &InvoiceItem| {
            let charge = item.charge();
            charge.is_some_and(|charge| charge.starts_with(&of_this_stack))
        };
        for _ in 0..MAX_INVOICES {
            let pending = stripe.invoice_items(&InvoiceItemFilter {
                customer,
                pending: Some(true),
                created_since: None,
            });
            let pending = pending.all().await?;
            let left: Vec<&InvoiceItem> = match live {
                // It also invoices items that name no subscription.
                Some(live) => pending
                    .iter()
                    .filter(|item| item.subscription().is_some_and(|of| of != live))
                    .collect(),
                None => pending.iter().collect(),
            };
            let Some(first) = left.iter().find(|item| is_ours(item)) else {
                return Ok(pending.iter().any(is_ours));
            };
            // Stripe makes an invoice of all pending items, or of those of one subscription.
            let subscription = live.and(first.subscription());
            let drawn = left
                .iter()
                .filter(|item| live.is_none() || item.subscription() == subscription);
            // A repetition for the same items returns the same invoice; drawn items are no longer pending.
            let drawn: BTreeSet<&str> = drawn.map(|item| item.id.as_str()).collect();
            let of = subscription.map_or("", |it| it.as_str());
            let parts: Vec<&str> = [self.payments.stack.as_str(), customer.as_str(), of]
                .into_iter()
                .chain(drawn)
                .collect();
            let invoice = NewInvoice {
                customer,
                subscription,
                currency: Some(CURRENCY),
                auto_advance: true,
                payment_method: card,
                description: Some(FINAL_INVOICE),
                metadata: &[],
            };
            let made = stripe
                .create_invoice(&key("tollgate/invoice", &parts)?, &invoice)
                .await?;
            tracing::info!(invoice = %made.id, "an invoice was made of pending items");
        }
        Err(PaymentsError::StillPending(customer.as_str().to_owned()))
    }
}

/// Returns all subscriptions of a Stripe customer; `None` if it was deleted, with which they have ended.
async fn subscriptions(
    stripe: &StripeClient,
    customer: &CustomerId,
    stripe_customer: &StripeCustomerId,
) -> Result<Option<Vec<Subscription>>, PaymentsError> {
    let listed = stripe.subscriptions(stripe_customer).all().await;
    let gone = match listed.map_err(|error| of_customer(customer, error)) {
        Err(gone @ PaymentsError::LinkGone(_)) => gone,
        listed => return Ok(Some(listed?)),
    };
    match stripe.customer(stripe_customer).await {
        Ok(CustomerLookup::Deleted(_)) => Ok(None),
        Ok(CustomerLookup::Present(_)) => Err(gone),
        Err(StripeError::Rejected(rejection)) if rejection.is_missing() => Err(gone),
        Err(error) => Err(error.into()),
    }
}

/// Facts that decide on the plan of a subscription, besides its price.
struct PlanChoice<'a> {
    plan_book: &'a PlanBook,
    /// Plans of each price.
    prices: &'a BTreeMap<&'a str, Vec<&'a PlanId>>,
    customer: &'a Customer,
    recipient: &'a Recipient,
    /// Plan of the customer's last checkout, if several plans have one price.
    bought: Option<PlanId>,
}

/// Finds the subscription that a customer follows: the linked one, until it ends; then the newest that is paid
/// and that is of a plan.
async fn find(
    stripe: &StripeClient,
    choice: &PlanChoice<'_>,
    all: &[Subscription],
    is_owing: bool,
) -> Result<SubscriptionState, PaymentsError> {
    let PlanChoice {
        plan_book,
        prices,
        customer,
        recipient,
        bought,
    } = choice;
    let is_linked = |it: &Subscription| recipient.subscription.as_deref() == Some(it.id.as_str());
    let plan_of = |subscription: &Subscription| {
        let items = subscription.items.data.iter();
        let plans: Vec<&PlanId> = items
            .filter_map(|item| prices.get(item.price.id.as_str()))
            .flatten()
            .copied()
            .collect();
        // Several plans may have one price: for example, one that replaces another at the same fee.
        let bought = bought.as_ref().filter(|_| !is_linked(subscription));
        let current = [
            bought,
            customer.subscription_plan.as_ref(),
            Some(&customer.plan),
        ];
        let current = current.into_iter().flatten().find(|id| plans.contains(id));
        let is_sold = |id: &&&PlanId| plan_book.get(id).is_some_and(|it| it.retired_at.is_none());
        let sold = plans.iter().find(is_sold);
        current
            .or(sold.copied())
            .or(plans.first().copied())
            .cloned()
    };
    let linked = all.iter().find(|it| is_linked(it));
    if let Some(linked) = linked.filter(|it| is_live(&it.status)) {
        return Ok(live(linked, plan_of(linked), is_owing));
    }
    for subscription in all.iter().filter(|it| !is_linked(it)) {
        let plan = plan_of(subscription);
        if plan.is_some() && is_bought(stripe, subscription).await? {
            return Ok(live(subscription, plan, is_owing));
        }
    }
    Ok(SubscriptionState::Ended {
        plan: linked.and_then(plan_of),
        is_owing,
    })
}

/// Returns the state of a customer with this live subscription.
fn live(subscription: &Subscription, plan: Option<PlanId>, is_owing: bool) -> SubscriptionState {
    SubscriptionState::Live {
        id: subscription.id.as_str().to_owned(),
        plan,
        is_paid: is_paid(&subscription.status) && !is_owing,
    }
}

/// Returns the plans that have had each price, in any version: a version that was replaced still has subscribers.
fn plans_of_prices(plans: &PlanBook) -> BTreeMap<&str, Vec<&PlanId>> {
    let mut prices: BTreeMap<&str, Vec<&PlanId>> = BTreeMap::new();
    for plan in plans.iter() {
        let of_plan: BTreeSet<&str> = plan
            .iter()
            .filter_map(|version| version.plan.stripe_price.as_deref())
            .collect();
        for price in of_plan {
            prices.entry(price).or_default().push(plan.id());
        }
    }
    prices
}

/// Whether a subscription that gave a plan still does. A first payment that is outstanding has given none.
fn is_live(status: &SubscriptionStatus) -> bool {
    !has_ended(status) && *status != SubscriptionStatus::Incomplete
}

/// Whether no payment of a live subscription is outstanding.
fn is_paid(status: &SubscriptionStatus) -> bool {
    !matches!(
        status,
        SubscriptionStatus::PastDue | SubscriptionStatus::Unpaid | SubscriptionStatus::Paused
    )
}

/// Whether a new subscription gives its plan. One that is paid by bank debit is active for days before the money
/// arrives, and its invoice is open until then.
async fn is_bought(
    stripe: &StripeClient,
    subscription: &Subscription,
) -> Result<bool, PaymentsError> {
    let is_begun = matches!(
        subscription.status,
        SubscriptionStatus::Active | SubscriptionStatus::Trialing
    );
    match &subscription.latest_invoice {
        Some(invoice) if is_begun => {
            let invoice = stripe.invoice(invoice).await?;
            Ok(invoice.status == Some(InvoiceStatus::Paid))
        }
        // There is nothing to pay yet.
        _ => Ok(is_begun),
    }
}

/// Whether an invoice is the first one of a subscription that gives nothing before it is paid. One that is sent to the
/// customer, and due later, does.
fn is_first(invoice: &Invoice) -> bool {
    invoice.billing_reason.as_deref() == Some("subscription_create") && invoice.due_date.is_none()
}

/// Whether an invoice that `is_debt` is still to be paid, after an attempt or when it is overdue. One that was written
/// off is not.
async fn owes(
    stripe: &StripeClient,
    customer: &StripeCustomerId,
    is_debt: impl Fn(&Invoice) -> bool,
    now: Timestamp,
) -> Result<bool, PaymentsError> {
    let mut open = stripe.invoices(&InvoiceFilter {
        customer: Some(customer),
        status: Some(&InvoiceStatus::Open),
        ..InvoiceFilter::default()
    });
    let first = open.next_page().await?;
    let is_late = |it: &Invoice| it.attempted || it.due_date.is_some_and(|due| due <= now);
    let is_unpaid = |it: &Invoice| it.amount_remaining > 0 && is_late(it) && is_debt(it);
    Ok(first.is_some_and(|page| page.items.iter().any(is_unpaid)))
}
