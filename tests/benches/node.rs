//! A synthetic agent: attested by join token over the wire, then a channel that carries its SVID.

use std::sync::Arc;

use bytes::Bytes;
use finial_client::connect;
use finial_pki::csr;
use finial_pki::key::KeyKind;
use finial_pki::software::SoftwareKey;
use finial_pki::tls::{self, BundleStore, ServerTrust, SvidSlot};
use finial_proto::pb::spire::api::server::agent::v1::agent_client::AgentClient;
use finial_proto::pb::spire::api::server::agent::v1::attest_agent_request::{Params, Step};
use finial_proto::pb::spire::api::server::agent::v1::{
    AgentX509svidParams, AttestAgentRequest, CreateJoinTokenRequest, attest_agent_response,
};
use finial_proto::pb::spire::api::server::bundle::v1::GetBundleRequest;
use finial_proto::pb::spire::api::server::bundle::v1::bundle_client::BundleClient;
use finial_proto::pb::spire::api::server::entry::v1::BatchCreateEntryRequest;
use finial_proto::pb::spire::api::server::entry::v1::entry_client::EntryClient;
use finial_proto::pb::spire::api::types;
use finial_tests::lab::{Lab, TRUST_DOMAIN};
use spiffe_types::id::{SpiffeId, TrustDomain};
use tonic::transport::Channel;

/// Room for the largest answer of a benchmark.
pub(crate) const MESSAGE_LIMIT: usize = 64 << 20;

/// A connected, attested agent.
#[derive(Debug)]
pub(crate) struct Node {
    pub(crate) id: SpiffeId,
    pub(crate) channel: Channel,
}

/// The admin socket of a lab's server.
pub(crate) fn admin(lab: &Lab) -> Channel {
    connect::unix(lab.server_socket())
}

/// Attests one agent and connects it with its SVID.
pub(crate) async fn attest(lab: &Lab) -> Node {
    let domain = TrustDomain::parse(TRUST_DOMAIN).unwrap();
    let server_id = SpiffeId::server_id(&domain);
    let address = format!("127.0.0.1:{}", lab.port());
    let admin = admin(lab);
    let token = AgentClient::new(admin.clone())
        .create_join_token(CreateJoinTokenRequest {
            ttl: 600,
            ..CreateJoinTokenRequest::default()
        })
        .await
        .unwrap()
        .into_inner()
        .value;
    let bundle = BundleClient::new(admin)
        .get_bundle(GetBundleRequest::default())
        .await
        .unwrap()
        .into_inner();
    let bundle = finial_proto::convert::bundle::from_pb(&bundle).unwrap();
    let bundles = BundleStore::new();
    bundles.set(&bundle);

    let key = SoftwareKey::generate(KeyKind::EcP256).unwrap();
    let request = AttestAgentRequest {
        step: Some(Step::Params(Params {
            data: Some(types::AttestationData {
                r#type: "join_token".to_owned(),
                payload: Bytes::from(token),
            }),
            params: Some(AgentX509svidParams {
                csr: csr::create(&key, None, &[]).await.unwrap().into(),
            }),
        })),
    };
    let roots = bundle
        .x509_authorities
        .iter()
        .map(|authority| authority.der().clone())
        .collect();
    let channel = connect::tls(
        &address,
        tls::bootstrap_config(ServerTrust::Bundle(roots), server_id.clone()),
    );
    let mut answers = AgentClient::new(channel)
        .attest_agent(tokio_stream::once(request))
        .await
        .unwrap()
        .into_inner();
    let answer = answers.message().await.unwrap().unwrap();
    let Some(attest_agent_response::Step::Result(result)) = answer.step else {
        unreachable_answer()
    };
    let svid = result.svid.unwrap();
    let id = svid.id.unwrap();
    let slot = SvidSlot::new();
    slot.set(&svid.cert_chain, key.to_rustls());
    Node {
        id: SpiffeId::from_path(&domain, &id.path).unwrap(),
        channel: connect::tls(
            &address,
            tls::client_config(Some(&slot), &bundles, server_id),
        ),
    }
}

#[expect(clippy::panic, reason = "a benchmark ends by panicking")]
fn unreachable_answer() -> ! {
    panic!("a join token needs no challenge")
}

/// Registers `count` identities under `parent` and returns the IDs of the entries.
pub(crate) async fn register(
    lab: &Lab,
    parent: &SpiffeId,
    prefix: &str,
    count: usize,
) -> Vec<String> {
    let mut client = EntryClient::new(admin(lab)).max_decoding_message_size(MESSAGE_LIMIT);
    let mut ids = Vec::new();
    let all: Vec<usize> = (0..count).collect();
    for batch in all.chunks(500) {
        let entries = batch
            .iter()
            .map(|n| entry(&format!("/{prefix}/{n}"), parent, &format!("{prefix}{n}")))
            .collect();
        let answer = client
            .batch_create_entry(BatchCreateEntryRequest {
                entries,
                output_mask: None,
            })
            .await
            .unwrap()
            .into_inner();
        ids.extend(
            answer
                .results
                .into_iter()
                .map(|result| result.entry.unwrap().id),
        );
    }
    ids
}

/// An entry with one selector of its own.
pub(crate) fn entry(path: &str, parent: &SpiffeId, value: &str) -> types::Entry {
    types::Entry {
        spiffe_id: Some(id(path)),
        parent_id: Some(id(parent.path())),
        selectors: vec![types::Selector {
            r#type: "unix".to_owned(),
            value: format!("user:{value}"),
        }],
        ..types::Entry::default()
    }
}

fn id(path: &str) -> types::Spiffeid {
    types::Spiffeid {
        trust_domain: TRUST_DOMAIN.to_owned(),
        path: path.to_owned(),
    }
}

/// Software keys behind one shared handle, so that a load program does not pay for making them.
pub(crate) async fn requests(count: usize) -> Arc<Vec<Bytes>> {
    let mut made = Vec::with_capacity(count);
    for _ in 0..count {
        let key = SoftwareKey::generate(KeyKind::EcP256).unwrap();
        made.push(Bytes::from(csr::create(&key, None, &[]).await.unwrap()));
    }
    Arc::new(made)
}
