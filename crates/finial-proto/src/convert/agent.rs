//! Agents.

use spiffe_types::agent::AttestedAgent;

use super::{id, selector, time};
use crate::pb::spire::api::types::Agent;

/// The agent as the API shows it: a serial number that is still to be promoted stays inside.
pub fn to_pb(agent: &AttestedAgent) -> Agent {
    Agent {
        id: Some(id::to_pb(&agent.id)),
        attestation_type: agent.attestation_type.clone(),
        x509svid_serial_number: agent
            .serial
            .as_ref()
            .map(ToString::to_string)
            .unwrap_or_default(),
        x509svid_expires_at: time::to_unix(agent.expires_at),
        selectors: selector::to_pb(&agent.selectors),
        banned: agent.is_banned(),
        can_reattest: agent.can_reattest,
        agent_version: agent.agent_version.clone(),
    }
}
