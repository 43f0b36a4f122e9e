//! One run.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::AtomicI64;
use std::time::Duration;

use aws_types::region::Region;
use jiff::{SignedDuration, Timestamp};
use serde_json::{Value, json};
use stripe_fake::{DeliveryMode, NewEndpoint, Options, StripeFake};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, sleep_until};
use tollgate_billing::{Billing, DuePosition, Mode, Part, due_charges, run as run_billing};
use tollgate_domain::customer::Customer;
use tollgate_domain::event::EventKind;
use tollgate_domain::id::CustomerId;
use tollgate_domain::plan::Catalog;
use tollgate_domain::submission::{ChargeState, Recipient};
use tollgate_domain::window::{Day, Month};
use tollgate_ingest::{IncomingEvent, Ingest, IngestOutcome};
use tollgate_local_aws::LocalAws;
use tollgate_payments::Payments;
use tollgate_runtime::{Clock, Entropy, Metrics, aws};
use tollgate_store::{CustomerChange, RecipientChange, Store, UpdateCustomerOutcome};
use tollgate_stripe::{CustomerDetails, InvoiceItem, InvoiceItemFilter, StripeClient};

use super::Deviation;
use super::model::{PRICE_RISE, Usage};
use super::scenario::{CUSTOMERS, Event, PLANS, START, Scenario};
use super::stripe::{Connection, StripeFaults};
use super::subscriptions::{EventQueue, UNSUBSCRIBED, create_prices};
use crate::crash::{Crash, Process};
use crate::network::{Endpoint, FaultRates, Network};
use crate::time::Time;
use crate::{PREFIX, SimulationError, Trace, setup};

/// Time that a billing run or a worker has, as a Lambda function.
const PROCESS_TIMEOUT: Duration = Duration::from_secs(900);
/// Rounds without faults after which all charges must be settled. Rejected ones wait for most of a day.
const LAST_ROUNDS: usize = 8;

pub(crate) struct Simulation<'a> {
    seed: u64,
    pub(crate) scenario: &'a Scenario,
    aws: LocalAws,
    time: Time,
    pub(crate) trace: Trace,
    pub(crate) fake: StripeFake,
    /// Store and client without faults.
    pub(crate) admin: Store,
    stripe: StripeClient,
    usage: Vec<Usage>,
    plans: Vec<&'static str>,
    pub(crate) recipients: Vec<Option<String>>,
    /// Stripe customers to whom each customer was linked before.
    pub(crate) former: Vec<Vec<String>>,
    /// Whether the link of each customer was ever removed.
    pub(crate) was_unlinked: Vec<bool>,
    /// Plans that are sold, with their prices at Stripe.
    pub(crate) prices: Vec<(&'static str, String)>,
    /// Events of Stripe that are not handled yet.
    pub(crate) queue: EventQueue,
    events: u64,
    connections: u64,
    last_event: Option<(usize, String)>,
    processes: JoinSet<()>,
    /// Mismatches found before the end.
    mismatches: Vec<String>,
}

pub(crate) fn id(customer: usize) -> Result<CustomerId, SimulationError> {
    setup(format!("c{customer}").parse())
}

impl<'a> Simulation<'a> {
    pub(crate) async fn new(
        seed: u64,
        scenario: &'a Scenario,
        aws: &LocalAws,
        trace: Trace,
    ) -> Result<Self, SimulationError> {
        let time = Time::starting_at(setup(START.parse())?);
        let clock = time.clock(Arc::default());
        let stripe_clock = clock.clone();
        let fake = StripeFake::new(Options {
            seed,
            ..Options::new(move || stripe_clock.now())
        });
        let admin = Store::new(
            &aws.sdk_config(),
            PREFIX,
            clock.clone(),
            Entropy::seeded(seed),
        );
        fake.register_endpoint(NewEndpoint::default());
        let prices = create_prices(&fake).await?;
        admin.seed_plans(&plans(scenario.cadence, &prices)?).await?;
        let process = Process::new(Crash::Never);
        let connection = Connection::new(
            fake.clone(),
            seed,
            StripeFaults::NONE,
            &process,
            trace.clone(),
        );
        let stripe = setup(connection.client())?;
        let mut simulation = Self {
            seed,
            scenario,
            aws: aws.clone(),
            time,
            trace,
            fake,
            admin,
            stripe,
            usage: vec![Usage::default(); CUSTOMERS],
            plans: vec!["pro"; CUSTOMERS],
            recipients: vec![None; CUSTOMERS],
            former: vec![Vec::new(); CUSTOMERS],
            was_unlinked: vec![false; CUSTOMERS],
            prices,
            queue: EventQueue::default(),
            events: 0,
            connections: 0,
            last_event: None,
            processes: JoinSet::new(),
            mismatches: Vec::new(),
        };
        for customer in 0..CUSTOMERS {
            simulation.create(customer, clock.now()).await?;
        }
        Ok(simulation)
    }

    async fn create(&mut self, customer: usize, now: Timestamp) -> Result<(), SimulationError> {
        let customer = Customer::new(
            id(customer)?,
            setup(match self.scenario.subscribes {
                true => UNSUBSCRIBED.parse(),
                false => "pro".parse(),
            })?,
            now,
        );
        self.admin.create_customer(&customer, None).await?;
        Ok(())
    }

    pub(crate) fn now(&self) -> Timestamp {
        self.clock(0).now()
    }

    fn clock(&self, number: usize) -> Clock {
        let skews = &self.scenario.skews_ms;
        let skew = skews.get(number).copied().unwrap_or(0);
        self.time.clock(Arc::new(AtomicI64::new(skew)))
    }

    /// Returns the tables over a network of a process's own, which has the clock of this number.
    fn store(&mut self, number: usize, process: &Process, faults: FaultRates) -> Store {
        self.connections += 1;
        let seed = self.seed.wrapping_mul(1_000).wrapping_add(self.connections);
        let endpoint = Endpoint::tables(&self.aws);
        let network = Network::new(endpoint, seed, self.time.began, self.trace.clone());
        network.set_faults(faults);
        // The SDK keeps one retry budget per region and process.
        let region = Region::new(format!("billing-{}-{}", self.seed, self.connections));
        let sdk = self.aws.sdk_config().into_builder().region(region);
        let sdk = sdk
            .http_client(network.http_client(process))
            .timeout_config(aws::timeouts(aws::BACKGROUND_TIMEOUT))
            .build();
        Store::new(&sdk, PREFIX, self.clock(number), Entropy::seeded(seed))
    }

    pub(crate) async fn run(mut self) -> Result<Deviation, SimulationError> {
        // A step that takes long does not delay the later ones.
        let mut at = Instant::now();
        for step in &self.scenario.steps {
            at += step.after;
            sleep_until(at).await;
            let now = self.now();
            self.trace.log(|| format!("{now} {:?}", step.event));
            self.apply(step.event).await?;
        }
        self.await_processes().await;
        self.finish().await?;
        let mut deviation = self.deviation().await?;
        deviation.mismatches.append(&mut self.mismatches);
        Ok(deviation)
    }

    async fn apply(&mut self, event: Event) -> Result<(), SimulationError> {
        let tables = self.scenario.table_faults;
        match event {
            Event::Usage {
                customer,
                calls,
                hours_ago,
            } => {
                let hours = SignedDuration::from_hours(i64::try_from(hours_ago).unwrap_or(0));
                let start = setup(START.parse())?;
                let at = self.now().saturating_sub(hours).unwrap_or(start).max(start);
                let plan = self.plans[customer];
                let body = self.usage_event(customer, plan, at, calls);
                let counted = (plan, day_of_month(at), i64::try_from(calls).unwrap_or(0));
                self.count(customer, &body, Some(counted)).await
            }
            Event::Rival { customer } => match self.last_event.clone() {
                Some((of, last)) if of == customer => {
                    let rival = last.replace("\"/billing\"", "\"/rival\"");
                    self.count(customer, &rival, None).await
                }
                _ => Ok(()),
            },
            Event::Adjust {
                customer,
                calls,
                days_ago,
            } => {
                let days = SignedDuration::from_hours(24 * i64::try_from(days_ago).unwrap_or(0));
                let last = setup("2026-11-30T12:00:00Z".parse())?;
                let at = self.now().saturating_sub(days).unwrap_or(last).min(last);
                let plan = self.plans[customer];
                let body = self.adjustment(customer, plan, at, calls);
                self.count(customer, &body, Some((plan, day_of_month(at), calls)))
                    .await
            }
            Event::ChangePlan { customer, plan } => {
                self.plans[customer] = PLANS[plan];
                if self.scenario.subscribes {
                    // The calls are those of the plan of their time, wherever the customer's plan comes from.
                    return Ok(());
                }
                let change = CustomerChange {
                    plan: Some(setup(PLANS[plan].parse())?),
                    ..CustomerChange::default()
                };
                self.admin.update_customer(&id(customer)?, &change).await?;
                Ok(())
            }
            Event::AddRecipient { customer } => self.add_recipient(customer).await,
            Event::Relink { customer } => match self.recipients[customer] {
                Some(_) => self.add_recipient(customer).await,
                None => Ok(()),
            },
            Event::Unlink { customer } => self.unlink(customer).await,
            Event::LinkBack { customer } => self.link_back(customer).await,
            Event::CancelFormer { customer } => self.cancel_former(customer).await,
            Event::Subscribe { customer, plan } => self.subscribe(customer, plan).await,
            Event::Switch { customer, plan } => self.switch(customer, plan).await,
            Event::Cancel { customer } => self.cancel(customer).await,
            Event::Decline {
                customer,
                is_declined,
            } => self.decline(customer, is_declined),
            Event::Pay { customer } => self.pay(customer).await,
            Event::Deliver {
                copies,
                is_shuffled,
                workers,
            } => {
                let mode = DeliveryMode {
                    copies,
                    is_shuffled,
                };
                self.deliver(mode, &workers)
            }
            Event::FollowUp => self.follow_up().await,
            Event::Compare => {
                self.await_processes().await;
                // Of links that have changed.
                self.follow_up().await?;
                self.handle_all().await?;
                for customer in 0..CUSTOMERS {
                    let found = self.compare_subscription(customer).await?;
                    self.mismatches.extend(found);
                }
                Ok(())
            }
            Event::Bill { runs } => {
                for (number, crash) in runs.into_iter().flatten().enumerate() {
                    let process = Process::new(crash);
                    let store = self.store(number, &process, tables);
                    let billing = Billing::new(store, self.clock(number), Metrics::none());
                    self.spawn(process, bill(billing));
                }
                Ok(())
            }
            Event::Submit { workers } => {
                let stripe = self.scenario.stripe_faults;
                for (number, crash) in workers.into_iter().flatten().enumerate() {
                    let process = Process::new(crash);
                    let payments = self.payments(number, &process, tables, stripe)?;
                    self.spawn(process, submit_all(payments, self.trace.clone()));
                }
                Ok(())
            }
        }
    }

    pub(crate) fn payments(
        &mut self,
        number: usize,
        process: &Process,
        tables: FaultRates,
        faults: StripeFaults,
    ) -> Result<Payments, SimulationError> {
        let store = self.store(number, process, tables);
        let seed = self.seed.wrapping_mul(77).wrapping_add(self.connections);
        let trace = self.trace.clone();
        let connection = Connection::new(self.fake.clone(), seed, faults, process, trace);
        Ok(Payments {
            stack: PREFIX.to_owned(),
            store,
            stripe: Some(setup(connection.client())?),
            clock: self.clock(number),
            metrics: Metrics::none(),
        })
    }

    /// Waits until all processes have ended, and what they have sent has arrived.
    async fn await_processes(&mut self) {
        sleep(2 * PROCESS_TIMEOUT).await;
        while self.processes.join_next().await.is_some() {}
    }

    /// Starts a process.
    pub(crate) fn spawn(
        &mut self,
        process: Process,
        future: impl Future<Output = ()> + Send + 'static,
    ) {
        self.processes.spawn(process.run(future, PROCESS_TIMEOUT));
    }

    /// Returns all Stripe customers that a customer is or was linked to.
    pub(crate) fn all_recipients(&self, customer: usize) -> impl Iterator<Item = &String> {
        self.former[customer]
            .iter()
            .chain(&self.recipients[customer])
    }

    async fn add_recipient(&mut self, customer: usize) -> Result<(), SimulationError> {
        let number = self.all_recipients(customer).count();
        let key = setup(format!("create-{customer}-{number}").parse())?;
        let details = CustomerDetails::default();
        let created = self.stripe.create_customer(&key, &details).await;
        let stripe_id = setup(created)?.id.as_str().to_owned();
        self.add_card(&stripe_id).await?;
        let after = Recipient {
            customer: stripe_id,
            subscription: None,
        };
        self.link(customer, Some(after)).await
    }

    async fn unlink(&mut self, customer: usize) -> Result<(), SimulationError> {
        if self.recipients[customer].is_some() {
            self.was_unlinked[customer] = true;
            self.link(customer, None).await?;
        }
        Ok(())
    }

    async fn link_back(&mut self, customer: usize) -> Result<(), SimulationError> {
        if self.recipients[customer].is_none()
            && let Some(last) = self.former[customer].pop()
        {
            let after = Recipient {
                // Found anew, one with an outstanding payment would have to be paid first.
                subscription: self.live_subscription(&last).await?,
                customer: last,
            };
            self.link(customer, Some(after)).await?;
        }
        Ok(())
    }

    /// Replaces the link of a customer, whatever it is.
    async fn link(
        &mut self,
        customer: usize,
        after: Option<Recipient>,
    ) -> Result<(), SimulationError> {
        let stripe_id = after.as_ref().map(|after| after.customer.clone());
        let before = std::mem::replace(&mut self.recipients[customer], stripe_id);
        self.former[customer].extend(before);
        let name = id(customer)?;
        loop {
            let stored = self.admin.customer(&name).await?;
            let change = CustomerChange {
                recipient: Some(RecipientChange {
                    before: stored.and_then(|stored| stored.recipient),
                    after: after.clone(),
                }),
                ..CustomerChange::default()
            };
            let updated = self.admin.update_customer(&name, &change).await?;
            // A worker has followed the subscription since the customer was read.
            if updated != UpdateCustomerOutcome::Changed {
                return Ok(());
            }
        }
    }

    fn envelope(&mut self, customer: usize, kind: &str, data: &Value) -> String {
        self.events += 1;
        json!({
            "specversion": "1.0", "id": format!("e-{}", self.events), "source": "simulation",
            "type": kind, "time": self.now(), "subject": format!("c{customer}"), "data": data,
        })
        .to_string()
    }

    fn usage_event(&mut self, customer: usize, plan: &str, at: Timestamp, calls: u64) -> String {
        let record = |n: u64| {
            json!({
                "time": at, "request_id": format!("r-{}-{n}", self.events), "key_id": "k", "plan": plan,
                "method": "GET", "endpoint": "/billing", "status": 200, "latency_ms": 1,
            })
        };
        let records: Vec<Value> = (0..calls).map(record).collect();
        let body = self.envelope(
            customer,
            "tollgate.usage.v1",
            &json!({ "records": records }),
        );
        self.last_event = Some((customer, body.clone()));
        body
    }

    fn adjustment(&mut self, customer: usize, plan: &str, at: Timestamp, calls: i64) -> String {
        let adjustment = json!({
            "time": at, "plan": plan, "billable_calls": calls, "reason": "simulated",
        });
        let data = json!({ "adjustments": [adjustment] });
        self.envelope(customer, "tollgate.adjustment.v1", &data)
    }

    /// Counts an event, with retries as of a queue, and adds it to the model if it is the first under its id.
    async fn count(
        &mut self,
        customer: usize,
        body: &str,
        counted: Option<(&'static str, i64, i64)>,
    ) -> Result<(), SimulationError> {
        let event = setup(IncomingEvent::parse(body))?;
        let events: Arc<[IncomingEvent]> = [event].into();
        loop {
            // Each delivery may be to another instance, whose caches are empty.
            let process = Process::new(Crash::Never);
            let store = self.store(3, &process, self.scenario.table_faults);
            let ingest = Ingest::new(store, self.clock(3), Metrics::none());
            let results = ingest.ingest(&events, ingest.clock.now()).await;
            match results.first() {
                Some(Ok(IngestOutcome::Conflict)) => return Ok(()),
                Some(Ok(IngestOutcome::Counted | IngestOutcome::Duplicate)) => break,
                _ => sleep(Duration::from_secs(60)).await,
            }
        }
        if let Some(counted) = counted {
            self.usage[customer].counted.push(counted);
        }
        Ok(())
    }

    /// Runs billing and submits all charges without faults, until nothing is open.
    async fn finish(&mut self) -> Result<(), SimulationError> {
        for customer in 0..CUSTOMERS {
            if self.recipients[customer].is_none() {
                self.add_recipient(customer).await?;
            }
        }
        let process = Process::new(Crash::Never);
        for _ in 0..LAST_ROUNDS {
            let store = self.store(0, &process, FaultRates::NONE);
            let billing = Billing::new(store, self.clock(0), Metrics::none());
            setup(run_billing(&billing, Mode::Charge, Part::default()).await)?;
            let payments = self.payments(0, &process, FaultRates::NONE, StripeFaults::NONE)?;
            submit_all(payments, self.trace.clone()).await;
            self.follow_up().await?;
            self.handle_all().await?;
            sleep(Duration::from_secs(86_400)).await;
        }
        self.handle_all().await
    }

    /// Returns the number of events of each settled charge, by its id.
    async fn announced(&self) -> Result<BTreeMap<String, u64>, SimulationError> {
        while !self.admin.number_events().await?.is_empty() {}
        let (mut announced, mut after) = (BTreeMap::new(), 0);
        loop {
            let events = self.admin.numbered_events(after, 100).await?;
            let Some(last) = events.last() else {
                return Ok(announced);
            };
            after = last.number;
            let settled = events.iter().map(|numbered| &numbered.event);
            for event in settled.filter(|event| event.kind == EventKind::ChargeSettled) {
                let charge = event.data["charge"].as_str().unwrap_or_default();
                *announced.entry(charge.to_owned()).or_default() += 1;
            }
        }
    }

    /// Compares the invoice items, the ledger and the events with the model.
    async fn deviation(&self) -> Result<Deviation, SimulationError> {
        let mut deviation = Deviation::default();
        let month: Month = setup("2026-11".parse())?;
        let announced = self.announced().await?;
        for customer in 0..CUSTOMERS {
            let expected = self.usage[customer].cents();
            let items = self.items(customer).await?;
            let invoiced: i64 = items.iter().map(|item| item.amount).sum();
            let name = id(customer)?;
            let mut differs = |what: String| deviation.mismatches.push(format!("{name}: {what}"));
            if invoiced != expected {
                differs(format!(
                    "{invoiced} cents are invoiced, and {expected} are due"
                ));
            }
            let mut by_charge: BTreeMap<&str, Vec<&InvoiceItem>> = BTreeMap::new();
            for item in &items {
                by_charge
                    .entry(item.charge().unwrap_or("none"))
                    .or_default()
                    .push(item);
            }
            let mut ledger = Vec::new();
            let mut from = 1;
            loop {
                let page = self.admin.charges(&name, month, from).await?;
                ledger.extend(page.items);
                match page.next.and_then(|next| next.parse().ok()) {
                    Some(next) => from = next,
                    None => break,
                }
            }
            for charge in &ledger {
                let items = by_charge
                    .remove(format!("{PREFIX}/{}", charge.charge.id).as_str())
                    .unwrap_or_default();
                let ChargeState::Settled { item, .. } = &charge.state else {
                    differs(format!("{} is {:?}", charge.charge.id, charge.state));
                    continue;
                };
                let events = announced.get(&charge.charge.id).copied().unwrap_or(0);
                if events != 1 {
                    differs(format!("{} is announced {events} times", charge.charge.id));
                }
                if !items.iter().any(|found| found.id.as_str() == item) {
                    differs(format!("{} is settled with another item", charge.charge.id));
                }
                if items
                    .iter()
                    .any(|found| found.amount != charge.charge.cents.0)
                {
                    differs(format!("{} has another amount at Stripe", charge.charge.id));
                }
            }
            for (charge, items) in by_charge {
                differs(format!(
                    "{} items of {charge} are not in the ledger",
                    items.len()
                ));
            }
            let charged: i64 = ledger.iter().map(|charge| charge.charge.cents.0).sum();
            if charged != expected {
                differs(format!(
                    "the ledger has {charged} cents, and {expected} are due"
                ));
            }
            let short = expected.saturating_sub(invoiced).max(0);
            deviation.lost += u64::try_from(short).unwrap_or(0);
            let mut counts: BTreeMap<Option<&str>, u64> = BTreeMap::new();
            for item in &items {
                *counts.entry(item.charge()).or_default() += 1;
            }
            deviation.doubled += counts.values().map(|count| count - 1).sum::<u64>();
            if self.scenario.subscribes {
                let mismatches = &mut deviation.mismatches;
                mismatches.extend(self.compare_subscription(customer).await?);
                mismatches.extend(self.compare_items(customer).await?);
            }
        }
        Ok(deviation)
    }

    /// Returns all invoice items of a customer that bill charges. Stripe makes others itself, when a price changes.
    pub(crate) async fn items(&self, customer: usize) -> Result<Vec<InvoiceItem>, SimulationError> {
        let mut all = Vec::new();
        for recipient in self.all_recipients(customer) {
            all.extend(self.items_of(recipient).await?);
        }
        Ok(all)
    }

    /// Returns those of one Stripe customer.
    pub(crate) async fn items_of(
        &self,
        recipient: &str,
    ) -> Result<Vec<InvoiceItem>, SimulationError> {
        let recipient = setup(recipient.parse())?;
        let mut pages = self.stripe.invoice_items(&InvoiceItemFilter {
            customer: &recipient,
            created_since: None,
            pending: None,
        });
        let mut all = Vec::new();
        while let Some(page) = setup(pages.next_page().await)? {
            all.extend(page.items);
        }
        all.retain(|item| item.charge().is_some());
        Ok(all)
    }
}

/// Runs billing in parts of ten seconds.
async fn bill(billing: Billing) {
    let mut from = None;
    loop {
        let until = billing
            .clock
            .now()
            .saturating_add(SignedDuration::from_secs(10))
            .ok();
        match run_billing(&billing, Mode::Charge, Part { from, until }).await {
            Ok((_, None)) | Err(_) => return,
            Ok((_, position)) => from = position,
        }
    }
}

/// Submits all charges that are due.
async fn submit_all(payments: Payments, trace: Trace) {
    let mut from = DuePosition::default();
    loop {
        let due = due_charges(&payments.store, payments.clock.now(), from).await;
        let Ok((charges, next)) = due else {
            return;
        };
        for charge in charges {
            let outcome = payments.submit(&charge).await;
            trace.log(|| format!("{} {charge}: {outcome:?}", payments.clock.now()));
        }
        match next {
            Some(next) => from = next,
            None => return,
        }
    }
}

fn day_of_month(at: Timestamp) -> i64 {
    let day = Day::containing(at).to_string();
    day.rsplit('-')
        .next()
        .and_then(|day| day.parse().ok())
        .unwrap_or(0)
}

/// Returns the plans, whose included calls are few and whose prices do not divide a cent.
fn plans(cadence: &str, prices: &[(&'static str, String)]) -> Result<Catalog, SimulationError> {
    let plan = |id: &str, month: Value, submission: &str| {
        json!({
            "id": id, "name": id, "requests_per_hour": 1, "fail_mode": "open", "month": month,
            "submission": submission,
            "stripe_price": prices.iter().find(|(plan, _)| *plan == id).map(|(_, price)| price),
        })
    };
    let overage = |included: u64, prices: Value| json!({ "kind": "overage", "included": included, "prices": prices });
    let price = |from: String, price: u64| json!({ "from": from, "micro_usd_per_call": price });
    let pro = json!([
        price("2026-01-01".to_owned(), 3_333),
        price(format!("2026-11-{PRICE_RISE}"), 4_999),
    ]);
    let team = json!([price("2026-01-01".to_owned(), 7_777)]);
    let plans = json!([
        plan(
            "free",
            json!({ "kind": "blocked", "included": 5 }),
            "nightly"
        ),
        plan("pro", overage(5, pro), cadence),
        plan("team", overage(3, team), "nightly"),
        plan("enterprise", json!({ "kind": "unlimited" }), "nightly"),
    ]);
    setup(Catalog::from_json(&plans.to_string()))
}
