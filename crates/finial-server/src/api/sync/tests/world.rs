//! A server of the one service, and agents that follow it.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::{SystemTime, UNIX_EPOCH};

use finial_datastore::sqlite::{self, SqliteOptions};
use finial_datastore::{Created, DataStore};
use finial_pki::tls::PeerSvid;
use finial_proto::pb::finial::sync::v1::Applied;
use finial_proto::pb::finial::sync::v1::sync_client::SyncClient;
use finial_proto::pb::finial::sync::v1::sync_server::SyncServer;
use finial_runtime::clock::ManualClock;
use hyper_util::rt::TokioIo;
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
use tonic::transport::{Channel, Endpoint, Server};
use uuid::Uuid;

use super::super::*;
use crate::api::audit::AuditTrail;
use crate::api::limits::{LimitSwitches, Limits};
use crate::authorize::caller::{Caller, TlsPeer};
use crate::authorize::{Authorized, Authorizer, Role, Via, table};

/// A server of the one service, in memory, that believes every caller to be the same agent.
pub(super) struct World {
    pub(super) store: Arc<dyn DataStore>,
    pub(super) registry: Arc<Registry>,
    channel: Channel,
    _server: JoinSet<()>,
}

/// An agent's end of a stream, and what it holds.
pub(super) struct Agent {
    requests: mpsc::Sender<FollowRequest>,
    responses: Streaming<FollowResponse>,
    pub(super) held: BTreeMap<String, (u64, i64)>,
    pub(super) revision: u64,
}

impl World {
    pub(super) async fn new() -> Self {
        let store = sqlite::open(":memory:", &SqliteOptions::default())
            .await
            .unwrap();
        let registry = Registry::load(Arc::clone(&store)).await.unwrap();
        let service = SyncServer::new(SyncService::new(Arc::clone(&registry)));
        let authorizer = Arc::new(Authorizer::new(
            TrustDomain::parse("example.org").unwrap(),
            [],
            Arc::clone(&registry),
            Arc::clone(&store),
            Arc::new(ManualClock::new(now())),
        ));
        let mut server = JoinSet::new();
        let channel = serve(&mut server, service, authorizer).await;
        let world = Self {
            store,
            registry,
            channel,
            _server: server,
        };
        world.attest(serial()).await;
        world.set_bundle("example.org", &["a"]).await;
        world
    }

    pub(super) async fn attest(&self, serial: SerialNumber) {
        let attested = AttestedAgent {
            id: agent_id(),
            attestation_type: "x".to_owned(),
            serial: Some(serial),
            expires_at: now(),
            new_serial: None,
            new_expires_at: None,
            can_reattest: true,
            selectors: SelectorSet::default(),
            agent_version: String::new(),
        };
        self.store.record_attestation(attested).await.unwrap();
        self.registry.catch_up().await.unwrap();
    }

    pub(super) async fn create(&self, path: &str) -> Entry {
        self.create_below(path, "/spire/agent/x/1").await
    }

    pub(super) async fn create_below(&self, path: &str, parent: &str) -> Entry {
        self.create_all(vec![new_entry(path, parent)])
            .await
            .remove(0)
    }

    pub(super) async fn create_all(&self, entries: Vec<NewEntry>) -> Vec<Entry> {
        let created = self.store.create_entries(entries, now()).await.unwrap();
        self.registry.catch_up().await.unwrap();
        created
            .into_iter()
            .map(|created| match created.unwrap() {
                Created::New(entry) | Created::Existing(entry) => entry,
            })
            .collect()
    }

    pub(super) async fn set_bundle(&self, name: &str, keys: &[&str]) {
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

    pub(super) async fn open(&self, open: Open) -> Agent {
        self.start(RequestStep::Open(open)).await
    }

    pub(super) async fn open_holding(&self, open: Open, entries: &[&Entry]) -> Agent {
        let mut agent = self.open(open).await;
        for entry in entries {
            let created_at = finial_proto::convert::time::to_unix(entry.created_at);
            let held = (entry.revision_number, created_at);
            agent.held.insert(entry.id.to_string(), held);
        }
        agent
    }

    pub(super) async fn start(&self, step: RequestStep) -> Agent {
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
    pub(super) async fn parted(&self) {
        self.until(|world| applied(world).is_none()).await;
    }

    pub(super) async fn until(&self, condition: impl Fn(&Self) -> bool + Send + Sync) {
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
    pub(super) async fn step(&mut self) -> Vec<FollowResponse> {
        let mut parts = Vec::new();
        loop {
            let part = self.part().await;
            let more = part.more;
            parts.push(part);
            if !more {
                return parts;
            }
        }
    }

    pub(super) async fn part(&mut self) -> FollowResponse {
        let part = self.responses.message().await.unwrap().unwrap();
        self.take(&part);
        part
    }

    pub(super) fn take(&mut self, part: &FollowResponse) {
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
        if !part.more {
            self.revision = part.revision;
        }
    }

    /// Reads until the server ends the stream, and returns why.
    pub(super) async fn end(&mut self) -> Status {
        loop {
            match self.responses.message().await {
                Ok(Some(part)) => self.take(&part),
                Ok(None) => panic!("the stream ended without a status"),
                Err(status) => return status,
            }
        }
    }

    pub(super) async fn applied(&self, revision: u64) {
        self.send(RequestStep::Applied(Applied { revision })).await;
    }

    pub(super) async fn send(&self, step: RequestStep) {
        let request = FollowRequest { step: Some(step) };
        self.requests.send(request).await.unwrap();
    }

    pub(super) fn ids(&self) -> Vec<&str> {
        self.held.keys().map(String::as_str).collect()
    }

    /// Ends the stream and returns how the agent would open the next.
    pub(super) fn hang_up(self) -> Open {
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

async fn serve(
    tasks: &mut JoinSet<()>,
    service: SyncServer<SyncService>,
    authorizer: Arc<Authorizer>,
) -> Channel {
    let (client, server) = tokio::io::duplex(64 * 1024);
    let identify = move |request| Ok(identify(request, &authorizer));
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

fn identify(mut request: Request<()>, authorizer: &Arc<Authorizer>) -> Request<()> {
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
    let call = call.judged_by(Arc::clone(authorizer));
    request.extensions_mut().insert(call);
    request
}

pub(super) fn applied(world: &World) -> Option<Revision> {
    let progress = world.registry.progress(&agent_id())?;
    Some(progress.applied)
}

pub(super) fn sorted<'a>(entries: &[&'a Entry]) -> Vec<&'a str> {
    let mut ids: Vec<_> = entries.iter().map(|entry| entry.id.as_str()).collect();
    ids.sort_unstable();
    ids
}

pub(super) fn now() -> SystemTime {
    UNIX_EPOCH + Duration::from_hours(500_000)
}

pub(super) fn serial() -> SerialNumber {
    SerialNumber::from_be_bytes(&[1])
}

fn id(path: &str) -> SpiffeId {
    SpiffeId::parse(&format!("spiffe://example.org{path}")).unwrap()
}

pub(super) fn agent_id() -> SpiffeId {
    id("/spire/agent/x/1")
}

pub(super) fn new_entry(path: &str, parent: &str) -> NewEntry {
    let selectors = ["unix:uid:1".parse().unwrap()].into_iter().collect();
    NewEntry::new(id(path), id(parent), selectors)
}
