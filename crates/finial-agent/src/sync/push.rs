//! finial's push stream, as the agent follows it.
//!
//! The stream is resumed, not restarted: the agent opens it with the revision and the digest of what it holds. A step may come
//! in parts; it is applied as a whole, with the part that moves the revision. What is applied and settled (SVIDs fetched,
//! workloads told) is acknowledged. Silence beyond two heartbeats means that the state is unknown.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use finial_proto::convert;
use finial_proto::pb::finial::sync::v1 as sync_api;
use finial_proto::pb::finial::sync::v1::follow_request::Step;
use finial_proto::pb::finial::sync::v1::sync_client::SyncClient;
use spiffe_types::bundle::Bundle;
use spiffe_types::entry::{Entry, EntryId};
use spiffe_types::id::TrustDomain;
use tokio::sync::mpsc;
use tokio::time::Instant;
use tokio_stream::wrappers::ReceiverStream;

use super::{
    Mode, RPC_TIMEOUT, SyncError, Synchronizer, for_workloads, read_entries, read_federated,
    read_ids,
};
use crate::cache::Change;

impl Synchronizer {
    /// Follows the stream until it breaks. What was applied stays, and the next call resumes after it.
    pub(super) async fn follow(&mut self) -> Result<Infallible, SyncError> {
        let mut redialled = self.parts.link.dialled();
        let mut settled = self.parts.cache.settled();
        let (requests, receiver) = mpsc::channel(REQUESTS);
        send(&requests, Step::Open(self.open()));
        let mut client =
            SyncClient::new(self.parts.link.channel()).max_decoding_message_size(MAX_MESSAGE_BYTES);
        let answers =
            tokio::time::timeout(RPC_TIMEOUT, client.follow(ReceiverStream::new(receiver)));
        let mut answers = answers
            .await
            .map_err(|_elapsed| SyncError::Silent {
                silence: RPC_TIMEOUT,
            })?
            .map_err(SyncError::rpc(FOLLOW))?
            .into_inner();

        let mut step = PartialStep::default();
        let mut announced = false;
        let mut acknowledged = 0;
        let mut silence = RPC_TIMEOUT;
        let mut deadline = Instant::now() + silence;
        loop {
            tokio::select! {
                // First: once the new SVID is used, the server ends the streams of the one before.
                biased;
                () = redialled.wait() => return Err(SyncError::Redialled),
                message = answers.message() => {
                    let message = message.map_err(SyncError::rpc(FOLLOW))?.ok_or(SyncError::Closed)?;
                    if message.heartbeat_interval_ms > 0 {
                        silence = Duration::from_millis(message.heartbeat_interval_ms.into()) * 2;
                    }
                    deadline = Instant::now() + silence;
                    if !announced {
                        announced = true;
                        tracing::info!(subsystem_name = "manager", mode = Mode::Push.as_str(), "Synchronizing by push stream");
                    }
                    let (more, revision) = (message.more, message.revision);
                    step.add(message)?;
                    if !more {
                        self.apply_step(std::mem::take(&mut step), revision).await;
                    }
                    self.acknowledge(&requests, *settled.borrow_and_update(), &mut acknowledged);
                }
                changed = settled.changed() => {
                    if changed.is_ok() {
                        self.acknowledge(&requests, *settled.borrow_and_update(), &mut acknowledged);
                    }
                }
                () = tokio::time::sleep_until(deadline) => return Err(SyncError::Silent { silence }),
            }
        }
    }

    fn open(&self) -> sync_api::Open {
        sync_api::Open {
            revision: self.held.revision,
            digest: self.held.digest().into(),
            agent_version: self.parts.version.to_owned(),
        }
    }

    async fn apply_step(&mut self, step: PartialStep, revision: u64) {
        self.held.revision = revision;
        if step.is_empty() {
            self.mark_synced();
            return;
        }
        if step.full {
            self.held.entries.clear();
        }
        for id in &step.removed {
            self.held.entries.remove(id);
        }
        for (id, entry) in &step.entries {
            self.held.entries.insert(id.clone(), Arc::clone(entry));
        }
        let mut removed = step.removed;
        // An entry that is now for an external store is gone for workloads.
        removed.extend(
            step.entries
                .values()
                .filter(|entry| entry.store_svid)
                .map(|entry| entry.id.clone()),
        );
        self.apply(Change {
            full: step.full,
            entries: for_workloads(step.entries.values()),
            removed,
            bundle: step.bundle,
            federated: step.federated,
            removed_domains: step.removed_domains,
            revision: Some(revision),
        })
        .await;
    }

    /// Tells the server how far the agent has got: never beyond what it holds, and each revision once.
    fn acknowledge(
        &self,
        requests: &mpsc::Sender<sync_api::FollowRequest>,
        settled: u64,
        acknowledged: &mut u64,
    ) {
        let revision = settled.min(self.held.revision);
        if self.status.borrow().last_sync.is_none() || revision <= *acknowledged {
            return;
        }
        if send(requests, Step::Applied(sync_api::Applied { revision })) {
            *acknowledged = revision;
        }
    }
}

/// The parts of one step that have come so far.
#[derive(Debug, Default)]
struct PartialStep {
    full: bool,
    entries: BTreeMap<EntryId, Arc<Entry>>,
    removed: Vec<EntryId>,
    bundle: Option<Bundle>,
    federated: Vec<Bundle>,
    removed_domains: Vec<TrustDomain>,
}

impl PartialStep {
    fn add(&mut self, message: sync_api::FollowResponse) -> Result<(), SyncError> {
        if message.full {
            *self = Self {
                full: true,
                ..Self::default()
            };
        }
        for entry in read_entries(message.entries) {
            self.entries.insert(entry.id.clone(), entry);
        }
        self.removed.extend(read_ids(&message.removed_entry_ids));
        if let Some(bundle) = message.bundle {
            let bundle = convert::bundle::from_own_server(&bundle)
                .map_err(|source| SyncError::Bundle { source })?;
            self.bundle = Some(bundle);
        }
        self.federated
            .extend(message.federated_bundles.iter().filter_map(read_federated));
        let domains = message.removed_trust_domains.iter();
        self.removed_domains
            .extend(domains.filter_map(|name| TrustDomain::parse(name).ok()));
        Ok(())
    }

    /// Whether nothing changes but the revision.
    fn is_empty(&self) -> bool {
        !self.full
            && self.entries.is_empty()
            && self.removed.is_empty()
            && self.bundle.is_none()
            && self.federated.is_empty()
            && self.removed_domains.is_empty()
    }
}

/// Whether the message is on its way. A full channel is no loss: a later acknowledgement says more.
fn send(requests: &mpsc::Sender<sync_api::FollowRequest>, step: Step) -> bool {
    requests
        .try_send(sync_api::FollowRequest { step: Some(step) })
        .is_ok()
}

const REQUESTS: usize = 8;
/// What a stream that breaks has failed to do, in the words that SPIRE's agent has for its polls and that scripts look for.
const FOLLOW: &str = "fetch authorized entries";
/// Steps come cut into small messages; this only bounds what a broken server can make the agent hold at once.
const MAX_MESSAGE_BYTES: usize = 64 << 20;

#[cfg(test)]
mod tests {
    use finial_proto::convert::entry::to_pb;

    use super::*;
    use crate::cache::fixtures::{entry, revised};

    #[test]
    fn parts_add_up_and_a_new_full_set_starts_over() {
        let mut step = PartialStep::default();
        let part = |entries: &[&Entry], full| sync_api::FollowResponse {
            full,
            more: true,
            entries: entries.iter().map(|entry| to_pb(entry)).collect(),
            ..sync_api::FollowResponse::default()
        };
        let (a, b) = (entry("a", &["unix:uid:0"]), entry("b", &["unix:uid:0"]));
        step.add(part(&[&a], true)).unwrap();
        step.add(part(&[&b, &revised(&a, 3)], false)).unwrap();
        assert!(step.full);
        assert_eq!(step.entries.len(), 2);
        assert_eq!(step.entries[&a.id].revision_number, 3);

        step.add(part(&[&b], true)).unwrap();
        assert_eq!(step.entries.keys().collect::<Vec<_>>(), [&b.id]);
    }

    #[test]
    fn an_entry_without_selectors_is_skipped() {
        let mut step = PartialStep::default();
        let entries = vec![
            to_pb(&entry("bare", &[])),
            to_pb(&entry("good", &["unix:uid:0"])),
        ];
        step.add(sync_api::FollowResponse {
            entries,
            ..sync_api::FollowResponse::default()
        })
        .unwrap();

        assert_eq!(step.entries.len(), 1);
    }
}
