//! Agents as people read them.

use finial_proto::pb::spire::api::types;

use super::client::plural;
use super::entry_render::time;
use super::id;

/// Renders an agent with a blank line after it.
fn agent(agent: &types::Agent) -> String {
    let mut text = format!(
        "SPIFFE ID         : {}\nAttestation type  : {}\nExpiration time   : {}\n",
        id::render(agent.id.as_ref()),
        agent.attestation_type,
        time(agent.x509svid_expires_at)
    );
    // The serial number of a banned agent is gone.
    if agent.banned {
        text.push_str("Banned            : true\n");
    } else {
        text.extend(["Serial number     : ", &agent.x509svid_serial_number, "\n"]);
    }
    let can_reattest = agent.can_reattest.to_string();
    text.extend(["Can re-attest     : ", &can_reattest, "\n"]);
    if !agent.agent_version.is_empty() {
        text.extend(["Agent version     : ", &agent.agent_version, "\n"]);
    }
    text.push('\n');
    text
}

/// Renders `agent list`.
pub(super) fn list(agents: &[types::Agent]) -> String {
    if agents.is_empty() {
        return "No attested agents found\n".to_owned();
    }
    let found = plural(agents.len(), "attested agent", "attested agents");
    let mut text = format!("Found {found}:\n\n");
    text.extend(agents.iter().map(agent));
    text
}

/// Renders `agent show`.
pub(super) fn show(shown: &types::Agent) -> String {
    let mut text = format!(
        "Found an attested agent given its SPIFFE ID\n\n{}",
        agent(shown)
    );
    for selector in &shown.selectors {
        text.extend([
            "Selectors         : ",
            &selector.r#type,
            ":",
            &selector.value,
            "\n",
        ]);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample() -> types::Agent {
        types::Agent {
            id: Some(id::parse("spiffe://td/spire/agent/x509pop/ab12").unwrap()),
            attestation_type: "x509pop".into(),
            x509svid_serial_number: "123456789".into(),
            x509svid_expires_at: 1_795_355_011,
            selectors: vec![id::selector("x509pop:subject:cn:a").unwrap()],
            can_reattest: true,
            agent_version: "1.15.3".into(),
            ..types::Agent::default()
        }
    }

    #[test]
    fn an_agent_is_shown_with_its_selectors() {
        assert_eq!(
            show(&sample()),
            "Found an attested agent given its SPIFFE ID\n\n\
             SPIFFE ID         : spiffe://td/spire/agent/x509pop/ab12\n\
             Attestation type  : x509pop\n\
             Expiration time   : 2026-11-22 13:43:31 +0000 UTC\n\
             Serial number     : 123456789\n\
             Can re-attest     : true\n\
             Agent version     : 1.15.3\n\n\
             Selectors         : x509pop:subject:cn:a\n"
        );
    }

    #[test]
    fn a_banned_agent_has_no_serial_number() {
        let banned = types::Agent {
            banned: true,
            agent_version: String::new(),
            ..sample()
        };
        assert_eq!(
            list(&[banned]),
            "Found 1 attested agent:\n\n\
             SPIFFE ID         : spiffe://td/spire/agent/x509pop/ab12\n\
             Attestation type  : x509pop\n\
             Expiration time   : 2026-11-22 13:43:31 +0000 UTC\n\
             Banned            : true\n\
             Can re-attest     : true\n\n"
        );
        assert_eq!(list(&[]), "No attested agents found\n");
    }
}
