//! Journals in SQL.

use async_trait::async_trait;
use bytes::Bytes;
use spiffe_types::bundle::AuthorityId;
use sqlx::QueryBuilder;
use sqlx::sqlite::SqliteRow;

use super::SqliteStore;
use super::row::{db, get, parse, to_i64, to_u64};
use crate::error::StoreError;
use crate::journal::{Journal, JournalId, JournalStore};

#[async_trait]
impl JournalStore for SqliteStore {
    async fn find_journal(&self, active_x509: &AuthorityId) -> Result<Option<Journal>, StoreError> {
        sqlx::query(
            "SELECT * FROM ca_journals WHERE active_x509_authority_id = ? ORDER BY id DESC LIMIT 1",
        )
        .bind(active_x509.as_str().to_owned())
        .fetch_optional(&self.readers)
        .await
        .map_err(db("find journal"))?
        .as_ref()
        .map(from_row)
        .transpose()
    }

    async fn save_journal(
        &self,
        id: Option<JournalId>,
        active_x509: &AuthorityId,
        data: Bytes,
    ) -> Result<JournalId, StoreError> {
        let mut write = self.write().await?;
        let id: i64 = sqlx::query_scalar(
            "INSERT INTO ca_journals (id, active_x509_authority_id, data) VALUES (?, ?, ?) \
             ON CONFLICT (id) DO UPDATE SET active_x509_authority_id = excluded.active_x509_authority_id, \
             data = excluded.data RETURNING id",
        )
        .bind(id.map(|id| to_i64(id.0)))
        .bind(active_x509.as_str().to_owned())
        .bind(data.to_vec())
        .fetch_one(write.connection())
        .await
        .map_err(db("save journal"))?;
        write.commit().await?;
        Ok(JournalId(to_u64(id)))
    }

    async fn list_journals(&self) -> Result<Vec<Journal>, StoreError> {
        sqlx::query("SELECT * FROM ca_journals ORDER BY id")
            .fetch_all(&self.readers)
            .await
            .map_err(db("list journals"))?
            .iter()
            .map(from_row)
            .collect()
    }

    async fn prune_journals(&self, ids: &[JournalId]) -> Result<u64, StoreError> {
        if ids.is_empty() {
            return Ok(0);
        }
        let mut write = self.write().await?;
        let mut query = QueryBuilder::new("DELETE FROM ca_journals WHERE id IN (");
        let mut values = query.separated(", ");
        for id in ids {
            values.push_bind(to_i64(id.0));
        }
        query.push(")");
        let pruned = query
            .build()
            .execute(write.connection())
            .await
            .map_err(db("prune journals"))?
            .rows_affected();
        write.commit().await?;
        Ok(pruned)
    }
}

fn from_row(row: &SqliteRow) -> Result<Journal, StoreError> {
    Ok(Journal {
        id: JournalId(to_u64(get(row, "id")?)),
        active_x509_authority: parse(row, "active_x509_authority_id")?,
        data: Bytes::from(get::<Vec<u8>>(row, "data")?),
    })
}
