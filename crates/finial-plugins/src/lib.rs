//! The plugins that come with finial. Only the binaries' `main` knows them; the cores know their traits.

use finial_plugin::{AgentRegistry, ServerRegistry};

pub mod key_manager;
pub mod node_attestor;
pub mod workload_attestor;

use key_manager::{disk, memory};
use node_attestor::{join_token, x509pop};
use workload_attestor::docker::DockerAttestor;
use workload_attestor::unix::UnixAttestor;

/// The plugins of a server. Join tokens are the server's own business and need none.
pub fn server() -> ServerRegistry {
    ServerRegistry::new()
        .with_key_manager("disk", disk::build_server)
        .with_key_manager("memory", memory::build)
        .with_node_attestor("x509pop", x509pop::build_server)
}

/// The plugins of an agent.
pub fn agent() -> AgentRegistry {
    AgentRegistry::new()
        .with_key_manager("disk", disk::build_agent)
        .with_key_manager("memory", memory::build)
        .with_node_attestor("join_token", join_token::JoinTokenAttestor::build)
        .with_node_attestor("x509pop", x509pop::build_agent)
        .with_workload_attestor("docker", DockerAttestor::build)
        .with_workload_attestor("unix", UnixAttestor::build)
}
