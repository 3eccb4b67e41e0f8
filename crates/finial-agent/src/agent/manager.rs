//! What keeps a running agent current: synchronization, SVIDs and the agent's own identity, and what the server's verdicts on
//! the agent lead to.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use finial_client::status::AgentVerdict;
use finial_runtime::backoff::Backoff;
use finial_runtime::clock::SharedClock;
use finial_runtime::log::chain;
use time::OffsetDateTime;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::error::AgentError;
use crate::attestation::storage::{BootstrapState, BootstrapUse, Storage};
use crate::identity::{AgentSvid, Identity, IdentityError};
use crate::sync::fill::Filler;
use crate::sync::{SyncError, SyncStatus, Synchronizer};

/// Runs the loops until the agent is to stop.
#[derive(Debug)]
pub(super) struct Manager {
    pub(super) identity: Arc<Identity>,
    pub(super) sync: Synchronizer,
    pub(super) fill: Filler,
    pub(super) status: watch::Receiver<SyncStatus>,
    pub(super) storage: Storage,
    pub(super) clock: SharedClock,
    /// How long an unknown authority is borne before the agent starts over; `None`: not at all.
    pub(super) rebootstrap_delay: Option<Duration>,
    /// How long the first synchronization is tried against an unknown authority.
    pub(super) first: Backoff,
}

enum End {
    Sync(SyncError),
    Identity(IdentityError),
}

impl Manager {
    pub(super) async fn run(mut self, stop: CancellationToken) -> anyhow::Result<()> {
        loop {
            let shown = self.identity.current();
            let end = tokio::select! {
                biased;
                () = stop.cancelled() => {
                    tracing::info!(subsystem_name = SUBSYSTEM, "Cache manager stopped");
                    return Ok(());
                }
                Err(error) = settled(self.sync.run(), &self.identity) => End::Sync(error),
                Err(error) = settled(self.fill.run(), &self.identity) => End::Sync(error),
                Err(error) = self.identity.run() => End::Identity(error),
            };
            let act = self.act(end, &shown);
            tokio::select! {
                biased;
                acted = act => acted?,
                () = stop.cancelled() => {}
            }
        }
    }

    async fn act(&mut self, end: End, shown: &Arc<AgentSvid>) -> Result<(), AgentError> {
        let (verdict, is_unknown_authority) = match &end {
            End::Sync(error) => (error.verdict(), error.is_unknown_authority()),
            End::Identity(error) => (error.verdict(), false),
        };
        match (verdict, end) {
            (Some(AgentVerdict::Stop), end) => {
                let source = end.into_source();
                tracing::warn!(subsystem_name = SUBSYSTEM, error = %chain(source.as_ref()), "Agent is banned: removing SVID and shutting down");
                self.identity.forget().await;
                Err(AgentError::Banned { source })
            }
            (Some(AgentVerdict::Reattest), end) => self.reattest(end, shown).await,
            (None, End::Sync(error)) if is_unknown_authority => self.disagree(error).await,
            (None, End::Sync(source)) => Err(AgentError::FirstSync { source }),
            (None, End::Identity(source)) => {
                tracing::error!(subsystem_name = SUBSYSTEM, error = %chain(&source), "Cache manager crashed");
                Err(AgentError::Identity { source })
            }
        }
    }

    async fn reattest(&self, end: End, shown: &Arc<AgentSvid>) -> Result<(), AgentError> {
        let current = self.identity.current();
        if !Arc::ptr_eq(shown, &current) {
            // Rotated while the call was under way: the verdict may be on the SVID before.
            return Ok(());
        }
        let source = end.into_source();
        let text = chain(source.as_ref()).to_string();
        if self.status.borrow().last_sync.is_none() && !current.reattestable {
            tracing::error!(
                subsystem_name = SUBSYSTEM,
                error = text,
                "Agent needs to re-attest: removing SVID and shutting down"
            );
            self.identity.forget().await;
            return Err(AgentError::MustReattest { source });
        }
        tracing::warn!(
            subsystem_name = SUBSYSTEM,
            error = text,
            "Agent needs to re-attest; will attempt to re-attest"
        );
        let Err(error) = self.identity.reattest().await else {
            // A server that says so again at once must not be asked without end.
            tokio::time::sleep(PAUSE).await;
            return Ok(());
        };
        tracing::error!(subsystem_name = SUBSYSTEM, error = %chain(&error), "Agent failed re-attestation; removing SVID and shutting down");
        self.identity.forget().await;
        if error.verdict() == Some(AgentVerdict::Stop) {
            return Err(AgentError::Banned {
                source: Box::new(error),
            });
        }
        Err(AgentError::MustReattest {
            source: match error {
                IdentityError::NotReattestable => source,
                other => Box::new(other),
            },
        })
    }

    /// The server is vouched for by nobody the agent knows.
    async fn disagree(&mut self, source: SyncError) -> Result<(), AgentError> {
        let last_sync = self.status.borrow().last_sync;
        let Some(delay) = self.rebootstrap_delay else {
            let retry = if last_sync.is_none() {
                self.first.next(&mut rand::rng())
            } else {
                None
            };
            if let Some(wait) = retry {
                tracing::error!(subsystem_name = SUBSYSTEM, error = %chain(&source), retry_in = ?wait, "Synchronize failed");
                tokio::time::sleep(wait).await;
                return Ok(());
            }
            tracing::info!(subsystem_name = SUBSYSTEM, error = %chain(&source), "Synchronize failed, non-recoverable error");
            return Err(AgentError::UnknownAuthority { source });
        };
        let now = OffsetDateTime::from(self.clock.now());
        let mut state = self.storage.bootstrap_state();
        // What began before the last good synchronization is over.
        let earlier = |started_at: &OffsetDateTime| {
            last_sync.is_none_or(|synced| OffsetDateTime::from(synced) <= *started_at)
        };
        let started_at = state.started_at.filter(earlier).unwrap_or(now);
        state.started_at = Some(started_at);
        self.note(state).await;
        let lasted = Duration::try_from(now - started_at).unwrap_or_default();
        let left = delay.saturating_sub(lasted);
        if !left.is_zero() {
            tracing::info!(
                subsystem_name = SUBSYSTEM,
                time_left = ?left,
                "Trust Bundle and Server don't agree, ignoring for now"
            );
            tokio::time::sleep(DISAGREEMENT_INTERVAL.min(left)).await;
            return Ok(());
        }
        tracing::warn!(
            subsystem_name = SUBSYSTEM,
            "Trust Bundle and Server don't agree, rebootstrapping"
        );
        self.note(BootstrapState {
            purpose: BootstrapUse::Rebootstrap,
            started_at: Some(now),
            attempts: 0,
        })
        .await;
        self.identity.forget().await;
        if let Err(error) = self.storage.store_bundle(Vec::new()).await {
            tracing::error!(subsystem_name = SUBSYSTEM, error = %chain(&error), "Could not remove bundle");
        }
        Err(AgentError::Rebootstrap)
    }

    async fn note(&self, state: BootstrapState) {
        if let Err(error) = self.storage.store_bootstrap_state(state).await {
            tracing::error!(subsystem_name = SUBSYSTEM, error = %chain(&error), "Could not store bootstrap state");
        }
    }
}

/// Runs until the end. When that is a verdict on an SVID which is being replaced right now, it is not told before the new one is
/// there: attesting again ends the stream of the old SVID before the answer with the new one has come.
async fn settled(
    run: impl Future<Output = Result<Infallible, SyncError>>,
    identity: &Identity,
) -> Result<Infallible, SyncError> {
    let ended = run.await;
    if let Err(error) = &ended
        && error.verdict() == Some(AgentVerdict::Reattest)
    {
        identity.settled().await;
    }
    ended
}

impl End {
    fn into_source(self) -> Box<dyn std::error::Error + Send + Sync> {
        match self {
            Self::Sync(error) => Box::new(error),
            Self::Identity(error) => Box::new(error),
        }
    }
}

const SUBSYSTEM: &str = "manager";
const PAUSE: Duration = Duration::from_secs(1);
const DISAGREEMENT_INTERVAL: Duration = Duration::from_secs(5);
