//! How an agent finds out what is true of a process that asks for an identity.

use std::fmt::Debug;

use async_trait::async_trait;
use spiffe_types::selector::Selector;

use crate::error::AttestError;
use crate::workload::Workload;

/// A process of a container, as the container's engine tells it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ContainerProcess {
    /// The whole id of the container.
    pub container_id: String,
    /// The process id as the engine's PID namespace counts, which need not be the agent's; 0 when the container does not run.
    pub pid: i32,
}

/// Finds selectors of a workload.
#[async_trait]
pub trait WorkloadAttestor: Debug + Send + Sync {
    /// Returns the name of the attestor, which is the type of its selectors too.
    fn name(&self) -> &str;

    /// Returns the selectors of `workload`; empty when the attestor does not know it.
    async fn attest(&self, workload: &Workload) -> Result<Vec<Selector>, AttestError>;

    /// Returns a process of the container that people call `container`, by a name or an id; `None` when the attestor does not know
    /// containers. For diagnosis only: whoever opens the process must see for himself that it is in that container.
    async fn find_process(&self, container: &str) -> Result<Option<ContainerProcess>, AttestError> {
        _ = container;
        Ok(None)
    }
}
