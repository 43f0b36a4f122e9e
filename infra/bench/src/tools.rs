//! External programs, and a description of the machine.

use std::ffi::OsString;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::process::Stdio;

use flate2::Compression;
use flate2::write::DeflateEncoder;
use serde::Deserialize;
use tokio::process::Command;

/// Root directory of the workspace.
pub(crate) const ROOT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../..");

/// An error of an external program or a file.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ToolError {
    #[error("{0} cannot be run")]
    Run(String, #[source] io::Error),
    #[error("{0} failed with {1}")]
    Failed(String, std::process::ExitStatus),
    #[error("the output of {0} is invalid")]
    Output(String),
    #[error("{} cannot be read or written", .0.display())]
    File(PathBuf, #[source] io::Error),
}

/// Runs a command and waits until it has exited. Returns its standard output; its standard error is passed on.
pub(crate) async fn run(command: &mut Command) -> Result<String, ToolError> {
    let program = Path::new(command.as_std().get_program());
    let name = program.file_name().unwrap_or_default();
    let name = name.to_string_lossy().into_owned();
    let child = command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .kill_on_drop(true)
        .spawn();
    let output = match child {
        Ok(child) => child.wait_with_output().await,
        Err(error) => Err(error),
    };
    let output = output.map_err(|error| ToolError::Run(name.clone(), error))?;
    if !output.status.success() {
        return Err(ToolError::Failed(name, output.status));
    }
    String::from_utf8(output.stdout).map_err(|_| ToolError::Output(name))
}

/// Returns a command that runs the Cargo by which this program is run.
fn cargo() -> Command {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| OsString::from("cargo"));
    let mut command = Command::new(cargo);
    command.current_dir(ROOT);
    // Removes the variables that `cargo run` sets for this program's package. Build scripts that depend on them
    // would run again, and their dependents would be rebuilt.
    for (name, _) in std::env::vars_os() {
        let prefixes = ["CARGO_PKG_", "CARGO_MANIFEST_"];
        if prefixes
            .iter()
            .any(|prefix| name.to_string_lossy().starts_with(prefix))
        {
            command.env_remove(name);
        }
    }
    command
}

#[derive(Deserialize)]
struct Metadata {
    target_directory: PathBuf,
}

/// Returns Cargo's target directory.
pub(crate) async fn target_dir() -> Result<PathBuf, ToolError> {
    let printed = run(cargo().args(["metadata", "--no-deps", "--format-version", "1"])).await?;
    let metadata: Metadata =
        serde_json::from_str(&printed).map_err(|_| ToolError::Output("cargo".to_owned()))?;
    Ok(metadata.target_directory)
}

/// A line of Cargo's `--message-format json`.
#[derive(Deserialize)]
struct Message {
    executable: Option<PathBuf>,
}

/// Builds one binary by itself, so that no other package adds features to its dependencies.
pub(crate) async fn build(
    package: &str,
    binary: &str,
    profile: &str,
) -> Result<PathBuf, ToolError> {
    build_with(&[], package, binary, profile).await
}

/// Builds one binary by itself, without its package's default features.
pub(crate) async fn build_bare(
    package: &str,
    binary: &str,
    profile: &str,
) -> Result<PathBuf, ToolError> {
    build_with(&["--no-default-features"], package, binary, profile).await
}

async fn build_with(
    options: &[&str],
    package: &str,
    binary: &str,
    profile: &str,
) -> Result<PathBuf, ToolError> {
    let mut command = cargo();
    command.args(["build", "--locked", "--profile", profile]);
    command.args(["--package", package, "--bin", binary]);
    command.args(options);
    command.arg("--message-format=json-render-diagnostics");
    let printed = run(&mut command).await?;
    let built = printed
        .lines()
        .filter_map(|line| serde_json::from_str::<Message>(line).ok()?.executable)
        .next_back();
    built.ok_or_else(|| ToolError::Output("cargo".to_owned()))
}

/// Returns the compressed size of a file in a zip in bytes, without the zip's headers.
pub(crate) fn zipped(path: &Path) -> Result<u64, ToolError> {
    let zip = || {
        let mut encoder = DeflateEncoder::new(Count::default(), Compression::best());
        io::copy(&mut std::fs::File::open(path)?, &mut encoder)?;
        Ok(encoder.finish()?.0)
    };
    zip().map_err(|error| ToolError::File(path.to_owned(), error))
}

/// A writer that counts the written bytes.
#[derive(Default)]
struct Count(u64);

impl Write for Count {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0 += bytes.len() as u64;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Description of the machine on which the figures were measured.
#[derive(Debug, Clone)]
pub(crate) struct Machine {
    pub(crate) cores: usize,
    pub(crate) cpu: String,
    pub(crate) kernel: String,
    pub(crate) rustc: String,
}

/// Reads the description of this machine.
pub(crate) async fn machine() -> Result<Machine, ToolError> {
    let read = |path: &str| {
        std::fs::read_to_string(path).map_err(|error| ToolError::File(path.into(), error))
    };
    let cpus = read("/proc/cpuinfo")?;
    // A suffix of the version is the distribution's.
    let kernel = read("/proc/sys/kernel/osrelease")?;
    let mut names = cpus
        .lines()
        .filter_map(|line| line.strip_prefix("model name"));
    let name = names.next().map(|name| name.trim_matches([' ', '\t', ':']));
    Ok(Machine {
        cores: crate::affinity::cores(),
        cpu: name.unwrap_or("unknown").to_owned(),
        kernel: kernel.split(['-', '\n']).take(1).collect(),
        rustc: run(Command::new("rustc").arg("--version"))
            .await?
            .trim()
            .to_owned(),
    })
}
