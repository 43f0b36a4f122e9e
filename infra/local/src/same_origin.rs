//! Same-origin check for the routes without a key: only programs on this machine, and pages of the local
//! stack's own origin, may use them.

use http::header::{HOST, HeaderName, ORIGIN};
use http::{HeaderMap, HeaderValue};
use tollgate_web::Problem;

/// Checks the origin of a request. A browser sends requests of any page to 127.0.0.1, with the page's
/// `Origin`. A page whose domain name resolves to 127.0.0.1 (DNS rebinding) is of the same origin to the
/// browser, but has its domain name in `Host`.
///
/// # Errors
/// With the response, when the request has another host name, or was sent by a page of another origin.
pub(crate) fn check(headers: &HeaderMap) -> Result<(), Problem> {
    let host = only(headers, HOST).filter(|host| is_loopback(host));
    let Some(host) = host else {
        let detail =
            "Use 127.0.0.1 or localhost as the host name of the URL and of the Host field.";
        return Err(Problem::forbidden(detail));
    };
    let own = format!("http://{host}");
    let is_own = |origin: &HeaderValue| origin.as_bytes().eq_ignore_ascii_case(own.as_bytes());
    if headers.get_all(ORIGIN).iter().all(is_own) {
        Ok(())
    } else {
        let detail = "Pages of another origin may not send requests to this route.";
        Err(Problem::forbidden(detail))
    }
}

/// Returns the value of a field that occurs exactly once.
fn only(headers: &HeaderMap, name: HeaderName) -> Option<&str> {
    let mut values = headers.get_all(name).iter();
    let value = values.next()?;
    if values.next().is_some() {
        return None;
    }
    value.to_str().ok()
}

/// Returns whether a `Host` field has a loopback name. The port may differ: it may be forwarded.
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
    fn only_local_programs_and_pages_of_the_same_origin_are_allowed() {
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
