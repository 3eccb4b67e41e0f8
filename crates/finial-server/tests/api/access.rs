//! Who is let in, method by method.

use bytes::{Buf as _, BufMut as _, Bytes};
use finial_pki::key::KeyKind;
use finial_pki::software::SoftwareKey;
use finial_proto::convert;
use finial_proto::convert::denied;
use finial_proto::pb::spire::api::server::agent::v1 as agent_pb;
use finial_proto::pb::spire::api::server::agent::v1::agent_client::AgentClient;
use finial_proto::pb::spire::api::server::entry::v1 as entry_pb;
use finial_proto::pb::spire::api::server::svid::v1 as svid_pb;
use finial_proto::pb::spire::api::server::svid::v1::svid_client::SvidClient;
use finial_proto::pb::spire::api::types;
use finial_server::authorize::table::{ROWS, Roles};
use prost::Message as _;
use spiffe_types::id::SpiffeId;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio_stream::wrappers::ReceiverStream;
use tonic::codec::{Codec, DecodeBuf, Decoder, EncodeBuf, Encoder};
use tonic::transport::Channel;
use tonic::{Code, Status};

use crate::support::{Settings, TestAgent, TestServer, csr_of, entry};

/// Sends and receives bytes as they are, so that one client calls every method.
#[derive(Debug, Clone, Copy, Default)]
struct Raw;

impl Codec for Raw {
    type Encode = Bytes;
    type Decode = Bytes;
    type Encoder = Self;
    type Decoder = Self;

    fn encoder(&mut self) -> Self {
        *self
    }

    fn decoder(&mut self) -> Self {
        *self
    }
}

impl Encoder for Raw {
    type Item = Bytes;
    type Error = Status;

    fn encode(&mut self, item: Bytes, target: &mut EncodeBuf<'_>) -> Result<(), Status> {
        target.put(item);
        Ok(())
    }
}

impl Decoder for Raw {
    type Item = Bytes;
    type Error = Status;

    fn decode(&mut self, source: &mut DecodeBuf<'_>) -> Result<Option<Bytes>, Status> {
        Ok(Some(source.copy_to_bytes(source.remaining())))
    }
}

async fn call(channel: &Channel, path: &'static str) -> Result<(), Status> {
    let mut client = tonic::client::Grpc::new(channel.clone());
    client.ready().await.unwrap();
    let path = http::uri::PathAndQuery::from_static(path);
    client
        .unary(tonic::Request::new(Bytes::new()), path, Raw)
        .await
        .map(drop)
}

/// Calls a method whose message comes once `message` yields it.
async fn call_late(
    channel: Channel,
    path: &'static str,
    message: mpsc::Receiver<Bytes>,
) -> Result<Bytes, Status> {
    let mut client = tonic::client::Grpc::new(channel);
    client.ready().await.unwrap();
    let path = http::uri::PathAndQuery::from_static(path);
    let request = tonic::Request::new(ReceiverStream::new(message));
    let response = client.client_streaming(request, path, Raw).await?;
    Ok(response.into_inner())
}

const BATCH_NEW_X509SVID: &str = "/spire.api.server.svid.v1.SVID/BatchNewX509SVID";
const MINT_X509SVID: &str = "/spire.api.server.svid.v1.SVID/MintX509SVID";

/// A TLS client with the SVID of an entry that `mark` has changed.
async fn workload(
    server: &TestServer,
    agent: &TestAgent,
    path: &str,
    mark: impl FnOnce(&mut types::Entry),
) -> Channel {
    let mut new = entry(&agent.id, path);
    mark(&mut new);
    let created = server.create(vec![new]).await;
    let key = SoftwareKey::generate(KeyKind::EcP256).unwrap();
    let request = svid_pb::BatchNewX509svidRequest {
        params: vec![svid_pb::NewX509svidParams {
            entry_id: created[0].id.clone(),
            csr: csr_of(&key),
        }],
    };
    let response = agent.svids().batch_new_x509svid(request).await.unwrap();
    let svid = response.into_inner().results.remove(0).svid.unwrap();
    let svid = convert::svid::from_pb(svid).unwrap();
    server.identified(&svid, &key).await
}

#[tokio::test(flavor = "multi_thread")]
async fn every_method_refuses_the_callers_its_row_does_not_name() {
    let server = TestServer::start().await;
    let agent = server.agent().await;
    let callers = [
        (Roles::LOCAL, server.admin()),
        (Roles::AGENT, agent.channel.clone()),
        (
            Roles::ADMIN,
            workload(&server, &agent, "/admin", |entry| entry.admin = true).await,
        ),
        (
            Roles::DOWNSTREAM,
            workload(&server, &agent, "/down", |entry| entry.downstream = true).await,
        ),
        (Roles::ANYONE, server.anonymous().await),
        (
            Roles::ANYONE,
            workload(&server, &agent, "/plain", |_| {}).await,
        ),
    ];
    for row in ROWS {
        for (role, channel) in &callers {
            let local = *role == Roles::LOCAL;
            if row.endless && row.allowed.contains(*role) {
                continue; // it would answer, without end
            }
            let outcome = call(channel, row.path).await;
            let status = outcome.as_ref().err();
            let code = status.map_or(Code::Ok, Status::code);
            let allowed = row.allowed.contains(Roles::ANYONE) || row.allowed.contains(*role);
            let context = format!("{} as {role:?}: {outcome:?}", row.path);
            if row.local_only && !local {
                assert_eq!(code, Code::Unimplemented, "{context}");
                let service = format!("unknown service {}", row.service);
                assert_eq!(status.unwrap().message(), service, "{context}");
            } else if allowed {
                assert_ne!(code, Code::PermissionDenied, "{context}");
            } else {
                assert_eq!(code, Code::PermissionDenied, "{context}");
                let text = format!("authorization denied for method {}", row.path);
                assert_eq!(status.unwrap().message(), text, "{context}");
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn unknown_methods_and_services_are_unimplemented() {
    let server = TestServer::start().await;
    let channel = server.admin();
    let status = call(&channel, "/spire.api.server.agent.v1.Agent/Nope")
        .await
        .unwrap_err();
    assert_eq!(status.code(), Code::Unimplemented);
    assert_eq!(
        status.message(),
        "unknown method Nope for service spire.api.server.agent.v1.Agent"
    );
    let status = call(&channel, "/nobody.Knows/It").await.unwrap_err();
    assert_eq!(status.code(), Code::Unimplemented);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_admin_id_of_the_configuration_needs_no_entry() {
    let server = TestServer::start_with(Settings {
        lines: r#"admin_ids = ["spiffe://example.org/operator"]"#,
        ..Settings::default()
    })
    .await;
    let key = SoftwareKey::generate(KeyKind::EcP256).unwrap();
    let id = SpiffeId::parse("spiffe://example.org/operator").unwrap();
    let csr = finial_pki::csr::create_with_software(&key, Some(&id), &[]).unwrap();
    let request = svid_pb::MintX509svidRequest {
        csr: csr.into(),
        ttl: 0,
    };
    let minted = SvidClient::new(server.admin()).mint_x509svid(request).await;
    let svid = minted.unwrap().into_inner().svid.unwrap();
    let svid = convert::svid::from_pb(svid).unwrap();
    let mut agents = AgentClient::new(server.identified(&svid, &key).await);
    let request = agent_pb::CountAgentsRequest::default();
    assert_eq!(
        agents
            .count_agents(request)
            .await
            .unwrap()
            .into_inner()
            .count,
        0
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_stops_while_clients_are_connected() {
    let server = TestServer::start().await;
    let agent = server.agent().await;
    agent.authorized().await;
    let admin = server.agents();
    server.stop().await.unwrap();
    drop(admin);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_call_that_was_opened_before_a_ban_is_refused_when_its_message_comes() {
    let server = TestServer::start().await;
    let agent = server.agent().await;
    let created = server.create(vec![entry(&agent.id, "/web")]).await;
    let request = svid_pb::BatchNewX509svidRequest {
        params: vec![svid_pb::NewX509svidParams {
            entry_id: created[0].id.clone(),
            csr: crate::support::new_csr(),
        }],
    };
    let (message, receiver) = mpsc::channel(1);
    let mut calls = JoinSet::new();
    calls.spawn(call_late(
        agent.channel.clone(),
        BATCH_NEW_X509SVID,
        receiver,
    ));
    // One connection keeps the order: the server knows the first call by now.
    agent.authorized().await;
    let ban = agent_pb::BanAgentRequest {
        id: Some(convert::id::to_pb(&agent.id)),
    };
    server.agents().ban_agent(ban).await.unwrap();

    message.send(request.encode_to_vec().into()).await.unwrap();
    drop(message);
    let status = calls.join_next().await.unwrap().unwrap().unwrap_err();

    assert_eq!(status.code(), Code::PermissionDenied);
    let text = format!("authorization denied for method {BATCH_NEW_X509SVID}");
    assert_eq!(status.message(), text);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_administrator_whose_entry_is_gone_cannot_finish_a_call() {
    let server = TestServer::start().await;
    let agent = server.agent().await;
    let admin = workload(&server, &agent, "/admin", |entry| entry.admin = true).await;
    let key = SoftwareKey::generate(KeyKind::EcP256).unwrap();
    let id = SpiffeId::parse("spiffe://example.org/victim").unwrap();
    let request = svid_pb::MintX509svidRequest {
        csr: finial_pki::csr::create_with_software(&key, Some(&id), &[])
            .unwrap()
            .into(),
        ttl: 0,
    };
    let (message, receiver) = mpsc::channel(1);
    let mut calls = JoinSet::new();
    calls.spawn(call_late(admin.clone(), MINT_X509SVID, receiver));
    call(&admin, "/spire.api.server.agent.v1.Agent/CountAgents")
        .await
        .unwrap();
    let listed = server
        .entries()
        .list_entries(entry_pb::ListEntriesRequest::default())
        .await
        .unwrap();
    let ids = listed
        .into_inner()
        .entries
        .into_iter()
        .map(|entry| entry.id);
    let delete = entry_pb::BatchDeleteEntryRequest { ids: ids.collect() };
    server.entries().batch_delete_entry(delete).await.unwrap();

    message.send(request.encode_to_vec().into()).await.unwrap();
    drop(message);
    let status = calls.join_next().await.unwrap().unwrap().unwrap_err();

    assert_eq!(status.code(), Code::PermissionDenied);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_call_that_waits_for_its_share_is_refused_when_the_agent_is_banned_meanwhile() {
    let server = TestServer::start_with(Settings {
        limited: true,
        ..Settings::default()
    })
    .await;
    let agent = server.agent().await;
    let created = server.create(vec![entry(&agent.id, "/web")]).await;
    let wanted = svid_pb::NewX509svidParams {
        entry_id: created[0].id.clone(),
        csr: crate::support::new_csr(),
    };
    let mut full = svid_pb::BatchNewX509svidRequest {
        params: vec![svid_pb::NewX509svidParams::default(); 500],
    };
    agent
        .svids()
        .batch_new_x509svid(full.clone())
        .await
        .unwrap();
    full.params[0] = wanted;
    let mut calls = JoinSet::new();
    let mut svids = agent.svids();
    calls.spawn(async move { svids.batch_new_x509svid(full).await });
    agent.authorized().await;
    let ban = agent_pb::BanAgentRequest {
        id: Some(convert::id::to_pb(&agent.id)),
    };
    server.agents().ban_agent(ban).await.unwrap();

    let status = calls.join_next().await.unwrap().unwrap().unwrap_err();

    assert_eq!(status.code(), Code::PermissionDenied);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_synchronization_under_way_tells_an_evicted_agent_nothing_more() {
    let server = TestServer::start().await;
    let agent = server.agent().await;
    let entries = (0..501).map(|n| entry(&agent.id, &format!("/w{n}")));
    let created = server.create(entries.collect()).await;
    let (requests, receiver) = mpsc::channel(1);
    requests
        .send(entry_pb::SyncAuthorizedEntriesRequest::default())
        .await
        .unwrap();
    let replies = agent
        .entries()
        .sync_authorized_entries(ReceiverStream::new(receiver))
        .await;
    let mut replies = replies.unwrap().into_inner();
    while replies.message().await.unwrap().unwrap().more {}
    let evict = agent_pb::DeleteAgentRequest {
        id: Some(convert::id::to_pb(&agent.id)),
    };
    server.agents().delete_agent(evict).await.unwrap();

    let request = entry_pb::SyncAuthorizedEntriesRequest {
        ids: vec![created[0].id.clone()],
        output_mask: None,
    };
    requests.send(request).await.unwrap();
    let status = replies.message().await.unwrap_err();

    assert_eq!(status.code(), Code::PermissionDenied);
    assert_eq!(
        denied::decode(&status),
        Some(denied::Reason::AgentNotAttested)
    );
}
