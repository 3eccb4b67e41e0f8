//! The authorities that are believed.

use std::collections::HashMap;
use std::sync::Arc;

use arc_swap::ArcSwap;
use spiffe_types::bundle::Bundle;
use spiffe_types::id::TrustDomain;

use crate::x509::{Anchor, anchors_of};

/// Holds the authorities of each trust domain; clones share them.
#[derive(Debug, Clone, Default)]
pub struct BundleStore {
    anchors: Arc<ArcSwap<HashMap<TrustDomain, Arc<[Anchor]>>>>,
}

impl BundleStore {
    /// Returns a store that believes nobody.
    pub fn new() -> Self {
        Self::default()
    }

    /// Believes exactly the authorities of `bundle` for its trust domain, from the next handshake on.
    pub fn set(&self, bundle: &Bundle) {
        let anchors = anchors_of(bundle);
        self.anchors.rcu(|old| {
            let mut new = HashMap::clone(old);
            new.insert(bundle.trust_domain.clone(), Arc::clone(&anchors));
            new
        });
    }

    /// Believes nobody of `trust_domain`, from the next handshake on.
    pub fn remove(&self, trust_domain: &TrustDomain) {
        self.anchors.rcu(|old| {
            let mut new = HashMap::clone(old);
            new.remove(trust_domain);
            new
        });
    }

    pub(super) fn find(&self, trust_domain: &TrustDomain) -> Option<Arc<[Anchor]>> {
        self.anchors.load().get(trust_domain).cloned()
    }
}
