//! Seeds the tables with customers and keys, and builds an event for each key.

use hyper::body::Bytes;
use jiff::Timestamp;
use serde_json::{Value, json};
use tollgate_domain::customer::Customer;
use tollgate_domain::id::{CustomerId, InvalidId, KeyId, PlanId};
use tollgate_domain::key::{ApiKey, InvalidKeyFormat, KeyFormat, KeyKind, KeyRecord, Owner};
use tollgate_domain::plan::{Catalog, InvalidCatalog};
use tollgate_local_aws::{InvalidPattern, LocalAws, Rule};
use tollgate_runtime::{Clock, Entropy};
use tollgate_store::{CreateOutcome, NewKey, Store, StoreError};

/// Name of the stack, which is the prefix of the table names.
pub(crate) const STACK: &str = "bench";
/// Customers of the traffic shape `zipf`, with one key each.
pub(crate) const ZIPF_KEYS: usize = 1_000;
const SEED: u64 = 1;

/// Shipped plan of most of the customers, with limits that are not reached.
const PLAN: &str = "enterprise";
/// Plan without leases, with a counter write for every call.
const STRICT: &str = "strict";
/// Hourly limit of a peer's key.
const PEER_LIMIT: u64 = 100_000;

/// An error while seeding the tables.
#[derive(Debug, thiserror::Error)]
pub(crate) enum SeedError {
    #[error("the embedded services do not start")]
    Aws(#[from] tollgate_local_aws::LocalAwsError),
    #[error("the event pattern of usage is invalid")]
    Rule(#[from] InvalidPattern),
    #[error("an id is invalid")]
    Id(#[from] InvalidId),
    #[error("the key format is invalid")]
    Format(#[from] InvalidKeyFormat),
    #[error("the shipped plans are invalid")]
    Plans(#[from] InvalidCatalog),
    #[error("a plan or an event is not valid JSON")]
    Json(#[from] serde_json::Error),
    #[error("the store failed")]
    Store(#[from] StoreError),
    #[error("{0} could not be created: {1}")]
    NotCreated(String, String),
}

/// Authorizer events, one for each key, as the bytes that Lambda sends.
#[derive(Debug)]
pub(crate) struct Events {
    /// Event of a customer with leases.
    pub(crate) leased: Bytes,
    /// Event of a customer without leases.
    pub(crate) strict: Bytes,
    /// Event of the traffic shape `hot`.
    pub(crate) hot: Bytes,
    /// Events of the traffic shape `zipf`.
    pub(crate) zipf: Vec<Bytes>,
    /// Event with a key in the peers' format, for Node.js.
    pub(crate) node: Bytes,
    /// Event with a key in the peers' format, for Python.
    pub(crate) python: Bytes,
}

/// Starts the embedded services with Tollgate's empty tables.
pub(crate) fn services() -> Result<LocalAws, SeedError> {
    let rule = Rule::new(json!({ "detail-type": [tollgate_domain::usage::EVENT_TYPE] }))?;
    let aws = LocalAws::in_memory(rule, Clock::system(), Entropy::seeded(SEED))?;
    aws.create_tables(STACK)?;
    Ok(aws)
}

/// Starts the embedded services with Tollgate's tables, which contain the plans and nothing else.
pub(crate) async fn services_with_plans() -> Result<LocalAws, SeedError> {
    let aws = services()?;
    store(&aws).seed_plans(&plans()?).await?;
    Ok(aws)
}

/// Returns a store on the tables of `aws`.
pub(crate) fn store(aws: &LocalAws) -> Store {
    let entropy = Entropy::seeded(SEED);
    Store::new(&aws.sdk_config(), STACK, Clock::system(), entropy)
}

/// Returns the shipped plans and [`STRICT`].
fn plans() -> Result<Catalog, SeedError> {
    let strict = json!({
        "id": STRICT,
        "name": "Strict",
        "requests_per_hour": 1_000_000_000,
        "month": { "kind": "unlimited" },
        "fail_mode": "closed",
        "max_lease": 1,
    });
    let shipped = Catalog::shipped()?;
    let mut plans: Vec<Value> = shipped
        .iter()
        .map(serde_json::to_value)
        .collect::<Result<_, _>>()?;
    plans.push(strict);
    Ok(Catalog::from_json(&Value::from(plans).to_string())?)
}

/// Creates all plans, customers and keys.
pub(crate) async fn seed(aws: &LocalAws) -> Result<Events, SeedError> {
    let mut seeding = Seeding {
        aws,
        store: store(aws),
        format: KeyFormat::new("tg", "live")?,
        entropy: Entropy::seeded(SEED),
    };
    seeding.store.seed_plans(&plans()?).await?;
    let mut zipf = Vec::with_capacity(ZIPF_KEYS);
    for rank in 1..=ZIPF_KEYS {
        zipf.push(seeding.customer(&format!("zipf-{rank}"), PLAN).await?);
    }
    Ok(Events {
        leased: seeding.customer("leased", PLAN).await?,
        strict: seeding.customer("strict", STRICT).await?,
        hot: seeding.customer("hot", PLAN).await?,
        zipf,
        node: seeding.peer("node")?,
        python: seeding.peer("python")?,
    })
}

struct Seeding<'a> {
    aws: &'a LocalAws,
    store: Store,
    format: KeyFormat,
    entropy: Entropy,
}

impl Seeding<'_> {
    /// Creates a customer with a key. Returns the key's event.
    async fn customer(&mut self, id: &str, plan: &str) -> Result<Bytes, SeedError> {
        let (key, key_id) = self.key();
        let id = create_customer(&self.store, id, plan).await?;
        let now = Timestamp::now();
        let record = KeyRecord {
            name: "bench".to_owned(),
            ..KeyRecord::new(key_id, key.prefix(), Owner::Customer(id.clone()), now)
        };
        let new = NewKey {
            secret: &key,
            record: &record,
        };
        created(&id, &self.store.create_key(&new, None).await?)?;
        event(&key)
    }

    /// Creates a key in the peers' format, in which one item has everything for a decision. Returns the key's
    /// event.
    fn peer(&mut self, id: &str) -> Result<Bytes, SeedError> {
        let (key, key_id) = self.key();
        let put = json!({
            "TableName": format!("{STACK}-registry"),
            "Item": {
                "pk": { "S": format!("KEY#{}", key.digest().expose_hex()) },
                "id": { "S": key_id.as_str() },
                "prefix": { "S": key.prefix().as_str() },
                "customer": { "S": id },
                "plan": { "S": PLAN },
                "requests_per_hour": { "N": PEER_LIMIT.to_string() },
            },
        });
        let (status, response) = self.aws.call("DynamoDB_20120810.PutItem", &put.to_string());
        if status == 200 {
            event(&key)
        } else {
            Err(SeedError::NotCreated(id.to_owned(), response))
        }
    }

    fn key(&self) -> (ApiKey, KeyId) {
        self.entropy.with(|rng| {
            (
                self.format.generate(KeyKind::Customer, rng),
                KeyId::random(rng),
            )
        })
    }
}

/// Creates a customer without keys. Returns its id.
pub(crate) async fn create_customer(
    store: &Store,
    id: &str,
    plan: &str,
) -> Result<CustomerId, SeedError> {
    let id: CustomerId = id.parse()?;
    let customer = Customer {
        name: id.as_str().to_owned(),
        ..Customer::new(id.clone(), plan.parse::<PlanId>()?, Timestamp::now())
    };
    created(&id, &store.create_customer(&customer, None).await?)?;
    Ok(id)
}

/// Fails unless the outcome is a new item.
fn created<T: std::fmt::Debug>(
    id: &CustomerId,
    outcome: &CreateOutcome<T>,
) -> Result<(), SeedError> {
    match outcome {
        CreateOutcome::New => Ok(()),
        other => Err(SeedError::NotCreated(id.to_string(), format!("{other:?}"))),
    }
}

/// Returns the event of `events/authorizer` with this key, as compact JSON like the gateway's.
fn event(key: &ApiKey) -> Result<Bytes, SeedError> {
    let text = include_str!("../../../events/authorizer/api-key-header.json");
    let mut event: Value = serde_json::from_str(text)?;
    event["headers"]["x-api-key"] = key.expose().into();
    event["multiValueHeaders"]["x-api-key"] = json!([key.expose()]);
    Ok(Bytes::from(event.to_string()))
}
