//! Keeps the agent's state that of the server: the only writer of the cache.
//!
//! [`Synchronizer`] follows the entries and bundles, by finial's push stream ([`push`]) or, with a server that does not offer
//! it, by SPIRE's polling calls ([`poll`]). [`fill::Filler`] gets the SVIDs the cache finds missing or due. The two meet only in the
//! cache: a change that is applied wakes the filler at once, and no timer stands between an entry on the server and a
//! workload's open stream.

mod error;
pub(crate) mod fill;
mod held;
mod poll;
mod push;
mod taint;
#[cfg(test)]
mod tests;

use std::convert::Infallible;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use finial_proto::pb::spire::api::server::agent::v1 as agent_api;
use finial_proto::pb::spire::api::server::agent::v1::agent_client::AgentClient;
use finial_proto::pb::spire::api::types;
use finial_runtime::backoff::Backoff;
use finial_runtime::clock::SharedClock;
use finial_runtime::log::chain;
use spiffe_types::bundle::Bundle;
use spiffe_types::entry::{Entry, EntryId};
use spiffe_types::id::TrustDomain;
use tokio::sync::watch;

use self::held::Held;
use self::taint::Taint;
use crate::attestation::storage::Storage;
use crate::cache::{Cache, Change};
use crate::identity::Identity;
use crate::link::Link;
use crate::rpc::RpcFailure;

pub use self::error::SyncError;

/// By which calls the agent learns of changes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// The push stream of `finial.sync.v1`.
    Push,
    /// Polling, by revisions.
    SyncAuthorizedEntries,
    /// Polling, everything each time.
    GetAuthorizedEntries,
}

impl Mode {
    /// The name of the call.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Push => "finial.sync.v1.Follow",
            Self::SyncAuthorizedEntries => "SyncAuthorizedEntries",
            Self::GetAuthorizedEntries => "GetAuthorizedEntries",
        }
    }
}

/// How synchronization stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SyncStatus {
    /// The calls in use.
    pub mode: Mode,
    /// When the agent last knew its state to be the server's; `None` before the first time.
    pub last_sync: Option<SystemTime>,
    /// Why the last attempt failed; `None` once one succeeds.
    pub last_error: Option<Arc<str>>,
}

/// What synchronization works with.
#[derive(Debug)]
pub(crate) struct SyncParts {
    pub(crate) trust_domain: TrustDomain,
    pub(crate) link: Link,
    pub(crate) cache: Cache,
    pub(crate) storage: Storage,
    pub(crate) identity: Arc<Identity>,
    pub(crate) clock: SharedClock,
    pub(crate) version: &'static str,
    pub(crate) interval: Duration,
    /// The polling call to use where there is no push stream: by revisions, or everything each time.
    pub(crate) poll_by_revisions: bool,
    /// How the very first synchronization is retried.
    pub(crate) first: Backoff,
}

/// Follows the server's state.
#[derive(Debug)]
pub(crate) struct Synchronizer {
    parts: SyncParts,
    held: Held,
    taint: Taint,
    backoff: Backoff,
    status: watch::Sender<SyncStatus>,
    /// Whether the last attempt failed.
    failed: bool,
}

impl Synchronizer {
    pub(crate) fn new(parts: SyncParts) -> Self {
        let longest = LONGEST_INTERVAL.min(parts.interval * LONGEST_INTERVAL_FACTOR);
        Self {
            held: Held::default(),
            taint: Taint::default(),
            backoff: Backoff::new(parts.interval, longest, None),
            status: watch::Sender::new(SyncStatus {
                mode: Mode::Push,
                last_sync: None,
                last_error: None,
            }),
            failed: false,
            parts,
        }
    }

    /// How synchronization stands, now and later.
    pub(crate) fn status(&self) -> watch::Receiver<SyncStatus> {
        self.status.subscribe()
    }

    /// Synchronizes until that is not the way any more: the server wants the agent to attest again or to stop, its authority is
    /// unknown, or the first synchronization has been tried for long enough. May be called again; what is held stays.
    pub(crate) async fn run(&mut self) -> Result<Infallible, SyncError> {
        let mut reconnect = Backoff::new(RECONNECT_START, RECONNECT_MAX, None);
        loop {
            let before = self.status.borrow().last_sync;
            let error = match self.mode() {
                Mode::Push => match self.follow().await {
                    Ok(never) => match never {},
                    Err(SyncError::Redialled) => continue,
                    Err(error) if error.is_unimplemented() => {
                        self.fall_back();
                        continue;
                    }
                    Err(error) => error,
                },
                Mode::SyncAuthorizedEntries | Mode::GetAuthorizedEntries => match self.poll().await
                {
                    Ok(()) => {
                        self.wait_interval().await;
                        continue;
                    }
                    Err(error)
                        if error.is_unimplemented()
                            && self.mode() == Mode::SyncAuthorizedEntries =>
                    {
                        self.set_mode(Mode::GetAuthorizedEntries);
                        continue;
                    }
                    Err(error) => error,
                },
            };
            if error.verdict().is_some() || error.is_unknown_authority() {
                return Err(error);
            }
            self.failed = true;
            let text = chain(&error).to_string();
            self.status
                .send_modify(|status| status.last_error = Some(text.into()));
            let synced = self.status.borrow().last_sync;
            if synced != before {
                reconnect.reset();
            }
            let wait = match (synced, self.mode()) {
                (None, _) => match self.parts.first.next(&mut rand::rng()) {
                    Some(wait) => wait,
                    None => return Err(error),
                },
                (Some(_), Mode::Push) => reconnect.next(&mut rand::rng()).unwrap_or(RECONNECT_MAX),
                (Some(_), Mode::SyncAuthorizedEntries | Mode::GetAuthorizedEntries) => self
                    .backoff
                    .next(&mut rand::rng())
                    .unwrap_or(LONGEST_INTERVAL),
            };
            tracing::error!(
                subsystem_name = "manager",
                error = %chain(&error),
                retry_in = ?wait,
                "Synchronize failed"
            );
            if error.is_connection_lost() && self.mode() != Mode::Push {
                // Whoever answers next may be a newer server.
                self.set_mode(Mode::Push);
            }
            tokio::time::sleep(wait).await;
        }
    }

    /// Tells the server the agent's version. It is no reason not to go on when that fails.
    pub(crate) async fn post_status(link: &Link, version: &'static str) {
        let mut request = tonic::Request::new(agent_api::PostStatusRequest {
            agent_version: version.to_owned(),
            ..agent_api::PostStatusRequest::default()
        });
        request.set_timeout(RPC_TIMEOUT);
        if let Err(status) = AgentClient::new(link.channel()).post_status(request).await {
            tracing::error!(
                subsystem_name = "manager",
                agent_version = version,
                error = %RpcFailure::from(status),
                "Failed to post agent status"
            );
        }
    }

    fn mode(&self) -> Mode {
        self.status.borrow().mode
    }

    fn set_mode(&self, mode: Mode) {
        self.status.send_modify(|status| status.mode = mode);
    }

    fn fall_back(&self) {
        let mode = if self.parts.poll_by_revisions {
            Mode::SyncAuthorizedEntries
        } else {
            Mode::GetAuthorizedEntries
        };
        tracing::info!(
            subsystem_name = "manager",
            mode = mode.as_str(),
            "Server offers no push stream; synchronizing by polling"
        );
        self.set_mode(mode);
    }

    /// Notes that the agent's state is the server's.
    fn mark_synced(&mut self) {
        let now = self.parts.clock.now();
        self.status.send_modify(|status| {
            status.last_sync = Some(now);
            status.last_error = None;
        });
        if std::mem::take(&mut self.failed) {
            self.parts.cache.retry_deferred();
        }
    }

    async fn wait_interval(&mut self) {
        self.backoff.reset();
        let mut wait = self
            .backoff
            .next(&mut rand::rng())
            .unwrap_or(self.parts.interval);
        if self.parts.cache.counts().x509_svids == 0 {
            wait = wait.min(DEFAULT_INTERVAL);
        }
        tokio::time::sleep(wait).await;
    }

    /// Takes a step into use: trust first, then the cache with all its subscribers, then the disk.
    async fn apply(&mut self, change: Change) {
        let own = change.bundle.clone();
        if let Some(bundle) = &own {
            self.parts.link.set_bundle(bundle);
        }
        self.parts.cache.apply(change);
        self.mark_synced();
        let Some(bundle) = own else {
            return;
        };
        self.replace_tainted(&bundle).await;
        let authorities: Vec<Bytes> = bundle
            .x509_authorities
            .iter()
            .map(|authority| authority.der().clone())
            .collect();
        if let Err(error) = self.parts.storage.store_bundle(authorities).await {
            tracing::error!(subsystem_name = "manager", error = %chain(&error), "Could not store bundle");
        }
    }

    /// Has everything signed anew that only a tainted or withdrawn authority vouches for.
    async fn replace_tainted(&mut self, bundle: &Bundle) {
        let Some(trusted) = self.taint.untainted(bundle) else {
            return;
        };
        self.parts.identity.check_authority(&trusted);
        let svids = self.parts.cache.issued();
        let now = self.parts.clock.now();
        let tainted = taint::signed_by_others(svids, trusted, now).await;
        let count = self.parts.cache.taint(&tainted);
        if count > 0 {
            tracing::info!(
                subsystem_name = "manager",
                count,
                "Replacing SVIDs signed by a tainted authority"
            );
        }
    }
}

/// Reads entries of the server. What cannot be understood is skipped: the others are none the worse for it.
fn read_entries(entries: Vec<types::Entry>) -> Vec<Arc<Entry>> {
    let read = |entry: types::Entry| {
        let (id, spiffe_id) = (entry.id.clone(), entry.spiffe_id.clone());
        let error = match finial_proto::convert::entry::from_pb(entry) {
            Ok(entry) if !entry.selectors.is_empty() => return Some(Arc::new(entry)),
            Ok(_) => "missing selectors".to_owned(),
            Err(error) => chain(&error).to_string(),
        };
        let spiffe_id = spiffe_id.map_or_else(String::new, |id| {
            format!("spiffe://{}{}", id.trust_domain, id.path)
        });
        tracing::warn!(
            subsystem_name = "manager",
            entry_id = id,
            spiffe_id,
            error,
            "Received malformed entry from SPIRE server; are the server and agent versions compatible?"
        );
        None
    };
    entries.into_iter().filter_map(read).collect()
}

/// Reads a federated bundle of the server; one that cannot be understood is skipped.
fn read_federated(bundle: &types::Bundle) -> Option<Bundle> {
    match finial_proto::convert::bundle::from_pb(bundle) {
        Ok(bundle) => Some(bundle),
        Err(error) => {
            tracing::warn!(
                subsystem_name = "manager",
                trust_domain_id = bundle.trust_domain,
                error = %chain(&error),
                "Received malformed bundle from SPIRE server; are the server and agent versions compatible?"
            );
            None
        }
    }
}

/// Entries that go to an external store are not for workloads on this node.
fn for_workloads<'a>(entries: impl IntoIterator<Item = &'a Arc<Entry>>) -> Vec<Arc<Entry>> {
    let for_workloads = |entry: &&Arc<Entry>| !entry.store_svid;
    entries.into_iter().filter(for_workloads).cloned().collect()
}

fn read_ids(ids: &[String]) -> Vec<EntryId> {
    ids.iter()
        .filter_map(|id| EntryId::parse(id).ok())
        .collect()
}

const RPC_TIMEOUT: Duration = Duration::from_secs(30);
const DEFAULT_INTERVAL: Duration = Duration::from_secs(5);
const LONGEST_INTERVAL: Duration = Duration::from_mins(8);
const LONGEST_INTERVAL_FACTOR: u32 = 48;
/// A lost stream is opened again soon: until then the agent is blind.
const RECONNECT_START: Duration = Duration::from_millis(500);
const RECONNECT_MAX: Duration = Duration::from_secs(5);
