//! What the agent holds for its workloads, in memory only.
//!
//! Entries are found by selectors ([`index`]); callers with the same selectors share one subscription group and one
//! composed update ([`subscriber`]); SVIDs belong to entries ([`x509`]) and keys exist nowhere else. [`crate::sync`] is the
//! only writer: it applies what the server tells, takes the entries that need an SVID, and puts the SVIDs it gets.
//! Everything happens under one short lock that is never held across an await.
//!
//! What must stay true: a removed entry takes its SVID and key along in the same step; a published update is composed from one
//! moment of the cache; an entry somebody is subscribed to is never evicted.

mod bundles;
mod encoded;
#[cfg(test)]
pub(crate) mod fixtures;
mod index;
mod state;
mod subscriber;
#[cfg(test)]
mod tests;
mod work;
mod x509;

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::SystemTime;

use spiffe_types::bundle::Bundle;
use spiffe_types::entry::{Entry, EntryId};
use spiffe_types::id::TrustDomain;
use spiffe_types::selector::{Selector, SelectorSet};
use tokio::sync::{Notify, watch};
use tokio::time::Instant;

pub use self::encoded::EncodedOnce;
use self::state::State;
use self::subscriber::GroupId;
pub use self::subscriber::Subscription;
pub(crate) use self::work::{NextWork, Work};
pub use self::x509::{IssuedSvid, KeyDer};

/// One identity a workload has.
#[derive(Clone, Debug)]
pub struct Identity {
    /// The entry that gives the identity.
    pub entry: Arc<Entry>,
    /// Its SVID; `None` until the server has signed one.
    pub svid: Option<Arc<IssuedSvid>>,
}

/// Everything a workload is entitled to at one moment.
#[derive(Clone, Debug)]
pub struct WorkloadUpdate {
    /// The identities in order of entry id.
    pub identities: Vec<Identity>,
    /// The bundle of the agent's own trust domain.
    pub bundle: Arc<Bundle>,
    /// The bundles of the trust domains the identities federate with, in order of name; those the agent does not have are missing.
    pub federated: Vec<Arc<Bundle>>,
    /// Whether every identity has its SVID.
    pub ready: bool,
    /// Revision of the agent's state; grows with each change that was applied.
    pub revision: u64,
    /// The answer to `FetchX509SVID`, once some stream has sent it.
    pub x509_message: EncodedOnce,
}

/// An entry a caller does not match.
#[derive(Clone, Debug)]
pub struct NearMiss {
    /// The entry.
    pub entry: Arc<Entry>,
    /// The selectors the caller lacks; at least one.
    pub missing: Vec<Selector>,
}

impl NearMiss {
    /// How many of the entry's selectors the caller has.
    pub fn held(&self) -> usize {
        self.entry
            .selectors
            .len()
            .saturating_sub(self.missing.len())
    }
}

/// An entry a caller matches, and how its SVID stands.
#[derive(Clone, Debug)]
pub struct Match {
    /// The entry, with its SVID if there is one.
    pub identity: Identity,
    /// Whether an SVID is to be signed: the first, or the next.
    pub is_wanted: bool,
}

/// A step forward, as `sync` learnt it from the server. Applying the same step twice is harmless.
#[derive(Debug, Default)]
pub(crate) struct Change {
    /// Whether `entries` and `federated` are all there is: others are gone.
    pub(crate) full: bool,
    /// Entries that are new or changed.
    pub(crate) entries: Vec<Arc<Entry>>,
    /// Entries that are gone.
    pub(crate) removed: Vec<EntryId>,
    /// The own trust domain's bundle, when it changed.
    pub(crate) bundle: Option<Bundle>,
    /// Bundles of federated trust domains that are new or changed.
    pub(crate) federated: Vec<Bundle>,
    /// Federated trust domains whose bundle is gone.
    pub(crate) removed_domains: Vec<TrustDomain>,
    /// The revision the agent stands at afterwards; `None` counts up by one.
    pub(crate) revision: Option<u64>,
}

/// The cache. Clones share the same content.
#[derive(Clone, Debug)]
pub struct Cache {
    shared: Arc<Shared>,
}

impl Cache {
    /// Creates an empty cache that keeps up to [`DEFAULT_X509_SVIDS`] SVIDs nobody is subscribed to.
    pub fn new(trust_domain: TrustDomain) -> Self {
        Self::with_limit(trust_domain, DEFAULT_X509_SVIDS)
    }

    /// Creates an empty cache with a soft limit: SVIDs beyond `x509_svids` are kept only while somebody is subscribed to them.
    pub fn with_limit(trust_domain: TrustDomain, x509_svids: usize) -> Self {
        let (settled, _) = watch::channel(0);
        Self {
            shared: Arc::new(Shared {
                state: Mutex::new(State::new(trust_domain, x509_svids)),
                wanted: Notify::new(),
                settled,
            }),
        }
    }

    /// Subscribes a caller with `selectors`. Entries without an SVID are asked for at once.
    pub fn subscribe(&self, selectors: &SelectorSet) -> Subscription {
        let (update, group) = self.shared.change(|state| state.subscribe(selectors));
        Subscription::new(update, Arc::clone(&self.shared), group)
    }

    /// The entries a caller with `selectors` is entitled to, in order of id.
    pub fn matching_entries(&self, selectors: &SelectorSet) -> Vec<Arc<Entry>> {
        self.shared.lock().matching(selectors)
    }

    /// The entries a caller with `selectors` is entitled to, each with how its SVID stands, in order of id.
    pub fn matches(&self, selectors: &SelectorSet) -> Vec<Match> {
        self.shared.lock().matches(selectors)
    }

    /// The entries a caller with `selectors` does not match: first those that lack least, and among these those it has most of.
    pub fn near_misses(&self, selectors: &SelectorSet) -> Vec<NearMiss> {
        self.shared.lock().near_misses(selectors)
    }

    /// Whether some entry that a caller with `selectors` does not match lacks only selectors for which `may_be_true` holds.
    pub fn can_be_completed(
        &self,
        selectors: &SelectorSet,
        may_be_true: impl Fn(&Selector) -> bool,
    ) -> bool {
        self.shared.lock().can_be_completed(selectors, may_be_true)
    }

    /// The entry with this id.
    pub fn entry(&self, id: &EntryId) -> Option<Arc<Entry>> {
        self.shared.lock().entry(id)
    }

    /// The bundle of the own trust domain.
    pub fn bundle(&self) -> Arc<Bundle> {
        self.shared.lock().own_bundle()
    }

    /// The bundles of the federated trust domains, in order of name.
    pub fn federated_bundles(&self) -> Vec<Arc<Bundle>> {
        self.shared.lock().federated_bundles()
    }

    /// How many entries, SVIDs and subscribers there are.
    pub fn counts(&self) -> Counts {
        self.shared.lock().counts()
    }

    /// The revision the agent stands at.
    pub(crate) fn revision(&self) -> u64 {
        self.shared.lock().revision()
    }

    /// The revision up to which SVIDs are fetched and subscribers have been told.
    pub(crate) fn settled(&self) -> watch::Receiver<u64> {
        self.shared.settled.subscribe()
    }

    /// Applies one step and tells all subscribers it concerns, once each.
    pub(crate) fn apply(&self, change: Change) {
        self.shared.change(|state| state.apply(change));
    }

    /// Takes up to `limit` entries that need an SVID now, the most urgent first. They stay needed until put or removed.
    pub(crate) fn take_work(&self, now: SystemTime, limit: usize) -> Vec<Work> {
        self.shared.change(|state| state.take_work(now, limit))
    }

    /// When there is work next.
    pub(crate) fn next_work(&self) -> NextWork {
        self.shared.lock().next_work()
    }

    /// Stores the SVIDs that were signed for `work` and tells the subscribers. A result for an entry that has changed or gone
    /// meanwhile is thrown away.
    pub(crate) fn put(&self, signed: Vec<(Work, Arc<IssuedSvid>)>) {
        self.shared.change(|state| state.put(signed));
    }

    /// Puts entries off that could not be signed.
    pub(crate) fn defer(&self, entries: &[EntryId], until: Instant) {
        self.shared.change(|state| state.defer(entries, until));
    }

    /// Lets everything that was put off be tried at once: the server is back.
    pub(crate) fn retry_deferred(&self) {
        self.shared.change(State::retry_deferred);
    }

    /// All SVIDs held.
    pub(crate) fn issued(&self) -> Vec<(EntryId, Arc<IssuedSvid>)> {
        self.shared.lock().issued()
    }

    /// Marks the SVIDs of `entries` to be signed anew; returns how many there are. They are served until then.
    pub(crate) fn taint(&self, entries: &[EntryId]) -> usize {
        self.shared.change(|state| state.taint(entries))
    }

    /// Waits until some entry newly needs an SVID. Cancel-safe; a wake-up in between calls is not lost.
    pub(crate) async fn wanted(&self) {
        self.shared.wanted.notified().await;
    }
}

/// Sizes of the cache.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Counts {
    /// Entries the agent is authorized for.
    pub entries: usize,
    /// X.509-SVIDs held.
    pub x509_svids: usize,
    /// Open subscriptions.
    pub subscribers: usize,
}

/// How many SVIDs are kept when the configuration does not say.
pub const DEFAULT_X509_SVIDS: usize = 1000;

#[derive(Debug)]
struct Shared {
    state: Mutex<State>,
    wanted: Notify,
    settled: watch::Sender<u64>,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Runs one change, publishes what it touched and wakes `sync` when it left new work.
    fn change<T>(&self, act: impl FnOnce(&mut State) -> T) -> T {
        let mut state = self.lock();
        let result = act(&mut state);
        state.publish();
        let settled = state.settled_revision();
        self.settled.send_if_modified(|held| {
            let moved = *held != settled;
            *held = settled;
            moved
        });
        if state.has_new_work() {
            self.wanted.notify_one();
        }
        result
    }

    fn unsubscribe(&self, group: GroupId) {
        self.change(|state| state.unsubscribe(group));
    }
}
