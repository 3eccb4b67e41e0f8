//! Workloads: who calls, and which selectors hold for the caller.

pub mod attest;

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

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

/// Callers whose process the agent could not see, since they live in a PID namespace it has no view of.
#[derive(Debug, Default)]
pub struct UnseenCallers {
    count: AtomicU64,
    last_uid: AtomicU32,
}

impl UnseenCallers {
    /// Notes one more; returns how many there were before.
    pub fn note(&self, uid: u32) -> u64 {
        self.last_uid.store(uid, Ordering::Relaxed);
        self.count.fetch_add(1, Ordering::Relaxed)
    }

    /// How many there were.
    pub fn count(&self) -> u64 {
        self.count.load(Ordering::Relaxed)
    }

    /// The effective user id of the last one.
    pub fn last_uid(&self) -> u32 {
        self.last_uid.load(Ordering::Relaxed)
    }
}
