//! One step of an agent: from what it holds to what it is to hold.

use std::iter::Peekable;
use std::sync::Arc;

use finial_datastore::Revision;
use finial_proto::convert;
use finial_proto::convert::time::to_unix;
use finial_proto::pb::finial::sync::v1::{FollowResponse, Open};
use prost::Message as _;
use sha2::{Digest as _, Sha256};
use spiffe_types::bundle::Bundle;
use spiffe_types::entry::{Entry, EntryId};
use spiffe_types::id::TrustDomain;

use super::HEARTBEAT;
use crate::registry::View;

/// One step.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Step {
    /// The revision the agent holds before.
    from: Revision,
    /// The revision the agent holds afterwards.
    to: Revision,
    /// Whether everything not named is gone.
    full: bool,
    bundle: Option<Arc<Bundle>>,
    federated: Vec<Arc<Bundle>>,
    removed_trust_domains: Vec<TrustDomain>,
    entries: Vec<Arc<Entry>>,
    removed_entries: Vec<EntryId>,
}

impl Step {
    /// The first step of a stream: `parted` is what this server told the agent last, if it knows.
    pub(super) fn first(open: &Open, view: &View, parted: Option<View>) -> Self {
        let from = Revision(open.revision);
        if open.digest.is_empty() {
            return Self::full(view, from);
        }
        if open.digest == digest(&view.entries) {
            return Self::resumed(view, from);
        }
        match parted {
            Some(held) if held.revision == from && open.digest == digest(&held.entries) => {
                Self::between(&held, view)
            }
            _ => Self::full(view, from),
        }
    }

    /// Everything.
    pub(super) fn full(view: &View, from: Revision) -> Self {
        Self {
            full: true,
            bundle: view.bundle.as_ref().map(|held| Arc::clone(&held.bundle)),
            federated: view
                .federated
                .values()
                .map(|held| Arc::clone(&held.bundle))
                .collect(),
            entries: view.entries.to_vec(),
            ..Self::empty(from, view.revision)
        }
    }

    /// What changed between two views.
    pub(super) fn between(held: &View, view: &View) -> Self {
        let mut step = Self::empty(held.revision, view.revision);
        if held.bundle != view.bundle {
            step.bundle = view.bundle.as_ref().map(|held| Arc::clone(&held.bundle));
        }
        for (trust_domain, stamped) in &view.federated {
            if held.federated.get(trust_domain) != Some(stamped) {
                step.federated.push(Arc::clone(&stamped.bundle));
            }
        }
        let gone = held.federated.keys();
        let gone = gone.filter(|trust_domain| !view.federated.contains_key(*trust_domain));
        step.removed_trust_domains.extend(gone.cloned());

        // Both lists are ordered by id.
        let mut before = held.entries.iter().peekable();
        for entry in view.entries.iter() {
            while let Some(gone) = before.next_if(|other| other.id < entry.id) {
                step.removed_entries.push(gone.id.clone());
            }
            let known = before.next_if(|other| other.id == entry.id);
            if known.is_none_or(|known| !Arc::ptr_eq(known, entry) && known != entry) {
                step.entries.push(Arc::clone(entry));
            }
        }
        step.removed_entries
            .extend(before.map(|gone| gone.id.clone()));
        step
    }

    /// The agent holds the entries of `view` already. Then it federates with the same trust domains too: an entry that
    /// changed has another revision number. Only bundles may have changed.
    fn resumed(view: &View, from: Revision) -> Self {
        let newer = |changed_at: Revision| changed_at > from;
        Self {
            bundle: view
                .bundle
                .as_ref()
                .filter(|held| newer(held.changed_at))
                .map(|held| Arc::clone(&held.bundle)),
            federated: view
                .federated
                .values()
                .filter(|held| newer(held.changed_at))
                .map(|held| Arc::clone(&held.bundle))
                .collect(),
            ..Self::empty(from, view.revision)
        }
    }

    /// Nothing but a revision.
    pub(super) fn empty(from: Revision, to: Revision) -> Self {
        Self {
            from,
            to,
            full: false,
            bundle: None,
            federated: Vec::new(),
            removed_trust_domains: Vec::new(),
            entries: Vec::new(),
            removed_entries: Vec::new(),
        }
    }

    /// The messages of this step, each made when it is asked for: at least one, each about [`PART_BYTES`] at most.
    pub(super) fn into_messages(self) -> impl Iterator<Item = FollowResponse> + Send {
        let bundle = self.bundle.into_iter().map(Item::Bundle);
        let federated = self.federated.into_iter().map(Item::Federated);
        let gone = self
            .removed_trust_domains
            .into_iter()
            .map(Item::RemovedTrustDomain);
        let entries = self.entries.into_iter().map(Item::Entry);
        let removed = self.removed_entries.into_iter().map(Item::RemovedEntry);
        let items = bundle
            .chain(federated)
            .chain(gone)
            .chain(removed)
            .chain(entries);
        Messages {
            items: items.peekable(),
            from: self.from,
            to: self.to,
            full: self.full,
            done: false,
        }
    }
}

/// What names a set of entries, which are ordered by id; nothing for none.
pub(super) fn digest(entries: &[Arc<Entry>]) -> Vec<u8> {
    if entries.is_empty() {
        return Vec::new();
    }
    let mut hash = Sha256::new();
    for entry in entries {
        hash.update(entry.id.as_str());
        hash.update([0]);
        hash.update(entry.revision_number.to_be_bytes());
        hash.update(to_unix(entry.created_at).to_be_bytes());
    }
    hash.finalize().to_vec()
}

enum Item {
    Bundle(Arc<Bundle>),
    Federated(Arc<Bundle>),
    RemovedTrustDomain(TrustDomain),
    Entry(Arc<Entry>),
    RemovedEntry(EntryId),
}

struct Messages<I: Iterator<Item = Item>> {
    items: Peekable<I>,
    from: Revision,
    to: Revision,
    full: bool,
    done: bool,
}

impl<I: Iterator<Item = Item>> Iterator for Messages<I> {
    type Item = FollowResponse;

    fn next(&mut self) -> Option<FollowResponse> {
        if self.done {
            return None;
        }
        let mut message = FollowResponse {
            full: std::mem::take(&mut self.full),
            heartbeat_interval_ms: u32::try_from(HEARTBEAT.as_millis()).unwrap_or(u32::MAX),
            ..FollowResponse::default()
        };
        let mut size = 0;
        while size < PART_BYTES
            && let Some(item) = self.items.next()
        {
            size += FIELD_BYTES + item.add_to(&mut message);
        }
        self.done = self.items.peek().is_none();
        message.more = !self.done;
        message.revision = if self.done { self.to.0 } else { self.from.0 };
        Some(message)
    }
}

impl Item {
    /// Adds the item and returns how many bytes it has.
    fn add_to(self, message: &mut FollowResponse) -> usize {
        match self {
            Self::Bundle(bundle) => {
                let bundle = convert::bundle::to_pb(&bundle);
                let size = bundle.encoded_len();
                message.bundle = Some(bundle);
                size
            }
            Self::Federated(bundle) => {
                let bundle = convert::bundle::to_pb(&bundle);
                let size = bundle.encoded_len();
                message.federated_bundles.push(bundle);
                size
            }
            Self::RemovedTrustDomain(trust_domain) => {
                let size = trust_domain.as_str().len();
                message.removed_trust_domains.push(trust_domain.to_string());
                size
            }
            Self::Entry(entry) => {
                let entry = convert::entry::to_pb(&entry);
                let size = entry.encoded_len();
                message.entries.push(entry);
                size
            }
            Self::RemovedEntry(id) => {
                let size = id.as_str().len();
                message.removed_entry_ids.push(id.to_string());
                size
            }
        }
    }
}

/// A message is full when it has so many bytes. The last item may go beyond.
const PART_BYTES: usize = 1 << 20;

/// A field's tag and length, at most.
const FIELD_BYTES: usize = 6;
