//! From two configuration files and a join token to an identity in a process' hands.

use std::fs;
use std::process::Command;
use std::time::Duration;

use finial_tests::lab::{Lab, TRUST_DOMAIN};
use finial_tests::{tools, wait};
use nix::sys::signal::Signal;

#[test]
fn a_process_gets_its_x509_svid_and_both_programs_stop_gracefully() {
    let lab = Lab::new().unwrap();
    let mut server = lab.start_server().unwrap();
    lab.write_bundle().unwrap();
    let token = lab.join_token().unwrap();
    let agent_lab = lab.agent("agent");
    let mut agent = agent_lab.start(Some(&token)).unwrap();
    let parent = format!("spiffe://{TRUST_DOMAIN}/spire/agent/join_token/{token}");
    let id = lab
        .register(
            "/web",
            &parent,
            &["-dns", "web.example.org", "-x509SVIDTTL", "300"],
        )
        .unwrap();

    let folder = lab.path().join("svid");
    fs::create_dir(&folder).unwrap();
    let output = wait::until("the identity", Duration::from_secs(10), || {
        let output = agent_lab
            .cli(&["api", "fetch", "x509", "-write", folder.to_str().unwrap()])
            .unwrap();
        output.status.success().then_some(output)
    });
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(text.contains(&format!("SPIFFE ID:\t\t{id}")), "{text}");

    for process in [&mut agent, &mut server] {
        process.signal(Signal::SIGTERM).unwrap();
        assert!(
            process.wait(Duration::from_secs(15)).success(),
            "{}",
            process.output()
        );
    }
    assert!(agent.output().contains("Agent stopped gracefully"));
    assert!(server.output().contains("Server stopped gracefully"));
}

#[test]
fn a_process_without_an_entry_is_refused_with_the_words_that_clients_know() {
    let lab = Lab::new().unwrap();
    let _server = lab.start_server().unwrap();
    lab.write_bundle().unwrap();
    let token = lab.join_token().unwrap();
    let agent_lab = lab.agent("agent");
    let _agent = agent_lab.start(Some(&token)).unwrap();

    let output = agent_lab.cli(&["api", "fetch", "x509"]).unwrap();

    assert_eq!(output.status.code(), Some(1));
    let error = String::from_utf8(output.stderr).unwrap();
    assert!(
        error.contains("rpc error: code = PermissionDenied desc = no identity issued"),
        "{error}"
    );
}

#[test]
fn an_agent_goes_on_with_its_identity_after_a_restart_without_a_token() {
    let lab = Lab::new().unwrap();
    let _server = lab.start_server().unwrap();
    lab.write_bundle().unwrap();
    let token = lab.join_token().unwrap();
    let agent_lab = lab.agent("agent");
    let mut agent = agent_lab.start(Some(&token)).unwrap();
    agent.kill().unwrap();

    let _agent = agent_lab.start(None).unwrap();

    let listed = lab.server_does(&["agent", "list"]).unwrap();
    assert!(listed.contains("Found 1 attested agent:"), "{listed}");
    assert!(listed.contains(&token), "{listed}");
}

#[test]
fn the_dev_program_prints_a_first_svid() {
    let folder = tempfile::tempdir().unwrap();
    let mut command = Command::new(tools::binary("finial"));
    command
        .arg("dev")
        .arg("-dir")
        .arg(folder.path().join("dev"));
    let mut dev = finial_tests::process::Process::start(
        "finial dev",
        &mut command,
        &folder.path().join("dev.log"),
    )
    .unwrap();
    dev.wait_for("First SVID after", Duration::from_secs(30));
    assert!(
        dev.output().contains("spiffe://example.org/"),
        "{}",
        dev.output()
    );
    dev.signal(Signal::SIGINT).unwrap();
    assert!(
        dev.wait(Duration::from_secs(15)).success(),
        "{}",
        dev.output()
    );
}
