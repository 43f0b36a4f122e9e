//! Transcripts of the program against the local product. Each file under `tests/transcripts` has commands and what
//! they print; a test runs the commands and compares.
//!
//! `$ ` begins a command for `sh`, `@ ` a request to the local product: to one of its own routes, or to put events on the bus; `2> ` marks standard error. What differs between
//! runs, such as ids, is replaced by a name, which later commands can use.

#![allow(clippy::unwrap_used, reason = "a failed step of a test fails the test")]

mod support;

use std::collections::HashMap;
use std::fmt::Write as _;
use std::path::Path;

use serde_json::json;
use support::{Deployment, bin_dir};

/// Time to which the clock is set.
const NOW: &str = "2026-11-22T10:00:00Z";

/// Replacement of what differs between runs.
struct Names {
    fixed: Vec<(String, &'static str)>,
    /// Name of each text.
    names: HashMap<String, String>,
    /// Number of names of each kind.
    kinds: HashMap<&'static str, usize>,
    minute: String,
}

impl Names {
    fn new(deployment: &Deployment) -> Self {
        Self {
            fixed: vec![
                (deployment.dir.display().to_string(), "~"),
                (deployment.url().to_owned(), "<url>"),
            ],
            names: HashMap::new(),
            kinds: HashMap::new(),
            minute: String::new(),
        }
    }

    fn set_clock(&mut self, now: &str) {
        now[..16].clone_into(&mut self.minute);
    }

    /// Replaces what differs, and makes the width of columns independent of it.
    fn apply(&mut self, text: &str) -> String {
        let mut text = text.to_owned();
        for (found, name) in &self.fixed {
            text = text.replace(found, name);
        }
        while let Some(start) = text.find(&self.minute) {
            let len = text[start..].find('Z').unwrap();
            text.replace_range(start..=start + len, "<now>");
        }
        while let Some(start) = text.find("whsec_") {
            let is_of_secret = |char: char| char.is_ascii_alphanumeric() || "_+/=".contains(char);
            let secret = &text[start..];
            let len = secret
                .find(|char| !is_of_secret(char))
                .unwrap_or(secret.len());
            text.replace_range(start..start + len, "<webhook secret>");
        }
        let is_of_token = |char: char| char.is_ascii_alphanumeric() || char == '_' || char == '-';
        let mut named = String::new();
        let mut rest = text.as_str();
        while let Some(start) = rest.find(is_of_token) {
            let token = &rest[start..];
            let len = token.find(|char| !is_of_token(char)).unwrap_or(token.len());
            named.push_str(&rest[..start]);
            named.push_str(&self.name(&token[..len]));
            rest = &token[len..];
        }
        named.push_str(rest);
        while named.contains("   ") {
            named = named.replace("   ", "  ");
        }
        named
    }

    fn name(&mut self, token: &str) -> String {
        let dashes: Vec<usize> = token.match_indices('-').map(|(at, _)| at).collect();
        let kind = match token.len() {
            36 if dashes == [8, 13, 18, 23] => return "<request>".to_owned(),
            24 if token.starts_with("key_") => "key",
            16..=18 if token.starts_with("tg_") => "prefix",
            40.. if token.starts_with("tg_") => "secret",
            20.. if token.starts_with("wh_") || token.starts_with("webhook_") => "webhook",
            20.. if token.starts_with("evt_") => "event",
            20.. if token.starts_with("cus_") => "customer",
            20 if token.chars().filter(char::is_ascii_uppercase).count() > 3
                && !token.contains('_') =>
            {
                "item"
            }
            _ => return token.to_owned(),
        };
        if let Some(name) = self.names.get(token) {
            return name.clone();
        }
        let number = self.kinds.entry(kind).or_default();
        *number += 1;
        let name = format!("<{kind}-{number}>");
        self.names.insert(token.to_owned(), name.clone());
        name
    }

    /// Replaces names in a command by what they stand for.
    fn resolve(&self, command: &str) -> String {
        let mut command = command.to_owned();
        for (token, name) in &self.names {
            command = command.replace(name, token);
        }
        for (found, name) in &self.fixed {
            command = command.replace(name, found);
        }
        command
    }
}

async fn run(name: &str) {
    let tests = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/transcripts");
    let file = tests.join(format!("{name}.txt"));
    let expected = std::fs::read_to_string(&file).unwrap();
    let deployment = Deployment::start(name, NOW).await;
    let mut names = Names::new(&deployment);
    names.set_clock(NOW);
    let mut found = String::new();
    for line in expected.lines() {
        if let Some(command) = line.strip_prefix("@ ") {
            writeln!(found, "{line}").unwrap();
            let (route, argument) = command.split_once(' ').unwrap_or((command, ""));
            match route {
                "clock" => {
                    names.set_clock(argument);
                    deployment.local(route, json!({ "now": argument })).await;
                }
                "put" => deployment.put(&tests.join("files").join(argument)).await,
                _ => deployment.local(route, json!({})).await,
            }
        } else if let Some(command) = line.strip_prefix("$ ") {
            writeln!(found, "{line}").unwrap();
            let output = deployment
                .command("sh")
                .args(["-c", &names.resolve(command)])
                .current_dir(tests.join("files"))
                .env("PATH", format!("{}:/usr/bin:/bin", bin_dir().display()))
                .output()
                .await
                .unwrap();
            let stdout = String::from_utf8(output.stdout).unwrap();
            found.push_str(&names.apply(&stdout));
            for line in names
                .apply(&String::from_utf8(output.stderr).unwrap())
                .lines()
            {
                writeln!(found, "2> {line}").unwrap();
            }
            if !output.status.success() {
                writeln!(found, "[exit {}]", output.status.code().unwrap()).unwrap();
            }
        } else if line.starts_with('#') {
            writeln!(found, "\n{line}").unwrap();
        }
    }
    if std::env::var_os("UPDATE_TRANSCRIPTS").is_some() {
        std::fs::write(&file, &found).unwrap();
    }
    let update = "UPDATE_TRANSCRIPTS=1 cargo test -p tollgate-cli --test transcripts";
    assert!(
        found == std::fs::read_to_string(&file).unwrap(),
        "{name}.txt differs; to update it: {update}\n{found}"
    );
}

macro_rules! transcripts {
    ($($name:ident)*) => {
        $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
        async fn $name() {
            run(stringify!($name)).await;
        })*

        #[test]
        fn each_file_is_run() {
            let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/transcripts");
            let files = std::fs::read_dir(dir).unwrap().map(|file| file.unwrap().file_name().into_string().unwrap());
            let mut files: Vec<String> = files.filter_map(|file| Some(file.strip_suffix(".txt")?.to_owned())).collect();
            files.sort();
            assert_eq!(files, [$(stringify!($name)),*]);
        }
    };
}

transcripts! { billing customers documentation events keys plans profiles quarantine replay usage webhooks }
