//! A whole agent: what can fail for a reason an operator can fix happens in [`Agent::build`], everything else in [`Agent::run`].
//!
//! The public socket appears only once the node is attested, the first synchronization is done and its SVIDs are fetched: a
//! workload that can connect can be served. From then on the agent serves what is valid, whether the server is there or not.

mod error;
mod health;
mod manager;

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use finial_pki::tls::install_provider;
use finial_plugin::{AgentRegistry, PluginContext};
use finial_runtime::backoff::Backoff;
use finial_runtime::clock::{SharedClock, SystemClock};
use finial_runtime::listen::check_unix;
use finial_runtime::tasks::TaskGroup;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

pub use self::error::AgentError;
use self::health::checks;
use self::manager::Manager;
use crate::api::debug::DebugService;
use crate::api::explain::{ExplainParts, ExplainService};
use crate::api::workload::{WorkloadApi, WorkloadApiOptions};
use crate::attestation::bootstrap::Bootstrap;
use crate::attestation::storage::Storage;
use crate::attestation::{Attested, NodeAttestation};
use crate::cache::{Cache, Change};
use crate::catalog::Catalog;
use crate::config::{Config, RebootstrapMode};
use crate::endpoints::Endpoints;
use crate::endpoints::admin::AdminEndpoints;
use crate::identity::keys::AgentKeys;
use crate::identity::rotation::Rotation;
use crate::identity::{Identity, IdentityParts};
use crate::link::Link;
use crate::sync::fill::Filler;
use crate::sync::{SyncParts, SyncStatus, Synchronizer};
use crate::workload::UnseenCallers;
use crate::workload::attest::Attestors;

/// An agent that is ready to attest.
#[derive(Debug)]
pub struct Agent {
    config: Config,
    catalog: Catalog,
    storage: Storage,
    link: Link,
    cache: Cache,
    clock: SharedClock,
}

impl Agent {
    /// Prepares the data directory, reads what an earlier run left there, and builds the plugins. Nothing is asked of the
    /// server, and no socket is bound yet.
    pub async fn build(config: Config, plugins: AgentRegistry) -> anyhow::Result<Self> {
        Self::build_with_clock(config, plugins, SystemClock::shared()).await
    }

    /// As [`build`](Self::build), with a clock of the caller's.
    #[expect(
        clippy::unused_async,
        reason = "the same shape as the server's; plugins may need it"
    )]
    pub async fn build_with_clock(
        config: Config,
        plugins: AgentRegistry,
        clock: SharedClock,
    ) -> anyhow::Result<Self> {
        install_provider();
        // The public directory is everybody's, so it comes before the umask that keeps the rest to ourselves.
        if config.workload_api
            && let Some(directory) = config.socket_path.parent()
        {
            finial_runtime::fs::create_dir(directory, PUBLIC_DIR_MODE)?;
        }
        finial_runtime::fs::set_umask(UMASK);
        tracing::info!(
            data_dir = %config.data_dir.display(),
            version = VERSION,
            "Starting agent"
        );
        for warning in &config.warnings {
            tracing::warn!("{warning}");
        }
        finial_runtime::fs::create_dir(&config.data_dir, DATA_DIR_MODE)?;
        let storage = Storage::open(&config.data_dir)
            .map_err(|error| anyhow::Error::new(error).context("failed to open storage"))?;
        let context = PluginContext::new(config.trust_domain.clone(), Arc::clone(&clock))
            .with_join_token(config.join_token.clone());
        let catalog = Catalog::load(&config, &plugins, &context)?;
        let address = address(&config.server_address, config.server_port);
        Ok(Self {
            link: Link::new(address, &config.trust_domain),
            cache: Cache::with_limit(config.trust_domain.clone(), config.x509_svid_cache_max_size),
            config,
            catalog,
            storage,
            clock,
        })
    }

    /// Where workloads will reach the agent.
    pub fn socket_path(&self) -> &Path {
        &self.config.socket_path
    }

    /// What the agent holds; shared with the running agent.
    pub fn cache(&self) -> Cache {
        self.cache.clone()
    }

    /// Attests, synchronizes, then serves until `shutdown` or until the agent cannot go on. An error is an [`AgentError`] where
    /// the operator has something to do about it.
    pub async fn run(self, shutdown: CancellationToken) -> anyhow::Result<()> {
        let loaded = self.catalog.loaded().to_vec();
        let outcome = self.live(shutdown).await;
        Catalog::log_closed(&loaded);
        if outcome.is_ok() {
            tracing::info!("Agent stopped gracefully");
        }
        outcome
    }

    async fn live(self, shutdown: CancellationToken) -> anyhow::Result<()> {
        let group = TaskGroup::under(&shutdown);
        let stop = group.token();
        let (started, watched) = watch::channel(false);
        let socket = self
            .config
            .workload_api
            .then(|| self.config.socket_path.clone());
        group.spawn("health", {
            let (config, stop) = (self.config.health_checks.clone(), stop.clone());
            async move {
                checks(watched, socket).run(&config, stop).await;
                Ok(())
            }
        });
        let outcome = self.start(&group).await;
        if outcome.is_ok() {
            started.send_replace(true);
            stop.cancelled().await;
        } else {
            stop.cancel();
        }
        outcome.and(group.wait(GRACE).await)
    }

    /// Gets as far as serving, or until the group stops: the group then knows why.
    async fn start(&self, group: &TaskGroup) -> anyhow::Result<()> {
        let stop = group.token();
        // Before a join token is spent, or the identity of an agent that runs is taken over.
        self.check_sockets()?;
        let attested = tokio::select! {
            biased;
            () = stop.cancelled() => return Ok(()),
            attested = self.attest() => attested?,
        };
        let rebootstrap_delay = self.rebootstrap_delay(attested.svid.reattestable)?;
        if !attested.svid.reattestable && self.catalog.keys_are_volatile {
            tracing::warn!(
                "Node attestation is not reattestable and the 'memory' key manager is in use; if the agent process is restarted, it will be unable to obtain a new SVID and will need to be manually evicted to be able to re-attest."
            );
        }
        let manager = self.manager(attested, rebootstrap_delay);
        let status = manager.status.clone();
        let attestors = Arc::new(Attestors::new(self.catalog.workload_attestors.clone()));
        let unseen = Arc::new(UnseenCallers::default());
        // Before the first synchronization: an agent that does not get there is the one to be asked why.
        self.serve_admin(group, &manager, &attestors, &unseen)?;
        group.spawn("manager", manager.run(stop.clone()));
        group.spawn("status", {
            let (link, stop) = (self.link.clone(), stop.clone());
            async move {
                tokio::select! {
                    () = Synchronizer::post_status(&link, VERSION) => {}
                    () = stop.cancelled() => {}
                }
                Ok(())
            }
        });
        tokio::select! {
            biased;
            () = stop.cancelled() => Ok(()),
            () = ready(&self.cache, status) => self.serve(group, attestors, unseen),
        }
    }

    fn check_sockets(&self) -> anyhow::Result<()> {
        let config = &self.config;
        let public = config.workload_api.then_some(&config.socket_path);
        for path in public.into_iter().chain(&config.admin_socket_path) {
            check_unix(path)?;
        }
        Ok(())
    }

    async fn attest(&self) -> Result<Attested, AgentError> {
        let delay = self.config.rebootstrap_delay;
        let rebootstrap = self.config.rebootstrap_mode != RebootstrapMode::Never;
        let attestation = NodeAttestation {
            trust_domain: self.config.trust_domain.clone(),
            link: self.link.clone(),
            storage: self.storage.clone(),
            keys: AgentKeys::new(Arc::clone(&self.catalog.key_manager)),
            attestor: Arc::clone(&self.catalog.node_attestor),
            bootstrap: Bootstrap {
                source: self.config.bootstrap.clone(),
                trust_domain: self.config.trust_domain.clone(),
                server_address: self.config.server_address.clone(),
                server_port: self.config.server_port,
            },
            rebootstrap_delay: rebootstrap.then_some(delay),
            clock: Arc::clone(&self.clock),
        };
        attestation
            .run(self.first_tries())
            .await
            .map_err(|error| AgentError::from_attestation(error, &self.config.trust_domain))
    }

    /// How attestation and the first synchronization are retried.
    fn first_tries(&self) -> Backoff {
        let give_up = match self.config.rebootstrap_mode {
            RebootstrapMode::Never => FIRST_TRIES,
            RebootstrapMode::Auto | RebootstrapMode::Always => FIRST_TRIES_REBOOTSTRAP,
        };
        Backoff::new(FIRST_RETRY, FIRST_RETRY * FIRST_RETRY_FACTOR, Some(give_up))
    }

    /// Starting over needs a node that can prove itself again.
    fn rebootstrap_delay(&self, reattestable: bool) -> anyhow::Result<Option<Duration>> {
        const REFUSAL: &str = "you have requested rebootstrap support but the NodeAttestor plugin or the spire server configuration is not allowing it";
        match (self.config.rebootstrap_mode, reattestable) {
            (RebootstrapMode::Never, _) => Ok(None),
            (RebootstrapMode::Auto | RebootstrapMode::Always, true) => {
                Ok(Some(self.config.rebootstrap_delay))
            }
            (RebootstrapMode::Auto, false) => {
                tracing::warn!("{REFUSAL}. Disabling");
                Ok(None)
            }
            (RebootstrapMode::Always, false) => anyhow::bail!(REFUSAL),
        }
    }

    fn manager(&self, attested: Attested, rebootstrap_delay: Option<Duration>) -> Manager {
        let rotation = Rotation {
            availability_target: self.config.availability_target,
        };
        self.link.set_bundle(&attested.bundle);
        self.cache.apply(Change {
            bundle: Some(attested.bundle),
            revision: Some(0),
            ..Change::default()
        });
        let identity = Identity::new(
            IdentityParts {
                link: self.link.clone(),
                storage: self.storage.clone(),
                cache: self.cache.clone(),
                keys: AgentKeys::new(Arc::clone(&self.catalog.key_manager)),
                attestor: Arc::clone(&self.catalog.node_attestor),
                rotation,
                clock: Arc::clone(&self.clock),
            },
            attested.svid,
        );
        let identity = Arc::new(identity);
        let sync = Synchronizer::new(SyncParts {
            trust_domain: self.config.trust_domain.clone(),
            link: self.link.clone(),
            cache: self.cache.clone(),
            storage: self.storage.clone(),
            identity: Arc::clone(&identity),
            clock: Arc::clone(&self.clock),
            version: VERSION,
            interval: self.config.sync_interval,
            poll_by_revisions: true,
            first: self.first_tries(),
        });
        let fill = Filler::new(
            self.link.clone(),
            self.cache.clone(),
            Arc::clone(&self.clock),
            self.config.workload_key_type,
            rotation,
        );
        Manager {
            identity,
            status: sync.status(),
            sync,
            fill,
            storage: self.storage.clone(),
            clock: Arc::clone(&self.clock),
            rebootstrap_delay,
            first: self.first_tries(),
        }
    }

    fn serve_admin(
        &self,
        group: &TaskGroup,
        manager: &Manager,
        attestors: &Arc<Attestors>,
        unseen: &Arc<UnseenCallers>,
    ) -> anyhow::Result<()> {
        let Some(path) = &self.config.admin_socket_path else {
            return Ok(());
        };
        let debug = DebugService::new(
            self.cache.clone(),
            Arc::clone(&manager.identity),
            manager.status.clone(),
            Arc::clone(&self.clock),
        );
        let explain = ExplainService::new(ExplainParts {
            agent_id: manager.identity.current().svid.id().clone(),
            server_address: self.link.address().to_owned(),
            socket_path: self
                .config
                .workload_api
                .then(|| self.config.socket_path.clone()),
            cache: self.cache.clone(),
            attestors: Arc::clone(attestors),
            sync: manager.status.clone(),
            unseen: Arc::clone(unseen),
            clock: Arc::clone(&self.clock),
        });
        let endpoints = AdminEndpoints::bind(path, debug, explain)?;
        group.spawn("admin endpoints", endpoints.serve(group.token()));
        Ok(())
    }

    fn serve(
        &self,
        group: &TaskGroup,
        attestors: Arc<Attestors>,
        unseen: Arc<UnseenCallers>,
    ) -> anyhow::Result<()> {
        if !self.config.workload_api {
            tracing::info!(
                apis = "Workload API",
                "Skipping agent APIs because public endpoint is disabled"
            );
            return Ok(());
        }
        let api = WorkloadApi::new(
            self.cache.clone(),
            attestors,
            Arc::clone(&self.clock),
            WorkloadApiOptions {
                allow_unauthenticated_verifiers: self.config.allow_unauthenticated_verifiers,
                log_selectors: self.config.log_selectors.clone(),
            },
        );
        let endpoints = Endpoints::bind(&self.config.socket_path, Some(api))?.with_unseen(unseen);
        group.spawn("endpoints", endpoints.serve(group.token()));
        Ok(())
    }
}

/// Waits for the first synchronization and for its SVIDs; for these not longer than a moment, since streams wait for theirs.
async fn ready(cache: &Cache, mut status: watch::Receiver<SyncStatus>) {
    if status
        .wait_for(|status| status.last_sync.is_some())
        .await
        .is_err()
    {
        // The manager has ended, and with it the agent.
        std::future::pending::<()>().await;
    }
    let revision = cache.revision();
    let mut settled = cache.settled();
    let settled = settled.wait_for(|settled| *settled >= revision);
    if tokio::time::timeout(FIRST_SVIDS, settled).await.is_err() {
        tracing::warn!(
            subsystem_name = "manager",
            "Still fetching X509-SVIDs; serving those there are"
        );
    }
}

/// Host and port as one; an IPv6 address in brackets.
fn address(host: &str, port: u16) -> String {
    if host.contains(':') && !host.starts_with('[') {
        format!("[{host}]:{port}")
    } else {
        format!("{host}:{port}")
    }
}

/// What the server is told.
pub const VERSION: &str = env!("CARGO_PKG_VERSION");

const UMASK: u32 = 0o027;
const PUBLIC_DIR_MODE: u32 = 0o755;
const DATA_DIR_MODE: u32 = 0o755;
const GRACE: Duration = Duration::from_secs(10);
const FIRST_RETRY: Duration = Duration::from_secs(5);
const FIRST_RETRY_FACTOR: u32 = 24;
const FIRST_TRIES: Duration = Duration::from_mins(1);
const FIRST_TRIES_REBOOTSTRAP: Duration = Duration::from_hours(24);
const FIRST_SVIDS: Duration = Duration::from_secs(10);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_ipv6_host_is_bracketed() {
        assert_eq!(address("::1", 8081), "[::1]:8081");
        assert_eq!(
            address("server.example.org", 8081),
            "server.example.org:8081"
        );
    }
}
