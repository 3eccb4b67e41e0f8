//! Who holds private keys.

use std::fmt;
use std::fmt::Debug;
use std::sync::Arc;

use async_trait::async_trait;
use finial_pki::key::{KeyKind, SigningKey};
use finial_pki::software::SoftwareKey;

use crate::error::PluginError;

/// The name under which a key is held, such as `x509-CA-A` or `agent-svid-B`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct KeyId(String);

impl KeyId {
    /// Creates the name; any text will do.
    pub fn new(id: impl Into<String>) -> Self {
        Self(id.into())
    }

    /// Returns the name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for KeyId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl From<&str> for KeyId {
    fn from(id: &str) -> Self {
        Self::new(id)
    }
}

/// Generates, keeps and lends private keys.
///
/// A key handed out stays usable after its id was given to a new key: rotation signs with the old key until the new one
/// is in place.
#[async_trait]
pub trait KeyManager: Debug + Send + Sync {
    /// Generates a key, replacing any key with the same id. Once this returns, the key survives a restart as far as the
    /// key manager's keys do at all.
    async fn generate(&self, id: &KeyId, kind: KeyKind)
    -> Result<Arc<dyn SigningKey>, PluginError>;

    /// Finds the key of this id.
    async fn find(&self, id: &KeyId) -> Result<Option<Arc<dyn SigningKey>>, PluginError>;

    /// Lists every key, ordered by id.
    async fn list(&self) -> Result<Vec<(KeyId, Arc<dyn SigningKey>)>, PluginError>;

    /// Returns the key itself where it lives in this process, as TLS on the agent needs it; `None` when the key does not
    /// exist or never leaves the place that holds it.
    fn exportable(&self, id: &KeyId) -> Result<Option<SoftwareKey>, PluginError>;
}
