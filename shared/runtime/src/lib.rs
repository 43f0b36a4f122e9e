//! What every Tollgate process is given from outside: configuration, time, randomness and AWS
//! clients. Handlers take them as arguments; only `main` reads them from the world.

pub mod aws;
pub mod clock;
pub mod config;
pub mod entropy;
pub mod env;
mod error;
pub mod metrics;

pub use clock::Clock;
pub use entropy::Entropy;
pub use env::Env;
pub use error::Chain;
pub use metrics::Metrics;
