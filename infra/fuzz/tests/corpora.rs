//! Runs each fuzz target with its committed corpus.

#![allow(clippy::unwrap_used, reason = "a test without a corpus has failed")]

use std::path::Path;

fn run(corpus: &str, target: fn(&[u8])) {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("corpus")
        .join(corpus);
    let files = std::fs::read_dir(dir).unwrap();
    let mut run = 0;
    for file in files {
        target(&std::fs::read(file.unwrap().path()).unwrap());
        run += 1;
    }
    assert!(run > 0);
}

#[test]
fn usage_events() {
    run("usage_event", fuzz::usage_event);
}

#[test]
fn authorizer_events() {
    run("authorizer_event", fuzz::authorizer_event);
}

#[test]
fn keys() {
    run("key", fuzz::key);
}

#[test]
fn cursors() {
    run("cursor", fuzz::cursor);
}
