//! 5,000 `FetchX509SVID` streams opened at once on a fresh agent: how many are answered, and what each costs in memory.

use std::time::Duration;

use finial_tests::lab::{Lab, Make, TRUST_DOMAIN};
use finial_tests::wait;
use tokio::task::JoinSet;
use tokio::time::Instant;

use crate::fetches::{open, wait_for_identity};
use crate::{figure, milliseconds, runtime};

const STREAMS: usize = 5_000;
const SPIRE_STREAMS: usize = 1_000; // where it was seen to wedge
const LIMIT: Duration = Duration::from_secs(30);

#[expect(clippy::cast_precision_loss, reason = "figures are rounded anyway")]
pub(crate) fn measure(make: &Make) {
    let wanted = if *make == Make::Finial {
        STREAMS
    } else {
        SPIRE_STREAMS
    };
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
        let before = agent.resident_bytes();
        let begin = Instant::now();
        let mut streams = JoinSet::new();
        for _ in 0..wanted {
            let socket = socket.clone();
            streams.spawn(async move {
                let mut stream = open(&socket).await;
                let answered = stream.message().await.is_ok_and(|answer| answer.is_some());
                (stream, answered)
            });
        }
        let mut kept = Vec::new();
        let mut answered = 0;
        while let Ok(Some(joined)) =
            tokio::time::timeout_at(begin + LIMIT, streams.join_next()).await
        {
            let Ok((stream, got)) = joined else { continue };
            answered += usize::from(got);
            kept.push(stream);
        }
        let took = begin.elapsed();
        let each = agent.resident_bytes().saturating_sub(before) as f64 / kept.len().max(1) as f64;
        figure(
            make,
            &format!("{wanted} streams opened at once"),
            &format!(
                "{answered} answered in {}, {:.1} KB of agent memory each",
                milliseconds(took),
                each / 1e3
            ),
        );
        drop(kept);
    });
    wait::until("the agent to let go", Duration::from_mins(1), || {
        (agent.open_files() < 200 || *make != Make::Finial).then_some(())
    });
}
