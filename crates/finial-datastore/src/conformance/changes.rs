//! What [`ChangeStore`](crate::ChangeStore) promises.

use std::collections::BTreeMap;

use spiffe_types::entry::EntryPatch;
use tokio::task::JoinSet;

use super::{Arc, Store, agent, bundle, create, create_one, domain, entry, now};
use crate::bundles::DeleteMode;
use crate::changes::{ChangeBatch, Changes, Revision, Snapshot};

async fn since(store: &Store, revision: Revision, limit: u32) -> ChangeBatch {
    match store.changes_since(revision, limit).await.unwrap() {
        Changes::Since(batch) => batch,
        Changes::TooOld => panic!("revision {revision} is too old"),
    }
}

/// A batch takes one revision.
pub async fn a_batch_takes_one_revision(store: Store) {
    let before = store.latest_revision().await.unwrap();
    let batch = (0..1_200)
        .map(|n| entry(&format!("/w{n}"), &["u:1"]))
        .collect();

    store.create_entries(batch, now()).await.unwrap();

    let after = store.latest_revision().await.unwrap();
    assert_eq!(after, Revision(before.0 + 1));
    let batch = since(&store, before, 1).await; // never a part of a revision
    assert_eq!((batch.revision, batch.entries.len()), (after, 1_200));
}

/// What changes nothing takes no revision.
pub async fn what_changes_nothing_takes_no_revision(store: Store) {
    create(&store, entry("/a", &["u:1"])).await;
    store
        .append_bundle(&bundle("example.org", vec![]))
        .await
        .unwrap();
    let before = store.latest_revision().await.unwrap();

    create_one(&store, entry("/a", &["u:1"])).await.unwrap();
    store
        .append_bundle(&bundle("example.org", vec![]))
        .await
        .unwrap();
    store.prune_entries(now()).await.unwrap();
    store.spend_join_token("unknown", now()).await.unwrap();

    assert_eq!(store.latest_revision().await.unwrap(), before);
    let batch = since(&store, before, 10).await;
    assert_eq!(
        batch,
        ChangeBatch {
            revision: before,
            ..ChangeBatch::default()
        }
    );
}

/// Revisions have no gaps under concurrent writers.
pub async fn revisions_have_no_gaps_under_concurrent_writers(store: Store) {
    let mut writers = JoinSet::new();
    for writer in 0..8 {
        let store = Arc::clone(&store);
        writers.spawn(async move {
            for n in 0..10 {
                create(&store, entry(&format!("/{writer}/{n}"), &["u:1"])).await;
                let mut node = agent("node", &[]);
                node.agent_version = format!("{writer}.{n}");
                store.record_attestation(node).await.unwrap();
            }
        });
    }
    let mut seen = BTreeMap::new();
    let mut at = Revision(0);
    while at < Revision(160) {
        let batch = since(&store, at, 1).await;
        if batch.revision == at {
            tokio::task::yield_now().await;
            continue;
        }
        assert_eq!(batch.revision, Revision(at.0 + 1));
        assert_eq!(batch.entries.len() + batch.agents.len(), 1);
        seen.insert(batch.revision, batch.entries.len());
        at = batch.revision;
    }
    writers.join_all().await;

    assert_eq!(seen.values().sum::<usize>(), 80);
    assert_eq!(store.latest_revision().await.unwrap(), Revision(160));
}

/// A reader that follows the log ends up with the snapshot.
pub async fn a_reader_that_follows_the_log_ends_up_with_the_snapshot(store: Store) {
    let empty = store.snapshot().await.unwrap();
    store
        .create_bundle(bundle("other.org", vec![]))
        .await
        .unwrap();
    store
        .create_bundle(bundle("example.org", vec![]))
        .await
        .unwrap();
    let kept = create(&store, entry("/kept", &["u:1"])).await;
    let gone = create(&store, entry("/gone", &["u:1"])).await;
    let patch = EntryPatch {
        federates_with: Some(vec![domain("other.org")]),
        ..EntryPatch::default()
    };
    store.update_entry(&kept.id, patch, now()).await.unwrap();
    store
        .record_attestation(agent("kept", &["a:1"]))
        .await
        .unwrap();
    store.record_attestation(agent("gone", &[])).await.unwrap();
    store.delete_agent(&agent("gone", &[]).id).await.unwrap();
    store.delete_entry(&gone.id).await.unwrap();
    store
        .delete_bundle(&domain("other.org"), DeleteMode::Dissociate)
        .await
        .unwrap();
    let full = store.snapshot().await.unwrap();

    for limit in [1, 2, 3, 100] {
        let mut followed = Followed::default();
        let mut at = empty.revision;
        while at < full.revision {
            let batch = since(&store, at, limit).await;
            at = batch.revision;
            followed.apply(batch);
        }
        assert_eq!(followed, Followed::from(full.clone()), "limit {limit}");
    }
}

/// A pruned log sends its reader to the snapshot.
pub async fn a_pruned_log_sends_its_reader_to_the_snapshot(store: Store) {
    for n in 0..5 {
        create(&store, entry(&format!("/w{n}"), &["u:1"])).await;
    }
    let ahead = store.changes_since(Revision(6), 10).await.unwrap();
    assert_eq!(ahead, Changes::TooOld); // as after a restore of the database

    assert_eq!(store.prune_changes(2).await.unwrap(), 3);

    assert_eq!(
        store.changes_since(Revision(2), 10).await.unwrap(),
        Changes::TooOld
    );
    assert_eq!(since(&store, Revision(3), 10).await.entries.len(), 2);
    assert_eq!(store.prune_changes(0).await.unwrap(), 2);
    assert_eq!(
        store.changes_since(Revision(4), 10).await.unwrap(),
        Changes::TooOld
    );
    assert_eq!(since(&store, Revision(5), 10).await.revision, Revision(5));
}

/// A commit wakes those who wait.
pub async fn a_commit_wakes_those_who_wait(store: Store) {
    let mut changed = store.changed();
    let waiter = async {
        changed.changed().await.unwrap();
        *changed.borrow_and_update()
    };

    let (revision, _) = tokio::join!(waiter, create(&store, entry("/a", &["u:1"])));

    assert_eq!(revision, store.latest_revision().await.unwrap());
}

#[derive(Debug, Default, PartialEq)]
struct Followed {
    entries: BTreeMap<String, String>,
    agents: BTreeMap<String, String>,
    bundles: BTreeMap<String, String>,
}

impl Followed {
    fn apply(&mut self, batch: ChangeBatch) {
        for (id, entry) in batch.entries {
            put(&mut self.entries, id.to_string(), entry);
        }
        for (id, agent) in batch.agents {
            put(&mut self.agents, id.to_string(), agent);
        }
        for (trust_domain, bundle) in batch.bundles {
            put(&mut self.bundles, trust_domain.to_string(), bundle);
        }
    }
}

impl From<Snapshot> for Followed {
    fn from(snapshot: Snapshot) -> Self {
        let mut followed = Self::default();
        for entry in snapshot.entries {
            put(&mut followed.entries, entry.id.to_string(), Some(entry));
        }
        for agent in snapshot.agents {
            put(&mut followed.agents, agent.id.to_string(), Some(agent));
        }
        for bundle in snapshot.bundles {
            put(
                &mut followed.bundles,
                bundle.trust_domain.to_string(),
                Some(bundle),
            );
        }
        followed
    }
}

fn put<T: std::fmt::Debug>(map: &mut BTreeMap<String, String>, key: String, value: Option<T>) {
    match value {
        Some(value) => map.insert(key, format!("{value:?}")),
        None => map.remove(&key),
    };
}
