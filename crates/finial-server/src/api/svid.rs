//! `spire.api.server.svid.v1.SVID`.

use std::sync::Arc;
use std::time::Duration;

use finial_pki::csr::{Csr, CsrError};
use finial_pki::x509::SubjectName;
use finial_proto::convert;
use finial_proto::pb::spire::api::server::svid::v1 as pb;
use finial_proto::pb::spire::api::server::svid::v1::svid_server::Svid as SvidApi;
use finial_proto::pb::spire::api::types;
use futures::StreamExt as _;
use pb::batch_new_x509svid_response::Result as BatchResult;
use spiffe_types::entry::{DnsName, check_wildcard_overlap};
use spiffe_types::id::SpiffeId;
use spiffe_types::svid::x509::X509Svid;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tonic::{Code, Request, Response, Status};
use tracing::Instrument as _;

use super::audit::{self, AuditFields};
use super::{Services, call_of, status};
use crate::ca::MintRequest;

/// Signs SVIDs.
#[derive(Debug)]
pub(crate) struct SvidService {
    services: Arc<Services>,
    /// One permit for each core: batches share them, so that a large one does not keep the others waiting.
    cores: Arc<Semaphore>,
}

/// Items of a batch that one task signs before it gives way.
const CHUNK: usize = 8;
/// Signatures one task has under way, where the keys are elsewhere.
const CONCURRENT_SIGNATURES: usize = 4;

impl SvidService {
    pub(crate) fn new(services: Arc<Services>) -> Self {
        let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
        Self {
            services,
            cores: Arc::new(Semaphore::new(cores)),
        }
    }

    async fn sign_batch(
        &self,
        caller: &SpiffeId,
        params: Vec<pb::NewX509svidParams>,
    ) -> Vec<BatchResult> {
        let total = params.len();
        let mut tasks = JoinSet::new();
        let mut params = params.into_iter().enumerate();
        loop {
            let chunk: Vec<_> = params.by_ref().take(CHUNK).collect();
            if chunk.is_empty() {
                break;
            }
            let services = Arc::clone(&self.services);
            let cores = Arc::clone(&self.cores);
            let caller = caller.clone();
            let span = tracing::Span::current();
            tasks.spawn(
                async move {
                    // The semaphore is never closed; without a permit the work is done all the same.
                    let _permit = cores.acquire_owned().await.ok();
                    futures::stream::iter(chunk)
                        .map(|(index, params)| {
                            let (services, caller) = (&services, &caller);
                            async move { (index, services.new_x509_svid(caller, &params).await) }
                        })
                        .buffered(CONCURRENT_SIGNATURES)
                        .collect::<Vec<_>>()
                        .await
                }
                .instrument(span),
            );
        }
        let mut results: Vec<_> = std::iter::repeat_with(|| None).take(total).collect();
        while let Some(signed) = tasks.join_next().await {
            for (index, result) in signed.unwrap_or_default() {
                if let Some(slot) = results.get_mut(index) {
                    *slot = Some(result);
                }
            }
        }
        results
            .into_iter()
            .map(|result| match result {
                Some(Ok(svid)) => BatchResult {
                    status: Some(status::ok_item()),
                    svid: Some(svid),
                },
                Some(Err(status)) => failed(&status),
                // The task that should have signed it panicked.
                None => failed(&status::plain(
                    Code::Internal,
                    "failed to sign X509-SVID: signing was interrupted",
                )),
            })
            .collect()
    }
}

#[tonic::async_trait]
impl SvidApi for SvidService {
    async fn mint_x509svid(
        &self,
        request: Request<pb::MintX509svidRequest>,
    ) -> Result<Response<pb::MintX509svidResponse>, Status> {
        let call = call_of(&request)?;
        let request = request.into_inner();
        call.audit().note(|fields| {
            fields.csr = audit::digest(&request.csr);
            fields.ttl = Some(request.ttl);
        });
        let mint = self.services.parse_mint(&request)?;
        let svid = self
            .services
            .ca
            .issuer()
            .sign_minted_svid(&mint)
            .await
            .map_err(|error| status::internal("failed to sign X509-SVID", &error))?;
        let dns_name = svid.dns_names().join(",");
        call.audit().note(|fields| {
            fields.spiffe_id = Some(svid.id().to_string());
            fields.expires_at = Some(convert::time::to_unix(svid.not_after()));
            fields.dns_name = Some(dns_name.clone()).filter(|names| !names.is_empty());
        });
        tracing::debug!(
            subsystem_name = "api",
            spiffe_id = %svid.id(),
            dns_name,
            expiration = expiration(&svid),
            serial_num = %svid.serial(),
            "Signed X509 SVID"
        );
        Ok(Response::new(pb::MintX509svidResponse {
            svid: Some(convert::svid::to_pb(&svid)),
        }))
    }

    async fn mint_jwtsvid(
        &self,
        _request: Request<pb::MintJwtsvidRequest>,
    ) -> Result<Response<pb::MintJwtsvidResponse>, Status> {
        Err(jwt_disabled())
    }

    async fn mint_witsvid(
        &self,
        _request: Request<pb::MintWitsvidRequest>,
    ) -> Result<Response<pb::MintWitsvidResponse>, Status> {
        Err(wit_disabled())
    }

    async fn batch_new_x509svid(
        &self,
        request: Request<pb::BatchNewX509svidRequest>,
    ) -> Result<Response<pb::BatchNewX509svidResponse>, Status> {
        let call = call_of(&request)?;
        let params = request.into_inner().params;
        if params.is_empty() {
            return Err(status::invalid("missing parameters"));
        }
        let count = u32::try_from(params.len()).unwrap_or(u32::MAX);
        call.limit(count).await.map_err(|error| {
            status::limited(
                "rejecting request due to certificate signing rate limiting",
                error,
            )
        })?;
        let caller = call.caller_id().map_err(status::call)?;
        let audited: Vec<_> = params
            .iter()
            .map(|params| (params.entry_id.clone(), params.csr.clone()))
            .collect();
        let results = self.sign_batch(caller, params).await;
        for (result, (entry_id, csr)) in results.iter().zip(audited) {
            call.audit().item(result.status.as_ref(), || AuditFields {
                entry_id: Some(entry_id),
                csr: audit::digest(&csr),
                spiffe_id: result
                    .svid
                    .as_ref()
                    .and_then(|svid| svid.id.as_ref())
                    .map(audit::spiffe_id),
                expires_at: result.svid.as_ref().map(|svid| svid.expires_at),
                ..AuditFields::default()
            });
        }
        Ok(Response::new(pb::BatchNewX509svidResponse { results }))
    }

    async fn new_jwtsvid(
        &self,
        request: Request<pb::NewJwtsvidRequest>,
    ) -> Result<Response<pb::NewJwtsvidResponse>, Status> {
        let call = call_of(&request)?;
        call.limit(1).await.map_err(|error| {
            status::limited(
                "rejecting request due to JWT signing request rate limiting",
                error,
            )
        })?;
        Err(jwt_disabled())
    }

    async fn batch_new_witsvid(
        &self,
        _request: Request<pb::BatchNewWitsvidRequest>,
    ) -> Result<Response<pb::BatchNewWitsvidResponse>, Status> {
        Err(wit_disabled())
    }
}

impl Services {
    async fn new_x509_svid(
        &self,
        caller: &SpiffeId,
        params: &pb::NewX509svidParams,
    ) -> Result<types::X509svid, Status> {
        if params.entry_id.is_empty() {
            return Err(status::invalid("missing entry ID"));
        }
        if params.csr.is_empty() {
            return Err(status::invalid("missing CSR"));
        }
        let entry = params
            .entry_id
            .parse()
            .ok()
            .and_then(|id| self.registry.lookup(caller, &id))
            .ok_or_else(|| status::not_found("entry not found or not authorized"))?;
        let csr = Csr::parse(&params.csr).map_err(|error| match error {
            CsrError::BadSignature => status::invalid_because("invalid CSR signature", &error),
            CsrError::Malformed { .. } | CsrError::PublicKey { .. } => malformed_csr(&error),
        })?;
        let svid = self
            .ca
            .issuer()
            .sign_workload_svid(&entry, csr.public_key())
            .await
            .map_err(|error| status::internal("failed to sign X509-SVID", &error))?;
        tracing::debug!(
            subsystem_name = "api",
            entry_id = %entry.id,
            spiffe_id = %entry.spiffe_id,
            expiration = expiration(&svid),
            serial_num = %svid.serial(),
            revision_number = entry.revision_number,
            "Signed X509 SVID"
        );
        Ok(convert::svid::to_pb(&svid))
    }

    fn parse_mint(&self, request: &pb::MintX509svidRequest) -> Result<MintRequest, Status> {
        if request.csr.is_empty() {
            return Err(status::invalid("missing CSR"));
        }
        let csr = Csr::parse(&request.csr).map_err(|error| match error {
            CsrError::BadSignature => {
                status::invalid_because("failed to verify CSR signature", &error)
            }
            CsrError::Malformed { .. } | CsrError::PublicKey { .. } => malformed_csr(&error),
        })?;
        let uri = match csr.uri_sans() {
            [] => return Err(status::invalid("CSR URI SAN is required")),
            [uri] => uri,
            _ => return Err(status::invalid("only one URI SAN is expected")),
        };
        let spiffe_id = SpiffeId::parse(uri)
            .map_err(|error| status::invalid_because("CSR URI SAN is invalid", &error))?;
        spiffe_id
            .check_workload(&self.trust_domain)
            .map_err(|error| status::invalid_because("CSR URI SAN is invalid", &error))?;
        let dns_names = csr
            .dns_sans()
            .iter()
            .map(|name| DnsName::parse(name))
            .collect::<Result<Vec<_>, _>>()
            .map_err(|error| status::invalid_because("CSR DNS name is invalid", &error))?;
        check_wildcard_overlap(&dns_names).map_err(|error| {
            status::invalid_because(
                "CSR DNS name contains a wildcard that covers another non-wildcard name",
                &error,
            )
        })?;
        let subject =
            SubjectName::from_der(csr.subject_der()).map_err(|error| malformed_csr(&error))?;
        // A negative lifetime is no shorter than none.
        let ttl = match u64::try_from(request.ttl) {
            Ok(0) => None,
            Ok(seconds) => Some(Duration::from_secs(seconds)),
            Err(_) => return Err(status::invalid("ttl must not be negative")),
        };
        Ok(MintRequest {
            spiffe_id,
            public_key: csr.public_key().clone(),
            dns_names,
            subject: (!subject.is_empty()).then_some(subject),
            ttl,
        })
    }
}

fn malformed_csr(error: &(dyn std::error::Error + 'static)) -> Status {
    status::invalid_because("malformed CSR", error)
}

fn failed(status: &Status) -> BatchResult {
    BatchResult {
        status: Some(status::item(status)),
        svid: None,
    }
}

fn jwt_disabled() -> Status {
    status::unimplemented("JWT functionality is disabled")
}

fn wit_disabled() -> Status {
    status::unimplemented("WIT functionality is disabled")
}

/// An SVID's end as the log shows it.
fn expiration(svid: &X509Svid) -> String {
    OffsetDateTime::from(svid.not_after())
        .format(&Rfc3339)
        .unwrap_or_default()
}
