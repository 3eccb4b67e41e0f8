//! The TCP endpoint: SPIFFE TLS, a client certificate welcome but not required.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use finial_pki::tls::peer_svid;
use hyper_util::rt::TokioIo;
use rustls::ServerConfig;
use tokio::io::Interest;
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::task::JoinSet;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;
use tokio_util::sync::CancellationToken;

use super::incoming::{self, Bounds, Place, Waiting};
use super::layers::{ConnectionService, Frame, Unidentified};
use crate::authorize::{Caller, TlsPeer};

/// The bound TCP endpoint.
#[derive(Debug)]
pub(crate) struct TcpEndpoint {
    listener: TcpListener,
    addr: SocketAddr,
    tls: Arc<ServerConfig>,
}

/// A client has this long for its first byte, and again for its handshake.
const HANDSHAKE_LIMIT: Duration = Duration::from_secs(10);
/// Handshakes at the same time. Waiting for a place would let a few hundred clients that stop half-way keep everybody out;
/// instead the one that has taken longest gives way.
const MAX_HANDSHAKES: usize = 4096;
/// Connections that have not said a word.
const MAX_WAITING: usize = 16_384;
/// Connections the system holds until they are accepted; it has a limit of its own. One that finds no place is tried again
/// only a second later, and a thousand agents may come at once.
const BACKLOG: u32 = 16_384;
const MAX_CONNECTION_AGE: Duration = Duration::from_mins(3);
/// An open-ended stream may begin when the connection has just reached its age, and lasts a good hour.
const MAX_CONNECTION_LIFE: Duration = Duration::from_mins(75);
/// Connections without a client certificate, after their handshake.
const MAX_ANONYMOUS: usize = 4096;
/// Calls of all of them together. Each holds memory until it is answered, and may wait for its turn for long.
const MAX_ANONYMOUS_CALLS: usize = 8192;
const ACCEPT_PAUSE: Duration = Duration::from_millis(20);

const IDENTIFIED: Bounds = Bounds {
    max_age: Some(MAX_CONNECTION_AGE),
    max_life: Some(MAX_CONNECTION_LIFE),
    max_streams: 250,
    stream_window: 1024 * 1024,
    connection_window: 2 * 1024 * 1024,
};
/// Whoever has no certificate attests or fetches the bundle. Clients open a hundred streams before they have read that fewer
/// are allowed, and would see the rest refused.
const ANONYMOUS: Bounds = Bounds {
    max_age: Some(MAX_CONNECTION_AGE),
    max_life: Some(Duration::from_mins(6)),
    max_streams: 100,
    stream_window: 64 * 1024,
    connection_window: 128 * 1024,
};

impl TcpEndpoint {
    /// Binds the address. Must be called within a Tokio runtime.
    pub(crate) fn bind(addr: SocketAddr, tls: Arc<ServerConfig>) -> std::io::Result<Self> {
        let socket = if addr.is_ipv4() {
            TcpSocket::new_v4()?
        } else {
            TcpSocket::new_v6()?
        };
        socket.set_reuseaddr(true)?;
        socket.bind(addr)?;
        let listener = socket.listen(BACKLOG)?;
        let addr = listener.local_addr()?;
        Ok(Self {
            listener,
            addr,
            tls,
        })
    }

    pub(crate) fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// Serves until `stop`, then lets calls under way finish for the grace period.
    pub(crate) async fn run(self, frame: Arc<Frame>, stop: CancellationToken) {
        let address = self.addr;
        tracing::info!(subsystem_name = "endpoints", %address, network = "tcp", "Starting Server APIs");
        let tls = TlsAcceptor::from(self.tls);
        let waiting = Waiting::new(MAX_WAITING);
        let anonymous = Waiting::new(MAX_ANONYMOUS);
        let anonymous_calls = Waiting::new(MAX_ANONYMOUS_CALLS);
        let handshakes = Waiting::new(MAX_HANDSHAKES);
        let mut connections = JoinSet::new();
        loop {
            tokio::select! {
                () = stop.cancelled() => break,
                Some(_ended) = connections.join_next() => {}
                accepted = self.listener.accept() => match accepted {
                    Ok((stream, addr)) => {
                        let accepted = Accepted {
                            stream,
                            addr,
                            place: waiting.enter(),
                            handshakes: handshakes.clone(),
                            tls: tls.clone(),
                            anonymous: anonymous.clone(),
                            anonymous_calls: anonymous_calls.clone(),
                        };
                        connections.spawn(accepted.run(Arc::clone(&frame), stop.clone()));
                    }
                    Err(error) => {
                        // Out of files, most likely: whoever has said nothing for longest makes room.
                        tracing::debug!(subsystem_name = "endpoints", %error, "failed to accept a connection");
                        waiting.evict_oldest();
                        tokio::time::sleep(ACCEPT_PAUSE).await;
                    }
                },
            }
        }
        drop(self.listener);
        super::stop(connections, &address, "tcp").await;
    }
}

/// A connection before its handshake.
struct Accepted {
    stream: TcpStream,
    addr: SocketAddr,
    place: Place,
    handshakes: Waiting,
    tls: TlsAcceptor,
    anonymous: Waiting,
    anonymous_calls: Waiting,
}

impl Accepted {
    async fn run(self, frame: Arc<Frame>, stop: CancellationToken) {
        let addr = self.addr;
        let anonymous = self.anonymous.clone();
        let calls = self.anonymous_calls.clone();
        let stream = tokio::select! {
            () = stop.cancelled() => return,
            stream = self.handshake() => match stream {
                Some(stream) => stream,
                None => return,
            },
        };
        let caller = identify(&stream, addr);
        let identified = caller.as_ref().is_ok_and(|caller| caller.id().is_some());
        let service = ConnectionService::new(frame, caller);
        let io = TokioIo::new(stream);
        if identified {
            Box::pin(incoming::serve(io, service, IDENTIFIED, stop)).await;
            return;
        }
        // Nobody vouches for these: they make room for each other, and none stays for ever.
        let place = anonymous.enter();
        let serving = Box::pin(incoming::serve(io, service.among(calls), ANONYMOUS, stop));
        tokio::select! {
            () = serving => {}
            () = place.evicted() => {}
        }
    }

    async fn handshake(self) -> Option<TlsStream<TcpStream>> {
        let Self {
            stream,
            addr,
            place,
            handshakes,
            tls,
            anonymous: _,
            anonymous_calls: _,
        } = self;
        let silence = async {
            tokio::select! {
                ready = stream.ready(Interest::READABLE) => ready.is_ok(),
                () = place.evicted() => false,
            }
        };
        if !matches!(
            tokio::time::timeout(HANDSHAKE_LIMIT, silence).await,
            Ok(true)
        ) {
            return None;
        }
        drop(place);
        let place = handshakes.enter();
        let handshake = async {
            stream.set_nodelay(true)?;
            tls.accept(stream).await
        };
        let outcome = tokio::select! {
            () = place.evicted() => return None,
            outcome = tokio::time::timeout(HANDSHAKE_LIMIT, Box::pin(handshake)) => outcome,
        };
        match outcome {
            Ok(Ok(stream)) => Some(stream),
            Ok(Err(error)) => {
                tracing::debug!(
                    subsystem_name = "endpoints",
                    caller_addr = %addr,
                    error = %finial_runtime::log::chain(&error),
                    "TLS handshake failed"
                );
                None
            }
            Err(_elapsed) => None,
        }
    }
}

fn identify(stream: &TlsStream<TcpStream>, addr: SocketAddr) -> Result<Caller, Unidentified> {
    let (_, connection) = stream.get_ref();
    let svid = match connection.peer_certificates() {
        None | Some([]) => None,
        Some(chain) => Some(peer_svid(chain).map_err(|error| Unidentified(error.to_string()))?),
    };
    Ok(Caller::Tls(TlsPeer { addr, svid }))
}
