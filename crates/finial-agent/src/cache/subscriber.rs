//! Who waits for what: callers grouped by their selectors.
//!
//! All callers with the same selectors share one group, and with it one composed [`WorkloadUpdate`]: five thousand open
//! streams of one kind of workload cost one composition for a change, and one pointer each.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use spiffe_types::entry::EntryId;
use spiffe_types::selector::{Selector, SelectorSet};
use tokio::sync::watch;

use super::{Shared, WorkloadUpdate};

/// Names a group for as long as it exists.
pub(super) type GroupId = u64;

/// The callers that have the same selectors.
#[derive(Debug)]
pub(super) struct Group {
    pub(super) selectors: SelectorSet,
    pub(super) entries: BTreeSet<EntryId>,
    pub(super) update: watch::Sender<Arc<WorkloadUpdate>>,
    subscribers: usize,
}

/// All groups, found by selectors, and by an entry that could concern them.
#[derive(Debug, Default)]
pub(super) struct Groups {
    by_id: HashMap<GroupId, Group>,
    by_set: HashMap<SelectorSet, GroupId>,
    by_selector: HashMap<Selector, BTreeSet<GroupId>>,
    next_id: GroupId,
}

impl Groups {
    /// The group of exactly these selectors.
    pub(super) fn find(&self, selectors: &SelectorSet) -> Option<GroupId> {
        self.by_set.get(selectors).copied()
    }

    /// Opens a group for selectors that have none.
    pub(super) fn open(
        &mut self,
        selectors: &SelectorSet,
        entries: BTreeSet<EntryId>,
        update: WorkloadUpdate,
    ) -> GroupId {
        let id = self.next_id;
        self.next_id += 1;
        for selector in selectors {
            self.by_selector
                .entry(selector.clone())
                .or_default()
                .insert(id);
        }
        self.by_set.insert(selectors.clone(), id);
        let (update, _) = watch::channel(Arc::new(update));
        self.by_id.insert(
            id,
            Group {
                selectors: selectors.clone(),
                entries,
                update,
                subscribers: 0,
            },
        );
        id
    }

    /// Adds a subscriber to an open group.
    pub(super) fn join(&mut self, id: GroupId) -> Option<watch::Receiver<Arc<WorkloadUpdate>>> {
        let group = self.by_id.get_mut(&id)?;
        group.subscribers += 1;
        Some(group.update.subscribe())
    }

    /// Takes a subscriber away; the last one closes the group, which is then returned.
    pub(super) fn leave(&mut self, id: GroupId) -> Option<Group> {
        let group = self.by_id.get_mut(&id)?;
        group.subscribers = group.subscribers.saturating_sub(1);
        if group.subscribers > 0 {
            return None;
        }
        let group = self.by_id.remove(&id)?;
        self.by_set.remove(&group.selectors);
        for selector in &group.selectors {
            if let Some(groups) = self.by_selector.get_mut(selector) {
                groups.remove(&id);
                if groups.is_empty() {
                    self.by_selector.remove(selector);
                }
            }
        }
        Some(group)
    }

    /// The groups an entry with `selectors` belongs to.
    pub(super) fn entitled_to(&self, selectors: &SelectorSet) -> Vec<GroupId> {
        let mut rarest: Option<&BTreeSet<GroupId>> = None;
        for selector in selectors {
            let Some(groups) = self.by_selector.get(selector) else {
                return Vec::new();
            };
            if rarest.is_none_or(|rarest| groups.len() < rarest.len()) {
                rarest = Some(groups);
            }
        }
        rarest
            .into_iter()
            .flatten()
            .copied()
            .filter(|id| {
                self.by_id
                    .get(id)
                    .is_some_and(|group| selectors.is_subset_of(&group.selectors))
            })
            .collect()
    }

    pub(super) fn get(&self, id: GroupId) -> Option<&Group> {
        self.by_id.get(&id)
    }

    pub(super) fn get_mut(&mut self, id: GroupId) -> Option<&mut Group> {
        self.by_id.get_mut(&id)
    }

    pub(super) fn ids(&self) -> impl Iterator<Item = GroupId> + '_ {
        self.by_id.keys().copied()
    }

    pub(super) fn subscriber_count(&self) -> usize {
        self.by_id.values().map(|group| group.subscribers).sum()
    }
}

/// A caller's view of the cache, kept current for as long as this is held. Dropping it unsubscribes.
#[derive(Debug)]
pub struct Subscription {
    update: watch::Receiver<Arc<WorkloadUpdate>>,
    guard: Guard,
}

impl Subscription {
    pub(super) fn new(
        update: watch::Receiver<Arc<WorkloadUpdate>>,
        shared: Arc<Shared>,
        group: GroupId,
    ) -> Self {
        Self {
            update,
            guard: Guard { shared, group },
        }
    }

    /// The newest update. It counts as seen: [`Self::changed`] then waits for the next one.
    pub fn borrow(&mut self) -> Arc<WorkloadUpdate> {
        Arc::clone(&self.update.borrow_and_update())
    }

    /// Waits for an update newer than the last one seen. Updates in between are skipped. Cancel-safe.
    pub async fn changed(&mut self) {
        if self.update.changed().await.is_err() {
            // The sender lives in the group, and the group as long as this guard.
            tracing::debug!(group = self.guard.group, "Subscription outlived its group");
            std::future::pending::<()>().await;
        }
    }
}

#[derive(Debug)]
struct Guard {
    shared: Arc<Shared>,
    group: GroupId,
}

impl Drop for Guard {
    fn drop(&mut self) {
        self.shared.unsubscribe(self.group);
    }
}
