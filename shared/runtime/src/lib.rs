//! What every Tollgate process is given from outside: configuration, time, randomness and AWS
//! clients. Handlers take them as arguments; only `main` reads them from the world.

pub mod aws;
pub mod clock;
pub mod config;
pub mod entropy;
pub mod env;
mod error;
pub mod logging;
pub mod metrics;
mod roots;

pub use clock::Clock;
pub use entropy::Entropy;
pub use env::Env;
pub use error::{Chain, Failure};
pub use metrics::Metrics;
pub use roots::InvalidBundle;

/// A page under `docs` is what is made of the declarations; with `UPDATE_DOCS` set, it becomes that.
#[cfg(test)]
fn assert_page(name: &str, page: &str) {
    let path = format!("{}/../../docs/{name}", env!("CARGO_MANIFEST_DIR"));
    if std::env::var_os("UPDATE_DOCS").is_some() {
        std::fs::write(&path, page).unwrap();
    }
    let found = std::fs::read_to_string(&path).unwrap_or_default();
    let mend = "UPDATE_DOCS=1 cargo test -p tollgate-runtime";
    assert!(found == page, "docs/{name} is stale; to mend it: {mend}");
}
