//! Profiles: the URL and the key of a deployment, each in a file that only its owner can read.

use std::env;
use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, ErrorKind, Read, Write};
use std::net::IpAddr;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use http::Uri;
use serde::{Deserialize, Serialize};

use crate::failure::{Exit, Failure};
use crate::secret::Secret;

/// Variable with the key, for programs and for `login`. There is no argument for it, because other users of a
/// machine can read arguments.
pub(crate) const KEY_VARIABLE: &str = "TOLLGATE_KEY";
/// Variable with the URL of the API.
pub(crate) const URL_VARIABLE: &str = "TOLLGATE_URL";
/// Profile that is used if none is named.
const DEFAULT: &str = "default";
/// Permission bits of the group and of others.
const OF_OTHERS: u32 = 0o077;

/// Deployment and the key to it.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Profile {
    pub(crate) url: String,
    pub(crate) key: Secret,
}

/// Returns the profile of a command: the named one, or TOLLGATE_URL and TOLLGATE_KEY, or the default one. The key of a
/// profile is only ever sent to the URL of the profile.
pub(crate) fn find(name: Option<&str>) -> Result<Profile, Failure> {
    if name.is_some() {
        return read(name);
    }
    let url = variable(URL_VARIABLE)?
        .map(|url| check_url(&url))
        .transpose()?;
    let key = variable(KEY_VARIABLE)?
        .map(|key| Secret::new(&key))
        .transpose()?;
    match (url, key) {
        (Some(url), Some(key)) => Ok(Profile { url, key }),
        (None, Some(key)) => Ok(Profile { key, ..read(None)? }),
        (None, None) => read(None),
        (Some(url), None) => {
            let profile = read(None)?;
            if profile.url == url {
                return Ok(profile);
            }
            Err(Failure::new(
                Exit::Unauthorized,
                format!(
                    "there is no key for {url}: the default profile is for {}; set {KEY_VARIABLE}, or log in with \
                     --profile",
                    profile.url
                ),
            ))
        }
    }
}

/// Reads a variable that may be unset or empty.
pub(crate) fn variable(name: &str) -> Result<Option<String>, Failure> {
    match env::var(name) {
        Ok(value) => Ok(Some(value).filter(|value| !value.is_empty())),
        Err(env::VarError::NotPresent) => Ok(None),
        Err(env::VarError::NotUnicode(_)) => Err(Failure::usage(format!("{name} is not UTF-8"))),
    }
}

/// Checks the URL of an API, and returns it without slashes at its end.
pub(crate) fn check_url(text: &str) -> Result<String, Failure> {
    let url = text.trim_end_matches('/');
    let invalid = |why: &str| Failure::usage(format!("{text:?} is not the URL of an API: {why}"));
    let uri: Uri = url
        .parse()
        .map_err(|_| invalid("it must be as https://api.example.com/v1"))?;
    let (Some(scheme), Some(authority)) = (uri.scheme_str(), uri.authority()) else {
        return Err(invalid("it must begin with https://"));
    };
    if authority.as_str().contains('@') || uri.query().is_some() {
        return Err(invalid("it must have neither a user nor a query"));
    }
    let host = authority.host().trim_matches(['[', ']']);
    let is_loopback =
        host == "localhost" || host.parse::<IpAddr>().is_ok_and(|ip| ip.is_loopback());
    match scheme {
        "https" => Ok(url.to_owned()),
        "http" if is_loopback => Ok(url.to_owned()),
        _ => Err(invalid(
            "the key would travel unencrypted; it must begin with https://, except on this machine",
        )),
    }
}

fn path(name: Option<&str>) -> Result<PathBuf, Failure> {
    let name = name.unwrap_or(DEFAULT);
    let is_name = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_';
    if name.is_empty() || name.len() > 64 || !name.bytes().all(is_name) {
        return Err(Failure::usage(
            "a profile has a name of 1 to 64 letters, digits, - and _",
        ));
    }
    let absolute = |name| {
        env::var_os(name)
            .map(PathBuf::from)
            .filter(|path| path.is_absolute())
    };
    let config = absolute("XDG_CONFIG_HOME").or_else(|| Some(absolute("HOME")?.join(".config")));
    let config = config.ok_or_else(|| {
        Failure::usage(
            "neither XDG_CONFIG_HOME nor HOME is set, so that profiles have no directory",
        )
    })?;
    Ok(config.join("tollgate").join(format!("{name}.json")))
}

/// Reads a profile. A file that others can read is rejected: its key may have been read.
fn read(name: Option<&str>) -> Result<Profile, Failure> {
    let path = path(name)?;
    let cannot =
        |error: &io::Error| Failure::because(format!("{} cannot be read", path.display()), error);
    let mut file = match File::open(&path) {
        Ok(file) => file,
        Err(error) if error.kind() == ErrorKind::NotFound => {
            let name = name.unwrap_or(DEFAULT);
            return Err(Failure::new(
                Exit::Unauthorized,
                format!(
                    "there is no profile {name}: run tollgate login, or set {URL_VARIABLE} and {KEY_VARIABLE}"
                ),
            ));
        }
        Err(error) => return Err(cannot(&error)),
    };
    let mode = file
        .metadata()
        .map_err(|error| cannot(&error))?
        .permissions()
        .mode();
    if mode & OF_OTHERS != 0 {
        return Err(Failure::new(
            Exit::Unauthorized,
            format!(
                "{} can be read by others (mode {:03o}), and so the key in it: revoke that key if they may have, or \
                 run chmod 600 on the file",
                path.display(),
                mode & 0o777
            ),
        ));
    }
    let mut text = String::new();
    file.read_to_string(&mut text)
        .map_err(|error| cannot(&error))?;
    serde_json::from_str(&text)
        .map_err(|_| Failure::of(format!("{} is not a profile: log in again", path.display())))
}

/// Writes a profile, in place of an earlier one.
pub(crate) fn write(name: Option<&str>, profile: &Profile) -> Result<PathBuf, Failure> {
    let path = path(name)?;
    let cannot = |error: &dyn std::error::Error| {
        Failure::because(format!("{} cannot be written", path.display()), error)
    };
    let text = serde_json::to_string(profile).map_err(|error| cannot(&error))?;
    write_file(&path, &text).map_err(|error| cannot(&error))?;
    Ok(path)
}

/// Writes a file that nobody else can read, completely or not at all.
fn write_file(path: &Path, text: &str) -> io::Result<()> {
    if let Some(dir) = path.parent() {
        DirBuilder::new().recursive(true).mode(0o700).create(dir)?;
    }
    let new = path.with_extension(format!("new-{}", std::process::id()));
    let mut file = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(&new)?;
    let written = file
        .write_all(text.as_bytes())
        .and_then(|()| file.sync_all())
        .and_then(|()| fs::rename(&new, path));
    if written.is_err() {
        let _ = fs::remove_file(&new);
    }
    written
}

/// Deletes a profile. Returns its path, or `None` if there was none.
pub(crate) fn delete(name: Option<&str>) -> Result<Option<PathBuf>, Failure> {
    let path = path(name)?;
    match fs::remove_file(&path) {
        Ok(()) => Ok(Some(path)),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
        Err(error) => Err(Failure::because(
            format!("{} cannot be deleted", path.display()),
            &error,
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_travels_encrypted_or_within_the_machine() {
        let check = |text: &str, expected: Option<&str>| {
            assert_eq!(check_url(text).ok().as_deref(), expected, "{text}");
        };
        check(
            "https://api.example.com/v1/",
            Some("https://api.example.com/v1"),
        );
        check("http://127.0.0.1:9000", Some("http://127.0.0.1:9000"));
        check("http://[::1]:9000/", Some("http://[::1]:9000"));
        check("http://localhost", Some("http://localhost"));
        for invalid in [
            "",
            "api.example.com",
            "http://api.example.com",
            "http://127.0.0.1.example.com",
            "http://10.0.0.1",
            "ftp://localhost",
            "https://user@api.example.com",
            "https://api.example.com?stage=v1",
        ] {
            check(invalid, None);
        }
    }
}
