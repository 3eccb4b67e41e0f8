//! The only user of authority keys: signs SVIDs with whatever authority is active.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use finial_pki::key::PublicKey;
use finial_pki::software::SoftwareKey;
use finial_pki::x509::{self, SignX509Error, SubjectName, sign_svid};
use finial_runtime::clock::SharedClock;
use spiffe_types::bundle::AuthorityId;
use spiffe_types::entry::{DnsName, Entry};
use spiffe_types::id::{IdError, SpiffeId, TrustDomain};
use spiffe_types::svid::x509::{X509Svid, X509SvidError};
use tokio::sync::watch;

use super::CaConfig;
use super::template::{self, SvidDraft};
use super::validate::{self, ValidateError};

/// Why no SVID was issued.
#[derive(Debug, thiserror::Error)]
pub enum IssueError {
    /// There is no authority yet.
    #[error("X509 CA is not available for signing")]
    NoAuthority,
    /// The authority has expired and no other could be made.
    #[error("X509 CA has expired; see the log for why it was not rotated")]
    AuthorityExpired,
    /// The certificate was not made.
    #[error("unable to create X509 SVID for {id}")]
    Sign {
        /// For whom.
        id: SpiffeId,
        /// What was in the way.
        source: SignX509Error,
    },
    /// What was made is no SVID.
    #[error("X509 SVID for {id} is malformed")]
    Malformed {
        /// For whom.
        id: SpiffeId,
        /// The rule it breaks.
        source: X509SvidError,
    },
    /// What was made must not leave.
    #[error("X509 SVID for {id} is not fit for release")]
    Invalid {
        /// For whom.
        id: SpiffeId,
        /// The rule it breaks.
        source: ValidateError,
    },
    /// The ID that is signed for a check cannot be formed.
    #[error("failed to form the ID of a check")]
    CheckId {
        /// Why.
        source: IdError,
    },
}

/// An SVID that an administrator asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MintRequest {
    /// Whom it names.
    pub spiffe_id: SpiffeId,
    /// The key it is for, proven to be held.
    pub public_key: PublicKey,
    /// DNS names; the first becomes the common name.
    pub dns_names: Vec<DnsName>,
    /// The subject, when the default will not do.
    pub subject: Option<SubjectName>,
    /// How long it is to live; the default when absent.
    pub ttl: Option<Duration>,
}

/// An authority that signs.
#[derive(Debug, Clone)]
pub(crate) struct ActiveAuthority {
    pub(crate) id: AuthorityId,
    pub(crate) issuer: x509::Issuer,
    pub(crate) upstream_chain: Vec<Bytes>,
}

/// Signs SVIDs. Nothing here waits for the store: with the database away, identities go on being renewed.
#[derive(Debug, Clone)]
pub struct Issuer {
    trust_domain: TrustDomain,
    x509_svid_ttl: Duration,
    agent_ttl: Duration,
    clock: SharedClock,
    active: watch::Receiver<Option<Arc<ActiveAuthority>>>,
}

impl Issuer {
    pub(super) fn new(
        config: &CaConfig,
        clock: SharedClock,
        active: watch::Receiver<Option<Arc<ActiveAuthority>>>,
    ) -> Self {
        Self {
            trust_domain: config.trust_domain.clone(),
            x509_svid_ttl: config.x509_svid_ttl,
            agent_ttl: config.agent_ttl.unwrap_or(config.x509_svid_ttl),
            clock,
            active,
        }
    }

    /// Signs an agent's SVID.
    pub async fn sign_agent_svid(
        &self,
        id: &SpiffeId,
        key: &PublicKey,
    ) -> Result<X509Svid, IssueError> {
        self.sign(&SvidDraft {
            id,
            public_key: key,
            dns_names: &[],
            subject: None,
            ttl: self.agent_ttl,
        })
        .await
    }

    /// Signs a workload's SVID; everything but the key comes from the entry.
    pub async fn sign_workload_svid(
        &self,
        entry: &Entry,
        key: &PublicKey,
    ) -> Result<X509Svid, IssueError> {
        self.sign(&SvidDraft {
            id: &entry.spiffe_id,
            public_key: key,
            dns_names: &entry.dns_names,
            subject: None,
            ttl: entry
                .x509_svid_ttl
                .map_or(self.x509_svid_ttl, spiffe_types::entry::Ttl::duration),
        })
        .await
    }

    /// Signs what an administrator asked for.
    pub async fn sign_minted_svid(&self, request: &MintRequest) -> Result<X509Svid, IssueError> {
        self.sign(&SvidDraft {
            id: &request.spiffe_id,
            public_key: &request.public_key,
            dns_names: &request.dns_names,
            subject: request.subject.as_ref(),
            ttl: request.ttl.unwrap_or(self.x509_svid_ttl),
        })
        .await
    }

    /// Signs the server's own SVID.
    pub async fn sign_server_svid(&self, key: &PublicKey) -> Result<X509Svid, IssueError> {
        let id = SpiffeId::server_id(&self.trust_domain);
        self.sign(&SvidDraft {
            id: &id,
            public_key: key,
            dns_names: &[],
            subject: None,
            ttl: self.x509_svid_ttl,
        })
        .await
    }

    /// Signs a throw-away SVID, to see whether the authority can.
    pub async fn check(&self, key: &SoftwareKey) -> Result<(), IssueError> {
        let id = SpiffeId::from_path(&self.trust_domain, "/for/health/check/only")
            .map_err(|source| IssueError::CheckId { source })?;
        let draft = SvidDraft {
            id: &id,
            public_key: key.public_key(),
            dns_names: &[],
            subject: None,
            ttl: self.x509_svid_ttl,
        };
        self.sign(&draft).await.map(|_svid| ())
    }

    /// Returns which authority signs at the moment.
    pub fn authority_id(&self) -> Option<AuthorityId> {
        self.active
            .borrow()
            .as_ref()
            .map(|active| active.id.clone())
    }

    /// Returns until when the authority that signs at the moment is valid.
    pub fn authority_not_after(&self) -> Option<SystemTime> {
        self.active
            .borrow()
            .as_ref()
            .map(|active| active.issuer.not_after())
    }

    async fn sign(&self, draft: &SvidDraft<'_>) -> Result<X509Svid, IssueError> {
        let active = self
            .active
            .borrow()
            .clone()
            .ok_or(IssueError::NoAuthority)?;
        let now = self.clock.now();
        if active.issuer.not_after() <= now {
            return Err(IssueError::AuthorityExpired);
        }
        let id = || draft.id.clone();
        let template = template::svid(draft, active.issuer.not_after(), now);
        let leaf = sign_svid(&active.issuer, &template)
            .await
            .map_err(|source| IssueError::Sign { id: id(), source })?;
        let chain = std::iter::once(leaf)
            .chain(active.upstream_chain.iter().cloned())
            .collect();
        let svid =
            X509Svid::parse(chain).map_err(|source| IssueError::Malformed { id: id(), source })?;
        validate::svid(&svid, draft.id, draft.public_key, now)
            .map_err(|source| IssueError::Invalid { id: id(), source })?;
        Ok(svid)
    }
}
