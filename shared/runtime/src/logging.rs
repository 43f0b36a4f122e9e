//! Logging of the functions: one JSON line for each log event, on standard output.

use tracing_subscriber::filter::Targets;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;

use crate::config::InvalidConfig;
use crate::env::{self, Env};

/// Installs the global logger, with the levels of [`env::LOG`].
///
/// # Errors
/// When the variable is not set, or is not a list of levels.
pub fn init(env: &Env) -> Result<(), InvalidConfig> {
    // Lambda adds a timestamp to each line.
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

    fn filter_of(text: &str) -> Result<Targets, InvalidConfig> {
        filter(&Env::from_vars([(
            env::LOG.name.to_owned(),
            text.to_owned(),
        )]))
    }

    #[test]
    fn the_default_level_applies_to_targets_without_their_own() {
        let filter = filter_of("WARN,lambda_runtime::layers::panic=off,keys=debug").unwrap();
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
    fn an_error_names_the_variable() {
        let error = filter_of("keys=loud").unwrap_err().to_string();
        assert!(error.contains("RUST_LOG"), "{error}");
        let missing = filter(&Env::from_vars([])).unwrap_err().to_string();
        assert!(missing.contains("RUST_LOG is not set"), "{missing}");
    }
}
