//! `KeyManager "memory"`: keys that vanish with the process.

use std::sync::Arc;

use async_trait::async_trait;
use finial_pki::key::{KeyKind, SigningKey};
use finial_pki::software::SoftwareKey;
use finial_plugin::key_manager::{KeyId, KeyManager};
use finial_plugin::{PluginContext, PluginError};
use finial_runtime::config::PluginConfig;
use tokio::sync::Mutex;

use super::keys::{Keys, as_signing_key, generate};

/// Keeps keys in memory. After a restart there are none, so a server makes a new authority and an agent attests anew.
#[derive(Debug, Default)]
pub struct MemoryKeyManager {
    keys: Keys,
    writing: Mutex<()>,
}

/// Builds the key manager; it has no settings.
#[expect(clippy::unnecessary_wraps, reason = "the registry's signature")]
pub fn build(_: &PluginContext, _: &PluginConfig) -> Result<Arc<dyn KeyManager>, PluginError> {
    Ok(Arc::new(MemoryKeyManager::default()))
}

#[async_trait]
impl KeyManager for MemoryKeyManager {
    async fn generate(
        &self,
        id: &KeyId,
        kind: KeyKind,
    ) -> Result<Arc<dyn SigningKey>, PluginError> {
        let key = generate(kind).await?;
        let _writing = self.writing.lock().await;
        let mut map = (*self.keys.all()).clone();
        map.insert(id.clone(), key.clone());
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
