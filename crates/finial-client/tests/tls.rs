//! Channels over TLS: against servers that end connections, and servers that are not who they should be.
#![expect(clippy::unwrap_used, reason = "test support")]

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use finial_client::connect;
use finial_client::status::{describe, is_connection_lost};
use finial_proto::pb::spire::api::server::debug::v1::debug_client::DebugClient;
use finial_proto::pb::spire::api::server::debug::v1::debug_server::{Debug, DebugServer};
use finial_proto::pb::spire::api::server::debug::v1::{GetInfoRequest, GetInfoResponse};
use rcgen::{CertificateParams, KeyPair};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{ClientConfig, RootCertStore, ServerConfig, crypto};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;
use tonic::transport::Server;
use tonic::transport::server::Connected;
use tonic::{Request, Response, Status};

struct Echo;

#[tonic::async_trait]
impl Debug for Echo {
    async fn get_info(
        &self,
        _request: Request<GetInfoRequest>,
    ) -> Result<Response<GetInfoResponse>, Status> {
        Ok(Response::new(GetInfoResponse {
            uptime: 7,
            ..GetInfoResponse::default()
        }))
    }
}

struct Connection(TlsStream<TcpStream>);

impl Connected for Connection {
    type ConnectInfo = ();

    fn connect_info(&self) {}
}

impl AsyncRead for Connection {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_read(cx, buf)
    }
}

impl AsyncWrite for Connection {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_shutdown(cx)
    }
}

struct TestServer {
    address: String,
    certificate: CertificateDer<'static>,
    connections: Arc<AtomicUsize>,
    _tasks: JoinSet<()>,
}

async fn serve(max_connection_age: Option<Duration>) -> TestServer {
    let key = KeyPair::generate().unwrap();
    let params = CertificateParams::new(["localhost".to_owned()]).unwrap();
    let certificate = params.self_signed(&key).unwrap().der().clone();
    let provider = Arc::new(crypto::aws_lc_rs::default_provider());
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(
            vec![certificate.clone()],
            PrivateKeyDer::Pkcs8(key.serialize_der().into()),
        )
        .unwrap();
    config.alpn_protocols = vec![b"h2".to_vec()];
    let acceptor = TlsAcceptor::from(Arc::new(config));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let connections = Arc::new(AtomicUsize::new(0));
    let (accepted, incoming) = tokio::sync::mpsc::channel(8);
    let mut tasks = JoinSet::new();
    let counter = Arc::clone(&connections);
    tasks.spawn(async move {
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            if let Ok(stream) = acceptor.accept(stream).await {
                counter.fetch_add(1, Ordering::SeqCst);
                accepted
                    .send(Ok::<_, io::Error>(Connection(stream)))
                    .await
                    .unwrap();
            }
        }
    });
    tasks.spawn(async move {
        let mut server = Server::builder();
        if let Some(age) = max_connection_age {
            server = server.max_connection_age(age);
        }
        let incoming = tokio_stream::wrappers::ReceiverStream::new(incoming);
        server
            .add_service(DebugServer::new(Echo))
            .serve_with_incoming(incoming)
            .await
            .unwrap();
    });
    TestServer {
        address: format!("localhost:{port}"),
        certificate,
        connections,
        _tasks: tasks,
    }
}

fn trusting(certificates: &[&CertificateDer<'static>]) -> Arc<ClientConfig> {
    let mut roots = RootCertStore::empty();
    for certificate in certificates {
        roots.add((*certificate).clone()).unwrap();
    }
    let mut config =
        ClientConfig::builder_with_provider(Arc::new(crypto::aws_lc_rs::default_provider()))
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(roots)
            .with_no_client_auth();
    config.alpn_protocols = vec![b"h2".to_vec()];
    Arc::new(config)
}

#[tokio::test]
async fn calls_share_one_connection() {
    let server = serve(None).await;
    let mut client = DebugClient::new(connect::tls(
        &server.address,
        trusting(&[&server.certificate]),
    ));
    for _ in 0..3 {
        assert_eq!(
            client
                .get_info(GetInfoRequest {})
                .await
                .unwrap()
                .into_inner()
                .uptime,
            7
        );
    }
    assert_eq!(server.connections.load(Ordering::SeqCst), 1);
}

#[tokio::test]
async fn a_connection_that_the_server_ends_for_its_age_is_replaced_by_the_next_call() {
    let server = serve(Some(Duration::from_millis(50))).await;
    let mut client = DebugClient::new(connect::tls(
        &server.address,
        trusting(&[&server.certificate]),
    ));
    let replaced = async {
        while server.connections.load(Ordering::SeqCst) < 4 {
            // A call that meets the end of its connection may be lost, but nothing worse happens to it.
            if let Err(status) = client.get_info(GetInfoRequest {}).await {
                assert!(is_connection_lost(&status), "{status:?}");
            }
        }
    };
    tokio::time::timeout(Duration::from_secs(20), replaced)
        .await
        .unwrap();
}

#[tokio::test]
async fn a_server_that_is_not_trusted_is_told_with_its_cause() {
    let (server, other) = (serve(None).await, serve(None).await);
    let mut client = DebugClient::new(connect::tls(
        &server.address,
        trusting(&[&other.certificate]),
    ));
    let status = client.get_info(GetInfoRequest {}).await.unwrap_err();
    assert!(is_connection_lost(&status), "{status:?}");
    assert!(
        describe(&status).contains("invalid peer certificate"),
        "{}",
        describe(&status)
    );
}

#[tokio::test]
async fn an_address_nobody_listens_on_or_that_is_none_is_a_lost_connection() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let free = listener.local_addr().unwrap().to_string();
    drop(listener);
    for address in [free.as_str(), "no address", "localhost"] {
        let mut client = DebugClient::new(connect::tls(address, trusting(&[])));
        let status = client.get_info(GetInfoRequest {}).await.unwrap_err();
        assert!(is_connection_lost(&status), "{address}: {status:?}");
    }
}
