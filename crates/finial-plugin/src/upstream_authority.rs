//! A certificate authority above the server's own.

use std::fmt::Debug;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use finial_pki::csr::Csr;
use futures::stream::BoxStream;
use spiffe_types::bundle::{JwtAuthority, X509Authority};

use crate::error::PluginError;

/// What an upstream authority vouches for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TrustRoots {
    /// The upstream's root certificates.
    pub x509: Vec<X509Authority>,
    /// The JWT keys published upstream; empty when the upstream knows none.
    pub jwt: Vec<JwtAuthority>,
}

/// A CA certificate signed upstream.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MintedX509Ca {
    /// The new certificate first, then the intermediates up to but without the root; DER.
    pub chain: Vec<Bytes>,
    /// The roots at this time.
    pub roots: TrustRoots,
}

/// Signs this server's CA and distributes its JWT keys.
#[async_trait]
pub trait UpstreamAuthority: Debug + Send + Sync {
    /// Signs a CA certificate for the CSR's key. The upstream may give it a shorter life than `ttl`.
    async fn mint_x509_ca(&self, csr: &Csr, ttl: Duration) -> Result<MintedX509Ca, PluginError>;

    /// Publishes a JWT key upstream and returns what the upstream knows then; `Unsupported` when it keeps none.
    async fn publish_jwt_key(&self, key: &JwtAuthority) -> Result<TrustRoots, PluginError>;

    /// Follows the upstream's roots: the present ones first, then each change.
    async fn roots(
        &self,
    ) -> Result<BoxStream<'static, Result<TrustRoots, PluginError>>, PluginError>;
}
