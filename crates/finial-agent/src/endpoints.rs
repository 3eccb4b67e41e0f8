//! The sockets of the agent: the public one, and in [`admin`] the operator's.
//!
//! Each connection is tied to its process the moment it is accepted, and served over HTTP/2 by a task of its own. Everything a
//! connection holds is small: tens of thousands may be open, most of them waiting for the next rotation.

pub mod admin;
mod dispatch;

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use finial_plugin::workload::{CaptureError, Peer};
use finial_proto::descriptor::DESCRIPTOR_SET;
use finial_runtime::authority::AuthorityRewriter;
use finial_runtime::fs::bind_unix;
use finial_runtime::log::chain;
use hyper::server::conn::http2;
use hyper_util::rt::{TokioExecutor, TokioIo};
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use nix::sys::socket::{Backlog, listen};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tonic::service::Routes;
use tonic_health::pb::health_server::HealthServer;
use tonic_reflection::server::Builder;

use self::dispatch::{Dispatch, Services};
pub use self::dispatch::{SECURITY_HEADER, SECURITY_HEADER_VALUE};
use crate::api::health::HealthApi;
use crate::api::workload::{WorkloadApi, WorkloadApiServer};
use crate::workload::{Caller, UnseenCallers};

/// The public socket, listening.
#[derive(Debug)]
pub struct Endpoints {
    listener: UnixListener,
    path: PathBuf,
    services: Services,
    unseen: Arc<UnseenCallers>,
}

impl Endpoints {
    /// Listens on `path`: socket 0777, directory 0755. Without `workload_api` only health and reflection are served.
    ///
    /// Must be called within a Tokio runtime.
    pub fn bind(path: &Path, workload_api: Option<WorkloadApi>) -> anyhow::Result<Self> {
        let listener = bind_unix(path, 0o777, 0o755)?;
        // Callers do not wait for room in the queue, they fail: as much as the kernel gives.
        listen(&listener, Backlog::MAXALLOWABLE)
            .with_context(|| format!("failed to listen on unix socket {}", path.display()))?;
        raise_file_limit();
        Ok(Self {
            listener,
            path: path.to_owned(),
            services: services(path, workload_api)?,
            unseen: Arc::default(),
        })
    }

    /// Counts callers it cannot see in `unseen`.
    #[must_use]
    pub fn with_unseen(self, unseen: Arc<UnseenCallers>) -> Self {
        Self { unseen, ..self }
    }

    /// Returns where the endpoint listens.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Serves until `shutdown`; open streams end with it.
    pub async fn serve(self, shutdown: CancellationToken) -> anyhow::Result<()> {
        tracing::info!(
            subsystem_name = SUBSYSTEM,
            address = %self.path.display(),
            network = "unix",
            apis = "Workload API",
            "Starting agent APIs"
        );
        let room = Arc::new(Semaphore::new(CONNECTION_LIMIT));
        let mut connections = JoinSet::new();
        loop {
            let accepted = tokio::select! {
                biased;
                () = shutdown.cancelled() => break,
                Some(ended) = connections.join_next() => {
                    log_panic(ended);
                    continue;
                }
                accepted = accept(&self.listener, &room) => accepted,
            };
            match accepted {
                Ok((socket, permit)) => {
                    let Some(caller) = identify(&socket, &self.unseen) else {
                        continue;
                    };
                    let dispatch = Dispatch::new(self.services.clone(), Arc::new(caller));
                    connections.spawn(async move {
                        serve_connection(socket, dispatch).await;
                        drop(permit);
                    });
                }
                Err(error) => {
                    tracing::warn!(subsystem_name = SUBSYSTEM, %error, "Connection failed during accept");
                    // Out of file descriptors, mostly: what was not accepted waits in the queue.
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            }
        }
        tracing::info!(
            subsystem_name = SUBSYSTEM,
            apis = "Workload API",
            "Stopping agent APIs"
        );
        connections.shutdown().await;
        Ok(())
    }
}

/// Takes the next connection once there is room for it. Cancel-safe.
async fn accept(
    listener: &UnixListener,
    room: &Arc<Semaphore>,
) -> io::Result<(UnixStream, tokio::sync::OwnedSemaphorePermit)> {
    let permit = Arc::clone(room)
        .acquire_owned()
        .await
        .map_err(io::Error::other)?;
    let (socket, _) = listener.accept().await?;
    Ok((socket, permit))
}

/// Captures who connected. A process that is gone needs no answer; one that cannot be seen gets one for every call.
fn identify(socket: &UnixStream, unseen: &UnseenCallers) -> Option<Caller> {
    let peer = Peer::capture(socket);
    if let Err(error) = &peer {
        // Each further one says the same: an operator who missed the first asks `explain`.
        let again =
            matches!(error, CaptureError::ForeignPidNamespace { uid } if unseen.note(*uid) > 0);
        if again {
            tracing::debug!(subsystem_name = SUBSYSTEM, error = %chain(error), "Connection failed during accept");
        } else {
            tracing::warn!(subsystem_name = SUBSYSTEM, error = %chain(error), "Connection failed during accept");
        }
        if matches!(error, CaptureError::Gone { .. }) {
            return None;
        }
    }
    Some(Caller::new(peer))
}

async fn serve_connection(socket: UnixStream, dispatch: Dispatch) {
    let caller = Arc::clone(dispatch.caller());
    let connection = http2::Builder::new(TokioExecutor::new())
        .initial_stream_window_size(WINDOW_BYTES)
        .initial_connection_window_size(WINDOW_BYTES)
        .max_concurrent_streams(STREAM_LIMIT)
        .max_send_buf_size(SEND_BUFFER_BYTES)
        .serve_connection(TokioIo::new(AuthorityRewriter::new(socket)), dispatch);
    let mut connection = std::pin::pin!(connection);
    let ended = tokio::select! {
        ended = connection.as_mut() => ended,
        () = caller.hung_up() => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    if let Err(error) = ended {
        tracing::debug!(subsystem_name = SUBSYSTEM, pid = caller.pid(), error = %chain(&error), "connection ended");
    }
}

fn services(path: &Path, workload_api: Option<WorkloadApi>) -> anyhow::Result<Services> {
    let served = workload_api.is_some();
    let health = HealthApi::new(served.then(|| path.to_owned()));
    let reflection = || {
        let mut builder = Builder::configure()
            .include_reflection_service(false)
            .register_encoded_file_descriptor_set(DESCRIPTOR_SET);
        for set in [
            tonic_health::pb::FILE_DESCRIPTOR_SET,
            tonic_reflection::pb::v1::FILE_DESCRIPTOR_SET,
            tonic_reflection::pb::v1alpha::FILE_DESCRIPTOR_SET,
        ] {
            builder = builder.register_encoded_file_descriptor_set(set);
        }
        // The descriptor set knows every service there is: named are those that answer here.
        SERVICES
            .into_iter()
            .chain(served.then_some("SpiffeWorkloadAPI"))
            .fold(builder, Builder::with_service_name)
    };
    let mut routes = Routes::builder();
    routes
        .add_service(HealthServer::new(health))
        .add_service(
            reflection()
                .build_v1()
                .context("failed to build gRPC reflection")?,
        )
        .add_service(
            reflection()
                .build_v1alpha()
                .context("failed to build gRPC reflection")?,
        );
    Ok(Services {
        workload_api: workload_api.map(WorkloadApiServer::new),
        others: routes.routes().prepare(),
    })
}

/// Lets the process hold as many files as it may: an open stream takes two.
fn raise_file_limit() {
    let raised = getrlimit(Resource::RLIMIT_NOFILE).and_then(|(soft, hard)| {
        if soft < hard {
            setrlimit(Resource::RLIMIT_NOFILE, hard, hard)
        } else {
            Ok(())
        }
    });
    if let Err(error) = raised {
        tracing::warn!(subsystem_name = SUBSYSTEM, %error, "failed to raise the limit of open files");
    }
}

fn log_panic(ended: Result<(), tokio::task::JoinError>) {
    if let Err(error) = ended
        && error.is_panic()
    {
        tracing::error!(subsystem_name = SUBSYSTEM, %error, "connection task panicked");
    }
}

/// Open connections; the file table is the tighter limit on most hosts.
const CONNECTION_LIMIT: usize = 65_536;
/// Streams on one connection: clients that open thousands on one must all be served.
const STREAM_LIMIT: u32 = 16_384;
/// The least HTTP/2 allows for: requests of this API are nearly empty.
const WINDOW_BYTES: u32 = 65_535;
const SEND_BUFFER_BYTES: usize = 64 * 1024;
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);
const SUBSYSTEM: &str = "endpoints";
const SERVICES: [&str; 3] = [
    "grpc.health.v1.Health",
    "grpc.reflection.v1.ServerReflection",
    "grpc.reflection.v1alpha.ServerReflection",
];

#[cfg(test)]
mod tests;
