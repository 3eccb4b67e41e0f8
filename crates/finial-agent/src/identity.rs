//! The agent's own SVID: kept valid by renewing it, or by attesting again where the node can prove itself at will.
//!
//! A new SVID is stored before it is used, so that a restart never finds less than the server believes to be in use. The old
//! key stays in its slot until the rotation after.

pub mod keys;
pub mod rotation;

use std::convert::Infallible;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use finial_client::status::AgentVerdict;
use finial_pki::csr::{self, CreateCsrError};
use finial_pki::x509::verify_svid;
use finial_plugin::node_attestor::AgentNodeAttestor;
use finial_proto::pb::spire::api::server::agent::v1 as agent_api;
use finial_proto::pb::spire::api::server::agent::v1::agent_client::AgentClient;
use finial_runtime::backoff::Backoff;
use finial_runtime::clock::SharedClock;
use finial_runtime::log::chain;
use spiffe_types::bundle::Bundle;
use spiffe_types::svid::x509::X509Svid;
use thiserror::Error;
use tokio::sync::{Mutex, Notify, watch};

use self::keys::{AgentKey, AgentKeys, KeyError};
use self::rotation::Rotation;
use crate::attestation::exchange::{self, ExchangeError};
use crate::attestation::storage::{Storage, StorageError, StoredSvid};
use crate::cache::Cache;
use crate::link::Link;
use crate::rpc::RpcFailure;

/// The SVID the agent shows to the server.
#[derive(Clone, Debug)]
pub struct AgentSvid {
    /// The certificates.
    pub svid: X509Svid,
    /// The key and its slot.
    pub key: AgentKey,
    /// Whether the agent may attest again at will.
    pub reattestable: bool,
}

/// Why the agent has no new SVID.
#[derive(Debug, Error)]
pub enum IdentityError {
    /// There is no key for it.
    #[error("failed to make a key for the agent's SVID")]
    Key {
        /// The cause.
        source: KeyError,
    },
    /// The request cannot be made.
    #[error("failed to generate CSR for the agent's SVID")]
    Csr {
        /// The cause.
        source: CreateCsrError,
    },
    /// The server does not renew it.
    #[error("failed to renew agent")]
    Renew {
        /// What it answered.
        source: RpcFailure,
    },
    /// The exchange failed.
    #[error("failed to attest node")]
    Exchange {
        /// The cause.
        source: ExchangeError,
    },
    /// The new SVID cannot be stored.
    #[error("failed to store the agent's SVID")]
    Store {
        /// The cause.
        source: StorageError,
    },
    /// The node cannot prove itself again.
    #[error("attestation method is not re-attestable")]
    NotReattestable,
    /// It is too late.
    #[error("current SVID has already expired and {act} failed")]
    Expired {
        /// What was tried.
        act: &'static str,
        /// Why it failed.
        source: Box<Self>,
    },
}

impl IdentityError {
    /// What the server told the agent to do, if it did.
    pub fn verdict(&self) -> Option<AgentVerdict> {
        match self {
            Self::Renew { source }
            | Self::Exchange {
                source: ExchangeError::Rpc { source, .. },
            } => source.verdict(),
            Self::Expired { source, .. } => source.verdict(),
            Self::Key { .. }
            | Self::Csr { .. }
            | Self::Exchange { .. }
            | Self::Store { .. }
            | Self::NotReattestable => None,
        }
    }
}

/// What the identity works with.
#[derive(Debug)]
pub struct IdentityParts {
    /// The way to the server.
    pub link: Link,
    /// Where the SVID is kept.
    pub storage: Storage,
    /// The own trust domain's bundle is here.
    pub cache: Cache,
    /// The key slots.
    pub keys: AgentKeys,
    /// Proves the node.
    pub attestor: Arc<dyn AgentNodeAttestor>,
    /// When to rotate.
    pub rotation: Rotation,
    /// The time.
    pub clock: SharedClock,
}

/// The agent's identity; the only one who rotates it.
#[derive(Debug)]
pub struct Identity {
    parts: IdentityParts,
    current: watch::Sender<Arc<AgentSvid>>,
    renew_at: watch::Sender<SystemTime>,
    tainted: Notify,
    /// Held while the SVID is being replaced.
    rotating: Mutex<()>,
}

impl Identity {
    /// Starts from the SVID that attestation gave, which is in storage already, and shows it to the server from now on.
    pub fn new(parts: IdentityParts, svid: AgentSvid) -> Self {
        parts.link.set_svid(&svid.svid, &svid.key.key);
        let renew_at = draw(&parts, &svid.svid);
        Self {
            parts,
            current: watch::Sender::new(Arc::new(svid)),
            renew_at: watch::Sender::new(renew_at),
            tainted: Notify::new(),
            rotating: Mutex::new(()),
        }
    }

    /// The SVID of the moment.
    pub fn current(&self) -> Arc<AgentSvid> {
        Arc::clone(&self.current.borrow())
    }

    /// Rotates when it is time, until that is no longer possible: the SVID has expired, or the server wants something else.
    pub async fn run(&self) -> Result<Infallible, IdentityError> {
        let mut backoff = Backoff::new(RETRY_START, RETRY_MAX, None);
        loop {
            self.due().await;
            let act = if self.current().reattestable {
                "reattest agent"
            } else {
                "rotate agent SVID"
            };
            let Err(error) = self.rotate().await else {
                backoff.reset();
                continue;
            };
            if self.current().reattestable {
                tracing::error!(subsystem_name = "manager", error = %chain(&error), "Could not reattest agent");
            } else {
                tracing::error!(subsystem_name = "manager", error = %chain(&error), "Could not rotate agent SVID");
            }
            if self.current().svid.not_after() <= self.parts.clock.now() {
                return Err(IdentityError::Expired {
                    act,
                    source: Box::new(error),
                });
            }
            if error.verdict().is_some() {
                return Err(error);
            }
            let wait = backoff.next(&mut rand::rng()).unwrap_or(RETRY_MAX);
            tokio::time::sleep(wait).await;
        }
    }

    /// Attests again and takes the new SVID into use.
    pub async fn reattest(&self) -> Result<(), IdentityError> {
        if !self.current().reattestable {
            return Err(IdentityError::NotReattestable);
        }
        tracing::debug!(subsystem_name = "manager", "Reattesting node");
        let (key, csr) = self.request().await?;
        let attestor = self.parts.attestor.as_ref();
        let issued = exchange::attest(self.parts.link.anonymous(), attestor, csr)
            .await
            .map_err(|source| IdentityError::Exchange { source })?;
        self.adopt(&issued.chain, key, issued.reattestable).await?;
        let spiffe_id = self.current().svid.id().clone();
        tracing::info!(subsystem_name = "manager", spiffe_id = %spiffe_id, "Successfully reattested node");
        Ok(())
    }

    /// Waits while the SVID is being replaced. The server may have dropped the old one by then, and the new one is still on its way.
    pub async fn settled(&self) {
        let _settled = self.rotating.lock().await;
    }

    /// Rotates at once if the SVID was not signed by one of `trusted`.
    pub fn check_authority(&self, trusted: &Bundle) {
        let current = self.current();
        if verify_svid(current.svid.chain(), trusted, self.parts.clock.now()).is_err() {
            tracing::info!(
                subsystem_name = "manager",
                "Agent SVID is tainted by a root authority, forcing rotation"
            );
            self.renew_at.send_replace(SystemTime::UNIX_EPOCH);
            self.tainted.notify_one();
        }
    }

    /// Forgets the SVID on disk, so that the next start attests.
    pub async fn forget(&self) {
        if let Err(error) = self.parts.storage.delete_svid().await {
            tracing::error!(subsystem_name = "manager", error = %chain(&error), "Failed to remove SVID");
        }
    }

    async fn rotate(&self) -> Result<(), IdentityError> {
        let _rotating = self.rotating.lock().await;
        if self.current().reattestable {
            self.reattest().await
        } else {
            self.renew().await
        }
    }

    async fn renew(&self) -> Result<(), IdentityError> {
        tracing::debug!(subsystem_name = "manager", "Rotating agent SVID");
        let (key, csr) = self.request().await?;
        let mut request = tonic::Request::new(agent_api::RenewAgentRequest {
            params: Some(agent_api::AgentX509svidParams { csr: csr.into() }),
        });
        request.set_timeout(RPC_TIMEOUT);
        let answer = AgentClient::new(self.parts.link.channel())
            .renew_agent(request)
            .await
            .map_err(|status| IdentityError::Renew {
                source: status.into(),
            })?;
        let chain = answer.into_inner().svid.map(|svid| svid.cert_chain).ok_or(
            IdentityError::Exchange {
                source: ExchangeError::MissingSvid,
            },
        )?;
        self.adopt(&chain, key, false).await?;
        let spiffe_id = self.current().svid.id().clone();
        tracing::info!(subsystem_name = "manager", spiffe_id = %spiffe_id, "Successfully rotated agent SVID");
        Ok(())
    }

    async fn request(&self) -> Result<(AgentKey, Vec<u8>), IdentityError> {
        let current = self.current().key.id.clone();
        let key = self
            .parts
            .keys
            .generate(Some(&current))
            .await
            .map_err(|source| IdentityError::Key { source })?;
        let csr = csr::create_with_software(&key.key, None, &[])
            .map_err(|source| IdentityError::Csr { source })?;
        Ok((key, csr))
    }

    /// Verifies, stores, then uses.
    async fn adopt(
        &self,
        chain: &[Bytes],
        key: AgentKey,
        reattestable: bool,
    ) -> Result<(), IdentityError> {
        let parts = &self.parts;
        let public_key = key.key.public_key().spki_der();
        let svid = exchange::verify(chain, &parts.cache.bundle(), public_key, parts.clock.now())
            .map_err(|source| IdentityError::Exchange { source })?;
        parts
            .storage
            .store_svid(StoredSvid {
                chain: svid.chain().to_vec(),
                reattestable,
            })
            .await
            .map_err(|source| IdentityError::Store { source })?;
        parts.link.set_svid(&svid, &key.key);
        self.renew_at.send_replace(draw(parts, &svid));
        self.current.send_replace(Arc::new(AgentSvid {
            svid,
            key,
            reattestable,
        }));
        Ok(())
    }

    /// Waits until the SVID is to be rotated. The wall clock may jump, so a long wait is taken in steps.
    async fn due(&self) {
        loop {
            let renew_at = *self.renew_at.borrow();
            let wait = renew_at
                .duration_since(self.parts.clock.now())
                .unwrap_or_default();
            if wait.is_zero() {
                return;
            }
            tokio::select! {
                () = tokio::time::sleep(wait.min(LONGEST_SLEEP)) => {}
                () = self.tainted.notified() => {}
            }
        }
    }
}

fn draw(parts: &IdentityParts, svid: &X509Svid) -> SystemTime {
    let now = parts.clock.now();
    let rng = &mut rand::rng();
    parts
        .rotation
        .renew_at(svid.not_before(), svid.not_after(), now, rng)
}

const RETRY_START: Duration = Duration::from_secs(5);
const RETRY_MAX: Duration = Duration::from_mins(2);
const RPC_TIMEOUT: Duration = Duration::from_secs(30);
const LONGEST_SLEEP: Duration = Duration::from_secs(30);
