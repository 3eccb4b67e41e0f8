//! Answers of engines, kept for a moment.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use spiffe_types::selector::Selector;
use tokio::time::Instant;

/// By engine and container.
type Answers = HashMap<(PathBuf, String), (Instant, Vec<Selector>)>;

/// The selectors of containers that were asked for lately. Which container a process is in is never kept.
#[derive(Debug, Default)]
pub(super) struct KeptSelectors {
    answers: Mutex<Answers>,
}

impl KeptSelectors {
    pub(super) fn find(&self, engine: &Path, container: &str) -> Option<Vec<Selector>> {
        let answers = self.lock();
        let (since, selectors) = answers.get(&(engine.to_owned(), container.to_owned()))?;
        (since.elapsed() < KEPT_FOR).then(|| selectors.clone())
    }

    pub(super) fn keep(&self, engine: &Path, container: &str, selectors: &[Selector]) {
        let mut answers = self.lock();
        if answers.len() >= KEPT_AT_MOST {
            answers.retain(|_, (since, _)| since.elapsed() < KEPT_FOR);
            if answers.len() >= KEPT_AT_MOST {
                answers.clear();
            }
        }
        let key = (engine.to_owned(), container.to_owned());
        answers.insert(key, (Instant::now(), selectors.to_vec()));
    }

    fn lock(&self) -> MutexGuard<'_, Answers> {
        self.answers.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A container's answer never changes; this bounds how long a removed one is remembered.
const KEPT_FOR: Duration = Duration::from_mins(1);
const KEPT_AT_MOST: usize = 2048;
