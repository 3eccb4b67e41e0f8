//! Channels. Both kinds dial when the first call needs them, and again when a connection has ended.
//!
//! A SPIRE server ends each connection after three minutes (GOAWAY): calls in flight finish, and the next one dials. Nothing
//! is pinged over HTTP/2, since servers written in Go take more than one ping in five minutes for an attack; TCP keep-alive
//! finds a dead peer instead.

use std::io;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use hyper_util::rt::TokioIo;
use nix::sys::socket::{setsockopt, sockopt};
use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use tokio::net::{TcpStream, UnixStream};
use tokio::time::timeout;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tonic::transport::{Channel, Endpoint};
use tower::service_fn;

/// How long a connection may take to be made, the TLS handshake included.
pub const DIAL_TIMEOUT: Duration = Duration::from_secs(30);

const KEEP_ALIVE_IDLE_SECONDS: u32 = 20;
const KEEP_ALIVE_INTERVAL_SECONDS: u32 = 10;
const KEEP_ALIVE_PROBES: u32 = 3;
/// What is sent is acknowledged within this time, or the connection is dead.
const UNACKNOWLEDGED_MILLISECONDS: u32 = 50_000;

/// A channel over the Unix socket at `path`.
pub fn unix(path: impl Into<PathBuf>) -> Channel {
    let path: Arc<Path> = Arc::from(path.into());
    Endpoint::from_static("http://localhost").connect_with_connector_lazy(service_fn(
        move |_uri: http::Uri| {
            let path = Arc::clone(&path);
            async move { UnixStream::connect(&path).await.map(TokioIo::new) }
        },
    ))
}

/// A channel over plain TCP to `address`, written `host:port`. Only the Workload API may be served so.
pub fn tcp(address: &str) -> Channel {
    let dialed: Arc<str> = Arc::from(address);
    endpoint(address).connect_with_connector_lazy(service_fn(move |_uri: http::Uri| {
        let address = Arc::clone(&dialed);
        async move { within_dial_timeout(dial(&address)).await.map(TokioIo::new) }
    }))
}

/// A channel over TLS to `address`, written `host:port`. Who answers is for `config` to verify; it decides per connection,
/// so a new SVID or bundle counts from the next connection on.
pub fn tls(address: &str, config: Arc<ClientConfig>) -> Channel {
    let name = server_name(address);
    let connector = TlsConnector::from(config);
    let dialed: Arc<str> = Arc::from(address);
    endpoint(address).connect_with_connector_lazy(service_fn(move |_uri: http::Uri| {
        let (address, connector, name) = (Arc::clone(&dialed), connector.clone(), name.clone());
        async move {
            within_dial_timeout(dial_tls(&address, &connector, name))
                .await
                .map(TokioIo::new)
        }
    }))
}

/// The endpoint whose requests name `address` as their authority. The scheme is `http` because the connector speaks TLS.
fn endpoint(address: &str) -> Endpoint {
    // An address that is no authority cannot be dialled either, and the dial says so better.
    Endpoint::from_shared(format!("http://{address}"))
        .unwrap_or_else(|_| Endpoint::from_static("http://localhost"))
}

async fn within_dial_timeout<T>(dial: impl Future<Output = io::Result<T>>) -> io::Result<T> {
    timeout(DIAL_TIMEOUT, dial)
        .await
        .unwrap_or_else(|_elapsed| {
            Err(io::Error::new(
                io::ErrorKind::TimedOut,
                "connection was not made within 30 seconds",
            ))
        })
}

async fn dial(address: &str) -> io::Result<TcpStream> {
    let stream = TcpStream::connect(address).await?;
    stream.set_nodelay(true)?;
    setsockopt(&stream, sockopt::KeepAlive, &true)?;
    setsockopt(&stream, sockopt::TcpKeepIdle, &KEEP_ALIVE_IDLE_SECONDS)?;
    setsockopt(
        &stream,
        sockopt::TcpKeepInterval,
        &KEEP_ALIVE_INTERVAL_SECONDS,
    )?;
    setsockopt(&stream, sockopt::TcpKeepCount, &KEEP_ALIVE_PROBES)?;
    setsockopt(
        &stream,
        sockopt::TcpUserTimeout,
        &UNACKNOWLEDGED_MILLISECONDS,
    )?;
    Ok(stream)
}

async fn dial_tls(
    address: &str,
    connector: &TlsConnector,
    name: ServerName<'static>,
) -> io::Result<TlsStream<TcpStream>> {
    let stream = dial(address).await?;
    connector.connect(name, stream).await
}

/// The host of `address` for SNI. SPIFFE identifies servers by their id, so any name does where the host is none.
fn server_name(address: &str) -> ServerName<'static> {
    let host = address.rsplit_once(':').map_or(address, |(host, _)| host);
    let host = host.trim_start_matches('[').trim_end_matches(']');
    ServerName::try_from(host.to_owned())
        .unwrap_or_else(|_| ServerName::IpAddress(Ipv4Addr::LOCALHOST.into()))
}
