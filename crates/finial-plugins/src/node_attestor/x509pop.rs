//! `x509pop`: an agent proves that it holds the key of a certificate from a PKI the server was told to believe.

pub mod agent;
mod certificate;
pub mod server;
pub mod wire;

use std::sync::Arc;

use finial_plugin::context::PluginContext;
use finial_plugin::error::PluginError;
use finial_plugin::node_attestor::{AgentNodeAttestor, ServerNodeAttestor};
use finial_runtime::config::PluginConfig;

/// The attestation type, and the type of its selectors.
pub const NAME: &str = "x509pop";

/// Builds the server's half.
pub fn build_server(
    context: &PluginContext,
    config: &PluginConfig,
) -> Result<Arc<dyn ServerNodeAttestor>, PluginError> {
    Ok(Arc::new(server::X509PopServer::new(
        context,
        &decode(config)?,
    )?))
}

/// Builds the agent's half.
pub fn build_agent(
    _context: &PluginContext,
    config: &PluginConfig,
) -> Result<Arc<dyn AgentNodeAttestor>, PluginError> {
    Ok(Arc::new(agent::X509PopAgent::new(decode(config)?)?))
}

fn decode<T: serde::de::DeserializeOwned>(config: &PluginConfig) -> Result<T, PluginError> {
    config.decode().map_err(|error| {
        PluginError::misconfigured("unable to decode configuration").with_source(error)
    })
}

#[cfg(test)]
mod tests;
