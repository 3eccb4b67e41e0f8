//! Entries, found by the selectors of a caller.
//!
//! An entry matches when *all* its selectors are among the caller's. Each entry is filed under just one of its selectors,
//! the one with the fewest entries at the time, so a lookup reads one short bucket for each selector the caller has and
//! never the whole set.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use spiffe_types::entry::{Entry, EntryId};
use spiffe_types::selector::{Selector, SelectorSet};

/// The entries of the agent by one selector each.
#[derive(Debug, Default)]
pub(super) struct SelectorIndex {
    buckets: HashMap<Selector, BTreeMap<EntryId, Arc<Entry>>>,
    filed_under: HashMap<EntryId, Selector>,
}

impl SelectorIndex {
    /// Files `entry`, replacing the entry with the same id. An entry without selectors is not filed: it would match everybody.
    pub(super) fn insert(&mut self, entry: Arc<Entry>) {
        self.remove(&entry.id);
        let rarest = entry
            .selectors
            .iter()
            .min_by_key(|selector| self.buckets.get(selector).map_or(0, BTreeMap::len));
        let Some(selector) = rarest.cloned() else {
            return;
        };
        self.filed_under.insert(entry.id.clone(), selector.clone());
        self.buckets
            .entry(selector)
            .or_default()
            .insert(entry.id.clone(), entry);
    }

    /// Takes the entry out.
    pub(super) fn remove(&mut self, id: &EntryId) {
        let Some(selector) = self.filed_under.remove(id) else {
            return;
        };
        if let Some(bucket) = self.buckets.get_mut(&selector) {
            bucket.remove(id);
            if bucket.is_empty() {
                self.buckets.remove(&selector);
            }
        }
    }

    /// The entries a caller with `selectors` is entitled to, in order of id.
    pub(super) fn matching(&self, selectors: &SelectorSet) -> Vec<Arc<Entry>> {
        let mut found: Vec<_> = selectors
            .iter()
            .filter_map(|selector| self.buckets.get(selector))
            .flat_map(BTreeMap::values)
            .filter(|entry| entry.selectors.is_subset_of(selectors))
            .cloned()
            .collect();
        found.sort_unstable_by(|left, right| left.id.cmp(&right.id));
        found
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cache::fixtures::{entry, selectors};

    fn ids(entries: &[Arc<Entry>]) -> Vec<String> {
        entries.iter().map(|entry| entry.id.to_string()).collect()
    }

    #[test]
    fn an_entry_matches_when_all_its_selectors_are_the_callers() {
        let mut index = SelectorIndex::default();
        index.insert(entry("both", &["unix:uid:0", "unix:gid:0"]));
        index.insert(entry("one", &["unix:uid:0"]));
        index.insert(entry("other", &["unix:uid:1"]));

        assert_eq!(ids(&index.matching(&selectors(&["unix:uid:0"]))), ["one"]);
        assert_eq!(
            ids(&index.matching(&selectors(&["unix:gid:0", "unix:uid:0", "unix:user:root"]))),
            ["both", "one"]
        );
        assert_eq!(ids(&index.matching(&selectors(&[]))), Vec::<String>::new());
    }

    #[test]
    fn a_replaced_entry_matches_by_its_new_selectors_only() {
        let mut index = SelectorIndex::default();
        index.insert(entry("a", &["unix:uid:0"]));
        index.insert(entry("a", &["unix:uid:1"]));

        assert!(index.matching(&selectors(&["unix:uid:0"])).is_empty());
        assert_eq!(ids(&index.matching(&selectors(&["unix:uid:1"]))), ["a"]);
    }

    #[test]
    fn a_selector_that_all_share_does_not_become_one_long_bucket() {
        let mut index = SelectorIndex::default();
        for number in 0..1_000 {
            let own = format!("k8s:pod-uid:{number}");
            index.insert(entry(&format!("e{number}"), &["k8s:ns:default", &own]));
        }
        let longest = index.buckets.values().map(BTreeMap::len).max();

        assert_eq!(longest, Some(1));
        assert_eq!(
            ids(&index.matching(&selectors(&["k8s:ns:default", "k8s:pod-uid:7"]))),
            ["e7"]
        );
    }

    #[test]
    fn a_removed_entry_leaves_nothing_behind() {
        let mut index = SelectorIndex::default();
        index.insert(entry("a", &["unix:uid:0"]));
        index.remove(&entry("a", &["unix:uid:0"]).id);

        assert!(index.buckets.is_empty());
        assert!(index.filed_under.is_empty());
    }
}
