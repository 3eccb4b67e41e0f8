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
            let leaves: &[_] = match authority {
                "ca" => &["engine", "agent", "expired"],
                _ => &["stranger"],
            };
            for leaf in leaves {
                let own = SoftwareKey::generate(KeyKind::EcP256).unwrap();
                let mut draft = now(ForeignCertificate::leaf(leaf));
                if *leaf == "expired" {
                    "20200102000000Z".clone_into(&mut draft.not_after);
                }
                draft.dns_names = vec!["localhost".to_owned()];
                pki.write(leaf, &draft.sign(own.public_key(), authority, &key), &own);
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
        self.engine_with("engine").await
    }

    async fn engine_with(&mut self, certificate: &str) -> SocketAddr {
        let files = self.files("ca", Some(certificate));
        let (certificate, key) = files.own.unwrap();
        let mut roots = RootCertStore::empty();
        for certificate in certificates(&files.ca).await.unwrap() {
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
                certificates(&certificate).await.unwrap(),
                private_key(&key).await.unwrap(),
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
        base: String::new(),
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
        ("localhost", "ca", None, "set docker_tls_certificate_path"),
        (
            "localhost",
            "ca",
            Some("stranger"),
            "set docker_tls_certificate_path",
        ),
        ("localhost", "missing", None, "missing.pem"),
    ] {
        let error = ask(host, engine, Some(pki.files(ca, own)))
            .await
            .unwrap_err();
        assert!(error.contains(words), "{error}");
        let address = format!("tcp://{host}:{}", engine.port());
        assert!(error.contains(&address), "{error}");
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

#[tokio::test]
async fn a_certificate_out_of_its_time_is_told_from_one_that_is_not_trusted() {
    let mut pki = Pki::new();
    let engine = pki.engine_with("expired").await;
    let error = ask("localhost", engine, Some(pki.files("ca", None)))
        .await
        .unwrap_err();
    assert!(error.contains("is not valid at this time"), "{error}");
}

#[tokio::test]
async fn an_engine_that_wants_tls_is_named_with_its_cure() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let engine = async {
        let (mut stream, _) = listener.accept().await.unwrap();
        let mut request = Vec::new();
        while !request.ends_with(b"\r\n\r\n") {
            assert!(stream.read_buf(&mut request).await.unwrap() > 0);
        }
        stream
            .write_all(b"HTTP/1.0 400 Bad Request\r\n\r\nClient sent an HTTP request to an HTTPS server.\n")
            .await
            .unwrap();
    };
    let ((), answer) = tokio::join!(engine, ask("localhost", address, None));
    let error = answer.unwrap_err();
    assert!(error.contains("; set docker_tls_ca_path"), "{error}");
}

#[tokio::test]
async fn a_broken_key_is_not_quoted() {
    let mut pki = Pki::new();
    let engine = pki.engine().await;
    let key = std::fs::read_to_string(pki.path("agent.key")).unwrap();
    let secret = key.lines().nth(1).unwrap().to_owned();
    let files = pki.files("ca", Some("agent"));
    let as_numbers = format!("{:?}", secret.as_bytes());
    let as_numbers = as_numbers.trim_matches(['[', ']']);
    for broken in [
        key.replace('\n', " "),
        key.replace('\n', ""),
        key.replace("-----END", "----END"),
        key.replacen(&secret, &format!("{secret}!"), 1),
        secret.clone(),
        String::new(),
    ] {
        std::fs::write(pki.path("agent.key"), &broken).unwrap();
        let error = ask("localhost", engine, Some(files.clone()))
            .await
            .unwrap_err();
        assert!(
            error.contains("agent.key\" holds nothing to use"),
            "{error}"
        );
        assert!(!error.contains(&secret), "{error}");
        assert!(!error.contains(as_numbers), "{error}");
    }
}

#[tokio::test]
async fn a_proxy_may_hold_the_engine_below_a_path() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = format!("tcp://{}/engines/one/", listener.local_addr().unwrap());
    let address = Address::parse("docker_socket_path", &address, None).unwrap();
    let engine = Engine::new(address, Version::configured("1.41").unwrap());
    let proxy = async {
        let (mut stream, _) = listener.accept().await.unwrap();
        let mut request = Vec::new();
        while !request.ends_with(b"\r\n\r\n") {
            assert!(stream.read_buf(&mut request).await.unwrap() > 0);
        }
        drop(stream);
        String::from_utf8(request).unwrap()
    };
    let (request, _) = tokio::join!(proxy, engine.container("77"));
    assert!(
        request.starts_with("GET /engines/one/v1.41/containers/77/json HTTP/1.1\r\n"),
        "{request}"
    );
}
