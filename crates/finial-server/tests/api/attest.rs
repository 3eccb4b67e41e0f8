//! Agents come in, renew, come again and are thrown out.

use std::time::Duration;

use finial_pki::key::KeyKind;
use finial_pki::software::SoftwareKey;
use finial_proto::convert;
use finial_proto::convert::denied::{self, Reason};
use finial_proto::pb::spire::api::server::agent::v1 as pb;
use finial_proto::pb::spire::api::server::agent::v1::agent_client::AgentClient;
use finial_proto::pb::spire::api::types;
use finial_runtime::clock::SystemClock;
use tokio::task::JoinSet;
use tonic::Code;

use crate::support::{TestServer, attest_over, csr_of, entry, new_csr, wire_id};

const SPENT: &str = "failed to attest: join token does not exist or has already been used";

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_attests_with_a_token_and_is_known_at_once() {
    let server = TestServer::start().await;
    let token = server.token().await;
    let agent = server.attest("join_token", &token).await.unwrap();

    assert_eq!(
        agent.id.as_str(),
        format!("spiffe://example.org/spire/agent/join_token/{token}")
    );
    assert_eq!(agent.authorized().await, Vec::<String>::new());
    let request = pb::ListAgentsRequest::default();
    let list = server.agents().list_agents(request).await.unwrap();
    let listed = &list.into_inner().agents[0];
    assert_eq!(listed.attestation_type, "join_token");
    assert_eq!(
        listed.x509svid_serial_number,
        agent.svid.serial().to_string()
    );
    assert!(!listed.can_reattest);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_is_spent_once_however_many_try() {
    let server = TestServer::start().await;
    let token = server.token().await;
    let channel = server.anonymous().await;
    let mut attempts = JoinSet::new();
    for _ in 0..50 {
        let mut client = AgentClient::new(channel.clone());
        let token = token.clone();
        attempts
            .spawn(async move { attest_over(&mut client, "join_token", &token, new_csr()).await });
    }
    let mut won = 0;
    while let Some(outcome) = attempts.join_next().await {
        match outcome.unwrap() {
            Ok(_) => won += 1,
            Err(status) => {
                assert_eq!(status.code(), Code::InvalidArgument);
                let used = format!("{SPENT}, at 20");
                assert!(status.message().starts_with(&used), "{status}");
            }
        }
    }
    assert_eq!(won, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_that_has_expired_is_named_so_with_the_time() {
    let server = TestServer::start().await;
    let request = pb::CreateJoinTokenRequest {
        ttl: 1,
        ..pb::CreateJoinTokenRequest::default()
    };
    let token = server.agents().create_join_token(request).await.unwrap();
    let token = token.into_inner();
    let clock = SystemClock::shared();
    while convert::time::to_unix(clock.now()) <= token.expires_at {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }

    for _ in 0..2 {
        let refused = server
            .attest("join_token", &token.value)
            .await
            .err()
            .unwrap();
        assert_eq!(refused.code(), Code::InvalidArgument);
        assert!(
            refused.message().starts_with("join token expired at 20"),
            "{refused}"
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_token_is_not_is_said() {
    let server = TestServer::start().await;
    let status = server.attest("join_token", "nothing").await.err().unwrap();
    assert_eq!(
        (status.code(), status.message()),
        (Code::InvalidArgument, SPENT)
    );

    let refused = server
        .agents()
        .create_join_token(pb::CreateJoinTokenRequest::default())
        .await
        .unwrap_err();
    assert_eq!(refused.message(), "ttl is required, you must provide one");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_with_an_id_gives_its_agent_that_name_too() {
    let server = TestServer::start().await;
    let request = pb::CreateJoinTokenRequest {
        ttl: 600,
        token: "t1".to_owned(),
        agent_id: Some(wire_id("/cluster")),
    };
    server.agents().create_join_token(request).await.unwrap();
    let agent = server.attest("join_token", "t1").await.unwrap();
    let cluster = convert::id::from_pb(Some(&wire_id("/cluster"))).unwrap();
    let created = server.create(vec![entry(&cluster, "/web")]).await;

    let authorized = agent.authorized().await;
    assert!(authorized.contains(&created[0].id), "{authorized:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_renewed_svid_and_the_one_before_are_good_until_the_new_one_is_used() {
    let server = TestServer::start().await;
    let agent = server.agent().await;
    let key = SoftwareKey::generate(KeyKind::EcP256).unwrap();
    let request = pb::RenewAgentRequest {
        params: Some(pb::AgentX509svidParams { csr: csr_of(&key) }),
    };
    let renewed = agent.agents().renew_agent(request).await.unwrap();
    let renewed = convert::svid::from_pb(renewed.into_inner().svid.unwrap()).unwrap();
    assert_ne!(renewed.serial(), agent.svid.serial());
    assert_eq!(renewed.id(), &agent.id);

    agent.authorized().await; // the reply might have been lost: the old one works
    let channel = server.identified(&renewed, &key).await;
    let status = pb::PostStatusRequest::default();
    let mut client = AgentClient::new(channel);
    client.post_status(status.clone()).await.unwrap();

    let refused = agent
        .agents()
        .post_status(status.clone())
        .await
        .unwrap_err();
    assert_eq!(refused.code(), Code::PermissionDenied);
    assert_eq!(denied::decode(&refused), Some(Reason::AgentNotActive));
    client.post_status(status).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_that_can_attest_again_must() {
    let server = TestServer::start().await;
    let agent = server.attest("fake", "a reattest").await.unwrap();
    let request = pb::RenewAgentRequest {
        params: Some(pb::AgentX509svidParams { csr: new_csr() }),
    };
    let refused = agent.agents().renew_agent(request).await.unwrap_err();
    assert_eq!(refused.code(), Code::PermissionDenied);
    assert_eq!(denied::decode(&refused), Some(Reason::AgentMustReattest));

    let again = server.attest("fake", "a reattest").await.unwrap();
    assert_eq!(again.id, agent.id);
    again.authorized().await;
    let status = pb::PostStatusRequest::default();
    let refused = agent.agents().post_status(status).await.unwrap_err();
    assert_eq!(denied::decode(&refused), Some(Reason::AgentNotActive));
}

#[tokio::test(flavor = "multi_thread")]
async fn first_use_counts_where_an_attestor_says_so() {
    let server = TestServer::start().await;
    server.attest("fake", "b").await.unwrap();
    let refused = server.attest("fake", "b").await.err().unwrap();
    assert_eq!(refused.code(), Code::PermissionDenied);
    assert!(
        refused
            .message()
            .ends_with("attestation data has already been used to attest an agent")
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn challenges_travel_both_ways() {
    let server = TestServer::start().await;
    let agent = server.attest("fake", "c challenge").await.unwrap();
    assert_eq!(agent.id.as_str(), "spiffe://example.org/spire/agent/fake/c");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_unknown_attestor_is_a_failed_precondition() {
    let server = TestServer::start().await;
    let refused = server.attest("aws_iid", "x").await.err().unwrap();
    assert_eq!(refused.code(), Code::FailedPrecondition);
    assert_eq!(
        refused.message(),
        "error getting node attestor: could not find node attestor type \"aws_iid\""
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_ban_holds_against_calls_and_against_coming_again() {
    let server = TestServer::start().await;
    let agent = server.attest("fake", "d reattest").await.unwrap();
    let id = convert::id::to_pb(&agent.id);
    let request = pb::BanAgentRequest {
        id: Some(id.clone()),
    };
    server.agents().ban_agent(request.clone()).await.unwrap();
    server.agents().ban_agent(request).await.unwrap();

    let status = pb::PostStatusRequest::default();
    let refused = agent.agents().post_status(status).await.unwrap_err();
    assert_eq!(denied::decode(&refused), Some(Reason::AgentBanned));
    let refused = server.attest("fake", "d reattest").await.err().unwrap();
    assert_eq!(refused.code(), Code::PermissionDenied);
    assert_eq!(refused.message(), "failed to attest: agent is banned");

    let request = pb::DeleteAgentRequest { id: Some(id) };
    server.agents().delete_agent(request).await.unwrap();
    let status = pb::PostStatusRequest::default();
    let refused = agent.agents().post_status(status).await.unwrap_err();
    assert_eq!(denied::decode(&refused), Some(Reason::AgentNotAttested));
    server.attest("fake", "d reattest").await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bad_csr_lets_nobody_in() {
    let server = TestServer::start().await;
    let token = server.token().await;
    let refused = server
        .attest_with("join_token", &token, "garbage".into())
        .await
        .unwrap_err();
    assert_eq!(refused.code(), Code::InvalidArgument);
    assert!(refused.message().starts_with("failed to parse CSR"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_first_message_without_params_is_malformed_for_everyone() {
    let server = TestServer::start().await;
    for channel in [server.admin(), server.anonymous().await] {
        let empty = tokio_stream::once(pb::AttestAgentRequest::default());
        let refused = match AgentClient::new(channel).attest_agent(empty).await {
            Ok(replies) => replies.into_inner().message().await.unwrap_err(),
            Err(status) => status,
        };
        assert_eq!(refused.code(), Code::InvalidArgument);
        assert_eq!(refused.message(), "malformed param: missing params");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reported_version_is_kept_and_bounded() {
    let server = TestServer::start().await;
    let agent = server.agent().await;
    let version = |agent_version: String| pb::PostStatusRequest {
        agent_version,
        ..Default::default()
    };
    agent
        .agents()
        .post_status(version("1.2.3".to_owned()))
        .await
        .unwrap();
    let request = pb::GetAgentRequest {
        id: Some(convert::id::to_pb(&agent.id)),
        output_mask: Some(types::AgentMask {
            agent_version: true,
            ..Default::default()
        }),
    };
    let known = server.agents().get_agent(request).await.unwrap();
    assert_eq!(
        known.into_inner(),
        types::Agent {
            id: Some(convert::id::to_pb(&agent.id)),
            agent_version: "1.2.3".to_owned(),
            ..Default::default()
        }
    );

    let refused = agent
        .agents()
        .post_status(version("x".repeat(256)))
        .await
        .unwrap_err();
    assert_eq!(refused.code(), Code::InvalidArgument);
}

#[tokio::test(flavor = "multi_thread")]
async fn agents_that_are_not_there_are_not_found() {
    let server = TestServer::start().await;
    let request = pb::GetAgentRequest {
        id: Some(wire_id("/spire/agent/x/y")),
        output_mask: None,
    };
    let refused = server.agents().get_agent(request).await.unwrap_err();
    assert_eq!(
        (refused.code(), refused.message()),
        (Code::NotFound, "agent not found")
    );
    let request = pb::GetAgentRequest {
        id: Some(wire_id("/web")),
        output_mask: None,
    };
    let refused = server.agents().get_agent(request).await.unwrap_err();
    assert_eq!(
        refused.message(),
        "invalid agent ID: \"spiffe://example.org/web\" is not an agent in trust domain \"example.org\"; path is not in the agent namespace"
    );
}
