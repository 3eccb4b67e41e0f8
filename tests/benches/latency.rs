//! From the creation of an entry to its SVID on a stream that is open already.

use std::time::Duration;

use finial_proto::pb::spire::api::server::entry::v1::BatchCreateEntryRequest;
use finial_proto::pb::spire::api::server::entry::v1::entry_client::EntryClient;
use finial_proto::pb::spire::api::types;
use finial_tests::lab::{Lab, Make, TRUST_DOMAIN};
use spiffe_types::id::SpiffeId;
use tokio::time::Instant;

use crate::fetches::{open, wait_for_identity};
use crate::{figure, milliseconds, node, quantile, runtime};

const SPIRE_TRIES: usize = 20; // each takes two polls of five seconds
const TRIES: usize = 500;

pub(crate) fn measure(make: &Make) {
    let tries = if *make == Make::Finial {
        TRIES
    } else {
        SPIRE_TRIES
    };
    let lab = Lab::new().unwrap();
    let _server = lab.start_server_of(make).unwrap();
    lab.write_bundle().unwrap();
    let token = lab.join_token().unwrap();
    let agent_lab = lab.agent("agent");
    let _agent = agent_lab.start_of(make, Some(&token)).unwrap();
    let parent = SpiffeId::parse(&format!(
        "spiffe://{TRUST_DOMAIN}/spire/agent/join_token/{token}"
    ))
    .unwrap();
    lab.register("/first", parent.as_str(), &[]).unwrap();

    runtime().block_on(async {
        wait_for_identity(&agent_lab.socket()).await;
        let mut updates = open(&agent_lab.socket()).await;
        let mut client = EntryClient::new(node::admin(&lab));
        let mut times = Vec::new();
        for n in 0..tries {
            let mut entry = node::entry(&format!("/latency/{n}"), &parent, "unused");
            entry.selectors = vec![types::Selector {
                r#type: "unix".to_owned(),
                value: format!("uid:{}", nix::unistd::getuid()),
            }];
            let wanted = format!("spiffe://{TRUST_DOMAIN}/latency/{n}");
            let begin = Instant::now();
            let created = client
                .batch_create_entry(BatchCreateEntryRequest {
                    entries: vec![entry],
                    output_mask: None,
                })
                .await
                .unwrap()
                .into_inner();
            loop {
                let update = updates.message().await.unwrap().unwrap();
                if update.svids.iter().any(|svid| svid.spiffe_id == wanted) {
                    break;
                }
            }
            times.push(begin.elapsed());
            let id = created
                .results
                .into_iter()
                .next()
                .unwrap()
                .entry
                .unwrap()
                .id;
            client
                .batch_delete_entry(
                    finial_proto::pb::spire::api::server::entry::v1::BatchDeleteEntryRequest {
                        ids: vec![id],
                    },
                )
                .await
                .unwrap();
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        figure(
            make,
            &format!("entry created to SVID on the stream, {tries} tries"),
            &format!(
                "p50 {}, p99 {}, max {}",
                milliseconds(quantile(&mut times, 0.5)),
                milliseconds(quantile(&mut times, 0.99)),
                milliseconds(quantile(&mut times, 1.0))
            ),
        );
    });
}
