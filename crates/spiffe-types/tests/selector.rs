//! Selectors, their sets, and matchers.
#![expect(clippy::unwrap_used, reason = "test support")]

use std::collections::BTreeSet;

use proptest::prelude::*;
use spiffe_types::matcher::Matcher;
use spiffe_types::selector::{Selector, SelectorSet};
use spiffe_types::{SpiffeId, TrustDomain};

fn set(texts: &[&str]) -> SelectorSet {
    texts.iter().map(|text| text.parse().unwrap()).collect()
}

#[test]
fn the_first_colon_parts_type_and_value() {
    let selector: Selector = "k8s:pod-label:app:web".parse().unwrap();
    assert_eq!(
        (selector.kind(), selector.value()),
        ("k8s", "pod-label:app:web")
    );
    assert_eq!(selector.to_string(), "k8s:pod-label:app:web");
}

#[test]
fn what_is_no_selector_is_refused_with_the_words_of_spire() {
    let said = |kind, value| Selector::new(kind, value).unwrap_err().to_string();
    assert_eq!(said("", "v"), "missing selector type");
    assert_eq!(said("a:b", "v"), "selector type contains ':'");
    assert_eq!(said("a", ""), "missing selector value");
    let said = |text: &str| text.parse::<Selector>().unwrap_err().to_string();
    assert_eq!(
        said("unix"),
        r#"selector "unix" must be formatted as type:value"#
    );
    assert_eq!(said(":x"), "missing selector type");
    assert_eq!(said("unix:"), "missing selector value");
}

#[test]
fn a_set_is_ordered_by_type_then_value_and_has_no_duplicates() {
    let set = set(&["b:1", "a-b:1", "a:2", "a:1", "b:1"]);
    assert_eq!(set.to_string(), "a:1,a:2,a-b:1,b:1");
    assert_eq!(set.len(), 4);
}

#[test]
fn the_empty_set_is_a_subset_of_every_set_and_meets_none() {
    let empty = SelectorSet::default();
    assert!(empty.is_subset_of(&empty) && empty.is_subset_of(&set(&["a:1"])));
    assert!(!set(&["a:1"]).is_subset_of(&empty));
    assert!(!empty.intersects(&set(&["a:1"])));
}

#[test]
fn a_matcher_knows_the_ids_it_means() {
    let id = |text| SpiffeId::parse(text).unwrap();
    let (web, db, foreign) = (
        id("spiffe://a/web"),
        id("spiffe://a/db"),
        id("spiffe://b/web"),
    );
    let meant = |matcher: Matcher| [&web, &db, &foreign].map(|id| matcher.matches(id));
    assert_eq!(meant(Matcher::Any), [true; 3]);
    assert_eq!(meant(Matcher::Exact(web.clone())), [true, false, false]);
    assert_eq!(
        meant(Matcher::OneOf(BTreeSet::from([
            web.clone(),
            foreign.clone()
        ]))),
        [true, false, true]
    );
    assert_eq!(meant(Matcher::OneOf(BTreeSet::new())), [false; 3]);
    assert_eq!(
        meant(Matcher::MemberOf(TrustDomain::parse("a").unwrap())),
        [true, true, false]
    );
}

fn some_selectors() -> impl Strategy<Value = Vec<Selector>> {
    prop::collection::vec("[ab]:[0-3]", 0..8)
        .prop_map(|texts| texts.iter().map(|text| text.parse().unwrap()).collect())
}

proptest! {
    #[test]
    fn a_selector_reads_back_as_itself(kind in "[^:]{1,10}", value in ".{1,20}") {
        let selector = Selector::new(&kind, &value).unwrap();
        prop_assert_eq!(&selector.to_string().parse::<Selector>().unwrap(), &selector);
        let json = serde_json::to_string(&selector).unwrap();
        prop_assert_eq!(serde_json::from_str::<Selector>(&json).unwrap(), selector);
    }

    #[test]
    fn a_set_answers_as_an_ordinary_ordered_set(left in some_selectors(), right in some_selectors()) {
        let (a, b): (BTreeSet<_>, BTreeSet<_>) = (left.iter().cloned().collect(), right.iter().cloned().collect());
        let (x, y): (SelectorSet, SelectorSet) = (left.into_iter().collect(), right.into_iter().collect());
        prop_assert_eq!(x.is_subset_of(&y), a.is_subset(&b));
        prop_assert_eq!(x.intersects(&y), !a.is_disjoint(&b));
        prop_assert!(x.union(&y).iter().eq(a.union(&b)));
        prop_assert!(b.iter().all(|selector| x.contains(selector) == a.contains(selector)));
        let json = serde_json::to_string(&x).unwrap();
        prop_assert_eq!(serde_json::from_str::<SelectorSet>(&json).unwrap(), x);
    }
}
