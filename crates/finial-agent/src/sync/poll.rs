//! SPIRE's polling calls, for servers without a push stream.

use std::collections::BTreeMap;
use std::sync::Arc;

use finial_proto::convert;
use finial_proto::pb::spire::api::server::bundle::v1 as bundle_api;
use finial_proto::pb::spire::api::server::bundle::v1::bundle_client::BundleClient;
use finial_proto::pb::spire::api::server::entry::v1 as entry_api;
use finial_proto::pb::spire::api::server::entry::v1::entry_client::EntryClient;
use finial_proto::pb::spire::api::types;
use futures::{StreamExt as _, TryStreamExt as _};
use spiffe_types::bundle::Bundle;
use spiffe_types::entry::{Entry, EntryId};
use spiffe_types::id::TrustDomain;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Code;
use tonic::transport::Channel;

use super::{
    Mode, RPC_TIMEOUT, SyncError, Synchronizer, for_workloads, read_entries, read_federated,
};
use crate::cache::Change;

impl Synchronizer {
    /// Asks once for everything: entries, then the bundles they need.
    pub(super) async fn poll(&mut self) -> Result<(), SyncError> {
        let channel = self.parts.link.channel();
        let ask = async {
            let entries = match self.mode() {
                Mode::GetAuthorizedEntries => get_entries(channel.clone()).await?,
                Mode::Push | Mode::SyncAuthorizedEntries => {
                    self.sync_entries(channel.clone()).await?
                }
            };
            Ok::<_, SyncError>(entries)
        };
        self.held.entries = deadline("fetch authorized entries", ask).await?;
        let domains = self.held.federated_domains(&self.parts.trust_domain);
        let (bundle, federated) = deadline(
            "fetch bundle",
            fetch_bundles(channel, domains.into_iter().collect()),
        )
        .await?;
        self.apply(Change {
            full: true,
            entries: for_workloads(self.held.entries.values()),
            bundle: Some(bundle),
            federated,
            ..Change::default()
        })
        .await;
        Ok(())
    }

    /// Learns all revisions first, then asks for the entries that are new or have changed.
    async fn sync_entries(
        &self,
        channel: Channel,
    ) -> Result<BTreeMap<EntryId, Arc<Entry>>, SyncError> {
        let failed = || SyncError::rpc("fetch authorized entries");
        let (requests, receiver) = mpsc::channel(1);
        send(&requests, Some(output_mask()), Vec::new()).await;
        let mut client = EntryClient::new(channel).max_decoding_message_size(MAX_MESSAGE_BYTES);
        let mut answers = client
            .sync_authorized_entries(ReceiverStream::new(receiver))
            .await
            .map_err(failed())?
            .into_inner();
        let mut answer = answers
            .message()
            .await
            .map_err(failed())?
            .ok_or(SyncError::Closed)?;
        if answer.entry_revisions.is_empty() {
            return Ok(by_id(read_entries(answer.entries)));
        }

        let page_size = answer.entry_revisions.len();
        let mut entries = BTreeMap::new();
        let mut stale = Vec::new();
        loop {
            for revision in &answer.entry_revisions {
                self.sort_revision(revision, &mut entries, &mut stale);
            }
            if !answer.more {
                break;
            }
            answer = answers
                .message()
                .await
                .map_err(failed())?
                .ok_or(SyncError::Closed)?;
        }
        stale.sort_unstable();
        for page in stale.chunks(page_size) {
            let ids = page.iter().map(ToString::to_string).collect();
            send(&requests, None, ids).await;
            loop {
                let answer = answers
                    .message()
                    .await
                    .map_err(failed())?
                    .ok_or(SyncError::Closed)?;
                entries.extend(by_id(read_entries(answer.entries)));
                if !answer.more {
                    break;
                }
            }
        }
        Ok(entries)
    }

    /// Keeps what is current and remembers what has to be asked for. A stale entry is kept too, until its successor comes.
    fn sort_revision(
        &self,
        revision: &entry_api::EntryRevision,
        entries: &mut BTreeMap<EntryId, Arc<Entry>>,
        stale: &mut Vec<EntryId>,
    ) {
        let parsed = (
            EntryId::parse(&revision.id),
            u64::try_from(revision.revision_number),
        );
        let (Ok(id), Ok(number)) = parsed else {
            tracing::warn!(
                subsystem_name = "manager",
                entry_id = revision.id,
                revision_number = revision.revision_number,
                "Received malformed entry revision from SPIRE server; are the server and agent versions compatible?"
            );
            return;
        };
        if let Some(entry) = self.held.entries.get(&id) {
            entries.insert(id.clone(), Arc::clone(entry));
        }
        if self.held.is_stale(&id, number, revision.created_at) {
            stale.push(id);
        }
    }
}

async fn get_entries(channel: Channel) -> Result<BTreeMap<EntryId, Arc<Entry>>, SyncError> {
    let answer = EntryClient::new(channel)
        .max_decoding_message_size(MAX_MESSAGE_BYTES)
        .get_authorized_entries(entry_api::GetAuthorizedEntriesRequest {
            output_mask: Some(output_mask()),
        })
        .await
        .map_err(SyncError::rpc("fetch authorized entries"))?;
    Ok(by_id(read_entries(answer.into_inner().entries)))
}

/// The own bundle, and those of `domains` that the server has.
async fn fetch_bundles(
    channel: Channel,
    domains: Vec<TrustDomain>,
) -> Result<(Bundle, Vec<Bundle>), SyncError> {
    let client = BundleClient::new(channel);
    let own = client
        .clone()
        .get_bundle(bundle_api::GetBundleRequest { output_mask: None })
        .await
        .map_err(SyncError::rpc("fetch bundle"))?
        .into_inner();
    let own =
        convert::bundle::from_own_server(&own).map_err(|source| SyncError::Bundle { source })?;
    let federated: Vec<Option<Bundle>> = futures::stream::iter(domains)
        .map(|name| fetch_federated(client.clone(), name))
        .buffer_unordered(BUNDLES_AT_ONCE)
        .try_collect()
        .await?;
    Ok((own, federated.into_iter().flatten().collect()))
}

async fn fetch_federated(
    mut client: BundleClient<Channel>,
    name: TrustDomain,
) -> Result<Option<Bundle>, SyncError> {
    let request = bundle_api::GetFederatedBundleRequest {
        trust_domain: name.to_string(),
        output_mask: None,
    };
    match client.get_federated_bundle(request).await {
        Ok(answer) => Ok(read_federated(answer.get_ref())),
        Err(status) if status.code() == Code::NotFound => {
            tracing::warn!(subsystem_name = "manager", federated_bundle = %name, "Federated bundle not found");
            Ok(None)
        }
        Err(status) => Err(SyncError::rpc("fetch federated bundle")(status)),
    }
}

async fn deadline<T>(
    act: &'static str,
    call: impl Future<Output = Result<T, SyncError>>,
) -> Result<T, SyncError> {
    let late = || {
        SyncError::rpc(act)(tonic::Status::deadline_exceeded(
            "the server did not answer in time",
        ))
    };
    tokio::time::timeout(RPC_TIMEOUT, call)
        .await
        .unwrap_or_else(|_| Err(late()))
}

/// A receiver that is gone means that the stream has ended; its answer says why.
async fn send(
    requests: &mpsc::Sender<entry_api::SyncAuthorizedEntriesRequest>,
    output_mask: Option<types::EntryMask>,
    ids: Vec<String>,
) {
    let request = entry_api::SyncAuthorizedEntriesRequest { output_mask, ids };
    if requests.send(request).await.is_err() {
        tracing::debug!(
            subsystem_name = "manager",
            "Synchronization stream has ended"
        );
    }
}

fn by_id(entries: Vec<Arc<Entry>>) -> BTreeMap<EntryId, Arc<Entry>> {
    entries
        .into_iter()
        .map(|entry| (entry.id.clone(), entry))
        .collect()
}

/// The fields an agent has a use for.
fn output_mask() -> types::EntryMask {
    types::EntryMask {
        spiffe_id: true,
        selectors: true,
        federates_with: true,
        admin: true,
        downstream: true,
        revision_number: true,
        store_svid: true,
        hint: true,
        created_at: true,
        additional_attributes: true,
        ..types::EntryMask::default()
    }
}

const BUNDLES_AT_ONCE: usize = 10;
const MAX_MESSAGE_BYTES: usize = 256 << 20;
