//! The guard of routes that ask for no key: only this machine's own programs, and pages of the
//! product itself, may use them.

use http::header::{HOST, HeaderName, ORIGIN};
use http::{HeaderMap, HeaderValue};
use tollgate_web::Problem;

/// Checks who sends a request. A browser sends any page's requests to 127.0.0.1, with the page's
/// `Origin`; and a page whose own name was made to lead here counts as of this origin to the
/// browser, but has its name in `Host` (DNS rebinding).
///
/// # Errors
/// With the answer, when the request is addressed to another name, or is a page's of another origin.
pub(crate) fn check(headers: &HeaderMap) -> Result<(), Problem> {
    let host = only(headers, HOST).filter(|host| is_loopback(host));
    let Some(host) = host else {
        let detail = "Call this route under 127.0.0.1 or localhost, in the Host field too.";
        return Err(Problem::forbidden(detail));
    };
    let own = format!("http://{host}");
    let is_own = |origin: &HeaderValue| origin.as_bytes().eq_ignore_ascii_case(own.as_bytes());
    if headers.get_all(ORIGIN).iter().all(is_own) {
        Ok(())
    } else {
        let detail = "Pages of another origin may not call this route.";
        Err(Problem::forbidden(detail))
    }
}

/// A field that is there once.
fn only(headers: &HeaderMap, name: HeaderName) -> Option<&str> {
    let mut values = headers.get_all(name).iter();
    let value = values.next()?;
    if values.next().is_some() {
        return None;
    }
    value.to_str().ok()
}

/// Whether a `Host` field names this machine to itself, whatever the port: it may be forwarded.
fn is_loopback(host: &str) -> bool {
    let port_at = host.rfind(':').filter(|at| !host[*at..].contains(']'));
    let name = &host[..port_at.unwrap_or(host.len())];
    ["127.0.0.1", "localhost", "[::1]"]
        .iter()
        .any(|own| name.eq_ignore_ascii_case(own))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_machines_programs_and_the_products_pages_are_let_through() {
        let check = |fields: &[(&'static str, &str)], expected: bool| {
            let mut headers = HeaderMap::new();
            for (name, value) in fields {
                headers.append(*name, value.parse().unwrap());
            }
            assert_eq!(check(&headers).is_ok(), expected, "{fields:?}");
        };
        for host in [
            "127.0.0.1:9000",
            "localhost",
            "LocalHost:80",
            "[::1]:9000",
            "[::1]",
        ] {
            check(&[("host", host)], true);
        }
        for host in [
            "evil.example:9000",
            "localhost.evil.example",
            "127.0.0.1.evil.example:9000",
            "evil.example:80:127.0.0.1",
            "::1",
            "",
        ] {
            check(&[("host", host)], false);
        }
        check(&[], false);
        check(&[("host", "localhost"), ("host", "localhost")], false);
        let host = ("host", "127.0.0.1:9000");
        check(&[host, ("origin", "http://127.0.0.1:9000")], true);
        for origin in [
            "http://127.0.0.1:9001",
            "https://127.0.0.1:9000",
            "http://localhost:9000",
            "http://evil.example",
            "null",
        ] {
            check(&[host, ("origin", origin)], false);
        }
        let own = ("origin", "http://127.0.0.1:9000");
        check(&[host, own, ("origin", "null")], false);
    }
}
