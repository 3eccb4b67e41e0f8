//! The admin socket: what only the operator of the node may ask. Whoever can open the socket may call everything on it.

use std::path::Path;
use std::time::Duration;

use finial_proto::pb::finial::agent::explain::v1::explain_server::ExplainServer;
use finial_proto::pb::spire::agent::debug::v1::debug_server::DebugServer;
use finial_proto::pb::spire::api::agent::logger::v1::logger_server::LoggerServer;
use finial_runtime::authority::AuthorityRewriter;
use finial_runtime::listen::{UnixSocket, bind_unix};
use finial_runtime::log::chain;
use hyper::body::Incoming;
use hyper::server::conn::http2;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::net::UnixStream;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tonic::service::Routes;
use tower::util::ServiceExt as _;

use super::log_panic;
use crate::api::debug::DebugService;
use crate::api::explain::ExplainService;
use crate::api::logger::LoggerService;

/// The admin socket, listening.
#[derive(Debug)]
pub struct AdminEndpoints {
    socket: UnixSocket,
    routes: Routes,
}

impl AdminEndpoints {
    /// Listens on `path`: socket 0770, directory 0750. Must be called within a Tokio runtime.
    pub fn bind(path: &Path, debug: DebugService, explain: ExplainService) -> anyhow::Result<Self> {
        let mut routes = Routes::builder();
        routes
            .add_service(DebugServer::new(debug))
            .add_service(LoggerServer::new(LoggerService))
            .add_service(ExplainServer::new(explain));
        Ok(Self {
            socket: bind_unix(path, 0o770, 0o750)?,
            routes: routes.routes().prepare(),
        })
    }

    /// Serves until `shutdown`.
    pub async fn serve(self, shutdown: CancellationToken) -> anyhow::Result<()> {
        tracing::info!(
            subsystem_name = SUBSYSTEM,
            address = %self.socket.path().display(),
            network = "unix",
            "Starting admin APIs"
        );
        let mut connections = JoinSet::new();
        loop {
            let accepted = tokio::select! {
                biased;
                () = shutdown.cancelled() => break,
                Some(ended) = connections.join_next() => {
                    log_panic(ended);
                    continue;
                }
                accepted = self.socket.listener().accept(), if connections.len() < CONNECTION_LIMIT => accepted,
            };
            match accepted {
                Ok((socket, _)) => {
                    connections.spawn(serve_connection(socket, self.routes.clone()));
                }
                Err(error) => {
                    tracing::warn!(subsystem_name = SUBSYSTEM, %error, "Connection failed during accept");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            }
        }
        tracing::info!(subsystem_name = SUBSYSTEM, "Stopping admin APIs");
        drop(self.socket);
        connections.shutdown().await;
        Ok(())
    }
}

async fn serve_connection(socket: UnixStream, routes: Routes) {
    let call = service_fn(move |request: http::Request<Incoming>| routes.clone().oneshot(request));
    let connection = http2::Builder::new(TokioExecutor::new())
        .serve_connection(TokioIo::new(AuthorityRewriter::new(socket)), call);
    if let Err(error) = connection.await {
        tracing::debug!(subsystem_name = SUBSYSTEM, error = %chain(&error), "connection ended");
    }
}

const SUBSYSTEM: &str = "endpoints";
/// An operator and a few tools of his.
const CONNECTION_LIMIT: usize = 256;
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);
