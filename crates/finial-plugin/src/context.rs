//! What the host lends a plugin.

use std::fmt;
use std::sync::Arc;

use finial_runtime::clock::SharedClock;
use spiffe_types::bundle::Bundle;
use spiffe_types::id::TrustDomain;
use zeroize::Zeroizing;

/// What the host lends a plugin when it is built.
#[derive(Debug, Clone)]
pub struct PluginContext {
    /// The trust domain the process belongs to.
    pub trust_domain: TrustDomain,
    /// The clock to ask instead of the system's.
    pub clock: SharedClock,
    /// The bundle of the own trust domain, as it is when asked.
    pub own_bundle: BundleLookup,
    /// The token an agent was handed to join with.
    pub join_token: Option<JoinToken>,
}

impl PluginContext {
    /// Creates a context without a bundle.
    pub fn new(trust_domain: TrustDomain, clock: SharedClock) -> Self {
        Self {
            trust_domain,
            clock,
            own_bundle: BundleLookup::default(),
            join_token: None,
        }
    }

    /// Lends the bundle too.
    #[must_use]
    pub fn with_own_bundle(mut self, own_bundle: BundleLookup) -> Self {
        self.own_bundle = own_bundle;
        self
    }

    /// Lends a join token too.
    #[must_use]
    pub fn with_join_token(mut self, join_token: Option<JoinToken>) -> Self {
        self.join_token = join_token;
        self
    }
}

/// A join token. It is worth an identity, so it is never printed, and it is wiped when dropped.
#[derive(Clone, PartialEq, Eq)]
pub struct JoinToken(Zeroizing<String>);

impl JoinToken {
    /// Wraps a token.
    pub fn new(token: impl Into<String>) -> Self {
        Self(Zeroizing::new(token.into()))
    }

    /// Returns the token itself.
    pub fn reveal(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for JoinToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("JoinToken(…)")
    }
}

/// Answers with the current bundle. Plugins are built before there is one, so they keep the question.
#[derive(Clone)]
pub struct BundleLookup {
    find: Arc<dyn Fn() -> Option<Arc<Bundle>> + Send + Sync>,
}

impl BundleLookup {
    /// Creates a lookup that asks `find` each time.
    pub fn new(find: impl Fn() -> Option<Arc<Bundle>> + Send + Sync + 'static) -> Self {
        Self {
            find: Arc::new(find),
        }
    }

    /// Returns the bundle, if there is one yet.
    pub fn find(&self) -> Option<Arc<Bundle>> {
        (self.find)()
    }
}

/// Never finds a bundle.
impl Default for BundleLookup {
    fn default() -> Self {
        Self::new(|| None)
    }
}

impl fmt::Debug for BundleLookup {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("BundleLookup")
    }
}
