//! Entries on their way into rows, with what indexes them.

use std::collections::BTreeSet;
use std::time::SystemTime;

use spiffe_types::entry::{Entry, Ttl};
use spiffe_types::id::TrustDomain;
use sqlx::{QueryBuilder, Sqlite, SqliteConnection};

use super::super::ROWS_PER_STATEMENT;
use super::super::row::{db, to_i64, to_json, to_unix};
use super::{Fingerprint, VALUES_PER_STATEMENT, fingerprint_of};
use crate::error::StoreError;

/// Writes a changed entry over the stored one.
pub(in crate::sqlite) async fn replace(
    connection: &mut SqliteConnection,
    row_id: i64,
    before: &Entry,
    entry: &Entry,
    now: SystemTime,
) -> Result<(), StoreError> {
    drop_index(connection, row_id, before).await?;
    let mut update = QueryBuilder::new("REPLACE INTO entries (row_id, ");
    update.push(COLUMNS).push(") ");
    update.push_values([Columns::of(entry)?], |mut row, columns| {
        row.push_bind(row_id);
        columns.bind(&mut row, &fingerprint_of(entry), now);
    });
    update
        .build()
        .execute(&mut *connection)
        .await
        .map_err(db("update entry"))?;
    index(connection, &[(row_id, entry)]).await
}

/// Inserts entries, giving out row ids.
pub(super) async fn insert(
    connection: &mut SqliteConnection,
    rows: &[(Fingerprint, Entry)],
    now: SystemTime,
) -> Result<(), StoreError> {
    if rows.is_empty() {
        return Ok(());
    }
    // Row ids are given out here, because the index rows need them. They are never used twice: pages rely on it.
    let last: Option<i64> =
        sqlx::query_scalar("SELECT seq FROM sqlite_sequence WHERE name = 'entries'")
            .fetch_optional(&mut *connection)
            .await
            .map_err(db("create entries"))?;
    let numbered: Vec<(i64, &(Fingerprint, Entry))> = (last.unwrap_or(0) + 1..).zip(rows).collect();
    for chunk in numbered.chunks(ROWS_PER_STATEMENT) {
        let chunk = chunk
            .iter()
            .map(|(row_id, (fingerprint, entry))| Ok((row_id, fingerprint, Columns::of(entry)?)))
            .collect::<Result<Vec<_>, StoreError>>()?;
        let mut insert = QueryBuilder::new("INSERT INTO entries (row_id, ");
        insert.push(COLUMNS).push(") ");
        insert.push_values(chunk, |mut row, (row_id, fingerprint, columns)| {
            row.push_bind(*row_id);
            columns.bind(&mut row, fingerprint, now);
        });
        insert
            .build()
            .execute(&mut *connection)
            .await
            .map_err(db("create entries"))?;
    }
    let indexed: Vec<(i64, &Entry)> = numbered
        .into_iter()
        .map(|(row_id, (_, entry))| (row_id, entry))
        .collect();
    index(connection, &indexed).await
}

/// Writes the index rows of entries.
async fn index(
    connection: &mut SqliteConnection,
    rows: &[(i64, &Entry)],
) -> Result<(), StoreError> {
    let selectors: Vec<_> = rows
        .iter()
        .flat_map(|(row_id, entry)| entry.selectors.iter().map(move |one| (*row_id, one)))
        .collect();
    for chunk in selectors.chunks(VALUES_PER_STATEMENT) {
        let mut insert = QueryBuilder::new("INSERT INTO entry_selectors (kind, value, owner) ");
        insert.push_values(chunk, |mut row, (row_id, selector)| {
            row.push_bind(selector.kind().to_owned())
                .push_bind(selector.value().to_owned())
                .push_bind(*row_id);
        });
        insert
            .build()
            .execute(&mut *connection)
            .await
            .map_err(db("index selectors"))?;
    }
    let federations: Vec<_> = rows
        .iter()
        .flat_map(|(row_id, entry)| {
            trust_domains(entry)
                .into_iter()
                .map(move |td| (*row_id, td))
        })
        .collect();
    for chunk in federations.chunks(VALUES_PER_STATEMENT) {
        let mut insert = QueryBuilder::new("INSERT INTO entry_federations (trust_domain, owner) ");
        insert.push_values(chunk, |mut row, (row_id, trust_domain)| {
            row.push_bind(trust_domain.as_str().to_owned())
                .push_bind(*row_id);
        });
        insert
            .build()
            .execute(&mut *connection)
            .await
            .map_err(db("index federated trust domains"))?;
    }
    Ok(())
}

/// Deletes the index rows of an entry as it was stored.
pub(super) async fn drop_index(
    connection: &mut SqliteConnection,
    row_id: i64,
    entry: &Entry,
) -> Result<(), StoreError> {
    for selector in &entry.selectors {
        sqlx::query("DELETE FROM entry_selectors WHERE kind = ? AND value = ? AND owner = ?")
            .bind(selector.kind().to_owned())
            .bind(selector.value().to_owned())
            .bind(row_id)
            .execute(&mut *connection)
            .await
            .map_err(db("index selectors"))?;
    }
    for trust_domain in trust_domains(entry) {
        sqlx::query("DELETE FROM entry_federations WHERE trust_domain = ? AND owner = ?")
            .bind(trust_domain.as_str().to_owned())
            .bind(row_id)
            .execute(&mut *connection)
            .await
            .map_err(db("index federated trust domains"))?;
    }
    Ok(())
}

fn trust_domains(entry: &Entry) -> BTreeSet<&TrustDomain> {
    entry.federates_with.iter().collect()
}

/// An entry with its sets in the form in which they are stored.
struct Columns<'a> {
    entry: &'a Entry,
    selectors: String,
    federates_with: String,
    dns_names: String,
}

impl<'a> Columns<'a> {
    fn of(entry: &'a Entry) -> Result<Self, StoreError> {
        Ok(Self {
            entry,
            selectors: to_json("store selectors", &entry.selectors)?,
            federates_with: to_json("store federated trust domains", &entry.federates_with)?,
            dns_names: to_json("store DNS names", &entry.dns_names)?,
        })
    }

    /// Binds the columns in the order of [`COLUMNS`].
    fn bind(
        self,
        row: &mut sqlx::query_builder::Separated<'_, Sqlite, &'static str>,
        fingerprint: &Fingerprint,
        now: SystemTime,
    ) {
        let seconds = |ttl: Option<Ttl>| ttl.map(|ttl| i64::from(ttl.seconds()));
        let count = |len: usize| i64::try_from(len).unwrap_or(i64::MAX);
        let entry = self.entry;
        row.push_bind(entry.id.as_str().to_owned())
            .push_bind(entry.spiffe_id.as_str().to_owned())
            .push_bind(entry.parent_id.as_str().to_owned())
            .push_bind(fingerprint.to_vec())
            .push_bind(self.selectors)
            .push_bind(count(entry.selectors.len()))
            .push_bind(self.federates_with)
            .push_bind(count(trust_domains(entry).len()))
            .push_bind(self.dns_names)
            .push_bind(seconds(entry.x509_svid_ttl))
            .push_bind(seconds(entry.jwt_svid_ttl))
            .push_bind(entry.admin)
            .push_bind(entry.downstream)
            .push_bind(entry.store_svid)
            .push_bind(entry.expires_at.map(to_unix))
            .push_bind(entry.hint.clone())
            .push_bind(to_i64(entry.revision_number))
            .push_bind(to_unix(entry.created_at))
            .push_bind(to_unix(now))
            .push_bind(entry.disable_x509_svid_prefetch)
            .push_bind(entry.jwt_svid_include_jti);
    }
}

const COLUMNS: &str = "id, spiffe_id, parent_id, fingerprint, selectors, selector_count, federates_with, \
    federation_count, dns_names, x509_svid_ttl, jwt_svid_ttl, admin, downstream, store_svid, expires_at, hint, \
    revision_number, created_at, updated_at, disable_x509_svid_prefetch, jwt_svid_include_jti";
