//! Carries steps out: publish before journal, journal before signing.

use std::collections::BTreeSet;
use std::sync::Arc;

use bytes::Bytes;
use finial_datastore::{BundleStore, DataStore, StoreError};
use finial_pki::x509::{Issuer, IssuerError, SignX509Error, self_sign_ca};
use finial_plugin::error::PluginError;
use finial_plugin::key_manager::KeyManager;
use finial_runtime::clock::SharedClock;
use spiffe_types::bundle::{AuthorityId, Bundle, X509Authority};
use tokio::sync::watch;

use super::issuer::ActiveAuthority;
use super::journal::{Journal, JournalError, Status, X509CaEntry};
use super::plan::{SlotViews, Step, plan};
use super::slot::{Authority, SlotId, SlotState, Slots};
use super::times::{from_unix, go};
use super::validate::{self, ValidateError};
use super::{CaConfig, SUBSYSTEM, template};

/// Why a step was not carried out.
#[derive(Debug, thiserror::Error)]
pub enum RotateError {
    /// The key manager made no key.
    #[error("failed to generate the key of the X509 CA in slot {slot}")]
    Generate {
        /// Where.
        slot: String,
        /// What it said.
        source: PluginError,
    },
    /// The key manager did not find a key.
    #[error("failed to find the key of the X509 CA in slot {slot}")]
    FindKey {
        /// Where.
        slot: String,
        /// What it said.
        source: PluginError,
    },
    /// The authority was not signed.
    #[error("failed to self-sign the X509 CA")]
    SelfSign {
        /// What was in the way.
        source: SignX509Error,
    },
    /// What was signed must not be used.
    #[error("new X509 CA is not fit for use")]
    Invalid {
        /// The rule it breaks.
        source: ValidateError,
    },
    /// What was signed does not fit its key.
    #[error("new X509 CA cannot sign")]
    Issuer {
        /// Why.
        source: IssuerError,
    },
    /// What was signed is no authority.
    #[error("new X509 CA is no authority")]
    Authority {
        /// Why.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// The bundle could not be read.
    #[error("failed to read the trust domain's bundle")]
    ReadBundle {
        /// What the store said.
        source: StoreError,
    },
    /// The authority could not be published.
    #[error("failed to append the X509 CA to the trust domain's bundle")]
    Publish {
        /// What the store said.
        source: StoreError,
    },
    /// The journal could not be read or written.
    #[error("failed to keep the CA journal")]
    Journal {
        /// Why.
        source: JournalError,
    },
    /// The slot holds nothing that could sign.
    #[error("there is no prepared X509 CA in slot {slot}")]
    NotPrepared {
        /// Which.
        slot: String,
    },
    /// A test pulled the plug.
    #[cfg(test)]
    #[error("crashed after {0}")]
    Crash(&'static str),
}

/// The moments between which a crash must heal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum SubStep {
    KeyGenerated,
    Signed,
    Published,
    JournaledPrepared,
    JournaledActive,
}

#[cfg(test)]
impl SubStep {
    const fn name(self) -> &'static str {
        match self {
            Self::KeyGenerated => "generating the key",
            Self::Signed => "signing",
            Self::Published => "publishing",
            Self::JournaledPrepared => "journaling the prepared authority",
            Self::JournaledActive => "journaling the active authority",
        }
    }
}

/// The state of the authorities, and the only code that changes it.
#[derive(Debug)]
pub(super) struct Rotator {
    config: CaConfig,
    keys: Arc<dyn KeyManager>,
    bundles: Arc<dyn BundleStore>,
    clock: SharedClock,
    pub(super) slots: Slots,
    pub(super) journal: Journal,
    active: watch::Sender<Option<Arc<ActiveAuthority>>>,
    #[cfg(test)]
    pub(super) crash_after: Option<SubStep>,
}

impl Rotator {
    /// Loads the journal, and takes up again what in it is still of use.
    pub(super) async fn load(
        config: CaConfig,
        keys: Arc<dyn KeyManager>,
        store: Arc<dyn DataStore>,
        clock: SharedClock,
        active: watch::Sender<Option<Arc<ActiveAuthority>>>,
    ) -> Result<Self, RotateError> {
        let bundles: Arc<dyn BundleStore> = Arc::clone(&store) as Arc<dyn BundleStore>;
        let journal = Journal::load(store, &*keys)
            .await
            .map_err(|source| RotateError::Journal { source })?;
        tracing::info!(
            subsystem_name = SUBSYSTEM,
            x509_cas = journal.entries().x509_cas.len(),
            jwt_keys = journal.entries().jwt_keys.len(),
            wit_keys = journal.entries().wit_keys.len(),
            "Journal loaded"
        );
        let mut rotator = Self {
            config,
            keys,
            bundles,
            clock,
            slots: Slots::default(),
            journal,
            active,
            #[cfg(test)]
            crash_after: None,
        };
        rotator.restore().await?;
        Ok(rotator)
    }

    /// Takes the newest usable active entry, and the newest usable other one.
    async fn restore(&mut self) -> Result<(), RotateError> {
        let entries = self.journal.entries().x509_cas.clone();
        if entries.is_empty() {
            return Ok(());
        }
        let bundle = self.bundle().await?;
        for entry in entries.iter().rev() {
            let Some(authority) = self.usable(entry, bundle.as_ref()).await? else {
                continue;
            };
            let is_active = authority.state == SlotState::Active;
            let taken = self.slots.iter().any(|other| {
                other.slot == authority.slot || (other.state == SlotState::Active) == is_active
            });
            if !taken {
                tracing::debug!(
                    subsystem_name = SUBSYSTEM,
                    slot = %authority.slot,
                    local_authority_id = %authority.id,
                    issued_at = go(authority.issued_at),
                    expiration = go(authority.not_after()),
                    "X509 CA loaded from the journal"
                );
                self.slots.put(authority);
            }
        }
        self.publish_active();
        Ok(())
    }

    /// Makes an authority of a journal entry, unless it may or can no longer be used.
    async fn usable(
        &self,
        entry: &X509CaEntry,
        bundle: Option<&Bundle>,
    ) -> Result<Option<Authority>, RotateError> {
        let dropped = |reason: &str| {
            tracing::warn!(
                subsystem_name = SUBSYSTEM,
                slot = entry.slot_id,
                local_authority_id = entry.authority_id,
                reason,
                "X509 CA from the journal is not used"
            );
            Ok(None)
        };
        let state = match Status::try_from(entry.status) {
            Ok(Status::Prepared) => SlotState::Prepared,
            Ok(Status::Active) => SlotState::Active,
            Ok(Status::Old) => SlotState::Old,
            Ok(Status::Unknown) | Err(_) => return dropped("its status is unknown"),
        };
        let Some(slot) = SlotId::parse(&entry.slot_id) else {
            return dropped("its slot is unknown");
        };
        let key = self.keys.find(&slot.x509_key_id()).await;
        let key = key.map_err(|source| RotateError::FindKey {
            slot: slot.to_string(),
            source,
        })?;
        let Some(key) = key else {
            return dropped("the key manager has no key for its slot");
        };
        let issuer = match Issuer::new(entry.certificate.clone(), key) {
            Ok(issuer) => issuer,
            // An older entry of a slot whose key was made anew since. Nothing is wrong with that.
            Err(IssuerError::KeyMismatch) => return Ok(None),
            Err(IssuerError::Malformed { .. }) => return dropped("its certificate is malformed"),
            Err(IssuerError::UnsupportedKey) => return dropped("its key cannot sign"),
        };
        // The journal is found by the key of its active authority. That one stays in its slot even when it has expired, so
        // that its key is the last to be replaced.
        let expired = issuer.not_after() <= self.clock.now();
        if expired && state != SlotState::Active {
            return dropped("it has expired");
        }
        let published = bundle.is_some_and(|bundle| {
            bundle
                .x509_authorities
                .iter()
                .any(|authority| authority.der() == issuer.cert_der())
        });
        if !published && !expired {
            return dropped("it is not in the trust domain's bundle");
        }
        Ok(Some(Authority {
            slot,
            state,
            issued_at: from_unix(entry.issued_at),
            id: AuthorityId::from_key_id(issuer.subject_key_id()),
            issuer,
            upstream_chain: entry.upstream_chain.clone(),
            upstream_id: AuthorityId::parse(&entry.upstream_authority_id).ok(),
        }))
    }

    /// Carries out steps until there is none.
    pub(super) async fn rotate(&mut self) -> Result<(), RotateError> {
        let before = self.slots.active().map(|active| active.id.clone());
        for _ in 0..MAX_STEPS {
            let Some(step) = plan(&SlotViews::of(&self.slots), self.clock.now()) else {
                break;
            };
            match step {
                Step::Prepare(slot) => self.prepare(slot).await?,
                Step::Activate(slot) => self.activate(slot).await?,
            }
        }
        if let Some(active) = self.slots.active()
            && before.as_ref() != Some(&active.id)
        {
            let ttl = active
                .not_after()
                .duration_since(self.clock.now())
                .unwrap_or_default();
            tracing::debug!(
                subsystem_name = SUBSYSTEM,
                trust_domain_id = self.config.trust_domain.id().as_str(),
                ttl = ttl.as_secs_f64(),
                "Successfully rotated X.509 CA"
            );
        }
        Ok(())
    }

    /// Makes an authority in `slot`, replacing what is there, and publishes it.
    pub(super) async fn prepare(&mut self, slot: SlotId) -> Result<(), RotateError> {
        tracing::debug!(subsystem_name = SUBSYSTEM, slot = %slot, "Preparing X509 CA");
        self.slots.clear(slot); // its key is gone as soon as there is a new one
        let now = self.clock.now();
        let key = self
            .keys
            .generate(&slot.x509_key_id(), self.config.key_kind)
            .await
            .map_err(|source| RotateError::Generate {
                slot: slot.to_string(),
                source,
            })?;
        self.checkpoint(SubStep::KeyGenerated)?;

        let draft = template::authority(
            &self.config.trust_domain,
            &self.config.subject,
            self.config.ca_ttl,
            now,
        );
        let certificate = self_sign_ca(&*key, &draft)
            .await
            .map_err(|source| RotateError::SelfSign { source })?;
        validate::ca(&certificate, &self.config.trust_domain, now)
            .map_err(|source| RotateError::Invalid { source })?;
        let issuer = Issuer::new(certificate, Arc::clone(&key))
            .map_err(|source| RotateError::Issuer { source })?;
        let authority = Authority {
            slot,
            state: SlotState::Prepared,
            issued_at: now,
            id: AuthorityId::from_key_id(&key.public_key().subject_key_id()),
            issuer,
            upstream_chain: Vec::new(),
            upstream_id: None,
        };
        self.checkpoint(SubStep::Signed)?;

        self.publish(authority.issuer.cert_der()).await?;
        self.checkpoint(SubStep::Published)?;

        self.journal
            .append(&authority)
            .await
            .map_err(|source| RotateError::Journal { source })?;
        self.checkpoint(SubStep::JournaledPrepared)?;

        tracing::info!(
            subsystem_name = SUBSYSTEM,
            slot = %slot,
            issued_at = go(authority.issued_at),
            expiration = go(authority.not_after()),
            self_signed = true,
            local_authority_id = %authority.id,
            upstream_authority_id = "",
            "X509 CA prepared"
        );
        self.slots.put(authority);
        Ok(())
    }

    /// Lets the prepared authority in `slot` sign.
    pub(super) async fn activate(&mut self, slot: SlotId) -> Result<(), RotateError> {
        let prepared = self
            .slots
            .get(slot)
            .filter(|authority| authority.state == SlotState::Prepared)
            .ok_or_else(|| RotateError::NotPrepared {
                slot: slot.to_string(),
            })?
            .clone();
        // Somebody may have taken it out of the bundle in the meantime, such as a restored backup.
        self.publish(prepared.issuer.cert_der()).await?;
        self.journal
            .activate(&prepared.id)
            .await
            .map_err(|source| RotateError::Journal { source })?;
        self.checkpoint(SubStep::JournaledActive)?;

        self.slots.activate(slot);
        self.publish_active();
        tracing::info!(
            subsystem_name = SUBSYSTEM,
            slot = %slot,
            issued_at = go(prepared.issued_at),
            expiration = go(prepared.not_after()),
            local_authority_id = %prepared.id,
            upstream_authority_id = "",
            "X509 CA activated"
        );
        Ok(())
    }

    /// Makes sure that what signs is in the bundle, and returns the authorities there that are not tainted.
    pub(super) async fn reconcile(&self) -> Result<BTreeSet<AuthorityId>, RotateError> {
        let mut bundle = self.bundle().await?;
        let now = self.clock.now();
        if let Some(active) = self.slots.active()
            && now < active.not_after()
            && !bundle
                .as_ref()
                .is_some_and(|bundle| bundle.has_x509(&active.id))
        {
            tracing::warn!(
                subsystem_name = SUBSYSTEM,
                local_authority_id = %active.id,
                "Active X509 CA was missing from the trust domain's bundle; appending it again"
            );
            bundle = Some(self.publish(active.issuer.cert_der()).await?);
        }
        let authorities = bundle
            .into_iter()
            .flat_map(|bundle| bundle.x509_authorities);
        Ok(authorities
            .filter(|authority| !authority.tainted)
            .map(|authority| authority.id().clone())
            .collect())
    }

    pub(super) async fn bundle(&self) -> Result<Option<Bundle>, RotateError> {
        self.bundles
            .find_bundle(&self.config.trust_domain)
            .await
            .map_err(|source| RotateError::ReadBundle { source })
    }

    async fn publish(&self, certificate: &Bytes) -> Result<Bundle, RotateError> {
        let authority = X509Authority::parse(certificate.clone(), false).map_err(|error| {
            RotateError::Authority {
                source: Box::new(error),
            }
        })?;
        let mut addition = Bundle::empty(self.config.trust_domain.clone());
        addition.x509_authorities.push(authority);
        self.bundles
            .append_bundle(&addition)
            .await
            .map_err(|source| RotateError::Publish { source })
    }

    fn publish_active(&self) {
        let active = self.slots.active().map(|active| {
            Arc::new(ActiveAuthority {
                id: active.id.clone(),
                issuer: active.issuer.clone(),
                upstream_chain: active.upstream_chain.clone(),
            })
        });
        self.active.send_replace(active);
    }

    #[cfg(test)]
    fn checkpoint(&self, step: SubStep) -> Result<(), RotateError> {
        if self.crash_after == Some(step) {
            Err(RotateError::Crash(step.name()))
        } else {
            Ok(())
        }
    }

    #[cfg(not(test))]
    #[expect(
        clippy::unused_self,
        clippy::unnecessary_wraps,
        reason = "does something in tests"
    )]
    const fn checkpoint(&self, _step: SubStep) -> Result<(), RotateError> {
        Ok(())
    }
}

/// A rotation has two steps; a third and fourth happen when a lifetime is very short.
const MAX_STEPS: usize = 4;
