//! The socket as a workload sees it.

use std::collections::HashMap;
use std::path::PathBuf;

use async_trait::async_trait;
use finial_plugin::AttestError;
use finial_plugin::workload::Workload;
use finial_plugin::workload_attestor::WorkloadAttestor;
use finial_proto::pb::spiffe_workload_api_client::SpiffeWorkloadApiClient;
use finial_proto::pb::{JwtsvidRequest, WitsvidRequest, X509BundlesRequest, X509svidRequest};
use finial_runtime::clock::SystemClock;
use spiffe_types::selector::Selector;
use tempfile::TempDir;
use tokio::io::AsyncReadExt as _;
use tonic::metadata::MetadataValue;
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Request, Status};
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::health_client::HealthClient;
use tower::service_fn;

use super::*;
use crate::api::workload::WorkloadApiOptions;
use crate::cache::fixtures::{bundle, entry, svid, trust_domain};
use crate::cache::{Cache, Change};
use crate::workload::attest::Attestors;

/// Answers a fixed selector, or fails.
#[derive(Debug)]
struct Fixed(Option<&'static str>);

/// Knows containers, were its engine not down.
#[derive(Debug)]
struct Down;

#[async_trait]
impl WorkloadAttestor for Down {
    fn name(&self) -> &'static str {
        "docker"
    }

    async fn attest(&self, _: &Workload) -> Result<Vec<Selector>, AttestError> {
        Err(AttestError::unavailable("engine is down"))
    }
}

#[async_trait]
impl WorkloadAttestor for Fixed {
    fn name(&self) -> &'static str {
        "test"
    }

    async fn attest(&self, _: &Workload) -> Result<Vec<Selector>, AttestError> {
        match self.0 {
            Some(text) => Ok(vec![text.parse().unwrap()]),
            None => Err(AttestError::unavailable("engine is down")),
        }
    }
}

struct Agent {
    cache: Cache,
    socket: PathBuf,
    shutdown: CancellationToken,
    serving: JoinSet<anyhow::Result<()>>,
    _folder: TempDir,
}

impl Agent {
    fn start(attestor: Fixed, options: WorkloadApiOptions) -> Self {
        Self::start_with(vec![Arc::new(attestor)], options)
    }

    fn start_with(attestors: Vec<Arc<dyn WorkloadAttestor>>, options: WorkloadApiOptions) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let socket = folder.path().join("public/api.sock");
        let cache = Cache::new(trust_domain());
        let attestors = Arc::new(Attestors::new(attestors));
        let api = WorkloadApi::new(cache.clone(), attestors, SystemClock::shared(), options);
        let endpoints = Endpoints::bind(&socket, Some(api)).unwrap();
        let shutdown = CancellationToken::new();
        let mut serving = JoinSet::new();
        serving.spawn(endpoints.serve(shutdown.clone()));
        Self {
            cache,
            socket,
            shutdown,
            serving,
            _folder: folder,
        }
    }

    fn with_identity() -> Self {
        let agent = Self::start(Fixed(Some("test:a")), WorkloadApiOptions::default());
        agent.register(&["a"]);
        agent.sign();
        agent
    }

    /// Makes these all the entries there are; each has the selector `test:a`.
    fn register(&self, ids: &[&str]) {
        self.cache.apply(Change {
            full: true,
            entries: ids.iter().map(|id| entry(id, &["test:a"])).collect(),
            bundle: Some(bundle("example.org", 1)),
            ..Change::default()
        });
    }

    /// Signs whatever is wanted.
    fn sign(&self) {
        let now = SystemClock::shared().now();
        let work = self.cache.take_work(now, 100);
        self.cache.put(
            work.into_iter()
                .map(|work| {
                    let signed = svid(&work.entry, 1_000_000_000);
                    (work, signed)
                })
                .collect(),
        );
    }

    async fn channel(&self) -> Channel {
        let socket = self.socket.clone();
        let dial = service_fn(move |_| {
            let socket = socket.clone();
            async move { UnixStream::connect(socket).await.map(TokioIo::new) }
        });
        Endpoint::from_static("http://localhost")
            .connect_with_connector(dial)
            .await
            .unwrap()
    }

    async fn client(&self) -> SpiffeWorkloadApiClient<Channel> {
        SpiffeWorkloadApiClient::new(self.channel().await)
    }

    async fn fetch(&self) -> Result<tonic::Streaming<finial_proto::pb::X509svidResponse>, Status> {
        let call = self
            .client()
            .await
            .fetch_x509svid(with_header(X509svidRequest {}))
            .await;
        call.map(tonic::Response::into_inner)
    }

    async fn stop(mut self) {
        self.shutdown.cancel();
        self.serving.join_next().await.unwrap().unwrap().unwrap();
    }
}

fn with_header<T>(message: T) -> Request<T> {
    let mut request = Request::new(message);
    request
        .metadata_mut()
        .insert(SECURITY_HEADER, MetadataValue::from_static("true"));
    request
}

async fn next_ids(
    stream: &mut tonic::Streaming<finial_proto::pb::X509svidResponse>,
) -> Vec<String> {
    let next = tokio::time::timeout(Duration::from_secs(10), stream.message());
    let message = next.await.expect("a message in time").unwrap().unwrap();
    message
        .svids
        .into_iter()
        .map(|svid| svid.spiffe_id)
        .collect()
}

async fn end_of(stream: &mut tonic::Streaming<finial_proto::pb::X509svidResponse>) -> Status {
    let next = tokio::time::timeout(Duration::from_secs(10), stream.message());
    next.await.expect("an end in time").unwrap_err()
}

#[tokio::test]
async fn svids_are_streamed_with_every_change() {
    let agent = Agent::with_identity();

    let mut stream = agent.fetch().await.unwrap();
    assert_eq!(next_ids(&mut stream).await, ["spiffe://example.org/a"]);

    agent.register(&["b", "a"]);
    agent.sign();
    assert_eq!(
        next_ids(&mut stream).await,
        ["spiffe://example.org/a", "spiffe://example.org/b"]
    );

    agent.register(&[]);
    let status = end_of(&mut stream).await;
    assert_eq!(
        (status.code(), status.message()),
        (Code::PermissionDenied, "no identity issued")
    );
    agent.stop().await;
}

#[tokio::test]
async fn the_first_message_waits_for_the_last_svid() {
    let agent = Agent::start(Fixed(Some("test:a")), WorkloadApiOptions::default());
    agent.register(&["a", "b"]);
    let mut stream = agent.fetch().await.unwrap();
    let mut first = Box::pin(next_ids(&mut stream));
    assert!(futures::poll!(&mut first).is_pending());

    agent.sign();

    assert_eq!(
        first.await,
        ["spiffe://example.org/a", "spiffe://example.org/b"]
    );
    agent.stop().await;
}

#[tokio::test]
async fn a_caller_without_an_identity_is_refused() {
    let agent = Agent::start(Fixed(Some("test:stranger")), WorkloadApiOptions::default());
    agent.register(&["a"]);

    let status = end_of(&mut agent.fetch().await.unwrap()).await;

    assert_eq!(
        (status.code(), status.message()),
        (Code::PermissionDenied, "no identity issued")
    );
    agent.stop().await;
}

#[tokio::test]
async fn a_caller_that_cannot_be_attested_is_asked_to_come_back() {
    let agent = Agent::start(Fixed(None), WorkloadApiOptions::default());

    let status = agent.fetch().await.unwrap_err();

    assert_eq!(
        (status.code(), status.message()),
        (
            Code::Unavailable,
            "workload attestation failed: workload attestor \"test\" failed: engine is down"
        )
    );
    agent.stop().await;
}

#[tokio::test]
async fn bundles_need_no_identity_when_the_operator_says_so() {
    let options = WorkloadApiOptions {
        allow_unauthenticated_verifiers: true,
        ..WorkloadApiOptions::default()
    };
    let agent = Agent::start(Fixed(Some("test:stranger")), options);
    agent.register(&[]);

    let mut client = agent.client().await;
    let mut stream = client
        .fetch_x509_bundles(with_header(X509BundlesRequest {}))
        .await
        .unwrap()
        .into_inner();

    let message = stream.message().await.unwrap().unwrap();
    assert_eq!(
        message.bundles,
        HashMap::from([("spiffe://example.org".to_owned(), bytes::Bytes::new())])
    );
    agent.stop().await;
}

#[tokio::test]
async fn every_method_of_the_workload_api_asks_for_the_header() {
    let agent = Agent::with_identity();
    let mut client = agent.client().await;

    let answers = [
        client.fetch_x509svid(X509svidRequest {}).await.map(drop),
        client
            .fetch_x509_bundles(X509BundlesRequest {})
            .await
            .map(drop),
        client
            .fetch_jwtsvid(JwtsvidRequest::default())
            .await
            .map(drop),
        client
            .fetch_witsvid(WitsvidRequest::default())
            .await
            .map(drop),
    ];

    for answer in answers {
        let status = answer.unwrap_err();
        assert_eq!(
            (status.code(), status.message()),
            (
                Code::InvalidArgument,
                "security header missing from request"
            )
        );
    }
    let wit = client
        .fetch_witsvid(with_header(WitsvidRequest::default()))
        .await
        .unwrap_err();
    assert_eq!(
        (wit.code(), wit.message()),
        (Code::Unimplemented, "fetching WIT-SVIDs is not implemented")
    );
    agent.stop().await;
}

#[tokio::test]
async fn health_needs_no_header_and_asks_the_workload_api() {
    let agent = Agent::start(Fixed(Some("test:stranger")), WorkloadApiOptions::default());
    let mut client = HealthClient::new(agent.channel().await);

    let answer = client
        .check(HealthCheckRequest::default())
        .await
        .unwrap()
        .into_inner();
    assert_eq!(answer.status(), ServingStatus::Serving);

    let named = HealthCheckRequest {
        service: "SpiffeWorkloadAPI".into(),
    };
    assert_eq!(
        client.check(named).await.unwrap_err().code(),
        Code::InvalidArgument
    );
    agent.stop().await;

    let broken = Agent::start(Fixed(None), WorkloadApiOptions::default());
    let mut client = HealthClient::new(broken.channel().await);
    let answer = client
        .check(HealthCheckRequest::default())
        .await
        .unwrap()
        .into_inner();
    assert_eq!(answer.status(), ServingStatus::NotServing);
    broken.stop().await;
}

#[tokio::test]
async fn a_thousand_streams_at_once_are_all_served_and_all_updated() {
    let agent = Agent::with_identity();
    let mut channels = Vec::new();
    for _ in 0..10 {
        channels.push(agent.client().await);
    }
    let mut opening = JoinSet::new();
    for number in 0..1000 {
        let mut client = channels[number % 10].clone();
        opening.spawn(async move {
            let call = client.fetch_x509svid(with_header(X509svidRequest {})).await;
            let mut stream = call.unwrap().into_inner();
            let ids = next_ids(&mut stream).await;
            (stream, ids)
        });
    }
    let mut streams = Vec::new();
    while let Some(opened) = opening.join_next().await {
        let (stream, ids) = opened.unwrap();
        assert_eq!(ids, ["spiffe://example.org/a"]);
        streams.push(stream);
    }

    agent.register(&["a", "b"]);
    agent.sign();

    for stream in &mut streams {
        assert_eq!(next_ids(stream).await.len(), 2);
    }
    agent.stop().await;
}

#[tokio::test]
async fn reflection_lists_what_this_socket_serves() {
    use tonic_reflection::pb::v1::ServerReflectionRequest;
    use tonic_reflection::pb::v1::server_reflection_client::ServerReflectionClient;
    use tonic_reflection::pb::v1::server_reflection_request::MessageRequest;
    use tonic_reflection::pb::v1::server_reflection_response::MessageResponse;

    let agent = Agent::with_identity();
    let request = ServerReflectionRequest {
        host: String::new(),
        message_request: Some(MessageRequest::ListServices(String::new())),
    };

    let mut answers = ServerReflectionClient::new(agent.channel().await)
        .server_reflection_info(futures::stream::iter([request]))
        .await
        .unwrap()
        .into_inner();

    let answer = answers.message().await.unwrap().unwrap().message_response;
    let Some(MessageResponse::ListServicesResponse(list)) = answer else {
        panic!("{answer:?}")
    };
    let mut names: Vec<_> = list
        .service
        .into_iter()
        .map(|service| service.name)
        .collect();
    names.sort();
    assert_eq!(
        names,
        [
            "SpiffeWorkloadAPI",
            "grpc.health.v1.Health",
            "grpc.reflection.v1.ServerReflection",
            "grpc.reflection.v1alpha.ServerReflection",
        ]
    );
    agent.stop().await;
}

/// The answer to a caller with `test:a`, while the attestor `docker` is down, when there is an entry with `selectors`.
async fn answer_while_docker_is_down(selectors: &[&str]) -> (Code, String) {
    let agent = Agent::start_with(
        vec![Arc::new(Fixed(Some("test:a"))), Arc::new(Down)],
        WorkloadApiOptions::default(),
    );
    agent.cache.apply(Change {
        full: true,
        entries: vec![entry("web", selectors)],
        bundle: Some(bundle("example.org", 1)),
        ..Change::default()
    });
    let status = match agent.fetch().await {
        Ok(mut stream) => end_of(&mut stream).await,
        Err(status) => status,
    };
    agent.stop().await;
    (status.code(), status.message().to_owned())
}

#[tokio::test]
async fn a_caller_whose_identity_hangs_on_a_failed_attestor_is_told_which_and_why() {
    let down = (
        Code::Unavailable,
        "workload attestation failed: workload attestor \"docker\" failed: engine is down"
            .to_owned(),
    );
    for selectors in [
        &["test:a", "docker:label:app:web"][..],
        &["docker:label:app:web", "docker:image_id:web:1"],
    ] {
        assert_eq!(
            answer_while_docker_is_down(selectors).await,
            down,
            "{selectors:?}"
        );
    }
}

#[tokio::test]
async fn an_entry_that_the_failed_attestor_cannot_complete_holds_nobody_up() {
    let refused = (Code::PermissionDenied, "no identity issued".to_owned());
    for selectors in [
        &["test:b", "docker:label:app:web"][..],
        &["test:b"],
        &["k8s:ns:web"],
    ] {
        assert_eq!(
            answer_while_docker_is_down(selectors).await,
            refused,
            "{selectors:?}"
        );
    }
}

#[tokio::test]
async fn connections_that_say_nothing_keep_nobody_out() {
    let folder = tempfile::tempdir().unwrap();
    let socket = folder.path().join("public/api.sock");
    let mut endpoints = Endpoints::bind(&socket, None).unwrap();
    endpoints.room = 3;
    let shutdown = CancellationToken::new();
    let mut serving = JoinSet::new();
    serving.spawn(endpoints.serve(shutdown.clone()));
    let mut silent = Vec::new();
    for _ in 0..10 {
        silent.push(UnixStream::connect(&socket).await.unwrap());
    }

    let channel = finial_client::connect::unix(&socket);
    let asked = async {
        let request = HealthCheckRequest::default();
        HealthClient::new(channel).check(request).await
    };
    let answer = tokio::time::timeout(Duration::from_secs(10), asked).await;

    answer.expect("there is room").unwrap();
    let mut rest = Vec::new();
    silent[0].read_to_end(&mut rest).await.unwrap();
    shutdown.cancel();
    serving.join_next().await.unwrap().unwrap().unwrap();
}

#[test]
fn room_leaves_files_for_everything_else() {
    assert_eq!(room_for(None), CONNECTION_LIMIT);
    assert_eq!(room_for(Some(u64::MAX)), CONNECTION_LIMIT);
    assert_eq!(room_for(Some(1_000_000)), CONNECTION_LIMIT);
    assert_eq!(room_for(Some(20_000)), 8_976);
    assert_eq!(room_for(Some(1024)), 384);
    assert_eq!(room_for(Some(10)), 1);
}
