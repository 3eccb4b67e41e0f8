//! The plugins an agent runs with, built from its configuration.

use std::sync::Arc;

use anyhow::Context as _;
use finial_plugin::key_manager::KeyManager;
use finial_plugin::node_attestor::AgentNodeAttestor;
use finial_plugin::workload_attestor::WorkloadAttestor;
use finial_plugin::{AgentRegistry, PluginContext};
use finial_runtime::config::PluginConfig;
use finial_runtime::config::hcl::Table;

use crate::config::Config;

/// The plugins.
#[derive(Debug)]
pub(crate) struct Catalog {
    pub(crate) key_manager: Arc<dyn KeyManager>,
    /// Whether keys are gone with the process.
    pub(crate) keys_are_volatile: bool,
    pub(crate) node_attestor: Arc<dyn AgentNodeAttestor>,
    pub(crate) workload_attestors: Vec<Arc<dyn WorkloadAttestor>>,
    loaded: Vec<PluginConfig>,
}

impl Catalog {
    /// Builds every plugin the configuration names; the first that cannot be built is the error. A join token takes the place
    /// of whatever node attestor is configured.
    pub(crate) fn load(
        config: &Config,
        plugins: &AgentRegistry,
        context: &PluginContext,
    ) -> anyhow::Result<Self> {
        let mut loaded = Vec::new();
        let configured = one(config, "NodeAttestor")?;
        let node_attestor = if config.join_token.is_some() {
            let joins = PluginConfig::built_in("NodeAttestor", "join_token", Table::default());
            plugins.node_attestor(context, &joins)?
        } else {
            plugins.node_attestor(context, configured)?
        };
        log_loaded(configured, &mut loaded);

        let configured = one(config, "KeyManager")?;
        let key_manager = plugins.key_manager(context, configured)?;
        let keys_are_volatile = configured.name == "memory";
        log_loaded(configured, &mut loaded);

        let mut workload_attestors = Vec::new();
        for configured in config.plugins_of("WorkloadAttestor") {
            workload_attestors.push(plugins.workload_attestor(context, configured)?);
            log_loaded(configured, &mut loaded);
        }
        Ok(Self {
            key_manager,
            keys_are_volatile,
            node_attestor,
            workload_attestors,
            loaded,
        })
    }

    /// Says that the plugins are gone, the last first.
    pub(crate) fn log_closed(loaded: &[PluginConfig]) {
        tracing::debug!(subsystem_name = SUBSYSTEM, "Closing catalog");
        for plugin in loaded.iter().rev() {
            tracing::info!(
                subsystem_name = SUBSYSTEM,
                external = false,
                plugin_name = plugin.name,
                plugin_type = plugin.kind,
                "Plugin unloaded"
            );
        }
        tracing::info!(subsystem_name = SUBSYSTEM, "Catalog closed");
    }

    /// The plugins that were loaded, in order.
    pub(crate) fn loaded(&self) -> &[PluginConfig] {
        &self.loaded
    }
}

fn one<'a>(config: &'a Config, kind: &'static str) -> anyhow::Result<&'a PluginConfig> {
    config
        .plugins_of(kind)
        .next()
        .with_context(|| format!("no {kind} is configured"))
}

fn log_loaded(plugin: &PluginConfig, loaded: &mut Vec<PluginConfig>) {
    plugin.log_loaded();
    loaded.push(plugin.clone());
}

const SUBSYSTEM: &str = "catalog";
