//! Runtime environment of Tollgate's programs: configuration, time, randomness, AWS clients, batches of messages,
//! logs and metrics. Only `main` functions create them; handlers take them as arguments.

pub mod aws;
pub mod clock;
pub mod config;
pub mod entropy;
pub mod env;
mod error;
mod init;
pub mod logging;
pub mod metrics;
mod roots;
pub mod sqs;

pub use clock::Clock;
pub use entropy::Entropy;
pub use env::Env;
pub use error::{Chain, MainError};
pub use init::Init;
pub use metrics::Metrics;
pub use roots::InvalidBundle;

/// Asserts that a page under `docs` equals `page`, the text generated from the declarations. With
/// `UPDATE_DOCS` set, writes it first.
#[cfg(test)]
fn assert_page(name: &str, page: &str) {
    let path = format!("{}/../../docs/{name}", env!("CARGO_MANIFEST_DIR"));
    if std::env::var_os("UPDATE_DOCS").is_some() {
        std::fs::write(&path, page).unwrap();
    }
    let found = std::fs::read_to_string(&path).unwrap_or_default();
    let update = "UPDATE_DOCS=1 cargo test -p tollgate-runtime";
    assert!(
        found == page,
        "docs/{name} is stale; to update it: {update}"
    );
}
