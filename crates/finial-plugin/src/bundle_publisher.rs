//! Copies of the trust domain's bundle in places that others read.

use std::fmt::Debug;

use async_trait::async_trait;
use spiffe_types::bundle::Bundle;

use crate::error::PluginError;

/// Puts the bundle somewhere.
#[async_trait]
pub trait BundlePublisher: Debug + Send + Sync {
    /// Publishes `bundle`; called again after each change, and with the same bundle after a failure.
    async fn publish(&self, bundle: &Bundle) -> Result<(), PluginError>;
}
