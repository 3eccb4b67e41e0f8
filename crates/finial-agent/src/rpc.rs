//! A call to the server that failed, as an error to be logged.

use std::fmt;

use finial_client::status::{AgentVerdict, agent_verdict, describe};
use thiserror::Error;
use tonic::{Code, Status};

/// A failed call. Prints its code and message in the words of SPIRE's logs, and the causes known on this side.
#[derive(Debug, Error)]
pub struct RpcFailure(Box<Status>);

impl RpcFailure {
    /// The code the call ended with.
    pub fn code(&self) -> Code {
        self.0.code()
    }

    /// The status the call ended with.
    pub fn status(&self) -> &Status {
        &self.0
    }

    /// What the server told the agent to do, if it did.
    pub fn verdict(&self) -> Option<AgentVerdict> {
        agent_verdict(&self.0)
    }

    /// Whether the call failed because the server's certificate is signed by nobody the agent knows.
    pub fn is_unknown_authority(&self) -> bool {
        let text = describe(&self.0);
        UNKNOWN_AUTHORITY.iter().any(|words| text.contains(words))
    }
}

impl From<Status> for RpcFailure {
    fn from(status: Status) -> Self {
        Self(Box::new(status))
    }
}

impl fmt::Display for RpcFailure {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let code = finial_client::rpc_error::code_name(self.0.code().into());
        write!(
            formatter,
            "rpc error: code = {code} desc = {}",
            describe(&self.0)
        )
    }
}

/// As rustls says it, and as Go says it where the answer comes through a proxy.
const UNKNOWN_AUTHORITY: [&str; 2] = [
    "invalid peer certificate: UnknownIssuer",
    "x509: certificate signed by unknown authority",
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failed_call_reads_as_in_spires_logs() {
        let failure = RpcFailure::from(Status::permission_denied("authorization denied"));

        assert_eq!(
            failure.to_string(),
            "rpc error: code = PermissionDenied desc = authorization denied"
        );
        assert!(std::error::Error::source(&failure).is_none());
    }

    #[test]
    fn an_unknown_authority_is_told_from_other_failures() {
        let unknown = "transport error: invalid peer certificate: UnknownIssuer";
        assert!(RpcFailure::from(Status::unavailable(unknown)).is_unknown_authority());
        assert!(
            !RpcFailure::from(Status::unavailable("connection refused")).is_unknown_authority()
        );
    }
}
