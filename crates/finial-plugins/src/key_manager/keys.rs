//! The keys of a key manager, by id.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use finial_pki::key::{KeyKind, SigningKey};
use finial_pki::software::SoftwareKey;
use finial_plugin::PluginError;
use finial_plugin::key_manager::KeyId;

/// Keys by id. Readers get the map as it is; whoever changes it replaces it as a whole.
#[derive(Debug, Default)]
pub(super) struct Keys {
    map: Mutex<Arc<BTreeMap<KeyId, SoftwareKey>>>,
}

impl Keys {
    pub(super) fn new(map: BTreeMap<KeyId, SoftwareKey>) -> Self {
        Self {
            map: Mutex::new(Arc::new(map)),
        }
    }

    pub(super) fn all(&self) -> Arc<BTreeMap<KeyId, SoftwareKey>> {
        Arc::clone(&self.map.lock().unwrap_or_else(PoisonError::into_inner))
    }

    pub(super) fn replace(&self, map: BTreeMap<KeyId, SoftwareKey>) {
        *self.map.lock().unwrap_or_else(PoisonError::into_inner) = Arc::new(map);
    }

    pub(super) fn find(&self, id: &KeyId) -> Option<SoftwareKey> {
        self.all().get(id).cloned()
    }

    pub(super) fn list(&self) -> Vec<(KeyId, Arc<dyn SigningKey>)> {
        self.all()
            .iter()
            .map(|(id, key)| (id.clone(), as_signing_key(key.clone())))
            .collect()
    }
}

/// Generates a key off the async threads: RSA takes its time.
pub(super) async fn generate(kind: KeyKind) -> Result<SoftwareKey, PluginError> {
    tokio::task::spawn_blocking(move || SoftwareKey::generate(kind))
        .await
        .map_err(|error| PluginError::internal("failed to generate key").with_source(error))?
        .map_err(|error| PluginError::internal("failed to generate key").with_source(error))
}

pub(super) fn as_signing_key(key: SoftwareKey) -> Arc<dyn SigningKey> {
    Arc::new(key)
}
