//! The suite that every backend must pass.
//!
//! Each case is given an empty store and panics when the store breaks a promise of its trait. A backend's test file
//! instantiates the suite with [`conformance_tests!`](crate::conformance_tests) and a function that opens such a store.
#![expect(
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::missing_panics_doc,
    clippy::panic,
    clippy::unwrap_used,
    reason = "test support: a broken promise is a panic"
)]

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use spiffe_types::agent::{AttestedAgent, SerialNumber};
use spiffe_types::bundle::{Bundle, JwtAuthority};
use spiffe_types::entry::{Entry, NewEntry};
use spiffe_types::id::{SpiffeId, TrustDomain};
use spiffe_types::selector::{Selector, SelectorSet};

use crate::entries::Created;
use crate::{DataStore, StoreError};

pub mod agents;
pub mod bundles;
pub mod changes;
pub mod entries;
pub mod tokens;

/// Writes one test for each case of the suite. `$open` is an expression: an async function that returns an empty store
/// and whatever must live as long as it.
#[macro_export]
macro_rules! conformance_tests {
    ($open:expr) => {
        $crate::conformance_tests!(@module $open, entries: [
            a_created_entry_is_found_as_it_was_returned,
            a_similar_entry_is_not_created_twice,
            entries_of_one_batch_are_compared_with_each_other,
            one_bad_entry_does_not_spoil_the_batch,
            an_update_changes_what_the_patch_names_and_raises_the_revision_number,
            an_update_may_not_make_an_entry_similar_to_another,
            a_deleted_entry_is_gone_from_every_filter,
            filters_compare_sets_as_they_say,
            pages_cover_the_list_once_and_end_with_an_empty_page,
            a_page_token_of_another_maker_is_refused,
            only_expired_entries_are_pruned,
        ]);
        $crate::conformance_tests!(@module $open, agents: [
            an_attestation_replaces_what_was_known,
            a_renewed_serial_number_is_current_once_it_is_used,
            an_svid_that_was_replaced_renews_nothing,
            a_banned_agent_stays_banned_until_it_is_deleted,
            the_alias_of_a_join_token_goes_with_its_agent,
            agents_are_filtered,
            only_agents_that_may_go_are_pruned,
        ]);
        $crate::conformance_tests!(@module $open, bundles: [
            appending_counts_only_what_is_new,
            a_bundle_in_use_is_deleted_as_the_mode_says,
            pruning_never_empties_a_bundle,
            only_a_tainted_authority_is_revoked,
        ]);
        $crate::conformance_tests!(@module $open, tokens: [
            a_join_token_is_spent_once_by_one_of_fifty,
            a_join_token_that_has_expired_is_told_so,
            a_token_and_its_alias_are_created_together,
            expired_tokens_are_pruned,
            a_journal_is_found_by_its_active_authority,
        ]);
        $crate::conformance_tests!(@module $open, changes: [
            a_batch_takes_one_revision,
            what_changes_nothing_takes_no_revision,
            revisions_have_no_gaps_under_concurrent_writers,
            a_reader_that_follows_the_log_ends_up_with_the_snapshot,
            a_pruned_log_sends_its_reader_to_the_snapshot,
            a_commit_wakes_those_who_wait,
        ]);
    };
    (@module $open:expr, $module:ident: [$($case:ident),+ $(,)?]) => {
        mod $module {
            use super::*;

            $(
                #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
                async fn $case() {
                    let (store, _keep) = $open.await;
                    $crate::conformance::$module::$case(store).await;
                }
            )+
        }
    };
}

pub(crate) use std::sync::Arc;

pub(crate) type Store = Arc<dyn DataStore>;

pub(crate) fn at(seconds: u64) -> SystemTime {
    UNIX_EPOCH + Duration::from_secs(seconds)
}

pub(crate) fn now() -> SystemTime {
    at(1_800_000_000)
}

pub(crate) fn domain(name: &str) -> TrustDomain {
    TrustDomain::parse(name).expect("a trust domain")
}

pub(crate) fn id(path: &str) -> SpiffeId {
    SpiffeId::parse(&format!("spiffe://example.org{path}")).expect("a SPIFFE ID")
}

pub(crate) fn selectors(texts: &[&str]) -> SelectorSet {
    texts
        .iter()
        .map(|text| text.parse::<Selector>().expect("a selector"))
        .collect()
}

pub(crate) fn serial(number: u64) -> SerialNumber {
    SerialNumber::from_be_bytes(&number.to_be_bytes())
}

pub(crate) fn entry(path: &str, of: &[&str]) -> NewEntry {
    NewEntry::new(id(path), id("/spire/agent/x509pop/node"), selectors(of))
}

pub(crate) fn agent(name: &str, of: &[&str]) -> AttestedAgent {
    AttestedAgent {
        id: id(&format!("/spire/agent/x509pop/{name}")),
        attestation_type: "x509pop".to_owned(),
        serial: Some(serial(1)),
        expires_at: now(),
        new_serial: None,
        new_expires_at: None,
        can_reattest: true,
        selectors: selectors(of),
        agent_version: String::new(),
    }
}

pub(crate) fn jwt_key(key_id: &str, expires_at: Option<SystemTime>) -> JwtAuthority {
    JwtAuthority {
        key_id: key_id.to_owned(),
        public_key: b"not looked at".as_slice().into(),
        expires_at,
        tainted: false,
    }
}

pub(crate) fn bundle(name: &str, keys: Vec<JwtAuthority>) -> Bundle {
    Bundle {
        jwt_authorities: keys,
        ..Bundle::empty(domain(name))
    }
}

pub(crate) async fn create_one(
    store: &Store,
    entry: NewEntry,
) -> Result<Created<Entry>, StoreError> {
    let mut results = store.create_entries(vec![entry], now()).await.unwrap();
    assert_eq!(results.len(), 1);
    results.remove(0)
}

pub(crate) async fn create(store: &Store, entry: NewEntry) -> Entry {
    match create_one(store, entry).await.unwrap() {
        Created::New(entry) => entry,
        Created::Existing(entry) => panic!("{} was there already", entry.id),
    }
}
