//! The content of the cache and every rule that changes it. No locks, no clocks, no I/O: [`super::Cache`] brings those.

mod explain;

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;
use std::time::SystemTime;

use spiffe_types::bundle::Bundle;
use spiffe_types::entry::{Entry, EntryId};
use spiffe_types::id::TrustDomain;
use spiffe_types::selector::SelectorSet;
use tokio::sync::watch;
use tokio::time::Instant;

use super::bundles::Bundles;
use super::index::SelectorIndex;
use super::subscriber::{GroupId, Groups};
use super::work::{NO_REVISION, NextWork, Reason, Work, Worklist};
use super::{Change, Counts, EncodedOnce, Identity, IssuedSvid, WorkloadUpdate};

#[derive(Debug)]
struct Record {
    entry: Arc<Entry>,
    svid: Option<Arc<IssuedSvid>>,
    /// How many groups of subscribers match the entry.
    groups: usize,
    /// When the last of them left; orders eviction.
    left_at: u64,
}

#[derive(Debug)]
pub(super) struct State {
    records: HashMap<EntryId, Record>,
    index: SelectorIndex,
    groups: Groups,
    bundles: Bundles,
    work: Worklist,
    /// SVIDs nobody is subscribed to, oldest first.
    evictable: BTreeSet<(u64, EntryId)>,
    /// Entries without an SVID that nobody asks for and there was no room for.
    idle: BTreeSet<EntryId>,
    svids: usize,
    limit: usize,
    ticks: u64,
    revision: u64,
    /// The revision before the last step: what is reached while something of that step is still to be done.
    reached: u64,
    dirty: BTreeSet<GroupId>,
}

impl State {
    pub(super) fn new(trust_domain: TrustDomain, limit: usize) -> Self {
        Self {
            records: HashMap::new(),
            index: SelectorIndex::default(),
            groups: Groups::default(),
            bundles: Bundles::new(trust_domain),
            work: Worklist::default(),
            evictable: BTreeSet::new(),
            idle: BTreeSet::new(),
            svids: 0,
            limit,
            ticks: 0,
            revision: 0,
            reached: 0,
            dirty: BTreeSet::new(),
        }
    }

    pub(super) fn matching(&self, selectors: &SelectorSet) -> Vec<Arc<Entry>> {
        self.index.matching(selectors)
    }

    pub(super) fn own_bundle(&self) -> Arc<Bundle> {
        self.bundles.own()
    }

    pub(super) fn federated_bundles(&self) -> Vec<Arc<Bundle>> {
        self.bundles.federated().cloned().collect()
    }

    pub(super) fn counts(&self) -> Counts {
        Counts {
            entries: self.records.len(),
            x509_svids: self.svids,
            subscribers: self.groups.subscriber_count(),
        }
    }

    #[cfg(test)]
    pub(super) fn group_count(&self) -> usize {
        self.groups.ids().count()
    }

    pub(super) fn revision(&self) -> u64 {
        self.revision
    }

    pub(super) fn settled_revision(&self) -> u64 {
        self.work.settled(self.revision)
    }

    pub(super) fn next_work(&self) -> NextWork {
        self.work.next()
    }

    pub(super) fn has_new_work(&mut self) -> bool {
        self.work.take_added()
    }

    pub(super) fn subscribe(
        &mut self,
        selectors: &SelectorSet,
    ) -> (watch::Receiver<Arc<WorkloadUpdate>>, GroupId) {
        loop {
            let group = self
                .groups
                .find(selectors)
                .unwrap_or_else(|| self.open_group(selectors));
            if let Some(update) = self.groups.join(group) {
                return (update, group);
            }
        }
    }

    pub(super) fn unsubscribe(&mut self, group: GroupId) {
        let Some(closed) = self.groups.leave(group) else {
            return;
        };
        self.dirty.remove(&group);
        for id in &closed.entries {
            self.detach(id);
        }
        self.enforce_limit();
    }

    pub(super) fn apply(&mut self, change: Change) {
        let revision = change.revision.unwrap_or(self.revision + 1);
        self.reached = self.revision.min(revision.saturating_sub(1));
        self.revision = revision;
        if let Some(bundle) = change.bundle
            && self.bundles.set_own(bundle)
        {
            self.dirty.extend(self.groups.ids());
        }
        let gone_domains = if change.full {
            let kept: BTreeSet<_> = change.federated.iter().map(|b| &b.trust_domain).collect();
            let mut held = self.bundles.federated_names();
            held.retain(|name| !kept.contains(name));
            held
        } else {
            change.removed_domains
        };
        let mut changed_domains = BTreeSet::new();
        for bundle in change.federated {
            let name = bundle.trust_domain.clone();
            if self.bundles.set_federated(bundle) {
                changed_domains.insert(name);
            }
        }
        for name in gone_domains {
            if self.bundles.remove_federated(&name) {
                changed_domains.insert(name);
            }
        }
        self.touch_federated(&changed_domains);

        let gone = if change.full {
            let kept: BTreeSet<_> = change.entries.iter().map(|entry| &entry.id).collect();
            let held = self.records.keys();
            held.filter(|id| !kept.contains(id)).cloned().collect()
        } else {
            change.removed
        };
        for id in gone {
            self.remove(&id);
        }
        for entry in change.entries {
            self.upsert(&entry);
        }
        self.enforce_limit();
        self.fill_room();
    }

    pub(super) fn take_work(&mut self, now: SystemTime, limit: usize) -> Vec<Work> {
        let expiring = self.work.collect_due(now);
        if expiring > 0 {
            tracing::debug!(
                subsystem_name = "manager",
                cache_type = "workload",
                expiring_svids = expiring,
                "Updating expiring SVIDs in cache"
            );
        }
        self.drop_expired(now);
        let mut ready: Vec<_> = self
            .work
            .ready(Instant::now())
            .filter_map(|(id, _)| {
                let record = self.records.get(id)?;
                let expires_at = record.svid.as_ref().map(|svid| svid.not_after);
                let urgency = match (record.groups > 0, expires_at) {
                    (true, None) => 0,
                    (true, Some(_)) => 1,
                    (false, Some(_)) => 2,
                    (false, None) => 3,
                };
                Some(((urgency, expires_at, id.clone()), record))
            })
            .collect();
        if ready.len() > limit {
            ready.select_nth_unstable_by(limit, |left, right| left.0.cmp(&right.0));
            ready.truncate(limit);
        }
        ready.sort_unstable_by(|left, right| left.0.cmp(&right.0));
        ready
            .into_iter()
            .map(|((_, expires_at, _), record)| Work {
                entry: Arc::clone(&record.entry),
                expires_at,
            })
            .collect()
    }

    pub(super) fn put(&mut self, signed: Vec<(Work, Arc<IssuedSvid>)>) {
        for (work, svid) in signed {
            let id = &work.entry.id;
            let Some(record) = self.records.get_mut(id) else {
                continue;
            };
            if !is_same_revision(&record.entry, &work.entry) {
                continue;
            }
            tracing::debug!(
                subsystem_name = "cache_manager",
                entry = %id,
                spiffe_id = %work.entry.spiffe_id,
                "SVID updated"
            );
            let renew_at = svid.renew_at;
            let old = record.svid.replace(svid);
            if record.groups == 0 {
                self.evictable.insert((record.left_at, id.clone()));
            }
            if let Some(old) = old {
                self.work.unschedule(id, old.renew_at);
            } else {
                self.svids += 1;
            }
            self.work.schedule(id, renew_at);
            let groups = self.groups.entitled_to(&work.entry.selectors);
            self.dirty.extend(groups);
        }
        self.enforce_limit();
    }

    pub(super) fn defer(&mut self, entries: &[EntryId], until: Instant) {
        for id in entries {
            self.work.defer(id, until);
        }
    }

    pub(super) fn retry_deferred(&mut self) {
        self.work.retry_deferred();
    }

    pub(super) fn issued(&self) -> Vec<(EntryId, Arc<IssuedSvid>)> {
        let issued = self.records.iter().filter_map(|(id, record)| {
            let svid = record.svid.as_ref()?;
            Some((id.clone(), Arc::clone(svid)))
        });
        issued.collect()
    }

    pub(super) fn taint(&mut self, entries: &[EntryId]) -> usize {
        let mut count = 0;
        for id in entries {
            if self
                .records
                .get(id)
                .is_some_and(|record| record.svid.is_some())
            {
                self.work.need(id, Reason::Tainted, self.reached);
                count += 1;
            }
        }
        count
    }

    /// Sends every touched group its new update.
    pub(super) fn publish(&mut self) {
        for id in std::mem::take(&mut self.dirty) {
            let Some(group) = self.groups.get(id) else {
                continue;
            };
            let update = Arc::new(self.compose(&group.entries));
            group.update.send_replace(update);
        }
    }

    fn compose(&self, entries: &BTreeSet<EntryId>) -> WorkloadUpdate {
        let identities: Vec<_> = entries
            .iter()
            .filter_map(|id| self.records.get(id))
            .map(|record| Identity {
                entry: Arc::clone(&record.entry),
                svid: record.svid.clone(),
            })
            .collect();
        WorkloadUpdate {
            bundle: self.bundles.own(),
            federated: self
                .bundles
                .federated_with(identities.iter().map(|identity| &identity.entry)),
            ready: identities.iter().all(|identity| identity.svid.is_some()),
            revision: self.revision,
            x509_message: EncodedOnce::default(),
            identities,
        }
    }

    fn open_group(&mut self, selectors: &SelectorSet) -> GroupId {
        let entries = self.index.matching(selectors);
        let ids: BTreeSet<_> = entries.iter().map(|entry| entry.id.clone()).collect();
        for id in &ids {
            self.attach(id, NO_REVISION);
        }
        let update = self.compose(&ids);
        let group = self.groups.open(selectors, ids, update);
        self.enforce_limit();
        group
    }

    /// One more group matches the entry: it is kept, and signed if it is not yet.
    fn attach(&mut self, id: &EntryId, reached: u64) {
        let Some(record) = self.records.get_mut(id) else {
            return;
        };
        record.groups += 1;
        self.evictable.remove(&(record.left_at, id.clone()));
        self.idle.remove(id);
        if record.svid.is_none() && (record.groups == 1 || !self.work.is_needed(id)) {
            // Asking again also lifts a deferral: now somebody waits.
            self.work.need(id, Reason::Missing, reached);
        }
    }

    /// One group fewer matches the entry.
    fn detach(&mut self, id: &EntryId) {
        let Some(record) = self.records.get_mut(id) else {
            return;
        };
        record.groups = record.groups.saturating_sub(1);
        if record.groups == 0 {
            self.ticks += 1;
            record.left_at = self.ticks;
            if record.svid.is_some() {
                self.evictable.insert((record.left_at, id.clone()));
            }
        }
    }

    fn upsert(&mut self, entry: &Arc<Entry>) {
        let id = entry.id.clone();
        let Some(record) = self.records.get(&id) else {
            self.insert(entry);
            return;
        };
        let old = Arc::clone(&record.entry);
        if old == *entry {
            return;
        }
        if old.created_at != entry.created_at || old.spiffe_id != entry.spiffe_id {
            // Another identity under the same id: the SVID must not outlive the old one.
            self.remove(&id);
            self.insert(entry);
            return;
        }
        let added = count_missing(&entry.selectors, &old.selectors);
        let removed = count_missing(&old.selectors, &entry.selectors);
        let fields_changed = added > 0 || removed > 0 || old.federates_with != entry.federates_with;
        if fields_changed {
            tracing::debug!(
                subsystem_name = "cache_manager",
                entry = %id,
                spiffe_id = %entry.spiffe_id,
                selectors_added = (added > 0).then_some(added),
                selectors_removed = (removed > 0).then_some(removed),
                "Entry updated"
            );
        }
        self.dirty.extend(self.groups.entitled_to(&old.selectors));
        let outdated = old.revision_number != entry.revision_number;
        if let Some(record) = self.records.get_mut(&id) {
            record.entry = Arc::clone(entry);
            if outdated && record.svid.is_some() {
                self.work.need(&id, Reason::Outdated, self.reached);
            }
        }
        self.index.insert(Arc::clone(entry));
        if added > 0 || removed > 0 {
            for group in self.groups.entitled_to(&old.selectors) {
                self.leave_group(group, &id);
            }
            self.enter_groups(entry);
        } else {
            self.dirty.extend(self.groups.entitled_to(&entry.selectors));
        }
    }

    fn insert(&mut self, entry: &Arc<Entry>) {
        let id = entry.id.clone();
        tracing::debug!(
            subsystem_name = "cache_manager",
            entry = %id,
            spiffe_id = %entry.spiffe_id,
            selectors_added = entry.selectors.len(),
            "Entry created"
        );
        self.ticks += 1;
        let record = Record {
            entry: Arc::clone(entry),
            svid: None,
            groups: 0,
            left_at: self.ticks,
        };
        self.records.insert(id.clone(), record);
        self.index.insert(Arc::clone(entry));
        if !entry.disable_x509_svid_prefetch {
            self.idle.insert(id);
        }
        self.enter_groups(entry);
    }

    fn remove(&mut self, id: &EntryId) {
        let Some(record) = self.records.remove(id) else {
            return;
        };
        tracing::debug!(
            subsystem_name = "cache_manager",
            entry = %id,
            spiffe_id = %record.entry.spiffe_id,
            "Entry removed"
        );
        self.index.remove(id);
        self.idle.remove(id);
        self.evictable.remove(&(record.left_at, id.clone()));
        self.work
            .forget(id, record.svid.as_ref().map(|svid| svid.renew_at));
        if record.svid.is_some() {
            self.svids -= 1;
        }
        for group in self.groups.entitled_to(&record.entry.selectors) {
            if let Some(group) = self.groups.get_mut(group) {
                group.entries.remove(id);
            }
            self.dirty.insert(group);
        }
    }

    fn enter_groups(&mut self, entry: &Entry) {
        for group in self.groups.entitled_to(&entry.selectors) {
            self.dirty.insert(group);
            let Some(members) = self.groups.get_mut(group) else {
                continue;
            };
            if members.entries.insert(entry.id.clone()) {
                self.attach(&entry.id, self.reached);
            }
        }
    }

    fn leave_group(&mut self, group: GroupId, id: &EntryId) {
        self.dirty.insert(group);
        if let Some(members) = self.groups.get_mut(group)
            && members.entries.remove(id)
        {
            self.detach(id);
        }
    }

    fn touch_federated(&mut self, domains: &BTreeSet<TrustDomain>) {
        if domains.is_empty() {
            return;
        }
        for record in self.records.values() {
            let federates = &record.entry.federates_with;
            if record.groups > 0 && federates.iter().any(|name| domains.contains(name)) {
                self.dirty
                    .extend(self.groups.entitled_to(&record.entry.selectors));
            }
        }
    }

    /// Evicts SVIDs beyond the limit that nobody is subscribed to, those left longest ago first.
    fn enforce_limit(&mut self) {
        while self.svids > self.limit {
            let Some((_, id)) = self.evictable.pop_first() else {
                return;
            };
            self.drop_svid(&id);
            self.work.forget(&id, None);
            let record = self.records.get(&id);
            if record.is_some_and(|record| !record.entry.disable_x509_svid_prefetch) {
                self.idle.insert(id);
            }
        }
    }

    /// Asks for SVIDs nobody has asked for yet while there is room.
    fn fill_room(&mut self) {
        let mut room = self.limit.saturating_sub(self.svids + self.work.len());
        while room > 0
            && let Some(id) = self.idle.pop_first()
        {
            self.work.need(&id, Reason::Missing, self.reached);
            room -= 1;
        }
    }

    /// Drops SVIDs that ran out before they could be renewed: their entries are missing one again.
    fn drop_expired(&mut self, now: SystemTime) {
        let expired: Vec<_> = self
            .work
            .all()
            .filter(|id| {
                let svid = self
                    .records
                    .get(*id)
                    .and_then(|record| record.svid.as_ref());
                svid.is_some_and(|svid| svid.is_expired(now))
            })
            .cloned()
            .collect();
        for id in expired {
            self.drop_svid(&id);
            if let Some(record) = self.records.get(&id) {
                self.dirty
                    .extend(self.groups.entitled_to(&record.entry.selectors));
            }
        }
    }

    fn drop_svid(&mut self, id: &EntryId) {
        let Some(record) = self.records.get_mut(id) else {
            return;
        };
        let Some(svid) = record.svid.take() else {
            return;
        };
        self.evictable.remove(&(record.left_at, id.clone()));
        self.work.unschedule(id, svid.renew_at);
        self.svids -= 1;
    }
}

/// Whether an SVID signed for `signed` is good for `held`.
fn is_same_revision(held: &Entry, signed: &Entry) -> bool {
    held.revision_number == signed.revision_number
        && held.created_at == signed.created_at
        && held.spiffe_id == signed.spiffe_id
}

fn count_missing(from: &SelectorSet, other: &SelectorSet) -> usize {
    from.iter()
        .filter(|selector| !other.contains(selector))
        .count()
}
