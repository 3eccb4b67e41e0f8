//! Agents that replace their own SVID while everything goes on.

use std::process::Command;
use std::time::Duration;

use finial_tests::lab::Lab;
use finial_tests::{tools, wait};
use tokio::time::Instant;

#[test]
fn an_agent_that_attests_again_by_itself_is_never_told_to_by_the_end_of_its_old_stream() {
    let Some(openssl) = tools::openssl() else {
        return;
    };
    let mut lab = Lab::new().unwrap();
    let path = |name: &str| lab.path().join(name).display().to_string();
    let make = |arguments: &[&str]| {
        let output = Command::new(&openssl).args(arguments).output().unwrap();
        assert!(output.status.success(), "{arguments:?}: {output:?}");
    };
    let key = [
        "-newkey",
        "ec",
        "-pkeyopt",
        "ec_paramgen_curve:P-256",
        "-nodes",
    ];
    let (ca, ca_key) = (path("node-ca.pem"), path("node-ca.key"));
    let (node, node_key) = (path("node.pem"), path("node.key"));
    let request =
        |arguments: &[&str]| make(&[&["req", "-x509", "-days", "1"], &key[..], arguments].concat());
    request(&["-subj", "/CN=nodes", "-keyout", &ca_key, "-out", &ca]);
    request(&[
        "-subj",
        "/CN=node",
        "-keyout",
        &node_key,
        "-out",
        &node,
        "-CA",
        &ca,
        "-CAkey",
        &ca_key,
        "-addext",
        "keyUsage=critical,digitalSignature",
        "-addext",
        "basicConstraints=critical,CA:FALSE",
    ]);
    lab.server_settings = "agent_ttl = \"12s\"".to_owned();
    lab.server_plugins =
        format!("NodeAttestor \"x509pop\" {{ plugin_data {{ ca_bundle_path = \"{ca}\" }} }}");
    let server = lab.start_server().unwrap();
    lab.write_bundle().unwrap();
    let mut agent_lab = lab.agent("agent");
    agent_lab.node_attestor = format!(
        "NodeAttestor \"x509pop\" {{ plugin_data {{ private_key_path = \"{node_key}\" certificate_path = \"{node}\" }} }}"
    );
    let agent = agent_lab.start(None).unwrap();

    wait::until("three rotations", Duration::from_mins(1), || {
        let count = agent
            .output()
            .matches("Successfully reattested node")
            .count();
        (count >= 3).then_some(())
    });

    let log = agent.output();
    assert!(!log.contains("Agent needs to re-attest"), "{log}");
    assert!(!log.contains("level=error"), "{log}");
    // Nothing on the server's side that an operator would have to look into.
    let log = server.output();
    assert!(!log.contains("is not active"), "{log}");
}

#[test]
fn an_agent_that_was_off_for_longer_than_its_authorities_last_trusts_the_bootstrap_bundle_anew() {
    let mut lab = Lab::new().unwrap();
    lab.server_settings =
        "ca_ttl = \"10s\"\n agent_ttl = \"5s\"\n default_x509_svid_ttl = \"5s\"".to_owned();
    let mut server = lab.start_server().unwrap();
    lab.write_bundle().unwrap();
    let agent_lab = lab.agent("agent");
    let token = lab.join_token().unwrap();
    let mut agent = agent_lab.start(Some(&token)).unwrap();
    // Both are off until nothing is valid that the agent has kept.
    agent.kill().unwrap();
    server.kill().unwrap();
    let stopped = Instant::now();
    wait::until("the end of the CA", Duration::from_secs(20), || {
        (stopped.elapsed() > Duration::from_secs(12)).then_some(())
    });

    let _server = lab.start_server().unwrap();
    lab.write_bundle().unwrap();
    let token = lab.join_token().unwrap();
    let agent = agent_lab.start(Some(&token)).unwrap();

    let log = agent.output();
    assert!(
        log.contains("Every authority of the stored bundle has expired"),
        "{log}"
    );
}
