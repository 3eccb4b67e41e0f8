//! The gRPC health service, and the question it asks: does the Workload API answer?

use std::path::{Path, PathBuf};
use std::time::Duration;

use finial_proto::pb::X509BundlesRequest;
use finial_proto::pb::spiffe_workload_api_client::SpiffeWorkloadApiClient;
use finial_runtime::log::chain;
use hyper_util::rt::TokioIo;
use tokio::net::UnixStream;
use tonic::codegen::BoxStream;
use tonic::metadata::MetadataValue;
use tonic::transport::Endpoint;
use tonic::{Code, Request, Response, Status};
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::health_server::Health;
use tonic_health::pb::{HealthCheckRequest, HealthCheckResponse};
use tower::service_fn;

use super::status::PER_SERVICE_HEALTH;
use crate::endpoints::{SECURITY_HEADER, SECURITY_HEADER_VALUE};

/// `grpc.health.v1.Health` of the agent.
#[derive(Debug, Clone)]
pub struct HealthApi {
    /// Where the Workload API listens; `None` when it is disabled, and then the agent serves by definition.
    workload_api: Option<PathBuf>,
}

impl HealthApi {
    /// Creates the service for an agent whose Workload API listens on `workload_api`.
    pub fn new(workload_api: Option<PathBuf>) -> Self {
        Self { workload_api }
    }
}

#[tonic::async_trait]
impl Health for HealthApi {
    async fn check(
        &self,
        request: Request<HealthCheckRequest>,
    ) -> Result<Response<HealthCheckResponse>, Status> {
        if !request.get_ref().service.is_empty() {
            return Err(Status::invalid_argument(PER_SERVICE_HEALTH));
        }
        let status = match &self.workload_api {
            None => ServingStatus::Serving,
            Some(socket) => match probe(socket).await {
                Ok(()) => ServingStatus::Serving,
                Err(error) => {
                    tracing::warn!(
                        subsystem_name = "endpoints",
                        reason = "unable to fetch X.509 bundles from Workload API",
                        error = %chain(&error),
                        "Health check failed"
                    );
                    ServingStatus::NotServing
                }
            },
        };
        Ok(Response::new(HealthCheckResponse {
            status: status.into(),
        }))
    }

    type WatchStream = BoxStream<HealthCheckResponse>;

    async fn watch(
        &self,
        _: Request<HealthCheckRequest>,
    ) -> Result<Response<Self::WatchStream>, Status> {
        Err(Status::unimplemented("watching health is not supported"))
    }
}

/// Calls the Workload API at `socket` as a workload would, and returns how it failed.
///
/// An agent mostly has no identity of its own there, so `PermissionDenied` is as good an answer as a bundle.
pub async fn probe(socket: &Path) -> Result<(), Status> {
    match tokio::time::timeout(PROBE_DEADLINE, first_bundles(socket)).await {
        Ok(Ok(())) => Ok(()),
        Ok(Err(status)) if status.code() == Code::PermissionDenied => Ok(()),
        Ok(Err(status)) => Err(status),
        Err(_elapsed) => Err(Status::unavailable(
            "no answer from the Workload API in time",
        )),
    }
}

async fn first_bundles(socket: &Path) -> Result<(), Status> {
    let socket = socket.to_owned();
    let dial = service_fn(move |_| {
        let socket = socket.clone();
        async move { UnixStream::connect(socket).await.map(TokioIo::new) }
    });
    let channel = Endpoint::from_static("http://localhost")
        .connect_with_connector(dial)
        .await
        .map_err(|error| Status::unavailable(chain(&error).to_string()))?;
    let mut request = Request::new(X509BundlesRequest {});
    request.metadata_mut().insert(
        SECURITY_HEADER,
        MetadataValue::from_static(SECURITY_HEADER_VALUE),
    );
    let mut bundles = SpiffeWorkloadApiClient::new(channel)
        .fetch_x509_bundles(request)
        .await?
        .into_inner();
    match bundles.message().await? {
        Some(_) => Ok(()),
        None => Err(Status::unavailable(
            "the Workload API ended the stream without a bundle",
        )),
    }
}

const PROBE_DEADLINE: Duration = Duration::from_secs(10);
