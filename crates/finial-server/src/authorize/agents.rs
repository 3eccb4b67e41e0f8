//! Whether an SVID is an attested agent's current one.

use std::sync::Arc;
use std::time::SystemTime;

use finial_datastore::DataStore;
use finial_pki::tls::PeerSvid;
use finial_proto::pb::spire::api::types::permission_denied_details::Reason;
use spiffe_types::agent::AttestedAgent;

use super::AuthorizeError;
use crate::registry::Registry;

/// Checks agents against the list held in memory.
#[derive(Debug)]
pub(super) struct AgentCheck {
    registry: Arc<Registry>,
    store: Arc<dyn DataStore>,
}

/// Why an SVID does not (or no longer) make its holder an agent. Agents act on it, so it travels in the status details.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, thiserror::Error)]
pub enum DenyReason {
    /// The certificate's time is over.
    #[error("agent SVID is expired")]
    Expired,
    /// No such agent, or it was evicted.
    #[error("agent is not attested")]
    NotAttested,
    /// An operator banned it.
    #[error("agent is banned")]
    Banned,
    /// Neither the current nor the new serial number is the one presented.
    #[error("agent SVID is not active")]
    NotActive,
    /// It can attest again, and must do so instead of renewing.
    #[error("agent must reattest instead of renew")]
    MustReattest,
}

impl DenyReason {
    /// The reason on the wire.
    pub const fn to_wire(self) -> Reason {
        match self {
            Self::Expired => Reason::AgentExpired,
            Self::NotAttested => Reason::AgentNotAttested,
            Self::Banned => Reason::AgentBanned,
            Self::NotActive => Reason::AgentNotActive,
            Self::MustReattest => Reason::AgentMustReattest,
        }
    }
}

/// What the list says about a serial number.
#[derive(Debug, PartialEq, Eq)]
enum Verdict {
    Current,
    /// The agent uses its renewed SVID for the first time.
    New,
    Refused(DenyReason),
}

impl AgentCheck {
    pub(super) fn new(registry: Arc<Registry>, store: Arc<dyn DataStore>) -> Self {
        Self { registry, store }
    }

    pub(super) async fn check(
        &self,
        svid: &PeerSvid,
        now: SystemTime,
    ) -> Result<(), AuthorizeError> {
        if now > svid.not_after {
            return Err(AuthorizeError::Denied(Some(DenyReason::Expired)));
        }
        let mut verdict = judge(self.registry.agent(&svid.id).as_deref(), svid);
        if matches!(verdict, Verdict::Refused(_)) {
            // Another server may have let the agent in a moment ago: only a fresh look refuses.
            self.registry
                .catch_up()
                .await
                .map_err(AuthorizeError::LookUpAgent)?;
            verdict = judge(self.registry.agent(&svid.id).as_deref(), svid);
        }
        match verdict {
            Verdict::Current => Ok(()),
            Verdict::New => self.promote(svid).await,
            Verdict::Refused(reason) => Err(AuthorizeError::Denied(Some(reason))),
        }
    }

    async fn promote(&self, svid: &PeerSvid) -> Result<(), AuthorizeError> {
        let promoted = self
            .store
            .promote_serial(&svid.id, &svid.serial)
            .await
            .map_err(AuthorizeError::ActivateSerial)?;
        self.registry
            .catch_up()
            .await
            .map_err(AuthorizeError::LookUpAgent)?;
        if promoted {
            return Ok(());
        }
        // Somebody was faster: another call of the same agent, or an operator who removed it.
        match judge(self.registry.agent(&svid.id).as_deref(), svid) {
            Verdict::Current => Ok(()),
            Verdict::New => Err(AuthorizeError::Denied(Some(DenyReason::NotActive))),
            Verdict::Refused(reason) => Err(AuthorizeError::Denied(Some(reason))),
        }
    }
}

fn judge(agent: Option<&AttestedAgent>, svid: &PeerSvid) -> Verdict {
    let Some(agent) = agent else {
        return Verdict::Refused(DenyReason::NotAttested);
    };
    if agent.is_banned() {
        return Verdict::Refused(DenyReason::Banned);
    }
    if agent.serial.as_ref() == Some(&svid.serial) {
        return Verdict::Current;
    }
    if agent.new_serial.as_ref() == Some(&svid.serial) {
        return Verdict::New;
    }
    Verdict::Refused(DenyReason::NotActive)
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, UNIX_EPOCH};

    use spiffe_types::agent::SerialNumber;
    use spiffe_types::id::SpiffeId;
    use spiffe_types::selector::SelectorSet;

    use super::*;

    fn serial(number: u8) -> SerialNumber {
        SerialNumber::from_be_bytes(&[number])
    }

    fn svid(number: u8) -> PeerSvid {
        PeerSvid {
            id: SpiffeId::parse("spiffe://example.org/spire/agent/x/1").unwrap(),
            serial: serial(number),
            not_after: UNIX_EPOCH + Duration::from_secs(100),
        }
    }

    fn agent(current: Option<u8>, new: Option<u8>) -> AttestedAgent {
        AttestedAgent {
            id: svid(1).id,
            attestation_type: "x".to_owned(),
            serial: current.map(serial),
            expires_at: UNIX_EPOCH + Duration::from_secs(100),
            new_serial: new.map(serial),
            new_expires_at: None,
            can_reattest: false,
            selectors: SelectorSet::default(),
            agent_version: String::new(),
        }
    }

    #[test]
    fn an_unknown_agent_is_not_attested() {
        assert_eq!(
            judge(None, &svid(1)),
            Verdict::Refused(DenyReason::NotAttested)
        );
    }

    #[test]
    fn a_ban_comes_before_the_serial_number() {
        assert_eq!(
            judge(Some(&agent(None, None)), &svid(1)),
            Verdict::Refused(DenyReason::Banned)
        );
    }

    #[test]
    fn both_the_current_and_the_renewed_serial_number_are_good() {
        let agent = agent(Some(1), Some(2));
        assert_eq!(judge(Some(&agent), &svid(1)), Verdict::Current);
        assert_eq!(judge(Some(&agent), &svid(2)), Verdict::New);
    }

    #[test]
    fn any_other_serial_number_is_not_active() {
        let agent = agent(Some(1), Some(2));
        assert_eq!(
            judge(Some(&agent), &svid(3)),
            Verdict::Refused(DenyReason::NotActive)
        );
    }
}
