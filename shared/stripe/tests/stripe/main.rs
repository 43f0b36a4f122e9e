//! Tests of the client on a scripted network and a held clock.
#![allow(
    clippy::expect_used,
    clippy::unwrap_used,
    reason = "a failed step of a test fails the test"
)]

mod calls;
mod decoding;
mod exhaustive;
mod https;
mod key;
mod pages;
mod redaction;
mod retries;
mod script;
mod signatures;
