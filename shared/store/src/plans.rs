//! Plans: their versions, and the seed of an empty store.

use jiff::Timestamp;
use sha2::{Digest, Sha256};
use tollgate_domain::id::PlanId;
use tollgate_domain::plan::{Catalog, Plan};
use tollgate_domain::plan_book::{PlanBook, PlanVersion, PlanVersions};

use crate::Store;
use crate::error::StoreError;
use crate::item::{Item, Reader, keys, n, s, t};
use crate::schema::{BILLING, attr};
use crate::transaction::{Action, Transacted};

/// Partition of all plans, which are few.
pub(crate) const PLANS: &str = "PLANS";
/// Sort key of the seed. Ids of plans do not begin with `#`.
const SEED: &str = "#SEED";
/// Attribute with the plan as JSON.
const DEFINITION: &str = "definition";
const READING: &str = "reading the plans";
const CREATING: &str = "creating a plan";
const ADDING: &str = "adding a version of a plan";
const SEEDING: &str = "seeding the plans";

/// Outcome of a change of the plans.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PlanOutcome {
    /// The change is stored, possibly by an earlier try whose response was lost.
    Written,
    /// The plan exists already, or has another latest version than the change is based on.
    Changed,
}

/// Outcome of seeding the plans.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SeedOutcome {
    /// The plans are stored, possibly by an earlier try whose response was lost.
    Seeded,
    /// The store was seeded before, with the same plans.
    Unchanged,
    /// The store was seeded before, with other plans, or has plans without a seed. Nothing is changed.
    Differs,
}

fn plan_key(id: &PlanId) -> Item {
    keys(PLANS, id.as_str())
}

fn version_key(id: &PlanId, number: u64) -> Item {
    keys(PLANS, format!("{id}#{number:06}"))
}

/// Returns the item of a new plan, whose versions are items of their own.
fn plan_item(id: &PlanId) -> Item {
    let mut item = plan_key(id);
    item.insert("latest".into(), n(1));
    item
}

fn version_item(version: &PlanVersion, written_by: &str) -> Result<Item, StoreError> {
    let PlanVersion {
        number,
        takes_effect,
        created_at,
        plan,
    } = version;
    let mut item = version_key(&plan.id, *number);
    item.insert("plan".into(), s(plan.id.as_str()));
    item.insert("number".into(), n(*number));
    item.insert("takes_effect".into(), s(takes_effect.to_string()));
    item.insert("created_at".into(), t(*created_at));
    let definition = serde_json::to_string(plan);
    let definition = definition.map_err(|error| StoreError::request(ADDING, error))?;
    item.insert(DEFINITION.into(), s(definition));
    item.insert(attr::WRITTEN_BY.into(), s(written_by));
    Ok(item)
}

fn read_version(item: &Item) -> Result<PlanVersion, StoreError> {
    let version = Reader::new("plan version", item);
    let plan: Plan = serde_json::from_str(version.text(DEFINITION)?)
        .map_err(|_| StoreError::corrupt("plan version", DEFINITION))?;
    Ok(PlanVersion {
        number: version.number("number")?,
        takes_effect: version.parsed("takes_effect")?,
        created_at: version.parsed("created_at")?,
        plan,
    })
}

/// Reads the items of the partition. A plan without versions, or a version without its plan, is of a
/// transaction that is being committed, and left out.
fn read_plans(items: &[Item]) -> Result<PlanBook, StoreError> {
    let mut plans = Vec::new();
    let mut versions = Vec::new();
    let mut retired: Vec<(PlanId, Option<Timestamp>)> = Vec::new();
    for item in items {
        let reader = Reader::new("plan", item);
        let sk = reader.text(attr::SK)?;
        if sk == SEED {
            continue;
        }
        match item.get(DEFINITION) {
            Some(_) => versions.push(read_version(item)?),
            None => retired.push((reader.parsed(attr::SK)?, reader.opt_parsed("retired_at")?)),
        }
    }
    for (id, retired_at) in retired {
        let of_plan = versions.iter().filter(|version| version.plan.id == id);
        let of_plan: Vec<PlanVersion> = of_plan.cloned().collect();
        if of_plan.is_empty() {
            continue;
        }
        let plan = PlanVersions::from_stored(of_plan, retired_at);
        plans.push(plan.ok_or_else(|| StoreError::corrupt("plan", "latest"))?);
    }
    Ok(PlanBook::new(plans))
}

/// Returns a digest of the plans of a seed, independent of how their JSON was written.
fn seed_digest(plans: &Catalog) -> Result<String, StoreError> {
    let plans: Vec<&Plan> = plans.iter().collect();
    let json = serde_json::to_vec(&plans).map_err(|error| StoreError::request(SEEDING, error))?;
    Ok(hex::encode(Sha256::digest(json)))
}

impl Store {
    /// Reads all plans with all their versions, consistently.
    ///
    /// # Errors
    /// When the store fails.
    pub async fn plans(&self) -> Result<PlanBook, StoreError> {
        let items = self.query_all(READING, BILLING, "pk = :pk", [(":pk", s(PLANS))]);
        read_plans(&items.await?)
    }

    /// Creates a plan with its first version.
    ///
    /// # Errors
    /// When the store fails; the plan may then exist.
    pub async fn create_plan(&self, plan: &PlanVersions) -> Result<PlanOutcome, StoreError> {
        let write_id = self.transaction_token();
        let first = plan.latest();
        let actions = vec![
            // Absent: a plan is created once.
            Action::put(BILLING, plan_item(plan.id())).when("attribute_not_exists(pk)"),
            // Absent: a version is never overwritten.
            Action::put(BILLING, version_item(first, &write_id)?).when("attribute_not_exists(pk)"),
        ];
        self.write_plan(CREATING, actions, &write_id).await
    }

    /// Adds a version, if the one before it is the latest.
    ///
    /// # Errors
    /// When the store fails; the version may then exist.
    pub async fn add_plan_version(&self, version: &PlanVersion) -> Result<PlanOutcome, StoreError> {
        let write_id = self.transaction_token();
        let (id, number) = (&version.plan.id, version.number);
        let actions = vec![
            Action::update(BILLING, plan_key(id), "SET latest = :number")
                // The version that this one was made from is still the latest: of two concurrent changes, one
                // is rejected.
                .when("latest = :before")
                .value(":number", n(number))
                .value(":before", n(number.saturating_sub(1))),
            // Absent: a version is never overwritten.
            Action::put(BILLING, version_item(version, &write_id)?)
                .when("attribute_not_exists(pk)"),
        ];
        self.write_plan(ADDING, actions, &write_id).await
    }

    /// Sends a transaction whose second action puts a version with `write_id`.
    async fn write_plan(
        &self,
        operation: &'static str,
        actions: Vec<Action>,
        write_id: &str,
    ) -> Result<PlanOutcome, StoreError> {
        match self.transact(operation, actions).await? {
            Transacted::Committed => Ok(PlanOutcome::Written),
            Transacted::Cancelled(results) => match results[1].item() {
                // By this very call: its first try took effect, and the response was lost.
                Some(stored) if Reader::new("plan version", stored).is_written_by(write_id)? => {
                    Ok(PlanOutcome::Written)
                }
                _ => Ok(PlanOutcome::Changed),
            },
        }
    }

    /// Retires a plan, or ends its retirement. Returns `false` if it does not exist.
    ///
    /// # Errors
    /// When the store fails; the change may then have taken effect.
    pub async fn retire_plan(
        &self,
        id: &PlanId,
        retired_at: Option<Timestamp>,
    ) -> Result<bool, StoreError> {
        let action = match retired_at {
            Some(at) => Action::update(
                BILLING,
                plan_key(id),
                // A plan that is retired already keeps the first instant.
                "SET retired_at = if_not_exists(retired_at, :at)",
            )
            .value(":at", t(at)),
            None => Action::update(BILLING, plan_key(id), "REMOVE retired_at"),
        };
        // Exists: an update would create the item.
        let actions = vec![action.when("attribute_exists(pk)")];
        match self.transact("retiring a plan", actions).await? {
            Transacted::Committed => Ok(true),
            Transacted::Cancelled(_) => Ok(false),
        }
    }

    /// Stores these plans, each with its first version, unless there are plans already.
    ///
    /// # Errors
    /// When the store fails; the plans may then be stored.
    pub async fn seed_plans(&self, plans: &Catalog) -> Result<SeedOutcome, StoreError> {
        // Boxed, because the compiler bounds the depth of a future's type.
        Box::pin(self.begin_claims()).await?;
        let digest = seed_digest(plans)?;
        let now = self.clock.now();
        let write_id = self.transaction_token();
        let mut seed = keys(PLANS, SEED);
        seed.insert("digest".into(), s(&digest));
        seed.insert("created_at".into(), t(now));
        seed.insert(attr::WRITTEN_BY.into(), s(&write_id));
        // Absent: a store is seeded once.
        let mut actions = vec![Action::put(BILLING, seed).when("attribute_not_exists(pk)")];
        for plan in plans {
            let plan = PlanVersions::new(plan.clone(), now);
            // Absent: no plan that was created before is overwritten.
            let item = plan_item(plan.id());
            actions.push(Action::put(BILLING, item).when("attribute_not_exists(pk)"));
            let version = version_item(plan.latest(), &write_id)?;
            actions.push(Action::put(BILLING, version).when("attribute_not_exists(pk)"));
        }
        match self.transact(SEEDING, actions).await? {
            Transacted::Committed => Ok(SeedOutcome::Seeded),
            Transacted::Cancelled(results) => {
                // The store has plans without a seed.
                let Some(stored) = results[0].item() else {
                    return Ok(SeedOutcome::Differs);
                };
                let stored = Reader::new("seed", stored);
                Ok(if stored.is_written_by(&write_id)? {
                    // By this very call: its first try took effect, and the response was lost.
                    SeedOutcome::Seeded
                } else if stored.text("digest")? == digest {
                    SeedOutcome::Unchanged
                } else {
                    SeedOutcome::Differs
                })
            }
        }
    }
}
