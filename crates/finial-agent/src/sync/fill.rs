//! Gets the SVIDs that entries need: as soon as an entry comes, and again when the time of its SVID has come.

use std::collections::HashSet;
use std::convert::Infallible;
use std::num::NonZeroUsize;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use finial_pki::csr;
use finial_pki::key::KeyKind;
use finial_pki::software::SoftwareKey;
use finial_proto::pb::spire::api::server::svid::v1 as svid_api;
use finial_proto::pb::spire::api::server::svid::v1::svid_client::SvidClient;
use finial_runtime::backoff::Backoff;
use finial_runtime::clock::SharedClock;
use finial_runtime::log::chain;
use spiffe_types::entry::EntryId;
use spiffe_types::svid::x509::X509Svid;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;
use tokio::time::Instant;

use super::{RPC_TIMEOUT, SyncError};
use crate::cache::{Cache, IssuedSvid, KeyDer, NextWork, Work};
use crate::identity::rotation::Rotation;
use crate::link::Link;

/// Fills the cache with SVIDs.
#[derive(Debug)]
pub(crate) struct Filler {
    link: Link,
    cache: Cache,
    clock: SharedClock,
    key_kind: KeyKind,
    rotation: Rotation,
    limit: usize,
    backoff: Backoff,
}

impl Filler {
    pub(crate) fn new(
        link: Link,
        cache: Cache,
        clock: SharedClock,
        key_kind: KeyKind,
        rotation: Rotation,
    ) -> Self {
        Self {
            link,
            cache,
            clock,
            key_kind,
            rotation,
            limit: largest_batch(key_kind),
            backoff: Backoff::new(RETRY_START, RETRY_MAX, None),
        }
    }

    /// Fills until the server wants the agent to attest again or to stop.
    pub(crate) async fn run(&mut self) -> Result<Infallible, SyncError> {
        loop {
            self.wait().await;
            self.pass().await?;
        }
    }

    /// Waits until an entry needs an SVID. The wall clock may jump, so a long wait is taken in steps.
    async fn wait(&self) {
        loop {
            let NextWork::Later { due, retry } = self.cache.next_work() else {
                return;
            };
            let mut wait = LONGEST_SLEEP;
            if let Some(due) = due {
                wait = wait.min(due.duration_since(self.clock.now()).unwrap_or_default());
            }
            if let Some(retry) = retry {
                wait = wait.min(retry.saturating_duration_since(Instant::now()));
            }
            if wait.is_zero() {
                return;
            }
            tokio::select! {
                () = tokio::time::sleep(wait) => {}
                () = self.cache.wanted() => {}
            }
        }
    }

    /// Has one batch signed. A failure puts its entries off; it is an error only when the agent has to act on it.
    async fn pass(&mut self) -> Result<(), SyncError> {
        let work = self.cache.take_work(self.clock.now(), self.limit);
        if work.is_empty() {
            return Ok(());
        }
        tracing::debug!(
            subsystem_name = "manager",
            cache_type = "workload",
            count = work.len(),
            limit = self.limit,
            "Renewing stale entries"
        );
        work.iter().for_each(log_request);
        let mut open: HashSet<EntryId> = work.iter().map(|work| work.entry.id.clone()).collect();
        let outcome = self.sign(work).await;
        if let Ok(signed) = &outcome {
            for (work, _) in signed {
                open.remove(&work.entry.id);
            }
        }
        let open: Vec<_> = open.into_iter().collect();
        match outcome {
            Ok(signed) => {
                self.backoff.reset();
                self.limit = (self.limit * 2).min(largest_batch(self.key_kind));
                self.cache.put(signed);
                self.cache.defer(&open, Instant::now() + RETRY_ENTRY);
                Ok(())
            }
            Err(error) if error.verdict().is_some() => Err(error),
            Err(error) => {
                if !error.is_connection_lost() {
                    // The batch may have been too much; a server that is away says nothing about that.
                    self.limit = (self.limit / 2).max(1);
                }
                let wait = self.backoff.next(&mut rand::rng()).unwrap_or(RETRY_MAX);
                tracing::error!(subsystem_name = "manager", error = %chain(&error), retry_in = ?wait, "SVID sync failed");
                self.cache.defer(&open, Instant::now() + wait);
                Ok(())
            }
        }
    }

    /// Makes a key and a request for each entry, has them signed, and keeps the results that are what was asked for.
    async fn sign(&self, work: Vec<Work>) -> Result<Vec<(Work, Arc<IssuedSvid>)>, SyncError> {
        let kind = self.key_kind;
        let is_slow = matches!(kind, KeyKind::Rsa2048 | KeyKind::Rsa4096);
        let requests = spread(work, is_slow, move |work| prepare(work, kind)).await;
        let params = requests
            .iter()
            .map(|request| svid_api::NewX509svidParams {
                entry_id: request.work.entry.id.to_string(),
                csr: request.csr.clone().into(),
            })
            .collect();
        let mut message = tonic::Request::new(svid_api::BatchNewX509svidRequest { params });
        message.set_timeout(RPC_TIMEOUT);
        let results = SvidClient::new(self.link.channel())
            .batch_new_x509svid(message)
            .await
            .map_err(SyncError::rpc("batch new X509 SVID(s)"))?
            .into_inner()
            .results;
        let (rotation, now) = (self.rotation, self.clock.now());
        let answered: Vec<_> = requests.into_iter().zip(results).collect();
        Ok(spread(answered, false, move |(request, result)| {
            accept(request, result, rotation, now)
        })
        .await)
    }
}

/// A request for one entry, and the key it is for.
struct Request {
    work: Work,
    key: SoftwareKey,
    csr: Vec<u8>,
}

fn prepare(work: Work, kind: KeyKind) -> Option<Request> {
    let key = SoftwareKey::generate(kind)
        .inspect_err(|error| log_failure(&work, &chain(error).to_string()))
        .ok()?;
    let csr = csr::create_with_software(&key, Some(&work.entry.spiffe_id), &[])
        .inspect_err(|error| log_failure(&work, &chain(error).to_string()))
        .ok()?;
    Some(Request { work, key, csr })
}

/// Takes a result only if it is for the entry's identity and for our key.
fn accept(
    request: Request,
    result: svid_api::batch_new_x509svid_response::Result,
    rotation: Rotation,
    now: SystemTime,
) -> Option<(Work, Arc<IssuedSvid>)> {
    let Request { work, key, .. } = request;
    let status = result.status.unwrap_or_default();
    if status.code != 0 {
        log_failure(&work, &status.message);
        return None;
    }
    let chain_der = result.svid.map(|svid| svid.cert_chain).unwrap_or_default();
    let svid = X509Svid::parse(chain_der)
        .inspect_err(|error| log_failure(&work, &chain(error).to_string()))
        .ok()?;
    if *svid.id() != work.entry.spiffe_id {
        log_failure(&work, &format!("the SVID names {}", svid.id()));
        return None;
    }
    if svid.public_key_der().as_ref() != key.public_key().spki_der() {
        log_failure(&work, "the SVID is for another key");
        return None;
    }
    if rotation.falls_back(svid.not_before(), svid.not_after()) {
        tracing::warn!(
            subsystem_name = "manager",
            entry_id = %work.entry.id,
            spiffe_id = %svid.id(),
            "X509 SVID lifetime isn't long enough to guarantee the availability_target, falling back to the default rotation strategy"
        );
    }
    let renew_at = rotation.renew_at(svid.not_before(), svid.not_after(), now, &mut rand::rng());
    let issued = IssuedSvid::new(&svid, KeyDer::new(key.pkcs8_der()), renew_at);
    Some((work, Arc::new(issued)))
}

/// Runs `act` on each item, in order, on as many blocking threads as there are processors; a few quick items right here. Items
/// without a result are left out.
async fn spread<T, R, F>(items: Vec<T>, is_slow: bool, act: F) -> Vec<R>
where
    T: Send + 'static,
    R: Send + 'static,
    F: Fn(T) -> Option<R> + Clone + Send + 'static,
{
    if !is_slow && items.len() <= QUICK_ITEMS {
        return items.into_iter().filter_map(act).collect();
    }
    let threads = std::thread::available_parallelism().map_or(1, NonZeroUsize::get);
    let size = items.len().div_ceil(threads).max(1);
    let mut items = items.into_iter();
    let mut running = Vec::with_capacity(threads);
    loop {
        let chunk: Vec<T> = items.by_ref().take(size).collect();
        if chunk.is_empty() {
            break;
        }
        let act = act.clone();
        running.push(tokio::task::spawn_blocking(move || {
            chunk.into_iter().filter_map(act).collect::<Vec<R>>()
        }));
    }
    let mut results = Vec::new();
    for task in running {
        results.extend(task.await.unwrap_or_default());
    }
    results
}

fn log_request(work: &Work) {
    let (entry_id, spiffe_id) = (&work.entry.id, &work.entry.spiffe_id);
    match work.expires_at {
        None => {
            tracing::info!(subsystem_name = "manager", entry_id = %entry_id, spiffe_id = %spiffe_id, "Creating X509-SVID");
        }
        Some(expires_at) => {
            let expires_at = OffsetDateTime::from(expires_at)
                .format(&Rfc3339)
                .unwrap_or_default();
            tracing::info!(
                subsystem_name = "manager",
                entry_id = %entry_id,
                expires_at,
                spiffe_id = %spiffe_id,
                "Renewing X509-SVID"
            );
        }
    }
}

fn log_failure(work: &Work, error: &str) {
    tracing::warn!(
        subsystem_name = "manager",
        entry_id = %work.entry.id,
        spiffe_id = %work.entry.spiffe_id,
        error,
        "Failed to get X509-SVID"
    );
}

/// As many as a server signs at once; fewer where making the keys takes long.
const fn largest_batch(kind: KeyKind) -> usize {
    match kind {
        KeyKind::EcP256 | KeyKind::EcP384 => 500,
        KeyKind::Rsa2048 | KeyKind::Rsa4096 => 32,
    }
}

const QUICK_ITEMS: usize = 4;
const RETRY_START: Duration = Duration::from_millis(500);
const RETRY_MAX: Duration = Duration::from_secs(15);
const RETRY_ENTRY: Duration = Duration::from_secs(5);
const LONGEST_SLEEP: Duration = Duration::from_secs(30);
