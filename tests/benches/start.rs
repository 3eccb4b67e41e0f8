//! From the start of the programs to the first SVID, and what they weigh at rest.

use std::process::Command;
use std::time::Duration;

use finial_tests::lab::{Lab, Make, TRUST_DOMAIN};
use finial_tests::process::Process;
use finial_tests::{tools, wait};
use tokio::time::Instant;

use crate::{figure, milliseconds, quantile};

const ROUNDS: usize = 10;

pub(crate) fn measure(make: &Make) {
    if *make == Make::Finial {
        dev(make);
    }
    programs(make);
}

/// `finial dev` from its start to the printed SVID.
fn dev(make: &Make) {
    let mut times = Vec::new();
    for round in 0..ROUNDS {
        let folder = tempfile::tempdir().unwrap();
        let mut command = Command::new(tools::binary("finial"));
        command.arg("dev");
        let begin = Instant::now();
        let mut dev = Process::start(
            "finial dev",
            &mut command,
            &folder.path().join(format!("{round}.log")),
        )
        .unwrap();
        dev.wait_for("First SVID after", Duration::from_secs(30));
        times.push(begin.elapsed());
    }
    figure(
        make,
        "dev: start to first SVID, median of 10",
        &milliseconds(quantile(&mut times, 0.5)),
    );
}

/// Server and agent as processes of their own.
#[expect(clippy::cast_precision_loss, reason = "figures are rounded anyway")]
fn programs(make: &Make) {
    let lab = Lab::new().unwrap();
    let begin = Instant::now();
    let server = lab.start_server_of(make).unwrap();
    figure(
        make,
        "server: start to healthy",
        &milliseconds(begin.elapsed()),
    );
    lab.write_bundle().unwrap();
    let token = lab.join_token().unwrap();
    let agent_lab = lab.agent("agent");
    let begin = Instant::now();
    let agent = agent_lab.start_of(make, Some(&token)).unwrap();
    figure(
        make,
        "agent: start to healthy, join token",
        &milliseconds(begin.elapsed()),
    );
    lab.register(
        "/web",
        &format!("spiffe://{TRUST_DOMAIN}/spire/agent/join_token/{token}"),
        &[],
    )
    .unwrap();
    let rest = Instant::now() + Duration::from_secs(5);
    wait::until("five seconds of rest", Duration::from_secs(10), || {
        (Instant::now() > rest).then_some(())
    });
    for (name, process) in [("server", &server), ("agent", &agent)] {
        figure(
            make,
            &format!("{name}: resident memory after 5 s"),
            &format!("{:.1} MB", process.resident_bytes() as f64 / 1e6),
        );
    }
}
