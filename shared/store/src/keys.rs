//! API keys.

mod create;
mod item;
mod owners;
mod read;
mod rotate;
mod update;

pub use item::{KeyRef, NewKey};
pub use rotate::RotateOutcome;
pub use update::{KeyChange, UpdateOutcome};

pub(crate) use item::read_key;
