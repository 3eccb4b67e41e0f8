//! The two sockets of the server, and what happens to a call on its way to a handler.

use std::fmt::Display;
use std::sync::Arc;

use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

mod arriving;
mod endless;
mod incoming;
pub(crate) mod layers;
pub(crate) mod tcp;
pub(crate) mod unix;

use layers::Frame;
use tcp::TcpEndpoint;
use unix::UnixEndpoint;

/// Both endpoints, bound, with what they serve.
#[derive(Debug)]
pub(crate) struct Endpoints {
    pub(crate) tcp: TcpEndpoint,
    pub(crate) tcp_frame: Arc<Frame>,
    pub(crate) unix: UnixEndpoint,
    pub(crate) unix_frame: Arc<Frame>,
}

impl Endpoints {
    /// Serves both until `stop`; returns when the last call has ended or the grace period is over.
    pub(crate) async fn run(self, stop: CancellationToken) {
        incoming::raise_file_limit();
        tokio::join!(
            self.tcp.run(self.tcp_frame, stop.clone()),
            self.unix.run(self.unix_frame, stop),
        );
    }
}

async fn stop(connections: JoinSet<()>, address: &(dyn Display + Sync), network: &'static str) {
    let subsystem_name = "endpoints";
    tracing::info!(subsystem_name, %address, network, "Stopping Server APIs");
    tracing::info!(subsystem_name, %address, network, "Attempting graceful stop");
    if incoming::drain(connections).await {
        tracing::info!(subsystem_name, %address, network, "Graceful stop successful");
    } else {
        tracing::warn!(
            subsystem_name,
            %address,
            network,
            "Graceful stop unsuccessful, forced stop after 10s"
        );
    }
    tracing::info!(subsystem_name, %address, network, "Server APIs have stopped");
}
