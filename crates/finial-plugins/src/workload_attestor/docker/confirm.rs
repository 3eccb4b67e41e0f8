//! Whether a process is in the container whose id its cgroup bears.
//!
//! Anybody who may make cgroups can name one after another's container. So the process that the container started with, as the engine
//! tells, must be in the very same cgroup. The engine tells a number, and learns of the end of a container a moment after the kernel
//! has given its number away; then whoever has got it has started after the container has. That looks the same when the clock has
//! been set since, so in doubt the engine is asked again once it must have learned.

use std::path::Path;
use std::time::{Duration, SystemTime};

use finial_plugin::AttestError;
use finial_plugin::workload::{Peer, Workload, WorkloadError};
use nix::time::{ClockId, clock_gettime};

use super::engine::InspectedContainer;
use crate::workload_attestor::container::{Cgroup, cgroups, is_inside};

/// What is known of a process that claims to be in a container.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// It is there, with the container's first process in these cgroups.
    Inside(Vec<Cgroup>),
    /// It is there if the container still has its first process, which seems younger than the container.
    Doubtful(Vec<Cgroup>),
    /// There is no saying: the number of the first process means nothing to an agent in a PID namespace of its own, which sees few
    /// processes, none of them free to make cgroups.
    Unseen,
}

/// Confirms that a process in the cgroups `claimed` is in `container`. Numbers of processes may be those of another PID namespace
/// where the agent `is_nested`.
pub(super) fn confirm(
    claimed: &[Cgroup],
    container: &InspectedContainer,
    id: &str,
    is_nested: bool,
    now: SystemTime,
) -> Result<Verdict, AttestError> {
    let pid = container.state.pid;
    if pid == 0 {
        return Err(AttestError::unavailable(format!(
            "container {id} does not run"
        )));
    }
    let process = match Peer::of_pid(pid).and_then(|peer| peer.open()) {
        Ok(process) => process,
        Err(_) if is_nested => return Ok(Verdict::Unseen),
        Err(error) => {
            return Err(AttestError::unavailable(format!(
                "process {pid}, which container {id} started with, cannot be seen"
            ))
            .with_source(error));
        }
    };
    let first = cgroups(&process, false)?;
    if !is_inside(claimed, &first, id) {
        if is_nested && !first.iter().any(|row| row.path.contains(id)) {
            return Ok(Verdict::Unseen);
        }
        return Err(AttestError::rejected(format!(
            "the cgroup of the process bears the id of container {id}, but is not that container's"
        )));
    }
    let runs_for = container
        .state
        .started_at()
        .map(|started| now.duration_since(started).unwrap_or_default());
    let age = age(&process)?;
    Ok(match runs_for {
        Some(runs_for) if runs_for <= age + TOLERANCE => Verdict::Inside(first),
        Some(_) | None => Verdict::Doubtful(first),
    })
}

/// How long a process has been running, by a clock that nobody sets.
fn age(process: &Workload) -> Result<Duration, WorkloadError> {
    let since_boot = clock_gettime(ClockId::CLOCK_BOOTTIME).map(Duration::from);
    let started = process.start_time()?;
    // A kernel without that clock leaves everything in doubt.
    Ok(since_boot.map_or(Duration::ZERO, |now| now.saturating_sub(started)))
}

/// Tells whether this process is in another PID namespace than the machine's first.
pub(super) fn is_in_nested_pid_namespace() -> bool {
    std::fs::read_link("/proc/self/ns/pid")
        .is_ok_and(|namespace| namespace != Path::new(FIRST_PID_NAMESPACE))
}

/// The inode is part of the kernel's interface (`PROC_PID_INIT_INO`).
const FIRST_PID_NAMESPACE: &str = "pid:[4026531836]";
/// Starts of processes are counted in hundredths of a second, and the engine notes the start of a container when its first process
/// is there.
const TOLERANCE: Duration = Duration::from_millis(50);
