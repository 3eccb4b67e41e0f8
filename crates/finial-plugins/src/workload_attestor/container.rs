//! In which container a process runs, read from its cgroups.
//!
//! Engines name a container's cgroup after its id, 64 hex digits, in many spellings: `docker-<id>.scope`, `cri-containerd-<id>.scope`,
//! `…:cri-containerd:<id>`, `libpod-<id>.scope/container`. So a path is read from its end, and the first word of exactly 64 hex digits
//! is the id. Shorter and longer words never are, nor is any other word: what looks odd is no container.
//!
//! `/proc/<pid>/cgroup` comes from the kernel. `mountinfo`, which other programs look at too, can be arranged by the process, and says
//! nothing more of honest ones: it is not read.
//!
//! An id found here is a claim: whoever may make cgroups, be it in a subtree delegated to him, can name one after another's container.
//! [`is_inside`] tells whether it holds, by the process that the engine says the container started with.

use finial_plugin::AttestError;
use finial_plugin::workload::{Workload, WorkloadError};
use thiserror::Error;

/// A container, and the pod it belongs to under Kubernetes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Container {
    /// 64 hex digits.
    pub id: String,
    /// The UID of the pod, with dashes.
    pub pod_uid: Option<String>,
}

/// Why a container cannot be told.
#[derive(Debug, Error)]
pub enum LocateError {
    /// The file of the process is out of reach.
    #[error("failed to read where the process runs")]
    Read(#[source] WorkloadError),
    /// A line of `cgroup` has fewer than three fields.
    #[error("invalid cgroup entry {line:?}")]
    Cgroup {
        /// The line.
        line: String,
    },
    /// Two lines name different containers.
    #[error("multiple container IDs found ({first:?}, {second:?})")]
    ManyContainers {
        /// One id.
        first: String,
        /// Another.
        second: String,
    },
    /// Two lines name different pods.
    #[error("multiple pod UIDs found ({first:?}, {second:?})")]
    ManyPods {
        /// One UID.
        first: String,
        /// Another.
        second: String,
    },
}

impl From<LocateError> for AttestError {
    fn from(error: LocateError) -> Self {
        Self::internal("failed to locate the container").with_source(error)
    }
}

/// One of the cgroups a process is in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cgroup {
    /// The controllers or the name of the hierarchy, as the kernel writes them; empty for version 2.
    pub hierarchy: String,
    /// The path, as the cgroup namespace of the reader shows it.
    pub path: String,
}

/// What the cgroups of a process tell about its container.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Location {
    /// The container; `None` outside of containers.
    pub container: Option<Container>,
    /// The process's cgroups.
    pub cgroups: Vec<Cgroup>,
}

/// Reads the cgroups of `workload`.
pub fn cgroups(workload: &Workload, verbose: bool) -> Result<Vec<Cgroup>, LocateError> {
    let rows = match workload.read_text("cgroup", CGROUP_LIMIT_BYTES) {
        Ok(content) => cgroup_rows(&content)?,
        Err(error) if error.is_missing_file() => Vec::new(),
        Err(error) => return Err(LocateError::Read(error)),
    };
    if verbose {
        let total = rows.len();
        for (index, row) in rows.iter().enumerate() {
            tracing::debug!(
                index = index + 1,
                total,
                path = row.path,
                "PID cgroup enumerated"
            );
        }
    }
    Ok(rows)
}

/// Finds the container of `workload`.
pub fn locate(workload: &Workload, verbose: bool) -> Result<Location, LocateError> {
    let cgroups = cgroups(workload, verbose)?;
    place(cgroups)
}

/// Tells whether a process in the cgroups `caller` is in the container `id`, whose first process is in the cgroups `first`.
///
/// Wherever the caller's path bears the id, it must lie in the very cgroup that bears it for the first process: one of that name
/// elsewhere is somebody's invention. Where no path bears it, since the reader's namespace hides them, both must be in the same.
pub fn is_inside(caller: &[Cgroup], first: &[Cgroup], id: &str) -> bool {
    let mut claims = caller.iter().filter(|row| row.path.contains(id)).peekable();
    if claims.peek().is_none() {
        return caller == first;
    }
    claims.all(|claim| {
        let of_first = first.iter().find(|row| row.hierarchy == claim.hierarchy);
        of_first
            .and_then(|row| root_of(&row.path, id))
            .and_then(|root| claim.path.strip_prefix(root))
            .is_some_and(|below| below.is_empty() || below.starts_with('/'))
    })
}

/// Cuts a path after its last segment that bears the id.
fn root_of<'a>(path: &'a str, id: &str) -> Option<&'a str> {
    let start = path.rfind(id)?;
    let end = path
        .get(start..)?
        .find('/')
        .map_or(path.len(), |length| start + length);
    path.get(..end)
}

/// Finds the container of a process by the content of its file.
#[cfg(fuzzing)]
pub fn locate_in(cgroup: &str) -> Result<Location, LocateError> {
    place(cgroup_rows(cgroup)?)
}

fn place(cgroups: Vec<Cgroup>) -> Result<Location, LocateError> {
    let container = merge(cgroups.iter().map(|row| &*row.path))?;
    Ok(Location { container, cgroups })
}

/// Reads `/proc/<pid>/cgroup`, see `cgroups(7)`: number, hierarchy and path, between colons.
fn cgroup_rows(content: &str) -> Result<Vec<Cgroup>, LocateError> {
    content
        .lines()
        .filter(|line| !line.is_empty())
        .map(|line| {
            let mut fields = line.splitn(3, ':').skip(1);
            match (fields.next(), fields.next()) {
                (Some(hierarchy), Some(path)) => Ok(Cgroup {
                    hierarchy: hierarchy.to_owned(),
                    path: path.to_owned(),
                }),
                _ => Err(LocateError::Cgroup {
                    line: line.to_owned(),
                }),
            }
        })
        .collect()
}

/// Makes one container of what the rows say.
///
/// A row with a pod outranks rows without: in a cluster inside a container the latter name the outer container. Rows that name
/// no container say nothing.
fn merge<'a>(paths: impl Iterator<Item = &'a str>) -> Result<Option<Container>, LocateError> {
    let mut merged: Option<Container> = None;
    for found in paths.filter_map(parse_path) {
        let Some(known) = &merged else {
            merged = Some(found);
            continue;
        };
        match (&known.pod_uid, &found.pod_uid) {
            (Some(_), None) => continue,
            (None, Some(_)) => {
                merged = Some(found);
                continue;
            }
            (Some(first), Some(second)) if first != second => {
                return Err(LocateError::ManyPods {
                    first: first.clone(),
                    second: second.clone(),
                });
            }
            (Some(_), Some(_)) | (None, None) => {}
        }
        if known.id != found.id {
            return Err(LocateError::ManyContainers {
                first: known.id.clone(),
                second: found.id,
            });
        }
    }
    Ok(merged)
}

/// Finds the container a path ends in, and the pod before it.
fn parse_path(path: &str) -> Option<Container> {
    let mut segments = path.split('/').filter(|segment| !segment.is_empty()).rev();
    let (before, id) = segments.find_map(split_at_container_id)?;
    let pod_uid = std::iter::once(before)
        .chain(segments)
        .find_map(find_pod_uid);
    Some(Container {
        id: id.to_owned(),
        pod_uid,
    })
}

/// Splits a segment into what precedes its container id, and the id.
fn split_at_container_id(segment: &str) -> Option<(&str, &str)> {
    let mut rest = segment;
    let mut start = 0;
    loop {
        let end = rest.find(|c: char| !is_word(c)).unwrap_or(rest.len());
        let word = rest.get(..end)?;
        if word.len() == CONTAINER_ID_LENGTH && word.bytes().all(|byte| byte.is_ascii_hexdigit()) {
            return Some((segment.get(..start)?, word));
        }
        let separator = rest.get(end..)?.chars().next()?;
        let next = end + separator.len_utf8();
        start += next;
        rest = rest.get(next..)?;
    }
}

/// Finds `pod<uid>` as a word of its own; systemd spells the dashes of the UID as underscores.
fn find_pod_uid(segment: &str) -> Option<String> {
    segment.match_indices("pod").find_map(|(at, _)| {
        let before = segment.get(..at)?.chars().next_back();
        let uid = segment.get(at + 3..at + 3 + POD_UID_LENGTH)?;
        let after = segment.get(at + 3 + POD_UID_LENGTH..)?.chars().next();
        let is_uid = uid
            .bytes()
            .enumerate()
            .all(|(position, byte)| match position {
                8 | 13 | 18 | 23 => matches!(byte, b'-' | b'_'),
                _ => byte.is_ascii_hexdigit(),
            });
        (is_uid && !before.is_some_and(is_word) && !after.is_some_and(is_word))
            .then(|| uid.replace('_', "-"))
    })
}

fn is_word(c: char) -> bool {
    c.is_ascii_alphanumeric() || c == '_'
}

const CONTAINER_ID_LENGTH: usize = 64;
const POD_UID_LENGTH: usize = 36;
const CGROUP_LIMIT_BYTES: u64 = 256 * 1024;

#[cfg(test)]
mod tests;
