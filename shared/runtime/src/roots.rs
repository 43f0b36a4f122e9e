//! Root certificates that a function's TLS connections trust.

use std::io;

use aws_smithy_http_client::tls::TrustStore;
use rustls::RootCertStore;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;

use crate::env::{self, Env};

/// Roots of Amazon Trust Services: all five that it asks custom trust stores to include
/// (<https://www.amazontrust.com/repository/>). The first to expire does so on 31 December 2037.
const PINNED: [&[u8]; 5] = [
    include_bytes!("roots/amazon-root-ca-1.pem"),
    include_bytes!("roots/amazon-root-ca-2.pem"),
    include_bytes!("roots/amazon-root-ca-3.pem"),
    include_bytes!("roots/amazon-root-ca-4.pem"),
    include_bytes!("roots/starfield-services-root-ca-g2.pem"),
];

/// First parts of region names in AWS's commercial partition; two more parts follow.
const COMMERCIAL: [&str; 9] = ["af", "ap", "ca", "eu", "il", "me", "mx", "sa", "us"];

/// Source of root certificates.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Roots {
    /// Pinned roots of Amazon Trust Services, which the services of the commercial partition use.
    Pinned,
    /// Root certificates of the system.
    System,
    /// Contents of a PEM file.
    Bundle(Vec<u8>),
}

/// Error: the file of root certificates that the environment names cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum InvalidBundle {
    /// The file cannot be read.
    #[error("{} names {path}, which cannot be read", env::CA_BUNDLE.name)]
    Unreadable {
        /// Path of the file.
        path: String,
        /// Error from reading the file.
        #[source]
        source: io::Error,
    },
    /// The file is empty or has other content.
    #[error("{} names {path}, which does not consist of PEM certificates", env::CA_BUNDLE.name)]
    NoCertificates {
        /// Path of the file.
        path: String,
    },
}

impl Roots {
    /// Reads the file that the environment names, if any, or chooses the roots for the region.
    pub(crate) fn from_env(env: &Env, region: &str) -> Result<Self, InvalidBundle> {
        let Some(path) = env.find(env::CA_BUNDLE) else {
            let pinned = is_commercial(region);
            return Ok(if pinned { Roots::Pinned } else { Roots::System });
        };
        let path = path.to_owned();
        match std::fs::read(&path) {
            // The HTTP client panics on certificates that it cannot parse.
            Ok(pem) if are_certificates(&pem) => Ok(Roots::Bundle(pem)),
            Ok(_) => Err(InvalidBundle::NoCertificates { path }),
            Err(source) => Err(InvalidBundle::Unreadable { path, source }),
        }
    }

    pub(crate) fn trust_store(self) -> TrustStore {
        let empty = TrustStore::empty();
        match self {
            Roots::Pinned => PINNED
                .iter()
                .fold(empty, |store, pem| store.with_pem_certificate(*pem)),
            Roots::System => empty.with_native_roots(true),
            Roots::Bundle(pem) => empty.with_pem_certificate(pem),
        }
    }
}

fn is_commercial(region: &str) -> bool {
    let parts: Vec<&str> = region.split('-').collect();
    match parts[..] {
        // Regions of other partitions have another first part, or a fourth part as in us-gov-west-1.
        [area, _, number] => COMMERCIAL.contains(&area) && number.parse::<u8>().is_ok(),
        _ => false,
    }
}

fn are_certificates(pem: &[u8]) -> bool {
    let mut roots = RootCertStore::empty();
    let all_good = CertificateDer::pem_slice_iter(pem)
        .all(|certificate| certificate.is_ok_and(|certificate| roots.add(certificate).is_ok()));
    all_good && !roots.is_empty()
}

#[cfg(test)]
mod tests {
    use sha2::{Digest, Sha256};

    use super::*;

    /// The fingerprints are from Amazon Trust Services and Mozilla's list of roots.
    #[test]
    fn the_pinned_roots_are_those_of_amazon_trust_services() {
        let check = |at: usize, subject: &str, fingerprint: &str| {
            assert!(are_certificates(PINNED[at]), "{subject}");
            let certificate = CertificateDer::from_pem_slice(PINNED[at]).unwrap();
            assert_eq!(
                hex::encode(Sha256::digest(&certificate)),
                fingerprint,
                "{subject}"
            );
            let mut roots = RootCertStore::empty();
            roots.add(certificate).unwrap();
            let found = String::from_utf8_lossy(&roots.roots[0].subject);
            assert!(found.ends_with(subject), "{found}");
        };
        check(
            0,
            "Amazon Root CA 1",
            "8ecde6884f3d87b1125ba31ac3fcb13d7016de7f57cc904fe1cb97c6ae98196e",
        );
        check(
            1,
            "Amazon Root CA 2",
            "1ba5b2aa8c65401a82960118f80bec4f62304d83cec4713a19c39c011ea46db4",
        );
        check(
            2,
            "Amazon Root CA 3",
            "18ce6cfe7bf14e60b2e347b8dfe868cb31d02ebb3ada271569f50343b46db3a4",
        );
        check(
            3,
            "Amazon Root CA 4",
            "e35d28419ed02025cfa69038cd623962458da5c695fbdea3c22b0bfb25897092",
        );
        check(
            4,
            "Starfield Services Root Certificate Authority - G2",
            "568d6905a2c88708a4b3025190edcfedb1974a606a13c6e5290fcb2ae63edab5",
        );
    }

    #[test]
    fn only_regions_of_the_commercial_partition_use_the_pinned_roots() {
        let check = |region: &str, expected: Roots| {
            let env = Env::from_vars([]);
            assert_eq!(Roots::from_env(&env, region).unwrap(), expected, "{region}");
        };
        for region in [
            "us-east-1",
            "eu-central-2",
            "ap-southeast-7",
            "mx-central-1",
        ] {
            check(region, Roots::Pinned);
        }
        for region in [
            "cn-north-1",
            "us-gov-west-1",
            "us-iso-east-1",
            "eu-isoe-west-1",
            "eusc-de-east-1",
            "local",
            "",
        ] {
            check(region, Roots::System);
        }
    }

    /// Chooses the roots for an environment that names a file with this text.
    fn roots_of_bundle(text: &[u8]) -> Result<Roots, InvalidBundle> {
        let name = format!("tollgate-bundle-{}.pem", hex::encode(Sha256::digest(text)));
        let path = std::env::temp_dir().join(name);
        std::fs::write(&path, text).unwrap();
        let roots = roots_of_file(path.to_str().unwrap());
        std::fs::remove_file(&path).unwrap();
        roots
    }

    fn roots_of_file(path: &str) -> Result<Roots, InvalidBundle> {
        let env = Env::from_vars([(env::CA_BUNDLE.name.to_owned(), path.to_owned())]);
        Roots::from_env(&env, "us-east-1")
    }

    #[test]
    fn a_bundle_replaces_all_other_roots() {
        let two = [PINNED[0], PINNED[4]].concat();
        assert_eq!(roots_of_bundle(&two).unwrap(), Roots::Bundle(two));
        // An empty variable counts as not set.
        assert_eq!(roots_of_file("").unwrap(), Roots::Pinned);
    }

    #[test]
    fn an_invalid_bundle_is_named() {
        let check = |found: Result<Roots, InvalidBundle>, expected: &str| {
            let error = found.unwrap_err().to_string();
            let has_prefix = error.starts_with("AWS_CA_BUNDLE names ");
            assert!(has_prefix && error.contains(expected), "{error}");
        };
        check(
            roots_of_file("/nonexistent.pem"),
            "/nonexistent.pem, which cannot",
        );
        check(roots_of_bundle(b""), "does not consist");
        check(roots_of_bundle(b"no certificate"), "does not consist");
        let cut = &PINNED[0][..PINNED[0].len() / 2];
        check(
            roots_of_bundle(&[PINNED[1], cut].concat()),
            "does not consist",
        );
        let empty = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n";
        check(roots_of_bundle(empty.as_bytes()), "does not consist");
    }
}
