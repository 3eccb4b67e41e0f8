//! The gRPC services: parse, call, convert. What may be called by whom was decided before a handler runs.

use std::collections::BTreeMap;
use std::sync::Arc;

use finial_datastore::{DataStore, StoreError};
use finial_plugin::node_attestor::ServerNodeAttestor;
use finial_proto::pb::finial::sync::v1::sync_server::SyncServer;
use finial_proto::pb::spire::api::server::agent::v1::agent_server::AgentServer;
use finial_proto::pb::spire::api::server::bundle::v1::bundle_server::BundleServer;
use finial_proto::pb::spire::api::server::debug::v1::debug_server::DebugServer;
use finial_proto::pb::spire::api::server::entry::v1::entry_server::EntryServer;
use finial_proto::pb::spire::api::server::localauthority::v1::local_authority_server::LocalAuthorityServer;
use finial_proto::pb::spire::api::server::logger::v1::logger_server::LoggerServer;
use finial_proto::pb::spire::api::server::svid::v1::svid_server::SvidServer;
use finial_proto::pb::spire::api::server::trustdomain::v1::trust_domain_server::TrustDomainServer;
use finial_runtime::clock::SharedClock;
use finial_runtime::log::chain;
use spiffe_types::id::TrustDomain;
use tokio::time::Instant;
use tonic::metadata::MetadataValue;
use tonic::service::Routes;
use tonic::{Request, Response, Status};
use tonic_health::pb::health_server::HealthServer;

use crate::authorize::Call;
use crate::ca::Ca;
use crate::identity::ServerIdentity;
use crate::registry::Registry;

pub(crate) mod agent;
pub mod audit;
pub(crate) mod bundle;
pub(crate) mod debug;
mod driven;
pub(crate) mod entry;
pub(crate) mod health;
pub mod limits;
pub(crate) mod local_authority;
pub(crate) mod logger;
mod matching;
pub(crate) mod status;
pub(crate) mod svid;
pub(crate) mod sync;
pub(crate) mod trust_domain;

/// What the services work with.
#[derive(Debug)]
pub(crate) struct Services {
    pub(crate) trust_domain: TrustDomain,
    pub(crate) store: Arc<dyn DataStore>,
    pub(crate) registry: Arc<Registry>,
    pub(crate) ca: Arc<Ca>,
    pub(crate) identity: Arc<ServerIdentity>,
    pub(crate) clock: SharedClock,
    /// Node attestors by the name agents ask for.
    pub(crate) attestors: BTreeMap<String, Arc<dyn ServerNodeAttestor>>,
    /// When the server started.
    pub(crate) started: Instant,
}

/// Requests above this are refused before they are read.
const MAX_REQUEST_BYTES: usize = 4 * 1024 * 1024;
/// The revision of the change log that a write reached; finial's clients wait for it.
const REVISION_METADATA: &str = "finial-revision";

/// The services of one listener: `local` adds those that exist on the admin socket only.
pub(crate) fn routes(services: &Arc<Services>, local: bool) -> Routes {
    let services = || Arc::clone(services);
    let mut routes = Routes::builder();
    routes
        .add_service(
            AgentServer::new(agent::AgentService::new(services()))
                .max_decoding_message_size(MAX_REQUEST_BYTES),
        )
        .add_service(
            BundleServer::new(bundle::BundleService::new(services()))
                .max_decoding_message_size(MAX_REQUEST_BYTES),
        )
        .add_service(
            EntryServer::new(entry::EntryService::new(services()))
                .max_decoding_message_size(MAX_REQUEST_BYTES),
        )
        .add_service(
            SvidServer::new(svid::SvidService::new(services()))
                .max_decoding_message_size(MAX_REQUEST_BYTES),
        )
        .add_service(TrustDomainServer::new(trust_domain::TrustDomainService))
        .add_service(LocalAuthorityServer::new(
            local_authority::LocalAuthorityService,
        ))
        .add_service(SyncServer::new(sync::SyncService::new(Arc::clone(
            &services().registry,
        ))));
    if local {
        routes
            .add_service(LoggerServer::new(logger::LoggerService))
            .add_service(DebugServer::new(debug::DebugService::new(services())))
            .add_service(HealthServer::new(health::HealthService::new(services())));
    }
    routes.routes().prepare()
}

/// The call behind a request.
fn call_of<T>(request: &Request<T>) -> Result<Call, Status> {
    Call::of(request).map_err(status::call)
}

impl Services {
    /// The answer to a write: given once this server's memory shows it, and marked with the revision that holds it.
    async fn written<T>(&self, message: T) -> Response<T> {
        let mut response = Response::new(message);
        match self.registry.catch_up().await {
            Ok(()) => {
                let revision = MetadataValue::from(self.registry.revision().0);
                response.metadata_mut().insert(REVISION_METADATA, revision);
            }
            // The write is committed; saying that it failed would be wrong.
            Err(error) => self.lagging(&error),
        }
        response
    }

    fn lagging(&self, error: &StoreError) {
        tracing::warn!(
            subsystem_name = "api",
            revision = self.registry.revision().0,
            error = %chain(error),
            "a change is committed, but this server does not see it yet"
        );
    }
}
