use std::time::{Duration, SystemTime, UNIX_EPOCH};

use finial_datastore::Created;
use finial_datastore::sqlite::{self, SqliteOptions};
use spiffe_types::agent::SerialNumber;
use spiffe_types::entry::{EntryPatch, NewEntry};
use spiffe_types::selector::SelectorSet;
use tokio_util::sync::CancellationToken;

use super::*;

#[tokio::test]
async fn an_agent_sees_what_is_below_it_and_nothing_else() {
    let world = World::new().await;
    let direct = world.create("/web", "/spire/agent/x/1", &["u:1"]).await;
    let nested = world.create("/web/child", "/web", &["u:2"]).await;
    let loops = world.create("/web", "/web/child", &["u:3"]).await;
    world.create("/other", "/spire/agent/x/2", &["u:1"]).await;

    world.sees("/spire/agent/x/1", &[&direct, &nested, &loops]);
    world.sees("/spire/agent/x/3", &[]);
}

#[tokio::test]
async fn an_alias_widens_what_its_nodes_see_but_is_never_seen() {
    let world = World::new().await;
    world
        .attest("/spire/agent/x/1", &["x:zone:a", "x:rack:7"])
        .await;
    world.attest("/spire/agent/x/2", &["x:zone:a"]).await;
    let alias = world
        .create("/nodes", "/spire/server", &["x:zone:a", "x:rack:7"])
        .await;
    let below = world.create("/web", "/nodes", &["u:1"]).await;

    world.sees("/spire/agent/x/1", &[&below]);
    world.sees("/spire/agent/x/2", &[]);
    let caller = id("/spire/agent/x/1");
    assert_eq!(world.registry.lookup(&caller, &alias.id), None);
    world
        .attest("/spire/agent/x/2", &["x:zone:a", "x:rack:7"])
        .await;
    world.sees("/spire/agent/x/2", &[&below]);
    world.attest("/spire/agent/x/1", &["x:zone:b"]).await;
    world.sees("/spire/agent/x/1", &[]);
    world.store.delete_entry(&alias.id).await.unwrap();
    world.registry.catch_up().await.unwrap();
    world.sees("/spire/agent/x/2", &[]);
}

#[tokio::test]
async fn a_moved_entry_leaves_its_old_parent() {
    let world = World::new().await;
    let entry = world.create("/web", "/spire/agent/x/1", &["u:1"]).await;
    let patch = EntryPatch {
        parent_id: Some(id("/spire/agent/x/2")),
        ..EntryPatch::default()
    };

    let moved = world
        .store
        .update_entry(&entry.id, patch, now())
        .await
        .unwrap();
    world.registry.catch_up().await.unwrap();

    world.sees("/spire/agent/x/1", &[]);
    world.sees("/spire/agent/x/2", &[&moved]);
}

#[tokio::test]
async fn a_change_wakes_the_agents_it_concerns_and_no_others() {
    let world = World::new().await;
    for path in ["/spire/agent/x/1", "/spire/agent/x/2", "/spire/agent/x/3"] {
        world.attest(path, &["x:zone:a"]).await;
    }
    let feed = |path| world.registry.follow(&id(path));
    let mut one = feed("/spire/agent/x/1");
    let (two, three) = (feed("/spire/agent/x/2"), feed("/spire/agent/x/3"));

    let parent = world.create("/web", "/spire/agent/x/1", &["u:1"]).await;
    assert_eq!(
        [one.is_due(), two.is_due(), three.is_due()],
        [true, false, false]
    );
    one.changed().await;
    world.create("/child", "/web", &["u:1"]).await;
    assert_eq!(
        [one.is_due(), two.is_due(), three.is_due()],
        [true, false, false]
    );
    one.changed().await;
    let patch = EntryPatch {
        parent_id: Some(id("/spire/agent/x/2")),
        ..EntryPatch::default()
    };
    world
        .store
        .update_entry(&parent.id, patch, now())
        .await
        .unwrap();
    world.registry.catch_up().await.unwrap();
    assert_eq!(
        [one.is_due(), two.is_due(), three.is_due()],
        [true, true, false]
    );
    one.changed().await;
    world.create("/nodes", "/spire/server", &["x:zone:a"]).await;
    assert!(one.is_due() && three.is_due());
}

#[tokio::test]
async fn a_banned_agent_is_refused_a_view_and_a_deleted_one_is_unknown() {
    let world = World::new().await;
    world.attest("/spire/agent/x/1", &[]).await;
    let agent = id("/spire/agent/x/1");
    let feed = world.registry.follow(&agent);
    assert!(world.registry.view(&agent).is_ok());

    world.store.ban_agent(&agent).await.unwrap();
    world.registry.catch_up().await.unwrap();

    assert!(feed.is_due());
    assert!(world.registry.agent(&agent).unwrap().is_banned());
    assert_eq!(world.registry.view(&agent), Err(Refusal::Banned));
    world.store.delete_agent(&agent).await.unwrap();
    world.registry.catch_up().await.unwrap();
    assert_eq!(world.registry.view(&agent), Err(Refusal::NotAttested));
}

#[tokio::test]
async fn progress_counts_only_what_concerns_the_agent() {
    let world = World::new().await;
    world.attest("/spire/agent/x/1", &[]).await;
    let agent = id("/spire/agent/x/1");
    assert_eq!(world.registry.progress(&agent), None);
    let feed = world.registry.follow(&agent);
    feed.applied(world.registry.revision());
    let before = world.registry.revision();

    world.create("/other", "/spire/agent/x/2", &["u:1"]).await;
    assert!(
        world
            .registry
            .progress(&agent)
            .unwrap()
            .holds(world.registry.revision())
    );
    world.create("/web", "/spire/agent/x/1", &["u:1"]).await;
    let reached = world.registry.revision();
    let progress = world.registry.progress(&agent).unwrap();
    assert_eq!((progress.due, progress.applied), (reached, before));
    assert!(!progress.holds(reached) && progress.holds(before));
    feed.applied(reached);
    assert!(world.registry.progress(&agent).unwrap().holds(reached));
    drop(feed);
    assert_eq!(world.registry.progress(&agent), None);
}

#[tokio::test]
async fn a_registry_that_fell_behind_the_log_reloads() {
    let world = World::new().await;
    world.attest("/spire/agent/x/1", &[]).await;
    let feed = world.registry.follow(&id("/spire/agent/x/1"));
    let new = new_entry("/web", "/spire/agent/x/1", &["u:1"]);
    let created = world.store.create_entries(vec![new], now()).await.unwrap();
    let Ok(Created::New(entry)) = &created[0] else {
        panic!("{created:?}")
    };
    world.store.prune_changes(0).await.unwrap();

    world.registry.catch_up().await.unwrap();

    assert!(feed.is_due());
    world.sees("/spire/agent/x/1", &[entry]);
    assert_eq!(
        world.registry.revision(),
        world.store.latest_revision().await.unwrap()
    );
}

#[tokio::test]
async fn the_tail_sees_a_commit_without_being_asked() {
    let world = World::new().await;
    let stop = CancellationToken::new();
    let mut revisions = world.registry.subscribe();
    let new = new_entry("/web", "/spire/agent/x/1", &["u:1"]);

    let tail = world.registry.run(stop.clone());
    let test = async {
        world.store.create_entries(vec![new], now()).await.unwrap();
        revisions.changed().await.unwrap();
        stop.cancel();
    };
    let (outcome, ()) = tokio::join!(tail, test);

    outcome.unwrap();
    assert_eq!(world.registry.authorized(&id("/spire/agent/x/1")).len(), 1);
}

#[tokio::test]
async fn a_view_holds_the_bundles_its_entries_federate_with() {
    let world = World::new().await;
    world.attest("/spire/agent/x/1", &[]).await;
    for name in ["example.org", "a.org", "b.org"] {
        let bundle = Bundle::empty(TrustDomain::parse(name).unwrap());
        world.store.create_bundle(bundle).await.unwrap();
    }
    let mut new = new_entry("/web", "/spire/agent/x/1", &["u:1"]);
    new.federates_with = vec![TrustDomain::parse("a.org").unwrap()];
    world.store.create_entries(vec![new], now()).await.unwrap();
    world.registry.catch_up().await.unwrap();

    let view = world.registry.view(&id("/spire/agent/x/1")).unwrap();

    let federated: Vec<_> = view.federated.keys().map(TrustDomain::as_str).collect();
    assert_eq!(federated, ["a.org"]);
    assert_eq!(
        view.bundle.unwrap().bundle.trust_domain.as_str(),
        "example.org"
    );
    assert_eq!(view.revision, world.registry.revision());
}

#[tokio::test]
#[ignore = "a measurement, not a test"]
async fn a_hundred_thousand_entries_of_a_thousand_agents() {
    let world = World::new().await;
    for number in 0..1_000 {
        world
            .attest(&format!("/spire/agent/x/{number}"), &["x:zone:a"])
            .await;
    }
    let rss = || std::fs::read_to_string("/proc/self/statm").unwrap();
    for batch in 0..200 {
        let entries = (0..500).map(|n| {
            let number = batch * 500 + n;
            let parent = format!("/spire/agent/x/{}", number % 1_000);
            new_entry(&format!("/workload/{number}"), &parent, &["u:1", "g:2"])
        });
        world
            .store
            .create_entries(entries.collect(), now())
            .await
            .unwrap();
    }
    println!("statm before {}", rss());
    let began = tokio::time::Instant::now();
    let registry = Registry::load(Arc::clone(&world.store)).await.unwrap();
    println!("loaded in {:?}, statm {}", began.elapsed(), rss());
    let caller = id("/spire/agent/x/7");
    let ids: Vec<_> = registry
        .authorized(&caller)
        .iter()
        .map(|entry| entry.id.clone())
        .collect();
    let began = tokio::time::Instant::now();
    for _ in 0..1_000 {
        for id in &ids {
            assert!(registry.lookup(&caller, id).is_some());
        }
    }
    println!("lookup {:?}", began.elapsed() / 100_000);
    let began = tokio::time::Instant::now();
    for _ in 0..1_000 {
        assert_eq!(registry.view(&caller).unwrap().entries.len(), 100);
    }
    println!("view of 100 {:?}", began.elapsed() / 1_000);
    let new = new_entry("/one-more", "/spire/agent/x/7", &["u:1"]);
    world.store.create_entries(vec![new], now()).await.unwrap();
    let began = tokio::time::Instant::now();
    registry.catch_up().await.unwrap();
    println!("one change applied in {:?}", began.elapsed());
}

struct World {
    store: Arc<dyn DataStore>,
    registry: Arc<Registry>,
}

impl World {
    async fn new() -> Self {
        let store = sqlite::open(":memory:", &SqliteOptions::default())
            .await
            .unwrap();
        let registry = Registry::load(Arc::clone(&store)).await.unwrap();
        Self { store, registry }
    }

    async fn create(&self, path: &str, parent: &str, of: &[&str]) -> Entry {
        let new = new_entry(path, parent, of);
        let mut created = self.store.create_entries(vec![new], now()).await.unwrap();
        self.registry.catch_up().await.unwrap();
        match created.remove(0).unwrap() {
            Created::New(entry) => entry,
            Created::Existing(entry) => panic!("{} exists", entry.id),
        }
    }

    async fn attest(&self, path: &str, of: &[&str]) {
        let agent = AttestedAgent {
            id: id(path),
            attestation_type: "x".to_owned(),
            serial: Some(SerialNumber::from_be_bytes(&[1])),
            expires_at: now(),
            new_serial: None,
            new_expires_at: None,
            can_reattest: true,
            selectors: selectors(of),
            agent_version: String::new(),
        };
        self.store.record_attestation(agent).await.unwrap();
        self.registry.catch_up().await.unwrap();
    }

    /// Walking down and walking up must say the same.
    #[track_caller]
    fn sees(&self, caller: &str, expected: &[&Entry]) {
        let caller = id(caller);
        let mut expected: Vec<_> = expected.iter().map(|entry| (*entry).clone()).collect();
        expected.sort_by(|one, other| one.id.cmp(&other.id));
        let seen: Vec<_> = self
            .registry
            .authorized(&caller)
            .iter()
            .map(|entry| (**entry).clone())
            .collect();
        assert_eq!(seen, expected);
        let everything = self.registry.read(|index| {
            let agents = [
                "/spire/agent/x/1",
                "/spire/agent/x/2",
                "/web",
                "/web/child",
                "/nodes",
            ];
            agents
                .iter()
                .flat_map(|path| index.with_parent(&id(path)).cloned().collect::<Vec<_>>())
                .collect::<Vec<_>>()
        });
        for entry in everything {
            let found = self.registry.lookup(&caller, &entry.id).is_some();
            assert_eq!(found, expected.contains(&entry), "{}", entry.spiffe_id);
        }
    }
}

fn now() -> SystemTime {
    UNIX_EPOCH + Duration::from_hours(500_000)
}

fn id(path: &str) -> SpiffeId {
    SpiffeId::parse(&format!("spiffe://example.org{path}")).unwrap()
}

fn selectors(of: &[&str]) -> SelectorSet {
    of.iter().map(|text| text.parse().unwrap()).collect()
}

fn new_entry(path: &str, parent: &str, of: &[&str]) -> NewEntry {
    NewEntry::new(id(path), id(parent), selectors(of))
}
