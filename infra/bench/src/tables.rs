//! What is in the tables, and the events that ask for it.

use hyper::body::Bytes;
use jiff::Timestamp;
use serde_json::{Value, json};
use tollgate_domain::customer::Customer;
use tollgate_domain::id::{CustomerId, InvalidId, KeyId, PlanId};
use tollgate_domain::key::{ApiKey, InvalidKeyFormat, KeyFormat, KeyRecord, Owner, Role};
use tollgate_domain::plan::{Catalog, InvalidCatalog, Overrides};
use tollgate_local_aws::{InvalidPattern, LocalAws, Rule};
use tollgate_runtime::{Clock, Entropy};
use tollgate_store::{Created, NewKey, Store, StoreError};

/// The stack's name, with which the names of its tables begin.
pub(crate) const STACK: &str = "bench";
/// Customers of the shape `zipf`, with a key each.
pub(crate) const ZIPF_KEYS: usize = 1_000;
const SEED: u64 = 1;

/// The shipped plan of most of the customers here: nothing of it is large enough to be exceeded.
const PLAN: &str = "enterprise";
/// A plan with which every call is counted in the store.
const STRICT: &str = "strict";
/// What a peer's key allows in an hour.
const PEER_LIMIT: u64 = 100_000;

/// Why the tables could not be filled.
#[derive(Debug, thiserror::Error)]
pub(crate) enum SeedError {
    #[error("the services could not be started")]
    Aws(#[from] tollgate_local_aws::LocalAwsError),
    #[error("the rule for usage cannot be applied")]
    Rule(#[from] InvalidPattern),
    #[error("an id cannot be used")]
    Id(#[from] InvalidId),
    #[error("the form of keys cannot be used")]
    Format(#[from] InvalidKeyFormat),
    #[error("the shipped plans cannot be used")]
    Plans(#[from] InvalidCatalog),
    #[error("a plan or an event is no JSON")]
    Json(#[from] serde_json::Error),
    #[error("the store does not answer")]
    Store(#[from] StoreError),
    #[error("{0} could not be created: {1}")]
    Refused(String, String),
}

/// One event for each key, as the bytes that Lambda hands over.
#[derive(Debug)]
pub(crate) struct Events {
    /// A key of a customer whose counts are leased.
    pub(crate) leased: Bytes,
    /// A key each of whose calls is a write.
    pub(crate) strict: Bytes,
    /// The key of the shape `hot`.
    pub(crate) hot: Bytes,
    /// The keys of the shape `zipf`.
    pub(crate) zipf: Vec<Bytes>,
    /// A key as the peers store it.
    pub(crate) node: Bytes,
    /// The same.
    pub(crate) python: Bytes,
}

/// Services with Tollgate's tables, empty.
pub(crate) fn services() -> Result<LocalAws, SeedError> {
    let rule = Rule::new(json!({ "detail-type": [tollgate_domain::usage::EVENT_TYPE] }))?;
    let aws = LocalAws::in_memory(rule, Clock::system(), Entropy::seeded(SEED))?;
    aws.create_tables(STACK)?;
    Ok(aws)
}

/// The tables of `aws`.
pub(crate) fn store(aws: &LocalAws) -> Store {
    let entropy = Entropy::seeded(SEED);
    Store::new(&aws.sdk_config(), STACK, Clock::system(), entropy)
}

/// The plans, as a value of `TOLLGATE_PLANS`: those that are shipped, and the strict one.
pub(crate) fn plans() -> Result<String, SeedError> {
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
    Ok(Value::from(plans).to_string())
}

/// Creates all customers and keys.
pub(crate) async fn seed(aws: &LocalAws) -> Result<Events, SeedError> {
    let mut seeding = Seeding {
        aws,
        store: store(aws),
        format: KeyFormat::new("tg", "live")?,
        entropy: Entropy::seeded(SEED),
    };
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
    /// A customer with a key, as Tollgate stores them.
    async fn customer(&mut self, id: &str, plan: &str) -> Result<Bytes, SeedError> {
        let (key, key_id) = self.key();
        let id: CustomerId = id.parse()?;
        let now = Timestamp::now();
        let customer = Customer {
            id: id.clone(),
            name: id.as_str().to_owned(),
            email: None,
            plan: plan.parse::<PlanId>()?,
            created_at: now,
            suspended_at: None,
            erased_at: None,
        };
        created(&id, &self.store.create_customer(&customer, None).await?)?;
        let record = KeyRecord {
            id: key_id,
            prefix: key.prefix(),
            name: "bench".to_owned(),
            owner: Owner::Customer(id.clone()),
            created_at: now,
            expires_at: None,
            revoked_at: None,
            suspended_at: None,
            overrides: Overrides::default(),
            rotated_to: None,
            hour_of: None,
        };
        let new = NewKey {
            secret: &key,
            record: &record,
        };
        created(&id, &self.store.create_key(&new, None).await?)?;
        event(&key)
    }

    /// A key as the peers store it: all that a decision needs in one item.
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
        let (status, answer) = self
            .aws
            .answer("DynamoDB_20120810.PutItem", &put.to_string());
        if status == 200 {
            event(&key)
        } else {
            Err(SeedError::Refused(id.to_owned(), answer))
        }
    }

    fn key(&self) -> (ApiKey, KeyId) {
        self.entropy.with(|rng| {
            (
                self.format.generate(Role::Customer, rng),
                KeyId::random(rng),
            )
        })
    }
}

fn created<T: std::fmt::Debug>(id: &CustomerId, created: &Created<T>) -> Result<(), SeedError> {
    match created {
        Created::New => Ok(()),
        other => Err(SeedError::Refused(id.to_string(), format!("{other:?}"))),
    }
}

/// The event of `events/authorizer` with this key in it, compact as the gateway sends it.
fn event(key: &ApiKey) -> Result<Bytes, SeedError> {
    let text = include_str!("../../../events/authorizer/api-key-header.json");
    let mut event: Value = serde_json::from_str(text)?;
    event["headers"]["x-api-key"] = key.expose().into();
    event["multiValueHeaders"]["x-api-key"] = json!([key.expose()]);
    Ok(Bytes::from(event.to_string()))
}
