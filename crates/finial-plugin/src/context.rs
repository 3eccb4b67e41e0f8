//! What the host lends a plugin.

use finial_runtime::clock::SharedClock;
use spiffe_types::id::TrustDomain;

/// What the host lends a plugin when it is built.
#[derive(Debug, Clone)]
pub struct PluginContext {
    /// The trust domain the process belongs to.
    pub trust_domain: TrustDomain,
    /// The clock to ask instead of the system's.
    pub clock: SharedClock,
}
