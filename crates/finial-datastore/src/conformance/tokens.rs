//! What [`JoinTokenStore`](crate::JoinTokenStore) and [`JournalStore`](crate::JournalStore) promise.

use spiffe_types::bundle::AuthorityId;
use tokio::task::JoinSet;

use super::{Arc, Store, at, entry, now};
use crate::StoreError;
use crate::entries::EntryFilter;
use crate::join_tokens::{JoinToken, Redemption};
use crate::journal::Journal;

fn token(value: &str, expires_at: u64) -> JoinToken {
    JoinToken {
        value: value.to_owned(),
        expires_at: at(expires_at),
    }
}

/// A join token is spent once, by one of fifty.
pub async fn a_join_token_is_spent_once_by_one_of_fifty(store: Store) {
    store
        .create_join_token(token("t", 100), None, now())
        .await
        .unwrap();
    let mut callers = JoinSet::new();
    for _ in 0..50 {
        let store = Arc::clone(&store);
        callers.spawn(async move { store.spend_join_token("t", at(50)).await.unwrap() });
    }

    let outcomes = callers.join_all().await;

    let count = |wanted| {
        outcomes
            .iter()
            .filter(|outcome| **outcome == wanted)
            .count()
    };
    assert_eq!(count(Redemption::Spent), 1);
    assert_eq!(count(Redemption::Used(at(50))), 49);
}

/// A token is good up to its last moment, and when it ended is told.
pub async fn a_join_token_that_has_expired_is_told_so(store: Store) {
    for value in ["early", "late"] {
        let token = token(value, 100);
        store.create_join_token(token, None, now()).await.unwrap();
    }
    let spend = async |value, time| store.spend_join_token(value, time).await.unwrap();
    let late = at(100) + std::time::Duration::from_millis(1);

    assert_eq!(spend("late", late).await, Redemption::Expired(at(100)));
    assert_eq!(spend("early", at(100)).await, Redemption::Spent);
    // used first, expired later
    assert_eq!(spend("early", late).await, Redemption::Used(at(100)));
    assert_eq!(spend("never", at(1)).await, Redemption::Unknown);
}

/// A token and its alias are created together.
pub async fn a_token_and_its_alias_are_created_together(store: Store) {
    let alias = entry("/node", &["unix:uid:1"]);
    store
        .create_join_token(token("t", 100), Some(alias), now())
        .await
        .unwrap();
    assert_eq!(
        store.count_entries(&EntryFilter::default()).await.unwrap(),
        1
    );

    let again = store
        .create_join_token(
            token("t", 200),
            Some(entry("/other", &["unix:uid:1"])),
            now(),
        )
        .await;

    assert!(matches!(again, Err(StoreError::AlreadyExists { .. })));
    assert_eq!(
        store.count_entries(&EntryFilter::default()).await.unwrap(),
        1
    );
    // the first, and not the one that came again
    let kept = store.spend_join_token("t", at(150)).await.unwrap();
    assert_eq!(kept, Redemption::Expired(at(100)));
}

/// Expired tokens are pruned.
pub async fn expired_tokens_are_pruned(store: Store) {
    store
        .create_join_token(token("old", 99), None, now())
        .await
        .unwrap();
    store
        .create_join_token(token("new", 100), None, now())
        .await
        .unwrap();

    assert_eq!(store.prune_join_tokens(at(100)).await.unwrap(), 1);

    let spend = async |value| store.spend_join_token(value, at(100)).await.unwrap();
    assert_eq!(spend("old").await, Redemption::Unknown);
    assert_eq!(spend("new").await, Redemption::Spent);
}

/// A journal is found by its active authority.
pub async fn a_journal_is_found_by_its_active_authority(store: Store) {
    let (a, b) = (
        AuthorityId::from_key_id(b"a"),
        AuthorityId::from_key_id(b"b"),
    );
    let id = store.save_journal(None, &a, "one".into()).await.unwrap();
    let other = store.save_journal(None, &b, "other".into()).await.unwrap();
    assert_ne!(id, other);

    let c = AuthorityId::from_key_id(b"c");
    assert_eq!(
        store
            .save_journal(Some(id), &c, "two".into())
            .await
            .unwrap(),
        id
    );

    let journal = Journal {
        id,
        active_x509_authority: c.clone(),
        data: "two".into(),
    };
    assert_eq!(store.find_journal(&a).await.unwrap(), None);
    assert_eq!(store.find_journal(&c).await.unwrap(), Some(journal.clone()));
    assert_eq!(store.prune_journals(&[other]).await.unwrap(), 1);
    assert_eq!(store.list_journals().await.unwrap(), [journal]);
}
