use std::path::PathBuf;
use std::time::{Duration, UNIX_EPOCH};

use async_trait::async_trait;
use bytes::Bytes;
use finial_pki::key::KeyKind;
use finial_pki::software::SoftwareKey;
use finial_pki::testing::TestCa;
use finial_pki::testing::foreign::ForeignCertificate;
use finial_plugin::context::BundleLookup;
use finial_plugin::error::{AttestError, AttestErrorKind};
use finial_plugin::node_attestor::{Challenger, NodeAttestation};
use finial_proto::pb;
use finial_proto::pb::spiffe_workload_api_server::{SpiffeWorkloadApi, SpiffeWorkloadApiServer};
use finial_runtime::clock::ManualClock;
use spiffe_types::id::{SpiffeId, TrustDomain};
use spiffe_types::pem;
use spiffe_types::selector::Selector;
use tempfile::TempDir;
use tonic::codegen::BoxStream;

use super::agent::{AgentSettings, X509PopAgent};
use super::server::{ServerSettings, X509PopServer};
use super::*;

fn now() -> std::time::SystemTime {
    UNIX_EPOCH + Duration::from_secs(1_795_355_011)
}

fn context() -> PluginContext {
    PluginContext::new(
        TrustDomain::parse("example.org").unwrap(),
        Arc::new(ManualClock::new(now())),
    )
}

/// A foreign PKI on disk, and an agent that holds a leaf of it.
struct Fixture {
    directory: TempDir,
    chain: Vec<Bytes>,
    root: Bytes,
}

impl Fixture {
    fn new(kind: KeyKind, leaf: &ForeignCertificate) -> Self {
        let authority_key = || SoftwareKey::generate(KeyKind::EcP256).unwrap();
        let (root_key, middle_key) = (authority_key(), authority_key());
        let leaf_key = SoftwareKey::generate(kind).unwrap();
        let root = ForeignCertificate::authority("root").self_sign(&root_key);
        let middle = ForeignCertificate::authority("middle").sign(
            middle_key.public_key(),
            "root",
            &root_key,
        );
        let leaf = leaf.sign(leaf_key.public_key(), "middle", &middle_key);
        let fixture = Self {
            directory: TempDir::new().unwrap(),
            chain: vec![leaf, middle],
            root,
        };
        fixture.write("root.pem", &pem::encode(pem::CERTIFICATE, &fixture.root));
        fixture.write(
            "leaf.pem",
            &pem::encode(pem::CERTIFICATE, &fixture.chain[0]),
        );
        fixture.write(
            "middle.pem",
            &pem::encode(pem::CERTIFICATE, &fixture.chain[1]),
        );
        fixture.write(
            "key.pem",
            &pem::encode(pem::PRIVATE_KEY, &leaf_key.pkcs8_der()),
        );
        fixture
    }

    fn write(&self, name: &str, text: &str) {
        std::fs::write(self.path(name), text).unwrap();
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    fn text_path(&self, name: &str) -> String {
        self.path(name).to_str().unwrap().to_owned()
    }

    fn agent(&self) -> X509PopAgent {
        X509PopAgent::new(AgentSettings {
            private_key_path: self.text_path("key.pem"),
            certificate_path: self.text_path("leaf.pem"),
            intermediates_path: self.text_path("middle.pem"),
            ..AgentSettings::default()
        })
        .unwrap()
    }

    fn settings(&self) -> ServerSettings {
        ServerSettings {
            ca_bundle_path: self.text_path("root.pem"),
            ..ServerSettings::default()
        }
    }

    async fn attest(&self, settings: &ServerSettings) -> Result<NodeAttestation, AttestError> {
        let server = X509PopServer::new(&context(), settings).unwrap();
        round_trip(&server, &self.agent()).await
    }
}

struct Wire<'a>(&'a X509PopAgent);

#[async_trait]
impl Challenger for Wire<'_> {
    async fn challenge(&mut self, challenge: Vec<u8>) -> Result<Vec<u8>, AttestError> {
        self.0.respond(&challenge).await
    }
}

struct Says(&'static str);

#[async_trait]
impl Challenger for Says {
    async fn challenge(&mut self, _challenge: Vec<u8>) -> Result<Vec<u8>, AttestError> {
        Ok(self.0.as_bytes().to_vec())
    }
}

async fn round_trip(
    server: &X509PopServer,
    agent: &X509PopAgent,
) -> Result<NodeAttestation, AttestError> {
    server
        .attest(&agent.payload().await?, &mut Wire(agent))
        .await
}

fn leaf() -> ForeignCertificate {
    ForeignCertificate::leaf("COMMONNAME")
}

fn selector(value: &str) -> Selector {
    Selector::new(NAME, value).unwrap()
}

#[tokio::test]
async fn an_agent_with_an_odd_chain_attests_with_any_key() {
    for kind in [KeyKind::EcP256, KeyKind::EcP384, KeyKind::Rsa2048] {
        let fixture = Fixture::new(kind, &leaf());
        let attested = fixture.attest(&fixture.settings()).await.unwrap();
        let fingerprint = certificate::fingerprint(&fixture.chain[0]);
        assert_eq!(
            attested.agent_id.as_str(),
            format!("spiffe://example.org/spire/agent/x509pop/{fingerprint}")
        );
        assert!(attested.can_reattest);
        let expected = [
            selector("subject:cn:COMMONNAME"),
            selector(&format!(
                "ca:fingerprint:{}",
                certificate::fingerprint(&fixture.chain[1])
            )),
            selector(&format!(
                "ca:fingerprint:{}",
                certificate::fingerprint(&fixture.root)
            )),
            selector("serialnumber:0a1b2c"),
        ];
        assert_eq!(attested.selectors, expected.into_iter().collect());
    }
}

#[tokio::test]
async fn uri_names_become_selectors_and_template_data() {
    let uris = [
        "x509pop://example.org/datacenter/us-east-1",
        "x509pop://example.org/key/path/to/value",
        "x509pop://other/a/b",
        "x509pop://example.org/lonely",
    ];
    let leaf = ForeignCertificate {
        uris: uris.map(str::to_owned).to_vec(),
        ..leaf()
    };
    let fixture = Fixture::new(KeyKind::EcP256, &leaf);
    let settings = ServerSettings {
        agent_path_template: "/foo/{{ .URISanSelectors.datacenter }}/{{ .Subject.CommonName | lower }}/{{ .SerialNumberHex }}".to_owned(),
        ..fixture.settings()
    };
    let attested = fixture.attest(&settings).await.unwrap();
    assert_eq!(
        attested.agent_id.path(),
        "/spire/agent/foo/us-east-1/commonname/0a1b2c"
    );
    assert!(
        attested
            .selectors
            .contains(&selector("san:datacenter:us-east-1"))
    );
    assert!(
        attested
            .selectors
            .contains(&selector("san:key:path/to/value"))
    );
    assert!(
        !attested
            .selectors
            .iter()
            .any(|selector| selector.value().contains("lonely"))
    );
}

#[tokio::test]
async fn a_template_key_that_is_missing_fails_the_attestation() {
    let fixture = Fixture::new(KeyKind::EcP256, &leaf());
    let settings = ServerSettings {
        agent_path_template: "/{{ .URISanSelectors.nope }}".to_owned(),
        ..fixture.settings()
    };
    let error = fixture.attest(&settings).await.unwrap_err();
    assert_eq!(error.kind(), AttestErrorKind::Internal);
    assert!(
        error.to_string().starts_with("failed to make spiffe id: "),
        "{error}"
    );
}

#[tokio::test]
async fn a_chain_of_another_pki_is_refused() {
    let fixture = Fixture::new(KeyKind::EcP256, &leaf());
    let other = Fixture::new(KeyKind::EcP256, &leaf());
    let error = fixture.attest(&other.settings()).await.unwrap_err();
    assert_eq!(error.kind(), AttestErrorKind::Rejected);
    assert_eq!(
        error.to_string(),
        "certificate verification failed: x509: certificate signed by unknown authority"
    );
}

#[tokio::test]
async fn a_stolen_certificate_without_its_key_is_refused() {
    let fixture = Fixture::new(KeyKind::EcP256, &leaf());
    let other = Fixture::new(KeyKind::EcP256, &leaf());
    let thief = other.agent();
    thief.payload().await.unwrap();
    let server = X509PopServer::new(&context(), &fixture.settings()).unwrap();
    let payload = fixture.agent().payload().await.unwrap();
    let error = server
        .attest(&payload, &mut Wire(&thief))
        .await
        .unwrap_err();
    assert_eq!(error.kind(), AttestErrorKind::Rejected);
    assert_eq!(
        error.to_string(),
        "challenge response verification failed: ECDSA signature verify failed"
    );
}

#[tokio::test]
async fn nonsense_is_answered_with_the_texts_of_the_field() {
    let fixture = Fixture::new(KeyKind::EcP256, &leaf());
    let server = X509PopServer::new(&context(), &fixture.settings()).unwrap();
    let payload = fixture.agent().payload().await.unwrap();
    let attest =
        async |payload: &[u8], says| server.attest(payload, &mut Says(says)).await.unwrap_err();
    assert_eq!(
        attest(b"", "").await.to_string(),
        "missing attestation payload"
    );
    assert!(
        attest(b"nope", "")
            .await
            .to_string()
            .starts_with("failed to unmarshal data: ")
    );
    assert_eq!(
        attest(b"{}", "").await.to_string(),
        "no certificate to attest"
    );
    assert!(
        attest(br#"{"certificates":["AAAA"]}"#, "")
            .await
            .to_string()
            .starts_with("unable to parse leaf certificate: ")
    );
    assert!(
        attest(&payload, "nope")
            .await
            .to_string()
            .starts_with("unable to unmarshal challenge response: ")
    );
    assert_eq!(
        attest(&payload, "{}").await.to_string(),
        "challenge response verification failed: expecting ECDSA response"
    );
    assert_eq!(
        attest(
            &payload,
            r#"{"ecdsa_signature":{"nonce":"AAAA","r":"AQ==","s":"AQ=="}}"#
        )
        .await
        .to_string(),
        "challenge response verification failed: invalid response nonce"
    );
}

#[tokio::test]
async fn limits_hold_before_anything_is_verified() {
    let fixture = Fixture::new(KeyKind::Rsa2048, &leaf());
    let settings = ServerSettings {
        max_rsa_key_size: Some(1024),
        ..fixture.settings()
    };
    assert_eq!(
        fixture.attest(&settings).await.unwrap_err().to_string(),
        "leaf certificate key size too large"
    );
    fixture.write(
        "middle.pem",
        &pem::encode(pem::CERTIFICATE, &fixture.chain[1]).repeat(5),
    );
    assert_eq!(
        fixture
            .attest(&fixture.settings())
            .await
            .unwrap_err()
            .to_string(),
        "too many intermediate certificates"
    );
}

#[tokio::test]
async fn a_leaf_that_may_not_sign_is_refused() {
    let fixture = Fixture::new(
        KeyKind::EcP256,
        &ForeignCertificate {
            key_usage: None,
            ..leaf()
        },
    );
    let error = fixture.attest(&fixture.settings()).await.unwrap_err();
    assert_eq!(
        error.to_string(),
        "unable to generate challenge: certificate not intended for digital signature use"
    );
}

#[tokio::test]
async fn an_svid_of_the_own_trust_domain_attests_in_mode_spiffe() {
    let trust_domain = TrustDomain::parse("example.org").unwrap();
    let ca = TestCa::new(&trust_domain, now()).await;
    let bundle = Arc::new(ca.bundle());
    let context = context().with_own_bundle(BundleLookup::new(move || Some(Arc::clone(&bundle))));
    let settings = ServerSettings {
        mode: "spiffe".to_owned(),
        ..ServerSettings::default()
    };
    let server = X509PopServer::new(&context, &settings).unwrap();
    let directory = TempDir::new().unwrap();
    let path = |name: &str| directory.path().join(name).to_str().unwrap().to_owned();
    for (id, expected) in [
        ("/spire-exchange/host/a", Ok("/spire/agent/x509pop/host/a")),
        ("/other/host", Err("x509 cert doesnt match SVID prefix")),
    ] {
        let id = SpiffeId::from_path(&trust_domain, id).unwrap();
        let svid = ca.svid(&id, now(), Duration::from_hours(1)).await;
        std::fs::write(
            path("svid.pem"),
            pem::encode(pem::CERTIFICATE, &svid.chain[0]),
        )
        .unwrap();
        std::fs::write(
            path("key.pem"),
            pem::encode(pem::PRIVATE_KEY, &svid.key.pkcs8_der()),
        )
        .unwrap();
        let agent = X509PopAgent::new(AgentSettings {
            private_key_path: path("key.pem"),
            certificate_path: path("svid.pem"),
            ..AgentSettings::default()
        })
        .unwrap();
        let attested = round_trip(&server, &agent).await;
        match expected {
            Ok(path) => assert_eq!(attested.unwrap().agent_id.path(), path),
            Err(text) => assert_eq!(attested.unwrap_err().to_string(), text),
        }
    }
}

#[test]
fn configuration_errors_are_the_fields_own() {
    let fixture = Fixture::new(KeyKind::EcP256, &leaf());
    let root = fixture.text_path("root.pem");
    let base = fixture.settings();
    for (settings, expected) in [
        (
            ServerSettings {
                mode: "x".to_owned(),
                ..base.clone()
            },
            "mode can only be either spiffe or external_pki",
        ),
        (
            ServerSettings::default(),
            "one of ca_bundle_path or ca_bundle_paths must be configured",
        ),
        (
            ServerSettings {
                ca_bundle_paths: vec![root],
                ..base.clone()
            },
            "only one of ca_bundle_path or ca_bundle_paths can be configured, not both",
        ),
        (
            ServerSettings {
                mode: "spiffe".to_owned(),
                ..base.clone()
            },
            "you can not use ca_bundle_path or ca_bundle_paths in spiffe mode",
        ),
        (
            ServerSettings {
                max_intermediates: Some(0),
                ..base.clone()
            },
            "max_intermediates must be greater than 0",
        ),
        (
            ServerSettings {
                max_rsa_key_size: Some(-1),
                ..base.clone()
            },
            "max_rsa_key_size must be greater than 0",
        ),
        (
            ServerSettings {
                agent_path_template: "/{{ .A | nope }}".to_owned(),
                ..base.clone()
            },
            "failed to parse agent svid template: \"/{{ .A | nope }}\"",
        ),
        (
            ServerSettings {
                verify_client_ip: true,
                ..base
            },
            "verify_client_ip is not supported; remove it or set it to false, and restrict addresses at the network",
        ),
    ] {
        assert_eq!(
            X509PopServer::new(&context(), &settings)
                .unwrap_err()
                .to_string(),
            expected
        );
    }
    let missing = ServerSettings {
        ca_bundle_path: "/nope".to_owned(),
        ..ServerSettings::default()
    };
    assert_eq!(
        X509PopServer::new(&context(), &missing)
            .unwrap_err()
            .to_string(),
        "unable to load trust bundle \"/nope\""
    );
}

#[test]
fn an_agent_whose_key_and_certificate_differ_is_misconfigured() {
    let fixture = Fixture::new(KeyKind::EcP256, &leaf());
    let other = Fixture::new(KeyKind::EcP256, &leaf());
    let settings = AgentSettings {
        private_key_path: other.text_path("key.pem"),
        certificate_path: fixture.text_path("leaf.pem"),
        ..AgentSettings::default()
    };
    assert_eq!(
        X509PopAgent::new(settings).unwrap_err().to_string(),
        "unable to load keypair: private key does not match public key"
    );
}

/// A Workload API that has one identity for everybody.
#[derive(Debug)]
struct WorkloadApi(pb::X509svidResponse);

#[tonic::async_trait]
impl SpiffeWorkloadApi for WorkloadApi {
    async fn fetch_x509svid(
        &self,
        _request: tonic::Request<pb::X509svidRequest>,
    ) -> Result<tonic::Response<BoxStream<pb::X509svidResponse>>, tonic::Status> {
        let first = tokio_stream::once(Ok(self.0.clone()));
        Ok(tonic::Response::new(Box::pin(first)))
    }
}

#[tokio::test]
async fn an_agent_presents_the_svid_that_a_workload_api_gives_it() {
    let trust_domain = TrustDomain::parse("example.org").unwrap();
    let wall_clock = finial_runtime::clock::SystemClock::shared();
    let ca = TestCa::new(&trust_domain, wall_clock.now()).await;
    let id = SpiffeId::from_path(&trust_domain, "/spire-exchange/host/a").unwrap();
    let svid = ca
        .svid(&id, wall_clock.now(), Duration::from_hours(1))
        .await;
    let response = pb::X509svidResponse {
        svids: vec![pb::X509svid {
            spiffe_id: id.to_string(),
            x509_svid: svid.chain[0].clone(),
            x509_svid_key: Bytes::copy_from_slice(&svid.key.pkcs8_der()),
            bundle: ca.issuer().cert_der().clone(),
            hint: String::new(),
        }],
        ..Default::default()
    };
    let directory = TempDir::new().unwrap();
    let socket = directory.path().join("api.sock");
    let listener = tokio::net::UnixListener::bind(&socket).unwrap();
    let mut tasks = tokio::task::JoinSet::new();
    tasks.spawn(
        tonic::transport::Server::builder()
            .add_service(SpiffeWorkloadApiServer::new(WorkloadApi(response)))
            .serve_with_incoming(tokio_stream::wrappers::UnixListenerStream::new(listener)),
    );

    let agent = X509PopAgent::new(AgentSettings {
        spiffe_endpoint_socket: format!("unix://{}", socket.display()),
        ..AgentSettings::default()
    })
    .unwrap();
    let bundle = Arc::new(ca.bundle());
    let context = PluginContext::new(trust_domain, wall_clock)
        .with_own_bundle(BundleLookup::new(move || Some(Arc::clone(&bundle))));
    let settings = ServerSettings {
        mode: "spiffe".to_owned(),
        ..ServerSettings::default()
    };
    let server = X509PopServer::new(&context, &settings).unwrap();
    let attested = round_trip(&server, &agent).await.unwrap();
    assert_eq!(attested.agent_id.path(), "/spire/agent/x509pop/host/a");
}

#[test]
fn an_address_of_no_workload_api_is_refused_at_start() {
    let settings = AgentSettings {
        spiffe_endpoint_socket: "http://nope".to_owned(),
        ..AgentSettings::default()
    };
    assert_eq!(
        X509PopAgent::new(settings).unwrap_err().to_string(),
        "invalid spiffe_endpoint_socket \"http://nope\""
    );
}
