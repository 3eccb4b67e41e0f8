//! Server and agent are killed at random moments; what they were must go on, and no client may see a wrong answer.

use std::collections::BTreeSet;
use std::fs;
use std::time::Duration;

use finial_tests::lab::{Lab, TRUST_DOMAIN};
use finial_tests::wait;
use tokio::time::Instant;

/// How often each program is killed.
const KILLS: u32 = 50;

#[test]
fn fifty_power_cuts_change_neither_trust_domain_nor_agent_nor_identity() {
    let lab = Lab::new().unwrap();
    let mut server = lab.start_server().unwrap();
    lab.write_bundle().unwrap();
    let authorities = lab.server_does(&["bundle", "show"]).unwrap();
    let token = lab.join_token().unwrap();
    let agent_lab = lab.agent("agent");
    let mut agent = agent_lab.start(Some(&token)).unwrap();
    let parent = format!("spiffe://{TRUST_DOMAIN}/spire/agent/join_token/{token}");
    // Short-lived, so that kills fall into rotations too.
    let id = lab
        .register("/web", &parent, &["-x509SVIDTTL", "4"])
        .unwrap();
    let mut chance = Chance(0x9e37_79b9_7f4a_7c15);

    for kill in 0..KILLS {
        wait_between(&mut chance);
        if kill % 2 == 0 {
            server.kill().unwrap();
            check_files(&lab, &agent_lab);
            server = lab.start_server().unwrap();
        } else {
            agent.kill().unwrap();
            check_files(&lab, &agent_lab);
            agent = agent_lab.start(None).unwrap();
        }
        if kill % 10 == 9 {
            // Every answer is either the identity or a refusal that says "not now"; after a heal it is the identity.
            wait::until("the identity after a kill", Duration::from_secs(30), || {
                let output = agent_lab.cli(&["api", "fetch", "x509"]).unwrap();
                let text = String::from_utf8_lossy(&output.stdout).into_owned();
                if output.status.success() {
                    let ids: BTreeSet<&str> = text
                        .lines()
                        .filter_map(|line| line.strip_prefix("SPIFFE ID:\t\t"))
                        .collect();
                    assert_eq!(ids, BTreeSet::from([id.as_str()]), "{text}");
                    return Some(());
                }
                let error = String::from_utf8_lossy(&output.stderr).into_owned();
                assert!(
                    !error.contains("PermissionDenied"),
                    "a registered process was told that it has no identity: {error}"
                );
                None
            });
        }
    }

    assert_eq!(lab.server_does(&["bundle", "show"]).unwrap(), authorities);
    let agents = lab.server_does(&["agent", "list"]).unwrap();
    assert!(agents.contains("Found 1 attested agent:"), "{agents}");
    assert!(agents.contains(&parent), "{agents}");
}

/// What lies on disk after a kill must be whole.
fn check_files(lab: &Lab, agent: &finial_tests::lab::AgentLab) {
    for path in [
        lab.path().join("server-keys.json"),
        agent.path().join("data/keys.json"),
        agent.path().join("data/agent-data.json"),
    ] {
        let text = fs::read_to_string(&path).unwrap();
        let parsed: Result<serde_json::Value, _> = serde_json::from_str(&text);
        assert!(
            parsed.is_ok(),
            "{} is half-written:\n{text}",
            path.display()
        );
    }
}

/// Lets up to 300 ms pass, so that a kill can fall anywhere into a start, a rotation or a write.
fn wait_between(chance: &mut Chance) {
    let end = Instant::now() + Duration::from_millis(chance.next() % 300);
    wait::until("a random moment", Duration::from_secs(1), || {
        (Instant::now() >= end).then_some(())
    });
}

/// A small generator with a fixed seed: a failing run can be repeated.
struct Chance(u64);

impl Chance {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }
}
