//! What the server remembers, behind traits, and the databases that remember it.
//!
//! Every method is one transaction and one business fact. Every change of entries, agents and bundles appends records to
//! the change log in the same transaction, under the next [`Revision`]. Whoever has applied revision *n* has applied
//! everything before it: the counter's row is locked until the transaction ends, so revisions are given out in the order
//! of commits and none is missing. A batch takes one revision.
//!
//! A missing row is `Ok(None)` where something is looked up and [`StoreError::NotFound`] where it is changed.

pub mod agents;
pub mod bundles;
pub mod changes;
#[cfg(feature = "testing")]
pub mod conformance;
pub mod entries;
pub mod error;
pub mod join_tokens;
pub mod journal;
pub mod page;
pub mod sqlite;

pub use agents::{AgentFilter, AgentStore};
pub use bundles::{BundlePatch, BundleStore, DeleteMode};
pub use changes::{ChangeBatch, ChangeStore, Changes, Revision, Snapshot};
pub use entries::{Created, EntryFilter, EntryStore, SelectorFilter, SetMatch, TrustDomainFilter};
pub use error::StoreError;
pub use join_tokens::{JoinToken, JoinTokenStore, Redemption};
pub use journal::{Journal, JournalId, JournalStore};
pub use page::{Page, PageOf};

/// Everything a server stores. Users take the narrow trait they need: `Arc<dyn DataStore>` coerces to it.
pub trait DataStore:
    EntryStore + AgentStore + BundleStore + JoinTokenStore + JournalStore + ChangeStore
{
}

impl<T> DataStore for T where
    T: EntryStore + AgentStore + BundleStore + JoinTokenStore + JournalStore + ChangeStore
{
}
