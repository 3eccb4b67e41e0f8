//! The agent's own key: two slots of the key manager, used in turn.

use std::sync::Arc;

use finial_pki::key::KeyKind;
use finial_pki::software::SoftwareKey;
use finial_plugin::error::PluginError;
use finial_plugin::key_manager::{KeyId, KeyManager};
use thiserror::Error;

/// Why there is no key.
#[derive(Debug, Error)]
pub enum KeyError {
    /// The key manager does not tell its keys.
    #[error("unable to load private key")]
    List {
        /// The cause.
        source: PluginError,
    },
    /// The key manager makes no key.
    #[error("unable to generate private key")]
    Generate {
        /// The cause.
        source: PluginError,
    },
    /// The key manager keeps the key to itself.
    #[error(
        "key manager does not let the agent use key {id} for TLS; configure a KeyManager such as \"disk\" or \"memory\""
    )]
    NotExportable {
        /// The key.
        id: KeyId,
    },
}

/// A key of the agent, and the slot it is in.
#[derive(Clone, Debug)]
pub struct AgentKey {
    /// The slot.
    pub id: KeyId,
    /// The key.
    pub key: SoftwareKey,
}

/// The two slots.
#[derive(Clone, Debug)]
pub struct AgentKeys {
    manager: Arc<dyn KeyManager>,
}

impl AgentKeys {
    /// Uses the slots of `manager`.
    pub fn new(manager: Arc<dyn KeyManager>) -> Self {
        Self { manager }
    }

    /// Finds the key with this public key; whether there is any key at all is told beside.
    pub async fn find(&self, public_key_der: &[u8]) -> Result<(Option<AgentKey>, bool), KeyError> {
        let keys = self
            .manager
            .list()
            .await
            .map_err(|source| KeyError::List { source })?;
        let has_keys = !keys.is_empty();
        let found = keys
            .into_iter()
            .find(|(_, key)| key.public_key().spki_der() == public_key_der);
        let found = found.map(|(id, _)| self.export(id)).transpose()?;
        Ok((found, has_keys))
    }

    /// Whether there is any key.
    pub async fn any(&self) -> Result<bool, KeyError> {
        self.find(&[]).await.map(|(_, any)| any)
    }

    /// Makes a new key in the slot that `current` does not use. The current key stays until the turn after.
    pub async fn generate(&self, current: Option<&KeyId>) -> Result<AgentKey, KeyError> {
        let slot = if current.is_some_and(|id| id.as_str() == SLOT_A) {
            SLOT_B
        } else {
            SLOT_A
        };
        let id = KeyId::new(slot);
        self.manager
            .generate(&id, KeyKind::EcP256)
            .await
            .map_err(|source| KeyError::Generate { source })?;
        self.export(id)
    }

    fn export(&self, id: KeyId) -> Result<AgentKey, KeyError> {
        let key = self
            .manager
            .exportable(&id)
            .map_err(|source| KeyError::List { source })?;
        match key {
            Some(key) => Ok(AgentKey { id, key }),
            None => Err(KeyError::NotExportable { id }),
        }
    }
}

const SLOT_A: &str = "agent-svid-A";
const SLOT_B: &str = "agent-svid-B";

#[cfg(test)]
mod tests {
    use finial_plugin::fakes::FakeKeyManager;

    use super::*;

    #[tokio::test]
    async fn the_slots_are_used_in_turn_and_the_current_key_stays() {
        let keys = AgentKeys::new(Arc::new(FakeKeyManager::default()));
        assert!(!keys.any().await.unwrap());
        let first = keys.generate(None).await.unwrap();
        let second = keys.generate(Some(&first.id)).await.unwrap();
        assert_eq!(first.id.as_str(), "agent-svid-A");
        assert_eq!(second.id.as_str(), "agent-svid-B");

        let (found, _) = keys.find(first.key.public_key().spki_der()).await.unwrap();
        assert_eq!(found.unwrap().id, first.id);
        let third = keys.generate(Some(&second.id)).await.unwrap();
        assert_eq!(third.id, first.id);
    }
}
