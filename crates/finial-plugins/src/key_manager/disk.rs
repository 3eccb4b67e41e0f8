//! `KeyManager "disk"`: keys in one JSON file, in the format of SPIRE's, whose files it reads and which reads its own.
//!
//! The file is `{"keys": {"<id>": "<base64 of PKCS#8>"}}`, readable by its owner only, replaced as a whole, and on disk
//! before a new key is handed out: a key that signed something is never lost to a crash.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use async_trait::async_trait;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use finial_pki::key::{KeyKind, SigningKey};
use finial_pki::software::SoftwareKey;
use finial_plugin::key_manager::{KeyId, KeyManager};
use finial_plugin::{PluginContext, PluginError};
use finial_runtime::config::PluginConfig;
use finial_runtime::fs::{create_dir, write_atomic};
use serde::{Deserialize, Serialize};
use tokio::sync::Mutex;
use zeroize::Zeroizing;

use super::keys::{Keys, as_signing_key, generate};

/// Keeps keys in a file.
#[derive(Debug)]
pub struct DiskKeyManager {
    path: PathBuf,
    keys: Keys,
    writing: Mutex<()>,
}

/// Builds a server's key manager from `keys_path`.
pub fn build_server(
    _: &PluginContext,
    config: &PluginConfig,
) -> Result<Arc<dyn KeyManager>, PluginError> {
    let settings: ServerSettings = decode(config)?;
    if settings.keys_path.is_empty() {
        return Err(PluginError::misconfigured("keys_path is required"));
    }
    Ok(Arc::new(DiskKeyManager::open(Path::new(
        &settings.keys_path,
    ))?))
}

/// Builds an agent's key manager from `directory`, which is made where missing and tried by writing to it.
pub fn build_agent(
    _: &PluginContext,
    config: &PluginConfig,
) -> Result<Arc<dyn KeyManager>, PluginError> {
    let settings: AgentSettings = decode(config)?;
    if settings.directory.is_empty() {
        return Err(PluginError::misconfigured("directory must be configured"));
    }
    let directory = Path::new(&settings.directory);
    verify_directory(directory).map_err(|error| {
        PluginError::misconfigured("directory validation failed").with_source(error)
    })?;
    Ok(Arc::new(DiskKeyManager::open(
        &directory.join("keys.json"),
    )?))
}

impl DiskKeyManager {
    /// Reads the keys of a file; a missing file holds none, a damaged one is an error.
    pub fn open(path: &Path) -> Result<Self, PluginError> {
        Ok(Self {
            path: path.to_owned(),
            keys: Keys::new(read(path)?),
            writing: Mutex::new(()),
        })
    }
}

#[async_trait]
impl KeyManager for DiskKeyManager {
    async fn generate(
        &self,
        id: &KeyId,
        kind: KeyKind,
    ) -> Result<Arc<dyn SigningKey>, PluginError> {
        let key = generate(kind).await?;
        let _writing = self.writing.lock().await;
        let mut map = (*self.keys.all()).clone();
        map.insert(id.clone(), key.clone());
        let path = self.path.clone();
        let map = tokio::task::spawn_blocking(move || write(&path, &map).map(|()| map))
            .await
            .map_err(|error| {
                PluginError::internal("unable to write entries").with_source(error)
            })??;
        self.keys.replace(map);
        Ok(as_signing_key(key))
    }

    async fn find(&self, id: &KeyId) -> Result<Option<Arc<dyn SigningKey>>, PluginError> {
        Ok(self.keys.find(id).map(as_signing_key))
    }

    async fn list(&self) -> Result<Vec<(KeyId, Arc<dyn SigningKey>)>, PluginError> {
        Ok(self.keys.list())
    }

    fn exportable(&self, id: &KeyId) -> Result<Option<SoftwareKey>, PluginError> {
        Ok(self.keys.find(id))
    }
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct ServerSettings {
    keys_path: String,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct AgentSettings {
    directory: String,
}

/// The file. Go writes `null` for an empty map it never touched.
#[derive(Serialize, Deserialize)]
struct File {
    #[serde(default)]
    keys: Option<BTreeMap<String, Zeroizing<String>>>,
}

fn decode<T: serde::de::DeserializeOwned>(config: &PluginConfig) -> Result<T, PluginError> {
    config.decode().map_err(|error| {
        PluginError::misconfigured("unable to decode configuration").with_source(error)
    })
}

fn verify_directory(directory: &Path) -> Result<(), PluginError> {
    create_dir(directory, 0o700).map_err(|error| {
        PluginError::misconfigured("directory cannot be made").with_source(error)
    })?;
    let probe = directory.join(".probe");
    write_atomic(&probe, b"", 0o600).map_err(|error| {
        PluginError::misconfigured("directory is not writable").with_source(error)
    })?;
    std::fs::remove_file(&probe).map_err(|error| {
        PluginError::misconfigured(format!("failed to remove {}", probe.display()))
            .with_source(error)
    })
}

fn read(path: &Path) -> Result<BTreeMap<KeyId, SoftwareKey>, PluginError> {
    let json = match std::fs::read(path) {
        Ok(json) => Zeroizing::new(json),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(BTreeMap::new()),
        Err(error) => {
            return Err(PluginError::misconfigured(format!(
                "failed to read keys from {}",
                path.display()
            ))
            .with_source(error));
        }
    };
    let file: File = serde_json::from_slice(&json).map_err(|error| {
        PluginError::internal(format!(
            "unable to decode keys JSON in {}: restore the file, or move it away to begin with new keys",
            path.display()
        ))
        .with_source(error)
    })?;
    file.keys
        .unwrap_or_default()
        .into_iter()
        .map(|(id, text)| {
            let unusable = || {
                PluginError::internal(format!(
                    "unable to parse key \"{id}\" in {}",
                    path.display()
                ))
            };
            let der = STANDARD
                .decode(text.as_bytes())
                .map(Zeroizing::new)
                .map_err(|error| unusable().with_source(error))?;
            let key =
                SoftwareKey::from_pkcs8_der(&der).map_err(|error| unusable().with_source(error))?;
            Ok((KeyId::new(id), key))
        })
        .collect()
}

/// Writes the file as Go's encoder does: tabs, keys sorted, no newline at the end.
fn write(path: &Path, keys: &BTreeMap<KeyId, SoftwareKey>) -> Result<(), PluginError> {
    let failed = || PluginError::internal(format!("unable to write keys to {}", path.display()));
    let file = File {
        keys: Some(
            keys.iter()
                .map(|(id, key)| {
                    let text = Zeroizing::new(STANDARD.encode(&*key.pkcs8_der()));
                    (id.as_str().to_owned(), text)
                })
                .collect(),
        ),
    };
    let mut json = Zeroizing::new(Vec::new());
    let tabs = serde_json::ser::PrettyFormatter::with_indent(b"\t");
    file.serialize(&mut serde_json::Serializer::with_formatter(
        &mut *json, tabs,
    ))
    .map_err(|error| failed().with_source(error))?;
    write_atomic(path, &json, 0o600).map_err(|error| failed().with_source(error))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;
    use std::time::SystemTime;

    use finial_plugin::PluginErrorKind;
    use finial_runtime::clock::{Clock, SharedClock};
    use finial_runtime::config::hcl;
    use spiffe_types::id::TrustDomain;

    use super::*;

    #[tokio::test]
    async fn keys_survive_a_restart_in_spires_format() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("keys.json");
        let manager = DiskKeyManager::open(&path).unwrap();
        let id = KeyId::from("x509-CA-A");
        let rsa = KeyId::from("JWT-Signer-A");
        manager.generate(&rsa, KeyKind::Rsa2048).await.unwrap();
        manager.generate(&id, KeyKind::EcP384).await.unwrap();
        let key = manager.generate(&id, KeyKind::EcP256).await.unwrap();

        let reopened = DiskKeyManager::open(&path).unwrap();

        let found = reopened.find(&id).await.unwrap().unwrap();
        assert_eq!(found.public_key().spki_der(), key.public_key().spki_der());
        let ids: Vec<_> = reopened
            .list()
            .await
            .unwrap()
            .into_iter()
            .map(|(id, _)| id)
            .collect();
        assert_eq!(ids, [rsa, id]);
        let mode = std::fs::metadata(&path).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        let text = std::fs::read_to_string(&path).unwrap();
        assert!(
            text.starts_with("{\n\t\"keys\": {\n\t\t\"JWT-Signer-A\": \"MII"),
            "{text}"
        );
        assert!(text.ends_with("\"\n\t}\n}"), "{text}");
    }

    #[tokio::test]
    async fn a_key_that_is_replaced_goes_on_signing_for_whoever_holds_it() {
        let folder = tempfile::tempdir().unwrap();
        let manager = DiskKeyManager::open(&folder.path().join("keys.json")).unwrap();
        let id = KeyId::from("agent-svid-A");
        let old = manager.generate(&id, KeyKind::EcP256).await.unwrap();

        let new = manager.generate(&id, KeyKind::EcP256).await.unwrap();

        assert_ne!(old.public_key().spki_der(), new.public_key().spki_der());
        let scheme = finial_pki::key::SignatureScheme::default_for(old.public_key()).unwrap();
        old.sign(scheme, b"message").await.unwrap();
    }

    #[test]
    fn a_damaged_file_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("keys.json");
        for (content, expected) in [
            ("{\"keys\": {", "unable to decode keys JSON in "),
            (
                "{\"keys\": {\"a\": \"!\"}}",
                "unable to parse key \"a\" in ",
            ),
            (
                "{\"keys\": {\"a\": \"AAAA\"}}",
                "unable to parse key \"a\" in ",
            ),
        ] {
            std::fs::write(&path, content).unwrap();

            let error = DiskKeyManager::open(&path).unwrap_err();

            assert_eq!(error.kind(), PluginErrorKind::Internal);
            let expected = format!("{expected}{}", path.display());
            assert!(error.to_string().starts_with(&expected), "{error}");
        }
    }

    #[test]
    fn an_agents_directory_is_made_and_tried() {
        let folder = tempfile::tempdir().unwrap();
        let directory = folder.path().join("data/agent");
        let build = |directory: &str| {
            let text = format!("directory = \"{directory}\"");
            let settings = hcl::parse(&text).unwrap();
            build_agent(
                &context(),
                &PluginConfig::built_in("KeyManager", "disk", settings),
            )
        };

        build(directory.to_str().unwrap()).unwrap();

        let left: Vec<_> = std::fs::read_dir(&directory).unwrap().collect();
        assert!(left.is_empty(), "{left:?}");
        std::fs::write(directory.join("file"), "").unwrap();
        let error = build(directory.join("file").to_str().unwrap()).unwrap_err();
        assert_eq!(error.to_string(), "directory validation failed");
        assert_eq!(
            build("").unwrap_err().to_string(),
            "directory must be configured"
        );
    }

    #[test]
    fn a_server_must_be_told_where_its_keys_are() {
        let config = PluginConfig::built_in("KeyManager", "disk", hcl::parse("").unwrap());
        let error = build_server(&context(), &config).unwrap_err();
        assert_eq!(error.to_string(), "keys_path is required");
    }

    fn context() -> PluginContext {
        #[derive(Debug)]
        struct Never;
        impl Clock for Never {
            fn now(&self) -> SystemTime {
                SystemTime::UNIX_EPOCH
            }
        }
        let clock: SharedClock = Arc::new(Never);
        PluginContext::new(TrustDomain::parse("example.org").unwrap(), clock)
    }
}
