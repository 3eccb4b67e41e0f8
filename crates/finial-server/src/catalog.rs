//! The plugins a server runs with, built from its configuration.

use std::collections::BTreeMap;
use std::sync::Arc;

use anyhow::Context as _;
use finial_plugin::key_manager::KeyManager;
use finial_plugin::node_attestor::ServerNodeAttestor;
use finial_plugin::{PluginContext, ServerRegistry};

use crate::config::Config;

/// The plugins.
#[derive(Debug)]
pub(crate) struct Catalog {
    pub(crate) key_manager: Arc<dyn KeyManager>,
    /// By the name agents ask for.
    pub(crate) attestors: BTreeMap<String, Arc<dyn ServerNodeAttestor>>,
}

/// Handled by the server itself, with or without a block in the configuration.
const JOIN_TOKEN: &str = "join_token";

impl Catalog {
    /// Builds every plugin the configuration names; the first that cannot be built is the error.
    pub(crate) fn load(
        config: &Config,
        plugins: &ServerRegistry,
        context: &PluginContext,
    ) -> anyhow::Result<Self> {
        let mut attestors = BTreeMap::new();
        for plugin in config.plugins_of("NodeAttestor") {
            if plugin.name != JOIN_TOKEN {
                let attestor = plugins.node_attestor(context, plugin)?;
                attestors.insert(plugin.name.clone(), attestor);
            }
            plugin.log_loaded();
        }
        let key_manager = config
            .plugins_of("KeyManager")
            .next()
            .context("no KeyManager is configured")?;
        let built = plugins.key_manager(context, key_manager)?;
        key_manager.log_loaded();
        Ok(Self {
            key_manager: built,
            attestors,
        })
    }
}
