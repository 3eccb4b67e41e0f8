//! The exchange with the server that turns a proof into an SVID: the `AttestAgent` stream.

use std::time::{Duration, SystemTime};

use bytes::Bytes;
use finial_pki::x509::{VerifyError, verify_svid};
use finial_plugin::error::AttestError;
use finial_plugin::node_attestor::AgentNodeAttestor;
use finial_proto::convert::{self, ConvertError};
use finial_proto::pb::spire::api::server::agent::v1 as agent_api;
use finial_proto::pb::spire::api::server::agent::v1::agent_client::AgentClient;
use finial_proto::pb::spire::api::server::bundle::v1 as bundle_api;
use finial_proto::pb::spire::api::server::bundle::v1::bundle_client::BundleClient;
use finial_proto::pb::spire::api::types;
use spiffe_types::bundle::Bundle;
use spiffe_types::id::{SpiffeId, TrustDomain};
use spiffe_types::svid::x509::X509Svid;
use thiserror::Error;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::Channel;

use crate::rpc::RpcFailure;

/// Why there is no SVID.
#[derive(Debug, Error)]
pub enum ExchangeError {
    /// The attestor has no proof to offer.
    #[error("node attestor {attestor} has no proof to offer")]
    Payload {
        /// The attestor.
        attestor: String,
        /// The cause.
        source: AttestError,
    },
    /// The attestor cannot answer the server's challenge.
    #[error("node attestor {attestor} failed to answer the server's challenge")]
    Challenge {
        /// The attestor.
        attestor: String,
        /// The cause.
        source: AttestError,
    },
    /// The server, or the way to it, refused.
    #[error("failed to {act}")]
    Rpc {
        /// What was being done.
        act: &'static str,
        /// The answer.
        source: RpcFailure,
    },
    /// The join token is no good, and will not become so.
    #[error("the server refused the join token that begins with {beginning:?}: {reason}")]
    JoinToken {
        /// Enough of the token to tell which it is, and too little to use one that is good elsewhere.
        beginning: String,
        /// The server's words.
        reason: String,
    },
    /// The server challenges without end.
    #[error("the server sent more than {MAX_CHALLENGES} challenges")]
    TooManyChallenges,
    /// The server answered with nothing.
    #[error("attest response is missing SVID")]
    MissingSvid,
    /// The server's bundle makes no sense.
    #[error("failed to parse trust domain bundle")]
    Bundle {
        /// The cause.
        source: ConvertError,
    },
    /// The SVID is not one the bundle vouches for.
    #[error("the SVID the server issued does not verify")]
    Verify {
        /// The cause.
        source: VerifyError,
    },
    /// The SVID is another's.
    #[error(
        "the SVID the server issued is for {id}, not for an agent of trust domain {trust_domain}"
    )]
    NotAnAgent {
        /// Whom it names.
        id: SpiffeId,
        /// Where the agent belongs.
        trust_domain: TrustDomain,
    },
    /// The SVID is for another key.
    #[error("the SVID the server issued is not for the agent's key")]
    OtherKey,
}

/// What the server issued, not yet verified.
#[derive(Clone, Debug)]
pub struct Issued {
    /// The certificates in DER, leaf first.
    pub chain: Vec<Bytes>,
    /// Whether the agent may attest again at will.
    pub reattestable: bool,
}

/// Attests over `channel`: offers the proof, answers challenges, takes the SVID for the key of `csr`.
pub async fn attest(
    channel: Channel,
    attestor: &dyn AgentNodeAttestor,
    csr: Vec<u8>,
) -> Result<Issued, ExchangeError> {
    let payload = attestor
        .payload()
        .await
        .map_err(|source| ExchangeError::Payload {
            attestor: attestor.name().to_owned(),
            source,
        })?;
    let (requests, receiver) = mpsc::channel(1);
    let beginning = beginning(&payload);
    let refused = |status: tonic::Status| refused(attestor.name(), &beginning, status);
    send(&requests, first_message(attestor.name(), payload, csr)).await;
    let mut client = AgentClient::new(channel);
    let answers = tokio::time::timeout(
        ANSWER_TIMEOUT,
        client.attest_agent(ReceiverStream::new(receiver)),
    );
    let mut answers = answers
        .await
        .unwrap_or_else(|_| Err(no_answer()))
        .map_err(refused)?
        .into_inner();
    for _ in 0..=MAX_CHALLENGES {
        let answer = tokio::time::timeout(ANSWER_TIMEOUT, answers.message())
            .await
            .unwrap_or_else(|_| Err(no_answer()))
            .map_err(refused)?
            .ok_or(ExchangeError::MissingSvid)?;
        match answer.step {
            Some(agent_api::attest_agent_response::Step::Challenge(challenge)) => {
                let response = attestor.respond(&challenge).await.map_err(|source| {
                    ExchangeError::Challenge {
                        attestor: attestor.name().to_owned(),
                        source,
                    }
                })?;
                let step =
                    agent_api::attest_agent_request::Step::ChallengeResponse(response.into());
                send(
                    &requests,
                    agent_api::AttestAgentRequest { step: Some(step) },
                )
                .await;
            }
            Some(agent_api::attest_agent_response::Step::Result(result)) => {
                return Ok(Issued {
                    chain: result.svid.ok_or(ExchangeError::MissingSvid)?.cert_chain,
                    reattestable: result.reattestable,
                });
            }
            None => return Err(ExchangeError::MissingSvid),
        }
    }
    Err(ExchangeError::TooManyChallenges)
}

/// Asks for the bundle of the server's trust domain.
pub async fn fetch_bundle(channel: Channel) -> Result<Bundle, ExchangeError> {
    let mut request = tonic::Request::new(bundle_api::GetBundleRequest { output_mask: None });
    request.set_timeout(ANSWER_TIMEOUT);
    let bundle = BundleClient::new(channel)
        .get_bundle(request)
        .await
        .map_err(|status| ExchangeError::Rpc {
            act: "get updated bundle",
            source: status.into(),
        })?
        .into_inner();
    convert::bundle::from_own_server(&bundle).map_err(|source| ExchangeError::Bundle { source })
}

/// Accepts a chain as the agent's SVID: vouched for by `bundle`, naming an agent of its trust domain, for our key.
pub fn verify(
    chain: &[Bytes],
    bundle: &Bundle,
    public_key_der: &[u8],
    now: SystemTime,
) -> Result<X509Svid, ExchangeError> {
    let svid =
        verify_svid(chain, bundle, now).map_err(|source| ExchangeError::Verify { source })?;
    if !svid.id().is_agent() || !svid.id().is_member_of(&bundle.trust_domain) {
        return Err(ExchangeError::NotAnAgent {
            id: svid.id().clone(),
            trust_domain: bundle.trust_domain.clone(),
        });
    }
    if svid.public_key_der().as_ref() != public_key_der {
        return Err(ExchangeError::OtherKey);
    }
    Ok(svid)
}

fn first_message(attestor: &str, payload: Vec<u8>, csr: Vec<u8>) -> agent_api::AttestAgentRequest {
    let params = agent_api::attest_agent_request::Params {
        data: Some(types::AttestationData {
            r#type: attestor.to_owned(),
            payload: payload.into(),
        }),
        params: Some(agent_api::AgentX509svidParams { csr: csr.into() }),
    };
    agent_api::AttestAgentRequest {
        step: Some(agent_api::attest_agent_request::Step::Params(params)),
    }
}

/// A receiver that is gone means that the stream has ended; its answer says why.
async fn send(
    requests: &mpsc::Sender<agent_api::AttestAgentRequest>,
    message: agent_api::AttestAgentRequest,
) {
    if requests.send(message).await.is_err() {
        tracing::debug!(subsystem_name = "attestor", "Attestation stream has ended");
    }
}

/// Tells a join token that will never do from everything else.
fn refused(attestor: &str, beginning: &str, status: tonic::Status) -> ExchangeError {
    if attestor == JOIN_TOKEN
        && status.code() == tonic::Code::InvalidArgument
        && status.message().contains("join token")
    {
        return ExchangeError::JoinToken {
            beginning: beginning.to_owned(),
            reason: status.message().to_owned(),
        };
    }
    ExchangeError::Rpc {
        act: "receive attestation response",
        source: status.into(),
    }
}

/// The first characters of a payload that is a token.
fn beginning(payload: &[u8]) -> String {
    let shown = payload.len().min(TOKEN_LENGTH_SHOWN);
    String::from_utf8_lossy(payload.get(..shown).unwrap_or_default()).into_owned()
}

fn no_answer() -> tonic::Status {
    tonic::Status::deadline_exceeded("the server did not answer in time")
}

/// The name of the attestor whose proof works once.
pub const JOIN_TOKEN: &str = "join_token";

const ANSWER_TIMEOUT: Duration = Duration::from_secs(30);
const MAX_CHALLENGES: u32 = 16;
/// The first group of a UUID, a quarter of its randomness.
const TOKEN_LENGTH_SHOWN: usize = 8;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_token_the_server_calls_unusable_is_given_up() {
        let used = "failed to attest: join token does not exist or has already been used";
        let refuse = |attestor: &str, status| refused(attestor, "1234abcd", status);

        assert!(matches!(
            refuse("join_token", tonic::Status::invalid_argument(used)),
            ExchangeError::JoinToken { reason, .. } if reason == used
        ));
        assert!(matches!(
            refuse("join_token", tonic::Status::unavailable(used)),
            ExchangeError::Rpc { .. }
        ));
        assert!(matches!(
            refuse("x509pop", tonic::Status::invalid_argument(used)),
            ExchangeError::Rpc { .. }
        ));
    }
}
