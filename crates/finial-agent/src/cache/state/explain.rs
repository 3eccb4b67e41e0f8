//! What an operator asks of the cache: which entries a caller matches, which it nearly matches, and why.

use std::cmp::Reverse;
use std::sync::Arc;

use spiffe_types::entry::{Entry, EntryId};
use spiffe_types::selector::{Selector, SelectorSet};

use super::{Record, State};
use crate::cache::{Identity, Match, NearMiss};

impl State {
    pub(in crate::cache) fn matches(&self, selectors: &SelectorSet) -> Vec<Match> {
        let matching = self.index.matching(selectors);
        matching
            .into_iter()
            .map(|entry| Match {
                is_wanted: self.work.is_needed(&entry.id),
                identity: Identity {
                    svid: self
                        .records
                        .get(&entry.id)
                        .and_then(|record| record.svid.clone()),
                    entry,
                },
            })
            .collect()
    }

    pub(in crate::cache) fn entry(&self, id: &EntryId) -> Option<Arc<Entry>> {
        self.records.get(id).map(|record| Arc::clone(&record.entry))
    }

    pub(in crate::cache) fn near_misses(&self, selectors: &SelectorSet) -> Vec<NearMiss> {
        let mut misses: Vec<_> = self
            .records
            .values()
            .filter_map(|record| {
                let missing: Vec<_> = missing(record, selectors).cloned().collect();
                (!missing.is_empty()).then(|| NearMiss {
                    entry: Arc::clone(&record.entry),
                    missing,
                })
            })
            .collect();
        misses.sort_by(|left, right| rank(left).cmp(&rank(right)));
        misses
    }

    pub(in crate::cache) fn can_be_completed(
        &self,
        selectors: &SelectorSet,
        may_be_true: impl Fn(&Selector) -> bool,
    ) -> bool {
        self.records.values().any(|record| {
            let mut missing = missing(record, selectors).peekable();
            missing.peek().is_some() && missing.all(&may_be_true)
        })
    }
}

fn missing<'a>(
    record: &'a Record,
    selectors: &'a SelectorSet,
) -> impl Iterator<Item = &'a Selector> {
    let all = record.entry.selectors.iter();
    all.filter(|selector| !selectors.contains(selector))
}

fn rank(miss: &NearMiss) -> impl Ord + use<'_> {
    (miss.missing.len(), Reverse(miss.held()), &miss.entry.id)
}
