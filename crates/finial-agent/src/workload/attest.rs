//! Attestation: all attestors side by side, under one deadline, around one process that must not change meanwhile.
//!
//! One attestor that fails costs its own selectors only; when all fail there is no saying who calls. What was found is believed only
//! after the process has been verified once more, see [`Workload::verify`]. Results are never shared between processes.

use std::sync::Arc;
use std::time::Duration;

use finial_plugin::AttestError;
use finial_plugin::workload::{CaptureError, Workload, WorkloadError};
use finial_plugin::workload_attestor::{ContainerProcess, WorkloadAttestor};
use finial_runtime::log::chain;
use futures::future::join_all;
use spiffe_types::selector::{Selector, SelectorSet};
use thiserror::Error;
use tokio::sync::{AcquireError, Semaphore};
use tokio::time::{Instant, timeout_at};

use super::Caller;
use crate::cache::Cache;

/// The attestors of an agent.
#[derive(Debug)]
pub struct Attestors {
    all: Vec<Arc<dyn WorkloadAttestor>>,
    deadline: Duration,
    running: Semaphore,
}

/// What one attestor says of a process.
#[derive(Debug)]
pub struct Answer {
    /// The attestor's name, which is the type of its selectors too.
    pub attestor: String,
    /// What it found, or why it could not tell.
    pub result: Result<Vec<Selector>, AttestorError>,
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
    #[error(transparent)]
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
        let mut selectors = Vec::new();
        let mut failures = Vec::new();
        for Answer { attestor, result } in self.examine(workload).await? {
            match result {
                Ok(found) => selectors.extend(found),
                Err(error) => failures.push(AttestorFailure { attestor, error }),
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

    /// Asks every attestor about a process, and gives their answers one by one. Cancel-safe.
    pub async fn examine(&self, workload: &Workload) -> Result<Vec<Answer>, AttestWorkloadError> {
        let _running = self
            .running
            .acquire()
            .await
            .map_err(AttestWorkloadError::Stopping)?;
        let until = Instant::now() + self.deadline;
        let attestors = self.all.iter();
        let answers = join_all(attestors.map(|attestor| self.ask(&**attestor, workload, until)));
        let answers = answers.await;
        workload.verify().map_err(AttestWorkloadError::Process)?;
        Ok(answers)
    }

    /// Asks the attestors for a process of a container; the first that knows one is believed. Cancel-safe.
    pub async fn find_process(
        &self,
        container: &str,
    ) -> Result<Option<ContainerProcess>, AttestorFailure> {
        let mut failure = None;
        for attestor in &self.all {
            let asked = tokio::time::timeout(self.deadline, attestor.find_process(container)).await;
            let error = match asked {
                Ok(Ok(Some(process))) => return Ok(Some(process)),
                Ok(Ok(None)) => continue,
                Ok(Err(error)) => AttestorError::Failed(error),
                Err(_elapsed) => AttestorError::TimedOut {
                    deadline: self.deadline,
                },
            };
            failure = Some(AttestorFailure {
                attestor: attestor.name().to_owned(),
                error,
            });
        }
        failure.map_or(Ok(None), Err)
    }

    async fn ask(
        &self,
        attestor: &dyn WorkloadAttestor,
        workload: &Workload,
        until: Instant,
    ) -> Answer {
        let result = match timeout_at(until, attestor.attest(workload)).await {
            Ok(Ok(selectors)) => Ok(selectors),
            Ok(Err(error)) => Err(AttestorError::Failed(error)),
            Err(_elapsed) => Err(AttestorError::TimedOut {
                deadline: self.deadline,
            }),
        };
        Answer {
            attestor: attestor.name().to_owned(),
            result,
        }
    }
}

/// Whether a caller with `selectors` may match an entry that needs what the failed attestors could not tell: everything the caller
/// lacks for it is of their types.
pub fn is_incomplete(cache: &Cache, selectors: &SelectorSet, failures: &[AttestorFailure]) -> bool {
    !failures.is_empty()
        && cache.can_be_completed(selectors, |selector| {
            failures
                .iter()
                .any(|failure| failure.attestor == selector.kind())
        })
}

/// Says of each attestor why it failed, in one line.
pub fn describe(failures: &[AttestorFailure]) -> String {
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
