//! `spire.api.server.trustdomain.v1.TrustDomain`: authorized as every method is, and not served.

use finial_proto::pb::spire::api::server::trustdomain::v1::trust_domain_server::TrustDomain;

/// Answers `UNIMPLEMENTED`.
#[derive(Debug)]
pub(crate) struct TrustDomainService;

#[tonic::async_trait]
impl TrustDomain for TrustDomainService {}
