//! Listening on a Unix socket.
//!
//! A socket that nobody listens on any more is replaced in one step: the new one is bound under a name of its own, listens, has its
//! mode, and then takes the place of the old. So there is never a moment without a socket, nor one with a socket that does not answer.
//! A socket somebody does listen on is left alone. Of processes that start at once, a lock on the directory makes the second see
//! the first. Whoever may read the directory can hold that lock, so it is waited for, but never for long. It needs no
//! file of its own, and ends with the process.

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd as _;
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::time::Duration;

use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg};
use nix::sys::socket::{
    AddressFamily, SockFlag, SockType, UnixAddr, connect, getsockopt, socket, sockopt,
};
use nix::unistd::Uid;
use tempfile::NamedTempFile;
use thiserror::Error;
use tokio::net::UnixListener;

use crate::fs::{FsError, create_dir};

/// Why a Unix socket cannot be listened on.
#[derive(Debug, Error)]
pub enum ListenError {
    /// Its directory is not there, or not ours to write to.
    #[error(transparent)]
    Directory(#[from] FsError),
    /// The path is taken by something that is not a socket.
    #[error("cannot listen on {}: the path exists and is not a socket; move it away or set another socket path", path.display())]
    NotASocket {
        /// The path.
        path: PathBuf,
    },
    /// Another process answers there.
    #[error(
        "cannot listen on {}: another process ({}) answers there already; stop it first, or set another socket path",
        path.display(),
        listener(*.pid)
    )]
    InUse {
        /// The path.
        path: PathBuf,
        /// The process that listens, if it can be seen from here.
        pid: Option<i32>,
    },
    /// The socket could not be bound.
    #[error("failed to listen on unix socket {}", path.display())]
    Bind {
        /// The path.
        path: PathBuf,
        /// The cause.
        source: io::Error,
    },
}

/// A Unix socket that is listened on. Dropped, it is removed, unless another has taken its place.
#[derive(Debug)]
pub struct UnixSocket {
    listener: UnixListener,
    path: PathBuf,
    file: FileId,
}

impl UnixSocket {
    /// Where it is accepted from.
    pub fn listener(&self) -> &UnixListener {
        &self.listener
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }
}

/// The listener closes only after this, so a successor has not begun to take over what is removed here.
impl Drop for UnixSocket {
    fn drop(&mut self) {
        if file_at(&self.path).ok() != Some(self.file) {
            return;
        }
        if let Err(error) = std::fs::remove_file(&self.path) {
            tracing::debug!(path = %self.path.display(), %error, "failed to remove the socket");
        }
    }
}

/// Listens on a Unix socket, replacing one that an earlier process left behind.
///
/// Makes the directory with `dir_mode` when it is missing, and gives the socket exactly `socket_mode`. Warns of directories in which
/// another user could replace the socket. Must be called within a Tokio runtime.
pub fn bind_unix(path: &Path, socket_mode: u32, dir_mode: u32) -> Result<UnixSocket, ListenError> {
    let dir = match path.parent() {
        Some(dir) if !dir.as_os_str().is_empty() => dir,
        _ => Path::new("."),
    };
    create_dir(dir, dir_mode)?;
    warn_of_others(path, dir);
    let failed = |source| ListenError::Bind {
        path: path.to_owned(),
        source,
    };
    let _turn = take_turn(dir);
    check_unix(path)?;
    let fresh = bind_beside(path, dir).map_err(failed)?;
    std::fs::set_permissions(fresh.path(), std::fs::Permissions::from_mode(socket_mode))
        .map_err(failed)?;
    let file = file_at(fresh.path()).map_err(failed)?;
    let listener = fresh.persist(path).map_err(|lost| failed(lost.error))?;
    Ok(UnixSocket {
        listener,
        path: path.to_owned(),
        file,
    })
}

/// A file, whatever it is called.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct FileId {
    device: u64,
    inode: u64,
}

/// The longest name that fits, so that tools which list sockets by the name they were bound to show something to recognise.
fn bind_beside(path: &Path, dir: &Path) -> io::Result<NamedTempFile<UnixListener>> {
    let bind = |prefix: &std::ffi::OsStr| {
        tempfile::Builder::new()
            .prefix(prefix)
            .rand_bytes(RANDOM_CHARS)
            .make_in(dir, |path| UnixListener::bind(path))
    };
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(".");
    match bind(&name) {
        Err(error) if error.kind() == io::ErrorKind::InvalidInput => bind(".".as_ref()),
        done => done,
    }
}

/// Waits until no other process is about to listen in the same directory.
#[expect(
    clippy::disallowed_methods,
    reason = "at the start, for less than a millisecond unless somebody means harm"
)]
fn take_turn(dir: &Path) -> Option<Flock<File>> {
    let mut file = File::open(dir).ok()?;
    for _ in 0..TURN_TRIES {
        file = match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
            Ok(turn) => return Some(turn),
            Err((file, Errno::EWOULDBLOCK)) => file,
            Err((_, errno)) => {
                tracing::debug!(directory = %dir.display(), %errno, "The directory of the socket cannot be locked");
                return None;
            }
        };
        std::thread::sleep(TURN_PAUSE);
    }
    tracing::warn!(
        directory = %dir.display(),
        "Another process keeps the directory of the socket locked; going on without the lock"
    );
    None
}

/// Fails unless there is nothing at `path`, or a socket that nobody listens on: for those who have something to lose before they bind.
pub fn check_unix(path: &Path) -> Result<(), ListenError> {
    let failed = |source| ListenError::Bind {
        path: path.to_owned(),
        source,
    };
    let metadata = match std::fs::symlink_metadata(path) {
        Ok(metadata) => metadata,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(failed(error)),
    };
    if !metadata.file_type().is_socket() {
        return Err(ListenError::NotASocket {
            path: path.to_owned(),
        });
    }
    let probe = socket(
        AddressFamily::Unix,
        SockType::Stream,
        SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK,
        None,
    )
    .map_err(|errno| failed(errno.into()))?;
    let address = UnixAddr::new(path).map_err(|errno| failed(errno.into()))?;
    let pid = match connect(probe.as_raw_fd(), &address) {
        Ok(()) => getsockopt(&probe, sockopt::PeerCredentials)
            .ok()
            .map(|listener| listener.pid())
            .filter(|pid| *pid > 0),
        // It has more waiting for it than it takes.
        Err(Errno::EAGAIN) => None,
        Err(Errno::ECONNREFUSED | Errno::ENOENT) => return Ok(()),
        Err(errno) => return Err(failed(errno.into())),
    };
    Err(ListenError::InUse {
        path: path.to_owned(),
        pid,
    })
}

fn file_at(path: &Path) -> io::Result<FileId> {
    let metadata = std::fs::symlink_metadata(path)?;
    Ok(FileId {
        device: metadata.dev(),
        inode: metadata.ino(),
    })
}

/// Who listens, for the error.
fn listener(pid: Option<i32>) -> String {
    match pid {
        Some(pid) => format!("PID {pid}"),
        None => "which cannot be seen from here: in another container, or on the host".to_owned(),
    }
}

/// Who besides root and us could put a socket of its own in this one's place.
#[derive(Debug, PartialEq, Eq)]
enum Others {
    Owner(u32),
    Everybody(u32),
}

fn warn_of_others(path: &Path, dir: &Path) {
    let path = path.display();
    match find_others(dir, Uid::effective().as_raw()) {
        None => {}
        Some((dir, Others::Owner(owner))) => tracing::warn!(
            %path,
            directory = %dir.display(),
            owner,
            "The directory of the socket belongs to another user, who could put another socket in its place"
        ),
        Some((dir, Others::Everybody(mode))) => tracing::warn!(
            %path,
            directory = %dir.display(),
            mode = format!("{mode:04o}"),
            "Every user may write to the directory of the socket, and could put another socket in its place"
        ),
    }
}

/// The first directory from `dir` up in which somebody else could replace what lies in it.
fn find_others(dir: &Path, user: u32) -> Option<(PathBuf, Others)> {
    let dir = dir.canonicalize().ok()?;
    dir.ancestors().find_map(|dir| {
        let metadata = std::fs::metadata(dir).ok()?;
        let (owner, mode) = (metadata.uid(), metadata.mode() & 0o7777);
        let others = if owner != 0 && owner != user {
            Others::Owner(owner)
        } else if mode & 0o1002 == 0o0002 {
            Others::Everybody(mode)
        } else {
            return None;
        };
        Some((dir.to_owned(), others))
    })
}

const TURN_TRIES: u32 = 200;
const TURN_PAUSE: Duration = Duration::from_millis(5);
const RANDOM_CHARS: usize = 6;

#[cfg(test)]
mod tests;
