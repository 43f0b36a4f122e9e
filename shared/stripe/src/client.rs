//! The client, and what all of its calls share.

use std::fmt;
use std::sync::Arc;

use crate::config::Config;
use crate::secret::{CurrentKey, Secrets};
use crate::timing::Timing;
use crate::transport::Transport;

/// Client of Stripe's API. Cheap to clone; clones share the secret key and the connections.
#[derive(Clone)]
pub struct StripeClient(pub(crate) Arc<Inner>);

pub(crate) struct Inner {
    pub(crate) transport: Arc<dyn Transport>,
    pub(crate) key: CurrentKey,
    pub(crate) timing: Arc<dyn Timing>,
    pub(crate) config: Config,
}

impl StripeClient {
    /// Creates a client. It neither connects nor reads the secret key before its first call.
    #[must_use]
    pub fn new(
        transport: Arc<dyn Transport>,
        secrets: Arc<dyn Secrets>,
        timing: Arc<dyn Timing>,
        config: Config,
    ) -> Self {
        let key = CurrentKey::new(secrets);
        Self(Arc::new(Inner {
            transport,
            key,
            timing,
            config,
        }))
    }

    /// Returns the configuration.
    #[must_use]
    pub fn config(&self) -> &Config {
        &self.0.config
    }
}

impl fmt::Debug for StripeClient {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let base_url = self.0.config.base_url.as_str();
        f.debug_tuple("StripeClient").field(&base_url).finish()
    }
}
