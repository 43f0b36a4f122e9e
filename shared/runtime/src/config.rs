//! Configuration that several functions read, parsed and checked.

use std::sync::Arc;
use std::time::Duration;

use tollgate_domain::key::{InvalidKeyFormat, KeyFormat};
use tollgate_domain::plan::{Catalog, InvalidCatalog};

use crate::env::{self, Env, MissingVar, Var};

/// Why the configuration cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum InvalidConfig {
    /// A variable that must be set is not.
    #[error(transparent)]
    Missing(#[from] MissingVar),
    /// The plans cannot be used.
    #[error("{} cannot be used", env::PLANS.name)]
    Plans(#[from] InvalidCatalog),
    /// The delay is no number of seconds, or too long.
    #[error("{} is not a whole number from 0 to {MAX_KEY_CACHE_S}", env::KEY_CACHE.name)]
    KeyCache,
    /// The time of stale keys is no number of seconds, or too long.
    #[error("{} is not a whole number from 0 to {MAX_STALE_KEY_S}", env::STALE_KEY.name)]
    StaleKey,
    /// There is another text, or several origins.
    #[error("{} is neither empty, nor *, nor one origin", env::CORS_ORIGINS.name)]
    CorsOrigins,
    /// The levels cannot be read.
    #[error("{} is not a list of levels", env::LOG.name)]
    Log(#[from] tracing_subscriber::filter::ParseError),
    /// The key format cannot be used.
    #[error("{} or {} cannot be used", env::KEY_BRAND.name, env::KEY_ENV.name)]
    KeyFormat(#[from] InvalidKeyFormat),
}

/// A revoked key that works for longer is not revoked.
const MAX_KEY_CACHE_S: u64 = 60;

/// Nor is one that an outage keeps alive for longer.
const MAX_STALE_KEY_S: u64 = 3_600;

/// Reads the TTL of the key cache.
///
/// # Errors
/// When the variable holds anything but a whole number of seconds within bounds.
pub fn key_cache(env: &Env) -> Result<Duration, InvalidConfig> {
    seconds(env, env::KEY_CACHE, MAX_KEY_CACHE_S)?.ok_or(InvalidConfig::KeyCache)
}

/// Reads for how long more keys decide while they cannot be read.
///
/// # Errors
/// When the variable holds anything but a whole number of seconds within bounds.
pub fn stale_keys(env: &Env) -> Result<Duration, InvalidConfig> {
    seconds(env, env::STALE_KEY, MAX_STALE_KEY_S)?.ok_or(InvalidConfig::StaleKey)
}

fn seconds(env: &Env, var: Var, max: u64) -> Result<Option<Duration>, MissingVar> {
    let seconds = env.get(var)?.parse().ok();
    let seconds = seconds.filter(|seconds| *seconds <= max);
    Ok(seconds.map(Duration::from_secs))
}

/// The plans on offer: those of [`env::PLANS`].
///
/// # Errors
/// When the variable holds anything but a list of plans.
pub fn plans(env: &Env) -> Result<Catalog, InvalidConfig> {
    match env.get(env::PLANS)? {
        "shipped" => Ok(Catalog::shipped()?),
        json => Ok(Catalog::from_json(json)?),
    }
}

/// What new keys look like.
///
/// # Errors
/// When a segment cannot stand in a key.
pub fn key_format(env: &Env) -> Result<KeyFormat, InvalidConfig> {
    Ok(KeyFormat::new(
        env.get(env::KEY_BRAND)?,
        env.get(env::KEY_ENV)?,
    )?)
}

/// The beginnings of route templates that count towards no limit.
///
/// # Errors
/// When the variable is not set.
pub fn uncounted_routes(env: &Env) -> Result<Vec<String>, InvalidConfig> {
    let routes = env.get(env::UNCOUNTED_ROUTES)?.split(',').map(str::trim);
    let routes = routes.filter(|route| !route.is_empty());
    Ok(routes.map(str::to_owned).collect())
}

/// The origin whose pages may read answers, or `*` for all.
///
/// # Errors
/// When the variable is not set, or is no origin.
pub fn cors_origin(env: &Env) -> Result<Option<Arc<str>>, InvalidConfig> {
    let origin = env.get(env::CORS_ORIGINS)?;
    // As a browser writes it (RFC 6454, section 6.1): a scheme and a host, and no path.
    let is_origin = |origin: &str| {
        let host = origin.split_once("://").map(|(_, host)| host);
        let is_host = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || "-.:[]".contains(c);
        host.is_some_and(|host| !host.is_empty() && host.chars().all(is_host))
    };
    match origin {
        "" => Ok(None),
        origin if origin == "*" || is_origin(origin) => Ok(Some(origin.into())),
        _ => Err(InvalidConfig::CorsOrigins),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_delay_of_the_key_cache_is_bounded() {
        let check = |text: &str, expected: Option<u64>| {
            let env = Env::of([(env::KEY_CACHE.name.to_owned(), text.to_owned())]);
            let found = key_cache(&env).ok();
            assert_eq!(found, expected.map(Duration::from_secs), "{text}");
        };
        check("0", Some(0));
        check("5", Some(5));
        check("60", Some(60));
        check("61", None);
        check("-1", None);
        check("1.5", None);
        check("", None);
    }

    #[test]
    fn the_time_of_stale_keys_is_bounded() {
        let check = |text: &str, expected: Option<u64>| {
            let env = Env::of([(env::STALE_KEY.name.to_owned(), text.to_owned())]);
            let found = stale_keys(&env).ok();
            assert_eq!(found, expected.map(Duration::from_secs), "{text}");
        };
        check("0", Some(0));
        check("900", Some(900));
        check("3600", Some(3_600));
        check("3601", None);
        check("", None);
    }

    #[test]
    fn pages_of_one_origin_of_all_or_of_none_may_read() {
        let check = |text: &str, expected: Option<Option<&str>>| {
            let env = Env::of([(env::CORS_ORIGINS.name.to_owned(), text.to_owned())]);
            let found = cors_origin(&env).ok();
            let expected = expected.map(|origin| origin.map(Arc::from));
            assert_eq!(found, expected, "{text}");
        };
        check("", Some(None));
        check("*", Some(Some("*")));
        check("https://app.example", Some(Some("https://app.example")));
        check("http://localhost:3000", Some(Some("http://localhost:3000")));
        check("https://app.example/", None);
        check("https://a.example, https://b.example", None);
        check("https://App.example", None);
        check("app.example", None);
        check("https://", None);
        check("null", None);
    }
}
