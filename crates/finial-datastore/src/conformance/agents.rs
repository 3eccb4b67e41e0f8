//! What [`AgentStore`](crate::AgentStore) promises.

use spiffe_types::entry::NewEntry;

use super::{Store, agent, at, create, entry, id, selectors, serial};
use crate::StoreError;
use crate::agents::AgentFilter;
use crate::entries::{EntryFilter, SelectorFilter, SetMatch};
use crate::page::Page;

/// An attestation replaces what was known.
pub async fn an_attestation_replaces_what_was_known(store: Store) {
    let mut first = agent("node", &["x509pop:ca:1"]);
    first.agent_version = "1.2.3".into();
    store.record_attestation(first.clone()).await.unwrap();
    assert_eq!(
        store.find_agent(&first.id).await.unwrap(),
        Some(first.clone())
    );
    let mut again = agent("node", &["x509pop:ca:2"]);
    again.serial = Some(serial(2));

    store.record_attestation(again.clone()).await.unwrap();

    again.agent_version = first.agent_version; // reported separately, so it outlives an attestation
    assert_eq!(store.find_agent(&again.id).await.unwrap(), Some(again));
    let filter = |of: &[&str]| AgentFilter {
        selectors: Some(SelectorFilter {
            selectors: selectors(of),
            matching: SetMatch::Any,
        }),
        ..AgentFilter::default()
    };
    assert_eq!(
        store
            .count_agents(&filter(&["x509pop:ca:1"]))
            .await
            .unwrap(),
        0
    );
    assert_eq!(
        store
            .count_agents(&filter(&["x509pop:ca:2"]))
            .await
            .unwrap(),
        1
    );
}

/// A renewed serial number is current once it is used.
pub async fn a_renewed_serial_number_is_current_once_it_is_used(store: Store) {
    let agent = agent("node", &[]);
    store.record_attestation(agent.clone()).await.unwrap();
    store
        .record_renewal(&agent.id, &serial(1), &serial(2), at(500))
        .await
        .unwrap();

    let renewed = store.find_agent(&agent.id).await.unwrap().unwrap();
    assert_eq!(renewed.serial, Some(serial(1)));
    assert_eq!(renewed.new_serial, Some(serial(2)));
    assert_eq!(renewed.new_expires_at, Some(at(500)));
    assert!(!store.promote_serial(&agent.id, &serial(3)).await.unwrap());
    assert!(store.promote_serial(&agent.id, &serial(2)).await.unwrap());
    assert!(!store.promote_serial(&agent.id, &serial(2)).await.unwrap());

    let promoted = store.find_agent(&agent.id).await.unwrap().unwrap();
    assert_eq!(promoted.serial, Some(serial(2)));
    assert_eq!(promoted.expires_at, at(500));
    assert_eq!((promoted.new_serial, promoted.new_expires_at), (None, None));
}

/// An SVID that was replaced renews nothing.
pub async fn an_svid_that_was_replaced_renews_nothing(store: Store) {
    let mut agent = agent("node", &[]);
    store.record_attestation(agent.clone()).await.unwrap();
    store.delete_agent(&agent.id).await.unwrap();
    agent.serial = Some(serial(7));
    store.record_attestation(agent.clone()).await.unwrap();

    let stale = store
        .record_renewal(&agent.id, &serial(1), &serial(2), at(500))
        .await;

    assert!(matches!(stale, Err(StoreError::Conflict { .. })));
    let found = store.find_agent(&agent.id).await.unwrap().unwrap();
    assert_eq!((found.serial, found.new_serial), (Some(serial(7)), None));
}

/// A banned agent stays banned until it is deleted.
pub async fn a_banned_agent_stays_banned_until_it_is_deleted(store: Store) {
    let agent = agent("node", &[]);
    store.record_attestation(agent.clone()).await.unwrap();
    store
        .record_renewal(&agent.id, &serial(1), &serial(2), at(500))
        .await
        .unwrap();

    store.ban_agent(&agent.id).await.unwrap();
    store.ban_agent(&agent.id).await.unwrap();

    assert!(
        store
            .find_agent(&agent.id)
            .await
            .unwrap()
            .unwrap()
            .is_banned()
    );
    let refused = |outcome| matches!(outcome, Err(StoreError::Conflict { .. }));
    assert!(refused(store.record_attestation(agent.clone()).await));
    assert!(refused(
        store
            .record_renewal(&agent.id, &serial(1), &serial(3), at(500))
            .await
    ));
    assert!(!store.promote_serial(&agent.id, &serial(2)).await.unwrap());
    store.delete_agent(&agent.id).await.unwrap();
    assert!(matches!(
        store.ban_agent(&agent.id).await,
        Err(StoreError::NotFound { .. })
    ));
    store.record_attestation(agent).await.unwrap();
}

/// The alias of a join token goes with its agent.
pub async fn the_alias_of_a_join_token_goes_with_its_agent(store: Store) {
    let mut node = agent("unused", &[]);
    node.id = id("/spire/agent/join_token/abc");
    let text = format!("spiffe_id:{}", node.id);
    let alias = NewEntry::new(id("/node"), node.id.clone(), selectors(&[&text]));
    let workload = NewEntry::new(id("/workload"), node.id.clone(), selectors(&["unix:uid:1"]));
    create(&store, alias).await;
    let workload = create(&store, workload).await;
    let other = create(&store, entry("/other", &[&text])).await;
    store.record_attestation(node.clone()).await.unwrap();

    store.delete_agent(&node.id).await.unwrap();

    let left = store
        .list_entries(&EntryFilter::default(), None)
        .await
        .unwrap();
    assert_eq!(left.items, [workload, other]);
}

/// Agents are filtered.
pub async fn agents_are_filtered(store: Store) {
    let mut token = agent("token", &[]);
    token.attestation_type = "join_token".into();
    token.can_reattest = false;
    token.expires_at = at(100);
    let banned = agent("banned", &["a:1"]);
    for one in [
        token.clone(),
        banned.clone(),
        agent("node", &["a:1", "a:2"]),
    ] {
        store.record_attestation(one).await.unwrap();
    }
    store.ban_agent(&banned.id).await.unwrap();
    let all = AgentFilter::default();
    let by_selectors = |matching| AgentFilter {
        selectors: Some(SelectorFilter {
            selectors: selectors(&["a:1"]),
            matching,
        }),
        ..AgentFilter::default()
    };
    for (filter, expected) in [
        (all.clone(), 3),
        (
            AgentFilter {
                attestation_type: Some("join_token".to_owned()),
                ..all.clone()
            },
            1,
        ),
        (
            AgentFilter {
                can_reattest: Some(true),
                ..all.clone()
            },
            2,
        ),
        (
            AgentFilter {
                banned: Some(true),
                ..all.clone()
            },
            1,
        ),
        (
            AgentFilter {
                banned: Some(false),
                ..all.clone()
            },
            2,
        ),
        (
            AgentFilter {
                expires_before: Some(at(101)),
                ..all.clone()
            },
            1,
        ),
        (by_selectors(SetMatch::Exact), 1),
        (by_selectors(SetMatch::Superset), 2),
        (by_selectors(SetMatch::Subset), 2),
        (by_selectors(SetMatch::Any), 2),
    ] {
        assert_eq!(
            store.count_agents(&filter).await.unwrap(),
            expected,
            "{filter:?}"
        );
    }
    let page = store.list_agents(&all, Some(Page::first(1))).await.unwrap();
    assert_eq!(page.items, [token]);
    let page = Page::after(1, page.next.unwrap());
    let page = store.list_agents(&all, Some(page)).await.unwrap();
    assert_eq!(page.items[0].id, banned.id);
}

/// Only agents that may go are pruned.
pub async fn only_agents_that_may_go_are_pruned(store: Store) {
    for (name, can_reattest, expires_at) in [
        ("old", true, 99),
        ("tofu", false, 99),
        ("banned", true, 99),
        ("young", true, 100),
    ] {
        let mut one = agent(name, &[]);
        one.can_reattest = can_reattest;
        one.expires_at = at(expires_at);
        store.record_attestation(one).await.unwrap();
    }
    store.ban_agent(&agent("banned", &[]).id).await.unwrap();

    assert_eq!(store.prune_agents(at(100), false).await.unwrap(), 1);
    assert_eq!(store.prune_agents(at(100), true).await.unwrap(), 1);

    let left = store
        .list_agents(&AgentFilter::default(), None)
        .await
        .unwrap();
    let left: Vec<_> = left.items.iter().map(|agent| agent.id.clone()).collect();
    assert_eq!(left, [agent("banned", &[]).id, agent("young", &[]).id]);
}
