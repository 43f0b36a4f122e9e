//! Webhooks: addresses to which events are sent.

use std::collections::BTreeSet;
use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use jiff::{SignedDuration, Timestamp};
use zeroize::Zeroizing;

use crate::event::EventKind;
use crate::id::WebhookId;

/// Most webhooks of a stack. Each event is sent to all of them.
pub const MAX_WEBHOOKS: u64 = 10;

/// Times between the attempts of a delivery: those that Standard Webhooks recommends
/// (<https://github.com/standard-webhooks/standard-webhooks/blob/main/spec/standard-webhooks.md>). The last attempt is
/// some 28 hours after the first.
const RETRIES: [SignedDuration; 7] = [
    SignedDuration::from_secs(5),
    SignedDuration::from_mins(5),
    SignedDuration::from_mins(30),
    SignedDuration::from_hours(2),
    SignedDuration::from_hours(5),
    SignedDuration::from_hours(10),
    SignedDuration::from_hours(10),
];

/// Attempts of a delivery, the first included.
pub const MAX_ATTEMPTS: u32 = RETRIES.len() as u32 + 1;

/// Returns the time from a failed attempt, by its number from 1, to the next; `None` after the last one. `jitter_permille`
/// of up to 100 shortens it, so that deliveries that failed together are not repeated together.
#[must_use]
pub fn retry_after(attempt: u32, jitter_permille: u64) -> Option<SignedDuration> {
    let index = usize::try_from(attempt.checked_sub(1)?).ok()?;
    let whole_ms = RETRIES.get(index)?.as_millis();
    let shorter = whole_ms * i128::from(jitter_permille.min(100)) / 1_000;
    let wait_ms = i64::try_from(whole_ms - shorter).unwrap_or(i64::MAX);
    Some(SignedDuration::from_millis(wait_ms))
}

/// A webhook.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Webhook {
    /// Id.
    pub id: WebhookId,
    /// Address.
    pub url: TargetUrl,
    /// Kinds of events that are sent; empty for all.
    pub kinds: BTreeSet<EventKind>,
    /// Time of creation.
    pub created_at: Timestamp,
    /// Time at which the target responded that it is gone. Nothing is sent to it since.
    pub disabled_at: Option<Timestamp>,
    /// The last delivery that was given up.
    pub failure: Option<DeliveryFailure>,
}

impl Webhook {
    /// Whether events of this kind are sent.
    #[must_use]
    pub fn wants(&self, kind: EventKind) -> bool {
        self.disabled_at.is_none() && (self.kinds.is_empty() || self.kinds.contains(&kind))
    }
}

/// A delivery that was given up after its last attempt.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeliveryFailure {
    /// Number of the event.
    pub event: u64,
    /// Time of the last attempt.
    pub at: Timestamp,
    /// Reason of the last attempt's failure.
    pub reason: String,
}

/// Secret with which messages to a webhook are signed, as text. It never prints.
#[derive(Clone, PartialEq, Eq)]
pub struct WebhookSecret(Zeroizing<String>);

impl WebhookSecret {
    /// Wraps the text of a secret.
    #[must_use]
    pub fn new(text: &str) -> Self {
        Self(Zeroizing::new(text.to_owned()))
    }

    /// Returns the text.
    #[must_use]
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for WebhookSecret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("WebhookSecret(…)")
    }
}

/// Addresses to which messages may be sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reach {
    /// Public addresses, by HTTPS.
    Public,
    /// Loopback addresses too, by HTTP too: for a stack on one machine.
    Loopback,
}

impl Reach {
    /// Whether messages may be sent to this address.
    #[must_use]
    pub fn includes(self, address: IpAddr) -> bool {
        is_public(address) || (self == Reach::Loopback && address.is_loopback())
    }
}

/// Whether an address is one of the public internet, by IANA's registries of special-purpose addresses
/// (<https://www.iana.org/assignments/iana-ipv4-special-registry>,
/// <https://www.iana.org/assignments/iana-ipv6-special-registry>). All others are of this machine, of its network, or
/// of its cloud: the credentials of a role are at such an address.
#[must_use]
pub fn is_public(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(address) => !NOT_PUBLIC_V4.iter().any(|&(net, bits)| {
            let mask = u32::MAX.checked_shl(32 - bits).unwrap_or(0);
            u32::from(address) & mask == u32::from(net)
        }),
        // Only global unicast addresses (2000::/3) are public. The others include those that contain an IPv4 address:
        // mapped, compatible and translated ones (64:ff9b::/96); and unique local ones.
        IpAddr::V6(address) => {
            let is_in = |net: Ipv6Addr, bits: u32| {
                let mask = u128::MAX << (128 - bits);
                u128::from(address) & mask == u128::from(net)
            };
            is_in(Ipv6Addr::new(0x2000, 0, 0, 0, 0, 0, 0, 0), 3)
                && !NOT_PUBLIC_V6
                    .iter()
                    .any(|&(segments, bits)| is_in(Ipv6Addr::from(segments), bits))
        }
    }
}

/// IPv4 networks that are not public, with the bits of their prefix.
const NOT_PUBLIC_V4: [(Ipv4Addr, u32); 15] = [
    // This network.
    (Ipv4Addr::new(0, 0, 0, 0), 8),
    // Private.
    (Ipv4Addr::new(10, 0, 0, 0), 8),
    (Ipv4Addr::new(172, 16, 0, 0), 12),
    (Ipv4Addr::new(192, 168, 0, 0), 16),
    // Shared by carriers' customers (CGNAT).
    (Ipv4Addr::new(100, 64, 0, 0), 10),
    // Loopback.
    (Ipv4Addr::new(127, 0, 0, 0), 8),
    // Link-local, with the metadata of cloud instances.
    (Ipv4Addr::new(169, 254, 0, 0), 16),
    // IETF protocols, documentation, 6to4 relays and benchmarks.
    (Ipv4Addr::new(192, 0, 0, 0), 24),
    (Ipv4Addr::new(192, 0, 2, 0), 24),
    (Ipv4Addr::new(192, 88, 99, 0), 24),
    (Ipv4Addr::new(198, 18, 0, 0), 15),
    (Ipv4Addr::new(198, 51, 100, 0), 24),
    (Ipv4Addr::new(203, 0, 113, 0), 24),
    // Multicast; reserved, with broadcast.
    (Ipv4Addr::new(224, 0, 0, 0), 4),
    (Ipv4Addr::new(240, 0, 0, 0), 4),
];

/// IPv6 networks within 2000::/3 that are not public, with the bits of their prefix.
const NOT_PUBLIC_V6: [([u16; 8], u32); 4] = [
    // IETF protocols, with Teredo, which contains an IPv4 address.
    ([0x2001, 0, 0, 0, 0, 0, 0, 0], 23),
    // Documentation.
    ([0x2001, 0xdb8, 0, 0, 0, 0, 0, 0], 32),
    ([0x3fff, 0, 0, 0, 0, 0, 0, 0], 20),
    // 6to4, which contains an IPv4 address.
    ([0x2002, 0, 0, 0, 0, 0, 0, 0], 16),
];

/// Maximum length of an address.
const MAX_URL: usize = 2_048;

/// Address of a webhook.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TargetUrl(String);

/// Error: an address that messages cannot be sent to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum InvalidTargetUrl {
    /// It is not an `https` URL, or has parts that a request to it would not have.
    #[error(
        "url must be an https URL of up to {MAX_URL} characters, without user, password or fragment"
    )]
    Malformed,
    /// Its host is an address of a private network.
    #[error("url must lead to a public address")]
    NotPublic,
}

impl TargetUrl {
    /// Checks an address. A name may still resolve to an address that is not public, which is checked again for each
    /// connection.
    ///
    /// # Errors
    /// See [`InvalidTargetUrl`].
    pub fn parse(text: &str, reach: Reach) -> Result<Self, InvalidTargetUrl> {
        use InvalidTargetUrl::{Malformed, NotPublic};
        let is_sendable = |byte: u8| byte.is_ascii_graphic() && !b"\\#\"<>^`{|}".contains(&byte);
        if text.len() > MAX_URL || !text.bytes().all(is_sendable) {
            return Err(Malformed);
        }
        let (is_https, rest) = match (text.strip_prefix("https://"), text.strip_prefix("http://")) {
            (Some(rest), _) => (true, rest),
            (None, Some(rest)) if reach == Reach::Loopback => (false, rest),
            _ => return Err(Malformed),
        };
        let authority = &rest[..rest.find(['/', '?']).unwrap_or(rest.len())];
        let (host, port) = split_port(authority).ok_or(Malformed)?;
        if port.is_some_and(|port| port.parse::<u16>().ok().is_none_or(|port| port == 0)) {
            return Err(Malformed);
        }
        let address = literal(host).ok_or(Malformed)?;
        let name = host.trim_end_matches('.').to_ascii_lowercase();
        let is_localhost = name == "localhost" || name.ends_with(".localhost");
        let is_loopback = is_localhost || address.is_some_and(|address| address.is_loopback());
        if !is_https && !is_loopback {
            return Err(Malformed);
        }
        let is_reached = match address {
            Some(address) => reach.includes(address),
            None => !is_localhost || reach == Reach::Loopback,
        };
        if is_reached {
            Ok(Self(text.to_owned()))
        } else {
            Err(NotPublic)
        }
    }

    /// Returns a stored address, which was checked when it was stored.
    #[must_use]
    pub fn stored(text: &str) -> Self {
        Self(text.to_owned())
    }

    /// Returns the address as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// Splits the authority of a URL into host and port. `None` if it is malformed.
fn split_port(authority: &str) -> Option<(&str, Option<&str>)> {
    let (host, rest) = match authority.find(']') {
        Some(end) => authority.split_at(end + 1),
        None => authority.split_at(authority.find(':').unwrap_or(authority.len())),
    };
    match rest {
        "" => Some((host, None)),
        rest => Some((host, Some(rest.strip_prefix(':')?))),
    }
}

/// Returns the address if the host is one, and `Some(None)` if it is a name. `None` if it is malformed.
fn literal(host: &str) -> Option<Option<IpAddr>> {
    if let Some(host) = host.strip_prefix('[') {
        let address: Ipv6Addr = host.strip_suffix(']')?.parse().ok()?;
        return Some(Some(address.into()));
    }
    if let Ok(address) = host.parse::<Ipv4Addr>() {
        return Some(Some(address.into()));
    }
    let is_name = |byte: u8| byte.is_ascii_alphanumeric() || b"-._".contains(&byte);
    let is_valid = (1..=253).contains(&host.len()) && host.bytes().all(is_name);
    // Addresses are also written with fewer numbers, or with hexadecimal ones
    // (<https://url.spec.whatwg.org/#ends-in-a-number-checker>). No domain ends in a number.
    let last = host
        .trim_end_matches('.')
        .rsplit('.')
        .next()
        .unwrap_or_default();
    let hex = last.strip_prefix("0x").or(last.strip_prefix("0X"));
    let is_number = last.bytes().all(|byte| byte.is_ascii_digit())
        || hex.is_some_and(|hex| hex.bytes().all(|byte| byte.is_ascii_hexdigit()));
    (is_valid && !is_number).then_some(None)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_public_addresses_are_public() {
        let check = |address: &str, expected| {
            assert_eq!(is_public(address.parse().unwrap()), expected, "{address}");
        };
        for public in [
            "1.1.1.1",
            "8.8.8.8",
            "9.255.255.255",
            "11.0.0.0",
            "100.63.255.255",
            "100.128.0.0",
            "128.0.0.0",
            "169.253.255.255",
            "172.15.255.255",
            "172.32.0.0",
            "192.0.1.0",
            "192.167.255.255",
            "198.17.255.255",
            "198.20.0.0",
            "223.255.255.255",
            "2606:4700:4700::1111",
            "2001:4860:4860::8888",
            "2001:200::1",
            "2a00:1450:4001::1",
        ] {
            check(public, true);
        }
        for private in [
            "0.0.0.0",
            "0.1.2.3",
            "10.0.0.1",
            "10.255.255.255",
            "100.64.0.1",
            "100.127.255.255",
            "127.0.0.1",
            "127.255.255.254",
            "169.254.169.254",
            "169.254.170.2",
            "172.16.0.1",
            "172.31.255.255",
            "192.0.0.8",
            "192.0.2.1",
            "192.88.99.1",
            "192.168.1.1",
            "198.18.0.1",
            "198.19.255.255",
            "198.51.100.1",
            "203.0.113.1",
            "224.0.0.1",
            "239.255.255.250",
            "240.0.0.1",
            "255.255.255.255",
            "::",
            "::1",
            "::127.0.0.1",
            "::ffff:127.0.0.1",
            "::ffff:169.254.169.254",
            "::ffff:8.8.8.8",
            "64:ff9b::a9fe:a9fe",
            "64:ff9b:1::1",
            "100::1",
            "2001::1",
            "2001:0:4136:e378:8000:63bf:3fff:fdd2",
            "2001:20::1",
            "2001:1ff:ffff::",
            "2001:db8::1",
            "2002:7f00:1::1",
            "2002:a9fe:a9fe::1",
            "3fff::1",
            "4000::1",
            "5f00::1",
            "fc00::1",
            "fd00:ec2::254",
            "fe80::1",
            "fec0::1",
            "ff02::1",
        ] {
            check(private, false);
        }
        assert!(!Reach::Public.includes(Ipv4Addr::LOCALHOST.into()));
        assert!(Reach::Loopback.includes(Ipv4Addr::LOCALHOST.into()));
        assert!(Reach::Loopback.includes(Ipv6Addr::LOCALHOST.into()));
        assert!(!Reach::Loopback.includes("169.254.169.254".parse().unwrap()));
        assert!(!Reach::Loopback.includes("::ffff:127.0.0.1".parse().unwrap()));
    }

    #[test]
    fn a_target_is_an_https_url_of_a_public_host() {
        use InvalidTargetUrl::{Malformed, NotPublic};
        let check = |text: &str, expected: Result<(), InvalidTargetUrl>| {
            let parsed = TargetUrl::parse(text, Reach::Public);
            assert_eq!(parsed.map(drop), expected, "{text}");
        };
        for valid in [
            "https://hooks.example",
            "https://hooks.example/",
            "https://hooks.example:8443/tollgate?team=a&b=c",
            "https://hooks.example?x",
            "https://1.1.1.1/a",
            "https://[2606:4700:4700::1111]:443/a",
            "https://HOOKS.example./%2e%2e",
        ] {
            check(valid, Ok(()));
        }
        let long = format!("https://hooks.example/{}", "a".repeat(MAX_URL));
        for malformed in [
            "",
            "https://",
            "https:///a",
            "https://:443/",
            "hooks.example",
            "http://hooks.example",
            "http://127.0.0.1/",
            "ftp://hooks.example",
            "HTTPS://hooks.example",
            "https://user@hooks.example/",
            "https://user:password@hooks.example/",
            "https://1.1.1.1@10.0.0.1/",
            "https://hooks.example/#part",
            "https://hooks.example\\@10.0.0.1/",
            "https://hooks.example/a b",
            "https://hooks.example/ä",
            "https://hooks.example:0/",
            "https://hooks.example:65536/",
            "https://hooks.example:/",
            "https://hooks.example:443:443/",
            "https://[::1",
            "https://[fe80::1%25eth0]/",
            "https://[1.1.1.1]/",
            "https://0x0a000001/",
            "https://0X7f.1/",
            "https://2130706433/",
            "https://127.1./",
            "https://0/",
            &long,
        ] {
            check(malformed, Err(Malformed));
        }
        for private in [
            "https://127.0.0.1/",
            "https://10.0.0.1:8443/",
            "https://169.254.169.254/latest/meta-data/",
            "https://[::1]/",
            "https://[::ffff:10.0.0.1]/",
            "https://[fd00:ec2::254]/",
            "https://localhost/",
            "https://LOCALHOST./",
            "https://a.localhost/",
        ] {
            check(private, Err(NotPublic));
        }
    }

    #[test]
    fn a_stack_on_one_machine_reaches_loopback_by_http_too() {
        let is_valid = |text: &str| TargetUrl::parse(text, Reach::Loopback).is_ok();
        for valid in [
            "http://127.0.0.1:8080/a",
            "http://[::1]:8080/",
            "http://localhost:8080",
            "https://localhost/",
            "https://hooks.example/",
        ] {
            assert!(is_valid(valid), "{valid}");
        }
        for invalid in [
            "http://hooks.example/",
            "http://10.0.0.1/",
            "https://10.0.0.1/",
            "https://169.254.169.254/",
        ] {
            assert!(!is_valid(invalid), "{invalid}");
        }
    }

    #[test]
    fn the_attempts_of_a_delivery_take_more_than_a_day() {
        let mut total = SignedDuration::ZERO;
        for attempt in 1..MAX_ATTEMPTS {
            let wait = retry_after(attempt, 0).unwrap();
            let shorter = retry_after(attempt, 1_000).unwrap();
            assert_eq!(shorter.as_millis(), wait.as_millis() * 9 / 10, "{attempt}");
            total += shorter;
        }
        assert!(total > SignedDuration::from_hours(24), "{total:?}");
        assert_eq!(retry_after(MAX_ATTEMPTS, 0), None);
        assert_eq!(retry_after(0, 0), None);
    }

    #[test]
    fn a_webhook_is_sent_the_kinds_it_names_or_all() {
        let mut webhook = Webhook {
            id: "wh_1".parse().unwrap(),
            url: TargetUrl::stored("https://hooks.example"),
            kinds: BTreeSet::new(),
            created_at: Timestamp::UNIX_EPOCH,
            disabled_at: None,
            failure: None,
        };
        assert!(EventKind::ALL.iter().all(|kind| webhook.wants(*kind)));
        webhook.kinds = BTreeSet::from([EventKind::ChargeFailed]);
        assert!(webhook.wants(EventKind::ChargeFailed));
        assert!(!webhook.wants(EventKind::ChargeSettled));
        webhook.disabled_at = Some(Timestamp::UNIX_EPOCH);
        assert!(!webhook.wants(EventKind::ChargeFailed));
    }

    #[test]
    fn a_secret_does_not_print() {
        let secret = WebhookSecret::new("whsec_c2VjcmV0");
        assert_eq!(format!("{secret:?}"), "WebhookSecret(…)");
        assert_eq!(secret.expose(), "whsec_c2VjcmV0");
    }
}
