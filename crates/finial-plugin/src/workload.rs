//! The process at the other end of a Unix socket, held so that no other process can be taken for it.
//!
//! A process id is only a number: its owner may exit and a stranger may get it while selectors are being read. So the host captures a
//! [`Peer`] **when it accepts a connection**, with a handle that the kernel never moves to another process: a pidfd (Linux 6.5 and
//! later), or else an open `/proc/<pid>` directory with the start time of the process. [`Peer::open`] gives the [`Workload`] that
//! attestors read. All of its files are opened relative to a held directory, which shows nothing once its process is gone. When the
//! attestors are done, the host asks [`Workload::verify`]; only then may their answers be believed.

use std::fs::File;
use std::io::{self, Read as _};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use nix::errno::Errno;
use nix::fcntl::{OFlag, OpenHow, ResolveFlag, open, openat, openat2, readlinkat};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{getsockopt, sockopt};
use nix::sys::stat::{Mode, fstat};
use thiserror::Error;

use crate::error::AttestError;

/// The process that connected, as the kernel told at accept.
#[derive(Debug, Clone)]
pub struct Peer {
    pid: i32,
    uid: u32,
    gid: u32,
    handle: Arc<Handle>,
}

/// What ties a [`Peer`] to one process.
#[derive(Debug)]
enum Handle {
    /// Readable once the process has exited.
    PidFd(OwnedFd),
    /// Valid as long as the process started then.
    Directory {
        directory: Arc<OwnedFd>,
        start_time: u64,
    },
}

impl Peer {
    /// Asks the kernel who is at the other end of a connected Unix socket. To be called at accept, before anything is read.
    pub fn capture(socket: &impl AsFd) -> Result<Self, CaptureError> {
        let pidfd = match getsockopt(socket, sockopt::PeerPidfd) {
            Ok(pidfd) => Some(pidfd),
            // What the kernel answers when the peer has exited already: 6.5 to 6.15 say EINVAL, later ones ESRCH.
            Err(Errno::EINVAL | Errno::ESRCH | Errno::ENODATA) => None,
            Err(error @ (Errno::EMFILE | Errno::ENFILE | Errno::ENOMEM)) => {
                return Err(CaptureError::Credentials {
                    source: error.into(),
                });
            }
            // ENOPROTOOPT: a kernel before 6.5, or a sandbox that does not know the option.
            Err(_) => return Self::capture_without_pidfd(socket),
        };
        let (pid, uid, gid) = credentials(socket)?;
        let pidfd = pidfd.ok_or(CaptureError::Gone { pid })?;
        Ok(Self {
            pid,
            uid,
            gid,
            handle: Arc::new(Handle::PidFd(pidfd)),
        })
    }

    fn capture_without_pidfd(socket: &impl AsFd) -> Result<Self, CaptureError> {
        let (pid, uid, gid) = credentials(socket)?;
        let gone = |_: WorkloadError| CaptureError::Gone { pid };
        let directory = Arc::new(open_directory(pid).map_err(gone)?);
        let start_time = start_time(pid, directory.as_fd()).map_err(gone)?;
        Ok(Self {
            pid,
            uid,
            gid,
            handle: Arc::new(Handle::Directory {
                directory,
                start_time,
            }),
        })
    }

    /// Takes a process by its number, for a look at it that somebody else asked for: it has not connected, and gets nothing.
    pub fn of_pid(pid: i32) -> Result<Self, WorkloadError> {
        if pid <= 0 {
            return Err(WorkloadError::Gone { pid });
        }
        let directory = Arc::new(open_directory(pid)?);
        let start_time = start_time(pid, directory.as_fd())?;
        let status = read(pid, directory.as_fd(), "status", STATUS_LIMIT_BYTES)?;
        let status = String::from_utf8_lossy(&status);
        let effective = |key: &str| effective_id(&status, key).ok_or(WorkloadError::Gone { pid });
        Ok(Self {
            pid,
            uid: effective("Uid:")?,
            gid: effective("Gid:")?,
            handle: Arc::new(Handle::Directory {
                directory,
                start_time,
            }),
        })
    }

    /// Returns the process id as the agent's PID namespace counts.
    pub fn pid(&self) -> i32 {
        self.pid
    }

    /// Returns the effective user id at the time the process connected.
    pub fn uid(&self) -> u32 {
        self.uid
    }

    /// Returns the effective group id at the time the process connected.
    pub fn gid(&self) -> u32 {
        self.gid
    }

    /// Opens the process for reading.
    pub fn open(&self) -> Result<Workload, WorkloadError> {
        let directory = match &*self.handle {
            Handle::PidFd(_) => Arc::new(open_directory(self.pid)?),
            Handle::Directory { directory, .. } => Arc::clone(directory),
        };
        let workload = Workload {
            peer: self.clone(),
            directory,
        };
        // The directory was opened by number. As the process is alive now, the number was its own when the directory was opened.
        if workload.is_alive() {
            Ok(workload)
        } else {
            Err(WorkloadError::Gone { pid: self.pid })
        }
    }
}

/// An open process that asks for an identity.
#[derive(Debug, Clone)]
pub struct Workload {
    peer: Peer,
    directory: Arc<OwnedFd>,
}

impl Workload {
    /// Returns the process id as the agent's PID namespace counts; for messages and for services that only know numbers.
    ///
    /// Never open `/proc/<pid>` with it: use [`Workload::read`] and its siblings.
    pub fn pid(&self) -> i32 {
        self.peer.pid
    }

    /// Returns the effective user id.
    pub fn uid(&self) -> u32 {
        self.peer.uid
    }

    /// Returns the effective group id.
    pub fn gid(&self) -> u32 {
        self.peer.gid
    }

    /// Reads the process's file `name` (`status`, `cgroup`, `mountinfo`, …), at most `limit_bytes` of it.
    pub fn read(&self, name: &'static str, limit_bytes: u64) -> Result<Vec<u8>, WorkloadError> {
        read(self.peer.pid, self.directory.as_fd(), name, limit_bytes)
    }

    /// Reads the process's file `name` as text; see [`Workload::read`].
    pub fn read_text(&self, name: &'static str, limit_bytes: u64) -> Result<String, WorkloadError> {
        let bytes = self.read(name, limit_bytes)?;
        String::from_utf8(bytes).map_err(|error| WorkloadError::Read {
            pid: self.peer.pid,
            name,
            source: io::Error::new(io::ErrorKind::InvalidData, error),
        })
    }

    /// Opens the executable itself, whatever mount namespace it lies in.
    pub fn open_exe(&self) -> Result<File, WorkloadError> {
        open_file(self.peer.pid, self.directory.as_fd(), "exe")
    }

    /// Opens a file, a socket or anything else by a path as the process sees it, symbolic links included; only to be looked at
    /// (`O_PATH`). Needs Linux 5.6.
    pub fn open_path(&self, path: &Path) -> io::Result<OwnedFd> {
        let look = OFlag::O_PATH | OFlag::O_CLOEXEC;
        let root = openat(
            &self.directory,
            "root",
            look | OFlag::O_DIRECTORY,
            Mode::empty(),
        )?;
        let how = OpenHow::new()
            .flags(look)
            .resolve(ResolveFlag::RESOLVE_IN_ROOT | ResolveFlag::RESOLVE_NO_MAGICLINKS);
        Ok(openat2(&root, path, how)?)
    }

    /// Returns the path of the executable as the process sees it.
    pub fn exe_path(&self) -> Result<PathBuf, WorkloadError> {
        match readlinkat(self.directory.as_fd(), "exe") {
            Ok(path) => Ok(path.into()),
            Err(error) => Err(read_error(self.peer.pid, "exe", error.into())),
        }
    }

    /// Returns how long after the machine's start the process started, to a hundredth of a second.
    pub fn start_time(&self) -> Result<Duration, WorkloadError> {
        let ticks = start_time(self.peer.pid, self.directory.as_fd())?;
        Ok(TICK * u32::try_from(ticks).unwrap_or(u32::MAX))
    }

    /// Tells whether the process has not exited.
    pub fn is_alive(&self) -> bool {
        match &*self.peer.handle {
            Handle::PidFd(pidfd) => {
                let mut exited = [PollFd::new(pidfd.as_fd(), PollFlags::POLLIN)];
                poll(&mut exited, PollTimeout::ZERO) == Ok(0)
            }
            Handle::Directory {
                directory,
                start_time: expected,
            } => start_time(self.peer.pid, directory.as_fd()).is_ok_and(|found| found == *expected),
        }
    }

    /// Confirms that what was read belongs to the process that connected: it lives still, and is still the same user's.
    ///
    /// A process that has executed a set-user-id program since it connected fails here; what was read is that program's.
    pub fn verify(&self) -> Result<(), WorkloadError> {
        let pid = self.peer.pid;
        let owner = fstat(&self.directory).map_err(|error| read_error(pid, ".", error.into()))?;
        if (owner.st_uid, owner.st_gid) != (self.peer.uid, self.peer.gid)
            && !self.has_ids_of_peer()?
        {
            return Err(WorkloadError::Changed {
                pid,
                uid: self.peer.uid,
                gid: self.peer.gid,
            });
        }
        if self.is_alive() {
            Ok(())
        } else {
            Err(WorkloadError::Gone { pid })
        }
    }

    /// Compares effective ids. A process that may not be dumped owns its files in `/proc` as root, whoever it is.
    fn has_ids_of_peer(&self) -> Result<bool, WorkloadError> {
        let status = self.read_text("status", STATUS_LIMIT_BYTES)?;
        Ok(effective_id(&status, "Uid:") == Some(self.peer.uid)
            && effective_id(&status, "Gid:") == Some(self.peer.gid))
    }
}

/// Why it is unknown who has connected.
#[derive(Debug, Error)]
pub enum CaptureError {
    /// The kernel gave process id 0: the peer lives in a PID namespace that cannot be seen from here.
    #[error(
        "could not resolve caller information: the caller (uid {uid}) is in a PID namespace the agent cannot see; \
         share the PID namespace of the host: run the agent with `pid: host` (Docker) or `hostPID: true` (Kubernetes)"
    )]
    ForeignPidNamespace {
        /// The peer's effective user id.
        uid: u32,
    },
    /// The peer exited before its connection was accepted.
    #[error("could not resolve caller information: process {pid} has exited")]
    Gone {
        /// The process id it had.
        pid: i32,
    },
    /// The kernel would not say.
    #[error("could not resolve caller information: failed to read the credentials of the socket")]
    Credentials {
        /// The cause.
        source: io::Error,
    },
}

/// Why a process could not be read.
#[derive(Debug, Error)]
pub enum WorkloadError {
    /// The process has exited.
    #[error("process {pid} has exited")]
    Gone {
        /// The process id it had.
        pid: i32,
    },
    /// The process runs as somebody else since it connected.
    #[error(
        "process {pid} no longer runs as user {uid} and group {gid}, as it did when it connected"
    )]
    Changed {
        /// The process id.
        pid: i32,
        /// The effective user id when it connected.
        uid: u32,
        /// The effective group id when it connected.
        gid: u32,
    },
    /// A file of the process is out of reach.
    #[error("failed to read {name} of process {pid}")]
    Read {
        /// The process id.
        pid: i32,
        /// The file, as named below `/proc/<pid>`.
        name: &'static str,
        /// The cause.
        source: io::Error,
    },
    /// A file of the process is longer than an honest one.
    #[error("{name} of process {pid} is larger than {limit_bytes} bytes")]
    TooLarge {
        /// The process id.
        pid: i32,
        /// The file, as named below `/proc/<pid>`.
        name: &'static str,
        /// The most that is read.
        limit_bytes: u64,
    },
}

impl WorkloadError {
    /// Tells whether the file is not there while the process is.
    pub fn is_missing_file(&self) -> bool {
        matches!(self, Self::Read { source, .. } if source.kind() == io::ErrorKind::NotFound)
    }
}

impl From<WorkloadError> for AttestError {
    fn from(error: WorkloadError) -> Self {
        Self::internal("failed to get process").with_source(error)
    }
}

fn credentials(socket: &impl AsFd) -> Result<(i32, u32, u32), CaptureError> {
    let peer = getsockopt(socket, sockopt::PeerCredentials).map_err(|error| {
        CaptureError::Credentials {
            source: error.into(),
        }
    })?;
    match peer.pid() {
        0 => Err(CaptureError::ForeignPidNamespace { uid: peer.uid() }),
        pid => Ok((pid, peer.uid(), peer.gid())),
    }
}

fn open_directory(pid: i32) -> Result<OwnedFd, WorkloadError> {
    let flags = OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
    open(format!("/proc/{pid}").as_str(), flags, Mode::empty()).map_err(|error| match error {
        Errno::ENOENT | Errno::ESRCH => WorkloadError::Gone { pid },
        error => WorkloadError::Read {
            pid,
            name: ".",
            source: error.into(),
        },
    })
}

fn open_file(
    pid: i32,
    directory: BorrowedFd<'_>,
    name: &'static str,
) -> Result<File, WorkloadError> {
    match openat(
        directory,
        name,
        OFlag::O_RDONLY | OFlag::O_CLOEXEC,
        Mode::empty(),
    ) {
        Ok(file) => Ok(File::from(file)),
        Err(error) => Err(read_error(pid, name, error.into())),
    }
}

fn read(
    pid: i32,
    directory: BorrowedFd<'_>,
    name: &'static str,
    limit_bytes: u64,
) -> Result<Vec<u8>, WorkloadError> {
    let file = open_file(pid, directory, name)?;
    let mut content = Vec::with_capacity(2048);
    let read = file.take(limit_bytes + 1).read_to_end(&mut content);
    read.map_err(|error| read_error(pid, name, error))?;
    if content.len() as u64 > limit_bytes {
        return Err(WorkloadError::TooLarge {
            pid,
            name,
            limit_bytes,
        });
    }
    Ok(content)
}

fn read_error(pid: i32, name: &'static str, source: io::Error) -> WorkloadError {
    // What a held directory answers once its process is gone.
    if source.raw_os_error() == Some(Errno::ESRCH as i32) {
        return WorkloadError::Gone { pid };
    }
    WorkloadError::Read { pid, name, source }
}

/// Reads the effective id of `Uid:` or `Gid:` in `status`.
fn effective_id(status: &str, key: &str) -> Option<u32> {
    let line = status.lines().find_map(|line| line.strip_prefix(key))?;
    line.split_ascii_whitespace().nth(1)?.parse().ok()
}

/// Reads the time a process started, in clock ticks since boot: field 22 of `stat`. Zombies count as gone.
fn start_time(pid: i32, directory: BorrowedFd<'_>) -> Result<u64, WorkloadError> {
    let stat = read(pid, directory, "stat", STAT_LIMIT_BYTES)?;
    parse_start_time(&stat).ok_or(WorkloadError::Gone { pid })
}

fn parse_start_time(stat: &[u8]) -> Option<u64> {
    // The name of the command, field 2, may hold spaces and parentheses; the last one ends it.
    let end = stat.iter().rposition(|byte| *byte == b')')?;
    let rest = std::str::from_utf8(stat.get(end + 1..)?).ok()?;
    let mut fields = rest.split_ascii_whitespace();
    match fields.next()? {
        "Z" | "X" | "x" => None,
        _ => fields.nth(18)?.parse().ok(),
    }
}

/// More than any `status` there is: the longest part, 65,536 supplementary groups, takes up to 720 KB.
pub const STATUS_LIMIT_BYTES: u64 = 1 << 20;
/// What the kernel counts in where it shows time to programs (`USER_HZ`).
const TICK: Duration = Duration::from_millis(10);
const STAT_LIMIT_BYTES: u64 = 16 * 1024;

#[cfg(test)]
mod tests;
