//! `join_token`, the agent's half: whoever holds the token may attest once. The server keeps its half to itself.

use std::sync::Arc;

use async_trait::async_trait;
use finial_plugin::error::{AttestError, PluginError};
use finial_plugin::node_attestor::AgentNodeAttestor;
use finial_plugin::{JoinToken, PluginContext};
use finial_runtime::config::PluginConfig;

/// The attestation type.
pub const NAME: &str = "join_token";

/// Sends the token that the operator handed to the agent.
#[derive(Debug)]
pub struct JoinTokenAttestor {
    token: Option<JoinToken>,
}

impl JoinTokenAttestor {
    /// Takes the token that the host lends.
    #[expect(clippy::unnecessary_wraps, reason = "the form that registries take")]
    pub fn build(
        context: &PluginContext,
        _config: &PluginConfig,
    ) -> Result<Arc<dyn AgentNodeAttestor>, PluginError> {
        Ok(Arc::new(Self {
            token: context.join_token.clone(),
        }))
    }
}

#[async_trait]
impl AgentNodeAttestor for JoinTokenAttestor {
    fn name(&self) -> &'static str {
        NAME
    }

    async fn payload(&self) -> Result<Vec<u8>, AttestError> {
        match &self.token {
            Some(token) => Ok(token.reveal().as_bytes().to_vec()),
            None => Err(AttestError::malformed("join token was not provided")),
        }
    }

    async fn respond(&self, _challenge: &[u8]) -> Result<Vec<u8>, AttestError> {
        Err(AttestError::malformed(
            "server challenged a join token, which has no answer to give",
        ))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_token_is_the_payload_and_never_shown() {
        let attestor = JoinTokenAttestor {
            token: Some(JoinToken::new("secret")),
        };
        assert_eq!(attestor.payload().await.unwrap(), b"secret");
        assert!(!format!("{attestor:?}").contains("secret"));
    }

    #[tokio::test]
    async fn without_a_token_the_operator_is_told() {
        let error = JoinTokenAttestor { token: None }
            .payload()
            .await
            .unwrap_err();
        assert_eq!(error.to_string(), "join token was not provided");
    }
}
