//! The `docker` workload attestor: labels, environment and image of the container a process runs in.
//!
//! The container is found by the process's cgroup, everything else is asked of the engine: Docker, or Podman where the cgroup is one
//! of Podman's. A process outside of containers has no selectors here. What an engine says of a container is fixed when the
//! container is made, so answers are kept for a moment and a burst of calls from one container costs one question.

mod engine;
mod kept;
mod matchers;
mod podman;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use finial_plugin::workload::Workload;
use finial_plugin::workload_attestor::{ContainerProcess, WorkloadAttestor};
use finial_plugin::{AttestError, PluginContext, PluginError};
use finial_runtime::config::PluginConfig;
use finial_runtime::log::chain;
use serde::Deserialize;
use serde::de::IgnoredAny;
use spiffe_types::selector::{Selector, SelectorError};

use self::engine::{Engine, EngineError, InspectedContainer};
use self::kept::KeptSelectors;
use self::matchers::Matchers;
use self::podman::Podman;
use super::container::{Location, cgroups, locate};

/// Finds `label`, `env`, `image_id` and `image_config_digest`.
#[derive(Debug)]
pub struct DockerAttestor {
    docker: Engine,
    podman: Podman,
    matchers: Option<Matchers>,
    verbose: bool,
    kept: KeptSelectors,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct DockerConfig {
    docker_socket_path: Option<String>,
    docker_version: String,
    container_id_cgroup_matchers: Vec<String>,
    use_new_container_locator: Option<bool>,
    verbose_container_locator_logs: bool,
    podman_socket_path: Option<String>,
    podman_socket_path_template: Option<String>,
    sigstore: Option<IgnoredAny>,
}

impl DockerAttestor {
    /// Builds the attestor from its part of the configuration. The engine need not run yet.
    pub fn build(
        _: &PluginContext,
        config: &PluginConfig,
    ) -> Result<Arc<dyn WorkloadAttestor>, PluginError> {
        let (config, unknown) = config.decode_strict().map_err(|error| {
            PluginError::misconfigured("unable to decode configuration").with_source(error)
        })?;
        if !unknown.is_empty() {
            let keys: Vec<_> = unknown.iter().map(|unknown| unknown.key.as_str()).collect();
            let text = format!("unknown configurations detected: {}", keys.join(","));
            return Err(PluginError::misconfigured(text));
        }
        Ok(Arc::new(Self::new(&config)?))
    }

    fn new(config: &DockerConfig) -> Result<Self, PluginError> {
        if config.sigstore.is_some() {
            return Err(PluginError::unsupported(
                "the docker workload attestor cannot verify image signatures yet: remove the sigstore section",
            ));
        }
        let matchers = if config.container_id_cgroup_matchers.is_empty() {
            None
        } else if config.use_new_container_locator.unwrap_or(true) {
            return Err(PluginError::misconfigured(
                "the new container locator and custom cgroup matchers cannot both be used; \
                 to use container_id_cgroup_matchers, set use_new_container_locator = false",
            ));
        } else {
            Some(Matchers::parse(&config.container_id_cgroup_matchers)?)
        };
        let docker = config
            .docker_socket_path
            .as_deref()
            .unwrap_or(DOCKER_SOCKET);
        Ok(Self {
            docker: Engine::new(
                socket_path("docker_socket_path", docker)?,
                &config.docker_version,
            ),
            podman: Podman::new(
                config.podman_socket_path.as_deref(),
                config.podman_socket_path_template.as_deref(),
            )?,
            matchers,
            verbose: config.verbose_container_locator_logs,
            kept: KeptSelectors::default(),
        })
    }

    /// Finds the id of the container and the engine that runs it.
    fn find(&self, workload: &Workload) -> Result<Option<(String, Engine)>, AttestError> {
        let (id, cgroups) = if let Some(matchers) = &self.matchers {
            let cgroups = cgroups(workload, self.verbose)?;
            (matchers.find(&cgroups)?, cgroups)
        } else {
            let Location { container, cgroups } = locate(workload, self.verbose)?;
            (container.map(|container| container.id), cgroups)
        };
        Ok(id.map(|id| {
            let engine = self
                .podman
                .engine_of(&cgroups)
                .unwrap_or_else(|| self.docker.clone());
            (id, engine)
        }))
    }
}

#[async_trait]
impl WorkloadAttestor for DockerAttestor {
    fn name(&self) -> &str {
        NAME
    }

    async fn attest(&self, workload: &Workload) -> Result<Vec<Selector>, AttestError> {
        let Some((id, engine)) = self.find(workload)? else {
            return Ok(Vec::new());
        };
        if let Some(selectors) = self.kept.find(engine.socket(), &id) {
            return Ok(selectors);
        }
        let container = inspect(&engine, &id).await.map_err(|error| {
            AttestError::unavailable(format!("failed to inspect container {id}")).with_source(error)
        })?;
        let image = if container.image.is_empty() {
            &container.config.image
        } else {
            &container.image
        };
        let digest = match engine.image_id(image).await {
            Ok(digest) => digest,
            Err(error) => {
                tracing::debug!(container = id, image, error = %chain(&error), "failed to inspect image");
                None
            }
        };
        let selectors = selectors(&container, digest.as_deref())?;
        if digest.is_some() {
            self.kept.keep(engine.socket(), &id, &selectors);
        }
        Ok(selectors)
    }

    async fn find_process(&self, container: &str) -> Result<Option<ContainerProcess>, AttestError> {
        let container = self.docker.container(container).await.map_err(|error| {
            AttestError::unavailable(format!("failed to inspect container {container}"))
                .with_source(error)
        })?;
        Ok(Some(ContainerProcess {
            container_id: container.id,
            pid: container.state.pid,
        }))
    }
}

/// Asks for a container, patiently: an engine may be busy when the first process of a container runs already.
async fn inspect(engine: &Engine, id: &str) -> Result<InspectedContainer, EngineError> {
    for wait in RETRY_WAITS {
        match engine.container(id).await {
            Ok(container) => return Ok(container),
            Err(error) => {
                tracing::debug!(container = id, error = %chain(&error), "retrying to inspect container");
            }
        }
        tokio::time::sleep(wait).await;
    }
    engine.container(id).await
}

fn selectors(
    container: &InspectedContainer,
    digest: Option<&str>,
) -> Result<Vec<Selector>, AttestError> {
    let config = &container.config;
    let labels = config
        .labels
        .iter()
        .flatten()
        .map(|(key, value)| format!("label:{key}:{value}"));
    let env = config
        .env
        .iter()
        .flatten()
        .map(|variable| format!("env:{variable}"));
    let image = (!config.image.is_empty()).then(|| format!("image_id:{}", config.image));
    let digest = digest.map(|digest| format!("image_config_digest:{digest}"));
    labels
        .chain(env)
        .chain(image)
        .chain(digest)
        .map(|value| Selector::new(NAME, &value))
        .collect::<Result<_, SelectorError>>()
        .map_err(|error| AttestError::internal("failed to make a selector").with_source(error))
}

/// Takes the path out of a `unix://` address.
fn socket_path(key: &str, address: &str) -> Result<PathBuf, PluginError> {
    match address.strip_prefix("unix://") {
        Some(path) if Path::new(path).is_absolute() => Ok(path.into()),
        Some(_) | None => Err(PluginError::misconfigured(format!(
            "{key} must be of the form unix:///path/to/socket, and is {address:?}"
        ))),
    }
}

/// The name in configurations, and the type of the selectors.
pub const NAME: &str = "docker";
const DOCKER_SOCKET: &str = "unix:///var/run/docker.sock";
const RETRY_WAITS: [Duration; 3] = [
    Duration::from_millis(100),
    Duration::from_millis(200),
    Duration::from_millis(400),
];

#[cfg(test)]
mod tests;
