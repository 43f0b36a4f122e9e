//! The origins of pages to which Stripe may lead customers back.

use std::sync::Arc;

use tollgate_runtime::Env;
use tollgate_runtime::config::{self, InvalidConfig};

/// Maximum length of the address of a page, in bytes.
const MAX_URL: usize = 2_048;

/// Origins of pages to which Stripe may lead customers back: without such a list, a stolen key could send a
/// customer from Stripe's page to one that imitates the operator's. Cheap to clone.
#[derive(Debug, Clone)]
pub struct ReturnOrigins(Arc<[String]>);

impl ReturnOrigins {
    /// Reads the origins from the environment.
    ///
    /// # Errors
    /// When the variable is not set, or is not a list of origins.
    pub fn from_env(env: &Env) -> Result<Self, InvalidConfig> {
        Ok(Self(config::return_origins(env)?.into()))
    }

    /// Whether the address is of a page on one of the origins.
    #[must_use]
    pub fn allow(&self, url: &str) -> bool {
        // What follows the origin must not continue it: https://app.example.attacker.example is another host,
        // and so is https://app.example@attacker.example. Browsers ignore some control characters in addresses.
        let is_within = |origin: &String| {
            let rest = url.strip_prefix(origin.as_str());
            rest.is_some_and(|rest| rest.is_empty() || rest.starts_with(['/', '?', '#']))
        };
        url.len() <= MAX_URL
            && url.bytes().all(|byte| byte.is_ascii_graphic())
            && self.0.iter().any(is_within)
    }

    /// Returns the origins.
    #[must_use]
    pub fn as_slice(&self) -> &[String] {
        &self.0
    }
}

#[cfg(test)]
mod tests {
    use tollgate_runtime::env;

    use super::*;

    fn origins(text: &str) -> ReturnOrigins {
        let vars = [(env::RETURN_ORIGINS.name.to_owned(), text.to_owned())];
        ReturnOrigins::from_env(&Env::from_vars(vars)).unwrap()
    }

    #[test]
    fn only_pages_of_the_origins_are_allowed() {
        let allowed = origins("https://app.example,http://127.0.0.1:3000");
        let check = |url: &str, expected: bool| assert_eq!(allowed.allow(url), expected, "{url}");
        check("https://app.example", true);
        check("https://app.example/", true);
        check(
            "https://app.example/billing?session={CHECKOUT_SESSION_ID}",
            true,
        );
        check("https://app.example?paid", true);
        check("https://app.example#paid", true);
        check("https://app.example/@elsewhere", true);
        check("http://127.0.0.1:3000/billing", true);
        for other in [
            "",
            "/billing",
            "http://app.example/",
            "https://app.example.attacker.example/",
            "https://app.example@attacker.example/",
            "https://app.example:pass@attacker.example/",
            "https://app.example:8443/",
            "https://app.examples/",
            "https://app.example\\@attacker.example/",
            "https://APP.example/",
            "https://attacker.example/https://app.example/",
            "https://app.example/a b",
            "https://app.example/\n",
            " https://app.example/",
            "https://app.example/é",
            "http://127.0.0.1/",
            "javascript:alert(1)",
        ] {
            check(other, false);
        }
        let longest = format!("https://app.example/{}", "x".repeat(2_028));
        check(&longest, true);
        check(&format!("{longest}x"), false);
    }

    #[test]
    fn without_origins_no_page_is_allowed() {
        assert!(!origins("").allow("https://app.example/"));
        assert!(!origins("").allow(""));
    }
}
