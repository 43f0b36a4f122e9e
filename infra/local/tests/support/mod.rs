//! Fixtures that the test targets of this crate share. Each target includes them once.

#![allow(dead_code, reason = "each test target uses a part of this")]

pub(crate) mod calls;
pub(crate) mod program;
pub(crate) mod raw;
pub(crate) mod target;
