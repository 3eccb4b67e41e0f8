//! `spire.api.server.bundle.v1.Bundle`.

use std::sync::Arc;

use finial_proto::pb::spire::api::server::bundle::v1 as pb;
use finial_proto::pb::spire::api::server::bundle::v1::bundle_server::Bundle as BundleApi;
use finial_proto::pb::spire::api::types;
use finial_proto::{convert, mask};
use spiffe_types::bundle::Bundle;
use tonic::{Request, Response, Status};

use super::{Services, call_of, matching, status};

mod federated;

/// Serves bundles: the own trust domain's and those of others.
#[derive(Debug)]
pub(crate) struct BundleService {
    services: Arc<Services>,
}

impl BundleService {
    pub(crate) fn new(services: Arc<Services>) -> Self {
        Self { services }
    }
}

#[tonic::async_trait]
impl BundleApi for BundleService {
    async fn count_bundles(
        &self,
        _request: Request<pb::CountBundlesRequest>,
    ) -> Result<Response<pb::CountBundlesResponse>, Status> {
        let count = self
            .services
            .store
            .count_bundles()
            .await
            .map_err(|error| status::internal("failed to count bundles", &error))?;
        Ok(Response::new(pb::CountBundlesResponse {
            count: i32::try_from(count).unwrap_or(i32::MAX),
        }))
    }

    async fn get_bundle(
        &self,
        request: Request<pb::GetBundleRequest>,
    ) -> Result<Response<types::Bundle>, Status> {
        let bundle = self
            .services
            .registry
            .bundle(&self.services.trust_domain)
            .ok_or_else(|| status::not_found("bundle not found"))?;
        let output_mask = request.into_inner().output_mask;
        Ok(Response::new(masked(&bundle, output_mask.as_ref())))
    }

    async fn append_bundle(
        &self,
        request: Request<pb::AppendBundleRequest>,
    ) -> Result<Response<types::Bundle>, Status> {
        let request = request.into_inner();
        if request.x509_authorities.is_empty() && request.jwt_authorities.is_empty() {
            return Err(status::invalid("no authorities to append"));
        }
        let jwt_authorities = convert::bundle::jwt_from_pb(&request.jwt_authorities)
            .map_err(|error| status::invalid_because("failed to convert JWT authority", &error))?;
        let x509_authorities =
            convert::bundle::x509_from_pb(&request.x509_authorities).map_err(|error| {
                status::invalid_because("failed to convert X.509 authority", &error)
            })?;
        let addition = Bundle {
            x509_authorities,
            jwt_authorities,
            ..Bundle::empty(self.services.trust_domain.clone())
        };
        let bundle = self
            .services
            .store
            .append_bundle(&addition)
            .await
            .map_err(|error| status::internal("failed to append bundle", &error))?;
        let bundle = masked(&bundle, request.output_mask.as_ref());
        Ok(self.services.written(bundle).await)
    }

    async fn publish_jwt_authority(
        &self,
        request: Request<pb::PublishJwtAuthorityRequest>,
    ) -> Result<Response<pb::PublishJwtAuthorityResponse>, Status> {
        let call = call_of(&request)?;
        call.limit(1).await.map_err(|error| {
            status::limited(
                "rejecting request due to key publishing rate limiting",
                error,
            )
        })?;
        let authority = request
            .into_inner()
            .jwt_authority
            .ok_or_else(|| status::invalid("missing JWT authority"))?;
        let jwt_authorities = convert::bundle::jwt_from_pb(&[authority])
            .map_err(|error| status::invalid_because("invalid JWT authority", &error))?;
        let addition = Bundle {
            jwt_authorities,
            ..Bundle::empty(self.services.trust_domain.clone())
        };
        let bundle = self
            .services
            .store
            .append_bundle(&addition)
            .await
            .map_err(|error| status::internal("failed to publish JWT key", &error))?;
        let response = pb::PublishJwtAuthorityResponse {
            jwt_authorities: bundle
                .jwt_authorities
                .iter()
                .map(convert::bundle::jwt_to_pb)
                .collect(),
        };
        Ok(self.services.written(response).await)
    }

    async fn publish_wit_authority(
        &self,
        _request: Request<pb::PublishWitAuthorityRequest>,
    ) -> Result<Response<pb::PublishWitAuthorityResponse>, Status> {
        Err(status::unimplemented(
            "WIT-SVID functionality is not yet implemented",
        ))
    }

    async fn list_federated_bundles(
        &self,
        request: Request<pb::ListFederatedBundlesRequest>,
    ) -> Result<Response<pb::ListFederatedBundlesResponse>, Status> {
        let request = request.into_inner();
        let page = matching::page(request.page_size, request.page_token);
        let list = self
            .services
            .store
            .list_bundles(page)
            .await
            .map_err(|error| status::internal("failed to list bundles", &error))?;
        // The own bundle is taken out of its page, which is then one short.
        let bundles = list
            .items
            .iter()
            .filter(|bundle| bundle.trust_domain != self.services.trust_domain)
            .map(|bundle| masked(bundle, request.output_mask.as_ref()))
            .collect();
        Ok(Response::new(pb::ListFederatedBundlesResponse {
            bundles,
            next_page_token: list.next.unwrap_or_default(),
        }))
    }

    async fn get_federated_bundle(
        &self,
        request: Request<pb::GetFederatedBundleRequest>,
    ) -> Result<Response<types::Bundle>, Status> {
        let call = call_of(&request)?;
        let request = request.into_inner();
        call.audit()
            .note(|fields| fields.trust_domain_id = Some(request.trust_domain.clone()));
        let trust_domain = convert::id::trust_domain(&request.trust_domain).map_err(|error| {
            status::invalid_because("trust domain argument is not valid", &error)
        })?;
        if trust_domain == self.services.trust_domain {
            return Err(status::invalid(
                "getting a federated bundle for the server's own trust domain is not allowed",
            ));
        }
        let bundle = self
            .services
            .registry
            .bundle(&trust_domain)
            .ok_or_else(|| status::not_found("bundle not found"))?;
        Ok(Response::new(masked(&bundle, request.output_mask.as_ref())))
    }

    async fn batch_create_federated_bundle(
        &self,
        request: Request<pb::BatchCreateFederatedBundleRequest>,
    ) -> Result<Response<pb::BatchCreateFederatedBundleResponse>, Status> {
        federated::create(&self.services, request).await
    }

    async fn batch_update_federated_bundle(
        &self,
        request: Request<pb::BatchUpdateFederatedBundleRequest>,
    ) -> Result<Response<pb::BatchUpdateFederatedBundleResponse>, Status> {
        federated::update(&self.services, request).await
    }

    async fn batch_set_federated_bundle(
        &self,
        request: Request<pb::BatchSetFederatedBundleRequest>,
    ) -> Result<Response<pb::BatchSetFederatedBundleResponse>, Status> {
        federated::set(&self.services, request).await
    }

    async fn batch_delete_federated_bundle(
        &self,
        request: Request<pb::BatchDeleteFederatedBundleRequest>,
    ) -> Result<Response<pb::BatchDeleteFederatedBundleResponse>, Status> {
        federated::delete(&self.services, request).await
    }
}

fn masked(bundle: &Bundle, output_mask: Option<&types::BundleMask>) -> types::Bundle {
    let mut bundle = convert::bundle::to_pb(bundle);
    mask::bundle(&mut bundle, output_mask);
    bundle
}
