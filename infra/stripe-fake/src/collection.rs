//! Finalization, payment and voiding of invoices.

use crate::invoice::{Collection, Status};
use crate::money::minimum_charge;
use crate::options::AfterLastAttempt;
use crate::state::{State, Task};
use crate::subscription::Status as SubscriptionStatus;

/// Days from a failed attempt to the next one, by the number of attempts so far.
const RETRIES: [i64; 3] = [3, 5, 7];

impl State {
    /// Finalizes a draft: it gets a number, the customer's balance is applied, and it is open. It is paid at
    /// once if nothing is due, or less than Stripe's minimum, which goes to the balance.
    pub(crate) fn finalize_invoice(&mut self, id: &str) {
        let now = self.now;
        let Some(invoice) = self.invoices.get_mut(id) else {
            return;
        };
        let Some(customer) = self.customers.get_mut(&invoice.customer) else {
            return;
        };
        let starting_balance = customer.balance;
        let sum = invoice.total() + starting_balance;
        let is_charged = sum >= minimum_charge(&invoice.currency);
        let (amount_due, ending_balance) = if is_charged { (sum, 0) } else { (0, sum) };
        customer.balance = ending_balance;
        customer
            .currency
            .get_or_insert_with(|| invoice.currency.clone());
        invoice.number = Some(customer.next_invoice_number());
        invoice.status = Status::Open;
        invoice.finalized_at = Some(now);
        invoice.finalizes_at = None;
        invoice.starting_balance = starting_balance;
        invoice.ending_balance = Some(ending_balance);
        invoice.amount_due = amount_due;
        if let Collection::Send { due } = invoice.collection {
            self.schedule(due, Task::Overdue(id.to_owned()));
        }
        self.emit_invoice("invoice.finalized", id);
        if amount_due == 0 {
            self.mark_paid(id);
        }
    }

    /// Finalizes an automatic draft whose hour is over, and collects it.
    pub(crate) fn finalize_when_due(&mut self, id: &str) {
        let is_due = self.invoices.get(id).is_some_and(|invoice| {
            invoice.status == Status::Draft
                && invoice.is_automatic
                && invoice.finalizes_at == Some(self.now)
        });
        if is_due {
            self.finalize_invoice(id);
            self.collect_if_open(id);
        }
    }

    /// Attempts to collect an open invoice that is charged automatically.
    pub(crate) fn collect_if_open(&mut self, id: &str) {
        let is_open = self.invoices.get(id).is_some_and(|invoice| {
            invoice.status == Status::Open && invoice.collection == Collection::Charge
        });
        if is_open {
            self.collect(id);
        }
    }

    /// Makes the attempt that was planned for now.
    pub(crate) fn collect_when_due(&mut self, id: &str) {
        let is_due = self.invoices.get(id).is_some_and(|invoice| {
            let is_due = invoice.next_attempt.is_some_and(|at| at <= self.now);
            invoice.status == Status::Open && invoice.is_automatic && is_due
        });
        if is_due {
            self.collect(id);
        }
    }

    /// Marks the subscription of an invoice past due that was sent and is not paid in time.
    pub(crate) fn pass_due_date(&mut self, id: &str) {
        let Some(invoice) = self.invoices.get(id) else {
            return;
        };
        let subscription = invoice.subscription.clone();
        if let (Status::Open, Some(subscription)) = (invoice.status, subscription) {
            self.pass_due(&subscription);
        }
    }

    fn pass_due(&mut self, subscription: &str) {
        self.change_subscription(subscription, |subscription| {
            if subscription.status == SubscriptionStatus::Active {
                subscription.status = SubscriptionStatus::PastDue;
            }
        });
    }

    /// Attempts to collect an open invoice. Returns `false` if the payment is declined.
    pub(crate) fn collect(&mut self, id: &str) -> bool {
        let Some(invoice) = self.invoices.get_mut(id) else {
            return false;
        };
        invoice.attempts += 1;
        let subscription = invoice
            .subscription
            .as_deref()
            .and_then(|id| self.subscriptions.get(id));
        let method = invoice.method.as_deref();
        let method =
            method.or(subscription.and_then(|subscription| subscription.method.as_deref()));
        let customer = self.customers.get(&invoice.customer);
        if customer.is_some_and(|customer| customer.can_pay(method)) {
            self.mark_paid(id);
            true
        } else {
            self.fail_payment(id);
            false
        }
    }

    /// Records a failed payment, and plans the next attempt.
    pub(crate) fn fail_payment(&mut self, id: &str) {
        let now = self.now;
        let Some(invoice) = self.invoices.get_mut(id) else {
            return;
        };
        let attempts = invoice.attempts as usize;
        let is_first = invoice.reason == "subscription_create" && attempts <= 1;
        // The first invoice of a subscription is not tried again.
        let days = match invoice.is_automatic && !is_first {
            true => attempts
                .checked_sub(1)
                .and_then(|failed| RETRIES.get(failed)),
            false => None,
        };
        invoice.next_attempt = days.map(|days| now + days * 86_400);
        let (next, subscription) = (invoice.next_attempt, invoice.subscription.clone());
        let is_last = invoice.is_automatic && attempts > RETRIES.len();
        if let Some(customer) = self.customers.get_mut(&invoice.customer) {
            customer.is_delinquent = true;
        }
        self.emit_invoice("invoice.payment_failed", id);
        if let Some(next) = next {
            self.schedule(next, Task::Collect(id.to_owned()));
        }
        let Some(subscription) = subscription else {
            return;
        };
        self.pass_due(&subscription);
        let is_past_due = self
            .subscriptions
            .get(&subscription)
            .is_some_and(|subscription| subscription.status == SubscriptionStatus::PastDue);
        if is_last && is_past_due {
            match self.settings.after_last_attempt {
                AfterLastAttempt::Cancel => self.end_subscription(&subscription, None),
                AfterLastAttempt::Unpaid => {
                    self.change_subscription(&subscription, |subscription| {
                        subscription.status = SubscriptionStatus::Unpaid;
                    });
                }
                AfterLastAttempt::PastDue => {}
            }
        }
    }

    /// Records the payment of an open invoice. Its subscription is active again if it is the latest invoice.
    pub(crate) fn mark_paid(&mut self, id: &str) {
        let now = self.now;
        let Some(invoice) = self.invoices.get_mut(id) else {
            return;
        };
        invoice.status = Status::Paid;
        invoice.amount_paid = invoice.amount_due;
        invoice.paid_at = Some(now);
        invoice.next_attempt = None;
        let subscription = invoice.subscription.clone();
        let customer = invoice.customer.clone();
        let is_open = |state: &Self| {
            let invoices = state.invoices.of_customer(&customer);
            { invoices }.any(|invoice| invoice.status == Status::Open && invoice.attempts > 0)
        };
        let is_delinquent = is_open(self);
        if let Some(customer) = self.customers.get_mut(&customer) {
            customer.is_delinquent = is_delinquent;
        }
        self.emit_invoice("invoice.paid", id);
        self.emit_invoice("invoice.payment_succeeded", id);
        let Some(subscription) = subscription else {
            return;
        };
        self.change_subscription(&subscription, |subscription| {
            use SubscriptionStatus::{Active, Incomplete, PastDue, Unpaid};
            let is_latest = subscription.latest_invoice.as_deref() == Some(id);
            // One that is being created gets its status there, before its first event.
            if is_latest && matches!(subscription.status, Incomplete | PastDue | Unpaid) {
                subscription.status = Active;
            }
        });
    }

    pub(crate) fn void_invoice(&mut self, id: &str) {
        let now = self.now;
        let Some(invoice) = self.invoices.get_mut(id) else {
            return;
        };
        invoice.status = Status::Void;
        invoice.voided_at = Some(now);
        invoice.next_attempt = None;
        invoice.is_automatic = false;
        // What was applied of the balance is owed, or owing, again.
        let applied = invoice.starting_balance - invoice.ending_balance.unwrap_or(0);
        if let Some(customer) = self.customers.get_mut(&invoice.customer) {
            customer.balance += applied;
        }
        self.emit_invoice("invoice.voided", id);
    }

    /// Stops the automatic collection of an invoice.
    pub(crate) fn stop_invoice(&mut self, id: &str) {
        if let Some(invoice) = self.invoices.get_mut(id) {
            invoice.is_automatic = false;
            invoice.finalizes_at = None;
            invoice.next_attempt = None;
        }
    }
}
