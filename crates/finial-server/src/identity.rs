//! The server's own SVID: held in memory, and kept fresh.

use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use bytes::Bytes;
use finial_pki::key::KeyKind;
use finial_pki::lifetime::server_svid_is_due;
use finial_pki::software::{SoftwareKey, SoftwareKeyError};
use finial_pki::tls::SvidSlot;
use finial_runtime::clock::SharedClock;
use finial_runtime::log::chain;
use spiffe_types::svid::x509::X509Svid;
use tokio::task::JoinError;
use tokio::time::MissedTickBehavior;
use tokio_util::sync::CancellationToken;

use crate::ca::{Ca, IssueError, rfc3339};

/// Why the server has no new SVID.
#[derive(Debug, thiserror::Error)]
pub enum IdentityError {
    /// There is no key for it.
    #[error("failed to make the key of the server SVID")]
    Key {
        /// Why.
        source: SoftwareKeyError,
    },
    /// Making the key was interrupted.
    #[error("making the key of the server SVID was interrupted")]
    Interrupted {
        /// By what.
        source: JoinError,
    },
    /// It was not signed.
    #[error("failed to sign the server SVID")]
    Sign {
        /// Why.
        source: IssueError,
    },
}

/// The server's SVID, and the slot that TLS takes it from.
#[derive(Debug)]
pub struct ServerIdentity {
    ca: Arc<Ca>,
    key_kind: KeyKind,
    clock: SharedClock,
    slot: SvidSlot,
    svid: ArcSwap<X509Svid>,
}

impl ServerIdentity {
    /// Makes the first SVID.
    pub async fn build(
        ca: Arc<Ca>,
        key_kind: KeyKind,
        clock: SharedClock,
    ) -> Result<Arc<Self>, IdentityError> {
        let (svid, key) = issue(&ca, key_kind).await?;
        let slot = SvidSlot::new();
        slot.set(svid.chain(), key.to_rustls());
        Ok(Arc::new(Self {
            ca,
            key_kind,
            clock,
            slot,
            svid: ArcSwap::from_pointee(svid),
        }))
    }

    /// Returns the slot to present in handshakes.
    pub const fn slot(&self) -> &SvidSlot {
        &self.slot
    }

    /// Returns the chain that is presented at the moment, leaf first.
    pub fn chain(&self) -> Vec<Bytes> {
        self.svid.load().chain().to_vec()
    }

    /// Returns the SVID that is presented at the moment.
    pub fn svid(&self) -> Arc<X509Svid> {
        self.svid.load_full()
    }

    /// Renews the SVID at half its life, and at once when its signer is no longer trusted, until `shutdown`.
    pub async fn run(&self, shutdown: CancellationToken) -> anyhow::Result<()> {
        let mut check = tokio::time::interval(CHECK_EVERY);
        check.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                () = shutdown.cancelled() => {
                    tracing::debug!(subsystem_name = SUBSYSTEM, "Stopping SVID rotator");
                    return Ok(());
                }
                _ = check.tick() => {
                    if let Err(error) = self.renew_if_due().await {
                        tracing::error!(subsystem_name = SUBSYSTEM, error = %chain(&error), "Could not rotate server SVID");
                    }
                }
            }
        }
    }

    async fn renew_if_due(&self) -> Result<(), IdentityError> {
        let svid = self.svid.load_full();
        let distrusted = svid
            .authority_key_id()
            .is_some_and(|signer| !self.ca.is_trusted(&signer));
        if distrusted {
            tracing::info!(
                subsystem_name = SUBSYSTEM,
                "Server SVID signed using a tainted authority, forcing rotation of the Server SVID"
            );
        }
        if distrusted || server_svid_is_due(svid.not_before(), svid.not_after(), self.clock.now()) {
            let (svid, key) = issue(&self.ca, self.key_kind).await?;
            self.slot.set(svid.chain(), key.to_rustls());
            self.svid.store(Arc::new(svid));
        }
        Ok(())
    }
}

async fn issue(ca: &Ca, key_kind: KeyKind) -> Result<(X509Svid, SoftwareKey), IdentityError> {
    tracing::debug!(subsystem_name = SUBSYSTEM, "Rotating server SVID");
    // An RSA key takes long enough to hold others up.
    let key = tokio::task::spawn_blocking(move || SoftwareKey::generate(key_kind))
        .await
        .map_err(|source| IdentityError::Interrupted { source })?
        .map_err(|source| IdentityError::Key { source })?;
    let svid = ca
        .issuer()
        .sign_server_svid(key.public_key())
        .await
        .map_err(|source| IdentityError::Sign { source })?;
    tracing::debug!(
        subsystem_name = SUBSYSTEM,
        spiffe_id = %svid.id(),
        expiration = rfc3339(svid.not_after()),
        "Signed X509 SVID"
    );
    Ok((svid, key))
}

const SUBSYSTEM: &str = "svid_rotator";
const CHECK_EVERY: Duration = Duration::from_secs(5);
