//! The sockets of the agent: the public one, and in [`admin`] the operator's.
//!
//! Each connection is tied to its process the moment it is accepted, and served over HTTP/2 by a task of its own. Everything a
//! connection holds is small: tens of thousands may be open, most of them waiting for the next rotation.

pub mod admin;
mod crowd;
mod dispatch;

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use finial_plugin::workload::{CaptureError, Peer};
use finial_proto::descriptor::DESCRIPTOR_SET;
use finial_runtime::authority::AuthorityRewriter;
use finial_runtime::listen::{UnixSocket, bind_unix};
use finial_runtime::log::chain;
use hyper::server::conn::http2;
use hyper_util::rt::{TokioExecutor, TokioIo};
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use nix::sys::socket::{Backlog, listen};
use tokio::net::UnixStream;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tonic::service::Routes;
use tonic_health::pb::health_server::HealthServer;
use tonic_reflection::server::Builder;

use self::crowd::{Crowd, Place};
use self::dispatch::{Dispatch, Services};
pub use self::dispatch::{SECURITY_HEADER, SECURITY_HEADER_VALUE};
use crate::api::health::HealthApi;
use crate::api::workload::{WorkloadApi, WorkloadApiServer};
use crate::workload::{Caller, UnseenCallers};

/// The public socket, listening.
#[derive(Debug)]
pub struct Endpoints {
    socket: UnixSocket,
    services: Services,
    unseen: Arc<UnseenCallers>,
    /// How many connections may be open.
    room: usize,
}

impl Endpoints {
    /// Listens on `path`: socket 0777, directory 0755. Without `workload_api` only health and reflection are served.
    ///
    /// Must be called within a Tokio runtime.
    pub fn bind(path: &Path, workload_api: Option<WorkloadApi>) -> anyhow::Result<Self> {
        let socket = bind_unix(path, 0o777, 0o755)?;
        // Callers do not wait for room in the queue, they fail: as much as the kernel gives.
        listen(socket.listener(), Backlog::MAXALLOWABLE)
            .with_context(|| format!("failed to listen on unix socket {}", path.display()))?;
        let room = room_for(raise_file_limit());
        Ok(Self {
            socket,
            services: services(path, workload_api)?,
            unseen: Arc::default(),
            room,
        })
    }

    /// Counts callers it cannot see in `unseen`.
    #[must_use]
    pub fn with_unseen(self, unseen: Arc<UnseenCallers>) -> Self {
        Self { unseen, ..self }
    }

    /// Returns where the endpoint listens.
    pub fn path(&self) -> &Path {
        self.socket.path()
    }

    /// Serves until `shutdown`; open streams end with it.
    pub async fn serve(self, shutdown: CancellationToken) -> anyhow::Result<()> {
        tracing::info!(
            subsystem_name = SUBSYSTEM,
            address = %self.path().display(),
            network = "unix",
            apis = "Workload API",
            "Starting agent APIs"
        );
        let crowd = Crowd::new(self.room);
        let mut is_full = false;
        let mut connections = JoinSet::new();
        loop {
            let accepted = tokio::select! {
                biased;
                () = shutdown.cancelled() => break,
                Some(ended) = connections.join_next() => {
                    log_panic(ended);
                    continue;
                }
                accepted = self.socket.listener().accept() => accepted,
            };
            match accepted {
                Ok((socket, _)) => {
                    is_full = false;
                    let user = socket.peer_cred().map_or(u32::MAX, |peer| peer.uid());
                    let Some(caller) = identify(&socket, &self.unseen) else {
                        continue;
                    };
                    let dispatch = Dispatch::new(self.services.clone(), Arc::new(caller));
                    connections.spawn(serve_connection(socket, dispatch, crowd.enter(user)));
                }
                Err(error) => {
                    // Out of file descriptors, mostly: what was not accepted waits in the queue.
                    if std::mem::replace(&mut is_full, true) {
                        tracing::debug!(subsystem_name = SUBSYSTEM, %error, "Connection failed during accept");
                    } else {
                        tracing::warn!(subsystem_name = SUBSYSTEM, %error, "Connection failed during accept");
                    }
                    crowd.make_room();
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            }
        }
        tracing::info!(
            subsystem_name = SUBSYSTEM,
            apis = "Workload API",
            "Stopping agent APIs"
        );
        drop(self.socket);
        connections.shutdown().await;
        Ok(())
    }
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

async fn serve_connection(socket: UnixStream, dispatch: Dispatch, place: Place) {
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
            tokio::select! {
                ended = connection => ended,
                () = place.evicted() => return,
            }
        }
        () = place.evicted() => return,
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

/// Lets the process hold as many files as it may, and returns how many, if that is known.
fn raise_file_limit() -> Option<u64> {
    let raised = getrlimit(Resource::RLIMIT_NOFILE).and_then(|(soft, hard)| {
        if soft < hard {
            setrlimit(Resource::RLIMIT_NOFILE, hard, hard)?;
        }
        Ok(hard)
    });
    raised
        .inspect_err(|error| {
            tracing::warn!(subsystem_name = SUBSYSTEM, %error, "failed to raise the limit of open files");
        })
        .ok()
}

/// How many connections so many files are enough for, with some left to attest with and for everything else.
fn room_for(files: Option<u64>) -> usize {
    let files = files.and_then(|files| usize::try_from(files).ok());
    files.map_or(CONNECTION_LIMIT, |files| {
        let left = files.saturating_sub((files / 4).clamp(FEWEST_OTHER_FILES, MOST_OTHER_FILES));
        (left / FILES_PER_CONNECTION).clamp(1, CONNECTION_LIMIT)
    })
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
/// Its socket, and what holds its process.
const FILES_PER_CONNECTION: usize = 2;
const FEWEST_OTHER_FILES: usize = 64;
/// Each of the attestations at a time opens a few.
const MOST_OTHER_FILES: usize = 2048;
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
