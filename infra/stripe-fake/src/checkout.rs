//! Checkout sessions: a page on which a customer pays, or subscribes.

mod json;
pub(crate) mod operations;

use crate::calendar::Interval;
use crate::error::ApiError;
use crate::renewal::{FirstPayment, NewItem, NewSubscription};
use crate::state::{Metadata, State};
use crate::table::Row;

/// Checkout session.
#[derive(Debug, Clone)]
pub(crate) struct Session {
    pub(crate) id: String,
    created: i64,
    pub(crate) expires_at: i64,
    is_subscription: bool,
    pub(crate) status: Status,
    payment: Payment,
    pub(crate) customer: Option<String>,
    pub(crate) customer_email: Option<String>,
    client_reference_id: Option<String>,
    metadata: Metadata,
    pub(crate) items: Vec<LineItem>,
    success_url: Option<String>,
    pub(crate) cancel_url: Option<String>,
    pub(crate) currency: String,
    interval: Option<Interval>,
    pub(crate) subscription: Option<String>,
    invoice: Option<String>,
    payment_intent: Option<String>,
    new: SubscriptionData,
    allows_promotion_codes: Option<bool>,
    is_adaptive: Option<bool>,
}

/// Price of a session, with its quantity.
#[derive(Debug, Clone)]
pub(crate) struct LineItem {
    id: String,
    pub(crate) price: String,
    pub(crate) quantity: i64,
}

/// Parameters of the subscription that a session starts.
#[derive(Debug, Clone, Default)]
struct SubscriptionData {
    metadata: Metadata,
    description: Option<String>,
    anchor: Option<i64>,
    is_free_until_anchor: bool,
    pending_interval: Option<Interval>,
}

/// Status of a session.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Status {
    Open,
    Complete,
    Expired,
}

/// Payment status of a session.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Payment {
    Unpaid,
    Paid,
    NotRequired,
}

/// Way in which a customer completes a checkout session.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Completion {
    /// By card, which is charged at once.
    Paid,
    /// By a bank debit, whose outcome is known later: the session is complete and unpaid.
    Unpaid,
    /// By a card that is declined: the session stays open.
    Declined,
}

impl Row for Session {
    const WHAT: &'static str = "checkout.session";

    fn id(&self) -> &str {
        &self.id
    }

    fn customer(&self) -> Option<&str> {
        self.customer.as_deref()
    }
}

impl Session {
    /// Returns the URL to which a customer is sent after the payment.
    pub(crate) fn success_url(&self) -> String {
        let url = self.success_url.as_deref().unwrap_or_default();
        url.replace("{CHECKOUT_SESSION_ID}", &self.id)
    }
}

impl State {
    /// Completes a session as its customer does on the page.
    ///
    /// # Errors
    /// When the session is not open, or the card is declined.
    pub(crate) fn complete_session(
        &mut self,
        id: &str,
        completion: Completion,
        email: Option<&str>,
    ) -> Result<(), ApiError> {
        let session = self.sessions.find(id, "id")?.clone();
        if session.status != Status::Open {
            return Err(ApiError::invalid(
                "This checkout session is no longer open.",
            ));
        }
        if let Some(customer) = &session.customer
            && (self.customers.find(customer, "customer")?.is_declined
                && completion == Completion::Paid)
        {
            return Err(ApiError::declined());
        }
        if completion == Completion::Declined {
            return Err(ApiError::declined());
        }
        let customer = match session.customer.clone() {
            Some(customer) => customer,
            None => {
                let email = email.filter(|email| !email.is_empty()).map(str::to_owned);
                let customer = self.new_customer(session.customer_email.clone().or(email));
                if let Some(created) = self.customers.get(&customer) {
                    self.emit("customer.created", self.customer_json(created));
                }
                self.sessions.assign(id, &customer);
                customer
            }
        };
        let method = self.attach_card(&customer, false);
        let mut subscription = None;
        let mut payment = match completion {
            Completion::Paid => Payment::Paid,
            Completion::Unpaid | Completion::Declined => Payment::Unpaid,
        };
        let mut payment_intent = None;
        if let (true, Some(interval)) = (session.is_subscription, session.interval) {
            let items = session.items.iter().map(|item| NewItem {
                price: item.price.clone(),
                quantity: item.quantity,
                metadata: Metadata::new(),
            });
            let started = self.start_subscription(NewSubscription {
                customer: customer.clone(),
                items: items.collect(),
                interval,
                currency: session.currency.clone(),
                // An anchor may have passed while the page was open.
                anchor: session.new.anchor.filter(|anchor| *anchor > self.now),
                is_prorated: !session.new.is_free_until_anchor,
                is_sent: false,
                days_until_due: None,
                method: Some(method),
                description: session.new.description.clone(),
                metadata: session.new.metadata.clone(),
                cancels_at_period_end: false,
                cancel_at: None,
                pending_interval: session.new.pending_interval,
                payment: match payment {
                    Payment::Unpaid => FirstPayment::Processing,
                    _ => FirstPayment::Now,
                },
            });
            subscription = Some(started);
        } else {
            payment_intent = Some(self.ids.next("pi_3", 23));
            if let Some(customer) = self.customers.get_mut(&customer) {
                customer
                    .currency
                    .get_or_insert_with(|| session.currency.clone());
            }
        }
        let invoice = subscription
            .as_deref()
            .and_then(|id| self.subscriptions.get(id));
        let invoice = invoice.and_then(|subscription| subscription.latest_invoice.clone());
        if invoice
            .as_deref()
            .and_then(|id| self.invoices.get(id))
            .is_some_and(|invoice| invoice.amount_due == 0)
        {
            payment = Payment::NotRequired;
        }
        if let Some(session) = self.sessions.get_mut(id) {
            session.status = Status::Complete;
            session.payment = payment;
            session.customer = Some(customer);
            session.subscription = subscription;
            session.invoice = invoice;
            session.payment_intent = payment_intent;
        }
        self.emit_session("checkout.session.completed", id);
        Ok(())
    }

    /// Decides the payment of a session that was completed unpaid.
    ///
    /// # Errors
    /// When the session is not complete and unpaid.
    pub(crate) fn settle_session(&mut self, id: &str, is_paid: bool) -> Result<(), ApiError> {
        let session = self.sessions.find_mut(id, "id")?;
        if (session.status, session.payment) != (Status::Complete, Payment::Unpaid) {
            return Err(ApiError::invalid(
                "This checkout session has no payment in progress.",
            ));
        }
        let invoice = session.invoice.clone();
        if is_paid {
            session.payment = Payment::Paid;
        }
        if let Some(invoice) = invoice {
            if is_paid {
                self.mark_paid(&invoice);
            } else {
                if let Some(invoice) = self.invoices.get_mut(&invoice) {
                    invoice.attempts += 1;
                }
                self.fail_payment(&invoice);
            }
        }
        let kind = match is_paid {
            true => "checkout.session.async_payment_succeeded",
            false => "checkout.session.async_payment_failed",
        };
        self.emit_session(kind, id);
        Ok(())
    }

    pub(crate) fn expire_session_when_due(&mut self, id: &str) {
        let is_due =
            |session: &Session| session.status == Status::Open && session.expires_at <= self.now;
        if self.sessions.get(id).is_some_and(is_due) {
            self.expire_session(id);
        }
    }

    fn expire_session(&mut self, id: &str) {
        if let Some(session) = self.sessions.get_mut(id) {
            session.status = Status::Expired;
        }
        self.emit_session("checkout.session.expired", id);
    }

    fn emit_session(&mut self, kind: &'static str, id: &str) {
        if let Some(session) = self.sessions.get(id) {
            self.emit(kind, self.session_json(session));
        }
    }
}
