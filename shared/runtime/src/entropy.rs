//! Randomness that is passed as an argument, so that tests can seed it.

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};

use rand::rngs::{StdRng, SysRng};
use rand::{Rng, SeedableRng};

/// Source of random bits. Cheap to clone; clones draw from one stream.
#[derive(Clone)]
pub struct Entropy(Arc<Mutex<StdRng>>);

impl Entropy {
    /// Creates a cryptographically secure generator (ChaCha12), seeded once by the operating system.
    ///
    /// # Errors
    /// When the operating system provides no randomness.
    pub fn system() -> Result<Self, rand::rngs::SysError> {
        Ok(Self::from_rng(StdRng::try_from_rng(&mut SysRng)?))
    }

    /// Creates a generator with a deterministic stream, for tests and simulations.
    #[must_use]
    pub fn seeded(seed: u64) -> Self {
        Self::from_rng(StdRng::seed_from_u64(seed))
    }

    fn from_rng(rng: StdRng) -> Self {
        Self(Arc::new(Mutex::new(rng)))
    }

    /// Calls `draw` with the generator and returns its result.
    pub fn with<T>(&self, draw: impl FnOnce(&mut StdRng) -> T) -> T {
        draw(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Draws random bytes.
    #[must_use]
    pub fn bytes<const N: usize>(&self) -> [u8; N] {
        let mut bytes = [0; N];
        self.with(|rng| rng.fill_bytes(&mut bytes));
        bytes
    }

    /// Draws a uniform number below `bound`, or returns 0 if `bound` is 0.
    #[must_use]
    pub fn below(&self, bound: u64) -> u64 {
        self.with(|rng| rng.next_u64())
            .checked_rem(bound)
            .unwrap_or(0)
    }
}

impl fmt::Debug for Entropy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Entropy")
    }
}
