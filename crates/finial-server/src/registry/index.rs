//! What is known, and by what it is found.

use std::borrow::Borrow;
use std::collections::{BTreeSet, HashMap, HashSet};
use std::hash::{Hash, Hasher};
use std::sync::Arc;

use finial_datastore::{ChangeBatch, Revision, Snapshot};
use spiffe_types::agent::AttestedAgent;
use spiffe_types::bundle::Bundle;
use spiffe_types::entry::{Entry, EntryId};
use spiffe_types::id::{SpiffeId, TrustDomain};
use spiffe_types::selector::Selector;

use super::authorized::Above;
use super::view::Stamped;

/// The state at one revision.
#[derive(Debug, Default)]
pub(super) struct Index {
    revision: Revision,
    entries: HashSet<ById>,
    by_parent: HashMap<SpiffeId, BTreeSet<ById>>,
    by_spiffe_id: HashMap<SpiffeId, BTreeSet<ById>>,
    /// Entries whose parent is the server give nodes another name. Filed under the first of their selectors.
    aliases: HashMap<Selector, BTreeSet<ById>>,
    agents: HashMap<SpiffeId, Arc<AttestedAgent>>,
    agents_by_selector: HashMap<Selector, BTreeSet<SpiffeId>>,
    bundles: HashMap<TrustDomain, Stamped>,
}

/// Whom a batch concerns.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Touched {
    /// These agents.
    pub(super) agents: HashSet<SpiffeId>,
    /// Perhaps any agent.
    pub(super) everyone: bool,
}

impl Index {
    pub(super) fn new(snapshot: Snapshot) -> Self {
        let mut index = Self {
            revision: snapshot.revision,
            ..Self::default()
        };
        for entry in snapshot.entries {
            index.insert_entry(entry);
        }
        for agent in snapshot.agents {
            index.insert_agent(agent);
        }
        for bundle in snapshot.bundles {
            index.insert_bundle(bundle);
        }
        index
    }

    /// Takes over a batch and tells whom it concerns: the agents above an entry as it was and as it is.
    pub(super) fn apply(&mut self, batch: ChangeBatch) -> Touched {
        let mut touched = Touched {
            agents: HashSet::new(),
            everyone: !batch.bundles.is_empty(),
        };
        let mut before = Above::default();
        for (id, _) in &batch.entries {
            if let Some(entry) = self.entry(id) {
                before.walk(self, entry);
            }
        }
        let changed: Vec<EntryId> = batch.entries.iter().map(|(id, _)| id.clone()).collect();
        self.revision = batch.revision;
        for (id, entry) in batch.entries {
            self.remove_entry(&id);
            if let Some(entry) = entry {
                self.insert_entry(entry);
            }
        }
        for (id, agent) in batch.agents {
            self.remove_agent(&id);
            if let Some(agent) = agent {
                self.insert_agent(agent);
            }
            touched.agents.insert(id);
        }
        for (trust_domain, bundle) in batch.bundles {
            match bundle {
                Some(bundle) => self.insert_bundle(bundle),
                None => {
                    self.bundles.remove(&trust_domain);
                }
            }
        }
        let mut after = Above::default();
        for id in &changed {
            if let Some(entry) = self.entry(id) {
                after.walk(self, entry);
            }
        }
        touched.agents.extend(before.into_agents());
        touched.agents.extend(after.into_agents());
        touched
    }

    pub(super) fn revision(&self) -> Revision {
        self.revision
    }

    pub(super) fn entry(&self, id: &EntryId) -> Option<&Arc<Entry>> {
        self.entries.get(id).map(|by_id| &by_id.0)
    }

    pub(super) fn with_parent(&self, id: &SpiffeId) -> impl Iterator<Item = &Arc<Entry>> {
        members(self.by_parent.get(id))
    }

    pub(super) fn with_spiffe_id(&self, id: &SpiffeId) -> impl Iterator<Item = &Arc<Entry>> {
        members(self.by_spiffe_id.get(id))
    }

    /// The aliases all of whose selectors the agent has.
    pub(super) fn aliases_of<'a>(
        &'a self,
        agent: &'a AttestedAgent,
    ) -> impl Iterator<Item = &'a Arc<Entry>> {
        agent
            .selectors
            .iter()
            .flat_map(|selector| members(self.aliases.get(selector)))
            .filter(|alias| alias.selectors.is_subset_of(&agent.selectors))
    }

    /// The agents that have all selectors of an alias.
    pub(super) fn aliased_by<'a>(
        &'a self,
        alias: &'a Entry,
    ) -> impl Iterator<Item = &'a Arc<AttestedAgent>> {
        alias
            .selectors
            .iter()
            .next()
            .and_then(|first| self.agents_by_selector.get(first))
            .into_iter()
            .flatten()
            .filter_map(|id| self.agents.get(id))
            .filter(|agent| alias.selectors.is_subset_of(&agent.selectors))
    }

    pub(super) fn agent(&self, id: &SpiffeId) -> Option<&Arc<AttestedAgent>> {
        self.agents.get(id)
    }

    pub(super) fn bundle(&self, trust_domain: &TrustDomain) -> Option<&Stamped> {
        self.bundles.get(trust_domain)
    }

    fn insert_entry(&mut self, mut entry: Entry) {
        if let Some((parent_id, _)) = self.by_parent.get_key_value(&entry.parent_id) {
            entry.parent_id = parent_id.clone(); // one text for all children
        }
        let entry = ById(Arc::new(entry));
        if is_alias(&entry.0)
            && let Some(first) = entry.0.selectors.iter().next()
        {
            let aliases = self.aliases.entry(first.clone()).or_default();
            aliases.insert(entry.clone());
        }
        self.by_parent
            .entry(entry.0.parent_id.clone())
            .or_default()
            .insert(entry.clone());
        self.by_spiffe_id
            .entry(entry.0.spiffe_id.clone())
            .or_default()
            .insert(entry.clone());
        self.entries.insert(entry);
    }

    fn remove_entry(&mut self, id: &EntryId) {
        let Some(ById(entry)) = self.entries.take(id) else {
            return;
        };
        remove(&mut self.by_parent, &entry.parent_id, id);
        remove(&mut self.by_spiffe_id, &entry.spiffe_id, id);
        if is_alias(&entry)
            && let Some(first) = entry.selectors.iter().next()
        {
            remove(&mut self.aliases, first, id);
        }
    }

    fn insert_agent(&mut self, agent: AttestedAgent) {
        for selector in &agent.selectors {
            self.agents_by_selector
                .entry(selector.clone())
                .or_default()
                .insert(agent.id.clone());
        }
        self.agents.insert(agent.id.clone(), Arc::new(agent));
    }

    fn remove_agent(&mut self, id: &SpiffeId) {
        let Some(agent) = self.agents.remove(id) else {
            return;
        };
        for selector in &agent.selectors {
            remove(&mut self.agents_by_selector, selector, id);
        }
    }

    fn insert_bundle(&mut self, bundle: Bundle) {
        let trust_domain = bundle.trust_domain.clone();
        let held = Stamped {
            bundle: Arc::new(bundle),
            changed_at: self.revision,
        };
        self.bundles.insert(trust_domain, held);
    }
}

/// Whether an entry gives nodes another name instead of giving workloads one.
pub(super) fn is_alias(entry: &Entry) -> bool {
    entry.parent_id.path() == "/spire/server"
}

/// An entry in a set, known and ordered by its id.
#[derive(Debug, Clone)]
struct ById(Arc<Entry>);

impl Borrow<EntryId> for ById {
    fn borrow(&self) -> &EntryId {
        &self.0.id
    }
}

impl Hash for ById {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.0.id.hash(state);
    }
}

impl PartialEq for ById {
    fn eq(&self, other: &Self) -> bool {
        self.0.id == other.0.id
    }
}

impl Eq for ById {}

impl PartialOrd for ById {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for ById {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        self.0.id.cmp(&other.0.id)
    }
}

fn members(set: Option<&BTreeSet<ById>>) -> impl Iterator<Item = &Arc<Entry>> {
    set.into_iter().flatten().map(|by_id| &by_id.0)
}

/// Takes a member out of the set under a key, and the set with its last member.
fn remove<K, V, Q>(sets: &mut HashMap<K, BTreeSet<V>>, key: &K, member: &Q)
where
    K: Hash + Eq,
    V: Borrow<Q> + Ord,
    Q: Ord,
{
    if let Some(set) = sets.get_mut(key) {
        set.remove(member);
        if set.is_empty() {
            sets.remove(key);
        }
    }
}
