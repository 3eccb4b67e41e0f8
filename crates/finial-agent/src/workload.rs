//! Workloads: who calls, and which selectors hold for the caller.

pub mod attest;

use finial_plugin::workload::{CaptureError, Peer};
use tokio::sync::Notify;

/// The process behind one connection to the Workload API; every request of the connection carries it.
#[derive(Debug)]
pub struct Caller {
    peer: Result<Peer, CaptureError>,
    hang_up: Notify,
}

impl Caller {
    /// Wraps what was captured at accept.
    pub fn new(peer: Result<Peer, CaptureError>) -> Self {
        Self {
            peer,
            hang_up: Notify::new(),
        }
    }

    /// Returns the process, or why it is unknown.
    pub fn peer(&self) -> Result<&Peer, &CaptureError> {
        self.peer.as_ref()
    }

    /// Returns the process id, 0 when it is unknown.
    pub fn pid(&self) -> i32 {
        self.peer.as_ref().map_or(0, Peer::pid)
    }

    /// Tells whether the agent itself calls, as it does for its health checks.
    pub fn is_agent(&self) -> bool {
        u32::try_from(self.pid()) == Ok(std::process::id())
    }

    /// Asks for the connection to be closed, once what is being answered has been sent.
    pub fn hang_up(&self) {
        self.hang_up.notify_one();
    }

    /// Waits until somebody asked for the connection to be closed. Cancel-safe.
    pub async fn hung_up(&self) {
        self.hang_up.notified().await;
    }
}
