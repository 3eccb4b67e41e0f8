//! Warm `FetchX509SVID`, a new connection each, `unix` attestor, 4 clients.

use std::path::Path;
use std::time::Duration;

use finial_client::connect;
use finial_proto::pb::spiffe_workload_api_client::SpiffeWorkloadApiClient;
use finial_proto::pb::{X509svidRequest, X509svidResponse};
use finial_tests::lab::{Lab, Make, TRUST_DOMAIN};
use tokio::task::JoinSet;
use tokio::time::Instant;
use tonic::metadata::MetadataValue;
use tonic::{Request, Streaming};

use crate::{figure, milliseconds, per_second, quantile, runtime};

const CLIENTS: usize = 4;
const TIME: Duration = Duration::from_secs(8);

/// Opens a stream and waits for its first answer's arrival to be possible; panics when the agent refuses.
pub(crate) async fn open(socket: &Path) -> Streaming<X509svidResponse> {
    let mut request = Request::new(X509svidRequest {});
    request
        .metadata_mut()
        .insert("workload.spiffe.io", MetadataValue::from_static("true"));
    SpiffeWorkloadApiClient::new(connect::unix(socket))
        .fetch_x509svid(request)
        .await
        .unwrap()
        .into_inner()
}

#[expect(clippy::cast_precision_loss, reason = "figures are rounded anyway")]
pub(crate) fn measure(make: &Make) {
    let lab = Lab::new().unwrap();
    let _server = lab.start_server_of(make).unwrap();
    lab.write_bundle().unwrap();
    let token = lab.join_token().unwrap();
    let agent_lab = lab.agent("agent");
    let agent = agent_lab.start_of(make, Some(&token)).unwrap();
    lab.register(
        "/web",
        &format!("spiffe://{TRUST_DOMAIN}/spire/agent/join_token/{token}"),
        &[],
    )
    .unwrap();

    runtime().block_on(async {
        let socket = agent_lab.socket();
        wait_for_identity(&socket).await;
        let before = agent.processor_time();
        let begin = Instant::now();
        let mut clients = JoinSet::new();
        for _ in 0..CLIENTS {
            let socket = socket.clone();
            clients.spawn(async move {
                let mut times = Vec::new();
                while begin.elapsed() < TIME {
                    let start = Instant::now();
                    let answer = open(&socket).await.message().await.unwrap().unwrap();
                    assert_eq!(answer.svids.len(), 1);
                    times.push(start.elapsed());
                }
                times
            });
        }
        let mut times: Vec<Duration> = clients.join_all().await.into_iter().flatten().collect();
        let (wall, processor) = (
            begin.elapsed(),
            agent.processor_time().saturating_sub(before),
        );
        figure(
            make,
            "warm FetchX509SVID, new connection each",
            &format!(
                "{:.0} µs of agent CPU each ({:.0} per core-second), {:.0}/s, p50 {}, p99 {}",
                processor.as_micros() as f64 / times.len() as f64,
                per_second(times.len(), processor),
                per_second(times.len(), wall),
                milliseconds(quantile(&mut times, 0.5)),
                milliseconds(quantile(&mut times, 0.99))
            ),
        );
    });
}

/// Waits until a stream gives an identity; a refusal before the agent knows the entry is tried again.
pub(crate) async fn wait_for_identity(socket: &Path) {
    let deadline = Instant::now() + Duration::from_secs(40);
    loop {
        let mut request = Request::new(X509svidRequest {});
        request
            .metadata_mut()
            .insert("workload.spiffe.io", MetadataValue::from_static("true"));
        let answer = SpiffeWorkloadApiClient::new(connect::unix(socket))
            .fetch_x509svid(request)
            .await;
        if let Ok(mut updates) = answer.map(tonic::Response::into_inner)
            && matches!(updates.message().await, Ok(Some(_)))
        {
            return;
        }
        assert!(Instant::now() < deadline, "no identity came");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}
