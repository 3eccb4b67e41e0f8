#![expect(
    clippy::disallowed_methods,
    reason = "certificates of the tests are valid now"
)]

use std::sync::Mutex;

use finial_pki::csr::Csr;
use finial_pki::testing::TestCa;
use finial_plugin::fakes::{FakeAgentNodeAttestor, FakeKeyManager};
use finial_plugin::key_manager::KeyId;
use finial_proto::convert;
use finial_proto::pb::finial::sync::v1::follow_request::Step;
use finial_proto::pb::finial::sync::v1::sync_server::{Sync as SyncApi, SyncServer};
use finial_proto::pb::finial::sync::v1::{Applied, FollowRequest, FollowResponse, Open};
use finial_proto::pb::spire::api::server::bundle::v1 as bundle_api;
use finial_proto::pb::spire::api::server::bundle::v1::bundle_server::{
    Bundle as BundleApi, BundleServer,
};
use finial_proto::pb::spire::api::server::entry::v1 as entry_api;
use finial_proto::pb::spire::api::server::entry::v1::entry_server::{
    Entry as EntryApi, EntryServer,
};
use finial_proto::pb::spire::api::server::svid::v1 as svid_api;
use finial_proto::pb::spire::api::server::svid::v1::svid_server::{Svid as SvidApi, SvidServer};
use finial_runtime::clock::SystemClock;
use spiffe_types::id::SpiffeId;
use spiffe_types::svid::x509::X509Svid;
use tokio::net::TcpListener;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio_stream::StreamExt as _;
use tokio_stream::wrappers::{ReceiverStream, TcpListenerStream};
use tonic::codegen::BoxStream;
use tonic::{Request, Response, Status, Streaming};

use super::fill::Filler;
use super::*;
use crate::cache::fixtures::{bundle, entry, selectors, trust_domain};
use crate::cache::{Subscription, WorkloadUpdate};
use crate::identity::keys::{AgentKey, AgentKeys};
use crate::identity::rotation::Rotation;
use crate::identity::{AgentSvid, IdentityParts};

/// One stream an agent has opened: what it said first, and both directions.
struct Opened {
    open: Open,
    requests: Streaming<FollowRequest>,
    answers: mpsc::Sender<Result<FollowResponse, Status>>,
}

impl Opened {
    async fn send(&self, message: FollowResponse) {
        self.answers.send(Ok(message)).await.unwrap();
    }

    async fn applied(&mut self) -> u64 {
        match self.requests.message().await.unwrap().unwrap().step {
            Some(Step::Applied(Applied { revision })) => revision,
            other => panic!("not an acknowledgement: {other:?}"),
        }
    }
}

/// Hands each stream to the test.
struct Follow(mpsc::Sender<Opened>);

#[tonic::async_trait]
impl SyncApi for Follow {
    async fn follow(
        &self,
        request: Request<Streaming<FollowRequest>>,
    ) -> Result<Response<BoxStream<FollowResponse>>, Status> {
        let mut requests = request.into_inner();
        let Some(Step::Open(open)) = requests.message().await?.and_then(|first| first.step) else {
            return Err(Status::invalid_argument("not opened"));
        };
        let (answers, receiver) = mpsc::channel(8);
        let opened = Opened {
            open,
            requests,
            answers,
        };
        self.0
            .send(opened)
            .await
            .map_err(|_closed| Status::unavailable("the test is over"))?;
        Ok(Response::new(Box::pin(ReceiverStream::new(receiver))))
    }
}

/// Signs whatever it is asked for.
struct Sign(TestCa);

#[tonic::async_trait]
impl SvidApi for Sign {
    async fn batch_new_x509svid(
        &self,
        request: Request<svid_api::BatchNewX509svidRequest>,
    ) -> Result<Response<svid_api::BatchNewX509svidResponse>, Status> {
        let mut results = Vec::new();
        for params in request.into_inner().params {
            let csr = Csr::parse(&params.csr).unwrap();
            let id = SpiffeId::parse(&csr.uri_sans()[0]).unwrap();
            let chain = self
                .0
                .sign(&id, csr.public_key(), SystemTime::now(), HOUR)
                .await;
            results.push(svid_api::batch_new_x509svid_response::Result {
                status: Some(types::Status::default()),
                svid: Some(types::X509svid {
                    cert_chain: chain,
                    ..types::X509svid::default()
                }),
            });
        }
        Ok(Response::new(svid_api::BatchNewX509svidResponse {
            results,
        }))
    }
}

/// A SPIRE server's entries: revisions first, two a page, then what is asked for.
struct Entries(Arc<Mutex<Vec<types::Entry>>>);

#[tonic::async_trait]
impl EntryApi for Entries {
    async fn sync_authorized_entries(
        &self,
        request: Request<Streaming<entry_api::SyncAuthorizedEntriesRequest>>,
    ) -> Result<Response<BoxStream<entry_api::SyncAuthorizedEntriesResponse>>, Status> {
        let held = self.0.lock().unwrap().clone();
        let pages: Vec<_> = held.chunks(2).map(<[_]>::to_vec).collect();
        let last = pages.len() - 1;
        let revisions = pages.into_iter().enumerate().map(move |(index, page)| {
            Ok(entry_api::SyncAuthorizedEntriesResponse {
                entry_revisions: page.iter().map(revision).collect(),
                more: index < last,
                ..entry_api::SyncAuthorizedEntriesResponse::default()
            })
        });
        let asked = request.into_inner().skip(1).map(move |request| {
            let ids = request?.ids;
            assert!(ids.len() <= 2, "more than a page was asked for");
            Ok(entry_api::SyncAuthorizedEntriesResponse {
                entries: held
                    .iter()
                    .filter(|entry| ids.contains(&entry.id))
                    .cloned()
                    .collect(),
                ..entry_api::SyncAuthorizedEntriesResponse::default()
            })
        });
        Ok(Response::new(Box::pin(
            tokio_stream::iter(revisions).chain(asked),
        )))
    }
}

fn revision(entry: &types::Entry) -> entry_api::EntryRevision {
    entry_api::EntryRevision {
        id: entry.id.clone(),
        revision_number: entry.revision_number,
        created_at: entry.created_at,
    }
}

struct Bundles(Bundle);

#[tonic::async_trait]
impl BundleApi for Bundles {
    async fn get_bundle(
        &self,
        _: Request<bundle_api::GetBundleRequest>,
    ) -> Result<Response<types::Bundle>, Status> {
        Ok(Response::new(convert::bundle::to_pb(&self.0)))
    }

    async fn get_federated_bundle(
        &self,
        request: Request<bundle_api::GetFederatedBundleRequest>,
    ) -> Result<Response<types::Bundle>, Status> {
        match request.into_inner().trust_domain.as_str() {
            "known.org" => Ok(Response::new(convert::bundle::to_pb(&bundle(
                "known.org",
                3,
            )))),
            "example.org" => Err(Status::invalid_argument(
                "getting a federated bundle for the server's own trust domain is not allowed",
            )),
            _ => Err(Status::not_found("bundle not found")),
        }
    }
}

/// An agent that synchronizes with a server of the test.
struct World {
    cache: Cache,
    status: watch::Receiver<SyncStatus>,
    opened: mpsc::Receiver<Opened>,
    entries: Arc<Mutex<Vec<types::Entry>>>,
    ca: TestCa,
    link: Link,
    _tasks: JoinSet<()>,
    _directory: tempfile::TempDir,
}

impl World {
    async fn start(with_push: bool) -> Self {
        let ca = TestCa::new(&trust_domain(), SystemTime::now()).await;
        let (sender, opened) = mpsc::channel(4);
        let entries = Arc::default();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let server = tonic::transport::Server::builder()
            .add_optional_service(with_push.then(|| SyncServer::new(Follow(sender))))
            .add_service(SvidServer::new(Sign(ca.clone())))
            .add_service(BundleServer::new(Bundles(ca.bundle())))
            .add_service(EntryServer::new(Entries(Arc::clone(&entries))))
            .serve_with_incoming(TcpListenerStream::new(listener));

        let directory = tempfile::tempdir().unwrap();
        let (clock, cache) = (SystemClock::shared(), Cache::new(trust_domain()));
        let link = Link::plain(address, &trust_domain());
        let identity = Arc::new(Identity::new(
            identity_parts(&link, &cache, directory.path()),
            agent_svid(&ca).await,
        ));
        let mut sync = Synchronizer::new(SyncParts {
            trust_domain: trust_domain(),
            link: link.clone(),
            cache: cache.clone(),
            storage: Storage::open(directory.path()).unwrap(),
            identity,
            clock: Arc::clone(&clock),
            version: "1.2.3",
            interval: Duration::from_millis(20),
            poll_by_revisions: true,
            first: Backoff::new(Duration::from_millis(10), DEFAULT_INTERVAL, None),
        });
        let mut fill = Filler::new(
            link.clone(),
            cache.clone(),
            clock,
            finial_pki::key::KeyKind::EcP256,
            Rotation::default(),
        );
        let status = sync.status();
        let mut tasks = JoinSet::new();
        tasks.spawn(async move { server.await.unwrap() });
        tasks.spawn(async move { drop(sync.run().await) });
        tasks.spawn(async move { drop(fill.run().await) });
        Self {
            cache,
            status,
            opened,
            entries,
            ca,
            link,
            _tasks: tasks,
            _directory: directory,
        }
    }

    async fn opened(&mut self) -> Opened {
        soon(self.opened.recv()).await.unwrap()
    }

    fn full(&self, revision: u64) -> FollowResponse {
        FollowResponse {
            revision,
            full: true,
            bundle: Some(convert::bundle::to_pb(&self.ca.bundle())),
            heartbeat_interval_ms: 60_000,
            ..FollowResponse::default()
        }
    }
}

fn identity_parts(link: &Link, cache: &Cache, directory: &std::path::Path) -> IdentityParts {
    IdentityParts {
        link: link.clone(),
        storage: Storage::open(directory).unwrap(),
        cache: cache.clone(),
        keys: AgentKeys::new(Arc::new(FakeKeyManager::default())),
        attestor: Arc::new(FakeAgentNodeAttestor {
            name: "fake".to_owned(),
            payload: Vec::new(),
            responses: std::collections::BTreeMap::new(),
        }),
        rotation: Rotation::default(),
        clock: SystemClock::shared(),
    }
}

async fn agent_svid(ca: &TestCa) -> AgentSvid {
    let id = SpiffeId::from_path(&trust_domain(), "/spire/agent/fake/a").unwrap();
    let svid = ca.svid(&id, SystemTime::now(), HOUR).await;
    AgentSvid {
        svid: X509Svid::parse(svid.chain).unwrap(),
        key: AgentKey {
            id: KeyId::new("agent-svid-A"),
            key: svid.key,
        },
        reattestable: false,
    }
}

async fn soon<T>(future: impl Future<Output = T>) -> T {
    tokio::time::timeout(Duration::from_secs(10), future)
        .await
        .expect("it did not happen")
}

async fn until(
    subscription: &mut Subscription,
    done: impl Fn(&WorkloadUpdate) -> bool + Send + Sync,
) -> Arc<WorkloadUpdate> {
    soon(async {
        loop {
            let update = subscription.borrow();
            if done(&update) {
                return update;
            }
            subscription.changed().await;
        }
    })
    .await
}

#[tokio::test]
async fn a_pushed_entry_is_signed_shown_and_acknowledged() {
    let mut world = World::start(true).await;
    let mut stream = world.opened().await;
    assert_eq!(
        stream.open,
        Open {
            revision: 0,
            digest: Bytes::new(),
            agent_version: "1.2.3".to_owned()
        }
    );
    stream.send(world.full(5)).await;
    assert_eq!(soon(stream.applied()).await, 5);

    let mut subscription = world.cache.subscribe(&selectors(&["unix:uid:0"]));
    let web = entry("web", &["unix:uid:0"]);
    stream
        .send(FollowResponse {
            revision: 6,
            entries: vec![convert::entry::to_pb(&web)],
            ..FollowResponse::default()
        })
        .await;
    let update = until(&mut subscription, |update| {
        update.ready && !update.identities.is_empty()
    })
    .await;
    let svid = update.identities[0].svid.as_ref().unwrap();
    assert_eq!(svid.id, web.spiffe_id);
    assert_eq!(
        update.bundle.x509_authorities,
        world.ca.bundle().x509_authorities
    );
    assert_eq!(soon(stream.applied()).await, 6);

    stream
        .send(FollowResponse {
            revision: 7,
            removed_entry_ids: vec!["web".to_owned()],
            ..FollowResponse::default()
        })
        .await;
    until(&mut subscription, |update| update.identities.is_empty()).await;
    assert_eq!(soon(stream.applied()).await, 7);
}

#[tokio::test]
async fn a_broken_stream_is_resumed_where_it_broke() {
    let mut world = World::start(true).await;
    let stream = world.opened().await;
    let mut first = world.full(5);
    first.entries = vec![convert::entry::to_pb(&entry("web", &["unix:uid:0"]))];
    stream.send(first).await;
    let mut status = world.status.clone();
    soon(status.wait_for(|status| status.last_sync.is_some()))
        .await
        .unwrap();
    drop(stream);

    let stream = world.opened().await;
    assert_eq!(stream.open.revision, 5);
    let mut held = Held::default();
    let web = entry("web", &["unix:uid:0"]);
    held.entries.insert(web.id.clone(), web);
    assert_eq!(stream.open.digest, held.digest());
    assert_eq!(
        world.cache.counts().entries,
        1,
        "what was there is served on"
    );
}

#[tokio::test]
async fn a_new_identity_opens_the_stream_anew_and_at_once() {
    let mut world = World::start(true).await;
    let stream = world.opened().await;
    stream.send(world.full(5)).await;
    let mut status = world.status.clone();
    soon(status.wait_for(|status| status.last_sync.is_some()))
        .await
        .unwrap();
    world.link.redial();

    assert_eq!(world.opened().await.open.revision, 5);
}

#[tokio::test]
async fn a_stream_without_heartbeats_is_given_up() {
    let mut world = World::start(true).await;
    let stream = world.opened().await;
    let mut first = world.full(5);
    first.heartbeat_interval_ms = 20;
    stream.send(first).await;

    let resumed = world.opened().await;
    assert_eq!(resumed.open.revision, 5);
    drop(stream);
}

#[tokio::test]
async fn a_step_in_parts_is_applied_as_a_whole() {
    let mut world = World::start(true).await;
    let mut stream = world.opened().await;
    let mut part = world.full(0);
    part.more = true;
    part.entries = vec![convert::entry::to_pb(&entry("a", &["unix:uid:0"]))];
    stream.send(part).await;
    stream
        .send(FollowResponse {
            revision: 9,
            entries: vec![convert::entry::to_pb(&entry("b", &["unix:uid:0"]))],
            ..FollowResponse::default()
        })
        .await;

    while soon(stream.applied()).await < 9 {}
    assert_eq!(world.cache.counts().entries, 2);
    assert_eq!(world.cache.counts().x509_svids, 2);
}

#[tokio::test]
async fn a_server_without_the_stream_is_polled() {
    let world = World::start(false).await;
    let mut federating = (*entry("c", &["unix:uid:0"])).clone();
    federating.federates_with = ["known.org", "unknown.org", "example.org"]
        .map(|name| TrustDomain::parse(name).unwrap())
        .to_vec();
    let entries = [
        entry("a", &["unix:uid:0"]),
        entry("b", &["unix:uid:0"]),
        Arc::new(federating),
    ];
    *world.entries.lock().unwrap() = entries
        .iter()
        .map(|entry| convert::entry::to_pb(entry))
        .collect();
    let mut subscription = world.cache.subscribe(&selectors(&["unix:uid:0"]));

    let update = until(&mut subscription, |update| {
        update.ready && update.identities.len() == 3
    })
    .await;
    let federated: Vec<_> = update
        .federated
        .iter()
        .map(|bundle| bundle.trust_domain.to_string())
        .collect();
    assert_eq!(federated, ["known.org"]);
    assert_eq!(world.status.borrow().mode, Mode::SyncAuthorizedEntries);

    world.entries.lock().unwrap().remove(0);
    until(&mut subscription, |update| update.identities.len() == 2).await;
}

const HOUR: Duration = Duration::from_hours(1);
