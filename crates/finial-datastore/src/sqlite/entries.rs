//! Entries in SQL.
//!
//! A batch costs a handful of statements however long it is: look-ups by indexed columns, then inserts of many rows. The
//! writer holds the database's lock from the start, so what was looked up is still true when rows are inserted.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::time::SystemTime;

use async_trait::async_trait;
use futures::TryStreamExt as _;
use sha2::{Digest as _, Sha256};
use spiffe_types::entry::{Entry, EntryId, EntryPatch, NewEntry, Ttl};
use spiffe_types::id::{SpiffeId, TrustDomain};
use spiffe_types::selector::SelectorSet;
use sqlx::sqlite::SqliteRow;
use sqlx::{QueryBuilder, Sqlite, SqliteConnection};
use uuid::Uuid;

use super::filter::{self, Conditions};
use super::row::{db, from_json, from_unix, get, parse, to_i64, to_u64, to_unix};
use super::{ChangeKind, SqliteStore, Write};
use crate::entries::{Created, EntryFilter, EntryStore};
use crate::error::StoreError;
use crate::page::{Page, PageOf};
use rows::{drop_index, insert};

pub(super) use rows::replace;

mod rows;

#[async_trait]
impl EntryStore for SqliteStore {
    async fn create_entries(
        &self,
        entries: Vec<NewEntry>,
        now: SystemTime,
    ) -> Result<Vec<Result<Created<Entry>, StoreError>>, StoreError> {
        let mut write = self.write().await?;
        let results = create(&mut write, entries, now).await?;
        write.commit().await?;
        Ok(results)
    }

    async fn update_entry(
        &self,
        id: &EntryId,
        patch: EntryPatch,
        now: SystemTime,
    ) -> Result<Entry, StoreError> {
        let mut write = self.write().await?;
        let (row_id, before) = find_row(write.connection(), id).await?.ok_or(NOT_FOUND)?;
        let mut entry = before.clone();
        patch.apply(&mut entry);
        entry.check_storable().map_err(StoreError::InvalidEntry)?;
        entry.revision_number += 1;

        let wanted = entry.federates_with.iter().cloned().collect();
        let known = known_trust_domains(write.connection(), &wanted).await?;
        if let Some(missing) = wanted.iter().find(|wanted| !known.contains(*wanted)) {
            return Err(StoreError::MissingBundle {
                trust_domain: missing.clone(),
            });
        }
        let fingerprint = fingerprint_of(&entry);
        if fingerprint != fingerprint_of(&before) {
            let similar = find_similar(write.connection(), &[fingerprint]).await?;
            if !similar.is_empty() {
                return Err(SIMILAR_EXISTS);
            }
        }
        replace(write.connection(), row_id, &before, &entry, now).await?;
        write.record(ChangeKind::Entry, id.as_str());
        write.commit().await?;
        Ok(entry)
    }

    async fn delete_entry(&self, id: &EntryId) -> Result<Entry, StoreError> {
        let mut write = self.write().await?;
        let row = find_row(write.connection(), id).await?.ok_or(NOT_FOUND)?;
        delete_rows(&mut write, std::slice::from_ref(&row)).await?;
        write.commit().await?;
        Ok(row.1)
    }

    async fn find_entry(&self, id: &EntryId) -> Result<Option<Entry>, StoreError> {
        let mut connection = self.readers.acquire().await.map_err(db("find entry"))?;
        Ok(find_row(&mut connection, id).await?.map(|(_, entry)| entry))
    }

    async fn list_entries(
        &self,
        filter: &EntryFilter,
        page: Option<Page>,
    ) -> Result<PageOf<Entry>, StoreError> {
        let mut connection = self.readers.acquire().await.map_err(db("list entries"))?;
        list(&mut connection, filter, page.as_ref()).await
    }

    async fn count_entries(&self, filter: &EntryFilter) -> Result<u64, StoreError> {
        let mut query = QueryBuilder::new("SELECT COUNT(*) FROM entries");
        push_filter(&mut query, filter);
        let count: i64 = query
            .build_query_scalar()
            .fetch_one(&self.readers)
            .await
            .map_err(db("count entries"))?;
        Ok(to_u64(count))
    }

    async fn prune_entries(&self, now: SystemTime) -> Result<u64, StoreError> {
        let mut write = self.write().await?;
        let rows = sqlx::query("SELECT * FROM entries WHERE expires_at < ? ORDER BY row_id")
            .bind(to_unix(now))
            .fetch_all(write.connection())
            .await
            .map_err(db("find expired entries"))?;
        let rows = rows
            .iter()
            .map(with_row_id)
            .collect::<Result<Vec<_>, _>>()?;
        delete_rows(&mut write, &rows).await?;
        write.commit().await?;
        Ok(to_u64(i64::try_from(rows.len()).unwrap_or(i64::MAX)))
    }
}

/// Creates entries within a transaction; see [`EntryStore::create_entries`].
pub(super) async fn create(
    write: &mut Write,
    entries: Vec<NewEntry>,
    now: SystemTime,
) -> Result<Vec<Result<Created<Entry>, StoreError>>, StoreError> {
    let entries: Vec<(Fingerprint, Entry)> = entries
        .into_iter()
        .map(|new| new.into_entry(random_id(), now))
        .map(|entry| (fingerprint_of(&entry), entry))
        .collect();
    let wanted: BTreeSet<TrustDomain> = entries
        .iter()
        .flat_map(|(_, entry)| entry.federates_with.iter().cloned())
        .collect();
    let trust_domains = known_trust_domains(write.connection(), &wanted).await?;
    let fingerprints: Vec<Fingerprint> = entries.iter().map(|(print, _)| *print).collect();
    let mut similar = find_similar(write.connection(), &fingerprints).await?;
    let mut taken = find_ids(write.connection(), &entries).await?;

    let mut results = Vec::with_capacity(entries.len());
    let mut rows = Vec::with_capacity(entries.len());
    for (fingerprint, mut entry) in entries {
        entry.created_at = from_unix(to_unix(entry.created_at)); // as it will be read back
        entry.expires_at = entry.expires_at.map(|time| from_unix(to_unix(time)));
        let missing = entry
            .federates_with
            .iter()
            .find(|wanted| !trust_domains.contains(*wanted));
        if let Some(missing) = missing {
            results.push(Err(StoreError::MissingBundle {
                trust_domain: missing.clone(),
            }));
        } else if let Some(existing) = similar.get(&fingerprint) {
            results.push(Ok(Created::Existing(existing.clone())));
        } else if !taken.insert(entry.id.clone()) {
            results.push(Err(StoreError::AlreadyExists { what: "entry" }));
        } else {
            write.record(ChangeKind::Entry, entry.id.as_str());
            similar.insert(fingerprint, entry.clone());
            results.push(Ok(Created::New(entry.clone())));
            rows.push((fingerprint, entry));
        }
    }
    insert(write.connection(), &rows, now).await?;
    Ok(results)
}

/// Lists entries; see [`EntryStore::list_entries`].
pub(super) async fn list(
    connection: &mut SqliteConnection,
    filter: &EntryFilter,
    page: Option<&Page>,
) -> Result<PageOf<Entry>, StoreError> {
    let mut query = QueryBuilder::new("SELECT * FROM entries");
    let mut conditions = push_filter(&mut query, filter);
    filter::page(&mut query, &mut conditions, page)?;
    // Row by row: a list may be the whole table.
    let rows: Vec<_> = query
        .build()
        .fetch(connection)
        .map_err(db("list entries"))
        .and_then(async |row| with_row_id(&row))
        .try_collect()
        .await?;
    Ok(filter::page_of(rows, page))
}

/// Finds the entries that federate with a trust domain, with their row ids.
pub(super) async fn federated_with(
    connection: &mut SqliteConnection,
    trust_domain: &TrustDomain,
) -> Result<Vec<(i64, Entry)>, StoreError> {
    let rows = sqlx::query(
        "SELECT * FROM entries WHERE row_id IN (SELECT owner FROM entry_federations WHERE trust_domain = ?)",
    )
    .bind(trust_domain.as_str().to_owned())
    .fetch_all(connection)
    .await
    .map_err(db("find federated entries"))?;
    rows.iter().map(with_row_id).collect()
}

/// Finds the entries with this parent, with their row ids.
pub(super) async fn children_of(
    connection: &mut SqliteConnection,
    parent_id: &SpiffeId,
) -> Result<Vec<(i64, Entry)>, StoreError> {
    let rows = sqlx::query("SELECT * FROM entries WHERE parent_id = ?")
        .bind(parent_id.as_str().to_owned())
        .fetch_all(connection)
        .await
        .map_err(db("find entries of a parent"))?;
    rows.iter().map(with_row_id).collect()
}

/// Deletes entries and what indexes them.
pub(super) async fn delete_rows(
    write: &mut Write,
    rows: &[(i64, Entry)],
) -> Result<(), StoreError> {
    for (row_id, entry) in rows {
        let connection = write.connection();
        drop_index(connection, *row_id, entry).await?;
        sqlx::query("DELETE FROM entries WHERE row_id = ?")
            .bind(*row_id)
            .execute(connection)
            .await
            .map_err(db("delete entry"))?;
        write.record(ChangeKind::Entry, entry.id.as_str());
    }
    Ok(())
}

/// Reads an entry from a row with all columns of the table.
pub(super) fn from_row(row: &SqliteRow) -> Result<Entry, StoreError> {
    Ok(Entry {
        id: parse(row, "id")?,
        spiffe_id: parse(row, "spiffe_id")?,
        parent_id: parse(row, "parent_id")?,
        selectors: from_json(row, "selectors")?,
        x509_svid_ttl: ttl(row, "x509_svid_ttl")?,
        jwt_svid_ttl: ttl(row, "jwt_svid_ttl")?,
        federates_with: from_json(row, "federates_with")?,
        admin: get(row, "admin")?,
        downstream: get(row, "downstream")?,
        store_svid: get(row, "store_svid")?,
        expires_at: get::<Option<i64>>(row, "expires_at")?.map(from_unix),
        dns_names: from_json(row, "dns_names")?,
        hint: get(row, "hint")?,
        revision_number: to_u64(get(row, "revision_number")?),
        created_at: from_unix(get(row, "created_at")?),
        disable_x509_svid_prefetch: get(row, "disable_x509_svid_prefetch")?,
        jwt_svid_include_jti: get(row, "jwt_svid_include_jti")?,
    })
}

/// What makes two entries similar, in fixed length: parent, SPIFFE ID and selectors, each with its length before it.
type Fingerprint = [u8; 16];

fn fingerprint_of(entry: &Entry) -> Fingerprint {
    fingerprint(&entry.parent_id, &entry.spiffe_id, &entry.selectors)
}

fn fingerprint(parent_id: &SpiffeId, spiffe_id: &SpiffeId, selectors: &SelectorSet) -> Fingerprint {
    let mut hash = Sha256::new();
    let mut update = |text: &str| {
        hash.update(to_i64(text.len() as u64).to_be_bytes());
        hash.update(text);
    };
    update(parent_id.as_str());
    update(spiffe_id.as_str());
    for selector in selectors {
        update(selector.kind());
        update(selector.value());
    }
    let digest: [u8; 32] = hash.finalize().into();
    let (head, _) = digest.split_first_chunk().unwrap_or((&[0; 16], &[]));
    *head
}

#[expect(
    clippy::expect_used,
    reason = "a UUID is made of hexadecimal digits and dashes"
)]
fn random_id() -> EntryId {
    EntryId::parse(&Uuid::new_v4().to_string()).expect("a UUID is an entry id")
}

fn with_row_id(row: &SqliteRow) -> Result<(i64, Entry), StoreError> {
    Ok((get(row, "row_id")?, from_row(row)?))
}

fn ttl(row: &SqliteRow, column: &'static str) -> Result<Option<Ttl>, StoreError> {
    get::<Option<i64>>(row, column)?
        .map(|seconds| {
            u32::try_from(seconds)
                .ok()
                .and_then(Ttl::from_seconds)
                .ok_or_else(|| {
                    StoreError::corrupt(
                        format!("column {column}"),
                        format!("{seconds} seconds are no lifetime"),
                    )
                })
        })
        .transpose()
}

fn push_filter(query: &mut QueryBuilder<Sqlite>, filter: &EntryFilter) -> Conditions {
    let mut conditions = Conditions::default();
    if let Some(id) = &filter.spiffe_id {
        conditions
            .next(query)
            .push("spiffe_id = ")
            .push_bind(id.as_str().to_owned());
    }
    if let Some(id) = &filter.parent_id {
        conditions
            .next(query)
            .push("parent_id = ")
            .push_bind(id.as_str().to_owned());
    }
    if let Some(hint) = &filter.hint {
        conditions
            .next(query)
            .push("hint = ")
            .push_bind(hint.clone());
    }
    if filter.downstream {
        conditions.next(query).push("downstream = 1");
    }
    if let Some(selectors) = &filter.selectors {
        filter::by_selectors(query, &mut conditions, "entry_selectors", selectors);
    }
    if let Some(trust_domains) = &filter.federates_with {
        filter::by_trust_domains(query, &mut conditions, trust_domains);
    }
    conditions
}

async fn find_row(
    connection: &mut SqliteConnection,
    id: &EntryId,
) -> Result<Option<(i64, Entry)>, StoreError> {
    sqlx::query("SELECT * FROM entries WHERE id = ?")
        .bind(id.as_str().to_owned())
        .fetch_optional(connection)
        .await
        .map_err(db("find entry"))?
        .as_ref()
        .map(with_row_id)
        .transpose()
}

async fn find_similar(
    connection: &mut SqliteConnection,
    fingerprints: &[Fingerprint],
) -> Result<HashMap<Fingerprint, Entry>, StoreError> {
    let mut similar = HashMap::new();
    for chunk in fingerprints.chunks(VALUES_PER_STATEMENT) {
        let mut query = QueryBuilder::new("SELECT * FROM entries WHERE fingerprint IN (");
        let mut values = query.separated(", ");
        for fingerprint in chunk {
            values.push_bind(fingerprint.to_vec());
        }
        query.push(") ORDER BY row_id DESC"); // of several, the oldest is left in the map
        let rows = query
            .build()
            .fetch_all(&mut *connection)
            .await
            .map_err(db("find similar entries"))?;
        for row in &rows {
            let entry = from_row(row)?;
            similar.insert(fingerprint_of(&entry), entry);
        }
    }
    Ok(similar)
}

/// Finds which ids are taken. Random ones are looked up too: it costs little, and a collision would break the batch.
async fn find_ids(
    connection: &mut SqliteConnection,
    entries: &[(Fingerprint, Entry)],
) -> Result<HashSet<EntryId>, StoreError> {
    let mut taken = HashSet::new();
    for chunk in entries.chunks(VALUES_PER_STATEMENT) {
        let mut query = QueryBuilder::new("SELECT id FROM entries WHERE id IN (");
        let mut values = query.separated(", ");
        for (_, entry) in chunk {
            values.push_bind(entry.id.as_str().to_owned());
        }
        query.push(")");
        let rows = query
            .build()
            .fetch_all(&mut *connection)
            .await
            .map_err(db("find entries"))?;
        for row in &rows {
            taken.insert(parse(row, "id")?);
        }
    }
    Ok(taken)
}

async fn known_trust_domains(
    connection: &mut SqliteConnection,
    wanted: &BTreeSet<TrustDomain>,
) -> Result<HashSet<TrustDomain>, StoreError> {
    let wanted: Vec<&TrustDomain> = wanted.iter().collect();
    let mut known = HashSet::new();
    for chunk in wanted.chunks(VALUES_PER_STATEMENT) {
        let mut query =
            QueryBuilder::new("SELECT trust_domain FROM bundles WHERE trust_domain IN (");
        let mut values = query.separated(", ");
        for trust_domain in chunk {
            values.push_bind(trust_domain.as_str().to_owned());
        }
        query.push(")");
        let rows = query
            .build()
            .fetch_all(&mut *connection)
            .await
            .map_err(db("find federated bundles"))?;
        for row in &rows {
            known.insert(parse(row, "trust_domain")?);
        }
    }
    Ok(known)
}

/// For statements with few values a row.
const VALUES_PER_STATEMENT: usize = 5_000;

const NOT_FOUND: StoreError = StoreError::NotFound { what: "entry" };

const SIMILAR_EXISTS: StoreError = StoreError::AlreadyExists {
    what: "similar entry",
};
