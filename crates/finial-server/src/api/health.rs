//! `grpc.health.v1.Health`, on the admin socket: healthy while the own bundle can be served.

use std::sync::Arc;

use tonic::codegen::BoxStream;
use tonic::{Request, Response, Status};
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::health_server::Health;
use tonic_health::pb::{HealthCheckRequest, HealthCheckResponse};

use super::{Services, status};

/// Answers health checks.
#[derive(Debug)]
pub(crate) struct HealthService {
    services: Arc<Services>,
}

impl HealthService {
    pub(crate) fn new(services: Arc<Services>) -> Self {
        Self { services }
    }
}

#[tonic::async_trait]
impl Health for HealthService {
    async fn check(
        &self,
        request: Request<HealthCheckRequest>,
    ) -> Result<Response<HealthCheckResponse>, Status> {
        if !request.into_inner().service.is_empty() {
            return Err(status::invalid("per-service health is not supported"));
        }
        let healthy = self
            .services
            .registry
            .bundle(&self.services.trust_domain)
            .is_some();
        let status = if healthy {
            ServingStatus::Serving
        } else {
            ServingStatus::NotServing
        };
        Ok(Response::new(HealthCheckResponse {
            status: status.into(),
        }))
    }

    type WatchStream = BoxStream<HealthCheckResponse>;

    async fn watch(
        &self,
        _request: Request<HealthCheckRequest>,
    ) -> Result<Response<Self::WatchStream>, Status> {
        Err(status::unimplemented("method Watch not implemented"))
    }
}
