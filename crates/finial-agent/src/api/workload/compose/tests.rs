use std::sync::Arc;

use spiffe_types::entry::Entry;
use spiffe_types::id::TrustDomain;

use super::*;
use crate::cache::fixtures::{at, bundle, entry, svid};

fn identity(id: &str, change: impl FnOnce(&mut Entry)) -> Identity {
    let mut entry = Entry::clone(&entry(id, &["unix:uid:0"]));
    change(&mut entry);
    let svid = svid(&entry, 100);
    Identity {
        entry: Arc::new(entry),
        svid: Some(svid),
    }
}

fn update(identities: Vec<Identity>) -> WorkloadUpdate {
    WorkloadUpdate {
        ready: identities.iter().all(|identity| identity.svid.is_some()),
        identities,
        bundle: Arc::new(bundle("example.org", 1)),
        federated: vec![Arc::new(bundle("other.test", 1))],
        revision: 1,
        x509_message: crate::cache::EncodedOnce::default(),
    }
}

fn ids(update: &WorkloadUpdate) -> Vec<String> {
    let response = Entitlement::of(update).x509_response().unwrap();
    response
        .svids
        .into_iter()
        .map(|svid| svid.spiffe_id)
        .collect()
}

#[test]
fn the_oldest_entry_keeps_a_shared_hint() {
    let with_hint = |id, created_at| {
        identity(id, |entry| {
            entry.hint = "internal".into();
            entry.created_at = at(created_at);
        })
    };
    let update = update(vec![
        with_hint("a", 5),
        with_hint("b", 3),
        with_hint("c", 3),
        identity("d", |_| {}),
        identity("e", |_| {}),
    ]);

    assert_eq!(
        ids(&update),
        [
            "spiffe://example.org/b",
            "spiffe://example.org/d",
            "spiffe://example.org/e"
        ]
    );
}

#[test]
fn what_goes_to_svid_stores_is_not_served() {
    let update = update(vec![
        identity("a", |entry| entry.store_svid = true),
        identity("b", |_| {}),
    ]);

    assert_eq!(ids(&update), ["spiffe://example.org/b"]);
}

#[test]
fn a_message_is_held_until_each_identity_has_its_svid() {
    let mut update = update(vec![identity("a", |_| {}), identity("b", |_| {})]);
    update.identities[1].svid = None;

    assert!(has_identity(&update));
    assert_eq!(Entitlement::of(&update).x509_response(), None);
    assert_eq!(x509_frame(&update), None);
}

#[test]
fn a_response_bears_chain_key_bundle_hint_and_federated_bundles() {
    let update = update(vec![identity("a", |entry| entry.hint = "internal".into())]);

    let response = Entitlement::of(&update).x509_response().unwrap();

    assert_eq!(
        response,
        X509svidResponse {
            svids: vec![X509svid {
                spiffe_id: "spiffe://example.org/a".into(),
                x509_svid: Bytes::from_static(b"leaf"),
                x509_svid_key: Bytes::from_static(b"key"),
                bundle: Bytes::new(),
                hint: "internal".into(),
            }],
            crl: Vec::new(),
            federated_bundles: HashMap::from([("spiffe://other.test".into(), Bytes::new())]),
        }
    );
}

#[test]
fn a_message_is_encoded_once_for_all_streams() {
    let update = update(vec![identity("a", |_| {})]);

    let first = x509_frame(&update).unwrap();
    let second = x509_frame(&update).unwrap();

    assert_eq!(first.as_ptr(), second.as_ptr());
    let expected = Entitlement::of(&update).x509_response().unwrap();
    assert_eq!(
        X509svidResponse::decode(first.slice(5..)).unwrap(),
        expected
    );
    assert_eq!(
        first[..5],
        [0, 0, 0, 0, u8::try_from(expected.encoded_len()).unwrap()]
    );
}

#[test]
fn without_an_identity_only_the_own_bundle_is_shown() {
    let own = TrustDomain::parse("example.org").unwrap().id().to_string();
    let update = update(Vec::new());

    assert!(!has_identity(&update));
    assert_eq!(
        x509_bundles(&update, false).bundles,
        HashMap::from([(own, Bytes::new())])
    );
    assert_eq!(x509_bundles(&update, true).bundles.len(), 2);
}
