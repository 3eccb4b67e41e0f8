//! The entries the agent is authorized for, as the server knows them, and where it stands with them.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use finial_proto::convert::time::to_unix;
use sha2::{Digest as _, Sha256};
use spiffe_types::entry::{Entry, EntryId};
use spiffe_types::id::TrustDomain;

/// All entries, those for external stores included.
#[derive(Debug, Default)]
pub(super) struct Held {
    /// The entries by id.
    pub(super) entries: BTreeMap<EntryId, Arc<Entry>>,
    /// The store's revision they stand at; 0 before the first full set.
    pub(super) revision: u64,
}

impl Held {
    /// Whether an entry of this revision and creation time (0: not told) has to be asked for.
    pub(super) fn is_stale(&self, id: &EntryId, revision_number: u64, created_at: i64) -> bool {
        self.entries.get(id).is_none_or(|entry| {
            entry.revision_number != revision_number
                || (created_at != 0 && to_unix(entry.created_at) != created_at)
        })
    }

    /// The trust domains the entries federate with. The own one is left out: it needs no federation, and asking for it as
    /// if it did is an error that would fail every synchronization.
    pub(super) fn federated_domains(&self, own: &TrustDomain) -> BTreeSet<TrustDomain> {
        self.entries
            .values()
            .flat_map(|entry| &entry.federates_with)
            .filter(|name| *name != own)
            .cloned()
            .collect()
    }

    /// What names this set to the server; see `Open.digest` in `finial/sync/v1/sync.proto`.
    pub(super) fn digest(&self) -> Vec<u8> {
        if self.entries.is_empty() {
            return Vec::new();
        }
        let mut hash = Sha256::new();
        for entry in self.entries.values() {
            hash.update(entry.id.as_str().as_bytes());
            hash.update([0]);
            hash.update(entry.revision_number.to_be_bytes());
            hash.update(to_unix(entry.created_at).to_be_bytes());
        }
        hash.finalize().to_vec()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cache::fixtures::{entry, revised, trust_domain};

    fn held(entries: &[Arc<Entry>]) -> Held {
        Held {
            entries: entries
                .iter()
                .map(|entry| (entry.id.clone(), Arc::clone(entry)))
                .collect(),
            revision: 1,
        }
    }

    #[test]
    fn the_digest_is_of_id_revision_and_creation_in_order_of_id() {
        let set = held(&[revised(&entry("b", &[]), 258), entry("a", &[])]);
        let created_at = to_unix(entry("a", &[]).created_at).to_be_bytes();
        let mut bytes = b"a\0\0\0\0\0\0\0\0\0".to_vec();
        bytes.extend(created_at);
        bytes.extend(b"b\0\0\0\0\0\0\0\x01\x02");
        bytes.extend(created_at);

        assert_eq!(set.digest(), Sha256::digest(&bytes).to_vec());
        assert!(held(&[]).digest().is_empty());
    }

    #[test]
    fn another_revision_or_another_creation_is_stale() {
        let entry = entry("a", &[]);
        let created_at = to_unix(entry.created_at);
        let set = held(&[Arc::clone(&entry)]);

        assert!(!set.is_stale(&entry.id, 0, created_at));
        assert!(!set.is_stale(&entry.id, 0, 0));
        assert!(set.is_stale(&entry.id, 1, created_at));
        assert!(set.is_stale(&entry.id, 0, created_at + 1));
        assert!(set.is_stale(&EntryId::parse("b").unwrap(), 0, 0));
    }

    #[test]
    fn an_entry_that_federates_with_its_own_trust_domain_does_no_harm() {
        let mut odd = (*entry("a", &[])).clone();
        odd.federates_with = vec![trust_domain(), "other.org".parse().unwrap()];
        let domains = held(&[Arc::new(odd)]).federated_domains(&trust_domain());

        assert_eq!(
            domains
                .into_iter()
                .map(|name| name.to_string())
                .collect::<Vec<_>>(),
            ["other.org"]
        );
    }
}
