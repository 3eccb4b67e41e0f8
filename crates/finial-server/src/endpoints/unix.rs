//! The admin endpoint: a Unix socket; whoever can open it is the local administrator.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use finial_runtime::authority::AuthorityRewriter;
use finial_runtime::listen::{ListenError, UnixSocket, bind_unix};
use hyper_util::rt::TokioIo;
use nix::sys::socket::{getsockopt, sockopt};
use tokio::net::UnixStream;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::incoming::{self, Bounds};
use super::layers::{ConnectionService, Frame};
use crate::authorize::{Caller, LocalPeer};

/// The bound admin socket.
#[derive(Debug)]
pub(crate) struct UnixEndpoint {
    socket: UnixSocket,
}

const SOCKET_MODE: u32 = 0o770;
const DIR_MODE: u32 = 0o750;
const ACCEPT_PAUSE: Duration = Duration::from_millis(20);
const BOUNDS: Bounds = Bounds {
    max_age: None,
    max_life: None,
    max_streams: 1000,
    stream_window: 1024 * 1024,
    connection_window: 4 * 1024 * 1024,
};

impl UnixEndpoint {
    pub(crate) fn bind(path: &Path) -> Result<Self, ListenError> {
        Ok(Self {
            socket: bind_unix(path, SOCKET_MODE, DIR_MODE)?,
        })
    }

    pub(crate) fn path(&self) -> &Path {
        self.socket.path()
    }

    /// Serves until `stop`, then lets calls under way finish for the grace period.
    pub(crate) async fn run(self, frame: Arc<Frame>, stop: CancellationToken) {
        let path = self.path().to_owned();
        let address = path.display();
        tracing::info!(subsystem_name = "endpoints", %address, network = "unix", "Starting Server APIs");
        let mut connections = JoinSet::new();
        loop {
            tokio::select! {
                () = stop.cancelled() => break,
                Some(_ended) = connections.join_next() => {}
                accepted = self.socket.listener().accept() => match accepted {
                    Ok((stream, _)) => {
                        connections.spawn(serve(stream, Arc::clone(&frame), stop.clone()));
                    }
                    Err(error) => {
                        tracing::warn!(subsystem_name = "endpoints", %error, "failed to accept a connection");
                        tokio::time::sleep(ACCEPT_PAUSE).await;
                    }
                },
            }
        }
        drop(self.socket);
        super::stop(connections, &address, "unix").await;
    }
}

async fn serve(stream: UnixStream, frame: Arc<Frame>, stop: CancellationToken) {
    let peer = peer_of(&stream, frame.audit);
    let service = ConnectionService::new(frame, Ok(Caller::Local(peer)));
    let io = TokioIo::new(AuthorityRewriter::new(stream));
    Box::pin(incoming::serve(io, service, BOUNDS, stop)).await;
}

fn peer_of(stream: &UnixStream, audit: bool) -> LocalPeer {
    match getsockopt(stream, sockopt::PeerCredentials) {
        Ok(credentials) => LocalPeer {
            pid: Some(credentials.pid()),
            uid: Some(credentials.uid()),
            gid: Some(credentials.gid()),
            path: audit.then(|| program_of(credentials.pid())).flatten(),
        },
        Err(errno) => {
            tracing::debug!(subsystem_name = "endpoints", %errno, "peer credentials are not available");
            LocalPeer::default()
        }
    }
}

fn program_of(pid: i32) -> Option<PathBuf> {
    std::fs::read_link(format!("/proc/{pid}/exe")).ok()
}
