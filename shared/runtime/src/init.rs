//! Initialisation of a function: the inputs from which its state is built.

use std::time::Duration;

use aws_types::SdkConfig;

use crate::{Clock, Entropy, Env, Metrics, aws, env, logging};

/// Inputs of the state of an instance. A function's `App::build` takes all of its environment from here:
/// from the process in `main`, from the template in the local product, and from fixtures in tests.
#[derive(Debug, Clone)]
pub struct Init {
    /// Environment variables.
    pub env: Env,
    /// Configuration of the AWS clients.
    pub sdk: SdkConfig,
    /// Source of time.
    pub clock: Clock,
    /// Source of randomness.
    pub entropy: Entropy,
    /// Destination of metrics.
    pub metrics: Metrics,
}

impl Init {
    /// Installs the logger and reads the environment of the process. `timeout` is that of one AWS API
    /// call.
    ///
    /// # Errors
    /// When a variable is missing or invalid, or the operating system has no randomness.
    pub fn from_process(
        timeout: Duration,
    ) -> Result<Self, Box<dyn std::error::Error + Send + Sync>> {
        let env = Env::from_process();
        logging::init(&env)?;
        Self::from_env(env, timeout)
    }

    /// Creates the inputs from environment variables, with the system's clock and randomness, and
    /// metrics on standard output.
    ///
    /// # Errors
    /// When a variable is missing or invalid, or the operating system has no randomness.
    pub fn from_env(
        env: Env,
        timeout: Duration,
    ) -> Result<Self, Box<dyn std::error::Error + Send + Sync>> {
        let clock = Clock::system();
        Ok(Self {
            sdk: aws::sdk_config(&env, timeout)?,
            metrics: Metrics::to_stdout(env.get(env::TABLE_PREFIX)?, clock.clone()),
            entropy: Entropy::system()?,
            clock,
            env,
        })
    }
}
