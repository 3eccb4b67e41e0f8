//! What the agent keeps on disk: its SVID, the own trust domain's X.509 authorities, and how far bootstrapping has got.
//!
//! One file, `agent-data.json`, in SPIRE's format to the letter, so that an agent can be exchanged for the other one in place.
//! Each change rewrites it atomically with mode 0600. Keys are the key manager's; nothing of a workload is ever written.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use bytes::Bytes;
use serde::{Deserialize, Serialize};
use spiffe_types::pem;
use thiserror::Error;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

/// The file's name in the data directory.
pub const FILE_NAME: &str = "agent-data.json";

/// Why the stored state cannot be used.
#[derive(Debug, Error)]
pub enum StorageError {
    /// The file is there and cannot be read.
    #[error("failed to read {path}")]
    Read {
        /// The file.
        path: PathBuf,
        /// The cause.
        source: io::Error,
    },
    /// The file is not what an agent writes.
    #[error("{path} is corrupt: {reason}; remove it to make the agent attest anew")]
    Corrupt {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// The file cannot be replaced.
    #[error("failed to write {path}")]
    Write {
        /// The file.
        path: PathBuf,
        /// The cause.
        source: finial_runtime::fs::FsError,
    },
    /// The process is ending and nothing is written any more.
    #[error("failed to write {path}: the agent is stopping")]
    Stopping {
        /// The file.
        path: PathBuf,
        /// The cause.
        source: tokio::task::JoinError,
    },
}

/// The SVID of the agent as stored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoredSvid {
    /// The certificates in DER, leaf first.
    pub chain: Vec<Bytes>,
    /// Whether the agent may attest again at will.
    pub reattestable: bool,
}

/// What a bootstrap source is being asked for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum BootstrapUse {
    /// Nothing was ever noted.
    #[default]
    Unspecified,
    /// For the first trust.
    Bootstrap,
    /// For new trust, after the server's authorities became unknown.
    Rebootstrap,
}

/// How far bootstrapping has got.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct BootstrapState {
    /// What for.
    pub purpose: BootstrapUse,
    /// Since when; `None` when none is going on.
    pub started_at: Option<OffsetDateTime>,
    /// How often the source was asked.
    pub attempts: u32,
}

/// The file, read once and rewritten at each change.
#[derive(Clone, Debug)]
pub struct Storage {
    path: PathBuf,
    data: Arc<Mutex<Data>>,
}

impl Storage {
    /// Reads what an earlier run left in `data_dir`; a missing file is an empty one.
    pub fn open(data_dir: &Path) -> Result<Self, StorageError> {
        let path = data_dir.join(FILE_NAME);
        let data = match fs::read(&path) {
            Ok(content) => Data::decode(&content).map_err(|reason| StorageError::Corrupt {
                path: path.clone(),
                reason,
            })?,
            Err(error) if error.kind() == io::ErrorKind::NotFound => Data::default(),
            Err(source) => return Err(StorageError::Read { path, source }),
        };
        Ok(Self {
            path,
            data: Arc::new(Mutex::new(data)),
        })
    }

    /// The stored SVID.
    pub fn svid(&self) -> Option<StoredSvid> {
        self.read(|data| {
            (!data.svid.is_empty()).then(|| StoredSvid {
                chain: data.svid.clone(),
                reattestable: data.reattestable,
            })
        })
    }

    /// The stored X.509 authorities of the own trust domain in DER; `None` when there are none.
    pub fn bundle(&self) -> Option<Vec<Bytes>> {
        self.read(|data| (!data.bundle.is_empty()).then(|| data.bundle.clone()))
    }

    /// How far bootstrapping has got.
    pub fn bootstrap_state(&self) -> BootstrapState {
        self.read(|data| data.bootstrap)
    }

    /// Stores the SVID.
    pub async fn store_svid(&self, svid: StoredSvid) -> Result<(), StorageError> {
        self.write(|data| {
            data.svid = svid.chain;
            data.reattestable = svid.reattestable;
        })
        .await
    }

    /// Removes the SVID, so that the next start attests.
    pub async fn delete_svid(&self) -> Result<(), StorageError> {
        self.write(|data| {
            data.svid = Vec::new();
            data.reattestable = false;
        })
        .await
    }

    /// Stores the authorities; none removes them.
    pub async fn store_bundle(&self, authorities: Vec<Bytes>) -> Result<(), StorageError> {
        if self.read(|data| data.bundle == authorities) {
            return Ok(());
        }
        self.write(|data| data.bundle = authorities).await
    }

    /// Notes how far bootstrapping has got.
    pub async fn store_bootstrap_state(&self, state: BootstrapState) -> Result<(), StorageError> {
        self.write(|data| data.bootstrap = state).await
    }

    fn read<T>(&self, take: impl FnOnce(&Data) -> T) -> T {
        take(&self.data.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Changes the state on disk first and in memory after: what is used is always what a restart would find.
    async fn write(&self, change: impl FnOnce(&mut Data)) -> Result<(), StorageError> {
        let mut next = self.read(Clone::clone);
        change(&mut next);
        let (path, content) = (self.path.clone(), next.encode());
        tokio::task::spawn_blocking(move || {
            finial_runtime::fs::write_atomic(&path, &content, 0o600)
        })
        .await
        .map_err(|source| StorageError::Stopping {
            path: self.path.clone(),
            source,
        })?
        .map_err(|source| StorageError::Write {
            path: self.path.clone(),
            source,
        })?;
        *self.data.lock().unwrap_or_else(PoisonError::into_inner) = next;
        Ok(())
    }
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Data {
    svid: Vec<Bytes>,
    bundle: Vec<Bytes>,
    reattestable: bool,
    bootstrap: BootstrapState,
}

/// The document: lists of base64 of one PEM certificate each; Go's nil list is `null`, its zero time is year 1.
#[derive(Debug, Serialize, Deserialize)]
struct Document {
    #[serde(default)]
    svid: Option<Vec<String>>,
    #[serde(default)]
    bundle: Option<Vec<String>>,
    #[serde(default)]
    reattestable: bool,
    #[serde(default)]
    bootstrap_use: u8,
    #[serde(default)]
    bootstrap_start_time: Option<String>,
    #[serde(default)]
    connection_attempts: u32,
}

impl Data {
    fn decode(content: &[u8]) -> Result<Self, String> {
        let document: Document =
            serde_json::from_slice(content).map_err(|error| error.to_string())?;
        Ok(Self {
            svid: decode_certificates("svid", document.svid)?,
            bundle: decode_certificates("bundle", document.bundle)?,
            reattestable: document.reattestable,
            bootstrap: BootstrapState {
                purpose: match document.bootstrap_use {
                    0 => BootstrapUse::Unspecified,
                    1 => BootstrapUse::Bootstrap,
                    2 => BootstrapUse::Rebootstrap,
                    other => return Err(format!("bootstrap_use is {other}, not 0, 1 or 2")),
                },
                started_at: decode_time(document.bootstrap_start_time.as_deref())?,
                attempts: document.connection_attempts,
            },
        })
    }

    fn encode(&self) -> Vec<u8> {
        let document = Document {
            svid: encode_certificates(&self.svid),
            bundle: encode_certificates(&self.bundle),
            reattestable: self.reattestable,
            bootstrap_use: match self.bootstrap.purpose {
                BootstrapUse::Unspecified => 0,
                BootstrapUse::Bootstrap => 1,
                BootstrapUse::Rebootstrap => 2,
            },
            bootstrap_start_time: Some(
                self.bootstrap
                    .started_at
                    .and_then(|time| time.format(&Rfc3339).ok())
                    .unwrap_or_else(|| GO_ZERO_TIME.to_owned()),
            ),
            connection_attempts: self.bootstrap.attempts,
        };
        // Strings, numbers and booleans always serialize.
        serde_json::to_vec(&document).unwrap_or_default()
    }
}

fn decode_certificates(field: &str, items: Option<Vec<String>>) -> Result<Vec<Bytes>, String> {
    let decode = |(index, item): (usize, String)| {
        let text = BASE64
            .decode(item)
            .map_err(|error| format!("{field}[{index}] is not base64: {error}"))?;
        let text = String::from_utf8(text)
            .map_err(|error| format!("{field}[{index}] is not PEM: {error}"))?;
        let mut blocks = pem::decode_all(&text, CERTIFICATE)
            .map_err(|error| format!("{field}[{index}] is not PEM: {error}"))?;
        match (blocks.pop(), blocks.is_empty()) {
            (Some(certificate), true) => Ok(certificate),
            _ => Err(format!(
                "{field}[{index}] must hold exactly one certificate"
            )),
        }
    };
    items
        .unwrap_or_default()
        .into_iter()
        .enumerate()
        .map(decode)
        .collect()
}

fn encode_certificates(certificates: &[Bytes]) -> Option<Vec<String>> {
    let encode = |certificate: &Bytes| BASE64.encode(pem::encode(CERTIFICATE, certificate));
    (!certificates.is_empty()).then(|| certificates.iter().map(encode).collect())
}

fn decode_time(text: Option<&str>) -> Result<Option<OffsetDateTime>, String> {
    match text {
        None | Some(GO_ZERO_TIME) => Ok(None),
        Some(text) => OffsetDateTime::parse(text, &Rfc3339)
            .map(Some)
            .map_err(|error| format!("bootstrap_start_time is not a time: {error}")),
    }
}

const CERTIFICATE: &str = "CERTIFICATE";
const GO_ZERO_TIME: &str = "0001-01-01T00:00:00Z";

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    /// As SPIRE leaves it behind after a join-token attestation; the certificates shortened to their framing.
    fn recorded() -> String {
        let item =
            BASE64.encode("-----BEGIN CERTIFICATE-----\nMAMCAQE=\n-----END CERTIFICATE-----\n");
        format!(
            r#"{{"svid":["{item}"],"bundle":["{item}","{item}"],"reattestable":true,"bootstrap_use":2,"bootstrap_start_time":"0001-01-01T00:00:00Z","connection_attempts":0}}"#
        )
    }

    #[test]
    fn a_file_of_spire_is_read_and_written_back_byte_for_byte() {
        let text = recorded();
        let data = Data::decode(text.as_bytes()).unwrap();

        assert_eq!(data.svid, [Bytes::from_static(&[0x30, 3, 2, 1, 1])]);
        assert_eq!(data.bundle.len(), 2);
        assert!(data.reattestable);
        assert_eq!(data.bootstrap.purpose, BootstrapUse::Rebootstrap);
        assert_eq!(data.bootstrap.started_at, None);
        assert_eq!(String::from_utf8(data.encode()).unwrap(), text);
    }

    #[test]
    fn an_empty_state_is_written_as_go_writes_nil() {
        let text = r#"{"svid":null,"bundle":null,"reattestable":false,"bootstrap_use":1,"bootstrap_start_time":"2026-11-22T13:43:31.047195137+01:00","connection_attempts":3}"#;
        let data = Data::decode(text.as_bytes()).unwrap();

        assert_eq!(data.bootstrap.attempts, 3);
        assert_eq!(String::from_utf8(data.encode()).unwrap(), text);
    }

    #[tokio::test]
    async fn what_is_stored_is_found_again_and_private() {
        let directory = tempfile::tempdir().unwrap();
        let storage = Storage::open(directory.path()).unwrap();
        let svid = StoredSvid {
            chain: vec![Bytes::from_static(&[0x30, 0])],
            reattestable: true,
        };
        storage.store_svid(svid.clone()).await.unwrap();
        storage
            .store_bundle(vec![Bytes::from_static(&[0x30, 0])])
            .await
            .unwrap();

        let again = Storage::open(directory.path()).unwrap();
        assert_eq!(again.svid(), Some(svid));
        assert_eq!(again.bundle().map(|bundle| bundle.len()), Some(1));
        let file = fs::metadata(directory.path().join(FILE_NAME)).unwrap();
        assert_eq!(file.permissions().mode() & 0o777, 0o600);

        again.delete_svid().await.unwrap();
        assert_eq!(Storage::open(directory.path()).unwrap().svid(), None);
    }

    #[test]
    fn a_corrupt_file_is_named() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join(FILE_NAME);
        fs::write(&path, b"{\"svid\":[\"!\"]}").unwrap();
        let text = Storage::open(directory.path()).unwrap_err().to_string();

        assert!(text.contains(path.to_str().unwrap()), "{text}");
        assert!(text.contains("svid[0]"), "{text}");
    }
}
