//! The batches that change other trust domains' bundles. Items succeed and fail one by one.

use finial_datastore::{BundlePatch, DeleteMode, StoreError};
use finial_proto::convert;
use finial_proto::pb::spire::api::server::bundle::v1 as pb;
use finial_proto::pb::spire::api::types;
use pb::batch_create_federated_bundle_response::Result as CreateResult;
use pb::batch_delete_federated_bundle_request::Mode;
use pb::batch_delete_federated_bundle_response::Result as DeleteResult;
use pb::batch_set_federated_bundle_response::Result as SetResult;
use pb::batch_update_federated_bundle_response::Result as UpdateResult;
use spiffe_types::bundle::Bundle;
use spiffe_types::id::TrustDomain;
use tonic::{Request, Response, Status};

use super::masked;
use crate::api::audit::AuditFields;
use crate::api::{Services, call_of, status};

pub(super) async fn create(
    services: &Services,
    request: Request<pb::BatchCreateFederatedBundleRequest>,
) -> Result<Response<pb::BatchCreateFederatedBundleResponse>, Status> {
    let call = call_of(&request)?;
    let request = request.into_inner();
    let mut results = Vec::with_capacity(request.bundle.len());
    for item in &request.bundle {
        let outcome = create_one(services, item).await;
        let (status, bundle) = answer(outcome, request.output_mask.as_ref());
        call.audit().item(Some(&status), || of_bundle(item));
        results.push(CreateResult {
            status: Some(status),
            bundle,
        });
    }
    let response = pb::BatchCreateFederatedBundleResponse { results };
    Ok(services.written(response).await)
}

async fn create_one(services: &Services, item: &types::Bundle) -> Result<Bundle, Status> {
    let bundle = parse(services, item, "creating a federated bundle for")?;
    match services.store.create_bundle(bundle).await {
        Ok(bundle) => Ok(bundle),
        Err(StoreError::AlreadyExists { .. }) => Err(status::plain(
            tonic::Code::AlreadyExists,
            "bundle already exists",
        )),
        Err(error) => Err(status::internal("unable to create bundle", &error)),
    }
}

pub(super) async fn update(
    services: &Services,
    request: Request<pb::BatchUpdateFederatedBundleRequest>,
) -> Result<Response<pb::BatchUpdateFederatedBundleResponse>, Status> {
    let call = call_of(&request)?;
    let request = request.into_inner();
    let mut results = Vec::with_capacity(request.bundle.len());
    for item in &request.bundle {
        let outcome = update_one(services, item, request.input_mask.as_ref()).await;
        let (status, bundle) = answer(outcome, request.output_mask.as_ref());
        call.audit().item(Some(&status), || of_bundle(item));
        results.push(UpdateResult {
            status: Some(status),
            bundle,
        });
    }
    let response = pb::BatchUpdateFederatedBundleResponse { results };
    Ok(services.written(response).await)
}

async fn update_one(
    services: &Services,
    item: &types::Bundle,
    input_mask: Option<&types::BundleMask>,
) -> Result<Bundle, Status> {
    let bundle = parse(services, item, "updating a federated bundle for")?;
    let takes = |field: fn(&types::BundleMask) -> bool| input_mask.is_none_or(field);
    let patch = BundlePatch {
        x509_authorities: takes(|mask| mask.x509_authorities).then_some(bundle.x509_authorities),
        jwt_authorities: takes(|mask| mask.jwt_authorities).then_some(bundle.jwt_authorities),
        refresh_hint: takes(|mask| mask.refresh_hint).then_some(bundle.refresh_hint),
        sequence_number: takes(|mask| mask.sequence_number).then_some(bundle.sequence_number),
    };
    match services
        .store
        .update_bundle(&bundle.trust_domain, patch)
        .await
    {
        Ok(bundle) => Ok(bundle),
        Err(StoreError::NotFound { .. }) => Err(status::not_found("bundle not found")),
        Err(error) => Err(status::internal("failed to update bundle", &error)),
    }
}

pub(super) async fn set(
    services: &Services,
    request: Request<pb::BatchSetFederatedBundleRequest>,
) -> Result<Response<pb::BatchSetFederatedBundleResponse>, Status> {
    let call = call_of(&request)?;
    let request = request.into_inner();
    let mut results = Vec::with_capacity(request.bundle.len());
    for item in &request.bundle {
        let outcome = set_one(services, item).await;
        let (status, bundle) = answer(outcome, request.output_mask.as_ref());
        call.audit().item(Some(&status), || of_bundle(item));
        results.push(SetResult {
            status: Some(status),
            bundle,
        });
    }
    let response = pb::BatchSetFederatedBundleResponse { results };
    Ok(services.written(response).await)
}

async fn set_one(services: &Services, item: &types::Bundle) -> Result<Bundle, Status> {
    let bundle = parse(services, item, "setting a federated bundle for")?;
    services
        .store
        .set_bundle(bundle)
        .await
        .map_err(|error| status::internal("failed to set bundle", &error))
}

pub(super) async fn delete(
    services: &Services,
    request: Request<pb::BatchDeleteFederatedBundleRequest>,
) -> Result<Response<pb::BatchDeleteFederatedBundleResponse>, Status> {
    let call = call_of(&request)?;
    let request = request.into_inner();
    let mode = match Mode::try_from(request.mode) {
        Ok(Mode::Restrict) => DeleteMode::Restrict,
        Ok(Mode::Delete) => DeleteMode::Delete,
        Ok(Mode::Dissociate) => DeleteMode::Dissociate,
        Err(_) => {
            return Err(status::invalid(&format!(
                "failed to parse deletion mode: unhandled delete mode \"{}\"",
                request.mode
            )));
        }
    };
    let mut results = Vec::with_capacity(request.trust_domains.len());
    for trust_domain in request.trust_domains {
        let status = match delete_one(services, &trust_domain, mode).await {
            Ok(()) => status::ok_item(),
            Err(status) => status::item(&status),
        };
        call.audit().item(Some(&status), || AuditFields {
            trust_domain_id: Some(trust_domain.clone()),
            ..AuditFields::default()
        });
        results.push(DeleteResult {
            status: Some(status),
            trust_domain,
        });
    }
    let response = pb::BatchDeleteFederatedBundleResponse { results };
    Ok(services.written(response).await)
}

async fn delete_one(services: &Services, name: &str, mode: DeleteMode) -> Result<(), Status> {
    let trust_domain = parse_name(name)?;
    if trust_domain == services.trust_domain {
        return Err(status::invalid(
            "removing the bundle for the server trust domain is not allowed",
        ));
    }
    match services.store.delete_bundle(&trust_domain, mode).await {
        Ok(()) => Ok(()),
        Err(StoreError::NotFound { .. }) => Err(status::not_found("bundle not found")),
        Err(error) => Err(status::because(
            status::store_code(&error),
            "failed to delete federated bundle",
            &error,
        )),
    }
}

fn parse(services: &Services, item: &types::Bundle, doing: &str) -> Result<Bundle, Status> {
    if parse_name(&item.trust_domain)? == services.trust_domain {
        return Err(status::invalid(&format!(
            "{doing} the server's own trust domain is not allowed"
        )));
    }
    convert::bundle::from_pb(item)
        .map_err(|error| status::invalid_because("failed to convert bundle", &error))
}

fn parse_name(name: &str) -> Result<TrustDomain, Status> {
    convert::id::trust_domain(name)
        .map_err(|error| status::invalid_because("trust domain argument is not valid", &error))
}

fn answer(
    outcome: Result<Bundle, Status>,
    output_mask: Option<&types::BundleMask>,
) -> (types::Status, Option<types::Bundle>) {
    match outcome {
        Ok(bundle) => (status::ok_item(), Some(masked(&bundle, output_mask))),
        Err(status) => (status::item(&status), None),
    }
}

fn of_bundle(bundle: &types::Bundle) -> AuditFields {
    AuditFields {
        trust_domain_id: Some(bundle.trust_domain.clone()),
        ..AuditFields::default()
    }
}
