//! What [`EntryStore`](crate::EntryStore) promises.

use std::collections::BTreeSet;

use spiffe_types::entry::{DnsName, EntryId, EntryPatch, Ttl};

use super::{Store, at, bundle, create, create_one, domain, entry, id, now, selectors};
use crate::StoreError;
use crate::entries::{Created, EntryFilter, SelectorFilter, SetMatch, TrustDomainFilter};
use crate::page::Page;

/// A created entry is found as it was returned.
pub async fn a_created_entry_is_found_as_it_was_returned(store: Store) {
    store
        .create_bundle(bundle("other.org", vec![]))
        .await
        .unwrap();
    let mut new = entry("/web", &["unix:uid:1000", "unix:gid:1000"]);
    new.id = Some(EntryId::parse("chosen-id").unwrap());
    new.x509_svid_ttl = Ttl::from_seconds(60);
    new.jwt_svid_ttl = Ttl::from_seconds(30);
    new.federates_with = vec![domain("other.org")];
    new.admin = true;
    new.downstream = true;
    new.expires_at = Some(at(1_900_000_000));
    new.dns_names = ["z.example.org", "a.example.org"]
        .map(|name| DnsName::parse(name).unwrap())
        .to_vec();
    new.hint = "external".into();
    new.disable_x509_svid_prefetch = true;
    new.jwt_svid_include_jti = true;

    let created = create(&store, new.clone()).await;

    assert_eq!(created, new.into_entry(created.id.clone(), now()));
    assert_eq!(created.id.as_str(), "chosen-id");
    assert_eq!(store.find_entry(&created.id).await.unwrap(), Some(created));
}

/// A similar entry is not created twice.
pub async fn a_similar_entry_is_not_created_twice(store: Store) {
    let first = create(&store, entry("/web", &["unix:uid:1", "unix:gid:1"])).await;
    let mut second = entry("/web", &["unix:gid:1", "unix:uid:1"]);
    second.hint = "another hint".into();

    let outcome = create_one(&store, second).await.unwrap();

    assert_eq!(outcome, Created::Existing(first));
    create(&store, entry("/web", &["unix:uid:1"])).await;
}

/// Entries of one batch are compared with each other.
pub async fn entries_of_one_batch_are_compared_with_each_other(store: Store) {
    let batch = vec![entry("/a", &["unix:uid:1"]), entry("/a", &["unix:uid:1"])];

    let results = store.create_entries(batch, now()).await.unwrap();

    let [Ok(Created::New(new)), Ok(Created::Existing(existing))] = results.as_slice() else {
        panic!("{results:?}");
    };
    assert_eq!(new, existing);
    assert_eq!(
        store.count_entries(&EntryFilter::default()).await.unwrap(),
        1
    );
}

/// One bad entry does not spoil the batch.
pub async fn one_bad_entry_does_not_spoil_the_batch(store: Store) {
    let mut taken = entry("/a", &["unix:uid:1"]);
    taken.id = Some(EntryId::parse("taken").unwrap());
    let mut same_id = entry("/b", &["unix:uid:1"]);
    same_id.id = taken.id.clone();
    let mut federated = entry("/c", &["unix:uid:1"]);
    federated.federates_with = vec![domain("unknown.org")];
    let good = entry("/d", &["unix:uid:1"]);

    let results = store
        .create_entries(vec![taken, same_id, federated, good], now())
        .await
        .unwrap();

    let [
        Ok(Created::New(_)),
        Err(StoreError::AlreadyExists { .. }),
        Err(missing @ StoreError::MissingBundle { .. }),
        Ok(Created::New(_)),
    ] = results.as_slice()
    else {
        panic!("{results:?}");
    };
    assert_eq!(
        missing.to_string(),
        "unable to find federated bundle \"spiffe://unknown.org\""
    );
    assert_eq!(
        store.count_entries(&EntryFilter::default()).await.unwrap(),
        2
    );
}

/// An update changes what the patch names and raises the revision number.
pub async fn an_update_changes_what_the_patch_names_and_raises_the_revision_number(store: Store) {
    store
        .create_bundle(bundle("other.org", vec![]))
        .await
        .unwrap();
    let before = create(&store, entry("/web", &["unix:uid:1"])).await;
    let patch = EntryPatch {
        selectors: Some(selectors(&["unix:uid:2"])),
        federates_with: Some(vec![domain("other.org")]),
        hint: Some("new".to_owned()),
        ..EntryPatch::default()
    };

    let after = store
        .update_entry(&before.id, patch.clone(), at(1))
        .await
        .unwrap();

    let mut expected = before.clone();
    patch.apply(&mut expected);
    expected.revision_number = 1;
    assert_eq!(after, expected);
    assert_eq!(store.find_entry(&before.id).await.unwrap(), Some(expected));
    assert_eq!(
        with_selectors(&store, &["unix:uid:1"], SetMatch::Any).await,
        0
    );
    assert_eq!(
        with_selectors(&store, &["unix:uid:2"], SetMatch::Any).await,
        1
    );
    let unknown = EntryId::parse("unknown").unwrap();
    let missing = store
        .update_entry(&unknown, EntryPatch::default(), at(1))
        .await;
    assert!(matches!(missing, Err(StoreError::NotFound { .. })));
}

/// An update may not make an entry similar to another.
pub async fn an_update_may_not_make_an_entry_similar_to_another(store: Store) {
    create(&store, entry("/a", &["unix:uid:1"])).await;
    let other = create(&store, entry("/b", &["unix:uid:1"])).await;
    let patch = EntryPatch {
        spiffe_id: Some(id("/a")),
        ..EntryPatch::default()
    };

    let outcome = store.update_entry(&other.id, patch, now()).await;

    assert!(matches!(outcome, Err(StoreError::AlreadyExists { .. })));
    assert_eq!(store.find_entry(&other.id).await.unwrap(), Some(other));
}

/// A deleted entry is gone from every filter.
pub async fn a_deleted_entry_is_gone_from_every_filter(store: Store) {
    store
        .create_bundle(bundle("other.org", vec![]))
        .await
        .unwrap();
    let mut new = entry("/web", &["unix:uid:1"]);
    new.federates_with = vec![domain("other.org")];
    let created = create(&store, new.clone()).await;

    assert_eq!(store.delete_entry(&created.id).await.unwrap(), created);

    assert_eq!(store.find_entry(&created.id).await.unwrap(), None);
    assert_eq!(
        with_selectors(&store, &["unix:uid:1"], SetMatch::Any).await,
        0
    );
    assert!(matches!(
        store.delete_entry(&created.id).await,
        Err(StoreError::NotFound { .. })
    ));
    create(&store, new).await;
}

/// Filters compare sets as they say.
pub async fn filters_compare_sets_as_they_say(store: Store) {
    for name in ["a.org", "b.org"] {
        store.create_bundle(bundle(name, vec![])).await.unwrap();
    }
    for (path, of, with) in [
        ("/1", &["u:1"][..], &["a.org"][..]),
        ("/12", &["u:1", "u:2"], &["a.org", "b.org"]),
        ("/123", &["u:1", "u:2", "u:3"], &["b.org"]),
        ("/3", &["u:3"], &[]),
    ] {
        let mut new = entry(path, of);
        new.federates_with = with.iter().map(|name| domain(name)).collect();
        new.downstream = path == "/3";
        new.hint = path.to_owned();
        create(&store, new).await;
    }
    for (of, matching, expected) in [
        (&["u:1", "u:2"][..], SetMatch::Exact, 1),
        (&["u:1", "u:2"], SetMatch::Subset, 2),
        (&["u:1", "u:2"], SetMatch::Superset, 2),
        (&["u:1", "u:2"], SetMatch::Any, 3),
        (&["u:9"], SetMatch::Subset, 0),
        (&["u:9"], SetMatch::Superset, 0),
    ] {
        let found = with_selectors(&store, of, matching).await;
        assert_eq!(found, expected, "{matching:?} {of:?}");
    }
    for (with, matching, expected) in [
        (&["a.org"][..], SetMatch::Exact, 1),
        (&["a.org"], SetMatch::Subset, 2), // the entry that federates with nobody is in every set
        (&["a.org"], SetMatch::Superset, 2),
        (&["a.org", "b.org"], SetMatch::Any, 3),
        (&["a.org", "b.org"], SetMatch::Exact, 1),
    ] {
        let trust_domains: BTreeSet<_> = with.iter().map(|name| domain(name)).collect();
        let filter = EntryFilter {
            federates_with: Some(TrustDomainFilter {
                trust_domains,
                matching,
            }),
            ..EntryFilter::default()
        };
        let found = store.count_entries(&filter).await.unwrap();
        assert_eq!(found, expected, "{matching:?} {with:?}");
    }
    let by = [
        (
            EntryFilter {
                spiffe_id: Some(id("/12")),
                ..EntryFilter::default()
            },
            1,
        ),
        (
            EntryFilter {
                parent_id: Some(id("/12")),
                ..EntryFilter::default()
            },
            0,
        ),
        (
            EntryFilter {
                parent_id: Some(id("/spire/agent/x509pop/node")),
                ..EntryFilter::default()
            },
            4,
        ),
        (
            EntryFilter {
                hint: Some("/3".to_owned()),
                ..EntryFilter::default()
            },
            1,
        ),
        (
            EntryFilter {
                downstream: true,
                ..EntryFilter::default()
            },
            1,
        ),
    ];
    for (filter, expected) in by {
        let listed = store.list_entries(&filter, None).await.unwrap();
        assert_eq!(listed.items.len(), expected, "{filter:?}");
        assert_eq!(listed.next, None);
    }
}

/// Pages cover the list once and end with an empty page.
pub async fn pages_cover_the_list_once_and_end_with_an_empty_page(store: Store) {
    let batch = (0..25)
        .map(|n| entry(&format!("/w{n}"), &["u:1"]))
        .collect();
    store.create_entries(batch, now()).await.unwrap();
    let mut page = Page::first(10);
    let mut lengths = Vec::new();
    let mut paths = Vec::new();

    loop {
        let listed = store
            .list_entries(&EntryFilter::default(), Some(page))
            .await
            .unwrap();
        lengths.push(listed.items.len());
        paths.extend(
            listed
                .items
                .iter()
                .map(|entry| entry.spiffe_id.path().to_owned()),
        );
        let Some(token) = listed.next else { break };
        page = Page::after(10, token);
    }

    assert_eq!(lengths, [10, 10, 5, 0]);
    let expected: Vec<_> = (0..25).map(|n| format!("/w{n}")).collect();
    assert_eq!(paths, expected);
}

/// A page token of another maker is refused.
pub async fn a_page_token_of_another_maker_is_refused(store: Store) {
    let page = Page::after(10, "garbage");

    let outcome = store
        .list_entries(&EntryFilter::default(), Some(page))
        .await;

    let error = outcome.unwrap_err();
    assert!(matches!(error, StoreError::InvalidPageToken { .. }));
    assert_eq!(error.to_string(), "could not parse token 'garbage'");
}

/// Only expired entries are pruned.
pub async fn only_expired_entries_are_pruned(store: Store) {
    let mut old = entry("/old", &["u:1"]);
    old.expires_at = Some(at(99));
    let mut due = entry("/due", &["u:1"]);
    due.expires_at = Some(at(100));
    create(&store, old).await;
    let due = create(&store, due).await;
    let eternal = create(&store, entry("/eternal", &["u:1"])).await;

    assert_eq!(store.prune_entries(at(100)).await.unwrap(), 1);

    let left = store
        .list_entries(&EntryFilter::default(), None)
        .await
        .unwrap();
    assert_eq!(left.items, [due, eternal]);
}

async fn with_selectors(store: &Store, of: &[&str], matching: SetMatch) -> u64 {
    let filter = EntryFilter {
        selectors: Some(SelectorFilter {
            selectors: selectors(of),
            matching,
        }),
        ..EntryFilter::default()
    };
    store.count_entries(&filter).await.unwrap()
}
