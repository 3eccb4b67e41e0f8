//! Rotation by hand: what the `LocalAuthority` API does to this server's authorities.

use std::time::SystemTime;

use finial_datastore::StoreError;
use spiffe_types::bundle::AuthorityId;

use super::rotator::RotateError;
use super::slot::{Authority, SlotState};
use super::{Ca, SUBSYSTEM};

/// One authority, as operators see it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AuthorityState {
    /// Its id.
    pub id: AuthorityId,
    /// End of validity.
    pub not_after: SystemTime,
    /// The authority that signed it, when it is another.
    pub upstream_id: Option<AuthorityId>,
}

/// All authorities of this server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AuthorityStates {
    /// The one that signs.
    pub active: AuthorityState,
    /// The one that is published and will sign next.
    pub prepared: Option<AuthorityState>,
    /// The one that signed before.
    pub old: Option<AuthorityState>,
}

/// Why an authority was left as it is. The texts are those of SPIRE.
#[derive(Debug, thiserror::Error)]
pub enum LocalAuthorityError {
    /// No authority is active yet.
    #[error("server is initializing")]
    Initializing,
    /// No authority was named.
    #[error("no authority ID provided")]
    NoId,
    /// Another authority is meant than the one this can be done to.
    #[error("unexpected authority ID")]
    UnexpectedId,
    /// The named authority is not prepared.
    #[error(
        "only Prepared authorities can be activated: unsupported local authority status: {status}"
    )]
    NotPrepared {
        /// What it is.
        status: &'static str,
    },
    /// The named authority signs.
    #[error("unable to taint current local authority")]
    TaintActive,
    /// The named authority never signed.
    #[error(
        "only Old local authorities can be tainted: unsupported local authority status: {status}"
    )]
    TaintNotOld {
        /// What it is.
        status: &'static str,
    },
    /// The named authority cannot be revoked.
    #[error("invalid authority ID: {reason}")]
    Revoke {
        /// Why.
        reason: &'static str,
    },
    /// The rotation failed.
    #[error("failed to {action} X.509 authority")]
    Rotate {
        /// What was attempted.
        action: &'static str,
        /// Why not.
        source: RotateError,
    },
    /// The store refused.
    #[error("failed to {action} X.509 authority")]
    Store {
        /// What was attempted.
        action: &'static str,
        /// What it said.
        source: StoreError,
    },
}

impl Ca {
    /// Returns the state of this server's X.509 authorities.
    pub async fn x509_authorities(&self) -> Result<AuthorityStates, LocalAuthorityError> {
        let rotator = self.rotator.lock().await;
        let active = rotator
            .slots
            .active()
            .ok_or(LocalAuthorityError::Initializing)?;
        let next_as = |state| {
            rotator
                .slots
                .next()
                .filter(|next| next.state == state)
                .map(describe)
        };
        Ok(AuthorityStates {
            active: describe(active),
            prepared: next_as(SlotState::Prepared),
            old: next_as(SlotState::Old),
        })
    }

    /// Makes the next authority now, in place of one that was prepared already.
    pub async fn prepare_x509_authority(&self) -> Result<AuthorityState, LocalAuthorityError> {
        let failed = |source| LocalAuthorityError::Rotate {
            action: "prepare",
            source,
        };
        let mut rotator = self.rotator.lock().await;
        let slot = rotator
            .slots
            .active()
            .ok_or(LocalAuthorityError::Initializing)?
            .slot
            .other();
        rotator.prepare(slot).await.map_err(failed)?;
        let trusted = rotator.reconcile().await.map_err(failed)?;
        self.trusted.store(Some(std::sync::Arc::new(trusted)));
        rotator
            .slots
            .get(slot)
            .map(describe)
            .ok_or(LocalAuthorityError::UnexpectedId)
    }

    /// Lets the prepared authority sign.
    pub async fn activate_x509_authority(
        &self,
        id: &str,
    ) -> Result<AuthorityState, LocalAuthorityError> {
        let mut rotator = self.rotator.lock().await;
        let next = named(rotator.slots.next(), id)?;
        if next.state != SlotState::Prepared {
            return Err(LocalAuthorityError::NotPrepared {
                status: status(next.state),
            });
        }
        let slot = next.slot;
        rotator
            .activate(slot)
            .await
            .map_err(|source| LocalAuthorityError::Rotate {
                action: "activate",
                source,
            })?;
        self.announce();
        rotator
            .slots
            .active()
            .map(describe)
            .ok_or(LocalAuthorityError::Initializing)
    }

    /// Marks the authority that signed before as no longer to be believed: whatever it signed is asked for anew.
    pub async fn taint_x509_authority(
        &self,
        id: &str,
    ) -> Result<AuthorityState, LocalAuthorityError> {
        let rotator = self.rotator.lock().await;
        if !id.is_empty()
            && rotator
                .slots
                .active()
                .is_some_and(|active| active.id.as_str() == id)
        {
            return Err(LocalAuthorityError::TaintActive);
        }
        let old = named(rotator.slots.next(), id)?;
        if old.state != SlotState::Old {
            return Err(LocalAuthorityError::TaintNotOld {
                status: status(old.state),
            });
        }
        let tainted = describe(old);
        self.store
            .taint_x509_authority(&self.trust_domain, &tainted.id)
            .await
            .map_err(|source| LocalAuthorityError::Store {
                action: "taint",
                source,
            })?;
        let trusted = rotator
            .reconcile()
            .await
            .map_err(|source| LocalAuthorityError::Rotate {
                action: "taint",
                source,
            })?;
        self.trusted.store(Some(std::sync::Arc::new(trusted)));
        tracing::info!(
            subsystem_name = SUBSYSTEM,
            local_authority_id = %tainted.id,
            "X.509 authority tainted successfully"
        );
        Ok(tainted)
    }

    /// Takes a tainted authority out of the bundle.
    pub async fn revoke_x509_authority(
        &self,
        id: &str,
    ) -> Result<AuthorityState, LocalAuthorityError> {
        let rotator = self.rotator.lock().await;
        let refused = |reason| LocalAuthorityError::Revoke { reason };
        if id.is_empty() {
            return Err(refused("no authority ID provided"));
        }
        if rotator
            .slots
            .active()
            .is_some_and(|active| active.id.as_str() == id)
        {
            return Err(refused("unable to use current authority"));
        }
        let old = rotator.slots.next().filter(|next| next.id.as_str() == id);
        let old = old.ok_or_else(|| refused("unexpected authority ID"))?;
        if old.state != SlotState::Old {
            return Err(refused("only Old local authority can be revoked"));
        }
        let revoked = describe(old);
        self.store
            .revoke_x509_authority(&self.trust_domain, &revoked.id)
            .await
            .map_err(|source| LocalAuthorityError::Store {
                action: "revoke",
                source,
            })?;
        tracing::info!(
            subsystem_name = SUBSYSTEM,
            local_authority_id = %revoked.id,
            "X.509 authority revoked successfully"
        );
        Ok(revoked)
    }
}

fn named<'a>(next: Option<&'a Authority>, id: &str) -> Result<&'a Authority, LocalAuthorityError> {
    if id.is_empty() {
        return Err(LocalAuthorityError::NoId);
    }
    next.filter(|next| next.id.as_str() == id)
        .ok_or(LocalAuthorityError::UnexpectedId)
}

fn describe(authority: &Authority) -> AuthorityState {
    AuthorityState {
        id: authority.id.clone(),
        not_after: authority.not_after(),
        upstream_id: authority.upstream_id.clone(),
    }
}

const fn status(state: SlotState) -> &'static str {
    match state {
        SlotState::Prepared => "PREPARED",
        SlotState::Active => "ACTIVE",
        SlotState::Old => "OLD",
    }
}
