//! The change log in SQL.

use async_trait::async_trait;
use spiffe_types::entry::EntryId;
use spiffe_types::id::{SpiffeId, TrustDomain};
use sqlx::{QueryBuilder, Row as _, SqliteConnection};
use tokio::sync::watch;

use super::row::{db, get, parse, to_i64, to_u64};
use super::{ChangeKind, ROWS_PER_STATEMENT, SqliteStore, agents, bundles, entries};
use crate::agents::AgentFilter;
use crate::changes::{ChangeBatch, ChangeStore, Changes, Revision, Snapshot};
use crate::entries::EntryFilter;
use crate::error::StoreError;

/// Returns the revision last given out.
pub(super) async fn latest(connection: &mut SqliteConnection) -> Result<Revision, StoreError> {
    Ok(position(connection).await?.0)
}

/// Takes the next revision and appends the records under it.
pub(super) async fn append(
    connection: &mut SqliteConnection,
    changes: &[(ChangeKind, String)],
) -> Result<Revision, StoreError> {
    let revision: i64 = sqlx::query_scalar(
        "UPDATE revision SET value = value + 1 WHERE only_row = 1 RETURNING value",
    )
    .fetch_one(&mut *connection)
    .await
    .map_err(db("take the next revision"))?;
    let mut place = 0_i64;
    for chunk in changes.chunks(ROWS_PER_STATEMENT) {
        let mut insert =
            QueryBuilder::new("INSERT INTO changes (revision, position, kind, subject) ");
        insert.push_values(chunk, |mut row, (kind, subject)| {
            row.push_bind(revision)
                .push_bind(place)
                .push_bind(*kind as i64)
                .push_bind(subject.clone());
            place += 1;
        });
        insert
            .build()
            .execute(&mut *connection)
            .await
            .map_err(db("append to the change log"))?;
    }
    Ok(Revision(to_u64(revision)))
}

#[async_trait]
impl ChangeStore for SqliteStore {
    async fn snapshot(&self) -> Result<Snapshot, StoreError> {
        let mut transaction = self.read().await?;
        Ok(Snapshot {
            revision: latest(&mut transaction).await?,
            entries: entries::list(&mut transaction, &EntryFilter::default(), None)
                .await?
                .items,
            agents: agents::list(&mut transaction, &AgentFilter::default(), None)
                .await?
                .items,
            bundles: bundles::list(&mut transaction, None).await?.items,
        })
    }

    async fn changes_since(&self, since: Revision, limit: u32) -> Result<Changes, StoreError> {
        let mut transaction = self.read().await?;
        let (latest, horizon) = position(&mut transaction).await?;
        if since < horizon || since > latest {
            return Ok(Changes::TooOld);
        }
        if since == latest {
            return Ok(Changes::Since(ChangeBatch {
                revision: latest,
                ..ChangeBatch::default()
            }));
        }
        let through = end_of_batch(&mut transaction, since, limit)
            .await?
            .unwrap_or(latest);
        let connection = &mut *transaction;
        let mut batch = ChangeBatch {
            revision: through,
            ..ChangeBatch::default()
        };

        let rows = sqlx::query(
            "SELECT c.subject, e.* FROM (SELECT DISTINCT subject FROM changes \
             WHERE revision > ? AND revision <= ? AND kind = 1) c LEFT JOIN entries e ON e.id = c.subject",
        )
        .bind(to_i64(since.0))
        .bind(to_i64(through.0))
        .fetch_all(&mut *connection)
        .await
        .map_err(db("read the change log"))?;
        for row in rows {
            let id: EntryId = parse(&row, "subject")?;
            let gone = get::<Option<i64>>(&row, "row_id")?.is_none();
            let entry = (!gone).then(|| entries::from_row(&row)).transpose()?;
            batch.entries.push((id, entry));
        }

        let rows = sqlx::query(
            "SELECT c.subject, a.* FROM (SELECT DISTINCT subject FROM changes \
             WHERE revision > ? AND revision <= ? AND kind = 2) c LEFT JOIN agents a ON a.id = c.subject",
        )
        .bind(to_i64(since.0))
        .bind(to_i64(through.0))
        .fetch_all(&mut *connection)
        .await
        .map_err(db("read the change log"))?;
        for row in rows {
            let id: SpiffeId = parse(&row, "subject")?;
            let gone = get::<Option<i64>>(&row, "row_id")?.is_none();
            let agent = (!gone).then(|| agents::from_row(&row)).transpose()?;
            batch.agents.push((id, agent));
        }

        let rows = sqlx::query(
            "SELECT c.subject, b.* FROM (SELECT DISTINCT subject FROM changes \
             WHERE revision > ? AND revision <= ? AND kind = 3) c LEFT JOIN bundles b ON b.trust_domain = c.subject",
        )
        .bind(to_i64(since.0))
        .bind(to_i64(through.0))
        .fetch_all(&mut *connection)
        .await
        .map_err(db("read the change log"))?;
        for row in rows {
            let trust_domain: TrustDomain = parse(&row, "subject")?;
            let gone = get::<Option<i64>>(&row, "row_id")?.is_none();
            let bundle = (!gone).then(|| bundles::from_row(&row)).transpose()?;
            batch.bundles.push((trust_domain, bundle));
        }
        Ok(Changes::Since(batch))
    }

    async fn latest_revision(&self) -> Result<Revision, StoreError> {
        let mut connection = self.readers.acquire().await.map_err(db("read revision"))?;
        latest(&mut connection).await
    }

    fn changed(&self) -> watch::Receiver<Revision> {
        self.changed.subscribe()
    }

    async fn prune_changes(&self, keep: u64) -> Result<u64, StoreError> {
        let mut write = self.write().await?;
        let connection = write.connection();
        // The newest record that goes: its whole revision stays if any record of it is to be kept.
        let oldest_kept: Option<i64> = match keep.checked_sub(1) {
            None => Some(to_i64(latest(connection).await?.0).saturating_add(1)),
            Some(offset) => sqlx::query_scalar(
                "SELECT revision FROM changes ORDER BY revision DESC, position DESC LIMIT 1 OFFSET ?",
            )
            .bind(to_i64(offset))
            .fetch_optional(&mut *connection)
            .await
            .map_err(db("prune the change log"))?,
        };
        let Some(oldest_kept) = oldest_kept else {
            return Ok(0);
        };
        let deleted = sqlx::query("DELETE FROM changes WHERE revision < ?")
            .bind(oldest_kept)
            .execute(&mut *connection)
            .await
            .map_err(db("prune the change log"))?
            .rows_affected();
        if deleted > 0 {
            sqlx::query("UPDATE revision SET horizon = ? WHERE only_row = 1")
                .bind(oldest_kept - 1)
                .execute(&mut *connection)
                .await
                .map_err(db("prune the change log"))?;
        }
        write.commit().await?;
        Ok(deleted)
    }
}

/// The latest revision, and the one up to which records were pruned.
async fn position(connection: &mut SqliteConnection) -> Result<(Revision, Revision), StoreError> {
    let row = sqlx::query("SELECT value, horizon FROM revision WHERE only_row = 1")
        .fetch_one(connection)
        .await
        .map_err(db("read revision"))?;
    Ok((
        Revision(to_u64(get(&row, "value")?)),
        Revision(to_u64(get(&row, "horizon")?)),
    ))
}

/// The last revision that is complete within `limit` records, or the first one if that is longer; `None` when all fit.
async fn end_of_batch(
    connection: &mut SqliteConnection,
    since: Revision,
    limit: u32,
) -> Result<Option<Revision>, StoreError> {
    let beyond = sqlx::query(
        "SELECT revision FROM changes WHERE revision > ? ORDER BY revision, position LIMIT 1 OFFSET ?",
    )
    .bind(to_i64(since.0))
    .bind(i64::from(limit))
    .fetch_optional(connection)
    .await
    .map_err(db("read the change log"))?;
    Ok(beyond
        .map(|row| row.try_get::<i64, _>(0))
        .transpose()
        .map_err(db("read the change log"))?
        .map(|beyond| Revision(to_u64(beyond).saturating_sub(1).max(since.0 + 1))))
}
