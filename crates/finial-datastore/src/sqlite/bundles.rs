//! Bundles in SQL: the authorities of a bundle are few and always read together, so they are one JSON list each.

use std::time::{Duration, SystemTime};

use async_trait::async_trait;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use serde::{Deserialize, Serialize};
use spiffe_types::bundle::{AuthorityId, Bundle, JwtAuthority, X509Authority};
use spiffe_types::id::TrustDomain;
use sqlx::sqlite::SqliteRow;
use sqlx::{QueryBuilder, SqliteConnection};

use super::filter::{self, Conditions};
use super::row::{db, from_json, from_unix, get, parse, to_i64, to_json, to_u64, to_unix};
use super::{ChangeKind, SqliteStore, entries};
use crate::bundles::{BundlePatch, BundleStore, DeleteMode};
use crate::error::StoreError;
use crate::page::{Page, PageOf};

#[async_trait]
impl BundleStore for SqliteStore {
    async fn find_bundle(&self, trust_domain: &TrustDomain) -> Result<Option<Bundle>, StoreError> {
        let mut connection = self.readers.acquire().await.map_err(db("find bundle"))?;
        find(&mut connection, trust_domain).await
    }

    async fn list_bundles(&self, page: Option<Page>) -> Result<PageOf<Bundle>, StoreError> {
        let mut connection = self.readers.acquire().await.map_err(db("list bundles"))?;
        list(&mut connection, page.as_ref()).await
    }

    async fn count_bundles(&self) -> Result<u64, StoreError> {
        let count: i64 = sqlx::query_scalar("SELECT COUNT(*) FROM bundles")
            .fetch_one(&self.readers)
            .await
            .map_err(db("count bundles"))?;
        Ok(to_u64(count))
    }

    async fn create_bundle(&self, bundle: Bundle) -> Result<Bundle, StoreError> {
        let trust_domain = bundle.trust_domain.clone();
        self.change_bundle(&trust_domain, |known| match known {
            Some(_) => Err(StoreError::AlreadyExists { what: "bundle" }),
            None => Ok(bundle),
        })
        .await
    }

    async fn update_bundle(
        &self,
        trust_domain: &TrustDomain,
        patch: BundlePatch,
    ) -> Result<Bundle, StoreError> {
        self.change_bundle(trust_domain, |known| {
            let mut bundle = known.ok_or(NOT_FOUND)?;
            if let Some(authorities) = patch.x509_authorities {
                bundle.x509_authorities = authorities;
            }
            if let Some(authorities) = patch.jwt_authorities {
                bundle.jwt_authorities = authorities;
            }
            if let Some(hint) = patch.refresh_hint {
                bundle.refresh_hint = hint;
            }
            if let Some(number) = patch.sequence_number {
                bundle.sequence_number = number;
            }
            Ok(bundle)
        })
        .await
    }

    async fn set_bundle(&self, bundle: Bundle) -> Result<Bundle, StoreError> {
        let trust_domain = bundle.trust_domain.clone();
        self.change_bundle(&trust_domain, |_| Ok(bundle)).await
    }

    async fn append_bundle(&self, bundle: &Bundle) -> Result<Bundle, StoreError> {
        self.change_bundle(&bundle.trust_domain, |known| {
            let Some(mut known) = known else {
                return Ok(bundle.clone());
            };
            let mut grew = false;
            for authority in &bundle.x509_authorities {
                if !known
                    .x509_authorities
                    .iter()
                    .any(|one| one.der() == authority.der())
                {
                    known.x509_authorities.push(authority.clone());
                    grew = true;
                }
            }
            for authority in &bundle.jwt_authorities {
                if !known
                    .jwt_authorities
                    .iter()
                    .any(|one| one.key_id == authority.key_id)
                {
                    known.jwt_authorities.push(authority.clone());
                    grew = true;
                }
            }
            if grew {
                known.sequence_number += 1;
            }
            Ok(known)
        })
        .await
    }

    async fn delete_bundle(
        &self,
        trust_domain: &TrustDomain,
        mode: DeleteMode,
    ) -> Result<(), StoreError> {
        let mut write = self.write().await?;
        if find(write.connection(), trust_domain).await?.is_none() {
            return Err(NOT_FOUND);
        }
        let federated = entries::federated_with(write.connection(), trust_domain).await?;
        match mode {
            DeleteMode::Restrict if !federated.is_empty() => {
                return Err(StoreError::BundleInUse {
                    entries: to_u64(i64::try_from(federated.len()).unwrap_or(i64::MAX)),
                });
            }
            DeleteMode::Restrict => {}
            DeleteMode::Delete => entries::delete_rows(&mut write, &federated).await?,
            DeleteMode::Dissociate => {
                for (row_id, before) in &federated {
                    let mut entry = before.clone();
                    entry.federates_with.retain(|other| other != trust_domain);
                    entry.revision_number += 1;
                    let connection = write.connection();
                    entries::replace(connection, *row_id, before, &entry, entry.created_at).await?;
                    write.record(ChangeKind::Entry, entry.id.as_str());
                }
            }
        }
        sqlx::query("DELETE FROM bundles WHERE trust_domain = ?")
            .bind(trust_domain.as_str().to_owned())
            .execute(write.connection())
            .await
            .map_err(db("delete bundle"))?;
        write.record(ChangeKind::Bundle, trust_domain.as_str());
        write.commit().await?;
        Ok(())
    }

    async fn prune_bundle(
        &self,
        trust_domain: &TrustDomain,
        expired_before: SystemTime,
    ) -> Result<bool, StoreError> {
        let mut pruned = false;
        self.change_bundle(trust_domain, |known| {
            let mut bundle = known.ok_or(NOT_FOUND)?;
            let x509 = retain_or_newest(
                &mut bundle.x509_authorities,
                |authority| authority.not_after() >= expired_before,
                X509Authority::not_after,
            );
            let jwt = retain_or_newest(
                &mut bundle.jwt_authorities,
                |authority| {
                    authority
                        .expires_at
                        .is_none_or(|time| time >= expired_before)
                },
                |authority| authority.expires_at.unwrap_or(SystemTime::UNIX_EPOCH),
            );
            pruned = x509 || jwt;
            if pruned {
                bundle.refresh_hint = None;
                bundle.sequence_number += 1;
            }
            Ok(bundle)
        })
        .await?;
        Ok(pruned)
    }

    async fn taint_x509_authority(
        &self,
        trust_domain: &TrustDomain,
        authority: &AuthorityId,
    ) -> Result<Bundle, StoreError> {
        self.change_bundle(trust_domain, |known| {
            let mut bundle = known.ok_or(NOT_FOUND)?;
            let mut found = false;
            for one in bundle
                .x509_authorities
                .iter_mut()
                .filter(|one| one.id() == authority)
            {
                if one.tainted {
                    return Err(StoreError::conflict("root CA is already tainted"));
                }
                one.tainted = true;
                found = true;
            }
            if !found {
                return Err(NO_X509_AUTHORITY);
            }
            bundle.sequence_number += 1;
            Ok(bundle)
        })
        .await
    }

    async fn revoke_x509_authority(
        &self,
        trust_domain: &TrustDomain,
        authority: &AuthorityId,
    ) -> Result<Bundle, StoreError> {
        self.change_bundle(trust_domain, |known| {
            let mut bundle = known.ok_or(NOT_FOUND)?;
            let mut found = bundle
                .x509_authorities
                .iter()
                .filter(|one| one.id() == authority);
            let all_tainted = found.clone().all(|one| one.tainted);
            if found.next().is_none() {
                return Err(NO_X509_AUTHORITY);
            }
            if !all_tainted {
                return Err(StoreError::conflict(
                    "it is not possible to revoke an untainted root CA",
                ));
            }
            bundle.x509_authorities.retain(|one| one.id() != authority);
            bundle.sequence_number += 1;
            Ok(bundle)
        })
        .await
    }

    async fn taint_jwt_authority(
        &self,
        trust_domain: &TrustDomain,
        key_id: &str,
    ) -> Result<Bundle, StoreError> {
        self.change_bundle(trust_domain, |known| {
            let mut bundle = known.ok_or(NOT_FOUND)?;
            let authority = bundle
                .jwt_authorities
                .iter_mut()
                .find(|one| one.key_id == key_id)
                .ok_or(NO_JWT_AUTHORITY)?;
            if authority.tainted {
                return Err(StoreError::conflict("key is already tainted"));
            }
            authority.tainted = true;
            bundle.sequence_number += 1;
            Ok(bundle)
        })
        .await
    }

    async fn revoke_jwt_authority(
        &self,
        trust_domain: &TrustDomain,
        key_id: &str,
    ) -> Result<Bundle, StoreError> {
        self.change_bundle(trust_domain, |known| {
            let mut bundle = known.ok_or(NOT_FOUND)?;
            let authority = bundle
                .jwt_authorities
                .iter()
                .find(|one| one.key_id == key_id);
            if !authority.ok_or(NO_JWT_AUTHORITY)?.tainted {
                return Err(StoreError::conflict(
                    "it is not possible to revoke an untainted key",
                ));
            }
            bundle.jwt_authorities.retain(|one| one.key_id != key_id);
            bundle.sequence_number += 1;
            Ok(bundle)
        })
        .await
    }
}

impl SqliteStore {
    /// Reads a bundle, lets `change` make the next one of it, and writes that if it differs.
    async fn change_bundle(
        &self,
        trust_domain: &TrustDomain,
        change: impl FnOnce(Option<Bundle>) -> Result<Bundle, StoreError> + Send,
    ) -> Result<Bundle, StoreError> {
        let mut write = self.write().await?;
        let known = find(write.connection(), trust_domain).await?;
        let bundle = change(known.clone())?;
        if known.as_ref() == Some(&bundle) {
            return Ok(bundle);
        }
        sqlx::query(
            "INSERT INTO bundles (trust_domain, refresh_hint, sequence_number, x509_authorities, jwt_authorities) \
             VALUES (?, ?, ?, ?, ?) ON CONFLICT (trust_domain) DO UPDATE SET refresh_hint = excluded.refresh_hint, \
             sequence_number = excluded.sequence_number, x509_authorities = excluded.x509_authorities, \
             jwt_authorities = excluded.jwt_authorities",
        )
        .bind(trust_domain.as_str().to_owned())
        .bind(bundle.refresh_hint.map(|hint| to_i64(hint.as_secs())))
        .bind(to_i64(bundle.sequence_number))
        .bind(to_json("store authorities", &x509_columns(&bundle))?)
        .bind(to_json("store authorities", &jwt_columns(&bundle))?)
        .execute(write.connection())
        .await
        .map_err(db("write bundle"))?;
        write.record(ChangeKind::Bundle, trust_domain.as_str());
        write.commit().await?;
        Ok(bundle)
    }
}

/// Lists bundles; see [`BundleStore::list_bundles`].
pub(super) async fn list(
    connection: &mut SqliteConnection,
    page: Option<&Page>,
) -> Result<PageOf<Bundle>, StoreError> {
    let mut query = QueryBuilder::new("SELECT * FROM bundles");
    filter::page(&mut query, &mut Conditions::default(), page)?;
    let rows = query
        .build()
        .fetch_all(connection)
        .await
        .map_err(db("list bundles"))?;
    let rows = rows
        .iter()
        .map(|row| Ok((get(row, "row_id")?, from_row(row)?)))
        .collect::<Result<Vec<_>, StoreError>>()?;
    Ok(filter::page_of(rows, page))
}

/// Reads a bundle from a row with all columns of the table.
pub(super) fn from_row(row: &SqliteRow) -> Result<Bundle, StoreError> {
    let x509: Vec<X509Column> = from_json(row, "x509_authorities")?;
    let jwt: Vec<JwtColumn> = from_json(row, "jwt_authorities")?;
    Ok(Bundle {
        trust_domain: parse(row, "trust_domain")?,
        x509_authorities: x509
            .into_iter()
            .map(|column| {
                X509Authority::parse(decode(&column.der)?, column.tainted)
                    .map_err(|source| StoreError::corrupt("X.509 authority", source))
            })
            .collect::<Result<_, _>>()?,
        jwt_authorities: jwt
            .into_iter()
            .map(|column| {
                Ok(JwtAuthority {
                    key_id: column.key_id,
                    public_key: decode(&column.public_key)?,
                    expires_at: column.expires_at.map(from_unix),
                    tainted: column.tainted,
                })
            })
            .collect::<Result<_, StoreError>>()?,
        refresh_hint: get::<Option<i64>>(row, "refresh_hint")?
            .map(|seconds| Duration::from_secs(to_u64(seconds))),
        sequence_number: to_u64(get(row, "sequence_number")?),
    })
}

#[derive(Debug, Serialize, Deserialize)]
struct X509Column {
    der: String,
    tainted: bool,
}

#[derive(Debug, Serialize, Deserialize)]
struct JwtColumn {
    key_id: String,
    public_key: String,
    expires_at: Option<i64>,
    tainted: bool,
}

async fn find(
    connection: &mut SqliteConnection,
    trust_domain: &TrustDomain,
) -> Result<Option<Bundle>, StoreError> {
    sqlx::query("SELECT * FROM bundles WHERE trust_domain = ?")
        .bind(trust_domain.as_str().to_owned())
        .fetch_optional(connection)
        .await
        .map_err(db("find bundle"))?
        .as_ref()
        .map(from_row)
        .transpose()
}

fn x509_columns(bundle: &Bundle) -> Vec<X509Column> {
    bundle
        .x509_authorities
        .iter()
        .map(|authority| X509Column {
            der: STANDARD.encode(authority.der()),
            tainted: authority.tainted,
        })
        .collect()
}

fn jwt_columns(bundle: &Bundle) -> Vec<JwtColumn> {
    bundle
        .jwt_authorities
        .iter()
        .map(|authority| JwtColumn {
            key_id: authority.key_id.clone(),
            public_key: STANDARD.encode(&authority.public_key),
            expires_at: authority.expires_at.map(to_unix),
            tainted: authority.tainted,
        })
        .collect()
}

fn decode(text: &str) -> Result<Bytes, StoreError> {
    STANDARD
        .decode(text)
        .map(Bytes::from)
        .map_err(|source| StoreError::corrupt("authority", source))
}

/// Keeps what `keep` says, or the one with the greatest `age` if that would be nothing. Tells whether anything went.
fn retain_or_newest<T: Clone>(
    authorities: &mut Vec<T>,
    keep: impl Fn(&T) -> bool,
    age: impl Fn(&T) -> SystemTime,
) -> bool {
    let before = authorities.len();
    let newest = authorities
        .iter()
        .max_by_key(|authority| age(authority))
        .cloned();
    authorities.retain(keep);
    if authorities.is_empty() {
        authorities.extend(newest);
    }
    authorities.len() != before
}

const NOT_FOUND: StoreError = StoreError::NotFound { what: "bundle" };

const NO_X509_AUTHORITY: StoreError = StoreError::NotFound {
    what: "X.509 authority",
};

const NO_JWT_AUTHORITY: StoreError = StoreError::NotFound {
    what: "JWT authority",
};
