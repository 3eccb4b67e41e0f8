//! What must not hurt: silence, garbage, too much.

use std::time::Duration;

use finial_proto::pb::spire::api::server::agent::v1::agent_client::AgentClient;
use finial_proto::pb::spire::api::types;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpStream, UnixStream};
use tokio::task::JoinSet;
use tonic::Code;

use crate::support::{BundleRequest, TestServer, entry, new_csr};

/// Everything still works.
async fn check(server: &TestServer) {
    let agent = tokio::time::timeout(Duration::from_secs(20), server.agent())
        .await
        .expect("the server still lets agents in");
    server.create(vec![entry(&agent.id, "/web")]).await;
    assert_eq!(agent.authorized().await.len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn garbage_on_either_socket_ends_that_connection_alone() {
    let server = TestServer::start().await;
    let garbage = vec![0xa5; 64 * 1024];
    for _ in 0..20 {
        let mut tcp = TcpStream::connect(server.addr).await.unwrap();
        let mut unix = UnixStream::connect(&server.socket).await.unwrap();
        // Either side may be closed while it is written to.
        drop(tcp.write_all(&garbage).await);
        drop(unix.write_all(&garbage).await);
        let mut rest = Vec::new();
        let closed = Duration::from_secs(15);
        drop(
            tokio::time::timeout(closed, tcp.read_to_end(&mut rest))
                .await
                .expect("the TCP endpoint hangs up"),
        );
        drop(
            tokio::time::timeout(closed, unix.read_to_end(&mut rest))
                .await
                .expect("the admin socket hangs up"),
        );
    }
    check(&server).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn silent_connections_keep_nobody_out() {
    let server = TestServer::start().await;
    let mut silent = Vec::new();
    for _ in 0..400 {
        silent.push(TcpStream::connect(server.addr).await.unwrap());
    }
    check(&server).await;
    drop(silent);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_that_is_too_large_is_refused_by_size() {
    let server = TestServer::start().await;
    let agent = server.agent().await;
    let mut large = entry(&agent.id, "/large");
    large.hint = "x".repeat(10 * 1024 * 1024);
    let request = finial_proto::pb::spire::api::server::entry::v1::BatchCreateEntryRequest {
        entries: vec![large],
        output_mask: None,
    };
    let refused = server
        .entries()
        .batch_create_entry(request)
        .await
        .unwrap_err();
    assert_eq!(refused.code(), Code::ResourceExhausted, "{refused:?}");
    assert!(refused.message().contains("too large"), "{refused:?}");

    let payload = "x".repeat(10 * 1024 * 1024);
    let refused = server
        .attest_with("join_token", &payload, new_csr())
        .await
        .unwrap_err();
    assert_eq!(refused.code(), Code::ResourceExhausted, "{refused:?}");
    check(&server).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_certificate_of_another_authority_does_not_connect() {
    let server = TestServer::start().await;
    let other = TestServer::start().await;
    let key =
        finial_pki::software::SoftwareKey::generate(finial_pki::key::KeyKind::EcP256).unwrap();
    let token = other.token().await;
    let svid: types::X509svid = other
        .attest_with("join_token", &token, crate::support::csr_of(&key))
        .await
        .unwrap();
    let svid = finial_proto::convert::svid::from_pb(svid).unwrap();
    let channel = server.identified(&svid, &key).await;
    let refused =
        finial_proto::pb::spire::api::server::bundle::v1::bundle_client::BundleClient::new(channel)
            .get_bundle(BundleRequest::default())
            .await
            .unwrap_err();
    assert!(
        matches!(
            refused.code(),
            Code::Unavailable | Code::Cancelled | Code::Unknown
        ),
        "{refused:?}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn strangers_who_open_calls_and_say_nothing_make_room_for_others() {
    let server = TestServer::start().await;
    let mut held = Vec::new();
    let mut client = AgentClient::new(server.anonymous().await);
    let silence = tokio_stream::pending();
    let mut first = client.attest_agent(silence).await.unwrap().into_inner();
    let mut opening = JoinSet::new();
    for _ in 0..90 {
        let channel = server.anonymous().await;
        opening.spawn(async move {
            let mut calls = Vec::new();
            for _ in 0..100 {
                let mut client = AgentClient::new(channel.clone());
                calls.push(client.attest_agent(tokio_stream::pending()).await);
            }
            calls
        });
    }
    while let Some(calls) = opening.join_next().await {
        held.push(calls.unwrap());
    }

    let status = first.message().await.unwrap_err();

    assert_eq!(status.code(), Code::Unavailable, "{status:?}");
    check(&server).await;
    drop(held);
}
