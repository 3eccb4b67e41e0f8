//! Whose certificates the TCP endpoint believes: the own trust domain's, and those of foreign administrators.

use std::collections::HashSet;
use std::sync::Arc;

use finial_pki::tls::{Authorize, BundleStore};
use spiffe_types::id::{SpiffeId, TrustDomain};
use tokio_util::sync::CancellationToken;

use crate::registry::Registry;

/// Keeps the TLS configuration's bundles those of the registry.
#[derive(Debug)]
pub(crate) struct TrustKeeper {
    registry: Arc<Registry>,
    bundles: BundleStore,
    trust_domains: HashSet<TrustDomain>,
}

impl TrustKeeper {
    pub(crate) fn new(
        registry: Arc<Registry>,
        own: TrustDomain,
        admin_ids: &[SpiffeId],
        bundles: BundleStore,
    ) -> Self {
        let mut trust_domains: HashSet<_> = admin_ids.iter().map(SpiffeId::trust_domain).collect();
        trust_domains.insert(own);
        Self {
            registry,
            bundles,
            trust_domains,
        }
    }

    /// Takes over what the registry holds now.
    pub(crate) fn refresh(&self) {
        for trust_domain in &self.trust_domains {
            match self.registry.bundle(trust_domain) {
                Some(bundle) => self.bundles.set(&bundle),
                None => self.bundles.remove(trust_domain),
            }
        }
    }

    /// Follows the registry until `stop`.
    pub(crate) async fn run(self, stop: CancellationToken) {
        let mut revisions = self.registry.subscribe();
        let mut seen: Vec<_> = Vec::new();
        loop {
            revisions.mark_unchanged();
            let mut current: Vec<_> = self
                .trust_domains
                .iter()
                .filter_map(|trust_domain| self.registry.bundle(trust_domain))
                .map(|bundle| (bundle.trust_domain.clone(), Arc::as_ptr(&bundle) as usize))
                .collect();
            current.sort();
            // Most revisions change no bundle.
            if current != seen {
                self.refresh();
                seen = current;
            }
            tokio::select! {
                () = stop.cancelled() => return,
                changed = revisions.changed() => if changed.is_err() { return },
            }
        }
    }
}

/// Own IDs may connect, foreign ones only if they are administrators.
pub(crate) fn may_connect(own: TrustDomain, admin_ids: &[SpiffeId]) -> Authorize {
    let admin_ids: HashSet<SpiffeId> = admin_ids.iter().cloned().collect();
    Arc::new(move |id| id.is_member_of(&own) || admin_ids.contains(id))
}
