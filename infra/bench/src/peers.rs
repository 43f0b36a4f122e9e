//! Peers: authorizers of a common design in Node.js and Python.
//!
//! They are installed under the target directory, with the versions of their lock files.

use std::ffi::OsString;
use std::path::Path;

use serde_json::Value;
use tokio::process::Command;
use tollgate_store::schema::{COUNTERS, REGISTRY, Table};

use crate::contender::Contender;
use crate::tables::STACK;
use crate::tools::{ToolError, run};

const SOURCES: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/peers");
const NODE_PACKAGES: &str = include_str!("../peers/node/package.json");
const PYTHON_PACKAGES: &str = include_str!("../peers/python/requirements.txt");

/// A peer, and its runners in order of preference.
pub(crate) struct Peer {
    pub(crate) runners: Vec<Runner>,
    /// The language and SDK, with versions.
    pub(crate) versions: String,
}

/// A peer's handler with a client of the Runtime API.
pub(crate) struct Runner {
    /// Name of the client: AWS's runtime interface client, or the benchmark's polling loop.
    pub(crate) client: String,
    pub(crate) contender: Contender,
}

/// Installs the peer in Node.js. Its handler is bundled with the SDK, as by SAM and the CDK.
pub(crate) async fn node(dir: &Path) -> Result<Peer, ToolError> {
    let dir = dir.join("node");
    let node = run(Command::new("node").args(["--print", "process.execPath"])).await?;
    let version = run(Command::new("node").arg("--version")).await?;
    let files = ["index.mjs", "loop.mjs", "package.json", "package-lock.json"];
    copy("node", &files, &dir)?;
    install(&dir, "package-lock.json", || npm_ci(&dir)).await?;
    let bundle = dir.join("bundle");
    run(Command::new(dir.join("node_modules/.bin/esbuild"))
        .current_dir(&dir)
        .args(["index.mjs", "--bundle", "--minify", "--platform=node"])
        .args(["--target=node20", "--log-level=warning"])
        .arg("--outfile=bundle/index.cjs"))
    .await?;

    let runner = |client: String, arguments: &[&Path]| Runner {
        client,
        contender: Contender {
            name: "node".to_owned(),
            program: node.trim().into(),
            arguments: arguments.iter().map(|&argument| argument.into()).collect(),
            dir: bundle.clone(),
            variables: variables("index.handler"),
            log: dir.with_extension("log"),
        },
    };
    let official = dir.join("node_modules/aws-lambda-ric");
    let mut runners = Vec::new();
    if official.join("rapid-client.node").exists() {
        let client = npm_pin("aws-lambda-ric");
        runners.push(runner(client, &[&official.join("index.mjs")]));
    }
    let own = dir.join("loop.mjs");
    runners.push(runner(polling_loop(), &[&own, &bundle.join("index.cjs")]));
    let sdk = npm_pin("@aws-sdk/client-dynamodb");
    let versions = format!("Node.js {}, {sdk}, bundled", version.trim());
    Ok(Peer { runners, versions })
}

/// Installs the peer in Python.
pub(crate) async fn python(dir: &Path) -> Result<Peer, ToolError> {
    let dir = dir.join("python");
    let version = run(Command::new("python3").arg("--version")).await?;
    copy(
        "python",
        &["handler.py", "loop.py", "requirements.txt"],
        &dir,
    )?;
    let venv = dir.join("venv");
    install(&dir, "requirements.txt", || pip_install(&dir, &venv)).await?;
    let runner = |client: String, arguments: &[&str]| Runner {
        client,
        contender: Contender {
            name: "python".to_owned(),
            program: venv.join("bin/python"),
            arguments: arguments.iter().map(OsString::from).collect(),
            dir: dir.clone(),
            variables: variables("handler.handler"),
            log: dir.with_extension("log"),
        },
    };
    Ok(Peer {
        runners: vec![
            runner(
                pip_pin("awslambdaric"),
                &["-m", "awslambdaric", "handler.handler"],
            ),
            runner(polling_loop(), &["loop.py"]),
        ],
        versions: format!("{}, {}", version.trim(), pip_pin("boto3")),
    })
}

fn polling_loop() -> String {
    "the benchmark's polling loop".to_owned()
}

fn variables(handler: &str) -> Vec<(String, String)> {
    let table = |table: &Table| format!("{STACK}-{}", table.name);
    vec![
        ("_HANDLER".to_owned(), handler.to_owned()),
        ("REGISTRY_TABLE".to_owned(), table(&REGISTRY)),
        ("COUNTERS_TABLE".to_owned(), table(&COUNTERS)),
    ]
}

/// Returns a package of `package.json` with its version.
fn npm_pin(package: &str) -> String {
    let packages: Value = serde_json::from_str(NODE_PACKAGES).unwrap_or_default();
    let version = packages["dependencies"][package].as_str();
    format!("{package} {}", version.unwrap_or_default())
}

/// Returns a package of `requirements.txt` with its version.
fn pip_pin(package: &str) -> String {
    let pins = PYTHON_PACKAGES.lines().map(|line| line.split_once("=="));
    let mut pins = pins.flatten().filter(|(name, _)| *name == package);
    let version = pins.next().map(|(_, version)| version);
    format!("{package} {}", version.unwrap_or_default())
}

fn copy(peer: &str, files: &[&str], to: &Path) -> Result<(), ToolError> {
    std::fs::create_dir_all(to).map_err(|error| ToolError::File(to.to_owned(), error))?;
    for file in files {
        let from = Path::new(SOURCES).join(peer).join(file);
        let copied = std::fs::copy(&from, to.join(file));
        copied.map_err(|error| ToolError::File(from, error))?;
    }
    Ok(())
}

/// Installs the packages of a lock file, unless they are installed already.
async fn install<F>(dir: &Path, lock: &str, installing: impl FnOnce() -> F) -> Result<(), ToolError>
where
    F: Future<Output = Result<(), ToolError>>,
{
    let file = |path: &Path| {
        let path = path.to_owned();
        move |error| ToolError::File(path, error)
    };
    let lock = dir.join(lock);
    let wanted = std::fs::read(&lock).map_err(file(&lock))?;
    let installed = dir.join("installed");
    if std::fs::read(&installed).is_ok_and(|found| found == wanted) {
        return Ok(());
    }
    installing().await?;
    std::fs::write(&installed, wanted).map_err(file(&installed))
}

async fn npm_ci(dir: &Path) -> Result<(), ToolError> {
    let npm_ci = || {
        let mut command = Command::new("npm");
        command.current_dir(dir);
        command.args(["ci", "--no-audit", "--no-fund", "--loglevel=error"]);
        command
    };
    let mut complete = npm_ci();
    if let Some(path) = path_with_cmake(dir).await {
        complete.env("PATH", path);
    }
    if run(&mut complete).await.is_err() {
        // The runtime interface client compiles a native module on installation. If that fails, the other
        // packages can be installed without scripts.
        eprintln!("bench: the runtime interface client for Node.js cannot be built here");
        run(npm_ci().arg("--ignore-scripts")).await?;
    }
    Ok(())
}

/// Returns a search path with CMake, which the runtime interface client needs. CMake is installed from PyPI if
/// the machine has none.
async fn path_with_cmake(dir: &Path) -> Option<OsString> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    if run(Command::new("cmake").arg("--version")).await.is_ok() {
        return Some(path);
    }
    copy("node", &["build-requirements.txt"], dir).ok()?;
    let tools = dir.join("build-tools");
    venv(&tools).await.ok()?;
    pip(&tools, &dir.join("build-requirements.txt"))
        .await
        .ok()?;
    let dirs = std::iter::once(tools.join("bin")).chain(std::env::split_paths(&path));
    std::env::join_paths(dirs).ok()
}

async fn pip_install(dir: &Path, environment: &Path) -> Result<(), ToolError> {
    venv(environment).await?;
    let requirements = dir.join("requirements.txt");
    if pip(environment, &requirements).await.is_ok() {
        return Ok(());
    }
    // As for Node.js, installs everything but the runtime interface client.
    eprintln!("bench: the runtime interface client for Python cannot be installed here");
    let without = dir.join("requirements-without-client.txt");
    let lines = PYTHON_PACKAGES.lines();
    let kept: Vec<&str> = lines
        .filter(|line| !line.starts_with("awslambdaric"))
        .collect();
    std::fs::write(&without, kept.join("\n"))
        .map_err(|error| ToolError::File(without.clone(), error))?;
    pip(environment, &without).await
}

async fn venv(dir: &Path) -> Result<(), ToolError> {
    run(Command::new("python3")
        .args(["-m", "venv", "--clear"])
        .arg(dir))
    .await?;
    Ok(())
}

async fn pip(environment: &Path, requirements: &Path) -> Result<(), ToolError> {
    run(Command::new(environment.join("bin/python"))
        .args(["-m", "pip", "install", "--quiet"])
        .args(["--disable-pip-version-check", "--no-deps", "--requirement"])
        .arg(requirements))
    .await?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reported_packages_are_pinned() {
        for package in ["@aws-sdk/client-dynamodb", "aws-lambda-ric", "esbuild"] {
            let pin = npm_pin(package);
            assert!(pin.ends_with(|c: char| c.is_ascii_digit()), "{pin}");
        }
        for package in ["boto3", "awslambdaric"] {
            let pin = pip_pin(package);
            assert!(pin.ends_with(|c: char| c.is_ascii_digit()), "{pin}");
        }
    }
}
