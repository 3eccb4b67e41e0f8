//! How an agent ends when it cannot go on, and with which exit code.

use spiffe_types::id::TrustDomain;
use thiserror::Error;

use crate::attestation::exchange::{ExchangeError, JOIN_TOKEN};
use crate::attestation::{AttestationError, reason};
use crate::identity::IdentityError;
use crate::sync::SyncError;

/// Why the agent ended.
#[derive(Debug, Error)]
pub enum AgentError {
    /// The join token is spent, unknown or missing. Starting again with it is no use.
    #[error(
        "unable to attest: {reason}. A join token works once and expires; mint a new one with \
         `finial-server token generate -spiffeID spiffe://{trust_domain}/<path>` and start the agent with `-joinToken <token>`"
    )]
    JoinToken {
        /// The server's words, or what is missing.
        reason: String,
        /// Where the token is to be minted.
        trust_domain: TrustDomain,
    },
    /// There is nothing to trust the server by. Starting again is no use before somebody puts that right.
    #[error(
        "unable to trust the server: {reason}. Get the bundle with `finial-server bundle show > bundle.pem` and name the file \
         in trust_bundle_path"
    )]
    Bootstrap {
        /// What is wrong.
        reason: String,
    },
    /// The node could not be attested.
    #[error("failed to attest node")]
    Attestation {
        /// The cause.
        source: Box<AttestationError>,
    },
    /// The server has banned the agent.
    #[error("agent is banned; lift it by `finial-server agent evict` and attest again")]
    Banned {
        /// The server's answer.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// The server wants the agent to attest again, and the agent cannot.
    #[error(
        "the server wants the agent to attest again, which it cannot by itself; its SVID was removed, so the next start attests. \
         With join tokens, mint a new one with `finial-server token generate`"
    )]
    MustReattest {
        /// The server's answer, or why attesting again failed.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// The server's authority is unknown.
    #[error("failed to sync with SPIRE Server")]
    UnknownAuthority {
        /// The cause.
        source: SyncError,
    },
    /// The first synchronization was tried for long enough.
    #[error("failed to synchronize for the first time")]
    FirstSync {
        /// The cause.
        source: SyncError,
    },
    /// The agent starts over with its first trust at the next start.
    #[error("shutting down for rebootstrapping")]
    Rebootstrap,
    /// The agent's own SVID is lost.
    #[error("cache manager crashed")]
    Identity {
        /// The cause.
        source: IdentityError,
    },
}

impl AgentError {
    /// The exit code of the process: 2 when a new join token is needed, 3 when the bootstrap bundle is unusable, else 1.
    pub const fn exit_code(&self) -> u8 {
        match self {
            Self::JoinToken { .. } => 2,
            Self::Bootstrap { .. } => 3,
            Self::Attestation { .. }
            | Self::Banned { .. }
            | Self::MustReattest { .. }
            | Self::UnknownAuthority { .. }
            | Self::FirstSync { .. }
            | Self::Rebootstrap
            | Self::Identity { .. } => 1,
        }
    }

    /// Tells what an operator has to do from what is just a failure.
    pub(super) fn from_attestation(error: AttestationError, trust_domain: &TrustDomain) -> Self {
        match &error {
            AttestationError::Exchange {
                source: ExchangeError::JoinToken { .. },
            } => Self::JoinToken {
                reason: reason(&error),
                trust_domain: trust_domain.clone(),
            },
            AttestationError::Exchange {
                source: ExchangeError::Payload { attestor, .. },
            } if attestor == JOIN_TOKEN => Self::JoinToken {
                reason: reason(&error),
                trust_domain: trust_domain.clone(),
            },
            AttestationError::Bootstrap { .. } => Self::Bootstrap {
                reason: reason(&error),
            },
            _ => Self::Attestation {
                source: Box::new(error),
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::attestation::bootstrap::BootstrapError;

    #[test]
    fn a_spent_token_ends_with_its_own_code_and_the_cure() {
        let error = AttestationError::Exchange {
            source: ExchangeError::JoinToken {
                beginning: "1234abcd".to_owned(),
                reason: "failed to attest: join token does not exist or has already been used"
                    .to_owned(),
            },
        };
        assert!(!error.can_heal());
        let trust_domain = TrustDomain::parse("example.org").unwrap();
        let error = AgentError::from_attestation(error, &trust_domain);
        let text = error.to_string();

        assert_eq!(error.exit_code(), 2);
        assert!(text.contains("has already been used"), "{text}");
        assert!(text.contains("1234abcd"), "{text}");
        assert!(
            text.contains("token generate -spiffeID spiffe://example.org/"),
            "{text}"
        );
    }

    #[test]
    fn a_missing_bundle_ends_with_its_own_code_and_names_the_file() {
        let error = AttestationError::Bootstrap {
            source: BootstrapError::Read {
                path: "/etc/bundle.pem".into(),
                source: std::io::ErrorKind::NotFound.into(),
            },
        };
        let trust_domain = TrustDomain::parse("example.org").unwrap();
        let error = AgentError::from_attestation(error, &trust_domain);

        assert_eq!(error.exit_code(), 3);
        assert!(error.to_string().contains("/etc/bundle.pem"));
    }
}
