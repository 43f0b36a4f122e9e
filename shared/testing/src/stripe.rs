//! A stand-in for Stripe, called in process, and a client of it.

use std::sync::Arc;

use bytes::Bytes;
use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use http::{Request, Response, StatusCode};
use serde_json::Value;
use stripe_fake::{Fault, FaultRule, Options, StripeFake};
use tollgate_local_aws::fixture::Fixture;
use tollgate_runtime::Clock;
use tollgate_stripe::{Config, FixedSecret, SecretKey, TokioTiming, Transport, TransportError};

pub use tollgate_stripe::StripeClient;

/// Change of a response of the stand-in, by the path and the parameters of the request.
type Alter = dyn Fn(&str, &str, &mut Value) + Send + Sync;

/// Transport to the stand-in.
struct InProcess {
    fake: StripeFake,
    alter: Option<Box<Alter>>,
}

impl Transport for InProcess {
    fn send(
        &self,
        request: Request<Bytes>,
    ) -> BoxFuture<'_, Result<Response<Bytes>, TransportError>> {
        async move {
            let lost = |_| TransportError::Lost("the connection was lost".into());
            let path = request.uri().path().to_owned();
            let form = String::from_utf8_lossy(request.body()).into_owned();
            let response = self.fake.send(request).await.map_err(lost)?;
            let Some(alter) = &self.alter else {
                return Ok(response);
            };
            let (mut parts, body) = response.into_parts();
            let mut body: Value = serde_json::from_slice(&body).unwrap();
            alter(&path, &form, &mut body);
            if parts.status.is_success() && body.get("error").is_some() {
                parts.status = StatusCode::BAD_REQUEST;
            }
            Ok(Response::from_parts(parts, body.to_string().into()))
        }
        .boxed()
    }
}

/// Secret key of test mode.
const TEST_KEY: &str = "sk_test_stripe_fake";

fn client(key: &str, fake: &StripeFake, alter: Option<Box<Alter>>) -> StripeClient {
    let fake = fake.clone();
    StripeClient::new(
        Arc::new(InProcess { fake, alter }),
        Arc::new(FixedSecret(SecretKey::parse(key).unwrap())),
        Arc::new(TokioTiming::new(|| 7)),
        Config::default(),
    )
}

/// The stand-in with a client.
#[derive(Clone)]
pub struct Stripe {
    /// The stand-in.
    pub fake: StripeFake,
    /// Client of the stand-in, in test mode.
    pub client: StripeClient,
}

impl Stripe {
    /// Creates a stand-in without objects, with the clock of the fixture.
    pub fn new(at: &Fixture) -> Self {
        Self::with_clock(at.clock())
    }

    /// Creates a stand-in without objects, with this clock.
    pub fn with_clock(clock: Clock) -> Self {
        let fake = StripeFake::new(Options {
            keeps_log: true,
            ..Options::new(move || clock.now())
        });
        let client = client(TEST_KEY, &fake, None);
        Self { fake, client }
    }

    /// Returns a client of the stand-in that gets its responses changed by a function of path, body of the request and
    /// response: for what the stand-in does not do. A response that becomes an error gets the status 400.
    pub fn altered(
        &self,
        alter: impl Fn(&str, &str, &mut Value) + Send + Sync + 'static,
    ) -> StripeClient {
        client(TEST_KEY, &self.fake, Some(Box::new(alter)))
    }

    /// Returns a client of the stand-in with another secret key.
    pub fn with_key(&self, key: &str) -> StripeClient {
        client(key, &self.fake, None)
    }

    /// Calls the API as someone else does, with parameters as in a form. Returns the response, which is a
    /// success.
    pub async fn call(&self, method: &str, path: &str, form: &str) -> Value {
        let request = Request::builder()
            .method(method)
            .uri(format!("https://stripe{path}"))
            .header("authorization", "Bearer sk_test_stripe_fake")
            .header("content-type", "application/x-www-form-urlencoded")
            .body(Bytes::copy_from_slice(form.as_bytes()))
            .unwrap();
        let response = self.fake.send(request).await.unwrap();
        let body = String::from_utf8_lossy(response.body()).into_owned();
        assert_eq!(response.status(), 200, "{method} {path}: {body}");
        serde_json::from_str(&body).unwrap()
    }

    /// Creates a monthly price in US dollars. Returns its id.
    pub async fn price(&self, cents: u64) -> String {
        let form = format!(
            "currency=usd&unit_amount={cents}&recurring[interval]=month&product_data[name]=Plan"
        );
        let price = self.call("POST", "/v1/prices", &form).await;
        price["id"].as_str().unwrap().to_owned()
    }

    /// Subscribes a Stripe customer to a price, paid by card. Returns the subscription.
    pub async fn subscribe(&self, customer: &str, price: &str) -> Value {
        let card = format!("/v1/customers/{customer}");
        let form = "invoice_settings[default_payment_method]=pm_card_visa";
        self.call("POST", &card, form).await;
        let form = format!("customer={customer}&items[0][price]={price}");
        self.call("POST", "/v1/subscriptions", &form).await
    }

    /// Injects a fault into the next requests of this method and path.
    pub fn fail(&self, method: &str, path: &str, times: u32, fault: Fault) {
        self.fake
            .add_fault(FaultRule::new(method, path, times, fault));
    }

    /// Takes the requests since the last time, as `POST /v1/customers`.
    pub fn requests(&self) -> Vec<String> {
        let log = self.fake.take_log().into_iter();
        log.map(|request| format!("{} {}", request.method, request.path))
            .collect()
    }
}
