//! Nobody who lacks the key is attested: neither by a payload of their own, nor by a good payload and answers of their own.
#![no_main]

use std::sync::LazyLock;

use async_trait::async_trait;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use finial_pki::key::KeyKind;
use finial_pki::software::SoftwareKey;
use finial_pki::testing::foreign::ForeignCertificate;
use finial_plugin::context::PluginContext;
use finial_plugin::error::AttestError;
use finial_plugin::node_attestor::{AgentNodeAttestor as _, Challenger, ServerNodeAttestor as _};
use finial_plugins::node_attestor::x509pop::agent::{AgentSettings, X509PopAgent};
use finial_plugins::node_attestor::x509pop::server::{ServerSettings, X509PopServer};
use finial_runtime::clock::SystemClock;
use libfuzzer_sys::fuzz_target;
use spiffe_types::{TrustDomain, pem};
use tokio::runtime::{Builder, Runtime};

struct Parties {
    runtime: Runtime,
    server: X509PopServer,
    agent: X509PopAgent,
    payload: Vec<u8>,
}

static PARTIES: LazyLock<Parties> = LazyLock::new(|| {
    let folder = tempfile::tempdir().expect("a folder");
    let path = |name: &str| folder.path().join(name).display().to_string();
    let key = SoftwareKey::generate(KeyKind::EcP256).expect("a key");
    let root = ForeignCertificate::authority("root").self_sign(&key);
    std::fs::write(path("root.pem"), pem::encode(pem::CERTIFICATE, &root)).expect("written");
    std::fs::write(path("key.pem"), pem::encode(pem::PRIVATE_KEY, &key.pkcs8_der())).expect("written");
    let domain = TrustDomain::parse("example.org").expect("a trust domain");
    let server = X509PopServer::new(
        &PluginContext::new(domain, SystemClock::shared()),
        &ServerSettings {
            ca_bundle_path: path("root.pem"),
            ..ServerSettings::default()
        },
    );
    let agent = X509PopAgent::new(AgentSettings {
        private_key_path: path("key.pem"),
        certificate_path: path("root.pem"),
        ..AgentSettings::default()
    });
    let payload = serde_json::json!({ "certificates": [STANDARD.encode(&root)] });
    Parties {
        runtime: Builder::new_current_thread().build().expect("a runtime"),
        server: server.expect("a server"),
        agent: agent.expect("an agent"),
        payload: payload.to_string().into_bytes(),
    }
});

struct Answer<'a>(&'a [u8]);

#[async_trait]
impl Challenger for Answer<'_> {
    async fn challenge(&mut self, _: Vec<u8>) -> Result<Vec<u8>, AttestError> {
        Ok(self.0.to_vec())
    }
}

fuzz_target!(|data: &[u8]| {
    let Parties { runtime, server, agent, payload } = &*PARTIES;
    let attest = |payload: &[u8]| runtime.block_on(server.attest(payload, &mut Answer(data)));
    assert!(attest(data).is_err());
    assert!(attest(payload).is_err());
    drop(runtime.block_on(agent.respond(data)));
});
