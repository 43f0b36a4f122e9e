//! Pins the benchmark and the measured processes, which run alternately, to one core.
//!
//! A message to a thread on another core waits for that core to wake up, which takes longer than most
//! decisions and depends on the scheduler's placement. On one core, latencies contain only the work.

use std::process::Stdio;
use std::sync::LazyLock;
use std::thread::available_parallelism;

use tokio::process::Command;

/// Returns the number of cores that this program may run on.
pub(crate) fn cores() -> usize {
    // Read once, before `pin`: a pinned thread has a parallelism of one.
    static CORES: LazyLock<usize> =
        LazyLock::new(|| available_parallelism().map_or(1, usize::from));
    *CORES
}

/// Pins this thread, and the processes that it starts from now on, to one core. Other running threads are not
/// affected. Returns `false` if that fails, as it does without util-linux.
pub(crate) async fn pin() -> bool {
    let _ = cores();
    run_on("0").await
}

/// Lets this thread, and the processes that it starts from now on, run on any core again.
pub(crate) async fn unpin() {
    run_on(&format!("0-{}", cores().saturating_sub(1))).await;
}

async fn run_on(cores: &str) -> bool {
    // The process id is also the thread id of the main thread, which is this one.
    let this = std::process::id().to_string();
    let status = Command::new("taskset")
        .args(["--cpu-list", "--pid", cores, &this])
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status();
    status.await.is_ok_and(|status| status.success())
}
