//! Everything one agent is to know.

use std::collections::BTreeMap;
use std::sync::Arc;

use finial_datastore::Revision;
use spiffe_types::bundle::Bundle;
use spiffe_types::entry::Entry;
use spiffe_types::id::{SpiffeId, TrustDomain};

use super::authorized::below;
use super::index::Index;

/// A bundle and when it last changed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stamped {
    /// The bundle.
    pub bundle: Arc<Bundle>,
    /// Not later than this revision it became what it is; after a start, the revision of the snapshot.
    pub changed_at: Revision,
}

/// Everything one agent is to know, at one revision. Cheap to keep: entries and bundles are shared.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct View {
    /// The revision.
    pub revision: Revision,
    /// The entries the agent is authorized for, ordered by id.
    pub entries: Arc<[Arc<Entry>]>,
    /// The own trust domain's bundle.
    pub bundle: Option<Stamped>,
    /// The bundles of the trust domains that the entries federate with.
    pub federated: BTreeMap<TrustDomain, Stamped>,
}

/// Why an agent is told nothing any more.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// It was never attested here, or was evicted.
    #[error("agent is not attested")]
    NotAttested,
    /// An operator banned it.
    #[error("agent is banned")]
    Banned,
}

impl View {
    pub(super) fn of(index: &Index, agent: &SpiffeId) -> Result<Self, Refusal> {
        let attested = index.agent(agent).ok_or(Refusal::NotAttested)?;
        if attested.is_banned() {
            return Err(Refusal::Banned);
        }
        let own = agent.trust_domain();
        let entries = below(index, agent);
        let mut federated = BTreeMap::new();
        for trust_domain in entries.iter().flat_map(|entry| &entry.federates_with) {
            if *trust_domain != own
                && !federated.contains_key(trust_domain)
                && let Some(held) = index.bundle(trust_domain)
            {
                federated.insert(trust_domain.clone(), held.clone());
            }
        }
        Ok(Self {
            revision: index.revision(),
            entries: entries.into(),
            bundle: index.bundle(&own).cloned(),
            federated,
        })
    }
}
