//! What goes wrong in a store, as its callers need to know it.

use std::error::Error as StdError;

use spiffe_types::entry::EntryError;
use spiffe_types::id::TrustDomain;
use thiserror::Error;

/// The boxed cause of a store's failure; which database is behind it is nobody's business.
pub type Cause = Box<dyn StdError + Send + Sync>;

/// A failed operation of the store.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum StoreError {
    /// What was to be changed is not there.
    #[error("{what} not found")]
    NotFound {
        /// What kind of thing.
        what: &'static str,
    },
    /// What was to be created is there already.
    #[error("{what} already exists")]
    AlreadyExists {
        /// What kind of thing.
        what: &'static str,
    },
    /// The stored state does not allow the change.
    #[error("{message}")]
    Conflict {
        /// What stands in the way.
        message: String,
    },
    /// An entry federates with a trust domain whose bundle is not stored.
    #[error("unable to find federated bundle \"spiffe://{trust_domain}\"")]
    MissingBundle {
        /// The trust domain.
        trust_domain: TrustDomain,
    },
    /// An update would break a rule about the entry as a whole.
    #[error(transparent)]
    InvalidEntry(EntryError),
    /// A bundle cannot go while entries federate with its trust domain.
    #[error("cannot delete bundle; federated with {entries} registration entries")]
    BundleInUse {
        /// How many entries do.
        entries: u64,
    },
    /// A page token was not made by this store.
    #[error("could not parse token '{token}'")]
    InvalidPageToken {
        /// The token as it was given.
        token: String,
    },
    /// The store cannot be used as configured; an operator has to act.
    #[error("{message}")]
    Misconfigured {
        /// What is wrong, where, and what to do.
        message: String,
        /// Why, where something else failed.
        source: Option<Cause>,
    },
    /// The database is busy or out of reach; trying again may help.
    #[error("failed to {action}: the database is unavailable")]
    Unavailable {
        /// What was attempted.
        action: &'static str,
        /// What the database said.
        source: Cause,
    },
    /// Something stored does not make sense; the database was damaged or edited.
    #[error("stored {what} is corrupt")]
    Corrupt {
        /// What it is, by name.
        what: String,
        /// What is wrong with it.
        source: Cause,
    },
    /// The database refused an operation.
    #[error("failed to {action}")]
    Database {
        /// What was attempted.
        action: &'static str,
        /// What the database said.
        source: Cause,
    },
}

impl StoreError {
    /// Creates a [`Conflict`](Self::Conflict).
    pub fn conflict(message: impl Into<String>) -> Self {
        Self::Conflict {
            message: message.into(),
        }
    }

    /// Creates a [`Corrupt`](Self::Corrupt).
    pub fn corrupt(what: impl Into<String>, source: impl Into<Cause>) -> Self {
        Self::Corrupt {
            what: what.into(),
            source: source.into(),
        }
    }
}
