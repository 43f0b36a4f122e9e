//! Start and stop of the local stack: gateway, functions, event bus, queue and tables.

use std::cell::RefCell;
use std::fs::File;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::{Request, State};
use axum::response::{IntoResponse, Response};
use axum::routing::any;
use http::StatusCode;
use http::header::CONTENT_TYPE;
use rand::SeedableRng;
use rand::rngs::StdRng;
use sha2::{Digest, Sha256};
use stripe_fake::StripeFake;
use tokio::net::TcpListener;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;
use tollgate_domain::customer::Customer;
use tollgate_domain::id::KeyId;
use tollgate_domain::key::{self, ApiKey, KeyPrefix, KeyRecord, KeyStatus, Owner};
use tollgate_domain::page::Page;
use tollgate_local_aws::template::{Stack, TEMPLATE};
use tollgate_local_aws::{LocalAws, Role};
use tollgate_runtime::{Chain, Entropy};
use tollgate_store::{CreateOutcome, KeyRef, NewKey, SeedOutcome, Store, StoreError};

use crate::bodies::{BodyError, Sender};
use crate::connections;
use crate::consumer::{Consumer, Handler};
use crate::functions::{self, Function, FunctionFactory};
use crate::gateway::{self, Gateway, KeyAlias};
use crate::local_api;
use crate::local_clock::{ClockError, LocalClock};
use crate::same_origin;
use crate::stand_in::{self, Delivery, StandIn};
pub use crate::start_error::{StartError, UnusableAdminKey};
use crate::template::Template;

/// Stack name of the local stack.
const STACK: &str = "local";

/// Time that calls in progress have to complete when the stack stops.
const STOP_TIMEOUT: Duration = Duration::from_secs(10);

/// Interval of the event publisher's schedule.
const PUBLISH_INTERVAL: Duration = Duration::from_mins(1);

/// The only call that the event bus accepts, as in `X-Amz-Target`.
const PUT_EVENTS: &str = "AWSEvents.PutEvents";

/// Options of a start.
#[derive(Debug, Clone, Default)]
pub struct Options {
    /// Port on 127.0.0.1; 0 picks a free one.
    pub port: u16,
    /// Port of the stand-in for Stripe on 127.0.0.1; 0 picks a free one.
    pub stripe_port: u16,
    /// Directory for the state; `None` keeps it in memory.
    pub data: Option<PathBuf>,
    /// Admin key. A text that is not an API key is an alias of a key that is derived from it.
    pub admin_key: Option<String>,
    /// Template parameters that replace their defaults.
    pub parameters: Vec<(&'static str, String)>,
    /// Template text; `None` uses the template of the build.
    pub template: Option<String>,
}

/// Admin key of a running stack.
#[derive(Clone)]
pub enum AdminKey {
    /// Created at this start; it is shown now and never again.
    Created(String),
    /// Given by the user.
    Given(String),
    /// Created at an earlier start; only its prefix is stored.
    Existing(KeyPrefix),
}

impl AdminKey {
    /// Returns the key, or `None` if only its prefix is stored.
    #[must_use]
    pub fn expose(&self) -> Option<&str> {
        match self {
            AdminKey::Created(key) | AdminKey::Given(key) => Some(key),
            AdminKey::Existing(_) => None,
        }
    }
}

/// A running stack.
pub struct Running {
    /// URL of the gateway, such as `http://127.0.0.1:9000`.
    pub url: String,
    /// Admin key.
    pub admin: AdminKey,
    /// URL of the stand-in for Stripe.
    pub stripe_url: String,
    /// The stand-in for Stripe, for tests that inspect it.
    pub stripe: StripeFake,
    /// AWS services, for tests that inject faults or inspect state.
    pub aws: LocalAws,
    /// Tables, for the same tests.
    pub store: Store,
    /// Whether the plans of the options were stored, or other ones are stored already.
    pub seed: SeedOutcome,
    /// IAM roles of the functions, with the permissions that were used.
    pub roles: Vec<Role>,
    stop: oneshot::Sender<()>,
    server: JoinHandle<()>,
    gateway: Arc<Gateway>,
    /// Delivery of the stand-in's events to the webhook endpoint.
    stripe_webhooks: JoinHandle<()>,
    /// Publication of events, as by its schedule.
    publishing: JoinHandle<()>,
    /// Delivery of usage, of charges, of events of Stripe, and of events to webhooks.
    deliveries: [(Arc<Consumer>, JoinHandle<()>); 4],
    _stand_in: StandIn,
    _lock: Option<File>,
}

/// State of the HTTP routes.
#[derive(Clone)]
struct Routes {
    gateway: Arc<Gateway>,
    local: Function,
    aws: LocalAws,
}

/// Starts the stack.
///
/// # Errors
/// When it cannot start; then nothing is left running.
pub async fn start(options: Options) -> Result<Running, StartError> {
    let template = options.template.as_deref().unwrap_or(TEMPLATE);
    let mut stack = Stack::parse(template, STACK)?;
    for (parameter, value) in &options.parameters {
        stack = stack.with_parameter(parameter, value);
    }
    let template = Template::from_stack(&stack)?;
    let entropy = Entropy::system()?;
    let lock = options.data.as_deref().map(lock).transpose()?;
    let clock_file = options.data.as_ref().map(|dir| dir.join("clock"));
    let local_clock = LocalClock::new(clock_file)
        .map_err(|error: ClockError| StartError::Clock(Box::new(error)))?;
    let clock = local_clock.clock();
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, options.port)).await;
    let listener = listener.map_err(|error| StartError::Port(options.port, error))?;
    let address: SocketAddr = listener
        .local_addr()
        .map_err(|error| StartError::Port(options.port, error))?;
    let stand_in =
        stand_in::start(options.stripe_port, options.data.as_deref(), clock.clone()).await?;
    let stack = stack
        .with_parameter("StripeSecretName", stand_in::SECRET)
        .with_parameter("StripeWebhookSecretName", stand_in::WEBHOOK_SECRET)
        .with_parameter("StripeUrl", &stand_in.url);
    // The operator has no pages here, so that customers return to the product itself.
    let is_given = |name: &str| options.parameters.iter().any(|(given, _)| *given == name);
    let stack = match is_given("ReturnOrigins") {
        true => stack,
        false => stack.with_parameter("ReturnOrigins", &format!("http://{address}")),
    };
    let rule = template.rule.clone();
    let aws = match &options.data {
        Some(dir) => LocalAws::open(dir, rule, clock.clone(), entropy.clone())?,
        None => LocalAws::in_memory(rule, clock.clone(), entropy.clone())?,
    };
    aws.create_tables(stack.name())?;
    aws.set_secret(stand_in::SECRET, &stand_in.key);
    aws.set_secret(stand_in::WEBHOOK_SECRET, &stand_in.webhook_secret);
    let factory = FunctionFactory {
        aws: aws.clone(),
        stack,
        clock,
        entropy,
        roles: RefCell::default(),
    };
    let store = factory.store();
    let seed = store.seed_plans(&factory.plans()?).await?;
    let (admin, alias) = admin_key(&factory, &store, options.admin_key).await?;

    let writer = factory.usage_writer()?;
    let writer: Handler = Box::new(move |event| {
        let writer = writer.clone();
        Box::pin(async move { usage_writer::handle(&writer, event).await })
    });
    let usage = Consumer::new(Arc::clone(aws.queue()), writer, template.usage.clone());
    let usage = Arc::new(usage);
    let worker = factory.charge_worker()?;
    let worker: Handler = Box::new(move |event| {
        let worker = worker.clone();
        Box::pin(async move { billing::submit(&worker, event).await })
    });
    let queue = aws.named_queue(&template.charges.queue)?;
    let charges = Arc::new(Consumer::new(queue, worker, template.charges.clone()));
    let follower = factory.stripe_events()?;
    let follower: Handler = Box::new(move |event| {
        let follower = follower.clone();
        Box::pin(async move { stripe_events::handle(&follower, event).await })
    });
    let queue = aws.named_queue(&template.stripe_events.queue)?;
    let stripe_events = Arc::new(Consumer::new(
        queue,
        follower,
        template.stripe_events.clone(),
    ));
    let sender = factory.webhook_sender()?;
    let sender: Handler = Box::new(move |event| {
        let sender = sender.clone();
        Box::pin(async move { events::deliver(&sender, event).await })
    });
    let queue = aws.named_queue(&template.webhooks.queue)?;
    let webhooks = Arc::new(Consumer::new(queue, sender, template.webhooks.clone()));
    let publisher = factory.event_publisher()?;
    let gateway = Arc::new(Gateway::new(&template, &factory, alias)?);
    let stripe_webhooks = Delivery::new(stand_in.fake.clone(), Arc::clone(&gateway));
    let stripe_webhooks = Arc::new(stripe_webhooks);
    let local = local_api::routes(local_api::App {
        local_clock,
        clock: factory.clock.clone(),
        aws: aws.clone(),
        usage: Arc::clone(&usage),
        charges: Arc::clone(&charges),
        stripe_events: Arc::clone(&stripe_events),
        stripe_webhooks: Arc::clone(&stripe_webhooks),
        publisher: publisher.clone(),
        webhooks: Arc::clone(&webhooks),
        gateway: Arc::clone(&gateway),
        billing: factory.billing()?,
        reconciliation: factory.reconciliation()?,
    });
    let state = Routes {
        gateway: Arc::clone(&gateway),
        local: functions::plain(tollgate_web::serve(local)),
        aws: aws.clone(),
    };
    let routes = Router::new()
        .route("/_local/{*rest}", any(serve_local))
        .route(
            "/",
            axum::routing::post(serve_put_events).fallback(serve_gateway),
        )
        .fallback(serve_gateway)
        .with_state(state);

    let (stop, stopped) = oneshot::channel::<()>();
    let server = tokio::spawn(connections::serve(listener, routes, async {
        // An error means that the sender was dropped, which stops the server as well.
        let _ = stopped.await;
    }));
    let stripe_webhooks = tokio::spawn(async move { match stripe_webhooks.run().await {} });
    let publishing = tokio::spawn(publish_minutely(publisher));
    let deliveries = [usage, charges, stripe_events, webhooks].map(|consumer| {
        let running = Arc::clone(&consumer);
        (consumer, tokio::spawn(async move { running.run().await }))
    });
    Ok(Running {
        url: format!("http://{address}"),
        admin,
        stripe_url: stand_in.url.clone(),
        stripe: stand_in.fake.clone(),
        aws,
        store,
        seed,
        roles: factory.roles.into_inner(),
        stop,
        server,
        gateway,
        stripe_webhooks,
        publishing,
        deliveries,
        _stand_in: stand_in,
        _lock: lock,
    })
}

/// Publishes events once a minute, as the schedule in the template does.
async fn publish_minutely(publisher: events::Publisher) {
    loop {
        tokio::time::sleep(PUBLISH_INTERVAL).await;
        if let Err(error) = publisher.publish(None).await {
            tracing::warn!(error = %Chain(&error), "not all events were published");
        }
    }
}

impl Running {
    /// Lists customers after `after` whose plan does not exist, as an earlier release stored them: their
    /// calls are denied. A page may be empty and still have a next one.
    ///
    /// # Errors
    /// When the tables cannot be read.
    pub async fn customers_without_plan(
        &self,
        after: Option<&str>,
    ) -> Result<Page<Customer>, StoreError> {
        let plans = self.store.plans().await?;
        let page = self.store.list_customers(after, 100).await?;
        let customers = page.items.into_iter().map(|(_, customer)| customer);
        let items = customers.filter(|customer| plans.get(&customer.plan).is_none());
        Ok(Page {
            items: items.collect(),
            next: page.next,
        })
    }

    /// Stops the stack: it accepts no new calls, and completes those in progress and the batch in flight.
    /// Queued messages stay in the queue, which is on disk if there is a data directory.
    ///
    /// # Errors
    /// When the server has failed.
    pub async fn stop(self) -> std::io::Result<()> {
        // What is not delivered now is delivered after the next start.
        self.stripe_webhooks.abort();
        let _ = self.stop.send(());
        let served = async {
            let served = self.server.await;
            self.gateway.finish_calls().await;
            served
        };
        // A caller that has not sent its request by then does not keep the process running.
        let served = tokio::time::timeout(STOP_TIMEOUT, served).await;
        self.gateway.shut_down().await;
        // An event that is being published is published again after the next start.
        self.publishing.abort();
        for (consumer, running) in self.deliveries {
            consumer.stop();
            let _ = running.await;
        }
        if let Err(error) = self.aws.vacuum() {
            tracing::warn!(error = %Chain(&error), "erased data may still be in the tables' file");
        }
        match served {
            Ok(Err(panic)) => Err(std::io::Error::other(panic)),
            Ok(Ok(())) | Err(_) => Ok(()),
        }
    }
}

/// Locks a data directory for this process.
fn lock(dir: &Path) -> Result<File, StartError> {
    let unusable = |error| StartError::Data(dir.to_owned(), error);
    std::fs::create_dir_all(dir).map_err(unusable)?;
    let file = File::create(dir.join("lock")).map_err(unusable)?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(std::fs::TryLockError::WouldBlock) => Err(StartError::InUse(dir.to_owned())),
        Err(std::fs::TryLockError::Error(error)) => Err(unusable(error)),
    }
}

/// Determines the admin key, and creates it if it does not exist. Also returns the alias if the given
/// text is not a key itself.
async fn admin_key(
    factory: &FunctionFactory,
    store: &Store,
    given: Option<String>,
) -> Result<(AdminKey, Option<KeyAlias>), StartError> {
    let format = factory.key_format()?;
    if let Some(text) = given {
        let visible = text.bytes().all(|byte| byte.is_ascii_graphic());
        if !visible || text.is_empty() || text.len() > 128 {
            return Err(UnusableAdminKey::Unsendable.into());
        }
        if let Ok(key) = ApiKey::parse(&text) {
            if !is_admin_key(factory, store, &key).await? {
                may_become_admin_key(factory, store, &key).await?;
                store_admin_key(factory, store, &key).await?;
            }
            return Ok((AdminKey::Given(text), None));
        }
        if format.has_prefix(&text) {
            return Err(UnusableAdminKey::Mistyped.into());
        }
        // A text is the alias of the same key at every start.
        let seed = Sha256::digest(&text).into();
        let key = format.generate(key::KeyKind::Admin, &mut StdRng::from_seed(seed));
        if !is_admin_key(factory, store, &key).await? {
            store_admin_key(factory, store, &key).await?;
        }
        let alias = KeyAlias {
            text: text.clone(),
            key: key.expose().to_owned(),
        };
        return Ok((AdminKey::Given(text), Some(alias)));
    }
    if let Some(prefix) = existing_admin_key(factory, store).await? {
        return Ok((AdminKey::Existing(prefix), None));
    }
    let key = factory
        .entropy
        .with(|rng| format.generate(key::KeyKind::Admin, rng));
    store_admin_key(factory, store, &key).await?;
    Ok((AdminKey::Created(key.expose().to_owned()), None))
}

/// Returns whether a given key is a valid admin key; `false` if it does not exist.
///
/// # Errors
/// When the key exists but is not a valid admin key.
async fn is_admin_key(
    factory: &FunctionFactory,
    store: &Store,
    key: &ApiKey,
) -> Result<bool, StartError> {
    let Some(record) = store.key_by_digest(key.digest()).await? else {
        return Ok(false);
    };
    if record.owner != Owner::Admin {
        Err(UnusableAdminKey::OfACustomer(record.prefix).into())
    } else if record.status(factory.clock.now()) != KeyStatus::Active {
        Err(UnusableAdminKey::Ended(record.prefix).into())
    } else {
        Ok(true)
    }
}

/// Checks that a key that does not exist yet may be stored as the admin key.
async fn may_become_admin_key(
    factory: &FunctionFactory,
    store: &Store,
    key: &ApiKey,
) -> Result<(), StartError> {
    let given = key.prefix();
    if key.kind() != key::KeyKind::Admin {
        return Err(UnusableAdminKey::OfACustomer(given).into());
    }
    let name = KeyRef::Prefix(given.clone());
    if store.key(&name).await?.is_some() && !store.is_admin_key(&name).await? {
        return Err(UnusableAdminKey::OfEarlierRelease(given).into());
    }
    match existing_admin_key(factory, store).await? {
        Some(existing) => Err(UnusableAdminKey::OfOtherDirectory { given, existing }.into()),
        None => Ok(()),
    }
}

/// Finds a valid admin key of an earlier start.
async fn existing_admin_key(
    factory: &FunctionFactory,
    store: &Store,
) -> Result<Option<KeyPrefix>, StoreError> {
    // Admin keys come first in the list of keys.
    let first = store.list_keys(None, None, 100).await?;
    let now = factory.clock.now();
    for (_, key) in first.items {
        let is_active = key.owner == Owner::Admin && key.status(now) == KeyStatus::Active;
        if is_active && store.is_admin_key(&KeyRef::Id(key.id)).await? {
            return Ok(Some(key.prefix));
        }
    }
    Ok(None)
}

/// Stores an admin key.
async fn store_admin_key(
    factory: &FunctionFactory,
    store: &Store,
    key: &ApiKey,
) -> Result<(), StartError> {
    let record = KeyRecord {
        name: "local admin".to_owned(),
        ..KeyRecord::new(
            factory.entropy.with(KeyId::random),
            key.prefix(),
            Owner::Admin,
            factory.clock.now(),
        )
    };
    let new = NewKey {
        secret: key,
        record: &record,
    };
    match store.create_key(&new, None).await? {
        CreateOutcome::New => Ok(()),
        CreateOutcome::Taken
        | CreateOutcome::Replayed(_)
        | CreateOutcome::KeyReused
        | CreateOutcome::NoCustomer => Err(UnusableAdminKey::Taken(key.prefix()).into()),
    }
}

async fn serve_gateway(State(state): State<Routes>, request: Request) -> Response {
    state.gateway.handle(request).await
}

async fn serve_local(State(state): State<Routes>, request: Request) -> Response {
    if let Err(problem) = same_origin::check(request.headers()) {
        return problem.render(gateway::LOCAL_REQUEST_ID);
    }
    state.gateway.handle_local(&state.local, request).await
}

/// Serves PutEvents, for usage producers that use the AWS protocol:
/// `aws events put-events --endpoint-url http://127.0.0.1:9000 …`.
async fn serve_put_events(State(state): State<Routes>, request: Request) -> Response {
    let target = request.headers().get("x-amz-target");
    if target.is_none_or(|target| target != PUT_EVENTS) {
        return state.gateway.handle(request).await;
    }
    if let Err(problem) = same_origin::check(request.headers()) {
        return problem.render(gateway::LOCAL_REQUEST_ID);
    }
    let bodies = &state.gateway.bodies;
    let body = bodies.read(request.into_body(), false, &Sender::Machine);
    let body = match body.await {
        Ok(body) => body,
        Err(BodyError::TooLarge) => return StatusCode::PAYLOAD_TOO_LARGE.into_response(),
        Err(BodyError::Broken) => return StatusCode::BAD_REQUEST.into_response(),
    };
    let (status, response) = state
        .aws
        .call(PUT_EVENTS, &String::from_utf8_lossy(&body.bytes));
    let status = StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let json = [(CONTENT_TYPE, "application/x-amz-json-1.1")];
    (status, json, response).into_response()
}
