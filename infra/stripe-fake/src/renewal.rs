//! Subscriptions in time: their beginning, renewals, changes within a period and end.

use crate::calendar::{Interval, day};
use crate::invoice::{
    Collection, Line, LineSource, MAX_LINES, NewInvoice, Status as InvoiceStatus,
};
use crate::invoice_item::{Drawn, Proration};
use crate::money::share;
use crate::state::{Metadata, State, Task};
use crate::subscription::{Status, Subscription, SubscriptionItem};

/// Seconds for which an automatic invoice stays a draft.
pub(crate) const DRAFT: i64 = 3_600;
/// Seconds in which the first invoice of a subscription can be paid.
const INCOMPLETE: i64 = 23 * 3_600;

/// Subscription to start.
pub(crate) struct NewSubscription {
    pub(crate) customer: String,
    pub(crate) items: Vec<NewItem>,
    pub(crate) interval: Interval,
    pub(crate) currency: String,
    /// End of the first period, if it is not a whole one.
    pub(crate) anchor: Option<i64>,
    /// Whether a first period that is not a whole one costs its share; it is free otherwise.
    pub(crate) is_prorated: bool,
    pub(crate) is_sent: bool,
    pub(crate) days_until_due: Option<i64>,
    pub(crate) method: Option<String>,
    pub(crate) description: Option<String>,
    pub(crate) metadata: Metadata,
    pub(crate) cancels_at_period_end: bool,
    pub(crate) cancel_at: Option<i64>,
    pub(crate) pending_interval: Option<Interval>,
    pub(crate) payment: FirstPayment,
}

/// Item of a subscription to start.
pub(crate) struct NewItem {
    pub(crate) price: String,
    pub(crate) quantity: i64,
    pub(crate) metadata: Metadata,
}

/// Payment of the first invoice.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum FirstPayment {
    /// It is attempted at once.
    Now,
    /// The customer has 23 hours for it.
    Later,
    /// It is under way, as with a bank debit: the subscription is active meanwhile.
    Processing,
}

impl State {
    /// Starts a subscription with its first invoice, and returns its id.
    pub(crate) fn start_subscription(&mut self, new: NewSubscription) -> String {
        let now = self.now;
        let id = self.ids.next("sub_1", 23);
        let anchor = new.anchor.unwrap_or(now);
        let (whole, period) = match new.anchor {
            Some(anchor) if anchor > now => {
                ((new.interval.boundary(anchor, -1), anchor), (now, anchor))
            }
            _ => {
                let period = (now, new.interval.boundary(now, 1));
                (period, period)
            }
        };
        let items = new.items.into_iter().map(|item| SubscriptionItem {
            id: self.ids.next("si_", 14),
            created: now,
            price: item.price,
            quantity: item.quantity,
            metadata: item.metadata,
        });
        let items = items.collect();
        self.subscriptions.insert(Subscription {
            id: id.clone(),
            created: now,
            customer: new.customer.clone(),
            items,
            status: Status::Incomplete,
            currency: new.currency.clone(),
            interval: new.interval,
            anchor,
            period,
            cancel_at: new
                .cancel_at
                .or(new.cancels_at_period_end.then_some(period.1)),
            cancels_at_period_end: new.cancels_at_period_end,
            canceled_at: None,
            ended_at: None,
            comment: None,
            feedback: None,
            is_sent: new.is_sent,
            days_until_due: new.days_until_due,
            method: new.method,
            description: new.description,
            metadata: new.metadata,
            latest_invoice: None,
            pending_interval: new.pending_interval,
            next_pending: None,
            is_announced: false,
        });
        if let Some(customer) = self.customers.get_mut(&new.customer) {
            customer.currency.get_or_insert(new.currency);
        }
        let part = (period.1 - period.0, whole.1 - whole.0);
        let part = if part.0 == part.1 || new.is_prorated {
            part
        } else {
            (0, 1)
        };
        let invoice = self.subscription_invoice(&id, "subscription_create", Some(part), None);
        self.finalize_invoice(&invoice);
        let is_open = |state: &Self| {
            let invoice = state.invoices.get(&invoice);
            invoice.is_some_and(|invoice| invoice.status == InvoiceStatus::Open)
        };
        if is_open(self) && new.payment == FirstPayment::Now && !new.is_sent {
            self.collect(&invoice);
        }
        let is_active = !is_open(self) || new.is_sent || new.payment == FirstPayment::Processing;
        if let Some(subscription) = self.subscriptions.get_mut(&id) {
            subscription.is_announced = true;
            if is_active {
                subscription.status = Status::Active;
            } else {
                self.schedule(now + INCOMPLETE, Task::ExpireIncomplete(id.clone()));
            }
        }
        self.schedule_subscription(&id);
        self.emit(
            "customer.subscription.created",
            self.rendered_subscription(&id),
        );
        id
    }

    /// Schedules what is next for a subscription.
    pub(crate) fn schedule_subscription(&mut self, id: &str) {
        let now = self.now;
        let Some(subscription) = self.subscriptions.get_mut(id) else {
            return;
        };
        let next_pending = subscription.pending_interval.map(|interval| {
            subscription
                .next_pending
                .unwrap_or_else(|| interval.boundary(now, 1))
        });
        subscription.next_pending = next_pending;
        let (period_end, cancel_at) = (subscription.period.1, subscription.cancel_at);
        self.schedule(period_end, Task::Renew(id.to_owned()));
        if let Some(cancel_at) = cancel_at {
            self.schedule(cancel_at, Task::Cancel(id.to_owned()));
        }
        if let Some(next_pending) = next_pending {
            self.schedule(next_pending, Task::InvoicePending(id.to_owned()));
        }
    }

    /// Begins the next period of a subscription whose period has ended, with a draft invoice.
    pub(crate) fn renew(&mut self, id: &str) {
        let now = self.now;
        let Some(subscription) = self.subscriptions.get(id) else {
            return;
        };
        // Not an earlier plan for another period.
        if subscription.status.is_ended() || subscription.period.1 != now {
            return;
        }
        if subscription.cancel_at.is_some_and(|at| at <= now) {
            return self.end_subscription(id, None);
        }
        if subscription.status == Status::Incomplete {
            return;
        }
        let (status, last) = (subscription.status, subscription.period);
        let (_, end) = subscription.interval.around(subscription.anchor, now);
        let before = self.subscription_json(subscription);
        if let Some(subscription) = self.subscriptions.get_mut(id) {
            subscription.period = (now, end);
        }
        self.schedule(end, Task::Renew(id.to_owned()));
        let invoice = self.subscription_invoice(id, "subscription_cycle", Some((1, 1)), Some(last));
        let after = self.rendered_subscription(id);
        self.emit_change("customer.subscription.updated", &before, after);
        // The invoices of an unpaid subscription stay drafts.
        if status == Status::Unpaid {
            self.stop_invoice(&invoice);
        } else {
            self.schedule(now + DRAFT, Task::Finalize(invoice));
        }
    }

    /// Invoices the pending items of a subscription at its own interval, if there are some.
    pub(crate) fn invoice_pending(&mut self, id: &str) {
        let now = self.now;
        let Some(subscription) = self.subscriptions.get(id) else {
            return;
        };
        if subscription.status.is_ended() || subscription.next_pending != Some(now) {
            return;
        }
        let (customer, currency) = (&subscription.customer, &subscription.currency);
        let has_items = !self
            .pending_items(customer, Drawn::ByRenewal(id), currency)
            .is_empty();
        let before = self.subscription_json(subscription);
        let next = subscription
            .pending_interval
            .map(|interval| interval.boundary(now, 1));
        if let Some(subscription) = self.subscriptions.get_mut(id) {
            subscription.next_pending = next;
        }
        if let Some(next) = next {
            self.schedule(next, Task::InvoicePending(id.to_owned()));
        }
        if has_items {
            let reason = "automatic_pending_invoice_item_invoice";
            let invoice = self.subscription_invoice(id, reason, None, None);
            self.schedule(now + DRAFT, Task::Finalize(invoice));
        }
        let after = self.rendered_subscription(id);
        self.emit_change("customer.subscription.updated", &before, after);
    }

    /// Creates a draft invoice of a subscription with its pending items, and, given a `part` of the period,
    /// with its prices. Returns its id.
    fn subscription_invoice(
        &mut self,
        id: &str,
        reason: &'static str,
        part: Option<(i64, i64)>,
        usage_period: Option<(i64, i64)>,
    ) -> String {
        let now = self.now;
        let Some(subscription) = self.subscriptions.get(id).cloned() else {
            return String::new();
        };
        let collection = match subscription.is_sent {
            true => Collection::Send {
                due: now + subscription.days_until_due.unwrap_or(30) * 86_400,
            },
            false => Collection::Charge,
        };
        let invoice = self.new_invoice(NewInvoice {
            customer: subscription.customer.clone(),
            subscription: Some(id.to_owned()),
            reason,
            collection,
            currency: subscription.currency.clone(),
            period: usage_period.unwrap_or((now, now)),
            is_automatic: true,
        });
        if let Some(part) = part {
            let lines = subscription
                .items
                .iter()
                .map(|item| self.price_line(&subscription, item, part));
            let lines: Vec<Line> = lines.collect();
            self.add_lines(&invoice, lines);
        }
        let mut pending = self.pending_items(
            &subscription.customer,
            Drawn::ByRenewal(id),
            &subscription.currency,
        );
        let lines = self
            .invoices
            .get(&invoice)
            .map_or(0, |invoice| invoice.lines.len());
        pending.truncate(MAX_LINES.saturating_sub(lines));
        self.add_items(&invoice, &pending);
        if let Some(subscription) = self.subscriptions.get_mut(id) {
            subscription.latest_invoice = Some(invoice.clone());
        }
        self.emit_invoice("invoice.created", &invoice);
        invoice
    }

    fn price_line(
        &mut self,
        subscription: &Subscription,
        item: &SubscriptionItem,
        part: (i64, i64),
    ) -> Line {
        let amount = self.item_amount(item);
        let unit_amount = self.prices.get(&item.price).map(|price| price.unit_amount);
        Line {
            id: self.ids.next("il_1", 23),
            amount: share(amount, part.0, part.1),
            description: Some(format!(
                "{} × {}",
                item.quantity,
                self.product_name(&item.price)
            )),
            period: subscription.period,
            metadata: subscription.metadata.clone(),
            quantity: item.quantity,
            price: Some(item.price.clone()),
            unit_amount: unit_amount.unwrap_or_else(|| amount.into()),
            subscription: Some(subscription.id.clone()),
            source: LineSource::SubscriptionItem(item.id.clone()),
            is_proration: false,
        }
    }

    fn item_amount(&self, item: &SubscriptionItem) -> i64 {
        let price = self.prices.get(&item.price);
        price.map_or(0, |price| price.unit_amount.times(item.quantity))
    }

    /// Changes the items of a subscription. Within a period, the rest of it is credited and charged by
    /// pending items; a reset begins a new period with an invoice.
    pub(crate) fn change_items(
        &mut self,
        id: &str,
        items: Vec<SubscriptionItem>,
        interval: Interval,
        is_reset: bool,
        behavior: &str,
    ) {
        let now = self.now;
        let Some(before) = self.subscriptions.get(id).cloned() else {
            return;
        };
        let prices = |items: &[SubscriptionItem]| -> Vec<(String, i64)> {
            items
                .iter()
                .map(|item| (item.price.clone(), item.quantity))
                .collect()
        };
        let is_changed = prices(&before.items) != prices(&items);
        let is_billed = before.status != Status::Incomplete && !before.status.is_ended();
        if is_billed && behavior != "none" && (is_changed || is_reset) {
            for item in before
                .items
                .iter()
                .filter(|item| is_reset || !items.contains(item))
            {
                self.prorate(&before, item, -1);
            }
            for item in items
                .iter()
                .filter(|item| !is_reset && !before.items.contains(item))
            {
                self.prorate(&before, item, 1);
            }
        }
        if let Some(subscription) = self.subscriptions.get_mut(id) {
            subscription.items = items;
            if is_reset {
                subscription.interval = interval;
                subscription.anchor = now;
                subscription.period = (now, interval.boundary(now, 1));
            }
        }
        if is_reset {
            self.schedule_subscription(id);
        }
        let is_invoiced = is_reset || (is_changed && behavior == "always_invoice");
        if is_billed && is_invoiced {
            let part = is_reset.then_some((1, 1));
            let invoice = self.subscription_invoice(id, "subscription_update", part, None);
            self.finalize_invoice(&invoice);
            self.collect_if_open(&invoice);
        }
    }

    /// Credits the unused part of the period of all items of a subscription.
    pub(crate) fn credit_unused(&mut self, id: &str) {
        if let Some(subscription) = self.subscriptions.get(id).cloned() {
            for item in &subscription.items {
                self.prorate(&subscription, item, -1);
            }
        }
    }

    fn prorate(&mut self, subscription: &Subscription, item: &SubscriptionItem, sign: i64) {
        let (start, end) = subscription.period;
        let rest = (end - self.now, end - start);
        let name = self.product_name(&item.price);
        let kind = if sign < 0 { "Unused" } else { "Remaining" };
        let description = format!("{kind} time on {name} after {}", day(self.now));
        let proration = Proration {
            subscription: subscription.id.clone(),
            subscription_item: item.id.clone(),
            price: item.price.clone(),
            amount: sign * share(self.item_amount(item), rest.0, rest.1),
            quantity: item.quantity,
            period: (self.now, end),
            description,
        };
        self.add_proration(&subscription.customer, &subscription.currency, proration);
    }

    /// Ends a subscription. Its pending items stay pending, unless it has a final invoice. Its invoices are
    /// no longer collected automatically.
    pub(crate) fn end_subscription(&mut self, id: &str, invoice: Option<&'static str>) {
        let now = self.now;
        let Some(subscription) = self.subscriptions.get(id) else {
            return;
        };
        let (customer, currency) = (&subscription.customer, &subscription.currency);
        let has_items = !self
            .pending_items(customer, Drawn::ByRenewal(id), currency)
            .is_empty();
        let invoice = invoice.filter(|_| has_items);
        if let Some(reason) = invoice {
            let invoice = self.subscription_invoice(id, reason, None, None);
            self.schedule(now + DRAFT, Task::Finalize(invoice));
        }
        let Some(subscription) = self.subscriptions.get_mut(id) else {
            return;
        };
        subscription.status = Status::Canceled;
        subscription.canceled_at.get_or_insert(now);
        subscription.ended_at = Some(now);
        let customer = subscription.customer.clone();
        let latest = subscription
            .latest_invoice
            .clone()
            .filter(|_| invoice.is_some());
        let of_customer = self.invoices.of_customer(&customer);
        let unpaid = of_customer.filter(|invoice| {
            let is_unpaid = matches!(invoice.status, InvoiceStatus::Draft | InvoiceStatus::Open);
            is_unpaid
                && invoice.subscription.as_deref() == Some(id)
                && Some(&invoice.id) != latest.as_ref()
        });
        let unpaid: Vec<String> = unpaid.map(|invoice| invoice.id.clone()).collect();
        for invoice in unpaid {
            self.stop_invoice(&invoice);
        }
        self.emit(
            "customer.subscription.deleted",
            self.rendered_subscription(id),
        );
    }

    /// Ends a subscription whose `cancel_at` has come.
    pub(crate) fn cancel_when_due(&mut self, id: &str) {
        let subscription = self.subscriptions.get(id);
        let is_due = subscription.is_some_and(|subscription| {
            !subscription.status.is_ended()
                && subscription.cancel_at.is_some_and(|at| at <= self.now)
        });
        if is_due {
            self.end_subscription(id, None);
        }
    }

    /// Expires a subscription whose first invoice was not paid in 23 hours, and voids that.
    pub(crate) fn expire_incomplete(&mut self, id: &str) {
        let now = self.now;
        let Some(subscription) = self.subscriptions.get(id) else {
            return;
        };
        if subscription.status != Status::Incomplete {
            return;
        }
        if let Some(invoice) = subscription.latest_invoice.clone() {
            self.void_invoice(&invoice);
        }
        self.change_subscription(id, |subscription| {
            subscription.status = Status::IncompleteExpired;
            subscription.ended_at = Some(now);
        });
    }
}
