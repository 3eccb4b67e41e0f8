//! Selectors and the filters that name them.

use spiffe_types::selector::{Selector, SelectorSet};

use super::ConvertError;
use crate::pb::spire::api::types;
use crate::pb::spire::api::types::SelectorMatch;
use crate::pb::spire::api::types::selector_match::MatchBehavior;

/// The members in order.
pub fn to_pb(selectors: &SelectorSet) -> Vec<types::Selector> {
    selectors
        .iter()
        .map(|selector| types::Selector {
            r#type: selector.kind().to_owned(),
            value: selector.value().to_owned(),
        })
        .collect()
}

/// Any number of selectors; duplicates fall together.
pub fn from_pb(selectors: &[types::Selector]) -> Result<SelectorSet, ConvertError> {
    selectors
        .iter()
        .map(|selector| {
            Selector::new(&selector.r#type, &selector.value).map_err(ConvertError::Selector)
        })
        .collect()
}

/// The selectors of an agent filter, perhaps none, and how they are compared.
pub fn match_from_pb(filter: &SelectorMatch) -> Result<(SelectorSet, MatchBehavior), ConvertError> {
    Ok((from_pb(&filter.selectors)?, filter.r#match()))
}

/// The selectors of an entry filter, at least one, and how they are compared.
pub fn filter_from_pb(
    filter: &SelectorMatch,
) -> Result<(SelectorSet, MatchBehavior), ConvertError> {
    let (selectors, behavior) = match_from_pb(filter)?;
    if selectors.is_empty() {
        return Err(ConvertError::EmptySelectorSet);
    }
    Ok((selectors, behavior))
}
