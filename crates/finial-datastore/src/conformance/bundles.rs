//! What [`BundleStore`](crate::BundleStore) promises.

use std::time::Duration;

use super::{Store, at, bundle, create, domain, entry, jwt_key};
use crate::StoreError;
use crate::bundles::{BundlePatch, DeleteMode};
use crate::entries::EntryFilter;

/// Appending counts only what is new.
pub async fn appending_counts_only_what_is_new(store: Store) {
    let first = bundle("example.org", vec![jwt_key("a", None)]);
    assert_eq!(
        store.append_bundle(&first).await.unwrap().sequence_number,
        0
    );
    assert_eq!(
        store.append_bundle(&first).await.unwrap().sequence_number,
        0
    );

    let second = bundle(
        "example.org",
        vec![jwt_key("a", None), jwt_key("b", Some(at(9)))],
    );
    let grown = store.append_bundle(&second).await.unwrap();

    assert_eq!(grown.sequence_number, 1);
    assert_eq!(grown.jwt_authorities, second.jwt_authorities);
    assert_eq!(
        store.find_bundle(&domain("example.org")).await.unwrap(),
        Some(grown)
    );
    assert!(matches!(
        store.create_bundle(second).await,
        Err(StoreError::AlreadyExists { .. })
    ));
    let patch = BundlePatch {
        refresh_hint: Some(Some(Duration::from_mins(1))),
        ..BundlePatch::default()
    };
    let patched = store
        .update_bundle(&domain("example.org"), patch)
        .await
        .unwrap();
    assert_eq!(patched.refresh_hint, Some(Duration::from_mins(1)));
    assert_eq!(patched.jwt_authorities.len(), 2);
}

/// A bundle in use is deleted as the mode says.
pub async fn a_bundle_in_use_is_deleted_as_the_mode_says(store: Store) {
    for mode in [DeleteMode::Dissociate, DeleteMode::Delete] {
        store
            .create_bundle(bundle("other.org", vec![]))
            .await
            .unwrap();
        let mut new = entry("/web", &["unix:uid:1"]);
        new.federates_with = vec![domain("other.org")];
        let created = create(&store, new).await;

        let refused = store
            .delete_bundle(&domain("other.org"), DeleteMode::Restrict)
            .await;
        assert_eq!(
            refused.unwrap_err().to_string(),
            "cannot delete bundle; federated with 1 registration entries"
        );
        store
            .delete_bundle(&domain("other.org"), mode)
            .await
            .unwrap();

        assert_eq!(store.count_bundles().await.unwrap(), 0);
        let left = store.find_entry(&created.id).await.unwrap();
        if mode == DeleteMode::Delete {
            assert_eq!(left, None);
        } else {
            let left = left.unwrap();
            assert_eq!((left.federates_with.len(), left.revision_number), (0, 1));
            store.delete_entry(&left.id).await.unwrap();
        }
    }
    assert_eq!(
        store.count_entries(&EntryFilter::default()).await.unwrap(),
        0
    );
    assert!(matches!(
        store
            .delete_bundle(&domain("other.org"), DeleteMode::Delete)
            .await,
        Err(StoreError::NotFound { .. })
    ));
}

/// Pruning never empties a bundle.
pub async fn pruning_never_empties_a_bundle(store: Store) {
    let keys = vec![
        jwt_key("a", Some(at(1))),
        jwt_key("b", Some(at(3))),
        jwt_key("c", Some(at(2))),
    ];
    store.set_bundle(bundle("example.org", keys)).await.unwrap();
    let own = domain("example.org");

    assert!(!store.prune_bundle(&own, at(1)).await.unwrap());
    assert!(store.prune_bundle(&own, at(100)).await.unwrap());
    assert!(!store.prune_bundle(&own, at(100)).await.unwrap());

    let left = store.find_bundle(&own).await.unwrap().unwrap();
    assert_eq!(left.sequence_number, 1);
    assert_eq!(left.jwt_authorities, [jwt_key("b", Some(at(3)))]);
}

/// Only a tainted authority is revoked.
pub async fn only_a_tainted_authority_is_revoked(store: Store) {
    let own = domain("example.org");
    let keys = vec![jwt_key("a", None), jwt_key("b", None)];
    store.set_bundle(bundle("example.org", keys)).await.unwrap();

    assert!(matches!(
        store.revoke_jwt_authority(&own, "a").await,
        Err(StoreError::Conflict { .. })
    ));
    let tainted = store.taint_jwt_authority(&own, "a").await.unwrap();
    assert!(tainted.jwt_authorities[0].tainted);
    assert!(matches!(
        store.taint_jwt_authority(&own, "a").await,
        Err(StoreError::Conflict { .. })
    ));
    let revoked = store.revoke_jwt_authority(&own, "a").await.unwrap();

    assert_eq!(revoked.sequence_number, 2);
    assert_eq!(revoked.jwt_authorities, [jwt_key("b", None)]);
    assert!(matches!(
        store.revoke_jwt_authority(&own, "a").await,
        Err(StoreError::NotFound { .. })
    ));
}
