//! Problems of payments.

use lambda_http::http::{HeaderValue, header};
use tollgate_api::problem::Member;
use tollgate_domain::failure::{Failure, FailureKind};
use tollgate_payments::{PaymentsError, ReturnOrigins};
use tollgate_web::Problem;

/// Least time after which a request that Stripe could not execute should be repeated, in seconds.
const RETRY_AFTER_S: u64 = 1;

/// Creates the problem for a failure of Stripe or the store. Only the log shows the cause.
pub(crate) fn problem(error: PaymentsError) -> Problem {
    match &error {
        PaymentsError::NotConfigured => return Problem::payments_not_configured(),
        PaymentsError::Price { .. } => return Problem::plan_misconfigured(error),
        PaymentsError::LinkGone(customer) => {
            tracing::warn!(
                customer,
                "the linked Stripe customer does not exist at Stripe"
            );
            let detail = "The Stripe customer that the customer is linked to no longer exists at Stripe. An admin \
                          can link another one, or remove the link.";
            return Problem::conflict(detail);
        }
        _ => {}
    }
    let asked = error.retry_after().map_or(0, |time| {
        // A whole number of seconds that is not too short.
        time.as_secs() + u64::from(time.subsec_nanos() > 0)
    });
    match error.kind() {
        FailureKind::Transient => {
            let wait = HeaderValue::from(asked.max(RETRY_AFTER_S));
            Problem::unavailable(error).with_header(header::RETRY_AFTER, wait)
        }
        FailureKind::InvalidCursor | FailureKind::Permanent => error.into(),
    }
}

pub(crate) fn no_such_customer() -> Problem {
    Problem::not_found("There is no customer with this id.")
}

/// Checks the address of a page to which Stripe leads back.
pub(crate) fn check_return_url(
    origins: &ReturnOrigins,
    field: &'static str,
    url: &str,
) -> Result<(), Problem> {
    if origins.allow(url) {
        return Ok(());
    }
    let allowed = match origins.as_slice() {
        [] => "The operator allows none.".to_owned(),
        origins => format!("The operator allows: {}.", origins.join(", ")),
    };
    let detail =
        format!("{field} must be an address on an origin that the operator allows. {allowed}");
    Err(Problem::unprocessable(detail).with(Member::Field, field))
}
