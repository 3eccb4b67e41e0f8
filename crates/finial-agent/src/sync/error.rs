//! What goes wrong while synchronizing, and what it means for the agent.

use std::time::Duration;

use finial_client::status::{AgentVerdict, is_connection_lost};
use finial_proto::convert::ConvertError;
use thiserror::Error;

use crate::rpc::RpcFailure;

/// Why a synchronization failed.
#[derive(Debug, Error)]
pub enum SyncError {
    /// The server, or the way to it, refused.
    #[error("failed to {act}")]
    Rpc {
        /// What was being done.
        act: &'static str,
        /// The answer.
        source: RpcFailure,
    },
    /// The server's own bundle makes no sense.
    #[error("failed to parse trust domain bundle")]
    Bundle {
        /// The cause.
        source: ConvertError,
    },
    /// The push stream went quiet, so what the agent holds may be out of date.
    #[error("no heartbeat from the server for {silence:?}")]
    Silent {
        /// For how long.
        silence: Duration,
    },
    /// The server ended the push stream.
    #[error("the server closed the push stream")]
    Closed,
    /// The agent has a new SVID, and opens the push stream with it.
    #[error("the connection was replaced")]
    Redialled,
}

impl SyncError {
    /// An answer of the server to `act`.
    pub(super) fn rpc(act: &'static str) -> impl FnOnce(tonic::Status) -> Self {
        move |status| Self::Rpc {
            act,
            source: status.into(),
        }
    }

    fn failure(&self) -> Option<&RpcFailure> {
        match self {
            Self::Rpc { source, .. } => Some(source),
            Self::Bundle { .. } | Self::Silent { .. } | Self::Closed | Self::Redialled => None,
        }
    }

    /// What the server told the agent to do, if it did.
    pub fn verdict(&self) -> Option<AgentVerdict> {
        self.failure().and_then(RpcFailure::verdict)
    }

    /// Whether the server's certificate is signed by nobody the agent knows.
    pub fn is_unknown_authority(&self) -> bool {
        self.failure().is_some_and(RpcFailure::is_unknown_authority)
    }

    /// Whether the server does not know the call.
    pub fn is_unimplemented(&self) -> bool {
        self.failure()
            .is_some_and(|failure| failure.code() == tonic::Code::Unimplemented)
    }

    /// Whether the connection broke, so that another server may answer next.
    pub fn is_connection_lost(&self) -> bool {
        match self {
            Self::Rpc { source, .. } => is_connection_lost(source.status()),
            Self::Silent { .. } | Self::Closed => true,
            Self::Bundle { .. } | Self::Redialled => false,
        }
    }
}
