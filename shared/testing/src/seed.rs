//! The seed of the plans.

use std::thread;

use serde_json::json;
use tollgate_domain::plan::Catalog;
use tollgate_local_aws::fixture::Fixture;
use tollgate_store::SeedOutcome;
use tollgate_store::schema::{BILLING, USAGE_LOG};

use crate::stored::raw;

/// Seeds the plans, as a deployment does before the functions run.
pub fn seed_plans(at: &Fixture, plans: &Catalog) -> SeedOutcome {
    // On a runtime of its own, so that functions that are not async can set up a stack.
    thread::scope(|scope| {
        let seeding = scope.spawn(|| {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()
                .unwrap();
            runtime.block_on(at.store.seed_plans(plans)).unwrap()
        });
        seeding.join().unwrap()
    })
}

/// Says, as the seed of the plans does, that no release before claims were put has counted usage.
pub fn no_older_claims(at: &Fixture) {
    let since = json!({
        "pk": { "S": "#CLAIMS_SINCE" }, "sk": { "S": "#" }, "since": { "S": "1970-01-01T00:00:00.000Z" },
    });
    raw(at, "PutItem", USAGE_LOG, json!({ "Item": since }));
}

/// Removes a plan, as if the store was seeded without it after usage had been counted on it.
pub fn remove_plan(at: &Fixture, id: &str) {
    for sk in [id.to_owned(), format!("{id}#000001")] {
        let key = json!({ "pk": { "S": "PLANS" }, "sk": { "S": sk } });
        raw(at, "DeleteItem", BILLING, json!({ "Key": key }));
    }
}
