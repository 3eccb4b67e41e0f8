//! How an agent finds out what is true of a process that asks for an identity.

use std::fmt::Debug;

use async_trait::async_trait;
use spiffe_types::selector::Selector;

use crate::error::AttestError;
use crate::workload::Workload;

/// Finds selectors of a workload.
#[async_trait]
pub trait WorkloadAttestor: Debug + Send + Sync {
    /// Returns the name of the attestor, which is the type of its selectors too.
    fn name(&self) -> &str;

    /// Returns the selectors of `workload`; empty when the attestor does not know it.
    async fn attest(&self, workload: &Workload) -> Result<Vec<Selector>, AttestError>;
}
