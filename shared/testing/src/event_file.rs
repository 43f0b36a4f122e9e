//! The files in `events/`: inputs of the functions as AWS sends them.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use serde_json::Value;

/// Returns the workspace's directory.
pub fn workspace() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

/// Reads `events/<name>.json`.
#[track_caller]
pub fn read(name: &str) -> String {
    let path = workspace().join(format!("events/{name}.json"));
    let text = std::fs::read_to_string(&path);
    text.unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// Reads `events/<name>.json` as JSON.
#[track_caller]
pub fn load(name: &str) -> Value {
    serde_json::from_str(&read(name)).unwrap()
}

/// Returns the names, without the extension, of the files in `events/<function>`.
#[track_caller]
pub fn names(function: &str) -> BTreeSet<String> {
    let files = std::fs::read_dir(workspace().join("events").join(function)).unwrap();
    let stem = |file: PathBuf| file.file_stem().unwrap().to_str().unwrap().to_owned();
    files.map(|file| stem(file.unwrap().path())).collect()
}
