//! The product as its users see it: over HTTP, from a key's first call to its bill.
//!
//! The cases know their target by its URL and its admin key alone. By default each starts a local
//! product of its own; with `BASE_URL` and `ADMIN_KEY` set they run against the stack deployed
//! there, each with customers of its own. What a URL cannot do, such as reporting the same usage
//! twice, takes the AWS CLI and the stack's name in `STACK_NAME`; without it, those cases are
//! ignored. `EMULATED=1` says that the stack is on the emulated AWS, of which less is expected
//! (docs/emulator-differences.md).

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a case that cannot begin, or cannot look, has failed"
)]

mod bills;
#[path = "../support/calls.rs"]
mod calls;
mod input;
mod keys;
mod limits;
mod site;
mod usage;

use std::pin::Pin;
use std::process::ExitCode;
use std::sync::Arc;

use libtest_mimic::{Arguments, Trial};
use tokio::runtime::Runtime;

use site::{Need, Site, Target};

/// What a case does at its site.
type Run = fn(Site) -> Pin<Box<dyn Future<Output = ()>>>;

/// One case.
struct Case {
    name: &'static str,
    needs: &'static [Need],
    run: Run,
}

/// Names a case after its function, with what it needs besides a URL.
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
    case!(keys::a_key_lives_from_creation_to_revocation),
    case!(keys::a_rotated_key_and_its_successor_both_work),
    case!(keys::a_repeated_creation_creates_nothing),
    case!(keys::keys_are_listed_page_by_page),
    case!(limits::the_hourly_limit_refuses),
    case!(limits::an_exhausted_customer_still_sees_their_usage),
    case!(limits::a_change_of_plan_holds_within_seconds),
    case!(limits::no_route_is_open_to_the_wrong_caller_or_to_what_it_does_not_take),
    case!(usage::every_served_call_is_metered_and_no_other),
    case!(usage::an_entry_reported_twice_counts_once, Need::Aws),
    case!(
        usage::what_is_no_usage_is_set_aside_and_the_rest_counts,
        Need::Aws
    ),
    case!(bills::a_dry_run_charges_nothing, Need::SmallPlan),
    case!(
        bills::the_night_charges_overage_once,
        Need::Aws,
        Need::SmallPlan
    ),
    case!(input::bad_bodies_are_refused_by_name),
    case!(input::a_body_may_come_in_gzip),
    case!(input::a_billing_run_is_asked_for_in_so_many_words),
    case!(input::bad_queries_are_refused_by_name),
    case!(input::what_does_not_exist_is_not_found),
];

fn main() -> ExitCode {
    let arguments = Arguments::from_args();
    let target = match Target::of_environment() {
        Ok(target) => Arc::new(target),
        Err(error) => panic!("{error}"),
    };
    let lacks = runtime().block_on(target.lacks());
    let trials = CASES.iter().map(|case| {
        let target = Arc::clone(&target);
        let run = move || {
            runtime().block_on(async {
                let site = target.begin().await;
                (case.run)(site).await;
            });
            Ok(())
        };
        let ignored = case.needs.iter().find(|need| lacks.contains(need));
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
