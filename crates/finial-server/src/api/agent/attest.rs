//! `AttestAgent`: the server owns the stream, its order and its deadlines; an attestor turns bytes into bytes.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use finial_datastore::{Redemption, StoreError};
use finial_plugin::AttestError;
use finial_plugin::node_attestor::{Challenger, NodeAttestation};
use finial_proto::convert;
use finial_proto::pb::spire::api::server::agent::v1 as pb;
use pb::attest_agent_request::{Params, Step as RequestStep};
use pb::attest_agent_response::{Result as AttestResult, Step as ResponseStep};
use spiffe_types::agent::AttestedAgent;
use spiffe_types::id::SpiffeId;
use spiffe_types::selector::SelectorSet;
use tonic::{Code, Status, Streaming};

use crate::api::driven::Replies;
use crate::api::{Services, status};
use crate::authorize::Call;
use crate::ca::rfc3339;

/// What an agent asks for in its first message.
struct AttestRequest {
    attestor: String,
    payload: Bytes,
    csr: Bytes,
}

/// Puts an attestor's questions on the stream.
struct StreamChallenger<'a> {
    requests: &'a mut Streaming<pb::AttestAgentRequest>,
    replies: &'a Replies<pb::AttestAgentResponse>,
    rounds: usize,
}

/// How long an agent may take for its first message, once it is its turn.
const FIRST_MESSAGE_LIMIT: Duration = Duration::from_secs(10);
/// How long an agent may take for one answer.
const ANSWER_LIMIT: Duration = Duration::from_secs(30);
/// How long an attestation may take; attestors ask others, such as a cloud's API.
const ATTESTATION_LIMIT: Duration = Duration::from_mins(2);
/// No attestor asks more often.
const MAX_ROUNDS: usize = 32;

pub(super) async fn serve(
    services: Arc<Services>,
    call: Call,
    mut requests: Streaming<pb::AttestAgentRequest>,
    replies: Replies<pb::AttestAgentResponse>,
) -> Result<(), Status> {
    let trail = call.audit().clone();
    let result = attest(services, call, &mut requests, &replies).await;
    trail.end(
        result
            .as_ref()
            .err()
            .map(|error| (error.code(), error.message())),
    );
    result
}

async fn attest(
    services: Arc<Services>,
    call: Call,
    requests: &mut Streaming<pb::AttestAgentRequest>,
    replies: &Replies<pb::AttestAgentResponse>,
) -> Result<(), Status> {
    call.limit(1).await.map_err(|error| {
        status::limited("rejecting request due to attest agent rate limiting", error)
    })?;
    let request = first_message(requests).await?;
    call.audit()
        .note(|fields| fields.node_attestor_type = Some(request.attestor.clone()));

    let attestation = if request.attestor == "join_token" {
        services.attest_join_token(&request.payload).await?
    } else {
        services
            .attest_by_plugin(&request, requests, replies)
            .await?
    };
    let NodeAttestation {
        agent_id,
        selectors,
        can_reattest,
    } = attestation;
    call.audit()
        .note(|fields| fields.agent_id = Some(agent_id.to_string()));
    services.check_agent_id(&agent_id, &request.attestor)?;
    let known = services
        .store
        .find_agent(&agent_id)
        .await
        .map_err(|error| status::internal("failed to fetch agent", &error))?;
    if known.is_some_and(|agent| agent.is_banned()) {
        return Err(banned());
    }
    let svid = services.sign_agent_svid(&agent_id, &request.csr).await?;
    let agent = AttestedAgent {
        id: agent_id.clone(),
        attestation_type: request.attestor.clone(),
        serial: Some(svid.serial().clone()),
        expires_at: svid.not_after(),
        new_serial: None,
        new_expires_at: None,
        can_reattest,
        selectors,
        agent_version: String::new(),
    };
    match services.store.record_attestation(agent).await {
        Ok(_) => {}
        // Banned since it was looked up.
        Err(StoreError::Conflict { .. }) => return Err(banned()),
        Err(error) => {
            return Err(status::internal("failed to create attested agent", &error));
        }
    }
    // The agent's next call comes at once, and its SVID must be known by then.
    if let Err(error) = services.registry.catch_up().await {
        services.lagging(&error);
    }
    tracing::info!(
        subsystem_name = "api",
        node_attestor_type = request.attestor,
        agent_id = %agent_id,
        address = call.caller().addr().map(tracing::field::display),
        "Agent attestation request completed"
    );
    let result = AttestResult {
        svid: Some(convert::svid::to_pb(&svid)),
        reattestable: can_reattest,
    };
    let response = pb::AttestAgentResponse {
        step: Some(ResponseStep::Result(result)),
    };
    replies
        .send(response)
        .await
        .map_err(|gone| status::internal("failed to send response over stream", &gone))
}

async fn first_message(
    requests: &mut Streaming<pb::AttestAgentRequest>,
) -> Result<AttestRequest, Status> {
    let message = tokio::time::timeout(FIRST_MESSAGE_LIMIT, requests.message())
        .await
        .map_err(|_elapsed| status::too_slow("no attestation request within 10s"))?;
    let message = match message {
        Ok(Some(message)) => message,
        Ok(None) => {
            return Err(status::invalid(
                "failed to receive request from stream: stream ended",
            ));
        }
        Err(error) => {
            return Err(status::received(
                &error,
                "failed to receive request from stream",
            ));
        }
    };
    let params = match message.step {
        Some(RequestStep::Params(params)) => Some(params),
        Some(RequestStep::ChallengeResponse(_)) | None => None,
    };
    check(params).map_err(|missing| status::invalid(&format!("malformed param: {missing}")))
}

fn check(params: Option<Params>) -> Result<AttestRequest, &'static str> {
    let params = params.ok_or("missing params")?;
    let data = params.data.ok_or("missing attestation data")?;
    let svid = params.params.ok_or("missing X509-SVID parameters")?;
    if svid.csr.is_empty() {
        return Err("missing CSR");
    }
    if data.r#type.is_empty() {
        return Err("missing attestation data type");
    }
    if data.payload.is_empty() {
        return Err("missing attestation data payload");
    }
    Ok(AttestRequest {
        attestor: data.r#type,
        payload: data.payload,
        csr: svid.csr,
    })
}

fn banned() -> Status {
    status::plain(Code::PermissionDenied, "failed to attest: agent is banned")
}

impl Services {
    /// Spends a join token: of many that try, one gets it.
    async fn attest_join_token(&self, payload: &[u8]) -> Result<NodeAttestation, Status> {
        const SPENT: &str = "failed to attest: join token does not exist or has already been used";
        let value = std::str::from_utf8(payload).map_err(|_not_text| status::invalid(SPENT))?;
        let outcome = self.store.spend_join_token(value, self.clock.now()).await;
        // Who shows a whole token may know what became of it: it is a secret no longer.
        match outcome.map_err(|error| status::internal("failed to spend join token", &error))? {
            Redemption::Spent => {}
            Redemption::Expired(at) => {
                return Err(status::invalid(&format!(
                    "join token expired at {}",
                    rfc3339(at)
                )));
            }
            Redemption::Used(at) => {
                return Err(status::invalid(&format!("{SPENT}, at {}", rfc3339(at))));
            }
            Redemption::Unknown => return Err(status::invalid(SPENT)),
        }
        Ok(NodeAttestation {
            agent_id: self.join_token_id(value)?,
            selectors: SelectorSet::default(),
            can_reattest: false,
        })
    }

    async fn attest_by_plugin(
        &self,
        request: &AttestRequest,
        requests: &mut Streaming<pb::AttestAgentRequest>,
        replies: &Replies<pb::AttestAgentResponse>,
    ) -> Result<NodeAttestation, Status> {
        let name = request.attestor.as_str();
        let Some(attestor) = self.attestors.get(name) else {
            return Err(status::plain(
                Code::FailedPrecondition,
                &format!("error getting node attestor: could not find node attestor type {name:?}"),
            ));
        };
        let mut challenger = StreamChallenger {
            requests,
            replies,
            rounds: 0,
        };
        let attestation = attestor.attest(&request.payload, &mut challenger);
        let attestation = tokio::time::timeout(ATTESTATION_LIMIT, attestation)
            .await
            .map_err(|_elapsed| status::too_slow("node attestation took longer than 2m"))?
            .map_err(|error| status::attest(name, &error))?;
        // One that cannot attest again was let in on first use: a second claim to its name is somebody else's.
        if !attestation.can_reattest && self.is_attested(&attestation.agent_id).await? {
            return Err(status::attest(
                name,
                &AttestError::rejected("attestation data has already been used to attest an agent"),
            ));
        }
        Ok(attestation)
    }

    async fn is_attested(&self, id: &SpiffeId) -> Result<bool, Status> {
        self.store
            .find_agent(id)
            .await
            .map(|agent| agent.is_some_and(|agent| !agent.is_banned()))
            .map_err(|error| status::internal("failed to fetch agent", &error))
    }

    fn check_agent_id(&self, id: &SpiffeId, attestor: &str) -> Result<(), Status> {
        if !id.is_member_of(&self.trust_domain) || id.path().is_empty() {
            return Err(status::plain(
                Code::Internal,
                &format!("invalid agent ID: {id} is not an agent of this trust domain"),
            ));
        }
        if *id == SpiffeId::server_id(&self.trust_domain) {
            return Err(status::plain(
                Code::Internal,
                "agent ID cannot collide with the server ID",
            ));
        }
        let namespace = format!("/spire/agent/{attestor}/");
        if !id.path().starts_with(&namespace) {
            tracing::warn!(
                subsystem_name = "api",
                agent_id = %id,
                node_attestor_type = attestor,
                namespace,
                "The node attestor produced an agent ID outside its part of the agent namespace"
            );
        }
        Ok(())
    }
}

#[async_trait]
impl Challenger for StreamChallenger<'_> {
    async fn challenge(&mut self, challenge: Vec<u8>) -> Result<Vec<u8>, AttestError> {
        self.rounds += 1;
        if self.rounds > MAX_ROUNDS {
            return Err(AttestError::internal("too many challenges"));
        }
        let question = pb::AttestAgentResponse {
            step: Some(ResponseStep::Challenge(challenge.into())),
        };
        self.replies.send(question).await.map_err(|gone| {
            AttestError::internal("failed to send challenge to agent").with_source(gone)
        })?;
        let answer = tokio::time::timeout(ANSWER_LIMIT, self.requests.message())
            .await
            .map_err(|elapsed| {
                AttestError::unavailable("failed to receive challenge from agent")
                    .with_source(elapsed)
            })?
            .map_err(|error| {
                AttestError::internal("failed to receive challenge from agent").with_source(error)
            })?;
        match answer.and_then(|answer| answer.step) {
            Some(RequestStep::ChallengeResponse(answer)) => Ok(answer.into()),
            Some(RequestStep::Params(_)) => Ok(Vec::new()),
            None => Err(AttestError::internal(
                "failed to receive challenge from agent: stream ended",
            )),
        }
    }
}

#[cfg(test)]
mod tests {
    use finial_proto::pb::spire::api::types;

    use super::*;

    fn params() -> Params {
        Params {
            data: Some(types::AttestationData {
                r#type: "join_token".to_owned(),
                payload: "token".into(),
            }),
            params: Some(pb::AgentX509svidParams { csr: "csr".into() }),
        }
    }

    #[test]
    fn what_is_missing_is_named_in_order() {
        let missing = |change: fn(&mut Params)| {
            let mut params = params();
            change(&mut params);
            check(Some(params)).err()
        };
        assert_eq!(check(None).err(), Some("missing params"));
        assert_eq!(
            missing(|params| params.data = None),
            Some("missing attestation data")
        );
        assert_eq!(
            missing(|params| params.params = None),
            Some("missing X509-SVID parameters")
        );
        assert_eq!(
            missing(|params| params.params = Some(pb::AgentX509svidParams::default())),
            Some("missing CSR")
        );
        assert_eq!(
            missing(|params| params.data.as_mut().unwrap().r#type.clear()),
            Some("missing attestation data type")
        );
        assert_eq!(
            missing(|params| params.data.as_mut().unwrap().payload = Bytes::new()),
            Some("missing attestation data payload")
        );
        assert_eq!(missing(|_| {}), None);
    }
}
