//! Errors of starting the local stack.

use std::path::PathBuf;

use stripe_fake::JournalError;
use tollgate_domain::key::KeyPrefix;
use tollgate_domain::llm::InvalidPrices;
use tollgate_domain::plan::InvalidCatalog;
use tollgate_local_aws::LocalAwsError;
use tollgate_local_aws::template::InvalidTemplate;
use tollgate_runtime::config::InvalidConfig;
use tollgate_store::StoreError;

/// Error of starting the local stack.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The port cannot be bound.
    #[error("cannot listen on 127.0.0.1:{0}; choose another port with --port, or 0 for any")]
    Port(u16, #[source] std::io::Error),
    /// The port of the stand-in for Stripe cannot be bound.
    #[error(
        "the stand-in for Stripe cannot listen on 127.0.0.1:{0}; choose another port with --stripe-port, or 0 for \
         any"
    )]
    StripePort(u16, #[source] std::io::Error),
    /// The state of the stand-in for Stripe cannot be used.
    #[error("the stand-in for Stripe cannot use its state; choose another directory with --data")]
    Stripe(#[from] JournalError),
    /// The data directory cannot be used.
    #[error("cannot use {0} for data; choose another directory with --data")]
    Data(PathBuf, #[source] std::io::Error),
    /// Another process uses the data directory.
    #[error("{0} is in use by another process; choose another directory with --data")]
    InUse(PathBuf),
    /// The given admin key cannot be used.
    #[error("the admin key given by TOLLGATE_ADMIN_KEY or --admin-key cannot be used")]
    AdminKey(#[from] UnusableAdminKey),
    /// The configuration is invalid.
    #[error(transparent)]
    Config(#[from] InvalidConfig),
    /// The given plans are invalid.
    #[error("the plans given by TOLLGATE_PLANS or --plans are invalid")]
    Plans(#[from] InvalidCatalog),
    /// The token prices are invalid.
    #[error(transparent)]
    Prices(#[from] InvalidPrices),
    /// The template is invalid.
    #[error(transparent)]
    Template(#[from] InvalidTemplate),
    /// The embedded AWS services do not start.
    #[error("the embedded AWS services do not start")]
    Aws(#[from] LocalAwsError),
    /// The tables cannot be read or written.
    #[error("the tables cannot be used")]
    Store(#[from] StoreError),
    /// The stored clock offset cannot be restored.
    #[error("the clock cannot be restored")]
    Clock(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// The operating system returned no randomness.
    #[error("the operating system returned no randomness")]
    Entropy(#[from] rand::rngs::SysError),
}

/// Reason why a given admin key cannot be used, with advice on which key to give.
#[derive(Debug, thiserror::Error)]
pub enum UnusableAdminKey {
    /// The text cannot be sent in a header field.
    #[error("it must be 1 to 128 visible ASCII characters")]
    Unsendable,
    /// A key that was copied incompletely or mistyped.
    #[error(
        "it begins like an API key but is not a valid one; copy the key again, or choose a text that \
         begins differently"
    )]
    Mistyped,
    /// A customer's key.
    #[error(
        "{0}… is a customer's key; give the admin key, or none to use the one created at the first \
         start"
    )]
    OfACustomer(KeyPrefix),
    /// A key that was revoked or has expired.
    #[error("{0}… is revoked or has expired; give another key, or a text of your choice")]
    Ended(KeyPrefix),
    /// An admin key in the form in which they were stored before 0.1.0.
    #[error(
        "{0}… was created by an earlier release and is no longer valid; give none, or a text of your \
         choice, to create a new one"
    )]
    OfEarlierRelease(KeyPrefix),
    /// A key with the prefix of another key.
    #[error("{0}… is the prefix of another key as well; give another key")]
    Taken(KeyPrefix),
    /// An unknown admin key, most likely of another data directory.
    #[error(
        "{given}… does not exist in this data directory, whose admin key is {existing}…; give that one, \
         none, or a text of your choice, or choose the key's own directory with --data"
    )]
    OfOtherDirectory {
        /// Prefix of the given key.
        given: KeyPrefix,
        /// Prefix of the directory's admin key.
        existing: KeyPrefix,
    },
}
