//! Registration entries.

use std::collections::BTreeSet;
use std::fmt::Debug;
use std::time::SystemTime;

use async_trait::async_trait;
use spiffe_types::entry::{Entry, EntryId, EntryPatch, NewEntry};
use spiffe_types::id::{SpiffeId, TrustDomain};
use spiffe_types::selector::SelectorSet;

use crate::error::StoreError;
use crate::page::{Page, PageOf};

/// The outcome of a creation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Created<T> {
    /// It was created.
    New(T),
    /// Something that says the same was there already; this is it, unchanged.
    Existing(T),
}

/// How a stored set must relate to the set of a filter.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum SetMatch {
    /// Both sets are equal.
    #[default]
    Exact,
    /// Everything stored is in the filter's set.
    Subset,
    /// Everything in the filter's set is stored.
    Superset,
    /// At least one member is in both.
    Any,
}

/// Selects by selectors.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SelectorFilter {
    /// The filter's set.
    pub selectors: SelectorSet,
    /// How the stored set must relate to it.
    pub matching: SetMatch,
}

/// Selects by the trust domains an entry federates with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TrustDomainFilter {
    /// The filter's set.
    pub trust_domains: BTreeSet<TrustDomain>,
    /// How the stored set must relate to it.
    pub matching: SetMatch,
}

/// Selects entries; `None` and `false` do not restrict.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct EntryFilter {
    /// Entries with this SPIFFE ID.
    pub spiffe_id: Option<SpiffeId>,
    /// Entries with this parent.
    pub parent_id: Option<SpiffeId>,
    /// Entries with selectors like these.
    pub selectors: Option<SelectorFilter>,
    /// Entries that federate with trust domains like these.
    pub federates_with: Option<TrustDomainFilter>,
    /// Entries with exactly this hint.
    pub hint: Option<String>,
    /// Only downstream entries.
    pub downstream: bool,
}

/// Stores registration entries.
#[async_trait]
pub trait EntryStore: Debug + Send + Sync {
    /// Creates entries in one transaction; the result has one item for each, in order. An entry with the parent,
    /// the SPIFFE ID and exactly the selectors of a stored one, or of one earlier in the batch, is not created:
    /// [`Created::Existing`]. One that cannot be created does not keep the others from it.
    async fn create_entries(
        &self,
        entries: Vec<NewEntry>,
        now: SystemTime,
    ) -> Result<Vec<Result<Created<Entry>, StoreError>>, StoreError>;

    /// Changes an entry and raises its revision number.
    async fn update_entry(
        &self,
        id: &EntryId,
        patch: EntryPatch,
        now: SystemTime,
    ) -> Result<Entry, StoreError>;

    /// Deletes an entry and returns what it was.
    async fn delete_entry(&self, id: &EntryId) -> Result<Entry, StoreError>;

    /// Finds an entry.
    async fn find_entry(&self, id: &EntryId) -> Result<Option<Entry>, StoreError>;

    /// Lists entries in the order of their creation; without a page, all of them.
    async fn list_entries(
        &self,
        filter: &EntryFilter,
        page: Option<Page>,
    ) -> Result<PageOf<Entry>, StoreError>;

    /// Counts entries.
    async fn count_entries(&self, filter: &EntryFilter) -> Result<u64, StoreError>;

    /// Deletes the entries that expired before `now`; returns how many.
    async fn prune_entries(&self, now: SystemTime) -> Result<u64, StoreError>;
}
