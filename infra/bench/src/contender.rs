//! A function that is measured, and its processes.

use std::ffi::OsString;
use std::fs::File;
use std::io;
use std::path::PathBuf;
use std::process::Stdio;
use std::time::{Duration, Instant};

use hyper::body::Bytes;
use serde_json::Value;
use tokio::process::{Child, Command};
use tokio::time::timeout;

use crate::dynamodb::DynamoDb;
use crate::runtime_api::{Answered, Report, RuntimeApi, Start};

/// Far longer than the slowest start or answer.
const PATIENCE: Duration = Duration::from_secs(20);

/// Why a function could not be measured.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ContenderError {
    #[error("{0} cannot be run")]
    Run(String, #[source] io::Error),
    #[error("{0} does not answer")]
    Silent(String),
    #[error("{0} failed: {1}")]
    Failed(String, String),
    #[error("{0} answered before it was asked")]
    Unasked(String),
    #[error("the memory of {0} cannot be read")]
    Memory(String),
}

/// A function: what runs it, and with which variables.
#[derive(Debug, Clone)]
pub(crate) struct Contender {
    pub(crate) name: String,
    pub(crate) program: PathBuf,
    pub(crate) arguments: Vec<OsString>,
    /// Where it runs.
    pub(crate) dir: PathBuf,
    pub(crate) variables: Vec<(String, String)>,
    /// Where what it prints goes.
    pub(crate) log: PathBuf,
}

/// How a process reaches DynamoDB.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Scheme {
    Http,
    Https,
}

/// A process of a contender, ready for an event. Killed when it is dropped.
pub(crate) struct Process {
    contender: String,
    child: Child,
    api: RuntimeApi,
    spawned: Instant,
    start: Start,
}

/// Memory in bytes.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Memory {
    /// Resident now.
    pub(crate) resident: u64,
    /// The most that was ever resident.
    pub(crate) peak: u64,
}

impl Contender {
    /// Starts a process that reaches DynamoDB, and waits until it is ready for an event.
    pub(crate) async fn start(
        &self,
        endpoint: &DynamoDb,
        scheme: Scheme,
    ) -> Result<Process, ContenderError> {
        self.start_as(|command| match scheme {
            Scheme::Http => command.env("AWS_ENDPOINT_URL_DYNAMODB", endpoint.http()),
            Scheme::Https => command
                .env("AWS_ENDPOINT_URL_DYNAMODB", endpoint.https())
                .env("AWS_CA_BUNDLE", endpoint.certificate())
                .env("NODE_EXTRA_CA_CERTS", endpoint.certificate()),
        })
        .await
    }

    /// The same of a process that reaches what its variables name.
    pub(crate) async fn start_alone(&self) -> Result<Process, ContenderError> {
        self.start_as(|command| command).await
    }

    async fn start_as(
        &self,
        reaching: impl FnOnce(&mut Command) -> &mut Command,
    ) -> Result<Process, ContenderError> {
        let cannot_run = |error| ContenderError::Run(self.name.clone(), error);
        let mut api = RuntimeApi::start().await.map_err(cannot_run)?;
        let log = File::create(&self.log).map_err(cannot_run)?;
        let mut command = Command::new(&self.program);
        command
            .args(&self.arguments)
            .current_dir(&self.dir)
            .env_clear()
            .envs([
                ("AWS_LAMBDA_FUNCTION_NAME", "bench"),
                ("AWS_LAMBDA_FUNCTION_MEMORY_SIZE", "256"),
                ("AWS_LAMBDA_FUNCTION_VERSION", "$LATEST"),
                ("AWS_LAMBDA_LOG_FORMAT", "JSON"),
                ("AWS_LAMBDA_LOG_LEVEL", "INFO"),
                ("AWS_LAMBDA_LOG_GROUP_NAME", "/aws/lambda/bench"),
                ("AWS_LAMBDA_LOG_STREAM_NAME", "bench"),
                ("AWS_REGION", "us-east-1"),
                ("AWS_DEFAULT_REGION", "us-east-1"),
                ("AWS_ACCESS_KEY_ID", "local"),
                ("AWS_SECRET_ACCESS_KEY", "local"),
            ])
            .env("AWS_LAMBDA_RUNTIME_API", api.address())
            .env("LAMBDA_TASK_ROOT", &self.dir)
            .envs(self.variables.iter().map(|(name, value)| (name, value)))
            .stdin(Stdio::null())
            .stdout(log.try_clone().map_err(cannot_run)?)
            .stderr(log)
            .kill_on_drop(true);
        let spawned = Instant::now();
        let mut child = reaching(&mut command).spawn().map_err(cannot_run)?;
        let report = tokio::select! {
            report = timeout(PATIENCE, api.report()) => report.ok(),
            _ = child.wait() => None,
        };
        let start = match report.ok_or_else(|| ContenderError::Silent(self.name.clone()))? {
            Report::Started(start) => start,
            Report::Failed(said) => return Err(failed(&self.name, &said)),
            Report::Answered(_) => return Err(ContenderError::Unasked(self.name.clone())),
        };
        Ok(Process {
            contender: self.name.clone(),
            child,
            api,
            spawned,
            start,
        })
    }
}

fn failed(contender: &str, said: &[u8]) -> ContenderError {
    let said = String::from_utf8_lossy(said).into_owned();
    ContenderError::Failed(contender.to_owned(), said)
}

impl Process {
    /// From the start of the process until it asked for its first event.
    pub(crate) fn started_in(&self) -> Duration {
        self.start.polled - self.spawned
    }

    /// From the start of the process until Lambda would have sent it one.
    pub(crate) fn ready_in(&self) -> Duration {
        self.start.ready - self.spawned
    }

    /// How long ago the process was started.
    pub(crate) fn age(&self) -> Duration {
        self.spawned.elapsed()
    }

    /// Hands it an event. Returns how long the answer took, which allows the call and says how it
    /// stands against its limits.
    pub(crate) async fn invoke(&mut self, event: &Bytes) -> Result<Duration, ContenderError> {
        let answered = self.ask(event).await?;
        if allows(&answered.answer) {
            Ok(answered.took())
        } else {
            Err(failed(&self.contender, &answered.answer))
        }
    }

    /// Hands it an event, as soon as Lambda would, and waits for the answer, whatever that is.
    pub(crate) async fn ask(&mut self, event: &Bytes) -> Result<Answered, ContenderError> {
        self.api.send(event.clone());
        let report = timeout(PATIENCE, self.api.report()).await;
        match report.map_err(|_| ContenderError::Silent(self.contender.clone()))? {
            Report::Answered(answered) => Ok(answered),
            Report::Failed(said) => Err(failed(&self.contender, &said)),
            Report::Started(_) => Err(ContenderError::Unasked(self.contender.clone())),
        }
    }

    /// Waits until Lambda could hand it the next event.
    pub(crate) async fn idle(&mut self) -> Result<(), ContenderError> {
        let idle = timeout(PATIENCE, self.api.idle()).await;
        idle.map_err(|_| ContenderError::Silent(self.contender.clone()))
    }

    /// What the process occupies.
    pub(crate) fn memory(&self) -> Result<Memory, ContenderError> {
        let unreadable = || ContenderError::Memory(self.contender.clone());
        let id = self.child.id().ok_or_else(unreadable)?;
        let status = std::fs::read_to_string(format!("/proc/{id}/status"));
        memory(&status.map_err(|_| unreadable())?).ok_or_else(unreadable)
    }

    /// Announces the end, as Lambda does, and waits for it.
    pub(crate) async fn shut_down(mut self) -> Result<(), ContenderError> {
        let id = self.child.id().unwrap_or_default().to_string();
        let told = Command::new("kill").args(["-TERM", &id]).status().await;
        told.map_err(|error| ContenderError::Run("kill".to_owned(), error))?;
        match timeout(PATIENCE, self.child.wait()).await {
            Ok(_) => Ok(()),
            Err(_) => Err(ContenderError::Silent(self.contender)),
        }
    }

    /// Ends the process, and waits until it has gone.
    pub(crate) async fn stop(mut self) {
        // One that has ended by itself cannot be killed, and need not be.
        let _ = self.child.kill().await;
    }
}

/// Whether an answer allows its call, and says what is left of the limit. The second is missing
/// where the store had no part in the decision.
pub(crate) fn allows(answer: &[u8]) -> bool {
    let answer: Value = serde_json::from_slice(answer).unwrap_or_default();
    answer["policyDocument"]["Statement"][0]["Effect"] == "Allow"
        && answer["context"]["rateLimitRemaining"].is_string()
}

fn memory(status: &str) -> Option<Memory> {
    let bytes = |field: &str| {
        let mut lines = status.lines();
        let value = lines.find_map(|line| line.strip_prefix(field))?;
        let kib: u64 = value.trim().strip_suffix(" kB")?.parse().ok()?;
        Some(kib * 1_024)
    };
    Some(Memory {
        resident: bytes("VmRSS:")?,
        peak: bytes("VmHWM:")?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_counted_and_allowed_call_is_an_answer() {
        let check = |effect: &str, context: &str, expected: bool| {
            let answer = format!(
                r#"{{"principalId":"key_1","policyDocument":{{"Version":"2012-10-17","Statement":[{{
                "Action":"execute-api:Invoke","Effect":"{effect}","Resource":"a"}}]}},"context":{context}}}"#
            );
            assert_eq!(allows(answer.as_bytes()), expected, "{answer}");
        };
        check(
            "Allow",
            r#"{"role":"customer","rateLimitRemaining":"9"}"#,
            true,
        );
        check(
            "Deny",
            r#"{"role":"customer","rateLimitRemaining":"0"}"#,
            false,
        );
        check("Allow", r#"{"role":"customer"}"#, false);
        assert!(!allows(br#"{"errorMessage":"Unauthorized"}"#));
        assert!(!allows(b""));
    }

    #[test]
    fn memory_is_read_in_bytes() {
        let status = "Name:\tbench\nVmPeak:\t  9000 kB\nVmHWM:\t    7000 kB\nVmRSS:\t    5500 kB\n";
        let memory = memory(status).unwrap();
        assert_eq!((memory.resident, memory.peak), (5_632_000, 7_168_000));
        assert!(super::memory("Name:\tbench\n").is_none());
    }
}
