//! Changes to credentials before they are signed.

use std::fmt::Debug;

use async_trait::async_trait;
use bytes::Bytes;
use spiffe_types::entry::DnsName;
use spiffe_types::id::SpiffeId;

use crate::error::PluginError;

/// What of an X.509-SVID a composer may change. The SPIFFE ID and the lifetime are not among it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct X509SvidDraft {
    /// Whose SVID it will be; for the composer to read.
    pub spiffe_id: SpiffeId,
    /// The subject, as a DER-encoded name.
    pub subject_der: Bytes,
    /// The DNS names.
    pub dns_names: Vec<DnsName>,
}

/// Changes drafts of credentials; every hook leaves them as they are by default.
#[async_trait]
pub trait CredentialComposer: Debug + Send + Sync {
    /// Composes the server's own SVID.
    async fn server_x509(&self, draft: X509SvidDraft) -> Result<X509SvidDraft, PluginError> {
        Ok(draft)
    }

    /// Composes an agent's SVID.
    async fn agent_x509(&self, draft: X509SvidDraft) -> Result<X509SvidDraft, PluginError> {
        Ok(draft)
    }

    /// Composes a workload's SVID.
    async fn workload_x509(&self, draft: X509SvidDraft) -> Result<X509SvidDraft, PluginError> {
        Ok(draft)
    }
}
