//! End-to-end tests of the API over HTTP, from a key's first call to its charges.
//!
//! The cases use only a stack's URL and admin key. By default, each case starts its own local stack; with
//! `BASE_URL` and `ADMIN_KEY` set, all run against the deployed stack there, each with its own customers.
//! Cases that need more than the API, such as reporting the same usage twice, use the AWS CLI and the
//! stack's name in `STACK_NAME`, and are ignored without it. `EMULATED=1` states that the stack runs on
//! the emulated AWS, for which some checks are skipped (docs/emulator-differences.md).

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a failed step of a case fails the case"
)]

mod support;

/// The cases, by subject.
mod end_to_end {
    pub(crate) mod bills;
    pub(crate) mod input;
    pub(crate) mod keys;
    pub(crate) mod limits;
    pub(crate) mod site;
    pub(crate) mod usage;
}

use std::pin::Pin;
use std::process::ExitCode;
use std::sync::Arc;

use libtest_mimic::{Arguments, Trial};
use tokio::runtime::Runtime;

use end_to_end::{bills, input, keys, limits, site, usage};
use site::{Need, Site, Target};
use support::calls;

/// Function that runs a case on a site.
type Run = fn(Site) -> Pin<Box<dyn Future<Output = ()>>>;

/// A test case.
struct Case {
    name: &'static str,
    needs: &'static [Need],
    run: Run,
}

/// Defines a case that is named after its function, with its needs besides a URL.
macro_rules! case {
    ($module:ident::$name:ident $(, $need:expr)*) => {
        Case {
            name: concat!(stringify!($module), "::", stringify!($name)),
            needs: &[$($need),*],
            run: |site| Box::pin($module::$name(site)),
        }
    };
}

const CASES: &[Case] = &[
    case!(keys::a_key_is_valid_from_creation_to_revocation),
    case!(keys::a_rotated_key_and_its_successor_both_work),
    case!(keys::a_repeated_creation_creates_nothing),
    case!(keys::keys_are_listed_page_by_page),
    case!(limits::the_hourly_limit_denies_calls),
    case!(limits::an_exhausted_customer_still_sees_their_usage),
    case!(limits::a_change_of_plan_takes_effect_within_seconds),
    case!(limits::every_route_rejects_wrong_callers_and_unknown_parameters),
    case!(usage::only_served_calls_are_metered),
    case!(usage::a_duplicate_event_counts_once, Need::Aws),
    case!(
        usage::invalid_usage_is_quarantined_and_the_rest_counts,
        Need::Aws
    ),
    case!(bills::a_dry_run_charges_nothing, Need::SmallPlan),
    case!(
        bills::billing_charges_overage_once,
        Need::Aws,
        Need::SmallPlan
    ),
    case!(
        bills::overage_is_invoiced_at_stripe_once,
        Need::Aws,
        Need::SmallPlan,
        Need::StripeFake
    ),
    case!(input::errors_in_bodies_name_the_field),
    case!(input::a_body_may_be_compressed_with_gzip),
    case!(input::a_billing_run_requires_the_member_dry_run),
    case!(input::invalid_queries_are_rejected),
    case!(input::missing_resources_are_not_found),
    case!(input::the_api_reference_needs_no_key),
];

fn main() -> ExitCode {
    let arguments = Arguments::from_args();
    let target = match Target::from_env() {
        Ok(target) => Arc::new(target),
        Err(error) => panic!("{error}"),
    };
    let missing = runtime().block_on(target.missing_needs());
    let trials = CASES.iter().map(|case| {
        let target = Arc::clone(&target);
        let run = move || {
            runtime().block_on(async {
                let site = target.site().await;
                (case.run)(site).await;
            });
            Ok(())
        };
        let ignored = case.needs.iter().find(|need| missing.contains(need));
        Trial::test(case.name, run)
            .with_kind(ignored.map_or("", |need| need.explain()))
            .with_ignored_flag(ignored.is_some())
    });
    libtest_mimic::run(&arguments, trials.collect()).exit_code()
}

fn runtime() -> Runtime {
    let mut runtime = tokio::runtime::Builder::new_current_thread();
    runtime.enable_all().build().unwrap()
}
