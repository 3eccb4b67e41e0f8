use std::time::{SystemTime, UNIX_EPOCH};

use finial_datastore::sqlite::{self, SqliteOptions};
use finial_pki::x509::verify_svid;
use finial_plugin::fakes::FakeKeyManager;
use finial_runtime::clock::{Clock as _, ManualClock};
use spiffe_types::bundle::Bundle;
use spiffe_types::id::SpiffeId;

use super::journal::{Entries, Status};
use super::rotator::SubStep;
use super::slot::SlotState;
use super::*;

const DAY: Duration = Duration::from_hours(24);

fn start() -> SystemTime {
    UNIX_EPOCH + Duration::from_secs(1_795_355_011)
}

/// What outlives a process: the store and the keys. The clock goes on too.
struct World {
    store: Arc<dyn DataStore>,
    keys: Arc<FakeKeyManager>,
    clock: ManualClock,
}

impl World {
    async fn new() -> Self {
        Self {
            store: sqlite::open(":memory:", &SqliteOptions::default())
                .await
                .unwrap(),
            keys: Arc::new(FakeKeyManager::default()),
            clock: ManualClock::new(start()),
        }
    }

    fn config() -> CaConfig {
        CaConfig {
            trust_domain: TrustDomain::parse("example.org").unwrap(),
            key_kind: KeyKind::EcP256,
            subject: SubjectName::ca_default(),
            ca_ttl: DAY,
            x509_svid_ttl: Duration::from_hours(1),
            agent_ttl: None,
        }
    }

    /// Starts a server's authority, as after a restart.
    async fn boot(&self) -> Arc<Ca> {
        Ca::build(
            Self::config(),
            Arc::clone(&self.keys) as Arc<dyn KeyManager>,
            Arc::clone(&self.store),
            Arc::new(self.clock.clone()),
        )
        .await
        .unwrap()
    }

    /// Loads the state without rotating.
    async fn load(&self) -> rotator::Rotator {
        let (active, _) = watch::channel(None);
        rotator::Rotator::load(
            Self::config(),
            Arc::clone(&self.keys) as Arc<dyn KeyManager>,
            Arc::clone(&self.store),
            Arc::new(self.clock.clone()),
            active,
        )
        .await
        .unwrap()
    }

    async fn bundle(&self) -> Bundle {
        self.store
            .find_bundle(&Self::config().trust_domain)
            .await
            .unwrap()
            .unwrap()
    }

    async fn journal(&self) -> Entries {
        let journals = self.store.list_journals().await.unwrap();
        assert_eq!(journals.len(), 1);
        prost::Message::decode(journals.first().unwrap().data.clone()).unwrap()
    }

    /// What must hold at any time: an SVID can be signed, whoever has the bundle believes it, and the journal says that its
    /// signer, and no other, is active.
    async fn check(&self, ca: &Ca) {
        let key = SoftwareKey::generate(KeyKind::EcP256).unwrap();
        let id = SpiffeId::parse("spiffe://example.org/spire/agent/x").unwrap();
        let svid = ca
            .issuer()
            .sign_agent_svid(&id, key.public_key())
            .await
            .unwrap();
        verify_svid(svid.chain(), &self.bundle().await, self.clock.now()).unwrap();
        let signer = svid.authority_key_id().unwrap();
        let journal = self.journal().await;
        let active = journal
            .x509_cas
            .iter()
            .filter(|entry| entry.status == Status::Active as i32);
        let active = active
            .map(|entry| entry.authority_id.as_str())
            .collect::<Vec<_>>();
        assert_eq!(active, [signer.as_str()]);
    }
}

#[tokio::test]
async fn a_first_start_publishes_journals_and_signs() {
    let world = World::new().await;
    let ca = world.boot().await;
    world.check(&ca).await;
    assert_eq!(world.bundle().await.x509_authorities.len(), 1);
    let journal = world.journal().await;
    assert_eq!(journal.x509_cas.len(), 1);
    assert_eq!(journal.x509_cas[0].slot_id, "A");
    assert_eq!(journal.x509_cas[0].upstream_authority_id, "");
    ca.check_health().await.unwrap();
}

#[tokio::test]
async fn a_restart_goes_on_with_the_same_authority() {
    let world = World::new().await;
    let before = world.boot().await.issuer().authority_id();
    world.clock.advance(Duration::from_hours(1));
    let ca = world.boot().await;
    assert_eq!(ca.issuer().authority_id(), before);
    assert_eq!(world.bundle().await.x509_authorities.len(), 1);
    world.check(&ca).await;
}

#[tokio::test]
async fn a_restart_keeps_the_prepared_authority_for_its_turn() {
    let world = World::new().await;
    let first = world.boot().await;
    world.clock.advance(Duration::from_hours(13));
    first.rotate().await.unwrap();
    let prepared = first.x509_authorities().await.unwrap().prepared.unwrap();
    assert_ne!(first.issuer().authority_id().unwrap(), prepared.id);

    world.clock.advance(Duration::from_hours(8));
    let ca = world.boot().await;
    assert_eq!(ca.issuer().authority_id(), Some(prepared.id));
    world.check(&ca).await;
}

#[tokio::test]
async fn lost_keys_mean_a_new_authority_and_a_new_journal() {
    let mut world = World::new().await;
    let before = world.boot().await.issuer().authority_id();
    world.keys = Arc::new(FakeKeyManager::default());
    let ca = world.boot().await;
    assert_ne!(ca.issuer().authority_id(), before);
    assert_eq!(
        world.bundle().await.x509_authorities.len(),
        2,
        "what the old one signed stays good"
    );
    assert_eq!(world.store.list_journals().await.unwrap().len(), 2);
}

#[tokio::test]
async fn an_authority_that_left_the_bundle_does_not_sign_after_a_restart() {
    let world = World::new().await;
    let before = world.boot().await.issuer().authority_id();
    world
        .store
        .set_bundle(Bundle::empty(World::config().trust_domain))
        .await
        .unwrap();
    let ca = world.boot().await;
    assert_ne!(ca.issuer().authority_id(), before);
    world.check(&ca).await;
}

#[tokio::test]
async fn an_active_authority_that_left_the_bundle_is_published_again() {
    let world = World::new().await;
    let ca = world.boot().await;
    world
        .store
        .set_bundle(Bundle::empty(World::config().trust_domain))
        .await
        .unwrap();
    ca.rotate().await.unwrap();
    world.check(&ca).await;
}

#[tokio::test]
async fn over_a_week_of_ticks_rotation_never_leaves_a_gap() {
    let world = World::new().await;
    let ca = world.boot().await;
    let mut signers = BTreeSet::new();
    for _ in 0..7 * 24 {
        world.clock.advance(Duration::from_hours(1));
        ca.rotate().await.unwrap();
        ca.prune_bundle().await;
        world.check(&ca).await;
        signers.insert(ca.issuer().authority_id().unwrap());
    }
    assert!(
        (13..=15).contains(&signers.len()),
        "a new authority every 12 hours: {}",
        signers.len()
    );
    assert!(
        world.bundle().await.x509_authorities.len() <= 5,
        "expired ones are pruned"
    );
    assert_eq!(world.journal().await.x509_cas.len(), signers.len().min(10));
}

#[tokio::test]
async fn a_crash_between_any_two_sub_steps_heals() {
    let sub_steps = [
        SubStep::KeyGenerated,
        SubStep::Signed,
        SubStep::Published,
        SubStep::JournaledPrepared,
        SubStep::JournaledActive,
    ];
    // The very first authority, the preparation of the next, and the change to it.
    for age in [
        None,
        Some(Duration::from_hours(12)),
        Some(Duration::from_hours(20)),
        Some(Duration::from_hours(30)),
    ] {
        for sub_step in sub_steps {
            let world = World::new().await;
            if let Some(age) = age {
                world.boot().await;
                world.clock.advance(age);
            }
            let mut crashing = world.load().await;
            crashing.crash_after = Some(sub_step);
            let crashed = crashing.rotate().await.is_err();
            let expected =
                age != Some(Duration::from_hours(12)) || sub_step != SubStep::JournaledActive;
            assert_eq!(crashed, expected, "{age:?} {sub_step:?}");
            drop(crashing);

            let ca = world.boot().await;
            world.check(&ca).await;
            world.clock.advance(Duration::from_hours(21));
            ca.rotate().await.unwrap();
            world.check(&ca).await;
        }
    }
}

#[tokio::test]
async fn a_crash_that_is_not_followed_by_a_restart_heals_too() {
    let world = World::new().await;
    let ca = world.boot().await;
    world.clock.advance(Duration::from_hours(20));
    for sub_step in [
        SubStep::KeyGenerated,
        SubStep::Published,
        SubStep::JournaledPrepared,
        SubStep::JournaledActive,
    ] {
        ca.rotator.lock().await.crash_after = Some(sub_step);
        assert!(ca.rotate().await.is_err());
        let key = SoftwareKey::generate(KeyKind::EcP256).unwrap();
        let svid = ca
            .issuer()
            .sign_server_svid(key.public_key())
            .await
            .unwrap();
        verify_svid(svid.chain(), &world.bundle().await, world.clock.now()).unwrap();
    }
    ca.rotator.lock().await.crash_after = None;
    ca.rotate().await.unwrap();
    world.check(&ca).await;
}

#[tokio::test]
async fn a_key_manager_that_fails_leaves_the_old_authority_signing() {
    let world = World::new().await;
    let ca = world.boot().await;
    let before = ca.issuer().authority_id();
    world.clock.advance(Duration::from_hours(13));
    for _ in 0..=MAX_FAILURES {
        world
            .keys
            .fail_next(finial_plugin::error::PluginError::unavailable("away"));
        assert!(ca.rotate().await.is_err());
    }
    assert_eq!(ca.issuer().authority_id(), before);
    world.check(&ca).await;
    assert!(matches!(
        ca.check_health().await,
        Err(CaError::Rotations { .. })
    ));
    ca.rotate().await.unwrap();
    ca.check_health().await.unwrap();
}

#[tokio::test]
async fn an_svid_ends_with_its_signer_at_the_latest() {
    let world = World::new().await;
    let ca = world.boot().await;
    world.clock.advance(Duration::from_mins(23 * 60 + 30)); // nobody has rotated
    let key = SoftwareKey::generate(KeyKind::EcP256).unwrap();
    let svid = ca
        .issuer()
        .sign_server_svid(key.public_key())
        .await
        .unwrap();
    assert_eq!(svid.not_after(), start() + DAY);
    world.clock.advance(Duration::from_hours(1));
    let error = ca
        .issuer()
        .sign_server_svid(key.public_key())
        .await
        .unwrap_err();
    assert!(matches!(error, IssueError::AuthorityExpired));
}

#[tokio::test]
async fn an_operator_prepares_activates_taints_and_revokes() {
    let world = World::new().await;
    let ca = world.boot().await;
    let first = ca.x509_authorities().await.unwrap().active;
    let second = ca.prepare_x509_authority().await.unwrap();
    let text = |error: LocalAuthorityError| error.to_string();
    assert_eq!(
        text(ca.activate_x509_authority("").await.unwrap_err()),
        "no authority ID provided"
    );
    assert_eq!(
        text(ca.activate_x509_authority("ab").await.unwrap_err()),
        "unexpected authority ID"
    );
    assert!(matches!(
        ca.taint_x509_authority(second.id.as_str()).await,
        Err(LocalAuthorityError::TaintNotOld { status: "PREPARED" })
    ));
    let mut rotations = ca.watch_rotation();
    rotations.mark_unchanged();
    assert_eq!(
        ca.activate_x509_authority(second.id.as_str())
            .await
            .unwrap(),
        second
    );
    assert!(rotations.has_changed().unwrap());
    world.check(&ca).await;

    assert!(matches!(
        ca.taint_x509_authority(second.id.as_str()).await,
        Err(LocalAuthorityError::TaintActive)
    ));
    assert!(
        ca.revoke_x509_authority(first.id.as_str()).await.is_err(),
        "not tainted yet"
    );
    ca.taint_x509_authority(first.id.as_str()).await.unwrap();
    assert!(!ca.is_trusted(&first.id) && ca.is_trusted(&second.id));
    ca.revoke_x509_authority(first.id.as_str()).await.unwrap();
    assert!(!world.bundle().await.has_x509(&first.id));
    world.check(&ca).await;
}

#[tokio::test]
async fn preparing_by_hand_replaces_what_was_prepared() {
    let world = World::new().await;
    let ca = world.boot().await;
    let one = ca.prepare_x509_authority().await.unwrap();
    let two = ca.prepare_x509_authority().await.unwrap();
    assert_ne!(one.id, two.id);
    let ca = world.boot().await;
    assert_eq!(
        ca.x509_authorities().await.unwrap().prepared.unwrap().id,
        two.id
    );
    let states = ca
        .rotator
        .lock()
        .await
        .slots
        .iter()
        .map(|authority| authority.state)
        .collect::<Vec<_>>();
    assert!(states.contains(&SlotState::Active) && states.contains(&SlotState::Prepared));
}

#[tokio::test]
async fn journals_of_servers_long_gone_are_pruned_but_not_the_own() {
    let mut world = World::new().await;
    world.boot().await;
    world.keys = Arc::new(FakeKeyManager::default());
    world.clock.advance(Duration::from_hours(24 * 10));
    let ca = world.boot().await;
    ca.prune_journals().await;
    assert_eq!(
        world.store.list_journals().await.unwrap().len(),
        2,
        "too young to go"
    );
    world.clock.advance(Duration::from_hours(24 * 6));
    ca.rotate().await.unwrap();
    ca.prune_journals().await;
    assert_eq!(world.store.list_journals().await.unwrap().len(), 1);
    let restarted = world.boot().await;
    world.check(&restarted).await;
}

#[tokio::test]
async fn two_servers_on_one_store_each_keep_their_own() {
    let mut world = World::new().await;
    let one_keys = Arc::clone(&world.keys);
    let one = world.boot().await.issuer().authority_id();
    world.keys = Arc::new(FakeKeyManager::default());
    let two = world.boot().await.issuer().authority_id();
    assert_ne!(one, two);
    assert_eq!(world.boot().await.issuer().authority_id(), two);
    world.keys = one_keys;
    assert_eq!(world.boot().await.issuer().authority_id(), one);
}
