//! What a server remembers of its own authorities, in SPIRE's own encoding: a migrated journal is read as it is.
//!
//! A journal belongs to the server whose key manager holds the key of the authority that was active when it was written.
//! Entries of kinds that are not managed here are kept as they are.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use finial_datastore::{JournalId, JournalStore, StoreError};
use finial_plugin::error::PluginError;
use finial_plugin::key_manager::KeyManager;
use prost::Message as _;
use spiffe_types::bundle::AuthorityId;

use super::slot::{Authority, SlotState};
use super::times::to_unix;

/// Everything in a journal.
#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct Entries {
    #[prost(message, repeated, tag = "1")]
    pub(crate) x509_cas: Vec<X509CaEntry>,
    #[prost(message, repeated, tag = "2")]
    pub(crate) jwt_keys: Vec<KeyEntry>,
    #[prost(message, repeated, tag = "3")]
    pub(crate) wit_keys: Vec<KeyEntry>,
}

/// One X.509 authority.
#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct X509CaEntry {
    #[prost(string, tag = "1")]
    pub(crate) slot_id: String,
    #[prost(int64, tag = "2")]
    pub(crate) issued_at: i64,
    #[prost(bytes = "bytes", tag = "3")]
    pub(crate) certificate: Bytes,
    #[prost(bytes = "bytes", repeated, tag = "4")]
    pub(crate) upstream_chain: Vec<Bytes>,
    #[prost(enumeration = "Status", tag = "5")]
    pub(crate) status: i32,
    #[prost(string, tag = "6")]
    pub(crate) authority_id: String,
    #[prost(int64, tag = "7")]
    pub(crate) not_after: i64,
    #[prost(string, tag = "8")]
    pub(crate) upstream_authority_id: String,
}

/// One JWT or WIT key.
#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct KeyEntry {
    #[prost(string, tag = "1")]
    pub(crate) slot_id: String,
    #[prost(int64, tag = "2")]
    pub(crate) issued_at: i64,
    #[prost(int64, tag = "3")]
    pub(crate) not_after: i64,
    #[prost(string, tag = "4")]
    pub(crate) kid: String,
    #[prost(bytes = "bytes", tag = "5")]
    pub(crate) public_key: Bytes,
    #[prost(enumeration = "Status", tag = "6")]
    pub(crate) status: i32,
    #[prost(string, tag = "7")]
    pub(crate) authority_id: String,
}

/// What an authority was at when the entry was written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, prost::Enumeration)]
#[repr(i32)]
pub(crate) enum Status {
    Unknown = 0,
    Prepared = 2,
    Active = 3,
    Old = 4,
}

impl From<SlotState> for Status {
    fn from(state: SlotState) -> Self {
        match state {
            SlotState::Prepared => Self::Prepared,
            SlotState::Active => Self::Active,
            SlotState::Old => Self::Old,
        }
    }
}

/// Why a journal was not read or written.
#[derive(Debug, thiserror::Error)]
pub enum JournalError {
    /// The key manager did not say which keys it holds.
    #[error("failed to list the keys of the key manager")]
    ListKeys {
        /// What it said.
        source: PluginError,
    },
    /// The store did not give it.
    #[error("failed to find the CA journal")]
    Find {
        /// What it said.
        source: StoreError,
    },
    /// The store did not take it.
    #[error("could not save CA journal in the datastore")]
    Save {
        /// What it said.
        source: StoreError,
    },
    /// What is stored is no journal.
    #[error("stored CA journal {id} is corrupt; delete it to start with new authorities")]
    Corrupt {
        /// Its number.
        id: u64,
        /// What is wrong with it.
        source: prost::DecodeError,
    },
}

/// The journal of this server.
#[derive(Debug)]
pub(crate) struct Journal {
    store: Arc<dyn JournalStore>,
    id: Option<JournalId>,
    active: Option<AuthorityId>,
    entries: Entries,
}

impl Journal {
    /// Finds the journal that was written under any key of the key manager; an empty one when there is none.
    pub(crate) async fn load(
        store: Arc<dyn JournalStore>,
        keys: &dyn KeyManager,
    ) -> Result<Self, JournalError> {
        tracing::debug!(subsystem_name = SUBSYSTEM, "Loading journal from datastore");
        let keys = keys
            .list()
            .await
            .map_err(|source| JournalError::ListKeys { source })?;
        for (_, key) in keys {
            let authority = AuthorityId::from_key_id(&key.public_key().subject_key_id());
            let found = store
                .find_journal(&authority)
                .await
                .map_err(|source| JournalError::Find { source })?;
            let Some(journal) = found else { continue };
            let entries =
                Entries::decode(journal.data).map_err(|source| JournalError::Corrupt {
                    id: journal.id.0,
                    source,
                })?;
            tracing::debug!(
                subsystem_name = SUBSYSTEM,
                ca_journal_id = journal.id.0,
                local_authority_id = %authority,
                "Found a CA journal record that matches with a local X509 authority ID"
            );
            return Ok(Self {
                store,
                id: Some(journal.id),
                active: Some(authority),
                entries,
            });
        }
        tracing::info!(
            subsystem_name = SUBSYSTEM,
            "There is not a CA journal record that matches any of the local X509 authority IDs"
        );
        Ok(Self {
            store,
            id: None,
            active: None,
            entries: Entries::default(),
        })
    }

    pub(crate) const fn entries(&self) -> &Entries {
        &self.entries
    }

    pub(crate) const fn id(&self) -> Option<JournalId> {
        self.id
    }

    /// Adds an authority that was just made. Until one is active there is nothing a journal could be found by, and nothing
    /// is stored.
    pub(crate) async fn append(&mut self, authority: &Authority) -> Result<(), JournalError> {
        let mut entries = self.entries.clone();
        entries.x509_cas.push(entry_of(authority));
        let excess = entries.x509_cas.len().saturating_sub(MAX_ENTRIES);
        entries.x509_cas.drain(..excess);
        self.write(entries, self.active.clone()).await
    }

    /// Records in one write that `active` signs from now on, and nothing else does.
    pub(crate) async fn activate(&mut self, active: &AuthorityId) -> Result<(), JournalError> {
        let mut entries = self.entries.clone();
        for entry in &mut entries.x509_cas {
            if entry.authority_id == active.as_str() {
                entry.status = Status::Active.into();
            } else if entry.status == i32::from(Status::Active) {
                entry.status = Status::Old.into();
            }
        }
        self.write(entries, Some(active.clone())).await
    }

    /// Stores entries, and takes them over only when that worked.
    async fn write(
        &mut self,
        entries: Entries,
        active: Option<AuthorityId>,
    ) -> Result<(), JournalError> {
        let Some(authority) = active else {
            tracing::debug!(
                subsystem_name = SUBSYSTEM,
                "There is no active X.509 authority yet. Can't save CA journal in the datastore"
            );
            self.entries = entries;
            return Ok(());
        };
        if self.id.is_none() {
            tracing::info!(
                subsystem_name = SUBSYSTEM,
                "Creating a new CA journal entry"
            );
        }
        let data = Bytes::from(entries.encode_to_vec());
        let id = self
            .store
            .save_journal(self.id, &authority, data)
            .await
            .map_err(|source| JournalError::Save { source })?;
        tracing::debug!(
            subsystem_name = SUBSYSTEM,
            ca_journal_id = id.0,
            local_authority_id = %authority,
            "Successfully stored CA journal entry in datastore"
        );
        self.id = Some(id);
        self.active = Some(authority);
        self.entries = entries;
        Ok(())
    }
}

/// Deletes the journals of servers that are gone: those whose authorities all expired two weeks ago.
pub(crate) async fn prune(
    store: &dyn JournalStore,
    own: Option<JournalId>,
    now: SystemTime,
) -> Result<u64, StoreError> {
    let expired_before =
        to_unix(now).saturating_sub(i64::try_from(KEEP_JOURNALS.as_secs()).unwrap_or(i64::MAX));
    let dead = store
        .list_journals()
        .await?
        .into_iter()
        .filter(|journal| Some(journal.id) != own)
        .filter(|journal| {
            Entries::decode(journal.data.clone()).is_ok_and(|entries| {
                let x509 = entries.x509_cas.iter().map(|entry| entry.not_after);
                let jwt = entries.jwt_keys.iter().map(|entry| entry.not_after);
                x509.chain(jwt).all(|not_after| not_after < expired_before)
            })
        })
        .map(|journal| journal.id)
        .collect::<Vec<_>>();
    if dead.is_empty() {
        return Ok(0);
    }
    store.prune_journals(&dead).await
}

fn entry_of(authority: &Authority) -> X509CaEntry {
    X509CaEntry {
        slot_id: authority.slot.as_str().to_owned(),
        issued_at: to_unix(authority.issued_at),
        certificate: authority.issuer.cert_der().clone(),
        upstream_chain: authority.upstream_chain.clone(),
        status: Status::from(authority.state).into(),
        authority_id: authority.id.as_str().to_owned(),
        not_after: to_unix(authority.not_after()),
        upstream_authority_id: authority
            .upstream_id
            .as_ref()
            .map_or("", AuthorityId::as_str)
            .to_owned(),
    }
}

const SUBSYSTEM: &str = super::SUBSYSTEM;
const MAX_ENTRIES: usize = 10;
const KEEP_JOURNALS: Duration = Duration::from_hours(14 * 24);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_encoding_is_the_fields_own() {
        let entries = Entries {
            x509_cas: vec![X509CaEntry {
                slot_id: "A".to_owned(),
                issued_at: 1,
                certificate: Bytes::from_static(b"c"),
                upstream_chain: vec![Bytes::from_static(b"u")],
                status: Status::Active.into(),
                authority_id: "ab".to_owned(),
                not_after: 2,
                upstream_authority_id: String::new(),
            }],
            jwt_keys: vec![KeyEntry {
                slot_id: "B".to_owned(),
                kid: "k".to_owned(),
                ..KeyEntry::default()
            }],
            wit_keys: Vec::new(),
        };
        let expected = [
            &[
                0x0a, 19, 0x0a, 1, b'A', 0x10, 1, 0x1a, 1, b'c', 0x22, 1, b'u', 0x28, 3, 0x32, 2,
                b'a', b'b', 0x38, 2,
            ][..],
            &[0x12, 6, 0x0a, 1, b'B', 0x22, 1, b'k'],
        ]
        .concat();
        assert_eq!(entries.encode_to_vec(), expected);
        assert_eq!(Entries::decode(expected.as_slice()).unwrap(), entries);
    }
}
