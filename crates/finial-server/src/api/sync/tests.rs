use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::{SystemTime, UNIX_EPOCH};

use finial_datastore::sqlite::{self, SqliteOptions};
use finial_datastore::{Created, DataStore};
use finial_pki::tls::PeerSvid;
use finial_proto::convert::denied;
use finial_proto::pb::finial::sync::v1::Applied;
use finial_proto::pb::finial::sync::v1::sync_client::SyncClient;
use finial_proto::pb::finial::sync::v1::sync_server::SyncServer;
use finial_proto::pb::spire::api::types::permission_denied_details::Reason;
use hyper_util::rt::TokioIo;
use prost::Message as _;
use spiffe_types::agent::{AttestedAgent, SerialNumber};
use spiffe_types::bundle::{Bundle, JwtAuthority};
use spiffe_types::entry::{Entry, NewEntry};
use spiffe_types::id::TrustDomain;
use spiffe_types::selector::SelectorSet;
use tokio::io::DuplexStream;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tonic::Code;
use tonic::transport::{Channel, Endpoint, Server};
use uuid::Uuid;

use super::*;
use crate::api::audit::AuditTrail;
use crate::api::limits::{LimitSwitches, Limits};
use crate::authorize::caller::{Caller, TlsPeer};
use crate::authorize::{Authorized, Role, Via, table};

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

/// A server of the one service, in memory, that believes every caller to be the same agent.
struct World {
    store: Arc<dyn DataStore>,
    registry: Arc<Registry>,
    channel: Channel,
    _server: JoinSet<()>,
}

/// An agent's end of a stream, and what it holds.
struct Agent {
    requests: mpsc::Sender<FollowRequest>,
    responses: Streaming<FollowResponse>,
    held: BTreeMap<String, (u64, i64)>,
    revision: u64,
}

impl World {
    async fn new() -> Self {
        let store = sqlite::open(":memory:", &SqliteOptions::default())
            .await
            .unwrap();
        let registry = Registry::load(Arc::clone(&store)).await.unwrap();
        let service = SyncServer::new(SyncService::new(Arc::clone(&registry)));
        let mut server = JoinSet::new();
        let channel = serve(&mut server, service).await;
        let world = Self {
            store,
            registry,
            channel,
            _server: server,
        };
        let attested = AttestedAgent {
            id: agent_id(),
            attestation_type: "x".to_owned(),
            serial: Some(serial()),
            expires_at: now(),
            new_serial: None,
            new_expires_at: None,
            can_reattest: true,
            selectors: SelectorSet::default(),
            agent_version: String::new(),
        };
        world.store.record_attestation(attested).await.unwrap();
        world.set_bundle("example.org", &["a"]).await;
        world
    }

    async fn create(&self, path: &str) -> Entry {
        self.create_below(path, "/spire/agent/x/1").await
    }

    async fn create_below(&self, path: &str, parent: &str) -> Entry {
        self.create_all(vec![new_entry(path, parent)])
            .await
            .remove(0)
    }

    async fn create_all(&self, entries: Vec<NewEntry>) -> Vec<Entry> {
        let created = self.store.create_entries(entries, now()).await.unwrap();
        self.registry.catch_up().await.unwrap();
        created
            .into_iter()
            .map(|created| match created.unwrap() {
                Created::New(entry) | Created::Existing(entry) => entry,
            })
            .collect()
    }

    async fn set_bundle(&self, name: &str, keys: &[&str]) {
        let mut bundle = Bundle::empty(TrustDomain::parse(name).unwrap());
        bundle.jwt_authorities = keys
            .iter()
            .map(|key| JwtAuthority {
                key_id: (*key).to_owned(),
                public_key: "key".into(),
                expires_at: None,
                tainted: false,
            })
            .collect();
        self.store.set_bundle(bundle).await.unwrap();
        self.registry.catch_up().await.unwrap();
    }

    async fn open(&self, open: Open) -> Agent {
        self.start(RequestStep::Open(open)).await
    }

    async fn open_holding(&self, open: Open, entries: &[&Entry]) -> Agent {
        let mut agent = self.open(open).await;
        for entry in entries {
            let created_at = finial_proto::convert::time::to_unix(entry.created_at);
            let held = (entry.revision_number, created_at);
            agent.held.insert(entry.id.to_string(), held);
        }
        agent
    }

    async fn start(&self, step: RequestStep) -> Agent {
        let (requests, receiver) = mpsc::channel(8);
        requests
            .send(FollowRequest { step: Some(step) })
            .await
            .unwrap();
        let mut client =
            SyncClient::new(self.channel.clone()).max_decoding_message_size(usize::MAX);
        let responses = client.follow(ReceiverStream::new(receiver)).await.unwrap();
        Agent {
            requests,
            responses: responses.into_inner(),
            held: BTreeMap::new(),
            revision: 0,
        }
    }

    /// Waits until the server has noticed that the agent has gone.
    async fn parted(&self) {
        self.until(|world| applied(world).is_none()).await;
    }

    async fn until(&self, condition: impl Fn(&Self) -> bool + Send + Sync) {
        let wait = async {
            while !condition(self) {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        };
        tokio::time::timeout(Duration::from_secs(10), wait)
            .await
            .expect("it happens in time");
    }
}

impl Agent {
    /// Reads the messages of one step and applies them.
    async fn step(&mut self) -> Vec<FollowResponse> {
        let mut parts = Vec::new();
        loop {
            let part = self.responses.message().await.unwrap().unwrap();
            if part.full {
                self.held.clear();
            }
            for id in &part.removed_entry_ids {
                self.held.remove(id);
            }
            for entry in &part.entries {
                let revision = u64::try_from(entry.revision_number).unwrap();
                self.held
                    .insert(entry.id.clone(), (revision, entry.created_at));
            }
            let more = part.more;
            if !more {
                self.revision = part.revision;
            }
            parts.push(part);
            if !more {
                return parts;
            }
        }
    }

    /// Reads until the server ends the stream, and returns why.
    async fn end(&mut self) -> Status {
        loop {
            match self.responses.message().await {
                Ok(Some(_)) => {}
                Ok(None) => panic!("the stream ended without a status"),
                Err(status) => return status,
            }
        }
    }

    async fn applied(&self, revision: u64) {
        self.send(RequestStep::Applied(Applied { revision })).await;
    }

    async fn send(&self, step: RequestStep) {
        let request = FollowRequest { step: Some(step) };
        self.requests.send(request).await.unwrap();
    }

    fn ids(&self) -> Vec<&str> {
        self.held.keys().map(String::as_str).collect()
    }

    /// Ends the stream and returns how the agent would open the next.
    fn hang_up(self) -> Open {
        let mut hash = sha2::Sha256::default();
        for (id, (revision, created_at)) in &self.held {
            sha2::Digest::update(&mut hash, id);
            sha2::Digest::update(&mut hash, [0]);
            sha2::Digest::update(&mut hash, revision.to_be_bytes());
            sha2::Digest::update(&mut hash, created_at.to_be_bytes());
        }
        let digest = sha2::Digest::finalize(hash).to_vec();
        Open {
            revision: self.revision,
            digest: digest.into(),
            agent_version: String::new(),
        }
    }
}

async fn serve(tasks: &mut JoinSet<()>, service: SyncServer<SyncService>) -> Channel {
    let (client, server) = tokio::io::duplex(64 * 1024);
    let intercepted = tonic::service::interceptor::InterceptedService::new(service, identify);
    let incoming = tokio_stream::iter([Ok::<DuplexStream, std::io::Error>(server)]);
    tasks.spawn(async move {
        let served = Server::builder()
            .add_service(intercepted)
            .serve_with_incoming(incoming)
            .await;
        served.unwrap();
    });
    let mut client = Some(client);
    let connector = tower::service_fn(move |_: http::Uri| {
        let client = client.take();
        async move {
            client
                .map(TokioIo::new)
                .ok_or_else(|| std::io::Error::other("connected once already"))
        }
    });
    Endpoint::from_static("http://in.memory")
        .initial_stream_window_size(65_535) // so that a reader falls behind soon
        .connect_with_connector(connector)
        .await
        .unwrap()
}

#[expect(clippy::unnecessary_wraps, reason = "an interceptor's signature")]
fn identify(mut request: Request<()>) -> Result<Request<()>, Status> {
    let peer = TlsPeer {
        addr: SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 1),
        svid: Some(PeerSvid {
            id: agent_id(),
            serial: serial(),
            not_after: now(),
        }),
    };
    let call = Call::new(
        Caller::Tls(peer),
        Authorized {
            role: Role::Agent,
            via: Via::Datastore,
        },
        table::find("/finial.sync.v1.Sync/Follow").unwrap(),
        Uuid::nil(),
        Arc::new(Limits::new(LimitSwitches {
            attestation: false,
            signing: false,
        })),
        AuditTrail::new(false),
        CancellationToken::new(),
    );
    request.extensions_mut().insert(call);
    Ok(request)
}

fn applied(world: &World) -> Option<Revision> {
    let progress = world.registry.progress(&agent_id())?;
    Some(progress.applied)
}

fn sorted<'a>(entries: &[&'a Entry]) -> Vec<&'a str> {
    let mut ids: Vec<_> = entries.iter().map(|entry| entry.id.as_str()).collect();
    ids.sort_unstable();
    ids
}

fn now() -> SystemTime {
    UNIX_EPOCH + Duration::from_hours(500_000)
}

fn serial() -> SerialNumber {
    SerialNumber::from_be_bytes(&[1])
}

fn id(path: &str) -> SpiffeId {
    SpiffeId::parse(&format!("spiffe://example.org{path}")).unwrap()
}

fn agent_id() -> SpiffeId {
    id("/spire/agent/x/1")
}

fn new_entry(path: &str, parent: &str) -> NewEntry {
    let selectors = ["unix:uid:1".parse().unwrap()].into_iter().collect();
    NewEntry::new(id(path), id(parent), selectors)
}
