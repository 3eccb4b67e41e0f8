//! Whether a Unix socket leads to somebody, and what to do when it does not.
//!
//! "Connection refused" and "no such file" are what workloads read when a volume is mounted the wrong way; each has one cure.

use std::fmt;
use std::io;
use std::os::unix::fs::FileTypeExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use tokio::net::UnixStream;

/// What was found where a socket should be.
#[derive(Debug)]
pub struct SocketReport {
    path: PathBuf,
    state: SocketState,
}

/// The state of a socket.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SocketState {
    /// Somebody accepts connections.
    Reachable,
    /// There is no such file.
    Missing,
    /// A directory is in its place: what container engines make of a file to mount that is not there.
    Directory,
    /// Another kind of file is in its place.
    NotASocket,
    /// Nobody listens any more.
    Refused,
    /// The path or the socket may not be used.
    Forbidden,
    /// Nobody accepts the connection in time.
    Silent,
    /// Something else is wrong.
    Unknown(io::ErrorKind),
}

impl SocketReport {
    /// Looks at `path` and tries to connect.
    pub async fn examine(path: &Path) -> Self {
        let state = match state_of_file(path) {
            Some(state) => state,
            None => match tokio::time::timeout(CONNECT_LIMIT, UnixStream::connect(path)).await {
                Ok(Ok(_)) => SocketState::Reachable,
                Ok(Err(error)) => SocketState::of(&error),
                Err(_elapsed) => SocketState::Silent,
            },
        };
        Self {
            path: path.to_owned(),
            state,
        }
    }

    /// Reports that there is nothing at `path`.
    pub fn missing(path: &Path) -> Self {
        Self {
            path: path.to_owned(),
            state: SocketState::Missing,
        }
    }

    /// The same, told of `path`, as others know the socket.
    #[must_use]
    pub fn known_as(self, path: &Path) -> Self {
        Self {
            path: path.to_owned(),
            ..self
        }
    }

    /// What was found.
    pub fn state(&self) -> SocketState {
        self.state
    }
}

impl SocketState {
    fn of(error: &io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::NotFound | io::ErrorKind::NotADirectory => Self::Missing,
            io::ErrorKind::PermissionDenied => Self::Forbidden,
            io::ErrorKind::ConnectionRefused => Self::Refused,
            kind => Self::Unknown(kind),
        }
    }
}

impl fmt::Display for SocketReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let path = self.path.display();
        let directory = self
            .path
            .parent()
            .unwrap_or_else(|| Path::new("/"))
            .display();
        match self.state {
            SocketState::Reachable => write!(f, "{path} accepts connections"),
            SocketState::Missing => write!(
                f,
                "there is no socket at {path}: the agent does not run, has not attested yet, or listens elsewhere; in a container, mount \
                 the directory {directory} (or a volume) that the agent puts its socket in"
            ),
            SocketState::Directory => write!(
                f,
                "{path} is a directory: a container engine made it when it was to mount a socket that was not there yet; remove it, and \
                 mount the directory {directory} (or a volume), not the socket file"
            ),
            SocketState::NotASocket => write!(
                f,
                "{path} is not a socket; move it away, or name the agent's socket"
            ),
            SocketState::Refused => write!(
                f,
                "nobody listens at {path}: the agent that made this socket has ended; if it was restarted, the socket file itself is \
                 mounted and is still the old one: mount the directory {directory} (or a volume), not the socket file"
            ),
            SocketState::Forbidden => write!(
                f,
                "{path} may not be used: the socket, or a directory above it, does not permit this user; mount the directory with the \
                 agent's owner and mode, or run as a user who may"
            ),
            SocketState::Silent => write!(
                f,
                "{path} does not accept connections: the agent is stopped or overloaded"
            ),
            SocketState::Unknown(kind) => write!(f, "{path} cannot be connected to: {kind}"),
        }
    }
}

/// What the file alone tells; `None` for a socket.
fn state_of_file(path: &Path) -> Option<SocketState> {
    match std::fs::metadata(path) {
        Ok(metadata) if metadata.file_type().is_socket() => None,
        Ok(metadata) if metadata.is_dir() => Some(SocketState::Directory),
        Ok(_) => Some(SocketState::NotASocket),
        Err(error) => Some(SocketState::of(&error)),
    }
}

const CONNECT_LIMIT: Duration = Duration::from_secs(2);

#[cfg(test)]
mod tests {
    use tokio::net::UnixListener;

    use super::*;

    #[tokio::test]
    async fn every_way_not_to_reach_a_socket_has_its_own_cure() {
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| folder.path().join(name);
        std::fs::create_dir(path("directory")).unwrap();
        std::fs::write(path("file"), "").unwrap();
        drop(UnixListener::bind(path("stale")).unwrap());
        let _listener = UnixListener::bind(path("alive")).unwrap();

        for (name, state, cure) in [
            ("missing", SocketState::Missing, "mount the directory"),
            ("file/below", SocketState::Missing, "mount the directory"),
            (
                "directory",
                SocketState::Directory,
                "remove it, and mount the directory",
            ),
            ("file", SocketState::NotASocket, "move it away"),
            ("stale", SocketState::Refused, "not the socket file"),
            ("alive", SocketState::Reachable, "accepts connections"),
        ] {
            let report = SocketReport::examine(&path(name)).await;
            assert_eq!(report.state(), state, "{name}");
            let text = report.to_string();
            assert!(text.contains(cure), "{text}");
            assert!(text.contains(name), "{text}");
        }
    }
}
