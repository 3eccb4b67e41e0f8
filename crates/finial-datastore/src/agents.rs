//! Attested agents.

use std::fmt::Debug;
use std::time::SystemTime;

use async_trait::async_trait;
use spiffe_types::agent::{AttestedAgent, SerialNumber};
use spiffe_types::id::SpiffeId;

use crate::changes::Revision;
use crate::entries::SelectorFilter;
use crate::error::StoreError;
use crate::page::{Page, PageOf};

/// Selects agents; `None` does not restrict.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct AgentFilter {
    /// Agents with selectors like these.
    pub selectors: Option<SelectorFilter>,
    /// Agents attested in this way.
    pub attestation_type: Option<String>,
    /// Agents that can, or cannot, attest again at will.
    pub can_reattest: Option<bool>,
    /// Agents that are, or are not, banned.
    pub banned: Option<bool>,
    /// Agents whose SVID expires before this time.
    pub expires_before: Option<SystemTime>,
}

/// Stores attested agents.
#[async_trait]
pub trait AgentStore: Debug + Send + Sync {
    /// Writes an agent as it was just attested, replacing what was known of it; an empty version leaves the one known.
    /// A banned agent stays banned: [`StoreError::Conflict`].
    async fn record_attestation(&self, agent: AttestedAgent) -> Result<Revision, StoreError>;

    /// Writes the serial number of a renewed SVID beside the present one, until
    /// [`promote_serial`](Self::promote_serial). `serial` is that of the SVID the agent renewed with: when it is not the
    /// present one any more, or the agent is banned, that is a [`StoreError::Conflict`].
    async fn record_renewal(
        &self,
        id: &SpiffeId,
        serial: &SerialNumber,
        new_serial: &SerialNumber,
        new_expires_at: SystemTime,
    ) -> Result<Revision, StoreError>;

    /// Makes the renewed serial number the present one, because it was seen in use. Tells whether it did: `false` when
    /// it is not, or no longer, the renewed one.
    async fn promote_serial(
        &self,
        id: &SpiffeId,
        serial: &SerialNumber,
    ) -> Result<bool, StoreError>;

    /// Notes the version an agent reports.
    async fn set_agent_version(&self, id: &SpiffeId, version: &str) -> Result<(), StoreError>;

    /// Finds an agent.
    async fn find_agent(&self, id: &SpiffeId) -> Result<Option<AttestedAgent>, StoreError>;

    /// Lists agents in the order of their first attestation; without a page, all of them.
    async fn list_agents(
        &self,
        filter: &AgentFilter,
        page: Option<Page>,
    ) -> Result<PageOf<AttestedAgent>, StoreError>;

    /// Counts agents.
    async fn count_agents(&self, filter: &AgentFilter) -> Result<u64, StoreError>;

    /// Deletes an agent and returns what it was. The entry that made a name for an agent with a join token goes with it.
    async fn delete_agent(&self, id: &SpiffeId) -> Result<AttestedAgent, StoreError>;

    /// Bans an agent until it is deleted, by forgetting its serial numbers. Banning it again succeeds.
    async fn ban_agent(&self, id: &SpiffeId) -> Result<Revision, StoreError>;

    /// Deletes the agents that expired before a time, banned ones never, and those that cannot attest again only when
    /// `include_non_reattestable` says so; returns how many.
    async fn prune_agents(
        &self,
        expired_before: SystemTime,
        include_non_reattestable: bool,
    ) -> Result<u64, StoreError>;
}
