//! The promise itself: our programs and SPIRE's, mixed. Needs SPIRE's programs: see [`tools::spire`].

use std::time::Duration;

use finial_tests::lab::{AgentLab, Lab, Make, TRUST_DOMAIN};
use finial_tests::{tools, wait};

fn fetched(agent: &AgentLab, id: &str) {
    wait::until("the identity", Duration::from_secs(40), || {
        let output = agent.cli(&["api", "fetch", "x509"]).unwrap();
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        (output.status.success() && text.contains(&format!("SPIFFE ID:\t\t{id}"))).then_some(())
    });
}

fn parent(token: &str) -> String {
    format!("spiffe://{TRUST_DOMAIN}/spire/agent/join_token/{token}")
}

/// The server of `server` serves the agent of `first`; then the agent of `second` goes on from the same data folder.
fn agents_change_places(server: &Make, first: &Make, second: &Make) {
    let lab = Lab::new().unwrap();
    let _server = lab.start_server_of(server).unwrap();
    lab.write_bundle().unwrap();
    let token = lab.join_token().unwrap();
    let agent_lab = lab.agent("agent");
    let id = lab.register("/web", &parent(&token), &[]).unwrap();

    let mut agent = agent_lab.start_of(first, Some(&token)).unwrap();
    fetched(&agent_lab, &id);
    agent.kill().unwrap();

    let _agent = agent_lab.start_of(second, None).unwrap();
    fetched(&agent_lab, &id);
    let listed = lab.server_does(&["agent", "list"]).unwrap();
    assert!(listed.contains("Found 1 attested agent:"), "{listed}");
}

#[test]
fn a_spire_agent_lives_on_our_server_and_ours_goes_on_from_its_folder() {
    let Some(folder) = tools::spire() else { return };
    agents_change_places(&Make::Finial, &Make::Spire(folder), &Make::Finial);
}

#[test]
fn our_agent_lives_on_a_spire_server_and_a_spire_agent_goes_on_from_its_folder() {
    let Some(folder) = tools::spire() else { return };
    let spire = Make::Spire(folder);
    agents_change_places(&spire, &Make::Finial, &spire);
}
