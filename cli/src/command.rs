//! The commands, each with its arguments.

pub(crate) mod billing;
pub(crate) mod bootstrap;
pub(crate) mod customers;
pub(crate) mod documentation;
pub(crate) mod events;
pub(crate) mod keys;
pub(crate) mod login;
pub(crate) mod plans;
pub(crate) mod quarantine;
pub(crate) mod replay;
pub(crate) mod usage;
pub(crate) mod webhooks;

use std::fs::File;
use std::io::Read;
use std::path::Path;
use std::str::FromStr;

use serde::Serialize;
use serde_json::{Value, json};

use crate::failure::Failure;

/// Value of an option that the word `none` removes.
#[derive(Debug, Clone)]
pub(crate) struct OrNone<T>(pub(crate) Option<T>);

impl<T: FromStr> FromStr for OrNone<T> {
    type Err = T::Err;

    fn from_str(text: &str) -> Result<Self, T::Err> {
        match text {
            "none" => Ok(Self(None)),
            text => Ok(Self(Some(text.parse()?))),
        }
    }
}

impl<T: Serialize> OrNone<T> {
    /// Returns the value of a merge patch: `null` to remove.
    fn patch(self) -> Value {
        json!(self.0)
    }
}

/// Reads a file, or standard input for `-`.
pub(crate) fn read_input(path: &Path) -> Result<String, Failure> {
    let mut text = String::new();
    let read = if path == Path::new("-") {
        std::io::stdin().lock().read_to_string(&mut text)
    } else {
        File::open(path).and_then(|mut file| file.read_to_string(&mut text))
    };
    match read {
        Ok(_) => Ok(text),
        Err(error) => Err(Failure::because(
            format!("{} cannot be read", path.display()),
            &error,
        )),
    }
}

/// Reads a file of JSON, or standard input for `-`.
pub(crate) fn read_json(path: &Path) -> Result<Value, Failure> {
    serde_json::from_str(&read_input(path)?)
        .map_err(|error| Failure::because(format!("{} is not JSON", path.display()), &error))
}
