//! State of customers' subscriptions as Stripe has it, the events that were handled, and the follow-ups, which name a
//! customer and a time from which its state at Stripe is to be looked at again.

use aws_sdk_dynamodb::operation::delete_item::DeleteItemError;
use aws_sdk_dynamodb::operation::put_item::PutItemError;
use aws_sdk_dynamodb::types::{AttributeValue, ReturnValuesOnConditionCheckFailure};
use jiff::{SignedDuration, Timestamp};
use tollgate_domain::customer::Customer;
use tollgate_domain::event::Event;
use tollgate_domain::id::CustomerId;
use tollgate_domain::page::Page;

use crate::Store;
use crate::customers::{
    PLAN_WAIVER, RELINKED_AT, STRIPE_CUSTOMER, STRIPE_SUBSCRIPTION, SUBSCRIPTION_PLAN,
    SUSPENDED_AT, SUSPENSION_WAIVER, UNPAID_BY, UNPAID_CONSEQUENCE, UNPAID_SINCE, consequence_text,
    customer_pk, read_customer,
};
use crate::error::StoreError;
use crate::item::{self, Item, Reader, n, s, t, ttl};
use crate::registry::Changes;
use crate::schema::{REGISTRY, attr};
use crate::transaction::{Action, Transacted};

/// Partition of follow-ups in the index of lists.
pub(crate) const FOLLOW_UPS: &str = "follow-ups";
/// Follow-ups of one page.
const FOLLOW_UP_PAGE: usize = 100;
/// Attribute with the number of times that the customer's subscription was followed.
const READS: &str = "subscription_reads";
const PLAN: &str = "plan";
const ERASED_AT: &str = "erased_at";
const KIND: &str = "follow-up";

/// Time for which the id of a handled event is kept. Stripe delivers an event again for three days by itself, and
/// for as long as it keeps events, which is 30 days, on request.
const HANDLED_KEPT: SignedDuration = SignedDuration::from_hours(31 * 24);

/// A customer as it was before its subscription was read from Stripe.
#[derive(Debug, Clone)]
pub struct CustomerToFollow {
    /// The customer.
    pub customer: Customer,
    /// Number of times that its subscription was followed.
    reads: u64,
    /// Marks of an admin's decisions.
    waivers: [Option<String>; 2],
    /// When its link changed, if its subscription was not followed since.
    relinked_at: Option<String>,
    /// Stripe customer who owes the outstanding payment.
    unpaid_by: Option<String>,
}

const WAIVERS: [&str; 2] = [PLAN_WAIVER, SUSPENSION_WAIVER];

impl CustomerToFollow {
    /// Whether the outstanding payment is of another Stripe customer than the linked one.
    #[must_use]
    pub fn owes_elsewhere(&self) -> bool {
        let linked = self.customer.recipient.as_ref();
        let owing = self.unpaid_by.as_ref();
        owing
            .zip(linked)
            .is_some_and(|(owing, linked)| *owing != linked.customer)
    }
}

/// Outcome of giving a customer the state of its subscription.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FollowOutcome {
    /// The customer has the state.
    Followed,
    /// The customer has changed since it was read, or was followed by someone else: both it and the subscription
    /// are to be read again.
    Raced,
    /// The customer does not exist.
    Gone,
}

/// A time from which a customer's state at Stripe is to be looked at again.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FollowUp {
    /// Customer.
    pub customer: CustomerId,
    /// Stripe customer whose pending items are to be invoiced; `None` to follow the customer's subscription.
    pub stripe_customer: Option<String>,
    /// That time.
    pub due: Timestamp,
    /// Id of the write that scheduled it last.
    written_by: String,
}

/// Returns the key of the follow-up of a customer: for an outstanding payment, or for a link that has changed.
fn follow_up_key(customer: &CustomerId) -> Item {
    item::key(format!("FOLLOWUP#CUSTOMER#{customer}"))
}

/// Returns the put of the follow-up of a customer.
pub(crate) fn put_follow_up(customer: &CustomerId, due: Timestamp, write_id: &str) -> Action {
    let item = follow_up_item(follow_up_key(customer), customer, due, write_id);
    Action::put(REGISTRY, item)
}

/// Returns the put of the schedule of an invoice that is due now, whatever is scheduled already: nothing is due before.
pub(crate) fn put_invoice_schedule(
    customer: &CustomerId,
    stripe_customer: &str,
    now: Timestamp,
    write_id: &str,
) -> Action {
    let item = invoice_item(customer, stripe_customer, now, write_id);
    Action::put(REGISTRY, item)
}

/// Returns the partition key of the schedule of an invoice. It is that of the Stripe customer who has the items: the
/// customer may be linked to another one by then.
fn invoice_pk(stripe_customer: &str) -> String {
    format!("FOLLOWUP#INVOICE#{stripe_customer}")
}

fn event_pk(event: &str) -> String {
    format!("STRIPE#EVENT#{event}")
}

/// Returns the listing order of a follow-up: by time, and then by customer.
fn order(customer: &CustomerId, due: Timestamp) -> String {
    format!("{due:.3}#{customer}")
}

fn read_follow_up(item: &Item) -> Result<FollowUp, StoreError> {
    let item = Reader::new(KIND, item);
    let (due, _) = item
        .text(attr::LISTING_ORDER)?
        .split_once('#')
        .ok_or_else(|| item.corrupt(attr::LISTING_ORDER))?;
    Ok(FollowUp {
        customer: item.parsed(attr::CUSTOMER)?,
        stripe_customer: item.opt_text(STRIPE_CUSTOMER)?.map(str::to_owned),
        due: due.parse().map_err(|_| item.corrupt(attr::LISTING_ORDER))?,
        written_by: item.text(attr::WRITTEN_BY)?.to_owned(),
    })
}

/// Returns the attributes of a customer that its subscription decides.
fn state(customer: &Customer) -> [(&'static str, Option<AttributeValue>); 6] {
    let plan = customer.subscription_plan.as_ref();
    let unpaid = customer.unpaid;
    let consequence = unpaid.and_then(|unpaid| unpaid.consequence);
    [
        (PLAN, Some(s(customer.plan.as_str()))),
        (STRIPE_SUBSCRIPTION, customer.subscription().map(s)),
        (SUBSCRIPTION_PLAN, plan.map(|plan| s(plan.as_str()))),
        (SUSPENDED_AT, customer.suspended_at.map(t)),
        (UNPAID_SINCE, unpaid.map(|unpaid| t(unpaid.since))),
        (
            UNPAID_CONSEQUENCE,
            consequence.map(|it| s(consequence_text(it))),
        ),
    ]
}

impl Store {
    /// Reads a customer before its subscription is read from Stripe.
    ///
    /// # Errors
    /// When the store fails.
    pub async fn customer_to_follow(
        &self,
        id: &CustomerId,
    ) -> Result<Option<CustomerToFollow>, StoreError> {
        let item = self.registry_item(customer_pk(id), "reading a customer");
        let Some(item) = item.await? else {
            return Ok(None);
        };
        let reader = Reader::new("customer", &item);
        Ok(Some(CustomerToFollow {
            customer: read_customer(&item)?,
            reads: reader.opt_number(READS)?.unwrap_or_default(),
            waivers: [
                reader.opt_text(PLAN_WAIVER)?.map(str::to_owned),
                reader.opt_text(SUSPENSION_WAIVER)?.map(str::to_owned),
            ],
            relinked_at: reader.opt_text(RELINKED_AT)?.map(str::to_owned),
            unpaid_by: reader.opt_text(UNPAID_BY)?.map(str::to_owned),
        }))
    }

    /// Gives a customer the state of its subscription: plan, subscription, outstanding payment and suspension as
    /// `after` has them. `due` is the time at which an outstanding payment is to be followed up.
    ///
    /// It is a write even if nothing changes. Stripe was read after `before` was, and no one else has followed
    /// the subscription since, so that of two who read Stripe at different times, the later one decides. The same
    /// transaction puts the events of the change.
    ///
    /// # Errors
    /// When the store fails; the customer may then have the state.
    pub async fn follow(
        &self,
        before: &CustomerToFollow,
        after: &Customer,
        due: Option<Timestamp>,
    ) -> Result<FollowOutcome, StoreError> {
        let id = &before.customer.id;
        let write_id = self.transaction_token();
        let mut changes = Changes::default();
        for ((attribute, before), (_, after)) in
            state(&before.customer).into_iter().zip(state(after))
        {
            if before != after {
                changes.apply(attribute, after);
            }
        }
        if before.customer.unpaid != after.unpaid {
            // They were set before this consequence, or with one that is over.
            WAIVERS.iter().for_each(|waiver| changes.remove(waiver));
        }
        if before.relinked_at.is_some() {
            changes.remove(RELINKED_AT);
        }
        let linked = after.recipient.as_ref().map(|it| it.customer.as_str());
        let unpaid_by = after.unpaid.and(linked);
        if before.unpaid_by.as_deref() != unpaid_by {
            changes.apply(UNPAID_BY, unpaid_by.map(s));
        }
        changes.apply(READS, Some(n(before.reads + 1)));
        changes.apply(attr::FOLLOWED_BY, Some(s(&write_id)));
        let recipient = before.customer.recipient.as_ref();
        let stripe_customer = recipient.map(|it| s(&it.customer));
        let subscription = before.customer.subscription().map(s);
        let as_read = [
            // Nobody else has followed the subscription since the customer was read.
            (READS, (before.reads > 0).then(|| n(before.reads))),
            // The customer has the link by which its subscription was found, and has had no other in between.
            (RELINKED_AT, before.relinked_at.as_ref().map(s)),
            (STRIPE_CUSTOMER, stripe_customer),
            (STRIPE_SUBSCRIPTION, subscription),
            // No admin has set the plan or the suspension, which would be overwritten, or has left them as they are,
            // which waives a consequence.
            (PLAN, Some(s(before.customer.plan.as_str()))),
            (SUSPENDED_AT, before.customer.suspended_at.map(t)),
            (PLAN_WAIVER, before.waivers[0].as_ref().map(s)),
            (SUSPENSION_WAIVER, before.waivers[1].as_ref().map(s)),
            // Nobody has erased the customer: after that, only the link follows.
            (ERASED_AT, before.customer.erased_at.map(t)),
        ];
        // Exists: an update must not create an incomplete customer.
        let mut condition = "attribute_exists(pk)".to_owned();
        for (attribute, value) in as_read {
            changes.expect(attribute, value, &mut condition);
        }
        let mut actions = vec![changes.into_action(customer_pk(id), condition)];
        match due {
            Some(due) => actions.push(put_follow_up(id, due, &write_id)),
            None if before.customer.unpaid.is_some() || before.relinked_at.is_some() => {
                actions.push(Action::delete(REGISTRY, follow_up_key(id)));
            }
            None => {}
        }
        let now = self.clock.now();
        let events = Event::of_subscription(&before.customer, after, before.reads + 1, now);
        let outcome = self.transact_causing("following a subscription", actions, &events);
        let results = match outcome.await? {
            Transacted::Committed => return Ok(FollowOutcome::Followed),
            Transacted::Cancelled(results) => results,
        };
        let Some(stored) = results.first().and_then(|result| result.item()) else {
            return Ok(FollowOutcome::Gone);
        };
        if Reader::new("customer", stored).opt_text(attr::FOLLOWED_BY)? == Some(&write_id) {
            // By this very call, whose first response was lost for longer than the token is valid.
            return Ok(FollowOutcome::Followed);
        }
        Ok(FollowOutcome::Raced)
    }

    /// Schedules an invoice for items that no subscription invoices, at `due` or when it is scheduled before that.
    /// Idempotent.
    ///
    /// # Errors
    /// When the store fails; the invoice may then be scheduled.
    pub async fn schedule_invoice(
        &self,
        customer: &CustomerId,
        stripe_customer: &str,
        due: Timestamp,
    ) -> Result<(), StoreError> {
        // The write's id shows whoever makes the invoice at the same time that more is to be invoiced.
        let write_id = self.transaction_token();
        let mut item = invoice_item(customer, stripe_customer, due, &write_id);
        let order = order(customer, due);
        let mut stored: Option<String> = None;
        loop {
            let earliest = stored.as_ref().unwrap_or(&order).min(&order);
            item.insert(attr::LISTING_ORDER.into(), s(earliest));
            let put = self
                .client
                .put_item()
                .table_name(self.table(REGISTRY))
                .set_item(Some(item.clone()))
                .return_values_on_condition_check_failure(
                    ReturnValuesOnConditionCheckFailure::AllOld,
                );
            let put = match &stored {
                // Absent: a time that is scheduled already is known first.
                None => put.condition_expression("attribute_not_exists(pk)"),
                // As it was read: nobody has changed the time, and no invoice was made, since then.
                Some(stored) => put
                    .condition_expression("listing_order = :stored")
                    .expression_attribute_values(":stored", s(stored)),
            };
            let Err(error) = put.send().await else {
                return Ok(());
            };
            let Some(PutItemError::ConditionalCheckFailedException(failed)) =
                error.as_service_error()
            else {
                return Err(StoreError::service("scheduling an invoice", error));
            };
            stored = match failed.item().filter(|found| !found.is_empty()) {
                None => None,
                Some(found) => {
                    let found = Reader::new(KIND, found);
                    if found.is_written_by(&write_id)? {
                        // By this very call, whose first response was lost.
                        return Ok(());
                    }
                    Some(found.text(attr::LISTING_ORDER)?.to_owned())
                }
            };
        }
    }

    /// Reads when an invoice of a Stripe customer's items is scheduled, if one is.
    ///
    /// # Errors
    /// When the store fails.
    pub async fn scheduled_invoice(
        &self,
        stripe_customer: &str,
    ) -> Result<Option<FollowUp>, StoreError> {
        let item = self.registry_item(invoice_pk(stripe_customer), "reading a follow-up");
        item.await?.as_ref().map(read_follow_up).transpose()
    }

    /// Ends the schedule of an invoice that was made. One that was scheduled again since stays.
    ///
    /// # Errors
    /// When the store fails; the schedule may then have ended.
    pub async fn end_scheduled_invoice(&self, scheduled: &FollowUp) -> Result<(), StoreError> {
        let stripe_customer = scheduled.stripe_customer.as_deref().unwrap_or_default();
        let outcome = self
            .client
            .delete_item()
            .table_name(self.table(REGISTRY))
            .set_key(Some(item::key(invoice_pk(stripe_customer))))
            // The schedule is the one that was read: an item that came while the invoice was made is not on it.
            .condition_expression("written_by = :write")
            .expression_attribute_values(":write", s(&scheduled.written_by))
            .send()
            .await;
        let Err(error) = outcome else { return Ok(()) };
        match error.as_service_error() {
            // Also by this very call, whose first response was lost.
            Some(DeleteItemError::ConditionalCheckFailedException(_)) => Ok(()),
            _ => Err(StoreError::service("ending a follow-up", error)),
        }
    }

    /// Lists follow-ups by the time at which they are due, after the cursor `after`. Each is returned with the
    /// cursor of its position. Reads an index, which is eventually consistent.
    ///
    /// # Errors
    /// When the store fails.
    pub async fn follow_ups(
        &self,
        after: Option<&str>,
    ) -> Result<Page<(String, FollowUp)>, StoreError> {
        self.list(FOLLOW_UPS, None, after, FOLLOW_UP_PAGE, read_follow_up)
            .await
    }

    /// Whether an event of Stripe was handled.
    ///
    /// # Errors
    /// When the store fails.
    pub async fn is_handled(&self, event: &str) -> Result<bool, StoreError> {
        let found = self.registry_item(event_pk(event), "reading a handled event");
        Ok(found.await?.is_some())
    }

    /// Records that an event of Stripe was handled. Idempotent.
    ///
    /// # Errors
    /// When the store fails.
    pub async fn mark_handled(&self, event: &str) -> Result<(), StoreError> {
        let expires = self.clock.now().saturating_add(HANDLED_KEPT);
        let mut item = item::key(event_pk(event));
        item.insert(attr::EXPIRES.into(), ttl(expires.unwrap_or(Timestamp::MAX)));
        self.client
            .put_item()
            .table_name(self.table(REGISTRY))
            .set_item(Some(item))
            .send()
            .await
            .map_err(|error| StoreError::service("recording a handled event", error))?;
        Ok(())
    }
}

fn follow_up_item(mut item: Item, customer: &CustomerId, due: Timestamp, write_id: &str) -> Item {
    item.insert(attr::LISTING.into(), s(FOLLOW_UPS));
    item.insert(attr::LISTING_ORDER.into(), s(order(customer, due)));
    item.insert(attr::CUSTOMER.into(), s(customer.as_str()));
    item.insert(attr::WRITTEN_BY.into(), s(write_id));
    item
}

fn invoice_item(
    customer: &CustomerId,
    stripe_customer: &str,
    due: Timestamp,
    write_id: &str,
) -> Item {
    let key = item::key(invoice_pk(stripe_customer));
    let mut item = follow_up_item(key, customer, due, write_id);
    item.insert(STRIPE_CUSTOMER.into(), s(stripe_customer));
    item
}
