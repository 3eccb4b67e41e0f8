//! The way from a process to the agent: whether the socket it is told of is the agent's.

use std::os::fd::AsRawFd as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use finial_plugin::workload::Workload;
use finial_proto::pb::finial::agent::explain::v1 as pb;

use crate::socket::{SocketReport, SocketState};

/// Looks at the socket that the process's environment names, as the process sees it. `None` when it names none, or the agent may
/// not look.
pub(super) async fn workload_socket(workload: &Workload, own: &Path) -> Option<pb::WorkloadSocket> {
    let environment = workload.read("environ", ENVIRONMENT_LIMIT_BYTES).ok()?;
    let path = endpoint(&environment)?;
    let problem = match workload.open_path(&path) {
        Ok(file) => {
            let seen = PathBuf::from(format!("/proc/self/fd/{}", file.as_raw_fd()));
            let report = SocketReport::examine(&seen).await.known_as(&path);
            match report.state() {
                SocketState::Reachable if is_same(&seen, own) => String::new(),
                SocketState::Reachable => {
                    format!("{} leads to somebody else than this agent", path.display())
                }
                _ => report.to_string(),
            }
        }
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            // As it would be for the process; from here there may well be one.
            SocketReport::missing(&path).to_string()
        }
        Err(_) => return None,
    };
    Some(pb::WorkloadSocket {
        path: path.display().to_string(),
        reachable: problem.is_empty(),
        problem,
    })
}

fn is_same(left: &Path, right: &Path) -> bool {
    let identity = |path: &Path| {
        let metadata = std::fs::metadata(path).ok()?;
        Some((metadata.dev(), metadata.ino()))
    };
    identity(left).is_some_and(|left| identity(right) == Some(left))
}

/// The path in `SPIFFE_ENDPOINT_SOCKET`, if that is there and names a Unix socket.
fn endpoint(environment: &[u8]) -> Option<PathBuf> {
    let value = environment
        .split(|byte| *byte == 0)
        .find_map(|variable| variable.strip_prefix(b"SPIFFE_ENDPOINT_SOCKET="))?;
    let value = std::str::from_utf8(value).ok()?;
    let path = value.strip_prefix("unix:").unwrap_or(value);
    let path = path.strip_prefix("//").unwrap_or(path);
    path.starts_with('/').then(|| path.into())
}

const ENVIRONMENT_LIMIT_BYTES: u64 = 4 * 1024 * 1024;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_endpoint_is_read_in_every_spelling() {
        for (value, path) in [
            ("unix:///run/a.sock", Some("/run/a.sock")),
            ("unix:/run/a.sock", Some("/run/a.sock")),
            ("/run/a.sock", Some("/run/a.sock")),
            ("tcp://127.0.0.1:80", None),
            ("", None),
        ] {
            let environment = format!("A=b\0SPIFFE_ENDPOINT_SOCKET={value}\0C=d\0");
            assert_eq!(
                endpoint(environment.as_bytes()),
                path.map(Into::into),
                "{value}"
            );
        }
        assert_eq!(endpoint(b"A=b\0"), None);
    }
}
