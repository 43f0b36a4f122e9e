//! Bounded concurrency with a time limit.

use std::time::Duration;

use tokio::task::JoinSet;

/// Tasks that run at a time.
const CONCURRENCY: usize = 8;

/// Runs tasks, [`CONCURRENCY`] at a time, until all have ended or the time limit has passed. Returns the
/// results of those that have ended. The others are dropped, and may have taken effect.
pub(crate) async fn run<T: Send + 'static>(
    tasks: impl IntoIterator<Item = impl Future<Output = T> + Send + 'static>,
    within: Duration,
) -> Vec<T> {
    let mut done = Vec::new();
    let mut tasks = tasks.into_iter();
    let mut running = JoinSet::new();
    let all = async {
        loop {
            while running.len() < CONCURRENCY
                && let Some(task) = tasks.next()
            {
                running.spawn(task);
            }
            match running.join_next().await {
                Some(Ok(one)) => done.push(one),
                // It is unknown which messages the task was for, so the whole batch fails and is delivered
                // again; usage that was counted is then a duplicate.
                Some(Err(panic)) => std::panic::resume_unwind(panic.into_panic()),
                None => return,
            }
        }
    };
    let _ = tokio::time::timeout(within, all).await;
    done
}
