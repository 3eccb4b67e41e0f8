//! The bundles the agent holds: its own trust domain's and those of federated ones.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use spiffe_types::bundle::Bundle;
use spiffe_types::entry::Entry;
use spiffe_types::id::TrustDomain;

/// Own and federated bundles. The own one is replaced, never removed.
#[derive(Debug)]
pub(super) struct Bundles {
    own: Arc<Bundle>,
    federated: BTreeMap<TrustDomain, Arc<Bundle>>,
}

impl Bundles {
    pub(super) fn new(trust_domain: TrustDomain) -> Self {
        Self {
            own: Arc::new(Bundle::empty(trust_domain)),
            federated: BTreeMap::new(),
        }
    }

    pub(super) fn own(&self) -> Arc<Bundle> {
        Arc::clone(&self.own)
    }

    pub(super) fn federated(&self) -> impl Iterator<Item = &Arc<Bundle>> {
        self.federated.values()
    }

    /// Replaces the own bundle; whether it changed. A bundle of another trust domain is not ours and changes nothing.
    pub(super) fn set_own(&mut self, bundle: Bundle) -> bool {
        if bundle.trust_domain != self.own.trust_domain || bundle == *self.own {
            return false;
        }
        let known = !self.own.x509_authorities.is_empty();
        log(&bundle.trust_domain, known);
        self.own = Arc::new(bundle);
        true
    }

    /// Adds or replaces a federated bundle; whether it changed. The own trust domain does not federate with itself.
    pub(super) fn set_federated(&mut self, bundle: Bundle) -> bool {
        if bundle.trust_domain == self.own.trust_domain {
            return false;
        }
        let held = self.federated.get(&bundle.trust_domain);
        if held.is_some_and(|held| **held == bundle) {
            return false;
        }
        log(&bundle.trust_domain, held.is_some());
        self.federated
            .insert(bundle.trust_domain.clone(), Arc::new(bundle));
        true
    }

    /// Removes a federated bundle; whether there was one.
    pub(super) fn remove_federated(&mut self, trust_domain: &TrustDomain) -> bool {
        let removed = self.federated.remove(trust_domain).is_some();
        if removed {
            tracing::debug!(
                subsystem_name = "cache_manager",
                trust_domain_id = %trust_domain,
                "Bundle removed"
            );
        }
        removed
    }

    /// The names of all federated bundles held.
    pub(super) fn federated_names(&self) -> Vec<TrustDomain> {
        self.federated.keys().cloned().collect()
    }

    /// The bundles that `entries` federate with, in order of name.
    pub(super) fn federated_with<'a>(
        &self,
        entries: impl Iterator<Item = &'a Arc<Entry>>,
    ) -> Vec<Arc<Bundle>> {
        let names: BTreeSet<_> = entries.flat_map(|entry| &entry.federates_with).collect();
        names
            .into_iter()
            .filter_map(|name| self.federated.get(name))
            .cloned()
            .collect()
    }
}

fn log(trust_domain: &TrustDomain, known: bool) {
    if known {
        tracing::debug!(subsystem_name = "cache_manager", trust_domain_id = %trust_domain, "Bundle updated");
    } else {
        tracing::debug!(subsystem_name = "cache_manager", trust_domain_id = %trust_domain, "Bundle added");
    }
}
