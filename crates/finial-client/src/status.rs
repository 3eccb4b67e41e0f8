//! What a status says beyond its code.

use std::error::Error;

use finial_proto::convert::denied;
pub use finial_proto::convert::denied::Reason;
use tonic::{Code, Status};

/// What a server tells a denied agent to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum AgentVerdict {
    /// Drop its SVID and attest again.
    Reattest,
    /// Stop: it was banned.
    Stop,
}

/// Why the server denied an agent, if the status says.
pub fn denied_reason(status: &Status) -> Option<Reason> {
    denied::decode(status)
}

/// What the server tells the agent to do, if anything.
pub fn agent_verdict(status: &Status) -> Option<AgentVerdict> {
    match denied_reason(status)? {
        Reason::AgentExpired
        | Reason::AgentNotActive
        | Reason::AgentNotAttested
        | Reason::AgentMustReattest => Some(AgentVerdict::Reattest),
        Reason::AgentBanned => Some(AgentVerdict::Stop),
        Reason::Unknown => None,
    }
}

/// Tells whether the call failed with its connection, before an answer came: a new connection may do better.
///
/// A server that refuses a client certificate ends the connection too, and a client cannot tell the two apart.
pub fn is_connection_lost(status: &Status) -> bool {
    let local = Error::source(status).is_some();
    match status.code() {
        Code::Unavailable => true,
        Code::Cancelled | Code::Unknown | Code::Internal => local,
        _ => false,
    }
}

/// The message of a status and the causes known on this side, in one line.
pub fn describe(status: &Status) -> String {
    let mut text = status.message().to_owned();
    let mut cause = Error::source(status);
    while let Some(error) = cause {
        let said = error.to_string();
        // Wrappers tend to repeat what they wrap.
        if !text.ends_with(&said) {
            if !text.is_empty() {
                text.push_str(": ");
            }
            text.push_str(&said);
        }
        cause = error.source();
    }
    text
}
