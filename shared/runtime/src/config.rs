//! Parsing and validation of configuration that several functions read.

use std::sync::Arc;
use std::time::Duration;

use jiff::SignedDuration;
use tollgate_domain::key::{InvalidKeyFormat, KeyFormat};
use tollgate_domain::plan::{Catalog, InvalidCatalog};
use tollgate_domain::subscription::{SubscriptionRules, UnpaidRule};

use crate::env::{self, Env, MissingVar, Var};

/// Error: the configuration is invalid.
#[derive(Debug, thiserror::Error)]
pub enum InvalidConfig {
    /// A required variable is not set.
    #[error(transparent)]
    Missing(#[from] MissingVar),
    /// The TTL of the key cache is not a number of seconds, or too long.
    #[error("{} is not a whole number from 0 to {MAX_KEY_CACHE_S}", env::KEY_CACHE.name)]
    KeyCache,
    /// The stale-if-error time of the key cache is not a number of seconds, or too long.
    #[error("{} is not a whole number from 0 to {MAX_STALE_KEY_S}", env::STALE_KEY.name)]
    StaleKey,
    /// The value is not an origin, or there are several.
    #[error("{} is neither empty, nor *, nor one origin", env::CORS_ORIGINS.name)]
    CorsOrigins,
    /// A value is not an origin.
    #[error("{} is not a comma-separated list of origins", env::RETURN_ORIGINS.name)]
    ReturnOrigins,
    /// The log levels are invalid.
    #[error("{} is not a list of levels", env::LOG.name)]
    Log(#[from] tracing_subscriber::filter::ParseError),
    /// The brand or the environment of keys is invalid.
    #[error("{} or {} is invalid", env::KEY_BRAND.name, env::KEY_ENV.name)]
    KeyFormat(#[from] InvalidKeyFormat),
    /// The address of Stripe's API is invalid.
    #[error("{} is not the address of an API", env::STRIPE_URL.name)]
    StripeUrl,
    /// The rate of requests to Stripe is not a number, or out of bounds.
    #[error("{} is not a whole number from 1 to {MAX_STRIPE_RATE}", env::STRIPE_RATE.name)]
    StripeRate,
    /// The plan after a cancellation is not the id of a plan.
    #[error("{} is not the id of a plan", env::PLAN_AFTER_CANCELLATION.name)]
    PlanAfterCancellation,
    /// The consequence of an outstanding payment is none of those that exist.
    #[error("{} is not nothing, suspend, or plan: and the id of a plan", env::ON_UNPAID.name)]
    OnUnpaid,
    /// The address for customers without quota is not one of a web page.
    #[error("{} is not the address of a web page", env::UPGRADE_URL.name)]
    UpgradeUrl,
    /// The grace period is not a number of days, or too long.
    #[error("{} is not a whole number from 0 to {MAX_GRACE_DAYS}", env::UNPAID_GRACE_DAYS.name)]
    UnpaidGrace,
}

/// Maximum length of the address for customers without quota, in bytes.
const MAX_UPGRADE_URL: usize = 1_000;

/// Maximum grace period of an outstanding payment, in days.
const MAX_GRACE_DAYS: i64 = 90;

/// Maximum TTL of the key cache, in seconds, which bounds how long a revoked key still works.
const MAX_KEY_CACHE_S: u64 = 60;

/// Maximum stale-if-error time of the key cache, in seconds, which bounds how long a revoked key still
/// works while the store is unavailable.
const MAX_STALE_KEY_S: u64 = 3_600;

/// Maximum rate of requests to Stripe per second: its own limit in live mode
/// (<https://docs.stripe.com/rate-limits>).
const MAX_STRIPE_RATE: u32 = 100;

/// Reads the rate of the charge workers' requests to Stripe, per second and over all workers.
///
/// # Errors
/// When the variable holds anything but a whole number within bounds.
pub fn stripe_rate(env: &Env) -> Result<u32, InvalidConfig> {
    let rate = env.get(env::STRIPE_RATE)?.parse().ok();
    let rate = rate.filter(|rate| (1..=MAX_STRIPE_RATE).contains(rate));
    rate.ok_or(InvalidConfig::StripeRate)
}

/// Reads the consequences of the end of a subscription, and of an outstanding payment.
///
/// # Errors
/// When a variable is not set, or holds something else.
pub fn subscription_rules(env: &Env) -> Result<SubscriptionRules, InvalidConfig> {
    let plan = env.get(env::PLAN_AFTER_CANCELLATION)?.parse();
    let unpaid = match env.get(env::ON_UNPAID)? {
        "nothing" => Some(UnpaidRule::Nothing),
        "suspend" => Some(UnpaidRule::Suspend),
        other => {
            let plan = other.strip_prefix("plan:");
            plan.and_then(|plan| plan.parse().ok())
                .map(UnpaidRule::Move)
        }
    };
    let days = env.get(env::UNPAID_GRACE_DAYS)?.parse().ok();
    let days = days.filter(|days| (0..=MAX_GRACE_DAYS).contains(days));
    Ok(SubscriptionRules {
        plan_after_cancellation: plan.map_err(|_| InvalidConfig::PlanAfterCancellation)?,
        grace: SignedDuration::from_hours(24 * days.ok_or(InvalidConfig::UnpaidGrace)?),
        unpaid: unpaid.ok_or(InvalidConfig::OnUnpaid)?,
    })
}

/// Reads the TTL of the key cache.
///
/// # Errors
/// When the variable holds anything but a whole number of seconds within bounds.
pub fn key_cache(env: &Env) -> Result<Duration, InvalidConfig> {
    seconds(env, env::KEY_CACHE, MAX_KEY_CACHE_S)?.ok_or(InvalidConfig::KeyCache)
}

/// Reads the stale-if-error time of the key cache: the time after the TTL for which a cached key is
/// still used while the store is unavailable.
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

/// Parses the value of the template parameter `Plans`: the plans with which an empty store is seeded.
///
/// # Errors
/// When it is neither `shipped` nor a list of plans.
pub fn parse_plans(text: &str) -> Result<Catalog, InvalidCatalog> {
    match text {
        "shipped" => Catalog::shipped(),
        json => Catalog::from_json(json),
    }
}

/// Reads the format of new keys.
///
/// # Errors
/// When the brand or the environment is not allowed in a key.
pub fn key_format(env: &Env) -> Result<KeyFormat, InvalidConfig> {
    Ok(KeyFormat::new(
        env.get(env::KEY_BRAND)?,
        env.get(env::KEY_ENV)?,
    )?)
}

/// Reads the prefixes of route templates that count towards no limit, for [`is_uncounted`].
///
/// # Errors
/// When the variable is not set.
pub fn uncounted_routes(env: &Env) -> Result<Vec<String>, InvalidConfig> {
    let routes = env.get(env::UNCOUNTED_ROUTES)?.split(',').map(str::trim);
    let routes = routes.filter(|route| !route.is_empty());
    Ok(routes.map(str::to_owned).collect())
}

/// Whether a route template is under one of these prefixes: `/api/keys` is itself and what is below it, and
/// `/api/usage/` only what is below it. The empty prefix is all routes.
#[must_use]
pub fn is_uncounted(prefixes: &[String], route: &str) -> bool {
    let mut rests = prefixes.iter().filter_map(|prefix| {
        let rest = route.strip_prefix(prefix.as_str())?;
        Some((prefix.ends_with('/'), rest))
    });
    // Whole segments only: /api/keys is not a prefix of /api/keystrokes.
    rests.any(|(ends_segment, rest)| ends_segment || rest.is_empty() || rest.starts_with('/'))
}

/// Reads the origin whose pages may read responses, or `*` for all.
///
/// # Errors
/// When the variable is not set, or is not an origin.
pub fn cors_origin(env: &Env) -> Result<Option<Arc<str>>, InvalidConfig> {
    match env.get(env::CORS_ORIGINS)? {
        "" => Ok(None),
        origin if origin == "*" || is_origin(origin) => Ok(Some(origin.into())),
        _ => Err(InvalidConfig::CorsOrigins),
    }
}

/// Whether the text is an origin as browsers write it (RFC 6454, section 6.1): a scheme and a host, and no path.
fn is_origin(text: &str) -> bool {
    let host = text.split_once("://").map(|(_, host)| host);
    let is_host = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || "-.:[]".contains(c);
    host.is_some_and(|host| !host.is_empty() && host.chars().all(is_host))
}

/// Reads the address of the page for customers without quota.
///
/// # Errors
/// When the variable is not set, or is not the address of a web page.
pub fn upgrade_url(env: &Env) -> Result<Option<Arc<str>>, InvalidConfig> {
    match env.get(env::UPGRADE_URL)? {
        "" => Ok(None),
        url => {
            let is_web = url.starts_with("https://") || url.starts_with("http://");
            // API Gateway inserts the address into a JSON text.
            let is_plain = url
                .bytes()
                .all(|byte| byte.is_ascii_graphic() && !b"\"\\$".contains(&byte));
            let is_url = is_web && is_plain && url.len() <= MAX_UPGRADE_URL;
            is_url
                .then(|| Some(url.into()))
                .ok_or(InvalidConfig::UpgradeUrl)
        }
    }
}

/// Reads the origins of the pages to which Stripe may lead customers back.
///
/// # Errors
/// When the variable is not set, or a value in it is not an origin of a web page.
pub fn return_origins(env: &Env) -> Result<Vec<String>, InvalidConfig> {
    let origins = env.get(env::RETURN_ORIGINS)?.split(',').map(str::trim);
    let origins = origins.filter(|origin| !origin.is_empty()).map(|origin| {
        let is_web = origin.starts_with("https://") || origin.starts_with("http://");
        match is_web && is_origin(origin) {
            true => Ok(origin.to_owned()),
            false => Err(InvalidConfig::ReturnOrigins),
        }
    });
    origins.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_ttl_of_the_key_cache_is_bounded() {
        let check = |text: &str, expected: Option<u64>| {
            let env = Env::from_vars([(env::KEY_CACHE.name.to_owned(), text.to_owned())]);
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
    fn the_stale_if_error_time_of_the_key_cache_is_bounded() {
        let check = |text: &str, expected: Option<u64>| {
            let env = Env::from_vars([(env::STALE_KEY.name.to_owned(), text.to_owned())]);
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
    fn a_route_is_uncounted_under_a_prefix_of_whole_segments() {
        let text = " /admin/, /api/keys ,,";
        let env = Env::from_vars([(env::UNCOUNTED_ROUTES.name.to_owned(), text.to_owned())]);
        let prefixes = uncounted_routes(&env).unwrap();
        assert_eq!(prefixes, ["/admin/", "/api/keys"]);
        for route in [
            "/admin/x",
            "/admin/",
            "/api/keys",
            "/api/keys/{key}",
            "/api/keys/",
        ] {
            assert!(is_uncounted(&prefixes, route), "{route}");
        }
        for route in [
            "/admin",
            "/administrators",
            "/api/keystrokes",
            "/api",
            "/v1/api/keys",
            "/",
        ] {
            assert!(!is_uncounted(&prefixes, route), "{route}");
        }
        for route in ["/", "/api/secure/ping", "/{proxy+}"] {
            assert!(!is_uncounted(&[], route), "{route}");
            for all in ["", "/"] {
                assert!(is_uncounted(&[all.to_owned()], route), "{route}");
            }
        }
    }

    #[test]
    fn return_origins_are_origins_of_web_pages() {
        let check = |text: &str, expected: Option<&[&str]>| {
            let env = Env::from_vars([(env::RETURN_ORIGINS.name.to_owned(), text.to_owned())]);
            let found = return_origins(&env).ok();
            let expected = expected.map(|it| it.iter().map(|&one| one.to_owned()).collect());
            assert_eq!(found, expected, "{text}");
        };
        check("", Some(&[]));
        check("https://app.example", Some(&["https://app.example"]));
        check(
            "https://app.example, http://127.0.0.1:3000,",
            Some(&["https://app.example", "http://127.0.0.1:3000"]),
        );
        for invalid in [
            "*",
            "app.example",
            "https://",
            "https://app.example/",
            "https://App.example",
            "https://app.example/page",
            "https://user@app.example",
            "javascript://app.example",
            "https://app.example https://b.example",
        ] {
            check(invalid, None);
        }
    }

    #[test]
    fn the_upgrade_url_is_the_address_of_a_page_or_none() {
        let check = |text: &str, expected: Option<Option<&str>>| {
            let vars = [(env::UPGRADE_URL.name.to_owned(), text.to_owned())];
            let found = upgrade_url(&Env::from_vars(vars)).ok();
            let found = found.as_ref().map(|found| found.as_deref());
            assert_eq!(found, expected, "{text}");
        };
        let page = "https://app.example/billing?plan=pro#top";
        check("", Some(None));
        check(page, Some(Some(page)));
        let quote = "https://app.example/\"";
        let longer = format!("https://app.example/{}", "x".repeat(1_000));
        for other in [
            "app.example",
            "javascript:alert(1)",
            "https://app.example/ ",
            quote,
            &longer,
        ] {
            check(other, None);
        }
    }

    #[test]
    fn the_subscription_rules_are_read() {
        let rules = |plan: &str, on_unpaid: &str, days: &str| {
            let vars = [
                (env::PLAN_AFTER_CANCELLATION, plan),
                (env::ON_UNPAID, on_unpaid),
                (env::UNPAID_GRACE_DAYS, days),
            ];
            let vars = vars.map(|(var, value)| (var.name.to_owned(), value.to_owned()));
            subscription_rules(&Env::from_vars(vars))
        };
        let read = rules("free", "plan:basic", "7").unwrap();
        assert_eq!(read.plan_after_cancellation.as_str(), "free");
        assert_eq!(read.grace, SignedDuration::from_hours(168));
        assert_eq!(read.unpaid, UnpaidRule::Move("basic".parse().unwrap()));
        assert_eq!(
            rules("free", "suspend", "0").unwrap().unpaid,
            UnpaidRule::Suspend
        );
        assert_eq!(
            rules("free", "nothing", "90").unwrap().unpaid,
            UnpaidRule::Nothing
        );
        for (plan, on_unpaid, days) in [
            ("", "suspend", "7"),
            ("Free", "suspend", "7"),
            ("free", "", "7"),
            ("free", "basic", "7"),
            ("free", "plan:", "7"),
            ("free", "suspend", ""),
            ("free", "suspend", "-1"),
            ("free", "suspend", "91"),
            ("free", "suspend", "1.5"),
        ] {
            rules(plan, on_unpaid, days).unwrap_err();
        }
    }

    #[test]
    fn the_cors_origin_is_one_origin_all_or_none() {
        let check = |text: &str, expected: Option<Option<&str>>| {
            let env = Env::from_vars([(env::CORS_ORIGINS.name.to_owned(), text.to_owned())]);
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
