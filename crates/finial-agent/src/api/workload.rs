//! The SPIFFE Workload API.
//!
//! A call attests its caller, subscribes to what the caller is entitled to, and sends a complete message for every change. Nothing
//! here talks to the server: the cache has an answer or will be given one.

mod compose;
mod server;

use std::sync::Arc;
use std::time::SystemTime;

use finial_proto::pb::spiffe_workload_api_server::SpiffeWorkloadApi;
use finial_proto::pb::{
    JwtBundlesRequest, JwtBundlesResponse, JwtsvidRequest, JwtsvidResponse, ValidateJwtsvidRequest,
    ValidateJwtsvidResponse, WitBundlesRequest, WitBundlesResponse, WitsvidRequest,
    WitsvidResponse, X509BundlesRequest, X509BundlesResponse,
};
use finial_runtime::clock::SharedClock;
use finial_runtime::log::chain;
use futures::stream;
use spiffe_types::selector::SelectorSet;
use tonic::codegen::BoxStream;
use tonic::{Extensions, Request, Response, Status};

use self::compose::{Entitlement, has_identity};
pub use self::server::WorkloadApiServer;
use super::status::{attestation_failed, incomplete, no_identity_issued};
use crate::cache::{Cache, Subscription, WorkloadUpdate};
use crate::workload::Caller;
use crate::workload::attest::{
    AttestWorkloadError, AttestorFailure, Attestors, describe, is_incomplete,
};

/// The Workload API of an agent.
#[derive(Debug, Clone)]
pub struct WorkloadApi {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    cache: Cache,
    attestors: Arc<Attestors>,
    clock: SharedClock,
    options: WorkloadApiOptions,
}

/// What an operator decides about the Workload API.
#[derive(Debug, Clone, Default)]
pub struct WorkloadApiOptions {
    /// Whether callers without an identity may have the bundle of the own trust domain.
    pub allow_unauthenticated_verifiers: bool,
    /// Which selectors may appear in logs: whole selectors, or what precedes a colon in them.
    pub log_selectors: Vec<String>,
}

impl WorkloadApi {
    /// Creates the service.
    pub fn new(
        cache: Cache,
        attestors: Arc<Attestors>,
        clock: SharedClock,
        options: WorkloadApiOptions,
    ) -> Self {
        Self {
            inner: Arc::new(Inner {
                cache,
                attestors,
                clock,
                options,
            }),
        }
    }

    /// Attests the caller of `method` and subscribes it.
    async fn open(&self, extensions: &Extensions, method: &'static str) -> Result<Call, Status> {
        let caller = extensions
            .get::<Arc<Caller>>()
            .cloned()
            .ok_or_else(|| Status::internal("connection without a caller"))?;
        let outcome = match self.inner.attestors.attest_caller(&caller).await {
            Ok(outcome) => outcome,
            Err(error) => {
                log_failed_attestation(&error, &caller, method);
                return Err(attestation_failed(&error));
            }
        };
        let call = Call {
            subscription: self.inner.cache.subscribe(&outcome.selectors),
            api: Arc::clone(&self.inner),
            caller,
            selectors: outcome.selectors,
            failures: outcome.failures,
            method,
            fresh: true,
        };
        match call.incomplete() {
            // Part of what a workload is entitled to must not pass for all of it.
            Some(status) => Err(status),
            None => Ok(call),
        }
    }
}

/// All methods but `FetchX509SVID`, which [`WorkloadApiServer`] serves itself.
#[tonic::async_trait]
impl SpiffeWorkloadApi for WorkloadApi {
    async fn fetch_x509_bundles(
        &self,
        request: Request<X509BundlesRequest>,
    ) -> Result<Response<BoxStream<X509BundlesResponse>>, Status> {
        let call = self.open(request.extensions(), FETCH_X509_BUNDLES).await?;
        let state = Some((call, None));
        Ok(Response::new(Box::pin(stream::unfold(
            state,
            async |state| {
                let (mut call, sent) = state?;
                loop {
                    let update = call.next().await;
                    let registered = has_identity(&update);
                    if !registered && !call.api.options.allow_unauthenticated_verifiers {
                        return Some((Err(call.refuse()), None));
                    }
                    let response = compose::x509_bundles(&update, registered);
                    if sent.as_ref() != Some(&response) {
                        return Some((Ok(response.clone()), Some((call, Some(response)))));
                    }
                }
            },
        ))))
    }

    async fn fetch_jwtsvid(
        &self,
        _: Request<JwtsvidRequest>,
    ) -> Result<Response<JwtsvidResponse>, Status> {
        Err(Status::unimplemented(
            "fetching JWT-SVIDs is not implemented",
        ))
    }

    async fn fetch_jwt_bundles(
        &self,
        _: Request<JwtBundlesRequest>,
    ) -> Result<Response<BoxStream<JwtBundlesResponse>>, Status> {
        Err(Status::unimplemented(
            "fetching JWT bundles is not implemented",
        ))
    }

    async fn validate_jwtsvid(
        &self,
        _: Request<ValidateJwtsvidRequest>,
    ) -> Result<Response<ValidateJwtsvidResponse>, Status> {
        Err(Status::unimplemented(
            "validating JWT-SVIDs is not implemented",
        ))
    }

    async fn fetch_witsvid(
        &self,
        _: Request<WitsvidRequest>,
    ) -> Result<Response<BoxStream<WitsvidResponse>>, Status> {
        Err(Status::unimplemented(
            "fetching WIT-SVIDs is not implemented",
        ))
    }

    async fn fetch_wit_bundles(
        &self,
        _: Request<WitBundlesRequest>,
    ) -> Result<Response<BoxStream<WitBundlesResponse>>, Status> {
        Err(Status::unimplemented(
            "fetching WIT bundles is not implemented",
        ))
    }
}

/// One attested call that follows the cache.
#[derive(Debug)]
struct Call {
    api: Arc<Inner>,
    caller: Arc<Caller>,
    selectors: SelectorSet,
    /// The attestors that could not tell about the caller.
    failures: Vec<AttestorFailure>,
    subscription: Subscription,
    method: &'static str,
    /// Whether the current update has not been looked at.
    fresh: bool,
}

impl Call {
    /// Returns the current update first, then each newer one.
    async fn next(&mut self) -> Arc<WorkloadUpdate> {
        if !std::mem::take(&mut self.fresh) {
            self.subscription.changed().await;
        }
        self.subscription.borrow()
    }

    /// What the caller is told when it may have an identity that only a failed attestor could vouch for. Bundles do not wait for
    /// that where everybody may have them, nor when the agent asks itself whether it is healthy.
    fn incomplete(&self) -> Option<Status> {
        let is_served_anyway = self.method == FETCH_X509_BUNDLES
            && (self.caller.is_agent() || self.api.options.allow_unauthenticated_verifiers);
        if is_served_anyway || !is_incomplete(&self.api.cache, &self.selectors, &self.failures) {
            return None;
        }
        tracing::error!(
            subsystem_name = SUBSYSTEM,
            service = SERVICE,
            method = self.method,
            pid = self.caller.pid(),
            error = describe(&self.failures),
            "Workload attestation is incomplete"
        );
        Some(incomplete(&self.failures))
    }

    /// Logs that the caller has no identity, and returns what it is told.
    fn refuse(&self) -> Status {
        if let Some(status) = self.incomplete() {
            return status;
        }
        if !self.caller.is_agent() {
            let selectors = loggable(&self.selectors, &self.api.options.log_selectors);
            tracing::error!(
                subsystem_name = SUBSYSTEM,
                service = SERVICE,
                method = self.method,
                pid = self.caller.pid(),
                registered = false,
                selectors,
                "No identity issued"
            );
        }
        no_identity_issued()
    }

    fn log_fetched(&self, update: &WorkloadUpdate) {
        if !tracing::enabled!(tracing::Level::DEBUG) || self.caller.is_agent() {
            return;
        }
        let entitlement = Entitlement::of(update);
        let now = self.api.clock.now();
        for (id, not_after) in entitlement.svids() {
            tracing::debug!(
                subsystem_name = SUBSYSTEM,
                service = SERVICE,
                method = self.method,
                pid = self.caller.pid(),
                registered = true,
                spiffe_id = %id,
                count = entitlement.len(),
                ttl = seconds_until(not_after, now),
                "Fetched X.509 SVID"
            );
        }
    }
}

fn log_failed_attestation(error: &AttestWorkloadError, caller: &Caller, method: &'static str) {
    tracing::error!(
        subsystem_name = SUBSYSTEM,
        service = SERVICE,
        method,
        pid = caller.pid(),
        error = %chain(error),
        "Workload attestation failed"
    );
}

/// Joins the selectors that may be logged; `None` when the operator has not named any.
fn loggable(selectors: &SelectorSet, allowed: &[String]) -> Option<String> {
    if allowed.is_empty() {
        return None;
    }
    let texts: Vec<_> = selectors
        .iter()
        .map(ToString::to_string)
        .filter(|text| {
            allowed.iter().any(|allowed| {
                text.strip_prefix(allowed.as_str())
                    .is_some_and(|rest| rest.is_empty() || rest.starts_with(':'))
            })
        })
        .collect();
    Some(texts.join(","))
}

fn seconds_until(end: SystemTime, now: SystemTime) -> f64 {
    match end.duration_since(now) {
        Ok(left) => left.as_secs_f64(),
        Err(past) => -past.duration().as_secs_f64(),
    }
}

const SUBSYSTEM: &str = "endpoints";
const SERVICE: &str = "WorkloadAPI";
const FETCH_X509_BUNDLES: &str = "FetchX509Bundles";

#[cfg(test)]
mod tests;
