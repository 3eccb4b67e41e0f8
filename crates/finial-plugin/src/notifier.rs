//! Listeners to the life of the trust domain's bundle.

use std::fmt::Debug;

use async_trait::async_trait;
use spiffe_types::bundle::Bundle;

use crate::error::PluginError;

/// Is told about the bundle.
#[async_trait]
pub trait Notifier: Debug + Send + Sync {
    /// Is told the bundle when the server has loaded it; a failure stops the server's start.
    async fn bundle_loaded(&self, bundle: &Bundle) -> Result<(), PluginError>;

    /// Is told each change.
    async fn bundle_updated(&self, bundle: &Bundle) -> Result<(), PluginError>;
}
