use std::net::SocketAddr;

use finial_pki::key::KeyKind;
use finial_pki::software::SoftwareKey;
use finial_pki::testing::foreign::ForeignCertificate;
use finial_runtime::log::chain;
use rustls::ServerConfig;
use rustls::server::WebPkiClientVerifier;
use spiffe_types::pem;
use tempfile::TempDir;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;
use tokio::task::JoinSet;
use tokio_rustls::TlsAcceptor;

use super::super::engine::{Engine, Version};
use super::*;

/// An authority, and certificates of it for the engine and for the agent, in files.
struct Pki {
    folder: TempDir,
    tasks: JoinSet<()>,
}

impl Pki {
    fn new() -> Self {
        let pki = Self {
            folder: tempfile::tempdir().unwrap(),
            tasks: JoinSet::new(),
        };
        for authority in ["ca", "other"] {
            let key = SoftwareKey::generate(KeyKind::EcP256).unwrap();
            let certificate = now(ForeignCertificate::authority(authority)).self_sign(&key);
            pki.write(authority, &certificate, &key);
            if authority == "ca" {
                for leaf in ["engine", "agent"] {
                    let own = SoftwareKey::generate(KeyKind::EcP256).unwrap();
                    let mut draft = now(ForeignCertificate::leaf(leaf));
                    draft.dns_names = vec!["localhost".to_owned()];
                    pki.write(leaf, &draft.sign(own.public_key(), authority, &key), &own);
                }
            }
        }
        pki
    }

    fn write(&self, name: &str, certificate: &[u8], key: &SoftwareKey) {
        let certificate = pem::encode(pem::CERTIFICATE, certificate);
        std::fs::write(self.path(&format!("{name}.pem")), certificate).unwrap();
        let key = pem::encode(pem::PRIVATE_KEY, &key.pkcs8_der());
        std::fs::write(self.path(&format!("{name}.key")), key).unwrap();
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn files(&self, ca: &str, own: Option<&str>) -> TlsFiles {
        TlsFiles {
            ca: self.path(&format!("{ca}.pem")),
            own: own.map(|own| {
                let [certificate, key] = ["pem", "key"].map(|kind| format!("{own}.{kind}"));
                (self.path(&certificate), self.path(&key))
            }),
        }
    }

    /// Starts an engine that knows one container and talks only to the agent.
    async fn engine(&mut self) -> SocketAddr {
        let files = self.files("ca", Some("engine"));
        let (certificate, key) = files.own.unwrap();
        let mut roots = RootCertStore::empty();
        for certificate in certificates(&files.ca).unwrap() {
            roots.add(certificate).unwrap();
        }
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let verifier =
            WebPkiClientVerifier::builder_with_provider(Arc::new(roots), Arc::clone(&provider));
        let config = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_client_cert_verifier(verifier.build().unwrap())
            .with_single_cert(
                certificates(&certificate).unwrap(),
                PrivateKeyDer::from_pem_file(key).unwrap(),
            )
            .unwrap();
        let acceptor = TlsAcceptor::from(Arc::new(config));
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        self.tasks.spawn(async move {
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                let Ok(mut stream) = acceptor.accept(stream).await else {
                    continue;
                };
                let mut request = Vec::new();
                while !request.ends_with(b"\r\n\r\n") {
                    assert!(stream.read_buf(&mut request).await.unwrap() > 0);
                }
                let body = r#"{"Id":"77","Config":{}}"#;
                let length = body.len();
                let answer = format!("HTTP/1.1 200 OK\r\nContent-Length: {length}\r\n\r\n{body}");
                stream.write_all(answer.as_bytes()).await.unwrap();
            }
        });
        address
    }
}

/// Valid for as long as a verifier that knows the standard understands.
fn now(mut draft: ForeignCertificate) -> ForeignCertificate {
    "20200101000000Z".clone_into(&mut draft.not_before);
    draft
}

/// Asks the engine at `host`, and gives the id it answers with, or what there is to say.
async fn ask(host: &str, engine: SocketAddr, tls: Option<TlsFiles>) -> Result<String, String> {
    let address = Address::Tcp {
        host: host.to_owned(),
        port: engine.port(),
        tls,
    };
    let engine = Engine::new(address, Version::newest());
    match engine.container("77").await {
        Ok(container) => Ok(container.id),
        Err(error) => Err(chain(&error).to_string()),
    }
}

#[tokio::test]
async fn engine_and_agent_know_each_other_by_certificates() {
    let mut pki = Pki::new();
    let engine = pki.engine().await;
    let files = pki.files("ca", Some("agent"));
    assert_eq!(ask("localhost", engine, Some(files)).await.unwrap(), "77");

    for (host, ca, own, words) in [
        (
            "localhost",
            "other",
            Some("agent"),
            "not one that docker_tls_ca_path vouches for",
        ),
        ("127.0.0.1", "ca", Some("agent"), "is not for this host"),
        ("localhost", "ca", None, "CertificateRequired"),
        ("localhost", "missing", None, "missing.pem"),
    ] {
        let error = ask(host, engine, Some(pki.files(ca, own)))
            .await
            .unwrap_err();
        assert!(error.contains(words), "{error}");
        assert!(
            error.contains("talk to container engine")
                || error.contains(&format!("tcp://{host}:{}", engine.port())),
            "{error}"
        );
    }
}

#[tokio::test]
async fn files_that_were_replaced_count_from_the_next_question_on() {
    let mut pki = Pki::new();
    let engine = pki.engine().await;
    let files = pki.files("other", Some("agent"));
    assert!(ask("localhost", engine, Some(files.clone())).await.is_err());
    std::fs::copy(pki.path("ca.pem"), &files.ca).unwrap();
    assert_eq!(ask("localhost", engine, Some(files)).await.unwrap(), "77");
}

#[tokio::test]
async fn a_port_that_is_closed_or_speaks_in_clear_is_named_with_its_cure() {
    let pki = Pki::new();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let clear = async {
        let (mut stream, _) = listener.accept().await.unwrap();
        stream
            .write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n")
            .await
            .unwrap();
        stream
    };
    let files = pki.files("ca", None);
    let (_stream, answer) = tokio::join!(clear, ask("localhost", address, Some(files)));
    let error = answer.unwrap_err();
    assert!(error.contains("does not speak TLS"), "{error}");
    drop(listener);
    let error = ask("localhost", address, None).await.unwrap_err();
    assert!(error.contains("nobody listens there"), "{error}");
}
