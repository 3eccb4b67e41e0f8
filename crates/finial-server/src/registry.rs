//! The server's memory: which agent may see which entry, who is banned, and every bundle.
//!
//! Loaded once from a snapshot, then kept fresh from the change log. Authorization, synchronization and issuance ask here and
//! never wait for the database. What is answered is always the state at one revision, [`Registry::revision`]; it only grows,
//! except when the database itself was set back.
//!
//! Agents that hold a push stream [follow](Registry::follow) the registry: a change wakes those it concerns, found by
//! walking from the entry up to agents, and nobody else.

use std::sync::{Arc, PoisonError, RwLock};

use finial_datastore::{DataStore, Revision, StoreError};
use spiffe_types::agent::AttestedAgent;
use spiffe_types::bundle::Bundle;
use spiffe_types::entry::{Entry, EntryId};
use spiffe_types::id::{SpiffeId, TrustDomain};
use tokio::sync::{Mutex, watch};

use feed::Feeds;
use index::Index;

pub use feed::{Feed, Progress};
pub use view::{Refusal, Stamped, View};

mod authorized;
mod feed;
mod index;
mod tail;
#[cfg(test)]
mod tests;
mod view;

/// The server's memory of its store.
#[derive(Debug)]
pub struct Registry {
    store: Arc<dyn DataStore>,
    index: RwLock<Index>,
    feeds: Arc<Feeds>,
    revision: watch::Sender<Revision>,
    /// Held by whoever reads the change log, so that batches are applied in order.
    tailing: Mutex<()>,
}

impl Registry {
    /// Returns the revision at which the registry stands.
    pub fn revision(&self) -> Revision {
        *self.revision.borrow()
    }

    /// Is woken with each revision the registry reaches.
    pub fn subscribe(&self) -> watch::Receiver<Revision> {
        self.revision.subscribe()
    }

    /// Returns the entries that `caller` is authorized for, ordered by id.
    pub fn authorized(&self, caller: &SpiffeId) -> Arc<[Arc<Entry>]> {
        self.read(|index| authorized::below(index, caller).into())
    }

    /// Finds an entry that `caller` is authorized for.
    pub fn lookup(&self, caller: &SpiffeId, id: &EntryId) -> Option<Arc<Entry>> {
        self.read(|index| {
            index
                .entry(id)
                .filter(|entry| authorized::is_below(index, caller, entry))
                .cloned()
        })
    }

    /// Returns the entries that give this SPIFFE ID, ordered by id.
    pub fn entries_of(&self, id: &SpiffeId) -> Vec<Arc<Entry>> {
        self.read(|index| index.with_spiffe_id(id).cloned().collect())
    }

    /// Finds an agent.
    pub fn agent(&self, id: &SpiffeId) -> Option<Arc<AttestedAgent>> {
        self.read(|index| index.agent(id).cloned())
    }

    /// Finds a bundle.
    pub fn bundle(&self, trust_domain: &TrustDomain) -> Option<Arc<Bundle>> {
        self.read(|index| {
            index
                .bundle(trust_domain)
                .map(|held| Arc::clone(&held.bundle))
        })
    }

    /// Returns everything an agent is to know, at one revision.
    pub fn view(&self, agent: &SpiffeId) -> Result<View, Refusal> {
        self.read(|index| View::of(index, agent))
    }

    /// Follows what concerns an agent. What changes from now on wakes the feed.
    pub fn follow(&self, agent: &SpiffeId) -> Feed {
        Feeds::subscribe(&self.feeds, agent)
    }

    /// Returns the revision at which an agent stands that was told everything its feed woke it for; `None` while a
    /// wake-up waits. Cheaper than to look at everything.
    pub fn revision_if_quiet(&self, feed: &Feed) -> Option<Revision> {
        // Wake-ups are given while the index is locked, so one that belongs to this revision is there already.
        self.read(|index| (!feed.is_due()).then(|| index.revision()))
    }

    /// Returns how far an agent that holds a push stream has got; `None` for agents that poll or are not here.
    pub fn progress(&self, agent: &SpiffeId) -> Option<Progress> {
        self.feeds.progress(agent)
    }

    /// Returns the progress of every agent that holds a push stream here, ordered by id.
    pub fn all_progress(&self) -> Vec<(SpiffeId, Progress)> {
        self.feeds.all_progress()
    }

    /// Notes the version an agent reports.
    pub async fn note_agent_version(&self, id: &SpiffeId, version: &str) -> Result<(), StoreError> {
        let known = self.agent(id);
        if version.is_empty() || known.is_some_and(|agent| agent.agent_version == version) {
            return Ok(());
        }
        self.store.set_agent_version(id, version).await
    }

    fn read<T>(&self, ask: impl FnOnce(&Index) -> T) -> T {
        ask(&self.index.read().unwrap_or_else(PoisonError::into_inner))
    }
}
