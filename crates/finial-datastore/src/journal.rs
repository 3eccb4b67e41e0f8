//! Journals: what each server remembers of its own authorities.

use std::fmt::Debug;

use async_trait::async_trait;
use bytes::Bytes;
use spiffe_types::bundle::AuthorityId;

use crate::error::StoreError;

/// The number of a journal.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct JournalId(pub u64);

/// One server's journal.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Journal {
    /// Its number.
    pub id: JournalId,
    /// The X.509 authority that was active when it was written: how a server knows its own journal.
    pub active_x509_authority: AuthorityId,
    /// What the server wrote.
    pub data: Bytes,
}

/// Stores journals.
#[async_trait]
pub trait JournalStore: Debug + Send + Sync {
    /// Finds the journal of the server whose active X.509 authority this is.
    async fn find_journal(&self, active_x509: &AuthorityId) -> Result<Option<Journal>, StoreError>;

    /// Writes a journal; a new one gets a number. A number that is no longer stored gets its journal back.
    async fn save_journal(
        &self,
        id: Option<JournalId>,
        active_x509: &AuthorityId,
        data: Bytes,
    ) -> Result<JournalId, StoreError>;

    /// Lists all journals, oldest first.
    async fn list_journals(&self) -> Result<Vec<Journal>, StoreError>;

    /// Deletes the journals of these numbers, which their reader found to hold nothing that still matters; returns how
    /// many there were.
    async fn prune_journals(&self, ids: &[JournalId]) -> Result<u64, StoreError>;
}
