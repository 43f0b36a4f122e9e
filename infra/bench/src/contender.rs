//! Functions under measurement, and their processes.

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
use crate::runtime_api::{Init, Invocation, Report, RuntimeApi};

/// Far longer than the slowest start or response.
const TIMEOUT: Duration = Duration::from_secs(20);

/// An error that prevents the measurement of a function.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ContenderError {
    #[error("{0} cannot be run")]
    Run(String, #[source] io::Error),
    #[error("{0} timed out")]
    Timeout(String),
    #[error("{0} failed: {1}")]
    Failed(String, String),
    #[error("{0} sent a report that was not expected")]
    Unexpected(String),
    #[error("the memory of {0} cannot be read")]
    Memory(String),
}

/// A function under measurement: its program and environment.
#[derive(Debug, Clone)]
pub(crate) struct Contender {
    pub(crate) name: String,
    pub(crate) program: PathBuf,
    pub(crate) arguments: Vec<OsString>,
    /// Working directory.
    pub(crate) dir: PathBuf,
    /// Environment variables, besides those that Lambda sets.
    pub(crate) variables: Vec<(String, String)>,
    /// File for standard output and standard error.
    pub(crate) log: PathBuf,
}

/// Scheme of the DynamoDB endpoint.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Scheme {
    Http,
    Https,
}

/// A process of a contender, ready for an event. Killed on drop.
pub(crate) struct Process {
    contender: String,
    child: Child,
    api: RuntimeApi,
    spawned: Instant,
    init: Init,
    /// Time that an invocation may take.
    limit: Duration,
}

/// Memory of a process in bytes.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Memory {
    /// Resident memory.
    pub(crate) resident: u64,
    /// Peak resident memory.
    pub(crate) peak: u64,
}

impl Contender {
    /// Starts a process that uses this DynamoDB endpoint, and waits until it is ready for an event.
    pub(crate) async fn start(
        &self,
        endpoint: &DynamoDb,
        scheme: Scheme,
    ) -> Result<Process, ContenderError> {
        self.start_with(None, |command| match scheme {
            Scheme::Http => command.env("AWS_ENDPOINT_URL_DYNAMODB", endpoint.http()),
            Scheme::Https => command
                .env("AWS_ENDPOINT_URL_DYNAMODB", endpoint.https())
                .env("AWS_CA_BUNDLE", endpoint.certificate())
                .env("NODE_EXTRA_CA_CERTS", endpoint.certificate()),
        })
        .await
    }

    /// Starts a process with its own variables only, and waits until it is ready for an event.
    pub(crate) async fn start_without_dynamodb(&self) -> Result<Process, ContenderError> {
        self.start_with(None, |command| command).await
    }

    /// Starts a process that uses this endpoint for all services of AWS, and each of whose invocations may take
    /// `timeout`.
    pub(crate) async fn start_for(
        &self,
        endpoint: &DynamoDb,
        timeout: Duration,
    ) -> Result<Process, ContenderError> {
        self.start_with(Some(timeout), |command| {
            command.env("AWS_ENDPOINT_URL", endpoint.http())
        })
        .await
    }

    async fn start_with(
        &self,
        limit: Option<Duration>,
        set_endpoint: impl FnOnce(&mut Command) -> &mut Command,
    ) -> Result<Process, ContenderError> {
        let cannot_run = |error| ContenderError::Run(self.name.clone(), error);
        let mut api = match limit {
            None => RuntimeApi::start().await,
            Some(limit) => RuntimeApi::start_with(limit).await,
        }
        .map_err(cannot_run)?;
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
        let mut child = set_endpoint(&mut command).spawn().map_err(cannot_run)?;
        let report = tokio::select! {
            report = timeout(TIMEOUT, api.report()) => report.ok(),
            _ = child.wait() => None,
        };
        let init = match report.ok_or_else(|| ContenderError::Timeout(self.name.clone()))? {
            Report::Initialized(init) => init,
            Report::Failed(error) => return Err(failed(&self.name, &error)),
            Report::Responded(_) => return Err(ContenderError::Unexpected(self.name.clone())),
        };
        Ok(Process {
            contender: self.name.clone(),
            child,
            api,
            spawned,
            init,
            limit: limit.unwrap_or(TIMEOUT),
        })
    }
}

fn failed(contender: &str, output: &[u8]) -> ContenderError {
    let output = String::from_utf8_lossy(output).into_owned();
    ContenderError::Failed(contender.to_owned(), output)
}

impl Process {
    /// Returns the time from the process's start to its first poll of the Runtime API.
    pub(crate) fn time_to_first_poll(&self) -> Duration {
        self.init.polled - self.spawned
    }

    /// Returns the time from the process's start to the end of Lambda's init phase.
    pub(crate) fn time_to_ready(&self) -> Duration {
        self.init.ready - self.spawned
    }

    /// Returns the time since the process's start.
    pub(crate) fn age(&self) -> Duration {
        self.spawned.elapsed()
    }

    /// Sends an authorizer event. Returns the latency of the response.
    ///
    /// Fails unless the response allows the call and has the remaining limit.
    pub(crate) async fn decide(&mut self, event: &Bytes) -> Result<Duration, ContenderError> {
        let invocation = self.invoke(event).await?;
        if allows(&invocation.response) {
            Ok(invocation.latency())
        } else {
            Err(failed(&self.contender, &invocation.response))
        }
    }

    /// Sends an event as soon as Lambda would, and waits for any response.
    pub(crate) async fn invoke(&mut self, event: &Bytes) -> Result<Invocation, ContenderError> {
        self.api.send(event.clone());
        let report = timeout(self.limit, self.api.report()).await;
        match report.map_err(|_| ContenderError::Timeout(self.contender.clone()))? {
            Report::Responded(invocation) => Ok(invocation),
            Report::Failed(error) => Err(failed(&self.contender, &error)),
            Report::Initialized(_) => Err(ContenderError::Unexpected(self.contender.clone())),
        }
    }

    /// Waits until Lambda could send the next event.
    pub(crate) async fn wait_until_idle(&mut self) -> Result<(), ContenderError> {
        let idle = timeout(TIMEOUT, self.api.wait_until_idle()).await;
        idle.map_err(|_| ContenderError::Timeout(self.contender.clone()))
    }

    /// Reads the memory of the process.
    pub(crate) fn memory(&self) -> Result<Memory, ContenderError> {
        let unreadable = || ContenderError::Memory(self.contender.clone());
        let id = self.child.id().ok_or_else(unreadable)?;
        let status = std::fs::read_to_string(format!("/proc/{id}/status"));
        memory(&status.map_err(|_| unreadable())?).ok_or_else(unreadable)
    }

    /// Sends SIGTERM, as Lambda does, and waits until the process has exited.
    pub(crate) async fn shut_down(mut self) -> Result<(), ContenderError> {
        let id = self.child.id().unwrap_or_default().to_string();
        let sent = Command::new("kill").args(["-TERM", &id]).status().await;
        sent.map_err(|error| ContenderError::Run("kill".to_owned(), error))?;
        match timeout(TIMEOUT, self.child.wait()).await {
            Ok(_) => Ok(()),
            Err(_) => Err(ContenderError::Timeout(self.contender)),
        }
    }

    /// Kills the process, and waits until it has exited.
    pub(crate) async fn kill(mut self) {
        // Fails if the process has exited by itself, which needs no handling.
        let _ = self.child.kill().await;
    }
}

/// Returns whether a response allows its call and has the remaining limit, which is absent if the call was
/// allowed without being counted.
pub(crate) fn allows(response: &[u8]) -> bool {
    let response: Value = serde_json::from_slice(response).unwrap_or_default();
    response["policyDocument"]["Statement"][0]["Effect"] == "Allow"
        && response["context"]["rateLimitRemaining"].is_string()
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
    fn only_a_counted_and_allowed_call_passes() {
        let check = |effect: &str, context: &str, expected: bool| {
            let response = format!(
                r#"{{"principalId":"key_1","policyDocument":{{"Version":"2012-10-17","Statement":[{{
                "Action":"execute-api:Invoke","Effect":"{effect}","Resource":"a"}}]}},"context":{context}}}"#
            );
            assert_eq!(allows(response.as_bytes()), expected, "{response}");
        };
        check("Allow", r#"{"role":"call","rateLimitRemaining":"9"}"#, true);
        check("Deny", r#"{"role":"call","rateLimitRemaining":"0"}"#, false);
        check("Allow", r#"{"role":"call"}"#, false);
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
