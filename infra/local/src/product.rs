//! The whole product, started and stopped.

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
use tokio::net::TcpListener;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;
use tollgate_domain::customer::Customer;
use tollgate_domain::id::KeyId;
use tollgate_domain::key::{self, ApiKey, KeyPrefix, KeyRecord, KeyStatus, Owner};
use tollgate_domain::llm::InvalidPrices;
use tollgate_domain::plan::{Catalog, Overrides};
use tollgate_local_aws::template::{InvalidTemplate, Stack, TEMPLATE};
use tollgate_local_aws::{LocalAws, LocalAwsError, Role};
use tollgate_runtime::config::InvalidConfig;
use tollgate_runtime::{Chain, Entropy};
use tollgate_store::{Created, KeyRef, NewKey, Page, Store, StoreError};

use crate::bodies::{Sender, Unreadable};
use crate::connections;
use crate::consumer::Consumer;
use crate::functions::{self, Function, Parts};
use crate::gateway::{self, Gateway, KeyAlias};
use crate::local_api;
use crate::local_clock::{ClockError, LocalClock};
use crate::same_origin;
use crate::template::Template;

/// What the local product is called as a stack.
const STACK: &str = "local";

/// How long calls under way may take to be answered when the product stops.
const STOP_TIMEOUT: Duration = Duration::from_secs(10);

/// The one call that the bus takes, as the AWS protocol names it.
const PUT_EVENTS: &str = "AWSEvents.PutEvents";

/// How to start.
#[derive(Debug, Clone, Default)]
pub struct Options {
    /// Port on 127.0.0.1; 0 picks a free one.
    pub port: u16,
    /// Where to keep state; in memory if left out.
    pub data: Option<PathBuf>,
    /// The admin key. A text that is no key of Tollgate's stands for one that is made of it.
    pub admin_key: Option<String>,
    /// Parameters of the template, in place of their defaults.
    pub parameters: Vec<(&'static str, String)>,
    /// Another template than that of the build.
    pub template: Option<String>,
}

/// Why it did not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The port.
    #[error("cannot listen on 127.0.0.1:{0}; choose another port with --port, or 0 for any")]
    Port(u16, #[source] std::io::Error),
    /// The data directory.
    #[error("cannot use {0} for data; choose another directory with --data")]
    Data(PathBuf, #[source] std::io::Error),
    /// Another process uses it.
    #[error("{0} is in use by another process; choose another directory with --data")]
    InUse(PathBuf),
    /// The admin key that is given.
    #[error("the admin key that is given by TOLLGATE_ADMIN_KEY or --admin-key cannot be used")]
    AdminKey(#[from] UnusableAdminKey),
    /// The configuration.
    #[error(transparent)]
    Config(#[from] InvalidConfig),
    /// The prices of tokens.
    #[error(transparent)]
    Prices(#[from] InvalidPrices),
    /// The template.
    #[error(transparent)]
    Template(#[from] InvalidTemplate),
    /// The embedded services.
    #[error("the embedded AWS services do not start")]
    Aws(#[from] LocalAwsError),
    /// The tables.
    #[error("the tables cannot be used")]
    Store(#[from] StoreError),
    /// The remembered time.
    #[error("the clock cannot be restored")]
    Clock(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// Randomness.
    #[error("the operating system has no randomness to give")]
    Entropy(#[from] rand::rngs::SysError),
}

/// Why an admin key that is given cannot be the one of this start, and what to give.
#[derive(Debug, thiserror::Error)]
pub enum UnusableAdminKey {
    /// No header field could hold it.
    #[error("it must be 1 to 128 visible ASCII characters")]
    Unsendable,
    /// A key that was not copied whole, or mistyped.
    #[error(
        "it begins like a key and is none; copy the key again, or make up a text that begins \
         otherwise"
    )]
    Mistyped,
    /// A customer's key.
    #[error(
        "{0}… is a customer's key; give the admin key, or none to go on with the one that was made \
         at the first start"
    )]
    OfACustomer(KeyPrefix),
    /// A key that no longer works.
    #[error("{0}… is revoked or has expired; give another, or a text that you make up")]
    Ended(KeyPrefix),
    /// An admin key as they were stored before 0.1.0.
    #[error(
        "{0}… was made by an earlier release and opens nothing; give none, or a text that you make up, for a \
         new one"
    )]
    OfEarlierRelease(KeyPrefix),
    /// A key of which another shows the same beginning.
    #[error("{0}… is how another key begins; give another")]
    Taken(KeyPrefix),
    /// A key of another data directory, most likely.
    #[error(
        "{given}… is not known in this data directory, whose admin key is {known}…; give that one, \
         none, or a text that you make up, or choose the key's own directory with --data"
    )]
    OfElsewhere {
        /// What was given.
        given: KeyPrefix,
        /// What there is.
        known: KeyPrefix,
    },
}

/// The admin key of a running product.
#[derive(Clone)]
pub enum AdminKey {
    /// Made at this start: shown now, and never again.
    Made(String),
    /// The user's own.
    Given(String),
    /// Made at an earlier start; only its prefix is known.
    Earlier(KeyPrefix),
}

impl AdminKey {
    /// The key, where it is known.
    #[must_use]
    pub fn expose(&self) -> Option<&str> {
        match self {
            AdminKey::Made(key) | AdminKey::Given(key) => Some(key),
            AdminKey::Earlier(_) => None,
        }
    }
}

/// A running product.
pub struct Running {
    /// Where it listens, such as `http://127.0.0.1:9000`.
    pub url: String,
    /// Its admin key.
    pub admin: AdminKey,
    /// The services underneath, for tests that look behind the API.
    pub aws: LocalAws,
    /// Its tables, likewise.
    pub store: Store,
    /// The plans on offer.
    pub plans: Catalog,
    /// The functions' roles, which know what was asked of them.
    pub roles: Vec<Role>,
    stop: oneshot::Sender<()>,
    server: JoinHandle<()>,
    gateway: Arc<Gateway>,
    deliveries: JoinHandle<()>,
    consumer: Arc<Consumer>,
    _lock: Option<File>,
}

#[derive(Clone)]
struct Doors {
    gateway: Arc<Gateway>,
    local: Function,
    aws: LocalAws,
}

/// Starts the product.
///
/// # Errors
/// When it cannot start; nothing is left running then.
pub async fn start(options: Options) -> Result<Running, StartError> {
    let template = options.template.as_deref().unwrap_or(TEMPLATE);
    let mut stack = Stack::of(template, STACK)?;
    for (parameter, value) in &options.parameters {
        stack = stack.with_parameter(parameter, value);
    }
    let template = Template::of(&stack)?;
    let entropy = Entropy::system()?;
    let lock = options.data.as_deref().map(lock).transpose()?;
    let clock_file = options.data.as_ref().map(|dir| dir.join("clock"));
    let local_clock = LocalClock::new(clock_file)
        .map_err(|error: ClockError| StartError::Clock(Box::new(error)))?;
    let clock = local_clock.clock();
    let rule = template.rule.clone();
    let aws = match &options.data {
        Some(dir) => LocalAws::open(dir, rule, clock.clone(), entropy.clone())?,
        None => LocalAws::in_memory(rule, clock.clone(), entropy.clone())?,
    };
    aws.create_tables(stack.name())?;
    let parts = Parts {
        aws: aws.clone(),
        stack,
        clock,
        entropy,
        roles: RefCell::default(),
    };
    let store = parts.store();
    let (admin, alias) = admin_key(&parts, &store, options.admin_key).await?;

    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, options.port)).await;
    let listener = listener.map_err(|error| StartError::Port(options.port, error))?;
    let address: SocketAddr = listener
        .local_addr()
        .map_err(|error| StartError::Port(options.port, error))?;

    let consumer = Arc::new(Consumer::new(
        aws.clone(),
        parts.usage_writer()?,
        template.batch_size,
        Duration::from_secs(template.batch_window_s),
        Duration::from_secs(template.visibility_timeout_s),
    ));
    let gateway = Arc::new(Gateway::new(&template, &parts, alias)?);
    let local = local_api::routes(local_api::App {
        local_clock,
        clock: parts.clock.clone(),
        aws: aws.clone(),
        consumer: Arc::clone(&consumer),
        gateway: Arc::clone(&gateway),
        billing: parts.billing()?,
        reconciliation: parts.reconciliation()?,
    });
    let doors = Doors {
        gateway: Arc::clone(&gateway),
        local: functions::plain(tollgate_web::serve(local)),
        aws: aws.clone(),
    };
    let routes = Router::new()
        .route("/_local/{*rest}", any(local_door))
        .route("/", axum::routing::post(aws_door).fallback(gateway_door))
        .fallback(gateway_door)
        .with_state(doors);

    let (stop, stopped) = oneshot::channel::<()>();
    let server = tokio::spawn(connections::serve(listener, routes, async {
        // A sender that is dropped stops the server as well.
        let _ = stopped.await;
    }));
    let running = Arc::clone(&consumer);
    let deliveries = tokio::spawn(async move { running.run().await });
    Ok(Running {
        url: format!("http://{address}"),
        admin,
        aws,
        store,
        plans: parts.plans()?,
        roles: parts.roles.into_inner(),
        stop,
        server,
        gateway,
        deliveries,
        consumer,
        _lock: lock,
    })
}

impl Running {
    /// Lists customers whose plan is not in the catalogue, from `after` on: their calls are refused. A
    /// page may be empty and have a next one.
    ///
    /// # Errors
    /// When the tables cannot be read.
    pub async fn customers_without_plan(
        &self,
        after: Option<&str>,
    ) -> Result<Page<Customer>, StoreError> {
        let page = self.store.list_customers(after, 100).await?;
        let customers = page.items.into_iter().map(|(_, customer)| customer);
        let items = customers.filter(|customer| self.plans.get(&customer.plan).is_none());
        Ok(Page {
            items: items.collect(),
            next: page.next,
        })
    }

    /// Stops it: no new calls, those under way are answered, the batch that is out is finished.
    /// What is queued stays queued, and is on disk where there is a data directory.
    ///
    /// # Errors
    /// When the server had failed.
    pub async fn stop(self) -> std::io::Result<()> {
        let _ = self.stop.send(());
        let served = async {
            let served = self.server.await;
            self.gateway.finish_calls().await;
            served
        };
        // Whoever has not sent their request by then does not keep the process alive.
        let served = tokio::time::timeout(STOP_TIMEOUT, served).await;
        self.gateway.end().await;
        self.consumer.stop();
        let _ = self.deliveries.await;
        if let Err(error) = self.aws.erase_what_was_deleted() {
            tracing::warn!(error = %Chain(&error), "what was erased may still be in the tables' file");
        }
        match served {
            Ok(Err(panic)) => Err(std::io::Error::other(panic)),
            Ok(Ok(())) | Err(_) => Ok(()),
        }
    }
}

/// Claims a data directory for this process.
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

/// Sees to it that there is an admin key.
async fn admin_key(
    parts: &Parts,
    store: &Store,
    given: Option<String>,
) -> Result<(AdminKey, Option<KeyAlias>), StartError> {
    let format = parts.key_format()?;
    if let Some(text) = given {
        let visible = text.bytes().all(|byte| byte.is_ascii_graphic());
        if !visible || text.is_empty() || text.len() > 128 {
            return Err(UnusableAdminKey::Unsendable.into());
        }
        if let Ok(key) = ApiKey::parse(&text) {
            if !is_admin_key(parts, store, &key).await? {
                may_become_admin_key(parts, store, &key).await?;
                store_admin_key(parts, store, &key).await?;
            }
            return Ok((AdminKey::Given(text), None));
        }
        if format.begins(&text) {
            return Err(UnusableAdminKey::Mistyped.into());
        }
        // The same text stands for the same key at every start.
        let seed = Sha256::digest(&text).into();
        let key = format.generate(key::Role::Admin, &mut StdRng::from_seed(seed));
        if !is_admin_key(parts, store, &key).await? {
            store_admin_key(parts, store, &key).await?;
        }
        let alias = KeyAlias {
            text: text.clone(),
            key: key.expose().to_owned(),
        };
        return Ok((AdminKey::Given(text), Some(alias)));
    }
    if let Some(prefix) = earlier_admin_key(parts, store).await? {
        return Ok((AdminKey::Earlier(prefix), None));
    }
    let key = parts
        .entropy
        .with(|rng| format.generate(key::Role::Admin, rng));
    store_admin_key(parts, store, &key).await?;
    Ok((AdminKey::Made(key.expose().to_owned()), None))
}

/// Whether a key that is given works as an admin key; `false` if it is not known here.
async fn is_admin_key(parts: &Parts, store: &Store, key: &ApiKey) -> Result<bool, StartError> {
    let Some(record) = store.key_by_digest(key.digest()).await? else {
        return Ok(false);
    };
    if record.owner != Owner::Admin {
        Err(UnusableAdminKey::OfACustomer(record.prefix).into())
    } else if record.status(parts.clock.now()) != KeyStatus::Active {
        Err(UnusableAdminKey::Ended(record.prefix).into())
    } else {
        Ok(true)
    }
}

/// Checks that a key that is not known here was meant for here.
async fn may_become_admin_key(
    parts: &Parts,
    store: &Store,
    key: &ApiKey,
) -> Result<(), StartError> {
    let given = key.prefix();
    if key.role() != key::Role::Admin {
        return Err(UnusableAdminKey::OfACustomer(given).into());
    }
    let name = KeyRef::Prefix(given.clone());
    if store.key(&name).await?.is_some() && !store.is_admin_key(&name).await? {
        return Err(UnusableAdminKey::OfEarlierRelease(given).into());
    }
    match earlier_admin_key(parts, store).await? {
        Some(known) => Err(UnusableAdminKey::OfElsewhere { given, known }.into()),
        None => Ok(()),
    }
}

/// An admin key that works, from an earlier start.
async fn earlier_admin_key(parts: &Parts, store: &Store) -> Result<Option<KeyPrefix>, StoreError> {
    // Admin keys come first in the list of keys.
    let first = store.list_keys(None, None, 100).await?;
    let now = parts.clock.now();
    for (_, key) in first.items {
        let is_active = key.owner == Owner::Admin && key.status(now) == KeyStatus::Active;
        if is_active && store.is_admin_key(&KeyRef::Id(key.id)).await? {
            return Ok(Some(key.prefix));
        }
    }
    Ok(None)
}

/// Stores an admin key.
async fn store_admin_key(parts: &Parts, store: &Store, key: &ApiKey) -> Result<(), StartError> {
    let record = KeyRecord {
        id: parts.entropy.with(KeyId::random),
        prefix: key.prefix(),
        name: "local admin".to_owned(),
        owner: Owner::Admin,
        created_at: parts.clock.now(),
        expires_at: None,
        revoked_at: None,
        suspended_at: None,
        overrides: Overrides::default(),
        rotated_to: None,
        hour_of: None,
    };
    let new = NewKey {
        secret: key,
        record: &record,
    };
    match store.create_key(&new, None).await? {
        Created::New => Ok(()),
        Created::Taken | Created::Replayed(_) | Created::KeyReused | Created::NoCustomer => {
            Err(UnusableAdminKey::Taken(key.prefix()).into())
        }
    }
}

async fn gateway_door(State(doors): State<Doors>, request: Request) -> Response {
    doors.gateway.handle(request).await
}

async fn local_door(State(doors): State<Doors>, request: Request) -> Response {
    if let Err(problem) = same_origin::check(request.headers()) {
        return problem.render(gateway::LOCAL);
    }
    doors.gateway.handle_local(&doors.local, request).await
}

/// The bus, for producers of usage that speak the AWS protocol:
/// `aws events put-events --endpoint-url http://127.0.0.1:9000 …`.
async fn aws_door(State(doors): State<Doors>, request: Request) -> Response {
    let target = request.headers().get("x-amz-target");
    if target.is_none_or(|target| target != PUT_EVENTS) {
        return doors.gateway.handle(request).await;
    }
    if let Err(problem) = same_origin::check(request.headers()) {
        return problem.render(gateway::LOCAL);
    }
    let bodies = &doors.gateway.bodies;
    let body = bodies.read(request.into_body(), false, &Sender::Machine);
    let body = match body.await {
        Ok(body) => body,
        Err(Unreadable::TooLarge) => return StatusCode::PAYLOAD_TOO_LARGE.into_response(),
        Err(Unreadable::Broken) => return StatusCode::BAD_REQUEST.into_response(),
    };
    let (status, answer) = doors
        .aws
        .answer(PUT_EVENTS, &String::from_utf8_lossy(&body.bytes));
    let status = StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let json = [(CONTENT_TYPE, "application/x-amz-json-1.1")];
    (status, json, answer).into_response()
}
