//! X.509-SVIDs through `BatchNewX509SVID`: 4 agents, 100 requests a call.

use std::sync::Arc;
use std::time::Duration;

use finial_proto::pb::spire::api::server::svid::v1::svid_client::SvidClient;
use finial_proto::pb::spire::api::server::svid::v1::{BatchNewX509svidRequest, NewX509svidParams};
use finial_tests::lab::{Lab, Make};
use tokio::task::JoinSet;
use tokio::time::Instant;

use crate::{figure, node, per_second, runtime};

const AGENTS: usize = 4;
const BATCH: usize = 100;
const TIME: Duration = Duration::from_secs(8);

pub(crate) fn measure(make: &Make) {
    let lab = Lab::new().unwrap();
    let server = lab.start_server_of(make).unwrap();
    runtime().block_on(async {
        let requests = node::requests(BATCH).await;
        let mut nodes = Vec::new();
        for n in 0..AGENTS {
            let node = node::attest(&lab).await;
            let entries = node::register(&lab, &node.id, &format!("svids{n}"), BATCH).await;
            nodes.push((node, entries));
        }
        // SPIRE's server learns of entries by polling its own database.
        tokio::time::sleep(Duration::from_secs(7)).await;

        let before = server.processor_time();
        let begin = Instant::now();
        let mut agents = JoinSet::new();
        for (node, entries) in nodes {
            let requests = Arc::clone(&requests);
            agents.spawn(async move {
                let params: Vec<NewX509svidParams> = entries
                    .into_iter()
                    .zip(requests.iter())
                    .map(|(entry_id, csr)| NewX509svidParams {
                        entry_id,
                        csr: csr.clone(),
                    })
                    .collect();
                let mut client =
                    SvidClient::new(node.channel).max_decoding_message_size(node::MESSAGE_LIMIT);
                let mut signed = 0;
                while begin.elapsed() < TIME {
                    let answer = client
                        .batch_new_x509svid(BatchNewX509svidRequest {
                            params: params.clone(),
                        })
                        .await
                        .unwrap()
                        .into_inner();
                    signed += answer
                        .results
                        .iter()
                        .filter(|result| result.svid.is_some())
                        .count();
                }
                signed
            });
        }
        let signed: usize = agents.join_all().await.into_iter().sum();
        let (wall, processor) = (
            begin.elapsed(),
            server.processor_time().saturating_sub(before),
        );
        figure(
            make,
            "X.509-SVIDs through BatchNewX509SVID, per core-second",
            &format!(
                "{:.0} ({:.0}/s in all)",
                per_second(signed, processor),
                per_second(signed, wall)
            ),
        );
    });
}
