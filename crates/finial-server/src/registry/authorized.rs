//! Who is authorized for what.
//!
//! An agent is authorized for the entries whose parent it is, and for those whose parent is such an entry's SPIFFE ID, and so
//! on. An entry whose parent is the server is an alias: an agent that has all of its selectors counts as its SPIFFE ID too,
//! but the alias itself is nobody's. Entries may form circles; each name is visited once.

use std::collections::HashSet;
use std::sync::Arc;

use spiffe_types::entry::Entry;
use spiffe_types::id::SpiffeId;

use super::index::{Index, is_alias};

/// The entries below `caller`, ordered by id.
pub(super) fn below(index: &Index, caller: &SpiffeId) -> Vec<Arc<Entry>> {
    let aliases = index
        .agent(caller)
        .into_iter()
        .flat_map(|agent| index.aliases_of(agent))
        .map(|alias| &alias.spiffe_id);
    let mut next: Vec<&SpiffeId> = std::iter::once(caller).chain(aliases).collect();
    let mut visited: HashSet<&SpiffeId> = next.iter().copied().collect();
    let mut entries = Vec::new();
    while let Some(parent) = next.pop() {
        for entry in index.with_parent(parent).filter(|entry| !is_alias(entry)) {
            entries.push(Arc::clone(entry));
            if visited.insert(&entry.spiffe_id) {
                next.push(&entry.spiffe_id);
            }
        }
    }
    entries.sort_by(|one, other| one.id.cmp(&other.id));
    entries
}

/// Tells whether `entry` is below `caller`, by walking up: nearly always one step.
pub(super) fn is_below(index: &Index, caller: &SpiffeId, entry: &Entry) -> bool {
    if is_alias(entry) {
        return false;
    }
    if entry.parent_id == *caller {
        return true;
    }
    let agent = index.agent(caller);
    let mut next = vec![&entry.parent_id];
    let mut visited: HashSet<&SpiffeId> = HashSet::from([&entry.parent_id]);
    while let Some(name) = next.pop() {
        for above in index.with_spiffe_id(name) {
            if is_alias(above) {
                if agent.is_some_and(|agent| above.selectors.is_subset_of(&agent.selectors)) {
                    return true;
                }
            } else if above.parent_id == *caller {
                return true;
            } else if visited.insert(&above.parent_id) {
                next.push(&above.parent_id);
            }
        }
    }
    false
}

/// A walk up from entries to the agents they concern. Walking from many entries visits each name once.
#[derive(Debug, Default)]
pub(super) struct Above {
    visited: HashSet<SpiffeId>,
    agents: HashSet<SpiffeId>,
}

impl Above {
    /// Walks up from an entry.
    pub(super) fn walk(&mut self, index: &Index, entry: &Entry) {
        let mut next = Vec::new();
        self.step(index, entry, &mut next);
        while let Some(name) = next.pop() {
            for above in index.with_spiffe_id(&name) {
                self.step(index, above, &mut next);
            }
            if index.agent(&name).is_some() {
                self.agents.insert(name);
            }
        }
    }

    pub(super) fn into_agents(self) -> HashSet<SpiffeId> {
        self.agents
    }

    fn step(&mut self, index: &Index, entry: &Entry, next: &mut Vec<SpiffeId>) {
        if is_alias(entry) {
            let agents = index.aliased_by(entry).map(|agent| agent.id.clone());
            self.agents.extend(agents);
        } else if !self.visited.contains(&entry.parent_id) {
            self.visited.insert(entry.parent_id.clone());
            next.push(entry.parent_id.clone());
        }
    }
}
