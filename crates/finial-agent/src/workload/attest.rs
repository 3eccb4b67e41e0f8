//! Attestation: all attestors side by side, under one deadline, around one process that must not change meanwhile.
//!
//! One attestor that fails costs its own selectors only; when all fail there is no saying who calls. What was found is believed only
//! after the process has been verified once more, see [`Workload::verify`]. Results are never shared between processes.

use std::sync::Arc;
use std::time::Duration;

use finial_plugin::AttestError;
use finial_plugin::workload::{CaptureError, Workload, WorkloadError};
use finial_plugin::workload_attestor::WorkloadAttestor;
use finial_runtime::log::chain;
use futures::future::join_all;
use spiffe_types::selector::{Selector, SelectorSet};
use thiserror::Error;
use tokio::sync::{AcquireError, Semaphore};
use tokio::time::{Instant, timeout_at};

use super::Caller;

/// The attestors of an agent.
#[derive(Debug)]
pub struct Attestors {
    all: Vec<Arc<dyn WorkloadAttestor>>,
    deadline: Duration,
    running: Semaphore,
}

/// What was found out about a caller.
#[derive(Debug, Default)]
pub struct AttestOutcome {
    /// Everything the attestors found; may be empty.
    pub selectors: SelectorSet,
    /// What went wrong, attestor for attestor.
    pub failures: Vec<AttestorFailure>,
}

/// One attestor that could not answer.
#[derive(Debug, Error)]
#[error("workload attestor \"{attestor}\" failed")]
pub struct AttestorFailure {
    /// The attestor's name.
    pub attestor: String,
    /// What went wrong.
    #[source]
    pub error: AttestorError,
}

/// Why an attestor could not answer.
#[derive(Debug, Error)]
pub enum AttestorError {
    /// It said why.
    #[error("{0}")]
    Failed(AttestError),
    /// It did not answer in time.
    #[error("no answer within {} s", deadline.as_secs_f32())]
    TimedOut {
        /// How long it was given.
        deadline: Duration,
    },
}

/// Why nothing can be said about a caller.
#[derive(Debug, Error)]
pub enum AttestWorkloadError {
    /// The kernel did not tell who calls.
    #[error("caller is unknown: {reason}")]
    UnknownCaller {
        /// Why, and what to do about it.
        reason: String,
        /// Whether the operator has to change how the agent runs.
        needs_host_pid_namespace: bool,
    },
    /// The process exited or changed.
    #[error("caller cannot be trusted to be who it was")]
    Process(#[source] WorkloadError),
    /// No attestor answered.
    #[error("all workload attestors failed: {}", describe(failures))]
    AllFailed {
        /// One failure for each attestor.
        failures: Vec<AttestorFailure>,
    },
    /// The agent is shutting down.
    #[error("agent is stopping")]
    Stopping(#[source] AcquireError),
}

impl Attestors {
    /// Creates the set with the default deadline of five seconds.
    pub fn new(attestors: Vec<Arc<dyn WorkloadAttestor>>) -> Self {
        Self::with_deadline(attestors, DEADLINE)
    }

    /// Creates the set; all attestors together have `deadline` to answer.
    pub fn with_deadline(attestors: Vec<Arc<dyn WorkloadAttestor>>, deadline: Duration) -> Self {
        Self {
            all: attestors,
            deadline,
            running: Semaphore::new(CONCURRENCY),
        }
    }

    /// Finds the selectors of whoever opened the connection. A caller that is not what it was is hung up on. Cancel-safe.
    pub async fn attest_caller(
        &self,
        caller: &Caller,
    ) -> Result<AttestOutcome, AttestWorkloadError> {
        let peer = caller
            .peer()
            .map_err(|error| AttestWorkloadError::UnknownCaller {
                reason: chain(error).to_string(),
                needs_host_pid_namespace: matches!(error, CaptureError::ForeignPidNamespace { .. }),
            })?;
        let attested = match peer.open() {
            Ok(workload) => self.attest(&workload).await,
            Err(error) => Err(AttestWorkloadError::Process(error)),
        };
        if matches!(attested, Err(AttestWorkloadError::Process(_))) {
            caller.hang_up();
        }
        attested
    }

    /// Finds the selectors of a process. Cancel-safe.
    pub async fn attest(&self, workload: &Workload) -> Result<AttestOutcome, AttestWorkloadError> {
        let _running = self
            .running
            .acquire()
            .await
            .map_err(AttestWorkloadError::Stopping)?;
        let until = Instant::now() + self.deadline;
        let answers = join_all(
            self.all
                .iter()
                .map(|attestor| self.ask(&**attestor, workload, until)),
        )
        .await;
        workload.verify().map_err(AttestWorkloadError::Process)?;

        let mut selectors = Vec::new();
        let mut failures = Vec::new();
        for answer in answers {
            match answer {
                Ok(found) => selectors.extend(found),
                Err(failure) => failures.push(failure),
            }
        }
        if !failures.is_empty() && failures.len() == self.all.len() {
            return Err(AttestWorkloadError::AllFailed { failures });
        }
        for failure in &failures {
            tracing::error!(
                subsystem_name = SUBSYSTEM,
                pid = workload.pid(),
                error = %chain(failure),
                "Failed to collect all selectors"
            );
        }
        let selectors: SelectorSet = selectors.into_iter().collect();
        tracing::debug!(subsystem_name = SUBSYSTEM, pid = workload.pid(), %selectors, "PID attested to have selectors");
        Ok(AttestOutcome {
            selectors,
            failures,
        })
    }

    async fn ask(
        &self,
        attestor: &dyn WorkloadAttestor,
        workload: &Workload,
        until: Instant,
    ) -> Result<Vec<Selector>, AttestorFailure> {
        let error = match timeout_at(until, attestor.attest(workload)).await {
            Ok(Ok(selectors)) => return Ok(selectors),
            Ok(Err(error)) => AttestorError::Failed(error),
            Err(_elapsed) => AttestorError::TimedOut {
                deadline: self.deadline,
            },
        };
        Err(AttestorFailure {
            attestor: attestor.name().to_owned(),
            error,
        })
    }
}

fn describe(failures: &[AttestorFailure]) -> String {
    let texts: Vec<_> = failures
        .iter()
        .map(|failure| chain(failure).to_string())
        .collect();
    texts.join("; ")
}

/// How long attestors have unless told otherwise.
pub const DEADLINE: Duration = Duration::from_secs(5);
/// Attestations at a time: enough to keep slow container engines busy, few enough to spare them and the file table.
const CONCURRENCY: usize = 512;
const SUBSYSTEM: &str = "workload_attestor";

#[cfg(test)]
mod tests;
