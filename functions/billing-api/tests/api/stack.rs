//! The function, with tables and a stand-in for Stripe of its own for each test.

use std::sync::{Arc, Mutex};

use axum::Router;
use billing_api::App;
use serde_json::{Value, json};
use stripe_fake::{Completion, NotPossible};
use tollgate_domain::plan::Catalog;
use tollgate_domain::plan_book::PlanVersions;
use tollgate_domain::submission::Recipient;
use tollgate_local_aws::CloudWatch;
use tollgate_local_aws::fixture::Fixture;
use tollgate_runtime::{Metrics, env};
use tollgate_store::{CustomerChange, PlanOutcome, RecipientChange, Store, UpdateCustomerOutcome};
use tollgate_testing::customers::add_customer;
use tollgate_testing::event::{Event, text};
use tollgate_testing::init::init_with;
use tollgate_testing::p;
use tollgate_testing::response::{ApiResponse, call};
use tollgate_testing::stripe::{Stripe, StripeClient};

/// Time at which all tests begin.
pub(crate) const NOW: &str = "2026-11-22T10:00:00Z";
/// Monthly fee of the plan `team`.
pub(crate) const FEE: u64 = 4_900;
/// Origin that the operator allows.
pub(crate) const ORIGIN: &str = "https://app.example";

pub(crate) struct Stack {
    pub(crate) at: Fixture,
    pub(crate) stripe: Stripe,
    pub(crate) app: App,
    pub(crate) function: Router,
    /// Stripe price of the plan `team`.
    pub(crate) price: String,
    lines: Arc<Mutex<String>>,
}

impl Stack {
    /// Creates a stack with the customer `acme` on the plan `free`, and the plan `team`, which has a Stripe price.
    pub(crate) async fn new() -> Self {
        let at = Fixture::at(NOW);
        let changed = [(env::RETURN_ORIGINS, ORIGIN)];
        let mut app = App::build(&init_with(&at, "BillingApiFunction", changed)).unwrap();
        let stripe = Stripe::new(&at);
        app.payments.stripe = Some(stripe.client.clone());
        let lines = Arc::new(Mutex::new(String::new()));
        let written = Arc::clone(&lines);
        app.payments.metrics = Metrics::new("test", at.clock(), move |line| {
            written.lock().unwrap().push_str(line);
        });
        let price = stripe.price(FEE).await;
        let stack = Self {
            function: billing_api::routes(app.clone()),
            at,
            stripe,
            app,
            price,
            lines,
        };
        stack.add_plan("team", FEE, Some(&stack.price)).await;
        add_customer(&stack.at, "acme", "free").await;
        stack.stripe.requests();
        stack
    }

    /// Has the function call Stripe with this client.
    pub(crate) fn call_stripe_by(&mut self, client: StripeClient) {
        self.app.payments.stripe = Some(client);
        self.function = billing_api::routes(self.app.clone());
    }

    /// Adds a plan with a monthly fee and a Stripe price.
    pub(crate) async fn add_plan(&self, id: &str, fee: u64, price: Option<&str>) {
        let shipped = Catalog::shipped().unwrap();
        let mut plan = shipped.get(&p("pro")).unwrap().clone();
        plan.id = p(id);
        plan.monthly_fee_cents.0 = fee;
        plan.stripe_price = price.map(str::to_owned);
        let plan = PlanVersions::new(plan, p(NOW));
        let created = self.at.store.create_plan(&plan).await;
        assert_eq!(created.unwrap(), PlanOutcome::Written);
    }

    /// Calls an operation with its event file, changed by `change`.
    pub(crate) async fn call(
        &self,
        operation: &str,
        change: impl FnOnce(Event) -> Event,
    ) -> ApiResponse {
        let event = change(Event::load(&format!("billing-api/{operation}")));
        call(&self.function, &event).await
    }

    pub(crate) async fn checkout(&self, customer: &str, plan: &str) -> ApiResponse {
        let change = |event: Event| event.manager(customer, "free").member("plan", plan.into());
        self.call("checkout", change).await
    }

    /// Starts a checkout of the plan `team` under an idempotency key.
    pub(crate) async fn checkout_once(&self, customer: &str, once: &str) -> ApiResponse {
        let change = |event: Event| {
            event
                .manager(customer, "free")
                .header("Idempotency-Key", once)
        };
        self.call("checkout", change).await
    }

    pub(crate) async fn get(&self, operation: &str, query: &[(&str, &str)]) -> ApiResponse {
        self.call(operation, |event| event.query(query)).await
    }

    pub(crate) async fn recipient(&self, customer: &str) -> Option<Recipient> {
        let customer = self.at.store.customer(&p(customer)).await.unwrap();
        customer.unwrap().recipient
    }

    /// Links a customer that is not linked to a new Stripe customer. Returns its id.
    pub(crate) async fn link(&self, customer: &str) -> String {
        let created = self.stripe.call("POST", "/v1/customers", "name=Acme").await;
        let id = created["id"].as_str().unwrap().to_owned();
        self.relink(customer, Some(&id)).await;
        self.stripe.requests();
        id
    }

    /// Changes the link of a customer.
    pub(crate) async fn relink(&self, customer: &str, stripe_customer: Option<&str>) {
        let change = CustomerChange {
            recipient: Some(RecipientChange {
                before: self.recipient(customer).await,
                after: stripe_customer.map(|id| Recipient {
                    customer: id.to_owned(),
                    subscription: None,
                }),
            }),
            ..CustomerChange::default()
        };
        let updated = self.at.store.update_customer(&p(customer), &change).await;
        assert!(matches!(updated.unwrap(), UpdateCustomerOutcome::Done(_)));
    }

    /// Returns all customers at Stripe.
    pub(crate) async fn stripe_customers(&self) -> Vec<Value> {
        let list = self.stripe.call("GET", "/v1/customers?limit=100", "").await;
        list["data"].as_array().unwrap().clone()
    }

    /// Returns all checkout sessions at Stripe.
    pub(crate) async fn sessions(&self) -> Vec<Value> {
        let list = self
            .stripe
            .call("GET", "/v1/checkout/sessions?limit=100", "");
        list.await["data"].as_array().unwrap().clone()
    }

    /// Returns the ids of the checkout sessions at Stripe on which a customer can pay.
    pub(crate) async fn payable(&self) -> Vec<String> {
        let sessions = self.sessions().await.into_iter();
        let open = sessions.filter(|session| session["status"] == "open");
        open.map(|session| text(&session, "id").to_owned())
            .collect()
    }

    /// Completes a checkout session, as its customer does on the page.
    pub(crate) fn pay(&self, session: &str) -> Result<(), NotPossible> {
        let fake = &self.stripe.fake;
        fake.complete_checkout(session, Completion::Paid, None)
    }

    /// Returns the metrics written so far.
    pub(crate) fn metrics(&self) -> CloudWatch {
        let cloudwatch = CloudWatch::default();
        cloudwatch.read(&self.lines.lock().unwrap());
        cloudwatch
    }

    /// Returns the metrics' lines written so far.
    pub(crate) fn lines(&self) -> String {
        self.lines.lock().unwrap().clone()
    }

    pub(crate) fn store(&self) -> &Store {
        &self.at.store
    }
}

/// Body of a request for a checkout.
pub(crate) fn body(plan: &str) -> Value {
    json!({
        "plan": plan, "success_url": format!("{ORIGIN}/paid"), "cancel_url": format!("{ORIGIN}/"),
    })
}
