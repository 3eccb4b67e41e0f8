//! Entries, selectors and SVIDs for the tests of the cache and of `sync`.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use spiffe_types::bundle::Bundle;
use spiffe_types::entry::{Entry, EntryId};
use spiffe_types::id::{SpiffeId, TrustDomain};
use spiffe_types::selector::SelectorSet;
use zeroize::Zeroizing;

use super::{IssuedSvid, KeyDer};

pub(crate) fn trust_domain() -> TrustDomain {
    TrustDomain::parse("example.org").unwrap()
}

pub(crate) fn selectors(texts: &[&str]) -> SelectorSet {
    texts.iter().map(|text| text.parse().unwrap()).collect()
}

/// An entry `spiffe://example.org/<id>`.
pub(crate) fn entry(id: &str, texts: &[&str]) -> Arc<Entry> {
    Arc::new(Entry {
        id: EntryId::parse(id).unwrap(),
        spiffe_id: SpiffeId::from_path(&trust_domain(), &format!("/{id}")).unwrap(),
        parent_id: SpiffeId::from_path(&trust_domain(), "/spire/agent/x509pop/a").unwrap(),
        selectors: selectors(texts),
        x509_svid_ttl: None,
        jwt_svid_ttl: None,
        federates_with: Vec::new(),
        admin: false,
        downstream: false,
        store_svid: false,
        expires_at: None,
        dns_names: Vec::new(),
        hint: String::new(),
        revision_number: 0,
        created_at: at(1),
        disable_x509_svid_prefetch: false,
        jwt_svid_include_jti: false,
    })
}

/// The same entry at another revision.
pub(crate) fn revised(entry: &Entry, revision_number: u64) -> Arc<Entry> {
    let mut entry = entry.clone();
    entry.revision_number = revision_number;
    Arc::new(entry)
}

/// `seconds` into the life of the world the tests are in.
pub(crate) fn at(seconds: u64) -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000 + seconds)
}

/// An SVID of `entry` from second 0 until `not_after`, due at half.
pub(crate) fn svid(entry: &Entry, not_after: u64) -> Arc<IssuedSvid> {
    let chain = vec![Bytes::from_static(b"leaf")];
    Arc::new(IssuedSvid {
        id: entry.spiffe_id.clone(),
        chain_der: chain.concat().into(),
        chain,
        key_der: KeyDer::new(Zeroizing::new(b"key".to_vec())),
        not_before: at(0),
        not_after: at(not_after),
        renew_at: at(not_after / 2),
    })
}

pub(crate) fn bundle(trust_domain: &str, sequence_number: u64) -> Bundle {
    let mut bundle = Bundle::empty(TrustDomain::parse(trust_domain).unwrap());
    bundle.sequence_number = sequence_number;
    bundle
}
