//! What the commands share that talk to the agent's admin socket.

use std::path::{Path, PathBuf};

use finial_client::connect;
use finial_client::rpc_error::{RpcError, Target};
use finial_runtime::cli::{FlagSet, Flags};
use tonic::transport::Channel;
use tonic::{Code, Status};

use crate::config::DEFAULT_ADMIN_SOCKET_PATH;
use crate::socket::{SocketReport, SocketState};

const PATH: &str = "socketPath";

/// The flag that says where the agent's admin socket is.
pub(super) fn flags(name: &'static str) -> FlagSet {
    FlagSet::new(name).string(
        PATH,
        DEFAULT_ADMIN_SOCKET_PATH,
        "Path to the agent's admin API Unix domain socket",
    )
}

/// Where the agent's admin socket is. It is dialled when the first call needs it.
#[derive(Debug)]
pub(super) struct Admin {
    path: PathBuf,
    target: Target,
}

impl Admin {
    pub(super) fn find(flags: &Flags) -> Self {
        let path = PathBuf::from(flags.string(PATH));
        Self {
            target: Target::path(&path),
            path,
        }
    }

    /// Makes a channel. Must be called within a Tokio runtime.
    pub(super) fn channel(&self) -> Channel {
        connect::unix(&self.path)
    }

    /// Turns a failed call into an error that prints as scripts know it.
    pub(super) fn error(&self, status: &Status) -> RpcError {
        RpcError::new(status, &self.target)
    }

    /// Says why the agent was not reached, and what to do; `None` when it was, and the call failed there.
    pub(super) async fn hint(&self, status: &Status) -> Option<String> {
        let unreached = self.error(status).code() == Code::Unavailable;
        if !unreached {
            return None;
        }
        let report = SocketReport::examine(&self.path).await;
        let hint = match report.state() {
            SocketState::Reachable => return None,
            SocketState::Missing => format!(
                "There is no admin socket at {}: the agent does not run, has not attested yet, or has none. Set admin_socket_path in \
                 its configuration, in a directory of its own, and name it with -socketPath.",
                self.path.display()
            ),
            _ => format!("{}.", capitalized(&report.to_string())),
        };
        Some(hint)
    }
}

/// Says why `path` is not reached, and what to do, for a command that has failed; `None` when it can be reached.
pub(super) async fn why_unreachable(path: &Path) -> Option<String> {
    let report = SocketReport::examine(path).await;
    (report.state() != SocketState::Reachable)
        .then(|| format!("{}.", capitalized(&report.to_string())))
}

fn capitalized(text: &str) -> String {
    let mut chars = text.chars();
    chars
        .next()
        .map(|first| first.to_uppercase().chain(chars).collect())
        .unwrap_or_default()
}
