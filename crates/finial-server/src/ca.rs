//! The certificate authority of this server: two slots that take turns, and the issuer that signs with the active one.
//!
//! What must stay true: an authority is in the published bundle before it signs anything; what signs is in the journal; every
//! step can be repeated after a crash; an old authority leaves the bundle only after everything it signed has expired.

mod issuer;
mod journal;
mod local;
mod plan;
mod rotator;
mod slot;
mod template;
mod times;
mod validate;

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use arc_swap::ArcSwapOption;
use finial_datastore::DataStore;
use finial_pki::key::KeyKind;
use finial_pki::software::{SoftwareKey, SoftwareKeyError};
use finial_pki::x509::SubjectName;
use finial_plugin::key_manager::KeyManager;
use finial_runtime::clock::SharedClock;
use finial_runtime::log::chain;
use spiffe_types::bundle::AuthorityId;
use spiffe_types::id::TrustDomain;
use tokio::sync::{Mutex, watch};
use tokio::time::MissedTickBehavior;
use tokio_util::sync::CancellationToken;

pub use issuer::{IssueError, Issuer, MintRequest};
pub use journal::JournalError;
pub use local::{AuthorityState, AuthorityStates, LocalAuthorityError};
pub use rotator::RotateError;
pub(crate) use times::rfc3339;
pub use validate::ValidateError;

/// What the authority is configured to be.
#[derive(Debug, Clone)]
pub struct CaConfig {
    /// The trust domain it speaks for.
    pub trust_domain: TrustDomain,
    /// The kind of its keys.
    pub key_kind: KeyKind,
    /// Its subject.
    pub subject: SubjectName,
    /// How long an authority lives.
    pub ca_ttl: Duration,
    /// How long SVIDs live where nothing else says so.
    pub x509_svid_ttl: Duration,
    /// How long agents' SVIDs live; as `x509_svid_ttl` when absent.
    pub agent_ttl: Option<Duration>,
}

/// Why there is no authority at start, or why it is not well.
#[derive(Debug, thiserror::Error)]
pub enum CaError {
    /// No authority could be loaded or made.
    #[error("failed to load or make an X509 CA")]
    Rotate {
        /// What was in the way.
        source: RotateError,
    },
    /// There is no key for the check.
    #[error("failed to make the key of a check")]
    CheckKey {
        /// Why.
        source: SoftwareKeyError,
    },
    /// Nothing can be signed.
    #[error("unable to sign a throw-away X509 SVID")]
    Sign {
        /// Why.
        source: IssueError,
    },
    /// Rotation has failed too often in a row.
    #[error("rotations exceed the threshold number of failures: {failures} in a row")]
    Rotations {
        /// How often.
        failures: u32,
    },
}

/// The certificate authority.
#[derive(Debug)]
pub struct Ca {
    clock: SharedClock,
    store: Arc<dyn DataStore>,
    trust_domain: TrustDomain,
    issuer: Issuer,
    rotator: Mutex<rotator::Rotator>,
    authority: watch::Sender<Option<AuthorityId>>,
    /// The authorities that were in the bundle, untainted, when it was last read.
    trusted: ArcSwapOption<BTreeSet<AuthorityId>>,
    failures: AtomicU32,
    check_key: SoftwareKey,
}

impl Ca {
    /// Loads the journal and makes sure that there is an active authority. That this fails is fatal to a server, while
    /// later failures are tried again.
    pub async fn build(
        config: CaConfig,
        keys: Arc<dyn KeyManager>,
        store: Arc<dyn DataStore>,
        clock: SharedClock,
    ) -> Result<Arc<Self>, CaError> {
        let (active_sender, active) = watch::channel(None);
        let issuer = Issuer::new(&config, Arc::clone(&clock), active);
        let check_key = SoftwareKey::generate(KeyKind::EcP256)
            .map_err(|source| CaError::CheckKey { source })?;
        let trust_domain = config.trust_domain.clone();
        let rotator = rotator::Rotator::load(
            config,
            keys,
            Arc::clone(&store),
            Arc::clone(&clock),
            active_sender,
        )
        .await
        .map_err(|source| CaError::Rotate { source })?;
        let ca = Arc::new(Self {
            clock,
            store,
            trust_domain,
            issuer,
            rotator: Mutex::new(rotator),
            authority: watch::Sender::new(None),
            trusted: ArcSwapOption::empty(),
            failures: AtomicU32::new(0),
            check_key,
        });
        ca.rotate()
            .await
            .map_err(|source| CaError::Rotate { source })?;
        Ok(ca)
    }

    /// Returns what signs SVIDs.
    pub const fn issuer(&self) -> &Issuer {
        &self.issuer
    }

    /// Returns which authority signs, and wakes whoever waits when another one does.
    pub fn watch_rotation(&self) -> watch::Receiver<Option<AuthorityId>> {
        self.authority.subscribe()
    }

    /// Says whether an authority was in the bundle, and not tainted, when that was last looked at.
    pub fn is_trusted(&self, authority: &AuthorityId) -> bool {
        self.trusted
            .load()
            .as_ref()
            .is_none_or(|trusted| trusted.contains(authority))
    }

    /// Rotates and prunes until `shutdown`. Failures are logged and tried again.
    pub async fn run(&self, shutdown: CancellationToken) -> anyhow::Result<()> {
        let mut rotate = interval(ROTATE_EVERY);
        let mut prune_bundle = interval(PRUNE_BUNDLE_EVERY);
        let mut prune_journals = interval(PRUNE_JOURNALS_EVERY);
        loop {
            tokio::select! {
                () = shutdown.cancelled() => return Ok(()),
                _ = rotate.tick() => {
                    if let Err(error) = self.rotate().await {
                        tracing::error!(subsystem_name = SUBSYSTEM, error = %chain(&error), "Unable to rotate X509 CA");
                    }
                }
                _ = prune_bundle.tick() => self.prune_bundle().await,
                _ = prune_journals.tick() => self.prune_journals().await,
            }
        }
    }

    /// Checks that an SVID can be signed and that rotation is not stuck.
    pub async fn check_health(&self) -> Result<(), CaError> {
        let failures = self.failures.load(Ordering::Relaxed);
        if failures > MAX_FAILURES {
            return Err(CaError::Rotations { failures });
        }
        self.issuer
            .check(&self.check_key)
            .await
            .map_err(|source| CaError::Sign { source })
    }

    /// Carries out the steps that are due.
    async fn rotate(&self) -> Result<(), RotateError> {
        let mut rotator = self.rotator.lock().await;
        let outcome = async {
            rotator.rotate().await?;
            let trusted = rotator.reconcile().await?;
            self.trusted.store(Some(Arc::new(trusted)));
            Ok(())
        }
        .await;
        self.announce();
        match outcome {
            Ok(()) => self.failures.store(0, Ordering::Relaxed),
            // Even then there may be an authority that signs.
            Err(_) => {
                self.failures.fetch_add(1, Ordering::Relaxed);
            }
        }
        outcome
    }

    /// Tells the others which authority signs now.
    fn announce(&self) {
        let active = self.issuer.authority_id();
        self.authority.send_if_modified(|announced| {
            let differs = *announced != active;
            *announced = active;
            differs
        });
    }

    async fn prune_bundle(&self) {
        let Some(expired_before) = self.clock.now().checked_sub(KEEP_EXPIRED) else {
            return;
        };
        match self
            .store
            .prune_bundle(&self.trust_domain, expired_before)
            .await
        {
            Ok(true) => {
                tracing::debug!(
                    subsystem_name = SUBSYSTEM,
                    "Expired certificates were successfully pruned from bundle"
                );
            }
            Ok(false) => {}
            Err(error) => {
                tracing::error!(subsystem_name = SUBSYSTEM, error = %chain(&error), "Could not prune CA certificates");
            }
        }
    }

    async fn prune_journals(&self) {
        let own = self.rotator.lock().await.journal.id();
        match journal::prune(&*self.store, own, self.clock.now()).await {
            Ok(0) => {}
            Ok(count) => tracing::debug!(
                subsystem_name = SUBSYSTEM,
                count,
                "CA journals of other servers were pruned"
            ),
            Err(error) => {
                tracing::error!(subsystem_name = SUBSYSTEM, error = %chain(&error), "Could not prune CA journals");
            }
        }
    }
}

fn interval(period: Duration) -> tokio::time::Interval {
    let mut interval = tokio::time::interval_at(tokio::time::Instant::now() + period, period);
    interval.set_missed_tick_behavior(MissedTickBehavior::Delay);
    interval
}

const SUBSYSTEM: &str = "ca_manager";
const ROTATE_EVERY: Duration = Duration::from_secs(10);
const PRUNE_BUNDLE_EVERY: Duration = Duration::from_hours(6);
const PRUNE_JOURNALS_EVERY: Duration = Duration::from_hours(8);
/// An authority leaves the bundle a day after it expired.
const KEEP_EXPIRED: Duration = Duration::from_hours(24);
const MAX_FAILURES: u32 = 10;

#[cfg(test)]
mod tests;
