//! Which plugins a binary has: a name and a configuration become an instance.
//!
//! A registry holds functions, not instances; nothing runs until the host builds what its configuration names. A plugin
//! that is configured but unknown is an error that lists the known names, because it is nearly always a typo.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use finial_runtime::config::PluginConfig;
use thiserror::Error;

use crate::bundle_publisher::BundlePublisher;
use crate::context::PluginContext;
use crate::credential_composer::CredentialComposer;
use crate::error::PluginError;
use crate::key_manager::KeyManager;
use crate::node_attestor::{AgentNodeAttestor, ServerNodeAttestor};
use crate::notifier::Notifier;
use crate::upstream_authority::UpstreamAuthority;
use crate::workload_attestor::WorkloadAttestor;

/// Builds one plugin from its configuration.
pub type Build<T> = fn(&PluginContext, &PluginConfig) -> Result<Arc<T>, PluginError>;

/// A plugin that could not be built.
#[derive(Debug, Error)]
pub enum RegistryError {
    /// No plugin of this type has this name.
    #[error("no built-in plugin \"{name}\" for type \"{kind}\"; there are: {known}")]
    Unknown {
        /// The plugin type, as configured.
        kind: &'static str,
        /// The name nobody knows.
        name: String,
        /// The names there are, separated by commas.
        known: String,
    },
    /// The plugin refused its configuration.
    #[error("failed to configure plugin \"{name}\" of type \"{kind}\"")]
    Configure {
        /// The plugin type, as configured.
        kind: &'static str,
        /// The plugin's name.
        name: String,
        /// What it said.
        source: PluginError,
    },
}

struct Factories<T: ?Sized> {
    kind: &'static str,
    builds: BTreeMap<&'static str, Build<T>>,
}

impl<T: ?Sized> Factories<T> {
    fn new(kind: &'static str) -> Self {
        Self {
            kind,
            builds: BTreeMap::new(),
        }
    }

    fn add(&mut self, name: &'static str, build: Build<T>) {
        let replaced = self.builds.insert(name, build);
        debug_assert!(
            replaced.is_none(),
            "{} {name} is registered twice",
            self.kind
        );
    }

    fn build(
        &self,
        context: &PluginContext,
        config: &PluginConfig,
    ) -> Result<Arc<T>, RegistryError> {
        let build =
            self.builds
                .get(config.name.as_str())
                .ok_or_else(|| RegistryError::Unknown {
                    kind: self.kind,
                    name: config.name.clone(),
                    known: self.names().collect::<Vec<_>>().join(", "),
                })?;
        build(context, config).map_err(|source| RegistryError::Configure {
            kind: self.kind,
            name: config.name.clone(),
            source,
        })
    }

    fn names(&self) -> impl Iterator<Item = &'static str> {
        self.builds.keys().copied()
    }
}

impl<T: ?Sized> fmt::Debug for Factories<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct(self.kind)
            .field("names", &self.builds.keys())
            .finish()
    }
}

/// The plugins of a server.
#[derive(Debug)]
pub struct ServerRegistry {
    key_managers: Factories<dyn KeyManager>,
    node_attestors: Factories<dyn ServerNodeAttestor>,
    upstream_authorities: Factories<dyn UpstreamAuthority>,
    bundle_publishers: Factories<dyn BundlePublisher>,
    notifiers: Factories<dyn Notifier>,
    credential_composers: Factories<dyn CredentialComposer>,
}

/// The plugins of an agent.
#[derive(Debug)]
pub struct AgentRegistry {
    key_managers: Factories<dyn KeyManager>,
    node_attestors: Factories<dyn AgentNodeAttestor>,
    workload_attestors: Factories<dyn WorkloadAttestor>,
}

/// Writes, for each plugin type, the method that registers a plugin and the method that builds one.
macro_rules! factories {
    ($registry:ident { $($field:ident: $kind:literal, $trait:ident, $with:ident, $build:ident;)+ }) => {
        impl $registry {
            /// Creates a registry that knows no plugin.
            pub fn new() -> Self {
                Self { $($field: Factories::new($kind),)+ }
            }

            /// Returns the plugin types with the names known for each.
            pub fn names(&self) -> BTreeMap<&'static str, Vec<&'static str>> {
                BTreeMap::from([$(($kind, self.$field.names().collect()),)+])
            }

            $(
                #[doc = concat!("Registers a `", $kind, "` under the name configurations use; each name once.")]
                #[must_use]
                pub fn $with(mut self, name: &'static str, build: Build<dyn $trait>) -> Self {
                    self.$field.add(name, build);
                    self
                }

                #[doc = concat!("Builds the `", $kind, "` that `config` names.")]
                pub fn $build(
                    &self,
                    context: &PluginContext,
                    config: &PluginConfig,
                ) -> Result<Arc<dyn $trait>, RegistryError> {
                    self.$field.build(context, config)
                }
            )+
        }

        impl Default for $registry {
            fn default() -> Self {
                Self::new()
            }
        }
    };
}

factories!(ServerRegistry {
    key_managers: "KeyManager", KeyManager, with_key_manager, key_manager;
    node_attestors: "NodeAttestor", ServerNodeAttestor, with_node_attestor, node_attestor;
    upstream_authorities: "UpstreamAuthority", UpstreamAuthority, with_upstream_authority, upstream_authority;
    bundle_publishers: "BundlePublisher", BundlePublisher, with_bundle_publisher, bundle_publisher;
    notifiers: "Notifier", Notifier, with_notifier, notifier;
    credential_composers: "CredentialComposer", CredentialComposer, with_credential_composer, credential_composer;
});

factories!(AgentRegistry {
    key_managers: "KeyManager", KeyManager, with_key_manager, key_manager;
    node_attestors: "NodeAttestor", AgentNodeAttestor, with_node_attestor, node_attestor;
    workload_attestors: "WorkloadAttestor", WorkloadAttestor, with_workload_attestor, workload_attestor;
});
