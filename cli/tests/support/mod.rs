//! The local product in this process, and the program that operates it.

#![allow(dead_code, reason = "each test target uses a part of this")]

use std::path::{Path, PathBuf};

use serde_json::Value;
use tokio::process::Command;
use tollgate_local::client::Client;
use tollgate_local::local_stack::{self, Options, Running};

/// Returns the directory of the program.
pub(crate) fn bin_dir() -> &'static Path {
    Path::new(env!("CARGO_BIN_EXE_tollgate")).parent().unwrap()
}

/// A running local product with an empty directory for profiles and files.
pub(crate) struct Deployment {
    pub(crate) running: Running,
    pub(crate) dir: PathBuf,
}

impl Deployment {
    /// Starts a deployment whose clock is set to `now`.
    pub(crate) async fn start(name: &str, now: &str) -> Self {
        let dir = Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
        let _ = std::fs::remove_dir_all(&dir);
        std::fs::create_dir_all(&dir).unwrap();
        let running = local_stack::start(Options::default()).await.unwrap();
        let deployment = Self { running, dir };
        deployment
            .local("clock", serde_json::json!({ "now": now }))
            .await;
        deployment
    }

    pub(crate) fn url(&self) -> &str {
        &self.running.url
    }

    pub(crate) fn admin_key(&self) -> &str {
        self.running.admin.expose().unwrap()
    }

    pub(crate) fn admin(&self) -> Client {
        Client::new(self.url()).unwrap().with_key(self.admin_key())
    }

    /// Sends a request to the local product's own routes.
    pub(crate) async fn local(&self, route: &str, body: Value) {
        let path = format!("/_local/{route}");
        let response = self.admin().post(&path, body).await.unwrap();
        assert!(response.status.is_success(), "{}", response.text);
    }

    /// Puts the usage events of a file on the bus, and delivers them.
    pub(crate) async fn put(&self, file: &Path) {
        for line in std::fs::read_to_string(file).unwrap().lines() {
            let event: Value = serde_json::from_str(line).unwrap();
            let put_events = serde_json::json!({ "Entries": [{
                "EventBusName": "local-usage",
                "Source": event["source"],
                "DetailType": event["type"],
                "Detail": line,
            }] });
            let headers = [("x-amz-target", "AWSEvents.PutEvents")];
            let client = Client::new(self.url()).unwrap();
            let response = client.send(
                http::Method::POST,
                "/",
                &headers,
                put_events.to_string().into(),
            );
            let response = response.await.unwrap();
            assert!(
                response.text.contains("\"FailedEntryCount\":0"),
                "{}",
                response.text
            );
        }
        self.local("drain", serde_json::json!({})).await;
    }

    /// Returns a command with nothing in its environment but URL, key and directory.
    pub(crate) fn command(&self, program: &str) -> Command {
        let mut command = Command::new(program);
        command
            .env_clear()
            .env("XDG_CONFIG_HOME", &self.dir)
            .env("TOLLGATE_URL", self.url())
            .env("TOLLGATE_KEY", self.admin_key())
            .stdin(std::process::Stdio::null())
            .kill_on_drop(true);
        command
    }

    /// Returns a command of the program.
    pub(crate) fn tollgate(&self, arguments: &[&str]) -> Command {
        let mut command = self.command(env!("CARGO_BIN_EXE_tollgate"));
        command.args(arguments);
        command
    }
}
