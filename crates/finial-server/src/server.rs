//! A whole server: everything that can fail for a reason an operator can fix happens in [`Server::build`], everything that
//! takes time in [`Server::run`].

use std::net::SocketAddr;
use std::path::Path;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use anyhow::{Context as _, bail};
use finial_datastore::sqlite::SqliteOptions;
use finial_datastore::{AgentFilter, DataStore, EntryFilter, Page};
use finial_pki::tls::{BundleStore, install_provider, server_config};
use finial_plugin::context::BundleLookup;
use finial_plugin::{PluginContext, ServerRegistry};
use finial_runtime::clock::{SharedClock, SystemClock};
use finial_runtime::config::HealthConfig;
use finial_runtime::tasks::TaskGroup;
use spiffe_types::id::TrustDomain;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::api::limits::{LimitSwitches, Limits};
use crate::api::{self, Services};
use crate::authorize::Authorizer;
use crate::ca::{Ca, CaConfig};
use crate::catalog::Catalog;
use crate::config::Config;
use crate::endpoints::Endpoints;
use crate::endpoints::layers::Frame;
use crate::endpoints::tcp::TcpEndpoint;
use crate::endpoints::unix::UnixEndpoint;
use crate::identity::ServerIdentity;
use crate::janitor::Janitor;
use crate::registry::Registry;
use crate::trust::{TrustKeeper, may_connect};

/// A server that is ready to run; its sockets are bound.
#[derive(Debug)]
pub struct Server {
    endpoints: Endpoints,
    stop_endpoints: CancellationToken,
    services: Arc<Services>,
    trust: TrustKeeper,
    janitor: Janitor,
    health: HealthConfig,
}

/// How long background tasks may take to stop once the last call has ended.
const GRACE: Duration = Duration::from_secs(10);
const DATA_DIR_MODE: u32 = 0o755;
const UMASK: u32 = 0o027;

impl Server {
    /// Opens the store, builds plugins, prepares the authorities and binds both sockets.
    pub async fn build(config: Config, plugins: ServerRegistry) -> anyhow::Result<Self> {
        Self::build_with_clock(config, plugins, SystemClock::shared()).await
    }

    /// As [`build`](Self::build), with a clock of the caller's.
    pub async fn build_with_clock(
        config: Config,
        plugins: ServerRegistry,
        clock: SharedClock,
    ) -> anyhow::Result<Self> {
        let started = Instant::now();
        install_provider();
        finial_runtime::fs::set_umask(UMASK);
        announce(&config);
        finial_runtime::fs::create_dir(&config.data_dir, DATA_DIR_MODE)?;

        let store = open_store(&config).await?;
        // Plugins come before the registry, which holds the bundle some of them ask for.
        let registry_slot: Arc<OnceLock<Arc<Registry>>> = Arc::default();
        let context =
            PluginContext::new(config.trust_domain.clone(), Arc::clone(&clock)).with_own_bundle(
                own_bundle(Arc::clone(&registry_slot), config.trust_domain.clone()),
            );
        let catalog = Catalog::load(&config, &plugins, &context)?;
        check_trust_domain(store.as_ref(), &config.trust_domain).await?;

        let ca = Ca::build(
            CaConfig {
                trust_domain: config.trust_domain.clone(),
                key_kind: config.ca_key_type,
                subject: config.ca_subject.clone(),
                ca_ttl: config.ca_ttl,
                x509_svid_ttl: config.default_x509_svid_ttl,
                agent_ttl: config.agent_ttl,
            },
            Arc::clone(&catalog.key_manager),
            Arc::clone(&store),
            Arc::clone(&clock),
        )
        .await?;
        let identity =
            ServerIdentity::build(Arc::clone(&ca), config.ca_key_type, Arc::clone(&clock)).await?;
        tracing::info!(
            subsystem_name = "endpoints",
            "Building in-memory entry cache"
        );
        let registry = Registry::load(Arc::clone(&store)).await?;
        let registry = Arc::clone(registry_slot.get_or_init(|| registry));
        tracing::info!(
            subsystem_name = "endpoints",
            "Completed building in-memory entry cache"
        );

        let bundles = BundleStore::new();
        let trust = TrustKeeper::new(
            Arc::clone(&registry),
            config.trust_domain.clone(),
            &config.admin_ids,
            bundles.clone(),
        );
        trust.refresh();
        let tls = server_config(
            identity.slot(),
            &bundles,
            may_connect(config.trust_domain.clone(), &config.admin_ids),
            {
                let clock = Arc::clone(&clock);
                Arc::new(move || clock.now())
            },
        );
        let services = Arc::new(Services {
            trust_domain: config.trust_domain.clone(),
            store: Arc::clone(&store),
            registry: Arc::clone(&registry),
            ca,
            identity,
            clock: Arc::clone(&clock),
            attestors: catalog.attestors,
            started,
        });
        let stop_endpoints = CancellationToken::new();
        let endpoints = bind(&config, &services, tls, &stop_endpoints)?;
        Ok(Self {
            janitor: Janitor::new(store, clock, config.prune_agents),
            health: config.health_checks,
            endpoints,
            stop_endpoints,
            services,
            trust,
        })
    }

    /// The address of the TCP endpoint, with the port that was given out when none was configured.
    pub fn tcp_addr(&self) -> SocketAddr {
        self.endpoints.tcp.addr()
    }

    /// The path of the admin socket.
    pub fn socket_path(&self) -> &Path {
        self.endpoints.unix.path()
    }

    /// Serves until `shutdown`, or until a part of the server fails. Calls under way are finished first, for ten seconds
    /// at most; what they need runs until then.
    pub async fn run(self, shutdown: CancellationToken) -> anyhow::Result<()> {
        let Self {
            endpoints,
            stop_endpoints,
            services,
            trust,
            janitor,
            health,
        } = self;
        let group = TaskGroup::new();
        let stop = group.token();
        let (ca, identity, registry) = (
            Arc::clone(&services.ca),
            Arc::clone(&services.identity),
            Arc::clone(&services.registry),
        );
        group.spawn("ca", {
            let stop = stop.clone();
            async move { ca.run(stop).await }
        });
        group.spawn("identity", {
            let stop = stop.clone();
            async move { identity.run(stop).await }
        });
        group.spawn("registry", {
            let stop = stop.clone();
            async move { registry.run(stop).await }
        });
        group.spawn("trust", {
            let stop = stop.clone();
            async move {
                trust.run(stop).await;
                Ok(())
            }
        });
        group.spawn("janitor", {
            let stop = stop.clone();
            async move {
                janitor.run(stop).await;
                Ok(())
            }
        });
        group.spawn("health", {
            let stop = stop.clone();
            let checks = crate::health::checks(&services, endpoints.unix.path().to_owned());
            async move {
                checks.run(&health, stop).await;
                Ok(())
            }
        });
        group.spawn("endpoints", {
            let stop = stop.clone();
            async move {
                let serving = endpoints.run(stop_endpoints.clone());
                tokio::pin!(serving);
                tokio::select! {
                    () = &mut serving => {}
                    () = shutdown.cancelled() => {
                        stop_endpoints.cancel();
                        serving.await;
                    }
                    () = stop.cancelled() => {
                        stop_endpoints.cancel();
                        serving.await;
                    }
                }
                // Only now may the rest go.
                stop.cancel();
                Ok(())
            }
        });
        let result = group.wait(GRACE).await;
        drop(services);
        if result.is_ok() {
            tracing::info!("Server stopped gracefully");
        }
        result
    }
}

fn announce(config: &Config) {
    let admin_ids: Vec<_> = config.admin_ids.iter().map(ToString::to_string).collect();
    tracing::info!(
        admin_ids = format!("[{}]", admin_ids.join(" ")),
        data_dir = %config.data_dir.display(),
        launch_log_level = %config.log.level,
        version = env!("CARGO_PKG_VERSION"),
        "Configured"
    );
    for warning in &config.warnings {
        tracing::warn!("{warning}");
    }
}

fn own_bundle(registry: Arc<OnceLock<Arc<Registry>>>, own: TrustDomain) -> BundleLookup {
    BundleLookup::new(move || registry.get()?.bundle(&own))
}

async fn open_store(config: &Config) -> anyhow::Result<Arc<dyn DataStore>> {
    let settings = &config.datastore;
    let mut options = SqliteOptions {
        disable_migration: settings.disable_migration,
        log_sql: settings.log_sql,
        ..SqliteOptions::default()
    };
    if let Some(max_open_conns) = settings.max_open_conns {
        options.max_open_conns = max_open_conns;
    }
    let store = finial_datastore::sqlite::open(&settings.connection_string, &options)
        .await
        .context("failed to open the data store")?;
    tracing::info!(
        subsystem_name = "catalog",
        reconfigurable = false,
        "Configured DataStore"
    );
    Ok(store)
}

/// A store that belongs to another trust domain would be spoiled by this server's entries, and the other way round.
async fn check_trust_domain(store: &dyn DataStore, own: &TrustDomain) -> anyhow::Result<()> {
    let entries = store
        .list_entries(&EntryFilter::default(), Some(Page::first(1)))
        .await?;
    if let Some(entry) = entries.items.first()
        && !entry.spiffe_id.is_member_of(own)
    {
        bail!(
            "a registration entry with trust domain '{}' has been detected, which does not match the configured trust domain of '{own}'. If you want to change the trust domain, please delete all existing registration entries",
            entry.spiffe_id.trust_domain_name()
        );
    }
    let agents = store
        .list_agents(&AgentFilter::default(), Some(Page::first(1)))
        .await?;
    if let Some(agent) = agents.items.first()
        && !agent.id.is_member_of(own)
    {
        tracing::warn!(
            "An attested node with trust domain '{}' has been detected, which does not match the configured trust domain of '{own}'. Agents may need to be reconfigured to use new trust domain",
            agent.id.trust_domain_name()
        );
    }
    Ok(())
}

fn bind(
    config: &Config,
    services: &Arc<Services>,
    tls: Arc<rustls::ServerConfig>,
    closing: &CancellationToken,
) -> anyhow::Result<Endpoints> {
    tracing::debug!(subsystem_name = "endpoints", "Initializing API endpoints");
    let authorizer = Arc::new(Authorizer::new(
        config.trust_domain.clone(),
        config.admin_ids.iter().cloned(),
        Arc::clone(&services.registry),
        Arc::clone(&services.store),
        Arc::clone(&services.clock),
    ));
    let limits = Arc::new(Limits::new(LimitSwitches {
        attestation: config.rate_limits.attestation,
        signing: config.rate_limits.signing,
    }));
    let frame = |local| {
        Arc::new(Frame {
            routes: api::routes(services, local),
            authorizer: Arc::clone(&authorizer),
            limits: Arc::clone(&limits),
            audit: config.audit_log_enabled,
            local,
            closing: closing.clone(),
        })
    };
    let tcp = TcpEndpoint::bind(config.bind_address, tls)
        .with_context(|| format!("failed to listen on {}", config.bind_address))?;
    let unix = UnixEndpoint::bind(&config.socket_path)?;
    Ok(Endpoints {
        tcp,
        tcp_frame: frame(false),
        unix,
        unix_frame: frame(true),
    })
}
