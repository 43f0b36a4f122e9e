//! Whom a function's TLS connections trust.

use std::io;

use aws_smithy_http_client::tls::TrustStore;
use rustls::RootCertStore;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;

use crate::env::{self, Env};

/// The roots of Amazon Trust Services, all five that it asks custom trust stores to have
/// (<https://www.amazontrust.com/repository/>). The earliest to end does so on 31 December 2037.
const PINNED: [&[u8]; 5] = [
    include_bytes!("roots/amazon-root-ca-1.pem"),
    include_bytes!("roots/amazon-root-ca-2.pem"),
    include_bytes!("roots/amazon-root-ca-3.pem"),
    include_bytes!("roots/amazon-root-ca-4.pem"),
    include_bytes!("roots/starfield-services-root-ca-g2.pem"),
];

/// What the names of regions in AWS's commercial partition begin with; two more parts follow.
const COMMERCIAL: [&str; 9] = ["af", "ap", "ca", "eu", "il", "me", "mx", "sa", "us"];

/// Root certificates.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Roots {
    /// Those that the services of the commercial partition have.
    Pinned,
    /// The machine's.
    System,
    /// A PEM file's.
    Bundle(Vec<u8>),
}

/// Why the certificates that the environment names cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum InvalidBundle {
    /// The file cannot be read.
    #[error("{} names {path}, which cannot be read", env::CA_BUNDLE.name)]
    Unreadable {
        /// The file.
        path: String,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// It is no list of certificates.
    #[error("{} names {path}, which holds something else than PEM certificates", env::CA_BUNDLE.name)]
    NoCertificates {
        /// The file.
        path: String,
    },
}

impl Roots {
    /// Those of the environment's own file, or else those for the region.
    pub(crate) fn of(env: &Env, region: &str) -> Result<Self, InvalidBundle> {
        let Some(path) = env.find(env::CA_BUNDLE) else {
            let pinned = is_commercial(region);
            return Ok(if pinned { Roots::Pinned } else { Roots::System });
        };
        let path = path.to_owned();
        match std::fs::read(&path) {
            // The HTTP client panics at what it cannot read.
            Ok(pem) if are_certificates(&pem) => Ok(Roots::Bundle(pem)),
            Ok(_) => Err(InvalidBundle::NoCertificates { path }),
            Err(source) => Err(InvalidBundle::Unreadable { path, source }),
        }
    }

    pub(crate) fn trust_store(self) -> TrustStore {
        let none = TrustStore::empty();
        match self {
            Roots::Pinned => PINNED
                .iter()
                .fold(none, |store, pem| store.with_pem_certificate(*pem)),
            Roots::System => none.with_native_roots(true),
            Roots::Bundle(pem) => none.with_pem_certificate(pem),
        }
    }
}

fn is_commercial(region: &str) -> bool {
    let parts: Vec<&str> = region.split('-').collect();
    match parts[..] {
        // Regions of other partitions have another beginning, or a fourth part: us-gov-west-1.
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
    use tollgate_domain::key::hex;

    use super::*;

    /// The fingerprints that Amazon Trust Services and Mozilla's list of roots give.
    #[test]
    fn the_pinned_roots_are_those_of_amazon_trust_services() {
        let check = |at: usize, subject: &str, fingerprint: &str| {
            assert!(are_certificates(PINNED[at]), "{subject}");
            let certificate = CertificateDer::from_pem_slice(PINNED[at]).unwrap();
            assert_eq!(hex(&Sha256::digest(&certificate)), fingerprint, "{subject}");
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
    fn only_regions_that_are_known_to_have_them_go_by_the_pinned_roots() {
        let check = |region: &str, expected: Roots| {
            let env = Env::of([]);
            assert_eq!(Roots::of(&env, region).unwrap(), expected, "{region}");
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

    /// What becomes of a file with this text that the environment names.
    fn of_bundle(text: &[u8]) -> Result<Roots, InvalidBundle> {
        let name = format!("tollgate-bundle-{}.pem", hex(&Sha256::digest(text)));
        let path = std::env::temp_dir().join(name);
        std::fs::write(&path, text).unwrap();
        let roots = of_file(path.to_str().unwrap());
        std::fs::remove_file(&path).unwrap();
        roots
    }

    fn of_file(path: &str) -> Result<Roots, InvalidBundle> {
        let env = Env::of([(env::CA_BUNDLE.name.to_owned(), path.to_owned())]);
        Roots::of(&env, "us-east-1")
    }

    #[test]
    fn a_bundle_takes_the_place_of_all_other_roots() {
        let two = [PINNED[0], PINNED[4]].concat();
        assert_eq!(of_bundle(&two).unwrap(), Roots::Bundle(two));
        // A variable that is set to nothing names no file.
        assert_eq!(of_file("").unwrap(), Roots::Pinned);
    }

    #[test]
    fn what_is_no_bundle_is_named() {
        let check = |found: Result<Roots, InvalidBundle>, expected: &str| {
            let error = found.unwrap_err().to_string();
            let begins = error.starts_with("AWS_CA_BUNDLE names ");
            assert!(begins && error.contains(expected), "{error}");
        };
        check(
            of_file("/nonexistent.pem"),
            "/nonexistent.pem, which cannot",
        );
        check(of_bundle(b""), "something else");
        check(of_bundle(b"no certificate"), "something else");
        let cut = &PINNED[0][..PINNED[0].len() / 2];
        check(of_bundle(&[PINNED[1], cut].concat()), "something else");
        let empty = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n";
        check(of_bundle(empty.as_bytes()), "something else");
    }
}
