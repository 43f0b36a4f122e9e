//! Subscriptions at the stand-in for Stripe, its events, and the workers that handle them.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use http::{Method, Request};
use jiff::SignedDuration;
use serde_json::{Value, json};
use stripe_fake::{DeliveryMode, StripeFake};
use tollgate_domain::customer::{Consequence, Customer};
use tollgate_domain::subscription::{SubscriptionRules, UnpaidRule};
use tollgate_payments::Follower;

use super::scenario::OnUnpaid;
use super::simulation::{Simulation, id};
use super::stripe::StripeFaults;
use crate::crash::{Crash, Process};
use crate::network::FaultRates;
use crate::{SimulationError, Trace, setup};

/// Plan of those who have no subscription, and of those who have not paid.
pub(crate) const UNSUBSCRIBED: &str = "free";
const UNPAID: &str = "enterprise";
/// Plans that can be subscribed to.
const SOLD: [&str; 2] = ["pro", "team"];

/// Messages that are not handled yet. A message stays until it is handled, whatever ends its worker.
#[derive(Debug, Clone, Default)]
pub(crate) struct EventQueue(Arc<Mutex<VecDeque<String>>>);

impl EventQueue {
    fn push(&self, message: String) {
        let mut messages = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        messages.push_back(message);
    }

    fn pop(&self) -> Option<InFlight> {
        let mut messages = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let message = messages.pop_front()?;
        Some(InFlight {
            queue: self.clone(),
            message: Some(message),
        })
    }
}

/// A message that a worker has taken. It returns to the queue unless it is handled.
struct InFlight {
    queue: EventQueue,
    message: Option<String>,
}

impl Drop for InFlight {
    fn drop(&mut self) {
        if let Some(message) = self.message.take() {
            self.queue.push(message);
        }
    }
}

/// Creates a monthly price for each plan that is sold. Returns their ids.
pub(crate) async fn create_prices(
    fake: &StripeFake,
) -> Result<Vec<(&'static str, String)>, SimulationError> {
    let mut prices = Vec::new();
    for (plan, cents) in SOLD.into_iter().zip([4_900, 9_900]) {
        // By the week, so that there are several renewals, which are paid or not.
        let form = format!(
            "currency=usd&unit_amount={cents}&recurring[interval]=week&product_data[name]={plan}"
        );
        let created = at_stripe(fake, Method::POST, "/v1/prices", &form).await?;
        prices.push((plan, text(&created["id"])));
    }
    Ok(prices)
}

/// Sends a request to the stand-in, as someone else does. Returns the response, which may be an error.
async fn at_stripe(
    fake: &StripeFake,
    method: Method,
    path: &str,
    form: &str,
) -> Result<Value, SimulationError> {
    let request = Request::builder()
        .method(method)
        .uri(format!("https://stripe{path}"))
        .header("authorization", "Bearer sk_test_stripe_fake")
        .header("content-type", "application/x-www-form-urlencoded")
        .body(Bytes::copy_from_slice(form.as_bytes()));
    let response = setup(fake.send(setup(request)?).await)?;
    setup(serde_json::from_slice(response.body()))
}

fn text(value: &Value) -> String {
    value.as_str().unwrap_or_default().to_owned()
}

/// Handles messages until none is left, or each that is left has failed once.
async fn work(follower: Follower, queue: EventQueue, trace: Trace) {
    let mut failed = Vec::new();
    while let Some(mut taken) = queue.pop() {
        let Some(message) = &taken.message else {
            continue;
        };
        let outcome = follower.handle_message(message).await;
        let now = follower.payments.clock.now();
        trace.log(|| format!("{now} {}: {outcome:?}", kind(message)));
        if outcome.is_ok() {
            taken.message = None;
        } else {
            failed.push(taken);
        }
    }
}

fn kind(message: &str) -> String {
    let message: Value = serde_json::from_str(message).unwrap_or_default();
    format!("{} {}", message["type"], message["data"]["object"]["id"])
}

impl Simulation<'_> {
    fn rules(&self) -> Result<SubscriptionRules, SimulationError> {
        Ok(SubscriptionRules {
            plan_after_cancellation: setup(UNSUBSCRIBED.parse())?,
            grace: SignedDuration::from_hours(24),
            unpaid: match self.scenario.on_unpaid {
                OnUnpaid::Nothing => UnpaidRule::Nothing,
                OnUnpaid::Suspend => UnpaidRule::Suspend,
                OnUnpaid::Move => UnpaidRule::Move(setup(UNPAID.parse())?),
            },
        })
    }

    /// Gives the Stripe customer a card.
    pub(crate) async fn add_card(&self, recipient: &str) -> Result<(), SimulationError> {
        let path = format!("/v1/customers/{recipient}");
        let form = "invoice_settings[default_payment_method]=pm_card_visa";
        at_stripe(&self.fake, Method::POST, &path, form).await?;
        Ok(())
    }

    /// Returns the subscriptions of a customer, newest first.
    async fn subscriptions(&self, customer: usize) -> Result<Vec<Value>, SimulationError> {
        match &self.recipients[customer] {
            Some(recipient) => self.subscriptions_of(recipient).await,
            None => Ok(Vec::new()),
        }
    }

    /// Returns the subscriptions of a Stripe customer, newest first.
    async fn subscriptions_of(&self, recipient: &str) -> Result<Vec<Value>, SimulationError> {
        let path = format!("/v1/subscriptions?customer={recipient}&status=all&limit=100");
        let found = at_stripe(&self.fake, Method::GET, &path, "").await?;
        Ok(found["data"].as_array().cloned().unwrap_or_default())
    }

    /// Returns the subscription of a Stripe customer that was paid once and has not ended.
    pub(crate) async fn live_subscription(
        &self,
        recipient: &str,
    ) -> Result<Option<String>, SimulationError> {
        let all = self.subscriptions_of(recipient).await?;
        let live = all.iter().find(|it| is_live(it));
        Ok(live.map(|live| text(&live["id"])))
    }

    /// Whether the payment of an invoice has failed, except of the first one of a subscription.
    async fn owes(&self, customer: usize) -> Result<bool, SimulationError> {
        let Some(recipient) = &self.recipients[customer] else {
            return Ok(false);
        };
        let path = format!("/v1/invoices?customer={recipient}&status=open&limit=100");
        let found = at_stripe(&self.fake, Method::GET, &path, "").await?;
        let mut open = found["data"].as_array().into_iter().flatten();
        Ok(open.any(|invoice| {
            invoice["attempted"] == true && invoice["billing_reason"] != "subscription_create"
        }))
    }

    /// Returns the one that has not ended.
    async fn current(&self, customer: usize) -> Result<Option<Value>, SimulationError> {
        let all = self.subscriptions(customer).await?.into_iter();
        let mut current = all.filter(|it| {
            !["canceled", "incomplete_expired"].contains(&text(&it["status"]).as_str())
        });
        Ok(current.next())
    }

    pub(crate) async fn subscribe(
        &self,
        customer: usize,
        plan: usize,
    ) -> Result<(), SimulationError> {
        let Some(recipient) = &self.recipients[customer] else {
            return Ok(());
        };
        if self.current(customer).await?.is_some() {
            return Ok(());
        }
        let (_, price) = &self.prices[plan];
        let form = format!("customer={recipient}&items[0][price]={price}");
        at_stripe(&self.fake, Method::POST, "/v1/subscriptions", &form).await?;
        Ok(())
    }

    pub(crate) async fn switch(&self, customer: usize, plan: usize) -> Result<(), SimulationError> {
        if let Some(current) = self.current(customer).await? {
            let path = format!("/v1/subscriptions/{}", text(&current["id"]));
            let (_, price) = &self.prices[plan];
            let form = format!(
                "items[0][id]={}&items[0][price]={price}",
                text(&current["items"]["data"][0]["id"])
            );
            at_stripe(&self.fake, Method::POST, &path, &form).await?;
        }
        Ok(())
    }

    pub(crate) async fn cancel(&self, customer: usize) -> Result<(), SimulationError> {
        if let Some(current) = self.current(customer).await? {
            self.cancel_subscription(&text(&current["id"])).await?;
        }
        Ok(())
    }

    async fn cancel_subscription(&self, id: &str) -> Result<(), SimulationError> {
        let path = format!("/v1/subscriptions/{id}");
        at_stripe(&self.fake, Method::DELETE, &path, "").await?;
        Ok(())
    }

    /// Ends the subscriptions of Stripe customers that the customer was linked to before.
    pub(crate) async fn cancel_former(&self, customer: usize) -> Result<(), SimulationError> {
        for former in &self.former[customer] {
            if let Some(live) = self.live_subscription(former).await? {
                self.cancel_subscription(&live).await?;
            }
        }
        Ok(())
    }

    pub(crate) fn decline(
        &self,
        customer: usize,
        is_declined: bool,
    ) -> Result<(), SimulationError> {
        match &self.recipients[customer] {
            Some(recipient) => setup(self.fake.decline_payments(recipient, is_declined)),
            None => Ok(()),
        }
    }

    /// Pays the open invoices of a customer, as far as its card is not declined.
    pub(crate) async fn pay(&self, customer: usize) -> Result<(), SimulationError> {
        let Some(recipient) = &self.recipients[customer] else {
            return Ok(());
        };
        let path = format!("/v1/invoices?customer={recipient}&status=open&limit=100");
        let open = at_stripe(&self.fake, Method::GET, &path, "").await?;
        for invoice in open["data"].as_array().into_iter().flatten() {
            let path = format!("/v1/invoices/{}/pay", text(&invoice["id"]));
            at_stripe(&self.fake, Method::POST, &path, "").await?;
        }
        Ok(())
    }

    /// Queues the events since the last time, each so many times, and starts workers.
    pub(crate) fn deliver(
        &mut self,
        mode: DeliveryMode,
        workers: &[Option<Crash>],
    ) -> Result<(), SimulationError> {
        self.queue_events(mode);
        let (tables, stripe) = (self.scenario.table_faults, self.scenario.stripe_faults);
        for (number, crash) in workers.iter().flatten().enumerate() {
            let process = Process::new(*crash);
            let follower = self.follower(number, &process, tables, stripe)?;
            let (queue, trace) = (self.queue.clone(), self.trace.clone());
            self.spawn(process, work(follower, queue, trace));
        }
        Ok(())
    }

    fn queue_events(&self, mode: DeliveryMode) {
        self.fake.set_delivery(mode);
        for event in self.fake.take_events() {
            self.queue.push(event.body);
        }
    }

    fn follower(
        &mut self,
        number: usize,
        process: &Process,
        tables: FaultRates,
        stripe: StripeFaults,
    ) -> Result<Follower, SimulationError> {
        Ok(Follower {
            payments: self.payments(number, process, tables, stripe)?,
            rules: self.rules()?,
        })
    }

    /// Queues the customers whose follow-up is due, as the nightly run does.
    pub(crate) async fn follow_up(&self) -> Result<(), SimulationError> {
        let now = self.now();
        let mut after = None;
        loop {
            let page = self.admin.follow_ups(after.as_deref()).await?;
            let due = page.items.iter().filter(|(_, it)| it.due <= now);
            for (_, follow_up) in due {
                let message = json!({
                    "follow_up": follow_up.customer.as_str(),
                    "stripe_customer": follow_up.stripe_customer,
                });
                self.queue.push(message.to_string());
            }
            match page.next {
                Some(next) => after = Some(next),
                None => return Ok(()),
            }
        }
    }

    /// Handles all events without faults.
    pub(crate) async fn handle_all(&mut self) -> Result<(), SimulationError> {
        self.queue_events(DeliveryMode::default());
        let process = Process::new(Crash::Never);
        let follower = self.follower(0, &process, FaultRates::NONE, StripeFaults::NONE)?;
        work(follower, self.queue.clone(), self.trace.clone()).await;
        Ok(())
    }

    /// Compares a customer with its subscriptions at Stripe, after all events were handled.
    pub(crate) async fn compare_subscription(
        &self,
        customer: usize,
    ) -> Result<Vec<String>, SimulationError> {
        let name = id(customer)?;
        let mut mismatches = Vec::new();
        let mut differs = |what: String| mismatches.push(format!("{name}: {what}"));
        let Some(stored) = self.admin.customer(&name).await? else {
            differs("is not stored".to_owned());
            return Ok(mismatches);
        };
        let all = self.subscriptions(customer).await?;
        let live: Vec<&Value> = all.iter().filter(|it| is_live(it)).collect();
        if self.recipients[customer].is_none() {
            if stored.unpaid.is_some() || stored.suspended_at.is_some() {
                differs(format!("owes {:?} without a link", stored.unpaid));
            }
            return Ok(mismatches);
        }
        // Without a link, the plan stays, and a debt is forgotten until a payment of it fails again.
        let was_unlinked = self.was_unlinked[customer];
        let is_forgotten = was_unlinked && stored.unpaid.is_none();
        let owes = !is_forgotten && self.owes(customer).await?;
        let linked = stored.recipient.as_ref();
        let linked = linked.and_then(|it| it.subscription.clone());
        match live.as_slice() {
            [] => {
                if linked.is_some() || stored.subscription_plan.is_some() {
                    differs(format!("follows {linked:?}, which has ended"));
                }
                if stored.plan.as_str() != UNSUBSCRIBED && !was_unlinked {
                    differs(format!("is on {} without a subscription", stored.plan));
                }
                for what in payment_deviations(&stored, !owes) {
                    differs(what);
                }
            }
            [live] => {
                if linked.as_deref() != live["id"].as_str() {
                    differs(format!("follows {linked:?}, not {}", live["id"]));
                }
                let price = &live["items"]["data"][0]["price"]["id"];
                let sold = self.prices.iter().find(|(_, id)| id == price);
                let expected = sold.map_or("none", |(plan, _)| plan);
                let is_paid = live["status"] == "active" && !owes;
                let plan = plan_deviation(&stored, expected);
                for what in payment_deviations(&stored, is_paid).into_iter().chain(plan) {
                    differs(what);
                }
            }
            _ => differs(format!("has {} subscriptions", live.len())),
        }
        Ok(mismatches)
    }

    /// Returns the pending items of a customer that no subscription will invoice, at the end.
    pub(crate) async fn compare_items(
        &self,
        customer: usize,
    ) -> Result<Vec<String>, SimulationError> {
        let name = id(customer)?;
        let mut mismatches = Vec::new();
        for recipient in self.all_recipients(customer) {
            let live = self.live_subscription(recipient).await?;
            for item in self.items_of(recipient).await? {
                let of = item.subscription().map(|it| it.as_str().to_owned());
                let has_renewal = live.is_some() && (of.is_none() || of == live);
                if item.invoice.is_none() && !has_renewal {
                    mismatches.push(format!("{name}: {} is on no invoice", item.id));
                }
            }
        }
        Ok(mismatches)
    }
}

/// Whether a subscription gives its plan: it was paid once, and has not ended.
fn is_live(subscription: &Value) -> bool {
    ["active", "past_due", "unpaid"].contains(&text(&subscription["status"]).as_str())
}

/// Returns in what the flags of a customer are not those of its payments.
fn payment_deviations(stored: &Customer, is_paid: bool) -> Vec<String> {
    let mut deviations = Vec::new();
    if stored.unpaid.is_some() == is_paid {
        deviations.push(format!("has unpaid {:?}", stored.unpaid));
    }
    let consequence = stored.unpaid.and_then(|unpaid| unpaid.consequence);
    let is_suspended = consequence == Some(Consequence::Suspended);
    if stored.suspended_at.is_some() != is_suspended {
        deviations.push(format!("is suspended: {:?}", stored.suspended_at));
    }
    deviations
}

/// Returns in what the plan of a customer is not that of its subscription.
fn plan_deviation(stored: &Customer, of_subscription: &str) -> Option<String> {
    let consequence = stored.unpaid.and_then(|unpaid| unpaid.consequence);
    let expected = match consequence {
        Some(Consequence::Moved) => UNPAID,
        _ => of_subscription,
    };
    (stored.plan.as_str() != expected).then(|| format!("is on {}, not on {expected}", stored.plan))
}
