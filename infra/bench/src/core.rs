//! Keeps what takes turns on one core.
//!
//! A message to a thread on another core waits for that core to wake up, which takes longer than
//! most decisions, and where the scheduler puts a process is luck. On one core only the work counts.

use std::process::Stdio;
use std::sync::LazyLock;
use std::thread::available_parallelism;

use tokio::process::Command;

/// The number of cores that this program may run on.
pub(crate) fn count() -> usize {
    // The system says one to a thread that keeps to one, so it is asked once, before that.
    static CORES: LazyLock<usize> =
        LazyLock::new(|| available_parallelism().map_or(1, usize::from));
    *CORES
}

/// From now on this thread, and the processes that it starts, run on one core. Threads that run
/// already stay where they are. Whether it could be done: not without util-linux.
pub(crate) async fn share() -> bool {
    let _ = count();
    run_on("0").await
}

/// This thread, and the processes that it starts from now on, run on any core again.
pub(crate) async fn release() {
    run_on(&format!("0-{}", count().saturating_sub(1))).await;
}

async fn run_on(cores: &str) -> bool {
    // A process's id is that of its first thread, which is this one.
    let this = std::process::id().to_string();
    let status = Command::new("taskset")
        .args(["--cpu-list", "--pid", cores, &this])
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status();
    status.await.is_ok_and(|status| status.success())
}
