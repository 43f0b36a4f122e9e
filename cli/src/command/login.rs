//! `tollgate login` and `tollgate logout`.

use std::io::{IsTerminal, Read, stdin};

use clap::Args;
use console::Term;
use serde_json::Value;

use crate::client::{Client, path};
use crate::context::Page;
use crate::failure::Failure;
use crate::profile::{self, KEY_VARIABLE, Profile, URL_VARIABLE};
use crate::secret::Secret;

#[derive(Args)]
pub(crate) struct Login {
    /// URL of the API: the output `ApiUrl` of the stack.
    #[arg(value_name = "URL", env = URL_VARIABLE, hide_env_values = true)]
    url: String,
    /// Reads the key from standard input.
    #[arg(long)]
    key_stdin: bool,
}

impl Login {
    pub(crate) async fn run(self, name: Option<&str>) -> Result<(), Failure> {
        let url = profile::check_url(&self.url)?;
        let key = self.key()?;
        let profile = Profile { url, key };
        verify(&profile).await?;
        store(name, &profile)
    }

    fn key(&self) -> Result<Secret, Failure> {
        if self.key_stdin {
            let mut text = String::new();
            stdin()
                .lock()
                .read_to_string(&mut text)
                .map_err(|error| Failure::because("standard input cannot be read", &error))?;
            return Secret::new(&text);
        }
        if let Some(key) = profile::variable(KEY_VARIABLE)? {
            return Secret::new(&key);
        }
        let terminal = Term::stderr();
        if !stdin().is_terminal() || !terminal.is_term() {
            return Err(Failure::usage(format!(
                "there is no terminal to ask for the key: use --key-stdin, or set {KEY_VARIABLE}"
            )));
        }
        let asked = terminal
            .write_str("Admin key (not shown): ")
            .and_then(|()| terminal.read_secure_line());
        Secret::new(&asked.map_err(|error| Failure::because("the key cannot be read", &error))?)
    }
}

/// Checks with a request that the API is there and accepts the key.
pub(crate) async fn verify(profile: &Profile) -> Result<(), Failure> {
    let client = Client::new(profile)?;
    let path = path(&["admin", "customers"], &[("limit", Some("1"))]);
    let _: Page<Value> = client.get(path).await?;
    Ok(())
}

/// Stores a profile, and says so.
pub(crate) fn store(name: Option<&str>, profile: &Profile) -> Result<(), Failure> {
    let path = profile::write(name, profile)?;
    let (url, key) = (&profile.url, profile.key.shown());
    crate::note(format!(
        "logged in to {url} with {key}, stored in {}",
        path.display()
    ));
    Ok(())
}

pub(crate) fn logout(name: Option<&str>) -> Result<(), Failure> {
    match profile::delete(name)? {
        Some(path) => crate::note(format!(
            "deleted {}; the key in it still works until it is revoked",
            path.display()
        )),
        None => crate::note("there was no such profile"),
    }
    Ok(())
}
