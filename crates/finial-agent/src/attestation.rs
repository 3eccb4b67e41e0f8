//! How the agent comes by its identity: what it kept on disk ([`storage`]), whom it trusts at first ([`bootstrap`]), and the
//! exchange with the server that turns a proof into an SVID ([`exchange`]).
//!
//! A stored SVID that is still good, with its key, ends the flow at once: no call is made. What may heal is tried again;
//! what cannot heal without an operator (a spent join token, a missing bundle file) ends it with the reason.

pub mod bootstrap;
pub mod exchange;
pub mod storage;

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use finial_pki::csr;
use finial_plugin::node_attestor::AgentNodeAttestor;
use finial_runtime::backoff::Backoff;
use finial_runtime::clock::SharedClock;
use finial_runtime::log::chain;
use spiffe_types::bundle::{Bundle, X509Authority};
use spiffe_types::id::TrustDomain;
use spiffe_types::svid::x509::X509Svid;
use thiserror::Error;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use self::bootstrap::{Bootstrap, BootstrapError, Source, Trust};
use self::exchange::ExchangeError;
use self::storage::{BootstrapState, BootstrapUse, Storage, StorageError, StoredSvid};
use crate::identity::AgentSvid;
use crate::identity::keys::{AgentKeys, KeyError};
use crate::link::Link;

/// Why the node is not attested.
#[derive(Debug, Error)]
pub enum AttestationError {
    /// There is no first trust.
    #[error("failed to bootstrap trust in the server")]
    Bootstrap {
        /// The cause.
        source: BootstrapError,
    },
    /// The exchange failed.
    #[error("failed to attest node")]
    Exchange {
        /// The cause.
        source: ExchangeError,
    },
    /// There is no key.
    #[error("failed to load or make the agent's key")]
    Key {
        /// The cause.
        source: KeyError,
    },
    /// No request could be made.
    #[error("failed to generate CSR for attestation")]
    Csr {
        /// The cause.
        source: csr::CreateCsrError,
    },
    /// What is on disk cannot be changed.
    #[error("failed to store attestation result")]
    Store {
        /// The cause.
        source: StorageError,
    },
    /// Somebody took the bundle away.
    #[error("SVID loaded but no bundle in cache")]
    BundleLost,
    /// What is on disk as a bundle is none.
    #[error("failed to load the cached bundle")]
    CachedBundle {
        /// The cause.
        source: spiffe_types::svid::x509::CertificateError,
    },
}

impl AttestationError {
    /// Whether trying again may help without anybody doing something.
    pub fn can_heal(&self) -> bool {
        match self {
            Self::Bootstrap { source } => source.can_heal(),
            Self::Exchange { source } => match source {
                ExchangeError::JoinToken { .. } => false,
                ExchangeError::Payload { attestor, .. } => attestor != exchange::JOIN_TOKEN,
                ExchangeError::Rpc { source, .. } => source.code() != tonic::Code::PermissionDenied,
                ExchangeError::Challenge { .. }
                | ExchangeError::TooManyChallenges
                | ExchangeError::MissingSvid
                | ExchangeError::Bundle { .. }
                | ExchangeError::Verify { .. }
                | ExchangeError::NotAnAgent { .. }
                | ExchangeError::OtherKey => true,
            },
            Self::Key { .. } | Self::Csr { .. } | Self::Store { .. } => true,
            Self::BundleLost | Self::CachedBundle { .. } => false,
        }
    }

    fn is_unknown_authority(&self) -> bool {
        matches!(self, Self::Exchange { source: ExchangeError::Rpc { source, .. } } if source.is_unknown_authority())
    }
}

/// What an attested agent starts with.
#[derive(Clone, Debug)]
pub struct Attested {
    /// Its SVID.
    pub svid: AgentSvid,
    /// The bundle of its trust domain.
    pub bundle: Bundle,
}

/// What the flow works with.
#[derive(Debug)]
pub struct NodeAttestation {
    /// The agent's trust domain.
    pub trust_domain: TrustDomain,
    /// The way to the server.
    pub link: Link,
    /// What was kept, and is kept from now on.
    pub storage: Storage,
    /// The key slots.
    pub keys: AgentKeys,
    /// Proves the node.
    pub attestor: Arc<dyn AgentNodeAttestor>,
    /// Where the first trust comes from.
    pub bootstrap: Bootstrap,
    /// How long an authority that does not match the cached bundle is borne before the bundle is dropped; `None`: for ever.
    pub rebootstrap_delay: Option<Duration>,
    /// The time.
    pub clock: SharedClock,
}

impl NodeAttestation {
    /// Attests, again and again as `backoff` allows. Not cancel-safe for the attempt under way: a join token may be spent.
    pub async fn run(&self, mut backoff: Backoff) -> Result<Attested, AttestationError> {
        loop {
            let error = match self.attempt().await {
                Ok(attested) => return Ok(attested),
                Err(error) => error,
            };
            if !error.can_heal() {
                return Err(error);
            }
            if error.is_unknown_authority() {
                self.disagree().await?;
            }
            let Some(wait) = backoff.next(&mut rand::rng()) else {
                return Err(error);
            };
            tracing::warn!(error = %chain(&error), retry_interval = ?wait, "Failed to retrieve attestation result");
            tokio::time::sleep(wait).await;
        }
    }

    async fn attempt(&self) -> Result<Attested, AttestationError> {
        let trust = match self.storage.bundle() {
            Some(authorities) if !self.is_outlived(&authorities) => Trust::Authorities(authorities),
            _ => self.first_trust().await?,
        };
        match &trust {
            Trust::Authorities(_) => {
                tracing::info!(subsystem_name = SUBSYSTEM, trust_domain_id = %self.trust_domain.id(), "Bundle loaded");
            }
            Trust::Insecure => {
                tracing::info!(subsystem_name = SUBSYSTEM, "Bundle is not found");
            }
        }
        let (attested, started) = match self.stored_svid().await? {
            Some(svid) => {
                let Trust::Authorities(authorities) = trust else {
                    return Err(AttestationError::BundleLost);
                };
                tracing::info!(subsystem_name = SUBSYSTEM, spiffe_id = %svid.svid.id(), "SVID loaded");
                let bundle = self.bundle_of(authorities)?;
                (Attested { svid, bundle }, false)
            }
            None => (self.attest(&trust).await?, true),
        };
        self.store(&attested).await?;
        self.note_success(started).await?;
        Ok(attested)
    }

    /// Tells whether a cached bundle can vouch for nobody any more, since the agent was off for longer than its authorities last. What an
    /// operator vouches for is then asked anew; an agent that began without that must not begin so again.
    fn is_outlived(&self, authorities: &[Bytes]) -> bool {
        let now = self.clock.now();
        let has_ended = |der: &Bytes| {
            X509Authority::parse(der.clone(), false)
                .is_ok_and(|authority| authority.not_after() <= now)
        };
        let is_outlived =
            self.bootstrap.source != Source::Insecure && authorities.iter().all(has_ended);
        if is_outlived {
            tracing::warn!(
                subsystem_name = SUBSYSTEM,
                "Every authority of the stored bundle has expired; asking for the bootstrap bundle again"
            );
        }
        is_outlived
    }

    /// Asks the bootstrap source, and keeps count of it.
    async fn first_trust(&self) -> Result<Trust, AttestationError> {
        let mut state = self.storage.bootstrap_state();
        if state.purpose == BootstrapUse::Unspecified {
            state.purpose = BootstrapUse::Bootstrap;
        }
        state.attempts += 1;
        state.started_at.get_or_insert_with(|| self.now());
        self.note(state).await?;
        tracing::debug!(
            subsystem_name = SUBSYSTEM,
            attempt = state.attempts,
            "Server attestation attempt"
        );
        self.bootstrap
            .load(&state)
            .await
            .map_err(|source| AttestationError::Bootstrap { source })
    }

    /// The stored SVID if it is still good and its key is there.
    async fn stored_svid(&self) -> Result<Option<AgentSvid>, AttestationError> {
        let failed = |source| AttestationError::Key { source };
        let Some(stored) = self.storage.svid() else {
            tracing::debug!(
                subsystem_name = SUBSYSTEM,
                "No pre-existing agent SVID found. Will perform node attestation"
            );
            if self.keys.any().await.map_err(failed)? {
                tracing::warn!(
                    subsystem_name = SUBSYSTEM,
                    "Keys recovered, but no SVID found. Generating new keypair"
                );
            }
            return Ok(None);
        };
        let svid = match X509Svid::parse(stored.chain) {
            Ok(svid) => svid,
            Err(error) => {
                tracing::warn!(subsystem_name = SUBSYSTEM, error = %chain(&error), "Could not get agent SVID from path");
                return Ok(None);
            }
        };
        let (key, has_keys) = self
            .keys
            .find(svid.public_key_der())
            .await
            .map_err(failed)?;
        let Some(key) = key else {
            if has_keys {
                tracing::warn!(
                    subsystem_name = SUBSYSTEM,
                    "SVID recovered, but no SVID key found. Generating new keypair"
                );
            } else {
                tracing::warn!(
                    subsystem_name = SUBSYSTEM,
                    "SVID recovered, but no keys found. Generating new keypair"
                );
            }
            return Ok(None);
        };
        if svid.not_after() <= self.clock.now() + EXPIRY_SLACK {
            tracing::warn!(
                subsystem_name = SUBSYSTEM,
                expiry = rfc3339(svid.not_after()),
                "SVID key recovered, but SVID is expired. Generating new keypair"
            );
            return Ok(None);
        }
        if !svid.id().is_member_of(&self.trust_domain) {
            tracing::warn!(
                subsystem_name = SUBSYSTEM,
                spiffe_id = %svid.id(),
                "SVID recovered, but it is of another trust domain. Generating new keypair"
            );
            return Ok(None);
        }
        Ok(Some(AgentSvid {
            svid,
            key,
            reattestable: stored.reattestable,
        }))
    }

    async fn attest(&self, trust: &Trust) -> Result<Attested, AttestationError> {
        let failed = |source| AttestationError::Exchange { source };
        tracing::info!(
            subsystem_name = SUBSYSTEM,
            "SVID is not found. Starting node attestation"
        );
        if *trust == Trust::Insecure {
            tracing::warn!(
                subsystem_name = SUBSYSTEM,
                "Insecure bootstrap enabled; skipping server certificate verification"
            );
        }
        let key = self
            .keys
            .generate(None)
            .await
            .map_err(|source| AttestationError::Key { source })?;
        let csr = csr::create_with_software(&key.key, None, &[])
            .map_err(|source| AttestationError::Csr { source })?;
        let channel = self.link.bootstrap(trust);
        let issued = exchange::attest(channel.clone(), self.attestor.as_ref(), csr)
            .await
            .map_err(failed)?;
        let bundle = exchange::fetch_bundle(channel).await.map_err(failed)?;
        let public_key = key.key.public_key().spki_der();
        let svid = exchange::verify(&issued.chain, &bundle, public_key, self.clock.now())
            .map_err(failed)?;
        if !svid.id().is_member_of(&self.trust_domain) {
            return Err(failed(ExchangeError::NotAnAgent {
                id: svid.id().clone(),
                trust_domain: self.trust_domain.clone(),
            }));
        }
        tracing::info!(
            subsystem_name = SUBSYSTEM,
            reattestable = issued.reattestable,
            spiffe_id = %svid.id(),
            "Node attestation was successful"
        );
        let svid = AgentSvid {
            svid,
            key,
            reattestable: issued.reattestable,
        };
        Ok(Attested { svid, bundle })
    }

    async fn store(&self, attested: &Attested) -> Result<(), AttestationError> {
        let failed = |source| AttestationError::Store { source };
        let authorities = attested.bundle.x509_authorities.iter();
        let authorities = authorities.map(|authority| authority.der().clone());
        self.storage
            .store_svid(StoredSvid {
                chain: attested.svid.svid.chain().to_vec(),
                reattestable: attested.svid.reattestable,
            })
            .await
            .map_err(failed)?;
        self.storage
            .store_bundle(authorities.collect())
            .await
            .map_err(failed)
    }

    async fn note_success(&self, attested_anew: bool) -> Result<(), AttestationError> {
        let state = self.storage.bootstrap_state();
        if let Some(started_at) = state.started_at {
            let took = Duration::try_from(self.now() - started_at).unwrap_or_default();
            // One text with its numbers in it, as SPIRE writes it.
            let attempts = state.attempts;
            tracing::info!(
                Logger = "TrustBundleSources",
                "Success after {took:?} attempts={attempts}"
            );
        } else if !attested_anew && state.purpose == BootstrapUse::Rebootstrap {
            return Ok(());
        }
        tracing::info!(Logger = "TrustBundleSources", "Setting use.");
        self.note(BootstrapState {
            purpose: BootstrapUse::Rebootstrap,
            started_at: None,
            attempts: 0,
        })
        .await
    }

    /// The server is vouched for by nobody in the bundle. A cached bundle is dropped once that has lasted.
    async fn disagree(&self) -> Result<(), AttestationError> {
        if self.storage.bundle().is_none() {
            tracing::info!("Trust Bundle and Server don't agree, bootstrapping again");
            return Ok(());
        }
        let Some(delay) = self.rebootstrap_delay else {
            return Ok(());
        };
        let mut state = self.storage.bootstrap_state();
        let now = self.now();
        let started_at = *state.started_at.get_or_insert(now);
        self.note(state).await?;
        let lasted = Duration::try_from(now - started_at).unwrap_or_default();
        if let Some(left) = delay
            .checked_sub(lasted)
            .filter(|left| *left > Duration::ZERO)
        {
            tracing::info!(time_left = ?left, "Trust Bundle and Server don't agree, ignoring for now");
            return Ok(());
        }
        tracing::warn!("Trust Bundle and Server don't agree, rebootstrapping");
        self.storage
            .store_bundle(Vec::new())
            .await
            .map_err(|source| AttestationError::Store { source })
    }

    async fn note(&self, state: BootstrapState) -> Result<(), AttestationError> {
        self.storage
            .store_bootstrap_state(state)
            .await
            .map_err(|source| AttestationError::Store { source })
    }

    fn bundle_of(&self, authorities: Vec<Bytes>) -> Result<Bundle, AttestationError> {
        let mut bundle = Bundle::empty(self.trust_domain.clone());
        for der in authorities {
            let authority = X509Authority::parse(der, false)
                .map_err(|source| AttestationError::CachedBundle { source })?;
            bundle.x509_authorities.push(authority);
        }
        Ok(bundle)
    }

    fn now(&self) -> OffsetDateTime {
        OffsetDateTime::from(self.clock.now())
    }
}

fn rfc3339(time: SystemTime) -> String {
    let time = OffsetDateTime::from(time).truncate_to_second();
    time.format(&Rfc3339).unwrap_or_default()
}

/// Why attestation ended, in one line for an operator.
pub fn reason(error: &AttestationError) -> String {
    match error {
        AttestationError::Exchange {
            source: source @ ExchangeError::JoinToken { .. },
        } => source.to_string(),
        AttestationError::Exchange {
            source: ExchangeError::Rpc { source, .. },
        } => source.to_string(),
        AttestationError::Exchange {
            source: ExchangeError::Payload { source, .. },
        } => source.to_string(),
        AttestationError::Bootstrap { source } => chain(source).to_string(),
        other => chain(other).to_string(),
    }
}

const SUBSYSTEM: &str = "attestor";
const EXPIRY_SLACK: Duration = Duration::from_secs(1);
