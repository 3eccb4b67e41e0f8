//! Named tasks that live and die together.
//!
//! Nothing in finial runs detached: a [`TaskGroup`] owns its tasks, the first failure cancels the others, and
//! [`TaskGroup::wait`] returns only when every task is gone. Cancellation has two stages: the token asks tasks to
//! stop; after a grace period those that did not are dropped.

use std::collections::BTreeMap;
use std::future::Future;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// A set of tasks with one fate.
#[derive(Debug, Default)]
pub struct TaskGroup {
    spawner: TaskSpawner,
}

/// Starts tasks in a [`TaskGroup`]; for code that makes tasks while the group runs, such as an accept loop.
#[derive(Clone, Debug, Default)]
pub struct TaskSpawner {
    inner: Arc<Inner>,
}

#[derive(Debug, Default)]
struct Inner {
    tracker: TaskTracker,
    stop: CancellationToken,
    abort: CancellationToken,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    failure: Option<anyhow::Error>,
    running: BTreeMap<&'static str, usize>,
}

impl TaskGroup {
    /// Creates an empty group with a token of its own.
    pub fn new() -> Self {
        Self::default()
    }

    /// Creates an empty group that is cancelled together with `parent`; its own failures do not reach the parent.
    pub fn under(parent: &CancellationToken) -> Self {
        Self {
            spawner: TaskSpawner {
                inner: Arc::new(Inner {
                    stop: parent.child_token(),
                    ..Inner::default()
                }),
            },
        }
    }

    /// Starts a task. An error it returns, or its panic, cancels the whole group; `Ok` ends only that task.
    pub fn spawn(
        &self,
        name: &'static str,
        task: impl Future<Output = anyhow::Result<()>> + Send + 'static,
    ) {
        self.spawner.spawn(name, task);
    }

    /// Returns the token that asks the tasks of this group to stop.
    pub fn token(&self) -> CancellationToken {
        self.spawner.token()
    }

    /// Returns a handle that starts tasks in this group.
    pub fn spawner(&self) -> TaskSpawner {
        self.spawner.clone()
    }

    /// Waits until every task has ended, and returns the first failure.
    ///
    /// Once the group is cancelled (by its token or by a failure), tasks have `grace` to finish; then they are dropped.
    pub async fn wait(self, grace: Duration) -> anyhow::Result<()> {
        let inner = &self.spawner.inner;
        inner.tracker.close();
        tokio::select! {
            () = inner.tracker.wait() => {}
            () = inner.stop.cancelled() => {
                if tokio::time::timeout(grace, inner.tracker.wait()).await.is_err() {
                    let running: Vec<_> = inner.lock().running.keys().copied().collect();
                    tracing::warn!(
                        tasks = running.join(","),
                        grace_seconds = grace.as_secs(),
                        "tasks did not stop in time and are dropped"
                    );
                    inner.abort.cancel();
                    inner.tracker.wait().await;
                }
            }
        }
        // Nothing may start in a group that has ended.
        inner.stop.cancel();
        inner.abort.cancel();
        inner.lock().failure.take().map_or(Ok(()), Err)
    }
}

impl TaskSpawner {
    /// Starts a task; see [`TaskGroup::spawn`]. A group that has ended drops the task at once.
    pub fn spawn(
        &self,
        name: &'static str,
        task: impl Future<Output = anyhow::Result<()>> + Send + 'static,
    ) {
        let guard = Guard::new(name, Arc::clone(&self.inner));
        let abort = self.inner.abort.clone();
        self.inner.tracker.spawn(async move {
            let mut guard = guard;
            tokio::select! {
                biased;
                () = abort.cancelled() => {}
                result = task => {
                    if let Err(error) = result {
                        guard.inner.fail(error.context(format!("task {name} failed")));
                    }
                }
            }
            guard.ended = true;
        });
    }

    /// Returns the token that asks the tasks of the group to stop.
    pub fn token(&self) -> CancellationToken {
        self.inner.stop.clone()
    }
}

impl Inner {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn fail(&self, error: anyhow::Error) {
        let mut state = self.lock();
        if state.failure.is_none() {
            state.failure = Some(error);
        }
        drop(state);
        self.stop.cancel();
    }
}

/// Notices a task that unwinds: without it a panic would leave the group waiting for work nobody does.
struct Guard {
    name: &'static str,
    inner: Arc<Inner>,
    ended: bool,
}

impl Guard {
    fn new(name: &'static str, inner: Arc<Inner>) -> Self {
        *inner.lock().running.entry(name).or_default() += 1;
        Self {
            name,
            inner,
            ended: false,
        }
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        let mut state = self.inner.lock();
        if let Some(count) = state.running.get_mut(self.name) {
            *count -= 1;
            if *count == 0 {
                state.running.remove(self.name);
            }
        }
        drop(state);
        if !self.ended && std::thread::panicking() {
            self.inner
                .fail(anyhow::anyhow!("task {} panicked", self.name));
        }
    }
}

#[cfg(test)]
mod tests {
    use std::future::pending;

    use super::*;

    #[tokio::test]
    async fn the_first_failure_cancels_the_rest_and_is_returned() {
        let group = TaskGroup::new();
        let token = group.token();
        group.spawn("waiter", async move {
            token.cancelled().await;
            anyhow::bail!("second")
        });
        group.spawn("failer", async { anyhow::bail!("first") });
        let error = group.wait(Duration::from_secs(5)).await.unwrap_err();
        assert_eq!(format!("{error:#}"), "task failer failed: first");
    }

    #[tokio::test]
    async fn a_group_whose_tasks_all_end_well_is_done() {
        let group = TaskGroup::new();
        group.spawn("one", async { Ok(()) });
        group.wait(Duration::from_secs(5)).await.unwrap();
    }

    #[tokio::test]
    async fn a_panic_is_a_failure() {
        let group = TaskGroup::new();
        group.spawn("other", pending());
        group.spawn("buggy", async { panic!("bug") });
        let error = group.wait(Duration::from_millis(1)).await.unwrap_err();
        assert_eq!(error.to_string(), "task buggy panicked");
    }

    #[tokio::test]
    async fn a_task_that_ignores_the_token_is_dropped_after_the_grace_period() {
        let parent = CancellationToken::new();
        let group = TaskGroup::under(&parent);
        group.spawn("stubborn", pending());
        parent.cancel();
        group.wait(Duration::from_millis(1)).await.unwrap();
    }

    #[tokio::test]
    async fn a_spawner_adds_tasks_while_the_group_runs() {
        let group = TaskGroup::new();
        let spawner = group.spawner();
        group.spawn("parent", async move {
            spawner.spawn("child", async { anyhow::bail!("seen") });
            Ok(())
        });
        let error = group.wait(Duration::from_secs(5)).await.unwrap_err();
        assert_eq!(format!("{error:#}"), "task child failed: seen");
    }
}
