//! The functions' binaries, run as Lambda runs them.

use tollgate_local_aws::{Outcome, invoke_once};

use crate::event_file;

/// Runs the binary of a function of the template with the event file of this name, and checks the status of
/// the response.
pub async fn check_status(binary: &str, function: &str, event: &str, status: u16) {
    let outcome = invoke_once(binary, function, &event_file::read(event)).await;
    let Ok(Some(Outcome::Response(response))) = outcome else {
        panic!("{function}: {outcome:?}");
    };
    assert_eq!(response["statusCode"], status, "{function}: {response}");
}
