//! What the commands that talk to an agent share.

use std::path::{Path, PathBuf};

use finial_client::connect;
use finial_client::rpc_error::{RpcError, Target};
use finial_runtime::cli::socket::SocketError;
use finial_runtime::cli::{FlagSet, Flags, socket};
use tonic::Status;
use tonic::transport::Channel;

use crate::config::DEFAULT_SOCKET_PATH;

const SOCKET_ENV: &str = "SPIRE_AGENT_PUBLIC_SOCKET";

/// The flags that say where the agent is.
pub(super) fn flags(name: &'static str) -> FlagSet {
    socket::flags(FlagSet::new(name), DEFAULT_SOCKET_PATH)
}

/// Where the agent is. Its socket is dialled when the first call needs it.
#[derive(Debug)]
pub(super) struct Agent {
    path: PathBuf,
    target: Target,
}

impl Agent {
    pub(super) fn find(flags: &Flags) -> anyhow::Result<Self> {
        let env = |name: &str| std::env::var(name).ok();
        let path =
            socket::resolve(flags, DEFAULT_SOCKET_PATH, SOCKET_ENV, env).map_err(as_spire)?;
        Ok(Self {
            target: Target::path(&path),
            path,
        })
    }

    /// Makes a channel. Must be called within a Tokio runtime.
    pub(super) fn channel(&self) -> Channel {
        connect::unix(&self.path)
    }

    /// Where its socket is.
    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Turns a failed call into an error that prints as scripts know it.
    pub(super) fn error(&self, status: &Status) -> RpcError {
        RpcError::new(status, &self.target)
    }
}

/// The agent's command line words this error in its own way.
fn as_spire(error: SocketError) -> anyhow::Error {
    match error {
        SocketError::NoTemplate { variable } => anyhow::anyhow!(
            " {variable} environment variable must be defined when using the instance flag"
        ),
        error @ SocketError::NoPlace { .. } => error.into(),
    }
}
