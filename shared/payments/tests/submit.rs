//! Submission of charges to a stand-in for Stripe, with its faults and the store's.

#![allow(
    clippy::unwrap_used,
    reason = "a test whose setup or inspection fails has failed"
)]

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use http::Request;
use jiff::SignedDuration;
use serde_json::json;
use stripe_fake::{Fault as StripeFault, FaultRule, StripeFake};
use tollgate_domain::billing::{Charge, ChargedOverage, PeriodLedger};
use tollgate_domain::money::{MicroUsd, SignedCents};
use tollgate_domain::submission::{ChargeRef, ChargeState, ChargeStatus, LedgerCharge, Recipient};
use tollgate_local_aws::Fault;
use tollgate_local_aws::fixture::Fixture;
use tollgate_payments::{Payments, SubmitOutcome};
use tollgate_runtime::Metrics;
use tollgate_store::schema::EVENTS;
use tollgate_store::{CustomerChange, RecipientChange, RecordChargeOutcome, UpdateCustomerOutcome};
use tollgate_stripe::{CustomerDetails, InvoiceItem, InvoiceItemFilter, StripeClient};
use tollgate_testing::customers::add_customer;
use tollgate_testing::p;
use tollgate_testing::stored::{items, text};
use tollgate_testing::stripe::Stripe;

const NOW: &str = "2026-11-23T02:00:00Z";

struct Stack {
    at: Fixture,
    fake: StripeFake,
    stripe: StripeClient,
    payments: Payments,
}

impl Stack {
    /// Creates a stack with the customer `acme` at Stripe, and with one charge.
    async fn new() -> Self {
        let stack = Self::without_recipient().await;
        stack.add_recipient("acme").await;
        stack
    }

    async fn without_recipient() -> Self {
        let at = Fixture::at(NOW);
        let Stripe {
            fake,
            client: stripe,
        } = Stripe::new(&at);
        let payments = Payments {
            stack: "prod".to_owned(),
            store: at.store.clone(),
            stripe: Some(stripe.clone()),
            clock: at.clock(),
            metrics: Metrics::none(),
        };
        add_customer(&at, "acme", "pro").await;
        let (new, none) = (charge("acme", 1), PeriodLedger::default());
        let recorded = at.store.record_charge(&new, &none).await;
        assert_eq!(recorded.unwrap(), RecordChargeOutcome::Written);
        Self {
            at,
            fake,
            stripe,
            payments,
        }
    }

    /// Creates a customer at Stripe as the recipient of this customer's charges.
    async fn add_recipient(&self, customer: &str) -> String {
        let key = format!("create-{customer}-{}", self.at.entropy.below(u64::MAX));
        let key = key.parse().unwrap();
        let details = CustomerDetails::default();
        let created = self.stripe.create_customer(&key, &details);
        let id = created.await.unwrap().id.as_str().to_owned();
        self.set_recipient(customer, &id, None).await;
        id
    }

    async fn set_recipient(&self, customer: &str, id: &str, subscription: Option<&str>) {
        let stored = self.at.store.customer(&p(customer)).await.unwrap();
        let change = CustomerChange {
            recipient: Some(RecipientChange {
                before: stored.unwrap().recipient,
                after: Some(Recipient {
                    customer: id.to_owned(),
                    subscription: subscription.map(str::to_owned),
                }),
            }),
            ..CustomerChange::default()
        };
        let updated = self.at.store.update_customer(&p(customer), &change).await;
        assert!(matches!(updated.unwrap(), UpdateCustomerOutcome::Done(_)));
    }

    async fn submit(&self) -> SubmitOutcome {
        self.payments.submit(&first()).await.unwrap()
    }

    async fn ledger(&self) -> LedgerCharge {
        self.at.store.charge(&first()).await.unwrap().unwrap()
    }

    /// Returns the kinds of the stored events.
    fn announced(&self) -> Vec<String> {
        let events = items(&self.at, EVENTS);
        let mut kinds: Vec<String> = events.iter().map(|event| text(event, "kind")).collect();
        kinds.sort();
        kinds
    }

    async fn status(&self) -> ChargeStatus {
        self.ledger().await.state.status()
    }

    /// Returns all invoice items of a customer at Stripe.
    async fn items_of(&self, customer: &str) -> Vec<InvoiceItem> {
        let customer = customer.parse().unwrap();
        let mut pages = self.stripe.invoice_items(&InvoiceItemFilter {
            customer: &customer,
            created_since: None,
            pending: None,
        });
        let mut all = Vec::new();
        while let Some(page) = pages.next_page().await.unwrap() {
            all.extend(page.items);
        }
        all
    }

    /// Returns all invoice items of `acme` at Stripe.
    async fn items(&self) -> Vec<InvoiceItem> {
        let customer = self.at.store.customer(&p("acme")).await.unwrap().unwrap();
        self.items_of(&customer.recipient.unwrap().customer).await
    }

    fn advance(&self, minutes: i64) {
        self.at.time.advance(SignedDuration::from_mins(minutes));
    }

    /// Injects a fault into the next requests that create an invoice item.
    fn fail_items(&self, times: u32, fault: StripeFault) {
        self.fake.add_fault(FaultRule {
            method: Some("POST".to_owned()),
            path: "/v1/invoiceitems".to_owned(),
            times,
            fault,
            should_retry: None,
        });
    }
}

/// Returns the name of the first charge of `acme`.
fn first() -> ChargeRef {
    charge("acme", 1).name()
}

fn charge(customer: &str, number: u64) -> Charge {
    let covered = ChargedOverage {
        calls: 234,
        micro_usd: MicroUsd(234_000),
    };
    let name = ChargeRef {
        customer: p(customer),
        month: p("2026-11"),
        number,
    };
    Charge {
        id: name.id(),
        customer: name.customer,
        month: name.month,
        number,
        cents: SignedCents(23),
        cumulative_overage: covered.micro_usd,
        overage_by_plan: BTreeMap::from([(p("pro"), covered)]),
        overage_calls: 234,
        from_call: 1,
        to_call: 234,
        adjusted_calls: 0,
        usage: String::new(),
        usage_digest: "d1".to_owned(),
        description: "234 calls beyond the 100,000 included, 1–23 November 2026".to_owned(),
        created_at: p(NOW),
    }
}

#[tokio::test]
async fn a_charge_becomes_an_invoice_item_once() {
    let stack = Stack::new().await;
    assert_eq!(stack.submit().await, SubmitOutcome::Settled);
    let items = stack.items().await;
    let [item] = &items[..] else {
        panic!("{items:#?}");
    };
    assert_eq!((item.amount, item.currency.as_str()), (23, "usd"));
    assert_eq!(item.charge(), Some("prod/ci_acme_2026-11_0001"));
    let description = "234 calls beyond the 100,000 included, 1–23 November 2026";
    assert_eq!(item.description.as_deref(), Some(description));
    let period = item.period.unwrap();
    assert_eq!(
        (period.start, period.end),
        (p("2026-11-01T00:00:00Z"), p(NOW))
    );
    let settled = ChargeState::Settled {
        item: item.id.as_str().to_owned(),
        at: p(NOW),
    };
    assert_eq!(stack.ledger().await.state, settled);
    stack.fake.take_log();
    assert_eq!(stack.submit().await, SubmitOutcome::Settled);
    assert_eq!(
        stack.fake.take_log().len(),
        0,
        "nothing is asked of Stripe again"
    );
}

/// All responses of the first attempt are lost, so that its outcome is unknown.
#[tokio::test(start_paused = true)]
async fn a_charge_with_an_unknown_outcome_is_found_however_late() {
    for hours in [1, 19, 21, 30, 24 * 40] {
        let stack = Stack::new().await;
        stack.fail_items(4, StripeFault::ResponseLost);
        assert_eq!(stack.submit().await, SubmitOutcome::Later);
        assert_eq!(stack.status().await, ChargeStatus::Submitted);
        assert_eq!(stack.submit().await, SubmitOutcome::NotDue);
        stack.advance(60 * hours);
        assert_eq!(stack.submit().await, SubmitOutcome::Settled, "{hours}");
        assert_eq!(stack.items().await.len(), 1, "{hours}");
        assert_eq!(stack.status().await, ChargeStatus::Settled, "{hours}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_charge_whose_requests_were_lost_is_sent_again() {
    for hours in [1, 30] {
        let stack = Stack::new().await;
        stack.fail_items(4, StripeFault::RequestLost);
        assert_eq!(stack.submit().await, SubmitOutcome::Later);
        assert_eq!(stack.items().await, []);
        stack.advance(60 * hours);
        assert_eq!(stack.submit().await, SubmitOutcome::Settled, "{hours}");
        assert_eq!(stack.items().await.len(), 1, "{hours}");
    }
}

/// Stripe executes the request of the first attempt ten minutes later, when the second has looked for it.
#[tokio::test(start_paused = true)]
async fn a_late_request_and_a_second_attempt_make_one_item() {
    let stack = Stack::new().await;
    stack.fail_items(1, StripeFault::Late { seconds: 600 });
    assert_eq!(stack.submit().await, SubmitOutcome::Later);
    stack.advance(6);
    assert_eq!(stack.submit().await, SubmitOutcome::Later);
    stack.advance(6);
    assert_eq!(stack.submit().await, SubmitOutcome::Settled);
    assert_eq!(stack.items().await.len(), 1);
}

/// The worker ends between the response of Stripe and the write of the ledger.
#[tokio::test(start_paused = true)]
async fn an_item_that_was_not_recorded_is_adopted() {
    let stack = Stack::new().await;
    stack
        .at
        .aws
        .inject(|call| match call.body.contains("stripe_item = :item") {
            true => Fault::RequestLost,
            false => Fault::None,
        });
    stack.payments.submit(&first()).await.unwrap_err();
    stack.at.aws.heal();
    assert_eq!(stack.status().await, ChargeStatus::Submitted);
    stack.advance(60 * 30);
    assert_eq!(stack.submit().await, SubmitOutcome::Settled);
    let items = stack.items().await;
    assert_eq!(items.len(), 1);
    let ChargeState::Settled { item, .. } = stack.ledger().await.state else {
        panic!("the charge is not settled");
    };
    assert_eq!(item, items[0].id.as_str());
}

/// Nothing is sent before the ledger says so.
#[tokio::test(start_paused = true)]
async fn without_a_recorded_attempt_nothing_is_sent() {
    let stack = Stack::new().await;
    stack.fake.take_log();
    stack
        .at
        .aws
        .inject(|call| match call.body.contains("attempts = :attempts") {
            true => Fault::RequestLost,
            false => Fault::None,
        });
    stack.payments.submit(&first()).await.unwrap_err();
    assert_eq!(stack.fake.take_log().len(), 0);
    stack.at.aws.heal();
    assert_eq!(stack.status().await, ChargeStatus::Pending);
}

#[tokio::test]
async fn of_concurrent_workers_one_submits() {
    let stack = Arc::new(Stack::new().await);
    let mut running = tokio::task::JoinSet::new();
    for _ in 0..10 {
        let stack = Arc::clone(&stack);
        running.spawn(async move { stack.submit().await });
    }
    let outcomes = running.join_all().await;
    let settled = outcomes
        .iter()
        .filter(|outcome| **outcome == SubmitOutcome::Settled);
    assert!(settled.count() >= 1, "{outcomes:?}");
    assert_eq!(stack.items().await.len(), 1);
}

#[tokio::test]
async fn another_charge_of_the_customer_is_not_adopted() {
    let stack = Stack::new().await;
    let before = PeriodLedger {
        charge_count: 1,
        cents: tollgate_domain::money::Cents(23),
        overage_calls: 234,
        overage_by_plan: charge("acme", 1).overage_by_plan,
    };
    let second = charge("acme", 2);
    let recorded = stack.at.store.record_charge(&second, &before).await;
    assert_eq!(recorded.unwrap(), RecordChargeOutcome::Written);
    assert_eq!(stack.submit().await, SubmitOutcome::Settled);
    stack.fail_items(4, StripeFault::RequestLost);
    tokio::time::pause();
    let submit = async || stack.payments.submit(&second.name()).await.unwrap();
    assert_eq!(submit().await, SubmitOutcome::Later);
    stack.advance(60);
    assert_eq!(submit().await, SubmitOutcome::Settled);
    let items = stack.items().await;
    let charges: Vec<_> = items.iter().filter_map(InvoiceItem::charge).collect();
    assert_eq!(
        charges,
        ["prod/ci_acme_2026-11_0002", "prod/ci_acme_2026-11_0001"]
    );
}

#[tokio::test]
async fn a_charge_without_a_recipient_waits_with_the_reason() {
    let stack = Stack::without_recipient().await;
    stack.fake.take_log();
    assert_eq!(stack.submit().await, SubmitOutcome::Failed);
    let failed = stack.ledger().await;
    let reason = "The customer has no Stripe customer.".to_owned();
    assert_eq!(failed.state, ChargeState::Failed { reason });
    assert_eq!(failed.next_try, Some(p("2026-11-23T03:00:00Z")));
    assert_eq!(failed.attempts.count, 0);
    assert_eq!(stack.fake.take_log().len(), 0);
    assert_eq!(stack.announced(), ["charge.failed"]);
    stack.advance(60 * 24);
    assert_eq!(stack.submit().await, SubmitOutcome::Failed);
    assert_eq!(stack.announced(), ["charge.failed"]);
    stack.add_recipient("acme").await;
    assert_eq!(stack.submit().await, SubmitOutcome::NotDue);
    stack.advance(60 * 24);
    assert_eq!(stack.submit().await, SubmitOutcome::Settled);
    assert_eq!(stack.items().await.len(), 1);
    assert_eq!(stack.announced(), ["charge.failed", "charge.settled"]);
}

/// Within the day for which Stripe would replay the rejection.
#[tokio::test]
async fn a_rejected_charge_is_sent_again_with_another_key() {
    let stack = Stack::new().await;
    let customer = stack.ledger().await;
    assert_eq!(customer.attempts.count, 0);
    let recipient = stack
        .at
        .store
        .customer(&p("acme"))
        .await
        .unwrap()
        .unwrap()
        .recipient
        .unwrap();
    stack
        .set_recipient("acme", &recipient.customer, Some("sub_gone"))
        .await;
    assert_eq!(stack.submit().await, SubmitOutcome::Failed);
    let failed = stack.ledger().await;
    let ChargeState::Failed { reason } = &failed.state else {
        panic!("{failed:#?}");
    };
    assert!(reason.contains("resource_missing"), "{reason}");
    stack.set_recipient("acme", &recipient.customer, None).await;
    stack.advance(60 * 20);
    assert_eq!(stack.submit().await, SubmitOutcome::Settled);
    assert_eq!(stack.items().await.len(), 1);
}

#[tokio::test]
async fn a_charge_of_a_deleted_customer_fails_and_goes_to_the_next_recipient() {
    let stack = Stack::new().await;
    let recipient = stack
        .at
        .store
        .customer(&p("acme"))
        .await
        .unwrap()
        .unwrap()
        .recipient
        .unwrap();
    let delete = Request::delete(format!(
        "https://stripe/v1/customers/{}",
        recipient.customer
    ))
    .header("authorization", "Bearer sk_test_stripe_fake")
    .body(Bytes::new())
    .unwrap();
    assert_eq!(stack.fake.send(delete).await.unwrap().status(), 200);
    assert_eq!(stack.submit().await, SubmitOutcome::Failed);
    stack.add_recipient("acme").await;
    stack.advance(60 * 24);
    assert_eq!(stack.submit().await, SubmitOutcome::Settled);
    assert_eq!(stack.items().await.len(), 1);
    assert_eq!(stack.items_of(&recipient.customer).await.len(), 0);
}

/// While an outcome is unknown, the charge belongs to the recipient it was sent to.
#[tokio::test(start_paused = true)]
async fn an_unknown_outcome_keeps_its_recipient() {
    let stack = Stack::new().await;
    let first = stack
        .at
        .store
        .customer(&p("acme"))
        .await
        .unwrap()
        .unwrap()
        .recipient
        .unwrap();
    stack.fail_items(4, StripeFault::ResponseLost);
    assert_eq!(stack.submit().await, SubmitOutcome::Later);
    let second = stack.add_recipient("acme").await;
    stack.advance(60 * 30);
    assert_eq!(stack.submit().await, SubmitOutcome::Settled);
    assert_eq!(stack.items_of(&first.customer).await.len(), 1);
    assert_eq!(stack.items_of(&second).await.len(), 0);
}

#[tokio::test(start_paused = true)]
async fn while_stripe_is_unavailable_the_charge_waits() {
    let an_hour = StripeFault::RateLimited {
        retry_after: Some(3_600),
    };
    for (times, fault) in [
        (4, StripeFault::RateLimited { retry_after: None }),
        // The client does not wait for so long, and makes one attempt.
        (1, an_hour),
        (4, StripeFault::KeyInUse),
    ] {
        let stack = Stack::new().await;
        stack.fail_items(times, fault.clone());
        assert_eq!(stack.submit().await, SubmitOutcome::Later, "{fault:?}");
        assert_ne!(stack.status().await, ChargeStatus::Settled);
        assert_eq!(stack.announced(), [""; 0], "{fault:?}");
        assert_eq!(stack.submit().await, SubmitOutcome::NotDue, "{fault:?}");
        stack.advance(61);
        assert_eq!(stack.submit().await, SubmitOutcome::Settled, "{fault:?}");
        assert_eq!(stack.items().await.len(), 1, "{fault:?}");
    }
}

/// A replayed 500 hides whether the request took effect.
#[tokio::test(start_paused = true)]
async fn a_stored_server_error_hides_nothing() {
    for executes in [true, false] {
        for hours in [1, 30] {
            let stack = Stack::new().await;
            stack.fail_items(1, StripeFault::StoredServerError { executes });
            assert_eq!(stack.submit().await, SubmitOutcome::Later);
            stack.advance(60 * hours);
            let outcome = stack.submit().await;
            if executes || hours > 24 {
                assert_eq!(outcome, SubmitOutcome::Settled, "{executes} {hours}");
                assert_eq!(stack.items().await.len(), 1, "{executes} {hours}");
            } else {
                // Until the key is forgotten, Stripe replays the error.
                assert_eq!(outcome, SubmitOutcome::Later);
                stack.advance(60 * 30);
                assert_eq!(stack.submit().await, SubmitOutcome::Settled);
                assert_eq!(stack.items().await.len(), 1);
            }
        }
    }
}

#[tokio::test]
async fn without_a_secret_key_charges_stay_in_the_ledger() {
    let stack = Stack::new().await;
    let payments = Payments {
        stripe: None,
        ..stack.payments.clone()
    };
    let before = stack.ledger().await;
    let submitted = payments.submit(&first()).await.unwrap();
    assert_eq!(submitted, SubmitOutcome::NotConfigured);
    assert_eq!(stack.ledger().await, before);
    assert_eq!(stack.submit().await, SubmitOutcome::Settled, "later");
}

#[tokio::test]
async fn a_charge_that_does_not_exist_is_not_submitted() {
    let stack = Stack::new().await;
    let other = charge("bolt", 1).name();
    let submitted = stack.payments.submit(&other).await.unwrap();
    assert_eq!(submitted, SubmitOutcome::NoSuchCharge);
}

#[tokio::test]
async fn a_credit_becomes_an_item_of_negative_amount() {
    let stack = Stack::new().await;
    let credit = Charge {
        cents: SignedCents(-5),
        ..charge("bolt", 1)
    };
    add_customer(&stack.at, "bolt", "pro").await;
    let recipient = stack.add_recipient("bolt").await;
    let none = PeriodLedger::default();
    let recorded = stack.at.store.record_charge(&credit, &none).await;
    assert_eq!(recorded.unwrap(), RecordChargeOutcome::Written);
    let submitted = stack.payments.submit(&credit.name()).await.unwrap();
    assert_eq!(submitted, SubmitOutcome::Settled);
    assert_eq!(stack.items_of(&recipient).await[0].amount, -5);
}

/// Otherwise nothing would invoice the item.
#[tokio::test]
async fn an_item_that_an_invoice_has_missed_is_scheduled_again() {
    let stack = Stack::without_recipient().await;
    let recipient = stack.add_recipient("acme").await;
    let (aws, pk) = (
        stack.at.aws.clone(),
        format!("FOLLOWUP#INVOICE#{recipient}"),
    );
    stack.fake.set_injector(move |method, path| {
        if (method, path) == ("POST", "/v1/invoiceitems") {
            // The invoice is made now, and ends the schedule.
            let request = json!({ "TableName": "test-registry", "Key": { "pk": { "S": pk } } });
            let (status, response) = aws.call("DynamoDB_20120810.DeleteItem", &request.to_string());
            assert_eq!(status, 200, "{response}");
        }
        None
    });
    assert_eq!(stack.submit().await, SubmitOutcome::Settled);
    let scheduled = stack.at.store.scheduled_invoice(&recipient).await.unwrap();
    assert_eq!(scheduled.unwrap().due, p("2026-12-05T00:00:00Z"));
}

/// An invoice must not have a credit without the charge that it takes back.
#[tokio::test]
async fn a_credit_waits_for_the_charges_before_it() {
    let stack = Stack::without_recipient().await;
    let first_charge = charge("acme", 1);
    let ledger = stack.at.store.period_ledger(&p("acme"), p("2026-11")).await;
    let credit = Charge {
        cents: SignedCents(-5),
        cumulative_overage: MicroUsd(first_charge.cumulative_overage.0 - 50_000),
        ..charge("acme", 2)
    };
    let recorded = stack
        .at
        .store
        .record_charge(&credit, &ledger.unwrap())
        .await;
    assert_eq!(recorded.unwrap(), RecordChargeOutcome::Written);
    let submit_credit = async || stack.payments.submit(&credit.name()).await.unwrap();
    assert_eq!(stack.submit().await, SubmitOutcome::Failed);
    let recipient = stack.add_recipient("acme").await;
    assert_eq!(submit_credit().await, SubmitOutcome::Waits);
    let pending = stack
        .at
        .store
        .charge(&credit.name())
        .await
        .unwrap()
        .unwrap();
    assert_eq!(pending.state, ChargeState::Pending);
    assert_eq!(stack.items_of(&recipient).await, []);
    stack.advance(60);
    assert_eq!(stack.submit().await, SubmitOutcome::Settled);
    assert_eq!(submit_credit().await, SubmitOutcome::Settled);
    let amounts = stack
        .items_of(&recipient)
        .await
        .into_iter()
        .map(|it| it.amount);
    assert_eq!(amounts.sum::<i64>(), first_charge.cents.0 - 5);
}

/// The link changes between the attempt that made the item and the one that records it. Nothing else invoices the item if
/// the subscription ends.
#[tokio::test]
async fn an_item_of_an_earlier_link_is_scheduled_to_be_invoiced() {
    let stack = Stack::without_recipient().await;
    let earlier = stack.add_recipient("acme").await;
    let price = Stripe {
        fake: stack.fake.clone(),
        client: stack.stripe.clone(),
    };
    let subscription = price.subscribe(&earlier, &price.price(4_900).await).await;
    let subscription = subscription["id"].as_str().unwrap();
    stack
        .set_recipient("acme", &earlier, Some(subscription))
        .await;
    let fault = StripeFault::ResponseLost;
    stack
        .fake
        .add_fault(FaultRule::new("POST", "/v1/invoiceitems", 100, fault));
    assert_eq!(stack.submit().await, SubmitOutcome::Later);
    stack.fake.clear_faults();
    let later = stack.add_recipient("acme").await;
    // As after the relink's own follow-up, which found nothing to invoice.
    let of_link = stack
        .at
        .store
        .scheduled_invoice(&earlier)
        .await
        .unwrap()
        .unwrap();
    stack
        .at
        .store
        .end_scheduled_invoice(&of_link)
        .await
        .unwrap();
    stack.advance(60);
    assert_eq!(stack.submit().await, SubmitOutcome::Settled);
    let scheduled = stack.at.store.scheduled_invoice(&earlier).await.unwrap();
    assert_eq!(scheduled.unwrap().due, stack.at.clock().now());
    let items = stack.items_of(&earlier).await;
    assert_eq!(items.len(), 1);
    assert_eq!(
        stack.at.store.scheduled_invoice(&later).await.unwrap(),
        None
    );
}
