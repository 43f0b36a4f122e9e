//! The program as a process, for one test.

use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;

use tollgate_local::client::Client;

/// A temporary directory for one test, removed when dropped.
pub(crate) struct Dir(pub(crate) PathBuf);

impl Dir {
    pub(crate) fn new(name: &str) -> Self {
        let dir = Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
        let _ = std::fs::remove_dir_all(&dir);
        std::fs::create_dir_all(&dir).unwrap();
        Self(dir)
    }
}

impl Drop for Dir {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// Returns a command for the program of this tree, or for the one in `TOLLGATE_LOCAL`.
pub(crate) fn program() -> Command {
    let program = std::env::var_os("TOLLGATE_LOCAL");
    let mut command =
        Command::new(program.unwrap_or_else(|| env!("CARGO_BIN_EXE_tollgate-local").into()));
    for variable in [
        "TOLLGATE_PORT",
        "TOLLGATE_STRIPE_PORT",
        "TOLLGATE_ADMIN_KEY",
        "RUST_LOG",
    ] {
        command.env_remove(variable);
    }
    command
}

/// A running process of the program; killed when dropped.
pub(crate) struct Process {
    pub(crate) child: Child,
    pub(crate) url: String,
    stdout: Arc<Mutex<String>>,
    stderr: Arc<Mutex<String>>,
    readers: Vec<JoinHandle<()>>,
}

impl Process {
    pub(crate) fn start(command: &mut Command) -> Self {
        let mut child = spawn(command);
        let mut stdout = BufReader::new(child.stdout.take().unwrap());
        let mut greeting = String::new();
        stdout.read_line(&mut greeting).unwrap();
        let url = greeting
            .split_whitespace()
            .find(|word| word.starts_with("http://"));
        let url = url
            .unwrap_or_else(|| panic!("it printed {greeting:?}"))
            .to_owned();
        let printed = Arc::new(Mutex::new(greeting));
        let logged = Arc::new(Mutex::new(String::new()));
        let stderr = child.stderr.take().unwrap();
        let readers = vec![
            collect(stdout, Arc::clone(&printed)),
            collect(stderr, Arc::clone(&logged)),
        ];
        Self {
            child,
            url,
            stdout: printed,
            stderr: logged,
            readers,
        }
    }

    pub(crate) fn client(&self) -> Client {
        Client::new(&self.url).unwrap()
    }

    /// Returns everything printed so far.
    pub(crate) fn printed(&self) -> String {
        self.stdout.lock().unwrap().clone()
    }

    /// Sends SIGTERM and waits for the end. Returns the exit code, and everything logged and printed.
    pub(crate) fn terminate(mut self) -> (Option<i32>, String) {
        let id = self.child.id().to_string();
        let sent = Command::new("kill").args(["-TERM", &id]).status().unwrap();
        assert!(sent.success());
        let status = self.child.wait().unwrap();
        for reader in self.readers.drain(..) {
            reader.join().unwrap();
        }
        let logged = self.stderr.lock().unwrap().clone();
        (status.code(), logged + &self.printed())
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Runs the program, which must fail to start. Returns its standard error.
pub(crate) fn start_error(command: &mut Command) -> String {
    let mut child = spawn(command);
    let mut greeting = String::new();
    let mut stdout = BufReader::new(child.stdout.take().unwrap());
    stdout.read_line(&mut greeting).unwrap();
    if !greeting.is_empty() {
        child.kill().unwrap();
        child.wait().unwrap();
        panic!("it started: {greeting}");
    }
    let Output { status, stderr, .. } = child.wait_with_output().unwrap();
    assert_eq!(status.code(), Some(1));
    String::from_utf8(stderr).unwrap()
}

fn spawn(command: &mut Command) -> Child {
    let command = command.args(["--port", "0"]);
    let piped = command.stdout(Stdio::piped()).stderr(Stdio::piped());
    piped.spawn().unwrap()
}

fn collect(mut stream: impl Read + Send + 'static, into: Arc<Mutex<String>>) -> JoinHandle<()> {
    std::thread::spawn(move || {
        let mut buffer = [0; 4096];
        while let Ok(read @ 1..) = stream.read(&mut buffer) {
            let text = String::from_utf8_lossy(&buffer[..read]);
            into.lock().unwrap().push_str(&text);
        }
    })
}
