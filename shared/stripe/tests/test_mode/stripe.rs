//! Stripe or the stand-in: its client, requests that the client does not have, and the removal of what they created.

use std::panic::{AssertUnwindSafe, resume_unwind};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use http::{Method, Request, Response, StatusCode};
use jiff::Timestamp;
use serde_json::Value;
use stripe_fake::{Options, StripeFake};
use tokio::sync::Semaphore;
use tollgate_stripe::{
    API_VERSION, CONNECT_TIMEOUT, Cancellation, Config, Customer, CustomerDetails, CustomerId,
    CustomerLookup, FixedSecret, HttpsTransport, IdempotencyKey, Invoice, InvoiceItem, Mode,
    NewInvoice, NewInvoiceItem, PaymentMethodId, Period, PriceId, Rejection, Roots, SecretKey,
    StripeClient, StripeError, Subscription, SubscriptionId, SubscriptionStatus, TokioTiming,
    Transport, TransportError,
};

const VARIABLE: &str = "STRIPE_TEST_KEY";
const STAND_IN_KEY: &str = "sk_test_stripe_fake";
/// Metadata of everything that is created, by which it is found at Stripe if the run is killed.
const MARK: &str = "tollgate_test_mode";

/// Requests of all tests at a time. Stripe allows 25 a second in test mode, and each takes some 200 ms.
static REQUESTS: Semaphore = Semaphore::const_new(4);
/// Number of tests that have begun.
static TESTS: AtomicU64 = AtomicU64::new(0);

/// Stripe in test mode, or the stand-in.
pub(crate) struct Stripe {
    pub(crate) client: StripeClient,
    connection: Arc<Connection>,
    /// Secret key.
    key: String,
    /// Part of all names that no other test has.
    pub(crate) run: String,
    names: AtomicU64,
}

/// Runs a test, and removes what it has created, even if it fails.
pub(crate) async fn check(test: impl AsyncFnOnce(&Stripe)) {
    let stripe = Stripe::new();
    let outcome = AssertUnwindSafe(test(&stripe)).catch_unwind().await;
    let removed = AssertUnwindSafe(stripe.remove_all()).catch_unwind().await;
    if let Err(failure) = outcome.and(removed) {
        resume_unwind(failure);
    }
}

/// Parses the key of the environment.
fn test_key(text: &str) -> Result<SecretKey, &'static str> {
    match SecretKey::parse(text) {
        Ok(key) if key.mode() == Mode::Test => Ok(key),
        _ => Err(
            "STRIPE_TEST_KEY is rejected: it must be a key of Stripe's test mode, which begins with sk_test_ or \
             rk_test_, because these tests create, charge and delete customers",
        ),
    }
}

#[tokio::test]
async fn what_a_failed_test_has_created_is_removed() {
    let mut created = None;
    let failing = check(async |stripe| {
        let customer = stripe.customer().await.id;
        created = Some((stripe.client.clone(), customer));
        panic!("a failure, as intended");
    });
    let outcome = AssertUnwindSafe(failing).catch_unwind().await;
    assert!(outcome.is_err());
    let (client, customer) = created.unwrap();
    let found = client.customer(&customer).await.unwrap();
    assert_eq!(found, CustomerLookup::Deleted(customer));
}

#[test]
fn only_a_key_of_test_mode_is_used() {
    let check = |text: &str, is_used: bool| assert_eq!(test_key(text).is_ok(), is_used, "{text}");
    check("sk_test_1", true);
    check("rk_test_1\n", true);
    check("sk_live_1", false);
    check("rk_live_1", false);
    check("pk_test_1", false);
    check("sk_test_", false);
    check("", false);
    let sentence = test_key("sk_live_1").unwrap_err();
    assert!(sentence.contains("must be a key of Stripe's test mode"));
}

impl Stripe {
    fn new() -> Self {
        let key = std::env::var(VARIABLE).unwrap_or_default();
        let (key, carrier): (_, Box<dyn Transport>) = match key.trim() {
            "" => (STAND_IN_KEY, Box::new(stand_in())),
            key => (
                key,
                Box::new(HttpsTransport::new(Roots::System, CONNECT_TIMEOUT)),
            ),
        };
        // Before anything is sent.
        let secret = test_key(key).unwrap_or_else(|reason| panic!("{reason}"));
        let connection = Arc::new(Connection {
            carrier,
            created: Mutex::default(),
            replays: Mutex::default(),
        });
        let test = TESTS.fetch_add(1, Ordering::Relaxed);
        let begun = Timestamp::now().as_nanosecond();
        Self {
            client: client(&connection, secret),
            connection,
            key: key.to_owned(),
            run: format!("{begun:x}-{test}"),
            names: AtomicU64::new(0),
        }
    }

    /// Returns a client with another secret key.
    pub(crate) fn with_key(&self, key: &str) -> StripeClient {
        client(&self.connection, SecretKey::parse(key).unwrap())
    }

    /// Returns a name that nothing else has, in any run.
    pub(crate) fn name(&self) -> String {
        let number = self.names.fetch_add(1, Ordering::Relaxed);
        format!("{MARK}/{}/{number}", self.run)
    }

    /// Returns an idempotency key that no other request has.
    pub(crate) fn key(&self) -> IdempotencyKey {
        self.name().parse().unwrap()
    }

    /// Returns the metadata of what is created.
    pub(crate) fn mark(&self) -> [(&'static str, &str); 1] {
        [(MARK, &self.run)]
    }

    /// Whether the latest response to a request with this key was a replay.
    pub(crate) fn is_replay(&self, key: &IdempotencyKey) -> bool {
        let replays = self.connection.replays.lock().unwrap();
        let mut latest = replays.iter().rev();
        let (_, is_replay) = latest.find(|(of, _)| of == key.as_str()).unwrap();
        *is_replay
    }

    /// Makes a request that the client does not have, with parameters as in a form. Returns the response, which is a
    /// success.
    pub(crate) async fn request(&self, method: Method, path: &str, form: &str) -> Value {
        let (status, body) = self.send(&method, path, form).await;
        assert!(status.is_success(), "{method} {path}: {status} {body}");
        body
    }

    pub(crate) async fn post(&self, path: &str, form: &str) -> Value {
        self.request(Method::POST, path, form).await
    }

    pub(crate) async fn send(
        &self,
        method: &Method,
        path: &str,
        form: &str,
    ) -> (StatusCode, Value) {
        let key = self.key();
        for seconds in 0.. {
            let request = Request::builder()
                .method(method)
                .uri(format!("https://api.stripe.com{path}"))
                .header("authorization", format!("Bearer {}", self.key))
                .header("content-type", "application/x-www-form-urlencoded")
                .header("stripe-version", API_VERSION);
            let request = match *method {
                Method::POST => request.header("idempotency-key", key.as_str()),
                _ => request,
            };
            let request = request.body(Bytes::copy_from_slice(form.as_bytes()));
            let response = self.connection.send(request.unwrap()).await.unwrap();
            let status = response.status();
            let is_passing = matches!(status.as_u16(), 409 | 429 | 500..);
            if !is_passing || seconds == 5 {
                let body = String::from_utf8_lossy(response.body());
                let json = serde_json::from_str(&body);
                return (status, json.unwrap_or_else(|_| body.into_owned().into()));
            }
            tokio::time::sleep(Duration::from_secs(seconds)).await;
        }
        unreachable!("the loop returns")
    }

    /// Removes what was created, as far as Stripe allows: a product with a price cannot be deleted, and an invoice
    /// stays.
    async fn remove_all(&self) {
        let created = std::mem::take(&mut *self.connection.created.lock().unwrap());
        let mut failed = Vec::new();
        // What a customer has goes before the customer, whose deletion also cancels the subscriptions.
        for Created { collection, id } in created.iter().rev() {
            let path = format!("{collection}/{id}");
            // Statuses of what the test itself has ended: a customer who is deleted, an invoice that is final or went with
            // its customer, a session that is complete or expired.
            let (method, path, form, over): (_, _, _, &[u16]) = match *collection {
                CUSTOMERS => (Method::DELETE, path, "", &[404]),
                PRODUCTS => (Method::POST, path, "active=false", &[]),
                INVOICES => (Method::POST, path, "auto_advance=false", &[400, 404]),
                SESSIONS => (Method::POST, format!("{path}/expire"), "", &[400]),
                _ => continue,
            };
            let (status, body) = self.send(&method, &path, form).await;
            if !status.is_success() && !over.contains(&status.as_u16()) {
                failed.push(format!("{method} {path}: {status} {body}"));
            }
        }
        assert!(failed.is_empty(), "not removed: {failed:?}");
    }

    /// Creates a customer.
    pub(crate) async fn customer(&self) -> Customer {
        let details = CustomerDetails {
            email: Some("test-mode@example.com"),
            metadata: &self.mark(),
            ..CustomerDetails::default()
        };
        let created = self.client.create_customer(&self.key(), &details).await;
        created.unwrap()
    }

    /// Creates a customer whose payments succeed.
    pub(crate) async fn customer_with_card(&self) -> (CustomerId, PaymentMethodId) {
        let Customer { id, .. } = self.customer().await;
        let path = "/v1/payment_methods/pm_card_visa/attach";
        let card = self.post(path, &format!("customer={id}")).await;
        let card: PaymentMethodId = card["id"].as_str().unwrap().parse().unwrap();
        let form = format!("invoice_settings[default_payment_method]={card}");
        self.post(&format!("/v1/customers/{id}"), &form).await;
        (id, card)
    }

    /// Makes a card the default of a customer that is declined at every charge.
    pub(crate) async fn decline(&self, customer: &CustomerId) {
        let path = "/v1/payment_methods/pm_card_chargeCustomerFail/attach";
        let card = self.post(path, &format!("customer={customer}")).await;
        let card = card["id"].as_str().unwrap();
        let form = format!("invoice_settings[default_payment_method]={card}");
        self.post(&format!("/v1/customers/{customer}"), &form).await;
    }

    /// Deletes a customer.
    pub(crate) async fn delete_customer(&self, id: &CustomerId) {
        let path = format!("/v1/customers/{id}");
        self.request(Method::DELETE, &path, "").await;
    }

    /// Creates a price with an amount such as `unit_amount=4900`.
    pub(crate) async fn price(&self, amount: &str) -> PriceId {
        let run = &self.run;
        let form = format!(
            "currency=usd&{amount}&recurring[interval]=month&metadata[{MARK}]={run}\
             &product_data[name]=Tollgate%20test%20mode&product_data[metadata][{MARK}]={run}"
        );
        let price = self.post("/v1/prices", &form).await;
        price["id"].as_str().unwrap().parse().unwrap()
    }

    /// Subscribes a customer to a price, with further parameters such as `&payment_behavior=default_incomplete`.
    pub(crate) async fn subscribe(
        &self,
        customer: &CustomerId,
        price: &PriceId,
        more: &str,
    ) -> Subscription {
        let run = &self.run;
        let form =
            format!("customer={customer}&items[0][price]={price}&metadata[{MARK}]={run}{more}");
        let created = self.post("/v1/subscriptions", &form).await;
        serde_json::from_value(created).unwrap()
    }

    /// Ends a subscription at once.
    pub(crate) async fn cancel(&self, id: &SubscriptionId) {
        let cancellation = Cancellation::default();
        let ended = self.client.cancel_subscription(id, &cancellation).await;
        assert_eq!(ended.unwrap().status, SubscriptionStatus::Canceled);
    }

    /// Creates an invoice of pending items, or fails to.
    pub(crate) async fn try_invoice(
        &self,
        customer: &CustomerId,
        subscription: Option<&SubscriptionId>,
        card: Option<&PaymentMethodId>,
        auto_advance: bool,
    ) -> Result<Invoice, StripeError> {
        let invoice = NewInvoice {
            customer,
            subscription,
            currency: Some("usd"),
            auto_advance,
            payment_method: card,
            description: Some(INVOICE_DESCRIPTION),
            metadata: &self.mark(),
        };
        self.client.create_invoice(&self.key(), &invoice).await
    }

    /// Creates an invoice item, as a charge becomes one.
    pub(crate) async fn item(
        &self,
        customer: &CustomerId,
        amount: i64,
        subscription: Option<&SubscriptionId>,
    ) -> InvoiceItem {
        let charge = self.name();
        let created = self.try_item(&charge, customer, amount, subscription);
        created.await.unwrap()
    }

    /// Creates an invoice item of a charge, or fails to.
    pub(crate) async fn try_item(
        &self,
        charge: &str,
        customer: &CustomerId,
        amount: i64,
        subscription: Option<&SubscriptionId>,
    ) -> Result<InvoiceItem, StripeError> {
        let [start, end] = PERIOD.map(|second| Timestamp::from_second(second).unwrap());
        let item = NewInvoiceItem {
            charge,
            key: &self.key(),
            customer,
            amount,
            currency: "usd",
            description: DESCRIPTION,
            subscription,
            period: Some(Period { start, end }),
            metadata: &self.mark(),
        };
        self.client.create_invoice_item(&item).await
    }
}

/// Description of invoices.
pub(crate) const INVOICE_DESCRIPTION: &str = "Usage beyond the included calls";
/// Text of invoice items.
pub(crate) const DESCRIPTION: &str = "1,234 calls, 1–14 Nov & more=100%";
/// Seconds of the start and the end of the period of invoice items.
pub(crate) const PERIOD: [i64; 2] = [1_793_491_200, 1_794_700_800];

const CUSTOMERS: &str = "/v1/customers";
const PRICES: &str = "/v1/prices";
const PRODUCTS: &str = "/v1/products";
const SESSIONS: &str = "/v1/checkout/sessions";
const INVOICES: &str = "/v1/invoices";

/// Object that was created, and is to be removed.
struct Created {
    collection: &'static str,
    id: String,
}

/// Transport that remembers what was created through it.
struct Connection {
    carrier: Box<dyn Transport>,
    created: Mutex<Vec<Created>>,
    /// Idempotency keys, and whether the response to each was a replay.
    replays: Mutex<Vec<(String, bool)>>,
}

impl Connection {
    fn remember(&self, method: &Method, path: &str, key: Option<String>, of: &Response<Bytes>) {
        if let Some(key) = key {
            let replayed = of.headers().get("idempotent-replayed");
            let is_replay = replayed.is_some_and(|value| value == "true");
            self.replays.lock().unwrap().push((key, is_replay));
        }
        let collections = [CUSTOMERS, PRICES, SESSIONS, INVOICES];
        let collection = collections.into_iter().find(|it| *it == path);
        let (Some(collection), &Method::POST, true) =
            (collection, method, of.status().is_success())
        else {
            return;
        };
        let body: Value = serde_json::from_slice(of.body()).unwrap_or_default();
        // What can be removed of a price is its product.
        let (collection, id) = match collection {
            PRICES => (PRODUCTS, &body["product"]),
            collection => (collection, &body["id"]),
        };
        let id = id.as_str().unwrap_or_default().to_owned();
        self.created
            .lock()
            .unwrap()
            .push(Created { collection, id });
    }
}

impl Transport for Connection {
    fn send(
        &self,
        request: Request<Bytes>,
    ) -> BoxFuture<'_, Result<Response<Bytes>, TransportError>> {
        async move {
            let _permit = REQUESTS.acquire().await.unwrap();
            let method = request.method().clone();
            let path = request.uri().path().to_owned();
            let key = request.headers().get("idempotency-key");
            let key = key.map(|key| key.to_str().unwrap().to_owned());
            let response = self.carrier.send(request).await?;
            self.remember(&method, &path, key, &response);
            Ok(response)
        }
        .boxed()
    }
}

/// Connection, shared by clients.
struct Shared(Arc<Connection>);

impl Transport for Shared {
    fn send(
        &self,
        request: Request<Bytes>,
    ) -> BoxFuture<'_, Result<Response<Bytes>, TransportError>> {
        self.0.send(request)
    }
}

/// Stand-in, in process.
struct InProcess(StripeFake);

impl Transport for InProcess {
    fn send(
        &self,
        request: Request<Bytes>,
    ) -> BoxFuture<'_, Result<Response<Bytes>, TransportError>> {
        let lost = |lost: stripe_fake::ConnectionLost| TransportError::Lost(lost.into());
        async move { self.0.send(request).await.map_err(lost) }.boxed()
    }
}

fn stand_in() -> InProcess {
    InProcess(StripeFake::new(Options {
        test_key: STAND_IN_KEY.to_owned(),
        ..Options::new(Timestamp::now)
    }))
}

fn client(connection: &Arc<Connection>, key: SecretKey) -> StripeClient {
    let config = Config {
        mode: Some(Mode::Test),
        ..Config::default()
    };
    StripeClient::new(
        Arc::new(Shared(Arc::clone(connection))),
        Arc::new(FixedSecret(key)),
        Arc::new(TokioTiming::new(|| 7)),
        config,
    )
}

/// Returns the rejection in which a call ended.
#[track_caller]
pub(crate) fn rejection<T: std::fmt::Debug>(result: Result<T, StripeError>) -> Rejection {
    match result {
        Err(StripeError::Rejected(rejection)) => rejection,
        other => panic!("not a rejection: {other:?}"),
    }
}
