//! Signing: for agents what their entries say, for operators what they ask for.

use finial_pki::csr;
use finial_pki::key::KeyKind;
use finial_pki::software::SoftwareKey;
use finial_pki::x509::verify_svid;
use finial_proto::convert;
use finial_proto::pb::spire::api::server::debug::v1 as debug_pb;
use finial_proto::pb::spire::api::server::debug::v1::debug_client::DebugClient;
use finial_proto::pb::spire::api::server::svid::v1 as pb;
use finial_proto::pb::spire::api::server::svid::v1::svid_client::SvidClient;
use finial_runtime::clock::{Clock as _, SystemClock};
use spiffe_types::entry::DnsName;
use spiffe_types::id::SpiffeId;
use tonic::Code;

use crate::support::{Settings, TestServer, entry, new_csr};

fn params(entry_id: &str) -> pb::NewX509svidParams {
    pb::NewX509svidParams {
        entry_id: entry_id.to_owned(),
        csr: new_csr(),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_batch_is_signed_in_order_and_only_what_is_authorized() {
    let server = TestServer::start().await;
    let agent = server.agent().await;
    let other = server.agent().await;
    let mut entries: Vec<_> = (0..60)
        .map(|number| entry(&agent.id, &format!("/w{number}")))
        .collect();
    entries[0].dns_names = vec!["a.example.org".to_owned()];
    let created = server.create(entries).await;
    let foreign = server.create(vec![entry(&other.id, "/foreign")]).await;

    let mut batch: Vec<_> = created.iter().map(|entry| params(&entry.id)).collect();
    batch.push(params(&foreign[0].id));
    batch.push(params(""));
    batch.push(pb::NewX509svidParams {
        csr: "x".into(),
        ..params(&created[0].id)
    });
    batch.push(pb::NewX509svidParams {
        csr: bytes::Bytes::new(),
        ..params(&created[0].id)
    });
    let response = agent
        .svids()
        .batch_new_x509svid(pb::BatchNewX509svidRequest { params: batch })
        .await
        .unwrap();
    let results = response.into_inner().results;

    let bundle = server.bundle().await;
    for (result, entry) in results.iter().zip(&created) {
        let svid = result.svid.clone().unwrap();
        assert_eq!(svid.id, entry.spiffe_id);
        verify_svid(&svid.cert_chain, &bundle, SystemClock.now()).unwrap();
    }
    let first = convert::svid::from_pb(results[0].svid.clone().unwrap()).unwrap();
    assert_eq!(first.dns_names(), ["a.example.org"]);
    let failures: Vec<_> = results[60..]
        .iter()
        .map(|result| result.status.clone().unwrap())
        .map(|status| (status.code, status.message))
        .collect();
    assert_eq!(
        failures[0],
        (5, "entry not found or not authorized".to_owned())
    );
    assert_eq!(failures[1], (3, "missing entry ID".to_owned()));
    assert_eq!(failures[2].0, 3);
    assert!(failures[2].1.starts_with("malformed CSR"));
    assert_eq!(failures[3], (3, "missing CSR".to_owned()));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_empty_batch_and_one_beyond_the_burst_are_refused() {
    let server = TestServer::start_with(Settings {
        limited: true,
        ..Settings::default()
    })
    .await;
    let agent = server.agent().await;
    let mut client = agent.svids();
    let empty = client
        .batch_new_x509svid(pb::BatchNewX509svidRequest::default())
        .await
        .unwrap_err();
    assert_eq!(empty.message(), "missing parameters");
    let batch = vec![pb::NewX509svidParams::default(); 501];
    let refused = client
        .batch_new_x509svid(pb::BatchNewX509svidRequest { params: batch })
        .await
        .unwrap_err();
    assert_eq!(refused.code(), Code::ResourceExhausted);
    assert_eq!(
        refused.message(),
        "rejecting request due to certificate signing rate limiting: rate (501) exceeds burst size (500)"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_csr_says_what_is_minted() {
    let server = TestServer::start().await;
    let mut client = SvidClient::new(server.admin());
    let key = SoftwareKey::generate(KeyKind::EcP256).unwrap();
    let id = SpiffeId::parse("spiffe://example.org/minted").unwrap();
    let names = [DnsName::parse("m.example.org").unwrap()];
    let csr = csr::create_with_software(&key, Some(&id), &names).unwrap();
    let minted = client
        .mint_x509svid(pb::MintX509svidRequest {
            csr: csr.into(),
            ttl: 600,
        })
        .await
        .unwrap();
    let svid = convert::svid::from_pb(minted.into_inner().svid.unwrap()).unwrap();
    assert_eq!(svid.id(), &id);
    assert_eq!(svid.dns_names(), ["m.example.org"]);
    let life = svid.not_after().duration_since(SystemClock.now()).unwrap();
    assert!((590..=600).contains(&life.as_secs()), "{life:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_minted_is_said() {
    let server = TestServer::start().await;
    let mut client = SvidClient::new(server.admin());
    let key = SoftwareKey::generate(KeyKind::EcP256).unwrap();
    let for_id = |id: &str| {
        let id = SpiffeId::parse(id).unwrap();
        csr::create_with_software(&key, Some(&id), &[]).unwrap()
    };
    let cases: [(Vec<u8>, &str); 5] = [
        (Vec::new(), "missing CSR"),
        (b"x".to_vec(), "malformed CSR"),
        (
            csr::create_with_software(&key, None, &[]).unwrap(),
            "CSR URI SAN is required",
        ),
        (
            for_id("spiffe://other.org/x"),
            "CSR URI SAN is invalid: \"spiffe://other.org/x\" is not a member of trust domain \"example.org\"",
        ),
        (
            for_id("spiffe://example.org/spire/agent/x"),
            "CSR URI SAN is invalid: \"spiffe://example.org/spire/agent/x\" is not a workload in trust domain \"example.org\"; path is in the reserved namespace",
        ),
    ];
    for (csr, message) in cases {
        let request = pb::MintX509svidRequest {
            csr: csr.into(),
            ttl: 0,
        };
        let refused = client.mint_x509svid(request).await.unwrap_err();
        assert_eq!(refused.code(), Code::InvalidArgument);
        assert!(
            refused.message().starts_with(message),
            "{} is not {message}",
            refused.message()
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_debug_answer_counts_and_shows_the_chain() {
    let server = TestServer::start().await;
    server.agent().await;
    let info = DebugClient::new(server.admin())
        .get_info(debug_pb::GetInfoRequest {})
        .await
        .unwrap()
        .into_inner();
    assert_eq!(
        (
            info.agents_count,
            info.entries_count,
            info.federated_bundles_count
        ),
        (1, 0, 1)
    );
    let subjects: Vec<_> = info
        .svid_chain
        .iter()
        .map(|cert| cert.subject.as_str())
        .collect();
    assert_eq!(subjects[0], "O=SPIRE,C=US");
    assert!(subjects[1].starts_with("SERIALNUMBER="), "{subjects:?}");
    assert!(subjects[1].ends_with(",O=SPIFFE,C=US"), "{subjects:?}");
}
