//! `BatchCreateEntry`, 500 a call, to 20,000 entries.

use finial_tests::lab::{Lab, Make};
use spiffe_types::id::SpiffeId;
use tokio::time::Instant;

use crate::{figure, node, per_second, runtime};

const ENTRIES: usize = 20_000;

#[expect(clippy::cast_precision_loss, reason = "figures are rounded anyway")]
pub(crate) fn measure(make: &Make) {
    let lab = Lab::new().unwrap();
    let server = lab.start_server_of(make).unwrap();
    runtime().block_on(async {
        let parent = SpiffeId::parse("spiffe://example.org/spire/agent/bench/1").unwrap();
        let before = server.processor_time();
        let begin = Instant::now();
        let made = node::register(&lab, &parent, "entries", ENTRIES)
            .await
            .len();
        let (wall, processor) = (
            begin.elapsed(),
            server.processor_time().saturating_sub(before),
        );
        figure(
            make,
            "BatchCreateEntry, 500 a call, to 20,000 entries",
            &format!(
                "{:.0} entries/s, {:.0} µs of CPU each, server RSS {:.0} MB",
                per_second(made, wall),
                processor.as_micros() as f64 / made as f64,
                server.resident_bytes() as f64 / 1e6
            ),
        );
    });
}
