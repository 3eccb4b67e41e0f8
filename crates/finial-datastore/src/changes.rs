//! The change log: what changed, in the order in which it was committed.

use std::fmt;
use std::fmt::Debug;

use async_trait::async_trait;
use spiffe_types::agent::AttestedAgent;
use spiffe_types::bundle::Bundle;
use spiffe_types::entry::{Entry, EntryId};
use spiffe_types::id::{SpiffeId, TrustDomain};
use tokio::sync::watch;

use crate::error::StoreError;

/// A position in the change log; 0 is before the first change.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Revision(pub u64);

impl fmt::Display for Revision {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0, f)
    }
}

/// Everything at one revision.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Snapshot {
    /// The revision.
    pub revision: Revision,
    /// Every entry, in the order of creation.
    pub entries: Vec<Entry>,
    /// Every agent, in the order of first attestation.
    pub agents: Vec<AttestedAgent>,
    /// Every bundle, in the order of creation.
    pub bundles: Vec<Bundle>,
}

/// What changed between two revisions, each thing once, as it is afterwards; `None` when it is gone.
///
/// Things are read in the same transaction as the log. A thing that changes again after `revision`, possible only where a
/// limit cut the batch short, is shown as it is then: applying a later batch on top is harmless.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ChangeBatch {
    /// The revision this batch leads to.
    pub revision: Revision,
    /// Entries.
    pub entries: Vec<(EntryId, Option<Entry>)>,
    /// Agents.
    pub agents: Vec<(SpiffeId, Option<AttestedAgent>)>,
    /// Bundles.
    pub bundles: Vec<(TrustDomain, Option<Bundle>)>,
}

/// The answer to what changed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Changes {
    /// These; the batch's revision is the one asked for when nothing changed.
    Since(ChangeBatch),
    /// The log no longer reaches back that far, or never got that far: take a snapshot.
    TooOld,
}

/// Reads the change log.
#[async_trait]
pub trait ChangeStore: Debug + Send + Sync {
    /// Reads everything at one revision.
    async fn snapshot(&self) -> Result<Snapshot, StoreError>;

    /// Reads what changed after `since`. About `limit` records are read, never a part of a revision, never less than one
    /// revision; a batch that ends before the latest revision is followed by more.
    async fn changes_since(&self, since: Revision, limit: u32) -> Result<Changes, StoreError>;

    /// Returns the last committed revision.
    async fn latest_revision(&self) -> Result<Revision, StoreError>;

    /// Is woken after each commit of this process with the revision reached. Commits of other processes are found by
    /// asking.
    fn changed(&self) -> watch::Receiver<Revision>;

    /// Drops the oldest records beyond the newest `keep`, whole revisions at a time; returns how many.
    async fn prune_changes(&self, keep: u64) -> Result<u64, StoreError>;
}
