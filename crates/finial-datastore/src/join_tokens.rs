//! Join tokens: secrets that attest one agent, once.

use std::fmt;
use std::fmt::Debug;
use std::time::SystemTime;

use async_trait::async_trait;
use spiffe_types::entry::NewEntry;

use crate::error::StoreError;

/// A token that an agent may spend once.
#[derive(Clone, PartialEq, Eq)]
pub struct JoinToken {
    /// The secret.
    pub value: String,
    /// When it loses its worth, to the second.
    pub expires_at: SystemTime,
}

impl Debug for JoinToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("JoinToken")
            .field("value", &"…")
            .field("expires_at", &self.expires_at)
            .finish()
    }
}

/// Stores join tokens.
#[async_trait]
pub trait JoinTokenStore: Debug + Send + Sync {
    /// Creates a token and, in the same transaction, the entry that gives the agent which spends it another name.
    async fn create_join_token(
        &self,
        token: JoinToken,
        alias: Option<NewEntry>,
        now: SystemTime,
    ) -> Result<(), StoreError>;

    /// Takes a token out of the store; of many callers at once, one gets it. Whether it has expired is for the caller
    /// to see: it is spent either way.
    async fn consume_join_token(&self, value: &str) -> Result<Option<JoinToken>, StoreError>;

    /// Deletes the tokens that expired before a time; returns how many.
    async fn prune_join_tokens(&self, expired_before: SystemTime) -> Result<u64, StoreError>;
}
