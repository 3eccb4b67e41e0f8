//! A workload's view of an agent that comes and goes.
#![expect(clippy::unwrap_used, reason = "test support")]

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use finial_client::connect;
use finial_client::status::{AgentVerdict, Reason, agent_verdict, is_connection_lost};
use finial_client::workload::{
    MalformedResponse, SECURITY_HEADER, WatchError, watch_x509, watch_x509_bundles,
};
use finial_proto::convert::denied;
use finial_proto::pb;
use finial_proto::pb::spiffe_workload_api_server::{SpiffeWorkloadApi, SpiffeWorkloadApiServer};
use rcgen::{
    BasicConstraints, CertificateParams, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, SanType,
};
use spiffe_types::{SpiffeId, TrustDomain};
use tokio::net::UnixListener;
use tokio::sync::oneshot;
use tokio::task::JoinSet;
use tokio_stream::wrappers::UnixListenerStream;
use tonic::codegen::BoxStream;
use tonic::transport::Server;
use tonic::{Code, Request, Response, Status};

type Answer<T> = Result<T, Status>;
type Script<T> = Arc<dyn Fn(usize) -> Vec<Answer<T>> + Send + Sync>;

/// An agent that answers the n-th call of a method with what its script says for n, and then ends the stream.
struct ScriptedAgent {
    svids: Script<pb::X509svidResponse>,
    bundles: Script<pb::X509BundlesResponse>,
    calls: Arc<AtomicUsize>,
}

impl ScriptedAgent {
    fn svids(
        script: impl Fn(usize) -> Vec<Answer<pb::X509svidResponse>> + Send + Sync + 'static,
    ) -> Self {
        Self {
            svids: Arc::new(script),
            bundles: Arc::new(|_| Vec::new()),
            calls: Arc::default(),
        }
    }

    fn answer<T: Send + 'static>(
        &self,
        header: Option<&str>,
        script: &Script<T>,
    ) -> Answer<Response<BoxStream<T>>> {
        if header != Some("true") {
            return Err(Status::invalid_argument(
                "security header missing from request",
            ));
        }
        let answers = script(self.calls.fetch_add(1, Ordering::SeqCst));
        // An error before any message ends the call itself.
        if let [Err(status)] = answers.as_slice() {
            return Err(status.clone());
        }
        Ok(Response::new(Box::pin(tokio_stream::iter(answers))))
    }
}

#[tonic::async_trait]
impl SpiffeWorkloadApi for ScriptedAgent {
    async fn fetch_x509svid(
        &self,
        request: Request<pb::X509svidRequest>,
    ) -> Answer<Response<BoxStream<pb::X509svidResponse>>> {
        let header = request
            .metadata()
            .get(SECURITY_HEADER)
            .and_then(|value| value.to_str().ok());
        self.answer(header, &self.svids)
    }

    async fn fetch_x509_bundles(
        &self,
        request: Request<pb::X509BundlesRequest>,
    ) -> Answer<Response<BoxStream<pb::X509BundlesResponse>>> {
        let header = request
            .metadata()
            .get(SECURITY_HEADER)
            .and_then(|value| value.to_str().ok());
        self.answer(header, &self.bundles)
    }
}

/// Serves until the sender is dropped or used.
fn serve(tasks: &mut JoinSet<()>, socket: &Path, agent: ScriptedAgent) -> oneshot::Sender<()> {
    let incoming = UnixListenerStream::new(UnixListener::bind(socket).unwrap());
    let (stop, stopped) = oneshot::channel();
    tasks.spawn(async move {
        let server = Server::builder().add_service(SpiffeWorkloadApiServer::new(agent));
        server
            .serve_with_incoming_shutdown(incoming, async { drop(stopped.await) })
            .await
            .unwrap();
    });
    stop
}

fn socket() -> (tempfile::TempDir, PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("agent.sock");
    (folder, path)
}

struct Authority {
    der: Bytes,
    issuer: Issuer<'static, KeyPair>,
}

fn authority() -> Authority {
    let key = KeyPair::generate().unwrap();
    let mut params = CertificateParams::default();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
    let der = Bytes::copy_from_slice(params.self_signed(&key).unwrap().der());
    Authority {
        der,
        issuer: Issuer::new(params, key),
    }
}

fn svid(authority: &Authority, id: &str, hint: &str) -> pb::X509svid {
    let key = KeyPair::generate().unwrap();
    let mut params = CertificateParams::default();
    params.subject_alt_names = vec![SanType::URI(id.try_into().unwrap())];
    params.is_ca = IsCa::ExplicitNoCa;
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = vec![
        ExtendedKeyUsagePurpose::ServerAuth,
        ExtendedKeyUsagePurpose::ClientAuth,
    ];
    let leaf = params.signed_by(&key, &authority.issuer).unwrap();
    pb::X509svid {
        spiffe_id: id.to_owned(),
        x509_svid: Bytes::copy_from_slice(leaf.der()),
        x509_svid_key: Bytes::from(key.serialize_der()),
        bundle: authority.der.clone(),
        hint: hint.to_owned(),
    }
}

fn response(svids: Vec<pb::X509svid>) -> pb::X509svidResponse {
    pb::X509svidResponse {
        svids,
        ..pb::X509svidResponse::default()
    }
}

fn id(text: &str) -> SpiffeId {
    SpiffeId::parse(text).unwrap()
}

const WEB: &str = "spiffe://example.org/web";
const DB: &str = "spiffe://example.org/db";

#[tokio::test]
async fn a_watch_brings_identities_with_their_keys_and_bundles() {
    let (_folder, socket) = socket();
    let mut tasks = JoinSet::new();
    let (own, other) = (authority(), authority());
    let mut message = response(vec![svid(&own, WEB, "internal"), svid(&own, DB, "")]);
    message
        .federated_bundles
        .insert("spiffe://other.org".to_owned(), other.der.clone());
    let key = message.svids[0].x509_svid_key.clone();
    let _agent = serve(
        &mut tasks,
        &socket,
        ScriptedAgent::svids(move |_| vec![Ok(message.clone())]),
    );

    let context = watch_x509(connect::unix(&socket)).next().await.unwrap();

    let [web, db] = context.identities.as_slice() else {
        panic!("{context:?}")
    };
    assert_eq!((web.svid.id(), web.hint.as_str()), (&id(WEB), "internal"));
    assert_eq!(db.svid.id(), &id(DB));
    assert_eq!(web.private_key.pkcs8_der(), key);
    let authorities =
        |name: &str| context.bundles.0[&TrustDomain::parse(name).unwrap()].x509_der_concat();
    assert_eq!(authorities("example.org"), own.der);
    assert_eq!(authorities("other.org"), other.der);
    assert!(!format!("{context:?}").contains(&format!("{key:?}")));
}

// WLA-4
#[tokio::test]
async fn each_state_replaces_the_one_before_across_streams_that_end() {
    let (_folder, socket) = socket();
    let mut tasks = JoinSet::new();
    let own = authority();
    let (web, db) = (
        response(vec![svid(&own, WEB, "")]),
        response(vec![svid(&own, DB, "")]),
    );
    let agent = ScriptedAgent::svids(move |call| match call {
        0 => vec![Ok(web.clone()), Err(Status::unavailable("restarting"))],
        _ => vec![Ok(db.clone())],
    });
    let _agent = serve(&mut tasks, &socket, agent);

    let mut watch = watch_x509(connect::unix(&socket));

    assert_eq!(
        watch.next().await.unwrap().identities[0].svid.id(),
        &id(WEB)
    );
    assert_eq!(watch.next().await.unwrap().identities[0].svid.id(), &id(DB));
}

#[tokio::test]
async fn an_agent_that_starts_late_is_waited_for() {
    let (_folder, socket) = socket();
    let mut tasks = JoinSet::new();
    let mut watch = watch_x509(connect::unix(&socket));
    let early = tokio::time::timeout(Duration::from_millis(50), watch.next()).await;
    assert!(early.is_err(), "nobody is there yet");
    let own = authority();
    let agent = ScriptedAgent::svids(move |_| vec![Ok(response(vec![svid(&own, WEB, "")]))]);
    let _agent = serve(&mut tasks, &socket, agent);

    assert_eq!(
        watch.next().await.unwrap().identities[0].svid.id(),
        &id(WEB)
    );
}

// EP-2
#[tokio::test]
async fn a_refused_call_is_not_tried_again() {
    let (_folder, socket) = socket();
    let mut tasks = JoinSet::new();
    let agent = ScriptedAgent::svids(|_| vec![Err(Status::invalid_argument("no"))]);
    let calls = Arc::clone(&agent.calls);
    let _agent = serve(&mut tasks, &socket, agent);

    let error = watch_x509(connect::unix(&socket)).next().await.unwrap_err();

    assert!(
        matches!(&error, WatchError::Refused { status } if status.message() == "no"),
        "{error:?}"
    );
    assert_eq!(calls.load(Ordering::SeqCst), 1);
}

// WLA-8
#[tokio::test]
async fn a_workload_without_identity_hears_of_it_once_and_then_waits() {
    let (_folder, socket) = socket();
    let mut tasks = JoinSet::new();
    let own = authority();
    let agent = ScriptedAgent::svids(move |call| match call {
        0 | 1 => vec![Err(Status::permission_denied("no identity issued"))],
        _ => vec![Ok(response(vec![svid(&own, WEB, "")]))],
    });
    let calls = Arc::clone(&agent.calls);
    let _agent = serve(&mut tasks, &socket, agent);

    let mut watch = watch_x509(connect::unix(&socket));

    assert!(matches!(
        watch.next().await.unwrap_err(),
        WatchError::NotEntitled { .. }
    ));
    assert_eq!(
        watch.next().await.unwrap().identities[0].svid.id(),
        &id(WEB)
    );
    assert_eq!(calls.load(Ordering::SeqCst), 3);
}

// WLA-7
#[tokio::test]
async fn of_identities_with_the_same_hint_the_first_counts() {
    let (_folder, socket) = socket();
    let mut tasks = JoinSet::new();
    let own = authority();
    let message = response(vec![
        svid(&own, WEB, "same"),
        svid(&own, DB, "same"),
        svid(&own, DB, ""),
    ]);
    let _agent = serve(
        &mut tasks,
        &socket,
        ScriptedAgent::svids(move |_| vec![Ok(message.clone())]),
    );

    let context = watch_x509(connect::unix(&socket)).next().await.unwrap();

    let hints: Vec<_> = context
        .identities
        .iter()
        .map(|identity| identity.hint.as_str())
        .collect();
    assert_eq!(hints, ["same", ""]);
    assert_eq!(context.identities[0].svid.id(), &id(WEB));
}

// WLA-6
#[tokio::test]
async fn a_malformed_message_is_reported_and_the_next_one_is_read() {
    let (_folder, socket) = socket();
    let mut tasks = JoinSet::new();
    let own = authority();
    let other_id = pb::X509svid {
        spiffe_id: DB.to_owned(),
        ..svid(&own, WEB, "")
    };
    let no_key = pb::X509svid {
        x509_svid_key: Bytes::new(),
        ..svid(&own, WEB, "")
    };
    let no_leaf = pb::X509svid {
        x509_svid: Bytes::new(),
        ..svid(&own, WEB, "")
    };
    let good = svid(&own, WEB, "");
    let messages: Vec<_> = [
        vec![],
        vec![other_id],
        vec![no_key],
        vec![no_leaf],
        vec![good],
    ]
    .into_iter()
    .map(|svids| Ok(response(svids)))
    .collect();
    let _agent = serve(
        &mut tasks,
        &socket,
        ScriptedAgent::svids(move |_| messages.clone()),
    );

    let mut watch = watch_x509(connect::unix(&socket));
    let mut defects = Vec::new();
    for _ in 0..4 {
        match watch.next().await.unwrap_err() {
            WatchError::Malformed { source } => defects.push(source),
            other => panic!("{other:?}"),
        }
    }

    let (named, promised) = (id(WEB), id(DB));
    assert_eq!(defects[0], MalformedResponse::NoSvids);
    assert_eq!(
        defects[1],
        MalformedResponse::OtherId {
            id: promised,
            named
        }
    );
    assert_eq!(defects[2], MalformedResponse::NoKey { id: id(WEB) });
    assert!(matches!(defects[3], MalformedResponse::Svid { .. }));
    assert!(watch.next().await.is_ok());
}

#[tokio::test]
async fn bundles_are_watched_by_trust_domain() {
    let (_folder, socket) = socket();
    let mut tasks = JoinSet::new();
    let own = authority();
    let mut message = pb::X509BundlesResponse::default();
    message
        .bundles
        .insert("spiffe://example.org".to_owned(), own.der.clone());
    let mut agent = ScriptedAgent::svids(|_| Vec::new());
    agent.bundles = Arc::new(move |_| vec![Ok(message.clone())]);
    let _agent = serve(&mut tasks, &socket, agent);

    let bundles = watch_x509_bundles(connect::unix(&socket))
        .next()
        .await
        .unwrap();

    assert_eq!(bundles.0.len(), 1);
    assert_eq!(
        bundles.0[&TrustDomain::parse("example.org").unwrap()].x509_der_concat(),
        own.der
    );
}

#[tokio::test]
async fn a_channel_dials_again_after_its_server_was_replaced() {
    let (_folder, socket) = socket();
    let mut tasks = JoinSet::new();
    let own = authority();
    let message = response(vec![svid(&own, WEB, "")]);
    let scripted =
        |message: pb::X509svidResponse| ScriptedAgent::svids(move |_| vec![Ok(message.clone())]);
    let first = serve(&mut tasks, &socket, scripted(message.clone()));
    let channel = connect::unix(&socket);
    let mut client = finial_client::workload::client(channel);
    assert!(client.fetch_x509svid(pb::X509svidRequest {}).await.is_ok());

    first.send(()).unwrap();
    tasks.join_next().await.unwrap().unwrap();
    std::fs::remove_file(&socket).unwrap();
    let lost = client
        .fetch_x509svid(pb::X509svidRequest {})
        .await
        .unwrap_err();
    assert!(is_connection_lost(&lost), "{lost:?}");
    let _second = serve(&mut tasks, &socket, scripted(message));

    let answered = async {
        while client.fetch_x509svid(pb::X509svidRequest {}).await.is_err() {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(Duration::from_secs(10), answered)
        .await
        .unwrap();
}

#[test]
fn an_answer_from_a_server_is_no_lost_connection() {
    for status in [
        Status::internal("x"),
        Status::unknown("x"),
        Status::cancelled("x"),
        Status::not_found("x"),
    ] {
        assert!(!is_connection_lost(&status), "{status:?}");
    }
    assert!(is_connection_lost(&Status::new(Code::Unavailable, "x")));
}

#[test]
fn a_denied_agent_attests_again_unless_it_was_banned() {
    for (reason, verdict) in [
        (Reason::AgentExpired, Some(AgentVerdict::Reattest)),
        (Reason::AgentNotActive, Some(AgentVerdict::Reattest)),
        (Reason::AgentNotAttested, Some(AgentVerdict::Reattest)),
        (Reason::AgentMustReattest, Some(AgentVerdict::Reattest)),
        (Reason::AgentBanned, Some(AgentVerdict::Stop)),
        (Reason::Unknown, None),
    ] {
        assert_eq!(
            agent_verdict(&denied::encode(reason, "no")),
            verdict,
            "{reason:?}"
        );
    }
    assert_eq!(agent_verdict(&Status::permission_denied("no")), None);
}
