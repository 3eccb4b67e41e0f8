//! From what an operator calls a process to the process.

use std::path::Path;

use finial_plugin::workload::{Workload, WorkloadError};
use finial_runtime::log::chain;
use tonic::Status;

use crate::workload::UnseenCallers;
use crate::workload::attest::Attestors;

/// Whether the agent shares the PID namespace of the host, and so sees every process.
pub(super) fn sees_host_processes() -> bool {
    std::fs::read_link("/proc/self/ns/pid").is_ok_and(|name| name == Path::new(HOST_PID_NAMESPACE))
}

/// Says why there is no such process, as far as the agent can tell.
pub(super) fn process_not_found(pid: i32, error: &WorkloadError, unseen: &UnseenCallers) -> Status {
    let WorkloadError::Gone { .. } = error else {
        return Status::failed_precondition(chain(error).to_string());
    };
    let text = if sees_host_processes() {
        format!(
            "there is no process {pid}: it has exited, or the number is that of another PID namespace. Numbers are the host's: \
             `docker inspect -f '{{{{.State.Pid}}}}' NAME` tells a container's, or ask with -container NAME"
        )
    } else {
        format!(
            "the agent sees no process {pid}: it runs in a PID namespace of its own, where it cannot attest workloads of others. \
             {CURE}"
        )
    };
    Status::not_found(with_unseen(text, unseen))
}

/// Adds what the agent knows of callers it could not see: the process asked for may be one of them.
fn with_unseen(text: String, unseen: &UnseenCallers) -> String {
    match unseen.count() {
        0 => text,
        count => {
            let plural = if count == 1 { "" } else { "s" };
            let uid = unseen.last_uid();
            format!(
                "{text}. {count} caller{plural} of the Workload API had a process it could not see (PID 0), the last with uid {uid}"
            )
        }
    }
}

/// Finds a process of the container that is called `name`; returns its number.
pub(super) async fn container(
    attestors: &Attestors,
    name: &str,
    unseen: &UnseenCallers,
) -> Result<i32, Status> {
    let (id, why_not) = match attestors.find_process(name).await {
        Ok(Some(process)) if process.pid == 0 => {
            return Err(Status::failed_precondition(format!(
                "container {name} does not run; start it and ask again"
            )));
        }
        // The engine counts as the host does.
        Ok(Some(process))
            if sees_host_processes() && runs_in(process.pid, &process.container_id) =>
        {
            return Ok(process.pid);
        }
        Ok(Some(process)) => (process.container_id, None),
        Ok(None) => (
            name.to_owned(),
            Some("no attestor knows containers by name".to_owned()),
        ),
        Err(failure) => (name.to_owned(), Some(chain(&failure).to_string())),
    };
    if let Some(found) = scan(Path::new("/proc"), &id) {
        return Ok(found);
    }
    let why_not = why_not
        .map(|reason| format!(" ({reason})"))
        .unwrap_or_default();
    let text = if sees_host_processes() {
        format!(
            "no process of container {name} is running here{why_not}; name it by at least 12 digits of its id"
        )
    } else {
        format!(
            "the agent sees no process of container {name}{why_not}: it runs in a PID namespace of its own. {CURE}"
        )
    };
    Err(Status::not_found(with_unseen(text, unseen)))
}

fn runs_in(pid: i32, id: &str) -> bool {
    let cgroups = std::fs::read_to_string(format!("/proc/{pid}/cgroup"));
    cgroups.is_ok_and(|cgroups| is_named(&cgroups, id))
}

/// Looks for the first process whose cgroups name a container with an id that begins with `id`.
fn scan(proc: &Path, id: &str) -> Option<i32> {
    if id.len() < SHORT_ID_LENGTH || !id.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        return None;
    }
    let mut pids: Vec<i32> = std::fs::read_dir(proc)
        .ok()?
        .filter_map(|item| item.ok()?.file_name().to_str()?.parse().ok())
        .collect();
    pids.sort_unstable();
    pids.into_iter().find_map(|pid| {
        let cgroups = std::fs::read_to_string(proc.join(pid.to_string()).join("cgroup")).ok()?;
        is_named(&cgroups, id).then_some(pid)
    })
}

/// The id of the container a process runs in, as its cgroups name it; for people, and for nothing else.
pub(super) fn container_of(workload: &Workload) -> Option<String> {
    let cgroups = workload.read_text("cgroup", CGROUP_LIMIT_BYTES).ok()?;
    ids(&cgroups).last().map(str::to_owned)
}

fn is_named(cgroups: &str, id: &str) -> bool {
    ids(cgroups).any(|word| word.starts_with(id))
}

/// The words of 64 hex digits.
fn ids(cgroups: &str) -> impl Iterator<Item = &str> {
    let words = cgroups.split(|c: char| !c.is_ascii_hexdigit());
    words.filter(|word| word.len() == ID_LENGTH)
}

/// The name the kernel has always given to the first PID namespace.
const HOST_PID_NAMESPACE: &str = "pid:[4026531836]";
/// How the agent comes to see the processes of other containers.
pub(super) const CURE: &str =
    "Run the agent with `pid: host` (Docker) or `hostPID: true` (Kubernetes)";
const CGROUP_LIMIT_BYTES: u64 = 256 * 1024;
const ID_LENGTH: usize = 64;
const SHORT_ID_LENGTH: usize = 12;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_container_is_found_by_the_cgroups_of_its_first_process() {
        let id = "ab".repeat(32);
        let proc = tempfile::tempdir().unwrap();
        for (pid, cgroup) in [
            ("7", "0::/\n".to_owned()),
            ("310", format!("0::/system.slice/docker-{id}.scope\n")),
            ("42", format!("0::/../{id}\n")),
            ("self", format!("0::/{id}\n")),
        ] {
            std::fs::create_dir(proc.path().join(pid)).unwrap();
            std::fs::write(proc.path().join(pid).join("cgroup"), cgroup).unwrap();
        }

        let found = Some(42);
        assert_eq!(scan(proc.path(), &id), found);
        assert_eq!(scan(proc.path(), "abababababab"), found);
        assert_eq!(scan(proc.path(), "ababab"), None);
        assert_eq!(scan(proc.path(), "bababababababa"), None);
        assert_eq!(scan(proc.path(), "not-an-id-at-all"), None);
    }
}
