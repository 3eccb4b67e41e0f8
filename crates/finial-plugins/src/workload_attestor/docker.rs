//! The `docker` workload attestor: labels, environment and image of the container a process runs in.
//!
//! The container is found by the process's cgroup, everything else is asked of the engine: Docker, or Podman where the cgroup is one
//! of Podman's. A process outside of containers has no selectors here. That the process is in the container whose id its cgroup bears
//! is confirmed by the container's first process. What an engine says of a container is fixed when the container is made, so answers
//! are kept for a moment and a burst of calls from one container costs one question.

mod confirm;
mod engine;
mod kept;
mod matchers;
mod podman;
mod transport;

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use finial_plugin::workload::Workload;
use finial_plugin::workload_attestor::{ContainerProcess, WorkloadAttestor};
use finial_plugin::{AttestError, AttestErrorKind, PluginContext, PluginError};
use finial_runtime::clock::SharedClock;
use finial_runtime::config::PluginConfig;
use finial_runtime::log::chain;
use serde::Deserialize;
use serde::de::IgnoredAny;
use spiffe_types::selector::{Selector, SelectorError};

use self::confirm::{Verdict, confirm, is_in_nested_pid_namespace};
use self::engine::{Engine, EngineError, InspectedContainer, Version};
use self::kept::{KeptAnswers, Known};
use self::matchers::Matchers;
use self::podman::{Asked, Podman};
use self::transport::{Address, TlsFiles};
use super::container::{Cgroup, Location, cgroups, is_inside, locate};

/// Finds `label`, `env`, `image_id` and `image_config_digest`.
#[derive(Debug)]
pub struct DockerAttestor {
    docker: Engine,
    podman: Podman,
    matchers: Option<Matchers>,
    verbose: bool,
    /// Whether process ids of the engine may count in another PID namespace than the agent's.
    is_nested: bool,
    clock: SharedClock,
    kept: KeptAnswers,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct DockerConfig {
    docker_socket_path: Option<String>,
    docker_version: String,
    docker_tls_ca_path: Option<String>,
    docker_tls_certificate_path: Option<String>,
    docker_tls_private_key_path: Option<String>,
    container_id_cgroup_matchers: Vec<String>,
    use_new_container_locator: Option<bool>,
    verbose_container_locator_logs: bool,
    podman_socket_path: Option<String>,
    podman_socket_path_template: Option<String>,
    sigstore: Option<IgnoredAny>,
}

/// A container as a process claims to be in it.
struct Claim {
    /// The id of the container.
    id: String,
    asked: Asked,
    cgroups: Vec<Cgroup>,
}

impl DockerAttestor {
    /// Builds the attestor from its part of the configuration. The engine need not run yet.
    pub fn build(
        context: &PluginContext,
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
        Ok(Arc::new(Self::new(&config, Arc::clone(&context.clock))?))
    }

    fn new(config: &DockerConfig, clock: SharedClock) -> Result<Self, PluginError> {
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
        let tls = TlsFiles::of(
            config.docker_tls_ca_path.as_deref(),
            config.docker_tls_certificate_path.as_deref(),
            config.docker_tls_private_key_path.as_deref(),
        )?;
        let address = config
            .docker_socket_path
            .as_deref()
            .filter(is_set)
            .unwrap_or(DOCKER_SOCKET);
        let address = Address::parse("docker_socket_path", address, tls)?;
        if address.is_exposed() {
            tracing::warn!(
                engine = %address,
                "The container engine is asked without TLS: whoever is on the way can give any identity to any container; \
                 set docker_tls_ca_path"
            );
        }
        let podman = Podman::new(
            config.podman_socket_path.as_deref().filter(is_set),
            config.podman_socket_path_template.as_deref().filter(is_set),
        )?;
        if podman.trusts_users() {
            tracing::warn!(
                "The Podman engines of users are believed, which can claim any label and image: let entries for their containers \
                 ask for unix:uid too, or remove podman_socket_path_template"
            );
        }
        Ok(Self {
            docker: Engine::new(address, Version::configured(&config.docker_version)?),
            podman,
            matchers,
            verbose: config.verbose_container_locator_logs,
            is_nested: is_in_nested_pid_namespace(),
            clock,
            kept: KeptAnswers::default(),
        })
    }

    /// Finds what the process claims to be in.
    fn find(&self, workload: &Workload) -> Result<Option<Claim>, AttestError> {
        let (id, cgroups) = if let Some(matchers) = &self.matchers {
            let cgroups = cgroups(workload, self.verbose)?;
            let id = matchers.find(cgroups.iter().map(|row| &*row.path))?;
            (id, cgroups)
        } else {
            let Location { container, cgroups } = locate(workload, self.verbose)?;
            (container.map(|container| container.id), cgroups)
        };
        let Some(id) = id else {
            return Ok(None);
        };
        let asked = self.podman.engine_of(workload, &cgroups, &id)?;
        Ok(Some(Claim {
            id,
            asked: asked.unwrap_or_else(|| Asked {
                engine: self.docker.clone(),
                turns: None,
            }),
            cgroups,
        }))
    }

    /// Asks the engine what is true of a container, if the claim to be in it holds.
    async fn check(&self, claim: Claim) -> Result<Vec<Selector>, AttestError> {
        let Claim { id, asked, cgroups } = claim;
        let Asked { engine, turns } = asked;
        let address = engine.address().to_string();
        let _turn = match turns.as_ref().map(|turns| turns.try_acquire()) {
            Some(Err(_none_left)) => {
                return Err(AttestError::unavailable(format!(
                    "the engine at {address} has as many questions to answer as a user's own may get at a time"
                )));
            }
            Some(Ok(turn)) => Some(turn),
            None => None,
        };
        let is_users = turns.is_some();
        if !is_users
            && let Some(known) = self.kept.find(&address, &id)
            && is_inside(&cgroups, &known.cgroups, &id)
        {
            return Ok(known.selectors);
        }
        let (container, first) = self.confirmed(&engine, &id, &cgroups).await?;
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
        if !is_users && let (Some(_), Some(cgroups)) = (digest, first) {
            let known = Known {
                selectors: selectors.clone(),
                cgroups,
            };
            self.kept.keep(&address, &id, &known);
        }
        Ok(selectors)
    }

    /// Asks for the container `id` until it is clear whether a process in `cgroups` is in it. Gives the cgroups of the container's
    /// first process too, if the agent can see it.
    async fn confirmed(
        &self,
        engine: &Engine,
        id: &str,
        cgroups: &[Cgroup],
    ) -> Result<(InspectedContainer, Option<Vec<Cgroup>>), AttestError> {
        let mut doubtful = None;
        loop {
            let container = inspect(engine, id).await.map_err(|error| {
                AttestError::unavailable(format!("failed to inspect container {id}"))
                    .with_source(error)
            })?;
            if !container.id.starts_with(id) {
                return Err(AttestError::rejected(format!(
                    "the engine at {} takes {id} for a name of container {}",
                    engine.address(),
                    container.id
                )));
            }
            let pid = container.state.pid;
            match confirm(cgroups, &container, id, self.is_nested, self.clock.now())? {
                Verdict::Inside(first) => return Ok((container, Some(first))),
                Verdict::Unseen => return Ok((container, None)),
                Verdict::Doubtful(first) if doubtful == Some(pid) => {
                    return Ok((container, Some(first)));
                }
                Verdict::Doubtful(_) if doubtful.is_none() => {
                    tracing::debug!(
                        container = id,
                        pid,
                        "the first process seems to have started after its container; asking again"
                    );
                    doubtful = Some(pid);
                    tokio::time::sleep(DOUBT).await;
                }
                Verdict::Doubtful(_) => {
                    return Err(AttestError::unavailable(format!(
                        "container {id} has just been started again"
                    )));
                }
            }
        }
    }
}

#[async_trait]
impl WorkloadAttestor for DockerAttestor {
    fn name(&self) -> &str {
        NAME
    }

    async fn attest(&self, workload: &Workload) -> Result<Vec<Selector>, AttestError> {
        match self.find(workload)? {
            Some(claim) => self.check(claim).await,
            None => Ok(Vec::new()),
        }
    }

    async fn find_process(&self, container: &str) -> Result<Option<ContainerProcess>, AttestError> {
        let (docker, podman) = (&self.docker, self.podman.rootful());
        // Both at once: who runs one need not run the other, and one that hangs must not take the other's time.
        let found = match tokio::join!(docker.container(container), podman.container(container)) {
            (Ok(found), _) | (Err(_), Ok(found)) => found,
            (Err(of_docker), Err(of_podman)) => {
                let kind = if of_docker.is_unknown() && of_podman.is_unknown() {
                    AttestErrorKind::Rejected
                } else {
                    AttestErrorKind::Unavailable
                };
                return Err(AttestError::new(
                    kind,
                    format!(
                        "neither Docker nor Podman tells of a container {container}: at {}: {}; at {}: {}",
                        docker.address(),
                        chain(&of_docker),
                        podman.address(),
                        chain(&of_podman)
                    ),
                ));
            }
        };
        Ok(Some(ContainerProcess {
            container_id: found.id,
            pid: found.state.pid,
        }))
    }
}

/// A key that is set to nothing is not set.
fn is_set(value: &&str) -> bool {
    !value.is_empty()
}

/// Asks for a container, patiently: an engine may be busy when the first process of a container runs already.
async fn inspect(engine: &Engine, id: &str) -> Result<InspectedContainer, EngineError> {
    for wait in RETRY_WAITS {
        match engine.container(id).await {
            Ok(container) => return Ok(container),
            // No time is left for another try.
            Err(error @ EngineError::TimedOut { .. }) => return Err(error),
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

/// The name in configurations, and the type of the selectors.
pub const NAME: &str = "docker";
const DOCKER_SOCKET: &str = "unix:///var/run/docker.sock";
/// Longer than engines take to learn that a container has ended.
const DOUBT: Duration = Duration::from_secs(1);
const RETRY_WAITS: [Duration; 3] = [
    Duration::from_millis(100),
    Duration::from_millis(200),
    Duration::from_millis(400),
];

#[cfg(test)]
mod tests;
