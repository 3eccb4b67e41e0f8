//! Authorities that are not to be relied on any more.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::SystemTime;

use finial_pki::x509::verify_svid;
use spiffe_types::bundle::{AuthorityId, Bundle};
use spiffe_types::entry::EntryId;

use crate::cache::IssuedSvid;

/// Which authorities of the own trust domain were believed, so that each loss is acted upon once.
#[derive(Debug, Default)]
pub(super) struct Taint {
    trusted: BTreeSet<AuthorityId>,
}

impl Taint {
    /// The bundle without its tainted authorities, when one that was believed is tainted or gone now; `None` otherwise.
    pub(super) fn untainted(&mut self, bundle: &Bundle) -> Option<Bundle> {
        let mut trusted = bundle.clone();
        trusted
            .x509_authorities
            .retain(|authority| !authority.tainted);
        let ids: BTreeSet<_> = trusted
            .x509_authorities
            .iter()
            .map(|authority| authority.id().clone())
            .collect();
        let tainted: Vec<_> = bundle
            .x509_authorities
            .iter()
            .filter(|authority| authority.tainted && !ids.contains(authority.id()))
            .map(|authority| authority.id().as_str())
            .collect();
        // Right after the start nothing was believed yet, but an SVID kept on disk may be of a tainted authority.
        let first = self.trusted.is_empty() && !tainted.is_empty();
        let lost = self.trusted.difference(&ids).next().is_some();
        self.trusted = ids;
        if !first && !lost {
            return None;
        }
        if !tainted.is_empty() {
            tracing::debug!(
                subsystem_name = "manager",
                subject_key_ids = tainted.join(","),
                "New tainted X.509 authorities found"
            );
        }
        Some(trusted)
    }
}

/// The entries whose SVID none of `trusted` vouches for. Signatures are checked on a thread where that holds up nobody.
pub(super) async fn signed_by_others(
    svids: Vec<(EntryId, Arc<IssuedSvid>)>,
    trusted: Bundle,
    now: SystemTime,
) -> Vec<EntryId> {
    let check = move || {
        svids
            .into_iter()
            .filter(|(_, svid)| verify_svid(&svid.chain, &trusted, now).is_err())
            .map(|(id, _)| id)
            .collect()
    };
    tokio::task::spawn_blocking(check).await.unwrap_or_default()
}
