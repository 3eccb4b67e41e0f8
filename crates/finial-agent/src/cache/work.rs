//! Which entries need an SVID, why, and when the next one will.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;
use std::time::SystemTime;

use spiffe_types::entry::{Entry, EntryId};
use tokio::time::Instant;

/// An entry to be signed.
#[derive(Clone, Debug)]
pub(crate) struct Work {
    /// The entry as it was when the work was taken.
    pub(crate) entry: Arc<Entry>,
    /// When the SVID it has expires; `None` when it has none.
    pub(crate) expires_at: Option<SystemTime>,
}

/// When there is something to sign.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum NextWork {
    /// At once.
    Now,
    /// At the earlier of the two: an SVID falls due, a deferred entry may be tried again.
    Later {
        /// When the next SVID falls due.
        due: Option<SystemTime>,
        /// When the first deferred entry may be tried again.
        retry: Option<Instant>,
    },
}

/// For needs that no revision brought about: they hold none back.
pub(super) const NO_REVISION: u64 = u64::MAX;

/// Why an entry needs an SVID.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Reason {
    /// It has none.
    Missing,
    /// It was signed for an older revision of the entry.
    Outdated,
    /// It was signed by a tainted authority.
    Tainted,
    /// Its time has come.
    Due,
}

#[derive(Clone, Copy, Debug)]
struct Need {
    reason: Reason,
    /// The revision that is reached without it.
    reached: u64,
    not_before: Option<Instant>,
}

/// Entries to sign now, and the schedule of those to sign later.
#[derive(Debug, Default)]
pub(super) struct Worklist {
    needs: HashMap<EntryId, Need>,
    due: BTreeSet<(SystemTime, EntryId)>,
    added: bool,
}

impl Worklist {
    /// Notes that `id` needs an SVID, and which revision is `reached` without it. An earlier need keeps its revision.
    pub(super) fn need(&mut self, id: &EntryId, reason: Reason, reached: u64) {
        self.added = true;
        let need = self.needs.entry(id.clone()).or_insert(Need {
            reason,
            reached,
            not_before: None,
        });
        need.reason = reason;
        need.not_before = None;
    }

    pub(super) fn is_needed(&self, id: &EntryId) -> bool {
        self.needs.contains_key(id)
    }

    pub(super) fn len(&self) -> usize {
        self.needs.len()
    }

    /// Forgets `id` altogether.
    pub(super) fn forget(&mut self, id: &EntryId, renew_at: Option<SystemTime>) {
        self.needs.remove(id);
        if let Some(renew_at) = renew_at {
            self.due.remove(&(renew_at, id.clone()));
        }
    }

    /// Notes that `id` has an SVID that is good until `renew_at`.
    pub(super) fn schedule(&mut self, id: &EntryId, renew_at: SystemTime) {
        self.needs.remove(id);
        self.due.insert((renew_at, id.clone()));
    }

    /// Takes `id` out of the schedule.
    pub(super) fn unschedule(&mut self, id: &EntryId, renew_at: SystemTime) {
        self.due.remove(&(renew_at, id.clone()));
    }

    /// Turns what has fallen due into needs; returns how many.
    pub(super) fn collect_due(&mut self, now: SystemTime) -> usize {
        let mut collected = 0;
        while let Some((renew_at, id)) = self.due.pop_first() {
            if renew_at > now {
                self.due.insert((renew_at, id));
                break;
            }
            collected += 1;
            self.needs.entry(id).or_insert(Need {
                reason: Reason::Due,
                reached: NO_REVISION,
                not_before: None,
            });
        }
        collected
    }

    /// The entries that may be signed at `instant`, and why.
    pub(super) fn ready(&self, instant: Instant) -> impl Iterator<Item = (&EntryId, Reason)> {
        self.needs
            .iter()
            .filter(move |(_, need)| need.not_before.is_none_or(|until| until <= instant))
            .map(|(id, need)| (id, need.reason))
    }

    /// Every entry that needs an SVID.
    pub(super) fn all(&self) -> impl Iterator<Item = &EntryId> {
        self.needs.keys()
    }

    /// Lets everything that was put off be tried at once.
    pub(super) fn retry_deferred(&mut self) {
        for need in self.needs.values_mut() {
            self.added |= need.not_before.take().is_some();
        }
    }

    /// Puts `id` off.
    pub(super) fn defer(&mut self, id: &EntryId, until: Instant) {
        if let Some(need) = self.needs.get_mut(id) {
            need.not_before = Some(until);
        }
    }

    pub(super) fn next(&self) -> NextWork {
        if self.needs.values().any(|need| need.not_before.is_none()) {
            return NextWork::Now;
        }
        NextWork::Later {
            due: self.due.first().map(|(renew_at, _)| *renew_at),
            retry: self.needs.values().filter_map(|need| need.not_before).min(),
        }
    }

    /// The last revision nothing is left to do for, when the agent stands at `current`. What was tried and put off
    /// does not hold the revision back.
    pub(super) fn settled(&self, current: u64) -> u64 {
        self.needs
            .values()
            .filter(|need| need.not_before.is_none())
            .map(|need| need.reached)
            .min()
            .unwrap_or(current)
            .min(current)
    }

    /// Whether a need was added since the last call.
    pub(super) fn take_added(&mut self) -> bool {
        std::mem::take(&mut self.added)
    }
}
