//! Answers of engines, kept for a moment.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use spiffe_types::selector::Selector;
use tokio::time::Instant;

use crate::workload_attestor::container::Cgroup;

/// What an engine has said of a container.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Known {
    pub(super) selectors: Vec<Selector>,
    /// The cgroups of the container's first process.
    pub(super) cgroups: Vec<Cgroup>,
}

/// By engine and container.
type Answers = HashMap<(String, String), (Instant, Known)>;

/// What is known of containers that were asked for lately. Which container a process is in is never kept.
#[derive(Debug, Default)]
pub(super) struct KeptAnswers {
    answers: Mutex<Answers>,
}

impl KeptAnswers {
    pub(super) fn find(&self, engine: &str, container: &str) -> Option<Known> {
        let answers = self.lock();
        let (since, known) = answers.get(&(engine.to_owned(), container.to_owned()))?;
        (since.elapsed() < KEPT_FOR).then(|| known.clone())
    }

    pub(super) fn keep(&self, engine: &str, container: &str, known: &Known) {
        let mut answers = self.lock();
        if answers.len() >= KEPT_AT_MOST {
            answers.retain(|_, (since, _)| since.elapsed() < KEPT_FOR);
            if answers.len() >= KEPT_AT_MOST {
                answers.clear();
            }
        }
        let key = (engine.to_owned(), container.to_owned());
        answers.insert(key, (Instant::now(), known.clone()));
    }

    fn lock(&self) -> MutexGuard<'_, Answers> {
        self.answers.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A container's answer never changes; this bounds how long a removed one is remembered.
const KEPT_FOR: Duration = Duration::from_mins(1);
const KEPT_AT_MOST: usize = 2048;
