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

/// What became of an attempt to spend a token.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Redemption {
    /// It is the caller's, and nobody else's.
    Spent,
    /// It was good until then, and nobody has spent it.
    Expired(SystemTime),
    /// Somebody has spent it then.
    Used(SystemTime),
    /// There never was such a token, or it is forgotten.
    Unknown,
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

    /// Spends a token; of many callers at once, one does. What has been spent or has expired is remembered until it is pruned, so that
    /// whoever comes too late can be told.
    async fn spend_join_token(
        &self,
        value: &str,
        now: SystemTime,
    ) -> Result<Redemption, StoreError>;

    /// Forgets the tokens that expired before a time, spent or not; returns how many.
    async fn prune_join_tokens(&self, expired_before: SystemTime) -> Result<u64, StoreError>;
}
