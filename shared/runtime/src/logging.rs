//! The functions' log: a line of JSON for each event, on standard output.

use tracing_subscriber::filter::Targets;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;

use crate::config::InvalidConfig;
use crate::env::{self, Env};

/// Logs from now on what [`env::LOG`] lets pass.
///
/// # Errors
/// When the variable is not set, or is no list of levels.
pub fn init(env: &Env) -> Result<(), InvalidConfig> {
    // Lambda dates the lines itself.
    let lines = tracing_subscriber::fmt::layer()
        .json()
        .with_target(false)
        .without_time();
    tracing_subscriber::registry()
        .with(lines)
        .with(filter(env)?)
        .init();
    Ok(())
}

fn filter(env: &Env) -> Result<Targets, InvalidConfig> {
    Ok(env.get(env::LOG)?.parse()?)
}

#[cfg(test)]
mod tests {
    use tracing_subscriber::filter::LevelFilter;

    use super::*;

    fn of(text: &str) -> Result<Targets, InvalidConfig> {
        filter(&Env::of([(env::LOG.name.to_owned(), text.to_owned())]))
    }

    #[test]
    fn a_level_is_for_all_that_has_none_of_its_own() {
        let filter = of("WARN,lambda_runtime::layers::panic=off,keys=debug").unwrap();
        let check = |target: &str, level: LevelFilter| {
            let level = level.into_level().unwrap();
            filter.would_enable(target, &level)
        };
        assert!(check("authorizer", LevelFilter::WARN));
        assert!(!check("authorizer", LevelFilter::INFO));
        assert!(check("keys::create", LevelFilter::DEBUG));
        assert!(!check("lambda_runtime::layers::panic", LevelFilter::ERROR));
    }

    #[test]
    fn what_is_no_level_is_named() {
        let error = of("keys=loud").unwrap_err().to_string();
        assert!(error.contains("RUST_LOG"), "{error}");
        let missing = filter(&Env::of([])).unwrap_err().to_string();
        assert!(missing.contains("RUST_LOG is not set"), "{missing}");
    }
}
