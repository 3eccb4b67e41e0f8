//! Both halves of node attestation: how an agent proves on which node it runs.
//!
//! The host owns the stream, its deadlines and the number of rounds; the halves only turn bytes into bytes.

use std::fmt::Debug;

use async_trait::async_trait;
use spiffe_types::id::SpiffeId;
use spiffe_types::selector::SelectorSet;

use crate::error::AttestError;

/// What a server-side attestor found out about an agent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NodeAttestation {
    /// The agent's SPIFFE ID, below `/spire/agent/<attestor>/` by convention.
    pub agent_id: SpiffeId,
    /// What is true of the node.
    pub selectors: SelectorSet,
    /// Whether the agent can prove itself again at will; otherwise its SVID is renewed instead.
    pub can_reattest: bool,
}

/// The way back to the agent during an attestation.
#[async_trait]
pub trait Challenger: Send {
    /// Sends a challenge and returns the agent's response.
    async fn challenge(&mut self, challenge: Vec<u8>) -> Result<Vec<u8>, AttestError>;
}

/// The server's half.
#[async_trait]
pub trait ServerNodeAttestor: Debug + Send + Sync {
    /// Returns the attestation type, as agents name it.
    fn name(&self) -> &str;

    /// Decides whether `payload`, and the agent's answers to challenges, prove an identity.
    async fn attest(
        &self,
        payload: &[u8],
        agent: &mut dyn Challenger,
    ) -> Result<NodeAttestation, AttestError>;
}

/// The agent's half.
#[async_trait]
pub trait AgentNodeAttestor: Debug + Send + Sync {
    /// Returns the attestation type, as the server knows it.
    fn name(&self) -> &str;

    /// Returns what opens an attestation.
    async fn payload(&self) -> Result<Vec<u8>, AttestError>;

    /// Answers a challenge.
    async fn respond(&self, challenge: &[u8]) -> Result<Vec<u8>, AttestError>;
}
