//! Agents in SQL.

use std::time::SystemTime;

use async_trait::async_trait;
use futures::TryStreamExt as _;
use spiffe_types::agent::{AttestedAgent, SerialNumber};
use spiffe_types::id::SpiffeId;
use spiffe_types::selector::{Selector, SelectorSet};
use sqlx::sqlite::SqliteRow;
use sqlx::{QueryBuilder, Sqlite, SqliteConnection};

use super::filter::{self, Conditions};
use super::row::{db, from_json, from_unix, get, parse, parse_optional, to_json, to_u64, to_unix};
use super::{ChangeKind, SqliteStore, Write, entries};
use crate::agents::{AgentFilter, AgentStore};
use crate::changes::Revision;
use crate::error::StoreError;
use crate::page::{Page, PageOf};

#[async_trait]
impl AgentStore for SqliteStore {
    async fn record_attestation(&self, agent: AttestedAgent) -> Result<Revision, StoreError> {
        let mut write = self.write().await?;
        let connection = write.connection();
        if let Some((row_id, known)) = find_row(connection, &agent.id).await? {
            if known.is_banned() {
                return Err(banned());
            }
            drop_index(connection, row_id, &known.selectors).await?;
        }
        let row_id: i64 = sqlx::query_scalar(
            "INSERT INTO agents (id, attestation_type, serial, expires_at, new_serial, new_expires_at, can_reattest, \
             selectors, selector_count, agent_version) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?) \
             ON CONFLICT (id) DO UPDATE SET attestation_type = excluded.attestation_type, serial = excluded.serial, \
             expires_at = excluded.expires_at, new_serial = excluded.new_serial, \
             new_expires_at = excluded.new_expires_at, can_reattest = excluded.can_reattest, \
             selectors = excluded.selectors, selector_count = excluded.selector_count, \
             agent_version = CASE excluded.agent_version WHEN '' THEN agent_version ELSE excluded.agent_version END \
             RETURNING row_id",
        )
        .bind(agent.id.as_str().to_owned())
        .bind(agent.attestation_type.clone())
        .bind(agent.serial.as_ref().map(ToString::to_string))
        .bind(to_unix(agent.expires_at))
        .bind(agent.new_serial.as_ref().map(ToString::to_string))
        .bind(agent.new_expires_at.map(to_unix))
        .bind(agent.can_reattest)
        .bind(to_json("store selectors", &agent.selectors)?)
        .bind(i64::try_from(agent.selectors.len()).unwrap_or(i64::MAX))
        .bind(agent.agent_version.clone())
        .fetch_one(&mut *connection)
        .await
        .map_err(db("record attestation"))?;
        index(connection, row_id, &agent.selectors).await?;
        write.record(ChangeKind::Agent, agent.id.as_str());
        write.commit().await
    }

    async fn record_renewal(
        &self,
        id: &SpiffeId,
        serial: &SerialNumber,
        new_serial: &SerialNumber,
        new_expires_at: SystemTime,
    ) -> Result<Revision, StoreError> {
        let mut write = self.write().await?;
        let connection = write.connection();
        let (row_id, agent) = find_row(connection, id).await?.ok_or(NOT_FOUND)?;
        if agent.is_banned() {
            return Err(banned());
        }
        // Evicted and attested anew since: the SVID that was to be renewed may be in other hands.
        if agent.serial.as_ref() != Some(serial) {
            return Err(StoreError::conflict("agent SVID is not active"));
        }
        sqlx::query("UPDATE agents SET new_serial = ?, new_expires_at = ? WHERE row_id = ?")
            .bind(new_serial.to_string())
            .bind(to_unix(new_expires_at))
            .bind(row_id)
            .execute(connection)
            .await
            .map_err(db("record renewal"))?;
        write.record(ChangeKind::Agent, id.as_str());
        write.commit().await
    }

    async fn promote_serial(
        &self,
        id: &SpiffeId,
        serial: &SerialNumber,
    ) -> Result<bool, StoreError> {
        let mut write = self.write().await?;
        let promoted = sqlx::query(
            "UPDATE agents SET serial = new_serial, expires_at = COALESCE(new_expires_at, expires_at), \
             new_serial = NULL, new_expires_at = NULL WHERE id = ? AND new_serial = ? AND serial IS NOT NULL",
        )
        .bind(id.as_str().to_owned())
        .bind(serial.to_string())
        .execute(write.connection())
        .await
        .map_err(db("promote serial number"))?
        .rows_affected()
            > 0;
        if promoted {
            write.record(ChangeKind::Agent, id.as_str());
        }
        write.commit().await?;
        Ok(promoted)
    }

    async fn set_agent_version(&self, id: &SpiffeId, version: &str) -> Result<(), StoreError> {
        let known = self.find_agent(id).await?.ok_or(NOT_FOUND)?;
        if known.agent_version == version {
            return Ok(()); // agents report it often; most of the time nothing is written
        }
        let mut write = self.write().await?;
        sqlx::query("UPDATE agents SET agent_version = ? WHERE id = ?")
            .bind(version.to_owned())
            .bind(id.as_str().to_owned())
            .execute(write.connection())
            .await
            .map_err(db("set agent version"))?;
        write.record(ChangeKind::Agent, id.as_str());
        write.commit().await?;
        Ok(())
    }

    async fn find_agent(&self, id: &SpiffeId) -> Result<Option<AttestedAgent>, StoreError> {
        let mut connection = self.readers.acquire().await.map_err(db("find agent"))?;
        Ok(find_row(&mut connection, id).await?.map(|(_, agent)| agent))
    }

    async fn list_agents(
        &self,
        filter: &AgentFilter,
        page: Option<Page>,
    ) -> Result<PageOf<AttestedAgent>, StoreError> {
        let mut connection = self.readers.acquire().await.map_err(db("list agents"))?;
        list(&mut connection, filter, page.as_ref()).await
    }

    async fn count_agents(&self, filter: &AgentFilter) -> Result<u64, StoreError> {
        let mut query = QueryBuilder::new("SELECT COUNT(*) FROM agents");
        push_filter(&mut query, filter);
        let count: i64 = query
            .build_query_scalar()
            .fetch_one(&self.readers)
            .await
            .map_err(db("count agents"))?;
        Ok(to_u64(count))
    }

    async fn delete_agent(&self, id: &SpiffeId) -> Result<AttestedAgent, StoreError> {
        let mut write = self.write().await?;
        let (row_id, agent) = find_row(write.connection(), id).await?.ok_or(NOT_FOUND)?;
        delete_row(&mut write, row_id, &agent).await?;
        write.commit().await?;
        Ok(agent)
    }

    async fn ban_agent(&self, id: &SpiffeId) -> Result<Revision, StoreError> {
        let mut write = self.write().await?;
        let banned = sqlx::query("UPDATE agents SET serial = NULL, new_serial = NULL WHERE id = ?")
            .bind(id.as_str().to_owned())
            .execute(write.connection())
            .await
            .map_err(db("ban agent"))?
            .rows_affected();
        if banned == 0 {
            return Err(NOT_FOUND);
        }
        write.record(ChangeKind::Agent, id.as_str());
        write.commit().await
    }

    async fn prune_agents(
        &self,
        expired_before: SystemTime,
        include_non_reattestable: bool,
    ) -> Result<u64, StoreError> {
        let mut pruned = 0;
        loop {
            // One transaction for so many: others want to write too.
            let mut write = self.write().await?;
            let rows = sqlx::query(
                "SELECT * FROM agents WHERE expires_at < ? AND serial IS NOT NULL AND (can_reattest OR ?) \
                 ORDER BY row_id LIMIT ?",
            )
            .bind(to_unix(expired_before))
            .bind(include_non_reattestable)
            .bind(PRUNED_AT_ONCE)
            .fetch_all(write.connection())
            .await
            .map_err(db("find expired agents"))?;
            if rows.is_empty() {
                return Ok(pruned);
            }
            for row in &rows {
                let (row_id, agent) = with_row_id(row)?;
                delete_row(&mut write, row_id, &agent).await?;
                pruned += 1;
            }
            write.commit().await?;
        }
    }
}

/// Lists agents; see [`AgentStore::list_agents`].
pub(super) async fn list(
    connection: &mut SqliteConnection,
    filter: &AgentFilter,
    page: Option<&Page>,
) -> Result<PageOf<AttestedAgent>, StoreError> {
    let mut query = QueryBuilder::new("SELECT * FROM agents");
    let mut conditions = push_filter(&mut query, filter);
    filter::page(&mut query, &mut conditions, page)?;
    // Row by row: a list may be the whole table.
    let rows: Vec<_> = query
        .build()
        .fetch(connection)
        .map_err(db("list agents"))
        .and_then(async |row| with_row_id(&row))
        .try_collect()
        .await?;
    Ok(filter::page_of(rows, page))
}

/// Reads an agent from a row with all columns of the table.
pub(super) fn from_row(row: &SqliteRow) -> Result<AttestedAgent, StoreError> {
    Ok(AttestedAgent {
        id: parse(row, "id")?,
        attestation_type: get(row, "attestation_type")?,
        serial: parse_optional(row, "serial")?,
        expires_at: from_unix(get(row, "expires_at")?),
        new_serial: parse_optional(row, "new_serial")?,
        new_expires_at: get::<Option<i64>>(row, "new_expires_at")?.map(from_unix),
        can_reattest: get(row, "can_reattest")?,
        selectors: from_json(row, "selectors")?,
        agent_version: get(row, "agent_version")?,
    })
}

fn with_row_id(row: &SqliteRow) -> Result<(i64, AttestedAgent), StoreError> {
    Ok((get(row, "row_id")?, from_row(row)?))
}

fn push_filter(query: &mut QueryBuilder<Sqlite>, filter: &AgentFilter) -> Conditions {
    let mut conditions = Conditions::default();
    if let Some(kind) = &filter.attestation_type {
        conditions
            .next(query)
            .push("attestation_type = ")
            .push_bind(kind.clone());
    }
    if let Some(can_reattest) = filter.can_reattest {
        conditions
            .next(query)
            .push("can_reattest = ")
            .push_bind(can_reattest);
    }
    if let Some(banned) = filter.banned {
        conditions.next(query).push(if banned {
            "serial IS NULL"
        } else {
            "serial IS NOT NULL"
        });
    }
    if let Some(time) = filter.expires_before {
        conditions
            .next(query)
            .push("expires_at < ")
            .push_bind(to_unix(time));
    }
    if let Some(selectors) = &filter.selectors {
        filter::by_selectors(query, &mut conditions, "agent_selectors", selectors);
    }
    conditions
}

async fn find_row(
    connection: &mut SqliteConnection,
    id: &SpiffeId,
) -> Result<Option<(i64, AttestedAgent)>, StoreError> {
    sqlx::query("SELECT * FROM agents WHERE id = ?")
        .bind(id.as_str().to_owned())
        .fetch_optional(connection)
        .await
        .map_err(db("find agent"))?
        .as_ref()
        .map(with_row_id)
        .transpose()
}

async fn delete_row(
    write: &mut Write,
    row_id: i64,
    agent: &AttestedAgent,
) -> Result<(), StoreError> {
    drop_index(write.connection(), row_id, &agent.selectors).await?;
    sqlx::query("DELETE FROM agents WHERE row_id = ?")
        .bind(row_id)
        .execute(write.connection())
        .await
        .map_err(db("delete agent"))?;
    write.record(ChangeKind::Agent, agent.id.as_str());

    // An agent with a join token got its name from an entry that no other agent can ever use.
    let is_alias = |selectors: &SelectorSet| match selectors.as_slice() {
        [one] => one.kind() == "spiffe_id" && one.value() == agent.id.as_str(),
        _ => false,
    };
    let mut aliases = entries::children_of(write.connection(), &agent.id).await?;
    aliases.retain(|(_, entry)| is_alias(&entry.selectors));
    entries::delete_rows(write, &aliases).await
}

async fn index(
    connection: &mut SqliteConnection,
    row_id: i64,
    selectors: &SelectorSet,
) -> Result<(), StoreError> {
    let selectors: Vec<&Selector> = selectors.iter().collect();
    for chunk in selectors.chunks(SELECTORS_PER_STATEMENT) {
        let mut insert = QueryBuilder::new("INSERT INTO agent_selectors (kind, value, owner) ");
        insert.push_values(chunk, |mut row, selector| {
            row.push_bind(selector.kind().to_owned())
                .push_bind(selector.value().to_owned())
                .push_bind(row_id);
        });
        insert
            .build()
            .execute(&mut *connection)
            .await
            .map_err(db("index selectors"))?;
    }
    Ok(())
}

async fn drop_index(
    connection: &mut SqliteConnection,
    row_id: i64,
    selectors: &SelectorSet,
) -> Result<(), StoreError> {
    for selector in selectors {
        sqlx::query("DELETE FROM agent_selectors WHERE kind = ? AND value = ? AND owner = ?")
            .bind(selector.kind().to_owned())
            .bind(selector.value().to_owned())
            .bind(row_id)
            .execute(&mut *connection)
            .await
            .map_err(db("index selectors"))?;
    }
    Ok(())
}

fn banned() -> StoreError {
    StoreError::conflict("agent is banned")
}

const PRUNED_AT_ONCE: i64 = 1_000;

const SELECTORS_PER_STATEMENT: usize = 5_000;

const NOT_FOUND: StoreError = StoreError::NotFound { what: "agent" };
