use finial_proto::convert::denied;
use finial_proto::pb::finial::sync::v1::Applied;
use finial_proto::pb::spire::api::types::permission_denied_details::Reason;
use prost::Message as _;
use spiffe_types::agent::SerialNumber;
use spiffe_types::id::TrustDomain;
use tonic::Code;

use super::*;
use world::{World, agent_id, applied, new_entry, now, serial, sorted};

mod world;

#[tokio::test]
async fn an_agent_that_holds_nothing_is_told_everything_and_then_what_changes() {
    let world = World::new().await;
    let first = world.create("/web").await;
    let mut agent = world.open(Open::default()).await;

    let all = agent.step().await;
    assert!(all[0].full);
    assert!(all[0].bundle.is_some());
    assert_eq!(all[0].revision, world.registry.revision().0);
    assert_eq!(agent.ids(), [first.id.as_str()]);

    let second = world.create("/db").await;
    let change = agent.step().await;
    assert!(!change[0].full && change[0].bundle.is_none());
    assert_eq!(change[0].entries.len(), 1);
    assert_eq!(agent.ids(), sorted(&[&first, &second]));

    world.store.delete_entry(&first.id).await.unwrap();
    world.registry.catch_up().await.unwrap();
    let removal = agent.step().await;
    assert_eq!(removal[0].removed_entry_ids, [first.id.as_str()]);
    assert_eq!(agent.revision, world.registry.revision().0);
}

#[tokio::test]
async fn an_agent_that_comes_back_unchanged_is_told_nothing_but_the_revision() {
    let world = World::new().await;
    world.create("/web").await;
    let mut agent = world.open(Open::default()).await;
    agent.step().await;
    let held = agent.hang_up();
    world.create_below("/other", "/spire/agent/x/2").await;

    let mut agent = world.open(held).await;

    let step = agent.step().await;
    let expected = FollowResponse {
        revision: world.registry.revision().0,
        heartbeat_interval_ms: 10_000,
        ..FollowResponse::default()
    };
    assert_eq!(step, [expected]);
}

#[tokio::test]
async fn an_agent_that_comes_back_is_told_the_difference() {
    let world = World::new().await;
    let kept = world.create("/kept").await;
    let gone = world.create("/gone").await;
    let mut agent = world.open(Open::default()).await;
    agent.step().await;
    let held = agent.hang_up();
    world.parted().await;
    world.store.delete_entry(&gone.id).await.unwrap();
    let new = world.create("/new").await;
    world.set_bundle("example.org", &["b"]).await;

    let mut agent = world.open_holding(held, &[&kept, &gone]).await;

    let step = agent.step().await;
    assert!(!step[0].full && step[0].bundle.is_some());
    assert_eq!(step[0].removed_entry_ids, [gone.id.as_str()]);
    assert_eq!(agent.ids(), sorted(&[&kept, &new]));
}

#[tokio::test]
async fn an_agent_that_holds_something_else_is_told_everything() {
    let world = World::new().await;
    let entry = world.create("/web").await;
    let open = Open {
        revision: world.registry.revision().0,
        digest: vec![1; 32].into(),
        agent_version: String::new(),
    };

    let mut agent = world.open(open).await;

    assert!(agent.step().await[0].full);
    assert_eq!(agent.ids(), [entry.id.as_str()]);
}

#[tokio::test]
async fn a_ban_and_an_eviction_end_the_stream_with_their_reason() {
    let world = World::new().await;
    let mut agent = world.open(Open::default()).await;
    agent.step().await;

    world.store.ban_agent(&agent_id()).await.unwrap();
    world.registry.catch_up().await.unwrap();
    let status = agent.end().await;
    assert_eq!(status.code(), Code::PermissionDenied);
    assert_eq!(denied::decode(&status), Some(Reason::AgentBanned));

    world.store.delete_agent(&agent_id()).await.unwrap();
    world.registry.catch_up().await.unwrap();
    let status = world.open(Open::default()).await.end().await;
    assert_eq!(denied::decode(&status), Some(Reason::AgentNotAttested));
}

#[tokio::test]
async fn a_stream_ends_when_its_agent_attests_again() {
    let world = World::new().await;
    let mut agent = world.open(Open::default()).await;
    agent.step().await;

    world.store.delete_agent(&agent_id()).await.unwrap();
    world.attest(SerialNumber::from_be_bytes(&[9])).await;
    let secret = world.create("/secret").await;
    let status = agent.end().await;

    assert_eq!(status.code(), Code::PermissionDenied);
    assert_eq!(denied::decode(&status), Some(Reason::AgentNotActive));
    assert!(!agent.ids().contains(&secret.id.as_str()));
}

#[tokio::test]
async fn a_stream_that_nobody_read_while_its_agent_attested_again_is_not_gone_on_with() {
    let world = World::new().await;
    let mut agent = world.open(Open::default()).await;
    agent.step().await;
    let batch = (0..12_000).map(|n| {
        let mut new = new_entry(&format!("/w{n}"), "/spire/agent/x/1");
        new.hint = "h".repeat(1_000);
        new
    });
    world.create_all(batch.collect()).await;
    // The step has begun, and the rest of it waits for a reader.
    agent.part().await;

    world.attest(SerialNumber::from_be_bytes(&[9])).await;
    let status = agent.end().await;

    assert_eq!(denied::decode(&status), Some(Reason::AgentNotActive));
    assert!(agent.held.len() < 8_000, "{}", agent.held.len());
}

#[tokio::test]
async fn a_stream_goes_on_while_its_agent_renews() {
    let world = World::new().await;
    let mut agent = world.open(Open::default()).await;
    agent.step().await;
    let renewed = SerialNumber::from_be_bytes(&[2]);
    world
        .store
        .record_renewal(&agent_id(), &serial(), &renewed, now())
        .await
        .unwrap();
    let entry = world.create("/web").await;
    while !agent.ids().contains(&entry.id.as_str()) {
        agent.step().await;
    }

    // The new one is used: the one before is over.
    world
        .store
        .promote_serial(&agent_id(), &renewed)
        .await
        .unwrap();
    world.registry.catch_up().await.unwrap();

    let status = agent.end().await;
    assert_eq!(denied::decode(&status), Some(Reason::AgentNotActive));
}

#[tokio::test]
async fn a_large_set_comes_in_parts_that_move_the_revision_at_the_end() {
    let world = World::new().await;
    let batch = (0..6_000).map(|n| {
        let mut new = new_entry(&format!("/w{n}"), "/spire/agent/x/1");
        new.hint = "h".repeat(1_000);
        new
    });
    world.create_all(batch.collect()).await;
    let mut agent = world.open(Open::default()).await;

    let parts = agent.step().await;

    assert!(parts.len() >= 6, "{}", parts.len());
    for part in &parts {
        assert!(part.encoded_len() < (1 << 20) + 2_000);
    }
    let full: Vec<_> = parts.iter().filter(|part| part.full).collect();
    assert_eq!((full.len(), parts[0].full, parts[0].revision), (1, true, 0));
    assert_eq!(agent.held.len(), 6_000);
    assert_eq!(agent.revision, world.registry.revision().0);
}

#[tokio::test]
async fn federated_bundles_come_and_go_with_the_entries_that_need_them() {
    let world = World::new().await;
    world.set_bundle("other.org", &["a"]).await;
    let mut agent = world.open(Open::default()).await;
    assert!(agent.step().await[0].federated_bundles.is_empty());

    let mut new = new_entry("/web", "/spire/agent/x/1");
    new.federates_with = vec![TrustDomain::parse("other.org").unwrap()];
    let entry = world.create_all(vec![new]).await.remove(0);
    let step = agent.step().await;
    assert_eq!(
        (step[0].entries.len(), step[0].federated_bundles.len()),
        (1, 1)
    );

    world.set_bundle("other.org", &["a", "b"]).await;
    let step = agent.step().await;
    assert_eq!(step[0].federated_bundles[0].jwt_authorities.len(), 2);
    assert!(step[0].entries.is_empty());

    world.store.delete_entry(&entry.id).await.unwrap();
    world.registry.catch_up().await.unwrap();
    assert_eq!(agent.step().await[0].removed_trust_domains, ["other.org"]);
}

#[tokio::test]
async fn what_the_agent_has_applied_is_noted_but_never_more_than_it_was_told() {
    let world = World::new().await;
    let mut agent = world.open(Open::default()).await;
    agent.step().await;
    let told = world.registry.revision();

    agent.applied(u64::MAX).await;

    world.until(|world| applied(world) == Some(told)).await;
    world.create("/web").await;
    agent.step().await;
    assert!(
        !world
            .registry
            .progress(&agent_id())
            .unwrap()
            .holds(world.registry.revision())
    );
    agent.applied(world.registry.revision().0).await;
    world
        .until(|world| applied(world) == Some(world.registry.revision()))
        .await;
    agent.hang_up();
    world.until(|world| applied(world).is_none()).await;
}

#[tokio::test]
async fn a_reader_that_falls_behind_is_told_the_newest_state() {
    let world = World::new().await;
    let mut agent = world.open(Open::default()).await;
    agent.step().await;
    for round in 0..50 {
        let batch = (0..20).map(|n| {
            let mut new = new_entry(&format!("/{round}/{n}"), "/spire/agent/x/1");
            new.hint = "h".repeat(1_000);
            new
        });
        world.create_all(batch.collect()).await;
    }

    let mut steps = 0;
    while agent.revision < world.registry.revision().0 {
        agent.step().await;
        steps += 1;
    }

    assert!(steps < 25, "{steps} steps for 50 changes");
    assert_eq!(agent.held.len(), 1_000);
}

#[tokio::test]
async fn a_quiet_stream_carries_heartbeats_that_move_the_revision() {
    let world = World::new().await;
    let mut agent = world.open(Open::default()).await;
    agent.step().await;
    world.create_below("/other", "/spire/agent/x/2").await;
    tokio::time::pause();

    let step = agent.step().await;

    let expected = FollowResponse {
        revision: world.registry.revision().0,
        heartbeat_interval_ms: 10_000,
        ..FollowResponse::default()
    };
    assert_eq!(step, [expected]);
}

#[tokio::test]
async fn the_first_message_must_open_the_stream_and_no_other_may() {
    let world = World::new().await;
    let step = RequestStep::Applied(Applied { revision: 1 });
    let status = world.start(step).await.end().await;
    assert_eq!(status.code(), Code::InvalidArgument);

    let mut agent = world.open(Open::default()).await;
    agent.step().await;
    agent.send(RequestStep::Open(Open::default())).await;
    assert_eq!(agent.end().await.code(), Code::InvalidArgument);
}
