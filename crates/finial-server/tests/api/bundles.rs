//! Bundles: the own one for everyone, others for those who may.

use finial_proto::pb::spire::api::server::bundle::v1 as pb;
use finial_proto::pb::spire::api::server::bundle::v1::bundle_client::BundleClient;
use finial_proto::pb::spire::api::types;
use pb::batch_delete_federated_bundle_request::Mode;
use tonic::Code;

use crate::support::{BundleRequest, TestServer, entry};

fn foreign(server_bundle: &types::Bundle) -> types::Bundle {
    types::Bundle {
        trust_domain: "other.org".to_owned(),
        ..server_bundle.clone()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn anyone_may_have_the_own_bundle() {
    let server = TestServer::start().await;
    let mut client = BundleClient::new(server.anonymous().await);
    let bundle = client.get_bundle(BundleRequest::default()).await.unwrap();
    let bundle = bundle.into_inner();
    assert_eq!(bundle.trust_domain, "example.org");
    assert_eq!(bundle.x509_authorities.len(), 1);

    let masked = BundleRequest {
        output_mask: Some(types::BundleMask::default()),
    };
    let masked = client.get_bundle(masked).await.unwrap().into_inner();
    assert_eq!(
        masked,
        types::Bundle {
            trust_domain: "example.org".to_owned(),
            ..Default::default()
        }
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_federated_bundle_lives_and_dies() {
    let server = TestServer::start().await;
    let mut client = server.bundles();
    let own = client.get_bundle(BundleRequest::default()).await.unwrap();
    let own = own.into_inner();
    let create = pb::BatchCreateFederatedBundleRequest {
        bundle: vec![foreign(&own), foreign(&own), own.clone()],
        output_mask: None,
    };
    let results = client.batch_create_federated_bundle(create).await.unwrap();
    let statuses: Vec<_> = results
        .into_inner()
        .results
        .into_iter()
        .map(|result| result.status.unwrap())
        .map(|status| (status.code, status.message))
        .collect();
    assert_eq!(
        statuses,
        [
            (0, "OK".to_owned()),
            (6, "bundle already exists".to_owned()),
            (
                3,
                "creating a federated bundle for the server's own trust domain is not allowed"
                    .to_owned()
            )
        ]
    );
    let count = client.count_bundles(pb::CountBundlesRequest {}).await;
    assert_eq!(count.unwrap().into_inner().count, 2);
    let list = client
        .list_federated_bundles(pb::ListFederatedBundlesRequest::default())
        .await
        .unwrap();
    assert_eq!(list.into_inner().bundles.len(), 1);

    let agent = server.agent().await;
    let mut federated = entry(&agent.id, "/web");
    federated.federates_with = vec!["other.org".to_owned()];
    server.create(vec![federated]).await;
    let seen = BundleClient::new(agent.channel.clone())
        .get_federated_bundle(pb::GetFederatedBundleRequest {
            trust_domain: "other.org".to_owned(),
            output_mask: None,
        })
        .await
        .unwrap();
    assert_eq!(seen.into_inner().trust_domain, "other.org");

    let delete = |mode: Mode| {
        let mut client = server.bundles();
        async move {
            let request = pb::BatchDeleteFederatedBundleRequest {
                trust_domains: vec!["other.org".to_owned()],
                mode: mode.into(),
            };
            let response = client.batch_delete_federated_bundle(request).await;
            response
                .unwrap()
                .into_inner()
                .results
                .remove(0)
                .status
                .unwrap()
        }
    };
    let restricted = delete(Mode::Restrict).await;
    assert_eq!(restricted.code, Code::FailedPrecondition as i32);
    assert!(
        restricted
            .message
            .contains("cannot delete bundle; federated with 1 registration entries")
    );
    assert_eq!(delete(Mode::Dissociate).await.code, 0);
    let gone = delete(Mode::Restrict).await;
    assert_eq!((gone.code, gone.message.as_str()), (5, "bundle not found"));
}

#[tokio::test(flavor = "multi_thread")]
async fn appending_needs_something_to_append_and_ignores_repetition() {
    let server = TestServer::start().await;
    let mut client = server.bundles();
    let refused = client
        .append_bundle(pb::AppendBundleRequest::default())
        .await
        .unwrap_err();
    assert_eq!(
        (refused.code(), refused.message()),
        (Code::InvalidArgument, "no authorities to append")
    );
    let own = client.get_bundle(BundleRequest::default()).await.unwrap();
    let own = own.into_inner();
    let request = pb::AppendBundleRequest {
        x509_authorities: own.x509_authorities.clone(),
        ..Default::default()
    };
    let appended = client.append_bundle(request).await.unwrap().into_inner();
    assert_eq!(appended, own);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_own_trust_domain_is_not_a_federated_one() {
    let server = TestServer::start().await;
    let refused = server
        .bundles()
        .get_federated_bundle(pb::GetFederatedBundleRequest {
            trust_domain: "example.org".to_owned(),
            output_mask: None,
        })
        .await
        .unwrap_err();
    assert_eq!(
        refused.message(),
        "getting a federated bundle for the server's own trust domain is not allowed"
    );
}
