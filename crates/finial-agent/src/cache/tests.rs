use std::time::Duration;

use futures::FutureExt as _;

use super::fixtures::{at, bundle, entry, revised, selectors, svid, trust_domain};
use super::*;

fn full(entries: &[&Arc<Entry>]) -> Change {
    Change {
        full: true,
        entries: entries.iter().map(|entry| Arc::clone(entry)).collect(),
        ..Change::default()
    }
}

fn sign_all(cache: &Cache) -> Vec<String> {
    let work = cache.take_work(at(0), 500);
    let ids = work.iter().map(|work| work.entry.id.to_string()).collect();
    let signed = work.into_iter().map(|work| {
        let svid = svid(&work.entry, 100);
        (work, svid)
    });
    cache.put(signed.collect());
    ids
}

fn identities(update: &WorkloadUpdate) -> Vec<(String, bool)> {
    let identities = update.identities.iter();
    identities
        .map(|identity| (identity.entry.id.to_string(), identity.svid.is_some()))
        .collect()
}

#[tokio::test]
async fn a_subscriber_is_told_when_the_svid_arrives() {
    let cache = Cache::new(trust_domain());
    let mut subscription = cache.subscribe(&selectors(&["unix:uid:0", "unix:gid:0"]));
    assert!(subscription.borrow().identities.is_empty());

    cache.apply(full(&[&entry("web", &["unix:uid:0"])]));
    subscription.changed().await;
    let update = subscription.borrow();
    assert_eq!(identities(&update), [("web".to_owned(), false)]);
    assert!(!update.ready);

    cache.wanted().await;
    assert_eq!(sign_all(&cache), ["web"]);
    subscription.changed().await;
    let update = subscription.borrow();
    assert_eq!(identities(&update), [("web".to_owned(), true)]);
    assert!(update.ready);
}

#[tokio::test]
async fn a_slow_subscriber_skips_to_the_newest_update() {
    let cache = Cache::new(trust_domain());
    let mut subscription = cache.subscribe(&selectors(&["unix:uid:0"]));
    for revision in 1..=5 {
        cache.apply(Change {
            bundle: Some(bundle("example.org", revision)),
            ..Change::default()
        });
    }

    subscription.changed().await;
    assert_eq!(subscription.borrow().bundle.sequence_number, 5);
    assert!(subscription.changed().now_or_never().is_none());
}

#[test]
fn callers_with_the_same_selectors_share_one_update() {
    let cache = Cache::new(trust_domain());
    cache.apply(full(&[&entry("web", &["unix:uid:0"])]));
    let mut first = cache.subscribe(&selectors(&["unix:uid:0"]));
    let mut second = cache.subscribe(&selectors(&["unix:uid:0"]));
    sign_all(&cache);

    assert!(Arc::ptr_eq(&first.borrow(), &second.borrow()));
    assert_eq!(cache.counts().subscribers, 2);
}

#[test]
fn a_dropped_subscription_leaves_no_group_behind() {
    let cache = Cache::new(trust_domain());
    let first = cache.subscribe(&selectors(&["unix:uid:0"]));
    let second = cache.subscribe(&selectors(&["unix:uid:0"]));
    drop(first);
    assert_eq!(cache.counts().subscribers, 1);
    drop(second);

    assert_eq!(cache.counts().subscribers, 0);
    assert_eq!(cache.shared.lock().group_count(), 0);
}

#[test]
fn a_removed_entry_takes_its_svid_and_key_along() {
    let cache = Cache::new(trust_domain());
    let web = entry("web", &["unix:uid:0"]);
    cache.apply(full(&[&web]));
    let mut subscription = cache.subscribe(&selectors(&["unix:uid:0"]));
    let work = cache.take_work(at(0), 1).remove(0);
    let svid = svid(&web, 100);
    let held = Arc::downgrade(&svid);
    cache.put(vec![(work, svid)]);
    assert!(subscription.borrow().ready);

    cache.apply(Change {
        removed: vec![web.id.clone()],
        ..Change::default()
    });

    assert!(subscription.borrow().identities.is_empty());
    assert!(held.upgrade().is_none(), "somebody still holds the key");
    assert_eq!(cache.counts().x509_svids, 0);
    assert_eq!(
        cache.next_work(),
        NextWork::Later {
            due: None,
            retry: None
        }
    );
}

#[test]
fn a_result_for_an_entry_that_has_changed_meanwhile_is_thrown_away() {
    let cache = Cache::new(trust_domain());
    let web = entry("web", &["unix:uid:0"]);
    cache.apply(full(&[&web]));
    let work = cache.take_work(at(0), 1);
    cache.apply(full(&[&revised(&web, 1)]));
    let signed = work.into_iter().map(|work| (work, svid(&web, 100)));
    cache.put(signed.collect());

    assert_eq!(cache.counts().x509_svids, 0);
    assert_eq!(cache.next_work(), NextWork::Now);
}

#[test]
fn a_new_revision_is_signed_anew_and_the_old_svid_served_until_then() {
    let cache = Cache::new(trust_domain());
    let web = entry("web", &["unix:uid:0"]);
    cache.apply(full(&[&web]));
    let mut subscription = cache.subscribe(&selectors(&["unix:uid:0"]));
    sign_all(&cache);
    cache.apply(full(&[&revised(&web, 1)]));

    assert!(subscription.borrow().ready);
    assert_eq!(sign_all(&cache), ["web"]);
}

#[test]
fn an_entry_created_anew_under_its_old_id_does_not_keep_the_svid() {
    let cache = Cache::new(trust_domain());
    let web = entry("web", &["unix:uid:0"]);
    cache.apply(full(&[&web]));
    let mut subscription = cache.subscribe(&selectors(&["unix:uid:0"]));
    sign_all(&cache);
    let mut again = (*web).clone();
    again.created_at = at(7);
    cache.apply(full(&[&Arc::new(again)]));

    assert!(!subscription.borrow().ready);
}

#[test]
fn entries_with_subscribers_are_signed_beyond_the_limit_and_never_evicted() {
    let cache = Cache::with_limit(trust_domain(), 2);
    let entries: Vec<_> = (0..6)
        .map(|number| entry(&format!("e{number}"), &[&format!("unix:uid:{number}")]))
        .collect();
    cache.apply(full(&entries.iter().collect::<Vec<_>>()));
    assert_eq!(sign_all(&cache), ["e0", "e1"]);

    let wanted = |number: u32| cache.subscribe(&selectors(&[&format!("unix:uid:{number}")]));
    let mut held: Vec<_> = [2, 3, 4].map(wanted).into();
    assert_eq!(sign_all(&cache), ["e2", "e3", "e4"]);
    assert_eq!(
        cache.counts().x509_svids,
        3,
        "the two nobody asked for made room"
    );
    assert!(
        held.iter_mut()
            .all(|subscription| subscription.borrow().ready)
    );

    held.truncate(1);
    assert_eq!(cache.counts().x509_svids, 2);
}

#[test]
fn who_waits_comes_first_then_what_expires_first_then_the_rest() {
    let cache = Cache::new(trust_domain());
    let waiting = entry("z-waiting", &["unix:uid:0"]);
    let renewal = entry("y-renewal", &["unix:uid:1"]);
    cache.apply(full(&[&renewal]));
    sign_all(&cache);
    let prefetch = entry("a-prefetch", &["unix:uid:2"]);
    cache.apply(full(&[&renewal, &waiting, &prefetch]));
    let _subscription = cache.subscribe(&selectors(&["unix:uid:0"]));

    let order: Vec<_> = cache
        .take_work(at(60), 2)
        .into_iter()
        .map(|work| work.entry.id.to_string())
        .collect();
    assert_eq!(order, ["z-waiting", "y-renewal"]);
}

#[test]
fn an_svid_falls_due_at_its_own_moment() {
    let cache = Cache::new(trust_domain());
    cache.apply(full(&[&entry("web", &["unix:uid:0"])]));
    sign_all(&cache);

    assert_eq!(
        cache.next_work(),
        NextWork::Later {
            due: Some(at(50)),
            retry: None
        }
    );
    assert!(cache.take_work(at(49), 500).is_empty());
    assert_eq!(cache.take_work(at(50), 500).len(), 1);
    assert_eq!(
        cache.counts().x509_svids,
        1,
        "the old one is served until the new one is there"
    );
    assert_eq!(cache.take_work(at(100), 500).len(), 1);
    assert_eq!(cache.counts().x509_svids, 0, "an expired one is not");
}

#[tokio::test(start_paused = true)]
async fn a_deferred_entry_waits_its_time_and_holds_no_revision_back() {
    let cache = Cache::new(trust_domain());
    let settled = cache.settled();
    cache.apply(Change {
        revision: Some(7),
        entries: vec![entry("web", &["unix:uid:0"])],
        ..Change::default()
    });
    assert_eq!(
        *settled.borrow(),
        0,
        "what lies between is part of the same step"
    );

    let until = Instant::now() + Duration::from_secs(5);
    cache.defer(&[entry("web", &[]).id.clone()], until);
    assert_eq!(*settled.borrow(), 7);
    assert!(cache.take_work(at(0), 500).is_empty());
    tokio::time::advance(Duration::from_secs(5)).await;
    assert_eq!(cache.take_work(at(0), 500).len(), 1);
}

#[tokio::test(start_paused = true)]
async fn what_was_put_off_is_tried_at_once_when_the_server_is_back() {
    let cache = Cache::new(trust_domain());
    cache.apply(full(&[&entry("web", &["unix:uid:0"])]));
    cache.wanted().await;
    let until = Instant::now() + Duration::from_mins(1);
    cache.defer(&[entry("web", &[]).id.clone()], until);
    cache.retry_deferred();

    cache.wanted().await;
    assert_eq!(cache.take_work(at(0), 500).len(), 1);
}

#[test]
fn only_who_federates_hears_of_a_federated_bundle() {
    let cache = Cache::new(trust_domain());
    let mut federating = (*entry("fed", &["unix:uid:0"])).clone();
    federating.federates_with = vec!["other.org".parse().unwrap(), trust_domain()];
    cache.apply(full(&[
        &Arc::new(federating),
        &entry("not", &["unix:uid:1"]),
    ]));
    let mut federating = cache.subscribe(&selectors(&["unix:uid:0"]));
    let mut other = cache.subscribe(&selectors(&["unix:uid:1"]));
    let before = other.borrow();
    cache.apply(Change {
        federated: vec![bundle("other.org", 1), bundle("example.org", 9)],
        ..Change::default()
    });

    let names: Vec<_> = federating
        .borrow()
        .federated
        .iter()
        .map(|bundle| bundle.trust_domain.to_string())
        .collect();
    assert_eq!(names, ["other.org"]);
    assert!(Arc::ptr_eq(&before, &other.borrow()));
    assert_eq!(
        cache.bundle().sequence_number,
        0,
        "the own bundle came by another way"
    );
}

#[test]
fn the_same_step_applied_twice_changes_nothing() {
    let cache = Cache::new(trust_domain());
    let web = entry("web", &["unix:uid:0"]);
    cache.apply(full(&[&web]));
    let mut subscription = cache.subscribe(&selectors(&["unix:uid:0"]));
    sign_all(&cache);
    let before = subscription.borrow();
    cache.apply(full(&[&web]));

    assert!(Arc::ptr_eq(&before, &subscription.borrow()));
    assert!(cache.take_work(at(0), 500).is_empty());
}

#[test]
fn an_entry_that_gains_a_selector_leaves_the_callers_without_it() {
    let cache = Cache::new(trust_domain());
    cache.apply(full(&[&entry("web", &["unix:uid:0"])]));
    let mut narrow = cache.subscribe(&selectors(&["unix:uid:0"]));
    let mut wide = cache.subscribe(&selectors(&["unix:uid:0", "unix:gid:0"]));
    sign_all(&cache);
    let mut changed = (*entry("web", &["unix:uid:0", "unix:gid:0"])).clone();
    changed.revision_number = 1;
    cache.apply(full(&[&Arc::new(changed)]));

    assert!(narrow.borrow().identities.is_empty());
    assert_eq!(identities(&wide.borrow()), [("web".to_owned(), true)]);
}

#[test]
fn near_misses_name_what_is_missing() {
    let cache = Cache::new(trust_domain());
    cache.apply(full(&[
        &entry("near", &["unix:uid:0", "unix:gid:7"]),
        &entry("farther", &["k8s:ns:a", "k8s:sa:b"]),
        &entry("far", &["k8s:ns:a"]),
        &entry("hit", &["unix:uid:0"]),
    ]));
    let misses = cache.near_misses(&selectors(&["unix:uid:0"]));

    let named: Vec<_> = misses
        .iter()
        .map(|miss| {
            let missing: Vec<_> = miss.missing.iter().map(ToString::to_string).collect();
            (miss.entry.id.as_str(), missing.join(" "))
        })
        .collect();
    assert_eq!(
        named,
        [
            ("near", "unix:gid:7".to_owned()),
            ("far", "k8s:ns:a".to_owned()),
            ("farther", "k8s:ns:a k8s:sa:b".to_owned()),
        ]
    );
}

#[test]
fn an_entry_can_be_completed_only_by_what_may_be_true() {
    let cache = Cache::new(trust_domain());
    cache.apply(full(&[&entry("web", &["unix:uid:7", "docker:label:a:b"])]));
    let completed_by = |found: &[&str], kind: &str| {
        cache.can_be_completed(&selectors(found), |selector| selector.kind() == kind)
    };

    assert!(completed_by(&["unix:uid:7"], "docker"));
    assert!(!completed_by(&["unix:uid:8"], "docker"));
    assert!(!completed_by(&["unix:uid:7"], "k8s"));
    assert!(!completed_by(&["unix:uid:7", "docker:label:a:b"], "docker"));
}

#[test]
fn tainted_svids_are_signed_anew_and_served_until_then() {
    let cache = Cache::new(trust_domain());
    cache.apply(full(&[&entry("web", &["unix:uid:0"])]));
    sign_all(&cache);

    assert_eq!(cache.taint(&[entry("web", &[]).id.clone()]), 1);
    assert_eq!(cache.counts().x509_svids, 1);
    assert_eq!(sign_all(&cache), ["web"]);
    assert!(cache.take_work(at(0), 500).is_empty());
}
