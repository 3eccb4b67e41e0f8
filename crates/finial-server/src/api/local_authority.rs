//! `spire.api.server.localauthority.v1.LocalAuthority`: authorized as every method is, and not served.

use finial_proto::pb::spire::api::server::localauthority::v1::local_authority_server::LocalAuthority;

/// Answers `UNIMPLEMENTED`.
#[derive(Debug)]
pub(crate) struct LocalAuthorityService;

#[tonic::async_trait]
impl LocalAuthority for LocalAuthorityService {}
