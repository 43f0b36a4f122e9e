//! Tests of signatures.
#![allow(clippy::unwrap_used, reason = "a failed step of a test fails the test")]

mod signatures;
