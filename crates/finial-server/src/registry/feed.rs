//! Who waits for changes.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use finial_datastore::Revision;
use spiffe_types::id::SpiffeId;
use tokio::sync::watch;

use super::index::Touched;

/// How far an agent has got.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Progress {
    /// The last revision that concerned the agent since it is here.
    pub due: Revision,
    /// The revision it reports to have applied.
    pub applied: Revision,
}

impl Progress {
    /// Tells whether the agent holds everything that concerns it up to `revision`. What did not concern it, it need not
    /// have heard of.
    pub fn holds(&self, revision: Revision) -> bool {
        self.applied >= self.due.min(revision)
    }
}

/// The open feeds, by agent.
#[derive(Debug, Default)]
pub(super) struct Feeds {
    by_agent: Mutex<HashMap<SpiffeId, Vec<Arc<State>>>>,
}

/// One agent's feed. It coalesces: many changes while nobody looks are one. Dropping it ends it.
#[derive(Debug)]
pub struct Feed {
    agent: SpiffeId,
    state: Arc<State>,
    due: watch::Receiver<Revision>,
    feeds: Arc<Feeds>,
}

#[derive(Debug)]
struct State {
    due: watch::Sender<Revision>,
    applied: AtomicU64,
}

impl Feed {
    /// Waits for a change that concerns the agent. Cancel-safe.
    pub async fn changed(&mut self) {
        if self.due.changed().await.is_err() {
            // The sender lives in this feed's own state, so it cannot be gone.
            std::future::pending::<()>().await;
        }
    }

    /// Tells whether a change waits to be looked at.
    pub fn is_due(&self) -> bool {
        self.due.has_changed().unwrap_or(false)
    }

    /// Notes that the agent has applied everything up to `revision`. Reports that say less are late, and ignored.
    pub fn applied(&self, revision: Revision) {
        self.state.applied.fetch_max(revision.0, Ordering::Relaxed);
    }
}

impl Drop for Feed {
    fn drop(&mut self) {
        let mut by_agent = self.feeds.lock();
        if let Some(feeds) = by_agent.get_mut(&self.agent) {
            feeds.retain(|state| !Arc::ptr_eq(state, &self.state));
            if feeds.is_empty() {
                by_agent.remove(&self.agent);
            }
        }
    }
}

impl Feeds {
    pub(super) fn subscribe(feeds: &Arc<Self>, agent: &SpiffeId) -> Feed {
        let state = Arc::new(State {
            due: watch::Sender::new(Revision(0)),
            applied: AtomicU64::new(0),
        });
        feeds
            .lock()
            .entry(agent.clone())
            .or_default()
            .push(Arc::clone(&state));
        Feed {
            agent: agent.clone(),
            due: state.due.subscribe(),
            state,
            feeds: Arc::clone(feeds),
        }
    }

    /// Wakes those whom a change concerns.
    pub(super) fn wake(&self, touched: &Touched, revision: Revision) {
        let by_agent = self.lock();
        let wake = |states: &Vec<Arc<State>>| {
            for state in states {
                state.due.send_replace(revision);
            }
        };
        if touched.everyone {
            by_agent.values().for_each(wake);
        } else {
            let concerned = touched.agents.iter();
            concerned.filter_map(|id| by_agent.get(id)).for_each(wake);
        }
    }

    pub(super) fn progress(&self, agent: &SpiffeId) -> Option<Progress> {
        self.lock().get(agent).and_then(|states| slowest(states))
    }

    pub(super) fn all_progress(&self) -> Vec<(SpiffeId, Progress)> {
        let mut all: Vec<_> = self
            .lock()
            .iter()
            .filter_map(|(id, states)| Some((id.clone(), slowest(states)?)))
            .collect();
        all.sort_by(|(one, _), (other, _)| one.cmp(other));
        all
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<SpiffeId, Vec<Arc<State>>>> {
        self.by_agent.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// An agent that reconnects may have two streams for a moment.
fn slowest(states: &[Arc<State>]) -> Option<Progress> {
    states
        .iter()
        .map(|state| Progress {
            due: *state.due.borrow(),
            applied: Revision(state.applied.load(Ordering::Relaxed)),
        })
        .min_by_key(|progress| progress.applied)
}
