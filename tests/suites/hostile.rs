//! Bad input from outside: each gets a clear answer, and the process lives on with the file descriptors it had.

use std::fs;
use std::net::TcpStream;
use std::os::unix::net::UnixStream;
use std::process::Command;
use std::time::Duration;

use finial_client::{connect, workload};
use finial_proto::pb::X509svidRequest;
use finial_tests::lab::{Lab, Make, TRUST_DOMAIN};
use finial_tests::process::Process;
use finial_tests::{tools, wait};
use tokio::time::Instant;

#[test]
fn a_token_that_is_wrong_used_or_expired_ends_the_agent_with_a_reason_and_a_command() {
    let lab = Lab::new().unwrap();
    let _server = lab.start_server().unwrap();
    lab.write_bundle().unwrap();
    let token = lab.join_token().unwrap();
    let mut first = lab.agent("first").start(Some(&token)).unwrap();
    first.kill().unwrap();

    let text = lab
        .server_does(&["token", "generate", "-ttl", "1"])
        .unwrap();
    let expired = text.lines().find_map(|line| line.strip_prefix("Token: "));
    // The time that a token loses its worth is kept to the second.
    let minted = Instant::now();
    wait::until("the end of the token", Duration::from_secs(5), || {
        (minted.elapsed() > Duration::from_millis(2100)).then_some(())
    });

    let unusable = "join token does not exist or has already been used";
    for (name, token, reason) in [
        ("used", token.as_str(), "has already been used, at 20"),
        ("wrong", "no-such-token", unusable),
        ("expired", expired.unwrap(), "join token expired at 20"),
    ] {
        let mut agent = lab.agent(name).spawn(&Make::Finial, Some(token)).unwrap();
        let status = agent.wait(Duration::from_secs(20));
        let output = agent.output();
        assert_eq!(status.code(), Some(2), "{output}");
        assert!(output.contains(reason), "{output}");
        assert!(output.contains(token.get(..8).unwrap()), "{output}");
        assert!(output.contains("token generate -spiffeID"), "{output}");
    }
}

#[test]
fn an_agent_of_another_trust_domain_is_refused_by_both_sides() {
    let lab = Lab::new().unwrap();
    let _server = lab.start_server().unwrap();
    lab.write_bundle().unwrap();
    let token = lab.join_token().unwrap();
    let agent_lab = lab.agent("agent");
    let path = agent_lab.write_config().unwrap();
    let text = fs::read_to_string(&path).unwrap();
    fs::write(&path, text.replace(TRUST_DOMAIN, "other.org")).unwrap();

    let mut command = Command::new(tools::binary("finial-agent"));
    command
        .arg("run")
        .arg("-config")
        .arg(&path)
        .args(["-joinToken", &token]);
    let mut agent =
        Process::start("the agent", &mut command, &lab.path().join("other.log")).unwrap();

    agent.wait_for(
        "no X.509 bundle found for trust domain",
        Duration::from_secs(20),
    );
    assert!(
        !agent_lab.socket().exists(),
        "no Workload API without an identity"
    );
    let listed = lab.server_does(&["agent", "list"]).unwrap();
    assert_eq!(listed.trim(), "No attested agents found");
}

#[test]
fn a_broken_configuration_is_named_with_key_and_line() {
    let lab = Lab::new().unwrap();
    let path = lab.write_server_config().unwrap();
    let good = fs::read_to_string(&path).unwrap();
    for (bad, words) in [
        (
            good.replace("trust_domain =", "trust_domian ="),
            ["trust_domian", "trust_domain"],
        ),
        (
            good.replace("plugins {", "plugins {{{"),
            ["unable to decode configuration", "server.conf"],
        ),
        (
            good.chars().take(good.len() / 2).collect(),
            ["unable to decode configuration", "server.conf"],
        ),
        (good.replace("\"DEBUG\"", "\"LOUD\""), ["LOUD", "log"]),
    ] {
        fs::write(&path, bad).unwrap();
        let output = Command::new(tools::binary("finial-server"))
            .arg("run")
            .arg("-config")
            .arg(&path)
            .output()
            .unwrap();
        assert!(!output.status.success());
        let error = String::from_utf8_lossy(&output.stderr).into_owned()
            + &String::from_utf8_lossy(&output.stdout);
        for word in words {
            assert!(error.contains(word), "{word} is missing in: {error}");
        }
    }
}

#[test]
fn garbage_and_idle_connections_on_every_socket_leave_the_programs_as_they_were() {
    const IDLE: usize = 10_000;
    const SILENT: usize = 1_000;
    let lab = Lab::new().unwrap();
    let server = lab.start_server().unwrap();
    lab.write_bundle().unwrap();
    let token = lab.join_token().unwrap();
    let agent_lab = lab.agent("agent");
    let agent = agent_lab.start(Some(&token)).unwrap();
    let before = (server.open_files(), agent.open_files());
    let garbage: Vec<u8> = (0..4096_u32)
        .map(|n| (n.wrapping_mul(31) % 251) as u8)
        .collect();
    // The second form gets past the preface of HTTP/2 and lies from there.
    let mut framed = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec();
    framed.extend_from_slice(&garbage);

    for bytes in [&garbage, &framed] {
        for _ in 0..20 {
            let mut stream = TcpStream::connect(("127.0.0.1", lab.port())).unwrap();
            answer(&mut stream, bytes);
            for socket in [lab.server_socket(), agent_lab.socket()] {
                let mut stream = UnixStream::connect(socket).unwrap();
                answer(&mut stream, bytes);
            }
        }
    }
    let idle: Vec<TcpStream> = (0..IDLE)
        .map(|_| TcpStream::connect(("127.0.0.1", lab.port())).unwrap())
        .collect();
    let silent: Vec<UnixStream> = (0..SILENT)
        .map(|_| UnixStream::connect(agent_lab.socket()).unwrap())
        .collect();
    assert!(lab.server_cli(&["healthcheck"]).unwrap().status.success());
    assert!(agent_lab.cli(&["healthcheck"]).unwrap().status.success());
    drop((idle, silent));

    wait::until(
        "the file descriptors to be given back",
        Duration::from_secs(30),
        || {
            (server.open_files() <= before.0 + 4 && agent.open_files() <= before.1 + 4)
                .then_some(())
        },
    );
}

#[test]
fn five_thousand_streams_opened_at_once_are_all_answered() {
    const STREAMS: usize = 5_000;
    let lab = Lab::new().unwrap();
    let _server = lab.start_server().unwrap();
    lab.write_bundle().unwrap();
    let token = lab.join_token().unwrap();
    let agent_lab = lab.agent("agent");
    let parent = format!("spiffe://{TRUST_DOMAIN}/spire/agent/join_token/{token}");
    let id = lab.register("/web", &parent, &[]).unwrap();
    let _agent = agent_lab.start(Some(&token)).unwrap();

    let runtime = tokio::runtime::Runtime::new().unwrap();
    let answers = runtime.block_on(async {
        let mut streams = tokio::task::JoinSet::new();
        for _ in 0..STREAMS {
            // A connection each, as separate processes have.
            let mut client = workload::client(connect::unix(agent_lab.socket()));
            streams.spawn(async move {
                let mut updates = client
                    .fetch_x509svid(X509svidRequest {})
                    .await
                    .unwrap()
                    .into_inner();
                let first = updates.message().await.unwrap().unwrap();
                (updates, first)
            });
        }
        tokio::time::timeout(Duration::from_mins(2), streams.join_all())
            .await
            .unwrap()
    });

    assert_eq!(answers.len(), STREAMS);
    assert!(
        answers
            .iter()
            .all(|(_, first)| first.svids.len() == 1 && first.svids[0].spiffe_id == id)
    );
}

/// Sends bytes and reads whatever comes until the other side closes; either may fail, which is an answer too.
fn answer(stream: &mut (impl std::io::Read + std::io::Write), bytes: &[u8]) {
    let mut rest = [0; 4096];
    if stream.write_all(bytes).is_ok() {
        drop(stream.flush());
        drop(stream.read(&mut rest));
    }
}
