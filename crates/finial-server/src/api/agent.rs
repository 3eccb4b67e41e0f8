//! `spire.api.server.agent.v1.Agent`.

use std::sync::Arc;
use std::time::Duration;

use finial_datastore::{JoinToken, StoreError};
use finial_pki::csr::Csr;
use finial_proto::pb::spire::api::server::agent::v1 as pb;
use finial_proto::pb::spire::api::server::agent::v1::agent_server::Agent;
use finial_proto::pb::spire::api::types;
use finial_proto::{convert, mask};
use spiffe_types::entry::NewEntry;
use spiffe_types::id::SpiffeId;
use spiffe_types::selector::{Selector, SelectorSet};
use spiffe_types::svid::x509::X509Svid;
use tonic::codegen::BoxStream;
use tonic::{Code, Request, Response, Status, Streaming};
use uuid::Uuid;

use super::{Services, audit, call_of, driven, matching, status};

mod attest;

/// Serves the list of agents, and lets agents in.
#[derive(Debug)]
pub(crate) struct AgentService {
    services: Arc<Services>,
}

/// Agents report their version; longer ones are refused.
const MAX_VERSION_BYTES: usize = 255;

impl AgentService {
    pub(crate) fn new(services: Arc<Services>) -> Self {
        Self { services }
    }

    fn agent_id(&self, id: Option<&types::Spiffeid>) -> Result<SpiffeId, Status> {
        convert::id::agent_id(&self.services.trust_domain, id)
            .map_err(|error| status::invalid_because("invalid agent ID", &error))
    }
}

#[tonic::async_trait]
impl Agent for AgentService {
    async fn count_agents(
        &self,
        request: Request<pb::CountAgentsRequest>,
    ) -> Result<Response<pb::CountAgentsResponse>, Status> {
        let call = call_of(&request)?;
        let filter = matching::counted_agents(request.into_inner().filter);
        note_filter(&call, filter.as_ref());
        let count = self
            .services
            .store
            .count_agents(&matching::agents(filter)?)
            .await
            .map_err(|error| status::internal("failed to count agents", &error))?;
        Ok(Response::new(pb::CountAgentsResponse {
            count: i32::try_from(count).unwrap_or(i32::MAX),
        }))
    }

    async fn list_agents(
        &self,
        request: Request<pb::ListAgentsRequest>,
    ) -> Result<Response<pb::ListAgentsResponse>, Status> {
        let call = call_of(&request)?;
        let request = request.into_inner();
        note_filter(&call, request.filter.as_ref());
        let filter = matching::agents(request.filter)?;
        let page = matching::page(request.page_size, request.page_token);
        let list = self
            .services
            .store
            .list_agents(&filter, page)
            .await
            .map_err(|error| status::internal("failed to list agents", &error))?;
        let output_mask = request.output_mask.as_ref();
        let agents = list
            .items
            .iter()
            .map(|agent| {
                let mut agent = convert::agent::to_pb(agent);
                mask::agent(&mut agent, output_mask);
                agent
            })
            .collect();
        Ok(Response::new(pb::ListAgentsResponse {
            agents,
            next_page_token: list.next.unwrap_or_default(),
        }))
    }

    async fn get_agent(
        &self,
        request: Request<pb::GetAgentRequest>,
    ) -> Result<Response<types::Agent>, Status> {
        let call = call_of(&request)?;
        let request = request.into_inner();
        let id = self.agent_id(request.id.as_ref())?;
        call.audit()
            .note(|fields| fields.spiffe_id = Some(id.to_string()));
        let agent = self
            .services
            .store
            .find_agent(&id)
            .await
            .map_err(|error| status::internal("failed to fetch agent", &error))?
            .ok_or_else(|| status::not_found("agent not found"))?;
        let mut agent = convert::agent::to_pb(&agent);
        mask::agent(&mut agent, request.output_mask.as_ref());
        Ok(Response::new(agent))
    }

    async fn delete_agent(
        &self,
        request: Request<pb::DeleteAgentRequest>,
    ) -> Result<Response<()>, Status> {
        let call = call_of(&request)?;
        let id = self.agent_id(request.into_inner().id.as_ref())?;
        call.audit()
            .note(|fields| fields.spiffe_id = Some(id.to_string()));
        match self.services.store.delete_agent(&id).await {
            Ok(_) => {
                tracing::info!(subsystem_name = "api", spiffe_id = %id, "Agent deleted");
                Ok(self.services.written(()).await)
            }
            Err(StoreError::NotFound { .. }) => Err(status::not_found("agent not found")),
            Err(error) => Err(status::internal("failed to remove agent", &error)),
        }
    }

    async fn ban_agent(
        &self,
        request: Request<pb::BanAgentRequest>,
    ) -> Result<Response<()>, Status> {
        let call = call_of(&request)?;
        let id = self.agent_id(request.into_inner().id.as_ref())?;
        call.audit()
            .note(|fields| fields.spiffe_id = Some(id.to_string()));
        match self.services.store.ban_agent(&id).await {
            Ok(_) => {
                tracing::info!(subsystem_name = "api", spiffe_id = %id, "Agent banned");
                Ok(self.services.written(()).await)
            }
            Err(StoreError::NotFound { .. }) => Err(status::not_found("agent not found")),
            Err(error) => Err(status::internal("failed to ban agent", &error)),
        }
    }

    async fn attest_agent(
        &self,
        request: Request<Streaming<pb::AttestAgentRequest>>,
    ) -> Result<Response<BoxStream<pb::AttestAgentResponse>>, Status> {
        let call = call_of(&request)?;
        let services = Arc::clone(&self.services);
        let requests = request.into_inner();
        Ok(Response::new(driven::stream(move |replies| {
            attest::serve(services, call, requests, replies)
        })))
    }

    async fn renew_agent(
        &self,
        request: Request<pb::RenewAgentRequest>,
    ) -> Result<Response<pb::RenewAgentResponse>, Status> {
        let call = call_of(&request)?;
        let request = request.into_inner();
        if let Some(params) = &request.params {
            call.audit()
                .note(|fields| fields.csr = audit::digest(&params.csr));
        }
        call.limit(1).await.map_err(|error| {
            status::limited("rejecting request due to renew agent rate limiting", error)
        })?;
        let caller = call.caller_svid().map_err(status::call)?;
        let id = &caller.id;
        let agent = self
            .services
            .registry
            .agent(id)
            .ok_or_else(|| status::not_found("agent not found"))?;
        if agent.can_reattest {
            return Err(status::must_reattest());
        }
        tracing::info!(subsystem_name = "api", "Renewing agent SVID");
        let params = request
            .params
            .ok_or_else(|| status::invalid("params cannot be nil"))?;
        if params.csr.is_empty() {
            return Err(status::invalid("missing CSR"));
        }
        let svid = self.services.sign_agent_svid(id, &params.csr).await?;
        match self
            .services
            .store
            .record_renewal(id, &caller.serial, svid.serial(), svid.not_after())
            .await
        {
            Ok(_) => {}
            Err(StoreError::NotFound { .. }) => return Err(status::not_found("agent not found")),
            Err(StoreError::Conflict { message }) => {
                return Err(status::plain(Code::PermissionDenied, &message));
            }
            Err(error) => return Err(status::internal("failed to update agent", &error)),
        }
        let response = pb::RenewAgentResponse {
            svid: Some(convert::svid::to_pb(&svid)),
        };
        Ok(self.services.written(response).await)
    }

    async fn create_join_token(
        &self,
        request: Request<pb::CreateJoinTokenRequest>,
    ) -> Result<Response<types::JoinToken>, Status> {
        let call = call_of(&request)?;
        let request = request.into_inner();
        let Some(ttl) = u64::try_from(request.ttl).ok().filter(|ttl| *ttl > 0) else {
            return Err(status::invalid("ttl is required, you must provide one"));
        };
        call.audit().note(|fields| fields.ttl = Some(request.ttl));
        let alias_id = match &request.agent_id {
            None => None,
            Some(id) => Some(
                convert::id::workload_id(&self.services.trust_domain, Some(id))
                    .map_err(|error| status::invalid_because("invalid agent ID", &error))?,
            ),
        };
        if let Some(id) = &alias_id {
            call.audit()
                .note(|fields| fields.spiffe_id = Some(id.to_string()));
        }
        let value = if request.token.is_empty() {
            Uuid::new_v4().to_string()
        } else {
            request.token
        };
        // A token that makes no SPIFFE ID could be created, but never spent.
        let token_id = self.services.join_token_id(&value)?;
        let now = self.services.clock.now();
        let token = JoinToken {
            value: value.clone(),
            expires_at: now + Duration::from_secs(ttl),
        };
        let expires_at = convert::time::to_unix(token.expires_at);
        let alias = alias_id.map(|id| alias_entry(id, &token_id)).transpose()?;
        self.services
            .store
            .create_join_token(token, alias, now)
            .await
            .map_err(|error| status::internal("failed to create token", &error))?;
        let token = types::JoinToken { value, expires_at };
        Ok(self.services.written(token).await)
    }

    async fn post_status(
        &self,
        request: Request<pb::PostStatusRequest>,
    ) -> Result<Response<pb::PostStatusResponse>, Status> {
        let call = call_of(&request)?;
        call.limit(1).await.map_err(|error| {
            status::limited("rejecting request due to post status rate limiting", error)
        })?;
        let id = call.caller_id().map_err(status::call)?;
        let version = request.into_inner().agent_version;
        call.audit()
            .note(|fields| fields.spiffe_id = Some(id.to_string()));
        if version.is_empty() {
            return Ok(Response::new(pb::PostStatusResponse {}));
        }
        if version.len() > MAX_VERSION_BYTES {
            return Err(status::invalid(
                "agent version is too long (max 255 characters)",
            ));
        }
        call.audit()
            .note(|fields| fields.agent_version = Some(version.clone()));
        let known = self
            .services
            .registry
            .agent(id)
            .is_some_and(|agent| agent.agent_version == version);
        if !known {
            match self.services.store.set_agent_version(id, &version).await {
                Ok(()) => {}
                Err(StoreError::NotFound { .. }) => {
                    return Err(status::not_found("agent not found"));
                }
                Err(error) => return Err(status::internal("failed to update agent", &error)),
            }
        }
        tracing::debug!(
            subsystem_name = "api",
            spiffe_id = %id,
            agent_version = version,
            "Agent status updated"
        );
        Ok(Response::new(pb::PostStatusResponse {}))
    }
}

impl Services {
    /// Signs an agent's SVID for the key of a CSR; nothing else in the CSR counts.
    async fn sign_agent_svid(&self, id: &SpiffeId, csr: &[u8]) -> Result<X509Svid, Status> {
        let csr = Csr::parse(csr)
            .map_err(|error| status::invalid_because("failed to parse CSR", &error))?;
        self.ca
            .issuer()
            .sign_agent_svid(id, csr.public_key())
            .await
            .map_err(|error| status::internal("failed to sign X509 SVID", &error))
    }

    /// The ID of the agent that spends a join token.
    fn join_token_id(&self, token: &str) -> Result<SpiffeId, Status> {
        SpiffeId::from_segments(&self.trust_domain, &["spire", "agent", "join_token", token])
            .map_err(|error| status::invalid_because("failed to create join token ID", &error))
    }
}

/// The entry that gives the agent of a join token another name. Its shape is known to the store, which deletes it with
/// the agent.
fn alias_entry(id: SpiffeId, token_id: &SpiffeId) -> Result<NewEntry, Status> {
    let selector = Selector::new("spiffe_id", token_id.as_str()).map_err(|error| {
        status::internal("failed to create join token registration entry", &error)
    })?;
    Ok(NewEntry::new(
        id,
        token_id.clone(),
        SelectorSet::from_iter([selector]),
    ))
}

fn note_filter(call: &crate::authorize::Call, filter: Option<&pb::list_agents_request::Filter>) {
    let Some(filter) = filter else { return };
    call.audit().note(|fields| {
        fields.by_banned = filter.by_banned;
        fields.by_can_reattest = filter.by_can_reattest;
        fields.node_attestor_type = Some(filter.by_attestation_type.clone())
            .filter(|attestation_type| !attestation_type.is_empty());
        fields.by_selectors = filter
            .by_selector_match
            .as_ref()
            .map(|matching| audit::selectors(&matching.selectors));
    });
}
