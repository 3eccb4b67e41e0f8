//! Join tokens in SQL.

use std::time::SystemTime;

use async_trait::async_trait;
use sha2::{Digest as _, Sha256};
use spiffe_types::entry::NewEntry;

use super::row::{db, from_unix, to_unix};
use super::{SqliteStore, entries};
use crate::entries::Created;
use crate::error::StoreError;
use crate::join_tokens::{JoinToken, JoinTokenStore, Redemption};

#[async_trait]
impl JoinTokenStore for SqliteStore {
    async fn create_join_token(
        &self,
        token: JoinToken,
        alias: Option<NewEntry>,
        now: SystemTime,
    ) -> Result<(), StoreError> {
        let mut write = self.write().await?;
        let inserted = sqlx::query(
            "INSERT INTO join_tokens (token_hash, expires_at) VALUES (?, ?) ON CONFLICT (token_hash) DO NOTHING",
        )
        .bind(hash(&token.value))
        .bind(to_unix(token.expires_at))
        .execute(write.connection())
        .await
        .map_err(db("create join token"))?
        .rows_affected();
        if inserted == 0 {
            return Err(StoreError::AlreadyExists { what: "join token" });
        }
        for result in entries::create(&mut write, alias.into_iter().collect(), now).await? {
            match result? {
                Created::New(_) | Created::Existing(_) => {}
            }
        }
        write.commit().await?;
        Ok(())
    }

    async fn spend_join_token(
        &self,
        value: &str,
        now: SystemTime,
    ) -> Result<Redemption, StoreError> {
        // Nobody else writes until this is committed.
        let mut write = self.write().await?;
        let token: Option<(i64, Option<i64>)> =
            sqlx::query_as("SELECT expires_at, used_at FROM join_tokens WHERE token_hash = ?")
                .bind(hash(value))
                .fetch_optional(write.connection())
                .await
                .map_err(db("find join token"))?;
        let Some((expires_at, used_at)) = token else {
            return Ok(Redemption::Unknown);
        };
        if let Some(used_at) = used_at {
            return Ok(Redemption::Used(from_unix(used_at)));
        }
        let expires_at = from_unix(expires_at);
        if expires_at < now {
            return Ok(Redemption::Expired(expires_at));
        }
        sqlx::query("UPDATE join_tokens SET used_at = ? WHERE token_hash = ?")
            .bind(to_unix(now))
            .bind(hash(value))
            .execute(write.connection())
            .await
            .map_err(db("spend join token"))?;
        write.commit().await?;
        Ok(Redemption::Spent)
    }

    async fn prune_join_tokens(&self, expired_before: SystemTime) -> Result<u64, StoreError> {
        let mut write = self.write().await?;
        let pruned = sqlx::query("DELETE FROM join_tokens WHERE expires_at < ?")
            .bind(to_unix(expired_before))
            .execute(write.connection())
            .await
            .map_err(db("prune join tokens"))?
            .rows_affected();
        write.commit().await?;
        Ok(pruned)
    }
}

fn hash(token: &str) -> Vec<u8> {
    Sha256::digest(token).to_vec()
}
