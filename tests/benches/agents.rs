//! What a connected agent costs the server: memory while it holds a push stream (ours) or polls (SPIRE's).

use std::time::Duration;

use finial_proto::pb::finial::sync::v1::sync_client::SyncClient;
use finial_proto::pb::finial::sync::v1::{FollowRequest, Open, follow_request};
use finial_proto::pb::spire::api::server::entry::v1::GetAuthorizedEntriesRequest;
use finial_proto::pb::spire::api::server::entry::v1::entry_client::EntryClient;
use finial_tests::lab::{Lab, Make};
use tokio_stream::StreamExt as _;

use crate::{figure, node, runtime};

const AGENTS: usize = 300;

#[expect(clippy::cast_precision_loss, reason = "figures are rounded anyway")]
pub(crate) fn measure(make: &Make) {
    let lab = Lab::new().unwrap();
    let server = lab.start_server_of(make).unwrap();
    runtime().block_on(async {
        let mut nodes = vec![node::attest(&lab).await];
        let before = server.resident_bytes();
        while nodes.len() <= AGENTS {
            nodes.push(node::attest(&lab).await);
        }
        let mut streams = Vec::new();
        for node in &nodes {
            if *make == Make::Finial {
                let open = FollowRequest {
                    step: Some(follow_request::Step::Open(Open::default())),
                };
                let requests = tokio_stream::once(open).chain(tokio_stream::pending());
                let mut stream = SyncClient::new(node.channel.clone())
                    .follow(requests)
                    .await
                    .unwrap()
                    .into_inner();
                stream.message().await.unwrap().unwrap();
                streams.push(stream);
            } else {
                EntryClient::new(node.channel.clone())
                    .get_authorized_entries(GetAuthorizedEntriesRequest::default())
                    .await
                    .unwrap();
            }
        }
        tokio::time::sleep(Duration::from_secs(2)).await;
        let grown = server.resident_bytes().saturating_sub(before) as f64;
        figure(
            make,
            &format!("memory of the server per connected agent, {AGENTS} agents"),
            &format!("{:.1} KB", grown / AGENTS as f64 / 1e3),
        );
        drop((streams, nodes));
    });
}
