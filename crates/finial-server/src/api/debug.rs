//! `spire.api.server.debug.v1.Debug`, on the admin socket.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use finial_datastore::{AgentFilter, EntryFilter, StoreError};
use finial_pki::x509::{distinguished_name, verify_svid};
use finial_proto::convert;
use finial_proto::pb::spire::api::server::debug::v1 as pb;
use finial_proto::pb::spire::api::server::debug::v1::debug_server::Debug as DebugApi;
use pb::get_info_response::Cert;
use spiffe_types::bundle::{Bundle, X509Authority};
use spiffe_types::svid::x509::X509Svid;
use tokio::time::Instant;
use tonic::{Request, Response, Status};

use super::{Services, status};

/// Tells how the server is doing.
#[derive(Debug)]
pub(crate) struct DebugService {
    services: Arc<Services>,
    cached: Mutex<Option<Answer>>,
}

type Answer = (Instant, pb::GetInfoResponse);

/// Counting a large store costs; whoever asks more often gets the last answer.
const CACHED_FOR: Duration = Duration::from_secs(5);

impl DebugService {
    pub(crate) fn new(services: Arc<Services>) -> Self {
        Self {
            services,
            cached: Mutex::new(None),
        }
    }

    fn cached(&self, now: Instant) -> Option<pb::GetInfoResponse> {
        self.lock()
            .as_ref()
            .filter(|(at, _)| now.duration_since(*at) < CACHED_FOR)
            .map(|(_, info)| info.clone())
    }

    fn lock(&self) -> MutexGuard<'_, Option<Answer>> {
        self.cached.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn collect(&self) -> Result<pb::GetInfoResponse, Status> {
        let store = &self.services.store;
        let counted =
            |message: &'static str| move |error: StoreError| status::internal(message, &error);
        let agents = store
            .count_agents(&AgentFilter::default())
            .await
            .map_err(counted("failed to count agents"))?;
        let entries = store
            .count_entries(&EntryFilter::default())
            .await
            .map_err(counted("failed to count entries"))?;
        let bundles = store
            .count_bundles()
            .await
            .map_err(counted("failed to count bundles"))?;
        let count = |number: u64| i32::try_from(number).unwrap_or(i32::MAX);
        Ok(pb::GetInfoResponse {
            svid_chain: self.svid_chain()?,
            uptime: 0,
            agents_count: count(agents),
            entries_count: count(entries),
            federated_bundles_count: count(bundles),
        })
    }

    fn svid_chain(&self) -> Result<Vec<Cert>, Status> {
        let bundle = self
            .services
            .registry
            .bundle(&self.services.trust_domain)
            .ok_or_else(|| status::not_found("trust domain bundle not found"))?;
        let chain = self.services.identity.chain();
        let svid = verify_svid(&chain, &bundle, self.services.clock.now())
            .map_err(|error| status::internal("failed verification against bundle", &error))?;
        Ok(describe(&svid, &bundle))
    }
}

#[tonic::async_trait]
impl DebugApi for DebugService {
    async fn get_info(
        &self,
        _request: Request<pb::GetInfoRequest>,
    ) -> Result<Response<pb::GetInfoResponse>, Status> {
        let now = Instant::now();
        let mut info = if let Some(info) = self.cached(now) {
            info
        } else {
            let info = self.collect().await?;
            *self.lock() = Some((now, info.clone()));
            info
        };
        let uptime = now.duration_since(self.services.started).as_secs();
        info.uptime = i32::try_from(uptime).unwrap_or(i32::MAX);
        Ok(Response::new(info))
    }
}

/// The chain up to the authority in the bundle that ends it.
fn describe(svid: &X509Svid, bundle: &Bundle) -> Vec<Cert> {
    let leaf = Cert {
        id: Some(convert::id::to_pb(svid.id())),
        expires_at: convert::time::to_unix(svid.not_after()),
        subject: svid.chain().first().map(subject).unwrap_or_default(),
    };
    let above = svid.chain().iter().skip(1).filter_map(authority);
    let root = bundle
        .x509_authorities
        .iter()
        .find(|authority| Some(authority.id()) == svid.authority_key_id().as_ref())
        .cloned();
    let authorities = above.chain(root).map(|authority| Cert {
        id: Some(convert::id::to_pb(&bundle.trust_domain.id())),
        expires_at: convert::time::to_unix(authority.not_after()),
        subject: distinguished_name(authority.subject_der()),
    });
    std::iter::once(leaf).chain(authorities).collect()
}

fn authority(der: &Bytes) -> Option<X509Authority> {
    X509Authority::parse(der.clone(), false).ok()
}

fn subject(der: &Bytes) -> String {
    authority(der).map_or_else(String::new, |certificate| {
        distinguished_name(certificate.subject_der())
    })
}
