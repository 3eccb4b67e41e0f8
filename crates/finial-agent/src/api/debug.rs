//! `spire.agent.debug.v1.Debug`, on the admin socket.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use finial_pki::x509::{distinguished_name, verify_svid};
use finial_proto::convert;
use finial_proto::pb::spire::agent::debug::v1 as pb;
use finial_proto::pb::spire::agent::debug::v1::debug_server::Debug as DebugApi;
use finial_runtime::clock::SharedClock;
use finial_runtime::log::chain;
use pb::get_info_response::Cert;
use spiffe_types::bundle::{Bundle, X509Authority};
use spiffe_types::svid::x509::X509Svid;
use tokio::sync::watch;
use tokio::time::Instant;
use tonic::{Request, Response, Status};

use crate::cache::Cache;
use crate::identity::Identity;
use crate::sync::SyncStatus;

/// Tells how the agent is doing.
#[derive(Debug)]
pub struct DebugService {
    cache: Cache,
    identity: Arc<Identity>,
    sync: watch::Receiver<SyncStatus>,
    clock: SharedClock,
    started: Instant,
    cached: Mutex<Option<(Instant, pb::GetInfoResponse)>>,
}

impl DebugService {
    /// Creates the service of an agent that starts now.
    pub fn new(
        cache: Cache,
        identity: Arc<Identity>,
        sync: watch::Receiver<SyncStatus>,
        clock: SharedClock,
    ) -> Self {
        Self {
            cache,
            identity,
            sync,
            clock,
            started: Instant::now(),
            cached: Mutex::new(None),
        }
    }

    fn lock(&self) -> MutexGuard<'_, Option<(Instant, pb::GetInfoResponse)>> {
        self.cached.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn collect(&self, now: Instant) -> Result<pb::GetInfoResponse, Status> {
        let bundle = self.cache.bundle();
        let current = self.identity.current();
        let svid =
            verify_svid(current.svid.chain(), &bundle, self.clock.now()).map_err(|error| {
                Status::internal(format!("failed to verify agent SVID: {}", chain(&error)))
            })?;
        let count = |number: usize| i32::try_from(number).unwrap_or(i32::MAX);
        let svids = count(self.cache.counts().x509_svids);
        let last_sync = self.sync.borrow().last_sync;
        let uptime = now.duration_since(self.started).as_secs();
        #[expect(deprecated, reason = "older clients read this field")]
        Ok(pb::GetInfoResponse {
            svid_chain: describe(&svid, &bundle),
            uptime: i32::try_from(uptime).unwrap_or(i32::MAX),
            svids_count: svids,
            last_sync_success: last_sync.map_or(NEVER, convert::time::to_unix),
            cached_x509_svids_count: svids,
            cached_jwt_svids_count: 0,
            cached_svidstore_x509_svids_count: 0,
        })
    }
}

#[tonic::async_trait]
impl DebugApi for DebugService {
    async fn get_info(
        &self,
        _: Request<pb::GetInfoRequest>,
    ) -> Result<Response<pb::GetInfoResponse>, Status> {
        let now = Instant::now();
        let mut cached = self.lock();
        if let Some((at, info)) = &*cached
            && now.duration_since(*at) < CACHED_FOR
        {
            return Ok(Response::new(info.clone()));
        }
        let info = self.collect(now)?;
        *cached = Some((now, info.clone()));
        Ok(Response::new(info))
    }
}

/// The chain up to the authority in the bundle that ends it.
fn describe(svid: &X509Svid, bundle: &Bundle) -> Vec<Cert> {
    let mut certificates = svid
        .chain()
        .iter()
        .filter_map(|der| X509Authority::parse(der.clone(), false).ok());
    let leaf = Cert {
        id: Some(convert::id::to_pb(svid.id())),
        expires_at: convert::time::to_unix(svid.not_after()),
        subject: certificates
            .next()
            .map(|leaf| distinguished_name(leaf.subject_der()))
            .unwrap_or_default(),
    };
    let root = bundle
        .x509_authorities
        .iter()
        .find(|authority| Some(authority.id()) == svid.authority_key_id().as_ref())
        .cloned();
    let authorities = certificates.chain(root).map(|authority| Cert {
        id: Some(convert::id::to_pb(&bundle.trust_domain.id())),
        expires_at: convert::time::to_unix(authority.not_after()),
        subject: distinguished_name(authority.subject_der()),
    });
    std::iter::once(leaf).chain(authorities).collect()
}

/// Go's zero time in Unix seconds, which is what SPIRE's agent says before its first synchronization.
const NEVER: i64 = -62_135_596_800;
/// Whoever asks more often gets the last answer.
const CACHED_FOR: Duration = Duration::from_secs(5);
