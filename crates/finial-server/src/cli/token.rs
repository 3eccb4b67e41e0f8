//! `token generate`.

use anyhow::Context as _;
use finial_proto::pb::spire::api::server::agent::v1::CreateJoinTokenRequest;
use finial_proto::pb::spire::api::server::agent::v1::agent_client::AgentClient;
use finial_runtime::cli::{Code, Console, FlagSet, Flags};

use super::client::{Printed, with_server};
use super::{client, id};

/// Flags of `token generate`.
pub(super) fn flags() -> FlagSet {
    client::flags("token generate")
        .int("ttl", 600, "How many seconds the token can be used")
        .string(
            "spiffeID",
            "",
            "A further SPIFFE ID for whoever uses the token",
        )
        .output()
}

/// `token generate`
pub(super) fn generate(flags: &Flags, console: &mut Console) -> Code {
    with_server(flags, console, async |server| {
        let agent_id = flags.non_empty("spiffeID").map(id::parse).transpose()?;
        let token = AgentClient::new(server.channel.clone())
            .create_join_token(CreateJoinTokenRequest {
                ttl: i32::try_from(flags.int("ttl")).context("invalid value for TTL")?,
                agent_id: agent_id.clone(),
                ..CreateJoinTokenRequest::default()
            })
            .await
            .map_err(|status| server.error(&status))?
            .into_inner();
        Printed::message(flags, "spire.api.types.JoinToken", &token, |token| {
            let mut text = format!("Token: {}\n", token.value);
            if agent_id.is_none() {
                text.push_str("Warning: Missing SPIFFE ID.\n");
            }
            Ok(Printed::text(text))
        })
    })
}
